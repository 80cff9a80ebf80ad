"""A pipeline's run on this machine, as the commands that start one share it."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from two_tower.base.errors import UserError
from two_tower.pipeline.commands import exit_status
from two_tower.pipeline.commands.messages import tell

if TYPE_CHECKING:
    from two_tower.pipeline.settings.pipeline_config import PipelineConfig


def run_pipeline(
    data: str,
    output: str | None,
    config: PipelineConfig,
    work: Callable[[], None] | None = None,
) -> int:
    """Runs the pipeline and returns 0, or FAILURE after telling what failed and where its log is.

    Args:
      data: a data directory, a path or URL.
      output: --output of runs, of which the caller holds `working_in`; without one, `work` keeps its own
        log.
      config: the settings.
      work: replaces the whole run.

    Raises:
      UserError: the input is wrong; the message ends with the place of the log.
    """
    from two_tower.pipeline.runs.report import logs_of, newest_log

    with loading_tfx():
        from two_tower.pipeline.local_runner import ComponentFailed, run_local
    logs_before = logs_of(output) if output else set()
    try:
        if work:
            work()
        elif output:
            run_local(data, output, config)
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        log = newest_log(output, logs_before) if output else None
        where = f"\nThe log is {log}." if log else ""
        if isinstance(error, UserError):
            raise UserError(f"{error}{where}") from error
        named = str(error) if isinstance(error, ComponentFailed) else f"{type(error).__name__}: {error}"
        print(f"two-tower: the run failed. {' '.join(named.split())}{where}", file=sys.stderr)
        return exit_status.FAILURE
    return 0


@contextlib.contextmanager
def working_in(output: str) -> Iterator[None]:
    """Keeps other commands out of --output for a `with` block, see `ownership.owned`."""
    from two_tower.pipeline.runs.ownership import owned

    check_output(output)
    with owned(output) as killed:
        if killed:
            where = ", ".join(killed)
            tell(f"A run here was killed or found no room in {where}. What it left half-written is removed.")
        yield


@contextlib.contextmanager
def loading_tfx() -> Iterator[None]:
    """Tells that TFX is loaded, and drops what TFX prints in the `with` block."""
    from two_tower.base import console

    tell("Loading TFX (half a minute, the first time)")
    with console.hushed():
        yield


def check_output(output: str) -> None:
    """Raises UserError if --output names a file, or a directory that cannot be made or written."""
    existing = os.path.abspath(output)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        raise UserError(f"{existing} is a file; --output takes a directory.")
    if not os.access(existing, os.W_OK):
        raise UserError(f"{existing} cannot be written; --output takes a directory that can.")


def show_report(output: str, examples: bool = True) -> dict[str, Any]:
    """Prints the report of the latest run, draws its page, and returns it."""
    from two_tower.pipeline.runs.page import collect_with_page
    from two_tower.pipeline.runs.report import render

    report = collect_with_page(output, examples)
    print()
    print(render(report), end="")
    return report


def add_fail_on_refusal(parser: argparse.ArgumentParser) -> None:
    """Adds --fail-on-refusal, which `status_of` follows."""
    parser.add_argument(
        "--fail-on-refusal",
        action="store_true",
        help=f"exit status {exit_status.REFUSED} for a refused model (default: 0)",
    )


def status_of(report: dict[str, Any], options: argparse.Namespace) -> int:
    """Returns REFUSED for a refused model under --fail-on-refusal, and else 0."""
    return exit_status.REFUSED if options.fail_on_refusal and report["verdict"] == "refused" else 0
