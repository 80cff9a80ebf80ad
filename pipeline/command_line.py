"""The console script `two-tower`.

Only the standard library and the settings are imported here: `--help` answers at once, and TFX, whose
import takes half a minute, is loaded by the commands that need it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import difflib
import io
import json
import os
import shlex
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from two_tower.base.errors import UserError
from two_tower.ingestion import FORMAT_HELP
from two_tower.pipeline.settings import pipeline_config, presets, run_file, settings_help

EXIT_FAILURE = 1
EXIT_USER_ERROR = 2
EXIT_REFUSED = 3
_EXIT_INTERRUPTED = 130
_HELP_WIDTH = 79
# The one format whose columns the user names.
_TABLE = "table"

_OVERVIEW = """\
Trains, checks and serves a recommender from a log of who listened to (or watched, or rated) what, when.

From nothing to recommendations, with made-up listeners:

  two-tower simulate runs/music                            write a simulated listening history
  two-tower ingest yambda runs/music runs/data             bring it into this project's own form
  two-tower run --data runs/data --output runs/first       train, evaluate, and publish if good enough
  two-tower query --model runs/first --user 17             what would user 17 like next?

`two-tower COMMAND --help` explains a command.
"""

_SPACE_HELP = """\
search space:
  Settings of trainer by their names, each with a list of choices, or with a range:

    trainer.temperature: {low: 0.03, high: 0.5, log: true}
    trainer.embedding_dim: {low: 32, high: 128}
    trainer.encoder: [mean, attention]

  What all trials share is given with --preset, --config and --set.

