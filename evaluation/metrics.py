"""Ranking metrics of retrieval: each query has one label or a set of them.

Every metric follows from `hits_of`, which finds once where the labels stand among the recommendations.
Functions of hits return one value per query; `summarize` averages them per query and, under names of their
own, per user. With one label a query, recall, clipped recall and hit rate are one number, and so are both
NDCGs.

Both kinds of recall and of NDCG are in use, and Yambda's benchmark (Ploshkin et al., 2025, "Yambda-5B",
`benchmarks/yambda/evaluation/metrics.py` beside the data) has used all four:

- Recall over the number of labels (`recall_at_k`) is the paper's; a later version of the file divides by at
  most k (`clipped_recall_at_k`).
- Mean DCG over mean ideal DCG (`pooled_ndcg_at_k`) is the paper's; the later version means to take the mean
  of quotients (`ndcg_at_k`), but takes the DCG for its own ideal, which makes it a hit rate.
- Queries are users of train who have an event in the test day, so none is without a label. Its targets are
  events: an item that was played twice counts twice in the denominators. Here labels are sets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from two_tower.evaluation.queries import LabelSets

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# Rows of [labels, K] that are looked at together.
_LABELS_AT_ONCE = 10_000


def hits_of(recommended: Ints, labels: LabelSets) -> Bools:
    """Which recommendations are labels of their query.

    Args:
        recommended: [Q, K] item ids, best first, -1 where there are fewer than K.
        labels: of Q queries.

    Returns:
        [Q, K]. Padding is never a hit, and of an item that is recommended twice the first place alone is.
    """
    shape = recommended.shape
    ids, number = np.unique(np.concatenate([recommended.ravel(), labels.item_id]), return_inverse=True)
    # Query and item as one number.
    pairs = np.repeat(np.arange(shape[0]), shape[1]) * len(ids) + number[: recommended.size]
    wanted = labels.query * len(ids) + number[recommended.size :]
    hits = np.isin(pairs, wanted) & (recommended.ravel() >= 0)
    places = np.flatnonzero(hits)
    _, first = np.unique(pairs[places], return_index=True)
    hits[:] = False
    hits[places[first]] = True
    return hits.reshape(shape)


def ranks_of(hits: Bools) -> Floats:
    """The rank, from 1, at which a query's first label is recommended; infinite where none is. [Q]."""
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1.0, np.inf)


def label_ranks(recommended: Ints, labels: LabelSets) -> Floats:
    """The rank, from 1, at which each label is recommended; infinite where it is not. [labels].

    Args:
        recommended: [Q, K] item ids, best first, -1 where there are fewer than K.
        labels: of Q queries.
    """
    ranks = np.full(len(labels.item_id), np.inf)
    query = labels.query
    for begin in range(0, len(ranks), _LABELS_AT_ONCE):
        block = slice(begin, begin + _LABELS_AT_ONCE)
        equal = recommended[query[block]] == labels.item_id[block, np.newaxis]
        ranks[block] = np.where(equal.any(axis=1), equal.argmax(axis=1) + 1.0, np.inf)
    return ranks


def recall_at_k(hits: Bools, labels: Ints, k: int) -> Floats:
    """Share of the query's labels that are among the first k: |hits| / |labels|. [Q].

    Args:
        hits: [Q, K].
        labels: [Q] number of labels.
        k: at most K.
    """
    return hits[:, :k].sum(axis=1) / labels


def clipped_recall_at_k(hits: Bools, labels: Ints, k: int) -> Floats:
    """Share of what k recommendations could find: |hits| / min(k, |labels|). [Q]; see `recall_at_k`."""
    return hits[:, :k].sum(axis=1) / np.minimum(labels, k)


def hit_rate_at_k(hits: Bools, k: int) -> Floats:
    """1 where any label is among the first k, else 0. [Q]."""
    return hits[:, :k].any(axis=1).astype(np.float64)


def dcg_at_k(hits: Bools, k: int) -> Floats:
    """Discounted cumulative gain of the first k: the sum of 1 / log2(1 + rank) over hits. [Q]."""
    return np.asarray(hits[:, :k] @ _discounts(min(k, hits.shape[1])))


def ideal_dcg_at_k(labels: Ints, k: int) -> Floats:
    """The greatest DCG there can be: the first min(k, |labels|) places are all hits. [Q]."""
    return np.asarray(np.concatenate([[0.0], np.cumsum(_discounts(k))])[np.minimum(labels, k)])


def ndcg_at_k(hits: Bools, labels: Ints, k: int) -> Floats:
    """Normalised DCG: each query's own DCG / ideal DCG (Järvelin and Kekäläinen, 2002). [Q]."""
    return dcg_at_k(hits, k) / ideal_dcg_at_k(labels, k)


def pooled_ndcg_at_k(hits: Bools, labels: Ints, k: int, average: Callable[[Floats], float]) -> float:
    """Mean DCG / mean ideal DCG: queries with many labels weigh more. `average`: of a value per query."""
    return average(dcg_at_k(hits, k)) / average(ideal_dcg_at_k(labels, k))


