"""Ranking metrics of next-item retrieval: each query has one label.

Every metric follows from the label's rank, which `ranks_of` finds once. Functions of ranks return one
value per query; `summarize` averages them per query and, under names of their own, per user.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

NDCG_CUTOFF = 10


def ranks_of(recommended: Ints, labels: Ints) -> Floats:
    """The rank, counted from 1, at which each query's label is recommended.

    Args:
        recommended: [Q, k] item ids, best first, -1 where there are fewer than k.
        labels: [Q] item ids.

    Returns:
        [Q] float64, infinite where the label is not recommended.
    """
    found = (recommended == labels[:, None]) & (recommended >= 0)
    return np.where(found.any(axis=1), found.argmax(axis=1) + 1.0, np.inf)


def hit(ranks: Floats, k: int) -> npt.NDArray[np.bool_]:
    """Whether the label is among the first k, [Q]."""
    return ranks <= k


def recall_at_k(ranks: Floats, k: int) -> Floats:
    """Share of the query's labels among the first k; with one label, 0 or 1. [Q]."""
    return hit(ranks, k).astype(np.float64)


def ndcg_at_k(ranks: Floats, k: int) -> Floats:
    """Normalised discounted cumulative gain: 1 / log2(1 + rank) within the first k, else 0. [Q]."""
    return np.where(hit(ranks, k), 1.0 / np.log2(1.0 + ranks), 0.0)


def reciprocal_rank(ranks: Floats) -> Floats:
    """1 / rank, and 0 where the label is not recommended at all. [Q]."""
    return 1.0 / ranks


def coverage_at_k(recommended: Ints, k: int, catalog_size: int) -> float:
    """Share of the catalog that is among the first k of at least one query."""
    shown = np.unique(recommended[:, :k])
    return float((shown >= 0).sum() / catalog_size)


def mean(values: npt.NDArray[np.floating]) -> float:
    """Mean over queries; NaN where there are none, which no threshold passes."""
    return float(values.mean()) if len(values) else float("nan")


def user_mean(values: npt.NDArray[np.floating], users: Ints) -> float:
    """Mean over users of each user's mean over their queries: values [Q], users [Q]."""
    _, user = np.unique(users, return_inverse=True)
    return mean(np.bincount(user, values) / np.bincount(user)) if len(users) else float("nan")


def ann_recall(served: Ints, exact: Ints) -> float:
    """Share of exact search's first k that the served index returns, mean over queries.

    The order within the first k does not count, an item returned twice counts once, and padding
    counts nowhere; queries for which exact search has no item at all are left out.

    Args:
        served: [Q, k] item ids, -1 where there are fewer.
        exact: [Q, k] item ids, likewise.
    """
    _check_queries(served=len(served), exact=len(exact))
    ids, inverse = np.unique(np.concatenate([served.ravel(), exact.ravel()]), return_inverse=True)

    def pairs(recommended: Ints, item: Ints) -> Ints:
        # One number for each pair of query and item.
        row = np.repeat(np.arange(len(recommended)), recommended.shape[1])
        return np.unique((row * len(ids) + item)[recommended.ravel() >= 0])

    wanted = pairs(exact, inverse[served.size :])
    found = np.isin(wanted, pairs(served, inverse[: served.size]), assume_unique=True)
    row = wanted // max(len(ids), 1)
    total = np.bincount(row, minlength=len(exact))
    return mean(np.bincount(row, found, minlength=len(exact))[total > 0] / total[total > 0])


def summarize(
    recommended: Ints, labels: Ints, users: Ints, cutoffs: Sequence[int], catalog_size: int
) -> dict[str, float]:
    """All metrics of one set of recommendations.

    Args:
        recommended: [Q, k] item ids, best first, -1 where there are fewer than k.
        labels: [Q] item ids.
        users: [Q] user ids.
        cutoffs: the k of Recall@k. Coverage is taken at the largest.
        catalog_size: number of items that could be recommended.

    Returns:
        `recall@k` for every cutoff, `ndcg@10` and `mrr`, means over queries; the same with the prefix
        `user_`, means over users; and `coverage@k`.

    Raises:
        ValueError: there are fewer recommendations than a cutoff asks for, or the lengths differ.
    """
    _check_queries(recommended=len(recommended), labels=len(labels), users=len(users))
    largest = max(cutoffs)
    needed = max(largest, NDCG_CUTOFF)
    if recommended.shape[1] < needed:
        raise ValueError(f"{recommended.shape[1]} recommendations a query, fewer than k={needed}.")
    ranks = ranks_of(recommended, labels)
    values = {f"recall@{k}": recall_at_k(ranks, k) for k in cutoffs}
    values[f"ndcg@{NDCG_CUTOFF}"] = ndcg_at_k(ranks, NDCG_CUTOFF)
    values["mrr"] = reciprocal_rank(ranks)
    return {
        **{name: mean(value) for name, value in values.items()},
        **{f"user_{name}": user_mean(value, users) for name, value in values.items()},
        f"coverage@{largest}": coverage_at_k(recommended, largest, catalog_size),
    }


def _check_queries(**lengths: int) -> None:
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Different numbers of queries: {lengths}.")
