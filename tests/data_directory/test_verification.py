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
    digest_of_file,
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
        ("events", events().slice(1), "'counts.events' is 4 and the files have 3"),
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
            "'counts.user_rows' is 2 and the files have 1",
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


def edited(data: pathlib.Path, **changes: Any) -> None:
    """Writes a manifest with other values and a digest that agrees with them."""
    dataclasses.replace(Manifest.load(str(data)), **changes).save(str(data))


def test_the_rows_of_every_file_are_held_against_it(tmp_path: pathlib.Path) -> None:
    one, *others = write(tmp_path / "data").files
    edited(tmp_path / "data", files=(dataclasses.replace(one, rows=3), *others))
    with pytest.raises(UserError, match=r"'files' gives 3 rows to events/part-00000\.parquet, and it has 4"):
        verify(str(tmp_path / "data"))


WHOLE = {"events": 4, "label_events": 3, "users": 2, "items": 2, "user_rows": 0}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        *(
            (
                {"counts": WHOLE | {count: WHOLE[count] + 1}},
                f"'counts.{count}' is {WHOLE[count] + 1} and the files",
            )
            for count in WHOLE
        ),
        ({"time_range": (50, 201)}, r"'time_range' is \(50, 201\) and the files have \(50, 200\)"),
        ({"has_embedding": 0}, "'has_embedding' is 0 and the files have 2"),
        ({"label_event": "like"}, "'counts.label_events' is 3 and the files have 1"),
    ],
)
def test_every_count_of_the_manifest_is_held_against_the_files(
    tmp_path: pathlib.Path, changes: dict[str, Any], complaint: str
) -> None:
    assert write(tmp_path / "data").counts == WHOLE
    edited(tmp_path / "data", **changes)
    with pytest.raises(UserError, match=f"manifest.json: key {complaint}"):
        verify(str(tmp_path / "data"))


@pytest.mark.parametrize("key", ["events", "label_events", "first", "last"])
def test_every_count_of_a_span_is_held_against_its_files(tmp_path: pathlib.Path, key: str) -> None:
    data = str(tmp_path / "data")
    write_span(data, listens(3, 1, 2), 3, CATALOG)
    write_span(data, listens(4, 1), 4)
    verify(data)
    counts = Manifest.load(data).span_counts
    edited(tmp_path / "data", span_counts=counts | {"4": counts["4"] | {key: counts["4"][key] + 1}})
    with pytest.raises(
        UserError, match="key 'spans' does not match" if key == "events" else f"span_counts.4.{key}"
    ):
        verify(data)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        *(
            (
                {"counts": {name: n for name, n in WHOLE.items() if name != count}},
                f"'counts.{count}' is missing",
            )
            for count in WHOLE
        ),
        ({"counts": WHOLE | {"users": -1}}, "'counts.users' is missing or negative"),
        ({"columns": {"items": {"item_id": "int64"}}}, "'columns.events' is missing"),
        ({"spans": (3,), "span_counts": {"3": {"events": 4}}}, r"'span_counts\.3\.label_events' is missing"),
    ],
)
def test_a_manifest_that_lacks_a_count_is_named_by_every_reader(
    tmp_path: pathlib.Path, changes: dict[str, Any], complaint: str
) -> None:
    write(tmp_path / "data")
    edited(tmp_path / "data", **changes)
    for read in (verify, Manifest.load, event_files):
        with pytest.raises(UserError, match=complaint):
            read(str(tmp_path / "data"))


@pytest.mark.parametrize(
    "path", ["../secret.parquet", "events/../../x", "/etc/passwd", "manifest.json", "items/"]
)
def test_a_manifest_leads_to_no_file_outside_its_tables(tmp_path: pathlib.Path, path: str) -> None:
    manifest = write(tmp_path / "data")
    outside = dataclasses.replace(manifest.files[0], path=path)
    edited(tmp_path / "data", files=(*manifest.files, outside))
    with pytest.raises(UserError, match="which lies in no table"):
        event_files(str(tmp_path / "data"))
    edited_twice = dataclasses.replace(manifest, files=(*manifest.files, manifest.files[0]))
    edited_twice.save(str(tmp_path / "data"))
    with pytest.raises(UserError, match="twice"):
        event_files(str(tmp_path / "data"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "\ufeff{}",
        "{" * 5_000,
        "[" * 50_000,
        '{"format_version": ' + "9" * 5_000 + "}",
        "NaN",
        "\x00",
    ],
    ids=lambda text: text[:8],
)
def test_a_manifest_that_is_no_manifest_is_named(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json: "):
        verify(str(tmp_path))


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", '"\\ud800"', "[[[]]]", "9" * 5_000])
@pytest.mark.parametrize("key", ["counts", "time_range", "files", "has_embedding", "dataset"])
def test_a_manifest_with_a_strange_value_is_named(tmp_path: pathlib.Path, key: str, value: str) -> None:
    write(tmp_path / "data")
    path = tmp_path / "data" / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {key: "HERE"}).replace('"HERE"', value))
    with pytest.raises(UserError, match=r"manifest\.json: "):
        verify(str(tmp_path / "data"))


def test_places_that_are_no_files_are_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "folder" / "manifest.json").mkdir(parents=True)
    with pytest.raises(UserError, match=r"manifest\.json: cannot be read"):
        verify(str(tmp_path / "folder"))
    write(tmp_path / "data")
    part = tmp_path / "data" / "events" / "part-00000.parquet"
    part.rename(tmp_path / "kept")
    part.symlink_to(tmp_path / "lost")
    with pytest.raises(UserError, match=f"{part}: a link to {tmp_path}/lost, which does not exist"):
        verify(str(tmp_path / "data"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            events(play_ratio=pa.array([0.5, float("inf"), None, 1.0], pa.float32())),
            "'play_ratio', row 1: inf",
        ),
        (events(play_ratio=pa.array([0.5, 1.0, -0.5, 1.0], pa.float32())), "'play_ratio', row 2: -0.5"),
        (events(play_ratio=pa.array([float("nan"), 1, 1, 1], pa.float32())), "'play_ratio', row 0: nan"),
        (events(item_length=pa.array([1, 1, 1, 1e30], pa.float32())), "'item_length', row 3: 1"),
        (
            events(PLAYED=[1] * 4).rename_columns([*events().column_names[:4], "PLAY_RATIO", "x"]),
            "'PLAY_RATIO' is",
        ),
        (
            pa.table([[1]] * 4, names=["user_id", "item_id", "timestamp", "item_id"]),
            "two columns .*'item_id'",
        ),
    ],
    ids=["infinite", "negative", "nan", "long", "capitals", "twice"],
)
def test_an_event_table_that_readers_would_misread_is_named(
    tmp_path: pathlib.Path, content: pa.Table, complaint: str
) -> None:
    write(tmp_path / "data")
    part = tmp_path / "data" / "events" / "part-00000.parquet"
    pq.write_table(content, part)
    file = dataclasses.replace(Manifest.load(str(tmp_path / "data")).files[0], rows=content.num_rows)
    file = dataclasses.replace(file, bytes=part.stat().st_size, digest=digest_of_file(str(part)))
    edited(tmp_path / "data", files=(file, *Manifest.load(str(tmp_path / "data")).files[1:]))
    with pytest.raises(UserError, match=f"{part}: .*{complaint}"):
        verify(str(tmp_path / "data"))
