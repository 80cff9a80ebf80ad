"""Ids in the types that exports have: read, or refused with a remedy that works when it is followed."""

from __future__ import annotations

import datetime
import decimal
import pathlib
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.ingestion.test_tabular import csv, events_of, ingest, items_of, refused, users_of, write
from two_tower.data_directory.verification import verify
from two_tower.ingestion import notices

MAP = """
dataset: d
label_event: listen
repeats_recommendable: true
events: {files: e.parquet, user_id: user, item_id: item, timestamp: time}
"""
NUMBERS = [3, 10, 3, 42]
TIMES = [3_600 * hour for hour in range(4)]


def source(folder: pathlib.Path, ids: Any, name: str = "e.parquet") -> None:
    columns = {"user": ids, "item": [1, 2, 3, 4], "time": TIMES}
    write(folder, name, csv(columns) if name.endswith("csv") else columns)


def users(folder: pathlib.Path) -> list[int]:
    return [row["user_id"] for row in events_of(folder)]


@pytest.mark.parametrize(
    "kind",
    [
        pa.decimal128(38, 0),
        pa.decimal128(12, 2),
        pa.decimal128(38, 9),
        pa.decimal256(50, 0),
        pa.float64(),
        pa.float32(),
        pa.uint64(),
        pa.int8(),
        "csv",
    ],
    ids=str,
)
def test_whole_numbers_of_any_type_are_integers(kind: pa.DataType | str, tmp_path: pathlib.Path) -> None:
    if kind == "csv":
        source(tmp_path, [f"{number}.0" for number in NUMBERS], "e.csv")
        ingest(tmp_path, MAP.replace("parquet", "csv"))
    else:
        values = [decimal.Decimal(number) for number in NUMBERS] if pa.types.is_decimal(kind) else NUMBERS
        source(tmp_path, pa.array(values, kind))
        ingest(tmp_path, MAP)
    assert users(tmp_path) == sorted(NUMBERS)
    assert "original_id" not in verify(str(tmp_path / "data")).columns.get("users", {})


@pytest.mark.parametrize("form", ["e.parquet", "e.csv"])
def test_a_missing_id_among_floats_is_a_wrong_row(form: str, tmp_path: pathlib.Path) -> None:
    source(
        tmp_path,
        [3.0, float("nan"), 10.0, 42.0] if form == "e.parquet" else ["3.0", "", "10.0", "42.0"],
        form,
    )
    mapping = MAP.replace("e.parquet", form)
    assert "column 'user', row 1: null is no value here" in refused(tmp_path, mapping)
    assert ingest(tmp_path, mapping + "on_bad_rows: drop\n").dropped == {"wrong_rows_of_events": 1}
    assert users(tmp_path) == [3, 10, 42]


@pytest.mark.parametrize(
    ("ids", "told", "texts"),
    [
        (pa.array([2**63, 5, 2**64 - 1, 5], pa.uint64()), "9223372036854775808 is no integer here",
         {"9223372036854775808", "5", "18446744073709551615"}),
        ([-5, 7, -(2**63), 7], "-5 is no id: ids are 0 or more", {"-5", "7", "-9223372036854775808"}),
        ([1.5, 2.0, 1.5, 1e15], "holds numbers with decimal points", {"1.5", "2", "1000000000000000"}),
        ([decimal.Decimal("1.50"), decimal.Decimal("2.00")] * 2, "holds numbers with decimal points",
         {"1.5", "2"}),
        ([decimal.Decimal(10**30), decimal.Decimal(7)] * 2, "is no whole number of at most 64 bits",
         {str(10**30), "7"}),
        ([True, False] * 2, "holds boolean, but ids must be", {"true", "false"}),
        ([datetime.date(2020, 1, 1)] * 4, "holds time, but ids must be", {"2020-01-01"}),
    ],
)  # fmt: skip
def test_other_numbers_are_refused_and_read_by_the_remedy(
    ids: Any, told: str, texts: set[str], tmp_path: pathlib.Path
) -> None:
    source(tmp_path, ids)
    message = refused(tmp_path, MAP)
    remedy = re.search("'(user_id_type: text)'", message)
    assert told in message and remedy is not None
    ingest(tmp_path, MAP + remedy[1] + "\n")
    assert {row["original_id"] for row in users_of(tmp_path).values()} == texts
    verify(str(tmp_path / "data"))


def test_hashes_of_64_bits_in_csv_are_text_that_loses_no_digit(tmp_path: pathlib.Path) -> None:
    random = np.random.default_rng(1)
    ids = [str(int(value)) for value in random.integers(0, 2**64, 4, np.uint64)]
    assert max(map(len, ids)) == 20
    source(tmp_path, ids, "e.csv")
    ingest(tmp_path, MAP.replace("parquet", "csv"))
    assert {row["original_id"] for row in users_of(tmp_path).values()} == set(ids)


