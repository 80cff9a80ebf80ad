"""`two-tower gate`: judges a stored evaluation by other limits."""

from __future__ import annotations

import argparse

from two_tower.pipeline.commands import exit_status
from two_tower.pipeline.commands.command import Command
from two_tower.pipeline.commands.settings_options import add_settings, listed_settings


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = listed_settings("gate.", everything=True)
    parser.add_argument(
        "--model",
        metavar="DIR",
        required=True,
        help="--output of `two-tower run`, for its newest evaluation; or the directory of a model or of "
        "an evaluation",
    )
    add_settings(parser)
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def _run(options: argparse.Namespace) -> int:
    from two_tower.evaluation.gate.judge import BLESSED
    from two_tower.pipeline.runs.judged_again import judge_again, render

    judged = judge_again(options.model, options.preset, options.config, options.overrides)
    print(judged.to_json() if options.json else render(judged).rstrip("\n"))
    return 0 if judged.judgement.verdict == BLESSED else exit_status.REFUSED


COMMAND = Command(
    name="gate",
    summary="judge a model's stored evaluation by other limits",
    description=(
        "Judges a model again from its stored evaluation, without training or asking it. The limits are "
        "those of its run, overridden by --config and --set. The command shows every threshold with its "
        "value, its bounds and its limit, and what explains a refusal. It changes nothing: the verdict of "
        "the run stays, and nothing is pushed. To push, run the pipeline with the new limits, which trains "
        f"nothing anew. The status is 0 if the model passes, and {exit_status.REFUSED} if not."
    ),
    add_arguments=_add_arguments,
    run=_run,
)
