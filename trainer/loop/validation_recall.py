"""Validation during training: exact Recall@k over the whole catalog."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from two_tower.schema import features
from two_tower.trainer.loop.training_data import TrainingData
from two_tower.trainer.model.catalog_table import OUT_OF_VOCABULARY, CatalogTable
from two_tower.trainer.model.windows import Positions, Windows, windows_of

# Queries for a large catalog; a small one, which is scored quickly, has twice as many.
VALIDATION_QUERIES = 5_000
_SMALL_CATALOG = 100_000
# Least number of queries with a cold item as label for which val_cold_recall is reported.
_LEAST_COLD_QUERIES = 50
# Batch size of the query tower. Windows are sorted by length, so that padding is short.
_WINDOWS_AT_ONCE = 256
# Scores of queries and items in memory: 256 MB of float32.
_SCORES_AT_ONCE = 64_000_000
# Columns of Transform that the towers do not read here. The example age is among them: validation asks for
# now, as serving does, even for labels older than train's newest label.
_NOT_READ = (
    features.EXAMPLE_AGE,
    features.EVENT_TYPE,
    features.LABEL_STEP,
    features.LABEL_ITEM_ID,
    features.SEEN_ITEM_ID,
)

_Transformed = dict[str, "tf.RaggedTensor | tf.Tensor"]


class _Queries(NamedTuple):
    """The queries in a batch of transformed windows.

    Attributes:
        window: int [queries], the window of each query.
        end: int [queries], the end of the visible history, among the events of all windows.
        labels: int64 [labels], item ids of the labels, query after query.
        counts: int [queries], the number of labels of each query.
    """

    window: np.ndarray
    end: np.ndarray
    labels: np.ndarray
    counts: np.ndarray


class ValidationRecall(tf.keras.callbacks.Callback):
    """Exact Recall@10, Recall@cutoff and NDCG@10 over the catalog after every epoch, at example age zero.

    Recall is the share of a query's labels that are found. A query has one label or, in the frozen protocol,
    a set. A query sees its last N events. Where items are not recommended twice, items that the user has had
    are excluded. Both are as in serving and in RetrievalEvaluator. `val_cold_recall@k` is the recall of
    labels that are cold items, over the `val_cold_queries` with such a label.

    At most VALIDATION_QUERIES queries are drawn, or twice as many, the same ones after each epoch.
    """

    def __init__(
        self,
        eval_batches: tf.data.Dataset,
        table: CatalogTable,
        data: TrainingData,
        seed: int,
        cutoff: int = 100,
    ) -> None:
        """Args:
        eval_batches: transformed windows of the eval split, read twice and not kept.
        table: the catalog.
        data: the training data.
        seed: of the draw of queries.
        cutoff: the k of the recall that picks the best epoch.
        """
        super().__init__()
        self._table = table
        self._cutoffs = sorted({10, cutoff})
        # The k of the recall that picks the best epoch. At the catalog's size every recall is one.
        self.monitored = cutoff if cutoff < table.size else 10
        total = sum(len(_queries_of(batch).window) for batch in eval_batches)
        most = VALIDATION_QUERIES * (2 if table.size <= _SMALL_CATALOG else 1)
        draw = np.random.default_rng(seed)
        seen, labels, counts, had = [], [], [], []
        for batch in eval_batches:
            queries = _queries_of(batch)
            kept = draw.random(len(queries.window)) < most / max(total, 1)
            window, end = queries.window[kept], queries.end[kept]
            seen.append(_as_served(batch, window, end, data.history_length))
            labels.append(queries.labels[np.repeat(kept, queries.counts)])
            counts.append(queries.counts[kept])
            had.append(_had(batch, window, end))
        self._counts = np.concatenate(counts)
        self._label_rows = table.rows_of(tf.constant(np.concatenate(labels), tf.int64)).numpy()
        self._is_cold = table.item.numpy()[self._label_rows] == OUT_OF_VOCABULARY
        self._had: tf.RaggedTensor | None = None
        if not data.repeats_recommendable:
            ids = tf.concat(had, axis=0)
            self._had = ids.with_flat_values(table.rows_of(ids.flat_values))

        joined = {name: tf.concat([one[name] for one in seen], axis=0) for name in seen[0]}
        lengths = joined[features.HISTORY_ITEM_ID].row_lengths().numpy()
        self._order = np.argsort(lengths, kind="stable")
        self._seen: list[tuple[Windows, Positions]] = []
        for begin in range(0, len(lengths), _WINDOWS_AT_ONCE):
            rows = self._order[begin : begin + _WINDOWS_AT_ONCE]
            some = {name: tf.gather(values, rows) for name, values in joined.items()}
            windows = windows_of(some, table, data.history_length, data.resolved.history)
            last = tf.constant(lengths[rows] - 1, tf.int32)
            self._seen.append((windows, Positions(tf.range(len(rows)), last)))

    @property
    def monitor(self) -> str:
        """Name, in the logs, of the recall that picks the best epoch."""
        return f"val_recall@{self.monitored}"

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        ranks = self.ranks()
        if logs is None:
            return
        everywhere = np.ones(len(ranks), bool)
        for k in self._cutoffs:
            logs[f"val_recall@{k}"] = self._recall(ranks < k, everywhere)
        logs["val_ndcg@10"] = self._ndcg(ranks, 10)
        cold_queries = len(np.unique(self._query_of_label()[self._is_cold]))
        if cold_queries >= _LEAST_COLD_QUERIES:
            logs["val_cold_queries"] = float(cold_queries)
            for k in self._cutoffs:
                logs[f"val_cold_recall@{k}"] = self._recall(ranks < k, self._is_cold)

    def ranks(self) -> np.ndarray:
        """Ranks every label among the whole catalog, from 0, query after query.

        A rank is infinite from the largest cutoff on, and for a label outside the catalog. Among equal
        scores the label ranks last: so constant embeddings get no recall.
        """
        size = self._table.size
        batches = [tf.range(begin, min(begin + 65_536, size)) for begin in range(0, size, 65_536)]
        catalog = np.concatenate([self.model.candidate_tower(rows).numpy() for rows in batches])
        answered = [self.model.query_tower(*asked) for asked in self._seen]
        embeddings = self._in_order([one.numpy() for one in answered])
        repeats = self._repeats(answered)
        ends = np.append(0, np.cumsum(self._counts))
        step = max(1, _SCORES_AT_ONCE // size)
        ranks = []
        for begin in range(0, len(embeddings), step):
            end = min(begin + step, len(embeddings))
            scores = tf.matmul(embeddings[begin:end], catalog, transpose_b=True).numpy()
            if repeats is not None:
                again, own = (values[begin:end] for values in repeats)
                of_query, place = np.nonzero(again >= 0)
                scores[of_query, again[of_query, place]] = own[of_query, place]
            query = np.repeat(np.arange(end - begin), self._counts[begin:end])
            rows = self._label_rows[ends[begin] : ends[end]]
            had = None if self._had is None else self._had[begin:end]
            ranks.append(self._ranks_among(scores, query, rows, had))
        return np.concatenate(ranks)

    def _repeats(self, embeddings: list[tf.Tensor]) -> tuple[np.ndarray, np.ndarray] | None:
        """Computes the repeat head's catalog rows, -1 at padding, and scores, [queries, N].

        Returns None without the repeat head. `embeddings`: of the queries, batch by batch.
        """
        head = self.model.query_tower.repeats
        if head is None:
            return None
        asked = zip(self._seen, embeddings, strict=True)
        found = [head(*windows, own, self.model.candidate_tower) for windows, own in asked]
        rows = self._in_order([one.rows.numpy() for one in found])
        return rows, self._in_order([one.score.numpy() for one in found])

    def _in_order(self, parts: list[np.ndarray]) -> np.ndarray:
        """Restores the order of the queries of values computed batch by batch."""
        answered = np.concatenate(parts)
        values = np.empty_like(answered)
        values[self._order] = answered
        return values

    def _ranks_among(
        self, scores: np.ndarray, query: np.ndarray, rows: np.ndarray, had: tf.RaggedTensor | None
    ) -> np.ndarray:
        """Ranks labels: `scores` [queries, items], which is overwritten; `query` and `rows` [labels]."""
        size, depth = self._table.size, self._cutoffs[-1]
        scores[~np.isfinite(scores)] = -np.inf
        own = scores[query, np.minimum(rows, size - 1)]
        if had is not None:
            excluded, of_query = had.flat_values.numpy(), had.value_rowids().numpy()
            known = excluded < size
            scores[of_query[known], excluded[known]] = -np.inf
        # A label outside the first `depth` + 1 has at least `depth` items before it.
        best = tf.math.top_k(scores, k=min(depth + 1, size)).values.numpy()
        rank = (best[query] >= own[:, np.newaxis]).sum(axis=1) - 1.0
        return np.where((rows < size) & np.isfinite(own) & (rank < depth), rank, np.inf)

    def _query_of_label(self) -> np.ndarray:
        return np.repeat(np.arange(len(self._counts)), self._counts)

    def _recall(self, hits: np.ndarray, counted: np.ndarray) -> float:
        """Averages over queries the share of `counted` labels that are `hits` (both bool [labels])."""
        query, queries = self._query_of_label(), len(self._counts)
        labels = np.bincount(query, counted, minlength=queries)
        found = np.bincount(query, hits & counted, minlength=queries)
        return float((found[labels > 0] / labels[labels > 0]).mean())

    def _ndcg(self, ranks: np.ndarray, k: int) -> float:
        """Averages DCG / ideal DCG of the first k, as `ndcg@k` of RetrievalEvaluator."""
        discounts = 1.0 / np.log2(np.arange(2.0, k + 2.0))
        gain = np.append(discounts, 0.0)[np.minimum(ranks, k).astype(int)]
        ideal = np.cumsum(discounts)[np.minimum(self._counts, k) - 1]
        return float((np.bincount(self._query_of_label(), gain, len(ideal)) / ideal).mean())


def _queries_of(batch: _Transformed) -> _Queries:
    """Returns the queries of transformed windows. A query with a set of labels ends at the last listen."""
    offsets = batch[features.HISTORY_ITEM_ID].row_splits.numpy()
    counts = batch[features.LABEL_ITEM_ID].row_lengths().numpy()
    if counts.any():
        window = np.flatnonzero(counts)
        listens = batch[features.IS_LISTEN].flat_values.numpy() > 0
        ends = np.maximum.accumulate(np.where(listens, np.arange(1, len(listens) + 1), 0))
        # The query of a window without listens has an empty history.
        end = np.maximum(ends[offsets[window + 1] - 1], offsets[window])
        return _Queries(window, end, batch[features.LABEL_ITEM_ID].flat_values.numpy(), counts[window])
    step = batch[features.LABEL_STEP].flat_values.numpy()
    event = np.flatnonzero(step > 0)
    labels = batch[features.HISTORY_ITEM_ID].flat_values.numpy()[event + step[event]]
    window = np.searchsorted(offsets, event, side="right") - 1
    return _Queries(window, event + 1, labels, np.ones(len(event), np.int64))


def _as_served(batch: _Transformed, window: np.ndarray, end: np.ndarray, history_length: int) -> _Transformed:
    """Cuts one window for each query, with its last `history_length` events, as in a request."""
    first = batch[features.HISTORY_ITEM_ID].row_splits.numpy()[window]
    events = tf.ragged.range(np.maximum(first, end - history_length), end)
    served = {}
    for name, values in batch.items():
        if name in _NOT_READ:
            continue
        is_of_events = isinstance(values, tf.RaggedTensor) and not features.is_transformed_column(name)
        served[name] = tf.gather(values.flat_values, events) if is_of_events else tf.gather(values, window)
    return served


def _had(batch: _Transformed, window: np.ndarray, end: np.ndarray) -> tf.RaggedTensor:
    """Returns ids of items that each query's user has had, up to the query, [queries, (ids)].

    They are those of the window and those seen before it. An id may occur twice.
    """
    items = batch[features.HISTORY_ITEM_ID]
    inside = tf.gather(items.flat_values, tf.ragged.range(items.row_splits.numpy()[window], end))
    return tf.concat([inside, tf.gather(batch[features.SEEN_ITEM_ID], window)], axis=1)
