"""Runs of a compiled job below its root, from the records of their steps.

A step that a backend's cache answers leaves no record. Its record is that of an earlier run, found by the
URIs of the later steps' inputs, or by the key of the run where every later step was cached.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from two_tower.base import storage
from two_tower.components import job_folder

_FIRST, _LAST, _HANDLER = "InputVerifier", "Pusher", "OutcomeReporter"


def run_folders(root: str) -> list[str]:
    """Returns the folders of a job's runs below its root; [] where no job ran."""
    return [
        place
        for project in storage.list_names(root)
        for name in storage.list_names(storage.join(root, project))
        if storage.is_directory(storage.join(place := storage.join(root, project, name), job_folder.RECORDS))
    ]


def job_runs(root: str) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """Returns names and nodes of a job's runs, the newest first; see `stored_runs.nodes_of`.

    Args:
      root: the job's root, a path or URL.

    Raises:
      UserError: a record is damaged.
    """
    read = [
        (folder.rpartition("/")[2], records)
        for folder in run_folders(root)
        if (records := job_folder.read_records(folder))
    ]
    read.sort(key=lambda one: min(record["began"] for record in one[1].values()))
    made_by = {
        artifact["uri"]: record
        for _, records in read
        for record in records.values()
        for artifacts in record["outputs"].values()
        for artifact in artifacts
    }
    found: list[tuple[str, dict[str, dict[str, Any]]]] = []
    complete: dict[str, dict[str, dict[str, Any]]] = {}
    for name, records in read:
        steps = {step: record for step, record in records.items() if step != _HANDLER}
        if _HANDLER in records:
            steps = {step: _ended(record) for step, record in steps.items()}
        nodes = {step: _node(name, record, record["state"]) for step, record in steps.items()}
        for record in _upstream(steps, made_by):
            nodes.setdefault(record["step"], _node(name, record, "CACHED"))
        key = steps.get(_FIRST, {}).get("values", {}).get("run")
        is_over = _HANDLER in records and {one["state"] for one in nodes.values()} <= {"COMPLETE", "CACHED"}
        if is_over and _LAST not in nodes and key in complete:
            for step, node in complete[key].items():
                nodes.setdefault(step, {**node, "run": name, "state": "CACHED"})
        if is_over and _LAST in nodes and key:
            complete[key] = nodes
        found.append((name, dict(sorted(nodes.items(), key=lambda one: one[1]["began"]))))
    return found[::-1]


def _ended(record: dict[str, Any]) -> dict[str, Any]:
    """Returns the record of a step in a run that is over: one without an end was killed."""
    if record["state"] != "RUNNING":
        return record
    return {**record, "state": "FAILED", "error": job_folder.KILLED}


def _upstream(
    steps: Mapping[str, Mapping[str, Any]], made_by: Mapping[str, Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Returns the records of cached steps that the given steps' inputs come from."""
    waiting, found = list(steps.values()), {}
    while waiting:
        for uris in waiting.pop()["inputs"].values():
            for record in (made_by[uri] for uri in uris if uri in made_by):
                if record["step"] not in steps and record["step"] not in found:
                    found[record["step"]] = record
                    waiting.append(record)
    return list(found.values())


def _node(run: str, record: Mapping[str, Any], state: str) -> dict[str, Any]:
    began, ended = record["began"], record["ended"]
    return {
        "run": run,
        "state": state,
        "seconds": round(ended - began, 1) if ended else 0.0,
        "peak_memory_bytes": record["peak_memory_bytes"],
        "error": record["error"],
        "began": began,
        "ended": ended or began,
        "parameters": {name: _plain(value) for name, value in record["parameters"].items()},
        "outputs": {
            key: [
                {
                    "uri": one["uri"],
                    "properties": {name: _plain(value) for name, value in one["properties"].items()},
                }
                for one in artifacts
            ]
            for key, artifacts in record["outputs"].items()
        },
    }


def _plain(value: Any) -> Any:
    """Returns a number as the integer that it was; the backends' messages hold floats alone."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