def reciprocal_rank(hits: Bools) -> Floats:
    """1 / rank of the first label, and 0 where none is recommended. [Q]."""
    return 1.0 / ranks_of(hits)


def values_by_query(
    ranks: npt.NDArray[np.floating], labels: LabelSets, cutoffs: Sequence[int], chosen: Bools | None = None
) -> dict[str, Floats]:
    """`recall@k`, `ndcg@k`, `hit_rate@k` and `mrr` of every query, from the ranks of its labels alone.

    Args:
        ranks: [labels] by `label_ranks`.
        labels: of Q queries.
        cutoffs: each k.
        chosen: [labels] of which labels alone; all without it. Where they stand among all recommendations
            stays as it is.

    Returns:
        By name [Q]; NaN for a query that has no such label.
    """
    query = labels.query if chosen is None else labels.query[chosen]
    rank = np.asarray(ranks if chosen is None else ranks[chosen], np.float64)
    counts = np.bincount(query, minlength=len(labels))
    asked = counts > 0

    def of_query(values: npt.NDArray[Any], scale: npt.NDArray[Any] | None = None) -> Floats:
        total = np.bincount(query, values, minlength=len(labels))
        of_all = np.full(len(labels), np.nan)
        np.divide(total, np.ones(len(labels)) if scale is None else scale, out=of_all, where=asked)
        return of_all

    best = np.full(len(labels), np.inf)
    np.minimum.at(best, query, rank)
    gain = 1.0 / np.log2(1.0 + rank)
    within = {k: rank <= k for k in cutoffs}
    return {
        **{f"recall@{k}": of_query(within[k], counts) for k in cutoffs},
        **{f"ndcg@{k}": of_query(gain * within[k], ideal_dcg_at_k(counts, k)) for k in cutoffs},
        **{f"hit_rate@{k}": np.where(asked, best <= k, np.nan) for k in cutoffs},
        "mrr": np.where(asked, 1.0 / best, np.nan),
    }


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
    found = exact >= 0
    wanted = LabelSets(exact[found], np.concatenate([[0], np.cumsum(found.sum(axis=1))]))
    hits, total = hits_of(served, wanted).sum(axis=1), wanted.counts
    return mean(hits[total > 0] / total[total > 0])


def summarize(
    recommended: Ints, labels: LabelSets, users: Ints, cutoffs: Sequence[int], catalog_size: int
) -> dict[str, float]:
    """All metrics of one set of recommendations.

    Args:
        recommended: [Q, K] item ids, best first, -1 where there are fewer than K.
        labels: of each query, at least one.
        users: [Q] user ids.
        cutoffs: the k of the metrics.
        catalog_size: number of items that could be recommended.

    Returns:
        For every cutoff k `recall@k`, `clipped_recall@k`, `hit_rate@k`, `ndcg@k` and `pooled_ndcg@k`, and
        `mrr`, over queries; the same with the prefix `user_`, over users, a user's value being the mean over
        their queries; and `coverage@k`. `pooled_ndcg@k` is mean DCG over mean ideal DCG, each mean over
        queries or users as its name says.

    Raises:
        ValueError: there are fewer recommendations than a cutoff asks for, a query has no label, or the
            lengths differ.
    """
    _check_queries(recommended=len(recommended), labels=len(labels), users=len(users))
    largest = max(cutoffs)
    if recommended.shape[1] < largest:
        raise ValueError(f"{recommended.shape[1]} recommendations a query, fewer than k={largest}.")
    counts = labels.counts
    if not counts.all():
        raise ValueError(f"{(counts == 0).sum()} of {len(counts)} queries have no label.")
    hits = hits_of(recommended, labels)
    values = {
        **{f"recall@{k}": recall_at_k(hits, counts, k) for k in cutoffs},
        **{f"clipped_recall@{k}": clipped_recall_at_k(hits, counts, k) for k in cutoffs},
        **{f"hit_rate@{k}": hit_rate_at_k(hits, k) for k in cutoffs},
        **{f"ndcg@{k}": ndcg_at_k(hits, counts, k) for k in cutoffs},
    }

    def averages(prefix: str, average: Callable[[Floats], float]) -> dict[str, float]:
        named = {
            **{name: average(value) for name, value in values.items()},
            **{f"pooled_ndcg@{k}": pooled_ndcg_at_k(hits, counts, k, average) for k in cutoffs},
            "mrr": average(reciprocal_rank(hits)),
        }
        return {prefix + name: value for name, value in named.items()}

    return {
        **averages("", mean),
        **averages("user_", lambda value: user_mean(value, users)),
        **{f"coverage@{k}": coverage_at_k(recommended, k, catalog_size) for k in cutoffs},
    }


def _discounts(k: int) -> Floats:
    """1 / log2(1 + rank) of the ranks 1 to k."""
    return 1.0 / np.log2(np.arange(2.0, k + 2.0))


def _check_queries(**lengths: int) -> None:
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Different numbers of queries: {lengths}.")
