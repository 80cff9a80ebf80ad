"""The query tower and the candidate tower, over tables that they share."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from pipeline.configs import TrainerConfig
from trainer import features
from trainer.catalog_table import OUT_OF_VOCABULARY, CatalogTable

# The last few listens say what the session is about, the whole history what its user likes.
SHORT_HISTORY = 5


class Windows(NamedTuple):
    """A batch of windows as the towers read it, padded to the longest.

    `user` int64 [windows]; `rows` int32 [windows, events]: catalog rows; `is_listen` bool and
    `example_age` float32 (days) [windows, events]; `aggregates` float32 [windows, events, aggregates].
    """

    user: tf.Tensor
    rows: tf.Tensor
    is_listen: tf.Tensor
    example_age: tf.Tensor
    aggregates: tf.Tensor


class Positions(NamedTuple):
    """Query positions: `window` and `event` int32 [positions]. `event` is -1 for an empty history."""

    window: tf.Tensor
    event: tf.Tensor


class ItemEmbedding(tf.keras.layers.Layer):
    """Catalog rows to [..., width]: item, artist and album embeddings and the length, side by side.

    The tables are shared by history, seed and candidates.
    """

    def __init__(self, table: CatalogTable, config: TrainerConfig) -> None:
        super().__init__(name="item_embedding")
        self.table = table
        self._id_dropout = config.id_dropout
        side = config.embedding_dim // 2
        self.width = config.embedding_dim + 2 * side + 1

        def embeddings(rows: int, width: int, name: str) -> tf.Variable:
            # Without id dropout nothing trains the out-of-vocabulary row, and it must read as nothing.
            seed = [config.seed, len(name)]
            initial = tf.random.stateless_normal([rows, width], seed=seed, stddev=width**-0.5)
            initial = tf.concat([tf.zeros([1, width]), initial[1:]], axis=0)
            return self.add_weight(name=name, shape=[rows, width], initializer=lambda *_, **__: initial)

        self.item = embeddings(table.item_vocabulary_size, config.embedding_dim, "item")
        self.artist = embeddings(table.artist_vocabulary_size, side, "artist")
        self.album = embeddings(table.album_vocabulary_size, side, "album")

    def call(self, rows: tf.Tensor, training: bool = False) -> tf.Tensor:
        """`rows` int32 of any shape; the result has one more dimension, `width`."""
        item = tf.gather(self.table.item, rows)
        if training and self._id_dropout:
            item = tf.where(tf.random.uniform(tf.shape(item)) < self._id_dropout, OUT_OF_VOCABULARY, item)
        return tf.concat(
            [
                tf.gather(self.item, item),
                _mean_embedding(self.artist, tf.gather(self.table.artist, rows)),
                _mean_embedding(self.album, tf.gather(self.table.album, rows)),
                tf.gather(self.table.length, rows)[..., tf.newaxis],
            ],
            axis=-1,
        )


def _mean_embedding(table: tf.Variable, rows: tf.Tensor) -> tf.Tensor:
    """Mean over the last dimension of `rows`, whose -1 are padding. The first is always there."""
    first = tf.gather(table, tf.maximum(rows[..., 0], 0))
    others = rows[..., 1:]
    present = tf.cast(others >= 0, tf.float32)
    # Few items have a second artist: the padding is not gathered.
    where = tf.where(others >= 0)
    total = first + tf.tensor_scatter_nd_add(
        tf.zeros_like(first), where[:, :-1], tf.gather(table, tf.gather_nd(others, where))
    )
    return total / (1.0 + tf.reduce_sum(present, axis=-1, keepdims=True))


class CandidateTower(tf.keras.layers.Layer):
    """Catalog rows [candidates] to L2-normalised embeddings [candidates, embedding_dim]."""

    def __init__(self, items: ItemEmbedding, config: TrainerConfig) -> None:
        super().__init__(name="candidate_tower")
        self._items = items
        self._project = tf.keras.layers.Dense(config.embedding_dim, name="candidate_projection")

    def call(self, rows: tf.Tensor, training: bool = False) -> tf.Tensor:
        """`rows` int32 [candidates]."""
        return tf.math.l2_normalize(self._project(self._items(rows, training=training)), axis=-1)


class QueryTower(tf.keras.layers.Layer):
    """Positions of packed windows to L2-normalised embeddings [positions, embedding_dim].

    Prefix sums over a window's events give every position the mean of its last N (and few) listens at the
    price of one pass; seed, user, example age and aggregates join after it.
    """

    def __init__(self, items: ItemEmbedding, users: int, history_length: int, config: TrainerConfig) -> None:
        """`users`: size of the user vocabulary, without the out-of-vocabulary row, which comes last."""
        super().__init__(name="query_tower")
        self._items = items
        self._history_length = history_length
        self._unknown_user = tf.constant(users, tf.int64)
        self._config = config
        self._users = tf.keras.layers.Embedding(
            users + 1, config.embedding_dim // 2, embeddings_initializer="zeros", name="user"
        )
        self._hidden = [
            tf.keras.layers.Dense(units, activation="relu", name=f"query_hidden_{number}")
            for number, units in enumerate(config.query_hidden_units)
        ]
        self._dropout = tf.keras.layers.Dropout(config.dropout)
        self._project = tf.keras.layers.Dense(config.embedding_dim, name="query_projection")
        # A straight way past the hidden layers, so that "the same again" and "the same artist again",
        # which are linear in the shared embeddings, need not be relearnt through them.
        self._shortcut = tf.keras.layers.Dense(config.embedding_dim, use_bias=False, name="query_shortcut")

    def call(self, windows: Windows, positions: Positions, training: bool = False) -> tf.Tensor:
        """See `Windows` and `Positions` for the shapes."""
        config = self._config
        # An empty history reads event 0 and keeps nothing of it.
        event = tf.maximum(positions.event, 0)
        has_history = positions.event >= 0
        if training and config.history_dropout:
            has_history &= tf.random.uniform(tf.shape(event)) >= config.history_dropout
        keep = tf.cast(has_history, tf.float32)[:, tf.newaxis]
        at = tf.stack([positions.window, event], axis=-1)

        listens = tf.cast(windows.is_listen, tf.float32)[..., tf.newaxis]
        embedded = self._items(windows.rows, training=training)
        sums = tf.cumsum(tf.concat([embedded * listens, listens], axis=-1), axis=1)
        sums = tf.pad(sums, [[0, 0], [1, 0], [0, 0]])

        def mean_of_last(count: int) -> tf.Tensor:
            begin = tf.stack([positions.window, tf.maximum(event + 1 - count, 0)], axis=-1)
            total = tf.gather_nd(sums, at + tf.constant([[0, 1]])) - tf.gather_nd(sums, begin)
            return tf.math.divide_no_nan(total[:, :-1], total[:, -1:]) * keep

        unknown_item = tf.fill(tf.shape(event), self._items.table.size)
        seed_rows = tf.where(has_history, tf.gather_nd(windows.rows, at), unknown_item)
        seed = self._items(seed_rows, training=training)
        counts = (self._history_length, min(SHORT_HISTORY, self._history_length))
        history = tf.concat([*map(mean_of_last, counts), seed], axis=-1)

        user = tf.gather(windows.user, positions.window)
        if training and config.id_dropout:
            user = tf.where(tf.random.uniform(tf.shape(user)) < config.id_dropout, self._unknown_user, user)
        joined = tf.concat(
            [
                history,
                keep,
                self._users(user),
                tf.math.log1p(tf.gather_nd(windows.example_age, at))[:, tf.newaxis],
                tf.gather_nd(windows.aggregates, at) * keep,
            ],
            axis=-1,
        )
        hidden = joined
        for layer in self._hidden:
            hidden = self._dropout(layer(hidden), training=training)
        return tf.math.l2_normalize(self._project(hidden) + self._shortcut(history), axis=-1)


def windows_of(transformed: dict[str, tf.RaggedTensor | tf.Tensor], table: CatalogTable) -> Windows:
    """Pads Transform's ragged outputs [windows, (events)] to the towers' input.

    `example_age` may be left out, and is then zero: "now", which is what serving asks for.
    """
    rows = table.rows_of(padded(transformed[features.HISTORY_ITEM_ID], features.PADDING))
    age = features.EXAMPLE_AGE
    return Windows(
        user=tf.reshape(transformed[features.USER], [-1]),
        rows=rows,
        is_listen=padded(transformed[features.IS_LISTEN]) > 0,
        example_age=padded(transformed[age]) if age in transformed else tf.zeros(tf.shape(rows)),
        aggregates=tf.stack([padded(transformed[name]) for name in features.AGGREGATES], axis=-1),
    )


def padded(values: tf.RaggedTensor, padding: int = 0) -> tf.Tensor:
    """[windows, (events)] to [windows, events], with one event at least: an empty history reads that."""
    dense = values.to_tensor(padding)
    return tf.pad(dense, [[0, 0], [0, tf.maximum(1 - tf.shape(dense)[1], 0)]], constant_values=padding)
