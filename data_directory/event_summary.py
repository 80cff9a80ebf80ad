"""Summary of events, gathered in one pass: types, splits, hours, and events per user and item."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from two_tower.data_directory.key_counts import KeyCounts
from two_tower.data_directory.manifest import DAY, Manifest

_HOUR = 3_600


class EventSummary:
    """Running summary of a data directory's events.

    Args:
      manifest: the manifest of the directory.

    Attributes:
      columns: the columns that `add` reads.
      types: events by type; "" for events without one.
      splits: events by split.
      users, items: events by user id and item id.
      hours: events by hours since 1970-01-01.
      label_users, label_items: label events by user id and item id.
      recent_users, recent_items, recent_label_items: the same for the last day.
      oldest: the oldest time in seconds; None without times.
      last_day_from: the time that the last day begins after, in seconds.
    """

    def __init__(self, manifest: Manifest) -> None:
        wanted = ("user_id", "item_id", "timestamp", "event_type", "play_ratio", "is_organic", "split")
        self.columns = [name for name in wanted if name in manifest.columns["events"]]
        self.types: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()
        self.users, self.items, self.hours = KeyCounts(), KeyCounts(), KeyCounts()
        self.has_types = "event_type" in self.columns
        # Without types every event is a label event, and one count serves both.
        self.label_users, self.label_items = (
            (KeyCounts(), KeyCounts()) if self.has_types else (self.users, self.items)
        )
        self.recent_users, self.recent_items, self.recent_label_items = KeyCounts(), KeyCounts(), KeyCounts()
        self.oldest: int | None = None
        self.last_day_from = manifest.time_range[1] - DAY
        self._label_event = manifest.label_event
        self._events = 0
        self._known: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()

    def add(self, batch: pa.RecordBatch) -> None:
        """Adds a batch of events with the columns `columns`."""
        user, item = batch["user_id"].to_numpy(), batch["item_id"].to_numpy()
        self._events += len(user)
        self.users.add(user)
        self.items.add(item)
        is_label = np.ones(len(user), bool)
        if self.has_types:
            kind = batch["event_type"].dictionary_encode()
            codes = kind.indices.fill_null(len(kind.dictionary)).to_numpy()
            names = [*kind.dictionary.to_pylist(), ""]
            for code, number in enumerate(np.bincount(codes, minlength=len(names)).tolist()):
                self.types[names[code]] += number
            self.types += Counter()  # drops zeros
            is_label = np.array([name == self._label_event for name in names])[codes]
            self.label_users.add(user[is_label])
            self.label_items.add(item[is_label])
        else:
            self.types[self._label_event] += len(user)
        if "timestamp" in self.columns and len(user):
            time = batch["timestamp"].to_numpy()
            self.hours.add(time // _HOUR)
            self.oldest = int(min(time.min(), self.oldest if self.oldest is not None else time.min()))
            recent = time > self.last_day_from
            self.recent_users.add(user[recent])
            self.recent_items.add(item[recent])
            self.recent_label_items.add(item[recent & is_label])
        if "split" in self.columns:
            for found in pc.value_counts(batch["split"]).to_pylist():
                self.splits[found["values"]] += found["counts"]
        for name in ("play_ratio", "is_organic"):
            if name in self.columns:
                self._known[name] += batch.num_rows - batch[name].null_count
                self._sums[name] += pc.sum(batch[name].cast(pa.float64())).as_py() or 0

    def mean(self, column: str) -> tuple[float, float] | None:
        """Returns the mean of a column's known values and the share of events that have one."""
        known = self._known[column]
        return (self._sums[column] / known, known / self._events) if known else None
