from __future__ import annotations

import os
import pathlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data_directories import (
    CATALOG,
    PROPERTIES,
    content,
    events,
    items,
    listens,
    rows,
    write,
    write_span,
)
from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory import ingest_report
from two_tower.data_directory import manifest as manifest_module
from two_tower.data_directory.manifest import (
    DAY,
    DatasetProperties,
    Manifest,
    event_files,
    item_files,
    user_files,
)
from two_tower.data_directory.verification import verify
from two_tower.data_directory.writer import DataDirectoryWriter


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


def test_events_without_times_are_told_apart(tmp_path: pathlib.Path) -> None:
    table = events(order=pa.array([0, 1, 2, 0], pa.int32())).drop(["timestamp"])
    manifest = write(tmp_path / "data", [table])
    assert not manifest.has_timestamps
    assert manifest.time_range == (0, 0)
    assert manifest.counts["label_events"] == 3
    assert verify(str(tmp_path / "data")) == manifest
    assert "order within their user" in ingest_report.render(manifest)


def test_the_events_own_splits_are_known_by_name(tmp_path: pathlib.Path) -> None:
    manifest = write(tmp_path / "data", [events(split=["train", "train", "eval", "test"])])
    assert manifest.has_splits
    assert verify(str(tmp_path / "data")) == manifest
    assert not write(tmp_path / "other").has_splits
    for value, shown in (("valid", "'valid'"), (None, "null")):
        # Row numbers count over all batches of the table.
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


def test_events_of_items_without_a_row_are_counted(tmp_path: pathlib.Path) -> None:
    noted = write(tmp_path / "data", [events(item_id=[10, 77, 77, 78])]).noted
    assert noted["items_without_row_in_catalog"] == 2
    assert noted["events_of_items_not_in_catalog"] == 3


# ── Spans ────────────────────────────────────────────────────────────────────────────────────────────


def test_spans_are_added_in_the_order_of_their_days(data: str) -> None:
    write_span(data, listens(9, 1, 2, 3), 9, CATALOG)
    write_span(data, listens(11, 1), 11)
    manifest = write_span(data, listens(10, 2, 4), 10)
    assert manifest.spans == (9, 10, 11)
    assert manifest.counts == {"events": 6, "label_events": 6, "users": 4, "items": 2, "user_rows": 0}
    assert manifest.time_range == (9 * DAY, 11 * DAY)
    assert manifest.noted["users_with_one_event"] == 2
    assert {span: facts["events"] for span, facts in manifest.span_counts.items()} == {
        "9": 3,
        "10": 2,
        "11": 1,
    }
    assert verify(data) == manifest == Manifest.load(data)
    assert [row["user_id"] for row in rows(event_files(data))] == [1, 2, 3, 2, 4, 1]
    assert [row["user_id"] for row in rows(event_files(data, spans=2))] == [2, 4, 1]
    assert event_files(data, spans=7) == event_files(data)
    assert all(
        f"/events/span-{span}/" in path for span, path in zip((9, 10, 11), event_files(data), strict=True)
    )
    assert "11 with 1 events" in ingest_report.render(manifest)


def test_a_span_given_twice_is_replaced_and_the_same_again(data: str) -> None:
    users = {"user_id": [1, 2], "age": [30, 40]}
    write_span(data, listens(3, 1, 2), 3, CATALOG, users)
    first = write_span(data, listens(4, 1, 2), 4, {"item_id": [12], "title": ["Marnie"]}, users)
    before = content(data)
    assert write_span(data, listens(4, 1, 2), 4, {"item_id": [12], "title": ["Marnie"]}, users) == first
    assert content(data) == before
    other = write_span(data, listens(4, 7, event_type=["like"]), 4)
    assert other.digest != first.digest
    assert other.counts == {"events": 3, "label_events": 2, "users": 3, "items": 3, "user_rows": 2}
    assert other.time_range == (3 * DAY, 3 * DAY + 3600)
    assert verify(data) == other
    assert write_span(data, listens(4, 1, 2), 4).digest == first.digest
    assert content(data) == before


def test_a_span_may_have_no_label_events_but_not_all_of_them(data: str) -> None:
    with pytest.raises(UserError, match="no event of type 'listen'"):
        write_span(data, listens(3, 1, event_type=["like"]), 3, CATALOG)
    assert storage.list_files(data) == []
    write_span(data, listens(3, 1), 3, CATALOG)
    manifest = write_span(data, listens(4, 1, event_type=["like"]), 4)
    assert manifest.time_range == (3 * DAY, 3 * DAY)
    with pytest.raises(UserError, match="no event of type 'listen'"):
        write_span(data, listens(3, 1, event_type=["like"]), 3)
    with pytest.raises(UserError, match="no events"):
        write_span(data, listens(5), 5)
    assert verify(data) == manifest


def test_late_and_early_events_are_counted(data: str) -> None:
    table = pa.concat_tables([listens(4, 1, 2), listens(2, 5, 6, 7), listens(5, 9)])
    noted = write_span(data, table, 4, CATALOG).noted
    assert noted["events_older_than_their_span"] == 3
    assert noted["events_newer_than_their_span"] == 1


def test_auto_is_the_day_of_the_newest_event(data: str) -> None:
    table = pa.concat_tables([listens(4, 1, 2), listens(6, 5), listens(5, 9)])
    manifest = write_span(data, table, "auto", CATALOG)
    assert manifest.spans == (6,)
    assert manifest.noted["events_older_than_their_span"] == 3
    with pytest.raises(UserError, match="no times to tell their span"):
        order = listens(4, 1).drop(["timestamp"]).append_column("order", pa.array([0]))
        write_span(data + "-order", order, "auto", CATALOG)
    assert write_span(data + "-order", order, 3, CATALOG).spans == (3,)


