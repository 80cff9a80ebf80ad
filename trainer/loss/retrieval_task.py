"""Retrieval tasks: softmax cross-entropy of a query's label and negatives, with logQ correction."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from two_tower.trainer.loss.sampling import LOGQ, NONE, REFINED, Candidates, InBatch
from two_tower.trainer.model.repeat_head import Repeats

# Logit of a masked candidate. Finite, so that a query without negatives has a gradient.
_NEXT_TO_NOTHING = -3e36
# TFRS takes the `len` of a symbolic tensor, which needs autograph; steps are traced without it.
_uncorrected = tf.autograph.to_graph(tfrs.tasks.Retrieval.call, recursive=False)


class CorrectedRetrieval(tfrs.tasks.Retrieval):
    """TFRS's Retrieval task with an exact logQ correction of its inputs.

    Equation 3 of "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations" (2019):
    s_c(x, y) = s(x, y) / temperature - log Q(y), for the positive and the negatives alike. In the dot product
    the correction is one more dimension: 1 in the query, -log Q in the candidate.

    Its candidates are the batch's labels, each in its query's row (`sampling.in_batch`).
    """

    def __init__(self, temperature: float, correction: str = LOGQ) -> None:
        """Args:
        temperature: the softmax temperature.
        correction: logq or none.
        """
        super().__init__(loss=CrossEntropyOfOwnCandidates())
        # No autocast: Keras would cast float32 inputs to half precision again.
        self._autocast = False
        self._softmax_temperature = temperature
        self._corrected = correction == LOGQ

    def call(
        self,
        query_embeddings: tf.Tensor,
        candidate_embeddings: tf.Tensor,
        candidates: InBatch,
        sample_weight: tf.Tensor,
    ) -> tf.Tensor:
        """Computes the loss of a replica's queries.

        Args:
          query_embeddings: [queries, embedding_dim], of any precision; the loss is float32.
          candidate_embeddings: [candidates, embedding_dim], of `candidates.rows`.
          candidates: of `sampling.in_batch`.
          sample_weight: [queries].

        Returns:
          Scalar: the weighted sum of cross-entropies; zero without any query.
        """
        queries = tf.cast(query_embeddings, tf.float32) / self._softmax_temperature
        embeddings = tf.cast(candidate_embeddings, tf.float32)
        log_q = candidates.log_q if self._corrected else tf.zeros_like(candidates.log_q)
        own = tf.eye(tf.shape(queries)[0], tf.size(log_q), dtype=tf.bool)

        def corrected() -> tf.Tensor:
            return _uncorrected(
                self,
                tf.concat([queries, tf.ones_like(queries[:, :1])], axis=1),
                tf.concat([embeddings, -log_q[:, tf.newaxis]], axis=1),
                sample_weight=sample_weight,
                score_mask=candidates.is_negative | own,
                compute_metrics=False,
                compute_batch_metrics=False,
            )

        def of_none() -> tf.Tensor:
            return tf.reduce_sum(tf.matmul(queries, embeddings, transpose_b=True))

        # TensorFlow's cross-entropy of no rows ends the process (2.16: a segmentation fault). An empty sum is
        # zero too, and has gradients, which every replica needs.
        return tf.cond(tf.size(sample_weight) > 0, corrected, of_none)


class CrossEntropyOfOwnCandidates(tf.keras.losses.Loss):
    """Cross-entropy where query i's label is candidate i: TFRS's default loss in a fifth of the time.

    TFRS's default is Keras's, which reads a one-hot matrix of labels.
    """

    def __init__(self) -> None:
        super().__init__(reduction=tf.keras.losses.Reduction.SUM)

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Returns losses [queries] of logits `y_pred` [queries, candidates]; `y_true` is ignored."""
        del y_true
        return _cross_entropy_of_diagonal(y_pred)


