"""Trains the towers on Transform's Examples and saves them."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
import tensorflow_transform as tft

from pipeline.configs import TrainerConfig, event_type_weights
from pipeline.errors import UserError
from pipeline.feature_specs import NUMERIC, VECTOR, ResolvedFeatures
from trainer import features
from trainer.catalog_table import CatalogArrays, CatalogTable
from trainer.label_weights import event_type_hash, play_ratio_weight, reaction_weight, user_weight
from trainer.retrieval_task import retrieval_task
from trainer.sampling import CandidateSampler, draw_positions, log_sampling_probability
from trainer.serving import Towers
from trainer.towers import CandidateTower, ItemEmbedding, Positions, QueryTower, Windows, padded, windows_of

# Records with `step`, `steps` and `message`: the console draws them as a bar, a cluster logs them.
progress = logging.getLogger("two_tower.progress")

VALIDATION_QUERIES = 5_000
# Of queries with items, in validation: 256 MB of float32.
_SCORES_AT_ONCE = 64_000_000
_SHUFFLED_WINDOWS = 20_000


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Where the transformed Examples and the graphs that made them lie; files are gzipped TFRecords."""

    train_files: list[str]
    eval_files: list[str]
    transform_graph: str
    catalog_files: list[str]
    catalog_graph: str
    history_length: int
    repeats_recommendable: bool
    resolved: ResolvedFeatures


class TwoTowerModel(tfrs.Model):
    """Both towers and the loss between them, over packed windows."""

    def __init__(
        self,
        table: CatalogTable,
        log_q: np.ndarray,
        users: int,
        history_length: int,
        config: TrainerConfig,
        aggregates: Sequence[str] = features.AGGREGATES,
        user_values: Mapping[str, int] | None = None,
        user_weight: np.ndarray | None = None,
    ) -> None:
        """`log_q`: float32 [items + 1], see `sampling.log_sampling_probability`; `aggregates`: the history
        aggregates to read; `user_values`: see QueryTower; `user_weight`: float32 [users + 1], see
        `label_weights.user_weight`, default: all are one."""
        super().__init__()
        items = ItemEmbedding(table, config)
        self.query_tower = QueryTower(items, users, history_length, config, user_values)
        self.candidate_tower = CandidateTower(items, config)
        self.task = retrieval_task(config)
        self._items = items
        self._history_length = history_length
        self._aggregates = tuple(aggregates)
        self._config = config
        self._event_type_weights = event_type_weights(config)
        self._user_weight = None
        if user_weight is not None:
            self._user_weight = tf.Variable(user_weight, trainable=False, name="user_weight")
        self._sampler = CandidateSampler(config, table, log_q)

    def compute_loss(self, inputs: dict[str, tf.RaggedTensor], training: bool = False) -> tf.Tensor:
        """`inputs`: a batch of transformed windows."""
        table = self._items.table
        windows = windows_of(inputs, table, self._history_length, self._aggregates)
        label_step, label_rows = labels_of(inputs, windows)
        at = draw_positions(label_step, label_rows, table.size, self._config.positions_per_step)
        rows = tf.gather_nd(label_rows, tf.stack(at, axis=-1))
        candidates = self._sampler(rows, at.window, training)
        return self.task(
            self.query_tower(windows, at, training=training),
            self.candidate_tower(candidates.rows, training=training),
            candidates,
            self._weights(inputs, windows, label_step, at),
        )

    def _weights(
        self, inputs: dict[str, tf.RaggedTensor], windows: Windows, label_step: tf.Tensor, at: Positions
    ) -> tf.Tensor:
        """Of each position's label, float32 [positions]: their sum is one, but for the users' weights."""
        weight = play_ratio_weight(padded(inputs[features.HISTORY_PLAY_RATIO]), self._config.play_ratio_floor)
        if self._event_type_weights:
            types = padded(inputs[features.EVENT_TYPE])
            weight *= reaction_weight(types, windows.rows, windows.is_listen, self._event_type_weights)
        of_label = tf.gather(weight, _label_index(label_step), batch_dims=1)
        drawn = tf.gather_nd(of_label, tf.stack(at, axis=-1))
        drawn = tf.math.divide_no_nan(drawn, tf.reduce_sum(drawn))
        if self._user_weight is None:
            return drawn
        # Not among what they are divided by: a step of heavy listeners alone would lift them back to one.
        return drawn * tf.gather(self._user_weight, tf.gather(windows.user, at.window))


