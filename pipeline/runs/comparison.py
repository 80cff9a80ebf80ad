"""Two runs beside each other: what they measured and whether that differs, their settings, and their slices.

Where both asked the same queries, a change is that of each query, and its interval is narrow: users are drawn
again, and both models' answers to them with them (`evaluation.bootstrap`). Where they did
not, the runs' users are drawn apart, and only a large change is told from noise.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.evaluation.report.glossary import DEFAULT_CUTOFF, moment, shown_metrics
from two_tower.pipeline.runs.report import EVALUATOR, collect, evaluation_at

if TYPE_CHECKING:
    from two_tower.evaluation.query_results import QueryResults

_WIDTH = 100
_RESAMPLES = 1_000
_MODEL = "model"
_SHOWN_SLICES = 10
# What metrics are of must agree, or the numbers stand beside each other and mean different things.
_SAME = {"dataset": "data set", "protocol": "protocol", "split": "split"}


def compare(a: str, b: str) -> dict[str, Any]:
    """Compares two runs, the first with the second: a change is b's value minus a's.

    Args:
      a, b: each the --output of runs, for its newest; an evaluation's directory; or an evaluation.json.

    Returns:
      `a` and `b`: `place`, `run`, `verdict`, `dataset`. `how`: "paired" (the same test queries), "unpaired",
      or "values" (single queries are not known: no intervals of changes). `notes`: what makes the runs
      incomparable, or nearly so. `metrics`: by name `a`, `b`, their intervals, and `change` with `low` and
      `high`; `differs` is whether the interval is on one side of 0, None where it is not known. `settings`:
      by name [a's, b's], where they differ, None if the settings are not known. `slices`: those whose judged
      recall moved most, in the same form with `name` and `queries`.

    Raises:
      UserError: there is no run or no evaluation at a place.
    """
    first, second = _Side.at(a), _Side.at(b)
    notes = [
        f"They are of different {what}s: {_told(of_a)} and {_told(of_b)}. The metrics do not compare."
        for key, what in _SAME.items()
        if (of_a := first.evaluation.get(key)) != (of_b := second.evaluation.get(key))
    ]
    how = _how(first.results, second.results)
    if how == "unpaired":
        notes.append("They asked different test queries: intervals are of unpaired differences, and wide.")
    if how == "values":
        missing = [side.place for side in (first, second) if side.results is None]
        notes.append(
            f"What single queries found (queries.npz) is not known of {' and '.join(missing)}: changes have "
            "no intervals."
        )
    settings: dict[str, list[Any]] | None = None
    if first.settings and second.settings:
        names = [*first.settings, *(name for name in second.settings if name not in first.settings)]
        settings = {
            name: [first.settings.get(name), second.settings.get(name)]
            for name in names
            if first.settings.get(name) != second.settings.get(name)
        }
    metrics = _metrics(first, second, how)
    if not metrics:
        notes.append("They have no metric in common: evaluation.cutoffs differ.")
    return {
        "a": first.described(),
        "b": second.described(),
        "how": how,
        "notes": notes,
        "metrics": metrics,
        "settings": settings,
        "slices": _slices(first, second, how),
    }


class _Side:
    """One of the two."""

    def __init__(
        self, place: str, evaluation: dict[str, Any], directory: str, run: Mapping[str, Any] | None
    ) -> None:
        self.place, self.evaluation, self.run = place, evaluation, run
        self.settings: Mapping[str, Any] = (run or {}).get("settings") or {}
        self.results = _results(directory)

    @classmethod
    def at(cls, place: str) -> _Side:
        if os.path.basename(place) == "evaluation.json":
            place = os.path.dirname(place) or "."
        if storage.is_file(storage.join(place, "evaluation.json")):
            return cls(place, evaluation_at([place]), place, None)
        run = collect(place)
        uris = run["artifacts"].get(EVALUATOR, {}).get("evaluation", [])
        if not uris or not run["verdict"]:
            raise UserError(
                f"The newest run in {place} did not get as far as an evaluation, and has nothing to compare. "
                "`two-tower history` lists the runs; an evaluation's own directory can be named as well."
            )
        return cls(place, evaluation_at(uris), uris[0], run)

    @property
    def judged(self) -> str:
        """The metric that the gate judges by."""
        return f"recall@{self.evaluation.get('cutoff') or DEFAULT_CUTOFF}"

    @property
    def metrics(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.evaluation["metrics"]["test"]
        return found

    def interval(self, metric: str) -> list[float] | None:
        """As the evaluator found it."""
        found: list[float] | None = ((self.evaluation.get("intervals") or {}).get(_MODEL) or {}).get(metric)
        return found

    def described(self) -> dict[str, Any]:
        return {
            "place": self.place,
            "run": (self.run or {}).get("run"),
            "verdict": self.evaluation.get("verdict"),
            "dataset": self.evaluation.get("dataset"),
        }


def _results(directory: str) -> QueryResults | None:
    from two_tower.evaluation.query_results import FILE_NAME, QueryResults

    try:
        with storage.open_file(storage.join(directory, FILE_NAME), "rb") as file:
            return QueryResults.read(file)
    except (OSError, ValueError):
        return None


def _how(a: QueryResults | None, b: QueryResults | None) -> str:
    if a is None or b is None or _MODEL not in a.ranks or _MODEL not in b.ranks:
        return "values"
    same = (
        np.array_equal(_by_appearance(a.user), _by_appearance(b.user))
        and np.array_equal(a.labels.offsets, b.labels.offsets)
        and np.array_equal(a.labels.item_id, b.labels.item_id)
    )
    return "paired" if same else "unpaired"


def _by_appearance(user: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Users [Q] as the row in which each first asks: who has which number depends on the run's seed."""
    _, first, number = np.unique(user, return_index=True, return_inverse=True)
    return np.asarray(first[number])