@tf.custom_gradient
def _cross_entropy_of_diagonal(logits: tf.Tensor) -> tuple[tf.Tensor, Any]:
    highest = tf.reduce_max(logits, axis=1, keepdims=True)
    shares = tf.exp(logits - highest)
    total = tf.reduce_sum(shares, axis=1, keepdims=True)
    losses = tf.squeeze(highest + tf.math.log(total), axis=1) - tf.linalg.diag_part(logits)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        of_all = shares * (upstream[:, tf.newaxis] / total)
        return tf.linalg.set_diag(of_all, tf.linalg.diag_part(of_all) - upstream)

    return losses, gradient


class SampledSoftmax(tf.keras.layers.Layer):
    """Sampled softmax for any candidates, where TFRS's task does not serve; also the full softmax.

    With s = <query, candidate> / temperature, p the positive, and sums over all copies of the query's
    negatives j:

    - logq: -log(e^(s_p - log c_p) / (e^(s_p - log c_p) + sum_j e^(s_j - log c_j))).
    - refined: -sg(1 - P) log(e^(s_p) / sum_j e^(s_j - log c_j)), sg stopping the gradient, and
      P = e^(s_p) / (e^(s_p) + sum_j e^(s_j - log c_j)); "Correcting the LogQ Correction" (arXiv 2507.09331):
      the positive was not sampled, so it is not corrected. Since c counts draws, not only their shares, the
      sum estimates the sum over all items but p. The gradient is that of -log P.
    - none: logq with c = 1.

    Without sampling all three have the same gradient, and the loss is -log P.

    The repeat head, see `repeat_head.RepeatHead`, gives items of the history extra scores. The sums include
    the excess of every one of them, sampled or not. A positive among them is not corrected.
    """

    def __init__(
        self,
        temperature: float,
        correction: str = LOGQ,
        hard_negatives: int = 0,
    ) -> None:
        """Args:
        temperature: the softmax temperature.
        correction: logq, refined or none.
        hard_negatives: the number of negatives that count for a query, those with the highest corrected
          logits; 0 for all.
        """
        # float32 in any precision of the towers: logits and log c need it.
        super().__init__(name="sampled_softmax", dtype="float32")
        self._correction = correction
        self._hard_negatives = hard_negatives
        # A variable: TensorFlow turns division by a constant into a product, which rounds differently.
        self._log_temperature = self.add_weight(
            name="log_temperature",
            shape=[],
            initializer=tf.keras.initializers.Constant(np.log(temperature)),
            trainable=False,
        )

    @property
    def temperature(self) -> tf.Tensor:
        """Softmax temperature, a scalar."""
        return tf.exp(self._log_temperature)

    def call(
        self,
        query_embeddings: tf.Tensor,
        candidate_embeddings: tf.Tensor,
        candidates: Candidates,
        sample_weight: tf.Tensor,
        repeats: Repeats | None = None,
    ) -> tf.Tensor:
        """Computes the loss of a replica's queries.

        Args:
          query_embeddings: [queries, embedding_dim].
          candidate_embeddings: [candidates, embedding_dim], of `candidates.rows`.
          candidates: of `sampling.mixed` or `sampling.whole_catalog`.
          sample_weight: [queries].
          repeats: extra scores of the histories' items, None without the repeat head.

        Returns:
          Scalar: the weighted sum; zero without any query.
        """
        queries = tf.cast(query_embeddings, tf.float32) / self.temperature
        embeddings = tf.cast(candidate_embeddings, tf.float32)
        # From the embeddings: the gradient of a gather from the scores would be one more matrix.
        positive = tf.reduce_sum(queries * tf.gather(embeddings, candidates.positive), axis=1)
        recurs, excess = tf.zeros_like(positive, tf.bool), None
        if repeats is not None:
            label = tf.gather(candidates.rows, candidates.positive)
            recurs, bonus = repeats.bonus_of(label)
            positive += bonus / self.temperature
            excess = repeats.log_excess(self.temperature)
        if candidates.copies is None and not self._hard_negatives:
            offsets = None
            if candidates.had is not None:
                offsets = tf.where(candidates.had, _NEXT_TO_NOTHING, 0.0)
            losses = _with_excess(_log_sum_exp(queries, embeddings, offsets), excess) - positive
            return tf.reduce_sum(sample_weight * losses)
        if candidates.copies is not None and self._correction == LOGQ:
            at = tf.stack([candidates.window, candidates.positive], axis=1)
            # An item of the history was not sampled, so it is not corrected.
            positive -= tf.where(recurs, 0.0, tf.gather_nd(candidates.log_expected, at))
        offsets = self._offsets(candidates)
        if self._hard_negatives:
            logits = tf.matmul(queries, embeddings, transpose_b=True) + offsets
            count = tf.minimum(self._hard_negatives, tf.shape(logits)[1])
            total = tf.reduce_logsumexp(tf.math.top_k(logits, k=count, sorted=False).values, axis=1)
        else:
            total = _log_sum_exp(queries, embeddings, offsets)
        if repeats is not None:
            # Without the positive, which is not in the sum over negatives.
            is_label = repeats.rows == label[:, tf.newaxis]
            total = _with_excess(total, tf.where(is_label, _NEXT_TO_NOTHING, excess))
        # Log odds against the positive.
        margin = total - positive
        if self._correction == REFINED and candidates.copies is not None:
            losses = tf.stop_gradient(tf.sigmoid(margin)) * margin
        else:
            losses = tf.math.softplus(margin)
        return tf.reduce_sum(sample_weight * losses)

    def _offsets(self, candidates: Candidates) -> tf.Tensor:
        """Computes the offsets of scores, [queries, candidates]: log(copies / c).

        They mask candidates without copies, and the positive.
        """
        queries = tf.size(candidates.positive)
        if candidates.copies is None:
            offsets = tf.zeros([queries, tf.size(candidates.rows)])
        else:
            # Computed once a window, and only gathered once a query.
            offsets = tf.math.log(candidates.copies)
            if self._correction != NONE:
                offsets -= candidates.log_expected
            offsets = tf.gather(tf.where(candidates.copies > 0, offsets, _NEXT_TO_NOTHING), candidates.window)
        if candidates.had is not None:
            offsets = tf.where(candidates.had, _NEXT_TO_NOTHING, offsets)
        own = tf.stack([tf.range(queries), candidates.positive], axis=1)
        return tf.tensor_scatter_nd_update(offsets, own, tf.fill([queries], _NEXT_TO_NOTHING))