"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns 0, or 1 failed, 2 wrong input, 3 refused, 130 interrupted."""
    # What a terminal cannot show is shown as a question mark.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options)
        return status
    except UserError as error:
        print(f"two-tower: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("two-tower: interrupted. A run that is started again continues here.", file=sys.stderr)
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has left, as `head` does; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="two-tower", description=_OVERVIEW, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int], summary: str, description: str, epilog: str = ""
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=textwrap.fill(description, _HELP_WIDTH),
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(command=run)
        return added

    simulate = command(
        "simulate",
        _simulate,
        "write a made-up listening history, with its truth known",
        "Writes listens, likes, artists and albums of made-up listeners, in the file layout of the Yambda "
        "data set. The same options write the same files. Beside them, in oracle/, stands how well the "
        "simulator itself predicts the next listen: the ceiling for any model.",
    )
    simulate.add_argument("out", metavar="OUT", help="directory to write; replaces an earlier simulation")
    simulate.add_argument("--seed", type=int, help="another number makes another world (default: 7)")
    simulate.add_argument("--users", type=int, metavar="N", help="how many listeners")
    simulate.add_argument("--days", type=int, metavar="N", help="how many days the history covers")
    simulate.add_argument("--tracks", type=int, metavar="N", help="how many tracks the catalog has")

    ingest = command(
        "ingest",
        _ingest,
        "turn a data set's own files into a data directory",
        "Reads a data set in its own file format and writes a data directory: Parquet tables of events, "
        "items and users that look the same for every data set. What is dropped or repaired on the way is "
        "counted and printed. With --describe it shows what a data directory holds.",
        epilog=_formats(),
    )
    ingest.usage = (
        "two-tower ingest FORMAT SRC OUT [--name NAME] [--span N]\n"
        "                                       [--columns FILE]\n"
        "       two-tower ingest --describe DIR"
    )
    ingest.add_argument("format", metavar="FORMAT", nargs="?", help="one of those listed below")
    ingest.add_argument("source", metavar="SRC", nargs="?", help="directory with the data set's files")
    ingest.add_argument(
        "out",
        metavar="OUT",
        nargs="?",
        help="data directory to write, a path or URL (gs://...); replaces an earlier one, or a span of it",
    )
    ingest.add_argument(
        "--name",
        help="the data set's identity, kept while it grows: models of different data sets are not compared "
        "(default: the format's name, or the simulation's)",
    )
    ingest.add_argument(
        "--span",
        metavar="N",
        help="write SRC as one span of OUT, beside the spans that are there: a number of days since "
        "1970-01-01 on the data's own clock, a date (2024-05-31), or auto, the day of the newest event",
    )
    ingest.add_argument(
        "--columns",
        metavar="FILE",
        help=f"for the format {_TABLE}: YAML file that says what the source's columns are (default: "
        "columns.yaml in SRC)",
    )
    ingest.add_argument(
        "--describe",
        metavar="DIR",
        help="show what the data directory DIR holds: counts, time, users, items, repeats, columns",
    )

    run = command(
        "run",
        _run,
        "train a model, measure it, and publish it if it is good enough",
        "Takes a data directory through the whole pipeline: split by time, check, preprocess, train, build "
        "the search index, measure on the newest part of the data, and publish the model to pushed/ of the "
        "output directory if every threshold holds. What has not changed since the last run into the same "
        "directory is not done again, and a run that was killed continues where it stopped. A model that "
        "misses a threshold is refused: nothing is published, and what was published before stays.",
        epilog=settings_help.listing(),
    )
    run.add_argument(
        "--data", metavar="DIR", help="data directory, as `two-tower ingest` writes it; a path or gs://..."
    )
    run.add_argument("--output", metavar="DIR", help="directory for models, reports and logs")
    _add_settings(run)
    run.add_argument(
        "--no-examples",
        action="store_true",
        help="no example users in the report (they have pseudonyms); as --set evaluation.examples=0",
    )
    run.add_argument(
        "--fail-on-refusal",
        action="store_true",
        help=f"exit with status {EXIT_REFUSED} if the model is refused, which is else no failure",
    )

    validate = command(
        "validate",
        _validate,
        "check data before a run, or requests before they are sent",
        "Takes a data directory through the pipeline up to its gate, as `run` would, and trains nothing: the "
        "files against their manifest, the windows and items against their schema, test against train, and "
        "train against that of the last run in --output. What is done in --output the next run there takes "
        "over; without one nothing is left. With --requests FILE it checks requests for a published model "
        "instead. The status is 2 if something is wrong.",
        epilog=settings_help.listing(),
    )
    validate.add_argument("--data", metavar="DIR", help="data directory, a path or gs://...")
    validate.add_argument("--output", metavar="DIR", help="--output of runs, to compare with and to go on in")
    validate.add_argument(
        "--requests",
        metavar="FILE",
        help='requests as JSON lines: rows as in the "instances" of TensorFlow Serving\'s REST API, or whole '
        "bodies; with --output they are held against what its latest run trained on, too",
    )
    _add_settings(validate)

    tune = command(
        "tune",
        _tune,
        "search for better settings of the trainer",
        "Trains again and again with other settings of the trainer, and looks for those of the highest "
        "recall on the validation split; the test split is not read. The data goes through the pipeline up "
        "to training once, in the output directory, whose next run takes that over. In tune/ of it are a "
        "table of all trials (trials.md), a plot (trials.png), TensorBoard's logs, and the best settings as "
        "a config file (best.yaml). The same command goes on with a search that was interrupted, or with "
        "more --trials.",
        epilog=_SPACE_HELP + settings_help.listing(),
    )
    tune.add_argument("--data", metavar="DIR", help="data directory, a path or gs://...")
    tune.add_argument("--output", metavar="DIR", help="--output of runs; the search is in tune/ of it")
    tune.add_argument(
        "--space", metavar="FILE", help="YAML file with what to search, see below; a few settings without one"
    )
    tune.add_argument(
        "--trials",
        type=int,
        default=20,
        metavar="N",
        help="trials in all, those of earlier calls counted (default: 20)",
    )
    tune.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="begin no trial after so many seconds of training"
    )
    _add_settings(tune)

    report = command(
        "report",
        _report,
        "show what the latest run did and what it measured",
        "Shows what ran and how long it took, the metrics beside those of simple baselines, every threshold "
        "with its value and its limit, and where the results are. The same to look at, with curves, slices "
        "and example users, is an HTML file beside the evaluation, which is drawn anew. With --compare it "
        "holds two runs against each other: metrics and whether they differ, settings, slices.",
    )
    report.usage = (
        "two-tower report --output DIR [--html FILE] [--no-examples] [--json]\n"
        "       two-tower report --compare A B [--json]"
    )
    report.add_argument("--output", metavar="DIR", help="the --output of `two-tower run`")
    report.add_argument(
        "--html", metavar="FILE", help="where to draw the HTML report (default: beside the evaluation)"
    )
    report.add_argument(
        "--no-examples",
        action="store_true",
        help="without example users: they are removed from the evaluation, too",
    )
    report.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="two outputs of runs, of which the newest run counts, or two evaluations' directories",
    )
    report.add_argument("--json", action="store_true", help="print it as JSON")

    history = command(
        "history",
        _history,
        "list every run: its data, recall, verdict, and what was pushed",
        "Lists the runs into an output directory, the newest first, those that failed among them: when each "
        "was, until when its data goes, its recall with a 95% interval, the verdict, the version that was "
        "pushed, and how long it took.",
    )
    history.add_argument("--output", metavar="DIR", required=True, help="the --output of `two-tower run`")
    history.add_argument("--json", action="store_true", help="print it as JSON")

    reindex = command(
        "reindex",
        _reindex,
        "bring today's items into a model without training it again",
        "Puts the items of --items into a trained model: those that it knows keep what it learnt of them, "
        "those released since are placed by their artists, albums and content, and those that are withdrawn "
        "(available is false, or the item is not there) are recommended no more. The model is then measured "
        "on the test split of its own training, judged, and pushed if it is good enough, as by `run`, in the "
        "same output directory. Labels that are withdrawn items count as missed.",
    )
    reindex.add_argument(
        "--model",
        metavar="DIR",
        required=True,
        help="the --output of `two-tower run`, for its newest published model, or one version's directory",
    )
    reindex.add_argument(
        "--items",
        metavar="DIR",
        required=True,
        help="data directory, of which only items/ is read, or a directory with Parquet files in items/ "
        "alone; a path or gs://...",
    )
    reindex.add_argument(
        "--output", metavar="DIR", help="another directory for models, reports and logs than the model's own"
    )
    reindex.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="a setting of index, evaluation or gate, over those that the model was made with",
    )
    reindex.add_argument(
        "--fail-on-refusal",
        action="store_true",
        help=f"exit with status {EXIT_REFUSED} if the model is refused, which is else no failure",
    )

    export = command(
        "export",
        _export,
        "write a model's item embeddings for Faiss, Vertex AI Vector Search, or as Parquet",
        "Writes the embedding of every item of a published model for another home: a Faiss index with its id "
        "map, tuned until it finds what exact search finds; JSON lines as Vertex AI Vector Search imports "
        "them; or Parquet. What was written is read back and held against exact search before it appears in "
        "--output. Scores are inner products of a query's embedding, which the model's signature "
        "query_embedding gives, with an item's.",
    )
    export.add_argument(
        "--model",
        metavar="DIR",
        required=True,
        help="the --output of `two-tower run`, for its newest published model, or one version's directory",
    )
    export.add_argument("--to", metavar="HOME", required=True, help="faiss, vertex or parquet")
    export.add_argument(
        "--output", metavar="DIR", required=True, help="new directory to write, a path or gs://..."
    )
    export.add_argument(
        "--index",
        metavar="KIND",
        help="for faiss: flat, ivfpq or hnsw (default: flat below 20,000 items, else hnsw)",
    )
    export.add_argument(
        "--recall",
        type=float,
        metavar="SHARE",
        help="for faiss: how many of exact search's first k the index must find (default: what the model's "
        "own index was tuned to, else 0.95)",
    )
    export.add_argument(
        "-k", type=int, metavar="N", help="the k of that (default: the model's own, else 100)"
    )

    gate = command(
        "gate",
        _gate,
        "judge what was measured by other limits",
        "Judges a model again from its stored evaluation, without training or asking it anything: by the "
        "limits that it was judged by, with those of --config and --set laid over. Shows every threshold "
        "with its value, its bounds and its limit, and what explains a refusal. It changes nothing: the "
        "verdict of the run stays, and nothing is pushed; for that, run the pipeline with the new limits, "
        f"which trains nothing anew. The status is 0 if the model holds them, and {EXIT_REFUSED} if not.",
        epilog=settings_help.listing("gate.", everything=True),
    )
    gate.add_argument(
        "--model",
        metavar="DIR",
        required=True,
        help="the --output of `two-tower run`, for its newest evaluation; or the directory of a model or of "
        "an evaluation",
    )
    _add_settings(gate)
    gate.add_argument("--json", action="store_true", help="print it as JSON")

    rollback = command(
        "rollback",
        _rollback,
        "publish the model from before the one in service again",
        "Publishes the model that was in service before the newest one, under a new, higher number, so that "
        "servers take it up as they take up any. It is first loaded in a fresh process, where it has to "
        "answer as it did when it was published. The model that is left stays where it is, under its number; "
        "a later run publishes what it blesses, that very model included.",
    )
    where = rollback.add_mutually_exclusive_group(required=True)
    where.add_argument("--output", metavar="DIR", help="the --output of `two-tower run`, for its pushed/")
    where.add_argument("--push", metavar="DIR", help="the directory that servers watch")

    query = command(
        "query",
        _query,
        "ask a model for recommendations",
        "Asks a published model what a user would like next, and shows it beside the user's last listens.",
    )
    query.add_argument(
        "--model",
        metavar="DIR",
        required=True,
        help="the --output of `two-tower run`, for its newest published model, or one model's directory",
    )
    who = query.add_mutually_exclusive_group(required=True)
    who.add_argument("--user", type=int, metavar="ID", help="a user of the data; a new one is answered too")
    who.add_argument("--history", metavar="ID,ID,...", help='item ids instead, oldest first; "" for none')
    query.add_argument(
        "--exclude", metavar="ITEMS", default="", help="items that must not be recommended, as in 4,5"
    )
    query.add_argument(
        "--allow", metavar="ITEMS", default="", help="the only items that may be recommended (default: all)"
    )
    query.add_argument("-k", type=int, default=10, metavar="N", help="how many recommendations (default: 10)")
    query.add_argument("--data", metavar="DIR", help="data directory with users and titles, if it was moved")
    query.add_argument("--json", action="store_true", help="print it as JSON")

    compile_ = command(
        "compile",
        _compile,
        "write the same pipeline as a job for Kubeflow Pipelines or Vertex AI",
        "Writes the pipeline that `two-tower run` runs as a job for Kubeflow Pipelines or Vertex AI. Its "
        "steps run in a container image: build it with `docker build --target train`.",
        epilog=settings_help.listing(),
    )
    compile_.add_argument("--image", required=True, help="name of the container image, with its registry")
    compile_.add_argument("-o", "--output-file", metavar="FILE", required=True, help="JSON file to write")
    compile_.add_argument("--data", metavar="URI", help="data directory, as the steps see it (gs://...)")
    compile_.add_argument("--root", metavar="URI", help="where the steps write (gs://...)")
    _add_settings(compile_)

    demo = command(
        "demo",
        _demo,
        "simulate, ingest, run, report and query in one go",
        "Simulates listeners, trains a recommender on them, and shows what it recommends to one of them. A "
        "second call does only what is not done yet.",
        epilog=settings_help.listing(),
    )
    demo.add_argument("--output", metavar="DIR", default="runs/demo", help="default: runs/demo")
    _add_settings(demo)
    return parser


