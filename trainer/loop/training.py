"""Training of the towers on Transform's Examples, from the data to the SavedModel."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow.python.framework import config as tf_config

from two_tower.base.errors import UserError
from two_tower.base.settings import DEFAULT_SEED
from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.schema import features
from two_tower.trainer.distribution import gathered, is_chief, strategy_of
from two_tower.trainer.loop.checkpoints import Checkpoints, Progress, UnusableCheckpointError
from two_tower.trainer.loop.co_occurrence_initialisation import RANDOM, co_occurrence_embeddings
from two_tower.trainer.loop.optimizer import optimizer_of
from two_tower.trainer.loop.precision import AUTO, FLOAT32, computing_in, policy_of, scaled_for
from two_tower.trainer.loop.training_data import TrainingData, count_windows, window_batches, windows_for
from two_tower.trainer.loop.training_loop import TrainingLoop, progress_log, speed_of
from two_tower.trainer.loop.two_tower_model import TwoTowerModel
from two_tower.trainer.loop.validation_recall import ValidationRecall
from two_tower.trainer.loop.warm_start import RowNames, carry_over, row_names
from two_tower.trainer.loop.warm_start import save as save_state
from two_tower.trainer.loss.label_weights import event_type_hash, user_weight
from two_tower.trainer.loss.resolved_settings import repeats_for, softmax_for, users_for
from two_tower.trainer.loss.sampling import log_sampling_probability
from two_tower.trainer.model.catalog_table import CatalogArrays, CatalogTable
from two_tower.trainer.model.column_embeddings import Form, names_of_form
from two_tower.trainer.model.item_embedding import item_width
from two_tower.trainer.model.signatures import Towers
from two_tower.trainer.model.windows import padded
from two_tower.trainer.settings import TrainerConfig

_log = logging.getLogger(__name__)


def train(
    data: TrainingData,
    config: TrainerConfig,
    model_dir: str | None,
    log_dir: str,
    cutoff: int = 100,
    *,
    seed: int = DEFAULT_SEED,
    precision: str = AUTO,
    warm_start: str | None = None,
    state_dir: str | None = None,
    checkpoint_dir: str | None = None,
    strategy: tf.distribute.Strategy | None = None,
    on_epoch: Callable[[int, str, float], None] | None = None,
) -> dict[str, float]:
    """Trains, restores the epoch of the best validation Recall@cutoff, and saves the towers.

    On CPUs two trainings with the same data, settings, seed and sources end with the same weights.

    Args:
      data: the training data.
      config: the settings.
      model_dir: for the towers' SavedModel; None saves none.
      log_dir: for TensorBoard's files and the learning curves.
      cutoff: the k of the recall that picks the best epoch.
      seed: of all random numbers.
      precision: of the towers' computation, see `precision.policy_of`. The SavedModel is float32.
      warm_start: the `state_dir` of an earlier training; None: training begins from scratch.
      state_dir: for the state that a later warm start reads; None saves none.
      checkpoint_dir: directory to resume from, deleted at the end; None: a killed training starts again.
      strategy: distributes variables and steps; default: the strategy of `trainer.distribution`.
      on_epoch: receives each epoch's number, from 1, and the name and value of the judged recall.

    Returns:
      The best epoch, its loss and validation recalls; counts of epochs, steps and parameters; `speed_of`
      steps; after a warm start, `CarriedOver.to_dict`. Of several workers only the chief writes files.

    Raises:
      UserError: the loss becomes NaN, there is no training data, or the embeddings of the earlier model have
        another width.
    """
    strategy = strategy or strategy_of(config)  # first: TensorFlow sets up collectives as it starts
    inputs = _Inputs.read(data, config, seed, strategy.num_replicas_in_sync)
    # A warm start compares the settings as given: those resolved from the data may change daily.
    asked, config = config, inputs.config
    with contextlib.ExitStack() as stack:
        stack.enter_context(_deterministic_on_cpu())
        goes_on_from = checkpoint_dir = checkpoint_dir or _scratch(stack)
        if not is_chief(strategy):
            model_dir = state_dir = None
            log_dir, checkpoint_dir = _scratch(stack), _scratch(stack)
        validation = inputs.validation(cutoff)
        policy = policy_of(precision, strategy)
        carried: dict[str, float] = {}
        initial_embeddings = inputs.initial_embeddings() if warm_start is None else None

        def begin() -> tuple[TwoTowerModel, TrainingLoop, Checkpoints]:
            with strategy.scope(), computing_in(policy):
                model = inputs.model(initial_embeddings)
                if warm_start is not None:
                    carried.update(carry_over(warm_start, model, inputs.rows, asked, data.resolved).to_dict())
                optimizer = scaled_for(policy, inputs.optimizer())
                optimizer.build(model.trainable_variables)
            steps = inputs.steps_per_epoch
            loop = TrainingLoop(
                model, optimizer, config, inputs.epoch, steps, validation, log_dir, strategy, seed
            )
            return model, loop, Checkpoints(checkpoint_dir, model, optimizer, loop.progress, goes_on_from)

        model, loop, checkpoints = _resumed(begin, strategy, goes_on_from)
        with computing_in(policy):
            progress = loop.run(checkpoints, on_epoch)
        if state_dir is not None:
            save_state(state_dir, model, inputs.rows, asked, data.resolved)
        inputs.save(model, policy, model_dir)
        checkpoints.delete()
        # A barrier: a worker that has ended early would look like one that has failed.
        gathered(strategy, [progress.steps])
    return _result(progress, model) | carried


def _scratch(stack: contextlib.ExitStack) -> str:
    """Makes a directory that goes when the stack closes."""
    return stack.enter_context(tempfile.TemporaryDirectory())


def _resumed(
    begin: Callable[[], tuple[TwoTowerModel, TrainingLoop, Checkpoints]],
    strategy: tf.distribute.Strategy,
    source: str,
) -> tuple[TwoTowerModel, TrainingLoop, Checkpoints]:
    """Begins a training, and restores the checkpoint in `source` if there is a usable one.

    Raises:
      UserError: workers would resume from different checkpoints.
    """
    model, loop, checkpoints = begin()
    try:
        goes_on = checkpoints.restore()
    except UnusableCheckpointError as error:
        _log.warning("Training begins anew: the checkpoint cannot be used (%s).", error)
        checkpoints.delete()
        goes_on = False
        model, loop, checkpoints = begin()
    steps = gathered(strategy, [loop.progress.steps])
    if (steps != steps[0]).any():
        raise UserError(
            f"Workers would resume from different checkpoints, after {steps.min():.0f} and "
            f"{steps.max():.0f} steps: {source} must be one directory that all workers read."
        )
    if goes_on:
        _log.info("Training resumes after %d epochs and %d steps.", loop.progress.epoch, loop.progress.step)
    return model, loop, checkpoints


def _result(progress: Progress, model: TwoTowerModel) -> dict[str, float]:
    """Summarises a training, see `train`."""
    best = progress.curves[progress.best_epoch - 1]
    return {
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch,
        "steps": progress.steps,
        **{name: value for name, value in best.items() if name != "epoch"},
        **speed_of(progress),
        "parameters": sum(math.prod(weight.shape) for weight in model.trainable_variables),
    }


@contextlib.contextmanager
def _deterministic_on_cpu() -> Iterator[None]:
    """Sets op determinism where there is no GPU, so that sums over threads have a fixed order.

    On GPUs it would cost too much.
    """
    if tf.config.list_physical_devices("GPU") or tf_config.is_op_determinism_enabled():
        yield
        return
    tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        # TensorFlow has no public way back. Under determinism it refuses random numbers without a seed.
        tf_config.disable_op_determinism()


@dataclasses.dataclass(frozen=True)
class _Inputs:
    """Inputs of a training: tables and counts read from the data, and the settings resolved for this data."""

    data: TrainingData
    config: TrainerConfig
    seed: int
    transform_output: tft.TFTransformOutput
    spec: dict[str, object]
    windows: int
    labels: int
    table: CatalogTable
    log_q: np.ndarray
    rows: RowNames
    user_weights: np.ndarray | None

    @classmethod
    def read(
        cls, data: TrainingData, config: TrainerConfig, seed: int = DEFAULT_SEED, replicas: int = 1
    ) -> _Inputs:
        """Reads the catalog, and counts in the windows what the settings need."""
        windows = count_windows(data.train_files)
        if not windows:
            raise UserError(
                "There are no windows in the train split: look at the output of InteractionExampleGen."
            )
        transform_output = tft.TFTransformOutput(data.transform_graph)
        catalog_output = tft.TFTransformOutput(data.catalog_graph)
        catalog = CatalogArrays.read(
            data.catalog_files, catalog_output.transformed_feature_spec(), data.resolved.items
        )
        vocabulary = transform_output.vocabulary_by_name(features.ITEM_VOCABULARY)
        train_items = np.array([int(item) for item in vocabulary], np.int64)
        spec = transform_output.transformed_feature_spec()
        label_counts = _label_counts(transform_output)
        labels = sum(label_counts.values())
        config = windows_for(config, windows, labels, replicas)
        of_step = min(config.windows_per_step * labels / windows, config.positions_per_step)
        config = softmax_for(config, len(catalog.item_id), of_step)
        config = repeats_for(config, data.repeats_recommendable)
        config = users_for(config, data.users_are_new, has_columns=bool(data.resolved.users))
        user_weights = None
        if config.label_weights.max_per_user:
            users = transform_output.vocabulary_size_by_name(features.USER_VOCABULARY)
            by_user = _labels_by_user(window_batches(data.train_files, spec, 256), users)
            user_weights = user_weight(by_user, config.label_weights.max_per_user)
        if config.label_weights.reactions:
            _check_event_types(window_batches(data.train_files, spec, 256), config)
        return cls(
            data,
            config,
            seed,
            transform_output,
            spec,
            windows,
            labels,
            CatalogTable(catalog, train_items),
            log_sampling_probability(catalog, label_counts),
            row_names(
                catalog,
                train_items,
                transform_output,
                catalog_output,
                _user_vocabularies(transform_output, data.resolved),
            ),
            user_weights,
        )

    def initial_embeddings(self) -> np.ndarray | None:
        """Computes the initialisation of item embeddings by `trainer.item_initial`; None: random."""
        if self.config.item_initial == RANDOM:
            return None
        progress_log.info("counts co-occurrences of items, to initialise their embeddings")
        started = time.perf_counter()
        embeddings = co_occurrence_embeddings(
            window_batches(self.data.train_files, self.spec, 256),
            self.table,
            item_width(self.table, self.config),
            self.labels,
            self.seed,
        )
        _log.info(
            "Co-occurrence initialised %d item embeddings in %.0f s.",
            np.count_nonzero(embeddings.any(axis=1)),
            time.perf_counter() - started,
        )
        return embeddings

    def model(self, initial_embeddings: np.ndarray | None = None) -> TwoTowerModel:
        """Builds a new model with its variables; a seed gives the same initialisation."""
        tf.keras.utils.set_random_seed(self.seed)
        model = TwoTowerModel(
            self.table,
            self.log_q,
            self.transform_output.vocabulary_size_by_name(features.USER_VOCABULARY),
            self.data.history_length,
            self.config,
            self.data.resolved.history,
            _user_vocabularies(self.transform_output, self.data.resolved),
            self.user_weights,
            self.data.repeats_recommendable,
            initial_embeddings,
            self.seed,
        )
        # The first batch builds the kernels.
        batch = next(iter(window_batches(self.data.train_files, self.spec, 2)))
        model.compute_loss(batch)
        return model

    def epoch(self, number: int, skip: int, context: tf.distribute.InputContext) -> tf.data.Dataset:
        """Reads the batches of an epoch, without the first `skip`, in parts for replicas."""
        seed = int(np.random.default_rng([self.seed, number]).integers(2**31))
        windows = self.config.windows_per_step
        return window_batches(self.data.train_files, self.spec, windows, seed, skip, context)

    def optimizer(self) -> tf.keras.optimizers.Optimizer:
        """Returns the optimizer, whose schedule covers all epochs."""
        return optimizer_of(self.config, self.steps_per_epoch * self.config.epochs)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that read every window once."""
        return math.ceil(self.windows / self.config.windows_per_step)

    def validation(self, cutoff: int) -> ValidationRecall:
        """Returns the validation recall of the eval split."""
        batches = window_batches(self.data.eval_files, self.spec, 256)
        return ValidationRecall(batches, self.table, self.data, self.seed, cutoff)

    def in_float32(self, model: TwoTowerModel, policy: str) -> TwoTowerModel:
        """Returns the model in float32, which is served: CPUs have no units for less."""
        if policy == FLOAT32:
            return model
        served = self.model()
        served.set_weights(model.get_weights())
        return served

    def save(self, model: TwoTowerModel, policy: str, model_dir: str | None) -> None:
        """Writes the towers' SavedModel, if a directory is given."""
        if model_dir is not None:
            self.towers(self.in_float32(model, policy)).save(model_dir)

    def towers(self, model: TwoTowerModel) -> Towers:
        """Returns the towers of a model with their preprocessing, for the SavedModel."""
        return Towers(
            self.transform_output.transform_features_layer(),
            self.table,
            model.query_tower,
            model.candidate_tower,
            self.data.history_length,
            self.data.resolved,
        )


