"""Properties of `ingest` and `simulate` without room: one sentence, and nothing half-written stays."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import re
import resource
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from two_tower.base import staged_folder, storage
from two_tower.data_directory.verification import verify
from two_tower.ingestion import external_sort
from two_tower.pipeline.commands import exit_status
from two_tower.pipeline.commands.main import main

SIMULATE = ("--users", "5", "--days", "3", "--tracks", "600")


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Makes the system refuse longer files, as a full disk refuses bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def source(folder: pathlib.Path, is_sorted: bool = True) -> str:
    """Writes 20,000 events that do not compress well."""
    draw = np.random.default_rng(3)
    user, item, time = (draw.integers(0, 10**9, 20_000) for _ in range(3))
    order = np.lexsort((time, user)) if is_sorted else np.arange(len(user))
    columns = {"uid": user[order], "item_id": item[order], "timestamp": time[order]}
    folder.mkdir()
    pq.write_table(pa.table(columns | {"event_type": ["listen"] * len(user)}), folder / "multi_event.parquet")
    return str(folder)


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """Returns what a command said on standard error, and checks that it is a single line."""
    said = capsys.readouterr().err
    assert said.startswith("two-tower: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("size", [0, 1, 1_000, 100_000, 300_000])
def test_an_ingest_that_finds_no_room_keeps_the_old_data(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    out = tmp_path / "data"
    command = ["ingest", "yambda", source(tmp_path / "source"), str(out)]
    with largest_file(size):
        assert main(command) == exit_status.USER_ERROR
    assert f"{out}: cannot be written: a file would be larger than the system allows" in sentence(capsys)
    assert os.listdir(tmp_path) == ["source"]
    assert main(command) == 0
    before = verify(str(out))
    capsys.readouterr()
    with largest_file(size):
        assert main([*command, "--name", "other"]) == exit_status.USER_ERROR
    assert "cannot be written" in sentence(capsys)
    assert verify(str(out)) == before
    assert sorted(os.listdir(tmp_path)) == ["data", "source"]


def test_temporary_files_that_find_no_room_are_named(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_sort, "_PARTITION_ROWS", 5_000)
    command = ["ingest", "yambda", source(tmp_path / "source", is_sorted=False), str(tmp_path / "data")]
    with largest_file(10_000):
        assert main(command) == exit_status.USER_ERROR
    said = sentence(capsys)
    assert "/two-tower-" in said
    assert "Set TMPDIR to a folder" in said
    assert os.listdir(tmp_path) == ["source"]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert main(command) == exit_status.USER_ERROR
    assert "There is no place for temporary files" in sentence(capsys)


@pytest.mark.parametrize("size", [1, 5_000])
def test_a_simulation_that_finds_no_room_leaves_nothing(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    out = tmp_path / "music"
    with largest_file(size):
        assert main(["simulate", str(out), *SIMULATE]) == exit_status.USER_ERROR
    assert f"{out}: cannot be written: a file would be larger" in sentence(capsys)
    assert os.listdir(tmp_path) == []


def test_what_is_being_written_is_refused_to_a_second_command(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(tmp_path / "data")
    commands = [
        ["ingest", "yambda", source(tmp_path / "source"), place],
        ["ingest", "yambda", str(tmp_path / "source"), place, "--span", "3"],
        ["simulate", place, *SIMULATE],
    ]
    with staged_folder.alone(place):
        for command in commands:
            assert main(command) == exit_status.USER_ERROR
            said = sentence(capsys)
            assert f"{place}: process {os.getpid()} on " in said
            assert "Wait until that has ended, or name another place." in said
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (
            errno.ENOSPC,
            r"the disk is full, with \d+ [a-zA-Z]+ free\. Free space there, or name another place\.",
        ),
        (errno.EDQUOT, r"your share of the disk is used up, with .* free\. Free space there, or name"),
        (errno.EFBIG, r"larger than the system allows \(see `ulimit -f`\)\. Name another place\."),
        (errno.EROFS, r"the disk can only be read\. Name another place\."),
        (errno.EACCES, r"this user may not write there\. Name another place\."),
        (errno.EPERM, r"this user may not write there\. Name another place\."),
        (errno.EIO, r"\[Errno 5\] Input/output error\. Name another place\."),
    ],
)
def test_the_cause_is_said_in_words(tmp_path: pathlib.Path, number: int, message: str) -> None:
    error = storage.cannot_write(str(tmp_path / "not" / "there"), OSError(number, os.strerror(number)))
    assert re.search(message, str(error))
