from __future__ import annotations

import math

import numpy as np
import pytest

from two_tower.evaluation import beyond_accuracy
from two_tower.evaluation.beyond_accuracy import (
    ItemVectors,
    intra_list_diversity,
    novelty_at_k,
    popularity_lift_at_k,
    self_information,
)

# Two queries, one of which is answered with a single item.
RECOMMENDED = np.array([[10, 20, 30], [20, -1, -1]])


def test_an_item_with_half_of_all_events_says_one_bit() -> None:
    # With one event added for each of 4 items: 8 of 16, 4 of 16, none but the added.
    found = self_information(np.array([7, 3, 0]), all_plays=12, catalog_size=4)
    assert found == pytest.approx([1, 2, 4])


def test_novelty_is_a_mean_over_queries_of_what_they_are_shown() -> None:
    bits = np.array([[1.0, 2.0, 4.0], [2.0, 99.0, 99.0]])
    assert novelty_at_k(RECOMMENDED, bits, 1) == pytest.approx((1 + 2) / 2)
    assert novelty_at_k(RECOMMENDED, bits, 3) == pytest.approx((7 / 3 + 2) / 2)
    assert math.isnan(novelty_at_k(np.array([[-1]]), np.array([[5.0]]), 1))


def test_popularity_lift_is_none_for_what_is_as_popular_as_the_histories() -> None:
    popularity = np.array([[0.1, 0.2, 0.3], [0.4, 9.0, 9.0]])
    assert popularity_lift_at_k(RECOMMENDED, popularity, np.array([0.1, 0.4]), 1) == pytest.approx(0)
    # Means over queries first: (.2 + .4) / 2 against .1 and .05.
    assert popularity_lift_at_k(RECOMMENDED, popularity, np.array([0.1, 0.05]), 3) == pytest.approx(3)
    assert popularity_lift_at_k(RECOMMENDED, popularity, np.array([0.4, np.nan]), 3) == pytest.approx(-0.5)
    assert math.isnan(popularity_lift_at_k(RECOMMENDED, popularity, np.zeros(2), 3))


def test_diversity_of_lists_whose_cosines_are_known() -> None:
    # 10 and 20 at a right angle, 30 against 10; lengths do not count. 40 has no vector.
    items = ItemVectors(
        "content", np.array([10, 20, 30, 40]), np.array([[2, 0], [0, 3], [-1, 0], [0, 0]], np.float32)
    )
    found = intra_list_diversity(RECOMMENDED, (1, 2, 3), items)
    assert math.isnan(found[1])
    assert found[2] == pytest.approx(1.0)  # the second list has no pair
    assert found[3] == pytest.approx(1 - (0 - 1 + 0) / 3)
    with_gaps = np.array([[10, 40, 77, 30], [20, 20, -1, -1]])
    assert intra_list_diversity(with_gaps, (4,), items)[4] == pytest.approx((2 + 0) / 2)


def test_diversity_is_what_all_pairs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beyond_accuracy, "_VECTORS_AT_ONCE", 20)
    draw = np.random.default_rng(3)
    items = ItemVectors("model", np.arange(30), draw.normal(size=[30, 5]).astype(np.float32))
    recommended = np.stack([draw.permutation(30)[:6] for _ in range(11)])
    unit = items.vectors / np.linalg.norm(items.vectors, axis=1, keepdims=True)
    for k, value in intra_list_diversity(recommended, (2, 6), items).items():
        cosines = [unit[a] @ unit[b] for row in recommended[:, :k] for a in row for b in row if a != b]
        assert value == pytest.approx(1 - np.mean(cosines), abs=1e-5)


def test_nothing_recommended_has_no_diversity() -> None:
    items = ItemVectors("model", np.empty(0, np.int64), np.empty([0, 3], np.float32))
    assert math.isnan(intra_list_diversity(RECOMMENDED, (3,), items)[3])
    assert math.isnan(intra_list_diversity(np.empty([0, 3], np.int64), (3,), items)[3])
