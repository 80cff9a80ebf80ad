"""`two-tower run`: trains, evaluates and publishes a model."""

from __future__ import annotations

import argparse

from two_tower.base.errors import UserError
from two_tower.pipeline.commands.command import Command
from two_tower.pipeline.commands.pipeline_run import (
    add_fail_on_refusal,
    run_pipeline,
    show_report,
    status_of,
    working_in,
)
from two_tower.pipeline.commands.settings_options import (
    add_settings,
    config_suited_to,
    listed_settings,
    places,
)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = listed_settings()
    parser.add_argument(
        "--data", metavar="DIR", help="data directory that `two-tower ingest` wrote; a path or gs://..."
    )
    parser.add_argument("--output", metavar="DIR", help="directory for models, reports and logs")
    add_settings(parser)
    parser.add_argument(
        "--no-examples",
        action="store_true",
        help="report without example users, who appear under pseudonyms; as --set evaluation.examples=0",
    )
    add_fail_on_refusal(parser)


def _run(options: argparse.Namespace) -> int:
    data, output = places(options)
    if not data or not output:
        missing = "output" if data else "data"
        raise UserError(f"run needs a directory in --{missing}, or as {missing} in the --config file.")
    if options.no_examples:
        options.overrides = [*options.overrides, "evaluation.examples=0"]
    config = config_suited_to(data, options)
    with working_in(output):
        status = run_pipeline(data, output, config)
        return status or status_of(show_report(output, not options.no_examples), options)


COMMAND = Command(
    name="run",
    summary="train a model, evaluate it, and publish it if it is good enough",
    description=(
        "Takes a data directory through the whole pipeline. It splits by time, checks, preprocesses, trains, "
        "builds the search index, and evaluates on the newest data. If every threshold holds, it publishes "
        "the model to pushed/ of the output directory. A model that misses a threshold is refused: nothing "
        "is published, and the model in service stays. The next run into the same directory reuses what has "
        "not changed. A run that was killed continues where it stopped."
    ),
    add_arguments=_add_arguments,
    run=_run,
)
