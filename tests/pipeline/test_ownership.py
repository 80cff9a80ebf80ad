"""One command at a time works in an output directory, and none keeps what a killed one left."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import pytest

from tests.data_directories import PROPERTIES, events, items
from tests.published_models import RECORD, model
from tests.stored_runs import Store
from two_tower.base import pointers, process_lock, storage, temporary
from two_tower.base.errors import UserError
from two_tower.base.pointers import Pointer
from two_tower.data_directory.writer import DataDirectoryWriter
from two_tower.pipeline import reindexing
from two_tower.pipeline.commands import demo, exit_status, pipeline_run
from two_tower.pipeline.commands.main import main
from two_tower.pipeline.runs.history import history
from two_tower.pipeline.runs.ownership import owned, worker
from two_tower.pipeline.runs.stored_runs import open_store, running
from two_tower.pipeline.settings.pipeline_config import PipelineConfig
from two_tower.serving import versions
from two_tower.serving.push_record import PushRecord


def test_commands_that_write_are_refused_while_one_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, output = str(tmp_path / "data"), str(tmp_path / "output")
    with DataDirectoryWriter(data, PROPERTIES) as writer:
        writer.write("events", events())
        writer.write("items", items())

    def begins(*_: object, **__: object) -> int:
        pytest.fail("a second command begins its work")

    monkeypatch.setattr(pipeline_run, "loading_tfx", begins)
    monkeypatch.setattr(demo, "_prepare", lambda source, data: "listen")
    of_model = types.SimpleNamespace(output=output, config=PipelineConfig(), run=begins)
    monkeypatch.setattr(reindexing, "Reindexing", lambda *_: of_model)
    place = ["--data", data, "--output", output]
    with owned(output):
        assert worker(output).startswith(f"process {os.getpid()} on ")
        for arguments in (
            ["run", *place, "--preset", "small"],
            ["validate", *place, "--preset", "small"],
            ["tune", *place, "--preset", "small", "--set", "trainer.softmax=sampled"],
            ["clean", "--output", output, "--keep", "1"],
            ["reindex", "--model", output, "--items", data],
            ["demo", "--output", str(tmp_path)],
        ):
            assert main(arguments) == exit_status.USER_ERROR
            said = capsys.readouterr().err
            assert f"{output}: process {os.getpid()} on " in said, arguments
            assert said.endswith("is writing it. Wait until that has ended, or name another --output.\n")
    assert worker(output) == ""
    # Nothing was written, so not even the directory stays.
    assert sorted(os.listdir(tmp_path)) == ["data"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(process_lock, "_take", full)
    with (
        pytest.raises(UserError, match=r"cannot be written: the disk is full, with .* free"),
        owned(str(tmp_path)),
    ):
        pass


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """Output of a run whose Trainer was killed, behind a whole component."""
    store = Store(tmp_path)
    store.begin("2026-01-01T00:00:00")
    whole, half = (tmp_path / "artifacts" / name for name in ("Transform/graph/1", "Trainer/model/2"))
    for folder in (whole, half, tmp_path / "artifacts/Trainer/.system/executor_execution/2/.temp"):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    store.execution("Transform", "COMPLETE", {"graph": store.artifact("TransformGraph", whole)})
    store.execution("Trainer", "RUNNING")
    checkpoints = tmp_path / "artifacts/Trainer/.checkpoints/0123456789abcdef"
    checkpoints.mkdir(parents=True)
    return tmp_path


def files(output: Path) -> list[str]:
    return sorted(
        str(path.relative_to(output / "artifacts")) for path in (output / "artifacts").glob("*/*/*")
    )


def test_what_a_killed_run_left_is_removed_by_the_next_command(
    killed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert running(str(killed)) == {2: "Trainer"}
    with pipeline_run.working_in(str(killed)):
        assert capsys.readouterr().out == (
            "A run here was killed or found no room in Trainer. What it left half-written is removed.\n"
        )
        # The killed training goes on from its checkpoints.
        assert files(killed) == ["Trainer/.checkpoints/0123456789abcdef", "Transform/graph/1"]
        assert running(str(killed)) == {}
    with pipeline_run.working_in(str(killed)):
        assert capsys.readouterr().out == ""
    assert not list(killed.glob("artifacts/*/.system"))
    assert [run["status"] for run in history(str(killed))] == ["unfinished"]


def test_a_kill_within_the_removal_leaves_the_rest_to_the_next(
    killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(folder: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(storage, "remove_tree", die)
        with owned(str(killed)):
            pass
    with owned(str(killed)):
        assert files(killed) == ["Trainer/.checkpoints/0123456789abcdef", "Transform/graph/1"]


def test_nothing_is_removed_where_a_file_system_has_no_locks(
    killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = process_lock._take
    monkeypatch.setattr(process_lock, "_take", lambda *given: (take(*given)[0], False))
    before = files(killed)
    with owned(str(killed)):
        assert files(killed) == before and running(str(killed)) == {2: "Trainer"}


def test_a_pointer_that_a_killed_push_left_behind_is_moved(
    killed: Path, never_loaded: list[tuple[str, Any]]
) -> None:
    root, pushed = str(killed), str(killed / "pushed")
    for weights in "ab":
        record = PushRecord(RECORD, model=model(killed / weights, weights), towers=f"of {weights}")
        versions.publish(record.model, pushed, record)
        if weights == "a":
            pointers.point(root, pointers.BLESSED, Pointer(record.model, {}))
    with owned(root):
        pointer = pointers.from_text(pointers.latest(root, pointers.BLESSED))
    assert pointer is not None and pointer.uri == str(killed / "b")
    assert pointer.properties["towers_uri"] == "of b"
    # Whoever removes the pointer wants no comparison.
    os.remove(killed / "latest_blessed.json")
    with owned(root):
        assert pointers.latest(root, pointers.BLESSED) == pointers.NOTHING


def test_a_kill_within_a_write_of_the_metadata_hides_no_run(killed: Path) -> None:
    """Leaves a journal that a read-only connection cannot roll back."""
    path = str(killed / "metadata.sqlite")
    child = os.fork()
    if child == 0:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM Execution")
        connection.execute("CREATE TABLE padding (text)")
        for _ in range(300):
            connection.execute("INSERT INTO padding VALUES (?)", ("x" * 1_000,))
        os._exit(9)
    os.waitpid(child, 0)
    assert os.path.getsize(f"{path}-journal") > 0
    _, runs = open_store(str(killed))
    assert [run.name for run in runs] == ["2026-01-01T00:00:00"]
    assert running(str(killed)) == {2: "Trainer"}


def test_temporary_files_of_a_killed_process_go_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    child = os.fork()
    if child == 0:
        with owned(str(tmp_path / "output")):
            tempfile.mkstemp()
            subprocess.run([sys.executable, "-c", "import tempfile; tempfile.mkstemp()"], check=True)
            os._exit(9)
    os.waitpid(child, 0)
    (left,) = (tmp_path / "temporary").iterdir()
    assert len(list(left.iterdir())) == 2
    old = time.time() - 3_600
    os.utime(left, (old, old))
    with temporary.folder() as first:
        os.utime(first, (old, old))
        with temporary.folder() as second:
            # What a living process holds stays, however old.
            assert sorted((tmp_path / "temporary").iterdir()) == sorted([Path(first), Path(second)])
    assert not list((tmp_path / "temporary").iterdir())


def test_a_rollback_works_beside_a_run_and_says_so(
    tmp_path: Path, never_loaded: list[tuple[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    for weights in "ab":
        versions.publish(model(tmp_path / weights, weights), str(tmp_path / "pushed"), PushRecord(RECORD))
    command = ["rollback", "--output", str(tmp_path)]
    with owned(str(tmp_path)):
        assert main(command) == 0
    said = capsys.readouterr().out
    assert f"Beside this, process {os.getpid()} on " in said and "may push its model after this." in said
    assert versions.versions(str(tmp_path / "pushed")) == [1, 2, 3]
    versions.publish(model(tmp_path / "c", "c"), str(tmp_path / "pushed"), PushRecord(RECORD))
    assert main(command) == 0 and "Beside this" not in capsys.readouterr().out
