"""What the latest run in an output directory did, read from its metadata store and its evaluation.

It reads ML Metadata alone, without TFX, whose import takes half a minute.
"""

from __future__ import annotations

import contextlib
import datetime
import glob
import io
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from two_tower.base.errors import UserError
from two_tower.evaluation.recommenders import BLESSED_MODEL, MODEL, MODEL_EXACT, in_order, label
from two_tower.evaluation.report.glossary import DEFAULT_CUTOFF, definitions, question, shown_metrics
from two_tower.serving.versions import newest_version

# Custom properties of an execution: bytes, and why it failed.
PEAK_MEMORY = "peak_memory_bytes"
ERROR = "error"
# Begins the name of a run that stops on the way, as `two-tower validate` does: reports are of whole runs.
PARTIAL_RUN = "partial "
METADATA = "metadata.sqlite"
EVALUATOR = "RetrievalEvaluator"
PUSHER = "Pusher"
TRAINER = "Trainer"
PLACER = "CatalogPlacer"
# Which component was given which section of the settings, and as which parameter.
_PARAMETERS = (
    ("InteractionExampleGen", "split", "split"),
    ("InteractionExampleGen", "windows", "windows"),
    ("AnomalyGate", "validation", "validation"),
    (TRAINER, "features", "features"),
    (TRAINER, "trainer", "trainer"),
    ("ScannIndexer", "index", "index"),
    (EVALUATOR, "evaluation_config", "evaluation"),
    (EVALUATOR, "gate_config", "gate"),
)
# What is taken over from evaluation.json as it is.
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
    "oracle",
    "notes",
    "intervals",
    "changes",
    "latency",
    "size",
    "refusal",
)
_WIDTH = 100
_SHOWN_SLICES = 8


def collect(output: str, partial: bool = False) -> dict[str, Any]:
    """The latest run's report.

    Args:
      output: the directory that was given to `two-tower run --output`.
      partial: of the latest run that stopped on the way, as it should (`two-tower validate`).

    Returns:
      `status` is "complete", "failed", or "unfinished" (killed, or still running), and `components` lists
      what ran, in order: name, seconds, cached, state, and error, why it failed. The keys of
      evaluation.json are those of the run's RetrievalEvaluator, from an earlier run where it was cached, and
      None if the run did not reach it. `warm_start` says what training began from, and how much of it was
      carried over; None if it was not to begin from anything. `reindexed` counts what became of the
      catalog where nothing was trained (`two-tower reindex`); else None.
      `pushed_model` is where this run's model was pushed to, or None; `not_pushed_because` says why a blessed
      one was not, see components/pusher/executor.py; `in_service` is the newest model there. `artifacts` are
      URIs by component and output; `settings` are those of `settings_of`; `log` is the newest log file.

    Raises:
      UserError: there is no run in `output`.
    """
    nodes = _latest_run(output, partial)
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
    artifacts = _uris(nodes)
    evaluation = evaluation_at(artifacts.get(EVALUATOR, {}).get("evaluation", []))
    (pushed,) = nodes.get(PUSHER, {}).get("outputs", {}).get("pushed_model", [None])[:1] or [None]
    properties = pushed["properties"] if pushed else {}
    return {
        "output": output,
        "run": next(iter(nodes.values()))["run"],
        "status": status(nodes),
        **{key: evaluation.get(key) for key in _EVALUATION_KEYS},
        "components": components,
        "warm_start": _warm_start(nodes),
        "reindexed": _reindexed(nodes),
        "pushed_model": properties.get("pushed_destination") if properties.get("pushed") == 1 else None,
        "not_pushed_because": properties.get("not_pushed_because"),
        "in_service": newest_version(os.path.join(output, "pushed")),
        "artifacts": artifacts,
        "settings": settings_of(nodes),
        "log": newest_log(output),
    }


