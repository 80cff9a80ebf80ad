"""Rows of CSV text as bytes: a fast check of their quotes, and a slow scan that finds every faulty row.

A quote that opens a field has to close right before a delimiter or a line end (RFC 4180); within the field it
is doubled or escaped. Other parsers read on to the next quote and lose the lines between. A quote within a
field that does not begin with one is a plain character.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator

import numpy as np

# Bytes that are read at a time, and the longest row.
BLOCK_BYTES = 1 << 24
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Bytes that are inspected at a time, so that they stay in the processor's cache.
_CACHED_BYTES = 1 << 18
_SHOWN = 60
_LINE_END = re.compile(rb"\r\n|\r|\n")
# Delimiters that prose contains: a line of a text may have as many as a row.
_OF_PROSE = b",; "
_LINES_OF_PROSE = 3


@dataclasses.dataclass(frozen=True)
class Dialect:
    """Special bytes of a CSV file in UTF-8."""

    delimiter: bytes
    # None: quotes are plain characters.
    quote: bytes | None = b'"'
    # Byte that makes the next one a plain character.
    escape: bytes | None = None

    @functools.cached_property
    def row(self) -> re.Pattern[bytes]:
        """Regular expression of a whole row with its line end."""
        quoted, plain = self._fields()
        field = f"(?:{quoted}|{plain})" if quoted else f"(?:{plain})"
        delimiter = re.escape(self.delimiter.decode("latin-1"))
        form = f"{field}(?:{delimiter}{field})*(?:\\r\\n|\\r|\\n|\\Z)"
        return re.compile(form.encode("latin-1"), re.DOTALL)

    @functools.cached_property
    def quoted(self) -> re.Pattern[bytes] | None:
        """Regular expression of a quoted field, after a delimiter or line end or at the beginning."""
        quoted, _ = self._fields()
        delimiter = re.escape(self.delimiter.decode("latin-1"))
        form = f"(?:(?<=[{delimiter}\\r\\n])|\\A){quoted}"
        return re.compile(form.encode("latin-1"), re.DOTALL) if quoted else None

    @functools.cached_property
    def escaped(self) -> re.Pattern[bytes] | None:
        """Regular expression of the escape with the byte that it protects."""
        return re.compile(re.escape(self.escape) + b".", re.DOTALL) if self.escape else None

    def _fields(self) -> tuple[str, str]:
        """Returns expressions of a quoted field ("" if there is none) and of any other field."""
        delimiter, quote, escape = (
            re.escape((mark or b"").decode("latin-1")) for mark in (self.delimiter, self.quote, self.escape)
        )
        common = f"[^{delimiter}\\r\\n{escape}]*"
        plain = f"{common}(?:{escape}.{common})*" if escape else common
        if not quote:
            return "", plain
        inner = f"[^{quote}{escape}]*"
        pair = f"(?:{quote}{quote}|{escape}.)" if escape else f"{quote}{quote}"
        return f"{quote}{inner}(?:{pair}{inner})*{quote}(?=[{delimiter}\\r\\n]|\\Z)", f"(?!{quote}){plain}"


def count_lines(read: Callable[[int], bytes], dialect: Dialect) -> tuple[int, bool]:
    """Counts the lines of a file and checks its quotes, at about half a gigabyte a second.

    Args:
      read: returns the next bytes of the file, at most as many as asked for; b"" at its end.

    Returns:
      The number of lines; and true if every quote opens a field, closes one or is doubled. False is no
      proof of a fault: `faults` decides.
    """
    lines, check, last = 0, _QuoteCheck(dialect), b""
    while block := read(BLOCK_BYTES):
        lines += block.count(b"\n")
        if b"\r" in block:
            lines += block.count(b"\r") - block.count(b"\r\n")
        lines -= last == b"\r" and block.startswith(b"\n")
        last = block[-1:]
        check.add(block)
    check.add(b"", is_last=True)
    lines += last not in (b"", b"\r", b"\n")
    return lines, check.holds and not check.is_inside


class _QuoteCheck:
    """Check that quotes open and close alternately, at the edges of fields."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._is_edge = np.zeros(256, bool)
        for mark in (dialect.delimiter, dialect.quote or b"", b"\r", b"\n"):
            self._is_edge[list(mark)] = True
        self._rest, self._last = _BYTE_ORDER_MARK, ord("\n")
        self.holds, self.is_inside = True, False

    def add(self, block: bytes, is_last: bool = False) -> None:
        quote = self._dialect.quote
        if quote is None or not self.holds:
            return
        data = self._rest + block if self._rest != _BYTE_ORDER_MARK else block.removeprefix(self._rest)
        # A cut after a line end leaves no quote without the byte after it.
        end = len(data) if is_last else max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if not end and len(data) > BLOCK_BYTES:
            end = len(data)
        self._rest, data = data[end:], data[:end]
        if not data:
            return
        if self._dialect.escaped is not None:
            data = self._dialect.escaped.sub(b"\0\0", data)
        if quote in data:
            self._check(np.frombuffer(data, np.uint8), ord(quote))
        self._last = data[-1]

    def _check(self, data: np.ndarray, quote: int) -> None:
        for start in range(0, len(data), _CACHED_BYTES):
            at = start + np.flatnonzero(data[start : start + _CACHED_BYTES] == quote)
            # A doubled quote closes the field and opens it again.
            first = int(self.is_inside)
            before, after = data[at[first::2] - 1], np.take(data, at[1 - first :: 2] + 1, mode="clip")
            if len(before) and at[first] == 0:
                before[0] = self._last
            if len(after) and at[-1] == len(data) - 1:
                after[-1] = ord("\n")
            self.holds &= bool(self._is_edge[before].all() and self._is_edge[after].all())
            self.is_inside ^= bool(len(at) % 2)


