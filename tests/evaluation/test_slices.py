from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.listening_logs import events_of, to_windows
from two_tower.components.interaction_example_gen.splits import FrozenSplit, TimeSplit
from two_tower.components.interaction_example_gen.windows import WindowCutter
from two_tower.data_directory.feature_columns import FeatureSpec
from two_tower.evaluation import slices as slices_module
from two_tower.evaluation.feature_values import FeatureValues, of_items, of_users
from two_tower.evaluation.label_events import LabelEvents
from two_tower.evaluation.metric_table import summarize
from two_tower.evaluation.metrics import hits_of, label_ranks, ranks_of
from two_tower.evaluation.queries import LabelSets, Queries, Windows, all_queries
from two_tower.evaluation.slices import (
    Slice,
    all_slices,
    feature_slices,
    history_lengths,
    history_slices,
    item_slices,
    meaning,
    organic_slices,
    play_ratio_slices,
    popularity_slices,
    quantile_groups,
    repeat_slices,
    trends_from,
)
from two_tower.evaluation.train_counts import TrainCounts

BANDS = ("head", "middle", "tail", "cold")


def sets(*labels: list[int]) -> LabelSets:
    counts = [len(of_query) for of_query in labels]
    return LabelSets(np.concatenate([*map(np.array, labels)]), np.cumsum([0, *counts]))


# Query 0 finds its first label second and its third label last, query 1 nothing, query 2 its only label.
RECOMMENDED = np.array([[9, 1, 8, 3], [7, 6, -1, -1], [5, 4, 3, 2]])
ASKED = sets([1, 2, 3], [1, 2], [5])


def listens(counts: dict[int, list[int]]) -> LabelEvents:
    """Makes label events from their times by item."""
    item = np.repeat(list(counts), [len(times) for times in counts.values()])
    return LabelEvents(np.ones_like(item), item, np.concatenate([*map(np.array, counts.values())]))


def train_of(events: LabelEvents, *items: int) -> TrainCounts:
    """Counts the train of user 1, whose windows hold these items."""
    played, plays = np.unique(events.item_id, return_counts=True)
    return TrainCounts(np.array([1]), np.array(items), events, played, plays)


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
    assert Slice.of_queries("some", [1, 0, 1], ASKED).labels.dtype == bool
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
    """Gives item 4 five of 10 events, the head; item 1 up to .8; items 2 and 3 the rest.

    Item 5 is in train, but never a label event there; item 6 is not in train.
    """
    events = listens({1: [0] * 3, 2: [0], 3: [0], 4: [0] * 5})
    labels = sets([1, 2, 3, 4, 5, 6], [6, 4])
    found = in_slices(item_slices(labels, train_of(events, 1, 2, 3, 4, 5)), labels)
    assert found == {"head": [4, 4], "middle": [1], "tail": [2, 3, 5], "cold": [6, 6]}
    # One event is all of them.
    labels = sets([7, 8])
    found = in_slices(item_slices(labels, train_of(listens({7: [0]}), 7, 8)), labels)
    assert found == {"head": [7], "middle": [], "tail": [8], "cold": []}
    # Train may hold no label event of any item that is asked for, nor any at all.
    with np.errstate(all="raise"):
        found = in_slices(item_slices(labels, train_of(listens({1: []}), 7)), labels)
    assert found == {"head": [], "middle": [], "tail": [7], "cold": [8]}


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


def test_groups_are_of_equal_size_and_equals_stay_together() -> None:
    assert quantile_groups(np.array([9, 1, 5, 7]), 4).tolist() == [4, 1, 2, 3]
    assert quantile_groups(np.arange(100), 10).tolist() == np.repeat(np.arange(1, 11), 10).tolist()
    # Three of four are equal: the middle one of them is in the second quarter.
    assert quantile_groups(np.array([1, 1, 1, 8]), 4).tolist() == [2, 2, 2, 4]
    with np.errstate(all="raise"):
        assert quantile_groups(np.empty(0, np.int64), 4).tolist() == []
    assert quantile_groups(np.array([7]), 4).tolist() == [1]
    assert quantile_groups(np.array([1, 2, 3]), 2).tolist() == [1, 1, 2]
    assert quantile_groups(np.array([4, 4, 4]), 5).tolist() == [2, 2, 2]  # whose middle is at 5/3 + 1
    assert quantile_groups(np.array([1, 2, 3]), 2).dtype == np.int64


