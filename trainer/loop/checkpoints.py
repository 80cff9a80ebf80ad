"""Checkpoints of a training, from which a killed one goes on, and the weights of its best epoch."""

from __future__ import annotations

import dataclasses
import json
import os

import tensorflow as tf


@dataclasses.dataclass
class Progress:
    """How far a training is: beside the variables, all that it takes to go on.

    Attributes:
        epoch: how many are complete.
        step: steps of the epoch that is not complete.
        loss: the sum of its steps' losses.
        steps: of all epochs.
        best_epoch: counted from 1; 0 before the first.
        timed_steps, seconds, waiting, positions: how many steps were timed, how long they took, how much of
            that they waited for data, and how many labelled positions they held.
        curves: of each complete epoch, its number, loss and validation recalls.
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
    """A checkpoint cannot be read, or is of other weights than those that are trained."""


class _SavedProgress(tf.train.experimental.PythonState):
    """Lets a checkpoint hold a Progress."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def serialize(self) -> str:
        """As JSON."""
        return json.dumps(dataclasses.asdict(self._progress))

    def deserialize(self, string_value: bytes) -> None:
        """Into the Progress that is there."""
        for name, value in json.loads(string_value).items():
            setattr(self._progress, name, value)


class Checkpoints:
    """The newest state of a training and the weights of its best epoch, in a directory or a bucket.

    A checkpoint counts from when it is wholly written: a training killed meanwhile goes on from the one
    before.
    """

    def __init__(
        self,
        directory: str,
        model: tf.keras.Model,
        optimizer: tf.keras.optimizers.Optimizer,
        progress: Progress,
        goes_on_from: str | None = None,
    ) -> None:
        """Model and optimizer must have made their variables.

        `goes_on_from`: where the state is read that a training goes on from, `directory` by default; workers
        other than the chief read what the chief has written.
        """
        self._directory = directory
        self._goes_on_from = goes_on_from or directory
        self._newest = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=model, optimizer=optimizer, progress=_SavedProgress(progress)),
            os.path.join(directory, "newest"),
            max_to_keep=1,
        )
        # Two, since the newest state is saved after the best weights: until then it counts on those before.
        self._best = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=model), os.path.join(directory, "best"), max_to_keep=2
        )

    def restore(self) -> bool:
        """Goes on from the newest state; False where there is none.

        Raises:
          UnusableCheckpointError: it, or the best epoch, cannot be read, or is of other weights. Some may be
            overwritten by then.
        """
        newest, best = (
            tf.train.latest_checkpoint(os.path.join(self._goes_on_from, name)) for name in ("newest", "best")
        )
        if newest is None:
            return False
        # Read to see that it can be: at the end of the training it would be late to find out.
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
        """Gives the model the weights of an epoch.

        Raises:
          UnusableCheckpointError: they cannot be read.
        """
        _restore(self._best.checkpoint, os.path.join(self._directory, "best", f"ckpt-{epoch}"))

    def delete(self) -> None:
        """Removes all of it."""
        if tf.io.gfile.exists(self._directory):
            tf.io.gfile.rmtree(self._directory)


def _restore(checkpoint: tf.train.Checkpoint, path: str) -> None:
    try:
        checkpoint.restore(path).assert_consumed()
    except (tf.errors.OpError, ValueError, AssertionError, TypeError) as error:
        raise UnusableCheckpointError(f"{path}: {str(error).splitlines()[0]}") from error
