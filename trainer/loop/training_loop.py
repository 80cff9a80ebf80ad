"""Training loop: epochs of steps, each followed by validation; a killed training resumes."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from two_tower.base.errors import UserError
from two_tower.base.settings import DEFAULT_SEED
from two_tower.schema import features
from two_tower.trainer.distribution import gathered
from two_tower.trainer.loop.checkpoints import Checkpoints, Progress
from two_tower.trainer.loop.two_tower_model import TwoTowerModel
from two_tower.trainer.loop.validation_recall import ValidationRecall
from two_tower.trainer.model.randomness import drawing
from two_tower.trainer.settings import TrainerConfig

# Records with `step`, `steps` and `message`: the console draws a progress bar, a cluster logs them.
progress_log = logging.getLogger("two_tower.progress")

# In the log directory, beside TensorBoard's files.
CURVES_FILE = "training_curves.json"
_SECONDS_BETWEEN_REPORTS = 0.5
# Within an epoch; each epoch ends with a checkpoint anyway.
_SECONDS_BETWEEN_CHECKPOINTS = 300.0

Batch = dict[str, Any]
# A batch's tensors, see `Handover`, and the step's number, to the loss and its number of positions.
Step = Callable[[tuple[tf.Tensor, ...], tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class TrainingLoop:
    """Loop over epochs with early stopping by validation recall, after `trainer.patience` epochs.

    The state before a step, the settings and the step's number determine the step. So a training that
    resumes from a checkpoint, even in mid-epoch, ends with the weights of one that was never killed.
    """

    def __init__(
        self,
        model: TwoTowerModel,
        optimizer: tf.keras.optimizers.Optimizer,
        config: TrainerConfig,
        batches: Callable[[int, int, tf.distribute.InputContext], tf.data.Dataset],
        steps_per_epoch: int,
        validation: ValidationRecall,
        log_dir: str,
        strategy: tf.distribute.Strategy,
        seed: int = DEFAULT_SEED,
    ) -> None:
        """Args:
        model: with its variables built, and the optimizer's.
        batches: reads an epoch (counted from 0) without so many first batches, in parts for replicas.
        log_dir: for TensorBoard and the learning curves.
        strategy: of the variables. The sum of the replicas' losses is the step's loss.
        """
        self.progress = Progress()
        self._model = model
        self._optimizer = optimizer
        self._config = config
        self._batches = batches
        self._steps_per_epoch = steps_per_epoch
        self._validation = validation
        self._log_dir = log_dir
        self._strategy = strategy
        self._seed = seed
        self._step: Step | None = None
        self._is_traced = False
        validation.set_model(model)

    def run(
        self, checkpoints: Checkpoints, on_epoch: Callable[[int, str, float], None] | None = None
    ) -> Progress:
        """Trains to the end, and restores the weights of the best epoch.

        `on_epoch` receives each epoch's number, and the name and value of the recall that picks the best.

        Raises:
          UserError: the loss is not finite.
          UnusableCheckpointError: the weights of the best epoch cannot be read.
        """
        progress = self.progress
        board = tf.summary.create_file_writer(os.path.join(self._log_dir, "train"))
        for curve in progress.curves:
            self._show(board, curve)
        iterator = self._iterator(progress.epoch, progress.step)
        while progress.epoch < self._config.epochs and not self._has_stalled():
            self._train_epoch(iterator, checkpoints)
            if progress.epoch + 1 < self._config.epochs:
                # Before validation, so that the first batches are loaded meanwhile.
                iterator = self._iterator(progress.epoch + 1, 0)
            curve = self._end_epoch()
            if progress.best_epoch == progress.epoch:
                checkpoints.save_best(progress.epoch)
            checkpoints.save()
            self._show(board, curve)
            self._write_curves()
            self._report(f"epoch {progress.epoch} of {self._config.epochs}{self._validated()}")
            if on_epoch is not None:
                on_epoch(progress.epoch, self._validation.monitor, curve[self._validation.monitor])
        board.close()
        checkpoints.restore_best(progress.best_epoch)
        return progress

    def _has_stalled(self) -> bool:
        progress = self.progress
        return progress.epoch - progress.best_epoch >= self._config.patience and progress.epoch > 0

    def _iterator(self, epoch: int, skip: int) -> Iterator[Any]:
        """Returns the batches of an epoch, without the first `skip`; compiles the step at the first call."""
        handover: Handover

        def tensors(context: tf.distribute.InputContext) -> tf.data.Dataset:
            nonlocal handover
            parts = self._batches(epoch, skip, context)
            handover = Handover(parts.element_spec)
            return parts.map(handover.tensors)

        batches = self._strategy.distribute_datasets_from_function(tensors)
        if self._step is None:
            self._step = compiled_step(
                self._model,
                self._optimizer,
                self._config,
                self._strategy,
                handover,
                batches.element_spec,
                self._seed,
            )
        return iter(batches)

    def _train_epoch(self, iterator: Iterator[Any], checkpoints: Checkpoints) -> None:
        """Runs the remaining steps of an epoch."""
        progress = self.progress
        assert self._step is not None
        reported = saved = time.monotonic()
        while True:
            began = time.perf_counter()
            batch = next(iterator, None)
            if batch is None:
                return
            fetched = time.perf_counter()
            number = tf.constant(progress.steps, tf.int64)
            loss, positions = (value.numpy().item() for value in self._step(batch, number))
            ended = time.perf_counter()
            progress.step += 1
            progress.steps += 1
            if not math.isfinite(loss):
                raise UserError(
                    f"Training stopped at step {progress.steps}: the loss is {loss}. Lower "
                    "trainer.learning_rate, or raise trainer.temperature."
                )
            progress.loss += loss
            if self._is_traced:
                progress.timed_steps += 1
                progress.seconds += ended - began
                progress.waiting += fetched - began
                progress.positions += positions
            # The time of the first step is mostly tracing, so it is not counted.
            self._is_traced = True
            now = time.monotonic()
            if now - reported > _SECONDS_BETWEEN_REPORTS:
                reported = now
                self._report(f"loss {loss:.3f}{self._validated()}{self._speed()}")
            if now - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                saved = now
                checkpoints.save()

    def _end_epoch(self) -> dict[str, float]:
        """Validates, and appends to the curves."""
        progress = self.progress
        curve = {"epoch": progress.epoch + 1.0, "loss": progress.loss / max(progress.step, 1)}
        with self._strategy.scope():
            self._model.end_epoch()
        self._validation.on_epoch_end(progress.epoch, curve)
        # All workers take the chief's numbers: they must agree bit for bit on the best epoch and on stopping.
        curve = dict(zip(curve, gathered(self._strategy, list(curve.values()))[0].tolist(), strict=True))
        monitor = self._validation.monitor
        best = max((past[monitor] for past in progress.curves), default=-math.inf)
        progress.epoch, progress.step, progress.loss = progress.epoch + 1, 0, 0.0
        progress.curves.append(curve)
        if curve[monitor] > best or not progress.best_epoch:
            progress.best_epoch = progress.epoch
        return curve

    def _validated(self) -> str:
        if not self.progress.curves:
            return ""
        recall = self.progress.curves[-1][self._validation.monitor]
        return f", validation Recall@{self._validation.monitored} {recall:.4f}"

    def _speed(self) -> str:
        speed = speed_of(self.progress)
        if not speed:
            return ""
        return (
            f", {1 / speed['seconds_per_step']:.1f} steps/s, {speed['positions_per_second']:,.0f} "
            f"positions/s, {speed['data_wait_share']:.0%} waiting for data"
        )

    def _report(self, message: str) -> None:
        steps = self._steps_per_epoch * self._config.epochs
        progress_log.info(
            message, extra={"step": self.progress.steps, "steps": steps, "message_text": message}
        )

    def _show(self, board: tf.summary.SummaryWriter, curve: dict[str, float]) -> None:
        """Writes an epoch to TensorBoard."""
        with board.as_default(step=int(curve["epoch"])):
            for name, value in {**curve, **speed_of(self.progress)}.items():
                if name != "epoch":
                    tf.summary.scalar(name, value)
        board.flush()

    def _write_curves(self) -> None:
        content = {"monitor": self._validation.monitor, "best_epoch": self.progress.best_epoch}
        with tf.io.gfile.GFile(os.path.join(self._log_dir, CURVES_FILE), "w") as file:
            file.write(json.dumps({**content, "epochs": self.progress.curves}, indent=2) + "\n")


class Handover:
    """Batches of windows packed as a few tensors, between the data and a step.

    Python takes 9 ms to pass a dictionary of ragged tensors, 2 ms for as many tensors, and 1 ms for these.
    Columns of events are the rows of one matrix for each type, and share one row_splits.
    """

    def __init__(self, of_batch: Batch) -> None:
        """Args:
        of_batch: the specification of a batch of `training_data.window_batches`.
        """
        self._of_events: dict[tf.DType, list[str]] = {}
        self._others: Batch = {}
        for name, spec in of_batch.items():
            # Evaluation alone reads these.
            if name in (features.SEEN_ITEM_ID, features.LABEL_ITEM_ID):
                continue
            is_of_events = isinstance(spec, tf.RaggedTensorSpec) and not features.is_transformed_column(name)
            if is_of_events:
                self._of_events.setdefault(spec.dtype, []).append(name)
            else:
                self._others[name] = spec

    def tensors(self, batch: Batch) -> tuple[tf.Tensor, ...]:
        """Packs a batch."""
        matrices = [
            tf.stack([batch[name].flat_values for name in names]) for names in self._of_events.values()
        ]
        others = {name: batch[name] for name in self._others}
        splits = batch[features.LABEL_STEP].row_splits
        return (splits, *matrices, *tf.nest.flatten(others, expand_composites=True))

    def batch(self, tensors: tuple[tf.Tensor, ...]) -> Batch:
        """Unpacks a batch, without the columns that no step reads."""
        splits, matrices = tensors[0], tensors[1 : 1 + len(self._of_events)]
        others = tensors[1 + len(self._of_events) :]
        batch = tf.nest.pack_sequence_as(self._others, others, expand_composites=True)
        for names, matrix in zip(self._of_events.values(), matrices, strict=True):
            for name, values in zip(names, tf.unstack(matrix, len(names)), strict=True):
                batch[name] = tf.RaggedTensor.from_row_splits(values, splits, validate=False)
        return batch


def compiled_step(
    model: TwoTowerModel,
    optimizer: tf.keras.optimizers.Optimizer,
    config: TrainerConfig,
    strategy: tf.distribute.Strategy,
    handover: Handover,
    of_tensors: Any,
    seed: int = DEFAULT_SEED,
) -> Step:
    """Returns the training step as a tf.function.

    Args:
      model: with its variables built, and the optimizer's.
      handover: of a replica's batch.
      of_tensors: specification of all replicas' tensors. Without it the smaller last batch of an epoch would
        be traced again.
    """
    is_scaled = isinstance(optimizer, tf.keras.mixed_precision.LossScaleOptimizer)

    # Without autograph, which takes seconds, and fails if sources are edited meanwhile.
    @tf.function(input_signature=[of_tensors, tf.TensorSpec([], tf.int64)], autograph=False)
    def step(tensors: tuple[tf.Tensor, ...], number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def on_replica(tensors: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
            batch = handover.batch(tensors)
            with drawing(seed, number), tf.GradientTape() as tape:
                loss = model.compute_loss(batch, training=True)
                scaled = optimizer.get_scaled_loss(loss) if is_scaled else loss
            variables = model.trainable_variables
            gradients = tape.gradient(scaled, variables)
            if is_scaled:
                gradients = optimizer.get_unscaled_gradients(gradients)
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return loss, tf.math.count_nonzero(batch[features.LABEL_STEP].flat_values)

        losses, labelled = strategy.run(on_replica, args=(tensors,))
        total = tf.distribute.ReduceOp.SUM
        positions = tf.minimum(strategy.reduce(total, labelled, None), config.positions_per_step)
        return strategy.reduce(total, losses, None), positions

    return step


def speed_of(progress: Progress) -> dict[str, float]:
    """Computes seconds a step, labelled positions a second, and the share of time spent waiting for data.

    Labels outside the catalog count among the positions. The result is empty before a second step.
    """
    if not progress.timed_steps:
        return {}
    return {
        "seconds_per_step": progress.seconds / progress.timed_steps,
        "positions_per_second": progress.positions / progress.seconds,
        "data_wait_share": progress.waiting / progress.seconds,
    }
