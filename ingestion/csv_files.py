"""CSV files of a table: inspection of their rows, Arrow's reader, and its errors with the row.

Faulty rows are found before Arrow reads the file: rows whose quotes do not close where a field ends, and rows
of another width. They stop the ingest or, if the column map says so, are left out of a copy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.ingestion import bad_rows, csv_rows
from two_tower.ingestion.bad_rows import BadRows
from two_tower.ingestion.csv_rows import Dialect, Fault

if TYPE_CHECKING:
    from two_tower.ingestion.table_files import TableFile

_WRONG_WIDTH = re.compile(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", re.DOTALL)
_NOT_UTF8 = re.compile(r"In CSV column #(\d+): Row #(\d+): .*invalid UTF8", re.DOTALL)
_TSV = re.compile(r"\.(tsv|tab)(\.gz)?$", re.IGNORECASE)


def delimiter(file: TableFile) -> str:
    """Returns the delimiter that the map names, or else the usual one of the file's name."""
    return file.text.delimiter or ("\t" if _TSV.search(file.path) else ",")


def inspect(file: TableFile, scratch: str, bad: BadRows) -> TableFile:
    """Counts the lines, checks the form of the rows, and reads the columns' names.

    Raises:
      UserError: rows are faulty, and the policy of `bad` is to stop; the header is faulty.
    """
    file = _with_visible_nulls(file, scratch)
    with file.opened() as stream:
        lines, is_strict = csv_rows.count_lines(stream.read, _dialect(file))
    file = dataclasses.replace(file, rows=lines)
    is_faulty = False
    if not is_strict:
        with file.opened() as stream:
            is_faulty = csv_rows.has_wrong_quotes(stream.read, _dialect(file))
    if not is_faulty and bad.policy == bad_rows.DROP:
        is_faulty = not _is_of_one_width(file)
    if is_faulty:
        file = _without_faults(file, scratch, bad)
    with file.opened() as stream:
        names = reader(stream, file, None).schema.names
    return dataclasses.replace(file, schema=pa.schema([pa.field(name, pa.string()) for name in names]))


def check_lines(file: TableFile, rows: int) -> int:
    """Returns the number of lines that are blank or continue a quoted field, after all rows were read.

    Args:
      rows: number of rows that Arrow found.

    Raises:
      UserError: a quoted field holds lines that look like rows, as between two names with an open quote.
    """
    extra = file.rows - rows - len(file.dropped) - _header_rows(file)
    if extra > 0 and file.text.quote is not None:
        faults = [fault for fault in _faults(file) if fault.kind == "lines"]
        if faults:
            raise _error(file, faults, None)
    return max(extra, 0)


def _dialect(file: TableFile) -> Dialect:
    quote, escape = (mark.encode() if mark else None for mark in (file.text.quote, file.text.escape))
    return Dialect(delimiter(file).encode(), quote, escape)


def _header_rows(file: TableFile) -> int:
    return 0 if file.text.header else 1


def _with_visible_nulls(file: TableFile, scratch: str) -> TableFile:
    r"""Copies a file whose markers of missing values begin with its escape.

    Arrow reads `\N` as "N" if the backslash escapes.
    """
    escape = file.text.escape
    nulls = [null.encode() for null in file.text.null_values if escape and null.startswith(escape)]
    if not nulls:
        return file
    with file.opened() as stream:
        blocks = csv_rows.escape_fields(stream.read, _dialect(file), nulls)
        return dataclasses.replace(file, local=copied(blocks, scratch), is_compressed=False)


def _faults(file: TableFile) -> Iterator[Fault]:
    with file.opened() as stream:
        yield from csv_rows.faults(stream.read, _dialect(file), len(file.text.header) or None)


def _is_of_one_width(file: TableFile) -> bool:
    """Returns whether Arrow finds no row of another width."""
    try:
        with file.opened() as stream:
            names = reader(stream, file, None).schema.names
        with file.opened() as stream:
            for _ in reader(stream, file, names[:1]):
                pass
    except pa.ArrowInvalid as error:
        return not _WRONG_WIDTH.search(str(error))
    return True


def _without_faults(file: TableFile, scratch: str, bad: BadRows) -> TableFile:
    """Returns the file without its faulty rows, which are added to `bad`.

    Raises:
      UserError: the policy is to stop, or the header is faulty.
    """
    faults = list(_faults(file))
    if bad.policy == bad_rows.STOP or (faults and faults[0].row < _header_rows(file)):
        raise _error(file, faults, None)
    bad.add((_sentence(file, fault) for fault in faults), len(faults))
    bad.rows += len(faults)
    with file.opened() as stream:
        blocks = csv_rows.without(stream.read, [(fault.start, fault.end) for fault in faults])
        local = copied(blocks, scratch)
    numbers = np.array([fault.row for fault in faults], np.int64) - _header_rows(file)
    return dataclasses.replace(file, local=local, is_compressed=False, dropped=tuple(numbers.tolist()))