def test_floats_that_may_have_lost_digits_are_no_ids(tmp_path: pathlib.Path) -> None:
    source(tmp_path, [1.0, 2.0, 2.0**53, 3.0])
    message = refused(tmp_path, MAP)
    assert "row 2: 9007199254740992.0 may have lost digits" in message and "user_id_type" not in message


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.binary(2), "dictionary", "list"], ids=str
)
def test_binary_columns_of_utf8_are_text(kind: Any, tmp_path: pathlib.Path) -> None:
    texts = [value.encode() for value in ("ab", "é", "ab", "cd")]
    column = pa.array(texts, kind if isinstance(kind, pa.DataType) else pa.binary())
    column = column.dictionary_encode() if kind == "dictionary" else column
    source(tmp_path, TIMES if kind == "list" else column)
    tags = pa.array([[text] for text in texts], pa.list_(pa.binary())) if kind == "list" else column
    write(tmp_path, "i.parquet", {"id": [1, 2, 3, 4], "tags": tags, "name": column})
    ingest(tmp_path, MAP + "items: {files: i.parquet, item_id: id, tags: tags}\n")
    items = items_of(tmp_path)
    assert [items[item]["tags"] for item in range(1, 5)] == [["ab"], ["é"], ["ab"], ["cd"]]
    assert items[2]["name"] == "é"
    if kind != "list":
        assert {row["original_id"] for row in users_of(tmp_path).values()} == {"ab", "é", "cd"}


def test_binary_columns_of_other_bytes_are_named_by_row(tmp_path: pathlib.Path) -> None:
    source(tmp_path, TIMES)
    write(tmp_path, "i.parquet", {"id": [1, 2], "name": ["a", "b"], "image": [b"ok", b"\xff\xd8"]})
    mapping = MAP + "items: {files: i.parquet, item_id: id, EXTRA}\n"
    message = refused(tmp_path, mapping.replace(", EXTRA", ""))
    assert "column 'image', row 1: byte 0xff is not UTF-8" in message and "'keep'" in message
    ingest(tmp_path, mapping.replace("EXTRA", "keep: [name]"))
    assert items_of(tmp_path)[2] == {"item_id": 2, "name": "b"}


def test_floats_that_may_have_lost_digits_are_no_texts_either(tmp_path: pathlib.Path) -> None:
    source(tmp_path, [3.0, 2.5, 1e16, 7.0])
    mapping = MAP + "user_id_type: text\n"
    assert "column 'user', row 2: 1e+16 may have lost digits" in refused(tmp_path, mapping)
    ingest(tmp_path, mapping + "on_bad_rows: drop\n")
    assert {row["original_id"] for row in users_of(tmp_path).values()} == {"3", "2.5", "7"}


def test_columns_that_hold_no_ids_get_no_remedy_that_fails(tmp_path: pathlib.Path) -> None:
    source(tmp_path, [["a"], ["b"], ["c"], ["d"]])
    message = refused(tmp_path, MAP)
    assert "Name another column, or convert this one" in message and "user_id_type" not in message


@pytest.mark.parametrize(
    ("of_events", "of_items", "told"),
    [
        (
            ["000", "001", "x"],
            ["0", "1", "x"],
            "spell 2 of the ids of items otherwise, such as '000' for '0'",
        ),
        (["abc", "DEF"], ["ABC", "DEF"], "spell 1 of the ids of items otherwise, such as 'abc' for 'ABC'"),
        (["7.0", "x"], ["7", "x"], "such as '7.0' for '7'"),
        (["a", "b"], ["c", "d"], None),
        (["a", "b"], ["a", "b", "A"], None),
    ],
)
@pytest.mark.parametrize("vectors", [False, True])
def test_ids_of_another_spelling_are_told_with_both(
    of_events: list[str], of_items: list[str], told: str | None, vectors: bool, tmp_path: pathlib.Path
) -> None:
    number = len(of_events)
    events = {"user": list(range(number)), "item": of_events, "time": TIMES[:number]}
    write(tmp_path, "e.parquet", events)
    write(tmp_path, "i.parquet", {"id": of_items, "name": of_items})
    mapping = MAP + "items: {files: i.parquet, item_id: id, title: name}\nitem_id_type: text\n"
    if vectors:
        write(tmp_path, "v.parquet", {"id": of_items, "v": [[1.0, 2.0]] * len(of_items)})
        mapping += "embeddings: {files: v.parquet, item_id: id, embedding: v}\n"
    with notices.collected() as lines:
        ingest(tmp_path, mapping)
    found = [line for line in lines if "letter by letter" in line]
    assert len(found) == (told is not None)
    assert told is None or told in found[0]


def test_users_of_another_spelling_are_told_too(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "e.parquet", {"user": ["U1", "u2"], "item": [1, 2], "time": TIMES[:2]})
    write(tmp_path, "u.parquet", {"id": ["u1", "u2"], "age": [3, 4]})
    with notices.collected() as lines:
        ingest(tmp_path, MAP + "users: {files: u.parquet, user_id: id, keep: [age]}\n")
    assert any("1 of the ids of users otherwise, such as 'U1' for 'u1'" in line for line in lines)


def test_the_remedy_for_texts_beside_numbers_says_what_it_means(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "e.parquet", {"user": [1, 2], "item": ["000", "x"], "time": TIMES[:2]})
    write(tmp_path, "i.parquet", {"id": [0, 1]})
    message = refused(tmp_path, MAP + "items: {files: i.parquet, item_id: id}\n")
    assert "'item_id_type: text'" in message and "by which '007' and '7' are two ids" in message
