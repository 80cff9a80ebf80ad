"""Measurements of a served model in a fresh process: recommendations, exact search, latency, size, parity.

The process loads the SavedModel that would be pushed. It has TensorFlow and ScaNN, but neither TFX nor an
object of the process that built the model.
Run as `python -m two_tower.evaluation.measure REQUEST ANSWER`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from two_tower.base.errors import UserError
from two_tower.data_directory.feature_columns import FeatureSpec
from two_tower.evaluation.exact_search import OwnScores, top_rows
from two_tower.evaluation.index_parity import parity
from two_tower.evaluation.queries import (
    PADDING,
    Ints,
    Queries,
    Windows,
    all_queries,
    excluded_items,
    history_batch,
    read_windows,
)
from two_tower.schema import features
from two_tower.schema.request_inputs import PER_EVENT, QUERY_INPUTS
from two_tower.serving import canary, id_texts
from two_tower.serving.request_tensors import request_tensors, signature_by_number

_log = logging.getLogger(__name__)

_QUERIES_PER_BATCH = 256
_ITEMS_PER_BATCH = 16_384
# Most queries that are asked again without a history. Ids of users whom no data knows count down from the
# last one.
_WITHOUT_HISTORY, _NEW_USER = 256, 2**63 - 1
# Latency: the number of single requests and of batches; each series ends early after _SECONDS.
_WARM_UP, _SINGLE_REQUESTS, _BATCHES, _SECONDS = 5, 200, 10, 5.0


@dataclasses.dataclass(frozen=True)
class WithoutHistory:
    """Set of answers to requests without a history; every second user is unknown, too.

    Attributes:
        user_id: [R] users of the requests.
        served: int64 [R, k] recommendations through the index, -1 where there are fewer.
        exact: int64 [R, k] recommendations by exact search, likewise.
    """

    user_id: Ints
    served: Ints
    exact: Ints


@dataclasses.dataclass(frozen=True)
class Answers:
    """Recommendations of a served model, and measurements of it.

    With `served_alone` every attribute but `served` is empty.

    Attributes:
        served: int64 [Q, k] recommendations through the index, -1 where there are fewer.
        exact: int64 [Q, k] recommendations by exact search, -1 where there are fewer.
        item_id: int64 [items], the catalog in the index's order.
        embeddings: float32 [items, D], the candidate tower's embeddings of the catalog.
        without_history: answers to some of the queries, asked again without a history.
        facts: `latency`, `size`, `parity` and `choice` (`catalog.choice`), as in evaluation.json, and
            `canary`, see `canary.recorded`.
    """

    served: Ints
    exact: Ints
    item_id: Ints
    embeddings: npt.NDArray[np.float32]
    without_history: WithoutHistory
    facts: dict[str, Any]


def answers(
    model_path: str,
    windows_dir: str,
    rows: Ints,
    *,
    k: int,
    history_length: int,
    exclude: bool,
    users: Sequence[FeatureSpec] = (),
    served_alone: bool = False,
    data: str = "",
) -> Answers:
    """Measures a served model in a fresh process, on some queries of a split.

    Args:
      model_path: the SavedModel.
      windows_dir: the split's Examples.
      rows: [Q] indices into the split's `all_queries`.
      k: recommendations per query.
      history_length: events in a request.
      exclude: whether requests exclude the items that the user already had.
      users: the columns of users/ that the windows carry.
      served_alone: whether to return the served recommendations alone. A comparison with the blessed model
        needs no more.
      data: the data directory, for texts of users' ids in the canary's queries; "": there is none.

    Raises:
      UserError: the model does not load or answer, or it answers text ids otherwise than their numbers. The
        log holds the process's stderr.
    """
    request = {
        "model_path": model_path,
        "windows_dir": windows_dir,
        "rows": rows.tolist(),
        "k": k,
        "history_length": history_length,
        "exclude": exclude,
        "users": [dataclasses.asdict(spec) for spec in users],
        "served_alone": served_alone,
        "data": data,
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
            _log.error("Evaluating %s in a fresh process failed:\n%s", model_path, done.stderr)
            said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            raise UserError(
                f"{model_path}: the model does not load or does not answer in a fresh process. That process "
                f"ended with status {done.returncode} and said {said[-1] if said else 'nothing'!r}. Are its "
                "files damaged, or some of them gone? Restore them, or remove the whole directory. A model "
                "whose directory is gone is not compared with."
            )
        with np.load(answer_file) as answer:
            return Answers(
                answer["served"],
                answer["exact"],
                answer["item_id"],
                answer["embeddings"],
                WithoutHistory(answer["new_user_id"], answer["new_served"], answer["new_exact"]),
                json.loads(str(answer["facts"])),
            )


def _main(request_file: str, answer_file: str) -> None:
    with open(request_file, encoding="utf-8") as file:
        request: dict[str, Any] = json.load(file)
    windows = read_windows(request["windows_dir"], [FeatureSpec(**spec) for spec in request["users"]])
    queries = all_queries(windows).take(np.array(request["rows"], np.int64))
    model = _Served(request, windows, queries)
    served, scores, batch_seconds = model.recommendations()
    found: dict[str, Any] = {"served": served, "exact": _NOTHING, "item_id": _NOTHING}
    found |= {"embeddings": np.empty([0, 0], np.float32), "facts": "{}"}
    found |= {"new_user_id": np.empty(0, np.int64), "new_served": _NOTHING, "new_exact": _NOTHING}
    if not request["served_alone"]:
        item_id, embeddings = model.catalog()
        embedded_queries, own_scores = model.embedded_queries(item_id)
        excluded = model.excluded_rows(item_id)
        facts = {
            "latency": model.latency(batch_seconds),
            "size": _size(request["model_path"]),
            "parity": model.parity(item_id, embeddings, embedded_queries, own_scores, served, scores),
            "canary": model.canary(served, scores, item_id),
            "choice": _choice(len(item_id), excluded),
        }
        rows = top_rows(embedded_queries, embeddings, request["k"], excluded, own_scores)
        exact = _ids_at(rows, item_id)
        found |= {"exact": exact, "item_id": item_id, "embeddings": embeddings, "facts": json.dumps(facts)}
        new_user_id, new_served, new_queries = model.without_history()
        new_exact = _ids_at(top_rows(new_queries, embeddings, request["k"]), item_id)
        found |= {"new_user_id": new_user_id, "new_served": new_served, "new_exact": new_exact}
    np.savez(answer_file, **found)


_NOTHING = np.empty([0, 0], np.int64)


def _choice(items: int, excluded: Ints | None) -> int:
    """Counts the items that half of the queries can be recommended at most: the median, rounded down.

    Args:
      items: size of the catalog.
      excluded: [Q, E], see `_Served.excluded_rows`.
    """
    if excluded is None or not excluded.size:
        return items
    ordered = np.sort(excluded, axis=1)
    is_first = np.diff(ordered, axis=1, prepend=PADDING) > 0
    return int(np.median(items - is_first.sum(axis=1)))


def _ids_at(rows: Ints, item_id: Ints) -> Ints:
    """Returns the ids of rows of the catalog, in their shape; -1 stays."""
    return np.where(rows >= 0, item_id[np.maximum(rows, 0)], PADDING)


class _Served:
    """A served model and the queries for it."""

    def __init__(self, request: dict[str, Any], windows: Windows, queries: Queries) -> None:
        import tensorflow as tf
        from scann.scann_ops.py import scann_ops  # noqa: F401  registers ScaNN's ops

        self._request, self._windows, self._queries = request, windows, queries
        self._model = tf.saved_model.load(request["model_path"])
        self._recommend = signature_by_number(self._model, "serving_default")

    def recommendations(self) -> tuple[Ints, npt.NDArray[np.float32], list[float]]:
        """Returns ids and scores [Q, k], and the seconds of each full batch but the first."""
        k, size = self._request["k"], len(self._queries)
        items, scores = np.full([size, k], PADDING), np.full([size, k], -np.inf, np.float32)
        seconds = []
        for rows in self._batches():
            inputs = request_tensors(self._recommend, self._inputs(rows))
            began = time.perf_counter()
            answer = self._recommend(**inputs)
            items[rows], scores[rows] = answer["item_id"].numpy(), answer["score"].numpy()
            if rows[0] > 0 and len(rows) == _QUERIES_PER_BATCH:
                seconds.append(time.perf_counter() - began)
        return items, scores, seconds

    def without_history(self) -> tuple[Ints, Ints, npt.NDArray[np.float32]]:
        """Asks some queries again without a history: users [R], ids [R, k] and embeddings [R, D]."""
        rows = np.unique(np.linspace(0, len(self._queries) - 1, _WITHOUT_HISTORY).astype(np.int64))
        inputs = self._inputs(rows)
        for one in QUERY_INPUTS:
            if one.shape == PER_EVENT:
                del inputs[one.name]
        inputs[features.HISTORY_ITEM_ID] = np.full([len(rows), 1], features.PADDING)
        inputs[features.HISTORY_TIMESTAMP] = np.zeros([len(rows), 1], np.int64)
        is_new = np.arange(len(rows)) % 2 == 1
        inputs[features.USER_ID] = np.where(is_new, _NEW_USER - rows, inputs[features.USER_ID])
        inputs.pop(features.EXCLUDE_ITEM_ID)
        embed = signature_by_number(self._model, "query_embedding")
        embedded = embed(**request_tensors(embed, inputs))["embedding"].numpy()
        served = self._recommend(**request_tensors(self._recommend, inputs))["item_id"].numpy()
        return inputs[features.USER_ID], served, embedded

    def canary(self, served: Ints, scores: npt.NDArray[np.float32], item_id: Ints) -> dict[str, Any] | None:
        """Records a few queries with their answers, in the data's own ids; None without queries.

        Pusher repeats these queries on the copy that it is about to push. Queries of text ids are asked here
        once more, and must be answered as their numbers were.

        Args:
          served: [Q, k] the answers by number.
          scores: [Q, k] their scores.
          item_id: [items] the catalog, by number.

        Raises:
          UserError: a query in text ids has another answer.
        """
        size = len(self._queries)
        if not size:
            return None
        rows = np.linspace(0, size - 1, min(size, canary.QUERIES)).astype(np.int64)
        signature = self._model.signatures["serving_default"]
        by_number = self._inputs(rows)
        texts = id_texts.IdTexts.of_model(self._model, item_id)
        texts.read_those_of(by_number, self._request["data"])
        asked = texts.of_request(by_number)
        inputs = request_tensors(signature, asked)
        record = {name: value.numpy() for name, value in inputs.items()}
        if not texts.kinds.has_text:
            return canary.recorded(record, served[rows], scores[rows])
        answer = signature(**inputs)
        items, found = answer["item_id"].numpy(), answer["score"].numpy()
        expected = texts.of_items(served[rows])
        # An id without a known text was asked as a new one.
        known = texts.knows(by_number)
        if known.any() and (
            said := canary.difference(
                canary.recorded({}, expected[known], scores[rows][known]), items[known], found[known]
            )
        ):
            raise UserError(
                f"The model answers text ids otherwise than their numbers. {said} Build the index again with "
                "the release that ingested the data."
            )
        return canary.recorded(record, items, found)

    def embedded_queries(self, item_id: Ints) -> tuple[npt.NDArray[np.float32], OwnScores | None]:
        """Returns embeddings [Q, D], and scores of the history's items; None without a repeat head.

        Args:
          item_id: [items] the catalog.
        """
        embed = signature_by_number(self._model, "query_embedding")
        parts = [embed(**request_tensors(embed, self._inputs(rows))) for rows in self._batches()]
        if not parts:
            return np.empty([0, 1], np.float32), None
        answer = {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]}
        again = answer.get(features.REPEAT_ITEM_ID)
        if again is None:
            return answer["embedding"], None
        return answer["embedding"], OwnScores(_places(again, item_id), answer[features.REPEAT_SCORE])

    def catalog(self) -> tuple[Ints, npt.NDArray[np.float32]]:
        """Returns ids [items] in the index's order, and their candidate embeddings [items, D]."""
        item_id = signature_by_number(self._model, "catalog")()["item_id"].numpy()
        embed = signature_by_number(self._model, "candidate_embedding")
        embeddings: Any = None
        for begin in range(0, len(item_id), _ITEMS_PER_BATCH):
            part = embed(item_id=_constant(item_id[begin : begin + _ITEMS_PER_BATCH]))["embedding"].numpy()
            if embeddings is None:
                embeddings = np.empty([len(item_id), part.shape[1]], np.float32)
            embeddings[begin : begin + len(part)] = part
        return item_id, embeddings

    def excluded_rows(self, item_id: Ints) -> Ints | None:
        """Returns [Q, E], catalog rows of the items that each query's user had; -1 for padding.

        Returns None if repeats may be recommended.
        """
        if not self._request["exclude"]:
            return None
        return _places(excluded_items(self._windows, self._queries), item_id)

    def latency(self, batch_seconds: list[float]) -> dict[str, Any]:
        """Measures `single` and `batch` of evaluation.json, on requests of the split after a warm-up."""
        if not len(self._queries):
            return {}
        rows = np.linspace(0, len(self._queries) - 1, _WARM_UP + _SINGLE_REQUESTS).astype(np.int64)
        single = self._timed([np.array([row]) for row in rows])
        full = next(self._batches())
        if len(batch_seconds) < _BATCHES:
            batch_seconds = batch_seconds + self._timed([full] * (_BATCHES - len(batch_seconds)), warm_up=0)
        return {"single": _percentiles(single), "batch": {"size": len(full), **_percentiles(batch_seconds)}}

    def _timed(self, requests: Sequence[Ints], warm_up: int = _WARM_UP) -> list[float]:
        """Measures the seconds of each request after the first `warm_up`; one request per entry of rows."""
        seconds: list[float] = []
        for number, rows in enumerate(requests):
            inputs = request_tensors(self._recommend, self._inputs(rows))
            began = time.perf_counter()
            self._recommend(**inputs)["item_id"].numpy()
            if number >= warm_up:
                seconds.append(time.perf_counter() - began)
            if sum(seconds) > _SECONDS:
                break
        return seconds

    def parity(
        self,
        item_id: Ints,
        embeddings: npt.NDArray[np.float32],
        embedded_queries: npt.NDArray[np.float32],
        own_scores: OwnScores | None,
        served: Ints,
        scores: npt.NDArray[np.float32],
    ) -> dict[str, Any]:
        """Compares the index with the towers: the first batch's scores and all of the index's rows.

        See `index_parity.parity`.
        """
        query, place = np.nonzero(served[:_QUERIES_PER_BATCH] >= 0)
        row = _places(served[query, place], item_id)
        expected = np.einsum("nd,nd->n", embedded_queries[query], embeddings[row])
        if own_scores is not None:
            is_own = own_scores.rows[query] == row[:, np.newaxis]
            own = np.where(is_own, own_scores.scores[query], 0.0).sum(axis=1)
            expected = np.where(is_own.any(axis=1), own, expected)
        return parity(
            item_id,
            _attempted(lambda: self._model.towers.catalog()["item_id"].numpy()),
            self._stored(len(item_id)) if hasattr(self._model, "indexed_embedding") else None,
            embeddings,
            scores[query, place],
            expected,
        )

    def _stored(self, items: int) -> Iterator[npt.NDArray[np.float32]]:
        """Yields the embeddings that the index holds, in blocks of its rows."""
        import tensorflow as tf

        for begin in range(0, items, _ITEMS_PER_BATCH):
            rows = tf.range(begin, min(begin + _ITEMS_PER_BATCH, items))
            yield self._model.indexed_embedding(row=rows)["embedding"].numpy()

    def _batches(self) -> Any:
        size = len(self._queries)
        return (
            np.arange(begin, min(begin + _QUERIES_PER_BATCH, size))
            for begin in range(0, size, _QUERIES_PER_BATCH)
        )

    def _inputs(self, rows: Ints) -> dict[str, Any]:
        of_request = history_batch(
            self._windows, self._queries, rows, self._request["history_length"], self._request["exclude"]
        )
        return {**of_request, features.K: self._request["k"]}


