"""Approved statistics: written after the gate, and the baseline of the next run on the same data."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx import types
from tfx.dsl.io import fileio

from two_tower.base.errors import UserError
from two_tower.base.pointers import APPROVED, Pointer

FILE = "FeatureStats.pb"
# Properties of the pointer.
_DATASET = "dataset"
_MADE_WITH = "made_with"


def write(
    artifact: types.Artifact,
    train: statistics_pb2.DatasetFeatureStatistics,
    dataset: str,
    made_with: Mapping[str, Any],
    run: str,
) -> Pointer:
    """Writes the statistics of train, and returns the pointer to them with their data set and settings."""
    content = statistics_pb2.DatasetFeatureStatisticsList(datasets=[train])
    fileio.makedirs(artifact.uri)
    with fileio.open(os.path.join(artifact.uri, FILE), "wb") as file:
        file.write(content.SerializeToString())
    return Pointer(artifact.uri, {_DATASET: dataset, _MADE_WITH: json.dumps(made_with, sort_keys=True)}, run)


def baseline_of(
    pointer: Pointer | None, dataset: str, made_with: Mapping[str, Any]
) -> tuple[str, statistics_pb2.DatasetFeatureStatistics | None]:
    """Returns ("", the baseline statistics), or (the reason why there are none, None).

    Args:
      pointer: the pointer to the statistics of the latest run that passed the gate, or None.
      dataset: the data set's name.
      made_with: the settings that shape a window.

    Raises:
      UserError: the statistics are gone.
    """
    if pointer is None:
        return "no earlier run has passed", None
    other = pointer.properties.get(_DATASET)
    if other != dataset:
        return f"the previous run used other data ({other!r}; this is {dataset!r})", None
    then = json.loads(pointer.properties.get(_MADE_WITH, "{}"))
    changed = [name for name, value in made_with.items() if then.get(name) != value]
    if changed:
        return f"the previous run had other settings ({', '.join(changed)})", None
    path = os.path.join(pointer.uri, FILE)
    if not fileio.exists(path):
        raise UserError(
            f"{path}: the statistics of the previous run are gone, and drift is measured against them. "
            f"Restore them, or remove the pointer {APPROVED}.json."
        )
    with fileio.open(path, "rb") as file:
        return "", statistics_pb2.DatasetFeatureStatisticsList.FromString(file.read()).datasets[0]
