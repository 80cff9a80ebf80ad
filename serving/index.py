"""Nearest candidates by inner product: ScaNN, or exact search, behind one interface.

Towers that compare by cosine give embeddings of length one, but for a bias, so that the inner product serves
both. How a ScaNN index is to be built is found in tuning.py.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf
from scann.scann_ops.py import scann_ops

# How points within a leaf are scored: by asymmetric hashing, half a byte for every two dimensions, then the
# best of them exactly; or all of them exactly.
AH = "ah"
NO_QUANTIZATION = "none"
# Scores that exact search holds at once, 128 MB: larger batches are taken in parts.
_SCORES_AT_ONCE = 2**25
_TREE_TRAINING_SAMPLE = 100_000
_AH_CLUSTERS = 16


@dataclasses.dataclass(frozen=True)
class ScannSettings:
    """What recall and cost of a ScaNN index depend on.

    Attributes:
        num_leaves: parts that the vectors are divided into, by k-means.
        leaves_to_search: those nearest to the query, which are looked at.
        reordering_candidates: of what AH finds, so many are scored exactly, for `k` items asked for; else 0.
        quantization: AH or NO_QUANTIZATION.
        k: how many items `reordering_candidates` is meant for: who asks for more has more reordered.
    """

    num_leaves: int
    leaves_to_search: int
    reordering_candidates: int
    quantization: str
    k: int


@dataclasses.dataclass(frozen=True)
class Restriction:
    """Which items a query may be answered with, as rows of the index; -1 is padding.

    Attributes:
        has_allowed: bool [queries]. Where it is set, `allowed` are the only ones.
        allowed: int32 [queries, any].
        denied: int32 [queries, any]. A row may stand there twice.
    """

    has_allowed: tf.Tensor
    allowed: tf.Tensor
    denied: tf.Tensor

    def take(self, queries: tf.Tensor) -> Restriction:
        """Of the queries at these places."""
        return Restriction(
            *(tf.gather(own, queries) for own in (self.has_allowed, self.allowed, self.denied))
        )


class ExactIndex(tf.Module):
    """All inner products, then the top k. Under some 20,000 items nothing is faster. No custom operations."""

    kind = "exact"

    def __init__(self, embeddings: tf.Tensor) -> None:
        """`embeddings`: float32 [items, embedding_dim]."""
        super().__init__(name="exact_index")
        self._embeddings = tf.Variable(embeddings, trainable=False, name="embeddings")

    @property
    def embeddings(self) -> tf.Tensor:
        """Float32 [items, embedding_dim]."""
        return self._embeddings.read_value()


class ScannIndex(tf.Module):
    """A ScaNN tree. It may find fewer than k neighbours: what is missing scores NaN.

    Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector Quantization", ICML 2020. The
    first centres of its k-means are drawn without a seed: two indexes of one setting are not the same.
    """

    kind = "scann"

    def __init__(self, embeddings: tf.Tensor, settings: ScannSettings, max_k: int) -> None:
        """`embeddings`: float32 [items, embedding_dim]; `max_k`: the most that is asked for.

        Raises ValueError where there are fewer items than leaves, or too few to quantise.
        """
        super().__init__(name="scann_index")
        items, self._dimensions = embeddings.shape
        if not 1 <= settings.leaves_to_search <= settings.num_leaves <= items:
            raise ValueError(
                f"{settings.leaves_to_search} of {settings.num_leaves} leaves cannot be searched over "
                f"{items} items."
            )
        if settings.quantization == AH and items < _AH_CLUSTERS:
            raise ValueError(f"{items} items are too few to quantise; {_AH_CLUSTERS} would be enough.")
        # Leaves to search and reordering may be changed, until a search is traced.
        self.settings = settings
        builder = scann_ops.builder(embeddings, max_k, "dot_product").tree(
            settings.num_leaves,
            settings.leaves_to_search,
            training_sample_size=min(items, _TREE_TRAINING_SAMPLE),
            min_partition_size=max(1, min(50, items // settings.num_leaves // 4)),
        )
        if settings.quantization == AH:
            builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2)
            builder = builder.reorder(settings.reordering_candidates)
        else:
            builder = builder.score_brute_force()
        self._state = builder.build().serialize_to_module()

    @property
    def embeddings(self) -> tf.Tensor:
        """Float32 [items, embedding_dim], as ScaNN keeps them."""
        return tf.ensure_shape(self._state.dataset.read_value(), [None, self._dimensions])

    def search(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Rows int32 and scores float32, [queries, at most k], best first.

        Of more items than the settings are meant for, more are reordered, in proportion.
        """
        settings = self.settings
        reordered = None
        if settings.quantization == AH:
            share = settings.reordering_candidates / settings.k
            reordered = tf.cast(tf.math.ceil(share * tf.cast(k, tf.float32)), tf.int32)
            reordered = tf.maximum(reordered, settings.reordering_candidates)
        searcher = scann_ops.searcher_from_module(self._state)
        return tuple(
            searcher.search_batched_parallel(
                queries,
                final_num_neighbors=k,
                pre_reorder_num_neighbors=reordered,
                leaves_to_search=settings.leaves_to_search,
            )
        )


