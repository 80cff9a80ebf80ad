from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from two_tower.base.errors import UserError
from two_tower.data_directory import manifest as manifest_module
from two_tower.data_directory import table_writer
from two_tower.data_directory.ingest_report import render
from two_tower.data_directory.key_counts import KeyCounts
from two_tower.data_directory.manifest import DatasetProperties, Manifest
from two_tower.data_directory.staging import describe_file
from two_tower.data_directory.verification import verify
from two_tower.data_directory.writer import DataDirectoryWriter

PROPERTIES = DatasetProperties("small", "listen", True)


def events(**columns: Any) -> pa.Table:
    """Four events of two users; columns given replace these."""
    return pa.table(
        {
            "user_id": [1, 1, 1, 2],
            "item_id": [10, 11, 10, 11],
            "timestamp": [100, 200, 200, 50],
            "event_type": ["listen", "listen", "like", "listen"],
            "play_ratio": pa.array([0.5, 1.25, None, 1.0], pa.float32()),
        }
        | columns
    )


def items(**columns: Any) -> pa.Table:
    vectors = pa.array([[1.0, 0.0], [0.0, 1.0]], pa.list_(pa.float32(), 2))
    return pa.table({"item_id": [10, 11], "embedding": vectors} | columns)


def write(
    out: pathlib.Path,
    event_tables: list[pa.Table] | None = None,
    item_table: pa.Table | None = None,
    properties: DatasetProperties = PROPERTIES,
) -> Manifest:
    with DataDirectoryWriter(str(out), properties) as writer:
        for table in [events()] if event_tables is None else event_tables:
            writer.write("events", table)
        writer.write("items", items() if item_table is None else item_table)
    return writer.manifest


def test_manifest_says_what_was_written(tmp_path: pathlib.Path) -> None:
    manifest = write(tmp_path / "data")
    assert manifest.counts == {"events": 4, "label_events": 3, "users": 2, "items": 2, "user_rows": 0}
    assert manifest.time_range == (50, 200)
    assert manifest.has_embedding == 2
    assert manifest.noted == {"play_ratio_over_1": 1, "users_with_one_event": 1}
    assert Manifest.load(str(tmp_path / "data")) == manifest == verify(str(tmp_path / "data"))
    assert [os.path.basename(path) for path in manifest_module.event_files(str(tmp_path / "data"))] == [
        "part-00000.parquet"
    ]
    assert os.listdir(tmp_path) == ["data"]


def test_same_rows_give_the_same_digest_however_they_are_cut(tmp_path: pathlib.Path) -> None:
    whole = write(tmp_path / "a")
    cut = write(tmp_path / "b" / "c", [events().slice(0, 1), events().slice(1)])
    assert whole.digest == cut.digest
    assert str(tmp_path) not in (tmp_path / "a" / "manifest.json").read_text()


@pytest.mark.parametrize(
    "other",
    [
        {"event_tables": [events(timestamp=[100, 200, 201, 50])]},
        {"item_table": items(embedding=pa.array([[1, 0], [0, 2]], pa.list_(pa.float32(), 2)))},
        {"properties": DatasetProperties("small", "listen", False)},
        {"properties": DatasetProperties("other", "listen", True)},
    ],
)
def test_one_changed_value_changes_the_digest(tmp_path: pathlib.Path, other: dict[str, Any]) -> None:
    assert write(tmp_path / "a").digest != write(tmp_path / "b", **other).digest


