"""Conversion of a source column's values to the type of the data directory, with errors that name file and
row.

Columns arrive in the source's type: numbers, text (everything in a CSV file), times, lists. Each function
takes a column and its place. It raises an error for the first value that cannot be converted.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections import Counter
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns
from two_tower.data_directory.checked_columns import WrongRows
from two_tower.data_directory.manifest import SPLIT_NAMES
from two_tower.ingestion import text_kinds
from two_tower.ingestion.column_map import SPLIT_OF

# Whole numbers from here on have no exact double.
LARGEST_EXACT = 2.0**53


@dataclasses.dataclass(frozen=True)
class Place:
    """Place of an array's values in the source: file, column and first row."""

    path: str
    column: str
    first_row: int
    # Numbers of the source's rows, int64[n], where lists were unfolded to values; None: they count on.
    rows: np.ndarray | None = None
    # Column → number of words such as NULL that were read as missing numbers; conversions add to it.
    missing: Counter[str] = dataclasses.field(default_factory=Counter, compare=False)

    def _first(self, row: int) -> int:
        """Returns a first row from which `row` counts on to its number in the source."""
        return self.first_row if self.rows is None else int(self.rows[row]) - row

    def error(self, row: int, value: object, remedy: str) -> WrongRows:
        """Returns the error for one value; `row` counts within the array."""
        return WrongRows(self.path, self.column, [row], self._first(row), lambda _: value, remedy)

    def wrong_type(self, found: pa.DataType, wanted: str) -> UserError:
        """Returns the error for a column of the wrong type."""
        return UserError(f"{self.path}: column '{self.column}' has type {found}, but needs {wanted}.")

    def refuse_first(self, wrong: pa.Array, values: pa.Array, remedy: str) -> None:
        """Raises the error for the values that `wrong` marks (booleans; null counts as false)."""
        at = np.flatnonzero(pc.fill_null(wrong, False).to_numpy(zero_copy_only=False))
        if len(at):
            raise WrongRows(
                self.path, self.column, at, self._first(int(at[0])), lambda row: shown(values, row), remedy
            )


def shown(values: pa.Array, row: int) -> str:
    """Returns one value as errors show it, at most 60 characters."""
    try:
        value = values[row].as_py()
    except (OverflowError, ValueError):
        # A time or date that Python has no type for, such as the year 10,000.
        ticks = pa.int32() if pa.types.is_date32(values.type) else pa.int64()
        value = values.slice(row, 1).cast(ticks)[0].as_py()
    if isinstance(value, datetime.date):  # a time with or without a zone too
        return value.isoformat(*[" "] * isinstance(value, datetime.datetime))
    return "null" if value is None else f"{value!r:.60}"


def is_text(kind: pa.DataType) -> bool:
    """Returns whether a column of this type holds text, dictionary-encoded or not."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_list(kind: pa.DataType) -> bool:
    """Returns whether a column of this type holds lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_number(kind: pa.DataType) -> bool:
    """Returns whether a column of this type holds numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def is_time(kind: pa.DataType) -> bool:
    """Returns whether a column of this type holds times or dates."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


# ── Kinds of columns ────────────────────────────────────────────────────────────────────────────────────


def kind_of_type(kind: pa.DataType) -> str | None:
    """Returns the kind of a Parquet column from its type.

    Returns:
      "integer", "number", "boolean", "text" or "time"; "list of integer" and so on for lists; "vector of n"
      for lists of one fixed width; None for a column of nulls; "" for any other type.
    """
    if pa.types.is_null(kind):
        return None
    if pa.types.is_fixed_size_list(kind) and is_number(kind.value_type):
        return f"vector of {kind.list_size}"
    if is_list(kind):
        inner = kind_of_type(kind.value_type)
        return f"list of {inner}" if inner in ("integer", "number", "text") else ""
    checks: dict[str, Callable[[pa.DataType], bool]] = {
        "integer": lambda kind: pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0),
        "number": is_number,
        "boolean": pa.types.is_boolean,
        "text": is_text,
        "time": is_time,
    }
    return next((name for name, holds in checks.items() if holds(kind)), "")


def common_kind(one: str | None, other: str | None) -> str | None:
    """Returns the kind that covers both kinds; "" if there is none."""
    if one is None or other is None or one == other:
        return one if other is None else other
    return "number" if {one, other} == {"integer", "number"} else ""


