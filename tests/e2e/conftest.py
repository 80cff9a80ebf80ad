"""Fixtures of one shared output directory: a sequence of pipeline runs, two of which start with new data.

Each fixture is one run into the same directory and requires the previous one. The state after a run is read
when the run ends, so that the order of tests does not matter.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.runs import (
    FIRST_DAYS,
    PROGRAM,
    ROOT,
    SCANN_FROM,
    Run,
    World,
    call,
    environment,
    read_run,
    run_here,
    script,
    write_part,
)
from two_tower.data_directory.manifest import DAY

WARM_START = {"trainer__warm_start": "true"}
NOTHING_LEARNED = {
    "trainer__learning_rate": "1e-9",
    "trainer__epochs": "1",
    "gate__min_lift_over_best_baseline": "0",
}


@pytest.fixture(scope="session", autouse=True)
def scann_over_few_items() -> Iterator[None]:
    """Builds a ScaNN index in a world this small."""
    from two_tower.serving import index_tuning

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_tuning, "EXACT_BELOW", SCANN_FROM)
        yield


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data directory of 300 listeners over 20 days; its source is in `yambda` beside it."""
    place = tmp_path_factory.mktemp("world")
    size = ["--users", "300", "--tracks", "3000", "--days", "20"]
    assert call(["simulate", str(place / "yambda"), *size])[0] == 0
    assert call(["ingest", "yambda", str(place / "yambda"), str(place / "whole")])[0] == 0
    return place / "whole"


@pytest.fixture(scope="session")
def world(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Data directory in its state before the first run."""
    place = tmp_path_factory.mktemp("runs")
    write_part(whole, place / "data", FIRST_DAYS * DAY)
    return World(whole.parent / "yambda", place / "data", place / "output")


@pytest.fixture(scope="session")
def first(world: World) -> Run:
    """First run, started with the console script; all components run."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *world.run_arguments()],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return read_run(world, done.returncode, done.stdout)


@pytest.fixture(scope="session")
def unchanged(world: World, first: Run) -> Run:
    """Run without any change."""
    return run_here(world)


@pytest.fixture(scope="session")
def ingested_again(world: World, whole: Path, unchanged: Run) -> Run:
    """Run after the same events were ingested again."""
    shutil.rmtree(world.data)
    write_part(whole, world.data, FIRST_DAYS * DAY)
    return run_here(world)


@pytest.fixture(scope="session")
def through_tfx(world: World, ingested_again: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run started with the TFX command line, without any change and from another folder than the sources'."""
    place = tmp_path_factory.mktemp("home")
    config = place / "run.yaml"
    # Relative places count from the file's folder.
    data, output = os.path.relpath(world.data, place), os.path.relpath(world.output, place)
    config.write_text(f"data: {data}\noutput: {output}\npreset: smoke\n")
    shown = ""
    for folder, command in (
        (ROOT, ["pipeline", "create", "--engine=local", f"--pipeline_path={ROOT}/pipeline/local_runner.py"]),
        (
            tmp_path_factory.mktemp("elsewhere"),
            ["run", "create", "--engine=local", "--pipeline_name=two-tower"],
        ),
    ):
        done = subprocess.run(
            [script("tfx"), *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env={**environment(), "HOME": str(place), "TWO_TOWER_CONFIG": str(config)},
            check=False,
        )
        shown += done.stdout
        assert done.returncode == 0, shown
    return read_run(world, 0, shown)


@pytest.fixture(scope="session")
def refused(world: World, through_tfx: Run) -> Run:
    """Run of a model that learned nothing, compared with the best baseline."""
    return run_here(world, "--fail-on-refusal", **NOTHING_LEARNED)


@pytest.fixture(scope="session")
def refused_again(world: World, refused: Run) -> Run:
    """Run that refuses again, without --fail-on-refusal."""
    return run_here(world, **NOTHING_LEARNED)


@pytest.fixture(scope="session")
def killed(world: World, refused_again: Run) -> Run:
    """Run with two more days of data, killed during training.

    This and later runs warm-start from the latest blessed model.
    """
    assert call(["ingest", "yambda", str(world.source), str(world.data)])[0] == 0
    shown = ""
    with subprocess.Popen(
        [script("two-tower"), *world.run_arguments(**WARM_START)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        start_new_session=True,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            shown += line
            if line.startswith("  Trainer: step"):
                break
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, shown
    return read_run(world, process.returncode, shown)


@pytest.fixture(scope="session")
def newer(world: World, killed: Run) -> Run:
    """Run that resumes the killed run."""
    return run_here(world, **WARM_START)
