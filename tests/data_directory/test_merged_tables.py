from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data_directories import (
    listens,
    rows,
    write_span,
)
from two_tower.data_directory import table_writer
from two_tower.data_directory.manifest import (
    item_files,
)
from two_tower.data_directory.merged_tables import NewRows, is_known, merge
from two_tower.data_directory.verification import verify


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


def test_many_batches_and_files_are_merged(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table_writer.GROUP_ROWS, "items", 10)
    monkeypatch.setitem(table_writer.FILE_ROWS, "items", 20)
    monkeypatch.setattr("two_tower.data_directory.merged_tables._BATCH_ROWS", 7)
    generator = np.random.default_rng(3)
    ids = generator.permutation(95)
    write_span(data, listens(3, 1), 3, {"item_id": ids[:60], "year": 1000 + ids[:60]})
    write_span(data, listens(4, 1), 4, {"item_id": ids[40:], "year": 2000 + ids[40:]})
    verify(data)
    merged = rows(item_files(data))
    assert [row["item_id"] for row in merged] == ids.tolist()
    assert [row["year"] - row["item_id"] for row in merged] == [1000] * 40 + [2000] * 55
