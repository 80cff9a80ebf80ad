"""Sampled softmax with the sampling-bias correction: how a query's label is told from its negatives."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from pipeline.configs import TrainerConfig
from trainer.sampling import LOGQ, NONE, REFINED, Candidates, labels_alone

_LEAST_TEMPERATURE = 0.01


class CorrectedRetrieval(tfrs.tasks.Retrieval):
    """TFRS's Retrieval with an exact logQ correction, made before TFRS sees the scores.

    Equation 3 of "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations" (2019):
    s_c(x, y) = s(x, y) / temperature - log Q(y), for the positive and the negatives alike. As a dot product
    it is one more dimension: 1 on the query's side, -log Q on the candidate's.

    It serves where candidates are the batch's labels, each in its query's row (`sampling.in_batch`).
    """

    def __init__(self, temperature: float, correction: str = LOGQ, hard_negatives: int = 0) -> None:
        """`correction`: logq or none; `hard_negatives`: of each query only so many count, 0 for all."""
        super().__init__(num_hard_negatives=hard_negatives or None)
        self._softmax_temperature = temperature
        self._corrected = correction == LOGQ

    def call(
        self,
        query_embeddings: tf.Tensor,
        candidate_embeddings: tf.Tensor,
        candidates: Candidates,
        sample_weight: tf.Tensor,
    ) -> tf.Tensor:
        """Loss of positions whose own candidates stand in the same row.

        Args:
          query_embeddings: [positions, embedding_dim].
          candidate_embeddings: [positions, embedding_dim], each position's label.
          candidates: of `sampling.in_batch`.
          sample_weight: [positions].

        Returns:
          Scalar: the weighted sum of cross-entropies; zero without any position.
        """
        log_q = tf.transpose(candidates.log_expected)
        if not self._corrected:
            log_q = tf.zeros_like(log_q)
        uncorrected = super().call

        def corrected() -> tf.Tensor:
            return uncorrected(
                tf.concat([query_embeddings / self._softmax_temperature, tf.ones_like(log_q)], axis=1),
                tf.concat([candidate_embeddings, -log_q], axis=1),
                sample_weight=sample_weight,
                score_mask=candidates.is_negative | tf.eye(tf.size(sample_weight), dtype=tf.bool),
                compute_metrics=False,
                compute_batch_metrics=False,
            )

        # TensorFlow's cross-entropy of no rows ends the process (2.16: a segmentation fault).
        return tf.cond(tf.size(sample_weight) > 0, corrected, lambda: tf.constant(0.0))


class SampledSoftmax(tf.keras.layers.Layer):
    """Sampled softmax where TFRS's does not serve: candidates that are not the batch's labels alone.

    With s = <query, candidate> / temperature, p the positive, and the sums over the query's negatives j:

    - logq: -log(e^(s_p - log c_p) / (e^(s_p - log c_p) + sum_j e^(s_j - log c_j))).
    - refined: -sg(1 - P) log(e^(s_p) / sum_j e^(s_j - log c_j)), sg stopping the gradient, and
      P = e^(s_p) / (e^(s_p) + sum_j e^(s_j - log c_j)); "Correcting the LogQ Correction" (arXiv 2507.09331):
      the positive was not sampled, so it is not corrected. Since c counts draws, and not only their shares,
      the sum estimates that over all items but p. The gradient is that of -log P.
    - none: logq with c = 1.
    """

    def __init__(
        self,
        temperature: float,
        correction: str = LOGQ,
        hard_negatives: int = 0,
        learned_temperature: bool = False,
    ) -> None:
        """`correction`: logq, refined or none; `hard_negatives`: of each query only so many count, those of
        the highest corrected logits, 0 for all; `learned_temperature`: it only begins at `temperature`, and
        never falls below 0.01."""
        # Whatever precision the towers have: logits and log c need all of it.
        super().__init__(name="sampled_softmax", dtype="float32")
        self._correction = correction
        self._hard_negatives = hard_negatives
        self._log_temperature = self.add_weight(
            name="log_temperature",
            shape=[],
            initializer=tf.keras.initializers.Constant(np.log(temperature)),
            trainable=learned_temperature,
        )

    @property
    def temperature(self) -> tf.Tensor:
        """By which scores are divided, a scalar."""
        return tf.maximum(tf.exp(self._log_temperature), _LEAST_TEMPERATURE)

    def call(
        self,
        query_embeddings: tf.Tensor,
        candidate_embeddings: tf.Tensor,
        candidates: Candidates,
        sample_weight: tf.Tensor,
    ) -> tf.Tensor:
        """Loss of a replica's queries.

        Args:
          query_embeddings: [queries, embedding_dim].
          candidate_embeddings: [candidates, embedding_dim], of `candidates.rows`.
          candidates: of any function in sampling.py.
          sample_weight: [queries].

        Returns:
          Scalar: the weighted sum; zero without any query.
        """
        scores = tf.matmul(query_embeddings, candidate_embeddings, transpose_b=True) / self.temperature
        corrected = scores if self._correction == NONE else scores - candidates.log_expected
        of_positive = scores if self._correction == REFINED else corrected
        positive = tf.gather(of_positive, candidates.positive, axis=1, batch_dims=1)
        negatives = tf.where(candidates.is_negative, corrected, tf.float32.min / 100)
        if self._hard_negatives:
            count = tf.minimum(self._hard_negatives, tf.shape(negatives)[1])
            negatives = tf.math.top_k(negatives, k=count, sorted=False).values
        # Log of the odds against the positive.
        margin = tf.reduce_logsumexp(negatives, axis=1) - positive
        if self._correction == REFINED:
            losses = tf.stop_gradient(tf.sigmoid(margin)) * margin
        else:
            losses = tf.math.softplus(margin)
        return tf.reduce_sum(sample_weight * losses)


def retrieval_task(config: TrainerConfig) -> CorrectedRetrieval | SampledSoftmax:
    """TFRS's where it serves; see `sampling.labels_alone`."""
    temperature, correction = config.temperature, config.sampling_correction
    if labels_alone(config) and not config.learned_temperature:
        return CorrectedRetrieval(temperature, correction, config.hard_negatives)
    return SampledSoftmax(temperature, correction, config.hard_negatives, config.learned_temperature)
