"""What ExampleValidator found, in words."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.dsl.io import fileio


def describe(anomalies_uri: str, splits: list[str]) -> Iterator[str]:
    """Yields a line per anomaly: split, feature, what is wrong with which values."""
    for split in splits:
        path = os.path.join(anomalies_uri, f"Split-{split}", "SchemaDiff.pb")
        with fileio.open(path, "rb") as file:
            anomalies = anomalies_pb2.Anomalies.FromString(file.read())
        if anomalies.HasField("dataset_anomaly_info"):
            yield f"{split}: {anomalies.dataset_anomaly_info.description}"
        for feature, info in sorted(anomalies.anomaly_info.items()):
            yield f"{split}: {feature}: {info.description}"
