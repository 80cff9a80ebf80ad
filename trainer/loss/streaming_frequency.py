"""Streaming frequency estimation: the probability of items in a batch, from the stream of batches."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

# p of the hash functions h(x) = ((a x + b) mod p) mod H. Below 2^31, so that no product overflows int64.
_PRIME = 2**31 - 1


class StreamingFrequency(tf.Module):
    """Streaming frequency estimation by hashed item ids.

    Source: algorithms 2 and 3 of "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
    Recommendations" (2019).

    There are two arrays of H buckets for each hash function h. A[h(y)] is the last step with item y, B[h(y)]
    a moving average of the gap, in steps, between batches with y. The probability of y in a batch is 1 / B,
    with the largest B of all hash functions: a shared bucket is seen more often, so its B is too small.
    Estimation needs no vocabulary and no pass over the data. It follows a distribution that changes.

    The paper starts B at a constant, such as 100. After 16 steps an item of every batch would then have the
    estimate .012 instead of 1. Here B is the plain mean of a bucket's first 1 / `learning_rate` gaps, so that
    no constant biases it. A third array counts them.

    Batches may have different sizes: `labels` is a moving average of their number of ids. 1 / B is the
    probability for a batch of that size.

    The state is five variables, saved and restored with the module's owner. Under tf.distribute each replica
    keeps its own. They stay equal if all replicas get the ids of the joined batch.

    Example:
      frequency = StreamingFrequency(buckets=200_000, hashes=2)
      frequency.update(item_ids)       # once a step
      frequency.probability(item_ids)  # that a batch holds each, as of this step
    """

    def __init__(
        self,
        buckets: int,
        hashes: int = 1,
        learning_rate: float = 0.01,
        seed: int = 17,
    ) -> None:
        """Args:
        buckets: H, for each hash function.
        hashes: the number of hash functions.
        learning_rate: alpha, the weight of the newest gap; the weight of a bucket's gap n is at least 1 / n.
        seed: of the hash functions.
        """
        super().__init__(name="streaming_frequency")
        draw = np.random.default_rng(seed)
        self._factors = tf.constant(draw.integers(1, _PRIME, [hashes, 1]), tf.int64)
        self._offsets = tf.constant(draw.integers(0, _PRIME, [hashes, 1]), tf.int64)
        self._buckets = buckets
        self._learning_rate = learning_rate

        def state(value: tf.Tensor, name: str) -> tf.Variable:
            return tf.Variable(
                value,
                trainable=False,
                name=name,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )

        self.step = state(tf.zeros([], tf.int64), "step")
        self.labels = state(tf.zeros([]), "labels")
        self.last_seen = state(tf.zeros([hashes * buckets], tf.int64), "last_seen")
        self.gap = state(tf.zeros([hashes * buckets]), "gap")
        self.gaps = state(tf.zeros([hashes * buckets], tf.int32), "gaps")

    def go_on(
        self, step: int, labels: float, last_seen: np.ndarray, gap: np.ndarray, gaps: np.ndarray
    ) -> bool:
        """Restores the state of an estimator with the same hash functions and perhaps fewer buckets.

        With k times as many buckets, the items of bucket b are in b, b + H, ..., and b + (k - 1) H. A copy of
        the arrays for each keeps every estimate. From then on items that shared a bucket separate.

        Args:
          step: of the other estimator.
          labels: of the other estimator.
          last_seen: its variable, [hashes * buckets].
          gap: its variable, [hashes * buckets].
          gaps: its variable, [hashes * buckets].

        Returns:
          True; False where the number of buckets is no multiple of the other's.
        """
        hashes = self._factors.shape[0]
        copies, remainder = divmod(hashes * self._buckets, len(gap))
        if remainder:
            return False

        def copied(state: np.ndarray) -> np.ndarray:
            return np.tile(state.reshape(hashes, -1), [1, copies]).reshape(-1)

        self.step.assign(step)
        self.labels.assign(labels)
        self.last_seen.assign(copied(last_seen))
        self.gap.assign(copied(gap))
        self.gaps.assign(copied(gaps))
        return True

    def update(self, item_id: tf.Tensor) -> None:
        """Updates the estimates by one step, whose batch has these items: int64 [any], duplicates allowed.

        An item counts once a step, and so does a bucket: two items of the batch in one bucket write the same
        value. (In the paper's sequential update the second would see a gap of zero.)
        """
        now = self.step.assign_add(1)
        # The first batches are averaged.
        share = tf.maximum(1.0 / tf.cast(now, tf.float32), self._learning_rate)
        self.labels.assign_add(share * (tf.cast(tf.size(item_id), tf.float32) - self.labels))
        at = self._places(item_id)
        gap = tf.cast(now - tf.gather(self.last_seen, at), tf.float32)
        number = tf.gather(self.gaps, at) + 1
        weight = tf.maximum(1.0 / tf.cast(number, tf.float32), self._learning_rate)
        self._write(self.gap, at, (1 - weight) * tf.gather(self.gap, at) + weight * gap)
        self._write(self.gaps, at, number)
        self._write(self.last_seen, at, tf.fill(tf.shape(at), now))

    def probability(self, item_id: tf.Tensor) -> tf.Tensor:
        """Returns the probability that a batch has each item, float32 [items], for ids int64 [items].

        An item of no batch so far, with a bucket of its own, has 1 / (step + 1).
        """
        at = self._places(item_id)
        unseen = tf.cast(self.step + 1, tf.float32)
        gap = tf.where(tf.gather(self.gaps, at) > 0, tf.gather(self.gap, at), unseen)
        return 1.0 / tf.reduce_max(gap, axis=0)

    def _places(self, item_id: tf.Tensor) -> tf.Tensor:
        """Computes the index of each item in the concatenated arrays, int64 [hashes, items]."""
        hashed = (self._factors * tf.math.floormod(item_id, _PRIME) + self._offsets) % _PRIME % self._buckets
        return hashed + self._buckets * tf.range(hashed.shape[0], dtype=tf.int64)[:, tf.newaxis]

    @staticmethod
    def _write(variable: tf.Variable, at: tf.Tensor, values: tf.Tensor) -> None:
        # By the handle: a distributed variable with ON_READ synchronisation has no scatter_update.
        tf.raw_ops.ResourceScatterUpdate(resource=variable.handle, indices=at, updates=values)
