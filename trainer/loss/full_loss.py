"""Full softmax: every item of the catalog is a candidate of each step."""

from __future__ import annotations

import tensorflow as tf

from two_tower.trainer.loss.loss import Loss
from two_tower.trainer.loss.sampling import Candidates, whole_catalog


class FullLoss(Loss):
    """Softmax over the whole catalog: nothing is sampled, and nothing corrected."""

    def candidates(
        self,
        label_rows: tf.Tensor,
        window: tf.Tensor,
        queries: tf.Tensor | None = None,
        training: bool = False,
    ) -> Candidates:
        """Returns all items; for the arguments see `Loss.candidates`."""
        del window, training
        own = label_rows if queries is None else tf.gather(label_rows, queries)
        return whole_catalog(own, self._items)
