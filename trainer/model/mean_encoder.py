"""Mean encoder of the history."""

from __future__ import annotations

import tensorflow as tf

from two_tower.trainer.model.neighbours import Neighbours
from two_tower.trainer.settings import TrainerConfig

# Listens of the short mean, which describes the session; the long mean describes the user's taste.
SHORT_HISTORY = 5


class MeanEncoder(tf.keras.layers.Layer):
    """Mean embeddings of the last N listens and of the last few, concatenated."""

    def __init__(self, history_length: int, config: TrainerConfig) -> None:
        del config  # a mean has no settings
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
        """Encodes the history at every event, window after window.

        A product with a matrix of shares computes the mean. Differences of prefix sums would carry the
        rounding errors of all earlier events.

        Args:
          embedded: [events, width], item embeddings.
          window: int32 [events], the number of each event's window.
          is_listen: bool [events]; other events are not visible.
          elapsed: int64 [events], seconds since some time of the window; None without times.
          training: whether to apply dropout.

        Returns:
          [events, 2 * width], zero without any listen.
        """
        del elapsed, training  # a mean depends on neither
        return tf.concat([self._mean(embedded, window, is_listen, n) for n in self._horizons], axis=-1)

    @staticmethod
    def _mean(embedded: tf.Tensor, window: tf.Tensor, is_listen: tf.Tensor, horizon: int) -> tf.Tensor:
        near = Neighbours(window, is_listen, horizon - 1)
        weight = tf.cast(near.visible, embedded.dtype)
        weight = tf.math.divide_no_nan(weight, tf.reduce_sum(weight, axis=-1, keepdims=True))
        return near.events(tf.matmul(weight, near.with_block_before(near.blocks(embedded))))
