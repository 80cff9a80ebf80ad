"""Sampling of candidates: negatives of a training step and their sampling probabilities for logQ.

All positions of a step share its candidates. The correction needs c(y), the expected number of item y among a
query's negatives. Negatives come from up to three sources:

- in-batch negatives, the labels of other windows: d draws, each y with probability q(y);
- a memory of the labels of earlier steps: m draws, each y with probability q(y);
- uniform draws from the catalog of N items: u draws, each y with probability 1 / N.

So c(y) = (d + m) q(y) + u / N. Where each item is a candidate only once, c(y) is the probability of that:
1 - (1 - q(y))^(d + m) (1 - 1 / N)^u.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from two_tower.trainer.model.catalog_table import CatalogArrays
from two_tower.trainer.model.randomness import uniform
from two_tower.trainer.model.windows import Positions

# Values of trainer.frequency.correction.
LOGQ, REFINED, NONE = "logq", "refined", "none"


def log_sampling_probability(catalog: CatalogArrays, label_counts: dict[int, int]) -> np.ndarray:
    """Computes log Q of every catalog row, float32 [items + 1]: the log of its share of train labels.

    In-batch negatives are labels of other positions. So an item's sampling probability is its share of
    labels (Yi et al. 2019, section 3). TFRS clips Q at 1e-6, which turns the correction off for the tail of a
    large catalog; here Q is exact. An item without labels is never an in-batch negative. It gets the
    probability of half a label, which nothing reads.
    """
    counts = np.full(len(catalog.item_id) + 1, 0.5)
    ids = np.fromiter(label_counts.keys(), np.int64)
    values = np.fromiter(label_counts.values(), np.float64)
    rows = catalog.rows_of(ids)
    inside = rows < len(catalog.item_id)
    counts[rows[inside]] = values[inside]
    return np.log(counts / values.sum()).astype(np.float32)


class InBatch(NamedTuple):
    """In-batch candidates: the batch's labels with duplicates, in the order of the queries.

    Attributes:
        rows: int32 [labels], catalog rows; the first ones are the queries' own labels.
        is_negative: bool [queries, labels].
        log_q: float32 [labels].
    """

    rows: tf.Tensor
    is_negative: tf.Tensor
    log_q: tf.Tensor


class Candidates(NamedTuple):
    """A step's candidates, each once, with their numbers of copies and expected counts.

    `window`, `copies` and `log_expected` are None without sampling: then every candidate but the positive is
    a negative once.

    Attributes:
        rows: int32 [candidates], catalog rows.
        positive: int32 [queries], index of each query's own label among the candidates.
        window: int32 [queries], the row of each query in `copies` and `log_expected`.
        copies: float32 [windows, candidates], copies of each negative; a query's positive is never one.
        log_expected: float32 [windows, candidates], log c(y).
        had: bool [queries, candidates], false negatives of each query, see `had_by_then`; None without any.
    """

    rows: tf.Tensor
    positive: tf.Tensor
    window: tf.Tensor | None = None
    copies: tf.Tensor | None = None
    log_expected: tf.Tensor | None = None
    had: tf.Tensor | None = None


def in_batch(
    label_rows: tf.Tensor, window: tf.Tensor, log_q: tf.Tensor, queries: tf.Tensor | None = None
) -> InBatch:
    """Returns in-batch candidates: every label of the batch, with duplicates.

    Negatives are labels of other windows: packed windows have a user's own favourites in the batch far more
    often than Q says. Accidental hits, other copies of the positive's item, are no negatives.

    Args:
      label_rows: int32 [positions], of the joined batch of all replicas.
      window: int32 [positions], different for different windows.
      log_q: float32 [positions], log q of each label.
      queries: int32 [queries], the positions of this replica; None for all.
    """
    every = tf.range(tf.size(label_rows))
    queries = every if queries is None else queries
    is_asked = tf.scatter_nd(queries[:, tf.newaxis], tf.ones_like(queries), tf.shape(every)) > 0
    order = tf.concat([queries, tf.boolean_mask(every, tf.logical_not(is_asked))], axis=0)
    rows, of_window = tf.gather(label_rows, order), tf.gather(window, order)
    own_rows, own_window = tf.gather(label_rows, queries), tf.gather(window, queries)
    is_negative = (own_rows[:, tf.newaxis] != rows) & (own_window[:, tf.newaxis] != of_window)
    return InBatch(rows, is_negative, tf.gather(log_q, order))


def mixed(
    label_rows: tf.Tensor,
    window: tf.Tensor,
    log_q: Callable[[tf.Tensor], tf.Tensor],
    items: int,
    uniform_rows: tf.Tensor,
    remembered: tf.Tensor,
    once: bool,
    queries: tf.Tensor | None = None,
) -> Candidates:
    """Returns candidates from in-batch labels, a memory and uniform draws, with each query's c(y).

    c(y) counts the d labels of other windows; in a batch of few windows d is much less than all labels. Mixed
    negative sampling (Yang et al. 2020) is the case without memory. In-batch sampling is the case without
    memory and uniform draws.

    Args:
      label_rows: int32 [positions], of the joined batch of all replicas.
      window: int32 [positions], different for different windows.
      log_q: function from int32 rows [any] to log q, float32.
      items: N, the catalog's size.
      uniform_rows: int32 [u], see `draw_uniformly`.
      remembered: int32 [m], see `NegativesMemory`; -1 where it is still empty.
      once: whether an item is a negative once, however often it was drawn.
      queries: int32 [queries], the positions of this replica; None for all.
    """
    if queries is None:
        queries = tf.range(tf.size(label_rows))
    remembered = tf.boolean_mask(remembered, remembered >= 0)
    rows, place = tf.unique(tf.concat([label_rows, remembered, uniform_rows], axis=0))
    drawn = tf.math.unsorted_segment_sum(tf.ones(tf.shape(place)), place, tf.size(rows))
    # Once a window, not once a query: queries of a window differ only in their positive.
    windows, number = tf.unique(window)
    own = tf.scatter_nd(
        tf.stack([number, place[: tf.size(window)]], axis=1),
        tf.ones(tf.shape(window)),
        [tf.size(windows), tf.size(rows)],
    )
    elsewhere = _count(window) - tf.reduce_sum(own, axis=1, keepdims=True)
    draws = elsewhere + _count(remembered)
    copies = drawn - own
    if once:
        copies = tf.minimum(copies, 1.0)
        never = draws * tf.math.log1p(-_probability(log_q(rows)))
        never += _count(uniform_rows) * np.log1p(-1 / max(items, 2))
        expected = -tf.math.expm1(never)
    else:
        expected = draws * tf.exp(log_q(rows)) + _count(uniform_rows) / items
    return Candidates(
        rows,
        tf.gather(place, queries),
        tf.gather(number, queries),
        copies,
        tf.math.log(tf.maximum(expected, _LEAST)),
    )


def whole_catalog(label_rows: tf.Tensor, items: int) -> Candidates:
    """Returns all items as candidates, without sampling and correction; all but the label are negatives."""
    return Candidates(tf.range(items), label_rows)


def had_by_then(rows: tf.Tensor, at: Positions, candidates: tf.Tensor, items: int) -> tf.Tensor:
    """Marks the candidates in each query's window up to the query, bool [queries, candidates].

    Args:
      rows: int32 [windows, events], catalog rows; those from `items` on are outside the catalog.
      at: the queries' places in the windows.
      candidates: int32 [candidates], catalog rows.
      items: the catalog's size.
    """
    windows, events = tf.unstack(tf.shape(rows))
    distinct, place = tf.unique(candidates)
    count = tf.size(distinct)
    # The last column is for items that are no candidates.
    column = tf.tensor_scatter_nd_update(
        tf.fill([items + 1], count), distinct[:, tf.newaxis], tf.range(count)
    )
    window, event = tf.meshgrid(tf.range(windows), tf.range(events), indexing="ij")
    first = tf.tensor_scatter_nd_min(
        tf.fill([windows, count + 1], events), tf.stack([window, tf.gather(column, rows)], axis=-1), event
    )
    return tf.gather(tf.gather(first, place, axis=1), at.window) <= at.event[:, tf.newaxis]


def less_had(candidates: Candidates | InBatch, had: tf.Tensor) -> Candidates | InBatch:
    """Excludes false negatives from candidates: items that the user `had`; see `had_by_then`.

    Items that are not recommended again need no lower score than similar items.
    """
    if isinstance(candidates, InBatch):
        return candidates._replace(is_negative=candidates.is_negative & ~had)
    return candidates._replace(had=had)


def draw_uniformly(count: int, items: int) -> tf.Tensor:
    """Draws catalog rows uniformly with replacement, int32 [count], items without labels too.

    All replicas draw the same; see `randomness.drawing`.
    """
    return uniform([count], maxval=items, dtype=tf.int32, same_on_all_replicas=True)


class NegativesMemory(tf.Module):
    """Memory of negatives: the labels of earlier steps, first in, first out.

    It holds rows, not embeddings as in "Cross-Batch Negative Sampling" (Wang et al. 2021). Embeddings spare
    an expensive tower's work and grow stale; this candidate tower is cheap.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.rows = tf.Variable(
            tf.fill([size], -1),
            name="rows",
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    def push(self, label_rows: tf.Tensor) -> None:
        """Puts a step's labels into the memory, int32 [positions], of the joined batch of all replicas."""
        self.rows.assign(tf.concat([label_rows, self.rows], axis=0)[: self.rows.shape[0]])


def per_draw(log_in_batch: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Computes log q of one draw from log Q, with Q the probability of an item among `labels` draws.

    Streaming frequency estimation measures Q = 1 - (1 - q)^labels. `labels` is a scalar.
    """
    never = tf.math.log1p(-_probability(log_in_batch))
    return tf.math.log(-tf.math.expm1(never / labels))


# Least expected count, so that its log is finite for a query without draws from other windows.
_LEAST = 1e-30


def _probability(log_probability: tf.Tensor) -> tf.Tensor:
    # Less than 1, so that log(1 - p) is finite.
    return tf.minimum(tf.exp(log_probability), 1 - 1e-6)


def _count(rows: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.size(rows), tf.float32)
