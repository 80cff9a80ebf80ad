"""Checkpoints of a training: the newest state, to resume a killed one, and the weights of the best epoch."""

from __future__ import annotations

import dataclasses
import json
import os

import tensorflow as tf


@dataclasses.dataclass
class Progress:
    """Progress of a training: beside the variables, the whole state needed to resume it.

    Attributes:
        epoch: the number of complete epochs.
        step: the number of steps of the incomplete epoch.
        loss: the sum of the losses of these steps.
        steps: the number of steps of all epochs.
        best_epoch: counted from 1; 0 before the first.
        timed_steps: the number of steps that were timed.
        seconds: the duration of the timed steps.
        waiting: the seconds of these that steps waited for data.
        positions: the number of labelled positions of the timed steps.
        curves: the number, loss and validation recalls of each complete epoch.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    steps: int = 0
    best_epoch: int = 0
    timed_steps: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    positions: int = 0
    curves: list[dict[str, float]] = dataclasses.field(default_factory=list)


class UnusableCheckpointError(Exception):
    """A checkpoint that cannot be read, or whose weights do not match the model."""


class _SavedProgress(tf.train.experimental.PythonState):
    """Adapter by which a checkpoint stores a Progress."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def serialize(self) -> str:
        """Returns the Progress as JSON."""
        return json.dumps(dataclasses.asdict(self._progress))

    def deserialize(self, string_value: bytes) -> None:
        """Sets the attributes of the Progress in place."""
        for name, value in json.loads(string_value).items():
            setattr(self._progress, name, value)


class Checkpoints:
    """The newest state of a training and the weights of its best epoch, in a directory or a bucket.

    A checkpoint is valid once it is completely written. A training killed during a write resumes from the
    checkpoint before.
    """

    def __init__(
        self,
        directory: str,
        model: tf.keras.Model,
        optimizer: tf.keras.optimizers.Optimizer,
        progress: Progress,
        goes_on_from: str | None = None,
    ) -> None:
        """Args:
        directory: of the checkpoints.
        model: with its variables built.
        optimizer: with its variables built.
        progress: is saved and restored with them.
        goes_on_from: the directory that `restore` reads, `directory` by default. Workers other than the
          chief read the chief's.
        """
        self._directory = directory
        self._goes_on_from = goes_on_from or directory
        self._newest = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=model, optimizer=optimizer, progress=_SavedProgress(progress)),
            os.path.join(directory, "newest"),
            max_to_keep=1,
        )
        # Two: the best weights are saved before the newest state, which until then refers to the older ones.
        self._best = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=model), os.path.join(directory, "best"), max_to_keep=2
        )

    def restore(self) -> bool:
        """Restores the newest state; returns False where there is none.

        Raises:
          UnusableCheckpointError: the newest state, or that of the best epoch, cannot be read or does not
            match the model. Some variables may be overwritten by then.
        """
        newest, best = (
            tf.train.latest_checkpoint(os.path.join(self._goes_on_from, name)) for name in ("newest", "best")
        )
        if newest is None:
            return False
        # A trial read of the best weights: at the end of the training a failure would come too late.
        if best is not None:
            _restore(self._best.checkpoint, best)
            if self._goes_on_from != self._directory:
                self.save_best(int(best.rpartition("-")[2]))
        _restore(self._newest.checkpoint, newest)
        return True

    def save(self) -> None:
        """Saves the newest state."""
        self._newest.save()

    def save_best(self, epoch: int) -> None:
        """Saves the model's weights as those of an epoch, counted from 1."""
        self._best.save(checkpoint_number=epoch)

    def restore_best(self, epoch: int) -> None:
        """Restores the weights of an epoch.

        Raises:
          UnusableCheckpointError: the weights cannot be read.
        """
        _restore(self._best.checkpoint, os.path.join(self._directory, "best", f"ckpt-{epoch}"))

    def delete(self) -> None:
        """Deletes all checkpoints."""
        if tf.io.gfile.exists(self._directory):
            tf.io.gfile.rmtree(self._directory)


def _restore(checkpoint: tf.train.Checkpoint, path: str) -> None:
    try:
        checkpoint.restore(path).assert_consumed()
    except (tf.errors.OpError, ValueError, AssertionError, TypeError) as error:
        raise UnusableCheckpointError(f"{path}: {str(error).splitlines()[0]}") from error
