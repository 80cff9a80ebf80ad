"""Nearest candidates by inner product, found by ScaNN or by exact search.

Cosine towers give embeddings of length one, apart from a bias. So the inner product serves cosine towers
too. `index_tuning` chooses the settings of a ScaNN index.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf
from scann.scann_ops.py import scann_ops

# Scoring of the points within a leaf. AH: asymmetric hashing (half a byte for every two dimensions), then
# exact scores of the best points. NO_QUANTIZATION: exact scores of all points.
AH = "ah"
NO_QUANTIZATION = "none"
# Largest number of scores that exact search holds at once, 128 MB. Larger batches are split.
_SCORES_AT_ONCE = 2**25
_TREE_TRAINING_SAMPLE = 100_000
_AH_CLUSTERS = 16


@dataclasses.dataclass(frozen=True)
class ScannSettings:
    """Settings of a ScaNN index, which determine its recall and cost.

    Attributes:
        num_leaves: number of k-means partitions of the vectors.
        leaves_to_search: number of leaves searched, those nearest to the query.
        reordering_candidates: number of AH's candidates that are scored exactly for `k` items; 0 without AH.
        quantization: AH or NO_QUANTIZATION.
        k: number of items that `reordering_candidates` applies to. Larger requests reorder more.
    """

    num_leaves: int
    leaves_to_search: int
    reordering_candidates: int
    quantization: str
    k: int


@dataclasses.dataclass(frozen=True)
class Restriction:
    """Restriction of the items that may be returned, as rows of the index; -1 is padding.

    Attributes:
        has_allowed: bool [queries]. Where it is true, only rows in `allowed` may be returned.
        allowed: int32 [queries, any].
        denied: int32 [queries, any]. A row may stand there twice.
    """

    has_allowed: tf.Tensor
    allowed: tf.Tensor
    denied: tf.Tensor

    def take(self, queries: tf.Tensor) -> Restriction:
        """Selects the restrictions of the queries at these positions."""
        return Restriction(
            *(tf.gather(own, queries) for own in (self.has_allowed, self.allowed, self.denied))
        )


class ExactIndex(tf.Module):
    """Exact search: all inner products, then the top k.

    It needs no custom operations. Below some 20,000 items no other search is faster.
    """

    kind = "exact"

    def __init__(self, embeddings: tf.Tensor) -> None:
        """Stores `embeddings`, float32 [items, embedding_dim]."""
        super().__init__(name="exact_index")
        self._embeddings = tf.Variable(embeddings, trainable=False, name="embeddings")

    @property
    def embeddings(self) -> tf.Tensor:
        """Embeddings, float32 [items, embedding_dim]."""
        return self._embeddings.read_value()


class ScannIndex(tf.Module):
    """ScaNN tree, which may find fewer than k neighbours; missing ones score NaN.

    Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector Quantization", ICML 2020. ScaNN
    draws the first k-means centres without a seed, so two indexes with the same settings differ.
    """

    kind = "scann"

    def __init__(self, embeddings: tf.Tensor, settings: ScannSettings, max_k: int) -> None:
        """Builds the index over `embeddings`, float32 [items, embedding_dim].

        Args:
            embeddings: the items' embeddings.
            settings: leaves, quantisation and reordering.
            max_k: largest number of items of a request.

        Raises:
            ValueError: there are fewer items than leaves, or too few items to quantise.
        """
        super().__init__(name="scann_index")
        items, self._dimensions = embeddings.shape
        if not 1 <= settings.leaves_to_search <= settings.num_leaves <= items:
            raise ValueError(
                f"ScaNN cannot search {settings.leaves_to_search} of {settings.num_leaves} leaves over "
                f"{items} items."
            )
        if settings.quantization == AH and items < _AH_CLUSTERS:
            raise ValueError(f"{items} items are too few to quantise; AH needs {_AH_CLUSTERS}.")
        # leaves_to_search and reordering_candidates may change until a search is traced.
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
        """Embeddings that ScaNN stores, float32 [items, embedding_dim]."""
        return tf.ensure_shape(self._state.dataset.read_value(), [None, self._dimensions])

    def search(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns rows int32 and scores float32, [queries, at most k], best first.

        If `k` exceeds `settings.k`, the number of reordered candidates grows in proportion.
        """
        settings = self.settings
        reordered = None
        if settings.quantization == AH:
            share = settings.reordering_candidates / settings.k
            reordered = tf.cast(tf.math.ceil(share * tf.cast(k, tf.float32)), tf.int32)
            reordered = tf.maximum(reordered, settings.reordering_candidates)
        searcher = scann_ops.searcher_from_module(self._state)
        size = tf.shape(queries)[0]
        found = searcher.search_batched_parallel(
            # ScaNN's answer to an empty batch has another number of rows.
            tf.pad(queries, [[0, tf.maximum(1 - size, 0)], [0, 0]]),
            final_num_neighbors=k,
            pre_reorder_num_neighbors=reordered,
            leaves_to_search=settings.leaves_to_search,
        )
        return tuple(part[:size] for part in found)


def exact_search(
    embeddings: tf.Tensor, queries: tf.Tensor, k: tf.Tensor, restriction: Restriction
) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the k best rows by inner product among those that each query's restriction allows.

    Memory is bounded: at most 128 MB of scores are held at once, or the scores of one query.

    Args:
        embeddings: float32 [items, embedding_dim].
        queries: float32 [queries, embedding_dim].
        k: number of rows per query.
        restriction: allowed and denied rows of each query.

    Returns:
        Rows int32 and scores float32, [queries, min(k, items)], best first, padded with -inf.
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

    parts = tf.maximum(1, (size + step - 1) // step)  # an empty batch is one empty part
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
    """Masks scores [queries, items] with -inf for items that must not be returned."""
    never = tf.fill(tf.shape(scores), -float("inf"))
    allowed = _places(restriction.allowed)
    only = tf.tensor_scatter_nd_update(never, allowed, tf.gather_nd(scores, allowed))
    scores = tf.where(restriction.has_allowed[:, tf.newaxis], only, scores)
    denied = _places(restriction.denied)
    return tf.tensor_scatter_nd_update(scores, denied, tf.fill(tf.shape(denied)[:1], -float("inf")))


def _places(rows: tf.Tensor) -> tf.Tensor:
    """Converts rows [queries, any] to pairs of query and row, int32 [any, 2], without padding."""
    at = tf.where(rows >= 0)
    return tf.stack([tf.cast(at[:, 0], tf.int32), tf.gather_nd(rows, at)], axis=1)
