"""The tables of a column map: their files, and the rows in these by what their columns mean."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.ingestion import source_values, table_files
from two_tower.ingestion.column_map import ColumnMap, TableMap
from two_tower.ingestion.source_values import Place
from two_tower.ingestion.table_files import TableFile


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some rows of a file, as the source has them."""

    map: TableMap
    file: TableFile
    # Of the first row, counted within the file and within all files of the table.
    first_row: int
    number: int
    rows: pa.RecordBatch

    def place(self, column: str) -> Place:
        """Where the values of a column of the source come from."""
        return Place(self.file.path, column, self.first_row)

    def column(self, meaning: str) -> tuple[pa.Array, Place]:
        """The values of the column that the map names for a meaning, and where they come from."""
        name = self.map.columns[meaning]
        return self.rows[name], self.place(name)


@dataclasses.dataclass(frozen=True)
class MappedTable:
    """A table of the column map and its files."""

    map: TableMap
    files: tuple[TableFile, ...]

    def has(self, meaning: str) -> bool:
        """Does the map name a column for it?"""
        return meaning in self.map.columns

    def batches(
        self, meanings: Sequence[str], rows: int | None = None, kept: Sequence[str] = ()
    ) -> Iterator[Batch]:
        """The rows of all files, with the columns of those meanings and those that are taken as they are."""
        columns = list(dict.fromkeys([*(self.map.columns[meaning] for meaning in meanings), *kept]))
        number = 0
        for file in self.files:
            for first_row, batch in file.batches(columns, rows):
                yield Batch(self.map, file, first_row, number, batch)
                number += batch.num_rows

    def kinds(
        self, columns: Sequence[str], separator: str | None = None
    ) -> dict[str, list[tuple[str, str | None]]]:
        """What columns of the source hold in each file, as pairs of path and kind: in a Parquet file by their
        types, in a CSV file by all their values, which takes reading it once.

        Args:
          separator: of the entries of a list, which are looked at one by one.
        """
        found: dict[str, list[tuple[str, str | None]]] = {column: [] for column in columns}
        for file in self.files:
            file.require(columns)
            kinds: dict[str, str | None] = dict.fromkeys(columns)
            if file.is_parquet:
                kinds = {name: source_values.kind_of_type(file.schema.field(name).type) for name in columns}
            elif columns:
                for _, batch in file.batches(columns):
                    for name in columns:
                        text = batch[name]
                        if separator:
                            text = pc.split_pattern(text, separator).flatten()
                        both = source_values.common_kind(kinds[name], source_values.kind_of_text(text))
                        # Numbers here and text there, within one file: all of it is text.
                        kinds[name] = "text" if both == "" else both
            for name in columns:
                found[name].append((file.path, kinds[name]))
        return found


def look_at(source: str, mapping: ColumnMap, scratch: str) -> dict[str, MappedTable]:
    """The tables of the map by name, whose files exist and have the columns that it names.

    Args:
      scratch: see `table_files.look_at`.

    Raises:
      UserError: a file or column is missing, or a column is of one type here and of another there.
    """
    if not mapping.events.files:
        if not storage.is_file(source):
            raise UserError(
                f"{mapping.path}: key 'events.files' is missing, and {source} is not one file that could be "
                "meant: name the files of the events."
            )
        folder, events = os.path.dirname(source), ((os.path.basename(source), None),)
        mapping = dataclasses.replace(mapping, events=dataclasses.replace(mapping.events, files=events))
        source = folder or "."
    elif not storage.is_directory(source):
        raise UserError(f"{source}: there is no such folder, in which the files of {mapping.path} should be.")
    tables: dict[str, MappedTable] = {}
    for table in (mapping.events, mapping.items, mapping.users, mapping.embeddings):
        if table is None:
            continue
        split_of: dict[str, str | None] = {}
        for pattern, split in table.files:
            for path in table_files.find(source, pattern):
                if path in split_of:
                    raise UserError(f"{mapping.path}: key '{table.table}.files' names {path} twice.")
                split_of[path] = split
        files = tuple(
            table_files.look_at(path, table.text, scratch, split) for path, split in split_of.items()
        )
        for file in files:
            file.require(list(table.columns.values()))
        tables[table.table] = MappedTable(table, files)
        for meaning, column in table.columns.items():
            _check_one_kind(tables[table.table], meaning, column)
    return tables


def _check_one_kind(table: MappedTable, meaning: str, column: str) -> None:
    """A column holds the same in all files, as far as types tell; times in CSV files are looked at. Ids have
    their own check.
    """
    if meaning in ("user_id", "item_id"):
        return
    found: list[tuple[str, str | None]] = []
    for file in table.files:
        kind = source_values.kind_of_type(file.schema.field(column).type)
        if not file.is_parquet:
            if meaning != "timestamp":
                continue
            first = next(iter(file.batches([column])), None)
            kind = source_values.kind_of_times(first[1][column]) if first else None
        found.append((file.path, kind))
    one_kind(column, found, "bring it to one type")


def one_kind(
    column: str | Mapping[str, str], kinds: Sequence[tuple[str, str | None]], remedy: str
) -> str | None:
    """The kind that a column has in all files.

    Args:
      column: its name, or path → its name in that file.
      kinds: path and kind of each file.

    Raises:
      UserError: it has several, naming two files.
    """
    common, first = None, ""
    for path, kind in kinds:
        if kind == "":
            continue  # It is refused where it is read.
        both = source_values.common_kind(common, kind)
        if both == "":
            name = column if isinstance(column, str) else column[path]
            raise UserError(f"{path}: column '{name}' holds {kind}, and {common} in {first}: {remedy}.")
        if common is None:
            first = path
        common = both
    return common
