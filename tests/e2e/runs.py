"""A run of the pipeline as tests see it: what it is called with, and what it leaves."""

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
# So that there is a ScaNN index in a world this small.
SETTINGS = {"index.exact_below": "1000"}
# Until then the data has come in when the first run starts; the world goes on for two days more.
FIRST_DAYS = 18


@dataclasses.dataclass(frozen=True)
class World:
    """Where the data comes from, where it is, and where the runs go."""

    source: Path
    data: Path
    output: Path

    def run_arguments(self, **changes: str) -> list[str]:
        """Of `two-tower`; `changes` are settings, with `__` for the dot."""
        settings = SETTINGS | {name.replace("__", "."): value for name, value in changes.items()}
        sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        return ["run", "--data", str(self.data), "--output", str(self.output), "--preset", "smoke", *sets]


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run left behind: `pushed` are versions and what a push left half done, `shown` was printed."""

    status: int
    report: dict[str, Any]
    pushed: list[str]
    shown: str

    @property
    def ran(self) -> set[str]:
        """Components that were not cached."""
        return {component["name"] for component in self.report["components"] if not component["cached"]}


def write_part(whole: Path, out: Path, before: int) -> None:
    """A data directory of all items and of the events before a time (seconds), without the oracle."""
    manifest = Manifest.load(str(whole))
    properties = DatasetProperties(manifest.dataset, manifest.label_event, manifest.repeats_recommendable)
    events = pads.dataset(event_files(str(whole)), format="parquet")
    items = pads.dataset(item_files(str(whole)), format="parquet")
    with DataDirectoryWriter(str(out), properties) as writer:
        writer.write("events", events.to_table(filter=pc.field("timestamp") < before))
        writer.write("items", items.to_table())


def environment() -> dict[str, str]:
    """Of a child process, in which the sources under test come first."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def script(name: str) -> str:
    """A console script of this environment."""
    return str(Path(sys.executable).parent / name)


def call(arguments: Sequence[str]) -> tuple[int, str, str]:
    """`two-tower` in this process: status, output, errors."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        status = main(arguments)
    return status, out.getvalue(), errors.getvalue()


def left_by(world: World, status: int, shown: str) -> Run:
    """Reads what the latest run left."""
    from two_tower.pipeline.runs.report import collect

    names = sorted(os.listdir(world.output / "pushed")) if (world.output / "pushed").exists() else []
    pushed = [name for name in names if name.isdigit() or name.startswith(".incoming")]
    return Run(status, collect(str(world.output)), pushed, shown)


def run_here(world: World, *flags: str, **changes: str) -> Run:
    """A run in this process, which has TFX loaded already, unless it is the first."""
    status, shown, errors = call([*world.run_arguments(**changes), *flags])
    return left_by(world, status, shown + errors)
