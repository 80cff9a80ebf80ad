"""Co-occurrence initialisation of item embeddings: factors of how often items are heard near each other.

It is the alternative to random initialisation. With few labels an item, training does not move a random
embedding far enough. The factors of the co-occurrence matrix are vectors whose inner products approximate
it (Levy and Goldberg, "Neural Word Embedding as Implicit Matrix Factorization", 2014).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from two_tower.schema import features
from two_tower.trainer.model.catalog_table import CatalogTable

_log = logging.getLogger(__name__)

# Values of trainer.item_initial.
RANDOM, CO_OCCURRENCE = "random", "co_occurrence"
# Context size: events before a label, each with weight 1 / distance. _MOST_PAIRS limits it.
_REACH = 20
_MOST_PAIRS = 50_000_000
# Pairs that are buffered before they are summed, of some 30 bytes each.
_PAIRS_AT_ONCE = 5_000_000
# Limit of items times factors; the solver holds some 16 bytes for each. A catalog beyond 2 million items has
# fewer than 128 factors.
_MOST_NUMBERS = 256_000_000
# A smaller matrix gets a dense eigendecomposition: it is as fast, and works at any size.
_SMALL_MATRIX = 500


def co_occurrence_embeddings(
    batches: Iterable[dict[str, tf.RaggedTensor]], table: CatalogTable, width: int, labels: int, seed: int
) -> np.ndarray:
    """Returns item embeddings of length one whose inner products reflect co-occurrence in train.

    c_ij counts how often items i and j are near each other; c_i and c are its sums. The embeddings are the
    first eigenvectors of log(1 + c_ij c / (c_i c_j)), each times the square root of its eigenvalue. Their
    number is `width` in all but the largest catalogs.

    Args:
      batches: Transform's windows of train.
      table: the catalog.
      width: the width of an embedding.
      labels: the number of labels in all batches, which limits the context size.
      seed: of the rotation that spreads the first eigenvectors over all dimensions.

    Returns:
      float32 [item_vocabulary_size, width], rows of the items' embedding table. Zero for an item without
      neighbours, and in the first row, the out-of-vocabulary row.
    """
    embeddings = np.zeros([table.item_vocabulary_size, width], np.float32)
    lifts = _log_lifts(_nearness(batches, table, max(1, min(_REACH, _MOST_PAIRS // max(labels, 1)))))
    if not lifts.nnz:
        return embeddings
    count = min(width, len(embeddings), max(1, _MOST_NUMBERS // len(embeddings)))
    values, vectors = _first_eigenvectors(lifts, count, seed)
    factors = vectors * np.sqrt(np.maximum(values, 0.0))
    length = np.linalg.norm(factors, axis=1, keepdims=True)
    # The factors of an item without neighbours are noise.
    is_near = (np.diff(lifts.indptr) > 0)[:, np.newaxis] & (length > 0.0)
    factors = np.divide(factors, length, out=np.zeros_like(factors), where=is_near)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=[width, width]))
    embeddings[:] = factors @ rotation[: factors.shape[1]]
    return embeddings


def _nearness(batches: Iterable[dict[str, tf.RaggedTensor]], table: CatalogTable, reach: int) -> Any:
    """Counts co-occurrences of labels with the `reach` listens before them, 1 / d at a distance of d events.

    Returns:
      A sparse, symmetric matrix [item_vocabulary_size, item_vocabulary_size].
    """
    from scipy.sparse import csr_matrix

    shape = (table.item_vocabulary_size,) * 2
    total = csr_matrix(shape, dtype=np.float32)
    held: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def summed_up() -> Any:
        labels, others, counts = (np.concatenate(parts) for parts in zip(*held, strict=True))
        held.clear()
        return total + csr_matrix((counts, (labels, others)), shape=shape)

    for batch in batches:
        ids = batch[features.HISTORY_ITEM_ID]
        rows = tf.gather(table.item, table.rows_of(ids.flat_values)).numpy()
        window, is_listen = ids.value_rowids().numpy(), batch[features.IS_LISTEN].flat_values.numpy() > 0
        step = batch[features.LABEL_STEP].flat_values.numpy()
        label = np.flatnonzero(step > 0) + step[step > 0]
        for distance in range(1, reach + 1):
            label = label[label >= distance]
            other = label - distance
            near = (window[label] == window[other]) & is_listen[other]
            near &= (rows[label] > 0) & (rows[other] > 0) & (rows[label] != rows[other])
            count = np.full(np.count_nonzero(near), 1 / distance, np.float32)
            held.append((rows[label][near], rows[other][near], count))
        if sum(len(counts) for *_, counts in held) > _PAIRS_AT_ONCE:
            total = summed_up()
    if held:
        total = summed_up()
    return total + total.T


def _log_lifts(nearness: Any) -> Any:
    """Computes log(1 + c_ij c / (c_i c_j)) of the stored entries of c_ij, sparse float64."""
    nearness = nearness.tocoo().astype(np.float64)
    of_item = np.asarray(nearness.sum(axis=1))[:, 0]
    expected = of_item[nearness.row] * of_item[nearness.col] / of_item.sum()
    nearness.data = np.log1p(nearness.data / expected)
    return nearness.tocsr()


def _first_eigenvectors(matrix: Any, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Computes the greatest eigenvalues of a symmetric matrix, [count], and their vectors, [rows, count].

    Both are fewer where the solver does not converge for all of them.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    rows = matrix.shape[0]
    if rows <= max(_SMALL_MATRIX, 2 * count):
        values, vectors = np.linalg.eigh(matrix.toarray())
        return values[-count:], vectors[:, -count:]
    # A fixed start vector makes the initialisation reproducible. Training needs no tighter tolerance.
    begin = np.random.default_rng(seed).normal(size=rows)
    try:
        return eigsh(matrix, k=count, which="LA", v0=begin, tol=1e-4)
    except ArpackNoConvergence as error:
        _log.warning(
            "Item embeddings are initialised by %d factors of co-occurrence, not %d: %s",
            len(error.eigenvalues),
            count,
            error,
        )
        return error.eigenvalues, error.eigenvectors