# ── Conversion of values ────────────────────────────────────────────────────────────────────────────────


def plain_text(values: pa.Array, place: Place) -> pa.Array:
    """Converts text, numbers, booleans and times to string[n]; empty text and NaN become null.

    Whole numbers have no point, whatever their type.

    Raises:
      UserError: the column has another type.
    """
    kind = values.type
    if pa.types.is_null(kind):
        return pa.nulls(len(values), pa.string())
    if pa.types.is_decimal(kind):
        return texts_of_decimals(values)
    if pa.types.is_floating(kind):
        return _texts_of_floats(values)
    if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or is_time(kind)):
        raise place.wrong_type(kind, "text")
    values = values.cast(pa.string())
    return pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)


def texts_of_decimals(values: pa.Array) -> pa.Array:
    """Converts decimals to string[n]; whole ones have no point, for Arrow has no such cast."""
    encoded = values.dictionary_encode()
    texts = [f"{value:f}" for value in encoded.dictionary.to_pylist()]
    texts = [text.rstrip("0").rstrip(".") if "." in text else text for text in texts]
    return pa.array(texts, pa.string()).take(encoded.indices)


def are_whole(values: pa.Array) -> bool:
    """Returns whether all floats or decimals are whole numbers; NaN is a missing value."""
    if pa.types.is_decimal(values.type):
        try:
            # Not by floats, in which a whole decimal may have a fraction.
            values.cast(pa.decimal256(76, 0))
        except pa.ArrowInvalid:
            return False
        return True
    values = values.cast(pa.float64())
    return bool(pc.all(pc.or_(pc.equal(pc.floor(values), values), pc.is_nan(values))).as_py())


def _texts_of_floats(values: pa.Array) -> pa.Array:
    values = values.cast(pa.float64()) if values.type == pa.float16() else values
    whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), LARGEST_EXACT))
    digits = pc.if_else(whole, values, pa.scalar(0, values.type)).cast(pa.int64()).cast(pa.string())
    text = pc.if_else(whole, digits, values.cast(pa.string()))
    return pc.if_else(pc.is_nan(values), pa.scalar(None, pa.string()), text)


def refuse_rounded(values: pa.Array, place: Place) -> None:
    """Raises WrongRows for floats that may have lost digits; other types have lost none."""
    if pa.types.is_floating(values.type):
        place.refuse_first(
            pc.greater_equal(pc.abs(values), LARGEST_EXACT),
            values,
            "may have lost digits, for a float has 53 bits: write it as an integer or as text.",
        )


def integers(values: pa.Array, place: Place) -> pa.Array:
    """Converts values to int64[n]; nulls and NaN become null.

    Decimals, floats and texts with a point may be whole numbers.

    Raises:
      UserError: a value is no whole number, exceeds int64, or is a float that may have lost digits.
    """
    kind = values.type
    if pa.types.is_floating(kind):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, kind), values)
        refuse_rounded(values, place)
    elif not (is_number(kind) or is_text(kind) or pa.types.is_null(kind)):
        raise place.wrong_type(kind, "integer")
    remedy = "is no whole number of at most 64 bits."
    if pa.types.is_integer(kind):
        remedy = "is no integer here: the largest is 2^63 - 1."
    return _parse(values, pa.int64(), "^-?[0-9]+$", place, remedy, (r"^(-?[0-9]+)\.0*$", r"\1"))


def numbers(values: pa.Array, place: Place, largest: float | None) -> pa.Array:
    """Converts values to double[n]; nulls stay null.

    Args:
      largest: bound of values that must be 0 or more, as ratios and lengths must; None: any number.

    Raises:
      UserError: a value is no number, or out of bounds.
    """
    kind = values.type
    if not (is_number(kind) or is_text(kind) or pa.types.is_null(kind)):
        raise place.wrong_type(kind, "number")
    form = r"^[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|(?i:nan|inf))$"
    found = _parse(values, pa.float64(), form, place, "is no number.")
    if largest is not None:
        # Comparisons with NaN are false.
        right = pc.and_(pc.greater_equal(found, 0), pc.less_equal(found, largest))
        place.refuse_first(pc.invert(right), values, checked_columns.quantity_remedy(largest))
    return found


