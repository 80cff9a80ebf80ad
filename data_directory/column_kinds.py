"""Kinds of columns that can become features; one object defines each.

Examples, schema, statistics, requests and slices follow from the definitions in this module.
`trainer/model/column_embeddings.py` defines the columns in Transform and in the towers. A new kind needs an
entry in both modules and a test. This module does not import TensorFlow.
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
        encode: encodes a column's values, given the width, as one list per row, as Examples hold them. Null,
            NaN and the empty text are absent values. Raises BrokenValue.
        value_type: "text" (bytes) or "number" (float32), in Examples, schema and requests.
        per_row: number of values in a row: at most "one", "any", or always the "width".
        compared_as: measure of drift and skew: the shares of "categories", the histogram of "numbers", or
            None. Evaluation slices by categories.
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
        """True if the values are numbers."""
        return self.value_type == "number"

    @property
    def is_list(self) -> bool:
        """True if a request sends a list of values, not one value."""
        return self.per_row != "one"

    @property
    def has_width(self) -> bool:
        """True if every row has the same number of values."""
        return self.per_row == "width"

    @property
    def is_category(self) -> bool:
        """True if the values distinguish groups of users or items."""
        return self.compared_as == "categories"

    @property
    def dtype(self) -> str:
        """TensorFlow's name of the value type."""
        return dtype_of(self.value_type)

    @property
    def absent(self) -> str | float:
        """Absent value in a request; with a width, each of the values."""
        return absent_value(self.dtype, self.has_width)


class BrokenValue(ValueError):
    """Value that its kind does not allow; `row` is its row, `found` the fault, after "has"."""

    def __init__(self, row: int, found: str) -> None:
        super().__init__(f"row {row} has {found}")
        self.row = row
        self.found = found


def dtype_of(value_type: Literal["text", "number"]) -> str:
    """Returns TensorFlow's name of a value type."""
    return "float32" if value_type == "number" else "string"


def absent_value(dtype: str, has_width: bool) -> str | float:
    """Returns the absent value in a request, from an input's type and shape.

    A signature does not name the kind, so the absent value must follow from type and shape alone.
    """
    if dtype == "string":
        return ""
    return 0.0 if has_width else math.nan


# ── Values as Examples hold them ────────────────────────────────────────────────────────────────────────


def encode_text(values: pa.Array, width: int = 0) -> pa.ListArray:
    """Encodes one text per row, or none: numbers are decimal, booleans "true" and "false"."""
    return _present(_texts(values))


def encode_number(values: pa.Array, width: int = 0) -> pa.ListArray:
    """Encodes one number per row, or none; booleans are 0 and 1."""
    return _present(_numbers(values))


def encode_texts(values: pa.Array, width: int = 0) -> pa.ListArray:
    """Encodes any number of texts per row, without absent ones."""
    if pa.types.is_null(values.type):
        offsets = np.zeros(len(values) + 1, np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array([], pa.binary()))
    members = _texts(values.flatten())
    known_before = np.append(0, members.is_valid().to_numpy(zero_copy_only=False).cumsum())
    offsets = known_before[np.append(0, _lengths(values).cumsum())]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), members.drop_null())


def encode_vector(values: pa.Array, width: int) -> pa.ListArray:
    """Encodes `width` numbers per row; a row without a vector has zeros.

    Raises:
      BrokenValue: a vector has another width, or a value is null or not finite.
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
    """Wraps each value in a list; an absent value gives an empty list."""
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
    # NumPy rounds to float32; Arrow's cast would refuse inexact values.
    rounded = pc.fill_null(values, 0).to_numpy(zero_copy_only=False).astype(np.float32)
    known = values.is_valid().to_numpy(zero_copy_only=False) & ~np.isnan(rounded)
    return pa.array(rounded, mask=~known)


def _lengths(values: pa.Array) -> np.ndarray:
    """Counts the values of each list, [rows]; a null list has none."""
    if pa.types.is_fixed_size_list(values.type):
        return values.is_valid().to_numpy(zero_copy_only=False) * np.int64(values.type.list_size)
    return pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False).astype(np.int64)


# ── The kinds ───────────────────────────────────────────────────────────────────────────────────────────

# Embedding of the value.
CATEGORICAL = ColumnKind(
    "categorical",
    types=frozenset({"string", "bool", "int"}),
    encode=encode_text,
    value_type="text",
    per_row="one",
    compared_as="categories",
    request_note=', a number in decimal; "": unknown',
)
# Mean embedding of the values.
MULTI_VALUED = ColumnKind(
    "multi_valued",
    types=frozenset({"list of string", "list of int"}),
    encode=encode_texts,
    value_type="text",
    per_row="any",
    compared_as="categories",
    request_note='; "" is padding',
)
# z-scored number.
NUMERIC = ColumnKind(
    "numeric",
    types=frozenset({"bool", "int", "float"}),
    encode=encode_number,
    value_type="number",
    per_row="one",
    compared_as="numbers",
    request_note="; NaN: unknown",
)
# Mean embedding of the words.
TEXT = ColumnKind(
    "text",
    types=frozenset({"string"}),
    encode=encode_text,
    value_type="text",
    per_row="one",
    compared_as=None,
    request_note='; "": unknown',
)
# Learned projection of the vector, which is not trained.
VECTOR = ColumnKind(
    "vector",
    types=frozenset({"list of int", "list of float"}),
    encode=encode_vector,
    value_type="number",
    per_row="width",
    compared_as=None,
    request_note="; zeros: unknown",
)

# Kinds by name. A column's default kind is the first that its type allows.
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
    # A column of nulls can have any kind, since every kind has an absent value.
    return tuple(kind.name for kind in KINDS.values() if found in kind.types or found == "null")


def fixed_size(arrow_type: str) -> int:
    """Returns the length of the type's lists; 0 if the type does not give it."""
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
