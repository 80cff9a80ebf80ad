"""Report of a run: facts of the metadata store and of evaluation.json, and their text for a terminal."""

from __future__ import annotations

import contextlib
import datetime
import glob
import io
import os
from collections.abc import Collection, Mapping
from typing import Any

from rich.console import Console

from two_tower.base import storage
from two_tower.base.durations import milliseconds
from two_tower.evaluation import stored_evaluation
from two_tower.evaluation.report.glossary import definitions, question
from two_tower.evaluation.report.standing import on_call, standing
from two_tower.pipeline.runs.job_runs import run_folders
from two_tower.pipeline.runs.report_tables import (
    WIDTH,
    component_table,
    few_metrics,
    metric_table,
    number,
    oracle_table,
    refusal_lines,
    slice_table,
    threshold_table,
)
from two_tower.pipeline.runs.stored_runs import (
    EVALUATOR,
    INDEXER,
    METADATA,
    PARTIAL_RUN,
    PLACER,
    PUSHER,
    TRAINER,
    latest_run,
    settings_of,
    status,
    uris_of,
)
from two_tower.serving.service import in_service, versions_of
from two_tower.serving.versions import PUSHED

# Keys of evaluation.json that the report takes over.
_EVALUATION_KEYS = (
    "verdict",
    "unchanged",
    "dataset",
    "protocol",
    "has_timestamps",
    "cutoff",
    "catalog",
    "split",
    "queries",
    "thresholds",
    "metrics",
    "baselines",
    "slices",
    "ann",
    "blessed_model",
    "anchor",
    "oracle",
    "notes",
    "intervals",
    "changes",
    "latency",
    "size",
    "refusal",
)


def collect(output: str, partial: bool = False) -> dict[str, Any]:
    """Collects the report of the latest run.

    Args:
      output: the directory that was given to `two-tower run --output`.
      partial: chooses the latest run that stopped early on purpose (`two-tower validate`).

    Returns:
      `status` is "complete", "failed", or "unfinished" (killed, or still running). `components` lists the
      nodes in order: name, seconds, cached, state, and error. The keys of evaluation.json come from the run's
      RetrievalEvaluator, or from an earlier run if it was cached; they are None if the run did not reach it.
      `warm_start` names the model that training began from, and counts the rows carried over; None without
      a warm start. `reindexed` counts the items of a re-indexed catalog (`two-tower reindex`); else None.
      `pushed_model` is the place of this run's pushed model, or None; `not_pushed_because` is the reason for
      a blessed model that was not pushed (components/pusher/executor.py). `in_service` is the newest pushed
      model; `service` says what it is, since when, and what a rollback would bring back. `artifacts` are
      URIs by component and output; `settings` come from `settings_of`; `log` is the run's log file.

    Raises:
      UserError: there is no run in `output`.
    """
    nodes = latest_run(output, partial)
    components = [
        {
            "name": name,
            "seconds": node["seconds"],
            "cached": node["state"] == "CACHED",
            "state": node["state"],
            "peak_memory_bytes": node["peak_memory_bytes"],
            "error": node["error"],
        }
        for name, node in nodes.items()
    ]
    artifacts = uris_of(nodes)
    evaluation = evaluation_at(artifacts.get(EVALUATOR, {}).get("evaluation", []))
    run = next(iter(nodes.values()))["run"]
    return {
        "output": output,
        "run": run,
        "status": status(nodes),
        **{key: evaluation.get(key) for key in _EVALUATION_KEYS},
        "components": components,
        "warm_start": _warm_start(nodes),
        "reindexed": _reindexed(nodes),
        "pushed_model": _pushed_to(output, nodes),
        "not_pushed_because": _pushed_properties(nodes).get("not_pushed_because"),
        **_service(output),
        "artifacts": artifacts,
        "settings": settings_of(nodes),
        "log": _log_of(output, run),
    }


def _pushed_to(output: str, nodes: Mapping[str, Any]) -> str | None:
    """Returns where this run's model was pushed to, though the push was killed right behind its last step."""
    if properties := _pushed_properties(nodes):
        return str(properties["pushed_destination"]) if properties.get("pushed") == 1 else None
    push_directory = storage.join(output, PUSHED)
    published = versions_of(push_directory)
    models = [model["uri"] for model in nodes.get(INDEXER, {}).get("outputs", {}).get("model", [])]
    found = [version for model in models for version in published.get(model, [])]
    return storage.join(push_directory, str(min(found))) if found else None


