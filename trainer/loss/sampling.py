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

import dataclasses
import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from two_tower.trainer.distribution import joined, replica, replicas
from two_tower.trainer.loss.streaming_frequency import StreamingFrequency
from two_tower.trainer.model.catalog_table import CatalogArrays, CatalogTable
from two_tower.trainer.model.randomness import uniform
from two_tower.trainer.model.windows import Positions
from two_tower.trainer.settings import REPEAT_HEAD, TrainerConfig

_log = logging.getLogger(__name__)

# Values of trainer.frequency.correction, trainer.softmax and trainer.frequency.estimate.
LOGQ, REFINED, NONE = "logq", "refined", "none"
FULL, SAMPLED, AUTO = "full", "sampled", "auto"
STREAMING = "streaming"
# Buckets of streaming frequency estimation for an item of the catalog, at least, of each hash function: 12
# bytes each.
_BUCKETS_PER_ITEM = 5
# A step can hold so many scores, labels times items: loss and gradient take two seconds of a core and 5 GB.
# What an item's tower and gradient take, as long as 500 of its scores, is limited by the number of items.
_MOST_SCORES = 8_192 * 50_000
_MOST_ITEMS = 200_000


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


class Drawn(NamedTuple):
    """Labelled positions that a step trains, of all replicas together, and in the same order on each.

    `rows` int32 [positions]: catalog row of each one's label. `window` int32 [positions]: different for
    different windows. `weight` float32 [positions]: of each label. `queries` int32 [queries]: which of them
    are this replica's, and `at` [queries] where these stand in its windows.
    """

    rows: tf.Tensor
    window: tf.Tensor
    weight: tf.Tensor
    queries: tf.Tensor
    at: Positions


def label_index(label_step: tf.Tensor) -> tf.Tensor:
    """Where in its window each position's label is, int32 [windows, events]; `label_step` int64 likewise."""
    return tf.range(tf.shape(label_step)[1]) + tf.cast(label_step, tf.int32)