def _places(ids: Ints, item_id: Ints) -> Ints:
    """Locates ids of any shape in the catalog [items]; -1 for an id outside it."""
    by_id = np.argsort(item_id)
    place = by_id[np.minimum(np.searchsorted(item_id, ids, sorter=by_id), len(item_id) - 1)]
    return np.where(item_id[place] == ids, place, PADDING)


def _attempted(read: Callable[[], Any]) -> Any:
    """Returns a value from inside a model, or None for an older model without it."""
    try:
        return read()
    except AttributeError:
        return None


def _constant(values: Ints) -> Any:
    import tensorflow as tf

    return tf.constant(values, tf.int64)


def _percentiles(seconds: Sequence[float]) -> dict[str, Any]:
    """Computes p50, p95 and p99 in milliseconds, and counts the requests."""
    named = zip(("p50_ms", "p95_ms", "p99_ms"), np.percentile(seconds, [50, 95, 99]) * 1e3, strict=True)
    return {**{name: float(value) for name, value in named}, "requests": len(seconds)}


def _size(model_path: str) -> dict[str, int]:
    """Counts a model's files and their bytes."""
    import tensorflow as tf

    files = [
        os.path.join(folder, name) for folder, _, names in tf.io.gfile.walk(model_path) for name in names
    ]
    return {"bytes": sum(tf.io.gfile.stat(file).length for file in files), "files": len(files)}


if __name__ == "__main__":
    _main(*sys.argv[1:])
