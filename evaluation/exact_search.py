"""Exact top k by inner product over catalogs of any size, in bounded memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from two_tower.evaluation.queries import PADDING, Ints


@dataclasses.dataclass(frozen=True)
class OwnScores:
    """Candidates' own scores, which replace their inner product with a query.

    Attributes:
        rows: int64 [Q, R], -1 at padding; each candidate once a query.
        scores: float32 [Q, R], no less than the inner products.
    """

    rows: Ints
    scores: npt.NDArray[np.float32]


Vectors = npt.NDArray[np.float32]

# Queries and items of a block of scores: 32 MB of float32.
QUERIES_AT_ONCE, ITEMS_AT_ONCE = 512, 16_384


def top_rows(
    queries: Vectors,
    candidates: Vectors,
    k: int,
    excluded: Ints | None = None,
    own_scores: OwnScores | None = None,
) -> Ints:
    """Finds the k candidates with the largest inner product with each query, best first.

    All candidates are compared, a block of scores at a time. Once a query has k candidates, only scores above
    the last of them matter in a further block, which are few: the time is that of the products.

    Args:
        queries: [Q, D].
        candidates: [N, D].
        k: number of candidates.
        excluded: [Q, E] rows of candidates that are left out of a query's answer, -1 at padding.
        own_scores: scores that replace the inner product, of candidates that are not excluded.

    Returns:
        [Q, k] rows of candidates, -1 where there are fewer than k. Of equal scores the lower row is first.
    """
    found = np.full([len(queries), k], PADDING, np.int64)
    for begin in range(0, len(queries), QUERIES_AT_ONCE):
        block = slice(begin, begin + QUERIES_AT_ONCE)
        rows, scores = _of_block(queries[block], candidates, k, None if excluded is None else excluded[block])
        if own_scores is not None:
            rows, scores = _merged_with(rows, scores, own_scores.rows[block], own_scores.scores[block])
        found[block] = rows
    return found


def _merged_with(rows: Ints, scores: Vectors, own: Ints, own_scores: Vectors) -> tuple[Ints, Vectors]:
    """Merges candidates `own` at their own scores. No other can come in: own scores only rise."""
    line = np.arange(len(rows))[:, np.newaxis]
    width = max(own.max(initial=0), rows.max(initial=0)) + 1
    is_own = np.isin(line * width + rows, (line * width + own)[own >= 0])
    scores = np.hstack([np.where(own >= 0, own_scores, -np.inf), np.where(is_own, -np.inf, scores)])
    rows = np.where(scores > -np.inf, np.hstack([own, rows]), PADDING)
    return _merged(rows, scores, is_own.shape[1])


def _of_block(queries: Vectors, candidates: Vectors, k: int, excluded: Ints | None) -> tuple[Ints, Vectors]:
    rows = np.full([len(queries), k], PADDING, np.int64)
    best = np.full([len(queries), k], -np.inf, np.float32)
    for begin in range(0, len(candidates), ITEMS_AT_ONCE):
        scores = queries @ candidates[begin : begin + ITEMS_AT_ONCE].T
        if excluded is not None:
            query, place = np.nonzero((excluded >= begin) & (excluded < begin + ITEMS_AT_ONCE))
            scores[query, excluded[query, place] - begin] = -np.inf
        limit = best[:, -1:]
        if np.isneginf(limit).any() and scores.shape[1] > k:
            # Fewer than k so far: scores from the block's own k-th on are enough.
            limit = np.maximum(limit, np.partition(scores, -k, axis=1)[:, -k, np.newaxis])
            better = (scores >= limit) & (scores > -np.inf)
        else:
            # Earlier rows of equal scores stay.
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
    return rows, best


def _merged(rows: Ints, scores: Vectors, k: int) -> tuple[Ints, Vectors]:
    """Keeps the k best of each line; of equal scores the first stays first."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
