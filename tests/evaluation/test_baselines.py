from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest

from tests.listening_logs import events_of, to_windows
from two_tower.components.interaction_example_gen.histories import Events, Histories
from two_tower.components.interaction_example_gen.splits import (
    EventSplit,
    FrozenSplit,
    LeaveOneOut,
    SplitColumn,
    TimeSplit,
)
from two_tower.components.interaction_example_gen.windows import WindowCutter
from two_tower.evaluation.baselines.fitting import Fitted, fit_baselines
from two_tower.evaluation.baselines.personal_history import PersonalHistory
from two_tower.evaluation.baselines.popularity import DAY, Popularity
from two_tower.evaluation.baselines.ranking import first_among
from two_tower.evaluation.label_events import LabelEvents
from two_tower.evaluation.metric_table import summarize
from two_tower.evaluation.queries import Queries, Windows, all_queries

K = 12
# Those of the others are in tests/evaluation/test_scored_baselines.py.
OF_COUNTS = ("most_popular", "decayed_popularity", "personal_history")


def log_of(rows: Sequence[tuple[int, int, int]]) -> Events:
    """Makes listens of (user, item, time), in file order."""
    user, item, time = np.array(rows, np.int64).T
    return events_of(user, item, time, b"listen", play_ratio=1.0)


def cut(log: Events, split: TimeSplit, repeats: bool = True) -> dict[str, Windows]:
    batches, _ = WindowCutter(split, repeats, history_length=5, positions=7).cut(log)
    return {name: to_windows(batch) for name, batch in batches.items()}


