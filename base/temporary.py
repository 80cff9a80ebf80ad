"""Temporary folders of this machine, which do not outlive their process for long."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator

from two_tower.base.errors import UserError

# Beginning of the folders' names, and the age in seconds by which one has its lock.
_PREFIX, _NEW_SECONDS = "two-tower-scratch-", 60


@contextlib.contextmanager
def folder() -> Iterator[str]:
    """Yields a temporary folder of this machine, which is removed after the `with` block.

    A kill leaves the folder to the next call: its lock is free then.

    Raises:
      UserError: there is no place for temporary files.
    """
    with contextlib.ExitStack() as stack:
        try:
            _remove_those_of_the_killed(tempfile.gettempdir())
            made = stack.enter_context(tempfile.TemporaryDirectory(prefix=_PREFIX))
            held = os.open(made, os.O_RDONLY)
            stack.callback(os.close, held)
            with contextlib.suppress(OSError):  # Network file systems may have no locks.
                fcntl.flock(held, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"There is no place for temporary files: {error}. Set TMPDIR to a folder that has space."
            ) from error
        yield made


@contextlib.contextmanager
def of_process() -> Iterator[None]:
    """Gives this process and its children a `folder` for all temporary files of a `with` block.

    Libraries leave files in the system's folder when their process is killed.
    """
    before, in_environment = tempfile.tempdir, os.environ.get("TMPDIR")
    with folder() as place:
        tempfile.tempdir = os.environ["TMPDIR"] = place
        try:
            yield
        finally:
            tempfile.tempdir = before
            if in_environment is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = in_environment


def _remove_those_of_the_killed(parent: str) -> None:
    for folder in glob.glob(os.path.join(glob.escape(parent), f"{_PREFIX}*")):
        with contextlib.suppress(OSError):  # it is another user's, or just gone
            # A new folder is not locked yet.
            if time.time() - os.lstat(folder).st_mtime < _NEW_SECONDS:
                continue
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(opened)