def _metrics(a: _Side, b: _Side, how: str) -> dict[str, Any]:
    names = [name for name in shown_metrics(a.evaluation) if name in b.metrics]
    cutoffs = sorted({int(name.partition("@")[2]) for name in names if name.startswith("recall@")})
    changes: dict[str, Any] = {}
    if how != "values" and cutoffs:
        assert a.results is not None and b.results is not None
        of_a, of_b = (side.results.values(_MODEL, cutoffs) for side in (a, b) if side.results)
        changes = _changes(a.results, of_a, b.results, of_b, how)
    return {
        name: {
            "a": a.metrics[name],
            "b": b.metrics[name],
            "a_interval": a.interval(name),
            "b_interval": b.interval(name),
            **_change(a.metrics[name], b.metrics[name], changes.get(name)),
        }
        for name in names
    }


def _slices(a: _Side, b: _Side, how: str) -> list[dict[str, Any]]:
    """Those that moved most, of the metric that both judge by."""
    of_a, of_b = (side.evaluation.get("slices") or {} for side in (a, b))
    if a.judged != b.judged:
        return []
    metric, k = a.judged, int(a.judged.partition("@")[2])
    rows = []
    for name in (name for name in of_a if name in of_b):
        values = [part[name]["metrics"].get(_MODEL, {}).get(metric) for part in (of_a, of_b)]
        if None in values:
            continue
        found = None
        if how != "values":
            assert a.results is not None and b.results is not None
            is_same = name in a.results.slices and name in b.results.slices
            if how == "paired" and is_same:
                # A slice by what train knows may hold other labels in the other run.
                is_same = np.array_equal(a.results.slices[name], b.results.slices[name])
            if is_same:
                given = [side.values(_MODEL, [k], name) for side in (a.results, b.results)]
                found = _changes(a.results, given[0], b.results, given[1], how).get(metric)
        row = {"name": name, "queries": [of_a[name]["queries"], of_b[name]["queries"]]}
        rows.append({**row, "a": values[0], "b": values[1], **_change(values[0], values[1], found)})
    return sorted(rows, key=lambda row: -abs(row["change"]))[:_SHOWN_SLICES]


