"""Reference of metrics, thresholds and baselines, written from their objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from two_tower.evaluation.baselines.definition import Baseline
from two_tower.evaluation.baselines.registry import BASELINES, definition
from two_tower.evaluation.gate.outcome import (
    AT_LEAST,
    Outcome,
    lower_bound_reaches,
    no_significant_loss,
    upper_bound_reaches,
    value_reaches,
    value_stays_within,
)
from two_tower.evaluation.gate.thresholds import THRESHOLDS, Threshold
from two_tower.evaluation.metric_table import METRICS, OF_USERS, WITH_INTERVALS, Metric

_RULES: dict[Callable[..., Outcome], str] = {
    value_reaches: "value",
    value_stays_within: "value",
    lower_bound_reaches: "lower bound of the 95% interval",
    upper_bound_reaches: "value, or upper bound of the 95% interval",
    no_significant_loss: "value, or an upper bound of at least 0",
}


def metrics_reference() -> str:
    """Returns docs/reference/metrics.md, which `scripts/generate_reference.py` writes."""
    return "\n\n".join([_INTRODUCTION, _metrics(), _thresholds(), _baselines()]) + "\n"


_INTRODUCTION = (
    "# Metrics, thresholds and baselines\n\n"
    "This page is written by `scripts/generate_reference.py` from the code; edit the objects that it names."
)


def _metrics() -> str:
    rows = [
        [f"`{_in_json(one)}`", one.label, _cell(one.meaning), _cell(one.meaning_of_one), _marks(one)]
        for one in METRICS
    ]
    header = ["name in evaluation.json", "metric", "definition", "with one label a query", ""]
    return (
        "## Metrics\n\n"
        "`METRICS` of `evaluation/metric_table.py`. Averages are over queries; names with the prefix "
        f"`{OF_USERS}` are averages over users, of each user's mean over their queries. Under the protocol "
        "`frozen` or `hold_out` a query has a set of labels, under the others one label.\n\n"
        + _table(header, rows)
    )


def _in_json(metric: Metric) -> str:
    return f"{metric.name}@k" if metric.has_cutoff else metric.name


def _marks(metric: Metric) -> str:
    marks = {
        "interval": metric.name in WITH_INTERVALS,
        "slices": metric.of_slices,
        "shown for sets of labels alone": metric.only_for_sets,
    }
    return ", ".join(mark for mark, is_set in marks.items() if is_set)


def _thresholds() -> str:
    header = ["threshold", "value", "unit", "holds", "judged by"]
    return (
        "## Thresholds of the gate\n\n"
        "`THRESHOLDS` of `evaluation/gate/thresholds.py`. A limit is the setting `gate.<threshold>`; k is "
        "`gate.cutoff`. A threshold without a measured value fails.\n\n"
        + _table(header, [_threshold_row(one) for one in THRESHOLDS])
    )


def _threshold_row(one: Threshold) -> list[str]:
    side = "at least" if one.direction == AT_LEAST else "at most"
    limit = one.limit_text or f"`gate.{one.name}`"
    meaning = one.meaning.format(k="k", part="<slice>")
    return [f"`{one.name}`", _cell(meaning), one.unit.value, f"{side} {limit}", _RULES[one.rule]]


def _baselines() -> str:
    header = ["baseline", "label", "method", "needs", "settings tried on eval"]
    return (
        "## Baselines\n\n"
        "One module each in `evaluation/baselines`, listed in its `registry.py`; `evaluation.baselines` "
        "takes these names. A baseline whose needs the data does not meet is left out, with a note.\n\n"
        + _table(header, [_baseline_row(definition(name)) for name in BASELINES])
    )


def _baseline_row(one: Baseline) -> list[str]:
    grid = "; ".join(f"{name}: {_values(values)}" for name, values in one.grid.items())
    needs = "; ".join(need.meaning for need in one.needs)
    return [f"`{one.name}`", one.label, _cell(one.meaning), _cell(needs), _cell(grid)]


def _values(values: Iterable[object]) -> str:
    return ", ".join(f"{value:,g}" if isinstance(value, int | float) else str(value) for value in values)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---"] * len(header)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])
