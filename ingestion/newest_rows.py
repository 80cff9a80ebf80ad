"""One row an id from rows that repeat their id: of each column the newest value, and a count of differences.

Logs of shops repeat an item's columns in every event that names it.

```python
newest = NewestRows()
for ids, times, rows in batches:
    newest.add(ids, times, rows)
rows, differing = newest.result()
```
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from two_tower.ingestion import source_values

# Rows that are gathered before they are merged, about 0.2 GB; later as many as there are ids.
_PENDING_ROWS = 1_000_000


class NewestRows:
    """Newest known values by id. Memory grows with the ids, not with the rows."""

    def __init__(self) -> None:
        self._rows: list[pa.Table] = []
        self._ids: list[np.ndarray] = []
        self._times: list[np.ndarray] = []
        self._differs: list[np.ndarray] = []
        self._merged = self._pending = 0

    def add(self, ids: np.ndarray, times: np.ndarray, rows: pa.Table) -> None:
        """Adds rows of any order.

        Args:
          ids: int64[n].
          times: int64[n]; of equal times the later row counts as newer.
          rows: n rows, in every call of one schema; null, an empty list and a vector of zeros are unknown.
        """
        self._append(
            ids,
            np.repeat(times[:, None], rows.num_columns, 1),
            np.zeros((len(ids), rows.num_columns), bool),
            rows,
        )
        self._pending += len(ids)
        if self._pending > max(_PENDING_ROWS, self._merged):
            self._merge()

    def result(self) -> tuple[pa.Table, dict[str, int]]:
        """Returns one row an id, sorted by id, and by column the number of ids whose known values differ."""
        self._merge()
        rows = self._rows[0]
        return rows, dict(zip(rows.column_names, self._differs[0].sum(0).tolist(), strict=True))

    def _append(self, ids: np.ndarray, times: np.ndarray, differs: np.ndarray, rows: pa.Table) -> None:
        self._ids.append(ids)
        self._times.append(times)
        self._differs.append(differs)
        self._rows.append(rows)

    def _merge(self) -> None:
        """Merges all rows to one an id; the place of a row stands for its age among equal times."""
        ids = np.concatenate(self._ids)
        times, differs = np.concatenate(self._times), np.concatenate(self._differs)
        rows = pa.concat_tables(self._rows).combine_chunks()
        unique, of_id = np.unique(ids, return_inverse=True)
        columns, new_times, new_differs = {}, [], []
        for at, name in enumerate(rows.column_names):
            column = rows[name].chunk(0) if rows[name].num_chunks else pa.array([], rows[name].type)
            codes = _codes(column)
            # Unknown values come first, so that the last row of an id has its newest known value.
            by_age = np.lexsort((times[:, at], codes >= 0, of_id))
            row_of, code = of_id[by_age], codes[by_age]
            last = by_age[np.append(np.flatnonzero(np.diff(row_of)), len(row_of) - 1)] if len(row_of) else []
            columns[name] = column.take(pa.array(last, pa.int64()))
            new_times.append(times[last, at])
            found = np.zeros(len(unique), bool)
            np.logical_or.at(found, of_id, differs[:, at])
            several = (np.diff(row_of) == 0) & (np.diff(code) != 0) & (code[:-1] >= 0)
            found[row_of[1:][several]] = True
            new_differs.append(found)
        self._ids, self._times, self._differs, self._rows = [], [], [], []
        self._append(unique, np.stack(new_times, 1), np.stack(new_differs, 1), pa.table(columns))
        self._merged, self._pending = len(unique), 0


def _codes(column: pa.Array) -> np.ndarray:
    """Returns a number for each value, int64[n]: equal for equal values, and -1 for unknown ones."""
    kind = column.type
    if pa.types.is_fixed_size_list(kind):
        matrix = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), kind.list_size)
        codes = np.unique(matrix, axis=0, return_inverse=True)[1] if len(matrix) else np.zeros(0, np.int64)
        return np.where((matrix != 0).any(1), codes, -1)
    if source_values.is_list(kind):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        joined = pc.binary_join(column.cast(pa.list_(pa.string())), "\x1f")
        codes = joined.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return np.where(lengths > 0, codes, -1).astype(np.int64)
    codes = column.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return codes.astype(np.int64)
