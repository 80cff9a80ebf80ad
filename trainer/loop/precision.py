"""Mixed precision: float16 or bfloat16 computation where the hardware is faster with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf

# Values of a precision, beside the names of Keras's policies.
AUTO, FLOAT32 = "auto", "float32"
_FLOAT16, _BFLOAT16 = "mixed_float16", "mixed_bfloat16"
# The compute capability from which GPUs have tensor cores for float16.
_TENSOR_CORES = (7, 0)


def policy_of(setting: str, strategy: tf.distribute.Strategy) -> str:
    """Returns Keras's policy for a precision; auto takes the policy that is fast on all devices."""
    if setting != AUTO:
        return setting
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return _BFLOAT16
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    if gpus and all(one.get("compute_capability", (0, 0)) >= _TENSOR_CORES for one in details):
        return _FLOAT16
    return FLOAT32


@contextlib.contextmanager
def computing_in(policy: str) -> Iterator[None]:
    """Sets the policy of layers made in the context. Weights, logits and loss stay float32."""
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


def scaled_for(policy: str, optimizer: tf.keras.optimizers.Optimizer) -> tf.keras.optimizers.Optimizer:
    """Wraps the optimizer in loss scaling for float16, where small gradients would underflow to zero."""
    if policy != _FLOAT16:
        return optimizer
    return tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
