"""Description of a data directory, for `two-tower ingest --describe DIR`.

The directory is verified first. The events are read once, and once more for every 16 million label events to
count repeats. Memory grows with users and items, not with events.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from two_tower.data_directory import checked_columns
from two_tower.data_directory.column_values import Column, feature_columns_of
from two_tower.data_directory.event_summary import EventSummary
from two_tower.data_directory.key_counts import KeyCounts
from two_tower.data_directory.manifest import SPLIT_NAMES, Manifest, event_files, item_files, user_files
from two_tower.data_directory.repeats import repeat_share
from two_tower.data_directory.verification import verify

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


@dataclasses.dataclass(frozen=True)
class Distribution:
    """Distribution of event counts over the users, or items, that have any.

    Attributes:
      count: the number of users or items.
      mean: mean events.
      percentiles: for each p of PERCENTILES, p percent have at most this many events.
      most: the largest count.
    """

    count: int
    mean: float
    percentiles: tuple[int, ...]
    most: int

    @classmethod
    def of(cls, counts: np.ndarray) -> Distribution:
        """Returns the distribution of counts, int64[n], one per user or item."""
        if not len(counts):
            return cls(0, 0.0, (0,) * len(PERCENTILES), 0)
        found = np.percentile(counts, PERCENTILES, method="inverted_cdf")
        return cls(len(counts), float(counts.mean()), tuple(map(int, found)), int(counts.max()))


@dataclasses.dataclass(frozen=True)
class Description:
    """Description of a data directory. Shares lie between 0 and 1.

    Attributes:
      directory: path or URL.
      manifest: its manifest.
      event_types: events by type, the most frequent first; "" for events without one.
      splits: events by split; {} without a column `split`.
      events_per_user, labels_per_user, labels_per_item: distributions of events and label events.
      users_with_one_event: share of users.
      items_without_event: count over the whole catalog.
      new_items, new_users: counts with a first event less than a day before the newest event; None without
        times, and when all events lie within a day.
      label_events_of_new_items: the new items' share of that day's label events; None as above.
      repeats: share of label events for whose item the user has an earlier label event.
      repeats_counted_over: share of label events over which `repeats` was counted.
      play_ratio, is_organic: mean of the known values, and share of events that have one; None without the
        column.
      hours, events_of_hour: hours since 1970-01-01, and the events of each hour with any, int64[n].
      columns: columns that can become features, of the tables "users" and "items".
    """

    directory: str
    manifest: Manifest
    event_types: dict[str, int]
    splits: dict[str, int]
    events_per_user: Distribution
    labels_per_user: Distribution
    labels_per_item: Distribution
    users_with_one_event: float
    items_without_event: int
    new_items: int | None
    label_events_of_new_items: float | None
    new_users: int | None
    repeats: float
    repeats_counted_over: float
    play_ratio: tuple[float, float] | None
    is_organic: tuple[float, float] | None
    hours: np.ndarray
    events_of_hour: np.ndarray
    columns: dict[str, tuple[Column, ...]]


def describe(directory: str, tell: Callable[[str], None] = lambda line: None) -> Description:
    """Reads a data directory and describes it.

    Args:
      directory: path or URL.
      tell: receives lines about the progress.

    Raises:
      UserError: `directory` is no data directory, or differs from its manifest or the format; see `verify`.
    """
    tell("Comparing the directory with its manifest")
    manifest = verify(directory)
    files = event_files(directory)
    summary = EventSummary(manifest)
    for done, path in enumerate(files):
        tell(f"Reading events, file {done + 1} of {len(files)}")
        for _, batch in checked_columns.read_batches(path, summary.columns):
            summary.add(batch)
    catalog = np.sort(
        np.concatenate(
            [
                np.zeros(0, np.int64),
                *(
                    batch["item_id"].to_numpy()
                    for path in item_files(directory)
                    for _, batch in checked_columns.read_batches(path, ["item_id"])
                ),
            ]
        )
    )
    users, events_of_user = _result(summary.users)
    items, events_of_item = _result(summary.items)
    labels_of_user, labels_of_item = (
        _result(found)[1] for found in (summary.label_users, summary.label_items)
    )
    new_items = new_users = label_share = None
    if manifest.has_timestamps and summary.oldest is not None and summary.oldest <= summary.last_day_from:
        recent_items = _first_seen(summary.recent_items, items, events_of_item)
        recent_users = _first_seen(summary.recent_users, users, events_of_user)
        recent, labels = _result(summary.recent_label_items)
        of_new = int(labels[np.isin(recent, recent_items)].sum())
        new_items, new_users = len(recent_items), len(recent_users)
        label_share = of_new / max(1, int(labels.sum()))
    tell("Counting repeats")
    repeats, counted_over = repeat_share(files, manifest, users, items)
    hours, events_of_hour = _result(summary.hours)
    return Description(
        directory=directory,
        manifest=manifest,
        event_types=dict(summary.types.most_common()),
        splits={name: summary.splits[name] for name in SPLIT_NAMES if manifest.has_splits},
        events_per_user=Distribution.of(events_of_user),
        labels_per_user=Distribution.of(labels_of_user),
        labels_per_item=Distribution.of(labels_of_item),
        users_with_one_event=float((events_of_user == 1).mean()) if len(users) else 0.0,
        items_without_event=int((~np.isin(catalog, items, assume_unique=True)).sum()),
        new_items=new_items,
        label_events_of_new_items=label_share,
        new_users=new_users,
        repeats=repeats,
        repeats_counted_over=counted_over,
        play_ratio=summary.mean("play_ratio"),
        is_organic=summary.mean("is_organic"),
        hours=hours,
        events_of_hour=events_of_hour,
        columns={
            "users": feature_columns_of("users", user_files(directory), manifest),
            "items": feature_columns_of("items", item_files(directory), manifest),
        },
    )


def _result(counts: KeyCounts) -> tuple[np.ndarray, np.ndarray]:
    """Returns keys and their counts, int64[n] each; n is 0 before any `add`."""
    found = counts.result()
    return (found[0], found[1]) if found else (np.zeros(0, np.int64), np.zeros(0, np.int64))


def _first_seen(recent: KeyCounts, keys: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Returns the keys that have recent events alone."""
    found, recent_events = _result(recent)
    return found[events[np.searchsorted(keys, found)] == recent_events]
