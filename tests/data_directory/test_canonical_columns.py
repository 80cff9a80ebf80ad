from __future__ import annotations

import os
import pathlib

import pyarrow as pa
import pytest

from tests.data_directories import (
    PROPERTIES,
    events,
    items,
    write,
)
from two_tower.base.errors import UserError
from two_tower.data_directory.writer import DataDirectoryWriter


def test_events_need_times_or_an_order_and_not_both(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="no column timestamp or order"):
        write(tmp_path / "data", [events().drop(["timestamp"])])
    with pytest.raises(UserError, match="both timestamp and order"):
        write(tmp_path / "data", [events(order=[0, 1, 2, 0])])
    assert os.listdir(tmp_path) == []


def test_one_content_has_one_form(tmp_path: pathlib.Path) -> None:
    """Stores dictionaries, large types and lists of any width in their plain form."""
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
