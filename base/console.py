"""Console output of a run: one line per component and a progress bar within it; everything else goes to a
log.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from typing import IO, TextIO

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as LiveDisplay

from two_tower.base.errors import UserError

# The trainer writes to this logger; its records carry `step` and `steps` beside their message.
PROGRESS_LOGGER = "two_tower.progress"
_NAME_WIDTH = 25
_TIME_WIDTH = 9


class Progress:
    """Progress display: one line per component, with a bar while the component reports its steps.

    On a terminal the line of the current component is live. Elsewhere a line is printed at each tenth of the
    steps and at the end of a component.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)
        self._live: LiveDisplay | None = None
        self._task: TaskID | None = None
        self._component = self._description = ""
        self._next_tenth = 1
        if self._console.is_terminal:
            self._live = LiveDisplay(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[message]}"),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
                # The log already contains both streams.
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def start(self, component_id: str, description: str) -> None:
        """Starts the line of a component; `description` says in a few words what it does."""
        self._component, self._description = component_id, description
        self._next_tenth = 1
        if self._live:
            self._task = self._live.add_task(component_id, total=None, message=description)

    def advance(self, step: int, steps: int, message: str) -> None:
        """Shows that the running component is at `step` of `steps`."""
        if self._live and self._task is not None:
            self._live.update(self._task, completed=step, total=steps or None, message=message)
        elif steps and 10 * step >= self._next_tenth * steps:
            self._next_tenth = 10 * step // steps + 1
            self._print(f"  {self._component}: step {step:,} of {steps:,}, {message}")

    def finish(self, component_id: str, seconds: float, cached: bool) -> None:
        """Prints the line of a component that succeeded, or whose result came from the cache."""
        self._end(component_id, "cached" if cached else f"{seconds:.1f} s", "dim" if cached else "")

    def fail(self, component_id: str, error: BaseException) -> None:
        """Prints the line of a failed component; whoever catches `error` explains it."""
        del error
        self._end(component_id, "failed", "bold red")

    def conclude(self, line: str, style: str = "") -> None:
        """Replaces the live line with the final `line`."""
        if self._live and self._task is not None:
            self._live.remove_task(self._task)
            self._task = None
        self._print(line, style)

    def stop(self) -> None:
        """Removes the live line."""
        if self._live:
            self._live.stop()

    def listen(self) -> logging.Handler:
        """Returns a handler that shows the records of PROGRESS_LOGGER in the current component's line."""
        progress = self

        class Listener(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                step, steps = getattr(record, "step", 0), getattr(record, "steps", 0)
                progress.advance(step, steps, record.getMessage())

        return Listener()

    def _end(self, component_id: str, time: str, style: str) -> None:
        room = max(20, self._console.width - _NAME_WIDTH - _TIME_WIDTH - 2)
        description = self._description
        if len(description) > room:
            description = description[: room - 1] + "…"
        self.conclude(f"{component_id:<{_NAME_WIDTH}} {description:<{room}} {time:>{_TIME_WIDTH}}", style)

    def _print(self, line: str, style: str = "") -> None:
        self._console.print(line, style=style, markup=False, soft_wrap=True)


@contextlib.contextmanager
def quiet(log_path: str) -> Iterator[Progress]:
    """Redirects all output to the log file, except the Progress display.

    The trace of an exception is written to the log before the exception is passed on.
    """
    logger = logging.getLogger(PROGRESS_LOGGER)
    level = logger.level
    with redirect_output(log_path) as stream:
        progress = Progress(stream)
        handler = progress.listen()
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield progress
        except BaseException:
            # Descriptor 2 is redirected; sys.stderr may be another one. A full disk must not hide the error.
            with contextlib.suppress(OSError):
                os.write(2, traceback.format_exc().encode())
            raise
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            progress.stop()


@contextlib.contextmanager
def redirect_output(log_path: str) -> Iterator[TextIO]:
    """Redirects file descriptors 1 and 2, appending to a file, and yields the original standard output.

    Redirecting descriptors also covers C++ code and child processes.
    """
    with open(log_path, "ab") as log, _redirected(log) as stream:
        yield stream


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Suppresses file descriptors 1 and 2; an exception other than UserError prints the suppressed output."""
    with tempfile.TemporaryFile() as log:
        try:
            with _redirected(log):
                yield
        except UserError:
            raise
        except Exception:
            log.seek(0)
            sys.stderr.flush()
            with os.fdopen(os.dup(2), "wb") as stderr:
                shutil.copyfileobj(log, stderr)
            raise


@contextlib.contextmanager
def _redirected(log: IO[bytes]) -> Iterator[TextIO]:
    _flush()
    saved = os.dup(1), os.dup(2)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        with os.fdopen(os.dup(saved[0]), "w", encoding=encoding, errors="replace", buffering=1) as stream:
            yield stream
    finally:
        with contextlib.suppress(OSError):  # the log's disk is full
            _flush()
        for descriptor, original in enumerate(saved, start=1):
            os.dup2(original, descriptor)
            os.close(original)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
