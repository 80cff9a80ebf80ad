"""The table of metrics: complete entries, and single queries whose mean is the reported value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from two_tower.evaluation import metrics
from two_tower.evaluation.beyond_accuracy import ItemVectors
from two_tower.evaluation.metric_table import (
    METRICS,
    WITH_INTERVALS,
    ListContext,
    metric_of,
    slice_metrics,
    summarize,
    values_by_query,
)
from two_tower.evaluation.metrics import label_ranks
from two_tower.evaluation.queries import LabelSets


def test_a_metric_is_computed_by_exactly_one_function() -> None:
    assert len({one.name for one in METRICS}) == len(METRICS)
    for one in METRICS:
        assert (one.averaged is None) != (one.of_lists is None), one.name
        assert one.meaning and one.label
    assert {one.name for one in METRICS if one.of_ranks} == set(WITH_INTERVALS)


def test_slices_show_metrics_with_intervals_alone() -> None:
    assert slice_metrics([1, 20]) == ["recall@1", "recall@20", "ndcg@1", "ndcg@20"]
    assert {one.name for one in METRICS if one.of_slices} <= set(WITH_INTERVALS)


def test_a_metric_is_found_by_its_names_in_evaluation_json() -> None:
    for name in ("recall@10", "user_recall@10", "recall"):
        found = metric_of(name)
        assert found is not None and found.name == "recall"
        assert found.names((1, 20)) == {"recall@1": 1, "recall@20": 20}
    mrr = metric_of("user_mrr")
    assert mrr is not None and mrr.names((1, 20)) == {"mrr": 0}
    assert metric_of("half_life_plays") is None


def test_the_mean_of_single_queries_is_the_reported_value() -> None:
    random = np.random.default_rng(0)
    recommended = random.permuted(np.tile(np.arange(30), (40, 1)), axis=1)[:, :10]
    counts = random.integers(1, 5, 40)
    items = np.concatenate([random.permutation(30)[:count] for count in counts])
    labels = LabelSets(items, np.concatenate([[0], np.cumsum(counts)]))
    of_all = summarize(recommended, labels, random.integers(0, 7, 40), (1, 5, 10), 30)
    of_queries = values_by_query(label_ranks(recommended, labels), labels, (1, 5, 10))
    assert set(of_queries) < set(of_all)
    for name, values in of_queries.items():
        assert of_all[name] == pytest.approx(values.mean()), name
    # Metrics of lists that need train's popularity are left out without it.
    assert "coverage@5" in of_all and "novelty@5" not in of_all


def test_values_have_a_row_for_each_query_and_none_where_nothing_is_asked() -> None:
    labels = LabelSets(np.array([1, 2, 3]), np.array([0, 1, 2, 3]))
    ranks = label_ranks(np.array([[1, 9], [9, 2], [9, 9]]), labels)
    assert ranks.tolist() == [1, 2, np.inf] and ranks.dtype == np.float64
    with np.errstate(all="raise"):
        of_queries = values_by_query(ranks, labels, (1, 2), np.array([True, True, False]))
    for values in of_queries.values():
        assert len(values) == 3 and np.isnan(values[2]) and np.isfinite(values[:2]).all()


def test_ranks_of_single_precision_give_values_of_double_precision() -> None:
    labels = LabelSets(np.arange(6), np.arange(0, 7, 2))
    ranks = np.array([1, 3, 5, 7, 9, np.inf])
    whole, stored = (values_by_query(each, labels, (10,)) for each in (ranks, ranks.astype(np.float32)))
    for name, values in whole.items():
        assert stored[name].tolist() == values.tolist() and stored[name].dtype == np.float64


def test_facts_of_the_items_give_the_metrics_that_need_them() -> None:
    labels = LabelSets.of_one(np.array([1, 2]))
    recommended = np.array([[1, 3], [3, 1]])
    context = ListContext(
        information=np.array([[1.0, 3.0], [3.0, 1.0]]),
        popularity=np.array([[0.5, 0.125], [0.125, 0.5]]),
        history_popularity=np.array([0.25, 0.25]),
        vectors=ItemVectors("content", np.array([1, 3]), np.eye(2, dtype=np.float32)),
    )
    found = summarize(recommended, labels, np.array([7, 8]), (1, 2), 10, context)
    assert found["novelty@2"] == 2 and found["intra_list_diversity@2"] == 1
    assert found["popularity_lift@2"] == pytest.approx((0.5 + 0.125) / 2 / 0.25 - 1)


def test_ranks_of_many_labels_are_found_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    recommended = random.permuted(np.tile(np.arange(20), (7, 1)), axis=1)[:, :5]
    labels = LabelSets(random.integers(0, 20, 14), np.arange(0, 15, 2))
    at_once = label_ranks(recommended, labels)
    monkeypatch.setattr(metrics, "_LABELS_AT_ONCE", 3)
    looked_at = []

    class Watched(np.ndarray):
        def __getitem__(self, rows: Any) -> Any:
            looked_at.append(len(rows))
            return np.asarray(self)[rows]

    assert label_ranks(recommended.view(Watched), labels).tolist() == at_once.tolist()
    assert looked_at == [3, 3, 3, 3, 2]