def random_log(seed: int = 3, users: int = 12, size: int = 1_200) -> Events:
    """Draws users with favourites, long histories and some likes; times repeat; new items come late."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, size)
    item = 100 * rng.integers(0, 2, size) * (1 + user % 3) + rng.integers(0, 9, size)
    event_type = np.where(rng.random(size) < 0.2, b"like", b"listen")
    time = np.sort(rng.integers(0, 400, size))
    item += 1_000 * ((time >= 320) & (rng.random(size) < 0.3))
    # Nothing comes twice.
    once = dict.fromkeys(zip(user, item, time, event_type, strict=True))
    user, item, time, event_type = (np.array(column) for column in zip(*once, strict=True))
    return events_of(user, item, time, event_type, play_ratio=1.0)


LOG = random_log()
SPLIT = TimeSplit(train_end=250, eval=(260, 320), test=(330, 400))
WINDOWS = cut(LOG, SPLIT)


def fitted(windows: dict[str, Windows], repeats: bool = True) -> Fitted:
    events = LabelEvents.of(windows["train"])
    return fit_baselines(
        events,
        windows["eval"],
        cutoff=K,
        repeats_recommendable=repeats,
        seed=1,
        history_length=5,
        names=OF_COUNTS,
    )


def listens_before(log: Events, time: int) -> list[tuple[int, int, int]]:
    chosen = (log.event_type == 0) & (log.timestamp < time)
    return sorted(zip(log.user_id[chosen], log.item_id[chosen], log.timestamp[chosen], strict=True))


def test_every_train_listen_is_counted_once_although_windows_overlap() -> None:
    assert len(WINDOWS["train"]) > 2 * 12  # long histories are in several windows
    events = LabelEvents.of(WINDOWS["train"])
    counted = zip(events.user_id, events.item_id, events.timestamp, strict=True)
    assert sorted(counted) == listens_before(LOG, 250)


def test_no_baseline_sees_anything_after_train() -> None:
    later = LOG.timestamp >= 330
    changed = dataclasses.replace(LOG, item_id=LOG.item_id + 5_000 * later)
    ours, theirs = (fitted(cut(log, SPLIT)) for log in (LOG, changed))
    queries = all_queries(WINDOWS["test"])
    first_of_window = np.flatnonzero(WINDOWS["test"].timestamp[queries.event] < 330)
    assert len(first_of_window)
    for name, baseline in ours.items():
        assert baseline.settings == theirs[name].settings
        np.testing.assert_array_equal(
            baseline.recommend(WINDOWS["test"], queries, first_of_window, K, exclude=False),
            theirs[name].recommend(cut(changed, SPLIT)["test"], queries, first_of_window, K, exclude=False),
        )


def test_popular_items_stand_in_order_of_their_counts() -> None:
    train = cut(log_of([(1, 5, 10), (1, 6, 20), (1, 6, 30), (2, 6, 10), (2, 7, 20), (2, 5, 30)]),
                TimeSplit(100, (100, 100), (100, 100)))["train"]  # fmt: skip
    popular = Popularity(LabelEvents.of(train))
    assert popular.ranked.tolist() == [6, 5, 7]
    recommended = popular.recommend(train, all_queries(train), [0, 1], 4, exclude=False)
    assert recommended.tolist() == [[6, 5, 7, -1]] * 2


def test_a_short_half_life_prefers_what_is_heard_lately() -> None:
    rows = [(1, 5, 0), (1, 5, 10), (1, 5, 20), (1, 6, 10 * DAY), (1, 6, 10 * DAY + 10)]
    train = cut(log_of(rows), TimeSplit(20 * DAY, (20 * DAY, 20 * DAY), (20 * DAY, 20 * DAY)))["train"]
    events = LabelEvents.of(train)
    assert Popularity(events, half_life_days=1.0).ranked.tolist() == [6, 5]
    # 3 * 0.5^(10 / 30) = 2.38 of item 5, and 2 of item 6.
    assert Popularity(events, half_life_days=30.0).ranked.tolist() == [5, 6]


@pytest.mark.parametrize("repeats", [True, False])
def test_popular_lists_leave_out_exactly_what_the_user_had(repeats: bool) -> None:
    windows = cut(LOG, SPLIT, repeats=repeats)
    queries = all_queries(windows["test"])
    popular = Popularity(LabelEvents.of(windows["train"]))
    recommended = popular.recommend(windows["test"], queries, np.arange(len(queries)), K, exclude=not repeats)
    assert len(queries)
    for row in range(len(queries)):
        had = set() if repeats else had_before(LOG, queries, row)
        expected = [item for item in popular.ranked if item not in had][:K]
        assert recommended[row].tolist() == expected + [-1] * (K - len(expected))


def had_before(log: Events, queries: Queries, row: int) -> set[int]:
    """Lists items of the user's events up to the query: by time, and then by place in the test window."""
    windows = cut(log, SPLIT, repeats=False)["test"]
    window = queries.window[row]
    begin = windows.offsets[window]
    inside = windows.item_id[begin : queries.event[row] + 1].tolist()
    # The window's own events are the user's last ones: all earlier ones were had.
    events = Histories.of(log)
    own = np.flatnonzero(events.user_id == queries.user_id[row])
    types = np.array([name.encode() for name in log.event_types])[events.event_type[own]]
    times = list(zip(events.timestamp[own], events.item_id[own], types, strict=True))
    first = times.index((windows.timestamp[begin], windows.item_id[begin], windows.event_type[begin]))
    return {item for _, item, _ in times[:first]} | set(inside)


@pytest.mark.parametrize("half_life", [1.0, 20.0, 1_000_000.0])
def test_personal_history_scores_every_visible_listen_once(half_life: float) -> None:
    events = LabelEvents.of(WINDOWS["train"])
    popular = Popularity(events)
    queries = all_queries(WINDOWS["test"])
    test = WINDOWS["test"]
    recommended = PersonalHistory(events, popular, half_life).recommend(
        test, queries, np.arange(len(queries)), K, exclude=False
    )
    for row in range(len(queries)):
        begin, end = test.offsets[queries.window[row]], queries.event[row] + 1
        old = (events.user_id == queries.user_id[row]) & (events.timestamp < test.timestamp[begin])
        inside = test.item_id[begin:end][test.event_type[begin:end] == b"listen"]
        scores: dict[int, float] = defaultdict(float)
        for ago, item in enumerate([*events.item_id[old], *inside][::-1]):
            scores[item] += 0.5 ** (ago / half_life)
        own = sorted(scores, key=lambda item: -scores[item])[:K]
        expected = own + [item for item in popular.ranked if item not in scores][: K - len(own)]
        assert recommended[row].tolist() == expected + [-1] * (K - len(expected))


