"""Tables of a column map: their files, and batches of rows with columns looked up by meaning."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory.checked_columns import WrongRows
from two_tower.data_directory.writer import DataDirectoryWriter
from two_tower.ingestion import csv_files, notices, source_times, source_values, table_files, unfolding
from two_tower.ingestion.bad_rows import BadRows
from two_tower.ingestion.column_map import ColumnMap, TableMap
from two_tower.ingestion.source_values import Place
from two_tower.ingestion.table_files import TableFile
from two_tower.ingestion.text_kinds import TextKind

# Rows with lists that are read at a time, and rows in a batch of what they unfold to.
_FOLDED_ROWS, _UNFOLDED_ROWS = 1 << 10, 1 << 18
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Batch:
    """Batch of rows from one file, with the source's own columns."""

    map: TableMap
    file: TableFile
    # Number of the first row: within its file, and within all files of the table.
    first_row: int
    number: int
    rows: pa.RecordBatch
    # Numbers of the file's rows, int64[n], if its lists are unfolded.
    source_rows: np.ndarray | None = None
    # Places of the rows in the batch as it was read, int64[n]; None for all of them.
    kept: np.ndarray | None = None
    # Sentences about the file's rows whose lists cannot be unfolded; they are no rows of the batch.
    faults: tuple[str, ...] = ()
    # Number of the file's rows, if lists are unfolded, and of those whose lists are empty.
    folded: int | None = None
    empty: int = 0
    # Words such as NULL that were read as missing, by column; see `Place`.
    missing: Counter[str] = dataclasses.field(default_factory=Counter, compare=False)

    def place(self, column: str) -> Place:
        """Returns the place of a source column's values, for error messages."""
        return Place(self.file.path, column, self.first_row, self.source_rows, self.missing)

    @property
    def places(self) -> np.ndarray:
        """Places of the rows in the batch as it was read, int64[n]."""
        return np.arange(self.rows.num_rows) if self.kept is None else self.kept

    def row_numbers(self, rows: np.ndarray) -> list[int]:
        """Returns the numbers in the source's file of some rows, int64[k]."""
        if self.source_rows is not None:
            return [self.file.row_of(row) for row in self.source_rows[rows].tolist()]
        return [self.file.row_of(self.first_row + place) for place in self.places[rows].tolist()]

    def without(self, rows: np.ndarray) -> Batch:
        """Returns the batch without some rows, int64[k]."""
        kept = np.delete(np.arange(self.rows.num_rows), rows)
        taken = self.rows.take(pa.array(kept))
        source_rows = None if self.source_rows is None else self.source_rows[kept]
        return dataclasses.replace(self, rows=taken, kept=self.places[kept], source_rows=source_rows)

    def column(self, meaning: str) -> tuple[pa.Array, Place]:
        """Returns the values of the column with a meaning, and their place."""
        name = self.map.columns[meaning]
        return self.rows[name], self.place(name)

    def ids(self, meaning: str, encode: Callable[[pa.Array, Place], np.ndarray]) -> np.ndarray:
        """Returns the encoded ids, int64[n], of the column with a meaning.

        Raises:
          WrongRows: a value is no id; the message says how it can be one.
        """
        values, place = self.column(meaning)
        try:
            return encode(values, place)
        except WrongRows as error:
            if not pa.types.is_floating(values.type) and values[int(error.rows[0])].is_valid:
                error.hint = f"Such values are ids if you set '{meaning}_type: text' in the column map. "
            raise


