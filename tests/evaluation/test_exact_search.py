from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from two_tower.evaluation import exact_search
from two_tower.evaluation.exact_search import top_rows


def by_sorting(
    queries: np.ndarray, candidates: np.ndarray, k: int, excluded: list[set[int]]
) -> list[list[int]]:
    """Sorts all scores of a query; of equal scores the lower row comes first."""
    found = []
    for query, left_out in zip(queries, excluded, strict=True):
        scores = candidates @ query
        order = [row for row in np.argsort(-scores, kind="stable").tolist() if row not in left_out][:k]
        found.append(order + [-1] * (k - len(order)))
    return found


@pytest.mark.parametrize("k", [1, 4, 30, 70])
@pytest.mark.parametrize("blocks", [(3, 7), (2, 50), (512, 16_384)])
def test_blocks_find_what_sorting_all_scores_finds(
    k: int, blocks: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uses small whole numbers, whose scores are exact and often equal."""
    monkeypatch.setattr(exact_search, "QUERIES_AT_ONCE", blocks[0])
    monkeypatch.setattr(exact_search, "ITEMS_AT_ONCE", blocks[1])
    draw = np.random.default_rng(k)
    queries, candidates = (draw.integers(-2, 3, [n, 3]).astype(np.float32) for n in (8, 50))
    nothing: list[set[int]] = [set()] * 8
    assert top_rows(queries, candidates, k).tolist() == by_sorting(queries, candidates, k, nothing)
    excluded = draw.integers(-1, 50, [8, 20])
    left_out = [set(row.tolist()) for row in excluded]
    assert top_rows(queries, candidates, k, excluded).tolist() == by_sorting(queries, candidates, k, left_out)


def test_a_query_that_may_be_answered_with_nothing_gets_padding() -> None:
    one = np.ones([1, 2], np.float32)
    assert top_rows(one, np.ones([3, 2], np.float32), 2, np.array([[0, 1, 2]])).tolist() == [[-1, -1]]


def test_no_block_of_scores_is_larger_than_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_search, "QUERIES_AT_ONCE", 10)
    monkeypatch.setattr(exact_search, "ITEMS_AT_ONCE", 100)
    shapes: list[tuple[int, ...]] = []
    partition = np.partition

    def seen(values: np.ndarray, *args: Any, **kwargs: Any) -> Any:
        shapes.append(values.shape)
        return partition(values, *args, **kwargs)

    monkeypatch.setattr(np, "partition", seen)
    draw = np.random.default_rng(0)
    top_rows(draw.normal(size=[25, 4]).astype(np.float32), draw.normal(size=[950, 4]).astype(np.float32), 5)
    # A block of queries is partitioned once: from then on its own k-th best is the limit.
    assert shapes == [(10, 100), (10, 100), (5, 100)]
