"""Test of `two-tower tune` on new data, and of a search that resumes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.e2e.runs import FIRST_DAYS, call, write_part
from two_tower.data_directory.manifest import DAY
from two_tower.pipeline.settings import run_file

pytestmark = [pytest.mark.e2e, pytest.mark.long]

RATES = (1e-9, 0.02)


def test_a_search_finds_the_better_setting_and_goes_on_where_it_was(whole: Path, tmp_path: Path) -> None:
    data, output, space = tmp_path / "data", tmp_path / "output", tmp_path / "space.yaml"
    write_part(whole, data, FIRST_DAYS * DAY)
    # The least learning rate learns nothing.
    space.write_text(yaml.safe_dump({"trainer.learning_rate": list(RATES)}))
    arguments = ["tune", "--data", str(data), "--output", str(output), "--preset", "smoke"]
    arguments += ["--set", "trainer.epochs=2", "--set", "trainer.learning_rate=1e-9", "--space", str(space)]

    status, shown, errors = call([*arguments, "--trials", "1"])
    assert status == 0, shown + errors
    folder = output / "tune"
    first = (folder / "trials.md").read_text()

    # The same call with more trials keeps the first trial and adds one.
    status, shown, errors = call([*arguments, "--trials", "2"])
    assert status == 0, shown + errors
    table = (folder / "trials.md").read_text()
    assert len(table.splitlines()) > len(first.splitlines())
    best = run_file.load(file=str(folder / "best.yaml"))
    assert best.trainer.learning_rate == RATES[1] and best.trainer.epochs == 2
    assert (folder / "trials.png").read_bytes().startswith(b"\x89PNG")
