"""Durations: a day in seconds, and milliseconds as text."""

from __future__ import annotations

DAY = 86_400


def milliseconds(value: float) -> str:
    """Formats milliseconds with three significant digits, as 1,100 ms instead of 1.1e+03 ms."""
    return f"{float(f'{value:.3g}'):,.15g} ms"
