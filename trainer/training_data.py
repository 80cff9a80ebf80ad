"""Where a training's data lie, and how they are read."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from pipeline.feature_specs import ResolvedFeatures

_SHUFFLED_WINDOWS = 20_000


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Where the transformed Examples and the graphs that made them lie; files are gzipped TFRecords."""

    train_files: list[str]
    eval_files: list[str]
    transform_graph: str
    catalog_files: list[str]
    catalog_graph: str
    history_length: int
    repeats_recommendable: bool
    resolved: ResolvedFeatures


def window_batches(
    files: list[str], spec: dict[str, Any], windows: int, shuffle_seed: int | None = None
) -> tf.data.Dataset:
    """Batches of transformed windows, shuffled where a seed is given.

    Args:
      files: gzipped TFRecords of Transform's Examples.
      spec: Transform's feature spec of them.
      windows: how many a batch holds; the last may hold fewer.
    """
    dataset = tf.data.TFRecordDataset(files, compression_type="GZIP", num_parallel_reads=2)
    if shuffle_seed is not None:
        dataset = dataset.shuffle(_SHUFFLED_WINDOWS, seed=shuffle_seed)
    return (
        dataset.batch(windows)
        .map(lambda serialized: tf.io.parse_example(serialized, spec), num_parallel_calls=2)
        .prefetch(2)
    )
