"""Pipeline runs for tests: their arguments and their results."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as pads

import two_tower
from two_tower.data_directory.manifest import DatasetProperties, Manifest, event_files, item_files
from two_tower.data_directory.writer import DataDirectoryWriter
from two_tower.pipeline.commands.main import main

ROOT = Path(two_tower.__file__).parents[1]
# A ScaNN index in a world this small: in this process by conftest.py, in another one by PROGRAM.
SCANN_FROM = 1_000
PROGRAM = f"""
import sys
from two_tower.pipeline.commands.main import main
from two_tower.serving import index_tuning
index_tuning.EXACT_BELOW = {SCANN_FROM}
sys.exit(main())
"""
# Days of data at the first run; the world continues for two more days.
FIRST_DAYS = 18


@dataclasses.dataclass(frozen=True)
class World:
    """Paths of the source, the data directory and the output directory."""

    source: Path
    data: Path
    output: Path

    def run_arguments(self, **changes: str) -> list[str]:
        """Returns the arguments of `two-tower run`; `changes` are settings, with `__` for the dot."""
        settings = {name.replace("__", "."): value for name, value in changes.items()}
        sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        return ["run", "--data", str(self.data), "--output", str(self.output), "--preset", "smoke", *sets]


@dataclasses.dataclass(frozen=True)
class Run:
    """Result of a run: `pushed` lists versions and incomplete pushes, `shown` is the printed text."""

    status: int
    report: dict[str, Any]
    pushed: list[str]
    shown: str

    @property
    def ran(self) -> set[str]:
        """Names of the components that were not cached."""
        return {component["name"] for component in self.report["components"] if not component["cached"]}


def write_part(whole: Path, out: Path, before: int) -> None:
    """Writes a data directory of all items and the events before a time (seconds), without the oracle."""
    manifest = Manifest.load(str(whole))
    properties = DatasetProperties(manifest.dataset, manifest.label_event, manifest.repeats_recommendable)
    events = pads.dataset(event_files(str(whole)), format="parquet")
    items = pads.dataset(item_files(str(whole)), format="parquet")
    with DataDirectoryWriter(str(out), properties) as writer:
        writer.write("events", events.to_table(filter=pc.field("timestamp") < before))
        writer.write("items", items.to_table())


def environment() -> dict[str, str]:
    """Returns the environment of a child process, in which the sources under test come first."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def script(name: str) -> str:
    """Returns the path of a console script of this environment."""
    return str(Path(sys.executable).parent / name)


def call(arguments: Sequence[str]) -> tuple[int, str, str]:
    """Runs `two-tower` in this process and returns status, output and errors."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        status = main(arguments)
    return status, out.getvalue(), errors.getvalue()


def read_run(world: World, status: int, shown: str) -> Run:
    """Reads the results of the latest run."""
    from two_tower.pipeline.runs.report import collect

    names = sorted(os.listdir(world.output / "pushed")) if (world.output / "pushed").exists() else []
    pushed = [name for name in names if name.isdigit() or name.startswith(".incoming")]
    return Run(status, collect(str(world.output)), pushed, shown)


def run_here(world: World, *flags: str, **changes: str) -> Run:
    """Runs the pipeline in this process, where TFX is already loaded."""
    status, shown, errors = call([*world.run_arguments(**changes), *flags])
    return read_run(world, status, shown + errors)
