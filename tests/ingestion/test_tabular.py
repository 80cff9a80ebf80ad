from __future__ import annotations

import gzip
import pathlib
import re
import shutil
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory import writer
from two_tower.data_directory.manifest import Manifest, event_files, item_files, user_files
from two_tower.data_directory.verification import _verify_texts_of_ids, verify
from two_tower.ingestion import FORMATS, column_map, external_sort, table_files
from two_tower.schema import text_ids
from two_tower.schema.text_ids import INTEGER, TEXT, number_of

MAP = """
dataset: my-films
label_event: view
repeats_recommendable: false
events:
  files: events/*.parquet
  user_id: uid
  item_id: film
  timestamp: at
  event_type: kind
"""
EVENTS = {
    "uid": [3, 1, 1, 2, 1],
    "film": [10, 10, 11, 12, 10],
    "at": [50, 40, 20, 30, 40],
    "kind": ["view", "view", "like", "view", "view"],
}


def ingest(folder: pathlib.Path, mapping: str = MAP, span: int | None = None) -> Manifest:
    """Ingests `folder`/source with the column map into `folder`/data."""
    path = folder / "columns.yaml"
    path.write_text(textwrap.dedent(mapping))
    return FORMATS["table"](str(folder / "source"), str(folder / "data"), columns=str(path), span=span)


def write(folder: pathlib.Path, name: str, columns: dict[str, Any] | str | bytes) -> pathlib.Path:
    """Writes a file of the source: columns as Parquet, text unchanged."""
    path = folder / "source" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(columns, str):
        path.write_text(columns, newline="")
    elif isinstance(columns, bytes):
        path.write_bytes(columns)
    else:
        pq.write_table(pa.table(columns), path)
    return path


def csv(columns: dict[str, Any], delimiter: str = ",") -> str:
    def field(value: Any) -> str:
        text = "" if value is None else str(value)
        return '"' + text.replace('"', '""') + '"' if set(text) & {delimiter, '"', "\n"} else text

    rows = [list(columns), *zip(*columns.values(), strict=True)]
    return "".join(delimiter.join(map(field, row)) + "\n" for row in rows)


def rows_of(files: list[str]) -> list[dict[str, Any]]:
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def events_of(folder: pathlib.Path) -> list[dict[str, Any]]:
    return rows_of(event_files(str(folder / "data")))


def items_of(folder: pathlib.Path) -> dict[int, dict[str, Any]]:
    return {row["item_id"]: row for row in rows_of(item_files(str(folder / "data")))}


def users_of(folder: pathlib.Path) -> dict[int, dict[str, Any]]:
    return {row["user_id"]: row for row in rows_of(user_files(str(folder / "data")))}


def refused(folder: pathlib.Path, mapping: str = MAP) -> str:
    """Returns the error's text and checks that the attempt leaves no files."""
    with pytest.raises(UserError) as found:
        ingest(folder, mapping)
    assert sorted(path.name for path in folder.iterdir()) == ["columns.yaml", "source"]
    return str(found.value)


def test_a_file_without_a_row_of_names_gets_the_hint_of_header(tmp_path: pathlib.Path) -> None:
    mapping = "dataset: d\nlabel_event: view\nrepeats_recommendable: false\n"
    mapping += "events: {files: e.csv, user_id: u, item_id: i, timestamp: t}\n"
    write(tmp_path, "e.csv", "1,7,2020-09-14 10:00:00\n2,8,2020-09-14 11:00:00\n")
    assert "'header' in the column map gives them" in refused(tmp_path, mapping)
    write(tmp_path, "e.csv", "user,item,t\n1,7,10\n")
    assert "'header'" not in refused(tmp_path, mapping)


# ── Events ──────────────────────────────────────────────────────────────────────────────────────────────


def test_events_are_sorted_and_told_once(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "events/a.parquet", EVENTS)
    write(tmp_path, "events/b.parquet", EVENTS)
    manifest = ingest(tmp_path)
    assert verify(str(tmp_path / "data")) == manifest
    assert [tuple(row.values()) for row in events_of(tmp_path)] == [
        (1, 11, 20, "like"),
        (1, 10, 40, "view"),
        (2, 12, 30, "view"),
        (3, 10, 50, "view"),
    ]
    assert manifest.dropped == {"duplicate_events": 6}
    assert manifest.noted == {
        "event_files_not_in_order": 2,
        "events_within_an_hour": 4,
        "users_with_one_event": 2,
    }
    # Without a table of items, the catalog is the items of the events, and none counts as added.
    assert sorted(items_of(tmp_path)) == [10, 11, 12] and not manifest.repaired
    assert manifest.counts["user_rows"] == 0


def random_events(rows: int = 4_000) -> dict[str, Any]:
    random = np.random.default_rng(3)
    return {
        "uid": random.integers(0, 60, rows),
        "film": random.integers(0, 500, rows),
        "at": random.integers(0, 10**6, rows),
        "kind": random.choice(["view", "like"], rows),
    }