def test_the_least_and_the_most_popular_tenth_of_the_items() -> None:
    events = listens({item: [0] * item for item in range(1, 21)})
    labels = sets([1, 2, 3, 19, 20, 99])
    found = in_slices(popularity_slices(labels, train_of(events, *range(1, 21))), labels)
    assert found["popularity_1"] == [1, 2] and found["popularity_10"] == [19, 20]
    assert sum(map(len, found.values())) == 5  # 99 has no label event in train


def test_values_of_a_column_are_slices_the_most_frequent_alone() -> None:
    values = FeatureValues(
        "genre", np.array([0, 0, 1, 2, 4]), np.array(["jazz", "pop", "pop", "folk", "jazz"])
    )
    found = feature_slices(values, labels=6, most=2)
    assert {one.name: np.flatnonzero(one.labels).tolist() for one in found} == {
        "genre=jazz": [0, 4], "genre=pop": [0, 1],
    }  # fmt: skip
    assert {one.family for one in found} == {"feature:genre"}
    assert {one.labels.dtype for one in found} == {np.dtype(bool)}
    # Of equally frequent values the first by name are taken.
    even = FeatureValues("letter", np.arange(40), np.array([chr(65 + one % 20) for one in range(40)]))
    assert [one.name for one in feature_slices(even, 40, 3)] == ["letter=A", "letter=B", "letter=C"]
    assert feature_slices(values, labels=6, most=0) == []
    many = FeatureValues("number", np.arange(2_000), np.array([f"{one % 1_000:03}" for one in range(2_000)]))
    assert [one.name for one in feature_slices(many, 2_000, 3)] == [f"number=00{one}" for one in range(3)]


def test_a_users_columns_by_label() -> None:
    log = events_of(np.arange(40) % 4, np.arange(40) % 7, np.arange(40) * 10, b"listen", 1.0)
    windows = to_windows(WindowCutter(SPLIT, True, 5, 7).cut(log)[0]["test"])
    country = np.array([[b"", b"NO"][user % 2] for user in windows.user_id], object)
    tags = np.array([[b"a", b"b"] if user == 1 else [b"", b""] for user in windows.user_id], object)
    windows = dataclasses.replace(windows, user_features={"user_country": country, "user_tags": tags})
    queries = all_queries(windows)
    specs = [
        FeatureSpec("user_country", "country", "categorical"),
        FeatureSpec("user_tags", "tags", "multi_valued"),
        FeatureSpec("user_age", "age", "numeric"),
    ]
    countries, several = of_users(windows, queries, specs)
    assert set(countries.value.tolist()) == {"NO"} and len(countries.label)
    assert (queries.user_id[queries.labels.query[countries.label]] % 2 == 1).all()
    assert several.value.tolist() == ["a", "b"] * int((queries.user_id == 1).sum())


def test_an_items_columns_by_label(tmp_path: Path) -> None:
    (tmp_path / "items").mkdir()
    rows = {"item_id": [5, 3, 8], "genre": [["x", "y"], [], ["x"]], "year": [1990, None, 2001]}
    pq.write_table(pa.table(rows), tmp_path / "items" / "0.parquet")
    specs = [FeatureSpec("genre", "genre", "multi_valued"), FeatureSpec("year", "year", "categorical")]
    genre, year = of_items(str(tmp_path), np.array([8, 99, 5, 3, 5]), specs)
    assert list(zip(genre.label.tolist(), genre.value.tolist(), strict=True)) == [
        (0, "x"), (2, "x"), (2, "y"), (4, "x"), (4, "y"),
    ]  # fmt: skip
    assert list(zip(year.label.tolist(), year.value.tolist(), strict=True)) == [
        (0, "2001"), (2, "1990"), (4, "1990"),
    ]  # fmt: skip


def test_trends_are_of_twice_the_test_periods_length() -> None:
    assert trends_from(train_end=1_000, test_from=1_200, test_to=1_250) == 900
    assert trends_from(0, 0, 0) is None


SPLIT = TimeSplit(train_end=250, eval=(260, 320), test=(330, 400))


