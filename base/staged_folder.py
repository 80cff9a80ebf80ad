"""Local folders that are written aside and take their place as a whole, by one process at a time.

Beside a folder `data` lie, while a process writes it, `.data.lock` with the process's name, and
`.data.partial` with the new content. Between the two renames of `replace` the old content is in
`.data.partial.old`. An object store has no locks: two processes that write one place there are not kept
apart.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator

from two_tower.base import storage
from two_tower.base.errors import UserError

_LOCK, _STAGED, _OLD = ".lock", ".partial", ".partial.old"
# Network file systems may have no locks.
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
# A replacement takes two renames. A reader that comes between them waits this long, in steps.
_WAIT_SECONDS, _STEP_SECONDS = 2.0, 0.05


def staged(place: str) -> str:
    """Returns the path at which the new content of a folder is written, on the same disk."""
    return _beside(place, _STAGED)


@contextlib.contextmanager
def alone(place: str) -> Iterator[None]:
    """Holds the lock of a folder, for a `with` block in which it is written; see `recover`, which runs first.

    Missing parents of the folder are created. Those that stay empty are removed at the end, and so is what
    was staged and not put into place.

    Args:
      place: absolute path of a local folder, which may not exist yet.

    Raises:
      UserError: another process writes the folder.
      OSError: the parent cannot be created or written.
    """
    created = _make_parents(os.path.dirname(place))
    try:
        with _locked(place):
            try:
                _restore(place)
                # A killed process leaves what it staged.
                shutil.rmtree(staged(place), ignore_errors=True)
                yield
            finally:
                _restore(place)
                shutil.rmtree(staged(place), ignore_errors=True)
    finally:
        for folder in reversed(created):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def replace(place: str) -> None:
    """Puts the staged content into its place, within `alone`; readers find the old content or the new one.

    Content and names are on the disk when the function returns.

    Raises:
      OSError: a rename is impossible; the old content stays.
    """
    new, old = staged(place), _beside(place, _OLD)
    storage.sync_tree(new)
    shutil.rmtree(old, ignore_errors=True)
    if os.path.exists(place):
        os.rename(place, old)
    os.rename(new, place)
    storage.sync_folder(os.path.dirname(place))
    shutil.rmtree(old, ignore_errors=True)


def recover(place: str) -> None:
    """Restores the old content of a folder whose writer was killed between its two renames.

    Readers call it when they miss the folder. It does nothing to a remote one, or one that is there.

    Raises:
      UserError: the content cannot be restored by this user, or a process writes the folder just now.
    """
    if not storage.is_local(place):
        return
    place = os.path.realpath(storage.absolute(place))
    old = _beside(place, _OLD)
    deadline = time.monotonic() + _WAIT_SECONDS
    while not os.path.exists(place) and os.path.isdir(old):
        try:
            with _locked(place):
                _restore(place)
        except OSError as error:
            raise UserError(
                f"{place}: a process that replaced it was killed, and {old} holds what was there "
                f"({error.strerror}). Rename that to {place}, or write {place} again."
            ) from error
        except UserError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_STEP_SECONDS)


def _beside(place: str, suffix: str) -> str:
    return os.path.join(os.path.dirname(place), f".{os.path.basename(place)}{suffix}")


def _make_parents(folder: str) -> list[str]:
    """Creates a folder with its parents and returns those that were missing, outermost first."""
    missing: list[str] = []
    parent = folder
    while not os.path.isdir(parent) and parent != os.path.dirname(parent):
        missing.insert(0, parent)
        parent = os.path.dirname(parent)
    os.makedirs(folder, exist_ok=True)
    return missing


def _restore(place: str) -> None:
    old = _beside(place, _OLD)
    if os.path.isdir(old) and not os.path.exists(place):
        os.rename(old, place)
        storage.sync_folder(os.path.dirname(place))


@contextlib.contextmanager
def _locked(place: str) -> Iterator[None]:
    path = _beside(place, _LOCK)
    lock = _take(path, place)
    try:
        yield
    finally:
        # The name goes while the lock is held, so that nobody else's file is removed.
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
        os.close(lock)


def _take(path: str, place: str) -> int:
    """Locks a file that holds the name of its process, and returns its descriptor."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 1_000, 0).decode("utf-8", "replace").strip() or "another process"
            os.close(lock)
            raise UserError(
                f"{place}: {holder} is writing it. Wait until that has ended, or name another place."
            ) from None
        except OSError as error:
            if error.errno in _WITHOUT_LOCKS:
                return lock
            os.close(lock)
            raise
        # The last holder may have removed the file between our opening and our lock.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), os.stat(path)):
                break
        os.close(lock)
    program = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:2]])
    began = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    name = f"process {os.getpid()} on {socket.gethostname()} ({program}, since {began})"
    # On a full disk the lock holds without a name.
    with contextlib.suppress(OSError):
        os.ftruncate(lock, 0)
        os.pwrite(lock, name.encode(), 0)
    return lock
