"""Where items' embeddings begin, if not at random: near those of what is heard shortly before and after.

Few labels an item do not take a random vector to where it belongs. How often two items come near each other
is a count, whose factors are vectors with inner products that tell it (Levy and Goldberg, "Neural Word
Embedding as Implicit Matrix Factorization", 2014): training begins from them.
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
# Events before a label that count as near it, each 1 / its distance; fewer where there would be more pairs.
_REACH = 20
_MOST_PAIRS = 50_000_000
# Pairs that are held before they are summed up, of some 30 bytes each.
_PAIRS_AT_ONCE = 5_000_000
# Of items times factors, of which the solver holds some 16 bytes each: a catalog beyond 2 million items has
# fewer factors than 128.
_MOST_NUMBERS = 256_000_000
# Of a smaller matrix all eigenvectors are computed at once: it is as fast, and has no least size.
_SMALL_MATRIX = 500


def co_occurrence_embeddings(
    batches: Iterable[dict[str, tf.RaggedTensor]], table: CatalogTable, width: int, labels: int, seed: int
) -> np.ndarray:
    """Embeddings of length one, whose inner products tell which items come near each other in train.

    They are the first eigenvectors of log(1 + c_ij c / (c_i c_j)), each times the root of its eigenvalue,
    where c_ij is how often i and j are near each other, and c_i and c are sums of it: as many as `width` in
    all but the largest catalogs.

    Args:
      batches: Transform's windows of train.
      table: the catalog.
      width: of an embedding.
      labels: how many there are in all batches: it bounds how far is counted.
      seed: of the rotation that spreads what the first eigenvectors say over all numbers.

    Returns:
      float32 [item_vocabulary_size, width], rows of the items' embedding table: zeros where an item is near
      no other, and in the first, which is of no item.
    """
    embeddings = np.zeros([table.item_vocabulary_size, width], np.float32)
    lifts = _log_lifts(_nearness(batches, table, max(1, min(_REACH, _MOST_PAIRS // max(labels, 1)))))
    if not lifts.nnz:
        return embeddings
    count = min(width, len(embeddings), max(1, _MOST_NUMBERS // len(embeddings)))
    values, vectors = _first_eigenvectors(lifts, count, seed)
    factors = vectors * np.sqrt(np.maximum(values, 0.0))
    length = np.linalg.norm(factors, axis=1, keepdims=True)
    # Of an item near no other what is there is noise.
    is_near = (np.diff(lifts.indptr) > 0)[:, np.newaxis] & (length > 0.0)
    factors = np.divide(factors, length, out=np.zeros_like(factors), where=is_near)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=[width, width]))
    embeddings[:] = factors @ rotation[: factors.shape[1]]
    return embeddings


def _nearness(batches: Iterable[dict[str, tf.RaggedTensor]], table: CatalogTable, reach: int) -> Any:
    """Sparse and symmetric, [item_vocabulary_size, item_vocabulary_size]: labels, with each of the `reach`
    listens before them, at a distance d counted 1 / d."""
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
    """log(1 + c_ij c / (c_i c_j)) of what is there of c_ij, sparse float64."""
    nearness = nearness.tocoo().astype(np.float64)
    of_item = np.asarray(nearness.sum(axis=1))[:, 0]
    expected = of_item[nearness.row] * of_item[nearness.col] / of_item.sum()
    nearness.data = np.log1p(nearness.data / expected)
    return nearness.tocsr()


def _first_eigenvectors(matrix: Any, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The greatest eigenvalues of a symmetric matrix, [count], and their vectors, [rows, count]; fewer of
    both where the solver does not find all of them."""
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    rows = matrix.shape[0]
    if rows <= max(_SMALL_MATRIX, 2 * count):
        values, vectors = np.linalg.eigh(matrix.toarray())
        return values[-count:], vectors[:, -count:]
    # Of one beginning, so that two trainings begin alike; more digits than training keeps are of no use.
    begin = np.random.default_rng(seed).normal(size=rows)
    try:
        return eigsh(matrix, k=count, which="LA", v0=begin, tol=1e-4)
    except ArpackNoConvergence as error:
        _log.warning(
            "Items begin at %d factors of co-occurrence, not %d: %s", len(error.eigenvalues), count, error
        )
        return error.eigenvalues, error.eigenvectors
