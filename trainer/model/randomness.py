"""Random numbers of training steps: they follow from the seed, the step, and what they are drawn for.

TensorFlow's stateful random numbers depend on all that was drawn before, and their state is in no checkpoint.
These depend on nothing before, so that a training that goes on from a checkpoint draws what it would have
drawn, and replicas draw apart or alike, as asked.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import tensorflow as tf


class _Source(threading.local):
    """Where numbers come from at present: each replica of a strategy is traced in a thread of its own."""

    seed: int | None = None
    step: tf.Tensor
    replica: tf.Tensor
    calls: int


_source = _Source()


@contextlib.contextmanager
def drawing(seed: int, step: tf.Tensor) -> Iterator[None]:
    """Inside, the functions of this module draw for a step; outside they draw as TensorFlow does.

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
    """`values` [any, ...] in random order of the first dimension."""
    if _source.seed is None:
        return tf.random.shuffle(values)
    return tf.random.experimental.stateless_shuffle(values, _next_seed())


class Dropout(tf.keras.layers.Layer):
    """Keras's Dropout, with the random numbers of this module: of any shape, to the same shape."""

    def __init__(self, rate: float, name: str | None = None) -> None:
        """`rate`: chance that a number becomes zero; the others grow by 1 / (1 - rate)."""
        super().__init__(name=name)
        self._rate = rate

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """As it is unless `training`."""
        if not training or not self._rate:
            return inputs
        kept = uniform(tf.shape(inputs)) >= self._rate
        return tf.where(kept, inputs / tf.cast(1 - self._rate, inputs.dtype), tf.zeros([], inputs.dtype))


def _next_seed(same_on_all_replicas: bool = False) -> tf.Tensor:
    """int64 [2]: the seed and which draw of the step it is, the step and the replica."""
    _source.calls += 1
    of_replica = tf.zeros([], tf.int64) if same_on_all_replicas else (_source.replica + 1) * 2**40
    assert _source.seed is not None
    return tf.stack([tf.constant(_source.seed + _source.calls * 2**31, tf.int64), _source.step + of_replica])
