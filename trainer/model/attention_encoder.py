"""Attention encoder of the history: causal self-attention."""

from __future__ import annotations

import math

import tensorflow as tf

from two_tower.trainer.model.encoder_registry import ATTENTION_HEADS, ATTENTION_LAYERS
from two_tower.trainer.model.neighbours import Neighbours
from two_tower.trainer.model.randomness import Dropout
from two_tower.trainer.settings import TrainerConfig

# Knots, in seconds, of the piecewise linear function of log time between two events.
_TIME_KNOTS = (0.0, 60.0, 3_600.0, 86_400.0)
# Width of an attention layer's feed-forward part, in multiples of the embedding's.
_FEED_FORWARD = 2


class AttentionEncoder(tf.keras.layers.Layer):
    """Causal self-attention over listens, after "Self-Attentive Sequential Recommendation" (2018).

    Distances in events and in time shift the logits of attention, as in "Actions Speak Louder than Words"
    (2024, appendix). A relative distance holds wherever the window begins; a position embedding would not.
    Each layer looks back (N - 1) // layers events, so that all together see the last N.
    """

    def __init__(self, history_length: int, config: TrainerConfig) -> None:
        super().__init__(name="attention_encoder")
        self._lookback = (history_length - 1) // ATTENTION_LAYERS
        self._tokens = tf.keras.layers.Dense(config.embedding_dim, name="tokens")
        self._dropout = Dropout(config.dropout.hidden)
        self._layers = [
            AttentionLayer(self._lookback, config, name=f"attention_{number}")
            for number in range(ATTENTION_LAYERS)
        ]
        self._norm = tf.keras.layers.LayerNormalization(name="attention_norm")

    def call(
        self,
        embedded: tf.Tensor,
        window: tf.Tensor,
        is_listen: tf.Tensor,
        elapsed: tf.Tensor | None,
        training: bool = False,
    ) -> tf.Tensor:
        """Encodes the history at every event, window after window.

        For the arguments see `MeanEncoder.call`.

        Returns:
          [events, embedding_dim]; it is defined at listens.
        """
        near = Neighbours(window, is_listen, self._lookback)
        hidden = self._dropout(near.blocks(self._tokens(embedded)), training=training)
        times = None if elapsed is None else tf.cast(_times_between(elapsed, near), hidden.dtype)
        for layer in self._layers:
            hidden = layer(hidden, near, times, training=training)
        return self._norm(near.events(hidden))


def _times_between(elapsed: tf.Tensor, near: Neighbours) -> tf.Tensor:
    """Computes log(1 + seconds) of pairs of events above each knot, [blocks, size, 2 * size, knots]."""
    seconds = near.blocks(elapsed)
    between = seconds[:, :, tf.newaxis] - near.with_block_before(seconds)[:, tf.newaxis]
    between = tf.math.log1p(tf.cast(tf.maximum(tf.where(near.visible, between, 0), 0), tf.float32))
    return tf.stack([tf.nn.relu(between - math.log1p(knot)) for knot in _TIME_KNOTS], axis=-1)


class AttentionLayer(tf.keras.layers.Layer):
    """Pre-norm layer of attention and a feed-forward part, each with a residual connection."""

    def __init__(self, lookback: int, config: TrainerConfig, name: str) -> None:
        super().__init__(name=name)
        self._heads = ATTENTION_HEADS
        self._lookback = lookback
        width = config.embedding_dim
        self._norm = tf.keras.layers.LayerNormalization(name="norm")
        self._project = tf.keras.layers.Dense(3 * width, use_bias=False, name="query_key_value")
        self._join = tf.keras.layers.Dense(width, name="join")
        self._forward_norm = tf.keras.layers.LayerNormalization(name="forward_norm")
        self._forward = tf.keras.layers.Dense(_FEED_FORWARD * width, activation="gelu", name="forward")
        self._back = tf.keras.layers.Dense(width, name="back")
        self._dropout = Dropout(config.dropout.hidden)
        self._of_distance = self.add_weight(
            name="of_distance", shape=[lookback + 1, self._heads], initializer="zeros"
        )
        self._of_time = tf.keras.layers.Dense(
            self._heads, use_bias=False, kernel_initializer="zeros", name="of_time"
        )

    def call(
        self, hidden: tf.Tensor, near: Neighbours, times: tf.Tensor | None, training: bool = False
    ) -> tf.Tensor:
        """Applies the layer to `hidden` [blocks, size, width].

        `times` [blocks, size, 2 * size, knots]; None without times.
        """
        hidden += self._dropout(self._attend(self._norm(hidden), near, times), training=training)
        forward = self._back(self._forward(self._forward_norm(hidden)))
        return hidden + self._dropout(forward, training=training)

    def _attend(self, normed: tf.Tensor, near: Neighbours, times: tf.Tensor | None) -> tf.Tensor:
        projected = self._project(normed)
        width = projected.shape[-1] // (3 * self._heads)

        def by_head(values: tf.Tensor) -> tf.Tensor:
            """Splits [blocks, events, heads * width] into [blocks, heads, events, width]."""
            shape = tf.shape(values)
            return tf.transpose(tf.reshape(values, [shape[0], shape[1], self._heads, width]), [0, 2, 1, 3])

        query, key, value = tf.split(projected, 3, axis=-1)
        query = by_head(query)
        key, value = (by_head(near.with_block_before(seen)) for seen in (key, value))
        scores = tf.matmul(query, key, transpose_b=True) * width**-0.5
        within = tf.clip_by_value(near.distance, 0, self._lookback)
        scores += tf.transpose(tf.gather(tf.cast(self._of_distance, scores.dtype), within), [2, 0, 1])
        if times is not None:
            scores += tf.transpose(self._of_time(times), [0, 3, 1, 2])
        scores = tf.where(near.visible[:, tf.newaxis], scores, scores.dtype.min / 100)
        attended = tf.matmul(tf.nn.softmax(scores), value)
        shape = tf.shape(normed)
        return self._join(tf.reshape(tf.transpose(attended, [0, 2, 1, 3]), shape))
