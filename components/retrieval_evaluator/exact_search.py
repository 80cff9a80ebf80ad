"""Exact top k by inner product over catalogs of any size, in bounded memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from components.retrieval_evaluator.queries import PADDING, Ints

Vectors = npt.NDArray[np.float32]

# A block of scores: so many queries by so many items, 32 MB of float32.
QUERIES_AT_ONCE, ITEMS_AT_ONCE = 512, 16_384


def top_rows(queries: Vectors, candidates: Vectors, k: int, excluded: Ints | None = None) -> Ints:
    """The k candidates with the largest inner product with each query, best first.

    All are compared, a block of scores at a time. Once a query has k candidates, of a further block only
    what exceeds the last of them is looked at, which is next to nothing: the time is that of the products.

    Args:
        queries: [Q, D].
        candidates: [N, D].
        k: how many.
        excluded: [Q, E] rows of candidates that a query must not be answered with, -1 at padding.

    Returns:
        [Q, k] rows of candidates, -1 where there are fewer than k. Of equal scores the lower row is first.
    """
    found = np.full([len(queries), k], PADDING, np.int64)
    for begin in range(0, len(queries), QUERIES_AT_ONCE):
        block = slice(begin, begin + QUERIES_AT_ONCE)
        found[block] = _of_block(queries[block], candidates, k, None if excluded is None else excluded[block])
    return found


def _of_block(queries: Vectors, candidates: Vectors, k: int, excluded: Ints | None) -> Ints:
    rows = np.full([len(queries), k], PADDING, np.int64)
    best = np.full([len(queries), k], -np.inf, np.float32)
    for begin in range(0, len(candidates), ITEMS_AT_ONCE):
        scores = queries @ candidates[begin : begin + ITEMS_AT_ONCE].T
        if excluded is not None:
            query, place = np.nonzero((excluded >= begin) & (excluded < begin + ITEMS_AT_ONCE))
            scores[query, excluded[query, place] - begin] = -np.inf
        limit = best[:, -1:]
        if np.isneginf(limit).any() and scores.shape[1] > k:
            # Not yet k: what reaches the block's own k-th score is enough.
            limit = np.maximum(limit, np.partition(scores, -k, axis=1)[:, -k, np.newaxis])
            better = (scores >= limit) & (scores > -np.inf)
        else:
            # Equal scores of earlier rows stay.
            better = scores > limit
        query, column = np.nonzero(better)
        count = np.bincount(query, minlength=len(queries))
        if not len(query):
            continue
        place = np.arange(len(query)) - np.repeat(np.cumsum(count) - count, count)
        more_rows = np.full([len(queries), count.max()], PADDING, np.int64)
        more_scores = np.full(more_rows.shape, -np.inf, np.float32)
        more_rows[query, place], more_scores[query, place] = column + begin, scores[query, column]
        rows, best = _merged(np.hstack([rows, more_rows]), np.hstack([best, more_scores]), k)
    return rows


def _merged(rows: Ints, scores: Vectors, k: int) -> tuple[Ints, Vectors]:
    """The k best of each line; of equal scores the first stays first."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
