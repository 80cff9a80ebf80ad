"""Streaming reader of JSON lines, one object a line, through Arrow.

Rows count from 0; blank lines are none. Times in JSON are text or numbers, as in CSV. Objects within objects
have no columns, and arrays of numbers or text are lists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from two_tower.base.errors import UserError
from two_tower.ingestion import file_formats

# Bytes that are parsed at a time; a longer line is refused.
_BLOCK_BYTES = 1 << 24
# Up to here floats hold all whole numbers.
_LARGEST_EXACT = 2**53
# Type of columns that cannot be read: objects, arrays of objects, or objects and other values.
_OBJECT = pa.struct([])
_DIFFERENT_TYPES = re.compile(r"Column\(/.*\) changed from|Failed of conversion")
_TWICE = re.compile(r"Column\(/(.*)\) was specified twice")
_ROW = re.compile(r"^(?:JSON parse error: )?(.*?)(?: in row (\d+))?$", re.DOTALL)


class FaultyLineError(UserError):
    """A line that is no JSON object, or not UTF-8."""


def schema_of(path: str, stream: pa.NativeFile) -> tuple[pa.Schema, int]:
    """Reads a file once and returns its columns with their types, and its number of rows.

    A column of numbers and text is text, as in CSV, and so are whole numbers beyond 64 bits.

    Raises:
      UserError: the file is one JSON document.
      FaultyLineError: a line is no JSON object.
    """
    types: dict[str, pa.DataType] = {}
    rows = 0
    for block in _blocks(path, stream):
        _check_utf8(path, block, rows)
        found, count = _types_of(path, block, rows)
        for name, kind in found.items():
            types[name] = _common_type(types[name], kind) if name in types else kind
        rows += count
    return pa.schema([pa.field(name, kind) for name, kind in types.items()]), rows


def read_batches(path: str, stream: pa.NativeFile, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a file in batches with the columns of `schema`; other columns are passed over.

    Raises:
      UserError: a line is no JSON object.
    """
    rows = 0
    for block in _blocks(path, stream):
        lines = _check_objects(path, block, rows)
        try:
            table = _parse(block, schema)
        except pa.ArrowInvalid as error:
            if not _DIFFERENT_TYPES.search(str(error)):
                raise _wrong(path, error, rows) from error
            table = _parse_in_python(path, block, schema, rows)
        if table.num_rows != lines:
            _objects(path, block, rows)
        yield from table.combine_chunks().to_batches()
        rows += table.num_rows


def faults(path: str, stream: pa.NativeFile) -> Iterator[tuple[int, str]]:
    """Yields the row of each line that is no JSON object, and a sentence about it."""
    rows = 0
    for block in _blocks(path, stream):
        lines = [line for line in block.split(b"\n") if line.strip()]
        if _is_faulty(path, block, rows):
            for row, line in enumerate(lines, rows):
                try:
                    _check_utf8(path, line, row)
                    _objects(path, line, row)
                    _types_of(path, line, row)
                except FaultyLineError as error:
                    yield row, str(error)
        rows += len(lines)


def without(path: str, stream: pa.NativeFile, dropped: Collection[int]) -> Iterator[bytes]:
    """Yields the lines of a file without some rows."""
    rows = 0
    for block in _blocks(path, stream):
        lines = [line for line in block.split(b"\n") if line.strip()]
        yield b"".join(line + b"\n" for row, line in enumerate(lines, rows) if row not in dropped)
        rows += len(lines)


def _is_faulty(path: str, block: bytes, rows: int) -> bool:
    try:
        _check_utf8(path, block, rows)
        _types_of(path, block, rows)
    except FaultyLineError:
        return True
    return False


