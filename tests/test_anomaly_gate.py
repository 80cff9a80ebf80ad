from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError


def anomalies(path: Path, found: dict[str, dict[str, str]], whole: str = "") -> Any:
    """ExampleValidator's artifact: what it found, by split and feature."""
    from tensorflow_metadata.proto.v0 import anomalies_pb2
    from tfx.types import standard_artifacts

    artifact = standard_artifacts.ExampleAnomalies()
    artifact.uri = str(path)
    artifact.split_names = json.dumps(list(found))
    for split, features in found.items():
        proto = anomalies_pb2.Anomalies()
        if whole:
            proto.dataset_anomaly_info.description = whole
        for feature, description in features.items():
            proto.anomaly_info[feature].description = description
        file = path / f"Split-{split}" / "SchemaDiff.pb"
        file.parent.mkdir(parents=True)
        file.write_bytes(proto.SerializeToString())
    return artifact


def gate(interactions: Any, catalog: Any) -> None:
    from components.anomaly_gate.component import AnomalyGate

    executor = AnomalyGate.EXECUTOR_SPEC.executor_class()
    executor.Do({"interactions": [interactions], "catalog": [catalog]}, {}, {"source_digest": ""})


def test_data_that_matches_its_schema_passes(tmp_path: Path) -> None:
    gate(anomalies(tmp_path / "i", {"train": {}, "test": {}}), anomalies(tmp_path / "c", {"catalog": {}}))


def test_every_anomaly_is_named_by_table_split_and_feature(tmp_path: Path) -> None:
    negative = "Unexpectedly small values: -5."
    with pytest.raises(UserError) as stop:
        gate(
            anomalies(
                tmp_path / "i", {"train": {"history_timestamp": negative}, "test": {"user_id": "Missing."}}
            ),
            anomalies(tmp_path / "c", {"catalog": {}}, whole="The dataset is empty."),
        )
    lines = str(stop.value).splitlines()
    assert f"  interactions / train: history_timestamp: {negative}" in lines
    assert "  interactions / test: user_id: Missing." in lines
    assert "  catalog / catalog: The dataset is empty." in lines
    assert "ingest it again" in lines[-1] and "schema/interactions.pbtxt" in lines[0]


def test_anomalies_of_the_catalog_alone_stop_the_run_too(tmp_path: Path) -> None:
    catalog = anomalies(tmp_path / "c", {"catalog": {"item_length": "Value -3 is out of range."}})
    with pytest.raises(UserError, match="catalog / catalog: item_length: Value -3"):
        gate(anomalies(tmp_path / "i", {"train": {}}), catalog)
