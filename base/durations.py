"""Durations: a day in seconds, and milliseconds as text."""

from __future__ import annotations

DAY = 86_400


def milliseconds(value: float) -> str:
    """Formats milliseconds with three significant digits, never by a power of ten."""
    return f"{float(f'{value:.3g}'):,g} ms"