def settings_of(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The settings that a run's components were given, by their dotted names, as far as the run came."""
    found: dict[str, Any] = {}
    for component, parameter, section in _PARAMETERS:
        value = nodes.get(component, {}).get("parameters", {}).get(parameter)
        if not value:
            continue
        if section == "features":
            resolved = json.loads(value)
            columns = {
                who: [spec["column"] for spec in resolved.get(who) or []] for who in ("users", "items")
            }
            found |= {f"features.{name}": given for name, given in columns.items()}
            found["features.history"] = resolved.get("history") or []
        else:
            found |= {f"{section}.{name}": given for name, given in json.loads(value).items()}
    return found


def latest_outputs(
    output: str, component: str, partial: bool | None = None
) -> dict[str, dict[str, list[str]]]:
    """URIs by component and output, of the newest run in which `component` gave something; {} if none.

    `partial`: only of runs that stop on the way as they should, or only of those that should not.

    Raises:
      UserError: there is no run in `output`.
    """
    store, runs = _runs(output, partial)
    for run in runs:
        nodes = _nodes(store, run)
        if nodes.get(component, {}).get("outputs"):
            return _uris(nodes)
    return {}


def run_nodes(output: str) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Name and nodes of each whole run, the newest first.

    Raises:
      UserError: there is no run in `output`.
    """
    store, runs = _runs(output, partial=False)
    for run in runs:
        yield run.name, _nodes(store, run)


def newest_log(output: str) -> str | None:
    """The newest log file of the runs in `output`."""
    logs = glob.glob(os.path.join(glob.escape(output), "logs", "*.log"))
    return max(logs, key=os.path.getmtime, default=None)


def _latest_run(output: str, partial: bool = False) -> dict[str, dict[str, Any]]:
    store, runs = _runs(output, partial)
    return _nodes(store, runs[0])


def _uris(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[str]]]:
    return {
        name: {key: [artifact["uri"] for artifact in found] for key, found in node["outputs"].items()}
        for name, node in nodes.items()
    }


def _runs(output: str, partial: bool | None) -> tuple[Any, list[Any]]:
    """The metadata store and its runs, the newest first, of which there is at least one."""
    path = os.path.join(output, METADATA)
    nothing = f"{output} holds no run yet. `two-tower run --data DIR --output {output}` makes one."
    if not os.path.isfile(path):
        raise UserError(nothing)

    from ml_metadata import errors
    from ml_metadata.metadata_store import MetadataStore
    from ml_metadata.proto import metadata_store_pb2 as pb

    connection = pb.ConnectionConfig()
    connection.sqlite.filename_uri = path
    connection.sqlite.connection_mode = pb.SqliteMetadataSourceConfig.READONLY
    try:
        store = MetadataStore(connection)
        runs = store.get_contexts_by_type("pipeline_run")
    except (RuntimeError, errors.StatusError) as error:
        raise UserError(f"{path} cannot be read as a metadata store: {error}") from error
    runs = [run for run in runs if partial is None or run.name.startswith(PARTIAL_RUN) == partial]
    if not runs:
        raise UserError(nothing)
    return store, sorted(runs, key=lambda context: -context.id)


def _nodes(store: Any, run: Any) -> dict[str, dict[str, Any]]:
    """What each node of a run did, in the order in which they began; see `collect`."""
    from ml_metadata.proto import metadata_store_pb2 as pb

    executions = sorted(store.get_executions_by_context(run.id), key=lambda execution: execution.id)
    events = store.get_events_by_execution_ids([execution.id for execution in executions])
    outputs = [event for event in events if event.type == pb.Event.OUTPUT]
    produced_ids = {event.artifact_id for event in outputs}
    artifacts = {artifact.id: artifact for artifact in store.get_artifacts_by_id(produced_ids)}
    nodes: dict[str, dict[str, Any]] = {}
    for execution in executions:
        contexts = store.get_contexts_by_execution(execution.id)
        (node,) = (context.name for context in contexts if context.type == "node")
        (pipeline,) = (context.name for context in contexts if context.type == "pipeline")
        produced: dict[str, list[dict[str, Any]]] = {}
        for event in outputs:
            if event.execution_id == execution.id:
                artifact = artifacts[event.artifact_id]
                properties = {
                    name: getattr(value, value.WhichOneof("value"))
                    for name, value in artifact.custom_properties.items()
                }
                produced.setdefault(event.path.steps[0].key, []).append(
                    {"uri": artifact.uri, "properties": properties}
                )
        duration = execution.last_update_time_since_epoch - execution.create_time_since_epoch
        nodes[node.removeprefix(f"{pipeline}.")] = {
            "run": run.name,
            "state": pb.Execution.State.Name(execution.last_known_state),
            "seconds": round(duration / 1000, 1),
            "peak_memory_bytes": execution.custom_properties[PEAK_MEMORY].int_value or None,
            "error": execution.custom_properties[ERROR].string_value or None,
            "began": execution.create_time_since_epoch / 1000,
            "ended": execution.last_update_time_since_epoch / 1000,
            "parameters": {
                name: getattr(value, value.WhichOneof("value"))
                for name, value in execution.custom_properties.items()
                if value.WhichOneof("value")
            },
            "outputs": produced,
        }
    return nodes


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
    """What CatalogPlacer notes on its model, see components/catalog_placer/executor.py."""
    (model,) = nodes.get(PLACER, {}).get("outputs", {}).get("model", [None])[:1] or [None]
    counts = {"items", "items_new", "items_learnt", "items_withdrawn", "test_labels", "test_labels_withdrawn"}
    return {name: model["properties"][name] for name in sorted(counts)} if model else None


def status(nodes: Mapping[str, Mapping[str, Any]]) -> str:
    """`complete`, `failed`, or `unfinished` (killed, or still running)."""
    states = {node["state"] for node in nodes.values()}
    if "FAILED" in states:
        return "failed"
    return "complete" if PUSHER in nodes and states <= {"COMPLETE", "CACHED"} else "unfinished"


def evaluation_at(uris: list[str]) -> dict[str, Any]:
    """evaluation.json of the first of these; {} if there are none. Raises UserError if it cannot be read."""
    if not uris:
        return {}
    path = os.path.join(uris[0], "evaluation.json")
    try:
        with open(path, encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the run's evaluation cannot be read ({error}).") from error


def render(report: Mapping[str, Any]) -> str:
    """The report as text for a terminal of 100 columns."""
    page = io.StringIO()
    console = Console(file=page, width=_WIDTH, highlight=False, markup=False, emoji=False)
    console.print(_headline(report), soft_wrap=True)
    console.print()
    console.print(_component_table(report))
    if start := report.get("warm_start"):
        console.print(_warm_start_line(start), soft_wrap=True)
        console.print()
    if counts := report.get("reindexed"):
        console.print(_reindexed_line(counts), soft_wrap=True)
        console.print()
    if report["verdict"]:
        console.print(_threshold_table(report))
        for note in report.get("notes") or ():
            console.print(f"  {note}\n")
        console.print(_metric_table(report))
        console.print(question(report))
        shown = {metric.partition("@")[0] for metric in _few_metrics(report)}
        for name, meaning in definitions(report).items():
            if name in shown:
                console.print(f"  {name}: {meaning}")
        console.print()
        if slices := _slice_table(report):
            console.print(slices)
        _print_ann_and_baseline_model(console, report)
        if report["oracle"]:
            console.print(_oracle_table(report["oracle"]))
    for line in _places(report):
        console.print(line, soft_wrap=True)
    # Tables are padded with blanks to the right.
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()) + "\n"


def _headline(report: Mapping[str, Any]) -> str:
    if report["status"] == "failed":
        failed = [component for component in report["components"] if component["state"] == "FAILED"]
        text = f"FAILED: {', '.join(component['name'] for component in failed)} stopped the run."
        text = text if report["verdict"] else f"{text} It did not get as far as an evaluation."
        return "\n".join([text, *filter(None, (component.get("error") for component in failed))])
    if not report["verdict"]:
        last = report["components"][-1]["name"]
        return f"UNFINISHED: the run was killed, or still goes on; it is at {last}. Run it again to continue."
    if report["verdict"] == "refused":
        missed = [threshold["name"] for threshold in report["thresholds"] if not threshold["ok"]]
        kept = f"{report['in_service']} stays in service" if report["in_service"] else "nothing is in service"
        return f"REFUSED: the model is not pushed ({', '.join(missed)}); {kept}."
    if report["status"] == "unfinished":
        return "UNFINISHED: the model is blessed and not pushed, for the run was killed. Run it again."
    if report["pushed_model"]:
        return f"BLESSED: the model holds every threshold and is pushed to {report['pushed_model']}."
    if reason := report.get("not_pushed_because"):
        return f"BLESSED, and {reason}"
    return f"BLESSED, and not pushed again: this very model is in service already, in {report['in_service']}."


def _component_table(report: Mapping[str, Any]) -> Table:
    started = report["run"]
    with contextlib.suppress(ValueError):  # A run of another orchestrator has a name of another form.
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


def _warm_start_line(start: Mapping[str, Any]) -> str:
    line = f"Warm start: {start['start']}"
    if "rows_item" in start:
        line += f", {start['warm_rows_item']:,} of {start['rows_item']:,} items carried over"
    if start["afresh"]:
        line += f"; {start['afresh']} layers, tables or states begin afresh, which the log names"
    return line


def _reindexed_line(count: Mapping[str, int]) -> str:
    line = (
        f"Re-indexed without training: {count['items']:,} items, {count['items_learnt']:,} of them with a "
        f"learnt row; {count['items_new']:,} are new since the training, "
        f"{count['items_withdrawn']:,} withdrawn."
    )
    if lost := count["test_labels_withdrawn"]:
        line += (
            f" Of {count['test_labels']:,} test labels {lost:,} are withdrawn items: no query can find "
            "these, and they count as missed."
        )
    return line


def _threshold_table(report: Mapping[str, Any]) -> Table:
    table = _table(f"Thresholds, judged by Recall@{report.get('cutoff') or DEFAULT_CUTOFF}")
    has_bounds = any(threshold.get("low") is not None for threshold in report["thresholds"])
    for heading in ("threshold", "value", *(["95% interval"] if has_bounds else []), "limit"):
        # Names are what one sets: of the columns the notes' alone gives way.
        table.add_column(heading, justify="left" if heading == "threshold" else "right", no_wrap=True)
    table.add_column("")

    def shown(threshold: Mapping[str, Any], part: str) -> str:
        is_time = threshold["name"] == "max_latency_p95" and threshold[part] is not None
        return f"{threshold[part]:.3g} ms" if is_time else _number(threshold[part])

    for threshold in report["thresholds"]:
        held = "holds" if threshold["ok"] else "FAILS"
        note = f" ({threshold['note']})" if threshold.get("note") else ""
        sign = "≤" if threshold.get("direction") == "max" else "≥"
        bounds = [_bounds((threshold.get("low"), threshold.get("high")))] if has_bounds else []
        table.add_row(
            threshold["name"], shown(threshold, "value"), *bounds, f"{sign} {shown(threshold, 'limit')}",
            held + note,
        )  # fmt: skip
    return table


def _metric_table(report: Mapping[str, Any]) -> Table:
    """A row each who recommends, in the story's order; evaluation.json holds more metrics."""
    queries = report["queries"] or {}
    asked = f" ({queries['test']:,} queries by {queries['users']:,} users)" if queries else ""
    table = _table(f"Test split{asked}")
    rows = {MODEL: report["metrics"]["test"], **report["baselines"]}
    if "test_exact" in report["metrics"]:
        rows[MODEL_EXACT] = report["metrics"]["test_exact"]
    blessed = report.get("blessed_model")
    if blessed and blessed["eligible"]:
        rows[BLESSED_MODEL] = blessed["metrics"]
    judged = f"recall@{report.get('cutoff') or DEFAULT_CUTOFF}"
    intervals = report.get("intervals") or {}
    shown = _few_metrics(report)
    table.add_column("", no_wrap=True)
    for metric in shown:
        table.add_column(metric, justify="right", no_wrap=True)
        if metric == judged and intervals:
            table.add_column("95% interval", justify="right", no_wrap=True)
    for who in in_order(rows):
        cells = []
        for metric in shown:
            cells.append(_number(rows[who].get(metric)))
            if metric == judged and intervals:
                cells.append(_bounds((intervals.get(who) or {}).get(metric)))
        table.add_row(label(who), *cells)
    return table


def _few_metrics(report: Mapping[str, Any]) -> list[str]:
    """What fits a terminal: the recall that is judged, two others, and NDCG; the pages hold the rest."""
    judged = report.get("cutoff") or DEFAULT_CUTOFF
    recalls = [name for name in shown_metrics(report) if name.startswith("recall@")]
    recalls = [name for name in recalls if name == f"recall@{judged}"] + [
        name for name in recalls if name != f"recall@{judged}"
    ][-2:]
    recalls.sort(key=lambda name: int(name.partition("@")[2]))
    return recalls + [name for name in (f"ndcg@{judged}",) if name in report["metrics"]["test"]]


def _slice_table(report: Mapping[str, Any]) -> Table | None:
    """Slices of the judged recall beside the latest blessed model's; None where there is none to compare."""
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
            _number(part["metrics"][MODEL][judged]),
            _bounds(((part.get("intervals") or {}).get(MODEL) or {}).get(judged)),
            _number(part["metrics"][BLESSED_MODEL][judged]),
            f"{change(part):+.4f}",
        )
    return table


