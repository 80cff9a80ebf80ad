"""`two-tower history`: lists the runs into an output directory."""

from __future__ import annotations

import argparse
import json

from two_tower.pipeline.commands.command import Command


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", metavar="DIR", required=True, help="--output of `two-tower run`, or a job's root"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def _run(options: argparse.Namespace) -> int:
    from two_tower.pipeline.runs import history

    runs = history.history(options.output)
    print(json.dumps(runs, indent=2) if options.json else history.render(runs).rstrip("\n"))
    return 0


COMMAND = Command(
    name="history",
    summary="list every run: its data, recall, verdict, and the version that was pushed",
    description=(
        "Lists the runs into an output directory, the newest first, and failed ones too. Each line shows the "
        "run's time, the end of its data, and its recall with a 95% interval. It also shows the verdict, the "
        "version that was pushed, and the duration."
    ),
    add_arguments=_add_arguments,
    run=_run,
)
