"""Data directories in spans and on remote file systems: added to, replaced, kept, and never half-written."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory import ingest_report, manifest, table_writer
from two_tower.data_directory.checked_columns import open_dataset
from two_tower.data_directory.manifest import (
    DAY,
    DatasetProperties,
    Manifest,
    event_files,
    item_files,
    sizes_of_files,
    user_files,
)
from two_tower.data_directory.merged_tables import NewRows, is_known, merge
from two_tower.data_directory.staging import describe_file
from two_tower.data_directory.verification import verify
from two_tower.data_directory.writer import DataDirectoryWriter, Span

PROPERTIES = DatasetProperties("days", "listen", True)


@pytest.fixture(params=["local", "memory"])
def data(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """A place for a data directory."""
    if request.param == "local":
        return str(tmp_path / "data")
    return f"memory://{uuid.uuid4().hex}/data"


def listens(day: int, *users: int, item: int = 10, **columns: Any) -> pa.Table:
    """One listen per user on a day, an hour apart."""
    times = [day * DAY + 3600 * place for place in range(len(users))]
    table = {
        "user_id": list(users),
        "item_id": [item] * len(users),
        "timestamp": times,
        "event_type": ["listen"] * len(users),
    }
    return pa.table(table | columns)


def write(
    out: str,
    events: pa.Table,
    span: Span = None,
    items: dict[str, Any] | None = None,
    users: dict[str, Any] | None = None,
    properties: DatasetProperties = PROPERTIES,
) -> Manifest:
    with DataDirectoryWriter(out, properties, span) as writer:
        writer.write("events", events)
        if items:
            writer.write("items", pa.table(items))
        if users:
            writer.write("users", pa.table(users))
    return writer.manifest


def rows(paths: list[str]) -> list[dict[str, Any]]:
    return list(itertools.chain.from_iterable(open_dataset([path]).to_table().to_pylist() for path in paths))


def content(out: str) -> dict[str, bytes]:
    found = {}
    for path in storage.list_files(out):
        with storage.open_file(storage.join(out, path)) as file:
            found[path] = file.read()
    return found


CATALOG = {"item_id": [10, 11], "title": ["Vertigo", "Rope"]}


def test_spans_are_added_in_the_order_of_their_days(data: str) -> None:
    write(data, listens(9, 1, 2, 3), 9, CATALOG)
    write(data, listens(11, 1), 11)
    manifest = write(data, listens(10, 2, 4), 10)
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
    write(data, listens(3, 1, 2), 3, CATALOG, users)
    first = write(data, listens(4, 1, 2), 4, {"item_id": [12], "title": ["Marnie"]}, users)
    before = content(data)
    assert write(data, listens(4, 1, 2), 4, {"item_id": [12], "title": ["Marnie"]}, users) == first
    assert content(data) == before
    other = write(data, listens(4, 7, event_type=["like"]), 4)
    assert other.digest != first.digest
    assert other.counts == {"events": 3, "label_events": 2, "users": 3, "items": 3, "user_rows": 2}
    assert other.time_range == (3 * DAY, 3 * DAY + 3600)
    assert verify(data) == other
    assert write(data, listens(4, 1, 2), 4).digest == first.digest
    assert content(data) == before


def test_other_spans_stay_byte_for_byte(tmp_path: pathlib.Path) -> None:
    data = str(tmp_path / "data")
    write(data, listens(3, 1, 2), 3, CATALOG)
    (path,) = event_files(data)
    before = os.stat(path)
    write(data, listens(4, 1), 4)
    after = os.stat(event_files(data)[0])
    # The same file under its name in the new directory, not a copy.
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert os.listdir(tmp_path) == ["data"]


def test_a_span_may_have_no_label_events_but_not_all_of_them(data: str) -> None:
    with pytest.raises(UserError, match="no event of type 'listen'"):
        write(data, listens(3, 1, event_type=["like"]), 3, CATALOG)
    assert storage.list_files(data) == []
    write(data, listens(3, 1), 3, CATALOG)
    manifest = write(data, listens(4, 1, event_type=["like"]), 4)
    assert manifest.time_range == (3 * DAY, 3 * DAY)
    with pytest.raises(UserError, match="no event of type 'listen'"):
        write(data, listens(3, 1, event_type=["like"]), 3)
    with pytest.raises(UserError, match="no events"):
        write(data, listens(5), 5)
    assert verify(data) == manifest


def test_late_and_early_events_are_counted(data: str) -> None:
    table = pa.concat_tables([listens(4, 1, 2), listens(2, 5, 6, 7), listens(5, 9)])
    noted = write(data, table, 4, CATALOG).noted
    assert noted["events_older_than_their_span"] == 3
    assert noted["events_newer_than_their_span"] == 1


def test_auto_is_the_day_of_the_newest_event(data: str) -> None:
    table = pa.concat_tables([listens(4, 1, 2), listens(6, 5), listens(5, 9)])
    manifest = write(data, table, "auto", CATALOG)
    assert manifest.spans == (6,)
    assert manifest.noted["events_older_than_their_span"] == 3
    with pytest.raises(UserError, match="no times to tell their span"):
        order = listens(4, 1).drop(["timestamp"]).append_column("order", pa.array([0]))
        write(data + "-order", order, "auto", CATALOG)
    assert write(data + "-order", order, 3, CATALOG).spans == (3,)


@pytest.mark.parametrize("span", [-1, 20_240_531, "today"])
def test_what_is_no_span_is_refused(tmp_path: pathlib.Path, span: Any) -> None:
    with pytest.raises(UserError, match=f"{span}.* is no span.*days since 1970-01-01"):
        write(str(tmp_path / "data"), listens(1, 1), span)


def test_spans_and_no_spans_do_not_mix(data: str) -> None:
    write(data, listens(3, 1), 3, CATALOG)
    with pytest.raises(UserError, match=r"holds 1 spans, the newest 3\. An ingest without a span would"):
        write(data, listens(3, 1))
    write(data + "-whole", listens(3, 1), None, CATALOG)
    with pytest.raises(UserError, match="holds events without spans"):
        write(data + "-whole", listens(3, 1), 3)
    with pytest.raises(UserError, match=r"windows\.spans"):
        event_files(data + "-whole", spans=3)
    assert verify(data).spans == (3,)
    # Nor are spans deleted whose manifest cannot be read.
    with storage.open_file(storage.join(data, manifest.MANIFEST), "w") as file:
        file.write("{")
    with pytest.raises(UserError, match="holds 1 spans, the newest 3"):
        write(data, listens(3, 1))
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
    before = write(data, listens(3, 1), 3, CATALOG, {"user_id": [1], "age": [30]})
    files = content(data)
    with pytest.raises(UserError, match=complaint) as error:
        write(data, **{"events": listens(4, 1), "span": 4} | change)
    assert data in str(error.value)
    assert verify(data) == before
    assert content(data) == files


def test_columns_may_come_in_another_order(data: str) -> None:
    write(data, listens(3, 1, mood=["a"], place=["x"]), 3, {"item_id": [1], "a": [1], "b": [2]})
    manifest = write(data, listens(4, 1, place=["x"], mood=["a"]), 4, {"b": [4], "a": [3], "item_id": [2]})
    assert verify(data) == manifest
    assert rows(item_files(data)) == [{"item_id": 1, "a": 1, "b": 2}, {"item_id": 2, "a": 3, "b": 4}]


def test_items_and_users_are_merged_the_new_row_first(data: str) -> None:
    vectors = pa.array([[1, 1], [2, 2]], pa.list_(pa.float32(), 2))
    write(
        data,
        listens(3, 1),
        3,
        {"item_id": [10, 11], "tags": [["a"], ["b"]], "title": ["Vertigo", "Rope"], "embedding": vectors},
        {"user_id": [2, 1], "age": [20, 10]},
    )
    manifest = write(
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
    # What the new row does not know stays: the title of 11, tags and vector of 10.
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
        write(
            data, listens(5, 1), 5, {name: [value] * 2 for name, value in rows(item_files(data))[2].items()}
        )


def test_events_are_looked_up_in_the_whole_catalog(data: str) -> None:
    write(data, listens(3, 1), 3, CATALOG)
    assert "events_of_items_not_in_catalog" not in write(data, listens(4, 1, item=11), 4).noted
    new = {"item_id": [12], "title": ["Marnie"]}
    assert "events_of_items_not_in_catalog" not in write(data, listens(5, 1, item=10), 5, new).noted
    assert write(data, listens(5, 1, 2, item=13), 5, new).noted["events_of_items_not_in_catalog"] == 2


def test_spans_edited_by_hand_are_named(tmp_path: pathlib.Path) -> None:
    data = str(tmp_path / "data")
    write(data, listens(3, 1), 3, CATALOG)
    write(data, listens(4, 1), 4)
    manifest = Manifest.load(data)
    os.rename(f"{data}/events/span-4", f"{data}/events/span-5")
    with pytest.raises(
        UserError, match=r"span-4/part-00000\.parquet: the manifest lists it and it is missing"
    ):
        verify(data)
    paths = list(sizes_of_files(data))
    files = tuple(describe_file(data, path) for path in paths)
    dataclasses.replace(manifest, files=files).save(data)
    with pytest.raises(UserError, match=r"'spans' is not what lies in events/: \[3, 4\] and \[3, 5\]"):
        verify(data)
    os.remove(f"{data}/events/span-3/part-00000.parquet")
    with pytest.raises(UserError, match=r"span-3/part-00000\.parquet.*(missing|no such file)"):
        write(data, listens(6, 1), 6)


# ── Merging ─────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=60, deadline=None)
@given(
    old=st.dictionaries(st.integers(0, 30), st.one_of(st.none(), st.text(max_size=3)), max_size=20),
    new=st.dictionaries(st.integers(0, 30), st.one_of(st.none(), st.text(max_size=3)), max_size=20),
    cut=st.integers(1, 7),
)
def test_merging_is_updating_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, old: dict[int, Any], new: dict[int, Any], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    schema = pa.schema([("key", pa.int64()), ("value", pa.string())])

    def table(values: dict[int, Any]) -> pa.Table:
        return pa.table([list(values), list(values.values())], schema=schema)

    paths = []
    for start in range(0, len(old), 6):
        paths.append(str(folder / f"{start}.parquet"))
        pq.write_table(table(old).slice(start, 6), paths[-1])
    fresh = NewRows(str(folder / "new"), schema)
    for start in range(0, len(new), cut):
        fresh.write(table(new).slice(start, cut))
    fresh.close()
    merged: list[pa.Table] = []
    merge(paths, fresh, "key", merged.append)
    expected = old | {key: old.get(key) if value is None else value for key, value in new.items()}
    found = [row for part in merged for row in part.to_pylist()]
    assert [(row["key"], row["value"]) for row in found] == list(expected.items())


def test_what_a_value_knows() -> None:
    def known(values: list[Any], kind: pa.DataType) -> list[bool]:
        whole = pa.array([values[0], *values], kind)
        return is_known(whole.slice(1)).tolist()

    assert known([0, None], pa.int64()) == [True, False]
    assert known([0.0, None, float("nan")], pa.float32()) == [True, False, False]
    assert known([[1], [], None, [None]], pa.list_(pa.int64())) == [True, False, False, True]
    assert known([[0, 1], None, [0, 0], [2, 0]], pa.list_(pa.float32(), 2)) == [True, False, False, True]
    assert known(["", None], pa.string()) == [True, False]
    assert is_known(pa.array([], pa.list_(pa.float32(), 2))).tolist() == []


# ── Remote directories ──────────────────────────────────────────────────────────────────────────────────


def test_the_same_rows_have_one_digest_wherever_they_lie(tmp_path: pathlib.Path) -> None:
    remote, local = f"memory://{uuid.uuid4().hex}", str(tmp_path / "data")
    for out in (remote, local):
        write(out, listens(3, 1, 2), 3, CATALOG)
        write(out, listens(4, 1, 2), 4)
    assert Manifest.load(remote).digest == Manifest.load(local).digest
    assert rows(event_files(remote)) == rows(event_files(local))


class Killed(BaseException):
    """What no code expects."""


def test_a_remote_directory_holds_one_whole_content_at_every_moment(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each single step of replacing it, and if the process ends there, it is the old one or the new."""
    reached, complete = 0, False
    while not complete:
        out = f"memory://{uuid.uuid4().hex}/data"
        old = write(out, listens(3, 1, 2), None, CATALOG)
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
                write(out, *new_rows)
                complete = True
            except Killed:
                pass
        found = verify(out)
        assert found.counts["events"] in (2, 3)
        assert len(rows(event_files(out))) == found.counts["events"]
        assert complete is False or found.counts["events"] == 3
        # What is left over by then is no obstacle, and goes.
        again = write(out, *new_rows)
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
        write(out, listens(3, 1), 3, CATALOG)
    assert storage.list_files(out)
    with pytest.raises(UserError, match="is not a data directory"):
        Manifest.load(out)
    manifest = write(out, listens(3, 1), 3, CATALOG)
    assert verify(out) == manifest


