"""Rows with lists, such as a user with all items and times: each entry becomes an event."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import pytest

from tests.ingestion.test_tabular import csv, events_of, ingest, items_of, users_of, write
from two_tower.base.errors import UserError
from two_tower.ingestion import mapped_tables

MAP = """
dataset: lists
label_event: view
repeats_recommendable: true
events: {files: log, user_id: user, item_id: items, timestamp: times, unfold: [items, times]}
"""
ROWS: dict[str, list[Any]] = {
    "user": [2, 1, 3, 4],
    "items": [[7, 8, 9], [8], [], [9, 7]],
    "times": [[30, 10, 20], [5], [], [1, 2]],
    "city": ["Rome", "Oslo", "Bonn", "Nice"],
}
EVENTS = [(1, 8, 5), (2, 8, 10), (2, 9, 20), (2, 7, 30), (4, 9, 1), (4, 7, 2)]


def rows() -> list[dict[str, Any]]:
    return [dict(zip(ROWS, values, strict=True)) for values in zip(*ROWS.values(), strict=True)]


def joined(separator: str, around: str = "{}") -> str:
    lists = ("items", "times")
    texts = {name: [around.format(separator.join(map(str, value))) for value in ROWS[name]] for name in lists}
    return csv(ROWS | texts)


@pytest.mark.parametrize("batch", ["small", "large"])
@pytest.mark.parametrize("form", ["parquet", "json", "bars", "blanks", "brackets", "json of texts"])
def test_an_entry_of_the_lists_is_an_event(
    form: str, batch: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if batch == "small":
        monkeypatch.setattr(mapped_tables, "_FOLDED_ROWS", 2)
        monkeypatch.setattr(mapped_tables, "_UNFOLDED_ROWS", 2)
    separator = {"bars": "|", "blanks": " ", "brackets": ",", "json of texts": "|"}.get(form, "")
    texts = [row | {name: "|".join(map(str, row[name])) for name in ("items", "times")} for row in rows()]
    forms: dict[str, Any] = {
        "parquet": ROWS,
        "json": "".join(json.dumps(row) + "\n" for row in rows()),
        "bars": joined("|"),
        "blanks": joined("  "),
        "brackets": joined(", ", "[{}]"),
        "json of texts": "".join(json.dumps(row) + "\n" for row in texts),
    }
    write(tmp_path, "log", forms[form])
    added = f', separator: "{separator}"}}' if separator else "}"
    manifest = ingest(tmp_path, MAP.replace("}", added))
    assert [tuple(row.values()) for row in events_of(tmp_path)] == EVENTS
    # The user without an entry has no event, and no row unless `users` names it.
    assert manifest.counts["users"] == 3
    assert manifest.noted["rows_of_events_with_empty_lists"] == 1
    assert "lines_blank_or_within_quotes" not in manifest.noted
    assert set(items_of(tmp_path)) == {7, 8, 9}


def test_without_times_the_lists_are_the_order(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "log", ROWS)
    ingest(
        tmp_path,
        MAP.replace("timestamp: times, unfold: [items, times]", "order_of_rows: true, unfold: [items]")
        + "users: {files: log, user_id: user, keep: [city]}\n",
    )
    found = [(row["user_id"], row["item_id"]) for row in events_of(tmp_path)]
    assert found == [(1, 8), (2, 7), (2, 8), (2, 9), (4, 9), (4, 7)]
    assert {key: row["city"] for key, row in users_of(tmp_path).items()} == {
        1: "Oslo",
        2: "Rome",
        3: "Bonn",
        4: "Nice",
    }


def test_ids_of_texts_and_one_time_for_all_entries(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "log", "user,items,time\na,\"['N1', 'N2']\",2021-03-04 05:06:07\nb,[],\n")
    ingest(
        tmp_path,
        MAP.replace(
            "timestamp: times, unfold: [items, times]", 'timestamp: time, unfold: [items], separator: ","'
        ),
    )
    assert {row["original_id"] for row in items_of(tmp_path).values()} == {"N1", "N2"}
    assert [row["timestamp"] for row in events_of(tmp_path)] == [1_614_834_367] * 2


@pytest.mark.parametrize(
    ("items", "times", "told"),
    [
        ("7|8", "1", "row 2: column 'times' has 1 entries, and 'items' has 2: one event is an entry of each"),
        ("7|x", "1|2", "column 'items', row 2: 'x' is no whole number"),
        ("7|", "1|2", "column 'items', row 2: "),
        ("7|-8", "1|2", "column 'items', row 2: "),
        ("7|8", "1|", "column 'times', row 2: null is no time"),
        ("7|8", "1|x", "column 'times', row 2: 'x' is no"),
        ("7|8", "1|-5", "column 'times', row 2: '-5' "),
    ],
)
@pytest.mark.parametrize("batch", [1, 1 << 12])
def test_a_wrong_entry_is_named_by_the_row_of_its_list(
    batch: int, items: str, times: str, told: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_tables, "_FOLDED_ROWS", batch)
    write(tmp_path, "log", f"user,items,times\n1,1|2|3,4|5|6\n2,1,4\n3,{items},{times}\n")
    mapping = MAP.replace("}", ', separator: "|"}') + "item_id_type: integer\n"
    with pytest.raises(UserError, match=re.escape(told)):
        ingest(tmp_path, mapping)


def test_rows_of_unequal_lists_are_counted_and_can_be_dropped(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_tables, "_FOLDED_ROWS", 2)
    text = "user,items,times\n1,1|2|3,4|5|6\n2,1,4|5\n3,8,9\n4,8|9,1\n5,7|x|8,1|2|3\n"
    write(tmp_path, "log", text)
    mapping = MAP.replace("}", ', separator: "|"}') + "item_id_type: integer\n"
    with pytest.raises(
        UserError, match=r"row 1: .*has 2 entries.*\n.*row 3: .*\n.*row 4: .*\n3 of "
    ) as error:
        ingest(tmp_path, mapping)
    assert "on_bad_rows: drop" in str(error.value)
    manifest = ingest(tmp_path, mapping + "on_bad_rows: drop\n")
    assert manifest.dropped == {"wrong_rows_of_events": 3}
    found = [(row["user_id"], row["item_id"]) for row in events_of(tmp_path)]
    assert found == [(1, 1), (1, 2), (1, 3), (3, 8), (5, 7), (5, 8)]
    assert [row["timestamp"] for row in events_of(tmp_path)] == [4, 5, 6, 9, 1, 3]


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("unfold: [items, times]", "unfold: [things]", "'events.unfold' names the column 'things', which no"),
        (
            "unfold: [items, times]",
            "unfold: items",
            "'events.unfold' takes a list of column names, but is 'i",
        ),
        ("unfold: [items, times]", "separator: '|'", "'events.separator' needs key 'events.unfold'"),
        ("unfold: [items, times]", "unfold: [user, items]", "column 'user' has type int64, but needs list"),
    ],
)
def test_maps_that_unfold_wrongly_are_named(
    before: str, after: str, told: str, tmp_path: pathlib.Path
) -> None:
    write(tmp_path, "log", ROWS)
    with pytest.raises(UserError, match=told):
        ingest(tmp_path, MAP.replace(before, after))


def test_text_without_a_separator_is_refused(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "log", joined("|"))
    with pytest.raises(UserError, match="column 'items' is text, and 'unfold' names it: set the 'separator'"):
        ingest(tmp_path, MAP)


def test_brackets_and_quotes_within_entries_are_their_own(tmp_path: pathlib.Path) -> None:
    rows = (
        "1,song (live)|b (x),5|6\n2,[live] c,7\n3,(live),8\n"
        """4,"['it''s'|'d']",5|6\n5,'e',9\n6,(f|g),5|6\n"""
    )
    write(tmp_path, "log", "user,items,times\n" + rows)
    ingest(tmp_path, MAP.replace("unfold: [items, times]", "unfold: [items, times], separator: '|'"))
    texts = {row["original_id"] for row in items_of(tmp_path).values()}
    assert texts == {"song (live)", "b (x)", "[live] c", "(live)", "'it''s'", "d", "'e'", "f", "g"}
