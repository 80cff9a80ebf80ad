"""Tests that unusable data ends a run with an error message and pushes nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.e2e.runs import World, call
from two_tower.data_directory.manifest import DAY, DatasetProperties, event_files
from two_tower.data_directory.writer import DataDirectoryWriter
from two_tower.pipeline.commands import exit_status

pytestmark = pytest.mark.e2e


# Length of eval and of test that leaves train the first listens of ten users, and so no label.
FIRST_LISTENS = (10 * DAY - 2 * 1_800 - 6_000) // 2


def small_data(out: Path, artist: int = 5) -> World:
    """Writes a listen every 10 minutes for ten days; one item is by `artist`."""
    size = 10 * DAY // 600
    artists = [[artist if item == 7 else 5] for item in range(150)]
    with DataDirectoryWriter(str(out / "data"), DatasetProperties("small", "listen", True)) as writer:
        writer.write(
            "events",
            pa.table(
                {
                    "user_id": np.arange(size) % 20,
                    "item_id": np.arange(size) % 149,
                    "timestamp": np.arange(size) * 600,
                    "event_type": ["listen"] * size,
                    "play_ratio": np.full(size, 0.5),
                }
            ),
        )
        writer.write("items", pa.table({"item_id": np.arange(150), "artist_id": artists}))
    return World(out, out / "data", out / "output")


def error_of(world: World, **changes: str) -> str:
    """Returns the error message of a run that fails for wrong input and pushes nothing."""
    status, _, message = call(world.run_arguments(**changes))
    assert status == exit_status.USER_ERROR, message
    assert "Traceback" not in message
    assert not (world.output / "pushed").exists()
    return message


def test_a_truncated_file_is_named_before_anything_is_written(tmp_path: Path) -> None:
    world = small_data(tmp_path)
    (path,) = event_files(str(world.data))
    with open(path, "r+b") as file:
        file.truncate(1_000)
    assert path in error_of(world)
    assert not world.output.exists()


def test_an_empty_split_is_named_with_its_setting_and_the_log(tmp_path: Path) -> None:
    message = error_of(small_data(tmp_path), split__holdout_seconds=str(FIRST_LISTENS))
    assert "train split" in message
    assert "split.holdout_seconds" in message
    (log,) = re.findall(r"The log is (.+)\.$", message.strip())
    assert Path(log).is_file()


def test_a_period_longer_than_the_data_is_named_before_anything_is_written(tmp_path: Path) -> None:
    world = small_data(tmp_path)
    assert "The train split is empty" in error_of(world, split__holdout_seconds=str(30 * DAY))
    assert not world.output.exists()


def test_anomalies_stop_the_run_and_are_named(tmp_path: Path) -> None:
    from two_tower.pipeline.runs.report import collect

    world = small_data(tmp_path, artist=-3)
    message = error_of(world)
    assert "catalog / catalog: artist_id: " in message
    report = collect(str(world.output))
    assert report["status"] == "failed"
    assert [one["name"] for one in report["components"] if one["state"] == "FAILED"] == ["AnomalyGate"]
    assert not {"Transform", "Trainer"} & {one["name"] for one in report["components"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Set TWO_TOWER_CONFIG to a YAML file"),
        ("output: o\n", "the key data is missing"),
        ("data: nowhere\noutput: o\n", "nowhere is not a data directory"),
    ],
)
def test_a_wrong_config_of_the_tfx_command_line_is_a_sentence(
    content: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from two_tower.pipeline import local_runner

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(local_runner.CONFIG_VARIABLE, raising=False)
    if content is not None:
        Path("run.yaml").write_text(content)
        monkeypatch.setenv(local_runner.CONFIG_VARIABLE, "run.yaml")
    # For an exit with a text, Python prints only the text.
    with pytest.raises(SystemExit) as end:
        local_runner.main()
    assert message in str(end.value.code)
    assert not Path("o").exists()


def test_the_tfx_command_line_is_told_the_log_of_its_own_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from two_tower.pipeline import local_runner

    world = small_data(tmp_path)
    (world.output / "logs").mkdir(parents=True)
    (world.output / "logs" / "earlier.log").touch()
    monkeypatch.setenv(local_runner.CONFIG_VARIABLE, str(tmp_path / "run.yaml"))
    errors = {}
    for seconds in (-1, FIRST_LISTENS):
        (tmp_path / "run.yaml").write_text(
            f"data: {world.data}\noutput: {world.output}\nsplit: {{holdout_seconds: {seconds}}}\n"
        )
        with pytest.raises(SystemExit) as end:
            local_runner.main()
        errors[seconds] = str(end.value.code)
    assert "split.holdout_seconds takes a value from 1" in errors[-1]
    assert "The log is" not in errors[-1]
    assert re.search(r"train split.*The log is .*logs/2[\d-]+\.log\.$", errors[FIRST_LISTENS], re.DOTALL)


def test_the_tfx_command_line_waits_for_no_other_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from two_tower.pipeline import local_runner
    from two_tower.pipeline.runs.ownership import owned

    world = small_data(tmp_path)
    (tmp_path / "run.yaml").write_text(f"data: {world.data}\noutput: {world.output}\n")
    monkeypatch.setenv(local_runner.CONFIG_VARIABLE, str(tmp_path / "run.yaml"))
    monkeypatch.setattr(local_runner, "run_local", lambda *_: pytest.fail("a second command begins its work"))
    with owned(str(world.output)), pytest.raises(SystemExit) as end:
        local_runner.main()
    assert f"process {os.getpid()} on " in str(end.value.code)
