from __future__ import annotations

import os
import pathlib
import uuid

import pytest

from two_tower.base import storage
from two_tower.base.errors import UserError


@pytest.fixture(params=["local", "file", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """Empty folder in each kind of storage."""
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/data"
    return str(tmp_path / "data") if request.param == "local" else f"file://{tmp_path}/data"


def test_what_is_written_is_found_and_read(folder: str) -> None:
    paths = ("b/2.bin", "a.txt", "b/c/1.bin")
    for path in paths:
        full = storage.join(folder, *path.split("/"))
        storage.make_directories(full.rpartition("/")[0])
        with storage.open_file(full, "wb") as file:
            file.write(path.encode() * 3)
    assert storage.list_files(folder) == sorted(paths)
    assert storage.list_files(storage.join(folder, "b")) == ["2.bin", "c/1.bin"]
    assert storage.list_sizes(folder) == {path: 3 * len(path) for path in paths}
    assert storage.size(storage.join(folder, "a.txt")) == 15
    with storage.open_file(storage.join(folder, "b", "c", "1.bin")) as file:
        assert file.read() == b"b/c/1.bin" * 3
    assert storage.is_file(storage.join(folder, "a.txt"))
    assert not storage.is_directory(storage.join(folder, "a.txt"))
    assert storage.is_directory(storage.join(folder, "b"))
    assert not storage.is_file(storage.join(folder, "b"))
    assert storage.exists(storage.join(folder, "b"))
    storage.remove_file(storage.join(folder, "a.txt"))
    storage.remove_file(storage.join(folder, "a.txt"))
    assert storage.list_files(folder) == ["b/2.bin", "b/c/1.bin"]


def test_text_is_utf_8_unless_told(folder: str) -> None:
    storage.make_directories(folder)
    path = storage.join(folder, "title.txt")
    with storage.open_file(path, "w") as file:
        file.write("Amélie\n")
    with storage.open_file(path, "rb") as file:
        assert file.read() == "Amélie\n".encode()
    with storage.open_file(path, "r", encoding="latin-1") as file:
        assert file.read() == "AmÃ©lie\n"


def test_what_is_not_there_is_said_as_on_a_disk(folder: str) -> None:
    missing = storage.join(folder, "none")
    assert not storage.exists(missing)
    assert not storage.is_file(missing)
    assert not storage.is_directory(missing)
    assert storage.list_files(missing) == []
    for reading in (storage.open_file, storage.size):
        with pytest.raises(FileNotFoundError, match="none"):
            reading(missing)


def test_an_upload_is_the_file(folder: str, tmp_path: pathlib.Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"\x00\xff" * 1000)
    target = storage.join(folder, "deep", "copy")
    storage.upload(str(source), target)
    with storage.open_file(target) as file:
        assert file.read() == source.read_bytes()


def test_local_paths_become_absolute_and_urls_stay(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("data") == str(tmp_path / "data")
    assert storage.absolute("file:///srv/data") == "/srv/data"
    assert storage.absolute("gs://bucket/data/") == "gs://bucket/data"
    assert storage.join("gs://bucket/data/", "events", "part") == "gs://bucket/data/events/part"
    assert storage.join("data", "events") == os.path.join("data", "events")
    assert storage.is_local("data/x") and storage.is_local("file:///data")
    assert not storage.is_local("gs://bucket")


def test_a_scheme_nobody_knows_is_wrong_input() -> None:
    with pytest.raises(UserError, match="hal9000://pod"):
        storage.exists("hal9000://pod")


def test_a_clients_own_errors_become_os_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

    def refuse(*_: object, **__: object) -> bool:
        raise RuntimeError("401 anonymous caller")

    with storage.open_file("memory://secret", "w") as file:
        file.write("x")
    reading, writing = storage.open_file("memory://secret"), storage.open_file("memory://secret", "wb")
    writing.write(b"y")
    monkeypatch.setattr(MemoryFileSystem, "exists", refuse)
    for method in ("read", "write"):
        monkeypatch.setattr(MemoryFile, method, refuse)
    # Failures during reading and on closing are converted too.
    for attempt in (lambda: storage.exists("memory://secret"), reading.read, writing.close):
        with pytest.raises(OSError, match=r"memory://secret: .*401 anonymous caller"):
            attempt()


def test_a_remote_file_is_read_like_a_local_one(folder: str) -> None:
    content = bytes(range(256)) * 10_000
    storage.make_directories(folder)
    path = storage.join(folder, "numbers")
    with storage.open_file(path, "wb") as file:
        for start in range(0, len(content), 700_000):
            file.write(content[start : start + 700_000])
    with storage.open_file(path) as file:
        assert file.read(3) == content[:3]
        assert file.seek(1_000_001) == 1_000_001
        assert file.read(1_500_000) == content[1_000_001:2_500_001]
        assert file.tell() == 2_500_001
        file.seek(-5, os.SEEK_END)
        assert file.read() == content[-5:]
        assert file.read(1) == b""
        file.seek(0)
        assert b"".join(file) == content
