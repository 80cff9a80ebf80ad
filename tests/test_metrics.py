from __future__ import annotations

import math

import numpy as np
import pytest

from components.retrieval_evaluator.metrics import (
    ann_recall,
    coverage_at_k,
    mean,
    ndcg_at_k,
    ranks_of,
    recall_at_k,
    reciprocal_rank,
    summarize,
    user_mean,
)

RECOMMENDED = np.array([[5, 6, 7, 8], [5, 6, 7, 8], [9, -1, -1, -1], [-1, -1, -1, -1]])
LABELS = np.array([5, 7, 3, 3])
RANKS = ranks_of(RECOMMENDED, LABELS)


def test_a_rank_counts_from_one_and_is_infinite_where_the_label_is_missing() -> None:
    assert RANKS.tolist() == [1.0, 3.0, math.inf, math.inf]


def test_padding_is_never_a_hit_even_for_a_label_that_looks_like_it() -> None:
    assert ranks_of(np.array([[4, -1]]), np.array([-1])).tolist() == [math.inf]


def test_an_item_that_is_listed_twice_counts_where_it_stands_first() -> None:
    assert ranks_of(np.array([[4, 7, 7]]), np.array([7])).tolist() == [2.0]


def test_metrics_of_known_ranks() -> None:
    assert recall_at_k(RANKS, 1).tolist() == [1, 0, 0, 0]
    assert recall_at_k(RANKS, 2).tolist() == [1, 0, 0, 0]
    assert recall_at_k(RANKS, 3).tolist() == [1, 1, 0, 0]
    # log2(1 + 3) = 2.
    assert ndcg_at_k(RANKS, 3).tolist() == [1, 0.5, 0, 0]
    assert ndcg_at_k(RANKS, 2).tolist() == [1, 0, 0, 0]
    assert reciprocal_rank(RANKS) == pytest.approx([1, 1 / 3, 0, 0])


def test_coverage_counts_distinct_items_within_the_cutoff() -> None:
    assert coverage_at_k(RECOMMENDED, 1, catalog_size=10) == 0.2
    assert coverage_at_k(RECOMMENDED, 4, catalog_size=10) == 0.5


def test_a_mean_over_users_weighs_users_and_a_mean_over_queries_weighs_queries() -> None:
    hits = np.array([1.0, 1.0, 1.0, 0.0])
    users = np.array([8, 8, 8, 3])
    assert mean(hits) == 0.75
    assert user_mean(hits, users) == 0.5


def test_a_summary_names_every_average() -> None:
    wide = np.pad(RECOMMENDED, [(0, 0), (0, 8)], constant_values=-1)
    summary = summarize(wide, LABELS, users=np.array([1, 2, 2, 2]), cutoffs=(1, 3, 12), catalog_size=10)
    assert summary == pytest.approx({
        "recall@1": 1 / 4, "recall@3": 2 / 4, "recall@12": 2 / 4, "ndcg@10": 1.5 / 4, "mrr": (4 / 3) / 4,
        "user_recall@1": 1 / 2, "user_recall@3": (1 + 1 / 3) / 2, "user_recall@12": (1 + 1 / 3) / 2,
        "user_ndcg@10": (1 + 0.5 / 3) / 2, "user_mrr": (1 + 1 / 9) / 2, "coverage@12": 0.5,
    })  # fmt: skip


def test_fewer_recommendations_than_the_cutoff_are_an_error_that_names_both() -> None:
    with pytest.raises(ValueError, match="4 recommendations a query, fewer than k=50"):
        summarize(RECOMMENDED, LABELS, LABELS, (1, 50), catalog_size=10)


def test_lengths_that_differ_are_an_error() -> None:
    with pytest.raises(ValueError, match="'labels': 3"):
        summarize(RECOMMENDED, LABELS[:3], LABELS, (1, 4), catalog_size=10)


def test_without_queries_nothing_is_measured() -> None:
    empty = np.empty(0, np.int64)
    summary = summarize(np.empty([0, 10], np.int64), empty, empty, (1, 10), catalog_size=10)
    assert math.isnan(summary["recall@10"]) and math.isnan(summary["user_recall@10"])
    assert math.isnan(ann_recall(np.empty([0, 10], np.int64), np.empty([0, 10], np.int64)))


def test_ann_recall_is_a_share_of_sets() -> None:
    exact = np.array([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, -1, -1], [-1, -1, -1, -1]])
    served = np.array([[4, 3, 2, 1], [1, 1, 1, 9], [2, -1, -1, -1], [7, -1, -1, -1]])
    # Order does not count; 1 counts once; padding is not an item; the last query has nothing to find.
    assert ann_recall(served, exact) == pytest.approx((1 + 1 / 4 + 1 / 2) / 3)
    assert ann_recall(exact, exact) == 1.0
    assert ann_recall(np.full_like(exact, -1), exact) == 0.0


def test_ann_recall_does_not_mix_queries_up() -> None:
    assert ann_recall(np.array([[1, 2], [3, 4]]), np.array([[3, 4], [1, 2]])) == 0.0