def _formats() -> str:
    width = max(map(len, FORMAT_HELP))
    return "formats:\n" + "\n".join(f"  {name:<{width}}  {text}" for name, text in FORMAT_HELP.items())


def _add_settings(parser: argparse.ArgumentParser) -> None:
    listed = "; ".join(f"{name}: {text}" for name, text in presets.PRESET_HELP.items())
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help=f"a set of settings; without one `run` takes that which suits the data. {listed}",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with settings, see below")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="one setting; may be given several times",
    )
    parser.add_argument("--help-all", action=settings_help.HelpAll, nargs=0, help="list all settings")


def _config(options: argparse.Namespace, fallback: str = "default") -> pipeline_config.PipelineConfig:
    return run_file.load(options.preset, options.config, options.overrides, fallback)


def _simulate(options: argparse.Namespace) -> int:
    from two_tower.simulator.simulate import simulate
    from two_tower.simulator.world import SimulationParameters

    given = {name: getattr(options, name) for name in ("seed", "users", "days", "tracks")}
    parameters = SimulationParameters(**{name: value for name, value in given.items() if value is not None})
    summary = simulate(options.out, parameters, _tell)
    counts = ", ".join(f"{count:,} {kind}s" for kind, count in summary.events.items())
    print(
        f"{options.out} holds '{summary.name}': {counts}\n"
        f"of {summary.users:,} users; {summary.tracks:,} tracks, {summary.unheard_tracks:,} never heard.\n"
        f"Next: two-tower ingest yambda {options.out} DIR"
    )
    return 0


