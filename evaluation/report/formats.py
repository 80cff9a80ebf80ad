"""Formats of figures, settings and durations in the HTML report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from two_tower.base.durations import milliseconds
from two_tower.evaluation.gate.thresholds import Unit


def number(value: float | None, digits: int = 3) -> str:
    """Formats a share: .512, and – for a value that could not be measured."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def measured(value: float | None, unit: Unit, share: str = "") -> str:
    """Formats a threshold's value or limit by its unit, a share as `.5120` or by the format `share`."""
    if value is None or not math.isfinite(value):
        return "–"
    if unit is Unit.MILLISECONDS:
        return milliseconds(value)
    if unit is Unit.SHARE:
        return format(value, share) if share else number(value, 4)
    return f"{value:,.0f}"


def interval(bounds: Sequence[float | None] | None, digits: int = 3) -> str:
    """Formats bounds: `.501 to .523`, or nothing."""
    if not bounds or bounds[0] is None or bounds[1] is None:
        return ""
    return f"{number(bounds[0], digits)} to {number(bounds[1], digits)}"


def signed(value: float) -> str:
    """Formats a difference with its sign."""
    return ("+" if value >= 0 else "−") + number(abs(value))


def setting(value: Any) -> str:
    """Formats a setting as a config file has it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else plain(value)


def plain(value: Any) -> str:
    """Formats a number, a truth or a text for a cell."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}" if 1e-3 <= abs(value) < 10 else f"{value:.4g}"
    return str(value)


def duration(seconds: float) -> str:
    """Formats seconds: `12.3 s`, `4 min 5 s` or `1 h 2 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