def test_files_and_row_groups_are_full_and_keep_the_order(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(table_writer.GROUP_ROWS, "events", 10)
    monkeypatch.setitem(table_writer.FILE_ROWS, "events", 20)
    times = np.arange(47)
    table = pa.table({"user_id": times % 3, "item_id": 10 + times % 2, "timestamp": times})
    write(tmp_path / "data", [table.slice(start, 7) for start in range(0, 47, 7)])
    files = [pq.ParquetFile(path) for path in manifest_module.event_files(str(tmp_path / "data"))]
    assert [[f.metadata.row_group(g).num_rows for g in range(f.num_row_groups)] for f in files] == [
        [10, 10],
        [10, 10],
        [7],
    ]
    assert np.concatenate([f.read()["timestamp"].to_numpy() for f in files]).tolist() == times.tolist()
    assert verify(str(tmp_path / "data")).counts["label_events"] == 47


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


def test_events_need_times_or_an_order_and_not_both(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="no column timestamp or order"):
        write(tmp_path / "data", [events().drop(["timestamp"])])
    with pytest.raises(UserError, match="both timestamp and order"):
        write(tmp_path / "data", [events(order=[0, 1, 2, 0])])
    assert os.listdir(tmp_path) == []


def test_events_without_times_are_told_apart(tmp_path: pathlib.Path) -> None:
    table = events(order=pa.array([0, 1, 2, 0], pa.int32())).drop(["timestamp"])
    manifest = write(tmp_path / "data", [table])
    assert not manifest.has_timestamps
    assert manifest.time_range == (0, 0)
    assert manifest.counts["label_events"] == 3
    assert verify(str(tmp_path / "data")) == manifest
    assert "order within their user" in render(manifest)


def test_the_events_own_splits_are_known_by_name(tmp_path: pathlib.Path) -> None:
    manifest = write(tmp_path / "data", [events(split=["train", "train", "eval", "test"])])
    assert manifest.has_splits
    assert verify(str(tmp_path / "data")) == manifest
    assert not write(tmp_path / "other").has_splits
    for value, shown in (("valid", "'valid'"), (None, "null")):
        # Rows are counted over all tables that were written.
        with pytest.raises(UserError, match=f"column 'split', row 6: {shown} is none of train, eval, test"):
            write(
                tmp_path / "data",
                [events(split=["train"] * 4), events(split=["train", "eval", value, "test"])],
            )
    assert verify(str(tmp_path / "data")) == manifest


def test_users_are_a_table_and_all_columns_are_listed(tmp_path: pathlib.Path) -> None:
    with DataDirectoryWriter(str(tmp_path / "data"), PROPERTIES) as writer:
        writer.write("events", events())
        writer.write("items", items(available=[True, False], tags=[["a", "b"], []]))
        writer.write("users", pa.table({"user_id": [2, 1, 5], "gender": ["F", "M", None]}))
    manifest = writer.manifest
    assert manifest.counts == {"events": 4, "label_events": 3, "users": 2, "items": 2, "user_rows": 3}
    assert manifest.columns == {
        "events": {
            "user_id": "int64",
            "item_id": "int64",
            "timestamp": "int64",
            "event_type": "string",
            "play_ratio": "float",
        },
        "items": {
            "item_id": "int64",
            "tags": "list<item: string>",
            "available": "bool",
            "embedding": "fixed_size_list<item: float>[2]",
        },
        "users": {"user_id": "int64", "gender": "string"},
    }
    assert verify(str(tmp_path / "data")) == manifest
    (path,) = manifest_module.user_files(str(tmp_path / "data"))
    assert pq.read_table(path)["gender"].to_pylist() == ["F", "M", None]
    write(tmp_path / "other")
    assert manifest_module.user_files(str(tmp_path / "other")) == []


def test_one_content_has_one_form(tmp_path: pathlib.Path) -> None:
    """Dictionaries, large types and lists of any width are stored as what they hold."""
    plain = items(genre=["a", "b"], moods=[["x"], ["y"]])
    other = pa.table(
        {
            "item_id": pa.array([10, 11], pa.uint16()),
            "embedding": pa.array([[1.0, 0.0], [0.0, 1.0]], pa.large_list(pa.float64())),
            "genre": pa.array(["a", "b"], pa.large_string()).dictionary_encode(),
            "moods": pa.array([["x"], ["y"]], pa.large_list(pa.field("element", pa.large_string()))),
        }
    )
    assert (
        write(tmp_path / "a", item_table=plain).digest
        == write(
            tmp_path / "b", [events(event_type=events()["event_type"].dictionary_encode())], other
        ).digest
    )


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        (
            [events(), events(timestamp=["a"] * 4)],
            "'timestamp' of the events is string and cannot be cast to int64",
        ),
        (
            [events(mood=["a"] * 4), events(mood=[1] * 4)],
            "'mood' of the events is string .* int64 from row 4",
        ),
        ([events(mood=["a"] * 4), events()], "'mood' of the events is string .* missing from row 4"),
    ],
)
def test_a_columns_type_stays(tmp_path: pathlib.Path, tables: list[pa.Table], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        write(tmp_path / "data", tables)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("table", "rows", "complaint"),
    [
        ("items", pa.table([[7], [1], [2]], names=["item_id", "a", "a"]), "items have two columns 'a'"),
        ("item", items(), "no table 'item': the tables are events, items, users"),
    ],
)
def test_what_a_table_cannot_hold_is_refused(
    tmp_path: pathlib.Path, table: str, rows: pa.Table, complaint: str
) -> None:
    with (
        pytest.raises(UserError, match=complaint),
        DataDirectoryWriter(str(tmp_path / "data"), PROPERTIES) as writer,
    ):
        writer.write("events", events())
        writer.write(table, rows)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("vectors", "complaint"),
    [
        (pa.array([[1.0], [1.0, 2.0]]), "row 1: an embedding of width 2"),
        (pa.array([[1.0, float("inf")], [1.0, 2.0]]), "row 0: inf is not a finite number"),
        (pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)), "row 1: null"),
        (pa.array(["a", "b"]), "is string, where lists of numbers are needed"),
    ],
)
def test_embeddings_that_are_none_are_refused(
    tmp_path: pathlib.Path, vectors: pa.Array, complaint: str
) -> None:
    with pytest.raises(UserError, match=f"embedding.*{complaint}"):
        write(tmp_path / "data", item_table=items(embedding=vectors))