def _blocks(path: str, stream: pa.NativeFile) -> Iterator[bytes]:
    """Yields blocks of whole lines that are not blank."""
    rest, is_first = b"", True
    while block := stream.read(_BLOCK_BYTES):
        block, rest = rest + block, b""
        if is_first:
            block = block.removeprefix(file_formats.BYTE_ORDER_MARK).lstrip()
            _check_form(path, block)
            is_first = False
        end = block.rfind(b"\n") + 1
        block, rest = block[:end], block[end:]
        if len(rest) > 2 * _BLOCK_BYTES:
            raise UserError(
                f"{path}: a line has more than {_BLOCK_BYTES:,} bytes, as in one JSON document, which is not "
                "read: write one object a line."
            )
        if block.strip():
            yield block
    if rest.strip():
        yield rest


def _check_form(path: str, block: bytes) -> None:
    """Raises UserError for one JSON document, in place of an object a line."""
    remedy = "and one object a line is read: convert it, for example with `jq -c '.[]'`."
    if block.startswith(b"["):
        raise UserError(f"{path}: the file is one JSON document, a list, {remedy}")
    first, end, _ = block.partition(b"\n")
    try:
        json.loads(first)
    except ValueError:
        # A first line that is an object's opening alone, as in JSON that is written to be read. A line of
        # JSON lines that was cut off may end so too; a whole object follows it.
        opens = re.fullmatch(rb'\{\s*("[^"]*"\s*:\s*[\[{]?.*)?', first.rstrip()) and b"}" not in first
        goes_on = first.rstrip()[-1:] in (b"{", b"[") or (
            first.rstrip()[-1:] == b"," and not _is_object(block[len(first) :].lstrip().partition(b"\n")[0])
        )
        if end and opens and goes_on:
            raise UserError(f"{path}: the file is one JSON document over several lines, {remedy}") from None


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _parse(block: bytes, schema: pa.Schema | None) -> pa.Table:
    """Parses a block by Arrow, which ends at a stray character behind an object and says nothing.

    Fewer rows than lines tell so. The object that is added makes it hold of the last line too.
    """
    block += b"\n{}"
    table = pyarrow.json.read_json(
        pa.BufferReader(block),
        # One block, so that rows in Arrow's errors count from its beginning.
        pyarrow.json.ReadOptions(use_threads=False, block_size=len(block)),
        pyarrow.json.ParseOptions(
            explicit_schema=schema, unexpected_field_behavior="infer" if schema is None else "ignore"
        ),
    )
    return table.slice(0, table.num_rows - 1)


def _types_of(path: str, block: bytes, rows: int) -> tuple[dict[str, pa.DataType], int]:
    """Returns the types of a block's columns and its number of rows."""
    lines = _check_objects(path, block, rows)
    try:
        table = _parse(block, None)
    except pa.ArrowInvalid as error:
        if not _DIFFERENT_TYPES.search(str(error)):
            raise _wrong(path, error, rows) from error
    else:
        if table.num_rows == lines and not any(map(_may_be_rounded, table.columns)):
            return {field.name: _plain_type(field.type) for field in table.schema}, table.num_rows
    types: dict[str, pa.DataType] = {}
    would_be_rounded: set[str] = set()
    objects = _objects(path, block, rows)
    for found in objects:
        for name, value in found.items():
            kind = _type_of_value(value)
            types[name] = _common_type(types[name], kind) if name in types else kind
            if type(value) is int and abs(value) > _LARGEST_EXACT:
                would_be_rounded.add(name)
    for name in would_be_rounded:
        if pa.types.is_floating(types[name]):
            types[name] = pa.string()
    return types, len(objects)


def _check_objects(path: str, block: bytes, rows: int) -> int:
    """Returns the number of lines that are not blank.

    Raises:
      FaultyLineError: a line does not begin and end as an object. Arrow crashes at some such lines.
    """
    lines = [line for line in map(bytes.strip, block.split(b"\n")) if line]
    for row, line in enumerate(lines, rows):
        if line[:1] != b"{" or line[-1:] != b"}":
            _objects(path, line, row)
    return len(lines)


