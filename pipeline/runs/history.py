"""History of the runs in an output directory, from the metadata store and the evaluations that still exist.

The module reads ML Metadata without TFX, whose import takes half a minute.
"""

from __future__ import annotations

import contextlib
import datetime
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.evaluation.report.glossary import DEFAULT_CUTOFF, moment
from two_tower.pipeline.runs.report import evaluation_at
from two_tower.pipeline.runs.stored_runs import EVALUATOR, INDEXER, PUSHER, run_nodes, status
from two_tower.serving.service import Service, in_service, versions_of
from two_tower.serving.versions import PUSHED

_WINDOWS = "InteractionExampleGen"
_WIDTH = 128


def history(output: str) -> list[dict[str, Any]]:
    """Returns the runs in an output directory, the newest first, including failed ones.

    Args:
      output: the --output of `two-tower run`. Runs that stop early on purpose, such as `two-tower validate`,
        are left out.

    Returns:
      Per run: `run`, its name and start; `status` as in the report, and `failed`, the failed components;
      `dataset`, `data_digest`; `train_end`, `test_from` and `test_to` in seconds of the data's clock, or
      None; `metric` with its value `recall` and
      `interval`; `verdict` ("blessed", "refused" or None); `pushed_version` and `pushed_to` of a pushed
      model; `versions`, all numbers under which it was published, those of rollbacks too; `in_service`, that
      of them that servers load, or None; `seconds` in all; and `note`, an error while reading.

    Raises:
      UserError: there is no run in `output`.
    """
    push_directory = storage.join(output, PUSHED)
    service, published = in_service(push_directory), versions_of(push_directory)
    return [_row(name, nodes, push_directory, service, published) for name, nodes in run_nodes(output)]


def _row(
    name: str,
    nodes: Mapping[str, Mapping[str, Any]],
    push_directory: str,
    service: Service | None,
    published: Mapping[str, list[int]],
) -> dict[str, Any]:
    evaluation: dict[str, Any] = {}
    note = None
    try:
        evaluation = evaluation_at([one["uri"] for one in _outputs(nodes, EVALUATOR, "evaluation")])
    except UserError as error:
        note = str(error)
    blessing = next(iter(_outputs(nodes, EVALUATOR, "blessing")), None)
    facts: Mapping[str, Any] = next(iter(_outputs(nodes, _WINDOWS, "examples")), {"properties": {}})[
        "properties"
    ]
    split = evaluation.get("split") or {}
    test = split.get("test") or (facts.get("test_from"), facts.get("test_to"))
    pushed: Mapping[str, Any] = next(iter(_outputs(nodes, PUSHER, "pushed_model")), {"properties": {}})[
        "properties"
    ]
    is_pushed = pushed.get("pushed") == 1
    models = {one["uri"] for one in _outputs(nodes, INDEXER, "model")}
    # Pusher does not tell of rollbacks, nor of a push that was killed right behind its last step.
    numbers = {version for model in models for version in published.get(model, [])}
    if is_pushed and str(pushed.get("pushed_version")).isdigit():
        numbers.add(int(pushed["pushed_version"]))
    first = min(numbers, default=None)
    judged = f"recall@{evaluation.get('cutoff') or DEFAULT_CUTOFF}"
    verdict = evaluation.get("verdict")
    if verdict is None and blessing is not None and "blessed" in blessing["properties"]:
        verdict = "blessed" if blessing["properties"]["blessed"] == 1 else "refused"
    return {
        "run": name,
        "status": status(nodes),
        "failed": [node for node, one in nodes.items() if one["state"] == "FAILED"],
        "dataset": evaluation.get("dataset") or facts.get("dataset"),
        "data_digest": facts.get("data_digest"),
        "train_end": split.get("train_end") or facts.get("train_end") or None,
        "test_from": test[0] or None,
        "test_to": test[1] or None,
        "metric": judged,
        "recall": ((evaluation.get("metrics") or {}).get("test") or {}).get(judged),
        "interval": ((evaluation.get("intervals") or {}).get("model") or {}).get(judged),
        "verdict": verdict,
        "pushed_version": None if first is None else str(first),
        "pushed_to": None if first is None else storage.join(push_directory, str(first)),
        "versions": sorted(numbers),
        "in_service": service.version if service and service.version in numbers else None,
        "seconds": round(sum(one["seconds"] for one in nodes.values() if one["state"] != "CACHED"), 1),
        "note": note,
    }


def _outputs(nodes: Mapping[str, Mapping[str, Any]], node: str, key: str) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = nodes.get(node, {}).get("outputs", {}).get(key, [])
    return found


def render(runs: Sequence[Mapping[str, Any]]) -> str:
    """Renders runs as a table for a terminal of 128 columns."""
    page = io.StringIO()
    console = Console(file=page, width=_WIDTH, highlight=False, markup=False, emoji=False)
    title = f"{len(runs)} runs, the newest first" if len(runs) > 1 else "One run"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="")
    metrics = {one["metric"] for one in runs if one["recall"] is not None}
    metric = metrics.pop() if len(metrics) == 1 else "recall"
    for heading in (
        "run",
        "data",
        "train until",
        "test until",
        metric,
        "95% interval",
        "verdict",
        "pushed",
        "took",
    ):
        numeric = heading in (metric, "took")
        table.add_column(
            heading, justify="right" if numeric else "left", no_wrap=heading != "data", overflow="fold"
        )
    for one in runs:
        recall = "–" if one["recall"] is None else f"{one['recall']:.4f}"
        if metric == "recall" and one["recall"] is not None:
            recall += f" @{one['metric'].partition('@')[2]}"
        low_high = "" if not one["interval"] else f"{one['interval'][0]:.4f}–{one['interval'][1]:.4f}"
        table.add_row(
            _when(one["run"]),
            one["dataset"] or "–",
            _moment(one["train_end"]),
            _moment(one["test_to"]),
            recall,
            low_high,
            _ended(one),
            _pushed(one),
            _took(one["seconds"]),
        )
    console.print(table)
    for one in runs:
        if one["note"]:
            console.print(f"{_when(one['run'])}: {one['note']}", soft_wrap=True)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()) + "\n"


def _ended(run: Mapping[str, Any]) -> str:
    if run["status"] == "failed":
        return f"failed at {', '.join(run['failed'])}"
    return str(run["verdict"] or run["status"])


def _pushed(run: Mapping[str, Any]) -> str:
    """Names a run's published versions, and the one in service."""
    return ", ".join(
        f"{version} (in service)" if version == run["in_service"] else str(version)
        for version in run["versions"]
    )


def _when(name: str) -> str:
    with contextlib.suppress(ValueError):  # Other orchestrators name runs differently.
        return f"{datetime.datetime.fromisoformat(name):%Y-%m-%d %H:%M}"
    return name


def _moment(seconds: int | None) -> str:
    """Formats a time as its day, which is enough to tell runs apart."""
    if not seconds:
        return "–"
    day = moment(seconds).partition(" of ")[0]
    return day if day.startswith("day ") else day[:10]


def _took(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
