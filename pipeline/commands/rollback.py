"""`two-tower rollback`: publishes the model from before the one in service again."""

from __future__ import annotations

import argparse
import os
import sys

from two_tower.pipeline.commands import exit_status
from two_tower.pipeline.commands.command import Command


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--output", metavar="DIR", help="--output of `two-tower run`, for its pushed/")
    where.add_argument("--push", metavar="DIR", help="directory that servers watch")


def _run(options: argparse.Namespace) -> int:
    from two_tower.serving.canary import CanaryFailed
    from two_tower.serving.rollback import roll_back

    directory = options.push or os.path.join(options.output, "pushed")
    try:
        done = roll_back(directory)
    except CanaryFailed as error:
        print(f"two-tower: {error}", file=sys.stderr)
        return exit_status.FAILURE
    asked = (
        "It answers its recorded queries as it did when it was first published."
        if done.was_asked
        else "It loads. It has no recorded queries, so its answers were not compared."
    )
    print(
        f"Version {done.left} was in service. Version {done.again} is in service again, as {done.path}. "
        f"{asked}"
    )
    from two_tower.pipeline.runs.ownership import worker

    if other := worker(os.path.dirname(os.path.abspath(directory))):
        print(f"Beside this, {other} works in the output directory. It may push its model after this.")
    return 0


COMMAND = Command(
    name="rollback",
    summary="publish the model from before the one in service again",
    description=(
        "Publishes the model that was in service before the newest one, under a new, higher number. Servers "
        "take it up as they take up any. A fresh process first loads it and compares its answers with those "
        "recorded when it was published. The model that it replaces keeps its place and its number. A later "
        "run publishes what it blesses, even that same model."
    ),
    add_arguments=_add_arguments,
    run=_run,
)