@dataclasses.dataclass(frozen=True)
class MappedTable:
    """One table of the column map with its files."""

    map: TableMap
    files: tuple[TableFile, ...]
    bad: BadRows
    # Tables that name other columns of the same files, if all its files are the events'.
    beside: tuple[TableMap, ...] = ()

    @property
    def events(self) -> TableMap | None:
        """Map of the events in whose rows the items or users stand; None if they have files of their own."""
        return next((table for table in self.beside if table.table == "events"), None)

    def has(self, meaning: str) -> bool:
        """Returns whether the map names a column for a meaning."""
        return meaning in self.map.columns

    def batches(
        self, meanings: Sequence[str], rows: int | None = None, kept: Sequence[str] = ()
    ) -> Iterator[Batch]:
        """Yields the rows of all files, with the columns of `meanings` and the source columns `kept`.

        Lists that the map unfolds are unfolded.
        """
        columns = [*(self.map.columns[meaning] for meaning in meanings), *kept, *self.map.unfold]
        columns = list(dict.fromkeys(columns))
        number = 0
        for file in self.files:
            for first_row, folded in file.batches(columns, _FOLDED_ROWS if self.map.unfold else rows):
                if not self.map.unfold:
                    yield Batch(self.map, file, first_row, number, folded)
                    number += folded.num_rows
                    continue
                place = Place(file.path, "", first_row)
                batch, of_row, wrong = unfolding.unfold(folded, self.map.unfold, self.map.separator, place)
                faults = tuple(
                    f"{file.path}: row {file.row_of(first_row + row)}: {fault}"
                    for row, fault in sorted(wrong.items())
                )
                empty = folded.num_rows - len(np.unique(of_row)) - len(faults)
                whole = Batch(self.map, file, first_row, number, batch, faults=faults, empty=empty)
                count = folded.num_rows
                for start in range(0, max(1, batch.num_rows), _UNFOLDED_ROWS):
                    part = batch.slice(start, _UNFOLDED_ROWS)
                    of_part = of_row[start:][:_UNFOLDED_ROWS]
                    yield dataclasses.replace(
                        whole, number=number, rows=part, source_rows=of_part, folded=count
                    )
                    number += part.num_rows
                    whole, count = dataclasses.replace(whole, faults=(), empty=0), 0

    def type_of(self, file: TableFile, column: str) -> pa.DataType:
        """Returns the type of a column, or of the entries of a column that is unfolded."""
        kind = file.schema.field(column).type
        return kind.value_type if column in self.map.unfold and source_values.is_list(kind) else kind

    def has_type(self, file: TableFile, column: str) -> bool:
        """Returns whether the schema tells a column's kind; it does not for text that is unfolded."""
        kind = file.schema.field(column).type
        return file.has_types and not (column in self.map.unfold and source_values.is_text(kind))

    def converted(
        self,
        batches: Iterable[Batch],
        convert: Callable[[Batch], T],
        writer: DataDirectoryWriter,
    ) -> Iterator[T]:
        """Yields the converted batches, all of the table's, without wrong rows.

        The writer counts the wrong rows.

        Args:
          convert: function that raises WrongRows; it may be called several times for a batch.

        Raises:
          UserError: at the end, if wrong rows have to stop the ingest, or lines of a text file were read as
            one field.
        """
        rows: Counter[str] = Counter()

        def counted() -> Iterator[Batch]:
            for batch in batches:
                rows[batch.file.path] += batch.rows.num_rows if batch.folded is None else batch.folded
                writer.noted[f"rows_of_{self.map.table}_with_empty_lists"] += batch.empty
                self.bad.add(batch.faults, len(batch.faults))
                self.bad.rows += len(batch.faults)
                yield dataclasses.replace(batch, missing=missing)

        missing: Counter[str] = Counter()
        counters = (writer.repaired, writer.noted, missing)
        yield from self.bad.converted(counted(), convert, counters)
        for column, count in missing.items():
            writer.repaired["words_read_as_missing_values"] += count
            if count:
                notices.tell(
                    f"Column '{column}' of the {self.map.table}: {count:,} words such as NULL or NaN are "
                    "read as missing values."
                )
        writer.dropped[f"wrong_rows_of_{self.map.table}"] += self.bad.count
        for file in self.files:
            if not file.has_types:
                extra = csv_files.check_lines(file, rows[file.path])
                writer.noted["lines_blank_or_within_quotes"] += extra

    def kinds(
        self, columns: Sequence[str], separator: str | None = None
    ) -> dict[str, list[tuple[str, str | None]]]:
        """Returns the kind of each source column in each file, as pairs of path and kind.

        The schema gives the kinds of a Parquet or JSON file. A CSV file is read once in full, and all its
        values count.

        Args:
          separator: separator of list entries, which are inspected one by one.
        """
        found: dict[str, list[tuple[str, str | None]]] = {column: [] for column in columns}
        for file in self.files:
            file.require(columns)
            kinds: dict[str, str | None] = dict.fromkeys(columns)
            typed = [name for name in columns if self.has_type(file, name)]
            for name in typed:
                kinds[name] = source_values.kind_of_type(self.type_of(file, name))
                if kinds[name] == "number" and self._is_id(name) and self._is_whole(file, name):
                    kinds[name] = "integer"
            if untyped := [name for name in columns if name not in typed]:
                kinds |= self._kinds_of_text(file, untyped, separator)
            for name in columns:
                found[name].append((file.path, kinds[name]))
        return found

    def _is_id(self, column: str) -> bool:
        return column in (self.map.columns.get("user_id"), self.map.columns.get("item_id"))

    def _is_whole(self, file: TableFile, column: str) -> bool:
        """Returns whether all floats or decimals of a column are whole; NaN is a missing value."""
        for _, batch in file.batches([column]):
            values = batch[column].flatten() if source_values.is_list(batch[column].type) else batch[column]
            if not source_values.are_whole(values):
                return False
        return True

    def _kinds_of_text(
        self, file: TableFile, columns: Sequence[str], separator: str | None
    ) -> dict[str, str | None]:
        """Returns the kinds of text columns, by all values of a file.

        Raises:
          UserError: a column of ids, or one that is kept, would be text because of a few values.
        """
        found = {name: TextKind() for name in columns}
        for first_row, batch in file.batches(columns):
            for name in columns:
                text = batch[name]
                if name in self.map.unfold:
                    text = unfolding.entries_of(text, self.map.separator, Place(file.path, name, first_row))
                elif separator:
                    text = pc.split_pattern(text, separator).flatten()
                found[name].add(text, first_row)
        meanings = {name: meaning for meaning, name in self.map.columns.items()}
        for name, kind in found.items():
            meaning = meanings.get(name)
            if self._is_id(name) and kind.kind == "number" and kind.whole == kind.numbers:
                kind.integers = kind.whole
            if kind.is_doubtful and meaning in (None, "user_id", "item_id"):
                raise self._doubtful(file, name, kind, meaning)
            if kind.kind == "text" and kind.numbers > kind.others:
                reasons = {
                    "are no numbers": kind.others,
                    "would lose leading zeros or digits as numbers": kind.codes,
                }
                told = ", and ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
                notices.tell(
                    f"{file.path}: column '{name}' is read as text: of its {kind.values:,} values {told}."
                )
        return {name: kind.kind for name, kind in found.items()}

    def _doubtful(self, file: TableFile, name: str, kind: TextKind, meaning: str | None) -> UserError:
        shown = ", ".join(f"{value!r:.40} in row {file.row_of(row)}" for row, value in kind.examples)
        table = self.map.key
        remedy = (
            f"'{meaning}_type: text' in the column map. '{meaning}_type: integer' refuses such rows; with "
            "'on_bad_rows: drop' leaves them out"
            if meaning
            else f"its type in '{table}.keep', as in {{{name}: text}}, beside the other columns to keep"
        )
        return UserError(
            f"{file.path}: column '{name}' holds numbers, but for {kind.others:,} of its {kind.values:,} "
            f"values: {shown}. If such values stand for missing ones, list them in '{table}.null_values'. "
            f"If they are right, set {remedy}."
        )


