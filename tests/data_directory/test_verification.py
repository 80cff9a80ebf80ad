"""Verification of data directories that were edited or written by hand."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import uuid
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data_directories import (
    CATALOG,
    PROPERTIES,
    events,
    items,
    listens,
    write,
    write_span,
)
from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory import table_writer
from two_tower.data_directory.manifest import (
    Manifest,
    event_files,
    sizes_of_files,
)
from two_tower.data_directory.staging import describe_file
from two_tower.data_directory.verification import verify
from two_tower.data_directory.writer import DataDirectoryWriter


def test_edits_after_ingest_are_named(tmp_path: pathlib.Path) -> None:
    data = tmp_path / "data"
    part = data / "events" / "part-00000.parquet"

    def complaint() -> str:
        with pytest.raises(UserError) as error:
            verify(str(data))
        write(data)
        return str(error.value)

    write(data)
    pq.write_table(events(timestamp=[100, 200, 200, 51]), part)
    assert str(part) in complaint()
    part.write_bytes(part.read_bytes()[:-100])
    assert str(part) in complaint()
    part.unlink()
    assert "missing" in complaint()
    pq.write_table(events(), data / "events" / "part-00001.parquet")
    assert "part-00001.parquet" in complaint()
    manifest = json.loads((data / "manifest.json").read_text())
    (data / "manifest.json").write_text(json.dumps(manifest | {"label_event": "like"}))
    assert "digest" in complaint()
    (data / "manifest.json").write_text(json.dumps(manifest | {"counts": None}))
    assert "'counts'" in complaint()
    del manifest["dataset"]
    (data / "manifest.json").write_text(json.dumps(manifest))
    assert "'dataset'" in complaint()
    (data / "manifest.json").write_text("{")
    assert "JSON" in complaint()
    (data / "manifest.json").unlink()
    with pytest.raises(UserError, match="two-tower ingest"):
        verify(str(data))


def by_hand(data: pathlib.Path, table: str, content: pa.Table, **facts: Any) -> None:
    """Replaces a table by other rows and writes the matching manifest."""
    with DataDirectoryWriter(str(data), PROPERTIES) as writer:
        writer.write("events", events())
        writer.write("items", items())
        writer.write("users", pa.table({"user_id": [1, 2], "age": [30, 40]}))
    old = writer.manifest
    pq.write_table(content, data / table / "part-00000.parquet")
    files = tuple(describe_file(str(data), file.path) for file in old.files)
    columns = old.columns | {table: {field.name: str(field.type) for field in content.schema}}
    dataclasses.replace(old, **{"files": files, "columns": columns} | facts).save(str(data))


@pytest.mark.parametrize(
    ("table", "content", "complaint"),
    [
        ("events", events().drop(["item_id"]), "column 'item_id' is missing"),
        ("events", events(item_id=pa.array([1, 2, 3, 4], pa.int32())), "'item_id' is of type int32.* int64"),
        ("events", events(user_id=[1, None, 1, 2]), "column 'user_id', row 1: null"),
        ("events", events(item_id=[10, 11, -1, 11]), "column 'item_id', row 2: -1"),
        ("events", events(timestamp=[100, 200, 200, -5]), "column 'timestamp', row 3: -5"),
        (
            "events",
            events(timestamp=[1_600_000_000_000] * 4),
            r"row 0: 1600000000000 .*milliseconds.* 1,000\.",
        ),
        ("events", events().slice(1), "'counts.events' is 4 and the files have 3 rows"),
        ("events", events(order=[0, 1, -2, 0]).drop(["timestamp"]), "'order', row 2: -2 is no rank"),
        ("events", events(order=[0, 1, 2, 0]).drop(["timestamp"]), "'has_timestamps' is True"),
        ("events", events(split=["train", "eval", "dev", "test"]), "'split', row 2: 'dev' is none of train"),
        ("events", events(split=["train"] * 4), "'has_splits' is False and the files have True"),
        ("users", pa.table({"user_id": [1, 1], "age": [1, 2]}), "column 'user_id': 1 has more than one row"),
        ("users", pa.table({"user_id": [1, -1], "age": [1, 2]}), "column 'user_id', row 1: -1"),
        ("users", pa.table({"user_id": [1, None], "age": [1, 2]}), "column 'user_id', row 1: null"),
        ("users", pa.table({"age": [1, 2]}), "column 'user_id' is missing"),
        (
            "users",
            pa.table({"user_id": [1], "age": [1]}),
            "'counts.user_rows' is 2 and the files have 1 rows",
        ),
        ("items", items(available=[1, 0]), "'available' is of type int64, where bool"),
        ("items", items(item_id=[10, 10]), "'item_id': 10 has more than one row"),
        ("items", items().drop(["embedding"]), "column 'embedding' is missing"),
        ("items", items(embedding=pa.array([[1], [2]], pa.list_(pa.float32(), 1))), r"embedding.*\[1\]"),
        (
            "items",
            items(embedding=pa.array([[1, 0], [0, float("nan")]], pa.list_(pa.float32(), 2))),
            "'embedding', row 1: nan",
        ),
    ],
)
def test_tables_written_by_hand_are_checked(
    tmp_path: pathlib.Path, table: str, content: pa.Table, complaint: str
) -> None:
    by_hand(tmp_path / "data", table, content)
    with pytest.raises(UserError, match=complaint) as error:
        verify(str(tmp_path / "data"))
    assert str(tmp_path / "data") in str(error.value)


def test_the_manifest_knows_the_columns(tmp_path: pathlib.Path) -> None:
    users = pa.table({"user_id": [1, 2], "age": ["30", "40"]})
    by_hand(tmp_path / "data", "users", users, columns=write(tmp_path / "other").columns)
    with pytest.raises(UserError, match=r"'columns\.users\.user_id' is missing"):
        verify(str(tmp_path / "data"))


def test_a_column_of_two_types_is_named_with_both_files(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(table_writer.GROUP_ROWS, "events", 2)
    monkeypatch.setitem(table_writer.FILE_ROWS, "events", 2)
    data = tmp_path / "data"
    old = write(data, [events(mood=[1, 2, 3, 4])])
    part = data / "events" / "part-00001.parquet"
    pq.write_table(events(mood=["a", "b", "c", "d"]).slice(2), part)
    files = tuple(describe_file(str(data), file.path) for file in old.files)
    dataclasses.replace(old, files=files).save(str(data))
    with pytest.raises(UserError) as error:
        verify(str(data))
    assert str(error.value) == (
        f"{part}: column 'mood' is string, and in {data}/events/part-00000.parquet it is int64. "
        "Run `two-tower ingest` again."
    )


def test_spans_edited_by_hand_are_named(tmp_path: pathlib.Path) -> None:
    data = str(tmp_path / "data")
    write_span(data, listens(3, 1), 3, CATALOG)
    write_span(data, listens(4, 1), 4)
    manifest = Manifest.load(data)
    os.rename(f"{data}/events/span-4", f"{data}/events/span-5")
    with pytest.raises(
        UserError, match=r"span-4/part-00000\.parquet: the manifest lists it and it is missing"
    ):
        verify(data)
    paths = list(sizes_of_files(data))
    files = tuple(describe_file(data, path) for path in paths)
    dataclasses.replace(manifest, files=files).save(data)
    with pytest.raises(UserError, match=r"'spans' does not match events/: \[3, 4\] and \[3, 5\]"):
        verify(data)
    os.remove(f"{data}/events/span-3/part-00000.parquet")
    with pytest.raises(UserError, match=r"span-3/part-00000\.parquet.*(missing|no such file)"):
        write_span(data, listens(6, 1), 6)


def test_edits_of_a_remote_directory_are_named() -> None:
    out = f"memory://{uuid.uuid4().hex}/data"
    write_span(out, listens(3, 1), None, CATALOG)
    with storage.open_file(f"{out}/events/part-00001.parquet", "wb") as file:
        file.write(b"more")
    with pytest.raises(UserError, match=r"part-00001\.parquet: not in the manifest"):
        verify(out)
    storage.remove_file(f"{out}/events/part-00001.parquet")
    (path,) = event_files(out)
    with storage.open_file(path, "rb") as file:
        whole = file.read()
    with storage.open_file(path, "wb") as file:
        file.write(whole[:-1] + b"x")
    with pytest.raises(UserError, match="its content differs from the manifest"):
        verify(out)
