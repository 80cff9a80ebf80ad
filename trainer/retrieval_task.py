"""In-batch sampled softmax with the sampling-bias correction."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_recommenders as tfrs


class CorrectedRetrieval(tfrs.tasks.Retrieval):
    """TFRS's Retrieval with an exact logQ correction, made before TFRS sees the scores.

    Equation 3 of "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations" (2019):
    s_c(x, y) = s(x, y) / temperature - log Q(y), for the positive and the negatives alike. As a dot product
    it is one more dimension: 1 on the query's side, -log Q on the candidate's. The loss is a mean, so
    that the learning rate does not depend on the number of positions (TFRS's own is a sum).
    """

    def __init__(self, temperature: float) -> None:
        super().__init__(
            loss=tf.keras.losses.CategoricalCrossentropy(
                from_logits=True, reduction=tf.keras.losses.Reduction.SUM_OVER_BATCH_SIZE
            )
        )
        self._softmax_temperature = temperature

    def call(
        self,
        query_embeddings: tf.Tensor,
        candidate_embeddings: tf.Tensor,
        log_sampling_probability: tf.Tensor,
        score_mask: tf.Tensor,
        sample_weight: tf.Tensor,
    ) -> tf.Tensor:
        """Loss of positions whose own candidates stand in the same row.

        Args:
          query_embeddings: [positions, embedding_dim].
          candidate_embeddings: [positions, embedding_dim], each position's label.
          log_sampling_probability: [positions], log Q of each label; zeros turn the correction off.
          score_mask: bool [positions, positions], see `sampling.negatives_mask`.
          sample_weight: [positions]; rescaled to a mean of one.

        Returns:
          Scalar: the mean weighted cross-entropy; zero without any position.
        """
        ones = tf.ones_like(log_sampling_probability)[:, tf.newaxis]
        uncorrected = super().call

        def corrected() -> tf.Tensor:
            return uncorrected(
                tf.concat([query_embeddings / self._softmax_temperature, ones], axis=1),
                tf.concat([candidate_embeddings, -log_sampling_probability[:, tf.newaxis]], axis=1),
                sample_weight=tf.math.divide_no_nan(sample_weight, tf.reduce_mean(sample_weight)),
                score_mask=score_mask,
                compute_metrics=False,
                compute_batch_metrics=False,
            )

        # TensorFlow's cross-entropy of no rows ends the process (2.16: a segmentation fault).
        return tf.cond(tf.size(sample_weight) > 0, corrected, lambda: tf.constant(0.0))