def test_slices_of_a_log() -> None:
    """Checks that bands are parts of the whole, cold items are cold by the log, and no test event decides."""
    draw = np.random.default_rng(5)
    size = 900
    time = np.sort(draw.integers(0, 400, size))
    item = draw.zipf(1.5, size) % 40 + 100 * (time >= 330) * (draw.random(size) < 0.3)
    ratio = draw.choice([-1.0, 0.2, 0.5, 1.1], size)
    kind = draw.choice([b"listen", b"listen", b"listen", b"like"], size)
    log = events_of(draw.integers(0, 9, size), item, time, kind, ratio, draw.choice([0, 1], size))
    cut = {n: to_windows(b) for n, b in WindowCutter(SPLIT, True, 5, 7).cut(log)[0].items()}
    train, queries = TrainCounts.of(cut["train"]), all_queries(cut["test"])
    letters = np.array([chr(65 + one % 20) for one in range(len(queries.label_item_id))])
    letter = FeatureValues("letter", np.arange(len(letters)), letters)
    slices = all_slices(
        queries, cut["test"], train, cut["eval"], history_length=5, recent_from=200, columns=[letter]
    )
    found = {one.name: one.labels for one in slices}
    assert len(found) == len(slices) and list(found) == [
        *BANDS, "trending", *(f"popularity_{group}" for group in range(1, 11)),
        *(f"activity_{group}" for group in range(1, 5)), "new_users", "history_1", "history_2_5",
        "repeat", "discovery", "organic", "recommended", "heard",
        *(f"letter={chr(65 + one)}" for one in range(10)),
    ]  # fmt: skip
    assert found["letter=B"].tolist() == (letters == "B").tolist()
    families = {one.name.partition("=")[0]: one.family for one in slices}
    numbered = {
        **{f"popularity_{group}": "popularity" for group in range(1, 11)},
        **{f"activity_{group}": "activity" for group in range(1, 5)},
    }
    assert families == {
        "head": "popularity", "middle": "popularity", "tail": "popularity", "cold": "cold",
        "trending": "trend", **numbered, "new_users": "new_users",
        "history_1": "history_length", "history_2_5": "history_length",
        "repeat": "repeat", "discovery": "repeat", "organic": "organic", "recommended": "organic",
        "heard": "play_ratio", "letter": "feature:letter",
    }  # fmt: skip
    assert Slice.of_queries("a", np.array([0, 1]), sets([1], [2])).family == ""
    position = queries.position[queries.labels.query]
    assert found["history_1"].tolist() == (position == 0).tolist()
    assert found["history_2_5"].tolist() == (position > 0).tolist()  # of 5 events that a query sees
    # Families that divide all labels.
    for family in ("activity new_users", "history_length", "repeat", "organic"):
        parts = [one.labels for one in slices if one.family in family.split()]
        assert (np.sum(parts, axis=0) == 1).all(), family
    deciles = [found[f"popularity_{group}"] for group in range(1, 11)]
    assert (np.sum(deciles, axis=0) == np.isin(queries.label_item_id, train.played_items)).all()
    # Only plays count: a like is no repeat.
    played = kind == b"listen"
    before = list(
        zip(log.user_id[played].tolist(), item[played].tolist(), time[played].tolist(), strict=True)
    )
    assert found["repeat"].tolist() == [
        any(u == user and i == one and t < at for u, i, t in before)
        for user, one, at in zip(queries.user_id, queries.label_item_id, queries.label_timestamp, strict=True)
    ]
    assert (np.sum([found[name] for name in BANDS], axis=0) == 1).all()
    in_train = set(item[time < 250].tolist())
    assert found["cold"].tolist() == [one not in in_train for one in queries.label_item_id.tolist()]
    assert found["cold"].any() and found["heard"].any() and not found["heard"].all()
    heard = {(u, i, t) for u, i, t, r in zip(log.user_id, item, time, ratio, strict=True) if r >= 0.5}
    asked = zip(queries.user_id, queries.label_item_id, queries.label_timestamp, strict=True)
    assert found["heard"].tolist() == [one in heard for one in asked]

    shuffled = queries.take(draw.permutation(len(queries)))
    by_item = dict(zip(queries.label_item_id, found["trending"], strict=True))
    again = item_slices(shuffled.labels, train, 200)[4].labels
    assert again.tolist() == [by_item[one] for one in shuffled.label_item_id]


