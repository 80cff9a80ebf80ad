"""Runs in a metadata store or below a job's root: nodes with state, time, parameters and output artifacts.

The module reads ML Metadata without TFX, whose import takes half a minute.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from two_tower.base import pointers, storage
from two_tower.base.errors import UserError
from two_tower.pipeline.runs.job_runs import job_runs

# Custom properties of an execution: peak memory in bytes, and the error that ended it.
PEAK_MEMORY = "peak_memory_bytes"
ERROR = "error"
# Prefix of the name of a run that stops early on purpose, such as `two-tower validate`. Reports cover whole
# runs.
PARTIAL_RUN = "partial "
# Status of a run whose components all ended well, see `status`.
COMPLETE = "complete"
METADATA = "metadata.sqlite"
# Folder of the artifacts, <component>/<output>/<number of the execution>.
ARTIFACTS = "artifacts"
EVALUATOR = "RetrievalEvaluator"
# Parameter of ComparableStatistics since there are pointers; each run has this component but a re-indexing.
_PARAMETER_OF_POINTERS = "latest_approved"
INDEXER = "ScannIndexer"
APPROVED_STATISTICS = "ApprovedStatistics"
PUSHER = "Pusher"
TRAINER = "Trainer"
PLACER = "CatalogPlacer"
# Component, its parameter, and the section of the settings that the parameter holds.
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


def open_store(output: str) -> tuple[Any, list[Any]]:
    """Opens the metadata store of an output directory, read-only.

    Returns:
      The store, and the contexts of its runs, the newest first.

    Raises:
      UserError: the file is no metadata store.
    """
    from ml_metadata import errors
    from ml_metadata.metadata_store import MetadataStore
    from ml_metadata.proto import metadata_store_pb2 as pb

    path = os.path.join(output, METADATA)
    _undo_what_was_killed(path)
    connection = pb.ConnectionConfig()
    connection.sqlite.filename_uri = path
    connection.sqlite.connection_mode = pb.SqliteMetadataSourceConfig.READONLY
    try:
        store = MetadataStore(connection)
        runs = store.get_contexts_by_type("pipeline_run")
    except (RuntimeError, errors.StatusError) as error:
        raise UserError(
            f"{path} cannot be read as a metadata store ({error}). Name another output directory."
        ) from error
    return store, sorted(runs, key=lambda context: -context.id)


def _undo_what_was_killed(path: str) -> None:
    """Makes SQLite undo a write that a kill ended; a read-only connection could not, and would fail."""
    if os.path.exists(f"{path}-journal"):
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()


def _writable_store(output: str) -> Any:
    from ml_metadata.metadata_store import MetadataStore
    from ml_metadata.proto import metadata_store_pb2 as pb

    connection = pb.ConnectionConfig()
    connection.sqlite.filename_uri = os.path.join(output, METADATA)
    return MetadataStore(connection)


def latest_run(output: str, partial: bool = False) -> dict[str, dict[str, Any]]:
    """Returns the nodes of the latest run by name, see `nodes_of`.

    Args:
      output: the directory that was given to `two-tower run --output`, or a job's root.
      partial: chooses among runs that stop early on purpose.

    Raises:
      UserError: there is no run in `output`.
    """
    return next(_runs(output, partial))[1]


def run_nodes(output: str) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Yields name and nodes of each whole run, the newest first.

    Raises:
      UserError: there is no run in `output`.
    """
    yield from _runs(output, partial=False)


def all_runs(output: str) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """Returns name and nodes of all runs, the newest first, with those that stop early on purpose.

    Raises:
      UserError: there is no run in `output`.
    """
    return list(_runs(output, partial=None))


def mark_deleted(output: str, folders: Iterable[str]) -> None:
    """Marks the artifacts in folders as deleted in the metadata store; caching then ignores them."""
    from ml_metadata.proto import metadata_store_pb2 as pb

    store = _writable_store(output)
    gone = set(folders)  # without links, as `cleaning` names them
    artifacts = []
    for artifact in store.get_artifacts():
        place = Path(os.path.realpath(artifact.uri))
        if not gone.isdisjoint({str(place), *map(str, place.parents)}):
            artifacts.append(artifact)
    for artifact in artifacts:
        artifact.state = pb.Artifact.DELETED
    store.put_artifacts(artifacts)


def running(output: str) -> dict[int, str]:
    """Returns the executions that have begun and not ended, as the component's name by number."""
    from ml_metadata.proto import metadata_store_pb2 as pb

    store, _ = open_store(output)
    begun = (pb.Execution.NEW, pb.Execution.RUNNING)
    found: dict[int, str] = {}
    for execution in store.get_executions():
        if execution.last_known_state in begun:
            for context in store.get_contexts_by_execution(execution.id):
                if context.type == "node":
                    found[execution.id] = context.name.partition(".")[2]
    return found


def cancel(output: str, executions: Iterable[int]) -> None:
    """Marks executions that a kill ended as canceled in the metadata store."""
    from ml_metadata.proto import metadata_store_pb2 as pb

    if not (numbers := list(executions)):
        return
    store = _writable_store(output)
    killed = store.get_executions_by_id(numbers)
    for execution in killed:
        execution.last_known_state = pb.Execution.CANCELED
    store.put_executions(killed)


def latest_outputs(
    output: str, component: str, partial: bool | None = None
) -> dict[str, dict[str, list[str]]]:
    """Returns URIs by component and output of the run of `latest_nodes`; {} without one."""
    return uris_of(latest_nodes(output, component, partial))


