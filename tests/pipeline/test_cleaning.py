"""Tests of `two-tower clean`, on runs in a metadata store and on runs of a job."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.pipeline.test_job_runs import whole_run
from tests.stored_runs import Store
from two_tower.base import pointers
from two_tower.base.errors import UserError
from two_tower.components.job_folder import CLEANED
from two_tower.pipeline.runs.cleaning import clean, plan
from two_tower.pipeline.runs.stored_runs import open_store
from two_tower.serving import push_record
from two_tower.serving.push_record import PushRecord
from two_tower.serving.versions import versions


def filled(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "file").write_text("0123456789")
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Output of four runs: run 1's model is in service, 2's was blessed last, 3's statistics approved."""
    store = Store(tmp_path)
    number = 0
    for run in range(1, 5):
        store.begin(f"2026-01-0{run}T00:00:00")
        for component, key in (
            ("ApprovedStatistics", "approved"), ("Trainer", "model"), ("ScannIndexer", "model"),
            ("RetrievalEvaluator", "evaluation"), ("Pusher", "pushed_model"),
        ):  # fmt: skip
            number += 1
            folder = filled(tmp_path / "artifacts" / component / key / str(number))
            if component == "ScannIndexer":
                servable(folder, f"weights of run {run}")
            store.execution(component, "COMPLETE", {key: store.artifact(f"{component}Output", folder)})
            if (run, component) == (2, "ScannIndexer"):
                pointers.point(
                    str(tmp_path), pointers.BLESSED, pointers.Pointer(str(folder), {"towers_uri": ""})
                )
            if (run, component) == (3, "ApprovedStatistics"):
                pointers.point(str(tmp_path), pointers.APPROVED, pointers.Pointer(str(folder), {}))
    # No Pusher names version 2: it is a rollback to the model of run 1.
    filled(tmp_path / "pushed" / "1")
    model = tmp_path / "artifacts" / "ScannIndexer" / "model" / "3"
    shutil.copytree(model / "Format-Serving", tmp_path / "pushed" / "2")
    return tmp_path


def servable(folder: Path, weights: str) -> None:
    """Writes a served model's files into the folder of its artifact."""
    (folder / "Format-Serving").mkdir()
    (folder / "Format-Serving" / "saved_model.pb").write_text(weights)
    (folder / "Format-Serving" / "weights").write_text(weights)