def _ingest(options: argparse.Namespace) -> int:
    positions = {"FORMAT": options.format, "SRC": options.source, "OUT": options.out}
    if options.describe is not None:
        others = {**positions, "--name": options.name, "--span": options.span, "--columns": options.columns}
        if extra := [name for name, value in others.items() if value is not None]:
            raise UserError(
                f"--describe DIR shows a data directory and ingests nothing: leave out {extra[0]}."
            )
        from two_tower.data_directory import description, description_text

        print(description_text.render(description.describe(options.describe, _tell_progress)))
        return 0
    if missing := [name for name, value in positions.items() if value is None]:
        raise UserError(f"ingest needs FORMAT SRC OUT, or --describe DIR; {missing[0]} is missing.")

    from two_tower.base import storage
    from two_tower.data_directory import ingest_report
    from two_tower.ingestion import FORMATS

    if options.format not in FORMATS:
        nearest = difflib.get_close_matches(options.format, FORMATS, n=1, cutoff=0)[0]
        known = ", ".join(sorted(FORMATS))
        raise UserError(f"there is no format '{options.format}'; the nearest is '{nearest}' of {known}.")
    given: dict[str, Any] = {"span": _span(options.span)}
    if options.columns is not None:
        if options.format != _TABLE:
            raise UserError(
                f"--columns is for the format '{_TABLE}'; the columns of '{options.format}' are known."
            )
        given["columns"] = options.columns
    if not storage.exists(options.source):
        raise UserError(f"{options.source}: there is no such file or directory; it should be SRC.")
    manifest = FORMATS[options.format](options.source, options.out, options.name, **given)
    print(ingest_report.render(manifest))
    needed = "".join(f" --set {setting}" for setting in ingest_report.protocol_settings(manifest))
    print(f"Next: two-tower run --data {options.out} --output DIR{needed}")
    return 0