def test_an_upload_that_fails_is_taken_back_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    out = f"memory://{uuid.uuid4().hex}/data"
    before = write(out, listens(3, 1), 3, CATALOG)
    files = content(out)
    put = MemoryFileSystem.put_file

    def refuse(self: Any, local: str, path: str, **options: Any) -> None:
        if "/items/" in path:
            raise RuntimeError("403 quota")
        put(self, local, path, **options)

    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"cannot be written.*403 quota"):
        patch.setattr(MemoryFileSystem, "put_file", refuse)
        write(out, listens(4, 1), 4, {"item_id": [77], "title": ["Topaz"]})
    assert verify(out) == before
    assert content(out) == files


def test_a_remote_place_that_holds_something_else_is_left_alone() -> None:
    out = f"memory://{uuid.uuid4().hex}/data"
    with storage.open_file(f"{out}/thesis.txt", "w") as file:
        file.write("years of work")
    with pytest.raises(UserError, match=r"thesis\.txt"):
        write(out, listens(3, 1), None, CATALOG)
    with pytest.raises(UserError, match="is a file"):
        write(f"{out}/thesis.txt", listens(3, 1), None, CATALOG)
    assert content(out) == {"thesis.txt": b"years of work"}


def test_edits_of_a_remote_directory_are_named() -> None:
    out = f"memory://{uuid.uuid4().hex}/data"
    write(out, listens(3, 1), None, CATALOG)
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
    with pytest.raises(UserError, match="its content is not what the manifest says"):
        verify(out)


