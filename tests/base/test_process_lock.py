from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from two_tower.base import process_lock
from two_tower.base.errors import UserError


def test_a_second_process_is_told_who_holds_the_lock_and_what_to_do(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    assert process_lock.holder(str(lock)) == ""
    with process_lock.held(str(lock), "runs/mine", "Wait for it.") as is_locked:
        assert is_locked
        ours = process_lock.holder(str(lock))
        assert ours.startswith(f"process {os.getpid()} on ")
        with (
            pytest.raises(UserError) as refused,
            process_lock.held(str(lock), "runs/mine", "Wait for it."),
        ):
            pass
        assert str(refused.value) == f"runs/mine: {ours} is writing it. Wait for it."
        assert process_lock.holder(str(lock)) == ours
    assert os.listdir(tmp_path) == []


def test_a_lock_does_not_outlive_its_process(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    child = os.fork()
    if child == 0:
        with process_lock.held(str(lock), "runs/mine", "Wait for it."):
            os._exit(9)
    os.waitpid(child, 0)
    assert lock.read_text().startswith(f"process {child} on ")
    assert process_lock.holder(str(lock)) == ""
    with process_lock.held(str(lock), "runs/mine", "Wait for it."):
        assert process_lock.holder(str(lock)).startswith(f"process {os.getpid()} on ")


def test_a_file_system_without_locks_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with process_lock.held(str(tmp_path / ".lock"), "runs/mine", "Wait for it.") as is_locked:
        assert not is_locked


def test_a_link_in_the_lock_s_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / ".lock").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match=r"\.lock"), process_lock.held(str(tmp_path / ".lock"), "p", "Wait."):
        pass
    assert (tmp_path / "file").read_text() == "kept"


def test_who_looks_for_the_holder_keeps_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.touch()
    looking = os.open(path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.05, os.close, [looking]).start()
    with process_lock.held(str(path), str(tmp_path), "Wait.") as is_locked:
        assert is_locked