def _label_index(label_step: tf.Tensor) -> tf.Tensor:
    return tf.range(tf.shape(label_step)[1]) + tf.cast(label_step, tf.int32)


def labels_of(inputs: dict[str, tf.RaggedTensor], windows: Windows) -> tuple[tf.Tensor, tf.Tensor]:
    """`label_step` int64 and the label's catalog row int32, both [windows, events].

    The row means something where `label_step` > 0.
    """
    label_step = padded(inputs[features.LABEL_STEP])
    return label_step, tf.gather(windows.rows, _label_index(label_step), batch_dims=1)


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


class Watch(tf.keras.callbacks.Callback):
    """Reports progress, and stops on a loss that is not a number."""

    def __init__(self, epochs: int, cutoff: int) -> None:
        """`cutoff`: the k of the validation recall to report."""
        super().__init__()
        self._epochs = epochs
        self._cutoff = cutoff
        self._steps = 0
        self._step = 0
        self._validation = ""
        self._reported = 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._step += 1
        loss = (logs or {}).get("loss", math.nan)
        if not math.isfinite(loss):
            raise UserError(
                f"Training stopped at step {self._step}: the loss is {loss}. Lower trainer.learning_rate, or "
                "raise trainer.temperature."
            )
        if time.monotonic() - self._reported > 0.5:
            self._reported = time.monotonic()
            self._report(f"loss {loss:.3f}{self._validation}")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._steps = self._step // (epoch + 1) * self._epochs
        recall = (logs or {}).get(f"val_recall@{self._cutoff}", math.nan)
        self._validation = f", validation Recall@{self._cutoff} {recall:.4f}"
        self._report(f"epoch {epoch + 1} of {self._epochs}{self._validation}")

    def _report(self, message: str) -> None:
        # How many steps an epoch has is known after the first.
        progress.info(message, extra={"step": self._step, "steps": self._steps, "message_text": message})


