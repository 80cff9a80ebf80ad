from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from two_tower.evaluation.index_parity import built_from, parity

IDS = np.array([3, 5, 8, 13])
VECTORS = np.random.default_rng(0).normal(size=[4, 6])
SCORES = np.array([0.9, 0.5, -0.2])


def compared(
    item_id: Any, known: Any, stored: Any, embedded: Any, scores: Any, products: Any
) -> dict[str, Any]:
    """Compares with the index's vectors in blocks of three rows."""
    blocks = None if stored is None else [stored[begin : begin + 3] for begin in range(0, len(stored), 3)]
    return parity(item_id, known, blocks, embedded, scores, products)


def test_an_index_of_the_towers_own_vectors_is_in_order() -> None:
    rounded = VECTORS.astype(np.float32)
    found = compared(IDS, IDS[::-1], rounded, VECTORS, SCORES, SCORES)
    assert found["ok"] and found["ids"] and found["order"]
    assert found["max_norm_error"] < 1e-6 and found["max_score_error"] == 0


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"known": np.array([3, 5, 8, 14])}, "ids"),
        ({"known": np.array([3, 5, 8, 13, 21])}, "ids"),
        ({"item_id": np.array([3, 5, 8, 8]), "known": np.array([3, 5, 8, 8])}, "ids"),
        ({"stored": VECTORS[[1, 0, 2, 3]]}, "order"),
        ({"stored": VECTORS * [[1], [1], [1], [0]]}, "order"),  # of all rows, one is zero
        ({"stored": VECTORS[:3]}, "order"),
        ({"stored": -VECTORS}, "order"),  # of the right lengths
        ({"stored": 1.1 * VECTORS}, "max_norm_error"),
        ({"stored": np.full([4, 6], np.nan)}, "max_norm_error"),
        ({"scores": np.array([0.9, 0.5, 0.2])}, "max_score_error"),
        ({"scores": np.array([0.9, 0.5, np.nan])}, "max_score_error"),
    ],
)
def test_what_is_wrong_with_an_index_is_told(changes: dict[str, np.ndarray], wrong: str) -> None:
    given = {"item_id": IDS, "known": IDS, "stored": VECTORS, "embedded": VECTORS, "scores": SCORES}
    found = compared(**{**given, "products": SCORES, **changes})
    assert not found["ok"]
    assert found[wrong] is False or found[wrong] > 1e-3
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(("unread", "wrong"), [("known", "ids"), ("stored", "order")])
def test_what_cannot_be_read_is_not_taken_on_trust(unread: str, wrong: str) -> None:
    given: dict[str, Any] = {"item_id": IDS, "known": IDS, "stored": VECTORS, "embedded": VECTORS}
    found = compared(**{**given, "scores": SCORES, "products": SCORES, unread: None})
    assert not found["ok"] and found[wrong] is False


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_short_vectors_are_held_to_the_same_share_as_long_ones(size: float) -> None:
    given: dict[str, Any] = {"item_id": IDS, "known": IDS, "embedded": size * VECTORS}
    scored: dict[str, Any] = {"scores": size * SCORES, "products": size * SCORES}
    assert compared(**given, **scored, stored=(size * VECTORS).astype(np.float32))["ok"]
    assert not compared(**given, **scored, stored=size * VECTORS[[1, 0, 2, 3]])["ok"]
    other: dict[str, Any] = {"scores": size * SCORES, "products": 1.01 * size * SCORES}
    assert not compared(**given, **other, stored=size * VECTORS)["ok"]


@pytest.mark.parametrize(
    ("towers", "expected", "ok"),
    [
        ("sha256:t", "sha256:t", True),
        ("sha256:t", "sha256:u", False),
        ("sha256:t", None, False),
        (None, None, False),
    ],
)
def test_an_index_is_of_its_towers_only_if_both_are_there_to_be_compared(
    towers: str | None, expected: str | None, ok: bool
) -> None:
    measured = compared(IDS, IDS, VECTORS, VECTORS, SCORES, SCORES)
    found = built_from(measured, towers, expected)
    assert (found["ok"], found["towers"], found["expected_towers"]) == (ok, towers, expected)
    assert not built_from({**measured, "ok": False}, "sha256:t", "sha256:t")["ok"]