def test_a_user_whom_train_has_not_seen_gets_the_window_and_then_popular_items() -> None:
    log = log_of([(1, 5, 10), (1, 6, 20), (1, 5, 30), (9, 40, 210), (9, 41, 220), (9, 42, 230)])
    windows = cut(log, TimeSplit(100, (100, 200), (200, 300)))
    events = LabelEvents.of(windows["train"])
    baseline = PersonalHistory(events, Popularity(events), 5.0)
    recommended = baseline.recommend(windows["test"], all_queries(windows["test"]), [0, 1], 4, exclude=False)
    assert recommended.tolist() == [[40, 5, 6, -1], [41, 40, 5, 6]]


def test_the_half_life_is_the_one_that_does_best_on_eval() -> None:
    # 200 old hits, then in every later week 200 others: only a short half-life knows this week's.
    rng = np.random.default_rng(0)
    rows = [
        (int(rng.integers(0, 50)), 1_000 * (week > 7) + 200 * week + int(rng.integers(0, 120)), t)
        for week in range(10)
        for t in sorted(rng.integers(week * 7 * DAY, (week + 1) * 7 * DAY, 800))
    ]
    split = TimeSplit(train_end=66 * DAY, eval=(66 * DAY, 68 * DAY), test=(68 * DAY, 70 * DAY))
    windows = cut(log_of(rows), split)
    baselines = fitted(windows)
    assert list(baselines) == ["most_popular", "decayed_popularity", "personal_history"]
    assert float(baselines["decayed_popularity"].settings["half_life_days"]) <= 7.0


def test_where_repeats_are_not_recommended_personal_history_is_absent() -> None:
    windows = cut(LOG, SPLIT, repeats=False)
    baselines = fitted(windows, repeats=False)
    assert list(baselines) == ["most_popular", "decayed_popularity"]
    events = LabelEvents.of(windows["train"])
    with pytest.raises(ValueError, match="already had"):
        PersonalHistory(events, Popularity(events), 5.0).recommend(
            windows["test"], all_queries(windows["test"]), [0], K, exclude=True
        )


# Other protocols, and data without times.

FROZEN = FrozenSplit(TimeSplit(2_000, (2_100, 2_500), (2_600, 3_000)), 100, 0.0)
PROTOCOLS = [
    (TimeSplit(2_000, (2_100, 2_500), (2_600, 3_000)), True),
    (FROZEN, True),
    (LeaveOneOut(), True),
    (LeaveOneOut(), False),
    (SplitColumn(), True),
    (SplitColumn(), False),
]


def rows_log(seed: int) -> Events:
    """Draws events at distinct times. A play ratio is the event's row, which identifies it in windows."""
    rng = np.random.default_rng(seed)
    size = 600
    user = rng.integers(0, 10, size)
    item = 10 * user + rng.integers(0, 30, size)
    kind = np.where(rng.random(size) < 0.3, b"like", b"listen")
    time = 5 * np.arange(size)
    split = np.searchsorted([2_000, 2_500], time, side="right")
    return events_of(user, item, time, kind, play_ratio=np.arange(size), split=split)


@pytest.mark.parametrize(("split", "has_times"), PROTOCOLS)
@pytest.mark.parametrize("half_life", [3.0, 1_000_000.0])
def test_personal_history_is_train_and_the_window_under_every_protocol(
    split: EventSplit, has_times: bool, half_life: float
) -> None:
    """Counts each listen of train before the query, and each of the window up to it, once."""
    log = rows_log(seed=8)
    cutter = WindowCutter(split, True, history_length=5, positions=7, has_timestamps=has_times)
    windows = {name: to_windows(batch) for name, batch in cutter.cut(log)[0].items()}
    assert has_times == bool(windows["train"].timestamp.any())
    train = np.unique(windows["train"].play_ratio[windows["train"].event_type == b"listen"].astype(int))
    events = LabelEvents.of(windows["train"])
    popular = Popularity(events)
    deep = 0
    for name in ("eval", "test"):
        asked, queries = windows[name], all_queries(windows[name])
        recommended = PersonalHistory(events, popular, half_life).recommend(
            asked, queries, np.arange(len(queries)), K, exclude=False
        )
        assert len(queries)
        for row in range(len(queries)):
            window = slice(asked.offsets[queries.window[row]], queries.event[row] + 1)
            listens = asked.event_type[window] == b"listen"
            inside = asked.play_ratio[window][listens].astype(int).tolist()
            own = train[log.user_id[train] == queries.user_id[row]]
            past = [event for event in own if event not in inside]
            deep += len(past) > 0
            scores: dict[int, float] = defaultdict(float)
            for ago, event in enumerate([*past, *inside][::-1]):
                scores[log.item_id[event]] += 0.5 ** (ago / half_life)
            best = sorted(scores.values(), reverse=True)[:K]
            found = [scores[item] for item in recommended[row][: len(best)]]
            assert found == pytest.approx(best)
    assert deep > 10