def _span(text: str | None) -> int | str | None:
    """--span as the writer takes it."""
    if text is None or text == "auto":
        return text
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        return (datetime.date.fromisoformat(text) - datetime.date(1970, 1, 1)).days
    raise UserError(
        f"--span {text}: a span is a number of days since 1970-01-01 on the data's own clock, a date such as "
        "2024-05-31, or auto, the day of the newest event."
    )


def _run(options: argparse.Namespace) -> int:
    data, output = _places(options)
    if not data or not output:
        missing = "output" if data else "data"
        raise UserError(f"run needs a directory in --{missing}, or as {missing} in the --config file.")
    if options.no_examples:
        options.overrides = [*options.overrides, "evaluation.examples=0"]
    status = _run_pipeline(data, output, _config_suited_to(data, options))
    if status:
        return status

    from two_tower.pipeline.runs.page import collect_with_page
    from two_tower.pipeline.runs.report import render

    report = collect_with_page(output, not options.no_examples)
    print()
    print(render(report), end="")
    return EXIT_REFUSED if options.fail_on_refusal and report["verdict"] == "refused" else 0


def _validate(options: argparse.Namespace) -> int:
    data, output = _places(options)
    if options.requests is not None:
        if data:
            raise UserError("--requests FILE checks requests and no data: leave out --data.")
        from two_tower.base import console

        with console.hushed():
            from two_tower.pipeline.checks.request_validation import validate_requests

            checked = validate_requests(options.requests, output, _config(options).validation.max_skew)
        print("Checked, and nothing is wrong:", *checked, sep="\n")
        return 0
    if not data:
        raise UserError("validate needs a directory in --data, or as data in the --config file.")
    config = _config_suited_to(data, options)
    found: list[str] = []

    def validate() -> None:
        from two_tower.pipeline.checks.data_validation import validate_data

        found.extend(validate_data(data, output, config))

    status = _run_pipeline(data, output, config, validate)
    if status:
        return status
    beside = f" --output {output or 'DIR'}"
    beside += f" --preset {options.preset}" if options.preset else ""
    beside += f" --config {options.config}" if options.config else ""
    beside += "".join(f" --set {shlex.quote(setting)}" for setting in options.overrides)
    print("\nChecked, and nothing is wrong:", *found, sep="\n")
    print(f"Next: two-tower run --data {data}{beside}")
    return 0


