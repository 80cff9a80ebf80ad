"""Share of repeats among label events, counted pair by pair in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow.compute as pc

from two_tower.data_directory import checked_columns
from two_tower.data_directory.manifest import Manifest

# Pairs of user and item sorted at once, about 0.4 GB, and the most parts of that size that are read. Beyond
# them repeats are counted for a part of the users, drawn by a hash.
PAIRS = 16_000_000
MOST_PARTS = 16


def repeat_share(
    files: Sequence[str], manifest: Manifest, users: np.ndarray, items: np.ndarray
) -> tuple[float, float]:
    """Returns the share of repeats among label events, and the share of label events that was counted.

    A repeat is a label event of an item for which the user has an earlier one. All but the first of n label
    events of one pair are repeats. So counting needs no order, only all events of a user at once.

    Args:
      files: the event files.
      manifest: the manifest of their directory.
      users: all user ids, sorted, int64[users].
      items: all item ids, sorted, int64[items].
    """
    total = manifest.counts["label_events"]
    parts = -(-total // PAIRS)
    looked_at = pairs = 0
    for part in range(min(parts, MOST_PARTS)):
        keys = [np.zeros(0, np.int64)]
        for user, item in label_events(files, manifest):
            if parts > 1:
                # Knuth's multiplicative hash spreads ids that count up, even in steps.
                part_of_user = (user.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
                mine = part_of_user % np.uint64(parts) == part
                user, item = user[mine], item[mine]
            keys.append(_pair_keys(user, item, users, items))
        key = np.concatenate(keys)
        key.sort()
        looked_at += len(key)
        pairs += int((np.diff(key) != 0).sum()) + min(1, len(key))
    return (looked_at - pairs) / max(1, looked_at), looked_at / max(1, total)


def label_events(
    files: Iterable[str], manifest: Manifest, columns: Sequence[str] = ("user_id", "item_id")
) -> Iterator[list[np.ndarray]]:
    """Yields columns of label events in batches, as arrays [n] in the order of `columns`.

    Args:
      files: the event files.
      manifest: the manifest of their directory.
      columns: names of columns of numbers without nulls.
    """
    types = ["event_type"] if "event_type" in manifest.columns["events"] else []
    for path in files:
        for _, batch in checked_columns.read_batches(path, [*columns, *types]):
            values = [batch[name].to_numpy() for name in columns]
            if types:
                is_label = pc.fill_null(pc.equal(batch["event_type"], manifest.label_event), False)
                wanted = is_label.to_numpy(zero_copy_only=False)
                values = [value[wanted] for value in values]
            yield values


def _pair_keys(user: np.ndarray, item: np.ndarray, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Returns a key per row, int64[n]: equal keys mean equal users and items."""
    if (int(users[-1]) + 1) * (int(items[-1]) + 1) <= np.iinfo(np.int64).max:
        return user * (items[-1] + 1) + item
    return np.searchsorted(users, user) * len(items) + np.searchsorted(items, item)
