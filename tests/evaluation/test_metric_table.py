"""The table of metrics: complete entries, and single queries whose mean is the reported value."""

from __future__ import annotations

import numpy as np
import pytest

from two_tower.evaluation.metric_table import (
    METRICS,
    WITH_INTERVALS,
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
