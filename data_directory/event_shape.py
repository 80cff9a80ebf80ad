"""Shape of the label events: lengths of histories, repeats, newcomers and times."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa

from two_tower.data_directory.manifest import Manifest, event_files
from two_tower.data_directory.repeats import label_events, repeat_share

# Most buckets of the histogram of times, and most keys that are held before they are merged.
_BUCKETS = 200_000
_PENDING_KEYS = 4_000_000


@dataclasses.dataclass(frozen=True)
class KeyTimes:
    """Label events of users, or of items, by key.

    Attributes:
      keys: int64 [n], the ids, ascending.
      counts: int64 [n], number of label events.
      first, last: int64 [n], times of the first and of the last one, in seconds; zeros without times.
    """

    keys: np.ndarray
    counts: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def new_share(self, since: int) -> float:
        """Returns the share of newcomers among keys with a label event at `since` or later, in seconds."""
        active = self.last >= since
        return float((self.first[active] >= since).mean()) if active.any() else 0.0


@dataclasses.dataclass(frozen=True)
class EventShape:
    """Label events of a data directory, counted.

    Attributes:
      users, items: label events by user and by item.
      repeat_share: share of label events whose user has an earlier one of the same item.
      oldest, newest: times of the first and the last label event, in seconds; 0 without times.
      bucket_seconds: width of the buckets of `by_age`, in seconds.
      by_age: int64 [buckets], number of label events by age before `newest`; the first bucket is the newest.
    """

    users: KeyTimes
    items: KeyTimes
    repeat_share: float
    oldest: int
    newest: int
    bucket_seconds: int
    by_age: np.ndarray

    @property
    def label_events(self) -> int:
        """Number of label events."""
        return int(self.users.counts.sum())

    def history_length_of(self, share: float) -> int:
        """Returns the least history length that covers a share of the label events, in events.

        A user's n-th label event has a history of n - 1.
        """
        if not len(self.users):
            return 0
        longest = int(self.users.counts.max())
        users_of = np.bincount(self.users.counts, minlength=longest + 1)
        labels_after = np.cumsum(users_of[::-1])[::-1][1:]  # at n: labels with a history of n
        return int(np.searchsorted(np.cumsum(labels_after), share * self.label_events))

    def labels_in_last(self, seconds: int) -> int:
        """Counts label events of the newest `seconds`, to the precision of a bucket."""
        return int(self.by_age[: max(1, round(seconds / self.bucket_seconds))].sum())


def event_shape(data: str, manifest: Manifest, spans: int = 0) -> EventShape:
    """Reads the label events of a data directory once, and again to count repeats.

    Args:
      data: the data directory.
      manifest: its manifest.
      spans: number of newest spans to read; 0 for all.

    Raises:
      UserError: a file cannot be read, or `spans` is set and there are none.
    """
    files = event_files(data, spans)
    oldest, newest = manifest.time_range
    bucket = max(60, -(-(newest - oldest) // _BUCKETS))
    by_age = np.zeros((newest - oldest) // bucket + 1, np.int64)
    users, items = _Merged(), _Merged()
    times = ["timestamp"] if manifest.has_timestamps else []
    for user, item, *given in label_events(files, manifest, ["user_id", "item_id", *times]):
        time = given[0] if given else np.zeros(len(user), np.int64)
        users.add(user, time)
        items.add(item, time)
        age = np.clip((newest - time) // bucket, 0, len(by_age) - 1)
        by_age += np.bincount(age, minlength=len(by_age))
    of_users, of_items = users.result(), items.result()
    repeats = repeat_share(files, manifest, of_users.keys, of_items.keys)[0] if len(of_users) else 0.0
    return EventShape(of_users, of_items, repeats, oldest, newest, bucket, by_age)


class _Merged:
    """Running `KeyTimes`; memory grows with the keys, not with the rows."""

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []
        self._pending = 0

    def add(self, key: np.ndarray, time: np.ndarray) -> None:
        """Adds label events, int64 [n] each."""
        rows = pa.table({"key": key, "count": np.ones(len(key), np.int64), "first": time, "last": time})
        self._parts.append(_by_key(rows))
        self._pending += self._parts[-1].num_rows
        if self._pending > _PENDING_KEYS:
            self._parts = [_by_key(pa.concat_tables(self._parts))]
            self._pending = 0

    def result(self) -> KeyTimes:
        """Returns the totals by key."""
        if not self._parts:
            return KeyTimes(*(np.zeros(0, np.int64) for _ in range(4)))
        total = _by_key(pa.concat_tables(self._parts)).sort_by("key")
        return KeyTimes(*(total[name].to_numpy() for name in ("key", "count", "first", "last")))


def _by_key(rows: pa.Table) -> pa.Table:
    """Merges rows of one key: counts add up; the first and the last time remain."""
    grouped = rows.group_by("key").aggregate([("count", "sum"), ("first", "min"), ("last", "max")])
    names = {"key": "key", "count": "count_sum", "first": "first_min", "last": "last_max"}
    return pa.table({name: grouped[source] for name, source in names.items()})
