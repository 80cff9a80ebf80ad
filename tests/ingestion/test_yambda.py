from __future__ import annotations

import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from two_tower.base.errors import UserError
from two_tower.data_directory.manifest import Manifest, event_files, item_files
from two_tower.data_directory.verification import verify
from two_tower.ingestion import FORMATS, external_sort, yambda

# uid, item_id, timestamp, is_organic, played_ratio_pct, track_length_seconds, event_type
EVENTS = [
    (1, 10, 0, 1, 100, 200, "listen"),
    (1, 11, 5, 0, 150, 180, "listen"),
    (1, 12, 5, 0, 30, 60, "listen"),
    (1, 11, 5, 0, 150, 180, "listen"),  # a duplicate of the second row, not adjacent to it
    (1, 11, 5, 0, None, None, "like"),
    (1, 11, 10, 0, 150, 185, "listen"),
    (1, 11, 15, 0, 20, 185, "listen"),
    (2, 12, 5, 0, 30, 0, "listen"),
    (2, 10, 86_400, 1, None, None, "dislike"),
    (2, 10, 86_405, 1, None, None, "undislike"),
    (4_000_000_000, 99, 5, 1, 80, None, "listen"),
]
COLUMNS = {
    "uid": pa.uint32(),
    "item_id": pa.uint32(),
    "timestamp": pa.uint32(),
    "is_organic": pa.uint8(),
    "played_ratio_pct": pa.uint16(),
    "track_length_seconds": pa.uint32(),
    "event_type": pa.dictionary(pa.int32(), pa.string()),
}


def log(rows: list[tuple[Any, ...]], **types: pa.DataType) -> pa.Table:
    """Builds events with Yambda's columns and types."""
    kinds = COLUMNS | types
    values = zip(*rows, strict=True)
    return pa.table({n: pa.array(v, kinds[n]) for n, v in zip(kinds, values, strict=True)})


def mapping(owner: str, pairs: list[tuple[int, int]]) -> pa.Table:
    owners, items = zip(*pairs, strict=True)
    return pa.table({owner: pa.array(owners, pa.uint32()), "item_id": pa.array(items, pa.uint32())})


def vectors(rows: dict[int, list[float] | None], column: str = "normalized_embed") -> pa.Table:
    unused = pa.array([[9.0, 9.0]] * len(rows))
    table = pa.table({"item_id": pa.array(rows, pa.uint32()), "embed": unused})
    values = pa.array(rows.values(), pa.list_(pa.float64()))
    return table.set_column(1, "embed", values) if column == "embed" else table.append_column(column, values)


EMBEDDINGS: dict[int, list[float] | None] = {13: [0.6, 0.8], 11: [1.0, 0.0], 10: [0.0, 1.0]}


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "source"
    folder.mkdir()
    pq.write_table(log(EVENTS), folder / "multi_event.parquet")
    pq.write_table(vectors(EMBEDDINGS), folder / "embeddings.parquet")
    artists = mapping("artist_id", [(7, 10), (5, 10), (5, 11), (5, 10), (6, 14)])
    pq.write_table(artists, folder / "artist_item_mapping.parquet")
    pq.write_table(mapping("album_id", [(1, 10), (1, 11), (2, 12)]), folder / "album_item_mapping.parquet")
    return folder


def ingest(source: pathlib.Path, out: pathlib.Path, name: str | None = None) -> Manifest:
    return FORMATS["yambda"](str(source), str(out), name)


def rows_of(files: list[str]) -> list[dict[str, Any]]:
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def keys_of(out: pathlib.Path) -> list[tuple[Any, ...]]:
    keys = ("user_id", "item_id", "timestamp", "event_type")
    return [tuple(row[key] for key in keys) for row in rows_of(event_files(str(out)))]


UNIQUE = [(row[0], row[1], row[2], row[6]) for row in EVENTS[:3] + EVENTS[4:]]


