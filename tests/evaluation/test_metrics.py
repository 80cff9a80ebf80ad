from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from two_tower.evaluation.metric_table import summarize
from two_tower.evaluation.metrics import (
    ann_recall,
    clipped_recall_at_k,
    coverage_at_k,
    dcg_at_k,
    hit_rate_at_k,
    hits_of,
    ideal_dcg_at_k,
    mean,
    ndcg_at_k,
    pooled_ndcg_at_k,
    ranks_of,
    recall_at_k,
    reciprocal_rank,
    user_mean,
)
from two_tower.evaluation.queries import LabelSets

RECOMMENDED = np.array([[5, 6, 7, 8], [5, 6, 7, 8], [9, -1, -1, -1], [-1, -1, -1, -1]])
LABELS = np.array([5, 7, 3, 3])
HITS = hits_of(RECOMMENDED, LabelSets.of_one(LABELS))
ONE = np.ones(4, np.int64)


def sets(*labels: list[int]) -> LabelSets:
    return LabelSets(np.concatenate(labels).astype(np.int64), np.cumsum([0, *map(len, labels)]))


def test_a_rank_counts_from_one_and_is_infinite_where_the_label_is_missing() -> None:
    assert ranks_of(HITS).tolist() == [1.0, 3.0, math.inf, math.inf]


def test_padding_is_never_a_hit_even_for_a_label_that_looks_like_it() -> None:
    assert hits_of(np.array([[4, -1]]), LabelSets.of_one([-1])).tolist() == [[False, False]]


def test_an_item_that_is_listed_twice_counts_where_it_stands_first() -> None:
    hits = hits_of(np.array([[4, 7, 7, 4, 1]]), sets([7, 1]))
    assert hits.tolist() == [[False, True, False, False, True]]


def test_a_label_of_another_query_is_no_hit() -> None:
    hits = hits_of(np.array([[1, 2, 3], [1, 2, 3], [1, 2, 3]]), sets([3, 9], [1, 2], [7]))
    assert hits.tolist() == [[False, False, True], [True, True, False], [False, False, False]]


def test_metrics_of_known_ranks() -> None:
    for recall in (recall_at_k, clipped_recall_at_k):
        assert recall(HITS, ONE, 1).tolist() == [1, 0, 0, 0]
        assert recall(HITS, ONE, 2).tolist() == [1, 0, 0, 0]
        assert recall(HITS, ONE, 3).tolist() == [1, 1, 0, 0]
    assert hit_rate_at_k(HITS, 3).tolist() == [1, 1, 0, 0]
    # log2(1 + 3) = 2.
    assert ndcg_at_k(HITS, ONE, 3).tolist() == [1, 0.5, 0, 0]
    assert ndcg_at_k(HITS, ONE, 2).tolist() == [1, 0, 0, 0]
    assert reciprocal_rank(HITS) == pytest.approx([1, 1 / 3, 0, 0])


def test_metrics_of_sets_of_labels() -> None:
    # Hits at 1 and 3 of two labels; at 2 of five labels; none of one.
    hits = hits_of(np.array([[1, 2, 3], [1, 2, 3], [1, 2, 3]]), sets([3, 1], [2, 6, 7, 8, 9], [6]))
    counts = np.array([2, 5, 1])
    assert recall_at_k(hits, counts, 3).tolist() == [1, 0.2, 0]
    assert recall_at_k(hits, counts, 2).tolist() == [0.5, 0.2, 0]
    assert clipped_recall_at_k(hits, counts, 2).tolist() == [0.5, 0.5, 0]
    assert clipped_recall_at_k(hits, counts, 3) == pytest.approx([1, 1 / 3, 0])
    assert clipped_recall_at_k(hits, counts, 1).tolist() == [1, 0, 0]
    assert hit_rate_at_k(hits, 1).tolist() == [1, 0, 0]
    second, third = 1 / math.log2(3), 0.5
    assert dcg_at_k(hits, 3) == pytest.approx([1 + third, second, 0])
    assert ideal_dcg_at_k(counts, 3) == pytest.approx([1 + second, 1 + second + third, 1])
    assert ndcg_at_k(hits, counts, 3) == pytest.approx(
        [(1 + third) / (1 + second), second / (1 + second + third), 0]
    )
    # Means over queries first, then the quotient.
    assert pooled_ndcg_at_k(hits, counts, 3, mean) == pytest.approx(
        (1 + third + second) / (1 + second + 1 + second + third + 1)
    )
    assert reciprocal_rank(hits).tolist() == [1, 0.5, 0]
    assert ideal_dcg_at_k(np.array([0, 1]), 3).tolist() == [0, 1]


def test_what_finds_everything_first_is_perfect_at_every_cutoff_but_for_recall_below_the_labels() -> None:
    labels = sets([1, 2, 3], [4])
    perfect = summarize(np.array([[3, 1, 2, 9], [4, 8, 9, 1]]), labels, np.array([1, 2]), (1, 2, 4), 10)
    for k in (1, 2, 4):
        for name in ("clipped_recall", "hit_rate", "ndcg", "pooled_ndcg"):
            assert perfect[f"{name}@{k}"] == perfect[f"user_{name}@{k}"] == pytest.approx(1)
    assert perfect["recall@1"] == pytest.approx((1 / 3 + 1) / 2)
    assert perfect["recall@4"] == 1