@pytest.mark.parametrize(
    "form", ["one", "many", "csv", "semicolons", "gzip", "no header", "text types", "milliseconds", "iso"]
)
def test_the_form_of_the_files_makes_no_difference(form: str, tmp_path: pathlib.Path) -> None:
    events = random_events()
    by_user = np.lexsort((np.arange(4_000), events["at"], events["uid"]))
    write(tmp_path / "a", "events/a.parquet", {name: column[by_user] for name, column in events.items()})
    expected = ingest(tmp_path / "a")
    assert "event_files_not_in_order" not in expected.noted
    mapping, folder = MAP, tmp_path / "b"
    text = MAP.replace("*.parquet", "e.csv")
    if form == "one":
        write(folder, "events/b.parquet", events)
    elif form == "many":
        # The file order determines the order of simultaneous events.
        for part in range(4):
            rows = slice(part * 1_000, part * 1_000 + 1_000)
            write(folder, f"events/{part}.parquet", {name: column[rows] for name, column in events.items()})
    elif form == "csv":
        write(folder, "events/e.csv", csv(events))
        mapping = text
    elif form == "semicolons":
        write(folder, "events/e.csv", csv(events, ";"))
        mapping = text.replace("user_id: uid", "delimiter: ;\n  user_id: uid")
    elif form == "gzip":
        write(folder, "events/e.csv", gzip.compress(csv(events).encode()))
        mapping = text
    elif form == "no header":
        write(folder, "events/e.csv", csv(events).partition("\n")[2])
        mapping = text.replace("user_id: uid", "header: [uid, film, at, kind]\n  user_id: uid")
    elif form == "text types":
        kinds = pa.array(events["kind"]).dictionary_encode()
        write(folder, "events/b.parquet", events | {"kind": kinds, "uid": events["uid"].astype(np.uint16)})
    elif form == "milliseconds":
        write(folder, "events/b.parquet", events | {"at": events["at"] * 1_000 + 999})
        mapping = MAP.replace("timestamp: at", "timestamp: at\n  timestamp_unit: ms")
    else:
        write(folder, "events/e.csv", csv(events | {"at": events["at"].astype("datetime64[s]")}))
        mapping = text
    manifest = ingest(folder, mapping)
    assert manifest.digest == expected.digest
    assert manifest.dropped == expected.dropped


