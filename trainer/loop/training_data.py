"""Where a training's data lie, and how they are read."""

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
# Where trainer.windows_per_step is left open: how many steps an epoch has, how many labels a step holds at
# most, on average, and how many windows at least, which are each other's negatives.
_STEPS_PER_EPOCH = 190
_LABELS_PER_STEP = 8_192
_LEAST_WINDOWS = 8


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
    files: list[str],
    spec: dict[str, Any],
    windows: int,
    shuffle_seed: int | None = None,
    skip: int = 0,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Batches of transformed windows, shuffled where a seed is given; of one seed, in one order.

    Args:
      files: gzipped TFRecords of Transform's Examples.
      spec: Transform's feature spec of them.
      windows: how many a batch holds; the last may hold fewer.
      shuffle_seed: another one for each epoch.
      skip: so many batches are left out, unparsed.
      context: of a replica's share of the work; each batch then comes in parts, see `distribution.parts`.
    """
    if shuffle_seed is not None:
        # The buffer mixes neighbours; this, what files hold.
        files = np.random.default_rng(shuffle_seed).permutation(files).tolist()
    dataset = tf.data.TFRecordDataset(files, compression_type="GZIP", num_parallel_reads=2)
    if shuffle_seed is not None:
        dataset = dataset.shuffle(_SHUFFLED_WINDOWS, seed=shuffle_seed)
    dataset = dataset.batch(windows).skip(skip)
    if context is not None and context.num_replicas_in_sync > 1:
        dataset = dataset.flat_map(lambda batch: parts(batch, context))
    # From when an iterator is made, and not from when it is first asked: the shuffle buffer is filled while
    # there is something else to do.
    options = tf.data.Options()
    options.experimental_warm_start = True
    return (
        dataset.map(lambda serialized: tf.io.parse_example(serialized, spec), num_parallel_calls=2)
        .prefetch(2)
        .with_options(options)
    )


def count_windows(files: list[str]) -> int:
    """How many windows there are. Every file is read once, and nothing in it parsed."""
    records = tf.data.TFRecordDataset(files, compression_type="GZIP", num_parallel_reads=2)
    return int(records.batch(1_024).reduce(np.int64(0), lambda count, some: count + tf.size(some, tf.int64)))


def windows_for(config: TrainerConfig, windows: int, labels: int, replicas: int = 1) -> TrainerConfig:
    """The settings with `windows_per_step` settled for so many windows of train, where they leave it open.

    How many steps a training takes decides more than how much a step holds: sequences of a few events and of
    hundreds, of a thousand users and of twenty thousand, are learnt in about as many. A step's memory and
    `positions_per_step` set a limit.
    """
    if config.windows_per_step:
        return config
    fitting = int(min(_LABELS_PER_STEP, config.positions_per_step) * windows / max(labels, 1))
    settled = max(min(round(windows / _STEPS_PER_EPOCH), fitting), _LEAST_WINDOWS, replicas)
    _log.info("trainer.windows_per_step=0: %d, for %d windows with %d labels.", settled, windows, labels)
    return dataclasses.replace(config, windows_per_step=settled)
