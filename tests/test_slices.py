from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.interaction_example_gen.splits import FrozenSplit, TimeSplit
from components.interaction_example_gen.windows import WindowCutter
from components.retrieval_evaluator.baselines import LabelEvents
from components.retrieval_evaluator.metrics import hits_of, label_ranks, ranks_of, summarize
from components.retrieval_evaluator.queries import LabelSets, all_queries
from components.retrieval_evaluator.slices import (
    Slice,
    all_slices,
    item_slices,
    play_ratio_slices,
    trends_from,
)
from components.retrieval_evaluator.train_knowledge import TrainKnowledge
from tests.listening_logs import events_of, to_windows

BANDS = ("head", "middle", "tail", "cold")


def sets(*labels: list[int]) -> LabelSets:
    counts = [len(of_query) for of_query in labels]
    return LabelSets(np.concatenate([*map(np.array, labels)]), np.cumsum([0, *counts]))


# Query 0 finds its first label second and its third label last, query 1 nothing, query 2 its only label.
RECOMMENDED = np.array([[9, 1, 8, 3], [7, 6, -1, -1], [5, 4, 3, 2]])
ASKED = sets([1, 2, 3], [1, 2], [5])


def listens(counts: dict[int, list[int]]) -> LabelEvents:
    """Label events: by item, their times."""
    item = np.repeat(list(counts), [len(times) for times in counts.values()])
    return LabelEvents(np.ones_like(item), item, np.concatenate([*map(np.array, counts.values())]))


def train_of(events: LabelEvents, *items: int) -> TrainKnowledge:
    """Of user 1, whose windows hold these items."""
    played, plays = np.unique(events.item_id, return_counts=True)
    return TrainKnowledge(np.array([1]), np.array(items), events, played, plays)


def in_slices(slices: list[Slice], labels: LabelSets) -> dict[str, list[int]]:
    return {one.name: labels.item_id[one.labels].tolist() for one in slices}


def test_where_each_label_is_recommended() -> None:
    assert label_ranks(RECOMMENDED, ASKED).tolist() == [2, math.inf, 4, math.inf, math.inf, 1]


def test_a_slice_of_sets_asks_for_its_own_labels_where_they_stand() -> None:
    ranks = label_ranks(RECOMMENDED, ASKED)
    odd = Slice("odd", ASKED.item_id % 2 == 1)  # 1 and 3 of query 0, 1 of query 1, 5 of query 2
    assert odd.size(ASKED) == {"labels": 4, "queries": 3, "items": 3}
    metrics = odd.metrics(ranks, ASKED, (2, 4))
    assert metrics["recall@2"] == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert metrics["recall@4"] == pytest.approx((2 / 2 + 0 + 1) / 3)
    gains, ideal = 1 / math.log2(3) + 1 / math.log2(5), 1 + 1 / math.log2(3)
    assert metrics["ndcg@4"] == pytest.approx((gains / ideal + 0 + 1) / 3)

    # The label 2 is asked for by two queries, and 3, which query 2 is shown, is none of its labels.
    even = Slice("even", ASKED.item_id % 2 == 0)
    assert even.size(ASKED) == {"labels": 2, "queries": 2, "items": 1}
    assert even.metrics(ranks, ASKED, (4,)) == {"recall@4": 0, "ndcg@4": 0}


def test_a_slice_of_queries_is_all_their_labels() -> None:
    chosen = np.array([True, False, True])
    part = Slice.of_queries("some", chosen, ASKED)
    assert part.labels.tolist() == [True, True, True, False, False, True]
    expected = summarize(RECOMMENDED[chosen], ASKED.take(chosen), np.array([1, 2]), (1, 4), 10)
    for name, value in part.metrics(label_ranks(RECOMMENDED, ASKED), ASKED, (1, 4)).items():
        assert value == pytest.approx(expected[name])


def test_an_empty_slice_has_no_recall() -> None:
    nothing = Slice("nothing", np.zeros(6, bool))
    assert nothing.size(ASKED) == {"labels": 0, "queries": 0, "items": 0}
    assert all(map(math.isnan, nothing.metrics(label_ranks(RECOMMENDED, ASKED), ASKED, (4,)).values()))


