"""How often items are in a batch, estimated from the stream of batches itself."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

# Of the hash functions: h(x) = ((a x + b) mod p) mod H. Below 2^31, so that no product overflows int64.
_PRIME = 2**31 - 1


class StreamingFrequency(tf.Module):
    """Algorithms 2 and 3 of "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations".

    Two arrays of H buckets for each hash function h: A[h(y)] is the step at which item y was last seen,
    B[h(y)] a moving average of the steps between two batches that hold it. The probability that a batch holds
    y is 1 / B, with the largest B of all hash functions: a bucket that y shares is seen more often, and its B
    is too small. No vocabulary, no pass over the data, and no end: it follows a distribution that changes.

    Until an item has been in about 1 / `learning_rate` batches its estimate leans to 1 / `initial_gap`.

    Batches may be of different sizes: `labels` is a moving average of how many ids they had, as B is one of
    gaps, and what 1 / B is the probability for.

    The state is four variables, saved and restored with whatever holds this module. Under tf.distribute each
    replica keeps its own, and they stay the same as long as all are given the ids of the joined batch.

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
        initial_gap: float = 100.0,
        seed: int = 17,
    ) -> None:
        """`buckets`: H, of each hash function; `learning_rate`: alpha; `initial_gap`: what B begins at."""
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
        self.gap = state(tf.fill([hashes * buckets], float(initial_gap)), "gap")

    def go_on(self, step: int, labels: float, last_seen: np.ndarray, gap: np.ndarray) -> bool:
        """Goes on with the state of another estimator of the same hash functions, perhaps of fewer buckets.

        Where there are now k times as many buckets, the items of bucket b are in b, b + H, ..., and
        b + (k - 1) H: a copy of the arrays for each leaves every item's estimate what it was, and from then
        on those that shared a bucket part.

        Args:
          step, labels: of the other one.
          last_seen, gap: its variables, [hashes * buckets].

        Returns:
          Whether it does: False where the number of buckets is no multiple of the other's.
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
        return True

    def update(self, item_id: tf.Tensor) -> None:
        """Counts one step, whose batch holds these items: int64 [any], as often as they like.

        An item counts once a step, and so does a bucket: where two of the batch's items share one, both would
        write the same. (Taken one after the other, as the paper has it, the second would see a gap of zero.)
        """
        now = self.step.assign_add(1)
        # Of the first batches it is their mean.
        share = tf.maximum(1.0 / tf.cast(now, tf.float32), self._learning_rate)
        self.labels.assign_add(share * (tf.cast(tf.size(item_id), tf.float32) - self.labels))
        at = self._places(item_id)
        gap = tf.cast(now - tf.gather(self.last_seen, at), tf.float32)
        moved = (1 - self._learning_rate) * tf.gather(self.gap, at) + self._learning_rate * gap
        self._write(self.gap, at, moved)
        self._write(self.last_seen, at, tf.fill(tf.shape(at), now))

    def probability(self, item_id: tf.Tensor) -> tf.Tensor:
        """The probability that a batch holds each item, float32 [items], of int64 [items].

        An item that was never in a batch, and shares no bucket with one that was, has 1 / `initial_gap`.
        """
        return 1.0 / tf.reduce_max(tf.gather(self.gap, self._places(item_id)), axis=0)

    def _places(self, item_id: tf.Tensor) -> tf.Tensor:
        """Where each item is in the arrays, which lie one behind the other: int64 [hashes, items]."""
        hashed = (self._factors * tf.math.floormod(item_id, _PRIME) + self._offsets) % _PRIME % self._buckets
        return hashed + self._buckets * tf.range(hashed.shape[0], dtype=tf.int64)[:, tf.newaxis]

    @staticmethod
    def _write(variable: tf.Variable, at: tf.Tensor, values: tf.Tensor) -> None:
        # By the handle: a distributed variable has no scatter_update of its own when it is read at its end.
        tf.raw_ops.ResourceScatterUpdate(resource=variable.handle, indices=at, updates=values)
