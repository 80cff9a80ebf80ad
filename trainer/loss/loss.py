"""Base class of losses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from two_tower.trainer.loss.retrieval_task import CorrectedRetrieval, SampledSoftmax
from two_tower.trainer.loss.sampling import Candidates, InBatch
from two_tower.trainer.loss.streaming_frequency import StreamingFrequency
from two_tower.trainer.model.catalog_table import CatalogTable
from two_tower.trainer.settings import STREAMING, TrainerConfig

# Least number of buckets an item, for each hash function of streaming frequency estimation: 16 bytes each.
_BUCKETS_PER_ITEM = 5


class Loss(tf.Module):
    """Loss of a training: the candidates of each step, and the task that scores labels against them."""

    def __init__(self, config: TrainerConfig, table: CatalogTable, log_q: np.ndarray) -> None:
        """Args:
        config: the settings.
        table: the catalog.
        log_q: float32 [items + 1], see `sampling.log_sampling_probability`.
        """
        super().__init__(name="candidate_sampler")
        self._config = config
        self._items = table.size
        # A function: tf.Module would track the table, and Keras copy it with the weights of an epoch.
        self._item_ids: Callable[[tf.Tensor], tf.Tensor] = lambda rows: tf.gather(table.item_id, rows)
        self._frequency: StreamingFrequency | None = None
        # With every loss: a warm start passes the state on, even if this training does not sample.
        if config.frequency.estimate == STREAMING:
            # A power of two: a grown catalog has as many buckets or a multiple. The hash functions do not
            # depend on the seed. So a warm start can restore the state.
            self._frequency = StreamingFrequency(
                1 << (_BUCKETS_PER_ITEM * table.size - 1).bit_length(),
                config.frequency.hashes,
                config.frequency.rate,
            )

    @property
    def frequency(self) -> StreamingFrequency | None:
        """Streaming frequency estimation, None where the settings do without."""
        return self._frequency

    def task(self) -> CorrectedRetrieval | SampledSoftmax:
        """Builds the layer that computes the loss of queries and `candidates`."""
        frequency, negatives = self._config.frequency, self._config.negatives
        return SampledSoftmax(self._config.temperature, frequency.correction, negatives.hard)

    def candidates(
        self,
        label_rows: tf.Tensor,
        window: tf.Tensor,
        queries: tf.Tensor | None = None,
        training: bool = False,
    ) -> Candidates | InBatch:
        """Selects the candidates for the queries of a batch.

        In training a loss may update its state, alike on all replicas.

        Args:
          label_rows: int32 [positions], of the joined batch of all replicas.
          window: int32 [positions], different for different windows.
          queries: int32 [queries], the positions of this replica; None for all.
          training: whether to update the state.
        """
        raise NotImplementedError(f"{type(self).__name__} selects no candidates.")
