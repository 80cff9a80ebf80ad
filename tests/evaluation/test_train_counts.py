"""Counts of users and items in train, by which slices and popularity are defined."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.listening_logs import events_of, to_windows
from two_tower.components.interaction_example_gen.splits import TimeSplit
from two_tower.components.interaction_example_gen.windows import WindowCutter
from two_tower.evaluation.label_events import LabelEvents
from two_tower.evaluation.queries import LabelSets, Queries
from two_tower.evaluation.train_counts import TrainCounts


def counts(users: Any, items: Any, known: Any = None) -> TrainCounts:
    """Counts label events of these users and items, in a train that holds the `known` items."""
    users, items = np.asarray(users), np.asarray(items)
    events = LabelEvents(users, items, np.arange(len(items)))
    played, plays = np.unique(items, return_counts=True)
    return TrainCounts(np.unique(users), np.unique(items if known is None else known), events, played, plays)


def test_plays_are_counted_by_item_whatever_the_shape() -> None:
    train = counts([1, 1, 2, 2, 2], [7, 3, 7, 7, 9])
    asked = np.array([[3, 7], [9, 8], [100, -1]])
    assert train.plays_of(asked).tolist() == [[1, 3], [1, 0], [0, 0]]
    np.testing.assert_allclose(train.popularity(asked), [[0.2, 0.6], [0.2, 0.0], [0.0, 0.0]])


def test_the_only_label_event_is_all_of_them() -> None:
    assert counts([1], [7]).popularity(np.array([7, 8])).tolist() == [1, 0]


def test_without_label_events_nothing_is_popular() -> None:
    train = counts([], [], known=[4])
    assert train.plays_of(np.array([[4, 5]])).tolist() == [[0, 0]]
    assert train.plays_of(np.array([4])).dtype == np.int64
    assert train.popularity(np.array([4])).tolist() == [0]


def test_a_train_knows_who_and_what_its_windows_hold() -> None:
    # Item 5 is in a window, though it is no label; it is not cold.
    train = counts([1, 2], [7, 3], known=[3, 5, 7])
    assert train.knows_users([2, 3]).tolist() == [True, False]
    assert train.knows_items(np.array([[5, 7], [6, 3]])).tolist() == [[True, True], [False, True]]


def test_the_popularity_of_a_history_is_that_of_the_events_that_its_query_sees() -> None:
    train = counts([1] * 10, [10] * 4 + [11] * 3 + [12] * 2 + [13])
    item = np.array([10, 11, 12, 13, 10, 99])
    log = events_of(np.zeros(6, int), item, 1 + np.arange(6), b"listen", play_ratio=1.0)
    cutter = WindowCutter(TimeSplit(9, (9, 9), (9, 9)), True, history_length=9, positions=9)
    windows = to_windows(cutter.cut(log)[0]["train"])
    at = np.array([0, 2, 5])
    queries = Queries(0 * at, 0 * at, at, at, at, at, LabelSets.of_one(at))
    found = train.popularity_of_histories(windows, queries, history_length=3)
    np.testing.assert_allclose(found, [0.4, (0.4 + 0.3 + 0.2) / 3, (0.1 + 0.4 + 0.0) / 3])
    again = TrainCounts.of(windows)
    assert again.items.tolist() == again.played_items.tolist() == [10, 11, 12, 13, 99]
    assert again.plays.tolist() == [2, 1, 1, 1, 1] and again.users.tolist() == [0]


def test_an_item_that_train_holds_as_context_alone_is_known_and_has_no_plays() -> None:
    kinds = np.array([b"listen", b"like", b"listen"])
    log = events_of(np.zeros(3, int), np.array([10, 55, 11]), 1 + np.arange(3), kinds, play_ratio=1.0)
    cutter = WindowCutter(TimeSplit(9, (9, 9), (9, 9)), True, history_length=9, positions=9)
    train = TrainCounts.of(to_windows(cutter.cut(log)[0]["train"]))
    assert train.knows_items(np.array([10, 55, 11, 12])).tolist() == [True, True, True, False]
    assert train.plays_of(np.array([10, 55, 11, 12])).tolist() == [1, 0, 1, 0]
