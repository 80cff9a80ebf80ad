from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from two_tower.base import console


def test_a_run_shows_components_and_keeps_all_else_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    program = f"""
import logging, os, subprocess, sys
from two_tower.base import console
with console.quiet({str(log)!r}) as progress:
    progress.start("Trainer", "trains the two towers")
    print("from Python")
    os.write(1, b"from C\\n")
    os.write(2, b"from C's errors\\n")
    subprocess.run(["echo", "from a child"])
    logger = logging.getLogger("two_tower.progress")
    for step in range(1, 101):
        logger.info("epoch %d", step // 50, extra={{"step": step, "steps": 100}})
    progress.finish("Trainer", 1.25, cached=False)
    progress.start("Pusher", "pushes")
    progress.finish("Pusher", 0.0, cached=True)
print("after")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["Trainer:"] * 10 + ["Trainer", "Pusher", "after"]
    assert lines[4].split(", ") == ["  Trainer: step 50 of 100", "epoch 1"]
    assert lines[10].split() == ["Trainer", "trains", "the", "two", "towers", "1.2", "s"]
    assert lines[11].endswith("cached")
    assert done.stderr == ""
    chatter = log.read_text()
    for origin in ("from Python", "from C", "from C's errors", "from a child"):
        assert f"{origin}\n" in chatter


def test_a_failed_run_leaves_its_trace_in_the_log_and_the_output_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "run.log"
    with pytest.raises(ZeroDivisionError), console.quiet(str(log)) as progress:
        progress.start("Trainer", "trains")
        progress.fail("Trainer", ZeroDivisionError())
        raise ZeroDivisionError
    print("after")
    shown = capfd.readouterr().out
    assert "failed" in shown
    assert "after" in shown
    assert "ZeroDivisionError" in log.read_text()
    assert "ZeroDivisionError" not in shown


def test_a_full_disk_hides_no_error() -> None:
    program = """
from two_tower.base import console
from two_tower.base.errors import UserError
try:
    with console.quiet("/dev/full"):
        print("chatter")
        raise UserError("the cause")
except UserError as error:
    print(f"told: {error}")
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment
    )
    assert "told: the cause\n" in done.stdout, done.stderr