def test_events_of_items_without_a_row_are_counted(tmp_path: pathlib.Path) -> None:
    noted = write(tmp_path / "data", [events(item_id=[10, 77, 77, 78])]).noted
    assert noted["items_without_row_in_catalog"] == 2
    assert noted["events_of_items_not_in_catalog"] == 3


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
    """Replaces a table by one with other rows and writes the manifest that belongs to it."""
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
        f"{part}: column 'mood' is string, and in {data}/events/part-00000.parquet it is int64."
    )


def test_a_process_killed_at_any_moment_leaves_a_directory_that_can_be_replaced(
    tmp_path: pathlib.Path,
) -> None:
    """Killed while it writes, it leaves the old one; between the two renames, one that is found again."""
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


def test_key_counts_are_those_of_all_rows() -> None:
    generator = np.random.default_rng(5)
    user, item = generator.integers(0, 20, (2, 1000))
    counts = KeyCounts()
    for start in range(0, 1000, 130):
        counts.add(user[start : start + 130], item[start : start + 130])
    pairs, rows = np.unique(np.stack([user, item]), axis=1, return_counts=True)
    for found, expected in zip(counts.result(), (*pairs, rows), strict=True):
        assert found.tolist() == expected.tolist()


def test_report_tells_counts_days_and_what_was_dropped(tmp_path: pathlib.Path) -> None:
    with DataDirectoryWriter(str(tmp_path / "data"), PROPERTIES) as writer:
        writer.write("events", events(timestamp=[0, 86_400, 864_000, 864_000]))
        writer.write("items", items())
        writer.dropped["duplicate_events"] += 1234
    text = render(writer.manifest)
    assert "10.0 days" in text
    assert "1,234 duplicate events" in text
    assert "1 play ratio over 1" in text