def _may_be_rounded(column: pa.ChunkedArray) -> bool:
    """Returns whether a column may hold whole numbers that Arrow rounds, beside others or beyond 64 bits."""
    if not pa.types.is_floating(column.type):
        return False
    largest = pc.max(pc.abs(column)).as_py()
    return largest is not None and largest > _LARGEST_EXACT


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """Returns the type in which a column is read: text for times, and null for columns without values."""
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_list(kind):
        inner = _plain_type(kind.value_type)
        if pa.types.is_null(inner):
            return inner
        return _OBJECT if pa.types.is_nested(inner) else pa.list_(inner)
    if pa.types.is_struct(kind):
        return _OBJECT if kind.num_fields else pa.null()
    return kind


def _type_of_value(value: Any) -> pa.DataType:
    if isinstance(value, dict):
        return _OBJECT if value else pa.null()
    if isinstance(value, list):
        inner = pa.null()
        for entry in value:
            inner = _common_type(inner, _type_of_value(entry))
        if pa.types.is_null(inner):
            return inner
        return _OBJECT if pa.types.is_nested(inner) else pa.list_(inner)
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        # A number would lose digits, which an id needs.
        return pa.int64() if -(2**63) <= value < 2**63 else pa.string()
    if isinstance(value, float):
        return pa.float64()
    return pa.null() if value is None else pa.string()


def _common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if pa.types.is_list(one) and pa.types.is_list(other):
        return pa.list_(_common_type(one.value_type, other.value_type))
    if pa.types.is_nested(one) or pa.types.is_nested(other):
        return _OBJECT
    return pa.float64() if {one, other} == {pa.int64(), pa.float64()} else pa.string()


def _objects(path: str, block: bytes, rows: int) -> list[dict[str, Any]]:
    """Parses the lines of a block in Python, some ten times slower than Arrow."""
    found: list[dict[str, Any]] = []
    for line in block.splitlines():
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            row = rows + len(found)
            raise FaultyLineError(f"{path}: row {row}: not readable as JSON lines ({error}).") from error
        if not isinstance(value, dict):
            raise FaultyLineError(f"{path}: row {rows + len(found)}: {value!r:.60} is no JSON object.")
        found.append(value)
    return found


def _parse_in_python(path: str, block: bytes, schema: pa.Schema, rows: int) -> pa.Table:
    """Parses a block in which a column holds numbers and text; such a column becomes text."""
    objects = _objects(path, block, rows)
    columns = []
    for field in schema:
        values = [found.get(field.name) for found in objects]
        columns.append(pa.array([_value_in(field.type, value) for value in values], field.type))
    return pa.table(columns, schema)


def _value_in(kind: pa.DataType, value: Any) -> Any:
    if pa.types.is_list(kind) and isinstance(value, list):
        return [_value_in(kind.value_type, entry) for entry in value]
    if value is None or pa.types.is_null(kind):
        return None
    if pa.types.is_string(kind) and not isinstance(value, str):
        return json.dumps(value)
    return float(value) if pa.types.is_floating(kind) else value


def _wrong(path: str, error: pa.ArrowInvalid, rows: int) -> UserError:
    """Converts Arrow's error, whose row counts within a block, to one with the row of the file."""
    found = _ROW.match(str(error).strip())
    assert found is not None
    row = f"row {rows + int(found[2])}: " if found[2] else ""
    if twice := _TWICE.fullmatch(found[1]):
        return FaultyLineError(f"{path}: {row}the key '{twice[1]}' stands twice in one object: keep one.")
    return FaultyLineError(f"{path}: {row}not readable as JSON lines ({found[1].rstrip('.')}).")


def _check_utf8(path: str, block: bytes, rows: int) -> None:
    """Raises UserError for a byte that is not UTF-8; Arrow would pass it on."""
    try:
        block.decode()
    except UnicodeDecodeError as error:
        row = rows + sum(bool(line.strip()) for line in block[: error.start].split(b"\n")[:-1])
        raise FaultyLineError(
            f"{path}: row {row}: byte {block[error.start]:#04x} is not UTF-8: convert the file "
            "(`iconv -f latin1 -t utf-8`), or set its 'encoding' in the column map."
        ) from error
