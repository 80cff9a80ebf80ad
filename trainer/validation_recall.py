"""Validation during training: exact Recall@k over the whole catalog."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from trainer import features
from trainer.catalog_table import CatalogTable
from trainer.model import labels_of
from trainer.towers import Positions, Windows, windows_of
from trainer.training_data import TrainingData

VALIDATION_QUERIES = 5_000
# Of queries with items, in validation: 256 MB of float32.
_SCORES_AT_ONCE = 64_000_000


@dataclasses.dataclass(frozen=True)
class _Asked:
    """Queries of one batch of windows.

    Attributes:
        windows, at: what they see, and where they stand in it.
        rows: int [labels] catalog rows of all their labels; the number of items where unknown.
        counts: int [queries] labels of each, in turn.
        had: int [queries, events] rows that are not recommended again; None where they are.
    """

    windows: Windows
    at: Positions
    rows: np.ndarray
    counts: np.ndarray
    had: np.ndarray | None


class ValidationRecall(tf.keras.callbacks.Callback):
    """Recall@10 and Recall@cutoff over the whole catalog, exactly, after every epoch, with example age zero.

    Recall is the share of a query's labels, whether it has one or, in the frozen protocol, a set. At most
    VALIDATION_QUERIES queries are drawn, the same ones each time.
    """

    def __init__(
        self,
        eval_batches: tf.data.Dataset,
        table: CatalogTable,
        data: TrainingData,
        seed: int,
        cutoff: int = 100,
    ) -> None:
        """`eval_batches` yields transformed windows of the eval split."""
        super().__init__()
        self._table = table
        self._cutoffs = sorted({10, cutoff})
        # The k of the recall that picks the best epoch. At the catalog's size every model recalls everything.
        self.monitored = cutoff if cutoff < table.size else 10
        batches = list(eval_batches)
        queries = sum(
            np.count_nonzero(batch[features.LABEL_STEP].flat_values)
            + np.count_nonzero(batch[features.LABEL_ITEM_ID].row_lengths())
            for batch in batches
        )
        keep = min(1.0, VALIDATION_QUERIES / max(queries, 1))
        draw = np.random.default_rng(seed)
        self._asked: list[_Asked] = []
        for batch in batches:
            windows = windows_of(batch, table, data.history_length, data.resolved.history)
            where, label_rows, counts = _queries_of(batch, windows, table)
            kept = draw.random(len(where)) < keep
            if not kept.any():
                continue
            where, label_rows, counts = where[kept], label_rows[np.repeat(kept, counts)], counts[kept]
            had = None
            if not data.repeats_recommendable:
                rows = windows.rows.numpy()
                # What a later position holds is not had yet: point it at the row of unknown items.
                later = np.arange(rows.shape[1]) > where[:, 1:]
                had = np.where(later, table.size, rows[where[:, 0]])
            at = Positions(*(tf.constant(place, tf.int32) for place in where.T))
            self._asked.append(_Asked(windows, at, label_rows, counts, had))

    @property
    def monitor(self) -> str:
        """The name of the recall that picks the best epoch, in the logs."""
        return f"val_recall@{self.monitored}"

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        counts = np.concatenate([asked.counts for asked in self._asked])
        query = np.repeat(np.arange(len(counts)), counts)
        ranks = self.ranks()
        if logs is not None:
            for k in self._cutoffs:
                hits = np.bincount(query, ranks < k, minlength=len(counts))
                logs[f"val_recall@{k}"] = float((hits / counts).mean())

    def ranks(self) -> np.ndarray:
        """0-based rank of every label among the whole catalog, by query.

        It is infinite from the largest cutoff on, and where the label is not in the catalog. Of equal scores
        the label's counts last: embeddings that are all the same have learnt nothing.
        """
        size = self._table.size
        batches = [tf.range(begin, min(begin + 65_536, size)) for begin in range(0, size, 65_536)]
        catalog = np.concatenate([self.model.candidate_tower(rows).numpy() for rows in batches])
        step = max(1, _SCORES_AT_ONCE // size)
        ranks = []
        for asked in self._asked:
            embeddings = self.model.query_tower(asked.windows, asked.at)
            ends = np.concatenate([[0], np.cumsum(asked.counts)])
            for begin in range(0, len(asked.counts), step):
                end = min(begin + step, len(asked.counts))
                had = None if asked.had is None else asked.had[begin:end]
                rows = asked.rows[ends[begin] : ends[end]]
                query = np.repeat(np.arange(end - begin), asked.counts[begin:end])
                scores = tf.matmul(embeddings[begin:end], catalog, transpose_b=True).numpy()
                ranks.append(self._ranks_among(scores, query, rows, had))
        return np.concatenate(ranks)

    def _ranks_among(
        self, scores: np.ndarray, query: np.ndarray, rows: np.ndarray, had: np.ndarray | None
    ) -> np.ndarray:
        """Ranks of labels: `scores` [queries, items], which is overwritten; `query` and `rows` [labels]."""
        size, depth = self._table.size, self._cutoffs[-1]
        scores[~np.isfinite(scores)] = -np.inf
        own = scores[query, np.minimum(rows, size - 1)]
        if had is not None:
            excluded, column = np.nonzero(had < size)
            scores[excluded, had[excluded, column]] = -np.inf
        # Who is not among the first `depth` + 1 has at least `depth` before it.
        best = tf.math.top_k(scores, k=min(depth + 1, size)).values.numpy()
        rank = (best[query] >= own[:, np.newaxis]).sum(axis=1) - 1.0
        return np.where((rows < size) & np.isfinite(own) & (rank < depth), rank, np.inf)


def _queries_of(
    batch: dict[str, tf.RaggedTensor], windows: Windows, table: CatalogTable
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The queries of transformed windows. One with a set of labels is asked at its last listen, as served.

    Returns:
      (window, event) [queries, 2], catalog rows of all labels [labels], and how many each has [queries].
    """
    counts = batch[features.LABEL_ITEM_ID].row_lengths().numpy()
    if counts.any():
        window = np.flatnonzero(counts)
        listens = windows.is_listen.numpy()
        last = np.where(listens, np.arange(listens.shape[1]), -1).max(axis=1)
        rows = table.rows_of(batch[features.LABEL_ITEM_ID].flat_values).numpy()
        return np.stack([window, last[window]], axis=1), rows, counts[window]
    label_step, label_rows = labels_of(batch, windows)
    where = tf.where(label_step > 0).numpy()
    return where, label_rows.numpy()[where[:, 0], where[:, 1]], np.ones(len(where), np.int64)
