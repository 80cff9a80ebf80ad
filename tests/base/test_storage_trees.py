from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from two_tower.base import storage


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
