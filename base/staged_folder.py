"""Local folders that are written aside and take their place as a whole, by one process at a time.

Beside a folder `data` lie, while a process writes it, `.data.lock` with the process's name, and
`.data.partial` with the new content. Between the two renames of `replace` the old content is in
`.data.partial.old`; it is `.data.partial.leaving` while it is deleted. An object store has no locks: two
processes that write one place there are not kept apart.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

from two_tower.base import process_lock, storage
from two_tower.base.errors import UserError

_LOCK, _STAGED, _OLD, _LEAVING = ".lock", ".partial", ".partial.old", ".partial.leaving"
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
    with storage.made_folder(os.path.dirname(place)), _locked(place):
        try:
            # A killed process leaves what it staged, and what it replaced.
            _clear(place)
            yield
        finally:
            _clear(place)


def replace(place: str) -> None:
    """Puts the staged content into its place, within `alone`; readers find the old content or the new one.

    Content and names are on the disk when the function returns.

    Raises:
      OSError: a rename is impossible; the old content stays.
    """
    new, old = staged(place), _beside(place, _OLD)
    storage.sync_tree(new)
    _remove_old(place)
    if os.path.exists(place):
        os.rename(place, old)
    os.rename(new, place)
    storage.sync_folder(os.path.dirname(place))
    _remove_old(place)


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


def _restore(place: str) -> None:
    old = _beside(place, _OLD)
    if os.path.isdir(old) and not os.path.exists(place):
        os.rename(old, place)
        storage.sync_folder(os.path.dirname(place))


def _remove_old(place: str) -> None:
    """Removes the old content, which is renamed first: a reader must not restore half of it."""
    old, leaving = _beside(place, _OLD), _beside(place, _LEAVING)
    shutil.rmtree(leaving, ignore_errors=True)
    if os.path.isdir(old):
        os.rename(old, leaving)
    shutil.rmtree(leaving, ignore_errors=True)


def _clear(place: str) -> None:
    """Leaves nothing but the folder itself, with its old content if it has no new one."""
    _restore(place)
    _remove_old(place)
    shutil.rmtree(staged(place), ignore_errors=True)


def _locked(place: str) -> AbstractContextManager[bool]:
    remedy = "Wait until that has ended, or name another place."
    return process_lock.held(_beside(place, _LOCK), place, remedy)
