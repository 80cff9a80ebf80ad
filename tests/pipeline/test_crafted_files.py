"""Property of the commands: a Parquet file with a pickled type is refused by name, and no code runs."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import data_directories
from tests.crafted_files import write_crafted_parquet
from two_tower.base.errors import UserError
from two_tower.data_directory import description
from two_tower.data_directory.manifest import Manifest, digest_of_file
from two_tower.data_directory.verification import verify, verify_items
from two_tower.ingestion import FORMATS
from two_tower.pipeline.commands import exit_status
from two_tower.pipeline.commands.main import main
from two_tower.serving import query

LOG = {"uid": [1, 1], "item_id": [10, 11], "timestamp": [100, 200]}
MAP = """
dataset: mine
label_event: listen
repeats_recommendable: true
events: {files: events.parquet, user_id: uid, item_id: item_id, timestamp: timestamp}
"""


@pytest.fixture
def mark(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "mark"


def crafted_directory(out: pathlib.Path, table: str, mark: pathlib.Path) -> pathlib.Path:
    """Writes a data directory in which a file of a table is crafted, and the manifest agrees with it."""
    data_directories.write(out)
    (path,) = (out / table).glob("*.parquet")
    write_crafted_parquet(pq.read_table(path), "item_id", mark, path)
    manifest = Manifest.load(str(out))
    files = tuple(
        dataclasses.replace(
            file,
            bytes=(out / file.path).stat().st_size,
            digest=digest_of_file(str(out / file.path)),
        )
        for file in manifest.files
    )
    dataclasses.replace(manifest, files=files).save(str(out))
    return path


def ingest_table(source: pathlib.Path) -> Manifest:
    (source / "columns.yaml").write_text(MAP)
    return FORMATS["table"](str(source), str(source / "out"))


def ingest_yambda(source: pathlib.Path) -> Manifest:
    shutil.move(source / "events.parquet", source / "multi_event.parquet")
    return FORMATS["yambda"](str(source), str(source / "out"))


@pytest.mark.parametrize("ingest", [ingest_table, ingest_yambda])
def test_no_ingest_runs_code_of_a_file(
    ingest: Callable[[pathlib.Path], Any], tmp_path: pathlib.Path, mark: pathlib.Path
) -> None:
    write_crafted_parquet(pa.table(LOG), "timestamp", mark, tmp_path / "events.parquet")
    with pytest.raises(UserError, match=r"event.*\.parquet: a column's type is a pickled Python object"):
        ingest(tmp_path)
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("side", ["embeddings", "names", "artist_item_mapping", "album_item_mapping"])
def test_no_side_file_runs_code(side: str, tmp_path: pathlib.Path, mark: pathlib.Path) -> None:
    table = pa.table(LOG | {"event_type": ["listen"] * 2})
    pq.write_table(table, tmp_path / "multi_event.parquet")
    write_crafted_parquet(pa.table({"item_id": [10]}), "item_id", mark, tmp_path / f"{side}.parquet")
    with pytest.raises(UserError, match=rf"{side}\.parquet: a column's type is a pickled Python object"):
        FORMATS["yambda"](str(tmp_path), str(tmp_path / "out"))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("table", "read"),
    [
        ("events", lambda data: description.describe(data)),
        ("items", lambda data: description.describe(data)),
        ("events", verify),
        ("items", verify),
        ("items", verify_items),
        ("events", lambda data: query._events_of(data, 1, {"label_event": "listen", "history_length": 9})),
        ("items", lambda data: query._titles(data, {10})),
    ],
)
def test_no_reader_of_a_data_directory_runs_code(
    table: str, read: Callable[[str], Any], tmp_path: pathlib.Path, mark: pathlib.Path
) -> None:
    path = crafted_directory(tmp_path / "data", table, mark)
    with pytest.raises(UserError, match=f"{path}: a column's type is a pickled Python object"):
        read(str(tmp_path / "data"))
    assert not mark.exists()


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"\x80\x04"], ids=["empty", "no pickle", "half a pickle"]
)
def test_a_crafted_type_that_is_no_pickle_is_refused_too(content: bytes, tmp_path: pathlib.Path) -> None:
    field = pa.field(
        "item_id",
        pa.int64(),
        metadata={"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": content},
    )
    path = tmp_path / "multi_event.parquet"
    pq.write_table(pa.table([pa.array([1])], schema=pa.schema([field])), path)
    with pytest.raises(UserError, match=f"{path}: "):
        FORMATS["yambda"](str(tmp_path), str(tmp_path / "out"))


def test_a_command_refuses_the_file_in_a_sentence(
    tmp_path: pathlib.Path, mark: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = crafted_directory(tmp_path / "data", "events", mark)
    assert main(["ingest", "--describe", str(tmp_path / "data")]) == exit_status.USER_ERROR
    assert capsys.readouterr().err == (
        f"two-tower: {path}: a column's type is a pickled Python object ('arrow.py_extension_type'), which "
        "runs code when it is read. Nothing was run. Write the column in a plain type, or discard the file.\n"
    )
    assert not mark.exists()
