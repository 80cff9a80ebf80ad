"""Times as text in a format of strptime's directives, such as "%m/%d/%Y %I:%M:%S %p", parsed by columns.

Arrow's own strptime knows neither fractions nor zones, and Python's takes several seconds a million values.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# Directive → regular expression of its text; {w} is the number of digits.
_FORMS = {
    "Y": "[0-9]{4}",
    "y": "[0-9]{2}",
    "m": "[0-9]{w}",
    "d": "[0-9]{w}",
    "H": "[0-9]{w}",
    "I": "[0-9]{w}",
    "M": "[0-9]{w}",
    "S": "[0-9]{w}",
    "f": "[0-9]{1,9}",
    "p": r"(?i:[ap]\.?m\.?)",
    "b": "(?i:" + "|".join(_MONTHS) + r")[a-zA-Z]*\.?",
    "a": r"[a-zA-Z]{2,9}\.?",
    "z": "(?:Z|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?)",
}
_SAME = {"B": "b", "A": "a", "T": "%H:%M:%S", "F": "%Y-%m-%d", "D": "%m/%d/%y"}
_NUMERIC = frozenset("YymdHIMSf")
# Formats of times that are whole numbers in form.
COMPACT = ("%Y%m%d", "%Y%m%d%H%M%S", "%Y%m%d%H%M", "%Y%m%d%H%M%S%f")
# Least share of a column's values that have its format. Of numbers in the same range 4 in 100 are dates.
_MOST = 0.5
# Formats of times that tell no day, which is the first then.
YEARS = ("%Y", "%Y%m", "%Y-%m")
# Formats to propose for a column that is not in ISO 8601: dates, and what may follow them.
_DATES = ("%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d/%m/%y", "%d.%m.%Y", "%m-%d-%Y", "%d-%m-%Y", "%d-%b-%Y",
          "%d/%b/%Y", "%b %d, %Y", "%d %b %Y", "%a, %d %b %Y", "%a %b %d", "%Y.%m.%d", "%Y-%m-%d",
          "%Y%m%d")  # fmt: skip
_CLOCKS = ("", "%H:%M", "%H:%M:%S", "%I:%M %p", "%I:%M:%S %p", "%H:%M:%S.%f", "%H:%M:%S %z", "%H:%M:%S %Y",
           "%H:%M:%S %z %Y", "%H%M%S", "%H%M%S%z")  # fmt: skip
_JOINTS = (" ", "T", ", ", ":", "")


def complaint(form: str) -> str | None:
    """Returns the fault of a format; None for one that tells times."""
    directives, unknown = _directives(form)
    if unknown:
        return f"directive %{unknown[0]} is not known; known are %{', %'.join([*_FORMS, *_SAME])}"
    twice = next((one for one in directives if directives.count(one) > 1), None)
    if twice:
        return f"directive %{twice} stands twice"
    for names, needed in (("Yy", "a year (%Y)"), ("mb", "a month (%m)"), ("d", "a day (%d)")):
        if not set(names) & set(directives) and form not in YEARS:
            return f"it has no directive of {needed}"
    if "I" in directives and "p" not in directives:
        return "hours from 1 to 12 (%I) need %p, which tells morning from afternoon"
    if "p" in directives and "I" not in directives:
        return "%p, which tells morning from afternoon, needs hours from 1 to 12 (%I)"
    return None


def seconds(text: pa.Array, form: str) -> pa.Array:
    """Parses times in a format to seconds since 1970, int64[n]; null where a text has another form.

    A time without zone is in UTC. Fractions of a second are cut.
    """
    found = pc.extract_regex(pc.utf8_trim_whitespace(text), _expression(form))
    matched = pc.is_valid(found)
    directives, _ = _directives(form)

    def part(name: str) -> pa.Array:
        return pc.if_else(matched, found.field(directives.index(name)), pa.scalar("0"))

    def number(name: str, default: int = 0) -> np.ndarray:
        if name not in directives:
            return np.full(len(text), default)
        return part(name).cast(pa.int64()).to_numpy()

    year = number("Y")
    if "y" in directives:
        short = number("y")
        year = np.where(short < 69, 2000, 1900) + short
    month = number("m", 1)
    if "b" in directives:
        short_name = pc.utf8_slice_codeunits(pc.utf8_lower(part("b")), 0, 3)
        month = 1 + pc.fill_null(pc.index_in(short_name, value_set=pa.array(_MONTHS)), 0).to_numpy()
    day, hour, minute, second = number("d", 1), number("H"), number("M"), number("S")
    right = matched.to_numpy(zero_copy_only=False)
    if "I" in directives:
        hour = number("I")
        right = right & (hour >= 1) & (hour <= 12)
        afternoon = pc.starts_with(pc.utf8_lower(part("p")), "p").to_numpy(zero_copy_only=False)
        hour = hour % 12 + 12 * afternoon
    right = right & (year > 0) & (month >= 1) & (month <= 12) & (hour < 24) & (minute < 60) & (second <= 60)
    months = np.where(right, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    first, after = (part.astype("datetime64[D]").astype(np.int64) for part in (months, months + 1))
    right &= (day >= 1) & (day <= after - first)
    total = (first + day - 1) * 86_400 + hour * 3_600 + minute * 60 + second
    if "z" in directives:
        total = total - _zone_offsets(part("z"))
    return pa.array(total, mask=~right)


def form_of_numbers(text: pa.Array, forms: Sequence[str] = COMPACT) -> str | None:
    """Returns the compact format of most texts, such as "%Y%m%d" of 20200914; None if they have none.

    Args:
      text: whole numbers, as text; some may be null.
      forms: the formats to consider.
    """
    text = pc.drop_null(text)
    if not len(text):
        return None
    for form in forms:
        # The first values alone refuse most columns of other numbers.
        if all(_plausible_share(part, form) >= _MOST for part in (text.slice(0, 100), text)):
            return form
    return None


def proposals(text: pa.Array) -> list[str]:
    """Returns the formats that all texts have, likelier ones first."""
    text = pc.drop_null(text).slice(0, 1_000)
    found = []
    for date in _DATES:
        for clock in _CLOCKS:
            for joint in _JOINTS if clock else ("",):
                form = date + joint + clock
                if complaint(form) is None and len(text) and _is_plausible(text, form):
                    found.append(form)
    return found


def _is_plausible(text: pa.Array, form: str) -> bool:
    return _plausible_share(text, form) == 1


def _plausible_share(text: pa.Array, form: str) -> float:
    """Returns the share of texts that are times of a format, and of the years 1900 to 2100."""
    found = seconds(text, form)
    first, last = (int(np.datetime64(f"{year}-01-01", "s").astype(np.int64)) for year in (1900, 2101))
    right = pc.and_(pc.greater_equal(found, first), pc.less(found, last))
    return float((pc.sum(right).as_py() or 0) / len(text))


def _tokens(form: str) -> list[str]:
    for short, long in _SAME.items():
        if len(long) > 1:
            form = re.sub(rf"(?<!%)%{short}", long, form)
    return re.findall(r"%.|[^%]+|%$", form)


def _directives(form: str) -> tuple[list[str], list[str]]:
    """Returns the directives in their order, and those that are not known."""
    names = [_SAME.get(token[1:], token[1:]) for token in _tokens(form) if token[0] == "%" and token != "%%"]
    return names, [name for name in names if name not in _FORMS]


@functools.cache
def _expression(form: str) -> str:
    tokens = _tokens(form)
    parts = []
    for place, token in enumerate(tokens):
        if token[0] != "%" or token == "%%":
            literal = re.escape("%" if token == "%%" else token)
            parts.append(re.sub(r"(\\?\s)+", r"\\s+", literal))
            continue
        name = _SAME.get(token[1:], token[1:])
        beside = (tokens[place - 1] if place else "", *tokens[place + 1 : place + 2])
        is_alone = not any(other[:1] == "%" and other[1:] in _NUMERIC for other in beside)
        parts.append(f"(?P<{name}>" + _FORMS[name].replace("w", "1,2" if is_alone else "2") + ")")
    return "^" + "".join(parts) + "$"


def _zone_offsets(zones: pa.Array) -> np.ndarray:
    """Returns the seconds of zones such as +02:00, int64[n]; 0 for names of UTC."""
    digits = pc.replace_substring_regex(zones, "[^0-9]", "")
    # Hours alone, such as +02, have no minutes; names have neither.
    digits = pc.utf8_slice_codeunits(pc.binary_join_element_wise(digits, "0000", ""), 0, 4)
    hours, minutes = (
        pc.utf8_slice_codeunits(digits, *limits).cast(pa.int64()).to_numpy() for limits in ((0, 2), (2, 4))
    )
    west = pc.starts_with(zones, "-").to_numpy(zero_copy_only=False)
    return np.where(west, -1, 1) * (hours * 3_600 + minutes * 60)


def in_words(forms: Sequence[str]) -> str:
    """Returns formats as a message proposes them."""
    return " or ".join(f"'{form}'" for form in forms)