def _tune(options: argparse.Namespace) -> int:
    data, output = _places(options)
    if not data or not output:
        missing = "output" if data else "data"
        raise UserError(f"tune needs a directory in --{missing}, or as {missing} in the --config file.")
    if options.trials < 1:
        raise UserError(f"--trials takes a number from 1 on, and was given {options.trials}.")
    if options.timeout is not None and not options.timeout > 0:
        raise UserError(f"--timeout takes seconds, more than none, and was given {options.timeout:g}.")
    from two_tower.pipeline.tuning.search_space import SearchSpace, default_space

    given = SearchSpace.read(options.space) if options.space else None
    preset = _preset_suited_to(data, options)
    base = _config(options, preset)
    _check_output(output)

    from two_tower.base import storage
    from two_tower.data_directory.manifest import Manifest
    from two_tower.pipeline.tuning import tune as tuning
    from two_tower.pipeline.tuning import tuning_report
    from two_tower.pipeline.tuning.search import FOLDER

    search = tuning.Search(
        storage.absolute(data),
        Manifest.load(data).digest,
        os.path.abspath(output),
        preset,
        base,
        given or default_space(base),
    )
    with tuning.opened(search) as study:
        try:
            if len(tuning_report.ended_trials(study)) < options.trials:
                status = _run_pipeline(
                    data, output, base, lambda: tuning.tune(search, study, options.trials, options.timeout)
                )
                if status:
                    return status
        finally:
            # A second's work: not after each trial.
            tuning_report.plot(study, search)
        print(tuning_report.summary(study))
    folder = os.path.join(output, FOLDER)
    print(
        f"All trials are in {os.path.join(folder, tuning_report.TRIALS_FILE)} and "
        f"{tuning_report.PLOT_FILE} beside it.\n"
        f"Next: two-tower run --config {os.path.join(folder, tuning_report.BEST_FILE)}"
    )
    return 0


def _places(options: argparse.Namespace) -> tuple[str | None, str | None]:
    """Data and output, as options or else in the config file."""
    given = run_file.read_run_file(options.config) if options.config else run_file.RunFile()
    return options.data or given.data, options.output or given.output


def _config_suited_to(data: str, options: argparse.Namespace) -> pipeline_config.PipelineConfig:
    """The settings; where no preset is named, over that which suits the data."""
    return _config(options, _preset_suited_to(data, options))


def _preset_suited_to(data: str, options: argparse.Namespace) -> str:
    """The preset that is named, or else that which suits the data."""
    from two_tower.data_directory.manifest import Manifest

    _config(options)  # before the data is looked at: a mistake in the settings shows at once
    manifest = Manifest.load(data)
    events = manifest.counts["label_events"]
    suited = run_file.suited_preset(events, manifest.has_timestamps)
    named = options.preset or (run_file.read_run_file(options.config).preset if options.config else None)
    if not named:
        times = "" if manifest.has_timestamps else " without times"
        _tell(f"Preset '{suited}', for {events:,} events{times}; --preset names another")
    return named or suited