@dataclasses.dataclass(frozen=True)
class _At:
    """Stand-in for queries: their positions within windows, and one label each."""

    position: np.ndarray

    @property
    def labels(self) -> LabelSets:
        return sets(*([number] for number in range(len(self.position))))


@pytest.mark.parametrize(
    ("history_length", "names"),
    [
        (1, ["history_1"]),
        (2, ["history_1", "history_2_5"]),
        (5, ["history_1", "history_2_5"]),
        (6, ["history_1", "history_2_5", "history_6_20"]),
        (200, ["history_1", "history_2_5", "history_6_20", "history_21_50", "history_51_200"]),
        (
            201,
            [
                "history_1",
                "history_2_5",
                "history_6_20",
                "history_21_50",
                "history_51_200",
                "history_over_200",
            ],
        ),
    ],
)
def test_a_history_counts_its_events_up_to_the_longest_one(history_length: int, names: list[str]) -> None:
    queries = cast(Queries, _At(np.arange(300)))
    seen = np.minimum(np.arange(1, 301), history_length)
    assert history_lengths(queries, history_length).tolist() == seen.tolist()
    slices = history_slices(queries, history_length)
    assert [one.name for one in slices] == names and {one.family for one in slices} == {"history_length"}
    bounds = [(1, 1), (2, 5), (6, 20), (21, 50), (51, 200), (201, 300)]
    for one, (low, high) in zip(slices, bounds, strict=False):
        assert one.labels.tolist() == ((seen >= low) & (seen <= high)).tolist(), one.name
    assert (np.sum([one.labels for one in slices], axis=0) == 1).all()


@pytest.mark.parametrize("with_times", [True, False])
def test_the_seed_is_a_repeat_of_itself(with_times: bool) -> None:
    """Checks that an item is a repeat from its own event on, in windows without times as well."""
    user, item = np.array([1, 1, 2, 2, 3, 3, 3]), np.array([7, 7, 8, 9, 9, 8, 9])
    log = events_of(user, item, 335 + 5 * np.arange(7), b"listen", 1.0, 1)
    cut = {name: to_windows(batch) for name, batch in WindowCutter(SPLIT, True, 5, 7).cut(log)[0].items()}
    test = cut["test"]
    if not with_times:
        test = dataclasses.replace(test, timestamp=np.zeros_like(test.timestamp))
    queries = all_queries(test)
    repeat, discovery = repeat_slices(queries, test, train_of(listens({1: [0]}), 1), cut["eval"])
    assert queries.user_id.tolist() == [1, 2, 3, 3] and queries.label_item_id.tolist() == [7, 9, 8, 9]
    assert repeat.labels.tolist() == [True, False, False, True]
    assert discovery.labels.tolist() == [False, True, True, False]


def windows_of(*windows: tuple[int, list[int], list[int]]) -> Windows:
    """Makes windows of listens from each one's user, items and times."""
    user, items, times = zip(*windows, strict=True)
    item, time = (np.concatenate([np.array(part, np.int64) for part in each]) for each in (items, times))
    offsets = np.cumsum([0, *map(len, items)])
    none, nothing = np.zeros(len(windows) + 1, np.int64), np.empty(0, np.int64)
    event_type, ratio = np.full(len(item), b"listen"), np.ones(len(item), np.float32)
    return Windows(
        np.array(user), offsets, item, time, event_type, ratio, np.full(len(item), -1), time,
        np.zeros(len(item), np.int64), none, nothing, none, nothing,
    )  # fmt: skip


def test_an_earlier_window_of_a_long_history_makes_a_repeat_if_it_was_before_the_query() -> None:
    test = windows_of(
        (4, [7], [5]),  # a user without a query
        (6, [1, 7], [70, 80]),  # events 1 and 2
        (6, [7, 8], [10, 20]),  # events 3 and 4, of an earlier time
        (5, [8, 2], [30, 40]),  # events 5 and 6
    )
    asked = [
        # user, window, event, time of the request, label
        (6, 1, 1, 75, 7, True),  # played at 10, and again after the query
        (6, 1, 1, 75, 8, True),
        (6, 1, 1, 10, 7, False),  # at that very time
        (6, 1, 1, 20, 8, False),
        (6, 1, 1, 21, 8, True),
        (5, 3, 5, 75, 7, False),  # by other users alone
        (5, 3, 5, 31, 8, True),
        (6, 1, 1, 75, 9, False),
    ]
    user, window, event, time, item, expected = map(np.array, zip(*asked, strict=True))
    queries = Queries(user, window, event * 0, event, event + 1, time, LabelSets.of_one(item))
    train = train_of(listens({2: [0]}), 2)
    repeat, discovery = repeat_slices(queries, test, train, windows_of((9, [7], [1])))
    assert repeat.labels.tolist() == expected.tolist() == (~discovery.labels).tolist()


