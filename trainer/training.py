"""Trains the towers on Transform's Examples and saves them."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
import tensorflow_transform as tft

from pipeline.configs import TrainerConfig
from pipeline.errors import UserError
from trainer import features
from trainer.catalog_table import CatalogArrays, CatalogTable
from trainer.retrieval_task import CorrectedRetrieval
from trainer.sampling import draw_positions, log_sampling_probability, negatives_mask
from trainer.serving import Towers
from trainer.towers import CandidateTower, ItemEmbedding, Positions, QueryTower, Windows, padded, windows_of

# Records with `step`, `steps` and `message`: the console draws them as a bar, a cluster logs them.
progress = logging.getLogger("two_tower.progress")

VALIDATION_QUERIES = 5_000
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


class TwoTowerModel(tfrs.Model):
    """Both towers and the loss between them, over packed windows."""

    def __init__(
        self,
        table: CatalogTable,
        log_q: np.ndarray,
        users: int,
        history_length: int,
        config: TrainerConfig,
    ) -> None:
        """`log_q`: float32 [items + 1], see `sampling.log_sampling_probability`."""
        super().__init__()
        items = ItemEmbedding(table, config)
        self.query_tower = QueryTower(items, users, history_length, config)
        self.candidate_tower = CandidateTower(items, config)
        self.task = CorrectedRetrieval(config.temperature)
        self._table = table
        self._config = config
        corrected = config.sampling_correction == "logq"
        self._log_q = tf.Variable(log_q if corrected else np.zeros_like(log_q), trainable=False)

    def compute_loss(self, inputs: dict[str, tf.RaggedTensor], training: bool = False) -> tf.Tensor:
        """`inputs`: a batch of transformed windows."""
        windows = windows_of(inputs, self._table)
        label_step, label_rows = labels_of(inputs, windows)
        at = draw_positions(label_step, label_rows, self._table.size, self._config.positions_per_step)
        where = tf.stack(at, axis=-1)
        rows = tf.gather_nd(label_rows, where)
        played = tf.gather_nd(
            tf.gather(padded(inputs[features.HISTORY_PLAY_RATIO]), _label_index(label_step), batch_dims=1),
            where,
        )
        floor = self._config.play_ratio_floor
        weight = tf.where(played < 0, 1.0, floor + (1 - floor) * tf.minimum(played, 1.0))
        return self.task(
            self.query_tower(windows, at, training=training),
            self.candidate_tower(rows, training=training),
            log_sampling_probability=tf.gather(self._log_q, rows),
            score_mask=negatives_mask(rows, at.window),
            sample_weight=weight,
        )


def _label_index(label_step: tf.Tensor) -> tf.Tensor:
    return tf.range(tf.shape(label_step)[1]) + tf.cast(label_step, tf.int32)


def labels_of(inputs: dict[str, tf.RaggedTensor], windows: Windows) -> tuple[tf.Tensor, tf.Tensor]:
    """`label_step` int64 and the label's catalog row int32, both [windows, events].

    The row means something where `label_step` > 0.
    """
    label_step = padded(inputs[features.LABEL_STEP])
    return label_step, tf.gather(windows.rows, _label_index(label_step), batch_dims=1)


class ValidationRecall(tf.keras.callbacks.Callback):
    """Recall@10 and @100 over the whole catalog, exactly, after every epoch, with example age zero.

    `eval_batches` yields transformed windows of the eval split; at most VALIDATION_QUERIES queries are
    drawn, the same ones each time.
    """

    def __init__(
        self, eval_batches: tf.data.Dataset, table: CatalogTable, data: TrainingData, seed: int
    ) -> None:
        super().__init__()
        self._table = table
        self._exclude_window = not data.repeats_recommendable
        batches = list(eval_batches)
        labelled = sum(np.count_nonzero(batch[features.LABEL_STEP].flat_values) for batch in batches)
        keep = min(1.0, VALIDATION_QUERIES / max(labelled, 1))
        draw = np.random.default_rng(seed)
        self._queries: list[tuple[Windows, Positions, np.ndarray, np.ndarray | None]] = []
        for batch in batches:
            windows = windows_of(batch, table)
            label_step, label_rows = labels_of(batch, windows)
            where = tf.where(label_step > 0).numpy().astype(np.int32)
            where = where[draw.random(len(where)) < keep]
            if not len(where):
                continue
            rows = windows.rows.numpy()
            had = None
            if self._exclude_window:
                # What a later position holds is not had yet: point it at the row of unknown items.
                later = np.arange(rows.shape[1]) > where[:, 1:]
                had = np.where(later, table.size, rows[where[:, 0]])
            at = Positions(tf.constant(where[:, 0]), tf.constant(where[:, 1]))
            self._queries.append((windows, at, label_rows.numpy()[where[:, 0], where[:, 1]], had))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        ranks = self.ranks()
        measured = {f"val_recall@{k}": float((ranks < k).mean()) for k in (10, 100)}
        if logs is not None:
            logs.update(measured)

    def ranks(self) -> np.ndarray:
        """0-based rank of each query's label among the whole catalog, infinite where it is not in it.

        Of equal scores the label's counts last: embeddings that are all the same have learnt nothing.
        """
        size = self._table.size
        batches = [tf.range(begin, min(begin + 65_536, size)) for begin in range(0, size, 65_536)]
        catalog = np.concatenate([self.model.candidate_tower(rows).numpy() for rows in batches])
        ranks = []
        for windows, at, labels, had in self._queries:
            scores = tf.matmul(self.model.query_tower(windows, at), catalog, transpose_b=True).numpy()
            own = scores[np.arange(len(labels)), np.minimum(labels, size - 1)]
            known = (labels < size) & np.isfinite(own)
            if had is not None:
                query, column = np.nonzero(had < size)
                scores[query, had[query, column]] = -np.inf
            rank = (scores >= own[:, np.newaxis]).sum(axis=1) - 1
            ranks.append(np.where(known, rank, np.inf))
        return np.concatenate(ranks)


class Watch(tf.keras.callbacks.Callback):
    """Reports progress, and stops on a loss that is not a number."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self._epochs = epochs
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
        recall = (logs or {}).get("val_recall@100", math.nan)
        self._validation = f", validation Recall@100 {recall:.4f}"
        self._report(f"epoch {epoch + 1} of {self._epochs}{self._validation}")

    def _report(self, message: str) -> None:
        # How many steps an epoch has is known after the first.
        progress.info(message, extra={"step": self._step, "steps": self._steps, "message_text": message})