def exact_search(
    embeddings: tf.Tensor, queries: tf.Tensor, k: tf.Tensor, restriction: Restriction
) -> tuple[tf.Tensor, tf.Tensor]:
    """The k best rows by inner product among those that each query may be answered with.

    Memory is bounded: the scores of some queries at a time are held, 128 MB of them or one query's.

    Args:
        embeddings: float32 [items, embedding_dim].
        queries: float32 [queries, embedding_dim].
        k: how many.
        restriction: of each query.

    Returns:
        Rows int32 and scores float32, [queries, min(k, items)], best first; -inf where there are no more.
    """
    items, size = tf.shape(embeddings)[0], tf.shape(queries)[0]
    k = tf.minimum(k, items)
    step = tf.maximum(_SCORES_AT_ONCE // tf.maximum(items, 1), 1)

    def part(begin: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        own = tf.range(begin, tf.minimum(begin + step, size))
        scores = tf.matmul(tf.gather(queries, own), embeddings, transpose_b=True)
        best = tf.math.top_k(_restricted(scores, restriction.take(own)), k=k)
        return best.indices, best.values

    def another(
        begin: tf.Tensor, rows: tf.TensorArray, scores: tf.TensorArray
    ) -> tuple[tf.Tensor, tf.TensorArray, tf.TensorArray]:
        some_rows, some_scores = part(begin)
        place = begin // step
        return begin + step, rows.write(place, some_rows), scores.write(place, some_scores)

    parts = tf.maximum(1, (size + step - 1) // step)  # no query is one part, of none
    _, rows, scores = tf.while_loop(
        lambda begin, *_: begin < parts * step,
        another,
        (
            tf.constant(0),
            tf.TensorArray(tf.int32, parts, infer_shape=False, element_shape=[None, None]),
            tf.TensorArray(tf.float32, parts, infer_shape=False, element_shape=[None, None]),
        ),
        parallel_iterations=1,
    )
    return rows.concat(), scores.concat()


def _restricted(scores: tf.Tensor, restriction: Restriction) -> tf.Tensor:
    """Scores [queries, items], -inf for items that must not be returned."""
    never = tf.fill(tf.shape(scores), -float("inf"))
    allowed = _places(restriction.allowed)
    only = tf.tensor_scatter_nd_update(never, allowed, tf.gather_nd(scores, allowed))
    scores = tf.where(restriction.has_allowed[:, tf.newaxis], only, scores)
    denied = _places(restriction.denied)
    return tf.tensor_scatter_nd_update(scores, denied, tf.fill(tf.shape(denied)[:1], -float("inf")))


def _places(rows: tf.Tensor) -> tf.Tensor:
    """Pairs of query and row int32 [any, 2] of rows [queries, any] without padding."""
    at = tf.where(rows >= 0)
    return tf.stack([tf.cast(at[:, 0], tf.int32), tf.gather_nd(rows, at)], axis=1)