@dataclasses.dataclass(frozen=True)
class Fault:
    """Fault of one row."""

    # Number of the row, counted from 0; blank lines do not count.
    row: int
    # Limits of the row in the file, in bytes.
    start: int
    end: int
    # "quote", "width" or "lines".
    kind: str
    # The rest of a sentence that begins with the row.
    what: str


def has_wrong_quotes(read: Callable[[int], bytes], dialect: Dialect) -> bool:
    """Returns whether `faults` would find a wrong quote; rows without quotes are passed over."""
    return any(
        not is_right
        for _, _, spans in _rows(read, dialect, only_with_quotes=True)
        for _, _, is_right in spans
    )


def faults(read: Callable[[int], bytes], dialect: Dialect, width: int | None) -> Iterator[Fault]:
    """Yields the faulty rows of a file, about a million rows a second.

    A row whose quote does not close right before a delimiter or a line end goes to its line's end. So does a
    row over several lines if its second line is a row, and it has other fields than `width`, or a faulty row
    after it. Another row with other fields is a fault, and so is a quoted field with lines that have the
    delimiters of a row.

    Args:
      width: number of columns; None takes that of the first row.
    """
    number = 0

    def is_row(row: bytes) -> bool:
        return width in (None, _bare(row.rstrip(b"\r\n"), dialect).count(dialect.delimiter) + 1)

    for data, offset, spans in _rows(read, dialect, is_row=is_row):
        for start, end, is_right in spans:
            if width is None:
                width = len(_bare(data[start:end].rstrip(b"\r\n"), dialect).split(dialect.delimiter))
            fault = _fault(data, start, end, is_right, dialect, width)
            if fault is not None:
                yield Fault(number, offset + start, offset + end, *fault)
            number += 1


def _rows(
    read: Callable[[int], bytes],
    dialect: Dialect,
    only_with_quotes: bool = False,
    is_row: Callable[[bytes], bool] = lambda _: True,
) -> Iterator[tuple[bytes, int, Iterator[tuple[int, int, bool]]]]:
    """Yields blocks: bytes, their place in the file, and the limits of rows, with false for wrong quotes.

    Args:
      is_row: tells of a row over several lines whether it is one.
    """
    data, offset, position, is_last = b"", 0, 0, False

    def end_of_row(start: int) -> int:
        found = dialect.row.match(data, start)
        return found.end() if found is not None and is_row(found[0]) else -1

    def is_open(found: re.Match[bytes], second_line: int) -> bool:
        """Returns whether a row over several lines has a quote that closes in a later row by accident.

        It does if rows begin at its second line, and it is none, or a fault after it is none of those rows.
        """
        end, has_fault = second_line, not is_row(found[0])
        if not has_fault and (found.end() >= len(data) or end_of_row(found.end()) >= 0):
            return False
        while 0 <= end < found.end():
            end = end_of_row(end)
        return end > found.end() or (has_fault and end == found.end())

    def spans(limit: int) -> Iterator[tuple[int, int, bool]]:
        nonlocal position
        while position < limit:
            if only_with_quotes:
                at = data.find(dialect.quote or b"", position)
                if at < 0 or at >= limit:
                    # A line longer than a block is refused later.
                    position = _last_line(data, position, limit) or limit
                    return
                position = _last_line(data, position, at) or position
            found = dialect.row.match(data, position)
            start = position
            if found is None or (dialect.quote and data.find(dialect.quote, start, found.end()) >= 0):
                position = _line_end(data, start)
                if found is not None and found.end() > position and is_open(found, position):
                    found = None
            if found is not None:
                position = found.end()
            if data[start:position].strip(b"\r\n"):
                yield start, position, found is not None

    while not is_last:
        while len(data) - position < 2 * BLOCK_BYTES and not is_last:
            block = read(BLOCK_BYTES)
            is_last = not block
            data, offset, position = data[position:] + block, offset + position, 0
        if offset == 0 and position == 0 and data.startswith(_BYTE_ORDER_MARK):
            position = len(_BYTE_ORDER_MARK)
        # A row that reaches the end of the data may go on after it.
        yield data, offset, spans(len(data) if is_last else len(data) - BLOCK_BYTES)