def draw_labels(label_step: tf.Tensor, example_age: tf.Tensor, horizon: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws each position's label among the next `horizon` labels of its window, each as likely as any.

    After the dense all-action loss of "PinnerFormer" (2022): who is to be told what a user will turn to in a
    day or a month, and not what comes next, trains on that. Near a window's end there are fewer.

    Args:
      label_step: int64 [windows, events], how many events ahead the next label is; 0: a position is no query.
      example_age: float32 [windows, events], days: of the next label.
      horizon: how many labels.

    Returns:
      Both as they are of the labels drawn.
    """
    shape = tf.shape(label_step)
    is_query = label_step > 0
    query = tf.cast(tf.where(is_query), tf.int32)
    label = tf.stack([query[:, 0], tf.gather_nd(label_index(label_step), query)], axis=1)
    is_label = tf.scatter_nd(label, tf.ones_like(label[:, 0]), shape) > 0
    age = tf.tensor_scatter_nd_update(example_age, label, tf.gather_nd(example_age, query))
    # Labels by their number within the window, and the number of each position's next one.
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

    Under tf.distribute the batch is that of all replicas, and all of them draw the same: `randomness.drawing`
    sees to that.

    Args:
      label_step: int64 [windows, events], 0 where a position is no query.
      label_rows: int32 [windows, events], catalog row of each position's label.
      weight: float32 [windows, events], of each position's label.
      unknown_row: labels of this row are not in the catalog, and are left out.
      limit: the number of positions a step may hold; its logits are limit x limit.
    """
    labelled = tf.cast(tf.where((label_step > 0) & (label_rows != unknown_row)), tf.int32)
    # One matrix, so that replicas wait for each other once.
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


class InBatch(NamedTuple):
    """Candidates that are the batch's labels, as often as they are there, a query's own in the query's row.

    `rows` int32 [labels]: catalog rows. `is_negative` bool [queries, labels]. `log_q` float32 [labels].
    """

    rows: tf.Tensor
    is_negative: tf.Tensor
    log_q: tf.Tensor


class Candidates(NamedTuple):
    """A step's candidates, each once, and what each query is to make of them.

    `rows` int32 [candidates]: catalog rows. `positive` int32 [queries]: where each query's own label stands
    among them. What is the same for all queries of a window stands once a window, `window` int32 [queries]
    being the row of each: `copies` float32 [windows, candidates], how often each is a negative (a query's
    positive never is), and `log_expected` float32 [windows, candidates]: log c(y). These three are None where
    every candidate but the positive is a negative once, and nothing is sampled. `had` bool [queries,
    candidates]: what is no negative of a query all the same, see `had_by_then`; None: nothing.
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
    """Every label of the batch is a candidate, as often as it is there.

    Negatives are the labels of other windows: packed windows put a user's own favourites into the batch far
    more often than Q says. Accidental hits, the positive's item again, are none either.

    Args:
      label_rows: int32 [positions]; of the batch of all replicas, where there are several.
      window: int32 [positions], different for different windows.
      log_q: float32 [positions], log q of each label.
      queries: int32 [queries], which of the positions to ask for; None for all.
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
    """Labels of the batch, a memory and uniform draws together, with the right c(y) for each query.

    c(y) counts the d labels of other windows that each query has, in a batch of few windows a good deal fewer
    than there are. Mixed negative sampling (Yang et al. 2020) is the case without memory, in-batch sampling
    that without uniform draws either.

    Args:
      label_rows: int32 [positions]; of the batch of all replicas, where there are several.
      window: int32 [positions], different for different windows.
      log_q: log q, float32, of int32 rows [any].
      items: N, the catalog's size.
      uniform_rows: int32 [u], see `draw_uniformly`.
      remembered: int32 [m], see `NegativesMemory`; -1 where there is nothing yet.
      once: an item is a negative once, however often it was drawn.
      queries: int32 [queries], which of the positions to ask for; None for all.
    """
    if queries is None:
        queries = tf.range(tf.size(label_rows))
    remembered = tf.boolean_mask(remembered, remembered >= 0)
    rows, place = tf.unique(tf.concat([label_rows, remembered, uniform_rows], axis=0))
    drawn = tf.math.unsorted_segment_sum(tf.ones(tf.shape(place)), place, tf.size(rows))
    # Few windows, many queries: all but the positive is the same for the queries of a window.
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
    """Every item is a candidate, and a negative but for the label: nothing is sampled, nothing corrected."""
    return Candidates(tf.range(items), label_rows)


def had_by_then(rows: tf.Tensor, at: Positions, candidates: tf.Tensor, items: int) -> tf.Tensor:
    """Which candidates a query's user has had, in its window up to the query: bool [queries, candidates].

    Args:
      rows: int32 [windows, events], catalog rows; those from `items` on are no candidates.
      at: the queries' places in the windows.
      candidates: int32 [candidates], catalog rows.
      items: the catalog's size.
    """
    windows, events = tf.unstack(tf.shape(rows))
    distinct, place = tf.unique(candidates)
    count = tf.size(distinct)
    # What is no candidate has the last column.
    column = tf.tensor_scatter_nd_update(
        tf.fill([items + 1], count), distinct[:, tf.newaxis], tf.range(count)
    )
    window, event = tf.meshgrid(tf.range(windows), tf.range(events), indexing="ij")
    first = tf.tensor_scatter_nd_min(
        tf.fill([windows, count + 1], events), tf.stack([window, tf.gather(column, rows)], axis=-1), event
    )
    return tf.gather(tf.gather(first, place, axis=1), at.window) <= at.event[:, tf.newaxis]


def less_had(candidates: Candidates | InBatch, had: tf.Tensor) -> Candidates | InBatch:
    """The candidates, of which `had` are no negatives; see `had_by_then`.

    What is not recommended again need not score less than what is like it.
    """
    if isinstance(candidates, InBatch):
        return candidates._replace(is_negative=candidates.is_negative & ~had)
    return candidates._replace(had=had)


def draw_uniformly(count: int, items: int) -> tf.Tensor:
    """Catalog rows, int32 [count], each item as likely as any at each draw, also those never a label.

    The same on all replicas: see `randomness.drawing`.
    """
    return uniform([count], maxval=items, dtype=tf.int32, same_on_all_replicas=True)


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
    """log q of one draw, from the log of the probability Q that an item is among `labels` draws, a scalar.

    Q is what streaming frequency estimation measures; Q = 1 - (1 - q)^labels.
    """
    never = tf.math.log1p(-_probability(log_in_batch))
    return tf.math.log(-tf.math.expm1(never / labels))


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
        if config.negatives.memory:
            self._memory = NegativesMemory(config.negatives.memory)
        if config.frequency.estimate == STREAMING:
            # A power of two, so that a catalog that has grown takes as many buckets or a multiple; and always
            # the same hash functions, whatever the seed: training that begins from an earlier model goes on.
            self._frequency = StreamingFrequency(
                1 << (_BUCKETS_PER_ITEM * table.size - 1).bit_length(),
                config.frequency.hashes,
                config.frequency.rate,
                config.frequency.initial_gap,
            )

    @property
    def frequency(self) -> StreamingFrequency | None:
        """What estimates q from the batches, where the settings ask for it."""
        return self._frequency if self._config.frequency.estimate == STREAMING else None

    def __call__(
        self,
        label_rows: tf.Tensor,
        window: tf.Tensor,
        queries: tf.Tensor | None = None,
        training: bool = False,
    ) -> Candidates | InBatch:
        """Candidates for the queries of a batch; what `retrieval_task` makes of the settings takes them.

        In training the batch is then remembered and counted, alike on all replicas.

        Args:
          label_rows: int32 [positions]; of the batch of all replicas, where there are several.
          window: int32 [positions], different for different windows.
          queries: int32 [queries], which of the positions are this replica's; None for all.
          training: whether to remember and count the batch.
        """
        config = self._config
        if config.softmax == FULL:
            own = label_rows if queries is None else tf.gather(label_rows, queries)
            return whole_catalog(own, self._items)
        if tfrs_serves(config):
            return in_batch(label_rows, window, tf.gather(self._log_q, label_rows), queries)
        if training and config.frequency.estimate == STREAMING:
            self._frequency.update(self._item_ids(label_rows))
        remembered = tf.zeros([0], tf.int32)
        if config.negatives.memory:
            remembered = tf.identity(self._memory.rows)
        candidates = mixed(
            label_rows,
            window,
            self._log_probability,
            self._items,
            draw_uniformly(config.negatives.uniform, self._items),
            remembered,
            config.negatives.deduplicate,
            queries,
        )
        if training and config.negatives.memory:
            self._memory.push(label_rows)
        return candidates

    def _log_probability(self, rows: tf.Tensor) -> tf.Tensor:
        """log q of one draw."""
        if self._config.frequency.estimate == STREAMING:
            in_batch = tf.math.log(self._frequency.probability(self._item_ids(rows)))
            return per_draw(in_batch, tf.maximum(self._frequency.labels, 1.0))
        return tf.gather(self._log_q, rows)


def softmax_for(config: TrainerConfig, items: int, labels: float) -> TrainerConfig:
    """The settings with `softmax` settled, where they leave it open.

    Args:
      items: the catalog's size.
      labels: how many a step has on average.
    """
    if config.softmax != AUTO:
        return config
    softmax = FULL if items <= _MOST_ITEMS and items * labels <= _MOST_SCORES else SAMPLED
    _log.info("trainer.softmax=auto: %s, for %d items and %.0f labels a step.", softmax, items, labels)
    unused = [f"negatives.{name}" for name in ("uniform", "memory") if getattr(config.negatives, name)]
    unused += ["frequency.estimate=streaming"] * (config.frequency.estimate == STREAMING)
    if softmax == FULL and unused:
        _log.warning(
            "All items are negatives: %s changes nothing; trainer.softmax=sampled would heed it.",
            ", ".join(f"trainer.{name}" for name in unused),
        )
    return dataclasses.replace(config, softmax=softmax)


def repeats_for(config: TrainerConfig, repeats_recommendable: bool) -> TrainerConfig:
    """Returns the settings without the part repeat_head, where items that a user had are not recommended."""
    if repeats_recommendable or REPEAT_HEAD not in config.parts:
        return config
    _log.info("trainer.parts: repeat_head is left out, as items that a user had are not recommended again.")
    return dataclasses.replace(config, parts=tuple(part for part in config.parts if part != REPEAT_HEAD))


def tfrs_serves(config: TrainerConfig) -> bool:
    """Returns whether TFRS's Retrieval does: candidates are the batch's labels, as often as they are there,
    only q's ratios matter, no item scores more for being in the history, and all negatives count (TFRS's hard
    ones would be labels, and not items: the hardest as often as it is one)."""
    return (
        config.softmax != FULL
        and REPEAT_HEAD not in config.parts
        and config.frequency.correction != REFINED
        and not config.negatives.deduplicate
        and not config.negatives.uniform
        and not config.negatives.memory
        and not config.negatives.hard
    )


# Of a query without any draw that could have been a negative nothing is asked, but its log must be finite.
_LEAST = 1e-30


def _probability(log_probability: tf.Tensor) -> tf.Tensor:
    # Short of 1, the logarithm of whose complement is not finite.
    return tf.minimum(tf.exp(log_probability), 1 - 1e-6)


def _count(rows: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.size(rows), tf.float32)
