"""`two-tower validate`: checks data before a run, or requests before they are sent."""

from __future__ import annotations

import argparse
import contextlib
import shlex

from two_tower.base.errors import UserError
from two_tower.pipeline.commands.command import Command
from two_tower.pipeline.commands.pipeline_run import run_pipeline, working_in
from two_tower.pipeline.commands.settings_options import (
    add_settings,
    config_of,
    config_suited_to,
    listed_settings,
    places,
)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = listed_settings()
    parser.add_argument("--data", metavar="DIR", help="data directory, a path or gs://...")
    parser.add_argument(
        "--output", metavar="DIR", help="--output of runs, to compare with and to continue in"
    )
    parser.add_argument(
        "--requests",
        metavar="FILE",
        help="requests as JSON lines: instances of TensorFlow Serving's REST API, or whole "
        "bodies of instances or inputs. With --output they are compared with the training data of its latest "
        "run.",
    )
    add_settings(parser)


def _run(options: argparse.Namespace) -> int:
    data, output = places(options)
    if options.requests is not None:
        if data:
            raise UserError("--requests FILE checks requests and no data: leave out --data.")
        return _check_requests(options, output)
    if not data:
        raise UserError("validate needs a directory in --data, or as data in the --config file.")
    return _check_data(options, data, output)


def _check_requests(options: argparse.Namespace, output: str | None) -> int:
    from two_tower.base import console

    with console.hushed():
        from two_tower.pipeline.checks.request_validation import validate_requests

        checked = validate_requests(options.requests, output, config_of(options).validation.max_skew)
    print("Checked, and nothing is wrong:", *checked, sep="\n")
    return 0


def _check_data(options: argparse.Namespace, data: str, output: str | None) -> int:
    config = config_suited_to(data, options)
    found: list[str] = []

    def validate() -> None:
        from two_tower.pipeline.checks.data_validation import validate_data

        found.extend(validate_data(data, output, config))

    with working_in(output) if output else contextlib.nullcontext():
        status = run_pipeline(data, output, config, validate)
    if status:
        return status
    beside = f" --output {output or 'DIR'}"
    beside += f" --preset {options.preset}" if options.preset else ""
    beside += f" --config {options.config}" if options.config else ""
    beside += "".join(f" --set {shlex.quote(setting)}" for setting in options.overrides)
    print("\nChecked, and nothing is wrong:", *found, sep="\n")
    print(f"Next: two-tower run --data {data}{beside}")
    return 0


COMMAND = Command(
    name="validate",
    summary="check data before a run, or requests before they are sent",
    description=(
        "Takes a data directory through the pipeline up to its gate, as `run` does, and trains nothing. It "
        "checks the files against their manifest, and the windows and items against their schema. It "
        "compares test with train, and train with the last run in --output. The next run in --output reuses "
        "the work; without --output nothing is left. With --requests FILE it checks requests for a published "
        "model instead. The status is 2 if something is wrong."
    ),
    add_arguments=_add_arguments,
    run=_run,
)
