"""Real commands in processes of their own: TFX, TensorFlow and Google's packages print nothing of theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import two_tower

pytestmark = pytest.mark.slow

ROOT = Path(two_tower.__file__).parents[1]


def run(*arguments: str, **variables: str) -> tuple[int, list[str], list[str]]:
    """Returns the status of a process, and the lines of its output and of its errors."""
    unset = ("PYTHONWARNINGS", "TF_CPP_MIN_LOG_LEVEL")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT), **variables},
    )
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def test_a_command_that_loads_tfx_prints_its_own_lines_alone(tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    status, output, errors = run(
        "-m", "two_tower.pipeline.commands.main", "compile", "--image", "i:1", "-o", str(job)
    )
    assert errors == []
    assert status == 0
    loading, held, submit, lacking = output
    assert loading == "Loading TFX (half a minute, the first time)"
    assert held == f"{job} holds the job for vertex."
    assert submit.startswith("Submit it with Vertex's SDK: ")
    assert lacking == "It has no default of data and root: give it at submission."


def test_what_the_tfx_command_line_runs_prints_its_own_lines_alone(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(f"data: {tmp_path}\noutput: {tmp_path / 'output'}\n")
    status, output, errors = run("pipeline/local_runner.py", TWO_TOWER_CONFIG=str(config))
    assert output == []
    assert errors == [
        f"{tmp_path} is not a data directory: it has no manifest.json. Write one with `two-tower ingest`."
    ]
    assert status == 1
