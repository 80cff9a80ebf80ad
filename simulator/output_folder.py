"""Folder of a simulation: an earlier simulation is replaced as a whole, and nothing else is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

from two_tower.base import staged_folder, storage
from two_tower.base.errors import UserError

# File that marks a directory as a complete simulation; it is written last.
MARK = "simulation.json"

_Written = TypeVar("_Written")


@contextlib.contextmanager
def alone(out: str) -> Iterator[None]:
    """Holds the lock of `out` for a `with` block in which it is simulated.

    Raises:
        UserError: `out` holds something else than a simulation, cannot be written, or is being written.
    """
    with contextlib.ExitStack() as held:
        with storage.writing(out):
            held.enter_context(staged_folder.alone(os.path.realpath(out)))
        _check_replaceable(out)
        yield


def put(out: str, write: Callable[[str], _Written]) -> _Written:
    """Puts the files of a simulation in place, within `alone`; they appear only when complete.

    Args:
        out: created, or replaced.
        write: writes the files to the folder that it is given, which exists and is empty.
    """
    place = os.path.realpath(out)
    with storage.writing(out):
        os.mkdir(staged_folder.staged(place))
        written = write(staged_folder.staged(place))
        staged_folder.replace(place)
    return written


def _check_replaceable(out: str) -> None:
    if os.path.exists(out) and not os.path.isdir(out):
        raise UserError(f"{out}: this is a file; name a directory for the simulation.")
    if os.path.isdir(out) and os.listdir(out) and not os.path.isfile(os.path.join(out, MARK)):
        raise UserError(
            f"{out}: the directory is not empty and holds no {MARK}, so it is no earlier simulation; "
            "name another directory."
        )
