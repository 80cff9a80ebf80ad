"""Parameters that every world has, and the checks of all parameters."""

from __future__ import annotations

import dataclasses
import math

from two_tower.base.errors import UserError

# More users or items are beyond any machine's memory.
_LARGEST = 10**8


@dataclasses.dataclass(frozen=True)
class WorldParameters:
    """Parameters of a world; the module of each world explains it.

    Integers are at least 1, numbers are above 0, and a field `*_share` is at least 0 and below 1.

    Raises:
        UserError: a value is impossible; the message names the parameter.
    """

    seed: int = 7
    # Oracle: approximate number of queries; each user contributes all or none.
    oracle_queries: int = 5_000

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            is_whole = is_number and isinstance(value, int)
            if field.name == "seed":
                wrong = "" if is_whole and value >= 0 else "a whole number of at least 0"
            elif field.name.endswith("_share"):
                wrong = "" if is_number and 0 <= value < 1 else "at least 0 and below 1"
            elif field.type == "int":
                fits = is_whole and 1 <= value <= _LARGEST
                wrong = "" if fits else f"a whole number of at least 1 and at most {_LARGEST:,}"
            else:
                wrong = "" if is_number and 0 < value < math.inf else "above 0"
            if wrong:
                raise UserError(f"The simulator's {field.name} is {value!r}; it must be {wrong}.")

    def check_at_least(self, **limits: int) -> None:
        """Raises UserError for a parameter below its limit."""
        for name, limit in limits.items():
            if getattr(self, name) < limit:
                raise UserError(
                    f"The simulator's {name} is {getattr(self, name)}; it must be at least {limit}."
                )

    def check_shares(self, *names: str) -> None:
        """Raises UserError for shares that add up to 1 or more."""
        if sum(getattr(self, name) for name in names) >= 1:
            raise UserError(
                f"The simulator's {', '.join(names)} add up to 1 or more, which leaves no choice by taste. "
                "Lower one of them."
            )
