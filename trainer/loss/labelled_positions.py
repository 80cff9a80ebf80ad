"""Labels and query positions of a training step."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from two_tower.trainer.distribution import joined, replica, replicas
from two_tower.trainer.model.randomness import uniform
from two_tower.trainer.model.windows import Positions


class Drawn(NamedTuple):
    """Labelled positions of a step, of all replicas together, in the same order on each.

    Attributes:
        rows: int32 [positions], catalog row of each label.
        window: int32 [positions], different for different windows.
        weight: float32 [positions], weight of each label.
        queries: int32 [queries], the positions of this replica.
        at: [queries], their places in this replica's windows.
    """

    rows: tf.Tensor
    window: tf.Tensor
    weight: tf.Tensor
    queries: tf.Tensor
    at: Positions


def label_index(label_step: tf.Tensor) -> tf.Tensor:
    """Returns the index of each position's label in its window, int32 [windows, events]."""
    return tf.range(tf.shape(label_step)[1]) + tf.cast(label_step, tf.int32)


def draw_labels(label_step: tf.Tensor, example_age: tf.Tensor, horizon: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws each position's label uniformly among the next `horizon` labels of its window.

    Source: the dense all-action loss of "PinnerFormer" (2022). It suits predictions for a day or a month
    instead of the next item. Near a window's end there are fewer labels.

    Args:
      label_step: int64 [windows, events], distance of the next label in events; 0: the position is no query.
      example_age: float32 [windows, events], days, of the next label.
      horizon: the number of labels to draw from.

    Returns:
      `label_step` and `example_age` of the drawn labels.
    """
    shape = tf.shape(label_step)
    is_query = label_step > 0
    query = tf.cast(tf.where(is_query), tf.int32)
    label = tf.stack([query[:, 0], tf.gather_nd(label_index(label_step), query)], axis=1)
    is_label = tf.scatter_nd(label, tf.ones_like(label[:, 0]), shape) > 0
    age = tf.tensor_scatter_nd_update(example_age, label, tf.gather_nd(example_age, query))
    # Indices of labels by their number in the window, and the number of each position's next label.
    place = tf.argsort(tf.cast(~is_label, tf.int32), axis=1, stable=True)
    passed = tf.cumsum(tf.cast(is_label, tf.int32), axis=1)
    choices = tf.minimum(passed[:, -1:] - passed, horizon)
    chance = uniform(shape)
    further = tf.minimum(tf.cast(chance * tf.cast(choices, tf.float32), tf.int32), choices - 1)
    number = tf.where(is_query, passed + further, 0)
    drawn = tf.gather(place, number, batch_dims=1)
    step = tf.where(is_query, tf.cast(drawn - tf.range(shape[1]), tf.int64), 0)
    return step, tf.where(is_query, tf.gather(age, drawn, batch_dims=1), example_age)


def draw_positions(
    label_step: tf.Tensor, label_rows: tf.Tensor, weight: tf.Tensor, unknown_row: int, limit: int
) -> Drawn:
    """Draws up to `limit` labelled positions at random, without replacement, across a batch's windows.

    Under tf.distribute the batch is the joined batch, and all replicas draw the same positions; see
    `randomness.drawing`.

    Args:
      label_step: int64 [windows, events], 0 where a position is no query.
      label_rows: int32 [windows, events], catalog row of each position's label.
      weight: float32 [windows, events], weight of each position's label.
      unknown_row: the row of labels outside the catalog, which are left out.
      limit: the most positions of a step; its logits are limit x limit.
    """
    labelled = tf.cast(tf.where((label_step > 0) & (label_rows != unknown_row)), tf.int32)
    # One matrix: replicas synchronise once.
    columns = [
        tf.fill([tf.shape(labelled)[0]], replica()),
        labelled[:, 0],
        labelled[:, 1],
        tf.gather_nd(label_rows, labelled),
        tf.bitcast(tf.gather_nd(weight, labelled), tf.int32),
    ]
    everywhere = joined(tf.stack(columns, axis=1))
    count = tf.shape(everywhere)[0]
    chance = uniform([count], same_on_all_replicas=True)
    drawn = tf.gather(everywhere, tf.math.top_k(chance, k=tf.minimum(limit, count)).indices)
    of_replica, window, event, rows, bits = tf.unstack(drawn, len(columns), axis=1)
    queries = tf.cast(tf.where(of_replica == replica())[:, 0], tf.int32)
    return Drawn(
        rows=rows,
        window=window * replicas() + of_replica,
        weight=tf.bitcast(bits, tf.float32),
        queries=queries,
        at=Positions(window=tf.gather(window, queries), event=tf.gather(event, queries)),
    )
