"""Statistics of synthetic windows in the form of StatisticsGen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

# Feature → one list of values per window.
Columns = Mapping[str, Sequence[Sequence[Any]]]


def statistics_of(columns: Columns) -> Any:
    """Computes DatasetFeatureStatistics of windows given as lists."""
    from tensorflow_data_validation.statistics import stats_impl

    from two_tower.components.comparable_statistics.distributions import statistics_options

    batch = pa.RecordBatch.from_pydict({name: pa.array(list(rows)) for name, rows in columns.items()})
    return stats_impl.generate_statistics_in_memory(batch, statistics_options()).datasets[0]


def statistics_artifact(path: Path, splits: Mapping[str, Columns]) -> Any:
    """Writes an artifact of StatisticsGen."""
    from tensorflow_metadata.proto.v0 import statistics_pb2
    from tfx.types import standard_artifacts

    artifact = standard_artifacts.ExampleStatistics()
    artifact.uri = str(path)
    artifact.split_names = json.dumps(list(splits))
    artifact.set_string_custom_property("tfx_version", "1.16.0")
    for split, columns in splits.items():
        file = path / f"Split-{split}" / "FeatureStats.pb"
        file.parent.mkdir(parents=True)
        content = statistics_pb2.DatasetFeatureStatisticsList(datasets=[statistics_of(columns)])
        file.write_bytes(content.SerializeToString())
    return artifact