rows = st.lists(
    st.tuples(
        st.lists(st.integers(-1, 7), min_size=4, max_size=4),
        st.lists(st.integers(0, 7), min_size=1, max_size=6, unique=True),
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None)
@given(rows)
def test_the_slice_of_everything_is_the_summary(
    queries: list[tuple[list[int], list[int]]],
) -> None:
    recommended = np.array([items for items, _ in queries])
    labels = sets(*(of_query for _, of_query in queries))
    ranks = label_ranks(recommended, labels)
    assert np.array_equal(
        np.minimum.reduceat(ranks, labels.offsets[:-1]), ranks_of(hits_of(recommended, labels))
    )
    summary = summarize(recommended, labels, np.arange(len(queries)), (1, 3, 4), 10)
    everything = Slice("everything", np.ones(len(ranks), bool)).metrics(ranks, labels, (1, 3, 4))
    assert everything == pytest.approx({name: summary[name] for name in everything})


def test_popularity_is_cut_at_shares_of_trains_events() -> None:
    """Of 10 events item 1 has 5, which is the head; 2 follows up to .8; 3 and 4 have the rest. Item 5 is in
    train, but never a label event there; 6 is not in train."""
    events = listens({1: [0] * 5, 2: [0] * 3, 3: [0], 4: [0]})
    labels = sets([1, 2, 3, 4, 5, 6], [6, 1])
    found = in_slices(item_slices(labels, train_of(events, 1, 2, 3, 4, 5)), labels)
    assert found == {"head": [1, 1], "middle": [2], "tail": [3, 4, 5], "cold": [6, 6]}


def test_trending_is_what_has_grown_since_with_enough_events() -> None:
    before, recent = 100, 200  # times; 300 events before and 100 since
    events = listens(
        {
            1: [before] * 30 + [recent] * 30,  # share .1 ▶ .3: just so
            2: [before] * 31 + [recent] * 30,  # short of it
            3: [recent] * 10,  # new
            4: [recent] * 9,  # new, and too few
            5: [before] * 239 + [recent] * 21,
        }
    )
    labels = sets([1, 2, 3, 4, 5, 6])
    slices = in_slices(item_slices(labels, train_of(events, 1, 2, 3, 4, 5), recent), labels)
    assert slices["trending"] == [1, 3]
    for recent_from in (None, before, recent + 1):  # without times; nothing before; nothing since
        names = [one.name for one in item_slices(labels, train_of(events, 1), recent_from)]
        assert names == [*BANDS]


def test_trends_are_of_twice_the_test_periods_length() -> None:
    assert trends_from(train_end=1_000, test_from=1_200, test_to=1_250) == 900
    assert trends_from(0, 0, 0) is None


SPLIT = TimeSplit(train_end=250, eval=(260, 320), test=(330, 400))


def test_slices_of_a_log() -> None:
    """The bands are parts of the whole; what is cold is cold by the log; and no test event decides."""
    draw = np.random.default_rng(5)
    size = 900
    time = np.sort(draw.integers(0, 400, size))
    item = draw.zipf(1.5, size) % 40 + 100 * (time >= 330) * (draw.random(size) < 0.3)
    ratio = draw.choice([-1.0, 0.2, 0.5, 1.1], size)
    log = events_of(draw.integers(0, 9, size), item, time, b"listen", play_ratio=ratio)
    cut = {n: to_windows(b) for n, b in WindowCutter(SPLIT, True, 5, 7).cut(log)[0].items()}
    train, queries = TrainKnowledge.of(cut["train"]), all_queries(cut["test"])
    found = {one.name: one.labels for one in all_slices(queries, cut["test"], train, 200)}
    assert list(found) == [*BANDS, "trending", "heard"]
    assert (np.sum([found[name] for name in BANDS], axis=0) == 1).all()
    in_train = set(item[time < 250].tolist())
    assert found["cold"].tolist() == [one not in in_train for one in queries.label_item_id.tolist()]
    assert found["cold"].any() and found["heard"].any() and not found["heard"].all()
    heard = {(u, i, t) for u, i, t, r in zip(log.user_id, item, time, ratio, strict=True) if r >= 0.5}
    asked = zip(queries.user_id, queries.label_item_id, queries.label_timestamp, strict=True)
    assert found["heard"].tolist() == [one in heard for one in asked]

    shuffled = queries.take(draw.permutation(len(queries)))
    by_item = dict(zip(queries.label_item_id, found["trending"], strict=True))
    again = all_slices(shuffled, cut["test"], train, 200)[4].labels
    assert again.tolist() == [by_item[one] for one in shuffled.label_item_id]


def test_what_was_heard_is_unknown_of_sets_and_without_play_ratios() -> None:
    size = 200
    time = np.sort(np.random.default_rng(6).integers(0, 400, size))
    log = events_of(np.arange(size) % 5, np.arange(size) % 11, time, b"listen", play_ratio=-1.0)
    for split in (SPLIT, FrozenSplit(SPLIT, 10, "listen", 0.5)):
        test = to_windows(WindowCutter(split, True, 5, 7).cut(log)[0]["test"])
        queries = all_queries(test)
        assert len(queries) and not play_ratio_slices(queries, test)
