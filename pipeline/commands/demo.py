"""`two-tower demo`: simulates, ingests, runs, reports and queries in one go."""

from __future__ import annotations

import argparse
import dataclasses
import os
from typing import Any

from two_tower.base import json_text, staged_folder
from two_tower.pipeline.commands.command import Command
from two_tower.pipeline.commands.messages import tell
from two_tower.pipeline.commands.pipeline_run import check_output, run_pipeline, working_in
from two_tower.pipeline.commands.settings_options import add_settings, config_of, listed_settings


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = listed_settings()
    parser.add_argument(
        "--output", metavar="DIR", default="runs/demo", help="directory to write (default: runs/demo)"
    )
    add_settings(parser)


def _run(options: argparse.Namespace) -> int:
    from two_tower.pipeline.runs.page import collect_with_page
    from two_tower.pipeline.runs.report import render

    config = config_of(options)
    check_output(options.output)
    source, data, output = (os.path.join(options.output, name) for name in ("yambda", "data", "output"))
    label_event = _prepare(source, data)
    tell(f"3/3  Training a recommender: two-tower run --data {data} --output {output}")
    with working_in(output):
        status = run_pipeline(data, output, config)
        if status:
            return status
        report = collect_with_page(output)
    print()
    print(render(report))
    user = _some_listener(data, label_event)
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


def _prepare(source: str, data: str) -> str:
    """Simulates into `source` unless that is done, ingests it to `data`, and returns the label event."""
    from two_tower.data_directory import ingest_report
    from two_tower.ingestion import FORMATS
    from two_tower.simulator.simulate import simulate
    from two_tower.simulator.world import SimulationParameters

    parameters = SimulationParameters()
    if was_simulated_with(source, dataclasses.asdict(parameters)):
        tell(f"1/3  {source} is simulated already")
    else:
        tell(f"1/3  Simulating listeners: two-tower simulate {source}")
        simulate(source, parameters, lambda line: tell(f"     {line}"))
    tell(f"2/3  Reading their files: two-tower ingest yambda {source} {data}")
    manifest = FORMATS["yambda"](source, data)
    tell("".join(f"     {line}\n" for line in ingest_report.render(manifest).splitlines()).rstrip("\n"))
    return manifest.label_event


def was_simulated_with(source: str, parameters: dict[str, Any]) -> bool:
    """Returns whether `source` holds a whole simulation with these parameters."""
    staged_folder.recover(source)
    try:
        with open(os.path.join(source, "simulation.json"), encoding="utf-8") as file:
            return bool(json_text.parse(file.read())["parameters"] == parameters)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _some_listener(data: str, label_event: str) -> int:
    """Returns the lowest id of a user with at least 20 label events, or with the most."""
    import numpy as np
    import pyarrow.dataset as pads

    from two_tower.data_directory.checked_columns import open_dataset
    from two_tower.data_directory.manifest import event_files

    events = open_dataset(event_files(data))
    listens = events.to_table(columns=["user_id"], filter=pads.field("event_type") == label_event)
    users, counts = np.unique(listens["user_id"].to_numpy(), return_counts=True)
    return int(users[counts >= min(20, counts.max())][0])


COMMAND = Command(
    name="demo",
    summary="simulate, ingest, run, report and query in one go",
    description=(
        "Simulates listeners, trains a recommender on them, and shows what it recommends to one of them. A "
        "second call does only what is not done yet."
    ),
    add_arguments=_add_arguments,
    run=_run,
)
