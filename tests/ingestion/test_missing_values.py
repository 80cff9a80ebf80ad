"""Missing values of text files, and columns of numbers with a few texts."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pyarrow as pa
import pytest

from tests.ingestion.test_tabular import csv, events_of, ingest, refused, users_of, write
from two_tower.ingestion import notices, text_kinds

MAP = """
dataset: d
label_event: listen
repeats_recommendable: true
events: {files: e.csv, user_id: user, item_id: item, timestamp: time}
users: {files: users.csv, user_id: user, EXTRA}
"""
ROWS = 200
TIMES = [3_600 * row for row in range(ROWS)]


def sources(folder: pathlib.Path, users: dict[str, Any] | None = None, **events: Any) -> None:
    columns = {
        "user": list(range(ROWS)),
        "item": [row % 9 for row in range(ROWS)],
        "time": [3_600 * row for row in range(ROWS)],
    }
    write(folder, "e.csv", csv(columns | events))
    write(folder, "users.csv", csv({"user": list(range(ROWS))} | (users or {})))


def but(value: str, *rows: int) -> list[Any]:
    return [value if row in rows else row for row in range(ROWS)]


@pytest.mark.parametrize("extra", ["keep: {age: integer}", "separator: x"])
@pytest.mark.parametrize("word", ["NULL", "NaN", "n/a", "\\N", ""])
def test_words_for_a_missing_number_are_read_as_such_and_told(
    word: str, extra: str, tmp_path: pathlib.Path
) -> None:
    sources(tmp_path, {"age": but(word, *range(100))})
    with notices.collected() as told:
        manifest = ingest(tmp_path, MAP.replace("EXTRA", extra))
    users = users_of(tmp_path)
    assert users[5]["age"] is None and users[150]["age"] == 150
    assert manifest.columns["users"]["age"] == "int64"
    if word not in ("", "\\N"):
        assert manifest.repaired == {"words_read_as_missing_values": 100}
        assert told == [
            "Column 'age' of the users: 100 words such as NULL or NaN are read as missing values."
        ]


def test_the_map_names_other_missing_values(tmp_path: pathlib.Path) -> None:
    sources(tmp_path, {"age": but("-1?", 5), "city": ["\\N"] * ROWS})
    message = refused(tmp_path, MAP.replace("EXTRA", "keep: {age: integer}"))
    assert "column 'age', row 5: '-1?' is no whole number" in message and "'null_values'" in message
    ingest(tmp_path, MAP.replace("EXTRA", 'null_values: ["-1?"]'))
    # The list takes the place of the usual one.
    assert users_of(tmp_path)[5] == {"user_id": 5, "age": None, "city": "\\N"}


def test_a_missing_id_is_a_wrong_row(tmp_path: pathlib.Path) -> None:
    for word in ("\\N", "NULL"):
        sources(tmp_path, item=but(word, 3))
        message = refused(tmp_path, MAP.replace("EXTRA", ""))
        assert "column 'item', row 3: null is no value" in message and "1 of 200 rows" in message
    manifest = ingest(tmp_path, MAP.replace("EXTRA", "") + "on_bad_rows: drop\n")
    assert manifest.dropped == {"wrong_rows_of_events": 1} and manifest.counts["events"] == ROWS - 1
    assert not manifest.repaired


def test_ids_that_are_text_because_of_one_value_stop_ingest(tmp_path: pathlib.Path) -> None:
    mapping = MAP.replace("EXTRA", "")
    sources(tmp_path, item=but("x7", 3))
    message = refused(tmp_path, mapping)
    assert "column 'item' holds numbers, but for 1 of its 200 values: 'x7' in row 3" in message
    for remedy in re.findall(r"'(item_id_type: text|events.null_values|item_id_type: integer)'", message):
        if "null" in remedy:
            changed = mapping.replace("{files: e.csv", '{null_values: ["x7"], files: e.csv')
            assert "1 of 200 rows" in refused(tmp_path, changed)
        elif remedy.endswith("integer"):
            manifest = ingest(tmp_path, mapping + remedy + "\non_bad_rows: drop\n")
            assert manifest.counts["events"] == ROWS - 1
            assert manifest.dropped == {"wrong_rows_of_events": 1}
        else:
            assert ingest(tmp_path, mapping + remedy).counts["items"] == ROWS
        for path in tmp_path.glob("data"):
            path.rename(tmp_path.parent / f"{tmp_path.name}-{remedy}")
    # Two of a hundred are no exception.
    sources(tmp_path, item=but("x7", 3, 4))
    with notices.collected() as told:
        ingest(tmp_path, mapping)
    assert any("column 'item' is read as text: of its 200 values 2 are no numbers." in text for text in told)


def test_a_kept_column_that_is_text_because_of_one_value_stops_ingest(tmp_path: pathlib.Path) -> None:
    sources(tmp_path, {"age": but("old", 7)})
    message = refused(tmp_path, MAP.replace("EXTRA", ""))
    assert "column 'age' holds numbers, but for 1 of its 200 values: 'old' in row 7" in message
    assert "as in {age: text}" in message and "'users.null_values'" in message
    ingest(tmp_path, MAP.replace("EXTRA", "keep: {age: text}"))
    assert users_of(tmp_path)[7]["age"] == "old"
    ingest(tmp_path, MAP.replace("EXTRA", "null_values: [old]"))
    assert users_of(tmp_path)[7]["age"] is None and users_of(tmp_path)[8]["age"] == 8


def test_wrong_rows_are_counted_once_over_all_batches_and_checks(tmp_path: pathlib.Path) -> None:
    """Writes rows that are wrong in a column, in another and in both."""
    sources(
        tmp_path,
        item=but("", 1, 2),
        time=[-5 if row in (2, 3, 150) else time for row, time in enumerate(TIMES)],
    )
    message = refused(tmp_path, MAP.replace("EXTRA", ""))
    assert "4 of 200 rows of the events are wrong" in message
    assert message.count("is a negative time") == 3 and message.count("null is no value") == 1
    mapping = MAP.replace("EXTRA", "") + "on_bad_rows: drop\n"
    with notices.collected() as told:
        manifest = ingest(tmp_path, mapping)
    assert manifest.dropped == {"wrong_rows_of_events": 4}
    assert {row["user_id"] for row in events_of(tmp_path)} == set(range(ROWS)) - {1, 2, 3, 150}
    assert "4 of 200 rows of the events are wrong and dropped" in told[0] and "row 150: '-5'" in told[0]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["9223372036854775807", "-9223372036854775808", "0", "-7"], "integer"),
        (["9223372036854775808", "1"], "text"),
        (["13705384426714279717", "1"], "text"),
        (["1", "2.5", "nan"], "number"),
        (["007", "1"], "text"),
        (["true", "False", "NULL"], "boolean"),
        (["NULL", "NULL"], "text"),
        ([None], None),
    ],
)
def test_kinds_of_text(values: list[str | None], kind: str | None) -> None:
    assert text_kinds.kind_of(pa.array(values, pa.string())) == kind
