from __future__ import annotations

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data_directories import (
    CATALOG,
    DAYS,
    listens,
    rows,
)
from two_tower.data_directory import manifest as manifest_module
from two_tower.data_directory.verification import verify
from two_tower.data_directory.writer import DataDirectoryWriter


def test_the_oracle_is_found_wherever_it_is(data: str, tmp_path: pathlib.Path) -> None:
    source = tmp_path / "queries"
    pq.write_table(pa.table({"rank": [1]}), source)
    with DataDirectoryWriter(data, DAYS) as writer:
        writer.write("events", listens(3, 1))
        writer.write("items", pa.table(CATALOG))
        writer.copy(str(source), "oracle/queries.parquet")
    verify(data)
    path = manifest_module.oracle_file(data, "queries.parquet")
    assert path is not None
    assert rows([path]) == [{"rank": 1}]
    assert manifest_module.oracle_file(data, "answers.parquet") is None
