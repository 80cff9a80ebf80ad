"""Checks of a batch of requests in the served graph: sizes that agree, and lists and k within bounds.

A check is one Assert on text and int32, which TensorFlow runs without a conditional. Small tensors alone are
looked at: the sizes of an input, and values in dimensions of 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

from two_tower.schema import features
from two_tower.schema.request_inputs import (
    MOST_VALUES,
    MOST_VALUES_OF_BATCH,
    PER_CALL,
    PER_EVENT,
    RequestInput,
)
from two_tower.trainer.model.signatures import Tensors


def checked(values: Tensors, inputs: Sequence[RequestInput], max_k: int) -> Tensors:
    """Returns a batch of requests, on which all that follows depends, once it is known to be valid.

    Args:
        values: tensors by name, in the sizes of the table of inputs. Only a default may have dimensions of 1
            in the place of the history's sizes [queries, events].
        inputs: the inputs of the signature.
        max_k: largest k of the model.

    Raises:
        tf.errors.InvalidArgumentError: at run time. Sizes differ (the message names both inputs and their
            sizes), a list or the batch is too long, or k is outside of 1 to `max_k`.
    """
    checks = [*_limits(values, inputs), *_sizes(values, inputs)]
    if features.K in values:
        k = values[features.K]
        told = ["k is", k, f"and this model answers with 1 to {max_k} items (index.max_k)"]
        checks.append(tf.debugging.Assert((k >= 1) & (k <= max_k), told))
    with tf.control_dependencies(checks):
        return {name: tf.identity(tensor) for name, tensor in values.items()}


def _limits(values: Tensors, inputs: Sequence[RequestInput]) -> list[tf.Operation]:
    """Checks the length of lists, and the places of all lists of the batch."""
    widths = {one.name: tf.shape(values[one.name])[1] for one in inputs if not one.is_single}
    checks = [
        tf.debugging.Assert(width <= MOST_VALUES, [f"{name} has more than {MOST_VALUES} values:", width])
        for name, width in widths.items()
    ]
    queries = tf.shape(values[features.HISTORY_ITEM_ID])[0]
    widest = tf.reduce_max(tf.stack(list(widths.values())))
    places = tf.cast(queries, tf.int64) * tf.cast(widest, tf.int64)
    told = [
        f"a batch has more than {MOST_VALUES_OF_BATCH} places of lists: send fewer queries than",
        queries,
        "or shorter lists than",
        widest,
    ]
    return [*checks, tf.debugging.Assert(places <= MOST_VALUES_OF_BATCH, told)]


def _sizes(values: Tensors, inputs: Sequence[RequestInput]) -> list[tf.Operation]:
    """Checks that each input has the history's number of queries, and of events where it is one per event."""
    history = tf.shape(values[features.HISTORY_ITEM_ID])
    checks = []
    for one in inputs:
        if one.shape == PER_CALL or one.name == features.HISTORY_ITEM_ID:
            continue
        shape = tf.shape(values[one.name])
        axes = 2 if one.shape == PER_EVENT else 1
        agrees = tf.reduce_all(shape[:axes] == history[:axes])
        if not one.is_required:
            agrees |= _is_default(values[one.name], one, shape, history[0])
        wanted = "[queries, events]" if axes == 2 else "[queries, ...]"
        except_for = "" if one.is_required else ". Only a default stands for all of them"
        told = [
            f"{one.name} has the sizes",
            shape,
            f"and {features.HISTORY_ITEM_ID}",
            history,
            f"where both begin with {wanted}{except_for}",
        ]
        checks.append(tf.debugging.Assert(agrees, told))
    return checks


def _is_default(values: tf.Tensor, one: RequestInput, shape: tf.Tensor, queries: tf.Tensor) -> tf.Tensor:
    """Tells if an input is its default, once or once for each query."""
    is_once = (shape[0] == 1) | (shape[0] == queries)
    if not one.is_single:
        is_once &= shape[1] == (one.width or 1)
        # Values beyond the width of a default are not looked at.
        values = values[:, : one.width or 1]
    if isinstance(one.default, float) and math.isnan(one.default):
        return is_once & tf.reduce_all(tf.math.is_nan(values))
    return is_once & tf.reduce_all(values == tf.cast(one.default, values.dtype))
