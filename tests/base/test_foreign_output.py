from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import two_tower

ROOT = Path(two_tower.__file__).parents[1]
# What TFX and Beam import of Google's packages.
GOOGLE = "import google.api_core, google.auth.transport.grpc"
SILENCE = "from two_tower.base import foreign_output; foreign_output.silence()"


def errors_of(program: str) -> str:
    """Returns the standard error of a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
    )
    return done.stderr


def test_googles_packages_import_in_silence() -> None:
    assert "FutureWarning" in errors_of(GOOGLE)
    assert errors_of(f"{SILENCE}; {GOOGLE}") == ""


def test_a_child_process_inherits_the_silence() -> None:
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {GOOGLE!r}], check=True)"
    assert errors_of(f"{SILENCE}; {SILENCE}; {child}") == ""


@pytest.mark.parametrize("category", ["FutureWarning", "UserWarning"])
def test_every_other_warning_shows(category: str) -> None:
    assert "ours" in errors_of(f"{SILENCE}; import warnings; warnings.warn('ours', {category})")


def test_a_failed_request_to_a_bucket_is_no_trace_on_the_terminal() -> None:
    log = "import logging; logging.getLogger('gcsfs').error('the trace')"
    assert "the trace" in errors_of(log)
    assert errors_of(f"{SILENCE}; {log}") == ""