def train(
    data: TrainingData, config: TrainerConfig, model_dir: str, log_dir: str, cutoff: int = 100
) -> dict[str, float]:
    """Trains, restores the epoch of the best validation Recall@cutoff, and saves the towers to `model_dir`.

    TensorBoard logs go to `log_dir`. Returns the best epoch, its loss and validation recalls, and the numbers
    of epochs and parameters. Raises UserError when the loss becomes NaN.
    """
    tf.keras.utils.set_random_seed(config.seed)
    transform_output = tft.TFTransformOutput(data.transform_graph)
    catalog_output = tft.TFTransformOutput(data.catalog_graph)
    catalog = CatalogArrays.read(
        data.catalog_files, catalog_output.transformed_feature_spec(), data.resolved.items
    )
    vocabulary = transform_output.vocabulary_by_name(features.ITEM_VOCABULARY)
    train_items = np.array([int(item) for item in vocabulary], np.int64)
    table = CatalogTable(catalog, train_items)
    log_q = log_sampling_probability(catalog, _label_counts(transform_output))
    # A catalog with vectors is large, and the table has it.
    del catalog
    spec = transform_output.transformed_feature_spec()
    users = transform_output.vocabulary_size_by_name(features.USER_VOCABULARY)
    user_weights = None
    if config.max_labels_per_user:
        labels = _labels_by_user(_batches(data.train_files, spec, 256), users)
        user_weights = user_weight(labels, config.max_labels_per_user)
    if config.event_type_weights:
        _check_event_types(_batches(data.train_files, spec, 256), config)
    model = TwoTowerModel(
        table,
        log_q,
        users,
        data.history_length,
        config,
        data.resolved.history,
        _user_vocabularies(transform_output, data.resolved),
        user_weights,
    )
    model.compile(optimizer=tf.keras.optimizers.Adam(config.learning_rate))

    batches = _batches(data.train_files, spec, config.windows_per_step, shuffle_seed=config.seed)
    validation = ValidationRecall(_batches(data.eval_files, spec, 256), table, data, config.seed, cutoff)
    history = model.fit(
        batches,
        epochs=config.epochs,
        verbose=0,
        callbacks=[
            validation,
            Watch(config.epochs, validation.monitored),
            tf.keras.callbacks.EarlyStopping(
                monitor=validation.monitor, mode="max", patience=config.patience, restore_best_weights=True
            ),
            tf.keras.callbacks.TensorBoard(log_dir),
        ],
    ).history
    Towers(
        transform_output.transform_features_layer(),
        table,
        model.query_tower,
        model.candidate_tower,
        data.history_length,
        data.resolved,
    ).save(model_dir)
    best = int(np.argmax(history[validation.monitor]))
    return {
        "epochs": len(history["loss"]),
        "best_epoch": best + 1,
        "loss": history["loss"][best],
        **{name: values[best] for name, values in history.items() if name.startswith("val_recall@")},
        "parameters": sum(math.prod(weight.shape) for weight in model.trainable_variables),
    }


def _user_vocabularies(transform_output: tft.TFTransformOutput, resolved: ResolvedFeatures) -> dict[str, int]:
    """Size of the vocabulary of each column of users/ that has one."""
    names = [
        features.transformed_column(spec.name)
        for spec in resolved.users
        if spec.kind not in (NUMERIC, VECTOR)
    ]
    return {name: transform_output.vocabulary_size_by_name(name) for name in names}


def _label_counts(transform_output: tft.TFTransformOutput) -> dict[int, int]:
    """Train label counts by item id, from the vocabulary's lines "count id"."""
    path = transform_output.vocabulary_file_by_name(features.LABEL_VOCABULARY)
    with tf.io.gfile.GFile(path) as file:
        pairs = [line.split() for line in file]
    return {int(item): int(count) for count, item in pairs}


def _labels_by_user(batches: tf.data.Dataset, users: int) -> np.ndarray:
    """How many labels each user has, int64 [users + 1], the last of users that are not in the vocabulary."""
    counts = np.zeros(users + 1, np.int64)
    for batch in batches:
        labels = np.count_nonzero(padded(batch[features.LABEL_STEP]), axis=1)
        np.add.at(counts, tf.reshape(batch[features.USER], [-1]).numpy(), labels)
    return counts


def _check_event_types(batches: tf.data.Dataset, config: TrainerConfig) -> None:
    """Raises UserError for a weight of an event type that no event of the batches has."""
    missing = {int(event_type_hash(name)): name for name in event_type_weights(config)}
    for batch in batches:
        for number in np.unique(batch[features.EVENT_TYPE].flat_values):
            missing.pop(int(number), None)
    if missing:
        name = next(iter(missing.values()))
        raise UserError(f"trainer.event_type_weights names {name!r}, and no event of train is of that type.")


def _batches(
    files: list[str], spec: dict[str, Any], windows: int, shuffle_seed: int | None = None
) -> tf.data.Dataset:
    dataset = tf.data.TFRecordDataset(files, compression_type="GZIP", num_parallel_reads=2)
    if shuffle_seed is not None:
        dataset = dataset.shuffle(_SHUFFLED_WINDOWS, seed=shuffle_seed)
    return (
        dataset.batch(windows)
        .map(lambda serialized: tf.io.parse_example(serialized, spec), num_parallel_calls=2)
        .prefetch(2)
    )