def booleans(values: pa.Array, place: Place) -> pa.Array:
    """Converts values to bool[n]; nulls stay null, and 0 and 1 count as booleans.

    Raises:
      UserError: a value is not true, false, 0 or 1.
    """
    kind = values.type
    if pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return values.cast(pa.bool_())
    if not (is_text(kind) or pa.types.is_integer(kind)):
        raise place.wrong_type(kind, "boolean")
    text = pc.utf8_lower(pc.utf8_trim_whitespace(values.cast(pa.string())))
    known = pc.is_in(text, value_set=pa.array(["true", "false", "1", "0", None]))
    missing = pc.is_in(text, value_set=pa.array(text_kinds.MISSING))
    place.refuse_first(pc.invert(pc.or_(known, missing)), values, "is not one of true, false, 1 and 0.")
    place.missing[place.column] += pc.sum(missing).as_py() or 0
    return pc.if_else(
        pc.and_(pc.is_valid(text), pc.invert(missing)),
        pc.is_in(text, value_set=pa.array(["true", "1"])),
        pa.scalar(None, pa.bool_()),
    )


def splits(values: pa.Array, place: Place) -> pa.Array:
    """Converts values to the split names train, eval and test, string[n]; val, valid and validation become
    eval.

    Raises:
      UserError: a value is null or another name.
    """
    text = pc.utf8_lower(plain_text(values, place))
    index = pc.index_in(text, value_set=pa.array(list(SPLIT_OF)))
    place.refuse_first(pc.is_null(index), values, f"is not one of {', '.join(SPLIT_NAMES)}.")
    return pa.array(list(SPLIT_OF.values())).take(index)


def lists_of_text(values: pa.Array, separator: str | None, place: Place) -> pa.Array:
    """Converts values to list<string>[n] without blank entries; null becomes the empty list.

    A separator splits the values of a text column into entries.

    Raises:
      UserError: the column holds neither text nor lists of text.
    """
    kind = values.type
    if is_list(kind) and (is_text(kind.value_type) or pa.types.is_integer(kind.value_type)):
        values = plain_lists(values).cast(pa.list_(pa.string()))
        return _without_blanks(pc.list_value_length(values), values.flatten())
    text = plain_text(values, place)
    if not separator:
        return _without_blanks(pc.if_else(pc.is_valid(text), 1, 0), pc.drop_null(text))
    parts = pc.split_pattern(text, separator)
    return _without_blanks(pc.list_value_length(parts), parts.flatten())


def _without_blanks(lengths: pa.Array, flat: pa.Array) -> pa.Array:
    """Builds lists of the given lengths (null: 0) and drops their blank entries."""
    flat = pc.utf8_trim_whitespace(flat)
    keep = pc.fill_null(pc.not_equal(flat, ""), False).to_numpy(zero_copy_only=False)
    ends = np.cumsum(pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False))
    offsets = np.append(0, np.append(0, np.cumsum(keep))[ends])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat.filter(pa.array(keep)))


def vectors(
    values: pa.Array, separator: str | None, width: int, place: Place
) -> tuple[np.ndarray, np.ndarray]:
    """Converts values to content embeddings float32[n, width], with zeros for missing ones, and a mask
    bool[n] of present ones.

    Args:
      separator: separator of the numbers in a text column; brackets around them are ignored.
      width: required width, as `most_common_width` finds it.

    Raises:
      UserError: a vector has another width, or a value that is no finite number.
    """
    lists = _number_lists(values, separator, place)
    there = pc.and_(pc.is_valid(lists), pc.greater(pc.list_value_length(lists), 0))
    there = pc.fill_null(there, False).to_numpy(zero_copy_only=False)
    found = np.zeros((len(lists), width), np.float32)
    if there.any():
        rows = np.flatnonzero(there)
        try:
            found[rows] = checked_columns.embeddings(
                lists.filter(pa.array(there)), place.path, place.column, width
            )
        except UserError:
            # A second pass, row by row, finds all wrong rows.
            wrong = {}
            for row in rows.tolist():
                try:
                    checked_columns.embeddings(lists.slice(row, 1), place.path, place.column, width, 0)
                except UserError as error:
                    wrong[row] = str(error).partition("row 0: ")[2]
            raise WrongRows(
                place.path, place.column, list(wrong), place.first_row, lambda row: wrong[row], ""
            ) from None
    return found, there


def most_common_width(values: pa.Array, separator: str | None, place: Place) -> int:
    """Returns the most common width of the vectors; 0 if there are none."""
    lengths = pc.fill_null(pc.list_value_length(_number_lists(values, separator, place)), 0)
    counts = np.bincount(lengths.to_numpy(zero_copy_only=False))[1:]
    return int(counts.argmax()) + 1 if counts.any() else 0