def test_the_oracle_is_found_wherever_it_is(data: str, tmp_path: pathlib.Path) -> None:
    source = tmp_path / "queries"
    pq.write_table(pa.table({"rank": [1]}), source)
    with DataDirectoryWriter(data, PROPERTIES) as writer:
        writer.write("events", listens(3, 1))
        writer.write("items", pa.table(CATALOG))
        writer.copy(str(source), "oracle/queries.parquet")
    verify(data)
    path = manifest.oracle_file(data, "queries.parquet")
    assert path is not None
    assert rows([path]) == [{"rank": 1}]
    assert manifest.oracle_file(data, "answers.parquet") is None


def test_many_batches_and_files_are_merged(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table_writer.GROUP_ROWS, "items", 10)
    monkeypatch.setitem(table_writer.FILE_ROWS, "items", 20)
    monkeypatch.setattr("two_tower.data_directory.merged_tables._BATCH_ROWS", 7)
    generator = np.random.default_rng(3)
    ids = generator.permutation(95)
    write(data, listens(3, 1), 3, {"item_id": ids[:60], "year": 1000 + ids[:60]})
    write(data, listens(4, 1), 4, {"item_id": ids[40:], "year": 2000 + ids[40:]})
    verify(data)
    merged = rows(item_files(data))
    assert [row["item_id"] for row in merged] == ids.tolist()
    assert [row["year"] - row["item_id"] for row in merged] == [1000] * 40 + [2000] * 55