def _run_pipeline(
    data: str,
    output: str | None,
    config: pipeline_config.PipelineConfig,
    work: Callable[[], None] | None = None,
) -> int:
    """0, or EXIT_FAILURE after telling what failed and where its log is.

    `work` is done instead of the whole run; without `output` it looks after its log itself.
    """
    from two_tower.base import console
    from two_tower.pipeline.runs.report import newest_log

    if output:
        _check_output(output)
    _tell("Loading TFX (half a minute, the first time)")
    with console.hushed():
        from two_tower.pipeline.local_runner import ComponentFailed, run_local
    log_before = newest_log(output) if output else None
    try:
        if work:
            work()
        elif output:
            run_local(data, output, config)
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        log = newest_log(output) if output else None
        where = f"\nThe log is {log}." if log and log != log_before else ""
        if isinstance(error, UserError):
            raise UserError(f"{error}{where}") from error
        named = str(error) if isinstance(error, ComponentFailed) else f"{type(error).__name__}: {error}"
        print(f"two-tower: the run failed. {' '.join(named.split())}{where}", file=sys.stderr)
        return EXIT_FAILURE
    return 0


def _check_output(output: str) -> None:
    if os.path.exists(output) and not os.path.isdir(output):
        raise UserError(f"{output} is a file; --output takes a directory.")


def _report(options: argparse.Namespace) -> int:
    if options.compare:
        given = {"--output": options.output, "--html": options.html, "--no-examples": options.no_examples}
        if extra := [name for name, value in given.items() if value]:
            raise UserError(f"--compare A B names the runs itself: leave out {extra[0]}.")
        from two_tower.pipeline.runs import comparison

        compared = comparison.compare(*options.compare)
        print(
            json.dumps(compared, indent=2) if options.json else comparison.render(compared).rstrip("\n")
        )
        return 0
    if not options.output:
        raise UserError("report needs a run's directory in --output, or two in --compare.")
    from two_tower.pipeline.runs.page import collect_with_page
    from two_tower.pipeline.runs.report import render

    report = collect_with_page(options.output, not options.no_examples, options.html)
    print(json.dumps(report, indent=2) if options.json else render(report).rstrip("\n"))
    return 0


def _history(options: argparse.Namespace) -> int:
    from two_tower.pipeline.runs import history

    runs = history.history(options.output)
    print(json.dumps(runs, indent=2) if options.json else history.render(runs).rstrip("\n"))
    return 0


def _reindex(options: argparse.Namespace) -> int:
    from two_tower.pipeline.reindexing import Reindexing

    if options.output:
        _check_output(options.output)
    reindexing = Reindexing(options.model, options.items, options.output, options.overrides)
    status = _run_pipeline("", reindexing.output, reindexing.config, reindexing.run)
    if status:
        return status

    from two_tower.pipeline.runs.page import collect_with_page
    from two_tower.pipeline.runs.report import render

    report = collect_with_page(reindexing.output)
    print()
    print(render(report), end="")
    return EXIT_REFUSED if options.fail_on_refusal and report["verdict"] == "refused" else 0


def _export(options: argparse.Namespace) -> int:
    from two_tower.pipeline.export_queries import eval_queries
    from two_tower.serving.exports import export

    try:
        done = export.export(
            options.model,
            options.to,
            options.output,
            options.index,
            options.recall,
            options.k,
            _tell,
            eval_queries,
        )
    except export.ExportFailed as error:
        print(f"two-tower: the export failed. {error}", file=sys.stderr)
        return EXIT_FAILURE
    print(done)
    return 0


def _gate(options: argparse.Namespace) -> int:
    from two_tower.evaluation.gate.judge import BLESSED
    from two_tower.pipeline.runs.judged_again import judge_again, render

    judged = judge_again(options.model, options.preset, options.config, options.overrides)
    print(judged.to_json() if options.json else render(judged).rstrip("\n"))
    return 0 if judged.judgement.verdict == BLESSED else EXIT_REFUSED


def _rollback(options: argparse.Namespace) -> int:
    from two_tower.base import console

    directory = options.push or os.path.join(options.output, "pushed")
    _tell("Loading TFX (half a minute, the first time)")
    with console.hushed():
        from two_tower.serving.canary import CanaryFailed
        from two_tower.serving.rollback import roll_back
    try:
        done = roll_back(directory)
    except CanaryFailed as error:
        print(f"two-tower: {error}", file=sys.stderr)
        return EXIT_FAILURE
    asked = (
        "it answered its recorded queries as it did when it was published first"
        if done.was_asked
        else "it loads; it is from before queries were recorded, and was asked none"
    )
    print(f"Version {done.left} was in service; version {done.again} is again, as {done.path}: {asked}.")
    return 0


