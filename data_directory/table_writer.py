"""Parquet files of one table, with full row groups however the rows were cut into batches."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.parquet as pq

# Rows per file and per row group. An item may carry a vector of 512 bytes, so its row groups are smaller.
FILE_ROWS = {"events": 4_000_000, "items": 1_000_000, "users": 4_000_000}
GROUP_ROWS = {"events": 500_000, "items": 50_000, "users": 500_000}


class TableWriter:
    """Writer of one table's files `part-00000.parquet`, `part-00001.parquet`, ...

    Args:
      folder: a directory, which is created.
      table: "events", "items" or "users".
      schema: the schema of all rows.
    """

    def __init__(self, folder: str, table: str, schema: pa.Schema) -> None:
        self.schema = schema
        self.rows = 0
        self._folder = folder
        self._group_rows, self._file_rows = GROUP_ROWS[table], FILE_ROWS[table]
        # Vectors and titles hardly repeat: searching for repeats costs more than the rest of the writing.
        self._dictionary = table == "events"
        self._pending: list[pa.Table] = []
        self._file: pq.ParquetWriter | None = None
        self._file_count = self._written = 0
        os.makedirs(self._folder)

    def write(self, rows: pa.Table) -> None:
        """Appends rows; full row groups go to disk."""
        self._pending.append(rows)
        self.rows += rows.num_rows
        waiting = pa.concat_tables(self._pending)
        while waiting.num_rows >= self._group_rows:
            self._write_group(waiting.slice(0, self._group_rows))
            waiting = waiting.slice(self._group_rows)
        self._pending = [waiting]

    def _write_group(self, rows: pa.Table) -> None:
        if self._file is not None and self._written >= self._file_rows:
            self._file.close()
            self._file = None
        if self._file is None:
            path = os.path.join(self._folder, f"part-{self._file_count:05d}.parquet")
            self._file = pq.ParquetWriter(path, self.schema, use_dictionary=self._dictionary)
            self._file_count, self._written = self._file_count + 1, 0
        self._file.write_table(rows.combine_chunks(), row_group_size=self._group_rows)
        self._written += rows.num_rows

    def close(self, write: bool) -> None:
        """Closes the last file; `write` false discards the rows that fill no row group."""
        if write and (self._pending[0].num_rows or not self._file_count):
            self._write_group(self._pending[0])
        if self._file is not None:
            self._file.close()
