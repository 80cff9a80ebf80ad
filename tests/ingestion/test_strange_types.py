"""Property of the readers: a column of any type is read to a whole data directory, or refused by name."""

from __future__ import annotations

import datetime
import decimal
import pathlib
import shutil
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.logs_with_a_future import write_log
from two_tower.base.errors import UserError
from two_tower.data_directory.verification import verify
from two_tower.ingestion import FORMATS

MAP = """
dataset: d
label_event: listen
repeats_recommendable: true
events: {files: multi_event.parquet, user_id: uid, item_id: item_id, timestamp: timestamp,
         play_ratio: played_ratio_pct, play_ratio_whole: 100, is_organic: is_organic, event_type: event_type,
         item_length: track_length_seconds}
items: {files: names.parquet, item_id: item_id, title: title, item_length: track_length_seconds}
embeddings: {files: embeddings.parquet, item_id: item_id, embedding: embed}
"""
FILES = ("multi_event.parquet", "names.parquet", "embeddings.parquet")


def strange(rows: int) -> list[pa.Array]:
    """Returns columns of many types, some with a strange last value."""

    def of(value: Any, kind: pa.DataType | None = None, last: Any = ...) -> pa.Array:
        return pa.array([value] * (rows - 1) + [value if last is ... else last], kind)

    return [
        pa.nulls(rows),
        of(1, last=None),
        of(1, pa.uint64(), 2**64 - 1),
        of(1, last=-(2**63)),
        of(1, last=2**60),
        of(1.0, last=float("nan")),
        of(1.0, last=float("inf")),
        of(1.0, last=1e300),
        of(decimal.Decimal("1.5"), pa.decimal128(10, 2)),
        of(datetime.date(2020, 1, 1)),
        of(datetime.datetime(2020, 1, 1), pa.timestamp("ns")),
        of(2**60).cast(pa.timestamp("s")),
        of(2**30, pa.int32()).cast(pa.date32()),
        of(datetime.time(1, 2)),
        of(5).cast(pa.duration("s")),
        of(b"\xff\x00"),
        of("12", last="1e5x"),
        of(""),
        of("x", pa.large_string()),
        of("listen", last=None).dictionary_encode(),
        of(3).dictionary_encode(),
        of(True, last=None),
        of([1.0, 2.0], last=None),
        of([], pa.list_(pa.float32())),
        of([1.0] * 4, last=[1.0]),
        of([1.0] * 4, pa.list_(pa.float32(), 4)),
        of(["a", None]),
        of([[1]]),
        of({"a": 1}),
        of([("a", 1)], pa.map_(pa.string(), pa.int64())),
    ]


@pytest.mark.parametrize("form", ["yambda", "table"])
@pytest.mark.parametrize("file", FILES)
def test_a_column_of_any_type_is_read_whole_or_refused_by_name(
    form: str, file: str, tmp_path: pathlib.Path
) -> None:
    """Writes each type into the next column, so that every column meets several types."""
    source = pathlib.Path(write_log(tmp_path / "source"))
    (source / "columns.yaml").write_text(MAP)
    table = pq.read_table(source / file)
    refused = 0
    for number, column in enumerate(strange(table.num_rows)):
        at = number % table.num_columns
        pq.write_table(table.set_column(at, table.column_names[at], column), source / file)
        try:
            FORMATS[form](str(source), str(tmp_path / "data"))
            verify(str(tmp_path / "data"))
        except UserError as error:
            refused += 1
            # A label event that is missing is the whole data set's fault.
            assert file in str(error) or "has no event of type 'listen'" in str(error)
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
    assert refused > 8


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.date32()])
def test_a_time_beyond_pythons_own_is_named_by_row(kind: pa.DataType, tmp_path: pathlib.Path) -> None:
    source = pathlib.Path(write_log(tmp_path / "source"))
    (source / "columns.yaml").write_text(MAP)
    table = pq.read_table(source / FILES[0])
    at = table.column_names.index("timestamp")
    is_date = kind == pa.date32()
    ticks = pa.array([2**30 if is_date else 2**40] * table.num_rows, pa.int32() if is_date else pa.int64())
    pq.write_table(table.set_column(at, "timestamp", ticks.cast(kind)), source / FILES[0])
    with pytest.raises(
        UserError, match=r"multi_event\.parquet: column 'timestamp', row 0: [0-9]+ is after the year"
    ):
        FORMATS["table"](str(source), str(tmp_path / "data"))