def _query(options: argparse.Namespace) -> int:
    from two_tower.serving.query import recommend, render

    history = None if options.history is None else _ids("--history", options.history)
    answer = recommend(
        options.model,
        options.user,
        history,
        options.k,
        options.data,
        exclude=_ids("--exclude", options.exclude),
        allow=_ids("--allow", options.allow),
    )
    print(answer.to_json() if options.json else render(answer).rstrip("\n"))
    return 0


def _ids(option: str, text: str) -> list[int]:
    ids = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            ids.append(int(part))
        except ValueError:
            raise UserError(f"{option} takes ids separated by commas, and '{part}' is no number.") from None
    return ids


def _compile(options: argparse.Namespace) -> int:
    config = _config(options)
    from two_tower.base import console

    _tell("Loading TFX (half a minute, the first time)")
    with console.hushed():
        from two_tower.pipeline.kubeflow_runner import compile_job

        compile_job(options.image, options.output_file, config, options.data, options.root)
    print(f"{options.output_file} holds the job: submit it to Kubeflow Pipelines or Vertex AI.")
    return 0


def _demo(options: argparse.Namespace) -> int:
    from two_tower.data_directory import ingest_report
    from two_tower.ingestion import FORMATS
    from two_tower.pipeline.runs.page import collect_with_page
    from two_tower.pipeline.runs.report import render
    from two_tower.simulator.simulate import simulate
    from two_tower.simulator.world import SimulationParameters

    config = _config(options)
    source, data, output = (os.path.join(options.output, name) for name in ("yambda", "data", "output"))
    parameters = SimulationParameters()
    if _was_simulated_with(source, dataclasses.asdict(parameters)):
        _tell(f"1/3  {source} is simulated already")
    else:
        _tell(f"1/3  Simulating listeners: two-tower simulate {source}")
        simulate(source, parameters, lambda line: _tell(f"     {line}"))
    _tell(f"2/3  Reading their files: two-tower ingest yambda {source} {data}")
    manifest = FORMATS["yambda"](source, data)
    _tell("".join(f"     {line}\n" for line in ingest_report.render(manifest).splitlines()).rstrip("\n"))
    _tell(f"3/3  Training a recommender: two-tower run --data {data} --output {output}")
    status = _run_pipeline(data, output, config)
    if status:
        return status
    report = collect_with_page(output)
    print()
    print(render(report))
    user = _some_listener(data, manifest.label_event)
    if report["in_service"]:
        from two_tower.serving import query

        print(query.render(query.recommend(output, user, None, 10)))
    print(
        "Next:\n"
        f"  two-tower query --model {output} --user {user + 1}            another listener\n"
        f"  two-tower query --model {output} --history 1,2,3     someone new, who listened to these items\n"
        f"  two-tower report --output {output} --json            the report, for programs\n"
        f"  two-tower run --data {data} --output {output} --set trainer.embedding_dim=64\n"
        "                                                              the same with another setting\n"
        "  two-tower ingest --help                                     your own data\n"
        "The command is in .venv/bin; `source .venv/bin/activate` puts it on the PATH."
    )
    return 0


def _was_simulated_with(source: str, parameters: dict[str, Any]) -> bool:
    try:
        with open(os.path.join(source, "simulation.json"), encoding="utf-8") as file:
            return bool(json.load(file)["parameters"] == parameters)
    except (OSError, ValueError, KeyError):
        return False


def _some_listener(data: str, label_event: str) -> int:
    """The lowest id of a user with a history worth looking at."""
    import numpy as np
    import pyarrow.dataset as pads

    from two_tower.data_directory.checked_columns import open_dataset
    from two_tower.data_directory.manifest import event_files

    events = open_dataset(event_files(data))
    listens = events.to_table(columns=["user_id"], filter=pads.field("event_type") == label_event)
    users, counts = np.unique(listens["user_id"].to_numpy(), return_counts=True)
    return int(users[counts >= min(20, counts.max())][0])


def _tell_progress(line: str) -> None:
    """What is shown while one waits, and is no part of the output."""
    if sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
