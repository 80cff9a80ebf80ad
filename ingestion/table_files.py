"""Streaming reader of a table's Parquet, CSV and JSON-lines files, in batches of rows.

All columns of a CSV file are read as text. `source_values` converts them and names the row of a wrong value;
a type guessed from the first megabyte could not. Rows count from 0, without the header, whatever line ends
their fields contain.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import difflib
import gzip
import re
from collections.abc import Iterator, Sequence
from typing import IO

import pyarrow as pa

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns
from two_tower.ingestion import binary_columns, csv_files, file_formats, json_lines, source_files
from two_tower.ingestion.bad_rows import SHOWN, STOP, BadRows
from two_tower.ingestion.column_map import TextFormat

# Bytes of a text file that are copied at a time.
_BLOCK_BYTES = 1 << 24
_BATCH_ROWS = 1 << 18
_PARQUET = b"PAR1"
# Numbers and times, which name no column.
_NO_NAME = r"[+-]?[0-9][0-9.,:/ TZ+-]*"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclasses.dataclass(frozen=True)
class TableFile:
    """One file of a table."""

    path: str
    # Path of a text file on the local disk and in UTF-8: the file itself or a copy.
    local: str
    is_parquet: bool
    is_compressed: bool
    text: TextFormat
    # Names and types of the columns; a CSV file has only text columns.
    schema: pa.Schema
    # For a CSV file the number of lines, which exceeds the rows if fields contain line ends.
    rows: int
    # Split of all its rows; None if the column map names none.
    split: str | None
    # A text file of JSON lines, whose columns have types.
    is_json: bool = False
    # Numbers of the rows that were left out of the local copy, ascending.
    dropped: tuple[int, ...] = ()

    @property
    def has_types(self) -> bool:
        """Returns whether the columns have types of their own, as those of a CSV file have not."""
        return self.is_parquet or self.is_json

    @contextlib.contextmanager
    def opened(self) -> Iterator[pa.NativeFile]:
        """Opens a text file's local copy for a `with` block, unpacked."""
        with pa.OSFile(self.local) as plain:
            yield pa.CompressedInputStream(plain, "gzip") if self.is_compressed else plain

    def row_of(self, row: int) -> int:
        """Returns the number in the source of a row of the local copy."""
        for dropped in self.dropped:
            if dropped > row:
                break
            row += 1
        return row

    def require(self, columns: Sequence[str]) -> None:
        """Checks that columns exist.

        Raises:
          UserError: a column is missing; the message names the nearest existing one.
        """
        names = self.schema.names
        for column in columns:
            if column not in names:
                nearest = difflib.get_close_matches(column, names, n=1, cutoff=0.5)
                remedy = f"the nearest is '{nearest[0]}' of" if nearest else "the file has"
                remedy = f"{self.path}: column '{column}' is missing; {remedy} {', '.join(names)}."
                if not self.has_types and len(names) == 1:
                    remedy += " Check 'delimiter' in the column map."
                elif not self.has_types and any(re.fullmatch(_NO_NAME, name) for name in names):
                    remedy += (
                        " The first row reads like data: where a file has no row of names, 'header' in the "
                        "column map gives them."
                    )
                raise UserError(remedy)

    def batches(
        self, columns: Sequence[str], rows: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yields the rows in batches with those columns, in that order, each with the number of its first
        row.

        Raises:
          UserError: the file ends early or is damaged; a CSV row has another width than the header; a CSV
            field is not in the encoding.
        """
        self.require(columns)
        rows = rows or _BATCH_ROWS
        if self.is_parquet:
            for first_row, batch in checked_columns.read_batches(self.path, list(columns), rows):
                yield first_row, binary_columns.in_text(batch, self.path, first_row)
            return
        first_row = 0
        with csv_files.errors(self), self.opened() as file:
            wanted = pa.schema([self.schema.field(name) for name in columns])
            for batch in (
                json_lines.read_batches(self.path, file, wanted)
                if self.is_json
                else csv_files.reader(file, self, list(columns))
            ):
                for start in range(0, batch.num_rows, rows):
                    yield first_row + start, batch.slice(start, rows)
                first_row += batch.num_rows


def find_files(source: str, pattern: str) -> list[str]:
    """Returns the sorted paths of the files in the folder `source` that match `pattern`.

    Args:
      pattern: "*" matches any text within a name, "?" one character, "**/" any folders.

    Raises:
      UserError: no file matches.
    """
    parts = pattern.split("/")
    plain = next((at for at, part in enumerate(parts) if set(part) & set("*?")), len(parts) - 1)
    below, rest = "/".join(parts[:plain]), "/".join(parts[plain:])
    if "://" in pattern:
        folder = below
    else:
        # An absolute path does not lie below the source.
        folder = "/" + below if pattern.startswith("/") and not below else below
        folder = storage.join(source, folder) if folder else source
    if not set(rest) & set("*?"):
        path = storage.join(folder, rest)
        if storage.is_file(path):
            return [path]
        if storage.is_directory(path):
            raise UserError(f"{path} is a folder: name its files, as in {rest}/*.parquet.")
        storage.check_link(path)
        raise UserError(f"{path}: there is no such file.")
    form = re.compile(_expression(rest))
    found = source_files.matching(folder, form.fullmatch)
    if not found:
        raise UserError(f"{storage.join(folder, rest)}: no file matches this pattern.")
    return [storage.join(folder, file) for file in found]


def _expression(pattern: str) -> str:
    forms = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return "".join(forms.get(part, re.escape(part)) for part in re.split(r"(\*\*/|\*|\?)", pattern))


def inspect_file(
    path: str, text: TextFormat, scratch: str, split: str | None = None, bad: BadRows | None = None
) -> TableFile:
    """Inspects a file's columns: the footer of a Parquet file, all of a text file once.

    Args:
      scratch: folder for copies of text files that are not on the local disk or not in UTF-8, or have rows
        to be dropped.
      bad: receives the faulty rows of a CSV file; None stops at any.

    Raises:
      UserError: the file cannot be read, is damaged or empty, has two columns of one name, or faulty rows.
    """
    try:
        with storage.open_file(path) as file:
            start = file.read(file_formats.FIRST_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    if start.startswith(_PARQUET) or path.endswith(".parquet"):
        with checked_columns.opened_parquet(path) as parquet:
            schema, rows = binary_columns.text_schema(parquet.schema_arrow), parquet.metadata.num_rows
        found = TableFile(path, path, True, False, text, schema, rows, split)
    else:
        file_formats.refuse_others(path, start)
        if start.startswith(_UTF16) and text.encoding == TextFormat.encoding:
            raise UserError(
                f"{path}: the file is in UTF-16: set 'encoding: utf-16' for its table in the column map."
            )
        found = TableFile(path, "", False, start.startswith(file_formats.GZIP), text, pa.schema([]), 0, split)
        with csv_files.errors(found):
            found = _on_disk(found, scratch)
        with csv_files.errors(found):
            with found.opened() as opened:
                start = opened.read(file_formats.FIRST_BYTES)
            file_formats.refuse_others_within_gzip(path, start)
            if file_formats.is_json(start, path):
                found = _inspect_json(found, scratch, bad or BadRows("", STOP))
            else:
                found = csv_files.inspect(found, scratch, bad or BadRows("", STOP))
    names = found.schema.names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: two columns have the name '{twice}': rename one of them.")
    return found


def _inspect_json(file: TableFile, scratch: str, bad: BadRows) -> TableFile:
    """Reads the columns of JSON lines.

    Raises:
      UserError: lines are faulty, and the policy of `bad` is to stop.
    """
    try:
        with file.opened() as opened:
            schema, rows = json_lines.schema_of(file.path, opened)
    except json_lines.FaultyLineError:
        with file.opened() as opened:
            faults = dict(json_lines.faults(file.path, opened))
        if bad.policy == STOP:
            told = "\n  ".join([*list(faults.values())[:SHOWN], *(["..."] if len(faults) > SHOWN else [])])
            count = (
                "1 line is faulty. Repair it"
                if len(faults) == 1
                else f"{len(faults):,} lines are faulty. Repair them"
            )
            raise UserError(
                f"{told}\n{count}, fetch a file that was cut off "
                "again, or set 'on_bad_rows: drop' in the column map, which leaves such rows out and counts "
                "them."
            ) from None
        bad.add(faults.values(), len(faults))
        bad.rows += len(faults)
        with file.opened() as opened:
            local = csv_files.copied(json_lines.without(file.path, opened, faults), scratch)
        file = dataclasses.replace(file, local=local, is_compressed=False, dropped=tuple(faults))
        with file.opened() as opened:
            schema, rows = json_lines.schema_of(file.path, opened)
    return dataclasses.replace(file, schema=schema, rows=rows, is_json=True)


def _on_disk(file: TableFile, scratch: str) -> TableFile:
    """Copies a text file to the local disk in UTF-8, unless it is there already.

    Arrow's CSV reader has its own thread. If the reader is abandoned early while that thread waits for Python
    to read or decode, it hangs for ever. Arrow therefore reads plain local files only.
    """
    encoding = file.text.encoding
    if storage.is_local(file.path) and encoding == TextFormat.encoding:
        return dataclasses.replace(file, local=storage.absolute(file.path))
    with storage.open_file(file.path) as source:
        if encoding == TextFormat.encoding:
            local = csv_files.copied(iter(lambda: source.read(_BLOCK_BYTES), b""), scratch)
            return dataclasses.replace(file, local=local)
        local = csv_files.copied(_in_utf8(file, source), scratch)
        return dataclasses.replace(file, local=local, is_compressed=False)


def _in_utf8(file: TableFile, source: IO[bytes]) -> Iterator[bytes]:
    encoding = file.text.encoding
    plain = gzip.GzipFile(fileobj=source) if file.is_compressed else source
    decoder, done = codecs.getincrementaldecoder(encoding)(), 0
    while True:
        block = plain.read(_BLOCK_BYTES)
        try:
            yield decoder.decode(block, final=not block).encode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{file.path}: byte {done + error.start:,} ({error.object[error.start]:#04x}) is not "
                f"{encoding.upper()}, the encoding in the column map: correct one of them."
            ) from error
        if not block:
            return
        done += len(block)
