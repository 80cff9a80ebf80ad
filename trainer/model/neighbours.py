"""Neighbours: the visible events of each event, in blocks, for all encoders of the history.

An encoder encodes the last N events at every position in one pass. The events of all windows lie one after
the other, without padding, and are cut into blocks. Each block sees itself and the block before it. So time
and memory grow with the number of events times N, whatever the windows' lengths. No position repeats the work
of another.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


class Neighbours:
    """Visible events of each event: those of its window, from `lookback` events before it to itself.

    Attributes:
        visible: bool [blocks, size, 2 * size], for each event, events of the block before and of its own.
        distance: int32 [size, 2 * size], the distance of the two in events.
    """

    def __init__(self, window: tf.Tensor, counted: tf.Tensor, lookback: int) -> None:
        """Args:
        window: int32 [events], the number of each event's window.
        counted: bool [events]; other events are not visible.
        lookback: the greatest distance of a visible event.
        """
        self.size = max(lookback, 1)
        own, both = tf.range(self.size), tf.range(2 * self.size)
        self.distance = own[:, tf.newaxis] + self.size - both
        self._events = tf.size(window)
        of_window = self.blocks(window + 1)
        seen = self.with_block_before(of_window * self.blocks(tf.cast(counted, tf.int32)))
        in_reach = (self.distance >= 0) & (self.distance <= lookback)
        self.visible = (of_window[:, :, tf.newaxis] == seen[:, tf.newaxis]) & in_reach

    def blocks(self, values: tf.Tensor) -> tf.Tensor:
        """Cuts [events, ...] into blocks [blocks, size, ...], with zeros at the end."""
        missing = -self._events % self.size
        inner = [[0, 0]] * (len(values.shape) - 1)
        padded = tf.pad(values, [[0, missing], *inner])
        return tf.reshape(padded, [-1, self.size, *values.shape[1:]])

    @staticmethod
    def with_block_before(blocks: tf.Tensor) -> tf.Tensor:
        """Joins each block with the one before, [blocks, 2 * size, ...]; zeros precede the first."""

        @tf.custom_gradient
        def both(blocks: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            size = tf.shape(blocks)[1]
            before = tf.concat([tf.zeros_like(blocks[:1]), blocks[:-1]], axis=0)

            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                # TensorFlow's gradient would fill a tensor with zeros for each slice.
                of_before = tf.concat([upstream[1:, :size], tf.zeros_like(upstream[:1, :size])], axis=0)
                return upstream[:, size:] + of_before

            return tf.concat([before, blocks], axis=1), gradient

        return both(blocks)

    def events(self, blocks: tf.Tensor) -> tf.Tensor:
        """Reverses `blocks`: returns [events, ...]."""
        values = tf.reshape(blocks, [-1, *blocks.shape[2:]])
        # tf.slice: the gradient of indexing is slow.
        return tf.slice(values, [0] * len(values.shape), [self._events, *values.shape[1:]])