def _print_ann_and_baseline_model(console: Console, report: Mapping[str, Any]) -> None:
    ann, blessed = report["ann"], report["blessed_model"]
    measured = {name: value for name, value in ann.items() if name.startswith("recall@")}
    recalls = ", ".join(f"{_number(value)} ({name})" for name, value in measured.items())
    if ann.get("kind") == "exact":
        console.print("Search is exact: the catalog is small.")
    else:
        console.print(f"Of what exact search finds, ScaNN returns {recalls}.")
    if blessed and blessed.get("reason"):
        console.print(f"Latest blessed model: {blessed['reason']}")
    latency = report.get("latency") or {}
    for name, one in latency.items():
        what = "A single query" if name == "single" else f"A batch of {one.get('size', '?')}"
        times = ", ".join(f"{one[f'{p}_ms']:.3g} ms ({p})" for p in ("p50", "p95", "p99") if f"{p}_ms" in one)
        console.print(f"{what} takes {times}.")


def _oracle_table(oracle: Mapping[str, Any]) -> Table:
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
            table.add_row(metric, *(_number(values.get(name)) for name in names))
    return table


def _places(report: Mapping[str, Any]) -> list[str]:
    places = {
        "Report": report.get("page"),
        "Pushed models": os.path.dirname(report["in_service"]) if report["in_service"] else None,
        "Evaluation": next(iter(report["artifacts"].get(EVALUATOR, {}).get("evaluation", [])), None),
        "Artifacts": os.path.join(report["output"], "artifacts"),
        "Metadata": os.path.join(report["output"], METADATA),
        "Log": report["log"],
    }
    return [f"{name:<14} {place}" for name, place in places.items() if place]


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _bounds(bounds: Any) -> str:
    if not bounds or bounds[0] is None or bounds[1] is None:
        return ""
    return f"{bounds[0]:.4f} to {bounds[1]:.4f}"