def _sentence(file: TableFile, fault: Fault) -> str:
    row = fault.row - _header_rows(file)
    return f"{file.path}: {f'row {row}' if row >= 0 else 'the header'}: {fault.what}."


def _error(file: TableFile, faults: Sequence[Fault], cause: str | None) -> UserError:
    """Returns the error of faulty rows: their number, the first few, and the keys that may help."""
    if not faults:
        return UserError(f"{file.path}: not readable as CSV ({cause}).")
    told = "\n  ".join([_sentence(file, fault) for fault in faults[: bad_rows.SHOWN]])
    more = "\n  ..." if len(faults) > bad_rows.SHOWN else ""
    kinds = {fault.kind for fault in faults}
    remedies = []
    if kinds & {"quote", "lines"}:
        table = "its table in the column map"
        remedies += [
            f"If quotes are plain characters in this file, set 'quote: none' for {table}.",
            f"If a backslash stands before quotes within a field, set 'escape: \"\\\\\"' for {table}.",
        ]
        if _TSV.search(file.path) is None and any("\\\\" in fault.what for fault in faults):
            remedies.reverse()
        remedies.append(
            "Else close every quote, and double those within a field. Fetch a file that was cut off again."
        )
    if "width" in kinds:
        remedies.append(
            "Put fields with the delimiter, a quote or a line end in double quotes. Files with other columns "
            "are a table of their own in a list of tables, such as 'events'."
        )
    if kinds != {"lines"}:
        remedies.append("'on_bad_rows: drop' in the column map leaves such rows out and counts them.")
    count = f"{len(faults):,} row{' is' if len(faults) == 1 else 's are'} faulty. "
    return UserError(f"{told}{more}\n{count}" + " ".join(remedies))


def copied(blocks: Iterable[bytes], scratch: str) -> str:
    """Writes bytes to a new file in the folder `scratch` and returns its path.

    Raises:
      UserError: the file cannot be written, for example because the disk is full.
    """
    with contextlib.ExitStack() as opened:
        with storage.writing(scratch, storage.OTHER_SCRATCH):
            handle, local = tempfile.mkstemp(dir=scratch)
            # Without a buffer, no error of writing is left for the closing.
            copy = opened.enter_context(open(handle, "wb", buffering=0))
        for block in blocks:
            with storage.writing(scratch, storage.OTHER_SCRATCH):
                while block:
                    block = block[copy.write(block) :]
    return local


def reader(stream: pa.NativeFile, file: TableFile, columns: list[str] | None) -> Any:
    """Returns Arrow's reader of batches, with all columns as text, or those of `columns`."""
    return pyarrow.csv.open_csv(
        stream,
        # Only a serial reader knows the row number for its errors.
        pyarrow.csv.ReadOptions(
            use_threads=False,
            block_size=csv_rows.BLOCK_BYTES,
            column_names=list(file.text.header) or None,
        ),
        pyarrow.csv.ParseOptions(
            delimiter=delimiter(file),
            quote_char=file.text.quote or False,
            escape_char=file.text.escape or False,
            newlines_in_values=True,
        ),
        pyarrow.csv.ConvertOptions(
            column_types={name: pa.string() for name in columns or ()},
            include_columns=columns,
            strings_can_be_null=True,
            null_values=["", *file.text.null_values],
        ),
    )


@contextlib.contextmanager
def errors(file: TableFile) -> Iterator[None]:
    """Converts Arrow's parse errors to UserErrors with the rows."""
    header = _header_rows(file)
    remedy = "convert the file (`iconv -f latin1 -t utf-8`), or set its 'encoding' in the column map."
    try:
        yield
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(f"{file.path}: byte {byte:#04x} is not UTF-8: {remedy}") from error
    except pa.ArrowInvalid as error:
        message = str(error)
        if _WRONG_WIDTH.search(message):
            raise _error(file, list(_faults(file)), message.splitlines()[0]) from error
        if found := _NOT_UTF8.search(message):
            column = file.schema.names[int(found[1])] if file.schema.names else f"number {found[1]}"
            row = file.row_of(int(found[2]) - 1 - header)
            raise UserError(f"{file.path}: column '{column}', row {row}: not UTF-8: {remedy}") from error
        if "straddling" in message:
            raise UserError(
                f"{file.path}: a row has more than {csv_rows.BLOCK_BYTES:,} bytes: close every quote."
            ) from error
        raise UserError(f"{file.path}: not readable as CSV ({message.splitlines()[0]}).") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{file.path}: cannot be read to its end ({error}). Fetch or write it again."
        ) from error
