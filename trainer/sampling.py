"""What a training step samples: labelled positions, candidates, and how often an item is among these.

Every candidate is shared by all positions of a step. Of a query's negatives the loss needs to know how many
of item y there should be: c(y), from which it corrects. They come from up to three sources,

- the labels of other windows in the batch: d of them, each y with probability q(y);
- a memory of the labels of earlier steps: m of them, each y with probability q(y);
- draws from the whole catalog of N items: u of them, each y with probability 1 / N;

so that c(y) = (d + m) q(y) + u / N. Where each item is a candidate only once, c(y) is the probability that it
is one at all: 1 - (1 - q(y))^(d + m) (1 - 1 / N)^u.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from pipeline.configs import TrainerConfig
from trainer.catalog_table import CatalogArrays, CatalogTable
from trainer.streaming_frequency import StreamingFrequency
from trainer.towers import Positions

# Values of trainer.sampling_correction, trainer.softmax and trainer.frequency.
LOGQ, REFINED, NONE = "logq", "refined", "none"
FULL = "full"
STREAMING = "streaming"
# Buckets of streaming frequency estimation for an item of the catalog, of each hash function: 12 bytes each.
_BUCKETS_PER_ITEM = 5


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


class Candidates(NamedTuple):
    """A step's candidates, and what each query is to make of them.

    `rows` int32 [candidates]: catalog rows. `positive` int32 [queries]: where each query's own label stands
    among them. `is_negative` bool [queries, candidates]. `log_expected` float32 [queries or 1, candidates or
    1]: log c(y), up to a constant of the query's if it is used for positive and negatives alike.
    """

    rows: tf.Tensor
    positive: tf.Tensor
    is_negative: tf.Tensor
    log_expected: tf.Tensor


def in_batch(label_rows: tf.Tensor, window: tf.Tensor, log_q: tf.Tensor) -> Candidates:
    """Every label of the batch is a candidate, as often as it is there.

    Negatives are the labels of other windows: packed windows put a user's own favourites into the batch far
    more often than Q says. Accidental hits, the positive's item again, are none either.

    Args:
      label_rows: int32 [positions]. window: int [positions]. log_q: float32 [positions], log q of each label.
    """
    positions = tf.range(tf.size(label_rows))
    is_negative = (label_rows[:, tf.newaxis] != label_rows) & (window[:, tf.newaxis] != window)
    return Candidates(label_rows, positions, is_negative, log_q[tf.newaxis])


def mixed(
    label_rows: tf.Tensor,
    window: tf.Tensor,
    log_q: Callable[[tf.Tensor], tf.Tensor],
    items: int,
    uniform: tf.Tensor,
    remembered: tf.Tensor,
    once: bool,
    queries: tf.Tensor | None = None,
) -> Candidates:
    """Labels of the batch, a memory and uniform draws together, with the right c(y) for each query.

    c(y) counts the d labels of other windows that each query has, in a batch of few windows a good deal fewer
    than there are. Mixed negative sampling (Yang et al. 2020) is the case without memory, in-batch sampling
    that without uniform draws either.

    Args:
      label_rows: int32 [positions]; of the batch of all replicas, where there are several.
      window: int [positions], different for different windows.
      log_q: log q, float32, of int32 rows [any].
      items: N, the catalog's size.
      uniform: int32 [u], see `draw_uniformly`.
      remembered: int32 [m], see `NegativesMemory`; -1 where there is nothing yet.
      once: an item is a candidate once, however often it was drawn.
      queries: int [queries], which of the positions to ask for; None for all.
    """
    if queries is None:
        queries = tf.range(tf.size(label_rows))
    remembered = tf.boolean_mask(remembered, remembered >= 0)
    own_rows, own_window = tf.gather(label_rows, queries), tf.gather(window, queries)
    elsewhere = tf.cast(own_window[:, tf.newaxis] != window, tf.float32)
    draws = tf.reduce_sum(elsewhere, axis=1, keepdims=True) + tf.cast(tf.size(remembered), tf.float32)
    every = tf.concat([label_rows, remembered, uniform], axis=0)
    if once:
        rows, place = tf.unique(every)
        positive = tf.gather(place, queries)
        # An item is a negative if it has a draw that is no label of the query's own window.
        drawn = tf.math.unsorted_segment_sum(tf.ones_like(every), place, tf.size(rows))
        windows, window_number = tf.unique(window)
        own = tf.scatter_nd(
            tf.stack([window_number, place[: tf.size(window)]], axis=1),
            tf.ones_like(label_rows),
            [tf.size(windows), tf.size(rows)],
        )
        is_negative = drawn > tf.gather(own, tf.gather(window_number, queries))
        never = draws * tf.math.log1p(-_probability(log_q(rows))) + _count(uniform) * np.log1p(-1 / items)
        log_expected = tf.math.log(tf.maximum(-tf.math.expm1(never), _LEAST))
    else:
        rows, positive = every, queries
        others = tf.ones([tf.size(queries), tf.size(rows) - tf.size(window)], tf.bool)
        is_negative = tf.concat([elsewhere > 0, others], axis=1)
        expected = draws * tf.exp(log_q(rows)) + _count(uniform) / items
        log_expected = tf.math.log(tf.maximum(expected, _LEAST))
    is_negative &= own_rows[:, tf.newaxis] != rows
    return Candidates(rows, positive, is_negative, log_expected)


def whole_catalog(label_rows: tf.Tensor, items: int) -> Candidates:
    """Every item is a candidate, and a negative but for the label: nothing is sampled, nothing corrected."""
    rows = tf.range(items)
    return Candidates(rows, label_rows, label_rows[:, tf.newaxis] != rows, tf.zeros([1, 1]))


def draw_uniformly(count: int, items: int) -> tf.Tensor:
    """Catalog rows, int32 [count], each item as likely as any at each draw, also those never a label."""
    return tf.random.uniform([count], maxval=items, dtype=tf.int32)


class NegativesMemory(tf.Module):
    """The labels of earlier steps, oldest out first.

    Rows, and not embeddings as in "Cross-Batch Negative Sampling" (Wang et al. 2021): theirs spare an
    expensive tower's work and grow stale, while this candidate tower is cheap.
    """

    def __init__(self, size: int) -> None:
        super().__init__(name="negatives_memory")
        self.rows = tf.Variable(
            tf.fill([size], -1),
            trainable=False,
            name="rows",
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    def push(self, label_rows: tf.Tensor) -> None:
        """Remembers a step's labels, int32 [positions]; of all replicas, where there are several."""
        self.rows.assign(tf.concat([label_rows, self.rows], axis=0)[: self.rows.shape[0]])