def test_coverage_counts_distinct_items_within_the_cutoff() -> None:
    assert coverage_at_k(RECOMMENDED, 1, catalog_size=10) == 0.2
    assert coverage_at_k(RECOMMENDED, 4, catalog_size=10) == 0.5
    # Zero is an id as any other.
    assert coverage_at_k(np.array([[0, 1], [0, -1]]), 2, catalog_size=10) == 0.2


def test_a_mean_over_users_weighs_users_and_a_mean_over_queries_weighs_queries() -> None:
    hits = np.array([1.0, 1.0, 1.0, 0.0])
    users = np.array([8, 8, 8, 3])
    assert mean(hits) == 0.75
    assert user_mean(hits, users) == 0.5


def test_a_summary_names_every_average() -> None:
    wide = np.pad(RECOMMENDED, [(0, 0), (0, 8)], constant_values=-1)
    users = np.array([1, 2, 2, 2])
    summary = summarize(wide, LabelSets.of_one(LABELS), users, cutoffs=(1, 3, 12), catalog_size=10)
    values = {1: (1 / 4, 1 / 2), 3: (2 / 4, (1 + 1 / 3) / 2), 12: (2 / 4, (1 + 1 / 3) / 2)}
    gains = {1: (1 / 4, 1 / 2), 3: (1.5 / 4, (1 + 0.5 / 3) / 2), 12: (1.5 / 4, (1 + 0.5 / 3) / 2)}
    expected = {"mrr": (4 / 3) / 4, "user_mrr": (1 + 1 / 9) / 2}
    for k in (1, 3, 12):
        # With one label they say the same, each in its own name.
        for name in ("recall", "clipped_recall", "hit_rate"):
            expected[f"{name}@{k}"], expected[f"user_{name}@{k}"] = values[k]
        for name in ("ndcg", "pooled_ndcg"):
            expected[f"{name}@{k}"], expected[f"user_{name}@{k}"] = gains[k]
        expected[f"coverage@{k}"] = {1: 0.2, 3: 0.4, 12: 0.5}[k]
    assert summary == pytest.approx(expected)


def test_fewer_recommendations_than_the_cutoff_are_an_error_that_names_both() -> None:
    with pytest.raises(ValueError, match="4 recommendations a query, fewer than k=50"):
        summarize(RECOMMENDED, LabelSets.of_one(LABELS), LABELS, (1, 50), catalog_size=10)


def test_lengths_that_differ_are_an_error() -> None:
    of_four, of_three = (LabelSets.of_one(labels) for labels in (LABELS, LABELS[:3]))
    for recommended, labels, users, named in (
        (RECOMMENDED, of_three, LABELS, "'recommended': 4, 'labels': 3, 'users': 4"),
        (RECOMMENDED[:3], of_four, LABELS, "'recommended': 3, 'labels': 4, 'users': 4"),
        (RECOMMENDED, of_four, LABELS[:3], "'recommended': 4, 'labels': 4, 'users': 3"),
    ):
        with pytest.raises(ValueError, match=named):
            summarize(recommended, labels, users, (1, 4), catalog_size=10)


def test_a_query_without_a_label_is_an_error() -> None:
    with pytest.raises(ValueError, match="1 of 4 queries have no label"):
        summarize(RECOMMENDED, sets([1], [2], [], [3]), LABELS, (1, 4), catalog_size=10)


def test_without_queries_nothing_is_measured() -> None:
    empty = np.empty(0, np.int64)
    summary = summarize(np.empty([0, 10], np.int64), LabelSets.of_one(empty), empty, (1, 10), catalog_size=10)
    for name in ("recall@10", "user_recall@10", "ndcg@10", "pooled_ndcg@10", "user_pooled_ndcg@10"):
        assert math.isnan(summary[name])
    assert ann_recall(np.empty([0, 10], np.int64), np.empty([0, 10], np.int64)).shape == (0,)


@pytest.mark.filterwarnings("error")
def test_the_mean_of_nothing_is_no_number_and_warns_of_nothing() -> None:
    assert math.isnan(mean(np.empty(0))) and math.isnan(user_mean(np.empty(0), np.empty(0, np.int64)))


def test_ann_recall_is_a_share_of_sets() -> None:
    exact = np.array([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, -1, -1], [-1, -1, -1, -1]])
    served = np.array([[4, 3, 2, 1], [1, 1, 1, 9], [2, -1, -1, -1], [7, -1, -1, -1]])
    # Order does not count; 1 counts once; padding is not an item; the last query has nothing to find.
    np.testing.assert_array_equal(ann_recall(served, exact), [1, 1 / 4, 1 / 2, np.nan])
    np.testing.assert_array_equal(ann_recall(exact, exact), [1, 1, 1, np.nan])
    np.testing.assert_array_equal(ann_recall(np.full_like(exact, -1), exact), [0, 0, 0, np.nan])


