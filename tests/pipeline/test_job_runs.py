"""Tests of runs read from the records of a job's steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from two_tower.components.job_folder import KUBEFLOW, VERTEX, folder_of, step_of, write_record
from two_tower.pipeline.runs.history import history
from two_tower.pipeline.runs.job_runs import job_runs
from two_tower.pipeline.runs.report import collect, render
from two_tower.pipeline.runs.stored_runs import settings_of, status

ROOT = "gs://bucket/root"
STARTS = {"a": 100.0, "b": 200.0, "c": 300.0, "d": 400.0}


def record(
    root: Path,
    run: str,
    step: str,
    inputs: dict[str, list[str]] | None = None,
    properties: dict[str, Any] | None = None,
    state: str = "COMPLETE",
    values: dict[str, Any] | None = None,
    parameters: dict[str, Any] | None = None,
    error: str | None = None,
) -> str:
    """Writes a step's record with one output, and returns the output's URI."""
    uri = f"{root}/123/{run}/{step}_-1/out"
    began = STARTS[run] + len(list((root / "123" / run / "steps").glob("*")))
    content = {
        "step": step, "state": state, "error": error, "began": began,
        "ended": None if state == "RUNNING" else began + 2.5,
        "peak_memory_bytes": 7, "parameters": parameters or {}, "inputs": inputs or {},
        "values": values or {},
        "outputs": {"out": [{"uri": uri, "properties": properties or {}}]} if state == "COMPLETE" else {},
    }  # fmt: skip
    write_record(f"{root}/123/{run}", step, content)
    return uri


def whole_run(root: Path, run: str, key: str) -> dict[str, str]:
    """Writes the records of a run without cached steps, and returns the URIs of outputs."""
    uris = {"InputVerifier": record(root, run, "InputVerifier", values={"run": key})}
    for step, before in (
        ("Trainer", None),
        ("RetrievalEvaluator", "Trainer"),
        ("Pusher", "RetrievalEvaluator"),
    ):
        inputs = {"model": [uris[before]]} if before else {}
        uris[step] = record(root, run, step, inputs, {"pushed": 1.0, "recall": 0.5})
    record(root, run, "OutcomeReporter")
    return uris


def test_folder_and_step_follow_from_an_artifact_of_either_backend() -> None:
    vertex, kubeflow = f"{ROOT}/123/job-1/Trainer_-99/model", f"{ROOT}/two-tower/run-1/Trainer/99/model"
    assert (folder_of(vertex, VERTEX), step_of(vertex, VERTEX)) == (f"{ROOT}/123/job-1", "Trainer")
    assert (folder_of(kubeflow, KUBEFLOW), step_of(kubeflow, KUBEFLOW)) == (
        f"{ROOT}/two-tower/run-1",
        "Trainer",
    )


def test_a_run_has_its_steps_with_times_and_whole_numbers(tmp_path: Path) -> None:
    whole_run(tmp_path, "a", "k")
    ((name, nodes),) = job_runs(str(tmp_path))
    assert (name, list(nodes)) == ("a", ["InputVerifier", "Trainer", "RetrievalEvaluator", "Pusher"])
    assert status(nodes) == "complete"
    pushed = nodes["Pusher"]["outputs"]["out"][0]["properties"]
    assert pushed == {"pushed": 1, "recall": 0.5} and type(pushed["pushed"]) is int
    assert (nodes["Trainer"]["seconds"], nodes["Trainer"]["state"]) == (2.5, "COMPLETE")


def test_cached_steps_are_those_that_the_others_inputs_came_from(tmp_path: Path) -> None:
    older = whole_run(tmp_path, "a", "k")
    whole_run(tmp_path, "b", "other")
    # Another threshold: only the evaluator and Pusher run, on the model of the older run.
    record(tmp_path, "c", "InputVerifier", values={"run": "third"})
    judged = record(tmp_path, "c", "RetrievalEvaluator", {"model": [older["Trainer"]]})
    record(tmp_path, "c", "Pusher", {"model": [judged]})
    record(tmp_path, "c", "OutcomeReporter")
    nodes = job_runs(str(tmp_path))[0][1]
    assert {name: one["state"] for name, one in nodes.items()} == {
        "InputVerifier": "COMPLETE", "Trainer": "CACHED",
        "RetrievalEvaluator": "COMPLETE", "Pusher": "COMPLETE",
    }  # fmt: skip
    assert nodes["Trainer"]["outputs"]["out"][0]["uri"] == older["Trainer"]


def test_a_run_from_the_cache_as_a_whole_is_the_earlier_run_with_its_key(tmp_path: Path) -> None:
    older = whole_run(tmp_path, "a", "k")
    whole_run(tmp_path, "b", "other")
    record(tmp_path, "c", "InputVerifier", values={"run": "k"})
    record(tmp_path, "c", "OutcomeReporter")
    name, nodes = job_runs(str(tmp_path))[0]
    assert (name, status(nodes)) == ("c", "complete")
    assert nodes["Pusher"]["state"] == "CACHED" and nodes["Pusher"]["run"] == "c"
    assert nodes["Pusher"]["outputs"]["out"][0]["uri"] == older["Pusher"]


def test_failed_and_running_runs_are_told(tmp_path: Path) -> None:
    record(tmp_path, "a", "InputVerifier", state="FAILED", error="gs://b/data: gone.")
    record(tmp_path, "a", "OutcomeReporter")
    record(tmp_path, "b", "InputVerifier", values={"run": "k"})
    record(tmp_path, "b", "Trainer", state="RUNNING")
    running, failed = job_runs(str(tmp_path))
    assert (status(running[1]), status(failed[1])) == ("unfinished", "failed")
    assert failed[1]["InputVerifier"]["error"] == "gs://b/data: gone."
    assert [one["status"] for one in history(str(tmp_path))] == ["unfinished", "failed"]
    (tmp_path / "123" / "b").rename(tmp_path / "elsewhere")
    assert render(collect(str(tmp_path))).startswith("FAILED: InputVerifier")


def test_settings_are_those_of_the_submission() -> None:
    gate = {"min_recall": 0.01, "slices": ["cold=0.1"], "cutoff": 100}
    parameters = {"gate_config": json.dumps(gate), "gate_min_recall": 0.3, "gate_slices": "cold=0.2,new=0.1"}
    found = settings_of({"RetrievalEvaluator": {"parameters": parameters}})
    assert found["gate.min_recall"] == 0.3 and found["gate.slices"] == ["cold=0.2", "new=0.1"]
    assert found["gate.cutoff"] == 100


def test_a_step_without_an_end_was_killed_once_the_run_is_over(tmp_path: Path) -> None:
    record(tmp_path, "a", "InputVerifier")
    record(tmp_path, "a", "Trainer", state="RUNNING")
    record(tmp_path, "a", "OutcomeReporter")
    ((_, nodes),) = job_runs(str(tmp_path))
    assert status(nodes) == "failed" and "was killed" in nodes["Trainer"]["error"]


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    from two_tower.base.errors import UserError

    record(tmp_path, "a", "InputVerifier")
    file = tmp_path / "123" / "a" / "steps" / "InputVerifier.json"
    file.write_text(content)
    with pytest.raises(UserError, match=str(file)):
        job_runs(str(tmp_path))
