"""Input pipeline of training: locations of the data, and batches of windows."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
import tensorflow as tf

from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.trainer.distribution import parts
from two_tower.trainer.settings import TrainerConfig

_log = logging.getLogger(__name__)

_SHUFFLED_WINDOWS = 20_000
# Targets for trainer.windows_per_step=0: steps an epoch; mean labels a step, at most; windows a step, at
# least, whose labels are each other's in-batch negatives.
_STEPS_PER_EPOCH = 190
_LABELS_PER_STEP = 8_192
_LEAST_WINDOWS = 8


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Locations of the transformed Examples and of their Transform graphs; files are gzipped TFRecords.

    `repeats_recommendable` and `users_are_new` are facts of the data, see DataFacts.
    """

    train_files: list[str]
    eval_files: list[str]
    transform_graph: str
    catalog_files: list[str]
    catalog_graph: str
    history_length: int
    repeats_recommendable: bool
    resolved: ResolvedFeatures
    users_are_new: bool = False


def window_batches(
    files: list[str],
    spec: dict[str, Any],
    windows: int,
    shuffle_seed: int | None = None,
    skip: int = 0,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Reads batches of transformed windows, shuffled where a seed is given; a seed gives one order.

    Args:
      files: gzipped TFRecords of Transform's Examples.
      spec: Transform's feature spec of them.
      windows: windows a batch; the last may hold fewer.
      shuffle_seed: a different one for each epoch.
      skip: the number of first batches to leave out, unparsed.
      context: of a process's replicas; each batch then comes in parts, see `distribution.parts`.
    """
    if shuffle_seed is not None:
        # The shuffle buffer mixes neighbours; the permutation mixes files.
        files = np.random.default_rng(shuffle_seed).permutation(files).tolist()
    dataset = tf.data.TFRecordDataset(files, compression_type="GZIP", num_parallel_reads=2)
    if shuffle_seed is not None:
        dataset = dataset.shuffle(_SHUFFLED_WINDOWS, seed=shuffle_seed)
    dataset = dataset.batch(windows).skip(skip)
    if context is not None and context.num_replicas_in_sync > 1:
        dataset = dataset.flat_map(lambda batch: parts(batch, context))
    # The pipeline starts with the iterator, not with its first element. So the shuffle buffer fills
    # meanwhile.
    options = tf.data.Options()
    options.experimental_warm_start = True
    return (
        dataset.map(lambda serialized: tf.io.parse_example(serialized, spec), num_parallel_calls=2)
        .prefetch(2)
        .with_options(options)
    )


def count_windows(files: list[str]) -> int:
    """Counts windows. It reads every file once and parses nothing."""
    records = tf.data.TFRecordDataset(files, compression_type="GZIP", num_parallel_reads=2)
    return int(records.batch(1_024).reduce(np.int64(0), lambda count, some: count + tf.size(some, tf.int64)))


def windows_for(config: TrainerConfig, windows: int, labels: int, replicas: int = 1) -> TrainerConfig:
    """Resolves `windows_per_step=0` by the numbers of windows and labels of train.

    The number of steps matters more than the size of a step. Sequences of a few events and of hundreds, of a
    thousand users and of twenty thousand, take about as many steps. A step's memory and `positions_per_step`
    limit its size.
    """
    if config.windows_per_step:
        return config
    fitting = int(min(_LABELS_PER_STEP, config.positions_per_step) * windows / max(labels, 1))
    settled = max(min(round(windows / _STEPS_PER_EPOCH), fitting), _LEAST_WINDOWS, replicas)
    _log.info("trainer.windows_per_step=0: %d, for %d windows with %d labels.", settled, windows, labels)
    return dataclasses.replace(config, windows_per_step=settled)