def _number_lists(values: pa.Array, separator: str | None, place: Place) -> pa.Array:
    kind = values.type
    if is_list(kind) and is_number(kind.value_type):
        return plain_lists(values)
    if pa.types.is_null(kind):
        return pa.nulls(len(values), pa.list_(pa.float32()))
    if not is_text(kind):
        raise place.wrong_type(kind, "list of numbers")
    text = pc.utf8_trim(plain_text(values, place), characters="[]() \t")
    separator = separator or ","
    # A blank as separator stands for one or more blanks.
    parts = pc.utf8_split_whitespace(text) if separator.isspace() else pc.split_pattern(text, separator)
    flat = pc.utf8_trim_whitespace(parts.flatten())
    try:
        found = flat.cast(pa.float32())
    except pa.ArrowInvalid:
        row = pc.list_parent_indices(parts)
        wrong = pc.fill_null(
            pc.invert(pc.match_substring_regex(flat, r"^[+-]?([0-9.]+([eE][+-]?[0-9]+)?|(?i:nan|inf))$")),
            True,
        )
        at = int(np.argmax(wrong.to_numpy(zero_copy_only=False)))
        raise place.error(
            row[at].as_py(),
            f"{flat[at].as_py()!r:.60}",
            f"is no number; {separator!r} separates the numbers of a vector.",
        ) from None
    lengths = pc.fill_null(pc.list_value_length(parts), 0).to_numpy(zero_copy_only=False)
    offsets = np.append(0, np.cumsum(lengths))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), found)


def plain_lists(values: pa.Array) -> pa.Array:
    """Converts large and fixed-size lists to plain lists; null lists of fixed size become empty."""
    inner = values.type.value_type
    inner = pa.string() if is_text(inner) else pa.float64() if pa.types.is_decimal(inner) else inner
    if pa.types.is_fixed_size_list(values.type):
        lengths = np.where(values.is_valid().to_numpy(zero_copy_only=False), values.type.list_size, 0)
        offsets = np.append(0, np.cumsum(lengths))
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pc.list_flatten(values).cast(inner))
    return values.cast(pa.list_(inner))


# ── Parsing ─────────────────────────────────────────────────────────────────────────────────────────────


def _parse(
    values: pa.Array,
    kind: pa.DataType,
    form: str,
    place: Place,
    remedy: str,
    near: tuple[str, str] | None = None,
) -> pa.Array:
    """Converts `values` to `kind`; text must match the regular expression `form`, since Arrow would accept
    "0x1F".

    Args:
      near: expression of texts that have another form, and its replacement.
    """
    text = values
    if is_text(values.type):
        text = pc.utf8_trim_whitespace(plain_text(values, place))
        right = pc.match_substring_regex(text, form)
        if near is not None and not pc.all(right).as_py():
            text = pc.replace_substring_regex(text, *near)
            right = pc.match_substring_regex(text, form)
        if not pc.all(right).as_py():
            missing = pc.is_in(text, value_set=pa.array(text_kinds.MISSING))
            place.missing[place.column] += pc.sum(missing).as_py()
            place.refuse_first(pc.invert(pc.or_(right, missing)), values, remedy)
            text = pc.if_else(missing, pa.scalar(None, pa.string()), text)
    return _cast(text, kind, values, place, remedy)


def _cast(converted: pa.Array, kind: pa.DataType, values: pa.Array, place: Place, remedy: str) -> pa.Array:
    """Casts `converted` to `kind`; the error names the values that fail, as `values` has them."""
    try:
        return converted.cast(kind)
    except pa.ArrowInvalid:
        place.refuse_first(failing(converted, lambda part: part.cast(kind)), values, remedy)
        raise


def failing(values: pa.Array, convert: Callable[[pa.Array], object]) -> pa.Array:
    """Returns which values a conversion fails for, bool[n].

    Args:
      convert: raises ArrowInvalid if it fails for any value.
    """
    wrong = np.zeros(len(values), bool)
    parts = [(0, len(values))]
    while parts:
        start, end = parts.pop()
        try:
            convert(values.slice(start, end - start))
        except pa.ArrowInvalid:
            middle = (start + end) // 2
            wrong[start] = middle == start
            parts += [(start, middle), (middle, end)] if middle > start else []
    return pa.array(wrong)