def test_events_are_divided_in_bounded_memory(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks that no written table exceeds a partition of the external sort."""
    monkeypatch.setattr(external_sort, "_PARTITION_ROWS", 500)
    monkeypatch.setattr(table_files, "_BATCH_ROWS", 200)
    write(tmp_path, "events/a.csv", csv(random_events()))
    read, written = [], []
    batches, write_rows = table_files.TableFile.batches, writer.DataDirectoryWriter.write

    def counted_batches(*args: Any) -> Any:
        for row, batch in batches(*args):
            read.append(batch.num_rows)
            yield row, batch

    def counted_write(self: Any, table: str, rows: Any) -> None:
        written.append(rows.num_rows)
        write_rows(self, table, rows)

    monkeypatch.setattr(table_files.TableFile, "batches", counted_batches)
    monkeypatch.setattr(writer.DataDirectoryWriter, "write", counted_write)
    manifest = ingest(tmp_path, MAP.replace("parquet", "csv"))
    assert manifest.counts["events"] + manifest.dropped.get("duplicate_events", 0) == 4_000
    assert max(read) <= 200 and max(written) <= 1_000


def test_all_columns_of_events(tmp_path: pathlib.Path) -> None:
    columns = {"played": ["50", "", "150"], "own": ["true", "0", ""], "ms": ["1500", "0", ""]}
    write(
        tmp_path,
        "e.csv",
        csv({"u": [1, 1, 2], "i": [1, 2, 1], "r": [5, 2, 9], "s": ["train", "Valid", "test"]} | columns),
    )
    manifest = ingest(
        tmp_path,
        """
        dataset: d
        label_event: play
        repeats_recommendable: true
        events: {files: e.csv, user_id: u, item_id: i, order: r, play_ratio: played, play_ratio_whole: 100,
                 is_organic: own, item_length: ms, item_length_unit: ms, split: s}
        """,
    )
    assert not manifest.has_timestamps and manifest.has_splits and manifest.repeats_recommendable
    assert [tuple(row.values()) for row in events_of(tmp_path)] == [
        (1, 2, 2, None, False, None, "eval"),
        (1, 1, 5, 0.5, True, 1.5, "train"),
        (2, 1, 9, 1.5, None, None, "test"),
    ]
    assert manifest.repaired == {"item_length_zero_to_unknown": 1}
    assert manifest.noted["play_ratio_over_1"] == 1


def test_rows_can_be_the_order_and_files_the_split(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "train.txt", "1 7\n2 8\n1 6\n")
    write(tmp_path, "test.txt", "2 7\n1 9\n")
    mapping = """
        dataset: d
        label_event: play
        repeats_recommendable: false
        events: {files: {train: train.txt, test: test.txt}, header: [u, i], delimiter: " ",
                 user_id: u, item_id: i, order_of_rows: true}
        """
    ingest(tmp_path, mapping)
    events = [(row["user_id"], row["item_id"], row["split"]) for row in events_of(tmp_path)]
    assert events == [(1, 7, "train"), (1, 6, "train"), (1, 9, "test"), (2, 8, "train"), (2, 7, "test")]
    # The row numbers of a later span would restart at 0.
    with pytest.raises(UserError, match=r"columns\.yaml: key 'events\.order_of_rows' .* without --span"):
        ingest(tmp_path, mapping, span=3)


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        (["2021-03-04T05:06:07Z", "2021-03-04 07:06:07.9+02:00", "2021-03-04 05:06:07"], 1_614_834_367),
        (["2021-03-04", "2021-03-04T00:00", "2021-03-03T23:00:00-01:00"], 1_614_816_000),
        (["1614834367", "1614834367.5", "1.614834367e9"], 1_614_834_367),
    ],
)
def test_times_as_text(times: list[str], seconds: int, tmp_path: pathlib.Path) -> None:
    write(
        tmp_path,
        "events/e.csv",
        csv({"uid": [1, 2, 3], "film": [1, 1, 1], "at": times, "kind": ["view"] * 3}),
    )
    ingest(tmp_path, MAP.replace("parquet", "csv"))
    assert {row["timestamp"] for row in events_of(tmp_path)} == {seconds}


@pytest.mark.parametrize(
    "kind",
    [pa.timestamp("us"), pa.timestamp("ns", "Asia/Tokyo"), pa.timestamp("s"), pa.float64(), pa.date64()],
)
def test_times_as_parquet_has_them(kind: pa.DataType, tmp_path: pathlib.Path) -> None:
    days = pa.array(np.array([1, 2, 3]) * 86_400)
    days = days.cast(kind) if kind == pa.float64() else days.cast(pa.timestamp("s")).cast(kind)
    write(tmp_path, "events/a.parquet", {"uid": [1, 2, 3], "film": [1] * 3, "at": days, "kind": ["view"] * 3})
    ingest(tmp_path)
    assert [row["timestamp"] for row in events_of(tmp_path)] == [86_400, 172_800, 259_200]


# ── Ids ─────────────────────────────────────────────────────────────────────────────────────────────────

TEXT_MAP = """
dataset: d
label_event: view
repeats_recommendable: true
events: {files: events.csv, user_id: user, item_id: item, timestamp: at}
items: {files: items.csv, item_id: id, title: name, artist_id: by, separator: "/"}
users: {files: users.csv, user_id: name}
"""


def text_source(folder: pathlib.Path) -> None:
    write(folder, "events.csv", "user,item,at\nzoe,b-2,5\nadam,a-1,6\nadam,b-2,7\n")
    write(folder, "items.csv", "id,name,by,year\nc-3,Sea,X/Y,1999\na-1,Land,Y,\n")
    write(folder, "users.csv", "name,age\nadam,33\nbill,44\n")


def by_text(rows: dict[int, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns rows by the text of their id, whose number is that of the text."""
    assert all(number == number_of(row["original_id"]) for number, row in rows.items())
    return {row["original_id"]: row for row in rows.values()}


def test_text_ids_become_the_numbers_of_their_texts(tmp_path: pathlib.Path) -> None:
    text_source(tmp_path)
    manifest = ingest(tmp_path, TEXT_MAP)
    assert verify(str(tmp_path / "data")) == manifest
    assert (manifest.user_ids, manifest.item_ids) == (TEXT, TEXT)
    assert {(row["user_id"], row["item_id"]) for row in events_of(tmp_path)} == {
        (number_of(user), number_of(item))
        for user, item in (("zoe", "b-2"), ("adam", "a-1"), ("adam", "b-2"))
    }
    items, users = by_text(items_of(tmp_path)), by_text(users_of(tmp_path))
    assert items["c-3"]["title"] == "Sea"
    assert items["c-3"]["artist_id"] == [number_of("X"), number_of("Y")]
    assert items["c-3"]["original_artist_id"] == ["X", "Y"]
    assert (items["a-1"]["artist_id"], items["a-1"]["year"], items["c-3"]["year"]) == (
        [number_of("Y")],
        None,
        1999,
    )
    assert (items["b-2"]["title"], items["b-2"]["artist_id"]) == (None, [])
    assert {text: row["age"] for text, row in users.items()} == {"zoe": None, "adam": 33, "bill": 44}
    assert manifest.repaired == {"items_added_to_catalog": 1}
    assert manifest.noted["users_not_described"] == 1


def test_another_order_of_rows_gives_the_same_numbers(tmp_path: pathlib.Path) -> None:
    text_source(tmp_path)
    ingest(tmp_path, TEXT_MAP)
    items, users = items_of(tmp_path), users_of(tmp_path)
    write(tmp_path, "events.csv", "user,item,at\nadam,b-2,7\neve,d-4,9\nadam,a-1,6\nzoe,b-2,5\n")
    ingest(tmp_path, TEXT_MAP)
    assert items.items() <= items_of(tmp_path).items()
    assert users.items() <= users_of(tmp_path).items()


def test_a_later_span_keeps_the_numbers(tmp_path: pathlib.Path) -> None:
    text_source(tmp_path)
    ingest(tmp_path, TEXT_MAP, span=0)
    write(tmp_path, "events.csv", "user,item,at\neve,d-4,90000\nzoe,a-1,90001\n")
    write(tmp_path, "items.csv", "id,name,by,year\nd-4,Sky,Z/X,2020\n")
    write(tmp_path, "users.csv", "name,age\neve,55\n")
    manifest = ingest(tmp_path, TEXT_MAP, span=1)
    assert verify(str(tmp_path / "data")) == manifest
    items, users = by_text(items_of(tmp_path)), by_text(users_of(tmp_path))
    assert set(items) == {"a-1", "b-2", "c-3", "d-4"}
    assert set(users) == {"zoe", "adam", "bill", "eve"}
    assert (items["a-1"]["title"], items["d-4"]["artist_id"]) == ("Land", [number_of("Z"), number_of("X")])


def test_two_texts_of_one_number_are_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes a poor hash for the good one, of which no two equal numbers are known."""
    text_source(tmp_path)
    monkeypatch.setattr(text_ids, "numbers_of", lambda texts: np.array([len(text) for text in texts]))
    said = refused(tmp_path, TEXT_MAP)
    assert re.search(r"events.csv: column 'item': the ids 'b-2' and 'a-1' have the same number, 3", said), (
        said
    )
    # A later span meets the texts of the earlier ones.
    write(tmp_path, "events.csv", "user,item,at\nzoe,b-2,5\n")
    write(tmp_path, "items.csv", "id,name,by,year\nb-2,Sea,X,1999\n")
    write(tmp_path, "users.csv", "name,age\nzoe,33\n")
    ingest(tmp_path, TEXT_MAP, span=0)
    write(tmp_path, "events.csv", "user,item,at\nzoe,a-1,90000\n")
    write(tmp_path, "items.csv", "id,name,by,year\na-1,Sea,X,1999\n")
    with pytest.raises(UserError, match="the ids 'b-2' and 'a-1' have the same number"):
        ingest(tmp_path, TEXT_MAP, span=1)


def test_two_artists_of_one_number_are_refused_and_no_wrong_row(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "events.csv", "user,item,at\n1,1,5\n1,22,6\n")
    write(tmp_path, "items.csv", "id,name,by\n1,Sea,XY/Z\n22,Land,YX\n")
    monkeypatch.setattr(text_ids, "numbers_of", lambda texts: np.array([len(text) for text in texts]))
    mapping = TEXT_MAP.split("users:")[0] + "on_bad_rows: drop\n"
    assert "items.csv: column 'by': the ids 'XY' and 'YX' have the same number" in refused(tmp_path, mapping)


def test_a_later_span_keeps_the_kind_of_ids(tmp_path: pathlib.Path) -> None:
    text_source(tmp_path)
    ingest(tmp_path, TEXT_MAP, span=0)
    write(tmp_path, "events.csv", "user,item,at\n7,8,90000\n")
    write(tmp_path, "items.csv", "id,name,by,year\n8,Sky,Z/X,2020\n")
    write(tmp_path, "users.csv", "name,age\n7,55\n")
    ingest(tmp_path, TEXT_MAP, span=1)
    assert {"7", "zoe"} <= set(by_text(users_of(tmp_path))) and "8" in by_text(items_of(tmp_path))
    shutil.rmtree(tmp_path / "data")
    ingest(tmp_path, TEXT_MAP, span=0)
    text_source(tmp_path)
    with pytest.raises(UserError, match="or ingest all spans into another place with 'user_id_type: text'"):
        ingest(tmp_path, TEXT_MAP, span=1)


def test_an_id_that_is_not_of_its_text_is_found(tmp_path: pathlib.Path) -> None:
    text_source(tmp_path)
    ingest(tmp_path, TEXT_MAP)
    (path,) = item_files(str(tmp_path / "data"))
    for texts, said in (
        (["b-2", "x", "c-3"], "row [012]: x is not the text of item_id"),
        (["b-2", None, "c-3"], "is no text of an id"),
    ):
        table = pq.read_table(path)
        place = table.column_names.index("original_id")
        rows = dict(zip(map(number_of, ("b-2", "a-1", "c-3")), texts, strict=True))
        column = pa.array([rows[number] for number in table["item_id"].to_pylist()], pa.string())
        pq.write_table(table.set_column(place, "original_id", column), path)
        with pytest.raises(UserError, match=said):
            _verify_texts_of_ids(path, "item_id")


def test_an_empty_text_is_no_id(tmp_path: pathlib.Path) -> None:
    """Requests know it as padding."""
    write(tmp_path, "events/a.parquet", {**EVENTS, "film": ["a", "b", "", "d", "e"]})
    assert "events/a.parquet: column 'film', row 2" in refused(tmp_path)


def test_ids_can_be_declared_text(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "events/a.csv", "uid,film,at\n007,1,5\n7,x,6\n")
    mapping = MAP.replace("parquet", "csv").replace("  event_type: kind\n", "")
    ingest(tmp_path, mapping)
    assert set(by_text(users_of(tmp_path))) == {"007", "7"}
    write(tmp_path, "events/a.csv", "uid,film,at\n8,1,5\n7,2,6\n")
    manifest = ingest(tmp_path, mapping + "user_id_type: text\n")
    assert set(by_text(users_of(tmp_path))) == {"8", "7"}
    assert "original_id" not in items_of(tmp_path)[1]
    assert (manifest.user_ids, manifest.item_ids) == (TEXT, INTEGER)


# ── Items and users ─────────────────────────────────────────────────────────────────────────────────────


def test_other_columns_are_kept(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "events/a.parquet", EVENTS)
    write(
        tmp_path,
        "films/a.parquet",
        {
            "film": [10, 11],
            "genres": [["Drama", " "], None],
            "seconds": [0, 90],
            "out": pa.array([0, -86_400], pa.timestamp("s")),
            "there": [True, False],
            "studio": pa.array(["A", "B"]).dictionary_encode(),
            "stars": pa.array([3, 4], pa.int8()),
            "profile": pa.array([[1, 2], [3, 4]], pa.list_(pa.float64(), 2)),
            "nothing": pa.nulls(2),
        },
    )
    # The same columns with wider numbers.
    table = pq.read_table(tmp_path / "source/films/a.parquet")
    write(
        tmp_path,
        "films/b.parquet",
        {name: table[name] for name in table.column_names} | {"film": [11, 12], "stars": [300, 5]},
    )
    write(tmp_path, "people.csv", 'id,age,zip,score,note\n1,44,01234,2.5,"a, b\nc"\n2,,x,3,\n1,9,9,9,9\n')
    mapping = (
        MAP + "items: {files: films/*.parquet, item_id: film, tags: genres, item_length: seconds,"
        " release_timestamp: out, available: there}\nusers: {files: people.csv, user_id: id}\n"
    )
    manifest = ingest(tmp_path, mapping)
    assert verify(str(tmp_path / "data")) == manifest
    items = items_of(tmp_path)
    assert items[10] == {
        "item_id": 10,
        "item_length": None,
        "release_timestamp": 0,
        "tags": ["Drama"],
        "available": True,
        "studio": "A",
        "stars": 3,
        "profile": [1.0, 2.0],
    }
    assert (items[11]["tags"], items[11]["item_length"], items[11]["release_timestamp"]) == ([], 90, -86_400)
    assert (items[11]["profile"], items[12]["stars"]) == ([3, 4], 5)
    assert manifest.dropped == {"duplicate_events": 1, "duplicate_items": 1, "duplicate_users": 1}
    assert manifest.noted["columns_without_values"] == 1
    assert users_of(tmp_path) == {
        1: {"user_id": 1, "age": 44, "zip": "01234", "score": 2.5, "note": "a, b\nc"},
        2: {"user_id": 2, "age": None, "zip": "x", "score": 3.0, "note": None},
    }
    # A user of the events who is not described gets no row.
    assert manifest.noted["users_not_described"] == 1
    ingest(tmp_path, mapping.replace("user_id: id", "user_id: id, keep: {age: text}"))
    assert users_of(tmp_path)[1] == {"user_id": 1, "age": "44"}


def embedded(folder: pathlib.Path, vectors: dict[int, Any] | str, mapping: str = "") -> Manifest:
    """Ingests events of films 10, 11 and 12, a list of films 10 and 13, and a file of embeddings."""
    write(folder, "events/a.parquet", EVENTS)
    write(folder, "films.csv", "id,name\n13,Rope\n10,Vertigo\n")
    if isinstance(vectors, str):
        write(folder, "vectors.csv", vectors)
    else:
        values = pa.array(vectors.values(), pa.list_(pa.float32()))
        write(folder, "vectors.parquet", {"id": list(vectors), "v": values})
    name = "vectors.csv" if isinstance(vectors, str) else "vectors.parquet"
    items = "items: {files: films.csv, item_id: id, title: name}\n"
    return ingest(
        folder, mapping or MAP + items + f"embeddings: {{files: {name}, item_id: id, embedding: v}}\n"
    )


@pytest.mark.parametrize(
    "vectors",
    [{11: [1, 0], 99: [1, 1], 13: [0, 1], 12: None}, 'id,v\n11,"[1, 0]"\n99,"1,1"\n13,"[0,1.0]"\n12,\n'],
)
def test_items_that_miss_a_vector_are_counted(vectors: dict[int, Any] | str, tmp_path: pathlib.Path) -> None:
    manifest = embedded(tmp_path, vectors)
    assert verify(str(tmp_path / "data")) == manifest
    items = {number: (row["title"], row["embedding"]) for number, row in items_of(tmp_path).items()}
    assert items == {
        11: (None, [1, 0]),
        13: ("Rope", [0, 1]),
        10: ("Vertigo", [0, 0]),
        12: (None, [0, 0]),
    }
    assert manifest.has_embedding == 2
    assert manifest.noted["items_without_embedding"] == 2
    assert manifest.noted["embeddings_of_unknown_items"] == 1
    assert manifest.repaired == {"items_added_to_catalog": 2}


def test_vectors_among_the_items_are_the_same(tmp_path: pathlib.Path) -> None:
    expected = embedded(tmp_path / "a", {13: [1, 0], 10: [0, 1]})
    write(tmp_path / "b", "events/a.parquet", EVENTS)
    write(tmp_path / "b", "films.csv", "id,name,v\n13,Rope,1 0\n10,Vertigo,0  1\n")
    manifest = ingest(
        tmp_path / "b",
        MAP + 'items: {files: films.csv, item_id: id, title: name, embedding: v, separator: " "}\n',
    )
    assert manifest.digest == expected.digest
    assert manifest.noted["items_without_embedding"] == expected.noted["items_without_embedding"] == 2


def test_without_a_list_of_items_the_vectors_are_one(tmp_path: pathlib.Path) -> None:
    text = MAP + "embeddings: {files: vectors.parquet, item_id: id, embedding: v}\n"
    manifest = embedded(tmp_path, {99: [1, 1], 10: [0, 1]}, text)
    assert sorted(items_of(tmp_path)) == [10, 11, 12, 99]
    assert manifest.noted["items_without_embedding"] == 2 and not manifest.repaired


@pytest.mark.parametrize(
    ("vectors", "told"),
    [
        (
            {1: [1, 0], 2: [1, 0], 3: [1]},
            "column 'v', row 2: an embedding of width 1 where the others have width 2",
        ),
        ({1: [1, 0], 2: [1, float("nan")]}, "column 'v', row 1: nan is not a finite number"),
        ({1: None, 2: [1, float("inf")]}, "column 'v', row 1: inf is not a finite number"),
        ({1: None}, "column 'v' has no embeddings"),
        ('id,v\n1,"1,2"\n1,"3,4"\n', "column 'id', row 1: 1 has a 'v' already"),
        ('id,v\n1,"1,2"\n2,"3,x"\n', "column 'v', row 1: 'x' is no number; ',' separates"),
        ('id,v\n1,"1,2"\n,"3,4"\n', "column 'id', row 1: null is no value here"),
    ],
)
def test_bad_vectors_are_named(vectors: dict[int, Any] | str, told: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=told) as found:
        embedded(tmp_path, vectors)
    assert "vectors." in str(found.value)


# ── Bad input ───────────────────────────────────────────────────────────────────────────────────────────


def changed(**columns: Any) -> dict[str, Any]:
    return EVENTS | columns


@pytest.mark.parametrize(
    ("events", "told"),
    [
        (
            {"uid": [1], "film": [1], "ta": [1], "kind": ["view"]},
            "'at' is missing; the nearest is 'ta' of uid, film, ta, kind",
        ),
        (
            {"uid": [1], "film": [1], "at": [1], "kinds": ["view"]},
            "'kind' is missing; the nearest is 'kinds'",
        ),
        (changed(uid=[1, None, 1, 1, 1]), "column 'uid', row 1: null is no value"),
        (changed(film=[1, 1, -4, 1, 1]), "column 'film', row 2: -4 is no id: ids are 0 or more"),
        (
            changed(uid=[1.0, 2.0, 3.5, 4.0, 5.0]),
            "column 'uid' holds numbers with decimal points .*, but ids must be whole",
        ),
        (
            changed(uid=pa.array([2**63] * 5, pa.uint64())),
            "9223372036854775808 is no integer here.* set 'user_id_type: text'",
        ),
        (changed(at=[1, None, 1, 1, 1]), "column 'at', row 1: null is no time"),
        (changed(at=[1, 1, 1, -5, 1]), "column 'at', row 3: -5 is a negative time"),
        (
            changed(at=[1, 1, 1, 1, 1_614_834_367_000]),
            "row 4: 1614834367000 looks like milli.* by 1,000, or set 'timestamp_unit: ms'",
        ),
        (
            changed(at=[1, 1, 1, 1, 10**17 * 16]),
            "looks like nano.* by 1,000,000,000, or set 'timestamp_unit: ns'",
        ),
        (changed(at=[1.0, float("nan"), 1.0, 1.0, 1.0]), "column 'at', row 1: nan is no time"),
        (changed(at=[[1]] * 5), "column 'at' has type list<item: int64>, but needs time"),
        (changed(film=[[1]] * 5), "column 'film' holds list of integer, but ids must be"),
        (changed(kind=[[1]] * 5), "column 'kind' has type list<item: int64>, but needs text"),
        (
            changed(kind=["seen", None, "heard", "seen", "seen"]),
            "has no event of type 'view'.* its types are 'heard', 'seen'",
        ),
        (pa.table(EVENTS).slice(0, 0).to_pydict(), "the file has no events"),
    ],
)
def test_bad_events_are_named(events: dict[str, Any], told: str, tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, "events/a.parquet", events)
    message = refused(tmp_path)
    assert re.search(told, message, re.DOTALL), message
    assert str(path) in message or "no event of type" in message


def cut_parquet(folder: pathlib.Path) -> None:
    path = write(folder, "events/a.parquet", random_events())
    path.write_bytes(path.read_bytes()[:-2_000])


def cut_gzip(folder: pathlib.Path) -> None:
    write(folder, "events/a.csv", gzip.compress(csv(random_events()).encode())[:-2_000])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "Empty CSV file"),
        ("uid,film,at,kind\n1,1,1,view\n2,2,2\n", "row 1: 3 fields, but there are 4 columns: '2,2,2'"),
        ("uid,film,at,kind\n1,1,1,view\n2,2,2,view,5\n", "row 1: 5 fields, but there are 4 columns"),
        ('uid,film,at,kind\n1,1,1,"vi\new"\n2,2,x,view\n', "column 'at', row 1: 'x' is no number"),
        ("uid,film,at,kind\n1,1,1,view\n2,2,0x1F,view\n", "column 'at', row 1: '0x1F' is no number"),
        ("uid,film,at,kind\n1,1,2020-01-01,view\n2,2,5,view\n", "row 1: '5' is no time: use ISO 8601"),
        ("uid,film,at,kind\n1,1,2020-01-01,view\n2,2,2020-13-01,view\n", "row 1: '2020-13-01' is no time"),
        ("uid,film,at,kind\n1,1,2200-01-01,view\n", "row 0: '2200-01-01' is after the year 2100"),
        ("uid,film,at,kind\n1,1,1,view\n,2,2,view\n", "column 'uid', row 1: null is no value"),
        ("uid,film,at,kind\n1,1,1,view\n-2,2,2,view\n", "column 'uid', row 1: -2 is no id"),
        ("uid,film,at,kind\n1,1,1,view\n2,2,,view\n", "column 'at', row 1: null is no time"),
        (
            "uid,film,at,kind\n1,1,1,view\n2,2,1614834367000,view\n",
            "row 1: '1614834367000' looks like milli.* 1,000",
        ),
        ("uid;film;at;kind\n1;1;1;view\n", "'uid' is missing.* Check 'delimiter' in the column map"),
        ("uid,film,at,kind,at\n1,1,1,view,2\n", "two columns have the name 'at'"),
        (
            'uid,film,at,kind\n1,1,1,"view\n2,2,2,view\n3,3,3,view\n',
            "row 0: the quote that opens field 4",
        ),
        (b"uid,film,at,kind\n1,1,1,view\n2,2,2,vi\xebw\n", "column 'kind', row 1: not UTF-8: convert"),
        (b"uid,film,at,k\xefnd\n1,1,1,view\n", "byte 0xef is not UTF-8"),
        ("uid,film,at,kind\n1,1,1,view\n".encode("utf-16"), "the file is in UTF-16: set 'encoding: utf-16'"),
    ],
)
def test_bad_csv_is_named(text: str | bytes, told: str, tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, "events/a.csv", text)
    message = refused(tmp_path, MAP.replace("parquet", "csv"))
    assert re.search(told, message), message
    assert str(path) in message


@pytest.mark.parametrize(
    ("damage", "told"), [(cut_parquet, "not a whole Parquet file"), (cut_gzip, "cannot be read to its end")]
)
def test_cut_files_are_named(
    damage: Callable[[pathlib.Path], None], told: str, tmp_path: pathlib.Path
) -> None:
    damage(tmp_path)
    message = refused(tmp_path, MAP.replace("*.parquet", "a.*"))
    assert told in message and "events/a." in message


def test_quotes_and_line_ends_within_fields_are_kept(tmp_path: pathlib.Path) -> None:
    kinds = ["view", 'a "quoted", one', "two\nlines", "three\r\n\nlines", "view"]
    write(tmp_path, "events/a.csv", csv(changed(kind=kinds, at=[1, 2, 3, 4, 5])))
    ingest(tmp_path, MAP.replace("parquet", "csv"))
    assert sorted(row["event_type"] for row in events_of(tmp_path)) == sorted(kinds)


def test_rows_are_counted_over_batches(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "_BLOCK_BYTES", 4_096)
    monkeypatch.setattr(table_files, "_BATCH_ROWS", 100)
    events = random_events()
    events["at"] = events["at"].astype(object)
    events["at"][3_210] = "soon"
    write(tmp_path, "events/a.csv", csv(events))
    assert "column 'at', row 3210: 'soon' is no number" in refused(tmp_path, MAP.replace("parquet", "csv"))


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ({"at": [1] * 5}, {"at": ["1"] * 5}, "column 'at' holds text, but integer in"),
        ({"kind": ["view"] * 5}, {"kind": [1] * 5}, "column 'kind' holds integer, but text in"),
        (
            {"uid": [1] * 5},
            {"uid": ["1"] * 5},
            "column 'uid' holds text, but integer in .* set 'user_id_type: text'",
        ),
        ({"uid": [1] * 5}, "uid,film,at,kind\nx,1,1,view\n", "column 'uid' holds text, but integer in"),
        (
            "uid,film,at,kind\n1,1,1,view\n",
            "uid,film,at,kind\n1,1,2020-01-01,view\n",
            "'at' holds text, but number in",
        ),
    ],
)
def test_a_column_of_two_types_is_refused_with_both_files(
    one: dict[str, Any] | str, other: dict[str, Any] | str, told: str, tmp_path: pathlib.Path
) -> None:
    paths = [
        write(tmp_path, f"events/{name}", content if isinstance(content, str) else EVENTS | content)
        for name, content in (("a", one), ("b", other))
    ]
    message = refused(tmp_path, MAP.replace("*.parquet", "*"))
    assert re.search(told, message), message
    assert all(str(path) in message for path in paths)


def test_ids_of_two_types_are_told_by_the_name_that_each_file_has(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "events/a.parquet", EVENTS)
    write(tmp_path, "films.csv", "id\ntt7\n")
    message = refused(tmp_path, MAP + "items: {files: films.csv, item_id: id}\n")
    assert "films.csv: column 'id' holds text, but integer in" in message
    assert "a.parquet" in message and "set 'item_id_type: text'" in message


def test_a_kept_column_of_two_types_is_refused_with_the_remedy(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "events/a.parquet", EVENTS)
    write(tmp_path, "people/a.csv", "id,zip\n1,123\n")
    write(tmp_path, "people/b.csv", "id,zip\n2,SW1\n")
    mapping = MAP + "users: {files: people/*.csv, user_id: id}\n"
    message = refused(tmp_path, mapping)
    assert "b.csv: column 'zip' holds text, but integer in" in message and "a.csv" in message
    assert "'users.keep: {zip: text}'" in message
    ingest(tmp_path, mapping.replace("user_id: id", "user_id: id, keep: {zip: text}"))
    assert [row["zip"] for row in users_of(tmp_path).values()] == ["123", "SW1"]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (
            {"id": [1], "title": ["x"]},
            "column 'title' has the name of a column with a meaning. If it has that meaning, set "
            "'items.title: title'",
        ),
        ({"id": [1], "extra": [{"a": 1}]}, "column 'extra' holds no numbers, text, booleans, times"),
        ({"id": [1], "by": ["-1"]}, ""),
    ],
)
def test_columns_that_cannot_be_kept(columns: dict[str, Any], told: str, tmp_path: pathlib.Path) -> None:
    write(tmp_path, "events/a.parquet", EVENTS)
    write(tmp_path, "films.parquet", columns)
    mapping = MAP + "items: {files: films.parquet, item_id: id}\n"
    if told:
        assert told in refused(tmp_path, mapping)
    else:
        ingest(tmp_path, mapping)
    assert not told or "films.parquet" in refused(tmp_path, mapping)


def test_a_bad_value_of_an_item_is_named_with_its_row(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "events/a.parquet", EVENTS)
    for text, key, told in (
        ("id,x\n1,5\n2,-5\n", "item_length", "column 'x', row 1: '-5' is not a number from 0 to"),
        ("id,x\n1,5|6\n2,7|-1\n", "artist_id", "column 'x', row 1: -1 is no id"),
        ("id,x\n1,true\n2,perhaps\n", "available", "column 'x', row 1: 'perhaps' is not one of true, false"),
        ("id,x\n1,1999-01-01\n2,spring\n", "release_timestamp", "column 'x', row 1: 'spring' is no time"),
        (
            "id,x\n1,1\n2,99999999999\n",
            "release_timestamp",
            "column 'x', row 1: '99999999999' is after the year 2100",
        ),
    ):
        write(tmp_path, "films.csv", text)
        mapping = MAP + f"items: {{files: films.csv, item_id: id, {key}: x, separator: '|'}}\n"
        assert told in refused(tmp_path, mapping)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("events/*.parquet", "event/*.parquet", r"event/\*.parquet: no file matches this pattern"),
        ("events/*.parquet", "events/b.parquet", "events/b.parquet: there is no such file"),
        ("events/*.parquet", "[events/*.parquet, events/a.parquet]", "names .*a.parquet twice"),
        ("  files: events/*.parquet\n", "", "key 'events.files' is missing, and .* is not a single file"),
    ],
)
def test_missing_files_are_named(before: str, after: str, told: str, tmp_path: pathlib.Path) -> None:
    write(tmp_path, "events/a.parquet", EVENTS)
    assert re.search(told, refused(tmp_path, MAP.replace(before, after)))


def test_the_source_can_be_the_one_file_of_the_events(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, "events/a.parquet", EVENTS)
    expected = ingest(tmp_path).digest
    mapping = tmp_path / "columns.yaml"
    mapping.write_text(MAP.replace("  files: events/*.parquet\n", ""))
    found = FORMATS["table"](str(path), str(tmp_path / "other"), columns=str(mapping))
    assert found.digest == expected
    with pytest.raises(UserError, match="needs a column map: --columns FILE"):
        FORMATS["table"](str(tmp_path / "source"), str(tmp_path / "other"))
    (tmp_path / "source/columns.yaml").write_text(MAP)
    assert FORMATS["table"](str(tmp_path / "source"), str(tmp_path / "other")).digest == expected


def test_patterns(tmp_path: pathlib.Path) -> None:
    for name in ("a.csv", "x/b.csv", "x/y/c.csv", "x/y/c.csv.crc", "x/_a.csv"):
        write(tmp_path, name, "a\n")
    source = tmp_path / "source"

    def found(pattern: str) -> list[str]:
        return [
            str(pathlib.Path(path).relative_to(source))
            for path in table_files.find_files(str(source), pattern)
        ]

    assert found("*.csv") == ["a.csv"]
    assert found("**/?.csv") == ["a.csv", "x/b.csv", "x/y/c.csv"]
    assert found("x/**/c.csv") == ["x/y/c.csv"]
    assert found("*/b.csv") == ["x/b.csv"]
    assert found(f"{source}/x/b.*") == ["x/b.csv"]


def test_lists_of_dictionaries_are_read_over_row_groups(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "events/a.parquet", EVENTS)
    values = pa.array(["Drama", "Noir", "Drama"]).dictionary_encode()
    genres = pa.LargeListArray.from_arrays(pa.array([0, 2, 2, 3], pa.int64()), values)
    path = tmp_path / "source/films.parquet"
    pq.write_table(pa.table({"id": [10, 11, 12], "genres": genres, "moods": genres}), path, row_group_size=1)
    ingest(tmp_path, MAP + "items: {files: films.parquet, item_id: id, tags: genres}\n")
    items = items_of(tmp_path)
    assert [items[item]["tags"] for item in (10, 11, 12)] == [["Drama", "Noir"], [], ["Drama"]]
    assert [items[item]["moods"] for item in (10, 11, 12)] == [["Drama", "Noir"], [], ["Drama"]]


def test_files_behind_urls(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "events/a.parquet", EVENTS)
    write(tmp_path, "films.csv", "id,name\n10,Vertigo\n")
    mapping = MAP + "items: {files: films.csv, item_id: id, title: name}\n"
    expected = ingest(tmp_path, mapping).digest
    for file in ("events/a.parquet", "films.csv"):
        storage.upload(str(tmp_path / "source" / file), f"memory://table-reader/source/{file}")
    with storage.open_file("memory://table-reader/source/columns.yaml", "w") as columns:
        columns.write(mapping)
    assert FORMATS["table"]("memory://table-reader/source", str(tmp_path / "other")).digest == expected


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings_can_be_named(encoding: str, is_compressed: bool, tmp_path: pathlib.Path) -> None:
    kinds = ["view", "écoute", "view", "über", "view"]
    text = csv(changed(kind=kinds)).encode(encoding)
    write(tmp_path, "events/a.csv", gzip.compress(text) if is_compressed else text)
    mapping = MAP.replace("*.parquet", f"a.csv\n  encoding: {encoding}")
    ingest(tmp_path, mapping)
    assert {row["event_type"] for row in events_of(tmp_path)} == set(kinds)
    if encoding == "utf-16":
        return
    (tmp_path / "columns.yaml").unlink()
    shutil.rmtree(tmp_path / "data")
    assert "byte 38 (0xe9) is not ASCII" in refused(tmp_path, mapping.replace(encoding, "ascii"))


def test_a_text_file_is_read_from_disk_and_can_be_left(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stops reading early: Arrow's CSV reader would hang if Python served the file."""
    monkeypatch.setattr(table_files, "_BLOCK_BYTES", 4_096)
    path = write(tmp_path, "e.csv", csv(random_events()))
    storage.upload(str(path), "memory://table-reader/e.csv")
    file = table_files.inspect_file("memory://table-reader/e.csv", column_map.TextFormat(), str(tmp_path))
    assert pathlib.Path(file.local).read_bytes() == path.read_bytes()
    assert file.rows == 4_001
    for _ in range(50):
        assert next(file.batches(["uid"]))[1].num_rows


def test_an_open_quote_is_found_before_any_row_is_read(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, "e.csv", 'a,b\n1,"x\n2,y\n')
    with pytest.raises(UserError, match="row 0: the quote that opens field 2 does not close") as found:
        table_files.inspect_file(str(path), column_map.TextFormat(), str(tmp_path))
    assert str(path) in str(found.value)
