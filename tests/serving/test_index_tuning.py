"""Index tuning: the index reaches its target at the least cost and records the reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from two_tower.serving import index_tuning
from two_tower.serving.index import AH, ExactIndex, ScannIndex, ScannSettings
from two_tower.serving.index_tuning import Built, build_index
from two_tower.serving.settings import IndexConfig

K, TARGET = 10, 0.9
CONFIG = IndexConfig(max_k=20)


def clustered(size: int, seed: int) -> npt.NDArray[np.float32]:
    """Draws vectors of different lengths around 40 centres, so that products are no cosines."""
    centres = np.random.default_rng(0).standard_normal((40, 16))
    draw = np.random.default_rng(seed)
    vectors = centres[draw.integers(0, 40, size)] + 0.5 * draw.standard_normal((size, 16))
    return (vectors * draw.lognormal(0, 0.2, (size, 1))).astype(np.float32)


ITEMS, QUERIES, OTHERS = clustered(4_000, 1), clustered(150, 2), clustered(150, 3)


@pytest.fixture(scope="module", autouse=True)
def scann_over_few_items() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_tuning, "EXACT_BELOW", 0)
        patch.setattr(index_tuning, "TARGET_K", K)
        yield


@pytest.fixture(scope="module")
def built(scann_over_few_items: None) -> Built:
    return build_index(ITEMS, QUERIES, CONFIG, TARGET)


def recall(index: ScannIndex, queries: npt.NDArray[np.float32]) -> float:
    exact = np.argsort(-(queries @ ITEMS.T), axis=1)[:, :K]
    found = index.search(tf.constant(queries), tf.constant(K))[0].numpy()
    return float(np.mean([len({*a} & {*b}) / K for a, b in zip(found, exact, strict=True)]))


def test_the_index_finds_its_target_on_queries_that_it_was_not_tuned_on(built: Built) -> None:
    assert isinstance(built.index, ScannIndex)
    assert recall(built.index, OTHERS) >= TARGET - 0.02


def test_the_cheapest_setting_that_meets_the_target_is_chosen_and_all_are_told(built: Built) -> None:
    assert isinstance(built.index, ScannIndex) and built.tuning is not None
    tuning = built.tuning
    assert tuning.met and tuning.chosen is not None
    chosen = tuning.points[tuning.chosen]
    assert chosen.settings == built.index.settings
    meeting = [point for point in tuning.points if point.recall_low >= TARGET]
    assert chosen.bytes_per_query == min(point.bytes_per_query for point in meeting) < ITEMS.nbytes
    assert recall(built.index, QUERIES) == pytest.approx(chosen.recall, abs=1e-6)
    # The points are a curve: they include settings below the target.
    assert len(tuning.points) > len(meeting) > 0
    costs = [point.bytes_per_query for point in tuning.points]
    assert costs == sorted(costs)
    described = built.described()
    assert described["kind"] == "scann" and "cheapest" in described["reason"]
    assert described["tuning"]["chosen"] == tuning.chosen
    assert set(described["tuning"]["points"][0]) == {
        "num_leaves", "leaves_to_search", "reordering_candidates", "quantization", "recall", "recall_low",
        "worst_recall", "bytes_per_query", "ms_per_query",
    }  # fmt: skip


def test_the_target_holds_for_each_group_of_queries() -> None:
    """Adds a few queries that lie apart from the items: their best items are in many leaves."""
    apart = np.random.default_rng(7).standard_normal((40, 16)).astype(np.float32)
    queries = np.concatenate([np.tile(QUERIES, (4, 1)), apart])
    groups = np.repeat([0, 1], [len(queries) - 40, 40])
    alike, grouped = (build_index(ITEMS, queries, CONFIG, TARGET, groups=of) for of in (None, groups))
    assert isinstance(alike.index, ScannIndex) and isinstance(grouped.index, ScannIndex)
    assert recall(alike.index, apart) < TARGET
    assert recall(grouped.index, apart) >= TARGET
    assert grouped.tuning is not None and grouped.tuning.chosen is not None
    chosen = grouped.tuning.points[grouped.tuning.chosen]
    assert chosen.worst_recall == pytest.approx(recall(grouped.index, apart), abs=1e-6)
    # Too small a group is noise.
    few = build_index(ITEMS, queries[:-20], CONFIG, TARGET, groups=groups[:-20])
    assert isinstance(few.index, ScannIndex) and recall(few.index, apart) < TARGET


def test_what_takes_longer_than_the_budget_is_not_built_and_the_model_says_so() -> None:
    """Sets a budget that no setting meets: the fastest index is built, and `met` is False."""
    config = dataclasses.replace(CONFIG, latency_budget_ms=1e-6)
    built = build_index(ITEMS[:2_000], QUERIES, config, TARGET)
    assert isinstance(built.index, ScannIndex) and built.tuning is not None and not built.tuning.met
    assert "index.latency_budget_ms" in built.reason
    chosen = built.tuning.points[built.tuning.chosen or 0]
    assert chosen.settings == built.index.settings
    assert chosen.ms_per_query == min(point.ms_per_query for point in built.tuning.points)


def test_where_scann_would_read_as_much_as_exact_search_does_search_is_exact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Requests 60 of 100 random items, so that reordering reads nearly all of them."""
    noise = np.random.default_rng(5).standard_normal((100, 16)).astype(np.float32)
    monkeypatch.setattr(index_tuning, "TARGET_K", 100)
    built = build_index(noise, noise, IndexConfig(max_k=60), 1.0)
    assert isinstance(built.index, ExactIndex) and built.tuning is not None
    assert built.tuning.chosen is None and built.tuning.met
    assert "gate.min_ann_recall" in built.reason and built.tuning.k == 60


def test_the_index_is_tuned_at_the_k_that_the_gate_judges_if_that_is_more() -> None:
    by_cutoff = {
        cutoff: build_index(ITEMS[:200], QUERIES[:5], IndexConfig(max_k=60), 0.5, cutoff=cutoff).tuning
        for cutoff in (1, K + 20, 70)
    }
    assert {cutoff: tuning.k for cutoff, tuning in by_cutoff.items() if tuning} == {
        1: K,
        K + 20: K + 20,
        70: 60,
    }


def test_a_small_catalog_is_searched_exactly_without_a_look_at_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = build_index(ITEMS[:5], QUERIES, CONFIG, TARGET)  # fewer than any number of leaves
    assert few.index.kind == "exact"
    monkeypatch.setattr(index_tuning, "EXACT_BELOW", 20_000)
    built = build_index(ITEMS, np.zeros([0, 16], np.float32), IndexConfig(), TARGET)
    assert built.described() == {"kind": "exact", "reason": built.reason, "tuning": None}
    assert "4,000 items are fewer than 20,000" in built.reason


def test_fewer_items_than_leaves_are_refused_before_scann_is_asked() -> None:
    with pytest.raises(ValueError, match="cannot search 1 of 60 leaves over 50 items"):
        ScannIndex(tf.constant(ITEMS[:50]), ScannSettings(60, 1, 10, AH, K), K)
    with pytest.raises(ValueError, match="too few to quantise"):
        ScannIndex(tf.constant(ITEMS[:10]), ScannSettings(2, 1, 10, AH, K), K)
