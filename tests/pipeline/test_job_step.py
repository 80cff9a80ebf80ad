"""Tests of the entry point of a job's steps, in this process; test_walked_job.py starts it as backends do."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from two_tower.base import pointers
from two_tower.components.job_folder import KUBEFLOW, read_records
from two_tower.pipeline.jobs import step

EXECUTOR = "two_tower.components.latest_pointers.component.LatestPointers_Executor"


@pytest.fixture(autouse=True)
def handler_of_sigterm() -> Any:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


class Step:
    """LatestPointers as Kubeflow starts it, below a root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run = root / "two-tower" / "run-1"
        self.place = self.run / "LatestPointers" / "77"
        self.output_file = root.parent / "kfp_outputs" / "output_metadata.json"
        self.output_file.parent.mkdir()
        kind = {"instanceSchema": "title: tfx.String\ntype: object\n"}
        self.outputs: dict[str, Any] = {
            key: {"artifacts": [{"name": key, "uri": str(self.place / key), "type": kind, "metadata": {}}]}
            for key in ("latest_blessed", "latest_approved")
        }
        self.parameters: dict[str, Any] = {
            "root": str(root), "run": "k", "pointers_of_others": "{}", "source_digest": ""
        }  # fmt: skip
        self.types = dict.fromkeys(self.parameters, "STRING")

    def start(self) -> int:
        given = {
            "inputs": {"parameterValues": self.parameters},
            "outputs": {
                "artifacts": self.outputs,
                "parameters": {
                    key: {"outputFile": f"/tmp/{key}"} for key in ("latest_blessed", "latest_approved")
                },
                "outputFile": str(self.output_file),
            },
        }
        definitions = {"parameters": {name: {"parameterType": kind} for name, kind in self.types.items()}}
        return step.main(
            [
                f"--target={KUBEFLOW}", "--executor_class_path", EXECUTOR,
                "--json_serialized_invocation_args", json.dumps(given),
                "--json_serialized_inputs_spec_args", json.dumps(definitions),
            ]
        )  # fmt: skip

    def record(self) -> dict[str, Any]:
        return read_records(str(self.run))["LatestPointers"]


@pytest.fixture
def started(tmp_path: Path) -> Step:
    return Step(tmp_path / "root")


def test_kubeflow_s_own_output_is_none_of_the_component_s(started: Step) -> None:
    logs = {"schemaTitle": "system.Artifact", "schemaVersion": "0.0.1"}
    place = started.place / "executor-logs"
    place.parent.mkdir(parents=True)
    place.write_text("The launcher writes here.")
    own = {"artifacts": [{"name": "executor-logs", "uri": str(place), "type": logs}]}
    started.outputs = {"executor-logs": own, **started.outputs}
    assert started.start() == 0
    written = json.loads(started.output_file.read_text())
    assert written["artifacts"].keys() == {"latest_blessed", "latest_approved"}
    assert written["parameterValues"]["latest_blessed"] == pointers.NOTHING
    assert place.read_text() == "The launcher writes here."
    # Temporary files lie beside the outputs, where workers elsewhere see them.
    assert os.listdir(started.output_file.parent) == [started.output_file.name]
    record = started.record()
    assert (record["state"], record["values"]["latest_blessed"]) == ("COMPLETE", pointers.NOTHING)


def test_a_second_try_finds_nothing_of_the_first(started: Step) -> None:
    (started.place / "latest_blessed").mkdir(parents=True)
    (started.place / "latest_blessed" / "half-written").write_text("")
    started.output_file.write_text("{")
    assert started.start() == 0
    assert (started.place / "latest_blessed").read_text() == pointers.NOTHING


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("NUMBER_INTEGER", "7", "takes a number, and was given '7'"),
        ("NUMBER_INTEGER", 7.5, "takes a whole number, and was given 7.5"),
        ("NUMBER_INTEGER", float("nan"), "takes a whole number, and was given nan"),
        ("NUMBER_DOUBLE", True, "takes a number, and was given True"),
        ("STRING", 7, "takes a text, and was given 7"),
    ],
)
def test_a_parameter_of_another_type_is_named_before_the_trace(
    started: Step, kind: str, value: Any, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    started.parameters["run"], started.types["run"] = value, kind
    assert started.start() == 1
    errors = capsys.readouterr().err
    assert errors.startswith(f"LatestPointers failed. The job's parameter run {expected}")
    assert "Traceback" in errors
    assert expected in started.record()["error"]


@pytest.mark.parametrize("end", [SystemExit(3), KeyboardInterrupt(), MemoryError("of the step")])
def test_a_step_that_ends_itself_leaves_its_reason(
    started: Step, end: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    def ended(_: Any) -> None:
        raise end

    monkeypatch.setattr(kubeflow_v2_run_executor, "main", ended)
    assert started.start() == 1
    assert started.record()["state"] == "FAILED"
    assert type(end).__name__ in started.record()["error"]


def test_a_step_that_the_backend_ends_says_so(started: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    monkeypatch.setattr(kubeflow_v2_run_executor, "main", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert started.start() == 1
    assert "The backend ended the step (signal 15)" in started.record()["error"]
