"""Repeat head: an extra score for items in the user's history.

A query embedding tells the kind of the next item, but poorly which of a hundred heard items it is. All items
of the same kind are near the sum of their embeddings, and replayed items need not be popular. So an item of
the history scores the inner product of query and candidate plus a bonus. The bonus depends on the query, and
on how long ago, how often and how far the item was played. "RepeatNet" (2019) separates repeating and
exploring in this way.

The bonus is never negative. So the best k items are among the best k by inner product, which any index
finds, and the few items of the history. Serving joins the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from two_tower.trainer.model.windows import Positions, Windows
from two_tower.trainer.settings import TrainerConfig

_UNITS = 16
# A hidden layer: the share of all other items is no linear function of the query.
_QUERY_UNITS = 64
# Initialisation of the bonus near zero: few items are repeated.
_INITIAL = -3.0
# A bonus of zero has no logarithm.
_LEAST = 1e-6


class Repeats(NamedTuple):
    """The items among the last N events of queries, newest first, each at its last listen.

    Attributes:
        rows: int32 [queries, N], catalog rows; -1 where an event is no listen, or an item's earlier listen.
        product: float32 [queries, N], inner products of query and item embeddings, without gradient.
        bonus: float32 [queries, N], the bonus added to the product; at least 0.
    """

    rows: tf.Tensor
    product: tf.Tensor
    bonus: tf.Tensor

    @property
    def score(self) -> tf.Tensor:
        """Scores of the items of the history, float32 [queries, N]."""
        return self.product + self.bonus

    def log_excess(self, temperature: tf.Tensor) -> tf.Tensor:
        """Computes log(e^(score / temperature) - e^(product / temperature)), [queries, N].

        It is an item's addition to the softmax's sum beyond its inner product. It is negligible where `rows`
        are -1.
        """
        bonus = tf.maximum(self.bonus / temperature, _LEAST)
        excess = self.product / temperature + bonus + tf.math.log(-tf.math.expm1(-bonus))
        return tf.where(self.rows >= 0, excess, excess.dtype.min / 100)

    def bonus_of(self, row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Looks up a catalog row for each query, int32 [queries]: is it in the history, and its bonus."""
        is_it = self.rows == row[:, tf.newaxis]
        return tf.reduce_any(is_it, axis=1), tf.reduce_sum(tf.where(is_it, self.bonus, 0.0), axis=1)


