"""Ranking metrics of retrieval: each query has one label or a set of them.

Every metric follows from `hits_of`, which finds once where the labels stand among the recommendations.
Functions of hits return one value per query; `metric_table.summarize` averages them over queries and over
users. With one label a query, recall, clipped recall and hit rate are one number, and so are both NDCGs.

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

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from two_tower.evaluation.queries import LabelSets

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# Rows of [labels, K] that are compared at once.
_LABELS_AT_ONCE = 10_000


def hits_of(recommended: Ints, labels: LabelSets) -> Bools:
    """Marks the recommendations that are labels of their query.

    Args:
        recommended: [Q, K] item ids, best first, -1 where there are fewer than K.
        labels: labels of Q queries.

    Returns:
        [Q, K]. Padding is never a hit. An item that is recommended twice is a hit at its first place alone.
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
    """Finds the rank, from 1, of each query's first recommended label; infinite where none is. [Q]."""
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1.0, np.inf)


def label_ranks(recommended: Ints, labels: LabelSets) -> Floats:
    """Finds the rank, from 1, at which each label is recommended; infinite where it is not. [labels].

    Args:
        recommended: [Q, K] item ids, best first, -1 where there are fewer than K.
        labels: labels of Q queries.
    """
    ranks = np.full(len(labels.item_id), np.inf)
    query = labels.query
    for begin in range(0, len(ranks), _LABELS_AT_ONCE):
        block = slice(begin, begin + _LABELS_AT_ONCE)
        equal = recommended[query[block]] == labels.item_id[block, np.newaxis]
        ranks[block] = np.where(equal.any(axis=1), equal.argmax(axis=1) + 1.0, np.inf)
    return ranks


def recall_at_k(hits: Bools, labels: Ints, k: int) -> Floats:
    """Computes the share of each query's labels among the first k: |hits| / |labels|. [Q].

    Args:
        hits: [Q, K].
        labels: [Q] number of labels.
        k: at most K.
    """
    return hits[:, :k].sum(axis=1) / labels


def clipped_recall_at_k(hits: Bools, labels: Ints, k: int) -> Floats:
    """Computes the share of what k recommendations could find: |hits| / min(k, |labels|). [Q]."""
    return hits[:, :k].sum(axis=1) / np.minimum(labels, k)


def hit_rate_at_k(hits: Bools, k: int) -> Floats:
    """Returns 1 where any label is among the first k, else 0. [Q]."""
    return hits[:, :k].any(axis=1).astype(np.float64)


def dcg_at_k(hits: Bools, k: int) -> Floats:
    """Sums 1 / log2(1 + rank) over the hits among the first k: discounted cumulative gain. [Q]."""
    return np.asarray(hits[:, :k] @ _discounts(min(k, hits.shape[1])))


def ideal_dcg_at_k(labels: Ints, k: int) -> Floats:
    """Computes the greatest possible DCG: the first min(k, |labels|) places are all hits. [Q]."""
    return np.asarray(np.concatenate([[0.0], np.cumsum(_discounts(k))])[np.minimum(labels, k)])


def ndcg_at_k(hits: Bools, labels: Ints, k: int) -> Floats:
    """Computes normalised DCG: each query's DCG / ideal DCG (Järvelin and Kekäläinen, 2002). [Q]."""
    return dcg_at_k(hits, k) / ideal_dcg_at_k(labels, k)


def pooled_ndcg_at_k(hits: Bools, labels: Ints, k: int, average: Callable[[Floats], float]) -> float:
    """Computes mean DCG / mean ideal DCG: queries with many labels weigh more.

    `average` averages a value per query.
    """
    return average(dcg_at_k(hits, k)) / average(ideal_dcg_at_k(labels, k))


def reciprocal_rank(hits: Bools) -> Floats:
    """Computes 1 / rank of the first label, and 0 where none is recommended. [Q]."""
    return 1.0 / ranks_of(hits)


def coverage_at_k(recommended: Ints, k: int, catalog_size: int) -> float:
    """Computes the share of the catalog that is among the first k of at least one query."""
    shown = np.unique(recommended[:, :k])
    return float((shown >= 0).sum() / catalog_size)


def mean(values: npt.NDArray[np.floating]) -> float:
    """Averages over queries; NaN where there are none, which fails every threshold."""
    return float(values.mean()) if len(values) else float("nan")


def user_mean(values: npt.NDArray[np.floating], users: Ints) -> float:
    """Averages each user's mean over their queries: values [Q], users [Q]."""
    _, user = np.unique(users, return_inverse=True)
    return mean(np.bincount(user, values) / np.bincount(user))


def ann_recall(served: Ints, exact: Ints) -> Floats:
    """Computes the share of exact search's first k that the served index returns. [Q].

    The order within the first k does not count, an item returned twice counts once, and padding never counts.
    A query for which exact search has no item at all has NaN.

    Args:
        served: [Q, k] item ids, -1 where there are fewer.
        exact: [Q, k] item ids, likewise.
    """
    check_queries(served=len(served), exact=len(exact))
    found = exact >= 0
    wanted = LabelSets(exact[found], np.concatenate([[0], np.cumsum(found.sum(axis=1))]))
    hits, total = hits_of(served, wanted).sum(axis=1), wanted.counts
    return np.divide(hits, total, out=np.full(len(total), np.nan), where=total > 0)


def _discounts(k: int) -> Floats:
    """Computes 1 / log2(1 + rank) of the ranks 1 to k."""
    return 1.0 / np.log2(np.arange(2.0, k + 2.0))


def check_queries(**lengths: int) -> None:
    """Raises ValueError where numbers of queries differ."""
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Different numbers of queries: {lengths}.")