def test_ann_recall_knows_item_0_and_lists_of_one_item_and_warns_of_nothing() -> None:
    with np.errstate(all="raise"):
        exact = np.array([[0, 5], [0, -1], [-1, -1]])
        np.testing.assert_array_equal(ann_recall(np.array([[0, 7], [9, 0], [0, 1]]), exact), [0.5, 1, np.nan])


@pytest.mark.parametrize("served", [1, 3])
def test_ann_recall_needs_as_many_lists_of_each(served: int) -> None:
    with pytest.raises(ValueError, match=rf"numbers of queries: {{'served': {served}, 'exact': 2}}"):
        ann_recall(np.zeros([served, 2], np.int64), np.zeros([2, 2], np.int64))


def test_ann_recall_does_not_mix_queries_up() -> None:
    assert ann_recall(np.array([[1, 2], [3, 4]]), np.array([[3, 4], [1, 2]])).tolist() == [0, 0]


# What a plain loop says.

CUTOFFS = (1, 2, 4)
items = st.integers(-1, 7)
rows = st.lists(
    st.tuples(
        st.integers(0, 2),  # user
        st.lists(items, min_size=4, max_size=4),
        st.lists(st.integers(0, 7), min_size=1, max_size=6, unique=True),
    ),
    min_size=1,
    max_size=8,
)


def by_a_loop(queries: list[tuple[int, list[int], list[int]]], users: bool) -> dict[str, float]:
    """Computes every metric of Q queries by its definition: per query, or first per user."""
    found: dict[str, dict[int, list[float]]] = {}

    def note(name: str, query: int, value: float) -> None:
        found.setdefault(name, {}).setdefault(queries[query][0] if users else query, []).append(value)

    for query, (_, recommended, labels) in enumerate(queries):
        distinct: list[int] = []
        gains = []
        for item in recommended:
            gains.append(item >= 0 and item in labels and item not in distinct)
            distinct.append(item)
        for k in CUTOFFS:
            hits = sum(gains[:k])
            note(f"recall@{k}", query, hits / len(labels))
            note(f"clipped_recall@{k}", query, hits / min(k, len(labels)))
            note(f"hit_rate@{k}", query, float(hits > 0))
            dcg = sum(gain / math.log2(2 + place) for place, gain in enumerate(gains[:k]))
            ideal = sum(1 / math.log2(2 + place) for place in range(min(k, len(labels))))
            note(f"ndcg@{k}", query, dcg / ideal)
            note(f"dcg@{k}", query, dcg)
            note(f"ideal@{k}", query, ideal)
        note("mrr", query, next((1 / (1 + place) for place, gain in enumerate(gains) if gain), 0.0))

    def average(groups: dict[int, list[float]]) -> float:
        return sum(sum(group) / len(group) for group in groups.values()) / len(groups)

    means = {name: average(groups) for name, groups in found.items()}
    for k in CUTOFFS:
        means[f"pooled_ndcg@{k}"] = means.pop(f"dcg@{k}") / means.pop(f"ideal@{k}")
    return {("user_" if users else "") + name: value for name, value in means.items()}


@settings(deadline=None)
@given(rows)
def test_a_summary_is_what_a_plain_loop_says(queries: list[tuple[int, list[int], list[int]]]) -> None:
    user, recommended, labels = zip(*queries, strict=True)
    summary = summarize(np.array(recommended), sets(*labels), np.array(user), CUTOFFS, catalog_size=8)
    expected = {**by_a_loop(queries, users=False), **by_a_loop(queries, users=True)}
    measured = {name: value for name, value in summary.items() if "coverage" not in name}
    assert measured == pytest.approx(expected)


@settings(deadline=None)
@given(rows)
def test_with_one_label_a_query_the_metrics_are_those_of_its_rank(
    queries: list[tuple[int, list[int], list[int]]],
) -> None:
    """Follows the formulas of the next-event protocol, from the one label's rank."""
    user, recommended = np.array([q[0] for q in queries]), np.array([q[1] for q in queries])
    label = np.array([q[2][0] for q in queries])
    found = (recommended == label[:, None]) & (recommended >= 0)
    ranks = np.where(found.any(axis=1), found.argmax(axis=1) + 1.0, np.inf)
    expected = {"mrr": 1.0 / ranks}
    for k in CUTOFFS:
        for name in ("recall", "clipped_recall", "hit_rate"):
            expected[f"{name}@{k}"] = (ranks <= k).astype(np.float64)
        for name in ("ndcg", "pooled_ndcg"):
            expected[f"{name}@{k}"] = np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks), 0.0)
    summary = summarize(recommended, LabelSets.of_one(label), user, CUTOFFS, catalog_size=8)
    assert {name: value for name, value in summary.items() if "coverage" not in name} == pytest.approx(
        {
            **{name: mean(values) for name, values in expected.items()},
            **{f"user_{name}": user_mean(values, user) for name, values in expected.items()},
        }
    )