class RepeatHead(tf.keras.layers.Layer):
    """Layer that computes the bonus of each item in a query's history."""

    def __init__(
        self, history_length: int, unknown_row: int, config: TrainerConfig, reads_aggregates: bool = True
    ) -> None:
        """Args:
        history_length: N.
        unknown_row: the catalog row of unknown items, which are not recommended.
        config: the settings.
        reads_aggregates: whether the bonus depends on history aggregates.
        """
        # float32 in any precision of the towers: the bonus is added to logits.
        super().__init__(name="repeats", dtype="float32", autocast=False)
        self._history_length = history_length
        self._unknown_row = unknown_row
        self._reads_aggregates = reads_aggregates
        # Scores are logits times the temperature; the layers compute logits.
        self._temperature = config.temperature
        self._of_event = tf.keras.layers.Dense(_UNITS, dtype="float32", name="repeats_of_event")
        self._query_hidden = tf.keras.layers.Dense(
            _QUERY_UNITS, activation="relu", dtype="float32", name="repeats_query_hidden"
        )
        self._of_query = tf.keras.layers.Dense(
            _UNITS, use_bias=False, dtype="float32", name="repeats_of_query"
        )
        self._bonus = tf.keras.layers.Dense(
            1,
            bias_initializer=tf.keras.initializers.Constant(_INITIAL),
            dtype="float32",
            name="repeats_bonus",
        )

    def call(
        self,
        windows: Windows,
        positions: Positions,
        query_embedding: tf.Tensor,
        embed: Callable[[tf.Tensor], tf.Tensor],
    ) -> Repeats:
        """Computes products and bonuses of the history's items.

        Args:
          windows: of the positions.
          positions: the queries.
          query_embedding: float32 [positions, embedding_dim].
          embed: catalog rows int32 [any] to candidates' embeddings [any, embedding_dim].
        """
        events = tf.shape(windows.rows)[1]
        newest, ago = positions.event[:, tf.newaxis], tf.range(self._history_length)
        event, oldest = newest - ago, tf.maximum(newest - self._history_length + 1, 0)
        at = positions.window[:, tf.newaxis] * events + tf.maximum(event, 0)

        def read(of_windows: tf.Tensor) -> tf.Tensor:
            return tf.gather(tf.reshape(of_windows, [-1]), at)

        heard = tf.where(windows.is_listen, windows.rows, self._unknown_row)
        rows = tf.where(event >= 0, read(heard), self._unknown_row)
        is_item = rows != self._unknown_row
        earlier = tf.reshape(_times_heard_before(heard), [-1])

        def heard_before(place: tf.Tensor) -> tf.Tensor:
            return tf.gather(earlier, at * (events + 1) + place)

        times = heard_before(newest + 1)
        is_last = is_item & (times == heard_before(tf.maximum(event, 0) + 1))
        times = tf.where(is_item, times - heard_before(oldest), 1.0)
        product = _products(windows, positions, query_embedding, embed, at)

        ratio = read(windows.play_ratio)
        # The play ratio of the seed is unknown while it plays.
        is_known = (ratio >= 0) & (ago > 0)
        of_event = [
            tf.stop_gradient(product) / self._temperature,
            tf.broadcast_to(tf.math.log1p(tf.cast(ago, tf.float32)), tf.shape(rows)),
            tf.math.log(times),
            tf.cast(is_known, tf.float32),
            tf.where(is_known, tf.minimum(ratio, 1.0), 0.0),
        ]
        now = tf.stack([positions.window, tf.maximum(positions.event, 0)], axis=1)
        if windows.elapsed is not None:
            seconds = tf.gather_nd(windows.elapsed, now)[:, tf.newaxis] - read(windows.elapsed)
            of_event.append(tf.math.log1p(tf.cast(tf.maximum(seconds, 0), tf.float32)))
        of_query = [tf.stop_gradient(query_embedding)]
        # gather_nd refuses a matrix without columns.
        if self._reads_aggregates and windows.aggregates.shape[-1] != 0:
            of_query.append(tf.gather_nd(windows.aggregates, now))
        hidden = self._of_event(tf.stack(of_event, axis=-1))
        hidden += self._of_query(self._query_hidden(tf.concat(of_query, axis=-1)))[:, tf.newaxis]
        bonus = self._temperature * tf.nn.softplus(self._bonus(tf.nn.relu(hidden))[..., 0])
        return Repeats(tf.where(is_last, rows, -1), product, bonus)


def _times_heard_before(rows: tf.Tensor) -> tf.Tensor:
    """Counts, for each event, its item among the events before each place, [windows, events, events + 1].

    `rows` int32 [windows, events].
    """
    is_same = tf.cast(rows[:, :, tf.newaxis] == rows[:, tf.newaxis], tf.float32)
    return tf.pad(tf.cumsum(is_same, axis=2), [[0, 0], [0, 0], [1, 0]])


def _products(
    windows: Windows,
    positions: Positions,
    query_embedding: tf.Tensor,
    embed: Callable[[tf.Tensor], tf.Tensor],
    at: tf.Tensor,
) -> tf.Tensor:
    """Computes inner products of queries and events of their windows, [positions, N].

    For other arguments see `RepeatHead.call`.

    Args:
      at: int32 [positions, N], the indices of events among those of all windows.

    One matrix product takes all queries of a window and all its events. Unused products cost less than
    copies of the embeddings.
    """
    count, events = tf.unstack(tf.shape(windows.rows))
    distinct, place = tf.unique(tf.reshape(windows.rows, [-1]))
    vectors = tf.stop_gradient(tf.cast(embed(distinct), tf.float32))
    vectors = tf.gather(vectors, tf.reshape(place, [count, events]))
    # Each query's number within its window.
    is_of = tf.one_hot(positions.window, count, dtype=tf.int32)
    number = tf.reduce_sum(is_of * tf.cumsum(is_of, exclusive=True), axis=1)
    most = tf.maximum(tf.reduce_max(number), 0) + 1  # without queries the maximum is the least int32
    queries = tf.scatter_nd(
        tf.stack([positions.window, number], axis=1),
        query_embedding,
        [count, most, query_embedding.shape[1]],
    )
    products = tf.reshape(tf.matmul(queries, vectors, transpose_b=True), [-1])
    event = at - (positions.window * events)[:, tf.newaxis]
    return tf.gather(products, ((positions.window * most + number) * events)[:, tf.newaxis] + event)
