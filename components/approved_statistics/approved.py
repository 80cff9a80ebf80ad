"""The statistics that the gate let pass: how they are kept, found again, and told to be of the same data."""

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
    """The latest artifact, or none in the first run, which TFX's own strategy takes for a failure.

    Vertex AI has a resolver of its own for this and knows it by TFX's class alone: the job that is compiled
    for it names that one.
    """

    def resolve_artifacts(
        self, store: MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """At most one artifact of each input, the newest."""
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
    """Keeps the train split's statistics, and of what data they are."""
    content = statistics_pb2.DatasetFeatureStatisticsList(datasets=[train])
    fileio.makedirs(artifact.uri)
    with fileio.open(os.path.join(artifact.uri, FILE), "wb") as file:
        file.write(content.SerializeToString())
    artifact.set_string_custom_property(_DATASET, dataset)
    artifact.set_string_custom_property(_MADE_WITH, json.dumps(made_with, sort_keys=True))


def baseline_of(
    artifact: types.Artifact | None, dataset: str, made_with: Mapping[str, Any]
) -> tuple[str, statistics_pb2.DatasetFeatureStatistics | None]:
    """What to compare with; or why there is nothing to compare with, and None.

    Args:
      artifact: of the latest run that the gate let pass, or None.
      dataset: the data set's name.
      made_with: the settings that shape a window.
    """
    if artifact is None:
        return "no earlier run has passed", None
    other = artifact.get_string_custom_property(_DATASET)
    if other != dataset:
        return f"the run before was on other data ({other!r}; this is {dataset!r})", None
    then = json.loads(artifact.get_string_custom_property(_MADE_WITH) or "{}")
    changed = [name for name, value in made_with.items() if then.get(name) != value]
    if changed:
        return f"the run before had other settings ({', '.join(changed)})", None
    with fileio.open(os.path.join(artifact.uri, FILE), "rb") as file:
        return "", statistics_pb2.DatasetFeatureStatisticsList.FromString(file.read()).datasets[0]
