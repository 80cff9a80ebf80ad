"""Histories: a shard's events by user and time, without duplicates."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pyarrow as pa

from two_tower.components.interaction_example_gen.row_order import order, ranges, run_starts
from two_tower.schema import features

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Events:
    """Columns of one shard's events, of one length. Integers may have any width.

    The order of rows decides between events that agree in all else.

    Attributes:
        user_id, item_id: ids, 0 or more.
        timestamp: seconds; the rank within the user if the data has an order instead of times.
        event_type: index into `event_types`, 0 for the label event.
        play_ratio: float32, -1 where unknown.
        is_organic: 1, 0, or -1 where unknown.
        event_types: names as windows hold them, "listen" first.
        split: the column `split` as split numbers (see splits.py); None unless the protocol reads it.
    """

    user_id: Array
    item_id: Array
    timestamp: Array
    event_type: Array
    play_ratio: Array
    is_organic: Array
    event_types: tuple[str, ...] = (features.LISTEN,)
    split: Array | None = None

    def __len__(self) -> int:
        return len(self.user_id)


_EVENT_COLUMNS = ("user_id", "item_id", "timestamp", "event_type", "play_ratio", "is_organic")


@dataclasses.dataclass(frozen=True)
class Histories:
    """Events by user and time without duplicates, in the columns of `Events` and three more.

    At equal times a listen comes before reactions to it; then `split`, if any, then file order decide.

    Attributes:
        user: int64 [n], users numbered from 0 without gaps.
        starts: int64 [users + 1], the place of each user's first event.
        is_listen: bool [n].
    """

    user_id: Array
    item_id: Array
    timestamp: Array
    event_type: Array
    play_ratio: Array
    is_organic: Array
    event_types: tuple[str, ...]
    split: Array | None
    user: Array
    starts: Array
    is_listen: Array

    @classmethod
    def of(cls, events: Events) -> Histories:
        """Sorts events and drops duplicates: events that agree in user, item, time and type.

        The first one stays. A column `split` comes before file order: what train holds is no label of test.
        """
        user = _numbered(events.user_id)
        by_split = () if events.split is None else (events.split,)
        by_time = order(user, events.timestamp, events.event_type != 0, *by_split)
        columns = {name: getattr(events, name)[by_time] for name in _EVENT_COLUMNS}
        split, user = None if events.split is None else events.split[by_time], user[by_time]
        is_listen = columns["event_type"] == 0
        sorted_events = cls(
            **columns,
            event_types=events.event_types,
            split=split,
            user=user,
            starts=np.searchsorted(user, np.arange(user[-1] + 2)) if len(user) else np.zeros(1, np.int64),
            is_listen=is_listen,
        )
        keys = (user, columns["timestamp"], is_listen)
        twice = _repetitions(keys, columns["item_id"], columns["event_type"])
        if not len(twice):
            return sorted_events
        once = np.ones(len(user), bool)
        once[twice] = False
        return sorted_events.where(once)

    def __len__(self) -> int:
        return len(self.user_id)

    @property
    def users(self) -> int:
        """Count of users."""
        return len(self.starts) - 1

    def where(self, chosen: Array) -> Histories:
        """Returns the chosen events (bool [n]); users keep their numbers."""
        return Histories(
            **{name: getattr(self, name)[chosen] for name in _EVENT_COLUMNS},
            event_types=self.event_types,
            split=None if self.split is None else self.split[chosen],
            user=self.user[chosen],
            starts=np.append(0, np.cumsum(chosen))[self.starts],
            is_listen=self.is_listen[chosen],
        )

    @functools.cached_property
    def first_of_item(self) -> Array:
        """Place of the user's first event of the same item, for each event [n]."""
        by_item = order(self.user, self.item_id)
        user, item = self.user[by_item], self.item_id[by_item]
        begins = run_starts(user, item)
        first = np.empty(len(self), np.int64)
        first[by_item] = np.repeat(by_item[begins], np.diff(np.append(begins, len(self))))
        return first

    @functools.cached_property
    def firsts(self) -> Array:
        """Places of events with an item that is new to their user, ascending."""
        return np.flatnonzero(self.first_of_item == np.arange(len(self)))


def _numbered(ids: Array) -> Array:
    """Numbers ids from 0 without gaps, in the order of their first rows."""
    # A hash table is faster than the sort of np.unique.
    encoded = pa.array(ids).dictionary_encode()
    return encoded.indices.to_numpy()


def _repetitions(keys: tuple[Array, ...], item: Array, event_type: Array) -> Array:
    """Returns rows that equal an earlier row in keys, item and type; rows are sorted by the keys."""
    # Few events share user and time with another, and only they can repeat.
    begins = run_starts(*keys)
    lengths = np.diff(np.append(begins, len(item)))
    shared = lengths > 1
    rows = ranges(begins[shared], begins[shared] + lengths[shared])
    run = np.repeat(np.arange(int(shared.sum())), lengths[shared])
    by_item = order(run, item[rows], event_type[rows])
    again = np.ones(len(rows), bool)
    again[run_starts(run[by_item], item[rows][by_item], event_type[rows][by_item])] = False
    return rows[by_item[again]]
