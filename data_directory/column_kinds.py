"""The kinds of columns that can become features: one object defines each.

Examples, schema, statistics, requests and slices follow from a kind's facts, which stand here. What Transform
and the towers do with its columns stands in `trainer/model/column_embeddings.py`. A new kind has an entry in
both, and a test. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclasses.dataclass(frozen=True)
class ColumnKind:
    """One kind of column.

    Attributes:
        name: the kind's name in settings, as in `features.items=title:text`.
        types: classes of the column's Arrow type: "string", "bool", "int", "float", or "list of" one of
            these. A column of nulls alone can be of any kind.
        encode: a column's values and the width to lists, one a row, as Examples hold them. Null, NaN and the
            empty text are absent values. Raises BrokenValue.
        value_type: "text" (bytes) or "number" (float32), in Examples, schema and requests.
        per_row: number of values a row has: at most "one", "any", or always as many as the "width".
        compared_as: measure of drift and skew: the shares of "categories", the histogram of "numbers", or
            None. Categories are also what evaluation slices by.
        request_note: description of the request's input, after the column's name.
    """

    name: str
    types: frozenset[str]
    encode: Callable[[pa.Array, int], pa.ListArray]
    value_type: Literal["text", "number"]
    per_row: Literal["one", "any", "width"]
    compared_as: Literal["categories", "numbers"] | None
    request_note: str

    @property
    def is_number(self) -> bool:
        """True where the values are numbers."""
        return self.value_type == "number"

    @property
    def is_list(self) -> bool:
        """True where a request sends a list of values, not one value."""
        return self.per_row != "one"

    @property
    def has_width(self) -> bool:
        """True where every row has the same number of values."""
        return self.per_row == "width"

    @property
    def is_category(self) -> bool:
        """True where the values tell groups of users or items apart."""
        return self.compared_as == "categories"

    @property
    def dtype(self) -> str:
        """TensorFlow's name of the value type."""
        return dtype_of(self.value_type)

    @property
    def absent(self) -> str | float:
        """A request's value where there is none; where every row has a width, each of the values."""
        return absent_value(self.dtype, self.has_width)


class BrokenValue(ValueError):
    """A value that its kind does not allow; `row` is its place, `found` the fault, after "has"."""

    def __init__(self, row: int, found: str) -> None:
        super().__init__(f"row {row} has {found}")
        self.row = row
        self.found = found


def dtype_of(value_type: Literal["text", "number"]) -> str:
    """Returns TensorFlow's name of a value type."""
    return "float32" if value_type == "number" else "string"


def absent_value(dtype: str, has_width: bool) -> str | float:
    """Returns a request's value where there is none, by what a signature tells of an input.

    An earlier model's signature tells no kind, so the absent value must follow from type and shape alone.
    """
    if dtype == "string":
        return ""
    return 0.0 if has_width else math.nan


# ── Values as Examples hold them ────────────────────────────────────────────────────────────────────────


def encode_text(values: pa.Array, width: int = 0) -> pa.ListArray:
    """Encodes one text a row, or none: numbers are decimal, booleans "true" and "false"."""
    return _present(_texts(values))


def encode_number(values: pa.Array, width: int = 0) -> pa.ListArray:
    """Encodes one number a row, or none; booleans are 0 and 1."""
    return _present(_numbers(values))


def encode_texts(values: pa.Array, width: int = 0) -> pa.ListArray:
    """Encodes any number of texts a row; absent ones are left out."""
    if pa.types.is_null(values.type):
        offsets = np.zeros(len(values) + 1, np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array([], pa.binary()))
    members = _texts(values.flatten())
    known_before = np.append(0, members.is_valid().to_numpy(zero_copy_only=False).cumsum())
    offsets = known_before[np.append(0, _lengths(values).cumsum())]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), members.drop_null())


def encode_vector(values: pa.Array, width: int) -> pa.ListArray:
    """Encodes always `width` numbers a row: zeros where there is no vector.

    Raises:
      BrokenValue: a vector has another width, or a value that is null or not finite.
    """
    vectors = np.zeros((len(values), width), np.float32)
    if not pa.types.is_null(values.type):
        lengths = _lengths(values)
        has_one = values.is_valid().to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(has_one & (lengths != width)):
            raise BrokenValue(int(row), f"{lengths[row]} values, where {width} are expected")
        vectors[has_one] = _numbers(values.flatten()).to_numpy(zero_copy_only=False).reshape(-1, width)
        for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1)):
            raise BrokenValue(int(row), "a value that is null or not finite")
    offsets = np.arange(len(values) + 1, dtype=np.int32) * width
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.reshape(-1)))