def test_the_first_value_of_each_key() -> None:
    keys, values = np.array([5, 3, 5, 3]), np.array([10, 20, 30, 40])
    none = np.iinfo(np.int64).max
    assert slices_module._first(keys, values, np.array([3, 5, 4, 9, 0])).tolist() == [
        20,
        10,
        none,
        none,
        none,
    ]
    for alone in (keys[:0], keys[:1]):
        found = slices_module._first(alone, values[: len(alone)], np.array([5, 7]))
        assert found.tolist() == [10 if len(alone) else none, none] and found.dtype == np.int64


@pytest.mark.parametrize(
    ("known", "names"), [(-1, []), (0, ["organic", "recommended"]), (1, ["organic", "recommended"])]
)
def test_what_a_recommender_brought_is_a_slice_where_it_is_known(known: int, names: list[str]) -> None:
    time = np.sort(np.random.default_rng(6).integers(0, 400, 200))
    log = events_of(np.arange(200) % 5, np.arange(200) % 11, time, b"listen", 1.0, known)
    test = to_windows(WindowCutter(SPLIT, True, 5, 7).cut(log)[0]["test"])
    found = organic_slices(all_queries(test), test)
    assert [one.name for one in found] == names and {one.family for one in found} <= {"organic"}
    assert [bool(one.labels.all()) for one in found] == ([known == 1, known == 0] if names else [])


def test_what_was_heard_is_unknown_of_sets_and_without_play_ratios() -> None:
    size = 200
    time = np.sort(np.random.default_rng(6).integers(0, 400, size))
    log = events_of(np.arange(size) % 5, np.arange(size) % 11, time, b"listen", play_ratio=-1.0)
    nothing = all_queries(to_windows(WindowCutter(SPLIT, True, 5, 7).cut(log)[0]["test"])).take(
        np.zeros(0, int)
    )
    assert organic_slices(nothing, to_windows(WindowCutter(SPLIT, True, 5, 7).cut(log)[0]["test"])) == []
    assert play_ratio_slices(nothing, to_windows(WindowCutter(SPLIT, True, 5, 7).cut(log)[0]["test"])) == []
    unheard = dataclasses.replace(log, play_ratio=np.zeros(size, np.float32))
    test = to_windows(WindowCutter(SPLIT, True, 5, 7).cut(unheard)[0]["test"])
    (heard,) = play_ratio_slices(all_queries(test), test)
    assert not heard.labels.any()
    for split in (SPLIT, FrozenSplit(SPLIT, 10)):
        test = to_windows(WindowCutter(split, True, 5, 7).cut(log)[0]["test"])
        queries = all_queries(test)
        assert len(queries) and not play_ratio_slices(queries, test)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("history_1", "queries that see one event"),
        ("history_2_5", "queries that see 2 to 5 events"),
        ("history_over_200", "queries that see more than 200 events"),
        ("popularity_3", "items in part 3 of 10 by popularity in train, the first the least popular"),
        ("popularity_x", None),
        ("activity_4", "users in part 4 of 4 by activity in train, the first the least active"),
        ("activity_x", None),
        ("repeat", "labels that their user had played before"),
        ("discovery", "labels that their user had not played before"),
        ("organic", "labels that their user came upon without a recommender"),
        ("recommended", "labels that their user came upon by a recommender"),
        ("new_users", "queries of users whom train does not know"),
        ("event_wish", None),
        ("genre={new}_wave", "labels whose genre is {new}_wave"),
        ("user_home_country=a=b", "labels whose user home_country is a=b"),
        ("head", None),
    ],
)
def test_a_slices_name_in_words(name: str, words: str | None) -> None:
    assert meaning(name) == words
