"""Items and users whose columns stand in the rows of the events, as in shops' logs."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.ingestion.test_tabular import csv, ingest, items_of, users_of, write
from two_tower.data_directory import ingest_report
from two_tower.data_directory.description import describe
from two_tower.data_directory.description_text import render
from two_tower.ingestion import newest_rows
from two_tower.ingestion.newest_rows import NewestRows

MAP = """
dataset: shop
label_event: view
repeats_recommendable: true
events: {files: "log*", user_id: user_id, item_id: product_id, timestamp: event_time, event_type: event_type}
items: {files: "log*", item_id: product_id, tags: category_code, title: brand}
"""
# Product 2 changes its brand, and later loses it; its category is not always known.
LOG: dict[str, list[Any]] = {
    "event_time": [30, 10, 20, 40, 50, 60],
    "event_type": ["view", "cart", "view", "view", "view", "view"],
    "product_id": [1, 2, 2, 1, 2, 3],
    "category_id": [7, 8, None, 7, 8, 9],
    "category_code": ["a.b", "c", "c", "a.b", None, None],
    "brand": ["X", "new", "old", "X", None, None],
    "price": [1.5, 2.0, 3.0, 1.5, 2.0, 9.0],
    "user_id": [5, 5, 6, 6, 5, 5],
    "user_session": ["s1", "s2", "s3", "s4", "s5", "s6"],
    "city": ["Rome", "Rome", "Oslo", "Oslo", "Rome", "Rome"],
}
LOG["event_time"][1:3] = [20, 10]
ITEMS = {
    1: {"item_id": 1, "tags": ["a.b"], "title": "X", "category_id": 7, "city": None},
    2: {"item_id": 2, "tags": ["c"], "title": "new", "category_id": 8, "city": None},
    3: {"item_id": 3, "tags": [], "title": None, "category_id": 9, "city": "Rome"},
}


@pytest.mark.parametrize("form", ["csv", "parquet", "two files", "small merges", "times in UTC"])
def test_an_item_has_the_newest_values_of_its_events(
    form: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form == "two files":
        write(tmp_path, "log1.csv", csv({name: values[3:] for name, values in LOG.items()}))
        write(tmp_path, "log2.csv", csv({name: values[:3] for name, values in LOG.items()}))
    elif form == "times in UTC":
        times = [f"2019-10-01 00:00:{seconds - 1:02d} UTC" for seconds in LOG["event_time"]]
        write(tmp_path, "log", csv(LOG | {"event_time": times}))
    else:
        write(tmp_path, "log", LOG if form == "parquet" else csv(LOG))
    if form == "small merges":
        monkeypatch.setattr(newest_rows, "_PENDING_ROWS", 0)
    manifest = ingest(tmp_path, MAP)
    found = items_of(tmp_path)
    assert found == {key: {k: v for k, v in row.items() if k != "city"} for key, row in ITEMS.items()}
    assert not manifest.dropped
    assert manifest.noted == {
        "event_files_not_in_order": 2 if form == "two files" else 1,
        "events_within_an_hour": 6,
        "items_whose_'brand'_differs_(newest_taken)": 1,
        "items_whose_'city'_differs_(left_out)": 2,
        "items_whose_'price'_differs_(left_out)": 1,
        "items_whose_'user_session'_differs_(left_out)": 2,
    }
    told = ingest_report.render(manifest)
    assert "1 items whose 'brand' differs (newest taken)" in told
    assert "2 items whose 'user_session' differs (left out)" in told
    offered = render(describe(str(tmp_path / "data")))
    assert "features.items=tags" in offered
    assert "category_id" in offered
    for column in ("event_type", "user_session", "price", "event_time", "user_id"):
        assert column not in offered


def test_keep_takes_a_column_that_differs(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "log", csv(LOG))
    manifest = ingest(tmp_path, MAP.replace("title: brand", "keep: [price]"))
    assert {key: row["price"] for key, row in items_of(tmp_path).items()} == {1: 1.5, 2: 2.0, 3: 9.0}
    assert "category_id" not in manifest.columns["items"]
    assert manifest.noted["items_whose_'price'_differs_(newest_taken)"] == 1


def test_users_can_stand_in_the_events_too(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "log", csv(LOG))
    manifest = ingest(tmp_path, MAP + 'users: {files: "log*", user_id: user_id}\n')
    assert users_of(tmp_path) == {
        5: {"user_id": 5, "city": "Rome"},
        6: {"user_id": 6, "city": "Oslo"},
    }
    assert manifest.noted["users_whose_'user_session'_differs_(left_out)"] == 2
    # The items' and the events' columns are no columns of users.
    assert not any(
        "users_whose_'brand'" in name or "users_whose_'event_type'" in name for name in manifest.noted
    )


def test_without_times_the_last_row_is_the_newest(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "log", csv(LOG))
    ingest(tmp_path, MAP.replace("timestamp: event_time", "order_of_rows: true"))
    assert {key: row["title"] for key, row in items_of(tmp_path).items()} == {1: "X", 2: "old", 3: None}


def test_text_ids_and_values_of_a_wrong_type_are_told_by_row(tmp_path: pathlib.Path) -> None:
    log = LOG | {"product_id": ["p1", "p2", "p2", "p1", "p2", "p3"]}
    write(tmp_path, "log", csv(log))
    ingest(tmp_path, MAP)
    found = {row["original_id"]: row["title"] for row in items_of(tmp_path).values()}
    assert found == {"p1": "X", "p2": "new", "p3": None}
    log["price"] = [1, 2, 3, 4, "much", 5]
    write(tmp_path, "log", csv(log))
    with pytest.raises(Exception, match="column 'price', row 4: 'much' is no number"):
        ingest(tmp_path, MAP.replace("title: brand", "keep: {price: number}"))


def test_items_with_files_of_their_own_are_read_as_before(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "log", csv(LOG))
    write(tmp_path, "products.csv", csv({"product_id": [1, 1], "brand": ["Y", "Z"]}))
    mapping = MAP.replace('items: {files: "log*"', "items: {files: products.csv").replace(
        "tags: category_code, ", ""
    )
    assert ingest(tmp_path, mapping).dropped == {"duplicate_items": 1}
    assert items_of(tmp_path)[1]["title"] == "Y"


@pytest.mark.parametrize("merge_at", [0, 50, 10**6])
def test_the_newest_known_value_of_each_column(merge_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists, vectors and numbers agree with a plain search, however the rows are merged."""
    monkeypatch.setattr(newest_rows, "_PENDING_ROWS", merge_at)
    random = np.random.default_rng(5)
    rows = 400
    ids, times = random.integers(0, 60, rows), random.integers(0, 50, rows)
    numbers = [None if random.random() < 0.4 else int(random.integers(3)) for _ in range(rows)]
    lists = [["a", "b"][: int(random.integers(3))] for _ in range(rows)]
    vectors = random.integers(0, 2, (rows, 2)).astype(np.float32)
    table = pa.table(
        {
            "number": pa.array(numbers, pa.int64()),
            "list": pa.array(lists, pa.list_(pa.string())),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 2),
        }
    )
    newest = NewestRows()
    for start in range(0, rows, 37):
        newest.add(ids[start : start + 37], times[start : start + 37], table.slice(start, 37))
    found, differing = newest.result()
    unknown: dict[str, Any] = {"number": None, "list": [], "vector": [0.0, 0.0]}
    for name, nothing in unknown.items():
        expected, several = [], 0
        for key in np.unique(ids):
            known = [row for row in np.flatnonzero(ids == key) if table[name][row].as_py() != nothing]
            last = max(known, key=lambda row: (times[row], row)) if known else None
            expected.append(nothing if last is None else table[name][last].as_py())
            several += len({str(table[name][row]) for row in known}) > 1
        assert found[name].to_pylist() == expected
        assert differing[name] == several
