from __future__ import annotations

import errno
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from two_tower.base import storage
from two_tower.base.errors import UserError


@pytest.fixture(params=["local", "remote"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def write(path: str, text: str) -> None:
    if storage.is_local(path):
        storage.make_directories(str(Path(path).parent))
    with storage.open_file(path, "w") as file:
        file.write(text)


def test_names_are_those_right_below_a_folder(root: str) -> None:
    write(storage.join(root, "pushed", "2", "saved_model.pb"), "b")
    write(storage.join(root, "pushed", "1", "variables", "data"), "a")
    write(storage.join(root, "pushed", "notes.txt"), "")
    assert storage.list_names(storage.join(root, "pushed")) == ["1", "2", "notes.txt"]
    assert storage.list_names(storage.join(root, "absent")) == []


def test_a_renamed_folder_has_all_its_files_and_the_old_one_is_gone(root: str) -> None:
    write(storage.join(root, ".incoming-1", "variables", "data"), "a")
    write(storage.join(root, ".incoming-1", "saved_model.pb"), "b")
    storage.rename(storage.join(root, ".incoming-1"), storage.join(root, "1"))
    assert storage.list_files(storage.join(root, "1")) == ["saved_model.pb", "variables/data"]
    assert not storage.exists(storage.join(root, ".incoming-1"))


def test_a_whole_file_that_cannot_be_written_leaves_the_old_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    storage.write_whole(str(path), "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        storage.write_whole(str(path), "new")
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["file"])


def test_a_whole_file_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        calls.append("sync " + os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")).split(".")[0])
        fsync(descriptor)

    def replaced(source: str, target: str) -> None:
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    storage.write_whole(str(tmp_path / "pointer"), "new")
    assert calls == ["sync pointer", "rename", f"sync {tmp_path.name}"]


def test_threads_that_write_one_whole_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "pointer"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: storage.write_whole(str(path), f"{number}" * 1_000), range(40)))
    assert len(set(path.read_text())) <= 2
    assert os.listdir(tmp_path) == ["pointer"]


def test_a_link_to_nothing_and_an_unreadable_folder_are_no_empty_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=f"{tmp_path}/link: a link to {tmp_path}/gone, which does not exist"):
        storage.list_files(str(tmp_path))
    (tmp_path / "link").unlink()

    def refuse(folder: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=f"{tmp_path}: the folder cannot be read .Permission denied"):
        storage.list_sizes(str(tmp_path))


def test_a_copy_has_the_bytes_of_its_source(root: str) -> None:
    write(storage.join(root, "a"), "text")
    storage.copy_file(storage.join(root, "a"), storage.join(root, "b"))
    with storage.open_file(storage.join(root, "b")) as file:
        assert file.read() == b"text"


def test_a_removed_tree_is_gone_and_an_absent_one_is_no_error(root: str) -> None:
    write(storage.join(root, "tree", "deep", "file"), "a")
    write(storage.join(root, "beside"), "b")
    storage.remove_tree(storage.join(root, "tree"))
    storage.remove_tree(storage.join(root, "tree"))
    assert not storage.exists(storage.join(root, "tree"))
    assert storage.exists(storage.join(root, "beside"))
