"""Encoders of the history: what a query knows of its last N events, at every position in one pass.

The events of all windows lie one after the other, without padding, and are cut into blocks; each block sees
itself and the one before it. So time and memory grow with the number of events times N, whatever the windows'
lengths, and nothing is repeated for the next position.

No encoder sees more than the last N events, through all of its layers together: a window in training is
longer than a request, and both must say the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from two_tower.trainer.model.randomness import Dropout
from two_tower.trainer.settings import ATTENTION_HEADS, ATTENTION_LAYERS, TrainerConfig

# The last few listens say what the session is about, the whole history what its user likes.
SHORT_HISTORY = 5

MEAN, ATTENTION, BOTH = "mean", "attention", "attention+mean"

# Seconds from which on a further doubling of the time between two events may count differently.
_TIME_KNOTS = (0.0, 60.0, 3_600.0, 86_400.0)
# Width of an attention layer's feed-forward part, in multiples of the embedding's.
_FEED_FORWARD = 2


class Neighbours:
    """Which events each event may look at: those of its window from `lookback` events before it to itself.

    `visible` bool [blocks, size, 2 * size]: for each event, of the events of the block before and of its own.
    `distance` int32 [size, 2 * size]: how many events lie between the two.
    """

    def __init__(self, window: tf.Tensor, counted: tf.Tensor, lookback: int) -> None:
        """`window` int32 [events], the number of each event's window; `counted` bool [events]: the others
        are not looked at."""
        self.size = max(lookback, 1)
        own, both = tf.range(self.size), tf.range(2 * self.size)
        self.distance = own[:, tf.newaxis] + self.size - both
        self._events = tf.size(window)
        of_window = self.blocks(window + 1)
        seen = self.with_block_before(of_window * self.blocks(tf.cast(counted, tf.int32)))
        in_reach = (self.distance >= 0) & (self.distance <= lookback)
        self.visible = (of_window[:, :, tf.newaxis] == seen[:, tf.newaxis]) & in_reach

    def blocks(self, values: tf.Tensor) -> tf.Tensor:
        """[events, ...] to [blocks, size, ...], zeros at the end."""
        missing = -self._events % self.size
        inner = [[0, 0]] * (len(values.shape) - 1)
        padded = tf.pad(values, [[0, missing], *inner])
        return tf.reshape(padded, [-1, self.size, *values.shape[1:]])

    @staticmethod
    def with_block_before(blocks: tf.Tensor) -> tf.Tensor:
        """[blocks, size, ...] to [blocks, 2 * size, ...]; before the first are zeros."""

        @tf.custom_gradient
        def both(blocks: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            size = tf.shape(blocks)[1]
            before = tf.concat([tf.zeros_like(blocks[:1]), blocks[:-1]], axis=0)

            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                # Of each slice TensorFlow's own would fill a tensor with zeros.
                of_before = tf.concat([upstream[1:, :size], tf.zeros_like(upstream[:1, :size])], axis=0)
                return upstream[:, size:] + of_before

            return tf.concat([before, blocks], axis=1), gradient

        return both(blocks)

    def events(self, blocks: tf.Tensor) -> tf.Tensor:
        """The inverse of `blocks`."""
        values = tf.reshape(blocks, [-1, *blocks.shape[2:]])
        # Not by an index, whose gradient is slow.
        return tf.slice(values, [0] * len(values.shape), [self._events, *values.shape[1:]])


class MeanEncoder(tf.keras.layers.Layer):
    """Means over the last N listens and over the last few, side by side."""

    def __init__(self, history_length: int) -> None:
        super().__init__(name="mean_encoder")
        self._horizons = (history_length, min(SHORT_HISTORY, history_length))

    def call(
        self,
        embedded: tf.Tensor,
        window: tf.Tensor,
        is_listen: tf.Tensor,
        elapsed: tf.Tensor | None,
        training: bool = False,
    ) -> tf.Tensor:
        """Arguments as for `AttentionEncoder`; the result is [events, 2 * width], zero without any listen.

        A mean by a matrix of ones and zeros: exact, where a difference of prefix sums would carry the
        rounding of everything before.
        """
        del elapsed, training  # a mean is as blind to times as it is certain
        return tf.concat([self._mean(embedded, window, is_listen, n) for n in self._horizons], axis=-1)

    @staticmethod
    def _mean(embedded: tf.Tensor, window: tf.Tensor, is_listen: tf.Tensor, horizon: int) -> tf.Tensor:
        near = Neighbours(window, is_listen, horizon - 1)
        weight = tf.cast(near.visible, embedded.dtype)
        weight = tf.math.divide_no_nan(weight, tf.reduce_sum(weight, axis=-1, keepdims=True))
        return near.events(tf.matmul(weight, near.with_block_before(near.blocks(embedded))))


class AttentionEncoder(tf.keras.layers.Layer):
    """Causal self-attention over listens, after "Self-Attentive Sequential Recommendation" (2018).

    Distance in events and in time shift the attention, as in "Actions Speak Louder than Words" (2024,
    appendix): what is learnt of a distance holds wherever the window begins, which an embedding of the
    position would not. Layers look back (N - 1) // layers events each, so that together they see the last N.
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
        """All events, window after window.

        Args:
          embedded: [events, width].
          window: int32 [events], the number of each event's window.
          is_listen: bool [events]; other events are not looked at.
          elapsed: int64 [events], seconds since any one time of the window; None without times.
          training: whether to drop out.

        Returns:
          [events, embedding_dim]; it means something at listens.
        """
        near = Neighbours(window, is_listen, self._lookback)
        hidden = self._dropout(near.blocks(self._tokens(embedded)), training=training)
        times = None if elapsed is None else tf.cast(_times_between(elapsed, near), hidden.dtype)
        for layer in self._layers:
            hidden = layer(hidden, near, times, training=training)
        return self._norm(near.events(hidden))