def models(output: Path) -> list[int]:
    """Returns the runs whose trained models are there; they are executions 2, 7, 12 and 17."""
    folders = (output / "artifacts" / "Trainer" / "model").iterdir()
    return sorted((int(folder.name) + 3) // 5 for folder in folders)


def test_what_is_in_service_or_compared_with_stays_and_so_does_the_newest(output: Path) -> None:
    found = plan(str(output), keep=1)
    # Only run 3 and run 4 would stay by age; the runs of service, blessing and approval stay besides.
    assert found.kept_runs == tuple(f"2026-01-0{run}T00:00:00" for run in (4, 3, 2, 1))
    assert found.folders == () and found.versions == (1,)


def test_checkpoints_of_a_killed_training_go_once_a_later_run_is_complete(tmp_path: Path) -> None:
    store, number = Store(tmp_path), 0
    for name, ended in (("2026-01-01T00:00:00", "CANCELED"), ("2026-01-02T00:00:00", "COMPLETE")):
        store.begin(name)
        for component, state in (("Trainer", ended), ("Pusher", "COMPLETE")):
            number += 1
            folder = filled(tmp_path / "artifacts" / component / "made" / str(number))
            store.execution(component, state, {"made": store.artifact(f"{component}Output", folder)})
        checkpoint = tmp_path / "artifacts" / "Trainer" / ".checkpoints" / "0123456789abcdef"
        if ended == "CANCELED":
            filled(checkpoint)
            assert str(checkpoint) not in plan(str(tmp_path), keep=2).folders
    assert plan(str(tmp_path), keep=2).folders == (str(checkpoint),)


def test_the_rest_goes_and_the_store_knows_it(output: Path) -> None:
    (output / "latest_blessed.json").unlink()
    (output / "latest_approved.json").unlink()
    found = plan(str(output), keep=1)
    assert models(output) == [1, 2, 3, 4]  # a plan removes nothing
    assert found.kept_runs == ("2026-01-04T00:00:00", "2026-01-01T00:00:00")
    # Four folders of each removed run; the evaluation stays.
    assert len(found.folders) == 8 and found.bytes == 8 * 10 + 2 * 2 * len("weights of run 2") + 10
    clean(found)
    assert models(output) == [1, 4]
    assert len(list((output / "artifacts" / "RetrievalEvaluator" / "evaluation").iterdir())) == 4
    assert versions(str(output / "pushed")) == [2]
    store, _ = open_store(str(output))
    deleted = {artifact.uri for artifact in store.get_artifacts() if artifact.state == artifact.DELETED}
    # Not those whose number begins with a removed one's, as 17 does with 1.
    assert deleted == set(found.folders)
    assert plan(str(output), keep=1).folders == ()


def test_the_best_released_model_stays(output: Path) -> None:
    (output / "latest_approved.json").unlink()
    of_run = {run: output / "artifacts" / "ScannIndexer" / "model" / str(5 * run - 2) for run in (2, 3, 4)}
    newest = pointers.Pointer(str(of_run[4]), {"anchor": str(of_run[3])})
    pointers.point(str(output), pointers.BLESSED, newest)
    clean(plan(str(output), keep=1))
    assert [run for run, model in of_run.items() if model.exists()] == [3, 4]


def test_a_version_that_stands_in_for_a_model_without_artifact_stays(output: Path) -> None:
    pushed, gone = output / "pushed", [str(output / name) for name in ("best", "last")]
    for version, uri in ((1, gone[0]), (3, gone[1]), (4, ""), (5, "")):
        shutil.copytree(pushed / "2", pushed / str(version), dirs_exist_ok=True)
        push_record.write(str(pushed), version, PushRecord(model=uri))
    pointers.point(str(output), pointers.BLESSED, pointers.Pointer(gone[1], {pointers.ANCHOR: gone[0]}))
    assert plan(str(output), keep=1).versions == (2, 4)


@pytest.mark.parametrize("form", ["relative", "link", "file", "slash"])
def test_the_output_s_name_decides_nothing(
    output: Path, form: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(output.parent)
    link = tmp_path_factory.mktemp("elsewhere") / "link"
    link.symlink_to(output)
    name = {"relative": output.name, "link": str(link), "file": f"file://{output}", "slash": f"{output}/"}[
        form
    ]
    assert plan(name, keep=4).folders == ()
    found = plan(name, keep=1)
    clean(found)
    assert models(output) == [1, 2, 3, 4]


def test_a_moved_output_is_left_alone(output: Path) -> None:
    moved = output.rename(output.parent / "moved")
    with pytest.raises(
        UserError, match=f"{moved}: its runs wrote to other places, such as {output}/artifacts"
    ):
        plan(str(moved), keep=1)


def test_what_a_running_component_writes_stays(output: Path) -> None:
    running = filled(output / "artifacts" / "Trainer" / "model" / "21")
    left_by_a_killed_one = filled(output / "artifacts" / "Trainer" / "checkpoint" / "3")
    found = plan(str(output), keep=4)
    assert found.folders == (str(left_by_a_killed_one),)
    clean(found)
    assert running.exists()


def test_nothing_is_removed_without_runs_or_with_none_to_keep(output: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--keep takes a number of runs from 1, and was given 0"):
        plan(str(output), keep=0)
    with pytest.raises(UserError, match="holds no run yet"):
        plan(str(tmp_path / "nowhere"), keep=1)


def test_below_a_job_s_root_old_runs_go_and_the_cache_is_told(tmp_path: Path) -> None:
    runs = {run: whole_run(tmp_path, run, run) for run in ("a", "b", "c")}
    for uris in runs.values():
        for uri in uris.values():
            filled(Path(uri))
    foreign = filled(tmp_path / "notes" / "a" / "mine")
    (tmp_path / "notes" / "a" / "steps").mkdir()
    others = filled(tmp_path / "123" / "b" / "notes")
    pointer = pointers.Pointer(runs["a"]["Trainer"], {}, "a")
    pointers.point(str(tmp_path), pointers.BLESSED, pointer)
    found = plan(str(tmp_path), keep=1)
    assert found.kept_runs == ("c", "a")
    clean(found)
    assert not Path(runs["b"]["Trainer"]).exists()
    assert all(Path(uri).exists() for run in ("a", "c") for uri in runs[run].values())
    # Records and evaluations stay, for the history.
    assert Path(runs["b"]["RetrievalEvaluator"]).exists()
    assert (tmp_path / "123" / "b" / "steps" / "Trainer.json").exists()
    assert (tmp_path / CLEANED).exists()
    # Folders that no step made are not this program's.
    assert foreign.exists() and others.exists()
