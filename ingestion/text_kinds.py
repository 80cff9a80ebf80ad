"""Kinds of text columns: whether all values are whole numbers, numbers, booleans, or else text."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Words for a missing value, which a column of numbers or booleans may hold.
_MISSING = ("null", "none", "nan", "na", "n/a", "nil", "#n/a")
MISSING = ("NaN", "NaT", *(form(word) for word in _MISSING for form in (str.lower, str.upper, str.title)))
_BOOLEANS = ("true", "false", "True", "False", "TRUE", "FALSE")
# A column that is text because of a smaller share of its values has faults in them.
_SMALL_SHARE = 0.01
_EXAMPLES = 3


def _up_to(largest: str) -> str:
    """Returns a regular expression of whole numbers without leading zeros, up to one of 19 digits."""
    same_start = [
        f"{largest[:place]}[0-{int(digit) - 1}][0-9]{{{len(largest) - place - 1}}}"
        for place, digit in enumerate(largest)
        if digit != "0" and not (place == 0 and digit == "1")
    ]
    # The first digit of a number is not 0.
    same_start[0] = same_start[0].replace("[0-", "[1-", 1)
    return "|".join(("0", "[1-9][0-9]{0,17}", *same_start, largest))


# Whole numbers of 64 bits. A longer one is text: a double would round it.
_WHOLE_NUMBER = f"^({_up_to('9223372036854775807')}|-({_up_to('9223372036854775808')}))$"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
# Digits after a leading zero (007 would become 7), and whole numbers beyond doubles' precision.
_CODE = r"^[+-]?(0[0-9].*|[0-9]{19,})$"


@dataclasses.dataclass
class TextKind:
    """Tally of a text column's values by their form.

    Attributes:
      values: number of values that are not null.
      integers, numbers, booleans: of these forms; whole numbers are numbers too.
      whole: integers, and those with a point and zeros, such as 1.0.
      codes: numbers in form that a number would change.
      missing: words for a missing value.
      examples: row and value of the first values of no such form.
    """

    values: int = 0
    integers: int = 0
    whole: int = 0
    numbers: int = 0
    booleans: int = 0
    codes: int = 0
    missing: int = 0
    examples: list[tuple[int, str]] = dataclasses.field(default_factory=list)

    def add(self, values: pa.Array, first_row: int = 0) -> None:
        """Adds the values of a text column.

        Args:
          values: text[n].
          first_row: number of the first value's row.
        """
        count = len(values) - values.null_count
        if not count:
            return
        self.values += count
        integers = pc.match_substring_regex(values, _WHOLE_NUMBER)
        found = _true(integers)
        self.integers += found
        self.whole += found
        if found == count:
            self.numbers += count
            return
        numbers = pc.match_substring_regex(values, _NUMBER)
        found = _true(numbers)
        if found:
            codes = pc.and_(pc.match_substring_regex(values, _CODE), pc.invert(integers))
            self.codes += _true(codes)
            self.whole += _true(pc.match_substring_regex(values, r"^-?(0|[1-9][0-9]{0,17})\.0*$"))
        missing = pc.is_in(values, value_set=pa.array(MISSING, values.type))
        self.numbers += found
        self.missing += _true(missing)
        if not found:
            self.booleans += _true(pc.is_in(values, value_set=pa.array(_BOOLEANS, values.type)))
        elif len(self.examples) < _EXAMPLES:
            other = pc.invert(pc.or_(pc.fill_null(numbers, True), missing))
            rows = np.flatnonzero(other.to_numpy(zero_copy_only=False))[:_EXAMPLES].tolist()
            self.examples += [(first_row + row, values[row].as_py()) for row in rows]

    @property
    def kind(self) -> str | None:
        """Kind of the column: "integer", "number", "boolean" or "text"; None without values.

        Only "true" and "false" are booleans: a column of 0 and 1 may hold larger counts in the next file.
        """
        known = self.values - self.missing
        if not self.values:
            return None
        if not known:
            return "text"
        if self.integers == known:
            return "integer"
        if self.numbers == known and not self.codes:
            return "number"
        return "boolean" if self.booleans == known else "text"

    @property
    def others(self) -> int:
        """Number of values because of which a column of numbers is text."""
        return self.values - self.missing - self.numbers

    @property
    def is_doubtful(self) -> bool:
        """True for a column of numbers that is text because of a few values."""
        return self.kind == "text" and not self.codes and 0 < self.others < _SMALL_SHARE * self.values


def kind_of(values: pa.Array) -> str | None:
    """Returns the kind of all values of a text column; see `TextKind.kind`."""
    found = TextKind()
    found.add(values)
    return found.kind


def _true(mask: Any) -> int:
    return int(pc.sum(mask).as_py() or 0)
