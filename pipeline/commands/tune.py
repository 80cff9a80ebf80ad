"""`two-tower tune`: searches for better settings of the trainer."""

from __future__ import annotations

import argparse
import os

from two_tower.base.errors import UserError
from two_tower.pipeline.commands.command import Command
from two_tower.pipeline.commands.messages import tell
from two_tower.pipeline.commands.pipeline_run import run_pipeline, working_in
from two_tower.pipeline.commands.settings_options import (
    add_settings,
    config_of,
    listed_settings,
    places,
    preset_suited_to,
)

_SPACE_HELP = """\
search space:
  Settings of trainer by their names, each with a list of choices, or with a range:

    trainer.temperature: {low: 0.03, high: 0.5, log: true}
    trainer.embedding_dim: {low: 32, high: 128}
    trainer.encoder: [mean, attention]

  --preset, --config and --set give what all trials share.

"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _SPACE_HELP + listed_settings()
    parser.add_argument("--data", metavar="DIR", help="data directory, a path or gs://...")
    parser.add_argument("--output", metavar="DIR", help="--output of runs; the search is in its tune/")
    parser.add_argument(
        "--space", metavar="FILE", help="YAML file with the search space, see below (default: a few settings)"
    )
    parser.add_argument(
        "--trials",
        type=int,
        default=20,
        metavar="N",
        help="number of trials, those of earlier calls included (default: 20)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="seconds of training after which no trial begins",
    )
    add_settings(parser)


def _run(options: argparse.Namespace) -> int:
    data, output = places(options)
    if not data or not output:
        missing = "output" if data else "data"
        raise UserError(f"tune needs a directory in --{missing}, or as {missing} in the --config file.")
    if options.trials < 1:
        raise UserError(f"--trials takes a number from 1 on, and was given {options.trials}.")
    if options.timeout is not None and not options.timeout > 0:
        raise UserError(f"--timeout takes more than 0 seconds, and was given {options.timeout:g}.")
    from two_tower.pipeline.tuning.search_space import SearchSpace, default_space

    given = SearchSpace.read(options.space) if options.space else None
    preset = preset_suited_to(data, options)
    from two_tower.base import storage
    from two_tower.data_directory.manifest import Manifest
    from two_tower.pipeline.checks.settings_for_data import settled_for
    from two_tower.pipeline.tuning import tune as tuning
    from two_tower.pipeline.tuning import tuning_report
    from two_tower.pipeline.tuning.search import FOLDER

    manifest = Manifest.load(data)
    base, choices = settled_for(data, config_of(options, preset), manifest)
    for line in choices:
        tell(line)
    search = tuning.Search(
        storage.absolute(data),
        manifest.digest,
        os.path.abspath(output),
        preset,
        base,
        given or default_space(base),
    )
    with working_in(output):
        study = tuning.opened(search)
        try:
            if len(tuning_report.ended_trials(study)) < options.trials:
                status = run_pipeline(
                    data, output, base, lambda: tuning.tune(search, study, options.trials, options.timeout)
                )
                if status:
                    return status
        finally:
            # The plot takes a second: not after each trial.
            tuning_report.plot(study, search)
        print(tuning_report.summary(study))
    folder = os.path.join(output, FOLDER)
    print(
        f"All trials are in {os.path.join(folder, tuning_report.TRIALS_FILE)} and "
        f"{tuning_report.PLOT_FILE} beside it.\n"
        f"Next: two-tower run --config {os.path.join(folder, tuning_report.BEST_FILE)}"
    )
    return 0


COMMAND = Command(
    name="tune",
    summary="search for better settings of the trainer",
    description=(
        "Trains again and again with other settings of the trainer. It looks for the highest recall on the "
        "validation split and does not read the test split. The data goes through the pipeline up to "
        "training once, in the output directory, whose next run reuses that. Its tune/ holds all trials "
        "(trials.md), a plot (trials.png) and TensorBoard's logs. The best settings are a config file there "
        "(best.yaml). The same command continues an interrupted search, and extends one with more --trials."
    ),
    add_arguments=_add_arguments,
    run=_run,
)