def per_draw(log_in_batch: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """log q of one draw, from the log of the probability Q that an item is among `labels` draws.

    Q is what streaming frequency estimation measures; Q = 1 - (1 - q)^labels.
    """
    never = tf.math.log1p(-_probability(log_in_batch))
    return tf.math.log(-tf.math.expm1(never / tf.cast(labels, tf.float32)))


class CandidateSampler(tf.Module):
    """A step's candidates, as the settings ask for them, and the state that this takes."""

    def __init__(self, config: TrainerConfig, table: CatalogTable, log_q: np.ndarray) -> None:
        """`log_q`: float32 [items + 1], see `log_sampling_probability`."""
        super().__init__(name="candidate_sampler")
        self._config = config
        self._items = table.size
        # A function, since a module would track the table, and Keras copy it with the weights of an epoch.
        self._item_ids: Callable[[tf.Tensor], tf.Tensor] = lambda rows: tf.gather(table.item_id, rows)
        self._log_q = tf.Variable(log_q, trainable=False, name="log_q")
        if config.memory_negatives:
            self._memory = NegativesMemory(config.memory_negatives)
        if config.frequency == STREAMING:
            self._frequency = StreamingFrequency(
                _BUCKETS_PER_ITEM * table.size,
                config.frequency_hashes,
                config.frequency_learning_rate,
                config.frequency_initial_gap,
                config.seed,
            )

    def __call__(self, label_rows: tf.Tensor, window: tf.Tensor, training: bool = False) -> Candidates:
        """Candidates for the queries of a batch's labels, int32 [positions] both.

        In training the batch is then remembered and counted.
        """
        config = self._config
        if config.softmax == FULL:
            return whole_catalog(label_rows, self._items)
        if labels_alone(config):
            return in_batch(label_rows, window, tf.gather(self._log_q, label_rows))
        if training and config.frequency == STREAMING:
            self._frequency.update(self._item_ids(label_rows))
        remembered = tf.zeros([0], tf.int32)
        if config.memory_negatives:
            remembered = tf.identity(self._memory.rows)
        candidates = mixed(
            label_rows,
            window,
            lambda rows: self._log_probability(rows, tf.size(label_rows)),
            self._items,
            draw_uniformly(config.uniform_negatives, self._items),
            remembered,
            config.deduplicate_negatives,
        )
        if training and config.memory_negatives:
            self._memory.push(label_rows)
        return candidates

    def _log_probability(self, rows: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """log q of one draw, of a batch of so many."""
        if self._config.frequency == STREAMING:
            return per_draw(tf.math.log(self._frequency.probability(self._item_ids(rows))), labels)
        return tf.gather(self._log_q, rows)


def labels_alone(config: TrainerConfig) -> bool:
    """Whether candidates are the batch's labels, as often as they are there, and only q's ratios matter."""
    return (
        config.softmax != FULL
        and config.sampling_correction != REFINED
        and not config.deduplicate_negatives
        and not config.uniform_negatives
        and not config.memory_negatives
    )


# Of a query without any draw that could have been a negative nothing is asked, but its log must be finite.
_LEAST = 1e-30


def _probability(log_probability: tf.Tensor) -> tf.Tensor:
    # Short of 1, the logarithm of whose complement is not finite.
    return tf.minimum(tf.exp(log_probability), 1 - 1e-6)


def _count(rows: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.size(rows), tf.float32)
