"""Canary: a copy of a model answers recorded queries before it is published.

The evaluator records a few of its requests with the model's answers. A fresh process loads the copy and asks
the recorded queries again. A copy that fails to load or answers differently is not the evaluated model.
The process is `serving.canary_process`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from two_tower.base import temporary

# File in the blessing's directory; Pusher receives the blessing alone.
FILE_NAME = "canary.json"
# Numbers of recorded queries, and of recorded items per query. At deeper ranks, the rounding of another
# machine may change the result of an approximate index.
QUERIES, ITEMS = 16, 10
# Scores that differ by at most this share of the largest score are equal; their items may trade places.
_TOLERANCE = 1e-3
SIGNATURE = "serving_default"
_PROCESS = "two_tower.serving.canary_process"


class CanaryFailed(RuntimeError):
    """Refusal to publish a model that does not load or answers differently than in the evaluation."""


def recorded(
    inputs: Mapping[str, npt.NDArray[Any]], item_id: npt.NDArray[Any], score: npt.NDArray[Any]
) -> dict[str, Any]:
    """Returns the record of a request and its answer, as JSON holds it.

    Args:
        inputs: the signature's inputs by name, each [Q, ...] or a scalar.
        item_id: [Q, k], the answered items, best first, padded with -1 or "".
        score: [Q, k], the items' scores.
    """
    return {
        "signature": SIGNATURE,
        "inputs": {name: _plain(np.asarray(value)) for name, value in inputs.items()},
        "item_id": _plain(item_id[:, :ITEMS]),
        "score": [[float(s) if np.isfinite(s) else None for s in row[:ITEMS]] for row in score],
    }


def check(model_path: str, record: Mapping[str, Any] | None) -> None:
    """Loads a model in a fresh process and asks the recorded queries.

    Args:
        model_path: the SavedModel, a path or URL.
        record: the result of `recorded`; None: the model must only load and have the served signature.

    Raises:
        CanaryFailed: the model does not load or answers differently.
    """
    with temporary.folder() as scratch:
        record_file = os.path.join(scratch, FILE_NAME)
        with open(record_file, "w", encoding="utf-8") as file:
            json.dump(record, file)
        done = subprocess.run(
            [sys.executable, "-m", _PROCESS, model_path, record_file],
            env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        said = (done.stdout.strip() or done.stderr.strip()).splitlines()
        reason = said[-1] if said else f"The process ended with status {done.returncode}."
        raise CanaryFailed(
            "Nothing was published, and the model in service stays. A fresh process loaded the copy "
            f"{model_path}, and it is not the evaluated model. {reason}"
        )


def difference(record: Mapping[str, Any], item_id: npt.NDArray[Any], score: npt.NDArray[Any]) -> str:
    """Describes the first difference between an answer and the recorded one; "" for equal answers.

    Args:
        record: the result of `recorded`.
        item_id: [Q, k], the items answered now.
        score: [Q, k], their scores.
    """
    expected = np.array(record["item_id"])
    expected_score = np.array(record["score"], np.float64)
    items = np.array(_plain(item_id))[:, : expected.shape[1]]
    scores = score[:, : expected.shape[1]].astype(np.float64)
    if items.shape != expected.shape:
        return f"The answer has the shape {list(items.shape)}; the recorded one has {list(expected.shape)}."
    if items.dtype.kind != expected.dtype.kind:
        return "The answer's ids are of another type than the recorded ones: texts, or numbers."
    is_text = items.dtype.kind == "U"
    is_item, was_item = (found != "" if is_text else found >= 0 for found in (items, expected))
    if (was_item != is_item).any():
        return "The answer has another number of items than the recorded one."
    if not np.isfinite(scores[is_item]).all():
        return "The answer has scores that are not finite numbers."
    largest = max(float(np.nanmax(np.abs(expected_score), initial=0.0)), 1e-6)
    close = np.abs(scores - expected_score) <= _TOLERANCE * largest
    for query, place in np.argwhere(was_item & ~close):
        return (
            f"Recorded query {query} has the score {scores[query, place]:.6g} at rank {place + 1}; the "
            f"evaluation recorded {expected_score[query, place]:.6g}."
        )
    for query, place in np.argwhere(expected != items):
        # The scores agree here, so an item may only trade places with items of equal score.
        same = np.abs(expected_score[query] - scores[query, place]) <= _TOLERANCE * largest
        beyond_the_last = same[-1]
        if not beyond_the_last and items[query, place] not in expected[query, same]:
            return (
                f"Recorded query {query} has item {items[query, place]} at rank {place + 1}; the "
                f"evaluation recorded item {expected[query, place]}."
            )
    return ""


def _plain(values: npt.NDArray[Any]) -> Any:
    """Converts an array to nested lists; bytes become text."""
    if values.dtype.kind in "OS":
        texts = [v.decode() if isinstance(v, bytes) else str(v) for v in values.ravel()]
        return np.array(texts, object).reshape(values.shape).tolist()
    return values.tolist()
