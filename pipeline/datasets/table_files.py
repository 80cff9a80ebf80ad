"""Parquet and CSV files of a table as batches of rows, read as a stream.

A CSV file's columns come as text: what they hold is for `source_values` to say, with the row of a value that
is wrong, rather than for a guess from the file's first megabyte. Rows are counted from 0, without the header
and whatever line ends their fields hold.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv

from pipeline import storage
from pipeline.datasets import checked_columns
from pipeline.datasets.column_map import TextFormat
from pipeline.errors import UserError

# Bytes of a CSV file that are parsed at a time; no row may be longer.
_BLOCK_BYTES = 1 << 24
_BATCH_ROWS = 1 << 18
# About how many bytes a row of events has in a CSV file, and how many times gzip makes them fewer.
_ROW_BYTES = 24
_GZIP_RATIO = 4
_PARQUET, _GZIP = b"PAR1", b"\x1f\x8b"

_WRONG_WIDTH = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", re.DOTALL)
_NOT_UTF8 = re.compile(r"In CSV column #(\d+): Row #(\d+): .*invalid UTF8", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class TableFile:
    """One file of a table."""

    path: str
    is_parquet: bool
    is_compressed: bool
    text: TextFormat
    # The names and types of its columns; text for all of a CSV file's.
    schema: pa.Schema
    # Of a Parquet file as its footer says; of a CSV file a guess from its size, rather too high.
    rows: int
    # The split that all its rows belong to, if the column map says so.
    split: str | None

    def require(self, columns: Sequence[str]) -> None:
        """Checks that columns exist.

        Raises:
          UserError: one does not, naming the nearest that does.
        """
        names = self.schema.names
        for column in columns:
            if column not in names:
                nearest = difflib.get_close_matches(column, names, n=1, cutoff=0.5)
                remedy = f"the nearest is '{nearest[0]}' of" if nearest else "it has"
                remedy = f"{self.path}: column '{column}' is missing; {remedy} {', '.join(names)}."
                if not self.is_parquet and len(names) == 1:
                    remedy += " Is 'delimiter' in the column map right?"
                raise UserError(remedy)

    def batches(
        self, columns: Sequence[str], rows: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The rows in batches, each with the number of its first row; with those columns, in that order.

        Raises:
          UserError: the file ends early, is damaged, has a row of another width than its header, or (CSV) a
            field that is not in its encoding.
        """
        self.require(columns)
        rows = rows or _BATCH_ROWS
        if self.is_parquet:
            yield from checked_columns.read_batches(self.path, list(columns), rows)
            return
        first_row = 0
        with _csv_errors(self), _opened(self) as file:
            for batch in _csv_reader(file, self, list(columns)):
                for start in range(0, batch.num_rows, rows):
                    yield first_row + start, batch.slice(start, rows)
                first_row += batch.num_rows
            if file.quotes % 2:
                # Arrow takes what follows an open quote, be it all the rest of the file, for one field.
                raise UserError(
                    f"{self.path}: its {file.quotes:,} quotes do not pair up: one is opened and not closed, "
                    'or stands in a field without being doubled (""). Is the file cut off?'
                )


def find(source: str, pattern: str) -> list[str]:
    """Paths of the files that `pattern` names in the folder `source`, sorted.

    Args:
      pattern: with "*" for any text within a name, "?" for a character, "**/" for any folders.

    Raises:
      UserError: there are none.
    """
    parts = pattern.split("/")
    plain = next((at for at, part in enumerate(parts) if set(part) & set("*?")), len(parts) - 1)
    below, rest = "/".join(parts[:plain]), "/".join(parts[plain:])
    if "://" in pattern:
        folder = below
    else:
        # An absolute path is one, and no part of the source.
        folder = "/" + below if pattern.startswith("/") and not below else below
        folder = storage.join(source, folder) if folder else source
    if not set(rest) & set("*?"):
        path = storage.join(folder, rest)
        if storage.is_file(path):
            return [path]
        raise UserError(f"{path}: there is no such file.")
    form = re.compile(_expression(rest))
    found = [file for file in storage.list_files(folder) if form.fullmatch(file)]
    if not found:
        raise UserError(f"{storage.join(folder, rest)}: no file has such a name.")
    return [storage.join(folder, file) for file in found]


