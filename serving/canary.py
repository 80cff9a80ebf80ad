"""The canary: what is about to be published is loaded where it lies and answers recorded queries.

The evaluator records a few of the requests that it evaluated a model with and what the model answered. A copy
that a server could not load, or that answers otherwise, is not what was evaluated, whatever its files say.
Run as `python -m two_tower.components.pusher.canary MODEL RECORD`, in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

# In the directory of the blessing, which is what Pusher is given of an evaluation.
FILE_NAME = "canary.json"
# So many queries are recorded, and of each so many items: further down another machine's rounding may change
# what an approximate index finds.
QUERIES, ITEMS = 16, 10
# Scores that differ by less than this share of the largest are the same, and their items may trade places.
_TOLERANCE = 1e-3
_SIGNATURE = "serving_default"


class CanaryFailed(RuntimeError):
    """A model was not published: it does not load, or does not answer as it did when it was evaluated."""


def recorded(
    inputs: Mapping[str, npt.NDArray[Any]], item_id: npt.NDArray[Any], score: npt.NDArray[Any]
) -> dict[str, Any]:
    """What is kept of a request and its answer, as JSON holds it.

    Args:
        inputs: of the signature, by name, each [Q, ...] or a scalar.
        item_id: [Q, k] what was answered, best first, -1 where there are fewer.
        score: [Q, k].
    """
    return {
        "signature": _SIGNATURE,
        "inputs": {name: _plain(np.asarray(value)) for name, value in inputs.items()},
        "item_id": item_id[:, :ITEMS].tolist(),
        "score": [[float(s) if np.isfinite(s) else None for s in row[:ITEMS]] for row in score],
    }


def check(model_path: str, record: Mapping[str, Any] | None) -> None:
    """Loads a model in a fresh process and asks it what was recorded.

    Args:
        model_path: the SavedModel, a path or URL.
        record: see `recorded`; None: it must load, and have the signature that is served.

    Raises:
        CanaryFailed: with the reason.
    """
    with tempfile.TemporaryDirectory() as scratch:
        record_file = os.path.join(scratch, FILE_NAME)
        with open(record_file, "w", encoding="utf-8") as file:
            json.dump(record, file)
        done = subprocess.run(
            [sys.executable, "-m", __name__, model_path, record_file],
            env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        said = (done.stdout.strip() or done.stderr.strip()).splitlines()
        reason = said[-1] if said else f"it ended with status {done.returncode}"
        raise CanaryFailed(
            "Nothing was published, and what is in service stays: loaded in a fresh process from "
            f"{model_path}, the model is not the one that was evaluated. {reason}"
        )


def difference(record: Mapping[str, Any], item_id: npt.NDArray[Any], score: npt.NDArray[Any]) -> str:
    """How an answer differs from the one that was recorded; "" if it does not.

    Args:
        record: see `recorded`.
        item_id: [Q, k] what is answered now.
        score: [Q, k].
    """
    expected = np.array(record["item_id"], np.int64)
    expected_score = np.array(record["score"], np.float64)
    items, scores = item_id[:, : expected.shape[1]], score[:, : expected.shape[1]].astype(np.float64)
    if items.shape != expected.shape:
        return f"It answers with items of shape {list(items.shape)}, and it was {list(expected.shape)}."
    scores = np.where(items >= 0, scores, np.nan)
    if ((expected >= 0) != (items >= 0)).any():
        return "It answers with another number of items than when it was evaluated."
    if not np.isfinite(scores[items >= 0]).all():
        return "It answers with scores that are no numbers."
    largest = max(float(np.nanmax(np.abs(expected_score), initial=0.0)), 1e-6)
    close = np.abs(scores - expected_score) <= _TOLERANCE * largest
    for query, place in np.argwhere((expected >= 0) & ~close):
        return (
            f"Of recorded query {query} the score at rank {place + 1} is {scores[query, place]:.6g}, and it "
            f"was {expected_score[query, place]:.6g} when the model was evaluated."
        )
    for query, place in np.argwhere(expected != items):
        # Its scores are those expected: an item stands elsewhere only among its equals.
        same = np.abs(expected_score[query] - scores[query, place]) <= _TOLERANCE * largest
        beyond_the_last = same[-1]
        if not beyond_the_last and items[query, place] not in expected[query, same]:
            return (
                f"Recorded query {query} is answered with item {items[query, place]} at rank {place + 1}, "
                f"and it was item {expected[query, place]} when the model was evaluated."
            )
    return ""


def _plain(values: npt.NDArray[Any]) -> Any:
    """Nested lists; bytes become text."""
    if values.dtype.kind in "OS":
        texts = [v.decode() if isinstance(v, bytes) else str(v) for v in values.ravel()]
        return np.array(texts, object).reshape(values.shape).tolist()
    return values.tolist()


def _main(model_path: str, record_file: str) -> int:
    import tensorflow as tf
    from scann.scann_ops.py import scann_ops  # noqa: F401  registers ScaNN's ops

    with open(record_file, encoding="utf-8") as file:
        record = json.load(file)
    try:
        model = tf.saved_model.load(model_path)
    except Exception as error:
        # Whatever is wrong with the files: TensorFlow raises a dozen kinds of errors.
        print(f"It does not load: {' '.join(str(error).split())[:500]}")
        return 1
    signature = model.signatures.get(_SIGNATURE)
    if signature is None:
        print(f"It has no signature {_SIGNATURE}.")
        return 1
    if record is None:
        return 0
    specs = signature.structured_input_signature[1]
    if set(specs) != set(record["inputs"]):
        now, then = (", ".join(sorted(names)) for names in (specs, record["inputs"]))
        print(f"It takes the inputs {now}, and it took {then} when it was evaluated.")
        return 1
    inputs = {
        name: tf.reshape(tf.constant(value, specs[name].dtype), np.shape(value))
        for name, value in record["inputs"].items()
    }
    try:
        answer = signature(**inputs)
    except Exception as error:
        print(f"It does not answer: {' '.join(str(error).split())[:500]}")
        return 1
    if found := difference(record, answer["item_id"].numpy(), answer["score"].numpy()):
        print(found)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
