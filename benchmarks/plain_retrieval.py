"""Plain two-tower model with one query per example: the reference for packed windows.

As in the tutorials of TensorFlow Recommenders, every Example is one query with its own history, padded to N
events. `tfrs.tasks.Retrieval` uses in-batch negatives, logQ correction by their sampling probability, and
removal of accidental hits. Tables, widths, hidden layers, encoders and query features equal the packed
model's. So does the loss if every query is from another window.

Of several options the cheaper one is taken. Examples hold catalog rows and computed aggregates, so that no id
is looked up. Parsing is batched, parallel and of dense features.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf
import tensorflow_recommenders as tfrs

from two_tower.schema import features
from two_tower.trainer.loop.two_tower_model import label_rows_of
from two_tower.trainer.loss.label_weights import play_ratio_weight
from two_tower.trainer.model.attention_encoder import AttentionEncoder
from two_tower.trainer.model.catalog_table import CatalogTable
from two_tower.trainer.model.encoder_registry import ATTENTION, BOTH, MEAN
from two_tower.trainer.model.item_embedding import ItemEmbedding
from two_tower.trainer.model.mean_encoder import SHORT_HISTORY
from two_tower.trainer.model.towers import CandidateTower, age_features
from two_tower.trainer.model.windows import padded, windows_of
from two_tower.trainer.settings import TrainerConfig

_SHUFFLED_QUERIES = 20_000
# Histories are oldest first; padding precedes the oldest event.
_HISTORY = ("rows", "is_listen", "elapsed")


def plain_queries(
    batch: dict[str, Any],
    table: CatalogTable,
    history_length: int,
    config: TrainerConfig,
    aggregates: Sequence[str] = features.AGGREGATES,
) -> dict[str, np.ndarray]:
    """Extracts one query per labelled position from a batch of transformed windows, in their order.

    Returns:
      `user`, `label_row` int64, `example_age` (days), `weight` float32 [queries]; `rows` (of the catalog),
      `is_listen`, `elapsed` (seconds) int64 [queries, history_length]; `aggregates` float32 [queries, any].
    """
    windows = windows_of(batch, table, history_length, aggregates)
    label_step = padded(batch[features.LABEL_STEP])
    label_step, label_rows = label_step.numpy(), label_rows_of(label_step, windows).numpy()
    window, event = np.nonzero((label_step > 0) & (label_rows != table.size))
    seen = event[:, np.newaxis] - np.arange(history_length)[::-1]

    def history(values: tf.Tensor) -> np.ndarray:
        of_query = values.numpy()[window[:, np.newaxis], np.maximum(seen, 0)]
        return np.where(seen >= 0, of_query, 0).astype(np.int64)

    weight = play_ratio_weight(
        padded(batch[features.HISTORY_PLAY_RATIO]), config.label_weights.play_ratio_floor
    )
    return {
        "user": windows.user.numpy()[window],
        "label_row": label_rows[window, event].astype(np.int64),
        "example_age": windows.example_age.numpy()[window, event],
        "weight": weight.numpy()[window, event + label_step[window, event]],
        **{name: history(getattr(windows, name)) for name in _HISTORY},
        "aggregates": windows.aggregates.numpy()[window, event],
    }


def write_queries(queries: Iterable[dict[str, np.ndarray]], folder: str, files: int = 8) -> int:
    """Writes batches of queries as gzipped TFRecords of Examples and returns their number.

    The queries alternate between several files, so that they can be read in parallel and shuffled.
    """
    from tfx_bsl.coders import example_coder

    os.makedirs(folder)
    encoder = example_coder.RecordBatchToExamplesEncoder()
    paths = [os.path.join(folder, f"queries-{number}.gz") for number in range(files)]
    writers = [tf.io.TFRecordWriter(path, "GZIP") for path in paths]
    written = 0
    for batch in queries:
        columns = {name: pa.array(list(values.reshape(len(values), -1))) for name, values in batch.items()}
        for example in encoder.encode(pa.RecordBatch.from_pydict(columns)):
            writers[written % files].write(example)
            written += 1
    for writer in writers:
        writer.close()
    return written


def query_batches(
    files: list[str],
    history_length: int,
    queries: int,
    shuffle_seed: int,
    aggregates: Sequence[str] = features.AGGREGATES,
) -> tf.data.Dataset:
    """Returns endless shuffled batches of `queries` queries each."""
    columns = len(features.aggregate_columns(aggregates))
    columns += len(set(aggregates) & set(features.CATALOG_AGGREGATES))
    spec: dict[str, tf.io.FixedLenFeature] = {
        "user": tf.io.FixedLenFeature([], tf.int64),
        "label_row": tf.io.FixedLenFeature([], tf.int64),
        "example_age": tf.io.FixedLenFeature([], tf.float32),
        "weight": tf.io.FixedLenFeature([], tf.float32),
        **{name: tf.io.FixedLenFeature([history_length], tf.int64) for name in _HISTORY},
        "aggregates": tf.io.FixedLenFeature([columns], tf.float32),
    }
    return (
        tf.data.TFRecordDataset(files, compression_type="GZIP", num_parallel_reads=2)
        .shuffle(_SHUFFLED_QUERIES, seed=shuffle_seed)
        .repeat()
        .batch(queries, drop_remainder=True)
        .map(lambda serialized: tf.io.parse_example(serialized, spec), num_parallel_calls=2)
        .prefetch(2)
    )


class PlainQueryTower(tf.keras.layers.Layer):
    """Query tower that maps queries and histories to L2-normalised embeddings, like
    `trainer.model.towers.QueryTower`.
    """

    def __init__(self, items: ItemEmbedding, users: int, history_length: int, config: TrainerConfig) -> None:
        super().__init__(name="query_tower")
        self._items = items
        self._unknown_user = tf.constant(users, tf.int64)
        self._config = config
        self._horizons = (history_length, min(SHORT_HISTORY, history_length))
        self._attention = None
        if config.encoder in (ATTENTION, BOTH):
            self._attention = AttentionEncoder(history_length, config)
        self._users = tf.keras.layers.Embedding(users + 1, config.embedding_dim // 2, name="user")
        self._hidden = [
            tf.keras.layers.Dense(units, activation="relu") for units in config.query_hidden_units
        ]
        self._dropout = tf.keras.layers.Dropout(config.dropout.hidden)
        self._project = tf.keras.layers.Dense(config.embedding_dim)
        self._shortcut = tf.keras.layers.Dense(config.embedding_dim, use_bias=False)

    def call(self, queries: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Computes embeddings [queries, embedding_dim] of a batch of `query_batches`."""
        config = self._config
        rows = tf.cast(queries["rows"], tf.int32)
        user = queries["user"]
        keep = tf.ones([tf.size(user), 1])
        if training:
            chance = tf.random.uniform([tf.size(user), 2])
            keep = tf.cast(chance[:, :1] >= config.dropout.history, tf.float32)
            user = tf.where(chance[:, 1] < config.dropout.id, self._unknown_user, user)
        seed = tf.where(keep[:, 0] > 0, rows[:, -1], self._items.table.size)
        direct = [encoded * keep for encoded in self._encoded(rows, queries, training)]
        direct += [self._items(seed, training=training), age_features(queries["example_age"])]
        hidden = tf.concat([*direct, keep, self._users(user), queries["aggregates"] * keep], axis=-1)
        for layer in self._hidden:
            hidden = self._dropout(layer(hidden), training=training)
        embedding = self._project(hidden) + self._shortcut(tf.concat(direct, axis=-1))
        return tf.math.l2_normalize(embedding, axis=-1)

    def _encoded(self, rows: tf.Tensor, queries: dict[str, tf.Tensor], training: bool) -> list[tf.Tensor]:
        """Encodes the history with each encoder, [queries, any]."""
        embedded = self._items(rows, training=training)
        is_listen = queries["is_listen"] > 0
        encoded = []
        if self._config.encoder in (MEAN, BOTH):
            listens = tf.cast(is_listen, tf.float32)
            last = tf.range(rows.shape[1])[::-1]
            near = tf.stack([tf.where(last < n, listens, 0.0) for n in self._horizons], axis=1)
            shares = tf.math.divide_no_nan(near, tf.reduce_sum(near, axis=-1, keepdims=True))
            means = tf.matmul(shares, embedded)
            encoded.append(tf.reshape(means, [-1, len(self._horizons) * embedded.shape[-1]]))
        if self._attention is not None:
            number = tf.range(tf.shape(rows)[0])[:, tf.newaxis] + tf.zeros_like(rows)
            of_events = [
                tf.reshape(values, [-1, *values.shape[2:]])
                for values in (embedded, number, is_listen, queries["elapsed"])
            ]
            outputs = self._attention(*of_events, training=training)
            encoded.append(tf.reshape(outputs, [-1, rows.shape[1], self._config.embedding_dim])[:, -1])
        return encoded


class PlainRetrieval(tfrs.Model):
    """Retrieval model of both towers and TFRS's loss."""

    def __init__(
        self, table: CatalogTable, log_q: np.ndarray, users: int, history_length: int, config: TrainerConfig
    ) -> None:
        """Builds both towers; arguments as for `trainer.loop.two_tower_model.TwoTowerModel`."""
        super().__init__()
        items = ItemEmbedding(table, config)
        self.query_tower = PlainQueryTower(items, users, history_length, config)
        self.candidate_tower = CandidateTower(items, config)
        self.task = tfrs.tasks.Retrieval(temperature=config.temperature, remove_accidental_hits=True)
        self._probability = tf.Variable(np.exp(log_q), trainable=False, name="probability")

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Computes the weighted mean of the query losses; `inputs` is a batch of `query_batches`."""
        label = tf.cast(inputs["label_row"], tf.int32)
        return self.task(
            self.query_tower(inputs, training=training),
            self.candidate_tower(label, training=training),
            sample_weight=inputs["weight"] / tf.reduce_sum(inputs["weight"]),
            candidate_sampling_probability=tf.gather(self._probability, label),
            candidate_ids=label,
            compute_metrics=False,
            compute_batch_metrics=False,
        )
