"""Entry point of a compiled job's steps: TFX's, with what a container needs around it.

TFX's entry point leaves a failed step with a stack trace as its only message. It does not check the types of
parameters, and it does not clear what a killed attempt left. Each step here writes a record to the run's
folder, which `two-tower report` reads.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from two_tower.base import storage
from two_tower.base.errors import UserError, root_cause
from two_tower.components import job_folder

_INVOCATION = "--json_serialized_invocation_args"
_NUMBERS = ("NUMBER_INTEGER", "NUMBER_DOUBLE")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the executor that the arguments name, and returns the exit status.

    Args:
      arguments: --target, and those of TFX's own entry point; None: the process's.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--target", choices=tuple(job_folder.TARGETS), required=True)
    known, rest = parser.parse_known_args(arguments)
    logging.basicConfig(level=logging.INFO)
    signal.signal(signal.SIGTERM, _terminated)
    record = _Record(known.target, _value_of(rest, _INVOCATION))
    try:
        record.begin()
        _check_types(record.given, _value_of(rest, "--json_serialized_inputs_spec_args"))
        record.clear_outputs()
        rest[rest.index(_INVOCATION) + 1] = json.dumps(record.for_tfx())
        from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor as tfx_entry_point

        # The first argument is the program's name.
        tfx_entry_point.main(tfx_entry_point._parse_flags(["step", *rest]))
        record.end()
        return 0
    except BaseException as error:
        cause = root_cause(error)
        named = str(cause) if isinstance(cause, UserError) else f"{type(cause).__name__}: {cause}"
        sys.stdout.flush()
        print(f"{record.step} failed. {named}\n", file=sys.stderr)
        traceback.print_exc()
        record.fail(named)
        return 1


def _terminated(number: int, _: object) -> None:
    """Ends the step as an error does: it was cancelled, preempted, or took too long."""
    raise SystemExit(f"The backend ended the step (signal {number}).")


def _value_of(arguments: Sequence[str], option: str) -> dict[str, Any]:
    return dict(json.loads(arguments[arguments.index(option) + 1]))


class _Record:
    """Record of the step in the run's folder: what it was given, what it made, and its error.

    Attributes:
        given: the ExecutorInput, as JSON.
        step: the step's name.
    """

    def __init__(self, target: str, given: dict[str, Any]) -> None:
        self.given = given
        artifacts = given["outputs"]["artifacts"]
        for key in [key for key, one in artifacts.items() if _is_backends(one)]:
            del artifacts[key]
        self._outputs = {key: one["artifacts"][0]["uri"] for key, one in artifacts.items()}
        uri = next(iter(self._outputs.values()))
        self.step = job_folder.step_of(uri, target)
        self._tfx_output_file = f"{uri.rpartition('/')[0]}/executor_output.json"
        self._folder = job_folder.folder_of(uri, target)
        inputs = given.get("inputs", {})
        self._content: dict[str, Any] = {
            "step": self.step,
            "state": "RUNNING",
            "error": None,
            "began": time.time(),
            "ended": None,
            "peak_memory_bytes": None,
            "parameters": inputs.get("parameterValues", {}),
            "inputs": {
                key: [artifact["uri"] for artifact in one.get("artifacts", [])]
                for key, one in inputs.get("artifacts", {}).items()
            },
            "outputs": {},
            "values": {},
        }

    def begin(self) -> None:
        """Writes the record of a step that runs.

        Raises:
            UserError: the run's folder cannot be written.
        """
        try:
            self._write()
        except OSError as error:
            raise UserError(
                f"{self._folder}: the job's root cannot be written ({error.strerror or error}). Give the "
                "job's account the right to write there, or submit the job with another root."
            ) from error

    def clear_outputs(self) -> None:
        """Removes what a killed attempt left, and makes the folders of the outputs."""
        for file in (self.given["outputs"]["outputFile"], self._tfx_output_file):
            storage.remove_file(file)
        for uri in self._outputs.values():
            if storage.is_file(uri):
                storage.remove_file(uri)
            storage.remove_tree(uri)
            storage.make_directories(uri.rpartition("/")[0])

    def for_tfx(self) -> dict[str, Any]:
        """Returns the ExecutorInput for TFX, with an output file beside the outputs.

        TFX puts temporary files beside that file, and Kubeflow's is on the container's own disk. Files cannot
        be renamed from there into a bucket, and Beam's workers elsewhere do not see it.
        """
        return {**self.given, "outputs": {**self.given["outputs"], "outputFile": self._tfx_output_file}}

    def end(self) -> None:
        """Writes the record of a step that succeeded, and the output file where the backend wants it."""
        with storage.open_file(self._tfx_output_file, "r") as file:
            text = file.read()
        written, wanted = json.loads(text), self.given["outputs"]["outputFile"]
        if wanted != self._tfx_output_file:
            storage.make_directories(wanted.rpartition("/")[0])
            with storage.open_file(wanted, "w") as file:
                file.write(text)
        self._content["outputs"] = {
            key: [{"uri": made["uri"], "properties": made.get("metadata", {})} for made in one["artifacts"]]
            for key, one in written.get("artifacts", {}).items()
        }
        self._content["values"] = written.get("parameterValues", {})
        self._finish("COMPLETE")

    def fail(self, error: str) -> None:
        """Writes the error; a folder that cannot be written keeps the step's own error in its log alone."""
        self._content["error"] = error
        try:
            self._finish("FAILED")
        except (OSError, UserError) as unwritten:
            print(f"The record of the step could not be written: {unwritten}", file=sys.stderr)

    def _finish(self, state: str) -> None:
        # Kilobytes on Linux.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._content |= {"state": state, "ended": time.time(), "peak_memory_bytes": peak}
        self._write()

    def _write(self) -> None:
        job_folder.write_record(self._folder, self.step, self._content)


def _is_backends(output: Mapping[str, Any]) -> bool:
    """Tells if an output is the backend's own, such as Kubeflow's executor-logs; TFX knows no such type."""
    return str(output["artifacts"][0].get("type", {}).get("schemaTitle", "")).startswith("system.")


def _check_types(given: Mapping[str, Any], definitions: Mapping[str, Any]) -> None:
    """Raises UserError for a parameter that is no number where the job declares one, or no text.

    A backend checks at submission or not at all. TFX would stop with the message of a conversion.
    """
    declared = {name: one["parameterType"] for name, one in definitions.get("parameters", {}).items()}
    for name, value in given.get("inputs", {}).get("parameterValues", {}).items():
        kind = declared.get(name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        wanted = None
        if kind in _NUMBERS and not is_number:
            wanted = "a number"
        elif kind == "NUMBER_INTEGER" and not float(value).is_integer():
            wanted = "a whole number"
        elif kind == "STRING" and not isinstance(value, str):
            wanted = "a text"
        if wanted:
            raise UserError(
                f"The job's parameter {name} takes {wanted}, and was given {value!r}. Submit the job with "
                "another value."
            )


if __name__ == "__main__":
    sys.exit(main())
