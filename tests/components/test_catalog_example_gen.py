from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from two_tower.base.errors import UserError
from two_tower.data_directory.feature_columns import FeatureSpec, ResolvedFeatures
from two_tower.data_directory.manifest import DatasetProperties
from two_tower.data_directory.writer import DataDirectoryWriter


def encoded(path: Path, table: pa.Table, specs: tuple[FeatureSpec, ...] = ()) -> list[dict[str, list]]:
    """Encodes an items file and returns the Examples as plain values."""
    import tensorflow as tf

    from two_tower.components.catalog_example_gen.executor import _encode_items, _row_groups

    pq.write_table(table, path / "items.parquet", row_group_size=2)
    groups = _row_groups([str(path / "items.parquet")])
    rows = []
    for serialized in (one for group in groups for one in _encode_items(group, specs)):
        feature = tf.train.Example.FromString(serialized).features.feature
        kinds = {name: values.WhichOneof("kind") for name, values in feature.items()}
        rows.append(
            {
                name: list(getattr(values, kinds[name]).value)
                for name, values in feature.items()
                if kinds[name]
            }
        )
    return rows


TAGS = FeatureSpec("tags", "tags", "multi_valued")
TITLE = FeatureSpec("title", "title", "text")
YEAR = FeatureSpec("year", "year", "numeric")
VECTOR = FeatureSpec("embedding", "embedding", "vector", 2)


def items(**changes: Any) -> pa.Table:
    columns = {
        "item_id": pa.array([0, 7, 5], pa.int64()),
        "artist_id": pa.array([[0], [3, 0, 9], []], pa.list_(pa.int64())),
        "album_id": pa.array([[4], None, [2, 4]], pa.list_(pa.int64())),
        "item_length": pa.array([0.0, None, 181.5], pa.float32()),
        "title": ["zero", "seven", "five"],
    } | changes
    return pa.table({name: values for name, values in columns.items() if values is not None})


def test_every_item_is_one_example_and_zeros_survive(tmp_path: Path) -> None:
    rows = encoded(tmp_path, items())
    assert [row["item_id"] for row in rows] == [[0], [7], [5]]
    assert [row.get("artist_id", []) for row in rows] == [[0], [3, 0, 9], []]
    assert [row.get("album_id", []) for row in rows] == [[4], [], [2, 4]]
    assert [row["item_length"] for row in rows] == [[0.0], [-1.0], [181.5]]
    assert all("title" not in row for row in rows)


def test_a_table_of_ids_alone_is_enough(tmp_path: Path) -> None:
    rows = encoded(tmp_path, items(artist_id=None, album_id=None, item_length=None))
    assert [(row["item_id"], row["item_length"]) for row in rows] == [
        ([0], [-1.0]),
        ([7], [-1.0]),
        ([5], [-1.0]),
    ]
    assert all(not row.get("artist_id") and not row.get("album_id") for row in rows)


def test_lists_without_members_and_members_without_ids_are_left_out(tmp_path: Path) -> None:
    artists = pa.array([[None, 3], None, [None]], pa.list_(pa.int64()))
    rows = encoded(tmp_path, items(artist_id=artists))
    assert [row.get("artist_id", []) for row in rows] == [[3], [], []]


def test_withdrawn_items_are_left_out(tmp_path: Path) -> None:
    available = pa.array([False, None, True])
    assert [row["item_id"] for row in encoded(tmp_path, items(available=available))] == [[7], [5]]
    nothing = pa.array([False, False, False])
    assert encoded(tmp_path, items(available=nothing)) == []


def test_named_columns_join_the_example(tmp_path: Path) -> None:
    table = items(
        tags=pa.array([["a", "", None, "b"], None, []], pa.list_(pa.string())),
        year=pa.array([0.0, None, 1999.0]),
        embedding=pa.array([[0.0, 0.5], None, [1.0, 2.0]], pa.list_(pa.float32())),
        available=pa.array([True, True, False]),
    )
    rows = encoded(tmp_path, table, (TAGS, TITLE, YEAR, VECTOR))
    assert [row.get("tags", []) for row in rows] == [[b"a", b"b"], []]
    assert [row["title"] for row in rows] == [[b"zero"], [b"seven"]]
    assert [row.get("year", []) for row in rows] == [[0.0], []]  # zero is a value
    assert [row["embedding"] for row in rows] == [[0.0, 0.5], [0.0, 0.0]]
    assert set(encoded(tmp_path, table)[0]) == set(encoded(tmp_path, items())[0])


def test_a_column_that_is_not_there_or_a_broken_value_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"items\.parquet: there is no column tags; the nearest is title"):
        encoded(tmp_path, items(), (TAGS,))
    with pytest.raises(UserError, match=r"items\.parquet: features: the column title is of type string"):
        encoded(tmp_path, items(), (FeatureSpec("title", "title", "vector", 2),))
    short = items(embedding=pa.array([[0.0, 0.5], None, [1.0]], pa.list_(pa.float32())))
    with pytest.raises(UserError, match=r"the vector of id 5 has 1 values, where 2 are expected"):
        encoded(tmp_path, short, (VECTOR,))


@pytest.mark.parametrize("kind", [pa.int32(), pa.uint32(), pa.int64()])
def test_ids_of_any_width_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    table = items(item_id=pa.array([0, 7, 5], kind), artist_id=pa.array([[1], [2], [3]], pa.list_(kind)))
    assert [row["artist_id"] for row in encoded(tmp_path, table)] == [[1], [2], [3]]


def test_the_component_writes_one_split_of_all_files(tmp_path: Path) -> None:
    import tensorflow as tf
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
    from tfx.types import standard_artifacts

    from two_tower.components.catalog_example_gen.executor import Executor

    data = str(tmp_path / "data")
    ids = np.arange(0, 50, 5)
    with DataDirectoryWriter(data, DatasetProperties("small", "listen", True)) as writer:
        writer.write("events", pa.table({"user_id": [1], "item_id": [5], "timestamp": [9]}))
        writer.write("items", pa.table({"item_id": ids}))
    examples = standard_artifacts.Examples()
    examples.uri = str(tmp_path / "out")
    context = BaseBeamExecutor.Context(tmp_dir=str(tmp_path / "scratch") + "/", unique_id="1")
    settings = {"data": data, "features": ResolvedFeatures().to_json()}
    Executor(context).Do({}, {"examples": [examples]}, settings)
    assert examples.split_names == '["catalog"]'
    records = tf.data.TFRecordDataset(
        [str(f) for f in (tmp_path / "out" / "Split-catalog").glob("*.gz")], "GZIP"
    )
    found = [
        tf.train.Example.FromString(r.numpy()).features.feature["item_id"].int64_list.value[0]
        for r in records
    ]
    assert sorted(found) == ids.tolist()
