"""Values of a source's column in the type that the data directory has, or an error with file and row.

Columns come as whatever the source has: numbers, text (all of a CSV file is), times, lists. Each function
takes one of them and the place it comes from, and names the first value that cannot be understood.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns
from two_tower.data_directory.manifest import SPLIT_NAMES
from two_tower.ingestion.column_map import SPLIT_OF, UNITS

# Names that published splits go by.
_WHOLE_NUMBER = r"^-?(0|[1-9][0-9]{0,18})$"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_ZONE = r"(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the values of an array come from."""

    path: str
    column: str
    first_row: int

    def error(self, row: int, value: object, remedy: str) -> UserError:
        """The error for one value, whose row is counted within the array."""
        return checked_columns.refuse(self.path, self.column, self.first_row + row, value, remedy)

    def wrong_type(self, found: pa.DataType, wanted: str) -> UserError:
        """The error for a column as a whole."""
        return UserError(f"{self.path}: column '{self.column}' is of type {found}, where {wanted} is needed.")

    def refuse_first(self, wrong: pa.Array, values: pa.Array, remedy: str) -> None:
        """Raises the error for the first value for which `wrong` (booleans; null is not) holds."""
        at = np.flatnonzero(pc.fill_null(wrong, False).to_numpy(zero_copy_only=False))
        if len(at):
            value = values[int(at[0])].as_py()
            raise self.error(int(at[0]), "null" if value is None else f"{value!r:.60}", remedy)


def is_text(kind: pa.DataType) -> bool:
    """Does a column of that type hold text, be it as a dictionary?"""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_list(kind: pa.DataType) -> bool:
    """Does a column of that type hold lists?"""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


# ── What a column holds ─────────────────────────────────────────────────────────────────────────────────


def kind_of_type(kind: pa.DataType) -> str | None:
    """What a Parquet column of that type holds: "integer", "number", "boolean", "text" or "time"; of a list
    "list of integer" and so on, "vector of n" where all have one width. None for a column of nulls alone, ""
    for a type that is none of these.
    """
    if pa.types.is_null(kind):
        return None
    if pa.types.is_fixed_size_list(kind) and _is_number(kind.value_type):
        return f"vector of {kind.list_size}"
    if is_list(kind):
        inner = kind_of_type(kind.value_type)
        return f"list of {inner}" if inner in ("integer", "number", "text") else ""
    checks: dict[str, Callable[[pa.DataType], bool]] = {
        "integer": pa.types.is_integer,
        "number": _is_number,
        "boolean": pa.types.is_boolean,
        "text": is_text,
        "time": _is_time,
    }
    return next((name for name, holds in checks.items() if holds(kind)), "")


def kind_of_text(values: pa.Array) -> str | None:
    """What the values of a text column all are: "integer", "number", "boolean" or else "text"; None without
    any.

    Digits after a leading zero are text: as a number 007 would be 7. Truth is "true" or "false": a column of
    0 and 1 may count more in the next file.
    """
    values = pc.drop_null(values)
    if not len(values):
        return None
    for kind, form in (("integer", _WHOLE_NUMBER), ("number", _NUMBER), ("boolean", "^(?i:true|false)$")):
        if pc.all(pc.match_substring_regex(values, form)).as_py() and not (
            kind == "number" and pc.any(pc.match_substring_regex(values, "^[+-]?0[0-9]")).as_py()
        ):
            return kind
    return "text"


def common_kind(one: str | None, other: str | None) -> str | None:
    """The kind of a column that is of one kind here and of the other there; "" where there is none."""
    if one is None or other is None or one == other:
        return one if other is None else other
    return "number" if {one, other} == {"integer", "number"} else ""


# ── Values ──────────────────────────────────────────────────────────────────────────────────────────────


def plain_text(values: pa.Array, place: Place) -> pa.Array:
    """string[n]: text as it is, whole numbers and truth as text, empty text as null.

    Raises:
      UserError: the column holds something else.
    """
    kind = values.type
    if pa.types.is_null(kind):
        return pa.nulls(len(values), pa.string())
    if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise place.wrong_type(kind, "text")
    values = values.cast(pa.string())
    return pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)


