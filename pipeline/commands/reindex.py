"""`two-tower reindex`: brings today's items into a trained model."""

from __future__ import annotations

import argparse

from two_tower.pipeline.commands.command import Command
from two_tower.pipeline.commands.pipeline_run import (
    add_fail_on_refusal,
    check_output,
    run_pipeline,
    show_report,
    status_of,
    working_in,
)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="DIR",
        required=True,
        help="--output of `two-tower run`, for its newest published model, or one version's directory",
    )
    parser.add_argument(
        "--items",
        metavar="DIR",
        required=True,
        help="directory with Parquet files in items/, such as a data directory; a path or gs://... Only "
        "items/ is read.",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="directory for models, reports and logs (default: the model's own)",
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="one setting of index, evaluation or gate, which overrides the model's own",
    )
    add_fail_on_refusal(parser)


def _run(options: argparse.Namespace) -> int:
    from two_tower.pipeline.reindexing import Reindexing

    if options.output:
        check_output(options.output)
    reindexing = Reindexing(options.model, options.items, options.output, options.overrides)
    with working_in(reindexing.output):
        status = run_pipeline("", reindexing.output, reindexing.config, reindexing.run)
        return status or status_of(show_report(reindexing.output), options)


COMMAND = Command(
    name="reindex",
    summary="bring today's items into a model without training it again",
    description=(
        "Puts the items of --items into a trained model. Known items keep what the model learnt of them. "
        "Items released since get their place from their artists, albums and content. Withdrawn items "
        "(available is false, or the item is missing) are recommended no more. Labels of such items count as "
        "missed. The command evaluates the model on the test split of its own training. It judges and "
        "pushes the model as `run` does. All this goes to the model's own output directory."
    ),
    add_arguments=_add_arguments,
    run=_run,
)
