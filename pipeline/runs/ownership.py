"""Ownership of an output directory: one command at a time writes it, and removes what killed ones left.

The module reads ML Metadata without TFX, whose import takes half a minute.
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterator

from two_tower.base import process_lock, storage, temporary
from two_tower.pipeline.runs.stored_runs import ARTIFACTS, METADATA, cancel, running
from two_tower.serving.service import point, unsettled
from two_tower.serving.versions import PUSHED

LOCK = ".lock"
# Folder in which TFX keeps the temporary files of a component.
_SYSTEM = ".system"


@contextlib.contextmanager
def owned(output: str) -> Iterator[list[str]]:
    """Holds the lock of an output directory for a `with` block, and first removes what killed runs left.

    A missing directory is created, and removed if it stays empty. A job's root in an object store has no
    lock: its backend starts the steps.

    Args:
      output: the --output of runs, or a job's root; a path or URL.

    Yields:
      Names of the components in which runs were killed, since the last command.

    Raises:
      UserError: another process works there, or the directory cannot be written.
    """
    if not storage.is_local(output):
        yield []
        return
    output = storage.absolute(output)
    remedy = "Wait until that has ended, or name another --output."
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(storage.made_folder(output))
            lock = process_lock.held(os.path.join(output, LOCK), output, remedy)
            killed = _remove_what_is_left(output) if stack.enter_context(lock) else []
        except OSError as error:
            raise storage.cannot_write(output, error, "Name another --output.") from error
        stack.enter_context(temporary.of_process())
        yield killed


def worker(output: str) -> str:
    """Returns the name of the process that works in an output directory; "" if none does."""
    if not storage.is_local(output):
        return ""
    return process_lock.holder(os.path.join(storage.absolute(output), LOCK))


def _remove_what_is_left(output: str) -> list[str]:
    """Removes outputs and temporary files of executions that a kill ended, and returns their components.

    Nothing runs here now.
    """
    if not os.path.isfile(os.path.join(output, METADATA)):
        return []
    push_directory = os.path.join(output, PUSHED)
    if behind := unsettled(push_directory):
        point(push_directory, behind.record)
    root = os.path.join(output, ARTIFACTS)
    executions = running(output)
    for execution, node in executions.items():
        for key in storage.list_names(os.path.join(root, node)):
            if key != _SYSTEM:
                storage.remove_tree(os.path.join(root, node, key, str(execution)))
    for folder in glob.glob(os.path.join(glob.escape(root), "*", _SYSTEM)):
        storage.remove_tree(folder)
    # The folders go first: a kill here leaves the rest to the next command.
    cancel(output, executions)
    return sorted(set(executions.values()))
