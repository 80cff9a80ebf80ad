"""Parity of the index with the towers: ids, their order, norms and scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from two_tower.evaluation.queries import Ints

Vectors = npt.NDArray[np.floating]

# Largest error of norms and scores, as a share of the largest of either. float32 is 10,000 times as fine; an
# index with another item's vector, or another training's, is off by far more.
TOLERANCE = 1e-3
_TINY = float(np.finfo(np.float64).tiny)


def parity(
    item_id: Ints,
    known_item_id: Ints | None,
    stored: Iterable[Vectors] | None,
    embedded: Vectors,
    scores: Vectors,
    products: Vectors,
) -> dict[str, Any]:
    """Compares the index with the towers: `ann.parity` of evaluation.json without the towers' digests.

    Args:
        item_id: [N] ids of the index's rows.
        known_item_id: ids that the towers say can be recommended; None if they do not tell, which counts as
            other ids.
        stored: blocks [n, D] of the index's vectors, all N in order; None if they cannot be read, which
            counts as another order.
        embedded: [N, D] the towers' embeddings of the rows' ids.
        scores: [n] served scores.
        products: [n] inner products of the same queries and items, by the towers.

    Returns:
        `ids`: each id occurs once, and the ids are the towers'. `order`: each row holds its own item's
        vector. `max_norm_error` and `max_score_error`: shares of the largest norm or score, 0 where
        there is nothing to compare. `ok`: all of it is within TOLERANCE.
    """
    ids = len(np.unique(item_id)) == len(item_id)
    ids = ids and known_item_id is not None and np.array_equal(np.sort(item_id), np.sort(known_item_id))
    # Vectors that cannot be read are not taken on trust.
    order, norm_error = False, 0.0
    if stored is not None:
        norms = np.linalg.norm(embedded, axis=1)
        stored_norms, distance, begin = np.full(len(embedded), np.nan), np.full(len(embedded), np.nan), 0
        for block in stored:
            rows = slice(begin, begin + len(block))
            stored_norms[rows] = np.linalg.norm(block, axis=1)
            distance[rows] = np.linalg.norm(block - embedded[rows], axis=1)
            begin += len(block)
        norm_error = _error(stored_norms, norms)
        # With a NaN, no comparison is true. For short vectors rounding is a larger share.
        least = TOLERANCE * norms.max(initial=0.0)
        order = bool((distance <= TOLERANCE * np.maximum(norms, least)).all())
    score_error = _error(scores, products)
    return {
        "ids": ids,
        "order": order,
        "max_norm_error": norm_error,
        "max_score_error": score_error,
        "ok": ids and order and norm_error <= TOLERANCE and score_error <= TOLERANCE,
    }


def _error(found: Vectors, expected: Vectors) -> float:
    if not len(found):
        return 0.0
    difference = float(np.abs(found - expected).max())
    error = difference / max(float(np.abs(expected).max()), _TINY) if difference else 0.0
    # JSON holds no NaN, and a NaN must fail.
    return error if np.isfinite(error) else float(np.finfo(np.float32).max)


def built_from(measured: Mapping[str, Any], towers: str | None, expected: str | None) -> dict[str, Any]:
    """Adds to `parity` whether the index was built from the model's own towers: `ann.parity` complete.

    Args:
        measured: see `parity`.
        towers: digest of the towers that the index says it was built from; None where it does not say.
        expected: digest of the Trainer's towers; None where their files are gone. Towers that cannot be
            compared are not taken on trust.
    """
    found = {**measured, "towers": towers, "expected_towers": expected}
    return {**found, "ok": bool(measured["ok"]) and is_of_its_towers(found)}


def is_of_its_towers(parity: Mapping[str, Any]) -> bool:
    """Tells whether the index is known to have been built from the model's own towers."""
    towers = parity.get("towers")
    return towers is not None and towers == parity.get("expected_towers")


def agrees(parity: Mapping[str, Any]) -> bool:
    """Tells whether the index agrees with the towers and was built from the model's own."""
    return bool(parity.get("ok")) and is_of_its_towers(parity)


def differences(parity: Mapping[str, Any]) -> str:
    """Describes how the index differs from the towers it should have been built from; empty if it agrees."""
    if not parity or agrees(parity):
        return ""
    wrong = []
    if not parity.get("ids", True):
        wrong.append("its ids are not the catalog's")
    if not parity.get("order", True):
        wrong.append("its ids are in another order than its vectors")
    built_from, expected = parity.get("towers"), parity.get("expected_towers")
    if built_from is None:
        wrong.append("it does not say what it was built from: build the model again")
    elif expected is None:
        wrong.append("the Trainer's model is gone, so that nobody knows whether it was built from that one")
    elif built_from != expected:
        wrong.append(f"built from {built_from}, not from {expected}")
    errors = [
        f"{name} of {parity[key]:.2g}"
        for key, name in (("max_norm_error", "error of norms"), ("max_score_error", "error of scores"))
        if parity.get(key)
    ]
    return "; ".join([*wrong, *errors])