def _pushed_properties(nodes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the properties of Pusher's result; {} before there is one."""
    for pushed in nodes.get(PUSHER, {}).get("outputs", {}).get("pushed_model", [])[:1]:
        return dict(pushed["properties"])
    return {}


def _service(output: str) -> dict[str, Any]:
    """Returns `in_service` and `service`, see `collect`."""
    service = in_service(storage.join(output, PUSHED))
    if service is None:
        return {"in_service": None, "service": None}
    described = {
        "version": service.version,
        "copy_of": service.record.copy_of,
        "published": service.record.published or None,
        "before": service.before,
        "fault": service.fault,
    }
    return {"in_service": service.path, "service": described}


def log_name(began: datetime.datetime) -> str:
    """Returns the name of the log of a run, by its beginning, which is the run's name too."""
    return f"{began:%Y%m%d-%H%M%S-%f}.log"


def logs_of(output: str) -> set[str]:
    """Returns the log files in `output`."""
    return set(glob.glob(os.path.join(glob.escape(output), "logs", "*.log")))


def newest_log(output: str, but: Collection[str] = ()) -> str | None:
    """Returns the newest log file of the runs in `output`, `but` some; None without one."""
    return max(logs_of(output) - set(but), key=os.path.getmtime, default=None)


def _log_of(output: str, run: str) -> str | None:
    """Returns the log of a run by name, or the newest: earlier releases name logs otherwise."""
    with contextlib.suppress(ValueError):
        began = datetime.datetime.fromisoformat(run.removeprefix(PARTIAL_RUN))
        path = os.path.join(output, "logs", log_name(began))
        if os.path.isfile(path):
            return path
    return newest_log(output)


def evaluation_at(uris: list[str]) -> dict[str, Any]:
    """Returns evaluation.json of the first URI; {} without URIs; raises UserError if unreadable."""
    return stored_evaluation.read(uris[0], for_report=True) if uris else {}


def _warm_start(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Returns the Trainer's notes on its model's warm start.

    Source: components/trainer/executor.py and trainer/loop/warm_start.py.
    """
    (model,) = nodes.get(TRAINER, {}).get("outputs", {}).get("model", [None])[:1] or [None]
    properties = model["properties"] if model else {}
    if "warm_start" not in properties:
        return None
    rows = {
        name: int(value) for name, value in properties.items() if name.startswith(("rows_", "warm_rows_"))
    }
    return {"start": properties["warm_start"], "afresh": int(properties.get("warm_start_afresh", 0)), **rows}


def _reindexed(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, int] | None:
    """Returns CatalogPlacer's notes on its model (components/catalog_placer/executor.py)."""
    (model,) = nodes.get(PLACER, {}).get("outputs", {}).get("model", [None])[:1] or [None]
    counts = {"items", "items_new", "items_learnt", "items_withdrawn", "test_labels", "test_labels_withdrawn"}
    return {name: model["properties"][name] for name in sorted(counts)} if model else None


def render(report: Mapping[str, Any]) -> str:
    """Renders a report as text for a terminal of 100 columns."""
    page = io.StringIO()
    console = Console(file=page, width=WIDTH, highlight=False, markup=False, emoji=False)
    console.print(_headline(report), soft_wrap=True)
    for sentence in on_call(report, report):
        console.print(sentence, soft_wrap=True)
    if report["verdict"]:
        console.print()
        for sentence in standing(report):
            console.print(sentence, soft_wrap=True)
    console.print()
    console.print(component_table(report))
    if start := report.get("warm_start"):
        console.print(_warm_start_line(start), soft_wrap=True)
        console.print()
    if counts := report.get("reindexed"):
        console.print(_reindexed_line(counts), soft_wrap=True)
        console.print()
    if report["verdict"]:
        console.print(threshold_table(report))
        for note in report.get("notes") or ():
            console.print(f"  {note}\n")
        for line in refusal_lines(report):
            console.print(line, soft_wrap=True)
        console.print(metric_table(report))
        console.print(question(report))
        shown = {metric.partition("@")[0] for metric in few_metrics(report)}
        for name, meaning in definitions(report).items():
            if name in shown:
                console.print(f"  {name}: {meaning}")
        console.print()
        if slices := slice_table(report):
            console.print(slices)
        _print_ann_and_baseline_model(console, report)
        if report["oracle"]:
            console.print(oracle_table(report["oracle"]))
    for line in _places(report):
        console.print(line, soft_wrap=True)
    # Tables pad their lines with blanks.
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()) + "\n"


def _headline(report: Mapping[str, Any]) -> str:
    if report["status"] == "failed":
        failed = [component for component in report["components"] if component["state"] == "FAILED"]
        text = f"FAILED: {', '.join(component['name'] for component in failed)} stopped the run."
        text = text if report["verdict"] else f"{text} It did not reach an evaluation."
        return "\n".join([text, *filter(None, (component.get("error") for component in failed))])
    if not report["verdict"]:
        last = report["components"][-1]["name"]
        return f"UNFINISHED: the run was killed or is still running, at {last}. Run it again to continue."
    if report["verdict"] == "refused":
        missed = [threshold["name"] for threshold in report["thresholds"] if not threshold["ok"]]
        kept = f"{report['in_service']} stays in service" if report["in_service"] else "nothing is in service"
        return f"REFUSED: the model is not pushed ({', '.join(missed)}); {kept}."
    if report["status"] == "unfinished" and report["pushed_model"]:
        return (
            f"UNFINISHED: the model is blessed and pushed to {report['pushed_model']}, but the run was "
            "killed behind the push. Run it again."
        )
    if report["status"] == "unfinished":
        return "UNFINISHED: the model is blessed, but the run was killed before the push. Run it again."
    if report["pushed_model"]:
        return f"BLESSED: the model passes every threshold and is pushed to {report['pushed_model']}."
    if reason := report.get("not_pushed_because"):
        return f"BLESSED, and {reason}"
    return f"BLESSED, and not pushed again: the same model is in service already, in {report['in_service']}."


def _warm_start_line(start: Mapping[str, Any]) -> str:
    line = f"Warm start: {start['start']}"
    if "rows_item" in start:
        line += f", {start['warm_rows_item']:,} of {start['rows_item']:,} items carried over"
    if start["afresh"]:
        line += f"; {start['afresh']} layers, tables or states begin afresh (the log names them)"
    return line


def _reindexed_line(count: Mapping[str, int]) -> str:
    line = (
        f"Re-indexed without training: {count['items']:,} items, {count['items_learnt']:,} of them with a "
        f"learnt row; {count['items_new']:,} are new since the training, "
        f"{count['items_withdrawn']:,} withdrawn."
    )
    if lost := count["test_labels_withdrawn"]:
        line += (
            f" {lost:,} of {count['test_labels']:,} test labels are withdrawn items: no query can find them, "
            "and they count as misses."
        )
    return line


def _print_ann_and_baseline_model(console: Console, report: Mapping[str, Any]) -> None:
    ann, blessed = report["ann"], report["blessed_model"]
    measured = {name: value for name, value in ann.items() if name.startswith("recall@")}
    recalls = ", ".join(f"{number(value)} ({name})" for name, value in measured.items())
    if ann.get("kind") == "exact":
        console.print("Search is exact: the catalog is small.")
    else:
        console.print(f"ScaNN returns {recalls} of the results of exact search.")
    if blessed and blessed.get("reason"):
        console.print(f"Latest blessed model: {blessed['reason']}")
    latency = report.get("latency") or {}
    for name, one in latency.items():
        batch = "A single query" if name == "single" else f"A batch of {one.get('size', '?')}"
        parts = {part: one[f"{part}_ms"] for part in ("p50", "p95", "p99") if f"{part}_ms" in one}
        times = ", ".join(f"{milliseconds(value)} ({part})" for part, value in parts.items())
        console.print(f"{batch} takes {times}.")


def _place_of_artifacts(report: Mapping[str, Any]) -> str:
    """Returns the folder of artifacts of all runs; below a job's root each run has its own."""
    place = storage.join(report["output"], "artifacts")
    if storage.is_directory(place):
        return place
    return next((one for one in run_folders(report["output"]) if one.endswith(f"/{report['run']}")), place)


def _places(report: Mapping[str, Any]) -> list[str]:
    metadata = storage.join(report["output"], METADATA)
    places = {
        "Report": report.get("page"),
        "Pushed models": os.path.dirname(report["in_service"]) if report["in_service"] else None,
        "Evaluation": next(iter(report["artifacts"].get(EVALUATOR, {}).get("evaluation", [])), None),
        "Artifacts": _place_of_artifacts(report),
        "Metadata": metadata if storage.is_file(metadata) else None,
        "Log": report["log"],
    }
    return [f"{name:<14} {place}" for name, place in places.items() if place]