@pytest.mark.parametrize("span", [-1, 20_240_531, "today"])
def test_what_is_no_span_is_refused(tmp_path: pathlib.Path, span: Any) -> None:
    with pytest.raises(UserError, match=f"{span}.* is not a span.*days since 1970-01-01"):
        write_span(str(tmp_path / "data"), listens(1, 1), span)


def test_spans_and_no_spans_do_not_mix(data: str) -> None:
    write_span(data, listens(3, 1), 3, CATALOG)
    with pytest.raises(UserError, match=r"holds 1 spans, the newest 3\. An ingest without a span would"):
        write_span(data, listens(3, 1))
    write_span(data + "-whole", listens(3, 1), None, CATALOG)
    with pytest.raises(UserError, match="holds events without spans"):
        write_span(data + "-whole", listens(3, 1), 3)
    with pytest.raises(UserError, match=r"windows\.spans"):
        event_files(data + "-whole", spans=3)
    assert verify(data).spans == (3,)
    # Spans with an unreadable manifest are not deleted either.
    with storage.open_file(storage.join(data, manifest_module.MANIFEST), "w") as file:
        file.write("{")
    with pytest.raises(UserError, match="holds 1 spans, the newest 3"):
        write_span(data, listens(3, 1))
    assert any(name.startswith("events/span-3/") for name in storage.list_files(data))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"properties": DatasetProperties("nights", "listen", True)}, "dataset is 'days'.*'nights'.*--name"),
        ({"properties": DatasetProperties("days", "play", True)}, "label_event is 'listen'.*'play'"),
        ({"properties": DatasetProperties("days", "listen", False)}, "repeats_recommendable is True.*False"),
        (
            {"events": listens(4, 1, play_ratio=[0.5])},
            "'play_ratio' of the events is missing there and float in the new span",
        ),
        (
            {"events": listens(4, 1).drop(["event_type"])},
            "'event_type' of the events is string there and missing in the new",
        ),
        ({"items": {"item_id": [1], "title": ["a"], "year": [1958]}}, "'year' of the items is missing there"),
        (
            {"users": {"user_id": [1], "age": ["30"]}},
            "'age' of the users is int64 there and string in the new",
        ),
    ],
)
def test_other_data_is_not_added(data: str, change: dict[str, Any], complaint: str) -> None:
    before = write_span(data, listens(3, 1), 3, CATALOG, {"user_id": [1], "age": [30]})
    files = content(data)
    with pytest.raises(UserError, match=complaint) as error:
        write_span(data, **{"events": listens(4, 1), "span": 4} | change)
    assert data in str(error.value)
    assert verify(data) == before
    assert content(data) == files


def test_columns_may_come_in_another_order(data: str) -> None:
    write_span(data, listens(3, 1, mood=["a"], place=["x"]), 3, {"item_id": [1], "a": [1], "b": [2]})
    manifest = write_span(
        data, listens(4, 1, place=["x"], mood=["a"]), 4, {"b": [4], "a": [3], "item_id": [2]}
    )
    assert verify(data) == manifest
    assert rows(item_files(data)) == [{"item_id": 1, "a": 1, "b": 2}, {"item_id": 2, "a": 3, "b": 4}]


def test_items_and_users_are_merged_the_new_row_first(data: str) -> None:
    vectors = pa.array([[1, 1], [2, 2]], pa.list_(pa.float32(), 2))
    write_span(
        data,
        listens(3, 1),
        3,
        {"item_id": [10, 11], "tags": [["a"], ["b"]], "title": ["Vertigo", "Rope"], "embedding": vectors},
        {"user_id": [2, 1], "age": [20, 10]},
    )
    manifest = write_span(
        data,
        listens(4, 1),
        4,
        {
            "item_id": [12, 11, 10],
            "tags": pa.array([["c"], ["d", "e"], []], pa.list_(pa.string())),
            "title": ["Marnie", None, "Vertigo (1958)"],
            "embedding": pa.array([[3, 3], [4, 4], [0, 0]], pa.list_(pa.float32(), 2)),
        },
        {"user_id": [3, 2], "age": [30, 21]},
    )
    # Unknown new values keep the old ones: the title of 11, tags and vector of 10.
    assert rows(item_files(data)) == [
        {"item_id": 10, "tags": ["a"], "title": "Vertigo (1958)", "embedding": [1, 1]},
        {"item_id": 11, "tags": ["d", "e"], "title": "Rope", "embedding": [4, 4]},
        {"item_id": 12, "tags": ["c"], "title": "Marnie", "embedding": [3, 3]},
    ]
    assert rows(user_files(data)) == [
        {"user_id": 2, "age": 21},
        {"user_id": 1, "age": 10},
        {"user_id": 3, "age": 30},
    ]
    assert manifest.has_embedding == 2
    assert verify(data) == manifest
    with pytest.raises(UserError, match="items: column 'item_id': 12 comes more than once"):
        write_span(
            data, listens(5, 1), 5, {name: [value] * 2 for name, value in rows(item_files(data))[2].items()}
        )


def test_events_are_looked_up_in_the_whole_catalog(data: str) -> None:
    write_span(data, listens(3, 1), 3, CATALOG)
    assert "events_of_items_not_in_catalog" not in write_span(data, listens(4, 1, item=11), 4).noted
    new = {"item_id": [12], "title": ["Marnie"]}
    assert "events_of_items_not_in_catalog" not in write_span(data, listens(5, 1, item=10), 5, new).noted
    assert write_span(data, listens(5, 1, 2, item=13), 5, new).noted["events_of_items_not_in_catalog"] == 2
