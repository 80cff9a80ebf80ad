"""Query embeddings that the index is tuned on: drawn from eval, never from test, which judges the index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from two_tower.base.errors import UserError
from two_tower.base.settings import DEFAULT_SEED
from two_tower.data_directory.feature_columns import FeatureSpec
from two_tower.evaluation.queries import Ints, all_queries, history_batch, read_windows
from two_tower.evaluation.slices import HISTORY_LENGTHS, history_lengths
from two_tower.schema import features

# Queries that the index is tuned on.
TUNING_QUERIES = 500
_QUERIES_PER_BATCH = 256


def tuning_queries(
    directories: Sequence[str],
    towers: Any,
    history_length: int,
    users: Sequence[FeatureSpec],
    seed: int = DEFAULT_SEED,
    most: int = TUNING_QUERIES,
) -> tuple[npt.NDArray[np.float32], Ints]:
    """Returns the query tower's embeddings of queries, and each query's group by length of history.

    The groups are those of `slices.history_slices`. Each is drawn alike, as far as it goes, since an index
    that serves long histories well may fail short ones.

    Args:
        directories: directories of windows, eval's then train's; the first with a query is used.
        towers: a SavedModel with the signature `query_embedding`.
        history_length: the most events that a query sees.
        users: features of users/ that the windows carry.
        seed: seed of the draw.
        most: greatest number of queries.

    Returns:
        float32 [Q, dim] and int64 [Q], with Q at most `most`.

    Raises:
        UserError: no directory holds a query, or embeddings are not finite.
    """
    import tensorflow as tf

    for directory in directories:
        if not _has_windows(directory):
            continue
        windows = read_windows(directory, tuple(users))
        queries = all_queries(windows)
        if len(queries):
            break
    else:
        raise UserError(
            "Neither eval nor train holds a query to tune the index on. The split (split.protocol and its "
            "periods) leaves no label. Change the split or bring more data."
        )
    group = np.searchsorted(HISTORY_LENGTHS, history_lengths(queries, history_length))
    rows = _drawn_alike(group, min(most, len(queries)), np.random.default_rng(seed))
    size = len(rows)
    parts = []
    for begin in range(0, size, _QUERIES_PER_BATCH):
        batch = history_batch(windows, queries, rows[begin : begin + _QUERIES_PER_BATCH], history_length)
        del batch[features.EXCLUDE_ITEM_ID]
        inputs = {name: tf.constant(values) for name, values in batch.items()}
        parts.append(towers.query_embedding(**inputs)["embedding"].numpy())
    embeddings = np.concatenate(parts)
    broken = ~np.isfinite(embeddings).all(axis=1)
    if broken.any():
        raise UserError(
            f"The embeddings of {broken.sum()} of {size} queries are not finite numbers. "
            "Train again with a lower trainer.learning_rate."
        )
    return embeddings, group[rows]


def _drawn_alike(group: Ints, size: int, generator: np.random.Generator) -> Ints:
    """Draws `size` rows [size], ascending: equally many of each group, and more where one has too few."""
    shuffled = generator.permutation(len(group))
    by_group = shuffled[np.argsort(group[shuffled], kind="stable")]
    counts = np.bincount(group)
    place = np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_group[np.argsort(place, kind="stable")[:size]])


def _has_windows(directory: str) -> bool:
    import tensorflow as tf

    files = tf.io.gfile.glob(os.path.join(directory, "data_tfrecord-*.gz"))
    return any(True for _ in tf.data.TFRecordDataset(files, "GZIP").take(1)) if files else False
