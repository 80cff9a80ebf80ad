"""Replacement of local and remote data directories: readers see the old content or the new one."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import uuid
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.data_directories import (
    CATALOG,
    PROPERTIES,
    content,
    events,
    listens,
    rows,
    write,
    write_span,
)
from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory import description
from two_tower.data_directory.manifest import (
    Manifest,
    event_files,
)
from two_tower.data_directory.verification import verify
from two_tower.data_directory.writer import DataDirectoryWriter


def test_failure_leaves_nothing_and_keeps_what_was_there(tmp_path: pathlib.Path) -> None:
    before = write(tmp_path / "data")
    for out in (tmp_path / "data", tmp_path / "new" / "data"):
        with pytest.raises(KeyboardInterrupt), DataDirectoryWriter(str(out), PROPERTIES) as writer:
            writer.write("events", events())
            raise KeyboardInterrupt
    with pytest.raises(UserError, match="no event of type 'listen'"):
        write(tmp_path / "data", [events(event_type=["like"] * 4)])
    assert os.listdir(tmp_path) == ["data"]
    assert verify(str(tmp_path / "data")) == before


def test_an_existing_data_directory_is_replaced(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "data", [events()] * 2)
    assert write(tmp_path / "data").digest == verify(str(tmp_path / "data")).digest
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.parametrize("foreign", ["thesis.txt", "data/thesis.txt"])
def test_what_is_no_data_directory_is_never_replaced(tmp_path: pathlib.Path, foreign: str) -> None:
    if foreign.startswith("data/"):
        write(tmp_path / "data")
    path = tmp_path / foreign
    path.write_text("years of work")
    out = path.parent
    with pytest.raises(UserError, match=r"thesis\.txt"):
        write(out)
    with pytest.raises(UserError, match="is a file"):
        write(path)
    assert path.read_text() == "years of work"


def test_a_place_that_cannot_be_written_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/data: cannot be written"):
        write(tmp_path / "file" / "data")


def test_a_process_killed_at_any_moment_leaves_a_directory_that_can_be_replaced(
    tmp_path: pathlib.Path,
) -> None:
    """Kills the writer while it writes, and leaves the state between its two renames: the old one stays."""
    data, partial = tmp_path / "data", tmp_path / ".data.partial"
    before = write(data)
    program = """
import os, signal, sys
import pyarrow as pa
from two_tower.data_directory.manifest import DatasetProperties
from two_tower.data_directory.writer import DataDirectoryWriter
with DataDirectoryWriter(sys.argv[1], DatasetProperties("new", "listen", True)) as writer:
    writer.write("events", pa.table({"user_id": [1], "item_id": [1], "timestamp": [1]}))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program, str(data)]).returncode == -signal.SIGKILL
    assert verify(str(data)) == before
    assert partial.exists()
    data.rename(tmp_path / ".data.partial.old")
    with pytest.raises(KeyboardInterrupt), DataDirectoryWriter(str(data), PROPERTIES):
        raise KeyboardInterrupt
    assert verify(str(data)) == before
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.parametrize(
    "read",
    [verify, Manifest.load, event_files, lambda data: description.describe(data).manifest],
    ids=["verify", "load", "event_files", "describe"],
)
def test_every_reader_restores_a_directory_that_was_killed_between_its_renames(
    tmp_path: pathlib.Path, read: Any
) -> None:
    data = tmp_path / "data"
    before = write(data)
    read_before = read(str(data))
    write(tmp_path / ".data.partial")
    data.rename(tmp_path / ".data.partial.old")
    assert read(f"{data}/") == read_before
    assert verify(str(data)) == before
    # The next ingest removes what the killed one had staged.
    write(data)
    assert os.listdir(tmp_path) == ["data"]


