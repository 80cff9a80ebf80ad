"""External sort of events by user, and deduplication. Memory does not grow with the number of events.

Sorted input passes straight through. For unsorted input, a hash of the user id partitions the rows into
temporary files. Each file is then small enough to sort in memory.

```python
by = ("user_id", "timestamp")
for events in sort_rows(batches(), by, rows=46_000_000, is_sorted=rows_are_sorted(batches(), by)):
    events, dropped = drop_duplicates(events)
```
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from two_tower.base import storage, temporary

# Rows sorted in memory at a time: about 0.5 GB with the columns of events.
_PARTITION_ROWS = 4_000_000
# Files open at a time. Partitions that come out too large are partitioned again.
_MAX_PARTITIONS = 128
# Deeper partitioning does not help: one user is large, or ids collide under every hash.
_MAX_DEPTH = 3


def rows_are_sorted(batches: Iterable[pa.Table | pa.RecordBatch], by: Sequence[str]) -> bool:
    """Checks that rows are sorted by the columns `by`, and stops at the first row that is not.

    Args:
      by: integer columns without nulls, `user_id` first.
    """
    last: list[int] | None = None
    for batch in batches:
        if not batch.num_rows:
            continue
        keys = [batch[name].to_numpy() for name in by]
        if last is not None:
            keys = [np.append(before, key) for before, key in zip(last, keys, strict=True)]
        tied = np.ones(len(keys[0]) - 1, bool)
        for key in keys:
            if (tied & (key[1:] < key[:-1])).any():
                return False
            tied &= key[1:] == key[:-1]
        last = [int(key[-1]) for key in keys]
    return True


def sort_rows(
    batches: Iterable[pa.Table], by: Sequence[str], rows: int, is_sorted: bool
) -> Iterator[pa.Table]:
    """Sorts rows by the columns `by`; the sort is stable.

    Args:
      batches: the events, all of one schema.
      by: integer columns, `user_id` first: ("user_id",) or ("user_id", "timestamp").
      rows: approximate number of rows, which determines the number of temporary files.
      is_sorted: the result of `rows_are_sorted`; if true, no temporary files are written.

    Returns:
      Tables of one or more rows; rows that are equal in `by` are in the same table.

    Raises:
      UserError: the temporary files cannot be written, for example because the disk is full.
    """
    batches = (batch for batch in batches if batch.num_rows)
    if is_sorted:
        return _regroup_sorted(batches, by)
    return _partition_and_sort(batches, by, rows, depth=0)


def _regroup_sorted(batches: Iterable[pa.Table], by: Sequence[str]) -> Iterator[pa.Table]:
    """Splits a sorted stream into tables, so that rows that are equal in `by` are in one table."""
    held: list[pa.Table] = []
    for batch in batches:
        keys = {name: batch[name].to_numpy() for name in by}
        # Rows before `start` have no equals in later batches.
        differs = np.logical_or.reduce([key != key[-1] for key in keys.values()])
        start = int(np.flatnonzero(differs)[-1]) + 1 if differs.any() else 0
        ended = bool(held) and any(held[-1][name][-1].as_py() != key[0] for name, key in keys.items())
        if start or ended:
            yield pa.concat_tables([*held, batch.slice(0, start)])
            held = []
        held.append(batch.slice(start))
    if held:
        yield pa.concat_tables(held)


def _partition_and_sort(
    batches: Iterable[pa.Table], by: Sequence[str], rows: int, depth: int
) -> Iterator[pa.Table]:
    """Partitions the rows by user into files and sorts one file at a time.

    A hash assigns users to files, so that ids with a regular step are spread too. Each depth uses another
    hash.
    """
    count = int(min(_MAX_PARTITIONS, rows // _PARTITION_ROWS + 1))
    with temporary.folder() as folder:
        for path, rows_of_part, users in _write_partitions(batches, folder, count, depth):
            stream = _read_partition(path)
            if rows_of_part > 2 * _PARTITION_ROWS and users > 1 and depth < _MAX_DEPTH:
                yield from _partition_and_sort(stream, by, rows_of_part, depth + 1)
            else:
                table = pa.concat_tables(stream)
                order = np.lexsort([table[name].to_numpy() for name in reversed(by)])
                yield table.take(pa.array(order))
            os.remove(path)


def _write_partitions(
    batches: Iterable[pa.Table], folder: str, count: int, depth: int
) -> list[tuple[str, int, int]]:
    """Writes the non-empty partitions.

    Returns:
      For each partition its path, its number of rows, and 1 for a single user or 2 for several.
    """
    rows = np.zeros(count, np.int64)
    first, last = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
    paths = [os.path.join(folder, f"{part}.arrow") for part in range(count)]
    files: dict[int, pa.RecordBatchStreamWriter] = {}
    # Arrow's stream format: a Parquet file would keep a footer in memory that grows with each batch.
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with storage.writing(folder, storage.OTHER_SCRATCH), contextlib.ExitStack() as opened:
        for batch in batches:
            user = batch["user_id"].to_numpy()
            part = _hash_users(user, depth) % np.uint64(count)
            order = np.argsort(part, kind="stable")
            starts = np.searchsorted(part[order], np.arange(count + 1, dtype=np.uint64))
            batch, user = batch.take(pa.array(order)), user[order]
            for index in np.flatnonzero(np.diff(starts)).tolist():
                start, end = int(starts[index]), int(starts[index + 1])
                if index not in files:
                    files[index] = pa.ipc.new_stream(paths[index], batch.schema, options=options)
                    opened.callback(files[index].close)
                files[index].write_table(batch.slice(start, end - start))
                rows[index] += end - start
                first[index] = min(first[index], user[start:end].min())
                last[index] = max(last[index], user[start:end].max())
    return [(paths[part], int(rows[part]), 1 + int(first[part] < last[part])) for part in sorted(files)]


def _hash_users(user: np.ndarray, depth: int) -> np.ndarray:
    """Hashes user ids with the finalizer of splitmix64 to uint64[n]."""
    mixed = user.astype(np.uint64) + np.uint64((depth + 1) * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _read_partition(path: str) -> Iterator[pa.Table]:
    with pa.OSFile(path) as file, pa.ipc.open_stream(file) as stream:
        for batch in stream:
            yield pa.Table.from_batches([batch])


# ── Deduplication ───────────────────────────────────────────────────────────────────────────────────────


def drop_duplicates(events: pa.Table, by: Sequence[str] = ("user_id", "timestamp")) -> tuple[pa.Table, int]:
    """Drops duplicates: events that are equal in `by`, item and, if present, type. The first one stays.

    Args:
      events: sorted by `by`, as `sort_rows` yields them.

    Returns:
      The remaining events in their order, and the number of dropped events.
    """
    same = np.ones(max(events.num_rows - 1, 0), bool)
    for name in by:
        same &= np.diff(events[name].to_numpy()) == 0
    # Only events that share their time with another can be duplicates, so few rows remain to sort.
    shared = np.flatnonzero(np.append(False, same)[: events.num_rows] | np.append(same, False))
    if not len(shared):
        return events, 0
    instant = np.cumsum(np.append(True, ~same))[shared]
    keys = [events["item_id"].to_numpy()[shared], instant]
    if "event_type" in events.column_names:
        kind = events["event_type"].take(pa.array(shared)).combine_chunks()
        kind = kind if pa.types.is_dictionary(kind.type) else kind.dictionary_encode()
        keys.insert(0, kind.indices.fill_null(-1).to_numpy())
    order = np.lexsort(keys)
    repeats = np.logical_and.reduce([np.diff(key[order]) == 0 for key in keys])
    again = np.zeros(events.num_rows, bool)
    again[shared[order[1:][repeats]]] = True
    dropped = int(again.sum())
    return (events.filter(pa.array(~again)) if dropped else events), dropped


def keep_earliest_events(events: pa.Table, time: str = "timestamp") -> tuple[pa.Table, int, int]:
    """Keeps each user's earliest event of an item; of several at one time, the first row.

    Args:
      events: all events of the users in it, as `sort_rows` by `user_id` yields them.
      time: the column of times.

    Returns:
      The remaining events in their order; the number of dropped events that share their time with the kept
      event or another dropped one; the number of the other dropped events.
    """
    user, item, times = (events[name].to_numpy() for name in ("user_id", "item_id", time))
    step = np.diff(user)
    if ((step > 0) | ((step == 0) & (np.diff(item) > 0))).all():
        return events, 0, 0  # Sorted by item within each user, as MovieLens's CSV files are.
    order = np.lexsort((times, item, user))
    same = (np.diff(user[order]) == 0) & (np.diff(item[order]) == 0)
    if not same.any():
        return events, 0, 0
    again = np.zeros(len(order), bool)
    again[order[1:][same]] = True
    at_one_time = int((same & (np.diff(times[order]) == 0)).sum())
    return events.filter(pa.array(~again)), at_one_time, int(same.sum()) - at_one_time
