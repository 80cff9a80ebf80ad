"""`two-tower report`: shows the latest run, or compares two."""

from __future__ import annotations

import argparse
import json

from two_tower.base.errors import UserError
from two_tower.pipeline.commands.command import Command


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "two-tower report --output DIR [--html FILE] [--no-examples] [--json]\n"
        "       two-tower report --compare A B [--json]"
    )
    parser.add_argument("--output", metavar="DIR", help="--output of `two-tower run`, or a job's root")
    parser.add_argument(
        "--html", metavar="FILE", help="HTML report to write (default: beside the evaluation)"
    )
    parser.add_argument(
        "--no-examples",
        action="store_true",
        help="report without example users; the evaluation loses them, too",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="two outputs of runs, of which the newest run counts, or two evaluations' directories",
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def _run(options: argparse.Namespace) -> int:
    if options.compare:
        given = {"--output": options.output, "--html": options.html, "--no-examples": options.no_examples}
        if extra := [name for name, value in given.items() if value]:
            raise UserError(f"--compare A B names the runs itself: leave out {extra[0]}.")
        from two_tower.pipeline.runs import comparison

        compared = comparison.compare(*options.compare)
        print(json.dumps(compared, indent=2) if options.json else comparison.render(compared).rstrip("\n"))
        return 0
    if not options.output:
        raise UserError("report needs a run's directory in --output, or two in --compare.")
    from two_tower.pipeline.runs.page import collect_with_page
    from two_tower.pipeline.runs.report import render

    report = collect_with_page(options.output, not options.no_examples, options.html)
    print(json.dumps(report, indent=2) if options.json else render(report).rstrip("\n"))
    return 0


COMMAND = Command(
    name="report",
    summary="show what the latest run did and what it measured",
    description=(
        "Shows the components that ran and their times, and where the results are. It shows the metrics "
        "beside those of simple baselines, and every threshold with its value and its limit. It draws the "
        "HTML report anew, with curves, slices and example users. With --compare it compares two runs: "
        "metrics and whether they differ, settings, slices."
    ),
    add_arguments=_add_arguments,
    run=_run,
)