@pytest.mark.parametrize(("split", "has_times"), PROTOCOLS)
def test_where_there_are_no_times_no_popularity_decays(split: EventSplit, has_times: bool) -> None:
    cutter = WindowCutter(split, True, history_length=5, positions=7, has_timestamps=has_times)
    windows = {name: to_windows(batch) for name, batch in cutter.cut(rows_log(seed=9))[0].items()}
    expected = {"most_popular", "personal_history"} | ({"decayed_popularity"} if has_times else set())
    assert set(fitted(windows)) == expected


@pytest.mark.parametrize("repeats", [True, False])
def test_a_frozen_evaluation_is_what_a_plain_loop_over_the_log_says(repeats: bool) -> None:
    """Computes users, labels and the metrics of popular items from events, by a plain loop."""
    log = rows_log(seed=10)
    cutter = WindowCutter(FROZEN, repeats, history_length=5, positions=7)
    windows = {name: to_windows(batch) for name, batch in cutter.cut(log)[0].items()}
    queries = all_queries(windows["test"])
    popular = Popularity(LabelEvents.of(windows["train"]))
    recommended = popular.recommend(windows["test"], queries, np.arange(len(queries)), K, exclude=not repeats)
    measured = summarize(recommended, queries.labels, queries.user_id, (3, K), catalog_size=200)

    listens = log.event_type == 0
    plays: dict[int, int] = defaultdict(int)
    for user in range(10):
        own = log.item_id[listens & (log.timestamp < 2_000) & (log.user_id == user)].tolist()
        # An item that comes again is a label only where repeats are welcome; a lone listen is in no window.
        for item in own if len(own) > 1 else []:
            plays[item] += 1
    assert popular.ranked.tolist() == sorted(plays, key=lambda item: (-plays[item], item)) or not repeats

    recalls: dict[int, list[float]] = {3: [], K: []}
    clipped: list[float] = []
    for user in range(10):
        own = log.user_id == user
        had = set(log.item_id[own & (log.timestamp < 2_500)].tolist())
        labels = set(log.item_id[own & listens & (log.timestamp >= 2_600)].tolist())
        if not repeats:
            labels -= had
        if not labels or not (own & listens & (log.timestamp < 2_000)).any():
            continue
        offered = [item for item in popular.ranked.tolist() if repeats or item not in had]
        for k, found in recalls.items():
            found.append(len(labels & set(offered[:k])) / len(labels))
        clipped.append(len(labels & set(offered[:3])) / min(3, len(labels)))
    assert len(queries) == len(clipped) > 5
    assert measured["recall@3"] == measured["user_recall@3"] == pytest.approx(np.mean(recalls[3]))
    assert measured[f"recall@{K}"] == pytest.approx(np.mean(recalls[K]))
    assert measured["clipped_recall@3"] == pytest.approx(np.mean(clipped))


def test_what_is_no_candidate_makes_room_for_what_comes_next() -> None:
    recommended = np.array([[7, 3, 9, 5], [3, 9, 7, -1], [9, 8, -1, -1]])
    assert first_among(recommended, np.array([3, 5, 7, 11]), 2).tolist() == [[7, 3], [3, 7], [-1, -1]]
    assert first_among(recommended[:1], np.array([5, 9]), 5).tolist() == [[9, 5, -1, -1, -1]]
