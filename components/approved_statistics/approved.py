"""Approved statistics: written after the gate, and the baseline of the next run on the same data."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from ml_metadata.metadata_store import MetadataStore
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx import types
from tfx.dsl.input_resolution.strategies.latest_artifact_strategy import LatestArtifactStrategy
from tfx.dsl.io import fileio

FILE = "FeatureStats.pb"
# Custom properties of the artifact.
_DATASET = "dataset"
_MADE_WITH = "made_with"


class LatestIfAny(LatestArtifactStrategy):
    """Strategy that resolves to the latest artifact, or to none in the first run.

    TFX's own strategy fails in the first run. Vertex AI has a resolver of its own, which it knows by TFX's
    class: the job that is compiled for it names that class.
    """

    def resolve_artifacts(
        self, store: MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Returns at most one artifact of each input, the newest."""
        del store
        return {
            name: sorted(found, key=lambda artifact: artifact.id)[-1:] for name, found in input_dict.items()
        }


def write(
    artifact: types.Artifact,
    train: statistics_pb2.DatasetFeatureStatistics,
    dataset: str,
    made_with: Mapping[str, Any],
) -> None:
    """Writes the statistics of train, and records their data set and settings on the artifact."""
    content = statistics_pb2.DatasetFeatureStatisticsList(datasets=[train])
    fileio.makedirs(artifact.uri)
    with fileio.open(os.path.join(artifact.uri, FILE), "wb") as file:
        file.write(content.SerializeToString())
    artifact.set_string_custom_property(_DATASET, dataset)
    artifact.set_string_custom_property(_MADE_WITH, json.dumps(made_with, sort_keys=True))


def baseline_of(
    artifact: types.Artifact | None, dataset: str, made_with: Mapping[str, Any]
) -> tuple[str, statistics_pb2.DatasetFeatureStatistics | None]:
    """Returns ("", the baseline statistics), or (the reason why there are none, None).

    Args:
      artifact: the statistics of the latest run that passed the gate, or None.
      dataset: the data set's name.
      made_with: the settings that shape a window.
    """
    if artifact is None:
        return "no earlier run has passed", None
    other = artifact.get_string_custom_property(_DATASET)
    if other != dataset:
        return f"the previous run used other data ({other!r}; this is {dataset!r})", None
    then = json.loads(artifact.get_string_custom_property(_MADE_WITH) or "{}")
    changed = [name for name, value in made_with.items() if then.get(name) != value]
    if changed:
        return f"the previous run had other settings ({', '.join(changed)})", None
    with fileio.open(os.path.join(artifact.uri, FILE), "rb") as file:
        return "", statistics_pb2.DatasetFeatureStatisticsList.FromString(file.read()).datasets[0]
