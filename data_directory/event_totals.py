"""Totals over the events that are written: users, items, days, label events and their time range."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from two_tower.base.errors import UserError
from two_tower.data_directory.key_counts import KeyCounts
from two_tower.data_directory.manifest import DAY, DatasetProperties

# The most event types that an error names.
_SHOWN_TYPES = 8


class EventTotals:
    """Running totals of the events of one ingest.

    Args:
      properties: the properties of the data set; they name the label event.
      counts_days: events are counted by day, which spans need.
      counts_items: events are counted by item.

    Attributes:
      users: events by user id.
      items: events by item id.
      days: events by days since 1970-01-01.
      label_events: count of label events.
      time_range: first and last time of a label event, in seconds; (0, 0) without times.
      play_ratios_over_1: count of play ratios above 1.
    """

    def __init__(self, properties: DatasetProperties, counts_days: bool, counts_items: bool = True) -> None:
        self.users, self.items, self.days = KeyCounts(), KeyCounts(), KeyCounts()
        self.label_events = 0
        self.time_range = (0, 0)
        self.play_ratios_over_1 = 0
        self._properties = properties
        self._counts_days, self._counts_items = counts_days, counts_items
        # Names of the event types, kept until the first label event.
        self._other_types: set[str] = set()

    def add(self, rows: pa.Table) -> None:
        """Adds events in canonical form (see `canonical_columns`)."""
        self.users.add(rows["user_id"].to_numpy())
        if self._counts_items:
            self.items.add(rows["item_id"].to_numpy())
        has_times = "timestamp" in rows.column_names
        if has_times and self._counts_days:
            self.days.add(rows["timestamp"].to_numpy() // DAY)
        times = rows["timestamp" if has_times else "user_id"]
        if "event_type" in rows.column_names:
            times = times.filter(pc.equal(rows["event_type"], self._properties.label_event))
            if not self.label_events and not len(times):
                self._other_types.update(pc.unique(rows["event_type"].drop_null()).to_pylist())
        if "play_ratio" in rows.column_names:
            self.play_ratios_over_1 += pc.sum(pc.greater(rows["play_ratio"], 1.0)).as_py() or 0
        if len(times) and has_times:
            bounds = pc.min_max(times).as_py()
            first, last = self.time_range if self.label_events else (bounds["min"], bounds["max"])
            self.time_range = (min(first, bounds["min"]), max(last, bounds["max"]))
        self.label_events += len(times)

    def events_outside(self, span: int) -> tuple[int, int]:
        """Returns the counts of events before and after the day of a span."""
        days, events = self.days.result()
        return int(events[days < span].sum()), int(events[days > span].sum())

    def items_outside(self, catalog: np.ndarray) -> tuple[int, int]:
        """Returns the counts of items, and of their events, that have no row in the catalog (int64[n])."""
        items, events = self.items.result()
        unknown = ~np.isin(items, catalog)
        return int(unknown.sum()), int(events[unknown].sum())

    def no_label_event(self) -> UserError:
        """Returns the error for a data set without a label event."""
        shown = sorted(self._other_types)[:_SHOWN_TYPES]
        others = (
            f"its types are {', '.join(f'{one!r:.60}' for one in shown)}" if shown else "no event has a type"
        )
        return UserError(
            f"The data set '{self._properties.dataset}' has no event of type "
            f"'{self._properties.label_event}', the label event; {others}"
            f"{' and more' if len(self._other_types) > len(shown) else ''}. Name the right label event."
        )
