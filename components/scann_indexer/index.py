"""Nearest candidates by inner product: ScaNN, or exact search, behind one interface."""

from __future__ import annotations

import math

import tensorflow as tf
from scann.scann_ops.py import scann_ops

from pipeline.configs import IndexConfig


class ExactIndex(tf.Module):
    """All inner products, then the top k. Under some 20,000 items nothing is faster."""

    kind = "exact"

    def __init__(self, embeddings: tf.Tensor) -> None:
        """`embeddings`: float32 [items, embedding_dim]."""
        super().__init__(name="exact_index")
        self._embeddings = tf.Variable(embeddings, trainable=False, name="embeddings")

    def search(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Rows int32 and scores float32, [queries, min(k, items)], best first."""
        scores = tf.matmul(queries, self._embeddings, transpose_b=True)
        best = tf.math.top_k(scores, k=tf.minimum(k, tf.shape(scores)[1]))
        return best.indices, best.values


class ScannIndex(tf.Module):
    """A ScaNN tree with asymmetric hashing and exact reordering.

    It may find fewer than k neighbours: what is missing scores NaN.
    """

    kind = "scann"

    def __init__(self, embeddings: tf.Tensor, config: IndexConfig) -> None:
        """`embeddings`: float32 [items, embedding_dim]."""
        super().__init__(name="scann_index")
        items = embeddings.shape[0]
        self.num_leaves = config.num_leaves or max(1, round(math.sqrt(items)))
        self.leaves_to_search = max(1, math.ceil(self.num_leaves * config.search_fraction))
        self._reordering = config.reordering_candidates
        searcher = (
            scann_ops.builder(embeddings, config.max_k, "dot_product")
            .tree(self.num_leaves, self.leaves_to_search, training_sample_size=min(items, 250_000))
            .score_ah(dimensions_per_block=2, anisotropic_quantization_threshold=0.2)
            .reorder(self._reordering)
            .build()
        )
        self._state = searcher.serialize_to_module()

    def search(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Rows int32 and scores float32, [queries, at most k], best first."""
        searcher = scann_ops.searcher_from_module(self._state)
        return tuple(
            searcher.search_batched_parallel(
                queries, final_num_neighbors=k, pre_reorder_num_neighbors=tf.maximum(k, self._reordering)
            )
        )


def build_index(embeddings: tf.Tensor, config: IndexConfig) -> ExactIndex | ScannIndex:
    """ScaNN from `config.exact_below` items on."""
    if embeddings.shape[0] < config.exact_below:
        return ExactIndex(embeddings)
    return ScannIndex(embeddings, config)
