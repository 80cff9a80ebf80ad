from __future__ import annotations

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data_directories import (
    write,
)
from two_tower.data_directory import manifest as manifest_module
from two_tower.data_directory import table_writer
from two_tower.data_directory.verification import verify


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
