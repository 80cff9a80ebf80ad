"""Small data directories for tests: four events of two users, and daily spans of listens."""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import pyarrow as pa

from two_tower.base import storage
from two_tower.data_directory.checked_columns import open_dataset
from two_tower.data_directory.manifest import (
    DAY,
    DatasetProperties,
    Manifest,
)
from two_tower.data_directory.writer import DataDirectoryWriter, Span

PROPERTIES = DatasetProperties("small", "listen", True)
DAYS = DatasetProperties("days", "listen", True)
CATALOG = {"item_id": [10, 11], "title": ["Vertigo", "Rope"]}


def events(**columns: Any) -> pa.Table:
    """Returns four events of two users; given columns replace them."""
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


def listens(day: int, *users: int, item: int = 10, **columns: Any) -> pa.Table:
    """Returns one listen per user on a day, an hour apart."""
    times = [day * DAY + 3600 * place for place in range(len(users))]
    table = {
        "user_id": list(users),
        "item_id": [item] * len(users),
        "timestamp": times,
        "event_type": ["listen"] * len(users),
    }
    return pa.table(table | columns)


def write_span(
    out: str,
    events: pa.Table,
    span: Span = None,
    items: dict[str, Any] | None = None,
    users: dict[str, Any] | None = None,
    properties: DatasetProperties = DAYS,
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


# Ten days. User 1 listens to 7 three times; 8 is new in the last day, as is user 3; no user has 9.
TEN_DAYS = {
    "user_id": [1, 1, 1, 1, 2, 2, 3],
    "item_id": [7, 7, 7, 6, 7, 8, 8],
    "timestamp": [0, DAY, 2 * DAY, 2 * DAY, 5 * DAY, 10 * DAY, 10 * DAY - 50],
    "event_type": ["listen", "listen", "listen", "like", "listen", "listen", "listen"],
    "play_ratio": pa.array([0.5, 1.0, None, None, 0.0, 1.0, 0.0], pa.float32()),
    "is_organic": [True, False, True, None, None, True, False],
}
TEN_DAYS_ITEMS = {
    "item_id": [6, 7, 8, 9],
    "artist_id": [[1], [1], [2], []],
    "tags": [["a", "b"], ["b"], [], None],
    "mood": ["calm", None, "calm", "loud"],
    "weight": [1.5, float("nan"), -2.0, 4.0],
    "embedding": pa.array([[1, 2], [0, 0], [3, 4], [0, 1]], pa.list_(pa.float32(), 2)),
    "blob": [b"x", b"y", b"z", b""],
}


def write_columns(
    out: str,
    events: dict[str, Any],
    items: dict[str, Any] | None = None,
    users: dict[str, Any] | None = None,
    span: Span = None,
    label: str = "listen",
) -> str:
    with DataDirectoryWriter(out, DatasetProperties("small", label, True), span) as writer:
        writer.write("events", pa.table(events))
        writer.write("items", pa.table(items or {"item_id": sorted(set(events["item_id"]))}))
        if users:
            writer.write("users", pa.table(users))
    return out
