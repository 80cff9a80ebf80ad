"""Streaming reader of text files: numbered lines, CSV rows, and blocks of lines that hold only numbers.

Line numbers start at 1, as in editors and `sed -n 7p`; errors name the file and the line. A line ends with a
line feed, optionally after a carriage return.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.csv

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.ingestion import file_formats

_BLOCK_BYTES = 1 << 24
# Longer lines are refused: the file is binary, or its lines have another ending.
_LONGEST_LINE = 1 << 26
# First bytes of files that are often mistaken for text, beside those of `file_formats` → their remedy.
_NOT_TEXT = {
    file_formats.GZIP: "compressed with gzip: unpack it first, for example with `gunzip`",
    b"\xff\xfe": "UTF-16: convert it, for example with `iconv -f utf-16 -t utf-8`",
    b"\xfe\xff": "UTF-16: convert it, for example with `iconv -f utf-16 -t utf-8`",
    b"PAR1": "a Parquet file, but text is needed",
}


def read_blocks(path: str) -> Iterator[tuple[int, bytes]]:
    """Reads a file in blocks of whole lines, each with the number of its first line.

    Only the last block can lack a final line feed. A byte order mark is dropped.

    Raises:
      UserError: the file is missing, cannot be read, or is not text.
    """
    number, rest = 1, b""
    try:
        with storage.open_file(path) as file:
            start = file.read(_BLOCK_BYTES)
            file_formats.refuse_others(path, start[: file_formats.FIRST_BYTES])
            for magic, what in _NOT_TEXT.items():
                if start.startswith(magic):
                    raise UserError(f"{path}: the file is {what}.")
            block = start.removeprefix(file_formats.BYTE_ORDER_MARK)
            while block:
                end = block.rfind(b"\n") + 1
                if end:
                    lines, rest = rest + block[:end], block[end:]
                    yield number, lines
                    number += lines.count(b"\n")
                else:
                    rest += block
                if len(rest) > _LONGEST_LINE:
                    raise UserError(
                        f"{path}:{number}: the line has more than {_LONGEST_LINE:,} bytes: lines must end "
                        "with a line feed."
                    )
                block = file.read(_BLOCK_BYTES)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    if rest:
        yield number, rest


def lines_of(
    path: str, number: int, block: bytes, encoding: str = "utf-8", fallback: str | None = None
) -> Iterator[tuple[int, str]]:
    """Yields the decoded lines of a block of `read_blocks`, with their numbers and without line endings.

    Args:
      fallback: encoding for lines that are not in `encoding`: "latin-1" decodes every byte.

    Raises:
      UserError: a line is not in `encoding`, and there is no fallback; or it holds a carriage return.
    """
    lines = block.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for index, line in enumerate(lines):
        try:
            text = line.decode(encoding)
        except UnicodeDecodeError as error:
            if fallback is None:
                raise UserError(
                    f"{path}:{number + index}: byte {error.start} (0x{line[error.start]:02x}) is not "
                    f"{encoding.upper()}; convert the file, for example with `iconv -f latin1 -t {encoding}`."
                ) from error
            text = line.decode(fallback)
        text = text.removesuffix("\r")
        if "\r" in text:
            raise UserError(
                f"{path}:{number + index}: a carriage return stands within the line. Lines end with a line "
                "feed: convert the file, for example with `tr '\\r' '\\n'`."
            )
        yield number + index, text


def read_lines(path: str, encoding: str = "utf-8", fallback: str | None = None) -> Iterator[tuple[int, str]]:
    """Yields all decoded lines of a file, with their numbers and without line endings; `fallback` as in
    `lines_of`.

    Raises:
      UserError: the file is missing, or a line is not in `encoding`.
    """
    for number, block in read_blocks(path):
        yield from lines_of(path, number, block, encoding, fallback)


def read_csv_rows(
    path: str, encoding: str = "utf-8", delimiter: str = ","
) -> Iterator[tuple[int, list[str]]]:
    """Yields the rows of a CSV file, each with the number of its first line; quoted fields may contain line
    ends.

    Blank lines are skipped. The caller checks the number of fields.

    Raises:
      UserError: the file is missing, a line is not in `encoding`, or quotes are not paired.
    """
    rows = csv.reader(
        (text + "\n" for _, text in read_lines(path, encoding)), delimiter=delimiter, strict=True
    )
    line = 1
    try:
        for row in rows:
            if row:
                yield line, row
            line = rows.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}:{line}: the row that begins here is not CSV ({error}). Close every quote, and double "
            "the quotes within a field."
        ) from error


def plain_numbers(block: bytes, separator: bytes, columns: Mapping[str, pa.DataType]) -> pa.Table | None:
    """Parses lines of numbers into columns, at hundreds of megabytes a second.

    Args:
      block: whole lines from `read_blocks`.
      separator: field separator of one or more bytes, none of them part of a number.
      columns: names and types (integers, floats) of all fields of a line.

    Returns:
      The table without blank lines. None if a field is no plain decimal number of its type or a line has a
      wrong number of fields. A space or a quote suffices. Such a block needs a line-by-line parser, which is
      slow but finds the fault.
    """
    if block.translate(None, b"0123456789.-\r\n" + separator):
        return None
    if block.count(b"\r") != block.count(b"\r\n"):
        return None  # Arrow treats a lone carriage return as a line ending.
    if len(separator) > 1:
        block = block.replace(separator, b",")
        separator = b","
    try:
        return pyarrow.csv.read_csv(
            pa.BufferReader(block),
            pyarrow.csv.ReadOptions(column_names=list(columns)),
            pyarrow.csv.ParseOptions(delimiter=separator.decode(), quote_char=False),
            pyarrow.csv.ConvertOptions(column_types=dict(columns), null_values=[], check_utf8=False),
        )
    except pa.ArrowInvalid:
        return None
