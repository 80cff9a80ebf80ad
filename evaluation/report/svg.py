"""Inline SVG for charts: marks, scales and ticks.

Colours are CSS variables of the page, so that a chart follows its light or dark scheme; text is escaped.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Scale:
    """A map from values `low` to `high` to places `start` to `end`, by difference or (`log`) by ratio."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def around(
        cls, values: Iterable[float], start: float, end: float, *, log: bool = False, margin: float = 0.06
    ) -> Scale:
        """Leaves some room on both sides of the values; a single value, or none, gets an arbitrary span."""
        known = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
        low, high = (min(known), max(known)) if known else (1.0, 1.0)
        if log:
            room = max((high / low) ** margin, 1.02)
            return cls(low / room, high * room, start, end, log=True)
        room = max((high - low) * margin, abs(high) * 0.01, 1e-9)
        return cls(low - room, high + room, start, end)

    def __call__(self, value: float) -> float:
        """Returns the place of a value; values outside are put on the border."""
        low, high, value = (
            (math.log(self.low), math.log(self.high), math.log(max(value, 1e-300)))
            if self.log
            else (self.low, self.high, value)
        )
        share = 0.5 if high == low else (value - low) / (high - low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Picks round values within the scale: 1, 2 or 5 times a power of ten."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1,), (1, 3), (1, 2, 5)):
                found = [step * 10.0**power for power in powers for step in steps]
                found = [tick for tick in found if self.low * 0.999 <= tick <= self.high * 1.001]
                if len(found) >= min(about, 3):
                    return found
            if len(found) > 1:
                return found
        raw = (self.high - self.low) / max(about, 1) or 1.0
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-6)
        last = math.floor(self.high / step + 1e-6)
        return [place * step for place in range(first, last + 1)]


class Drawing:
    """An SVG of a given size, with a name for readers who cannot see it."""

    def __init__(self, width: float, height: float, title: str, kind: str = "") -> None:
        self.width, self.height = width, height
        self._title, self._kind = title, kind
        self._parts: list[Markup] = []

    def line(self, start: Point, end: Point, kind: str, who: str = "", tip: str = "") -> None:
        """Draws a straight line."""
        place = f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
        self._mark("line", place, kind, who, tip)

    def path(self, points: Sequence[Point], kind: str, who: str = "", tip: str = "") -> None:
        """Draws a line through points."""
        self._mark("polyline", f'points="{_points(points)}"', kind, who, tip)

    def area(self, upper: Sequence[Point], lower: Sequence[Point], kind: str, who: str = "") -> None:
        """Fills the area between two lines."""
        self._mark("polygon", f'points="{_points([*upper, *reversed(lower)])}"', kind, who, "")

    def dot(self, at: Point, radius: float, kind: str, who: str = "", tip: str = "") -> None:
        """Draws a filled or hollow circle."""
        self._mark("circle", f'cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius:g}"', kind, who, tip)

    def box(self, at: Point, width: float, height: float, kind: str, who: str = "", tip: str = "") -> None:
        """Draws a rectangle whose upper left corner is `at`."""
        place = f'x="{at[0]:.1f}" y="{at[1]:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
        self._mark("rect", place, kind, who, tip)

    def text(self, at: Point, text: str, kind: str = "", anchor: str = "start", who: str = "") -> None:
        """Writes a line of text; `anchor` is start, middle or end."""
        style = f' style="--c:var(--{who})"' if who else ""
        self._parts.append(
            Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}"{}>{}</text>').format(
                at[0], at[1], kind, anchor, Markup(style), text
            )
        )

    def render(self) -> Markup:
        """Renders the SVG element."""
        opening = Markup(
            '<svg class="{}" viewBox="0 0 {:g} {:g}" width="{:g}" height="{:g}" role="img" aria-label="{}">'
        ).format(self._kind, self.width, self.height, self.width, self.height, self._title)
        return opening + Markup("").join(self._parts) + Markup("</svg>")

    def _mark(self, name: str, place: str, kind: str, who: str, tip: str) -> None:
        style = f' style="--c:var(--{who})"' if who else ""
        opening = f'<{name} {place} class="{kind}"{style}'
        end = Markup("><title>") + escape(tip) + Markup(f"</title></{name}>") if tip else Markup("/>")
        self._parts.append(Markup(opening) + end)


def apart(places: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Moves labels `distance` apart, as little as one downward and one upward pass need."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    floor = low
    for index in order:
        moved[index] = max(moved[index], floor)
        floor = moved[index] + distance
    ceiling = high
    for index in reversed(order):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - distance
    return moved


def _points(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
