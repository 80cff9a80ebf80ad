"""Conversion of a source column's times to seconds, with errors that name file and row.

Times are Parquet's own, ISO 8601, text in a format that the column map names, or numbers in a unit. Compact
dates, such as 20200914, are numbers in form and are read as dates. Day numbers are refused.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns
from two_tower.ingestion import text_kinds, time_formats
from two_tower.ingestion.column_map import UNITS
from two_tower.ingestion.source_values import (
    Place,
    failing,
    integers,
    is_number,
    is_text,
    is_time,
    numbers,
    plain_text,
    texts_of_decimals,
)

_ZONE = r"(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"
_ISO = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}(:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?)?("
    + _ZONE[1:-2]
    + ")?)?$"
)
# Forms of ISO 8601 and near it → the form that Arrow reads.
_NEAR_ISO = (
    (r"[\s]*(?:UTC|GMT|Z|z)$", "Z"),
    (r"\s+([+-][0-9]{2}(?::?[0-9]{2})?)$", r"\1"),
    (r"(:[0-9]{2})[.,]([0-9]{1,6})[0-9]*", r"\1.\2"),
    (r"^([0-9]{4})/([0-9]{2})/([0-9]{2})", r"\1-\2-\3"),
    (r"^([0-9-]{10})t", r"\1T"),
)
# Kind of day numbers → the number of 1970-01-01.
_DAY_NUMBERS = {
    "days since 1970": 0.0,
    "Excel's serial dates": 25_569.0,
    "modified Julian days": 40_587.0,
    "days since the year 0": 719_529.0,
    "days since the year 1": 719_163.0,
    "Julian days": 2_440_587.5,
}
# Day numbers of 1995 to 2040 are recognised, if nine in ten are such.
_FIRST_DAY, _LAST_DAY, _MOST_DAYS = 9_131, 25_567, 0.9
# Number of first values that tell numbers from texts, and the form of a number.
_JUDGED, _NUMBER = 1_000, r"^[+-]?[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?$"


def times(
    values: pa.Array, unit: str | None, place: Place, is_event: bool = True, form: str | None = None
) -> pa.Array:
    """Converts times to seconds, int64[n].

    Numbers are divided by their unit. Times and dates count from 1970 in UTC. Fractions of a second are cut.

    Args:
      unit: a key of UNITS for a column of numbers; None means seconds.
      is_event: true if a time is required, not negative, and not after the year 2100. The release time of an
        item may be null or negative.
      form: format of a column of texts or whole numbers, see `time_formats`; None means ISO 8601 or numbers.

    Raises:
      WrongRows: a value is no time; the message gives the factor for milli-, micro- and nanoseconds.
      UserError: the column has another type.
    """
    kind = values.type
    if form is not None and not is_time(kind):
        found = _read_form(values, form, place)
    elif is_time(kind):
        found = _seconds_of(values)
    elif is_text(kind) and kind_of_times(values) == "text":
        found = _seconds_of(_read_iso(values, place))
    elif is_text(kind) or is_number(kind) or pa.types.is_null(kind):
        found = _seconds_of_numbers(values, unit, place)
    else:
        raise place.wrong_type(kind, "time")
    if not is_event:
        too_new = pc.greater(found, checked_columns.NEWEST_TIMESTAMP)
        place.refuse_first(too_new, values, "is after the year 2100: check the unit.")
        return found
    place.refuse_first(pc.is_null(found), values, "is no time; drop or repair the row.")
    for wrong in (pc.less(found, 0), pc.greater(found, checked_columns.NEWEST_TIMESTAMP)):
        at = np.flatnonzero(wrong.to_numpy(zero_copy_only=False))
        if not len(at):
            continue
        seconds = found[int(at[0])].as_py()
        remedy = checked_columns.timestamp_remedy(seconds)
        is_numeric = form is None and kind_of_times(values) == "number" and not is_time(kind)
        if seconds > 0 and not is_numeric:
            remedy = "is after the year 2100; drop or repair the row."
        elif "looks like" in remedy and unit is None:
            unit = next(name for name in ("ms", "us", "ns") if f"{UNITS[name]:,}." in remedy)
            remedy = f"{remedy[:-1]}, or set 'timestamp_unit: {unit}' in the column map."
        place.refuse_first(wrong, values, remedy)
    return found


def kind_of_times(values: pa.Array) -> str | None:
    """Returns "text" or "number" for the times of a text column, by most of its first values; None without.

    A value of another kind is then refused as wrong.
    """
    text = pc.drop_null(pc.utf8_trim_whitespace(values.cast(pa.string())))
    text = pc.drop_null(pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)).slice(0, _JUDGED)
    if not len(text):
        return None
    is_number = pc.match_substring_regex(text, _NUMBER).to_numpy(zero_copy_only=False)
    share = is_number.mean()
    # Of as many of both, the first decides.
    return "number" if share > 0.5 or (share == 0.5 and is_number[0]) else "text"


def compact_form(values: pa.Array, unit: str | None, place: Place, meaning: str) -> str | None:
    """Returns the format of a column of compact dates, by its first values; None for other times.

    Args:
      unit: unit that the map names; such numbers are never dates.
      meaning: the column's meaning, for messages.

    Raises:
      UserError: the values are day numbers.
    """
    if unit is not None or not (is_text(values.type) or is_number(values.type)):
        return None
    text = pc.drop_null(pc.utf8_trim_whitespace(_digits(values)))
    known = len(text)
    text = text.filter(pc.match_substring_regex(text, r"^[0-9]+(\.[0-9]+)?$"))
    if not len(text) or 2 * len(text) < known:
        return None
    is_release = meaning == "release_timestamp"
    forms = (*time_formats.COMPACT, *time_formats.YEARS[:2]) if is_release else time_formats.COMPACT
    form = time_formats.form_of_numbers(text, forms)
    if form is None:
        found = text.cast(pa.float64()).to_numpy()
        for name, origin in _DAY_NUMBERS.items():
            if ((found - origin >= _FIRST_DAY) & (found - origin <= _LAST_DAY)).mean() >= _MOST_DAYS:
                days = f"({place.column} - {origin:.10g})" if origin else place.column
                raise UserError(
                    f"{place.path}: column '{place.column}' holds {name}, such as {text[0]}, and not "
                    f"seconds. Convert it, as in {days} * 86400. Or, for seconds "
                    f"of the data's own clock, set '{meaning}_unit: s' in the column map."
                )
    return form


def _digits(values: pa.Array) -> pa.Array:
    """Returns numbers as text, whole ones without a point."""
    if pa.types.is_floating(values.type):
        whole = pc.all(pc.equal(pc.floor(values), values)).as_py() and pc.all(pc.is_finite(values)).as_py()
        if whole and pc.max(pc.abs(values)).as_py() < 2.0**53:
            values = values.cast(pa.int64())
    return texts_of_decimals(values) if pa.types.is_decimal(values.type) else values.cast(pa.string())


def _read_form(values: pa.Array, form: str, place: Place) -> pa.Array:
    if not (is_text(values.type) or is_number(values.type) or pa.types.is_null(values.type)):
        raise place.wrong_type(values.type, "time")
    text = _digits(values)
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    found = time_formats.seconds(text, form)
    wrong = pc.and_(pc.is_valid(text), pc.is_null(found))
    place.refuse_first(wrong, values, f"is no time of the form '{form}'; drop or repair the row.")
    return found


def _seconds_of_numbers(values: pa.Array, unit: str | None, place: Place) -> pa.Array:
    """Divides numbers by their unit, rounding down; whole numbers never pass through floats."""
    factor = UNITS[unit or "s"]
    if pa.types.is_decimal(values.type):
        values = pc.floor(values)
    is_whole = not pa.types.is_floating(values.type)
    if is_whole and not (is_text(values.type) and text_kinds.kind_of(values) != "integer"):
        found = integers(values, place)
        there = found.is_valid().to_numpy(zero_copy_only=False)
        seconds = np.floor_divide(pc.fill_null(found, 0).to_numpy(), factor)
        return pa.array(seconds, mask=~there)
    found = numbers(values, place, None)
    unusable = pc.invert(pc.and_(pc.is_finite(found), pc.less(pc.abs(found), 2.0**62)))
    place.refuse_first(unusable, values, "is no time.")
    return pc.floor(pc.divide(found, float(factor))).cast(pa.int64())


def _seconds_of(values: pa.Array) -> pa.Array:
    """Converts times and dates to whole seconds since 1970, rounding down."""
    if pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("ms"))
    factor = UNITS[values.type.unit]
    there = values.is_valid().to_numpy(zero_copy_only=False)
    ticks = pc.fill_null(values.cast(pa.int64()), 0).to_numpy()
    return pa.array(np.floor_divide(ticks, factor), mask=~there)


def _read_iso(values: pa.Array, place: Place) -> pa.Array:
    """Parses ISO 8601 times, such as "2021-03-04 05:06:07.5+02:00", to timestamp[us][n]; UTC if no zone."""
    text = pc.utf8_trim_whitespace(plain_text(values, place))
    try:
        return _cast_iso(text)
    except pa.ArrowInvalid:
        pass
    for form, right in _NEAR_ISO:
        text = pc.replace_substring_regex(text, form, right)
    remedy = (
        'is no time: use ISO 8601, such as "2021-03-04 05:06:07" or "2021-03-04T05:06:07+02:00", or seconds.'
    )
    wrong = pc.invert(pc.match_substring_regex(text, _ISO))
    if pc.any(wrong).as_py():
        forms = time_formats.proposals(plain_text(values, place))
        if forms:
            remedy = (
                "is not in ISO 8601: set 'timestamp_format' in the column map to "
                f"{time_formats.in_words(forms[:4])}."
            )
        place.refuse_first(wrong, values, remedy)
    try:
        return _cast_iso(text)
    except pa.ArrowInvalid:
        place.refuse_first(failing(text, _cast_iso), values, remedy)
        raise


def _cast_iso(text: pa.Array) -> pa.Array:
    zoned = pc.fill_null(pc.match_substring_regex(text, "[0-9]:[0-9.]+" + _ZONE), False)
    nothing = pa.scalar(None, pa.string())
    # Arrow has two types of times, with and without a zone, and parses only texts that match the type.
    local = pc.if_else(zoned, nothing, text).cast(pa.timestamp("us"))
    if not pc.any(zoned).as_py():
        return local
    utc = pc.if_else(zoned, text, nothing).cast(pa.timestamp("us", "UTC"))
    return pc.if_else(zoned, utc.cast(pa.int64()), local.cast(pa.int64())).cast(pa.timestamp("us"))
