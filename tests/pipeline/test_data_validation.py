from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.e2e.runs import call
from two_tower.base.errors import UserError
from two_tower.data_directory.manifest import DAY, DatasetProperties
from two_tower.data_directory.writer import DataDirectoryWriter
from two_tower.pipeline.commands import exit_status
from two_tower.pipeline.settings import run_file

pytestmark = pytest.mark.slow

USERS, DAYS, EVERY = 60, 10, 7_200


def write(path: Path, ratio: Callable[[np.ndarray], np.ndarray] = lambda ratios: ratios) -> Path:
    """Writes data of 60 users with an event every two hours for ten days; every tenth is a like."""
    random = np.random.default_rng(3)
    size = USERS * DAYS * DAY // EVERY
    user = np.arange(size) % USERS
    events = {
        "user_id": user,
        "item_id": random.integers(0, 50, size),
        "timestamp": np.arange(size) // USERS * EVERY + user,
        "event_type": np.where(random.random(size) < 0.1, "like", "listen"),
        "play_ratio": ratio(np.where(random.random(size) < 0.6, 1.0, random.random(size))),
    }
    with DataDirectoryWriter(str(path), DatasetProperties("sixty", "listen", True)) as writer:
        writer.write("events", pa.table(events))
        writer.write("items", pa.table({"item_id": np.arange(150), "item_length": np.full(150, 100.0)}))
    return path


def in_percent(ratios: np.ndarray) -> np.ndarray:
    return ratios * 100


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "healthy")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "broken", in_percent)


def validate(data: Path, *arguments: str) -> tuple[int, str, str]:
    return call(["validate", "--data", str(data), "--preset", "smoke", *arguments])


def components_in(written: str) -> dict[str, bool]:
    """Returns the shown components: True for those that ran, False for cached ones."""
    lines = [line for line in written.splitlines() if line.endswith((" s", " cached"))]
    return {line.split()[0]: line.endswith(" s") for line in lines}


def test_healthy_data_is_told_what_was_checked_and_nothing_is_left(
    healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    status, shown, errors = validate(healthy)
    assert status == 0, errors
    assert "interactions / test: " in shown and "against the schema: holds" in shown
    assert "skew: history_event_type: L-infinity distance 0.0" in shown
    assert "Drift is not checked: no earlier run has passed." in shown
    # The gate is the last component.
    ran = components_in(capfd.readouterr().out)
    assert "AnomalyGate" in ran
    assert not {"Transform", "ApprovedStatistics", "Trainer"} & ran.keys()
    assert not list(tmp_path.glob("two-tower-validate-*"))


def test_edited_data_is_refused_before_anything_is_written(healthy: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data")
    (events,) = (data / "events").glob("*.parquet")
    events.write_bytes(events.read_bytes()[:-1])
    status, _, errors = validate(data, "--output", str(tmp_path / "output"))
    assert status == exit_status.USER_ERROR
    assert str(events) in errors
    assert not (tmp_path / "output").exists()


@pytest.fixture(scope="module")
def output(healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output directory of a run that passed the gate."""
    from two_tower.pipeline.local_runner import run_local

    place = tmp_path_factory.mktemp("output")
    run_local(str(healthy), str(place), run_file.load("smoke"), until=("ApprovedStatistics",))
    return place


def test_data_is_compared_with_that_of_the_run_before_and_the_next_run_takes_over_what_was_done(
    healthy: Path, output: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, shown, errors = validate(healthy, "--output", str(output))
    assert status == 0, errors
    assert "drift: window_events: Jensen-Shannon divergence 0.00, limit 0.3: holds" in shown
    ran = components_in(capfd.readouterr().out)
    assert not ran["InteractionExampleGen"] and not ran["StatisticsGen"] and not ran["ExampleValidator"]
    # The first validation had no statistics to compare with; later ones have the same.
    validate(healthy, "--output", str(output))
    ran = components_in(capfd.readouterr().out)
    assert not any(ran.values())


def test_data_that_was_refused_is_refused_again(broken: Path, output: Path) -> None:
    for _ in range(2):
        status, _, errors = validate(broken, "--output", str(output))
        assert status == exit_status.USER_ERROR
        assert "drift: history_play_ratio: Jensen-Shannon divergence" in errors
        assert "check the unit" in errors and "Traceback" not in errors


def test_a_run_that_the_gate_stopped_is_reported_with_the_reason(broken: Path, output: Path) -> None:
    from two_tower.pipeline.local_runner import run_local
    from two_tower.pipeline.runs.report import collect, render

    with pytest.raises(UserError, match="history_play_ratio"):
        run_local(str(broken), str(output), run_file.load("smoke"))
    report = collect(str(output))
    assert report["status"] == "failed"
    (gate,) = (one for one in report["components"] if one["name"] == "AnomalyGate")
    assert "drift: history_play_ratio" in gate["error"]
    shown = render(report)
    assert shown.startswith("FAILED: AnomalyGate stopped the run.")
    assert "drift: history_play_ratio: Jensen-Shannon divergence" in shown
    # A validation is no run, so the report remains that of the run.
    validate(broken, "--output", str(output))
    assert collect(str(output))["run"] == report["run"]


def test_requests_are_held_against_what_the_model_learned_from(output: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(5)

    def requests(factor: float) -> str:
        path = tmp_path / f"{factor}.jsonl"
        rows = []
        for user in range(40):
            ratios = np.where(random.random(20) < 0.6, 1.0, random.random(20)) * factor
            rows.append(
                {
                    "user_id": user,
                    "history_item_id": [*range(20), -1],
                    "history_timestamp": [*range(20), -1],
                    "history_play_ratio": [*ratios.tolist(), -1],
                    "history_event_type": ["like" if place % 10 == 9 else "" for place in range(21)],
                }
            )
        path.write_text("\n".join(map(json.dumps, rows)))
        return str(path)

    arguments = ["validate", "--output", str(output), "--requests"]
    status, shown, errors = call([*arguments, requests(1)])
    assert status == 0, errors
    assert "40 requests" in shown
    assert "skew: history_event_type: L-infinity distance 0.0" in shown
    status, _, errors = call([*arguments, requests(100)])
    assert status == exit_status.USER_ERROR
    assert "skew: history_play_ratio: Jensen-Shannon divergence" in errors
    assert "history_event_type" not in errors
