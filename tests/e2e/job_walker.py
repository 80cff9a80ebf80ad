"""A walk through a compiled job: each step in a process of its own, as its backend would start it.

Vertex AI Pipelines and Kubeflow Pipelines differ in the URIs of artifacts, in their names, in the place of
the output file, and in what they tell an exit handler. Both fill in the ExecutorInput, start the container's
command, and read the output file back. A step sees an empty working directory and the image's environment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.e2e.runs import ROOT

# File that a killed attempt leaves in each of its outputs.
HALF_WRITTEN = "half-written"
STEPS, EXIT_HANDLER = "tfx-dag", "OutcomeReporter"
_VERTEX_NAME = "projects/123456/locations/europe-west4/metadataStores/default/artifacts/"

# Process that has imported what steps need, and forks for each step.
_SERVER = """
import json, os, runpy, sys
from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor
import apache_beam, tensorflow, tensorflow_data_validation, tensorflow_recommenders
import tensorflow_transform, tfx.components
print("ready", flush=True)
for line in sys.stdin:
    step = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        log = os.open(step["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1); os.dup2(log, 2); os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(step["directory"])
        os.environ.clear(); os.environ.update(step["environment"])
        sys.argv = [step["module"], *step["arguments"]]
        status = 1
        try:
            runpy.run_module(step["module"], run_name="__main__", alter_sys=True)
            status = 0
        except SystemExit as done:
            status = done.code or 0
        finally:
            sys.stdout.flush(); sys.stderr.flush()
            os._exit(status)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class ForkServer:
    """Starter of steps, each in a forked process that has everything imported and nothing computed."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**image_environment(home), "PYTHONPATH": str(ROOT)},
        )
        assert self._line() == "ready"

    def run(
        self,
        command: list[str],
        arguments: list[str],
        log: Path,
        started: Callable[[int], None] | None = None,
    ) -> int:
        """Runs a container's command and returns its exit status; a killed one has a negative status."""
        assert command[:2] == ["python", "-m"]
        directory = self._home / f"empty-{time.monotonic_ns()}"
        directory.mkdir()
        step = {
            "module": command[2],
            "arguments": [*command[3:], *arguments],
            "log": str(log),
            "directory": str(directory),
            "environment": image_environment(self._home),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(step) + "\n")
        self._process.stdin.flush()
        pid = int(self._line())
        if started:
            started(pid)
        status = int(self._line())
        assert not list(directory.iterdir()), "A step left files in its working directory."
        directory.rmdir()
        return status

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def image_environment(home: Path) -> dict[str, str]:
    """Returns the environment of the image: what the Dockerfile sets, and nothing of this machine's."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(home),
        "PYTHONUNBUFFERED": "1",
        "TF_USE_LEGACY_KERAS": "1",
        "RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT": "1",
    }


@dataclasses.dataclass(frozen=True)
class Walk:
    """Result of a walk.

    Attributes:
        ran: names of the steps that ran to their end, in order, without the exit handler.
        cached: names of the steps that came from the cache.
        failed: the step that failed; None if the walk came to its end.
        outputs: artifacts by step and key, as RuntimeArtifacts.
        parameters: output parameters by step and name.
        log: the log of the failed step; "" without one.
        told: the log of the exit handler.
        folder: the run's folder below the root.
        seconds: of the whole walk.
    """

    ran: list[str]
    cached: list[str]
    failed: str | None
    outputs: dict[str, dict[str, dict[str, Any]]]
    parameters: dict[str, dict[str, Any]]
    log: str
    told: str
    folder: Path
    seconds: float

    def properties(self, step: str, key: str) -> dict[str, Any]:
        """Returns the properties of a step's output."""
        return dict(self.outputs[step][key]["metadata"])


class Walker:
    """A backend that runs jobs, with one cache and one metadata store.

    Attributes:
        artifacts: all artifacts of its metadata store.
    """

    def __init__(self, target: str, server: ForkServer, logs: Path) -> None:
        self._spec: dict[str, Any] = {}
        self._target = target
        self._server = server
        self._logs = logs
        self._numbers = itertools.count(1)
        self._cache: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        self.artifacts: list[dict[str, Any]] = []

    def walk(
        self,
        job: Mapping[str, Any],
        cached: bool = True,
        pipeline_root: str | None = None,
        killed: str | None = None,
        until: str | None = None,
        **parameters: Any,
    ) -> Walk:
        """Runs the job's steps in order, and at last its exit handler.

        Args:
          job: a PipelineJob or a PipelineSpec, as the job file holds it.
          cached: whether the backend may answer a step from its cache.
          pipeline_root: pipeline root of the submission; None: its parameter `root`, or the job's.
          killed: a step whose first attempt is killed while it runs, and which is retried once.
          until: the last step to run; None: all.
          parameters: runtime parameters of the submission.
        """
        began = time.monotonic()
        number = next(self._numbers)
        self._spec = job.get("pipelineSpec", job)
        default_root = job.get("runtimeConfig", job).get("gcsOutputDirectory") or job.get(
            "defaultPipelineRoot"
        )
        root = pipeline_root or parameters.get("root") or default_root
        run = f"two-tower-2026113012{number:04d}"
        below = f"123456/{run}" if self._target == "vertex" else f"two-tower/{run}"
        folder = f"{root}/{below}"
        given = self._given(parameters)
        ran: list[str] = []
        from_cache: list[str] = []
        outputs: dict[str, dict[str, Any]] = {}
        values: dict[str, dict[str, Any]] = {}
        failed, log = None, Path()
        tasks = self._spec["components"][STEPS]["dag"]["tasks"]
        for name in _in_order(tasks):
            inputs = self._inputs(tasks[name], given, outputs, values)
            inputs[1].update({key: run for key, one in inputs[1].items() if one == "{{$.pipeline_job_uuid}}"})
            key = self._key(name, tasks[name], inputs)
            if cached and tasks[name].get("cachingOptions", {}).get("enableCache") and key in self._cache:
                outputs[name], values[name] = self._cache[key]
                from_cache.append(name)
                continue
            log = self._logs / f"{run}-{name}.log"
            attempt = self._executor_input(name, tasks[name], inputs, folder)
            status = 1
            if killed == name:
                status = self._start(tasks[name], attempt, log, _kill_when_it_writes(attempt))
                assert status == -signal.SIGKILL, log.read_text()
            status = self._start(tasks[name], attempt, log)
            if status:
                failed = name
                break
            ran.append(name)
            outputs[name], values[name] = self._read(attempt)
            self._cache[key] = outputs[name], values[name]
            if name == until:
                break
        return Walk(
            ran,
            from_cache,
            failed,
            outputs,
            values,
            log.read_text() if failed else "",
            self._exit(folder, failed, run),
            Path(folder),
            time.monotonic() - began,
        )

    def _given(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        declared = self._spec["root"]["inputDefinitions"]["parameters"]
        unknown = parameters.keys() - declared.keys()
        assert not unknown, f"The job has no parameter {unknown}."
        given = {name: one["defaultValue"] for name, one in declared.items() if "defaultValue" in one}
        given |= parameters
        assert given.keys() == declared.keys(), f"No value for {declared.keys() - given.keys()}."
        # The DAG below the exit handler sees what its task hands down.
        handed = self._spec["root"]["dag"]["tasks"][STEPS]["inputs"]["parameters"]
        return {name: given[source["componentInputParameter"]] for name, source in handed.items()}

    def _inputs(
        self,
        task: Mapping[str, Any],
        given: Mapping[str, Any],
        outputs: Mapping[str, Mapping[str, Any]],
        values: Mapping[str, Mapping[str, Any]],
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        artifacts, parameters = {}, {}
        for key, source in task.get("inputs", {}).get("artifacts", {}).items():
            producer = source["taskOutputArtifact"]
            artifacts[key] = outputs[producer["producerTask"]][producer["outputArtifactKey"]]
        for key, source in task.get("inputs", {}).get("parameters", {}).items():
            if "componentInputParameter" in source:
                parameters[key] = given[source["componentInputParameter"]]
            elif "taskOutputParameter" in source:
                producer = source["taskOutputParameter"]
                parameters[key] = values[producer["producerTask"]][producer["outputParameterKey"]]
            else:
                parameters[key] = source["runtimeValue"]["constant"]
        return artifacts, parameters

    def _key(self, name: str, task: Mapping[str, Any], inputs: tuple[dict[str, Any], dict[str, Any]]) -> str:
        """Returns the cache's key: the values of parameters, the names of artifacts, and the container."""
        artifacts, parameters = inputs
        uris = {key: one["uri"] for key, one in artifacts.items()}
        content = json.dumps([name, uris, parameters, self._container(task)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def _component(self, task: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self._spec["components"][task["componentRef"]["name"]])

    def _container(self, task: Mapping[str, Any]) -> dict[str, Any]:
        label = self._component(task)["executorLabel"]
        return dict(self._spec["deploymentSpec"]["executors"][label]["container"])

    def _executor_input(
        self, name: str, task: Mapping[str, Any], inputs: tuple[dict[str, Any], dict[str, Any]], folder: str
    ) -> dict[str, Any]:
        artifacts, parameters = inputs
        number = time.monotonic_ns()
        if self._target == "vertex":
            place = f"{folder}/{name}_-{number}"
            file = f"{place}/executor_output.json"
        else:
            place = f"{folder}/{name}/{number}"
            # Within the container; the launcher makes this folder.
            file = f"{self._logs}/kfp_outputs-{number}/output_metadata.json"
            Path(file).parent.mkdir()
        defined = self._component(task).get("outputDefinitions", {})
        made = {
            key: {
                "name": f"{_VERTEX_NAME}{number}{position}" if self._target == "vertex" else key,
                "uri": f"{place}/{key}",
                "type": one["artifactType"],
                "metadata": {},
            }
            for position, (key, one) in enumerate(defined.get("artifacts", {}).items())
        }
        if self._target == "kubeflow":
            # The driver adds it to each step, unless the cluster publishes no logs.
            logs = {"schemaTitle": "system.Artifact", "schemaVersion": "0.0.1"}
            made["executor-logs"] = {"name": "executor-logs", "uri": f"{place}/executor-logs", "type": logs}
        return {
            "inputs": {
                "parameterValues": parameters,
                "artifacts": {key: {"artifacts": [one]} for key, one in artifacts.items()},
            },
            "outputs": {
                "artifacts": {key: {"artifacts": [one]} for key, one in made.items()},
                "parameters": {
                    key: {"outputFile": f"{place}/{key}.value"} for key in defined.get("parameters", {})
                },
                "outputFile": file,
            },
        }

    def _start(
        self,
        task: Mapping[str, Any],
        executor_input: Mapping[str, Any],
        log: Path,
        started: Callable[[int], None] | None = None,
    ) -> int:
        container = self._container(task)
        text = json.dumps(executor_input)
        arguments = [text if one == "{{$}}" else one for one in container["args"]]
        return self._server.run(container["command"], arguments, log, started)

    def _read(self, executor_input: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        written = json.loads(Path(executor_input["outputs"]["outputFile"]).read_text())
        artifacts = {}
        output_file = Path(executor_input["outputs"]["outputFile"])
        if self._target == "kubeflow":
            # Nothing else may lie on the container's own disk: workers elsewhere would not see it.
            assert list(output_file.parent.iterdir()) == [output_file]
        for key, one in executor_input["outputs"]["artifacts"].items():
            (asked,) = one["artifacts"]
            if key == "executor-logs":
                assert key not in written["artifacts"]
                continue
            (back,) = written["artifacts"][key]["artifacts"]
            # The backend registers what it gave a name to.
            assert (back["name"], back["uri"]) == (asked["name"], asked["uri"])
            artifacts[key] = {**asked, "metadata": back.get("metadata", {})}
            self.artifacts.append(artifacts[key])
        parameters = written.get("parameterValues", {})
        assert parameters.keys() == executor_input["outputs"]["parameters"].keys()
        return artifacts, parameters

    def _exit(self, folder: str, failed: str | None, run: str) -> str:
        """Runs the exit handler and returns its log."""
        task = self._spec["root"]["dag"]["tasks"][EXIT_HANDLER]
        assert task["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
        parameters = {}
        for key, source in task["inputs"]["parameters"].items():
            if "taskFinalStatus" in source:
                assert source["taskFinalStatus"]["producerTask"] == STEPS
                state = "FAILED" if failed else {"vertex": "SUCCEEDED", "kubeflow": "COMPLETE"}[self._target]
                status = {"state": state, "pipelineJobResourceName": run, "pipelineTaskName": STEPS}
                error = {"code": 9, "message": f"The DAG failed because {failed} failed."} if failed else {}
                parameters[key] = {**status, "error": error}
            else:
                parameters[key] = source["runtimeValue"]["constant"]
        log = self._logs / f"{run}-{EXIT_HANDLER}.log"
        attempt = self._executor_input(EXIT_HANDLER, task, ({}, parameters), folder)
        # A root that cannot be written takes no outcome.
        if self._start(task, attempt, log) == 0:
            self._read(attempt)
        else:
            assert failed, log.read_text()
        return log.read_text()


def _in_order(tasks: Mapping[str, Any]) -> Iterator[str]:
    """Yields the tasks' names, each after those that it depends on."""
    done: set[str] = set()
    while len(done) < len(tasks):
        ready = sorted(name for name, task in tasks.items() if name not in done and _before(task) <= done)
        assert ready, "The tasks depend on each other, or on none of the job."
        yield from ready
        done |= set(ready)


def _before(task: Mapping[str, Any]) -> set[str]:
    inputs = task.get("inputs", {})
    return {
        *task.get("dependentTasks", ()),
        *(one["taskOutputArtifact"]["producerTask"] for one in inputs.get("artifacts", {}).values()),
        *(
            one["taskOutputParameter"]["producerTask"]
            for one in inputs.get("parameters", {}).values()
            if "taskOutputParameter" in one
        ),
    }


def _kill_when_it_writes(executor_input: Mapping[str, Any]) -> Callable[[int], None]:
    """Returns a function that kills a process once it has written something, and leaves more behind."""
    uris = [one["artifacts"][0]["uri"] for one in executor_input["outputs"]["artifacts"].values()]

    def kill(pid: int) -> None:
        while not any(path.is_file() for uri in uris for path in Path(uri).rglob("*")):
            time.sleep(0.01)
            os.kill(pid, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        for uri in uris:
            Path(uri).mkdir(parents=True, exist_ok=True)
            Path(uri, HALF_WRITTEN).write_text("")

    return kill
