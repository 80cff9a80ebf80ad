"""Merged tables: the rows of an old table, updated by new rows with the same keys, and rows with new keys.

A new row replaces the old one with its key. Where the new value is unknown (null, an empty list, a vector of
zeros), the old value stays. Old rows keep their places, and rows with new keys follow in their order. Memory
holds the keys and one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns

_BATCH_ROWS = 50_000


class NewRows:
    """New rows in a temporary file, kept until they are merged.

    Args:
      path: the file, which is overwritten.
      schema: the schema of the rows.
    """

    def __init__(self, path: str, schema: pa.Schema) -> None:
        self.schema = schema
        self.rows = 0
        self.path = path
        self._writer = pa.ipc.new_file(path, schema)

    def write(self, rows: pa.Table) -> None:
        """Appends rows."""
        self._writer.write_table(rows, _BATCH_ROWS)
        self.rows += rows.num_rows

    def close(self, write: bool = True) -> None:
        """Closes the file; no more rows can be written."""
        self._writer.close()

    def batches(self) -> list[pa.Table]:
        """Returns all rows as memory-mapped tables."""
        reader = pa.ipc.open_file(pa.memory_map(self.path))
        return [
            pa.Table.from_batches([reader.get_batch(number)]) for number in range(reader.num_record_batches)
        ]


def merge(old: Sequence[str], new: NewRows, key: str, write: Callable[[pa.Table], None]) -> None:
    """Writes the updated old rows, then the rows with new keys.

    Args:
      old: Parquet files in order, with the columns of `new` and distinct keys.
      new: the new rows, closed.
      key: the column of int64 keys.
      write: receives the merged rows, batch by batch.

    Raises:
      UserError: the new rows repeat a key.
    """
    batches = new.batches()
    keys = np.concatenate([np.zeros(0, np.int64), *(batch[key].to_numpy() for batch in batches)])
    order = np.argsort(keys, kind="stable")
    in_order = keys[order]
    twice = np.flatnonzero(np.diff(in_order) == 0)
    if len(twice):
        raise UserError(
            f"column '{key}': {in_order[twice[0]]} comes more than once among the new rows. "
            "Keep one row per key."
        )
    starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
    is_old = np.zeros(len(keys), bool)
    for path in old:
        for _, batch in checked_columns.read_batches(path, rows=_BATCH_ROWS):
            rows = pa.Table.from_batches([batch]).select(new.schema.names)
            place = np.searchsorted(in_order, rows[key].to_numpy())
            place[place == len(keys)] = 0
            renewed = np.flatnonzero(in_order[place] == rows[key].to_numpy()) if len(keys) else place[:0]
            if len(renewed):
                number = order[place[renewed]]
                is_old[number] = True
                rows = _renewed(rows, renewed, _take(batches, starts, number))
            write(rows)
    for start, batch in zip(starts, batches, strict=False):
        fresh = ~is_old[start : start + batch.num_rows]
        if fresh.any():
            write(batch if fresh.all() else batch.filter(pa.array(fresh)))


def _take(batches: Sequence[pa.Table], starts: np.ndarray, rows: np.ndarray) -> pa.Table:
    """Returns the rows with these numbers, in their order; each batch is read once."""
    batch_of_row = np.searchsorted(starts, rows, side="right") - 1
    by_batch = np.argsort(batch_of_row, kind="stable")
    taken = [
        batches[number].take(pa.array(rows[by_batch][batch_of_row[by_batch] == number] - starts[number]))
        for number in np.unique(batch_of_row)
    ]
    back = np.empty(len(rows), np.int64)
    back[by_batch] = np.arange(len(rows))
    return pa.concat_tables(taken).combine_chunks().take(pa.array(back))


def _renewed(rows: pa.Table, at: np.ndarray, new: pa.Table) -> pa.Table:
    """Returns `rows` with the rows at `at` updated by the known values of `new`."""
    columns = []
    for name in rows.column_names:
        values = new[name].combine_chunks()
        known = np.flatnonzero(is_known(values))
        source = np.arange(rows.num_rows)
        source[at[known]] = rows.num_rows + known
        # Arrow 10 cannot choose between lists; `take` from their concatenation can.
        both = pa.concat_arrays([*rows[name].chunks, _whole(values)])
        columns.append(both.take(pa.array(source)))
    return pa.table(columns, schema=rows.schema)


def _whole(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(values.chunks) if isinstance(values, pa.ChunkedArray) else values


def is_known(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Marks known values, bool[n]: not null, NaN, an empty list, or a fixed-size list of zeros."""
    values = _whole(values)
    known = values.is_valid().to_numpy(zero_copy_only=False)
    kind = values.type
    if pa.types.is_fixed_size_list(kind) and len(values):
        # `flatten` omits null lists in Arrow 10, so members belong to the valid lists alone.
        members = pc.fill_null(values.flatten(), 0).to_numpy(zero_copy_only=False)
        known[known] = (members.reshape(int(known.sum()), kind.list_size) != 0).any(axis=1)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        known &= pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False) > 0
    elif pa.types.is_floating(kind):
        known &= ~pc.fill_null(pc.is_nan(values), True).to_numpy(zero_copy_only=False)
    return known
