"""What a training step samples: labelled positions, their probability as negatives, and which ones count."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from trainer.catalog_table import CatalogArrays
from trainer.towers import Positions


def log_sampling_probability(catalog: CatalogArrays, label_counts: dict[int, int]) -> np.ndarray:
    """log Q of every catalog row, float32 [items + 1]: its share of the train labels.

    In-batch negatives are labels of other positions, so that an item stands among them in proportion to
    how often it is a label (Yi et al. 2019, section 3). TFRS clips Q at 1e-6, which turns the correction
    off for the tail of a large catalog; here it is exact. An item that is never a label is never a
    negative either: it gets the probability of half a label, and no use is made of it.
    """
    counts = np.full(len(catalog.item_id) + 1, 0.5)
    ids = np.fromiter(label_counts.keys(), np.int64, len(label_counts))
    values = np.fromiter(label_counts.values(), np.float64, len(label_counts))
    rows = catalog.rows_of(ids)
    inside = rows < len(catalog.item_id)
    counts[rows[inside]] = values[inside]
    return np.log(counts / values.sum()).astype(np.float32)


def draw_positions(label_step: tf.Tensor, label_rows: tf.Tensor, unknown_row: int, limit: int) -> Positions:
    """Draws up to `limit` labelled positions at random, without replacement, across a batch's windows.

    Args:
      label_step: int64 [windows, events], 0 where a position is no query.
      label_rows: int32 [windows, events], catalog row of each position's label.
      unknown_row: labels of this row are not in the catalog, and are left out.
      limit: the number of positions a step may hold; its logits are limit x limit.
    """
    labelled = tf.cast(tf.where((label_step > 0) & (label_rows != unknown_row)), tf.int32)
    drawn = tf.random.shuffle(labelled)[:limit]
    return Positions(window=drawn[:, 0], event=drawn[:, 1])


def negatives_mask(label_rows: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Which candidates count for which query, bool [positions, positions].

    Left out are accidental hits (the positive's item again), and labels of the query's own window: packed
    windows put a user's favourites into the batch far more often than Q says. The diagonal, the positive,
    stays.
    """
    same = (label_rows[:, tf.newaxis] == label_rows) | (window[:, tf.newaxis] == window)
    return tf.logical_not(same) | tf.eye(tf.size(label_rows), dtype=tf.bool)