def integers(values: pa.Array, place: Place) -> pa.Array:
    """int64[n], nulls as they are.

    Raises:
      UserError: a value is no whole number, or beyond int64.
    """
    kind = values.type
    if not (pa.types.is_integer(kind) or is_text(kind) or pa.types.is_null(kind)):
        raise place.wrong_type(kind, "integer")
    return _parsed(values, pa.int64(), "^-?[0-9]+$", place, "is no whole number of at most 64 bits.")


def numbers(values: pa.Array, place: Place, bounded: bool = True) -> pa.Array:
    """double[n], nulls as they are.

    Args:
      bounded: a value has to be finite and 0 or more, as shares and lengths are.

    Raises:
      UserError: a value is no number, or out of bounds.
    """
    kind = values.type
    if not (_is_number(kind) or is_text(kind) or pa.types.is_null(kind)):
        raise place.wrong_type(kind, "number")
    form = r"^[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|(?i:nan|inf))$"
    found = _parsed(values, pa.float64(), form, place, "is no number.")
    if bounded:
        right = pc.and_(pc.is_finite(found), pc.greater_equal(found, 0))
        place.refuse_first(pc.invert(right), values, "is not a finite number of 0 or more.")
    return found


def booleans(values: pa.Array, place: Place) -> pa.Array:
    """bool[n], nulls as they are; of numbers 0 and 1.

    Raises:
      UserError: a value is none of true, false, 0 and 1.
    """
    kind = values.type
    if pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return values.cast(pa.bool_())
    if not (is_text(kind) or pa.types.is_integer(kind)):
        raise place.wrong_type(kind, "boolean")
    text = pc.utf8_lower(pc.utf8_trim_whitespace(values.cast(pa.string())))
    known = pc.is_in(text, value_set=pa.array(["true", "false", "1", "0", None]))
    place.refuse_first(pc.invert(known), values, "is none of true, false, 1 and 0.")
    return pc.if_else(
        pc.is_valid(text), pc.is_in(text, value_set=pa.array(["true", "1"])), pa.scalar(None, pa.bool_())
    )


def splits(values: pa.Array, place: Place) -> pa.Array:
    """string[n]: train, eval or test; val, valid and validation are eval.

    Raises:
      UserError: a value is another, or null.
    """
    text = pc.utf8_lower(plain_text(values, place))
    index = pc.index_in(text, value_set=pa.array(list(SPLIT_OF)))
    place.refuse_first(pc.is_null(index), values, f"is none of {', '.join(SPLIT_NAMES)}.")
    return pa.array(list(SPLIT_OF.values())).take(index)


def lists_of_text(values: pa.Array, separator: str | None, place: Place) -> pa.Array:
    """list<string>[n]: of a text column its parts between separators, without blanks; null is the empty list.

    Raises:
      UserError: the column holds neither text nor lists of it.
    """
    kind = values.type
    if is_list(kind) and (is_text(kind.value_type) or pa.types.is_integer(kind.value_type)):
        values = whole_lists(values).cast(pa.list_(pa.string()))
        return _without_blanks(pc.list_value_length(values), values.flatten())
    text = plain_text(values, place)
    if not separator:
        return _without_blanks(pc.if_else(pc.is_valid(text), 1, 0), pc.drop_null(text))
    parts = pc.split_pattern(text, separator)
    return _without_blanks(pc.list_value_length(parts), parts.flatten())


def _without_blanks(lengths: pa.Array, flat: pa.Array) -> pa.Array:
    """Lists of those lengths (null: empty), of the entries that hold more than spaces."""
    flat = pc.utf8_trim_whitespace(flat)
    keep = pc.fill_null(pc.not_equal(flat, ""), False).to_numpy(zero_copy_only=False)
    ends = np.cumsum(pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False))
    offsets = np.append(0, np.append(0, np.cumsum(keep))[ends])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat.filter(pa.array(keep)))


