"""Properties of staged folders: one writer at a time, and a kill at any step loses no content."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from two_tower.base import staged_folder, storage
from two_tower.base.errors import UserError


def write(place: Path, text: str) -> None:
    """Replaces the folder by one with a file of this text."""
    with staged_folder.alone(str(place)):
        os.mkdir(staged_folder.staged(str(place)))
        Path(staged_folder.staged(str(place)), "file").write_text(text)
        staged_folder.replace(str(place))


def killed(act: Callable[[], None]) -> None:
    """Runs a function in a process that ends at `os._exit`, as a killed one does: nothing is tidied up."""
    child = os.fork()
    if not child:
        try:
            act()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def dies_at(step: int) -> Callable[..., None]:
    """Makes the process end before its rename number `step`, counted from 0."""
    original = os.rename
    done: list[str] = []

    def rename(source: str, target: str) -> None:
        if len(done) == step:
            os._exit(9)
        done.append(source)
        original(source, target)

    return rename


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("read_first", [True, False])
def test_a_kill_before_either_rename_keeps_the_old_content(
    tmp_path: Path, step: int, read_first: bool
) -> None:
    place = tmp_path / "data"
    write(place, "old")

    def replaced() -> None:
        os.rename = dies_at(step)
        write(place, "new")

    killed(replaced)
    assert place.exists() is (step == 0)
    if read_first:
        staged_folder.recover(str(place))
        assert (place / "file").read_text() == "old"
    write(place, "newer")
    assert (place / "file").read_text() == "newer"
    assert os.listdir(tmp_path) == ["data"]


def test_a_kill_behind_the_renames_leaves_the_new_content(tmp_path: Path) -> None:
    place = tmp_path / "data"
    write(place, "old")

    def replaced() -> None:
        storage.sync_folder = lambda folder: os._exit(9)
        storage.sync_tree = lambda folder: None
        write(place, "new")

    killed(replaced)
    staged_folder.recover(str(place))
    assert (place / "file").read_text() == "new"
    write(place, "newer")
    assert os.listdir(tmp_path) == ["data"]


def test_what_a_kill_left_half_deleted_does_not_come_back(tmp_path: Path) -> None:
    place = tmp_path / "data"
    write(place, "old")
    rmtree = shutil.rmtree

    def replaced() -> None:
        def removes_half(path: str, ignore_errors: bool) -> None:
            if os.path.isfile(os.path.join(path, "file")):
                os.remove(os.path.join(path, "file"))
                os._exit(9)
            rmtree(path, ignore_errors)

        shutil.rmtree = removes_half  # type: ignore[assignment]
        write(place, "new")

    killed(replaced)
    assert (place / "file").read_text() == "new"
    rmtree(place)
    staged_folder.recover(str(place))
    assert not place.exists()
    write(place, "newer")
    assert os.listdir(tmp_path) == ["data"]


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    place = tmp_path / "new" / "data"
    with staged_folder.alone(str(place)):
        with (
            pytest.raises(
                UserError, match=rf"{place}: process {os.getpid()} on .* is writing it\. Wait until"
            ),
            staged_folder.alone(str(place)),
        ):
            pass
        with staged_folder.alone(str(tmp_path / "other")):
            pass
    with staged_folder.alone(str(place)):
        pass
    # Nothing was written: neither the lock nor the created parent stays.
    assert os.listdir(tmp_path) == []


def test_a_killed_writer_holds_nothing(tmp_path: Path) -> None:
    place = tmp_path / "data"

    def dies_within() -> None:
        with staged_folder.alone(str(place)):
            os.mkdir(staged_folder.staged(str(place)))
            os._exit(9)

    killed(dies_within)
    assert sorted(os.listdir(tmp_path)) == [".data.lock", ".data.partial"]
    write(place, "whole")
    assert os.listdir(tmp_path) == ["data"]


def test_a_failed_replacement_restores_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "data"
    write(place, "old")
    rename = os.rename

    def full(source: str, target: str) -> None:
        if target == str(place) and source == staged_folder.staged(str(place)):
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "rename", full)
        write(place, "new")
    assert (place / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["data"]


def test_content_that_a_reader_may_not_restore_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".data.partial.old").mkdir()

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(staged_folder.process_lock, "_take", refuse)
    with pytest.raises(
        UserError, match=rf"{tmp_path}/data: .* was killed, and {tmp_path}/\.data\.partial\.old"
    ):
        staged_folder.recover(str(tmp_path / "data"))


def test_a_reader_waits_for_a_replacement_that_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Makes the second rename happen while the reader sleeps; without it the reader says who writes."""
    place = tmp_path / "data"
    (tmp_path / ".data.partial.old").mkdir()
    monkeypatch.setattr(staged_folder.time, "sleep", lambda seconds: place.mkdir(exist_ok=True))
    with staged_folder._locked(str(place)):
        staged_folder.recover(str(place))
        place.rmdir()
        monkeypatch.setattr(staged_folder.time, "sleep", lambda seconds: None)
        monkeypatch.setattr(staged_folder, "_WAIT_SECONDS", 0.01)
        with pytest.raises(UserError, match="is writing it"):
            staged_folder.recover(str(place))


def test_content_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records the calls that a crash of the machine depends on, in their order."""
    calls: list[str] = []
    fsync, rename, place = os.fsync, os.rename, tmp_path / "data"

    def synced(descriptor: int) -> None:
        calls.append("sync " + os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def renamed(source: str, target: str) -> None:
        calls.append(f"rename {source}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    write(place, "new")
    new = staged_folder.staged(str(place))
    assert calls == [f"sync {new}/file", f"sync {new}", f"rename {new}", f"sync {tmp_path}"]
