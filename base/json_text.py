"""JSON of files that others may have written: every fault is a ValueError, as for a syntax error."""

from __future__ import annotations

import json
from typing import Any


def parse(text: str, allow_nan: bool = False) -> Any:
    """Parses JSON as the standard has it, which `json.loads` alone does not hold to.

    Args:
      text: the JSON.
      allow_nan: takes NaN and Infinity, as Python writes them.

    Raises:
      ValueError: the text is no JSON; it is nested too deeply for Python; it holds NaN, Infinity, a number
        beyond double precision, or half of a surrogate pair.
    """
    try:
        content = json.loads(text, parse_constant=float if allow_nan else _refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("values are nested too deeply") from None
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text holds half of a surrogate pair") from None
    return content


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        _refuse(f"{text:.40}")
    return number
