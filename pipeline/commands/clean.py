"""`two-tower clean`: removes what no run, server or comparison needs any more."""

from __future__ import annotations

import argparse
import contextlib

from two_tower.pipeline.commands.command import Command


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", metavar="DIR", required=True, help="--output of `two-tower run`, or a job's root"
    )
    parser.add_argument(
        "--keep",
        type=int,
        metavar="N",
        required=True,
        help="number of newest runs whose artifacts stay, and of newest versions",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be removed, and remove nothing"
    )


def _run(options: argparse.Namespace) -> int:
    from two_tower.pipeline.runs import cleaning, ownership

    with contextlib.nullcontext() if options.dry_run else ownership.owned(options.output):
        plan = cleaning.plan(options.output, options.keep)
        for folder in plan.folders:
            print(folder)
        for version in plan.versions:
            print(f"{options.output}/pushed/{version}")
        if not options.dry_run:
            cleaning.clean(plan)
    done = "would be removed" if options.dry_run else "are removed"
    print(
        f"{len(plan.folders)} folders and {len(plan.versions)} versions {done}, {plan.bytes / 1e6:,.1f} MB. "
        f"The artifacts of {len(plan.kept_runs)} runs stay, and the evaluations of all."
    )
    return 0


COMMAND = Command(
    name="clean",
    summary="remove artifacts and versions that are neither in service nor compared with",
    description=(
        "Removes the artifacts of old runs, and old versions. The newest N runs and versions stay. So do the "
        "model in service, the latest blessed model, the latest approved statistics, and the artifacts of "
        "their runs. Evaluations stay too: history and reports still tell why a model was not pushed. Below "
        "a job's root, the first run afterwards takes nothing from the backend's cache."
    ),
    add_arguments=_add_arguments,
    run=_run,
)