def _last_line(data: bytes, start: int, end: int) -> int:
    """Returns the place of the last line that begins after `start`, up to `end`; 0 if there is none."""
    return max(data.rfind(b"\n", start, end), data.rfind(b"\r", start, end)) + 1


def _line_end(data: bytes, start: int) -> int:
    """Returns the place after the line that begins at `start`."""
    found = _LINE_END.search(data, start)
    return found.end() if found else len(data)


def _fault(
    data: bytes, start: int, end: int, is_right: bool, dialect: Dialect, width: int
) -> tuple[str, str] | None:
    row = data[start:end].rstrip(b"\r\n")
    if not is_right:
        at = _open_quote(row, dialect)
        place = row[:at].count(dialect.delimiter) + 1
        return (
            "quote",
            f"the quote that opens field {place} does not close right before a delimiter or a line end: "
            f"{_text(row[at:])}",
        )
    if dialect.quoted is not None and width > 1:
        # Prose may hold a line with as many commas as a row, and hardly several in a row.
        least = _LINES_OF_PROSE if dialect.delimiter in _OF_PROSE else 1
        for field in dialect.quoted.findall(row) if b"\n" in row or b"\r" in row else ():
            inner = _LINE_END.split(field)[1:-1]
            alike = sum(line.count(dialect.delimiter) == width - 1 for line in inner)
            if alike >= least and (least == 1 or alike == len(inner)):
                return "lines", f"a quoted field holds {alike:,} lines that look like rows: {_text(field)}"
    found = _bare(row, dialect).count(dialect.delimiter) + 1
    if found != width:
        return "width", f"{found} fields, but there are {width} columns: {_text(row)}"
    return None


def _bare(row: bytes, dialect: Dialect) -> bytes:
    """Returns a row without quoted fields and escaped bytes."""
    if dialect.escaped is not None:
        row = dialect.escaped.sub(b"", row)
    if dialect.quoted is not None:
        row = dialect.quoted.sub(b"", row)
    return row


def _open_quote(row: bytes, dialect: Dialect) -> int:
    """Returns the place of the quote that does not close."""
    assert dialect.quote is not None and dialect.quoted is not None
    blank = row
    if dialect.escaped is not None:
        blank = dialect.escaped.sub(b"\0\0", blank)
    blank = dialect.quoted.sub(lambda field: b"\0" * len(field[0]), blank)
    edges = re.escape(dialect.delimiter) + b"|^"
    found = re.search(b"(?:" + edges + b")(?=" + re.escape(dialect.quote) + b")", blank)
    return found.end() if found else 0


def _text(row: bytes) -> str:
    return f"{row.decode('utf-8', 'replace')!r:.{_SHOWN + 20}}"


def without(read: Callable[[int], bytes], dropped: list[tuple[int, int]]) -> Iterator[bytes]:
    """Yields the bytes of a file without those between the given limits, which are ascending."""
    offset, limits = 0, iter(dropped)
    start, end = next(limits, (-1, -1))
    while block := read(BLOCK_BYTES):
        begin, stop = 0, len(block)
        while start >= 0 and start < offset + stop:
            if start - offset > begin:
                yield block[begin : start - offset]
            begin = min(max(begin, end - offset), stop)
            if end > offset + stop:
                break
            start, end = next(limits, (-1, -1))
        if begin < stop:
            yield block[begin:]
        offset += stop


def escape_fields(read: Callable[[int], bytes], dialect: Dialect, fields: list[bytes]) -> Iterator[bytes]:
    """Yields the bytes of a file with another escape before each field that is one of `fields`."""
    assert dialect.escape is not None
    edges = re.escape(dialect.delimiter) + b"\\r\\n"
    forms = b"|".join(map(re.escape, fields))
    found = re.compile(b"((?<=[" + edges + b"])|\\A)(?=(?:" + forms + b")(?:[" + edges + b"]|\\Z))")
    rest = b""
    while block := read(BLOCK_BYTES):
        block = rest + block
        end = block.rfind(b"\n") + 1
        yield found.sub(lambda _: dialect.escape or b"", block[:end])
        rest = block[end:]
    yield found.sub(lambda _: dialect.escape or b"", rest)