def _times_between(elapsed: tf.Tensor, near: Neighbours) -> tf.Tensor:
    """By how much log(1 + seconds) between two events exceeds each knot, [blocks, size, 2 * size, knots]."""
    seconds = near.blocks(elapsed)
    between = seconds[:, :, tf.newaxis] - near.with_block_before(seconds)[:, tf.newaxis]
    between = tf.math.log1p(tf.cast(tf.maximum(tf.where(near.visible, between, 0), 0), tf.float32))
    return tf.stack([tf.nn.relu(between - math.log1p(knot)) for knot in _TIME_KNOTS], axis=-1)


class AttentionLayer(tf.keras.layers.Layer):
    """Attention and a feed-forward part, each added to its input, which is normalised before it."""

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
        """`hidden` [blocks, size, width]; `times` [blocks, size, 2 * size, knots], None without times."""
        hidden += self._dropout(self._attend(self._norm(hidden), near, times), training=training)
        forward = self._back(self._forward(self._forward_norm(hidden)))
        return hidden + self._dropout(forward, training=training)

    def _attend(self, normed: tf.Tensor, near: Neighbours, times: tf.Tensor | None) -> tf.Tensor:
        projected = self._project(normed)
        width = projected.shape[-1] // (3 * self._heads)

        def by_head(values: tf.Tensor) -> tf.Tensor:
            """[blocks, events, heads * width] to [blocks, heads, events, width]."""
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


def encoders(history_length: int, config: TrainerConfig) -> list[MeanEncoder | AttentionEncoder]:
    """Those that `trainer.encoder` names; their outputs stand side by side."""
    named: list[MeanEncoder | AttentionEncoder] = []
    if config.encoder in (MEAN, BOTH):
        named.append(MeanEncoder(history_length))
    if config.encoder in (ATTENTION, BOTH):
        named.append(AttentionEncoder(history_length, config))
    return named