def _present(values: pa.Array) -> pa.ListArray:
    """Makes a list of one where there is a value, else of none."""
    valid = values.is_valid().to_numpy(zero_copy_only=False)
    offsets = np.append(0, np.cumsum(valid)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values.drop_null())


def _texts(values: pa.Array) -> pa.Array:
    """Casts to binary; the empty text becomes null."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    texts = values.cast(pa.string())
    texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    return texts.cast(pa.binary())


def _numbers(values: pa.Array) -> pa.Array:
    """Casts to float32; NaN becomes null."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    if pa.types.is_decimal(values.type) or pa.types.is_null(values.type):
        values = values.cast(pa.float64())
    # NumPy rounds to float32 what Arrow's cast would refuse.
    rounded = pc.fill_null(values, 0).to_numpy(zero_copy_only=False).astype(np.float32)
    known = values.is_valid().to_numpy(zero_copy_only=False) & ~np.isnan(rounded)
    return pa.array(rounded, mask=~known)


def _lengths(values: pa.Array) -> np.ndarray:
    """Counts the values of each list, [rows]; a null list has none."""
    if pa.types.is_fixed_size_list(values.type):
        return values.is_valid().to_numpy(zero_copy_only=False) * np.int64(values.type.list_size)
    return pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False).astype(np.int64)


# ── The kinds ───────────────────────────────────────────────────────────────────────────────────────────

# The value's embedding.
CATEGORICAL = ColumnKind(
    "categorical",
    types=frozenset({"string", "bool", "int"}),
    encode=encode_text,
    value_type="text",
    per_row="one",
    compared_as="categories",
    request_note=', a number in decimal; "": not known',
)
# The mean embedding of the values.
MULTI_VALUED = ColumnKind(
    "multi_valued",
    types=frozenset({"list of string", "list of int"}),
    encode=encode_texts,
    value_type="text",
    per_row="any",
    compared_as="categories",
    request_note='; "" is padding',
)
# The z-scored number.
NUMERIC = ColumnKind(
    "numeric",
    types=frozenset({"bool", "int", "float"}),
    encode=encode_number,
    value_type="number",
    per_row="one",
    compared_as="numbers",
    request_note="; NaN: not known",
)
# The mean embedding of the words.
TEXT = ColumnKind(
    "text",
    types=frozenset({"string"}),
    encode=encode_text,
    value_type="text",
    per_row="one",
    compared_as=None,
    request_note='; "": not known',
)
# A learnt projection of the vector, which itself stays as it is.
VECTOR = ColumnKind(
    "vector",
    types=frozenset({"list of int", "list of float"}),
    encode=encode_vector,
    value_type="number",
    per_row="width",
    compared_as=None,
    request_note="; zeros: not known",
)

# By name. Of the kinds that a column's type allows, the first one here is the default.
KINDS: dict[str, ColumnKind] = {
    kind.name: kind for kind in (CATEGORICAL, MULTI_VALUED, NUMERIC, TEXT, VECTOR)
}

# ── Arrow types ─────────────────────────────────────────────────────────────────────────────────────────

_LIST = re.compile(r"(?:large_|fixed_size_)?list<\w+: (.+?)(?: not null)?>(?:\[(\d+)\])?")
_DICTIONARY = re.compile(r"dictionary<values=(\w+),.*>")


def allowed_kinds(arrow_type: str) -> tuple[str, ...]:
    """Returns the kinds that a column of this type (Arrow's, as text) can have, the default first."""
    in_list = _LIST.fullmatch(arrow_type)
    found = f"list of {_scalar_class(in_list[1])}" if in_list else _scalar_class(arrow_type)
    # Nothing but nulls: any kind has a value for "absent".
    return tuple(kind.name for kind in KINDS.values() if found in kind.types or found == "null")


def fixed_size(arrow_type: str) -> int:
    """Returns the length of the type's lists; 0 where the type does not tell it."""
    in_list = _LIST.fullmatch(arrow_type)
    return int(in_list[2]) if in_list and in_list[2] else 0


def _scalar_class(arrow_type: str) -> str:
    """Returns "string", "bool", "int", "float" or "null"; "" for any other type."""
    if in_dictionary := _DICTIONARY.fullmatch(arrow_type):
        return "string" if in_dictionary[1] in ("string", "large_string") else ""
    if arrow_type in ("string", "large_string"):
        return "string"
    if re.fullmatch(r"u?int\d+", arrow_type):
        return "int"
    if arrow_type in ("halffloat", "float", "double") or arrow_type.startswith("decimal"):
        return "float"
    return arrow_type if arrow_type in ("bool", "null") else ""
