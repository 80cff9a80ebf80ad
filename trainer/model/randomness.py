"""Stateless random numbers of training steps, determined by seed, step, replica and number of the draw.

TensorFlow's stateful random numbers depend on all earlier draws, and no checkpoint holds their state. These
do not. So a training resumed from a checkpoint draws the same numbers as one that was never killed. Replicas
draw different or the same numbers, as requested.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import tensorflow as tf


class _Source(threading.local):
    """Current source of random numbers, by thread: a strategy traces each replica in its own thread."""

    seed: int | None = None
    step: tf.Tensor
    replica: tf.Tensor
    calls: int


_source = _Source()


@contextlib.contextmanager
def drawing(seed: int, step: tf.Tensor) -> Iterator[None]:
    """Sets the step for which this module draws. Outside the context it draws as TensorFlow does.

    Args:
      seed: from 0 to 2^31 - 1.
      step: int64 scalar, below 2^40; a tensor, so that a tf.function is traced once.
    """
    replica_context = tf.distribute.get_replica_context()
    replica = 0 if replica_context is None else replica_context.replica_id_in_sync_group
    before = dict(_source.__dict__)
    _source.seed, _source.step, _source.calls = seed, tf.cast(step, tf.int64), 0
    _source.replica = tf.cast(replica, tf.int64)
    try:
        yield
    finally:
        _source.__dict__.clear()
        _source.__dict__.update(before)


def uniform(
    shape: tf.Tensor | list[int],
    maxval: int | None = None,
    dtype: tf.DType = tf.float32,
    same_on_all_replicas: bool = False,
) -> tf.Tensor:
    """Draws from [0, 1), or integers from 0 to `maxval` - 1."""
    if _source.seed is None:
        return tf.random.uniform(shape, maxval=maxval, dtype=dtype)
    seed = _next_seed(same_on_all_replicas)
    return tf.random.stateless_uniform(shape, seed, maxval=maxval or 1, dtype=dtype)


def shuffled(values: tf.Tensor) -> tf.Tensor:
    """Shuffles `values` [any, ...] along the first dimension."""
    if _source.seed is None:
        return tf.random.shuffle(values)
    return tf.random.experimental.stateless_shuffle(values, _next_seed())


class Dropout(tf.keras.layers.Layer):
    """Dropout like Keras's, with the random numbers of this module; any shape."""

    def __init__(self, rate: float, name: str | None = None) -> None:
        """Args:
        rate: the probability that a number becomes zero; the others grow by 1 / (1 - rate).
        name: of the layer.
        """
        super().__init__(name=name)
        self._rate = rate

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Applies dropout in training; else returns the inputs."""
        if not training or not self._rate:
            return inputs
        kept = uniform(tf.shape(inputs)) >= self._rate
        return tf.where(kept, inputs / tf.cast(1 - self._rate, inputs.dtype), tf.zeros([], inputs.dtype))


def _next_seed(same_on_all_replicas: bool = False) -> tf.Tensor:
    """Returns the next seed, int64 [2]: seed and number of the draw; step and replica."""
    _source.calls += 1
    of_replica = tf.zeros([], tf.int64) if same_on_all_replicas else (_source.replica + 1) * 2**40
    assert _source.seed is not None
    return tf.stack([tf.constant(_source.seed + _source.calls * 2**31, tf.int64), _source.step + of_replica])
