"""Lock of a place that one process at a time may write; the system releases it when the process ends."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator

from two_tower.base.errors import UserError

# Longer than `holder` holds the lock to look.
_PROBE_SECONDS = 0.2
# Network file systems may have no locks.
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@contextlib.contextmanager
def held(path: str, place: str, remedy: str) -> Iterator[bool]:
    """Holds a lock for a `with` block; the file exists meanwhile and names the process.

    Args:
      path: the lock's file; its folder must exist.
      place: the locked place, for the message.
      remedy: the sentence for the user of a second process.

    Yields:
      False on a file system without locks, where nothing keeps processes apart.

    Raises:
      UserError: another process holds the lock; the message names it.
      OSError: the file cannot be written.
    """
    lock, is_locked = _take(path, place, remedy)
    try:
        yield is_locked
    finally:
        # The name goes while the lock is held, so that nobody else's file is removed.
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
        os.close(lock)


def holder(path: str) -> str:
    """Returns the name of the process that holds a lock; "" if none does."""
    try:
        lock = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _named(lock)
    except OSError:
        return ""
    finally:
        os.close(lock)
    return ""


def _take(path: str, place: str, remedy: str) -> tuple[int, bool]:
    """Locks a file and writes the name of this process to it; returns its descriptor."""
    deadline = time.monotonic() + _PROBE_SECONDS
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = _named(lock)
            os.close(lock)
            if time.monotonic() < deadline:
                time.sleep(_PROBE_SECONDS / 10)
                continue
            raise UserError(f"{place}: {other} is writing it. {remedy}") from None
        except OSError as error:
            if error.errno in _WITHOUT_LOCKS:
                return lock, False
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
    return lock, True


def _named(lock: int) -> str:
    return os.pread(lock, 1_000, 0).decode("utf-8", "replace").strip() or "another process"
