"""Asks a served model queries of a split, in a process of its own.

What is loaded is what would be pushed, with nothing but TensorFlow and ScaNN beside it: no TFX, and no
object of the process that built it. Run as `python -m components.retrieval_evaluator.measure REQUEST ANSWER`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from components.retrieval_evaluator.queries import (
    Ints,
    all_queries,
    excluded_items,
    history_batch,
    read_windows,
)
from pipeline.feature_specs import ABSENT, CATEGORICAL, NUMERIC, VECTOR, FeatureSpec

_QUERIES_PER_BATCH = 256


def answers(
    model_path: str,
    windows_dir: str,
    rows: Ints,
    *,
    k: int,
    history_length: int,
    exclude: bool,
    users: Sequence[FeatureSpec] = (),
) -> tuple[Ints, Ints, int]:
    """The model's recommendations for queries of a split, from a fresh process.

    Args:
      model_path: the SavedModel.
      windows_dir: the split's Examples.
      rows: [Q] which of the split's `all_queries`.
      k: how many items a query.
      history_length: events that a request carries.
      exclude: whether what a user had must not be recommended.
      users: the columns of users/ that the windows carry.

    Returns:
      Served and exact recommendations, int64 [Q, k], -1 where there are fewer, and the catalog's size.

    Raises:
      RuntimeError: the model does not load or answer; the message ends with what the process said.
    """
    request = {
        "model_path": model_path,
        "windows_dir": windows_dir,
        "rows": rows.tolist(),
        "k": k,
        "history_length": history_length,
        "exclude": exclude,
        "users": [dataclasses.asdict(spec) for spec in users],
    }
    with tempfile.TemporaryDirectory() as scratch:
        request_file, answer_file = os.path.join(scratch, "request.json"), os.path.join(scratch, "answer.npz")
        with open(request_file, "w", encoding="utf-8") as file:
            json.dump(request, file)
        done = subprocess.run(
            [sys.executable, "-m", __name__, request_file, answer_file],
            env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(
                f"The model at {model_path} could not be evaluated in a fresh process:\n{done.stderr[-4000:]}"
            )
        with np.load(answer_file) as answer:
            return answer["served"], answer["exact"], int(answer["catalog_size"])


def _main(request_file: str, answer_file: str) -> None:
    import tensorflow as tf
    from scann.scann_ops.py import scann_ops  # noqa: F401  registers ScaNN's ops

    with open(request_file, encoding="utf-8") as file:
        request: dict[str, Any] = json.load(file)
    k, exclude = request["k"], request["exclude"]
    windows = read_windows(request["windows_dir"], [FeatureSpec(**spec) for spec in request["users"]])
    queries = all_queries(windows).take(np.array(request["rows"], np.int64))
    model = tf.saved_model.load(request["model_path"])
    recommend = model.signatures["serving_default"]
    embed_query = model.signatures["query_embedding"]
    embed_candidates = model.signatures["candidate_embedding"]
    catalog = model.signatures["catalog"]()["item_id"]
    candidates = tf.concat(
        [
            embed_candidates(item_id=catalog[begin : begin + 16_384])["embedding"]
            for begin in range(0, len(catalog), 16_384)
        ],
        axis=0,
    )

    def exact(query: tf.Tensor, excluded: Ints) -> Ints:
        scores = tf.matmul(query, candidates, transpose_b=True).numpy()
        if exclude:
            rows = np.searchsorted(catalog.numpy(), excluded)
            rows = np.where(excluded == catalog.numpy()[np.minimum(rows, len(catalog) - 1)], rows, -1)
            at = np.nonzero(rows >= 0)
            scores[at[0], rows[at]] = -np.inf
        best = tf.math.top_k(scores, k=min(k, len(catalog)))
        found = tf.gather(catalog, best.indices)
        items = tf.where(tf.math.is_inf(best.values), tf.constant(-1, tf.int64), found)
        return np.pad(items.numpy(), [(0, 0), (0, k - items.shape[1])], constant_values=-1)

    served_parts, exact_parts = [], []
    for begin in range(0, len(queries), _QUERIES_PER_BATCH):
        rows = np.arange(begin, min(begin + _QUERIES_PER_BATCH, len(queries)))
        inputs = history_batch(windows, queries, rows, request["history_length"], exclude)
        served_parts.append(recommend(**_taken(recommend, {**inputs, "k": k}))["item_id"].numpy())
        nothing = np.empty([len(rows), 0], np.int64)
        excluded = excluded_items(windows, queries.take(rows)) if exclude else nothing
        exact_parts.append(exact(embed_query(**_taken(embed_query, inputs))["embedding"], excluded))
    np.savez(
        answer_file,
        served=np.concatenate(served_parts),
        exact=np.concatenate(exact_parts),
        catalog_size=len(catalog),
    )


def _taken(signature: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Of the inputs those that a signature takes, as tensors.

    A model that was blessed earlier may know other columns of users/: what it knows and this data does not
    have is absent.
    """
    import tensorflow as tf

    taken = {}
    for name, spec in signature.structured_input_signature[1].items():
        if name in inputs:
            taken[name] = tf.constant(inputs[name], spec.dtype)
        else:
            kind = CATEGORICAL if spec.dtype == tf.string else NUMERIC if spec.shape.rank == 1 else VECTOR
            taken[name] = tf.fill([size or 1 for size in spec.shape], ABSENT[kind])
    return taken


if __name__ == "__main__":
    _main(*sys.argv[1:])
