"""Outcomes of thresholds: a measured value beside its limit, and the rules by which it holds or fails."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

AT_LEAST, AT_MOST = "min", "max"
# Bounds of a value, NaN where the queries are too few; None where single queries are not known.
Interval = tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A threshold's measured value and whether it holds. A value that is no number fails.

    Attributes:
        name: name of the threshold, for a slice `slices.<slice>`.
        value: the measured value.
        limit: lowest value that holds, or highest.
        ok: True where the threshold holds.
        note: what the value was compared with and what decided, in words.
        low: lower bound of the value's 95 % confidence interval, where it is known and matters.
        high: upper bound.
        direction: AT_LEAST or AT_MOST.
    """

    name: str
    value: float
    limit: float
    ok: bool
    note: str = ""
    low: float | None = None
    high: float | None = None
    direction: str = AT_LEAST

    def to_dict(self) -> dict[str, Any]:
        """Returns the outcome as in evaluation.json, where a value that is no number is null."""
        return {**dataclasses.asdict(self), "value": _finite(self.value)}


def value_reaches(
    name: str, value: float, limit: float, interval: Interval = None, note: str = ""
) -> Outcome:
    """Judges whether the value itself reaches the limit; its interval is not heeded."""
    del interval
    return Outcome(name, value, limit, math.isfinite(value) and value >= limit, note)


def value_stays_within(
    name: str, value: float, limit: float, interval: Interval = None, note: str = ""
) -> Outcome:
    """Judges whether the value itself is at most the limit; its interval is not heeded."""
    del interval
    ok = math.isfinite(value) and value <= limit
    return Outcome(name, value, limit, ok, note, direction=AT_MOST)


def lower_bound_reaches(
    name: str, value: float, limit: float, interval: Interval = None, note: str = ""
) -> Outcome:
    """Judges whether the interval's lower bound reaches the limit; without an interval, the value."""
    if interval is None:
        return value_reaches(name, value, limit, note=note)
    low, high = interval
    ok = math.isfinite(value) and math.isfinite(low) and low >= limit
    if math.isfinite(value) and value >= limit and not ok:
        is_known = math.isfinite(low)
        why = "its lower bound is below the limit" if is_known else "too few users to know its noise"
        note = _joined(note, why)
    return Outcome(name, value, limit, ok, note, _finite(low), _finite(high))


def upper_bound_reaches(
    name: str, value: float, limit: float, interval: Interval = None, note: str = ""
) -> Outcome:
    """Judges whether a value is surely below the limit: it fails where its upper bound is below it too."""
    if interval is None:
        return value_reaches(name, value, limit, note=note)
    low, high = interval
    is_noise = math.isfinite(high) and high >= limit
    if math.isfinite(value) and value < limit and is_noise:
        note = _joined(note, "no more than noise below the limit")
    ok = math.isfinite(value) and (value >= limit or is_noise)
    return Outcome(name, value, limit, ok, note, _finite(low), _finite(high))


def no_significant_loss(
    name: str, value: float, limit: float, interval: Interval = None, note: str = ""
) -> Outcome:
    """Judges a change: it fails where it is below the limit and its upper bound is below zero.

    A limit above zero asks for a gain, which the lower bound must reach. Without an interval the value is
    judged.
    """
    if limit > 0:
        return lower_bound_reaches(name, value, limit, interval, note)
    if interval is None:
        return value_reaches(name, value, limit, note=note)
    low, high = interval
    # Without bounds a loss counts as more than noise.
    is_noise = math.isfinite(high) and high >= 0
    if math.isfinite(value) and value < limit:
        note = _joined(note, "no more than noise" if is_noise else "more than noise")
    if math.isfinite(value) and math.isfinite(high) and high > value:
        note = _joined(note, f"the smallest loss that these queries can show is {high - value:.4f}")
    ok = math.isfinite(value) and (value >= limit or is_noise)
    return Outcome(name, value, limit, ok, note, _finite(low), _finite(high))


def _joined(note: str, more: str) -> str:
    return f"{note}; {more}" if note else more


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