def _changes(
    a: QueryResults, of_a: Mapping[str, Any], b: QueryResults, of_b: Mapping[str, Any], how: str
) -> dict[str, dict[str, float | None]]:
    """By metric `change`, `low` and `high`, of b's values minus a's."""
    from two_tower.evaluation.bootstrap import MIN_USERS, UserBootstrap

    if how == "paired":
        return UserBootstrap(a.user.astype(np.int64), _RESAMPLES).changes(of_b, of_a)
    names = list(of_a)
    sides = [
        (side, np.stack([values[name] for name in names], axis=1)) for side, values in ((a, of_a), (b, of_b))
    ]
    # Different seeds, so that the runs' users are drawn apart.
    drawn = [
        UserBootstrap(side.user.astype(np.int64), _RESAMPLES, seed) for seed, (side, _) in enumerate(sides)
    ]
    means = [bootstrap.means(values) for bootstrap, (_, values) in zip(drawn, sides, strict=True)]
    users = [bootstrap.users_with_values(values) for bootstrap, (_, values) in zip(drawn, sides, strict=True)]
    # Of a single user there is no telling how users differ.
    known = np.minimum(*users) >= MIN_USERS
    bounds = np.where(known, drawn[0].bounds(means[1] - means[0]), np.nan)
    return {
        name: {"low": float(low), "high": float(high)} if np.isfinite(low) else {"low": None, "high": None}
        for name, (low, high) in zip(names, bounds.T, strict=True)
    }


def _change(a: float | None, b: float | None, found: Mapping[str, float | None] | None) -> dict[str, Any]:
    low, high = ((found or {}).get(side) for side in ("low", "high"))
    return {
        "change": None if a is None or b is None else b - a,
        "low": low,
        "high": high,
        "differs": None if low is None or high is None else bool(low > 0 or high < 0),
    }


def render(comparison: Mapping[str, Any]) -> str:
    """The comparison as text for a terminal of 100 columns."""
    page = io.StringIO()
    console = Console(file=page, width=_WIDTH, highlight=False, markup=False, emoji=False)
    for side in ("a", "b"):
        one = comparison[side]
        run = f", run of {one['run']}" if one["run"] else ""
        console.print(f"{side.upper()}  {one['place']}: {one['verdict']}{run}", soft_wrap=True)
    for note in comparison["notes"]:
        console.print(f"\n{note}", soft_wrap=True)
    if comparison["metrics"]:
        console.print()
        console.print(_change_table("Test split, B minus A", "metric", comparison["metrics"].items()))
    if comparison["how"] == "paired":
        console.print("Both asked the same queries: changes are paired, with 95% intervals over users.\n")
    if comparison["slices"]:
        rows = [(row["name"], row) for row in comparison["slices"]]
        console.print(_change_table("Slices that moved most, recall as it is judged", "slice", rows))
        console.print("Intervals are of single slices: of many, some differ by chance.\n")
    settings = comparison["settings"]
    if settings is None:
        console.print("The settings are known of runs alone, and one of the two is named by its evaluation.")
    elif settings:
        table = Table(title="Settings that differ", title_justify="left", title_style="", box=box.SIMPLE_HEAD)
        for heading in ("setting", "A", "B"):
            table.add_column(heading, overflow="fold")
        for name, values in settings.items():
            table.add_row(name, *map(_short, values))
        console.print(table)
    else:
        console.print("The settings are the same.")
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()) + "\n"


def _change_table(title: str, first: str, rows: Any) -> Table:
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD)
    table.add_column(first)
    for heading in ("A", "B", "change", "95% interval"):
        table.add_column(heading, justify="right")
    table.add_column("differs")
    for name, row in rows:
        low_high = "" if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}"
        differs = {True: "yes", False: "no", None: ""}[row["differs"]]
        change = "–" if row["change"] is None else f"{row['change']:+.4f}"
        table.add_row(name, _number(row["a"]), _number(row["b"]), change, low_high, differs)
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _told(value: Any) -> str:
    """A split by its moments, and what else by itself."""
    if not isinstance(value, Mapping):
        return _short(value)
    begin, end = (moment(seconds) for seconds in value["test"])
    return f"train until {moment(value['train_end'])} with a test from {begin} to {end}"


def _short(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_short(one)}" for name, one in value.items())
    return "–" if value is None else str(value)
