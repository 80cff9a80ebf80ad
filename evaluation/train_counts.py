"""Counts of users and items in the train split, by which slices and popularity are defined."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from two_tower.evaluation.label_events import LabelEvents
from two_tower.evaluation.metrics import Bools, Floats
from two_tower.evaluation.queries import Ints, Queries, Windows


@dataclasses.dataclass(frozen=True)
class TrainCounts:
    """Train's counts of users and items, kept so that the windows need not stay in memory.

    Attributes:
        users: ids of all users, ascending.
        items: ids of all items that any window holds, ascending.
        events: train's label events, each once.
        played_items: ids of the items that have label events, ascending.
        plays: number of label events of each of them.
    """

    users: Ints
    items: Ints
    events: LabelEvents
    played_items: Ints
    plays: Ints

    @classmethod
    def of(cls, train: Windows) -> TrainCounts:
        """Counts train's windows."""
        events = LabelEvents.of(train)
        played, plays = np.unique(events.item_id, return_counts=True)
        return cls(np.unique(train.user_id), np.unique(train.item_id), events, played, plays)

    def knows_users(self, user_id: npt.ArrayLike) -> Bools:
        """Tells whether each user occurs in train, in the shape given."""
        return np.isin(user_id, self.users)

    def knows_items(self, item_id: npt.ArrayLike) -> Bools:
        """Tells whether any window of train holds each item, in the shape given."""
        return np.isin(item_id, self.items)

    def plays_of(self, item_id: Ints) -> Ints:
        """Returns each item's number of label events in train, in the shape given."""
        if not len(self.played_items):
            return np.zeros(np.shape(item_id), np.int64)
        place = np.minimum(np.searchsorted(self.played_items, item_id), len(self.played_items) - 1)
        return np.where(self.played_items[place] == item_id, self.plays[place], 0)

    def popularity(self, item_id: Ints) -> Floats:
        """Returns each item's share of train's label events, in the shape given."""
        return np.asarray(self.plays_of(item_id) / max(len(self.events.item_id), 1))

    def popularity_of_histories(self, windows: Windows, queries: Queries, history_length: int) -> Floats:
        """Averages the popularity of the last `history_length` events that each query sees: [Q]."""
        length = np.minimum(queries.position + 1, history_length)
        total = np.concatenate([[0.0], np.cumsum(self.popularity(windows.item_id))])
        end = queries.event + 1
        return np.asarray((total[end] - total[end - length]) / length)
