"""Tables of a run's report for a terminal of 100 columns."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from two_tower.evaluation.gate.thresholds import threshold_of, unit_of
from two_tower.evaluation.recommenders import BLESSED_MODEL, MODEL, MODEL_EXACT, in_order, label
from two_tower.evaluation.report.formats import measured
from two_tower.evaluation.report.glossary import DEFAULT_CUTOFF, shown_metrics, slice_meaning
from two_tower.evaluation.report.recommender_rows import measured_recommenders

WIDTH = 100
_SHOWN_SLICES = 8


def component_table(report: Mapping[str, Any]) -> Table:
    """Returns a row per component: seconds, peak memory and state."""
    started = report["run"]
    with contextlib.suppress(ValueError):  # Other orchestrators name runs differently.
        started = f"{datetime.datetime.fromisoformat(started):%Y-%m-%d %H:%M:%S}"
    table = _table(f"Components of the run of {started}")
    table.add_column("component")
    table.add_column("seconds", justify="right")
    table.add_column("peak memory", justify="right")
    table.add_column("")
    words = {"COMPLETE": "", "CACHED": "cached: nothing it depends on has changed", "FAILED": "failed"}
    for component in report["components"]:
        seconds = "" if component["cached"] else f"{component['seconds']:.1f}"
        memory = component.get("peak_memory_bytes")
        table.add_row(
            component["name"],
            seconds,
            f"{memory / 2**30:.1f} GiB" if memory else "",
            words.get(component["state"], "unfinished"),
        )
    total = sum(component["seconds"] for component in report["components"])
    table.add_row("total", f"{total:.1f}", "", "")
    return table


def threshold_table(report: Mapping[str, Any]) -> Table:
    """Returns a row per threshold: value, confidence interval, limit and result."""
    table = _table(f"Thresholds, judged by Recall@{report.get('cutoff') or DEFAULT_CUTOFF}")
    has_bounds = any(threshold.get("low") is not None for threshold in report["thresholds"])
    names = {one.interval_name for t in report["thresholds"] if (one := threshold_of(t["name"]))}
    interval_name = "95% interval" if names <= {"95% interval"} else "interval"
    for heading in ("threshold", "value", *([interval_name] if has_bounds else []), "limit"):
        # Names are settings and stay whole; only the column of notes shrinks.
        table.add_column(heading, justify="left" if heading == "threshold" else "right", no_wrap=True)
    table.add_column("")

    for threshold in report["thresholds"]:
        held = "holds" if threshold["ok"] else "FAILS"
        note = f" ({threshold['note']})" if threshold.get("note") else ""
        sign = "≤" if threshold.get("direction") == "max" else "≥"
        interval = [bounds((threshold.get("low"), threshold.get("high")))] if has_bounds else []
        table.add_row(
            threshold["name"],
            measured(threshold["value"], unit_of(threshold), ".4f"),
            *interval,
            f"{sign} {measured(threshold['limit'], unit_of(threshold), '.4f')}",
            held + note,
        )  # fmt: skip
    return table


def refusal_lines(evaluation: Mapping[str, Any]) -> list[str]:
    """Returns what explains a refusal: the slice that lost most, and labels that the model misses.

    Args:
      evaluation: content of evaluation.json, or a report by `collect`.
    """
    refusal = evaluation.get("refusal")
    if not refusal or evaluation["verdict"] != "refused":
        return []
    name, examples = refusal.get("slice"), refusal.get("examples") or []
    lines = []
    if name:
        meaning = slice_meaning(name, evaluation)
        lines.append(f"The slice that lost most is {name}" + (f": {meaning}." if meaning != name else "."))
    if examples:
        found_by = label(examples[0]["found_by"])
        k = evaluation.get("cutoff") or DEFAULT_CUTOFF
        lines.append(f"Labels that this model misses ({found_by} has them among its first {k}):")
    for example in examples:
        rank = f"at rank {example['rank']}" if example["rank"] else "nowhere"
        part = f" (in {name})" if example["in_slice"] else ""
        lines.append(
            f"  user {example['user'] + 1}, label item {example['label_item']}: {found_by} has it at rank "
            f"{example['found_at']}, this model {rank}{part}"
        )
    return [*lines, ""] if lines else []


def metric_table(report: Mapping[str, Any]) -> Table:
    """Returns a row per recommender, in the order of the report; evaluation.json holds more metrics."""
    queries = report["queries"] or {}
    asked = f" ({queries['test']:,} queries by {queries['users']:,} users)" if queries else ""
    table = _table(f"Test split{asked}")
    rows = measured_recommenders(report)
    if "test_exact" in report["metrics"]:
        rows[MODEL_EXACT] = report["metrics"]["test_exact"]
    judged = f"recall@{report.get('cutoff') or DEFAULT_CUTOFF}"
    intervals = report.get("intervals") or {}
    shown = few_metrics(report)
    table.add_column("", no_wrap=True)
    for metric in shown:
        table.add_column(metric, justify="right", no_wrap=True)
        if metric == judged and intervals:
            table.add_column("95% interval", justify="right", no_wrap=True)
    for who in in_order(rows):
        cells = []
        for metric in shown:
            cells.append(number(rows[who].get(metric)))
            if metric == judged and intervals:
                cells.append(bounds((intervals.get(who) or {}).get(metric)))
        table.add_row(label(who), *cells)
    return table


def few_metrics(report: Mapping[str, Any]) -> list[str]:
    """Returns the metrics that fit a terminal: the judged recall, two others, and NDCG."""
    judged = report.get("cutoff") or DEFAULT_CUTOFF
    recalls = [name for name in shown_metrics(report) if name.startswith("recall@")]
    recalls = [name for name in recalls if name == f"recall@{judged}"] + [
        name for name in recalls if name != f"recall@{judged}"
    ][-2:]
    recalls.sort(key=lambda name: int(name.partition("@")[2]))
    return recalls + [name for name in (f"ndcg@{judged}",) if name in report["metrics"]["test"]]


def slice_table(report: Mapping[str, Any]) -> Table | None:
    """Returns slices of the judged recall beside the latest blessed model's; None without a common slice."""
    judged = f"recall@{report.get('cutoff') or DEFAULT_CUTOFF}"
    slices = {
        name: part
        for name, part in (report.get("slices") or {}).items()
        if part["metrics"].get(BLESSED_MODEL, {}).get(judged) is not None
        and part["metrics"].get(MODEL, {}).get(judged) is not None
    }
    if not slices:
        return None
    table = _table(f"Slices, {judged}, the greatest losses against the latest blessed model first")
    table.add_column("slice")
    for heading in ("queries", "model", "95% interval", "latest blessed", "change"):
        table.add_column(heading, justify="right")

    def change(part: Mapping[str, Any]) -> float:
        return float(part["metrics"][MODEL][judged] - part["metrics"][BLESSED_MODEL][judged])

    for name, part in sorted(slices.items(), key=lambda one: change(one[1]))[:_SHOWN_SLICES]:
        table.add_row(
            name,
            f"{part['queries']:,}",
            number(part["metrics"][MODEL][judged]),
            bounds(((part.get("intervals") or {}).get(MODEL) or {}).get(judged)),
            number(part["metrics"][BLESSED_MODEL][judged]),
            f"{change(part):+.4f}",
        )
    return table


def oracle_table(oracle: Mapping[str, Any]) -> Table:
    """Returns the model's recall beside the best baseline's and the simulator's oracles."""
    table = _table(f"Against the simulator's own knowledge ({oracle['queries']:,} queries)")
    names = {
        "best_baseline": "best baseline",
        "model": "model",
        "oracle_observed": "oracle, observed state",
        "oracle": "oracle",
        "share_of_gap_observed": "way to observed",
        "share_of_gap": "way to oracle",
    }
    table.add_column("")
    for heading in names.values():
        table.add_column(heading, justify="right")
    for metric, values in oracle.items():
        if metric.startswith("recall@"):
            table.add_row(metric, *(number(values.get(name)) for name in names))
            if found := values.get("intervals"):
                table.add_row("", *(bounds(found.get(name)) for name in names))
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD)


def number(value: float | None) -> str:
    """Formats a metric."""
    return "–" if value is None else f"{value:.4f}"


def bounds(interval: Any) -> str:
    """Formats a confidence interval; "" without one."""
    if not interval or interval[0] is None or interval[1] is None:
        return ""
    return f"{interval[0]:.4f} to {interval[1]:.4f}"
