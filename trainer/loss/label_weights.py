"""Weights of labels in the loss."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from two_tower.schema import features


def event_type_hash(name: str) -> tf.Tensor:
    """Returns the hash that Transform writes for an event type, int64."""
    return tf.strings.to_hash_bucket_fast(name, features.EVENT_TYPE_HASHES)


def play_ratio_weight(play_ratio: tf.Tensor, floor: float) -> tf.Tensor:
    """Computes floor + (1 - floor) min(ratio, 1), float32; 1 where the ratio is unknown (negative)."""
    return tf.where(play_ratio < 0, 1.0, floor + (1 - floor) * tf.minimum(play_ratio, 1.0))


def reaction_weight(
    event_type: tf.Tensor, rows: tf.Tensor, is_listen: tf.Tensor, weights: Mapping[str, float]
) -> tf.Tensor:
    """Computes the weight of each listen: the product of its reactions' weights, 1 without any.

    A reaction belongs to the listen before it if both have the same item.

    Args:
      event_type: int64 [windows, events], hashes of names.
      rows: int32 [windows, events], catalog rows.
      is_listen: bool [windows, events].
      weights: by the name of an event type; others have weight 1.

    Returns:
      float32 [windows, events], defined where `is_listen`.
    """
    weight = tf.ones(tf.shape(rows))
    for name, value in weights.items():
        weight = tf.where(event_type == event_type_hash(name), value, weight)
    # A listen and the events up to the next listen are a segment. A window's first segment has no listen: its
    # reactions are to a listen before the window.
    windows, events = tf.unstack(tf.shape(rows))
    first = tf.range(windows)[:, tf.newaxis] * (events + 1)
    segment = first + tf.cumsum(tf.cast(is_listen, tf.int32), axis=1)
    segments = windows * (events + 1)
    listened = tf.math.unsorted_segment_max(tf.where(is_listen, rows, -1), segment, segments)
    belongs = tf.logical_not(is_listen) & (tf.gather(listened, segment) == rows)
    product = tf.math.unsorted_segment_prod(tf.where(belongs, weight, 1.0), segment, segments)
    return tf.gather(product, segment)


def user_weight(labels: np.ndarray, cap: int) -> np.ndarray:
    """Computes users' weights that cap the total weight of a user's labels, float32 [users].

    Their mean over all labels is one. (Covington et al. 2016 generate the same number of examples for every
    user, so that a small cohort of highly active ones does not dominate the loss.)

    Args:
      labels: int [users], the number of train labels of each user.
      cap: the greatest total weight, in labels.
    """
    weight = np.minimum(1.0, cap / np.maximum(labels, 1))
    total = (weight * labels).sum()
    return (weight * (labels.sum() / total if total else 1.0)).astype(np.float32)