def vectors(
    values: pa.Array, separator: str | None, width: int, place: Place
) -> tuple[np.ndarray, np.ndarray]:
    """Content vectors: float32[n, width], zeros where there is none, and bool[n]: is there one?

    Args:
      separator: between the numbers of a text column; brackets around them are left out.
      width: that all have to have, as `usual_width` found it.

    Raises:
      UserError: a vector is of another width, or has a value that is no number or not finite.
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
            # Again, row by row, for the number of the row in the file.
            for row in rows.tolist():
                checked_columns.embeddings(
                    lists.slice(row, 1), place.path, place.column, width, place.first_row + row
                )
            raise
    return found, there


def usual_width(values: pa.Array, separator: str | None, place: Place) -> int:
    """The width that most of the vectors have; 0 where there is none."""
    lengths = pc.fill_null(pc.list_value_length(_number_lists(values, separator, place)), 0)
    counts = np.bincount(lengths.to_numpy(zero_copy_only=False))[1:]
    return int(counts.argmax()) + 1 if counts.any() else 0


def _number_lists(values: pa.Array, separator: str | None, place: Place) -> pa.Array:
    kind = values.type
    if is_list(kind) and _is_number(kind.value_type):
        return whole_lists(values)
    if pa.types.is_null(kind):
        return pa.nulls(len(values), pa.list_(pa.float32()))
    if not is_text(kind):
        raise place.wrong_type(kind, "list of numbers")
    text = pc.utf8_trim(plain_text(values, place), characters="[]() \t")
    separator = separator or ","
    # Numbers that are set apart by blanks may be so by several of them.
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
            f"is no number of a vector; they are set apart by {separator!r}.",
        ) from None
    lengths = pc.fill_null(pc.list_value_length(parts), 0).to_numpy(zero_copy_only=False)
    offsets = np.append(0, np.cumsum(lengths))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), found)


def whole_lists(values: pa.Array) -> pa.Array:
    """Lists as plain ones, large types and fixed sizes taken away; null ones of a fixed size are empty."""
    inner = values.type.value_type
    inner = pa.string() if is_text(inner) else pa.float64() if pa.types.is_decimal(inner) else inner
    if pa.types.is_fixed_size_list(values.type):
        lengths = np.where(values.is_valid().to_numpy(zero_copy_only=False), values.type.list_size, 0)
        offsets = np.append(0, np.cumsum(lengths))
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pc.list_flatten(values).cast(inner))
    return values.cast(pa.list_(inner))


# ── Times ───────────────────────────────────────────────────────────────────────────────────────────────


def times(values: pa.Array, unit: str | None, place: Place, is_event: bool = True) -> pa.Array:
    """int64[n]: seconds. Whole numbers are divided by their unit, times and dates counted from 1970 in UTC.

    Args:
      unit: a key of UNITS for a column of numbers; None is seconds.
      is_event: a time has to be there, not negative, and not after the year 2100; of an item's release it may
        be null or negative.

    Raises:
      UserError: a value is no time, with the factor where it is in milli-, micro- or nanoseconds.
    """
    kind = values.type
    if _is_time(kind):
        found = _seconds_of(values)
    elif is_text(kind) and kind_of_times(values) == "text":
        found = _seconds_of(_read_times(values, place))
    elif is_text(kind) or _is_number(kind) or pa.types.is_null(kind):
        found = _seconds_of_numbers(values, unit, place)
    else:
        raise place.wrong_type(kind, "time")
    if not is_event:
        too_new = pc.greater(found, checked_columns.NEWEST_TIMESTAMP)
        place.refuse_first(too_new, values, "is after the year 2100: is the unit right?")
        return found
    place.refuse_first(pc.is_null(found), values, "is no time; drop or repair the row.")
    wrong = pc.or_(pc.less(found, 0), pc.greater(found, checked_columns.NEWEST_TIMESTAMP))
    at = np.flatnonzero(wrong.to_numpy(zero_copy_only=False))
    if len(at):
        seconds = found[int(at[0])].as_py()
        remedy = checked_columns.timestamp_remedy(seconds)
        if seconds > 0 and kind_of_times(values) not in ("integer", "number"):
            remedy = "is after the year 2100; drop or repair the row."
        elif "looks like" in remedy and unit is None:
            unit = next(name for name in ("ms", "us", "ns") if f"{UNITS[name]:,}." in remedy)
            remedy = f"{remedy[:-1]}, or say 'timestamp_unit: {unit}' in the column map."
        raise place.error(int(at[0]), values[int(at[0])].as_py(), remedy)
    return found


def kind_of_times(values: pa.Array) -> str | None:
    """Whether the times of a text column are "text" or "number", by the first of them: what differs from it
    is the one that is wrong. None without any.
    """
    text = pc.drop_null(pc.utf8_trim_whitespace(values.cast(pa.string())))
    if not len(text):
        return None
    return "text" if kind_of_text(text.slice(0, 1)) in ("text", "boolean") else "number"


def _seconds_of_numbers(values: pa.Array, unit: str | None, place: Place) -> pa.Array:
    """Numbers divided by their unit, rounded down; whole ones are never floats on the way."""
    factor = UNITS[unit or "s"]
    is_whole = not (pa.types.is_floating(values.type) or pa.types.is_decimal(values.type))
    if is_whole and not (is_text(values.type) and kind_of_text(values) != "integer"):
        found = integers(values, place)
        there = found.is_valid().to_numpy(zero_copy_only=False)
        seconds = np.floor_divide(pc.fill_null(found, 0).to_numpy(), factor)
        return pa.array(seconds, mask=~there)
    found = numbers(values, place, bounded=False)
    unusable = pc.invert(pc.and_(pc.is_finite(found), pc.less(pc.abs(found), 2.0**62)))
    place.refuse_first(unusable, values, "is no time.")
    return pc.floor(pc.divide(found, float(factor))).cast(pa.int64())


def _seconds_of(values: pa.Array) -> pa.Array:
    """Whole seconds since 1970 of times and dates, rounded down."""
    if pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("ms"))
    factor = UNITS[values.type.unit]
    there = values.is_valid().to_numpy(zero_copy_only=False)
    ticks = pc.fill_null(values.cast(pa.int64()), 0).to_numpy()
    return pa.array(np.floor_divide(ticks, factor), mask=~there)


def _read_times(values: pa.Array, place: Place) -> pa.Array:
    """timestamp[ns][n] of ISO 8601, as "2021-03-04 05:06:07.5+02:00"; without a zone it is UTC."""
    text = pc.utf8_trim_whitespace(plain_text(values, place))
    zoned = pc.fill_null(pc.match_substring_regex(text, "[0-9]:[0-9.]+ ?" + _ZONE), False)
    remedy = (
        'is no time: write ISO 8601, as "2021-03-04 05:06:07" or "2021-03-04T05:06:07+02:00", or seconds.'
    )
    nothing = pa.scalar(None, pa.string())
    # Arrow reads a text with a zone as a time with one, and one without as a time without.
    local = _cast(pc.if_else(zoned, nothing, text), pa.timestamp("us"), values, place, remedy)
    if not pc.any(zoned).as_py():
        return local
    utc = _cast(pc.if_else(zoned, text, nothing), pa.timestamp("us", "UTC"), values, place, remedy)
    return pc.if_else(zoned, utc.cast(pa.int64()), local.cast(pa.int64())).cast(pa.timestamp("us"))


# ── Parsing ─────────────────────────────────────────────────────────────────────────────────────────────


def _parsed(values: pa.Array, kind: pa.DataType, form: str, place: Place, remedy: str) -> pa.Array:
    """`values` as `kind`; text has to be of the form (Arrow alone would take "0x1F" for a number)."""
    text = values
    if is_text(values.type):
        text = pc.utf8_trim_whitespace(plain_text(values, place))
        place.refuse_first(pc.invert(pc.match_substring_regex(text, form)), values, remedy)
    return _cast(text, kind, values, place, remedy)


def _cast(converted: pa.Array, kind: pa.DataType, values: pa.Array, place: Place, remedy: str) -> pa.Array:
    """`converted` as `kind`, or the error for the first that cannot be, told by what was in `values`."""
    try:
        return converted.cast(kind)
    except pa.ArrowInvalid:
        first, end = 0, len(converted)
        while end - first > 1:
            middle = (first + end) // 2
            try:
                converted.slice(first, middle - first).cast(kind)
                first = middle
            except pa.ArrowInvalid:
                end = middle
        raise place.error(first, f"{values[first].as_py()!r:.60}", remedy) from None