def test_other_spans_stay_byte_for_byte(tmp_path: pathlib.Path) -> None:
    data = str(tmp_path / "data")
    write_span(data, listens(3, 1, 2), 3, CATALOG)
    (path,) = event_files(data)
    before = os.stat(path)
    write_span(data, listens(4, 1), 4)
    after = os.stat(event_files(data)[0])
    # The new directory links the same file instead of a copy.
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert os.listdir(tmp_path) == ["data"]


def test_the_same_rows_have_one_digest_wherever_they_lie(tmp_path: pathlib.Path) -> None:
    remote, local = f"memory://{uuid.uuid4().hex}", str(tmp_path / "data")
    for out in (remote, local):
        write_span(out, listens(3, 1, 2), 3, CATALOG)
        write_span(out, listens(4, 1, 2), 4)
    assert Manifest.load(remote).digest == Manifest.load(local).digest
    assert rows(event_files(remote)) == rows(event_files(local))


class Killed(BaseException):
    """Exception that no code expects."""


def test_a_remote_directory_holds_one_whole_content_at_every_moment(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills the replacement after each single step: readers find the old directory or the new one."""
    reached, complete = 0, False
    while not complete:
        out = f"memory://{uuid.uuid4().hex}/data"
        old = write_span(out, listens(3, 1, 2), None, CATALOG)
        new_rows = (listens(3, 1, 2, 3), None, CATALOG)
        steps = 0

        def step(original: Any, stop_after: int) -> Any:
            def counted(*arguments: Any, **options: Any) -> Any:
                nonlocal steps
                done = original(*arguments, **options)
                steps += 1
                if steps > stop_after:
                    raise Killed
                return done

            return counted

        with monkeypatch.context() as patch:
            patch.setattr(storage, "upload", step(storage.upload, reached))
            patch.setattr(storage, "remove_file", step(storage.remove_file, reached))
            try:
                write_span(out, *new_rows)
                complete = True
            except Killed:
                pass
        found = verify(out)
        assert found.counts["events"] in (2, 3)
        assert len(rows(event_files(out))) == found.counts["events"]
        assert complete is False or found.counts["events"] == 3
        # The next ingest removes leftovers.
        again = write_span(out, *new_rows)
        assert verify(out) == again != old
        assert set(storage.list_files(out)) == {"manifest.json", *(file.path for file in again.files)}
        reached += 1
    assert reached > 2


def test_a_first_upload_that_was_killed_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    out = f"memory://{uuid.uuid4().hex}/data"

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Manifest, "save", killed)
        write_span(out, listens(3, 1), 3, CATALOG)
    assert storage.list_files(out)
    with pytest.raises(UserError, match="is not a data directory"):
        Manifest.load(out)
    manifest = write_span(out, listens(3, 1), 3, CATALOG)
    assert verify(out) == manifest


def test_an_upload_that_fails_is_taken_back_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    out = f"memory://{uuid.uuid4().hex}/data"
    before = write_span(out, listens(3, 1), 3, CATALOG)
    files = content(out)
    put = MemoryFileSystem.put_file

    def refuse(self: Any, local: str, path: str, **options: Any) -> None:
        if "/items/" in path:
            raise RuntimeError("403 quota")
        put(self, local, path, **options)

    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"cannot be written.*403 quota"):
        patch.setattr(MemoryFileSystem, "put_file", refuse)
        write_span(out, listens(4, 1), 4, {"item_id": [77], "title": ["Topaz"]})
    assert verify(out) == before
    assert content(out) == files


def test_a_remote_place_that_holds_something_else_is_left_alone() -> None:
    out = f"memory://{uuid.uuid4().hex}/data"
    with storage.open_file(f"{out}/thesis.txt", "w") as file:
        file.write("years of work")
    with pytest.raises(UserError, match=r"thesis\.txt"):
        write_span(out, listens(3, 1), None, CATALOG)
    with pytest.raises(UserError, match="is a file"):
        write_span(f"{out}/thesis.txt", listens(3, 1), None, CATALOG)
    assert content(out) == {"thesis.txt": b"years of work"}