def open_tables(source: str, mapping: ColumnMap, scratch: str) -> dict[str, MappedTable]:
    """Opens the tables of the map, by their keys, and checks that their files and columns exist.

    Args:
      scratch: see `table_files.inspect_file`.

    Raises:
      UserError: a file or column is missing, or a column has different types in two files.
    """
    if not mapping.events[0].files:
        if not storage.is_file(source):
            raise UserError(
                f"{mapping.path}: key 'events.files' is missing, and {source} is not a single file: name the "
                "files of the events."
            )
        folder, events = os.path.dirname(source), ((os.path.basename(source), None),)
        mapping = dataclasses.replace(mapping, events=(dataclasses.replace(mapping.events[0], files=events),))
        source = folder or "."
    elif not storage.is_directory(source):
        raise UserError(f"{source}: there is no such folder, but {mapping.path} names files in it.")
    tables: dict[str, MappedTable] = {}
    for table in (*mapping.events, mapping.items, mapping.users, mapping.embeddings):
        if table is None:
            continue
        split_of: dict[str, str | None] = {}
        bad = BadRows(table.table, mapping.on_bad_rows)
        for pattern, split in table.files:
            for path in table_files.find_files(source, pattern):
                if path in split_of:
                    raise UserError(
                        f"{mapping.path}: key '{table.key}.files' names {path} twice: remove one pattern."
                    )
                split_of[path] = split
        files = tuple(
            table_files.inspect_file(path, table.text, scratch, split, bad)
            for path, split in split_of.items()
        )
        for file in files:
            file.require(list(table.columns.values()))
        opened = MappedTable(table, files, bad, _tables_beside(table, files, tables))
        tables[table.key] = _with_compact_times(opened)
        for meaning, column in table.columns.items():
            _check_kind_across_files(tables[table.key], meaning, column)
    return tables