def test_events_keep_order_and_lose_duplicates(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "data"
    manifest = ingest(source, out)
    assert verify(str(out)) == manifest
    assert (manifest.dataset, manifest.label_event, manifest.repeats_recommendable) == (
        "yambda",
        "listen",
        True,
    )
    assert keys_of(out) == UNIQUE
    assert manifest.counts == {"events": 10, "label_events": 7, "users": 3, "items": 6, "user_rows": 0}
    assert manifest.time_range == (0, 15)
    events = rows_of(event_files(str(out)))
    assert [row["play_ratio"] for row in events[:4]] == pytest.approx([1.0, 1.5, np.float32(0.3), None])
    assert [row["is_organic"] for row in events[:2]] == [True, False]
    assert [row["item_length"] for row in events[:4]] == [200.0, 180.0, 60.0, None]
    assert manifest.dropped == {"duplicate_artist_mappings": 1, "duplicate_events": 1}
    assert manifest.repaired == {
        "item_length_zero_to_unknown": 1,
        "items_added_to_catalog": 1,
    }
    assert manifest.noted == {"items_without_embedding": 3, "play_ratio_over_1": 2, "users_with_one_event": 1}


def test_catalog_is_the_union_of_all_that_names_an_item(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "data"
    names = {"item_id": [10, 13, 14], "title": ["Tides", "Ash", "Oh"], "artist": ["Vela", None, None]}
    names |= {"track_length_seconds": [201, 95, 0]}
    pq.write_table(pa.table(names), source / "names.parquet")
    manifest = ingest(source, out)
    assert manifest.repaired["item_length_zero_to_unknown"] == 2  # one of an event
    assert manifest.has_embedding == 2
    items = {row["item_id"]: row for row in rows_of(item_files(str(out)))}
    assert sorted(items) == [10, 11, 12, 13, 14, 99]
    assert [items[i]["artist_id"] for i in (10, 11, 12, 14)] == [[5, 7], [5], [], [6]]
    assert [items[i]["album_id"] for i in (10, 11, 12, 14)] == [[1], [1], [2], []]
    # The lengths of names.parquet alone, whatever the events say.
    assert [items[i]["item_length"] for i in (10, 11, 13, 14, 99)] == [201, None, 95, None, None]
    assert [items[i]["title"] for i in (10, 11, 13)] == ["Tides — Vela", None, "Ash"]
    assert items[13]["embedding"] == pytest.approx([0.6, 0.8])
    assert items[99]["embedding"] == [0, 0]


def test_separate_files_give_the_same_events(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    ingest(source, tmp_path / "multi")
    table = pq.read_table(source / "multi_event.parquet")
    (source / "multi_event.parquet").unlink()
    kinds = np.array(table["event_type"].to_pylist())
    for kind in ("listen", "like", "dislike", "undislike"):
        rows = table.filter(pa.array(kinds == kind)).drop(["event_type"])
        if kind != "listen":
            rows = rows.drop(["played_ratio_pct", "track_length_seconds"])
        pq.write_table(rows, source / f"{kind}s.parquet")
    manifest = ingest(source, tmp_path / "data")
    assert sorted(keys_of(tmp_path / "data")) == sorted(UNIQUE)
    assert keys_of(tmp_path / "data")[:7] == [key for key in UNIQUE if key[3] == "listen"]
    assert manifest.dropped["duplicate_events"] == 1
    # With multi_event.parquet the single files are not read.
    pq.write_table(table, source / "multi_event.parquet")
    assert ingest(source, tmp_path / "again").digest == Manifest.load(str(tmp_path / "multi")).digest


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 1000])
@pytest.mark.parametrize("part_rows", [4, 1000])
def test_batches_and_order_of_the_file_do_not_matter(
    source: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    batch_rows: int,
    part_rows: int,
) -> None:
    expected = ingest(source, tmp_path / "whole").digest
    read = yambda.checked_columns.read_batches

    def small(path: str, columns: list[str] | None = None, rows: int = 0) -> Any:
        return read(path, columns, batch_rows)

    monkeypatch.setattr(yambda.checked_columns, "read_batches", small)
    assert ingest(source, tmp_path / "sorted").digest == expected

    monkeypatch.setattr(external_sort, "_PARTITION_ROWS", part_rows)
    shuffled = [EVENTS[i] for i in np.random.default_rng(3).permutation(len(EVENTS))]
    pq.write_table(log(shuffled), source / "multi_event.parquet")
    manifest = ingest(source, tmp_path / "shuffled")
    assert sorted(keys_of(tmp_path / "shuffled")) == sorted(UNIQUE)
    assert manifest.noted["event_files_not_in_order"] == 1
    assert manifest.dropped["duplicate_events"] == 1


def test_metadata_above_the_size_is_found_and_cut_to_it(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    size = source / "flat" / "50m"
    size.mkdir(parents=True)
    shutil.move(source / "multi_event.parquet", size)
    by_root, by_size = ingest(source, tmp_path / "a"), ingest(size, tmp_path / "b")
    assert by_root.digest == by_size.digest
    # Items 13 and 14 have no events here; they may belong to other sizes.
    assert {row["item_id"] for row in rows_of(item_files(str(tmp_path / "a")))} == {10, 11, 12, 99}
    assert by_root.noted["items_of_other_sizes_left_out"] == 2
    shutil.copytree(size, source / "flat" / "500m")
    with pytest.raises(UserError, match=r"several sizes.*50m.*500m|several sizes.*500m.*50m"):
        ingest(source, tmp_path / "c")


def test_identity_and_oracle_come_from_the_simulation(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (source / "simulation.json").write_text(json.dumps({"name": "simulated-7", "seed": 7}))
    (source / "oracle").mkdir()
    (source / "oracle" / "summary.json").write_text("{}")
    manifest = ingest(source, tmp_path / "data")
    assert manifest.dataset == "simulated-7"
    assert "oracle/summary.json" in [file.path for file in manifest.files]
    assert (tmp_path / "data" / "oracle" / "summary.json").read_text() == "{}"
    assert ingest(source, tmp_path / "data", "mine").dataset == "mine"
    (source / "simulation.json").write_text("[]")
    with pytest.raises(UserError, match=r"simulation\.json"):
        ingest(source, tmp_path / "data")


def test_one_changed_value_changes_the_digest(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    before = ingest(source, tmp_path / "a").digest
    again = FORMATS["yambda"](f"{source}{os.sep}", str(tmp_path / "b"))
    assert again.digest == before
    pq.write_table(vectors(EMBEDDINGS | {10: [0.0, 0.5]}), source / "embeddings.parquet")
    assert ingest(source, tmp_path / "b").digest != before


def test_events_alone_are_a_data_set(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for file in ("embeddings", "artist_item_mapping", "album_item_mapping"):
        (source / f"{file}.parquet").unlink()
    manifest = ingest(source, tmp_path / "data")
    assert verify(str(tmp_path / "data")).counts["items"] == 4
    assert manifest.has_embedding == 0
    assert "items_added_to_catalog" not in manifest.repaired


def changed(row: int, column: int, value: Any) -> list[tuple[Any, ...]]:
    rows = [list(event) for event in EVENTS]
    rows[row][column] = value
    return [tuple(event) for event in rows]


def renamed(table: pa.Table, old: str, new: str) -> pa.Table:
    return table.rename_columns([new if name == old else name for name in table.column_names])


SIGNED = {"uid": pa.int64(), "item_id": pa.int64(), "timestamp": pa.int64()}


@pytest.mark.parametrize(
    ("file", "table", "complaint"),
    [
        ("multi_event", log(EVENTS).drop(["timestamp"]), "column 'timestamp' is missing; .*uid,"),
        ("multi_event", log(EVENTS).drop(["event_type"]), "column 'event_type' is missing"),
        (
            "multi_event",
            log([(str(r[0]), *r[1:]) for r in EVENTS], uid=pa.string()),
            "'uid' is of type string",
        ),
        ("multi_event", log(changed(2, 0, None)), "'uid', row 2: null"),
        ("multi_event", log(changed(7, 1, None)), "'item_id', row 7: null"),
        ("multi_event", log(changed(7, 1, -1), **SIGNED), "'item_id', row 7: -1"),
        ("multi_event", log(changed(5, 2, -10), **SIGNED), "'timestamp', row 5: -10"),
        ("multi_event", log(changed(8, 2, 26 * 10**9), **SIGNED), r"row 8: 26000000000 .*milli.* 1,000\."),
        ("multi_event", log(changed(4, 2, 10**30 // 10**12), **SIGNED), "row 4: 1000000000000000000"),
        ("multi_event", log(changed(4, 6, "skip")), "'event_type', row 4: 'skip'"),
        ("multi_event", log(changed(4, 6, None)), "'event_type', row 4: null"),
        ("multi_event", log(changed(3, 4, -5), played_ratio_pct=pa.int16()), "'played_ratio_pct', row 3: -5"),
        ("multi_event", log(changed(6, 3, 2)), "'is_organic', row 6: 2 is neither 0 nor 1"),
        (
            "multi_event",
            log(changed(6, 4, 1e300), played_ratio_pct=pa.float64()),
            r"'played_ratio_pct', row 6: 1e\+300 is not a number from 0 to 1,000,000",
        ),
        (
            "multi_event",
            log(changed(6, 4, 2**60), played_ratio_pct=pa.int64()),
            "'played_ratio_pct', row 6: 1.15.*e.18 is not a number from 0 to",
        ),
        (
            "multi_event",
            log(changed(6, 3, 2**63), is_organic=pa.uint64()),
            "'is_organic', row 6: 9223372036854775808 is neither 0 nor 1",
        ),
        (
            "names",
            pa.table({"item_id": [10], "title": ["x"], "release_timestamp": pa.array([2**63], pa.uint64())}),
            "'release_timestamp' has a value beyond int64",
        ),
        (
            "multi_event",
            log(changed(1, 5, float("nan")), track_length_seconds=pa.float64()),
            "'track_length_seconds', row 1: nan is not a number",
        ),
        (
            "multi_event",
            renamed(log(EVENTS), "is_organic", "IS_ORGANIC"),
            "'IS_ORGANIC' is not read: only 'is_o",
        ),
        ("multi_event", renamed(log(EVENTS), "is_organic", "uid"), "two columns have the name 'uid'"),
        (
            "embeddings",
            renamed(vectors(EMBEDDINGS), "normalized_embed", "Normalized_Embed"),
            "'Normalized_Embed'",
        ),
        (
            "names",
            pa.table({"item_id": [10], "title": ["x"], "ARTIST": ["y"]}),
            "column 'ARTIST' is not read",
        ),
        ("multi_event", log(EVENTS).slice(0, 0), "multi_event.parquet: the file has no listens"),
        ("multi_event", log(EVENTS[8:10]), "multi_event.parquet: the file has no listens"),
        ("embeddings", vectors(EMBEDDINGS | {11: [1.0, 0.0, 0.0]}), "'normalized_embed', row 1: .*width 3"),
        ("embeddings", vectors(EMBEDDINGS | {10: None}), "'normalized_embed', row 2: null"),
        ("embeddings", vectors(EMBEDDINGS | {11: [float("nan"), 0]}), "'normalized_embed', row 1: nan"),
        ("embeddings", vectors(EMBEDDINGS | {11: [0, float("inf")]}, "embed"), "'embed', row 1: inf"),
        ("embeddings", vectors({10: []}), "empty lists"),
        ("embeddings", vectors(EMBEDDINGS).select(["item_id"]), "column 'embed' is missing"),
        ("embeddings", pa.concat_tables([vectors(EMBEDDINGS)] * 2), "'item_id', row 5: 10 "),
        ("artist_item_mapping", mapping("artist", [(1, 10)]), "column 'artist_id' is missing"),
        ("names", pa.table({"item_id": [10], "title": [3]}), "'title' is of type int64, where text"),
        (
            "names",
            pa.table(
                {"item_id": [10, 11], "title": ["x", "y"], "track_length_seconds": [60.0, float("inf")]}
            ),
            "'track_length_seconds', row 1: inf is not a number",
        ),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    source: pathlib.Path, tmp_path: pathlib.Path, file: str, table: pa.Table, complaint: str
) -> None:
    path = source / f"{file}.parquet"
    pq.write_table(table, path)
    with pytest.raises(UserError, match=complaint) as error:
        ingest(source, tmp_path / "data")
    assert str(path) in str(error.value)
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize("file", ["multi_event", "embeddings", "album_item_mapping"])
def test_truncated_files_are_named(source: pathlib.Path, tmp_path: pathlib.Path, file: str) -> None:
    path = source / f"{file}.parquet"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", whole[:100] + bytes(400) + whole[500:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{file}\.parquet: not a whole Parquet file"):
            ingest(source, tmp_path / "data")
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize(
    "file", ["multi_event", "likes", "embeddings", "artist_item_mapping", "album_item_mapping", "names"]
)
def test_a_folder_or_a_broken_link_is_no_absent_file(
    source: pathlib.Path, tmp_path: pathlib.Path, file: str
) -> None:
    """Writes a folder of parts in the file's place, as Spark does, and a link to nothing."""
    if file == "likes":
        (source / "multi_event.parquet").rename(source / "listens.parquet")
    path = source / f"{file}.parquet"
    path.unlink(missing_ok=True)
    path.mkdir()
    pq.write_table(pa.table({"item_id": [10]}), path / "part-00000.parquet")
    with pytest.raises(UserError, match=f"{path} is a folder, and the reader needs one file"):
        ingest(source, tmp_path / "data")
    shutil.rmtree(path)
    path.symlink_to(source / "gone.parquet")
    with pytest.raises(UserError, match=f"{path}: a link to {source}/gone.parquet, which does not exist"):
        ingest(source, tmp_path / "data")
    assert os.listdir(tmp_path) == ["source"]


def test_a_folder_without_events_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"multi_event\.parquet nor listens\.parquet"):
        ingest(tmp_path, tmp_path / "data")


# ── The sequential layout ───────────────────────────────────────────────────────────────────────────────


def sequential(events: pa.Table) -> pa.Table:
    """Converts events to one row of lists per user, like polars' group_by("uid", maintain_order=True)."""
    users, first, of_user = np.unique(events["uid"].to_numpy(), return_index=True, return_inverse=True)
    appearance = np.argsort(np.argsort(first))[of_user]
    rows = events.take(pa.array(np.argsort(appearance, kind="stable")))
    offsets = pa.array(np.append(0, np.cumsum(np.bincount(appearance))), pa.int64())
    columns = {"uid": pa.array(users[np.argsort(first)], pa.uint32())}
    for name in events.column_names[1:]:
        columns[name] = pa.LargeListArray.from_arrays(offsets, rows[name].combine_chunks())
    return pa.table(columns)


def test_sequential_and_flat_are_the_same_data(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    flat = ingest(source, tmp_path / "flat")
    table = pq.read_table(source / "multi_event.parquet")
    pq.write_table(sequential(table), source / "multi_event.parquet")
    manifest = ingest(source, tmp_path / "sequential")
    assert verify(str(tmp_path / "sequential")) == manifest
    assert manifest == flat
    # The separate files in turn.
    (source / "multi_event.parquet").unlink()
    kinds = np.array(table["event_type"].to_pylist())
    digests = []
    for layout in (lambda rows: rows, sequential):
        for kind in ("listen", "like", "dislike", "undislike"):
            rows = table.filter(pa.array(kinds == kind)).drop(["event_type"])
            rows = rows if kind == "listen" else rows.drop(["played_ratio_pct", "track_length_seconds"])
            pq.write_table(layout(rows), source / f"{kind}s.parquet")
        digests.append(ingest(source, tmp_path / "separate").digest)
    assert digests[0] == digests[1]


@pytest.mark.parametrize("is_sorted", [True, False])
@pytest.mark.parametrize("event_rows", [1, 37, 10**6])
def test_any_log_is_the_same_in_both_layouts(
    is_sorted: bool, event_rows: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yambda, "_EVENT_ROWS", event_rows)
    random = np.random.default_rng(event_rows)
    rows = 300
    # A few users have many events, most have few.
    user, time = random.zipf(1.5, rows) % 50, random.integers(0, 40, rows) * 5
    order = np.lexsort((time, user)) if is_sorted else np.argsort(time, kind="stable")
    kind = random.choice(["listen", "like"], rows, p=[0.8, 0.2])
    columns = (
        user,
        random.integers(0, 20, rows),
        time,
        random.integers(0, 2, rows),
        random.integers(0, 120, rows),
        random.integers(0, 300, rows),
        kind,
    )
    events = log([tuple(row) for row in zip(*(column[order].tolist() for column in columns), strict=True)])
    digests = set()
    for layout, table in (("flat", events), ("sequential", sequential(events))):
        folder = tmp_path / layout / "50m"
        folder.mkdir(parents=True)
        pq.write_table(table, folder / "multi_event.parquet", row_group_size=7)
        digests.add(ingest(folder, tmp_path / f"{layout}-data").digest)
    assert len(digests) == 1
    with pytest.raises(UserError, match="holds several sizes"):
        ingest(tmp_path, tmp_path / "data")
    shutil.rmtree(tmp_path / "flat")
    assert ingest(tmp_path, tmp_path / "data").digest in digests


def test_lists_are_read_a_few_users_at_a_time(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks that a batch holds about as many events as in the flat layout, however many users there are."""
    monkeypatch.setattr(yambda, "_EVENT_ROWS", 100)
    events = log([(user, item, item, 1, 50, 60, "listen") for user in range(60) for item in range(25)])
    pq.write_table(sequential(events), tmp_path / "multi_event.parquet")
    sizes = []
    convert = yambda._convert

    def counted(batch: pa.RecordBatch, *args: Any, **options: Any) -> pa.Table:
        sizes.append(batch.num_rows)
        return convert(batch, *args, **options)

    monkeypatch.setattr(yambda, "_convert", counted)
    assert ingest(tmp_path, tmp_path / "data").counts["events"] == 1_500
    assert max(sizes) <= 100 and len(sizes) == 15


def with_lists(table: pa.Table, name: str, lists: list[list[Any] | None]) -> pa.Table:
    kind = table.schema.field(name).type
    return table.set_column(table.column_names.index(name), name, pa.array(lists, kind))


@pytest.mark.parametrize(
    ("name", "lists", "told"),
    [
        ("timestamp", [[5, 6], [7]], "'timestamp', row 1: a list of 1 but the user's 'item_id' has 2"),
        ("item_id", [[5, 6], None], "column 'item_id', row 1: null is no list"),
        ("is_organic", [None, [1, 1]], "column 'is_organic', row 0: null is no list"),
        ("is_organic", [[0, 1], [1, 2]], "lists of row 1: column 'is_organic', row 1: 2 is neither 0 nor 1"),
        ("item_id", [[5, 6], [7, None]], "lists of row 1: column 'item_id', row 1: null is no value"),
        ("timestamp", [[5, 6], [None, 5]], "lists of row 1: column 'timestamp', row 0: null is no value"),
        (
            "event_type",
            [["listen", "seen"], ["like"] * 2],
            "lists of row 0: column 'event_type', row 1: 'seen'",
        ),
    ],
)
def test_bad_lists_are_named(
    name: str, lists: list[list[Any] | None], told: str, tmp_path: pathlib.Path
) -> None:
    rows = [(user, item, 5, 1, 50, 60, "listen") for user in (1, 2) for item in (7, 8)]
    table = sequential(log(rows, event_type=pa.string()))
    path = tmp_path / "multi_event.parquet"
    pq.write_table(with_lists(table, name, lists), path)
    with pytest.raises(UserError, match=told) as found:
        ingest(tmp_path, tmp_path / "data")
    assert str(path) in str(found.value)
    assert not (tmp_path / "data").exists()


def test_times_in_milliseconds_within_lists_are_named(tmp_path: pathlib.Path) -> None:
    rows = [(user, 7, time, 1, 50, 60, "listen") for user, time in ((1, 5), (2, 6), (2, 1_614_834_367_000))]
    pq.write_table(sequential(log(rows, timestamp=pa.int64())), tmp_path / "multi_event.parquet")
    with pytest.raises(UserError, match=r"lists of row 1: column 'timestamp', row 1: .* by 1,000"):
        ingest(tmp_path, tmp_path / "data")


@pytest.mark.parametrize(
    ("drop", "kinds", "told"),
    [
        ("timestamp", {}, "column 'timestamp' is missing; the file has uid, item_id"),
        (
            "",
            {"item_id": pa.string()},
            "column 'item_id' has type large_list<item: string>, but needs list of integer",
        ),
        ("", {"uid": pa.string()}, "column 'uid' has type string, but needs integer"),
    ],
)
def test_columns_that_are_no_lists_of_the_right_kind(
    drop: str, kinds: dict[str, pa.DataType], told: str, tmp_path: pathlib.Path
) -> None:
    table = sequential(log([(1, 7, 5, 1, 50, 60, "listen")]))
    table = table.drop([drop]) if drop else table
    for name, kind in kinds.items():
        kind = kind if name == "uid" else pa.large_list(kind)
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    pq.write_table(table, tmp_path / "multi_event.parquet")
    with pytest.raises(UserError, match=told):
        ingest(tmp_path, tmp_path / "data")


def test_days_of_a_log_can_be_ingested_as_spans(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    ingest(source, tmp_path / "whole")
    table = pq.read_table(source / "multi_event.parquet")
    days = table["timestamp"].to_numpy() // 86_400
    # A day without listens has no labels but is a span of the log.
    for day in (0, 1):
        pq.write_table(table.filter(pa.array(days == day)), source / "multi_event.parquet")
        if day:
            listen = table.slice(0, 1).set_column(2, "timestamp", pa.array([86_500], pa.uint32()))
            rows = pa.concat_tables([table.filter(pa.array(days == day)), listen.cast(table.schema)])
            pq.write_table(rows, source / "multi_event.parquet")
        manifest = FORMATS["yambda"](str(source), str(tmp_path / "data"), span=day)
    assert manifest.spans == (0, 1)
    assert manifest.counts["items"] == 6
    assert manifest.counts["events"] == 11
