"""Sampled softmax: in-batch negatives, a memory of labels and uniform draws, corrected by logQ."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from two_tower.trainer.loss.loss import Loss
from two_tower.trainer.loss.retrieval_task import CorrectedRetrieval, SampledSoftmax
from two_tower.trainer.loss.sampling import (
    REFINED,
    Candidates,
    InBatch,
    NegativesMemory,
    draw_uniformly,
    in_batch,
    mixed,
    per_draw,
)
from two_tower.trainer.model.catalog_table import CatalogTable
from two_tower.trainer.settings import REPEAT_HEAD, TrainerConfig


class SampledLoss(Loss):
    """Softmax over sampled negatives, with a correction by their sampling probability."""

    def __init__(self, config: TrainerConfig, table: CatalogTable, log_q: np.ndarray) -> None:
        super().__init__(config, table, log_q)
        self._log_q = tf.Variable(log_q, trainable=False, name="log_q")
        if config.negatives.memory:
            self._memory = NegativesMemory(config.negatives.memory)

    def task(self) -> CorrectedRetrieval | SampledSoftmax:
        """Builds TFRS's task where it serves, else SampledSoftmax."""
        if tfrs_serves(self._config):
            return CorrectedRetrieval(self._config.temperature, self._config.frequency.correction)
        return super().task()

    def candidates(
        self,
        label_rows: tf.Tensor,
        window: tf.Tensor,
        queries: tf.Tensor | None = None,
        training: bool = False,
    ) -> Candidates | InBatch:
        """Draws candidates; in training it then updates the memory and the frequencies.

        For the arguments see `Loss.candidates`.
        """
        config = self._config
        if tfrs_serves(config):
            return in_batch(label_rows, window, tf.gather(self._log_q, label_rows), queries)
        if training and self._frequency is not None:
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
        """Returns log q of one draw, exact or by streaming frequency estimation."""
        if self._frequency is not None:
            in_batch = tf.math.log(self._frequency.probability(self._item_ids(rows)))
            return per_draw(in_batch, tf.maximum(self._frequency.labels, 1.0))
        return tf.gather(self._log_q, rows)


def tfrs_serves(config: TrainerConfig) -> bool:
    """Tells whether TFRS's Retrieval task serves a sampled softmax.

    It does if candidates are the batch's labels with duplicates, only ratios of q matter, no repeat head adds
    scores, and all negatives count. (TFRS's hard negatives are labels, not items: the hardest item counts as
    often as it occurs.)
    """
    return (
        REPEAT_HEAD not in config.parts
        and config.frequency.correction != REFINED
        and not config.negatives.deduplicate
        and not config.negatives.uniform
        and not config.negatives.memory
        and not config.negatives.hard
    )
