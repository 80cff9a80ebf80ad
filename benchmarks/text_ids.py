"""Benchmark of text ids: latency and memory of a served model with texts, beside the same model of integers.

    python -m benchmarks.text_ids [--items 1000000] [--form sku|uuid] [--out DIR]

The towers are fixed vectors of 8 dimensions, looked up by id, so that ids are most of a request's work. ScaNN
serves at fixed settings that search few leaves. A request has 50 listens and k = 100. The reference is the
integer model in a process of its own, over the same vectors. Memory is what loading the model adds to the
process's resident set. Each latency is the median of requests one after the other, on all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import psutil

from two_tower.schema import text_ids

DIMENSIONS, HISTORY, K, MAX_K = 8, 50, 100, 500
LEAVES, SEARCHED = 1_000, 10
BATCHES, REQUESTS, ROUNDS = (1, 32), 200, 5
INTEGERS, TEXTS = "integers", "texts"


def texts_of(form: str, items: int) -> Iterator[str]:
    """Yields ids: "SKU-00000017", which a string holds inline, or UUIDs of 36 letters, which it does not."""
    for number in range(items):
        yield f"SKU-{number:08d}" if form == "sku" else str(uuid.UUID(int=(number << 64) | 17))


def build(items: int, form: str, kind: str, path: str) -> None:
    """Saves a model of so many items, in ids of one kind."""
    import tensorflow as tf

    from two_tower.schema.request_inputs import ITEM, QUERY_INPUTS, IdKinds
    from two_tower.serving.index import AH, ScannIndex, ScannSettings
    from two_tower.serving.retrieval_model import RetrievalModel
    from two_tower.trainer.model.signatures import signature, tensor_spec

    numbers = text_ids.numbers_of(texts_of(form, items))
    by_id = np.argsort(numbers)
    draw = np.random.default_rng(1)
    vectors = draw.normal(size=(items + 1, DIMENSIONS)).astype(np.float32)

    class Towers(tf.Module):
        """Towers of fixed vectors: a query is the sum of its history's items."""

        def __init__(self) -> None:
            super().__init__()
            self._vectors = tf.Variable(vectors)
            self._ascending, self._row = tf.Variable(numbers[by_id]), tf.Variable(by_id.astype(np.int32))
            self.query_embedding = signature(self._query, QUERY_INPUTS)

        def _rows(self, item_id: tf.Tensor) -> tf.Tensor:
            place = tf.searchsorted(self._ascending, tf.reshape(item_id, [-1]))
            place = tf.reshape(tf.minimum(place, items - 1), tf.shape(item_id))
            is_one = tf.gather(self._ascending, place) == item_id
            return tf.where(is_one, tf.gather(self._row, place), items)

        def _query(self, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            rows = self._rows(inputs["history_item_id"])
            return {"embedding": tf.reduce_sum(tf.gather(self._vectors, rows), axis=1)}

        @tf.function(input_signature=[tensor_spec(ITEM)])
        def candidate_embedding(self, item_id: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"embedding": tf.gather(self._vectors, self._rows(item_id))}

    settings = ScannSettings(LEAVES, SEARCHED, reordering_candidates=300, quantization=AH, k=K)
    index = ScannIndex(tf.constant(vectors[:-1]), settings, MAX_K)
    of_text = kind == TEXTS
    model = RetrievalModel(
        Towers(),
        index,
        tf.constant(numbers),
        MAX_K,
        ids=IdKinds(text_ids.TEXT, text_ids.TEXT) if of_text else IdKinds(),
        item_text=np.array([text.encode() for text in texts_of(form, items)], object) if of_text else None,
    )
    model.save(path)


def measure(items: int, form: str, kind: str, path: str) -> None:
    """Prints a loaded model's memory in bytes, and its latencies in milliseconds by batch, as JSON."""
    import tensorflow as tf
    from scann.scann_ops.py import scann_ops  # noqa: F401  registers ScaNN's ops

    before = psutil.Process().memory_info().rss
    model = tf.saved_model.load(path)
    found: dict[str, Any] = {"memory": psutil.Process().memory_info().rss - before}
    draw = np.random.default_rng(2)
    texts = list(texts_of(form, min(items, 100_000)))
    for batch in BATCHES:
        rounds = []
        requests = []
        for _ in range(REQUESTS):
            history: Any = np.array(texts, object)[draw.integers(len(texts), size=(batch, HISTORY))]
            if kind == INTEGERS:
                history = text_ids.numbers_of(history.ravel().tolist()).reshape(history.shape)
            user = ["someone"] * batch if kind == TEXTS else np.full(batch, 17)
            requests.append((tf.constant(user), tf.constant(history)))
        times = tf.zeros([batch, HISTORY], tf.int64)
        for _ in range(ROUNDS):
            seconds = []
            for user, history in requests:
                began = time.perf_counter()
                model.recommend(user, history, times, k=tf.constant(K))["item_id"].numpy()
                seconds.append(time.perf_counter() - began)
            rounds.append(1_000 * float(np.median(seconds)))
        found[str(batch)] = min(rounds)
    print(json.dumps(found))


def _in_a_process(step: str, *words: str) -> str:
    command = [sys.executable, "-m", "benchmarks.text_ids", "--step", step, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(arguments: Sequence[str] | None = None) -> None:
    """Builds and measures both models, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--form", choices=("sku", "uuid"), default="sku")
    parser.add_argument("--out", help="directory for the models (default: a temporary one)")
    parser.add_argument("--step", choices=("build", "measure"), help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=(INTEGERS, TEXTS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.step:
        step = build if options.step == "build" else measure
        step(options.items, options.form, options.kind, options.out)
        return
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(options.out or scratch)
        found: dict[str, list[dict[str, float]]] = {INTEGERS: [], TEXTS: []}
        words = {}
        for kind in found:
            out = str(place / kind)
            words[kind] = (
                *("--items", str(options.items), "--form", options.form),
                *("--kind", kind, "--out", out),
            )
            _in_a_process("build", *words[kind])
        for _ in range(2):
            for kind, of_kind in found.items():
                of_kind.append(json.loads(_in_a_process("measure", *words[kind]).splitlines()[-1]))
    best = {kind: {key: min(one[key] for one in rows) for key in rows[0]} for kind, rows in found.items()}
    print(f"{options.items:,} items, ids of the form {options.form}")
    for key in ("memory", *map(str, BATCHES)):
        one, other = best[INTEGERS][key], best[TEXTS][key]
        name, scale, unit = ("memory", 2**20, "MiB") if key == "memory" else (f"batch of {key}", 1, "ms")
        print(
            f"{name:<12} integers {one / scale:9.2f} {unit}   texts {other / scale:9.2f} {unit}   "
            f"ratio {other / one:.2f}"
        )


if __name__ == "__main__":
    main()
