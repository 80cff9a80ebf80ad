"""Comparison of two runs: metrics with confidence intervals of their changes, slices, and settings.

With the same queries, changes are paired by user and intervals narrow (`evaluation.uncertainty`). With
different queries, the noise of both runs' users adds up, and only a large change stands out from it.
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
from two_tower.pipeline.runs.report import collect, evaluation_at
from two_tower.pipeline.runs.stored_runs import EVALUATOR

if TYPE_CHECKING:
    from two_tower.evaluation.query_results import QueryResults

_WIDTH = 100
_MODEL = "model"
_SHOWN_SLICES = 10
# Keys of evaluation.json that must agree, or the metrics do not compare.
_SAME = {"dataset": "data set", "protocol": "protocol", "split": "split"}


def compare(a: str, b: str) -> dict[str, Any]:
    """Compares two runs; a change is b's value minus a's.

    Args:
      a, b: the --output of runs, for its newest run; an evaluation's directory; or an evaluation.json.

    Returns:
      `a` and `b`: `place`, `run`, `verdict`, `dataset`. `how`: "paired" (the same test queries), "unpaired",
      or "values" (without queries.npz: no intervals of changes). `notes`: obstacles to the comparison.
      `metrics`: by name `a`, `b`, their intervals, and `change` with `low` and `high`; `differs` tells that
      the interval excludes 0, None without an interval. `settings`: by name [a's, b's], if they differ; None
      without known settings. `slices`: slices with the largest changes of the judged recall, in the same form
      with `name` and `queries`.

    Raises:
      UserError: there is no run or no evaluation at a place.
    """
    first, second = _Side.at(a), _Side.at(b)
    notes = [
        f"The {what}s differ: {_told(of_a)} and {_told(of_b)}. The metrics do not compare."
        for key, what in _SAME.items()
        if (of_a := first.evaluation.get(key)) != (of_b := second.evaluation.get(key))
    ]
    how = _how(first.results, second.results)
    if how == "unpaired":
        notes.append("The runs have different test queries: intervals are of unpaired differences, and wide.")
    if how == "values":
        missing = [side.place for side in (first, second) if side.results is None]
        notes.append(
            f"queries.npz is missing for {' and '.join(missing)}: changes have no intervals. Run the "
            "pipeline again to write it."
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
    """One side of the comparison: an evaluation, and its run if known."""

    def __init__(
        self, place: str, evaluation: dict[str, Any], directory: str, run: Mapping[str, Any] | None
    ) -> None:
        self.place, self.evaluation, self.run = place, evaluation, run
        self.settings: Mapping[str, Any] = (run or {}).get("settings") or {}
        self.results = _results(directory)

    @classmethod
    def at(cls, place: str) -> _Side:
        """Reads a run's output directory, an evaluation's directory or an evaluation.json."""
        if os.path.basename(place) == "evaluation.json":
            place = os.path.dirname(place) or "."
        if storage.is_file(storage.join(place, "evaluation.json")):
            return cls(place, evaluation_at([place]), place, None)
        run = collect(place)
        uris = run["artifacts"].get(EVALUATOR, {}).get("evaluation", [])
        if not uris or not run["verdict"]:
            raise UserError(
                f"The newest run in {place} did not reach an evaluation, so there is nothing to compare. "
                "`two-tower history` lists the runs; an evaluation's directory can be named instead."
            )
        return cls(place, evaluation_at(uris), uris[0], run)

    @property
    def judged(self) -> str:
        """Metric that the gate judges by."""
        return f"recall@{self.evaluation.get('cutoff') or DEFAULT_CUTOFF}"

    @property
    def metrics(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.evaluation["metrics"]["test"]
        return found

    def interval(self, metric: str) -> list[float] | None:
        """Returns the evaluator's confidence interval of a metric; None without one."""
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
            results = QueryResults.read(file)
        return results if len(results.user) else None
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
    """Numbers users [Q] by their first row, because a run's seed decides their numbers."""
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
    """Returns the slices with the largest changes of the metric that both runs judge by."""
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
                # A slice by train's content may hold other labels in the other run.
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
    """Returns the bounds `low` and `high` of b's values minus a's, by metric."""
    from two_tower.evaluation.uncertainty import UserSample, changes_of

    samples = [UserSample(side.user.astype(np.int64)) for side in (a, b)]
    if how == "paired":
        return samples[0].changes(of_b, of_a)
    names = list(of_a)
    before, after = (
        sample.estimates(np.stack([values[name] for name in names], axis=1))
        for sample, values in zip(samples, (of_a, of_b), strict=True)
    )
    return changes_of(names, after.minus(before))


def _change(a: float | None, b: float | None, found: Mapping[str, float | None] | None) -> dict[str, Any]:
    low, high = ((found or {}).get(side) for side in ("low", "high"))
    return {
        "change": None if a is None or b is None else b - a,
        "low": low,
        "high": high,
        "differs": None if low is None or high is None else bool(low > 0 or high < 0),
    }


def render(comparison: Mapping[str, Any]) -> str:
    """Renders a comparison as text for a terminal of 100 columns."""
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
        console.print("Both runs have the same queries: changes are paired, with 95% intervals over users.\n")
    if comparison["slices"]:
        rows = [(row["name"], row) for row in comparison["slices"]]
        console.print(_change_table("Slices with the largest changes of the judged recall", "slice", rows))
        console.print("Intervals hold for single slices: among many slices, some differ by chance.\n")
    settings = comparison["settings"]
    if settings is None:
        console.print("Settings are unknown: one side is an evaluation. Name its run to compare settings.")
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
    """Formats a value for a note; a split by its times."""
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