def train(data: TrainingData, config: TrainerConfig, model_dir: str, log_dir: str) -> dict[str, float]:
    """Trains, restores the epoch of the best validation Recall@100, and saves the towers to `model_dir`.

    TensorBoard logs go to `log_dir`. Returns the best epoch, its loss and validation recalls, and the numbers
    of epochs and parameters. Raises UserError when the loss becomes NaN.
    """
    tf.keras.utils.set_random_seed(config.seed)
    transform_output = tft.TFTransformOutput(data.transform_graph)
    catalog_output = tft.TFTransformOutput(data.catalog_graph)
    catalog = CatalogArrays.read(data.catalog_files, catalog_output.transformed_feature_spec())
    vocabulary = transform_output.vocabulary_by_name(features.ITEM_VOCABULARY)
    train_items = np.array([int(item) for item in vocabulary], np.int64)
    table = CatalogTable(catalog, train_items)
    model = TwoTowerModel(
        table,
        log_sampling_probability(catalog, _label_counts(transform_output)),
        transform_output.vocabulary_size_by_name(features.USER_VOCABULARY),
        data.history_length,
        config,
    )
    model.compile(optimizer=tf.keras.optimizers.Adam(config.learning_rate))

    spec = transform_output.transformed_feature_spec()
    batches = _batches(data.train_files, spec, config.windows_per_step, shuffle_seed=config.seed)
    validation = ValidationRecall(_batches(data.eval_files, spec, 256), table, data, config.seed)
    history = model.fit(
        batches,
        epochs=config.epochs,
        verbose=0,
        callbacks=[
            validation,
            Watch(config.epochs),
            tf.keras.callbacks.EarlyStopping(
                monitor="val_recall@100", mode="max", patience=config.patience, restore_best_weights=True
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
    ).save(model_dir)
    best = int(np.argmax(history["val_recall@100"]))
    return {
        "epochs": len(history["loss"]),
        "best_epoch": best + 1,
        "loss": history["loss"][best],
        "val_recall@10": history["val_recall@10"][best],
        "val_recall@100": history["val_recall@100"][best],
        "parameters": sum(math.prod(weight.shape) for weight in model.trainable_variables),
    }


def _label_counts(transform_output: tft.TFTransformOutput) -> dict[int, int]:
    """Train label counts by item id, from the vocabulary's lines "count id"."""
    path = transform_output.vocabulary_file_by_name(features.LABEL_VOCABULARY)
    with tf.io.gfile.GFile(path) as file:
        pairs = [line.split() for line in file]
    return {int(item): int(count) for count, item in pairs}


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
