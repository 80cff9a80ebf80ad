"""One damaged input: the command that reads it, its answer, and the answer's class."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

from two_tower.pipeline.commands import exit_status
from two_tower.pipeline.commands.main import main

ANSWERED, READ = "answered", "read"
VAGUE, LOST, TRACE, HALF = "vague", "lost", "trace", "half"
CLASSES = (ANSWERED, READ, VAGUE, LOST, TRACE, HALF)


class Loss(Exception):
    """Part of an input that a command that ended well lost without a word."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One damaged input.

    Attributes:
        command: the command, as the table names it.
        form: the format of the damaged file, as the table names it.
        kind: the kind of damage, one of `kinds.GROUPS`.
        damage: the damage in words.
        prepare: writes the damaged input to an empty folder and returns the command's arguments.
        named: parts of a message that name the fault; an answer holds one of them. "{}" is the folder.
        kept: raises Loss if the output lacks something, given the folder and the printed text; None: the
            damage must be refused.
        passes: a message by which a command that ends with it shows that it took the damaged input.
    """

    command: str
    form: str
    kind: str
    damage: str
    prepare: Callable[[Path], list[str]]
    named: tuple[str, ...]
    kept: Callable[[Path, str], None] | None = None
    passes: str = ""


@dataclasses.dataclass(frozen=True)
class Answer:
    """Class of a command's answer, the arguments, the exit status and all that was printed."""

    trial: Trial
    answer: str
    arguments: list[str]
    status: int | None
    text: str
    loss: str = ""


def run(trial: Trial, folder: Path) -> Answer:
    """Runs a trial in a folder, which is removed afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        arguments = trial.prepare(folder)
        before = _content(folder)
        status, text = call(arguments)
        answer, loss = _class_of(trial, folder, status, text, before)
        return Answer(trial, answer, arguments, status, text, loss)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def call(arguments: list[str]) -> tuple[int | None, str]:
    """Runs `two-tower` in this process; returns the exit status, None for an exception, and the text."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.redirect_stderr(page):
        try:
            status: int | None = main(arguments)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except Exception:
            traceback.print_exc()
            status = None
    return status, page.getvalue()


def _class_of(
    trial: Trial, folder: Path, status: int | None, text: str, before: dict[str, str]
) -> tuple[str, str]:
    """Returns the class, and what was lost."""
    if status is None or "Traceback (most recent call last)" in text:
        return TRACE, ""
    is_taken = status in (0, exit_status.REFUSED) or (trial.passes and trial.passes in text)
    if not is_taken:
        if _content(folder) != before:
            return HALF, ""
        sought = [part.replace("{}", str(folder)) for part in trial.named]
        return ANSWERED if any(part in text for part in sought) else VAGUE, ""
    if trial.kept is None:
        return LOST, "the damage was not refused"
    try:
        trial.kept(folder, text)
    except Loss as loss:
        return LOST, str(loss)
    return READ, ""


def _content(folder: Path) -> dict[str, str]:
    """Returns a digest of every file below a folder, and the target of every link."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            place = str(path.relative_to(folder))
            if path.is_symlink():
                found[place] = os.readlink(path)
            elif path.is_dir():
                found[place] = "folder"
            else:
                found[place] = hashlib.blake2b(path.read_bytes()).hexdigest()
    return found
