"""One training of a search, in a process of its own, whose memory is free when it ends, and which may die."""

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

# Told after each epoch, from 1 on: the name of the recall that picks the best epoch, and its value. False
# stops the training.
OnEpoch = Callable[[int, str, float], bool]


class TrialFailed(Exception):
    """A training ended otherwise than it should; the message says how, and the log has the rest."""


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
    """Trains in a fresh process, which writes what it has to say to this one's output.

    Args:
      data: what to train on.
      config: the settings.
      cutoff: the k of the validation Recall@k.
      seed: of everything that training draws.
      log_dir: gets TensorBoard's logs.
      checkpoints: a new directory, for the training's own use.
      on_epoch: is called in this process.

    Raises:
      TrialFailed: the settings were refused, the loss became NaN, or the process died.
    """
    # Not forked: TensorFlow's threads do not outlive a fork.
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
        return f"its process ended with status {exit_code}; the log says more."
    name = signal.Signals(-exit_code).name
    hint = " (was there memory enough?)" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}."


def _train(
    connection: Connection,
    data: TrainingData,
    config: TrainerConfig,
    cutoff: int,
    seed: int,
    log_dir: str,
    checkpoints: str,
) -> None:
    """In the new process: sends (epoch, name, recall) after each, a text on failure, and None at the end."""
    # Ctrl-C reaches all processes of a terminal: what becomes of this one is for the other to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from two_tower.trainer.loop.training import train  # TensorFlow loads here

    def on_epoch(epoch: int, name: str, recall: float) -> None:
        connection.send((epoch, name, recall))
        # Where the other process has died this raises EOFError, and ends this one too.
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
