"""Training of one trial, in a separate process that frees its memory and may die."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from two_tower.base.errors import UserError
from two_tower.trainer.settings import TrainerConfig

if TYPE_CHECKING:
    from two_tower.trainer.loop.training_data import TrainingData

# Called after each epoch with its number from 1, and the name and value of the recall that picks the best
# epoch. False stops the training.
OnEpoch = Callable[[int, str, float], bool]


class TrialFailed(Exception):
    """Failure of a trial's training; the message gives the reason, and the log gives details."""


class _Stopped(Exception):
    pass


def train_apart(
    data: TrainingData,
    config: TrainerConfig,
    cutoff: int,
    seed: int,
    log_dir: str,
    checkpoints: str,
    on_epoch: OnEpoch,
) -> None:
    """Trains in a fresh process, which writes to this process's output.

    Args:
      data: training data.
      config: settings of the trainer.
      cutoff: the k of the validation Recall@k.
      seed: seed of all random draws.
      log_dir: directory for TensorBoard's logs.
      checkpoints: new directory for the training's checkpoints.
      on_epoch: callback, called in this process.

    Raises:
      TrialFailed: the settings were refused, the loss became NaN, or the process died.
    """
    # A fork would lose TensorFlow's threads.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_train, args=(theirs, data, config, cutoff, seed, log_dir, checkpoints), daemon=True
    )
    process.start()
    theirs.close()
    try:
        while (message := ours.recv()) is not None:
            if isinstance(message, str):
                raise TrialFailed(message)
            ours.send(on_epoch(*message))
    except (EOFError, ConnectionError):
        process.join()
        raise TrialFailed(_how_it_died(process.exitcode or 0)) from None
    finally:
        process.terminate()
        process.join()
        ours.close()


def _how_it_died(exit_code: int) -> str:
    if exit_code >= 0:
        return f"the process ended with status {exit_code}; see the log."
    name = signal.Signals(-exit_code).name
    hint = " (memory may have run out)" if name == "SIGKILL" else ""
    return f"{name} ended the process{hint}."


def _train(
    connection: Connection,
    data: TrainingData,
    config: TrainerConfig,
    cutoff: int,
    seed: int,
    log_dir: str,
    checkpoints: str,
) -> None:
    """Trains in the new process; sends (epoch, name, recall), a text on failure, and None at the end."""
    # Ctrl-C reaches all processes of a terminal; the parent decides about this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from two_tower.trainer.loop.training import train  # TensorFlow loads here

    def on_epoch(epoch: int, name: str, recall: float) -> None:
        connection.send((epoch, name, recall))
        # If the parent has died, this raises EOFError and ends the process.
        if not connection.recv():
            raise _Stopped

    try:
        train(data, config, None, log_dir, cutoff, seed=seed, checkpoint_dir=checkpoints, on_epoch=on_epoch)
    except _Stopped:
        pass
    except UserError as error:
        connection.send(str(error))
    except Exception as error:
        traceback.print_exc()
        connection.send(f"{type(error).__name__}: {error}")
    connection.send(None)