def latest_nodes(output: str, component: str, partial: bool | None = None) -> dict[str, dict[str, Any]]:
    """Returns the nodes of the newest run with outputs of `component`, see `nodes_of`; {} without one.

    Args:
      output: the directory that was given to `two-tower run --output`.
      component: the node's name.
      partial: True for runs that stop early on purpose, False for whole runs, None for both.

    Raises:
      UserError: there is no run in `output`.
    """
    for _, nodes in _runs(output, partial):
        if nodes.get(component, {}).get("outputs"):
            return nodes
    return {}


def users_are_new(nodes: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tells if the windows of a run have new users alone in test, see DataFacts."""
    (windows,) = nodes["InteractionExampleGen"]["outputs"]["examples"]
    return bool(windows["properties"].get("users_are_new", 0))


def pointers_of_earlier_release(output: str) -> dict[str, pointers.Pointer]:
    """Returns the pointers that an output directory lacks, because an earlier release made its runs.

    Args:
      output: the directory that was given to `two-tower run --output`.

    Returns:
      Pointers by name, see `base/pointers.py`. A run of this release writes its own.
    """
    lacking = {
        name
        for name in (pointers.BLESSED, pointers.APPROVED)
        if pointers.latest(output, name) == pointers.NOTHING
    }
    if not lacking or not os.path.isfile(os.path.join(output, METADATA)):
        return {}
    store, runs = open_store(output)
    found: dict[str, pointers.Pointer] = {}
    for run in runs:
        nodes = nodes_of(store, run)
        # This release's own runs write pointers, or there was nothing to point to. Whoever removed a pointer
        # since does not want the one before it.
        if any(_PARAMETER_OF_POINTERS in node["parameters"] for node in nodes.values()):
            break
        for name, pointer in (
            (pointers.BLESSED, _blessed_model(nodes)),
            (pointers.APPROVED, _approved_statistics(nodes)),
        ):
            if pointer is not None and name in lacking and os.path.isdir(pointer.uri):
                found.setdefault(name, pointer)
    return found


def _blessed_model(nodes: Mapping[str, Mapping[str, Any]]) -> pointers.Pointer | None:
    evaluator = nodes.get(EVALUATOR, {})
    blessings = evaluator.get("outputs", {}).get("blessing", [])
    models = nodes.get(INDEXER, {}).get("outputs", {}).get("model", [])
    if not (blessings and models) or blessings[0]["properties"].get("blessed") != 1:
        return None
    return pointers.Pointer(
        models[0]["uri"], {"towers_uri": str(models[0]["properties"].get("towers_uri", ""))}
    )


def _approved_statistics(nodes: Mapping[str, Mapping[str, Any]]) -> pointers.Pointer | None:
    approved = nodes.get(APPROVED_STATISTICS, {}).get("outputs", {}).get("approved", [])
    properties = {
        name: str(approved[0]["properties"][name])
        for name in ("dataset", "made_with")
        if approved and name in approved[0]["properties"]
    }
    # This release keeps both in the pointer.
    return pointers.Pointer(approved[0]["uri"], properties) if len(properties) == 2 else None


def uris_of(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[str]]]:
    """Returns artifact URIs by node and output."""
    return {
        name: {key: [artifact["uri"] for artifact in found] for key, found in node["outputs"].items()}
        for name, node in nodes.items()
    }


def settings_of(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the settings that a run's components received, by dotted name.

    Settings of components that the run did not reach are missing.
    """
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
        else:
            found |= _by_name(section, json.loads(value))
            found |= _submitted(section, found, nodes[component]["parameters"])
    seed = nodes.get(TRAINER, {}).get("parameters", {}).get("seed")
    return found if seed is None else {**found, "seed": seed}


def _submitted(section: str, settings: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a section that a job's submission gave, see `per_run_settings`."""
    given = {
        name: parameters[key]
        for name in settings
        if name.startswith(f"{section}.") and (key := name.replace(".", "_")) in parameters
    }
    return {
        name: [part for part in value.split(",") if part] if isinstance(settings[name], list) else value
        for name, value in given.items()
    }


def _by_name(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested settings by their dotted names; an earlier release's are not nested."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = _by_name(f"{section}.{name}", value) if isinstance(value, Mapping) else None
        found |= {f"{section}.{name}": value} if inner is None else inner
    return found


def status(nodes: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns "complete", "failed" or "unfinished" (killed, or still running)."""
    states = {node["state"] for node in nodes.values()}
    if "FAILED" in states:
        return "failed"
    return COMPLETE if PUSHER in nodes and states <= {"COMPLETE", "CACHED"} else "unfinished"


def _runs(output: str, partial: bool | None) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Yields name and nodes of at least one run, the newest first: of a store, or of a job's records."""
    nothing = f"{output} holds no run yet. `two-tower run --data DIR --output {output}` makes one."
    if not storage.is_file(storage.join(output, METADATA)):
        runs_of_job = [] if partial else job_runs(output)
        if not runs_of_job:
            raise UserError(nothing)
        yield from runs_of_job
        return
    store, runs = open_store(output)
    runs = [run for run in runs if partial is None or run.name.startswith(PARTIAL_RUN) == partial]
    if not runs:
        raise UserError(nothing)
    for run in runs:
        yield run.name, nodes_of(store, run)


def nodes_of(store: Any, run: Any) -> dict[str, dict[str, Any]]:
    """Returns the nodes of a run by name, in the order of their starts.

    A node has `run`, `state`, `seconds`, `peak_memory_bytes`, `error`, `began` and `ended` (seconds since
    1970), `parameters` by name, and `outputs`: `uri` and `properties` of each artifact by output.
    """
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
