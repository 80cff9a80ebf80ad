"""Trains the towers on Transform's Examples and saves them."""

from __future__ import annotations

import logging
import math
import time

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from pipeline.configs import TrainerConfig, event_type_weights
from pipeline.errors import UserError
from pipeline.feature_specs import NUMERIC, VECTOR, ResolvedFeatures
from trainer import features
from trainer.catalog_table import CatalogArrays, CatalogTable
from trainer.label_weights import event_type_hash, user_weight
from trainer.model import TwoTowerModel
from trainer.sampling import log_sampling_probability
from trainer.serving import Towers
from trainer.towers import padded
from trainer.training_data import TrainingData, window_batches
from trainer.validation_recall import ValidationRecall

# Records with `step`, `steps` and `message`: the console draws them as a bar, a cluster logs them.
progress = logging.getLogger("two_tower.progress")


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
        labels = _labels_by_user(window_batches(data.train_files, spec, 256), users)
        user_weights = user_weight(labels, config.max_labels_per_user)
    if config.event_type_weights:
        _check_event_types(window_batches(data.train_files, spec, 256), config)
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

    batches = window_batches(data.train_files, spec, config.windows_per_step, shuffle_seed=config.seed)
    validation = ValidationRecall(
        window_batches(data.eval_files, spec, 256), table, data, config.seed, cutoff
    )
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