def _tables_beside(
    table: TableMap, files: Sequence[TableFile], tables: Mapping[str, MappedTable]
) -> tuple[TableMap, ...]:
    """Returns the maps of the tables in whose files a table stands; () unless the events are one of them."""
    if table.table not in ("items", "users"):
        return ()
    paths = {file.path for file in files}
    found = tuple(other.map for other in tables.values() if paths <= {file.path for file in other.files})
    return found if any(other.table == "events" for other in found) else ()


def _with_compact_times(table: MappedTable) -> MappedTable:
    """Returns the table with the formats of its columns of compact dates, such as 20200914.

    Raises:
      UserError: a column of times has different kinds in two files, or holds day numbers.
    """
    formats = dict(table.map.time_formats)
    for meaning in ("timestamp", "release_timestamp"):
        if not table.has(meaning):
            continue
        column, unit = table.map.columns[meaning], table.map.units.get(meaning)
        found: list[tuple[str, str | None]] = []
        forms: set[str | None] = set()
        for file in table.files:
            kind = source_values.kind_of_type(table.type_of(file, column))
            first = next(iter(dataclasses.replace(table, files=(file,)).batches([meaning])), None)
            if first is not None and meaning not in table.map.time_formats:
                values = first.rows[column]
                if not table.has_type(file, column):
                    kind = source_times.kind_of_times(values)
                form = source_times.compact_form(values, unit, first.place(column), meaning)
                if kind is not None:
                    forms.add(form)
                if form is not None:
                    kind = f"dates of the form {form}"
            found.append((file.path, kind))
        require_one_kind(column, found, "convert it to one type")
        form = forms.pop() if len(forms) == 1 else None
        if form is not None:
            formats[meaning] = form
            notices.tell(f"Column '{column}' of the {table.map.table} is read as dates of the form '{form}'.")
    return dataclasses.replace(table, map=dataclasses.replace(table.map, time_formats=formats))


def _check_kind_across_files(table: MappedTable, meaning: str, column: str) -> None:
    """Checks that a column of Parquet or JSON files has the same kind in all of them.

    Ids and times have checks of their own.
    """
    if meaning in ("user_id", "item_id", "timestamp", "release_timestamp"):
        return
    found = [
        (file.path, source_values.kind_of_type(table.type_of(file, column)))
        for file in table.files
        if table.has_type(file, column)
    ]
    require_one_kind(column, found, "convert it to one type")


def require_one_kind(
    column: str | Mapping[str, str], kinds: Sequence[tuple[str, str | None]], remedy: str
) -> str | None:
    """Returns the common kind of a column over all files.

    Args:
      column: its name, or path → its name in that file.
      kinds: path and kind of each file.

    Raises:
      UserError: the column has several kinds; the message names two files.
    """
    common, first = None, ""
    for path, kind in kinds:
        if kind == "":
            continue  # The reader of the values refuses it.
        both = source_values.common_kind(common, kind)
        if both == "":
            name = column if isinstance(column, str) else column[path]
            raise UserError(f"{path}: column '{name}' holds {kind}, but {common} in {first}: {remedy}.")
        if common is None:
            first = path
        common = both
    return common
