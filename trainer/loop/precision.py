"""Numbers of half the size where the hardware is faster with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf

# Values of a precision, beside the names that Keras has for its policies.
AUTO, FLOAT32 = "auto", "float32"
_FLOAT16, _BFLOAT16 = "mixed_float16", "mixed_bfloat16"
# From this compute capability on GPUs have units for matrices of float16.
_TENSOR_CORES = (7, 0)


def policy_of(setting: str, strategy: tf.distribute.Strategy) -> str:
    """Returns Keras's policy for a precision: auto takes what all devices are fast with."""
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
    """Layers made inside compute in the policy's numbers; weights, logits and loss stay float32."""
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


def scaled_for(policy: str, optimizer: tf.keras.optimizers.Optimizer) -> tf.keras.optimizers.Optimizer:
    """Small gradients are zero in float16: there the loss is scaled, and the gradients scaled back."""
    if policy != _FLOAT16:
        return optimizer
    return tf.keras.mixed_precision.LossScaleOptimizer(optimizer)