def _user_vocabularies(transform_output: tft.TFTransformOutput, resolved: ResolvedFeatures) -> dict[str, int]:
    """Returns the size of the vocabulary of each column of users/ that has one."""
    names = names_of_form(resolved.users, Form.VALUES)
    return {name: transform_output.vocabulary_size_by_name(name) for name in names}


def _label_counts(transform_output: tft.TFTransformOutput) -> dict[int, int]:
    """Reads train label counts by item id, from the vocabulary's lines "count id"."""
    path = transform_output.vocabulary_file_by_name(features.LABEL_VOCABULARY)
    with tf.io.gfile.GFile(path) as file:
        pairs = [line.split() for line in file]
    return {int(item): int(count) for count, item in pairs}


def _labels_by_user(batches: tf.data.Dataset, users: int) -> np.ndarray:
    """Counts labels by user, int64 [users + 1]; the last count is that of users outside the vocabulary."""
    counts = np.zeros(users + 1, np.int64)
    for batch in batches:
        labels = np.count_nonzero(padded(batch[features.LABEL_STEP]), axis=1)
        np.add.at(counts, tf.reshape(batch[features.USER], [-1]).numpy(), labels)
    return counts


def _check_event_types(batches: tf.data.Dataset, config: TrainerConfig) -> None:
    """Raises UserError for a weight of listens, which are the labels, or of an event type absent in train."""
    weights = dict(config.label_weights.reactions)
    if features.LISTEN in weights:
        raise UserError(
            "trainer.label_weights weighs labels by the user's reactions to them, as in like: 2. It "
            f"names {features.LISTEN!r}, which every label is: remove that key."
        )
    missing = {int(event_type_hash(name)): name for name in weights}
    for batch in batches:
        for number in np.unique(batch[features.EVENT_TYPE].flat_values):
            missing.pop(int(number), None)
    if missing:
        name = next(iter(missing.values()))
        raise UserError(f"trainer.label_weights names {name!r}, but no event of train has that type.")