def _expression(pattern: str) -> str:
    forms = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return "".join(forms.get(part, re.escape(part)) for part in re.split(r"(\*\*/|\*|\?)", pattern))


def look_at(path: str, text: TextFormat, split: str | None = None) -> TableFile:
    """Reads what a file's columns are: a Parquet file's footer, or a CSV file's first rows.

    Raises:
      UserError: it cannot be read, is damaged or empty, or has two columns of one name.
    """
    try:
        with storage.open_file(path) as file:
            magic = file.read(4)
        size = storage.size(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    if magic == _PARQUET or path.endswith(".parquet"):
        parquet = checked_columns.open_parquet(path)
        found = TableFile(path, True, False, text, parquet.schema_arrow, parquet.metadata.num_rows, split)
    else:
        compressed = magic.startswith(_GZIP)
        rows = size * (_GZIP_RATIO if compressed else 1) // _ROW_BYTES
        found = TableFile(path, False, compressed, text, pa.schema([]), rows, split)
        with _csv_errors(found), _opened(found) as opened:
            # No more than the names is wanted: as bytes, no value can be wrong yet.
            names = _csv_reader(opened, found, None).schema.names
        found = dataclasses.replace(found, schema=pa.schema([pa.field(name, pa.string()) for name in names]))
    names = found.schema.names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: two columns have the name '{twice}': rename one of them.")
    return found


class _CountedQuotes(io.RawIOBase):
    """A stream of bytes that counts the quotes in it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.quotes = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        found: bytes = self._stream.read(size)
        self.quotes += found.count(b'"')
        return found


@contextlib.contextmanager
def _opened(file: TableFile) -> Iterator[_CountedQuotes]:
    with storage.open_file(file.path) as opened:
        yield _CountedQuotes(pa.CompressedInputStream(opened, "gzip") if file.is_compressed else opened)


def _csv_reader(opened: Any, file: TableFile, columns: list[str] | None) -> Any:
    delimiter = file.text.delimiter or ("\t" if re.search(r"\.tsv(\.gz)?$", file.path) else ",")
    return pyarrow.csv.open_csv(
        opened,
        # Only a serial reader can tell the number of a row.
        pyarrow.csv.ReadOptions(
            use_threads=False,
            block_size=_BLOCK_BYTES,
            column_names=list(file.text.header) or None,
            encoding=file.text.encoding,
        ),
        pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        pyarrow.csv.ConvertOptions(
            column_types={name: pa.string() for name in columns or ()},
            include_columns=columns,
            strings_can_be_null=True,
            null_values=[""],
        ),
    )


@contextlib.contextmanager
def _csv_errors(file: TableFile) -> Iterator[None]:
    """Arrow's errors of parsing as ours, with the row."""
    header = 0 if file.text.header else 1
    encoding = file.text.encoding.upper()
    remedy = "convert the file, as with `iconv -f latin1 -t utf-8`, or name its encoding in the column map."
    try:
        yield
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(f"{file.path}: byte {byte:#04x} is not {encoding}: {remedy}") from error
    except pa.ArrowInvalid as error:
        message = str(error)
        if found := _WRONG_WIDTH.search(message):
            row, wanted, width, text = found.groups()
            raise UserError(
                f"{file.path}: row {int(row) - 1 - header}: {width} fields, and there are {wanted} columns: "
                f"{text!r:.80}. Fields that hold the delimiter, a quote or a line end stand in double quotes."
            ) from error
        if found := _NOT_UTF8.search(message):
            column = file.schema.names[int(found[1])] if file.schema.names else f"number {found[1]}"
            row = int(found[2]) - 1 - header
            raise UserError(f"{file.path}: column '{column}', row {row}: not {encoding}: {remedy}") from error
        if "straddling" in message:
            raise UserError(
                f"{file.path}: a row of more than {_BLOCK_BYTES:,} bytes: is a quote opened and not closed?"
            ) from error
        raise UserError(f"{file.path}: not readable as CSV ({message.splitlines()[0]}).") from error
    except (OSError, EOFError) as error:
        raise UserError(
            f"{file.path}: cannot be read to its end ({error}). Fetch or write it again."
        ) from error