def _with_excess(total: tf.Tensor, excess: tf.Tensor | None) -> tf.Tensor:
    """Computes log(e^total + sum_j e^(excess j)), of `total` [queries] and `excess` [queries, any]."""
    if excess is None:
        return total
    return tf.reduce_logsumexp(tf.concat([total[:, tf.newaxis], excess], axis=1), axis=1)


def _log_sum_exp(queries: tf.Tensor, candidates: tf.Tensor, offsets: tf.Tensor | None = None) -> tf.Tensor:
    """Computes log sum_j e^(<query, candidate j> + offset j), [queries], with a custom gradient.

    TensorFlow's gradient would make several more matrices of [queries, candidates], the main cost of a step.

    Args:
      queries: [queries, embedding_dim].
      candidates: [candidates, embedding_dim].
      offsets: [queries, candidates], constant for the gradient.
    """

    @tf.custom_gradient
    def of_embeddings(queries: tf.Tensor, candidates: tf.Tensor) -> tuple[tf.Tensor, Any]:
        logits = tf.matmul(queries, candidates, transpose_b=True)
        if offsets is not None:
            logits += offsets
        highest = tf.reduce_max(logits, axis=1, keepdims=True)
        shares = tf.exp(logits - highest)
        total = tf.reduce_sum(shares, axis=1, keepdims=True)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            scale = upstream[:, tf.newaxis] / total
            return scale * tf.matmul(shares, candidates), tf.matmul(shares, scale * queries, transpose_a=True)

        return tf.squeeze(highest + tf.math.log(total), axis=1), gradient

    return of_embeddings(queries, candidates)
