"""The folder of one run of a job: its steps' artifacts, the records of its steps, and its outcome.

Vertex AI Pipelines writes an artifact to <root>/<project>/<job>/<step>_<number>/<key>, and Kubeflow Pipelines
to <root>/<pipeline>/<run>/<step>/<attempt>/<key>. In both the first two parts are the folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from two_tower.base import json_text, storage
from two_tower.base.errors import UserError

VERTEX, KUBEFLOW = "vertex", "kubeflow"
# Compilation targets, and how many folders lie between the run's folder and an artifact.
TARGETS = {VERTEX: 1, KUBEFLOW: 2}
# Folder of the records, one file a step, and file of the outcome.
RECORDS = "steps"
OUTCOME = "outcome.json"
# Error of a step that left a record without an end.
KILLED = "The step was killed: it ran out of memory, or its machine was taken away."
# File under a job's root with the time of the last `two-tower clean`. A backend's cache does not learn that
# artifacts are gone. InputVerifier reads the file, and all that the cache knew before is asked for no more.
CLEANED = "cleaned.txt"
_KEYS = {
    "step", "state", "error", "began", "ended", "peak_memory_bytes",
    "parameters", "inputs", "outputs", "values",
}  # fmt: skip


def folder_of(artifact_uri: str, target: str) -> str:
    """Returns the folder of the run that writes an artifact; `target` is a key of TARGETS."""
    return artifact_uri.rstrip("/").rsplit("/", TARGETS[target] + 1)[0]


def step_of(artifact_uri: str, target: str) -> str:
    """Returns the name of the step that writes an artifact, such as Trainer."""
    name = artifact_uri.rstrip("/").rsplit("/", TARGETS[target] + 1)[1]
    return name.rpartition("_")[0] if target == VERTEX else name


def write_record(folder: str, step: str, record: Mapping[str, Any]) -> None:
    """Writes the record of a step, see `step.py`; a later attempt replaces an earlier one's."""
    place = storage.join(folder, RECORDS)
    storage.make_directories(place)
    storage.write_whole(storage.join(place, f"{step}.json"), json.dumps(record, indent=2) + "\n")


def read_records(folder: str) -> dict[str, dict[str, Any]]:
    """Returns the records of a run's steps by name; cached steps have none.

    Raises:
      UserError: a record is damaged.
    """
    place = storage.join(folder, RECORDS)
    found = {}
    for name in storage.list_names(place):
        if name.endswith(".json"):
            path = storage.join(place, name)
            try:
                with storage.open_file(path, "r") as file:
                    record = dict(json_text.parse(file.read(), allow_nan=True))
                if lacking := sorted(_KEYS - record.keys()):
                    raise ValueError(f"it lacks {', '.join(lacking)}")
            except (OSError, ValueError, TypeError) as error:
                raise UserError(
                    f"{path}: the record of a step is damaged ({error}). Remove it; the step then counts as "
                    "cached."
                ) from error
            found[name.removesuffix(".json")] = record
    return found
