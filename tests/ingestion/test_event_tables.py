"""Events in several tables, each with files, columns and an event type of its own."""

from __future__ import annotations

import pathlib
import re

import pytest

from tests.ingestion.test_tabular import csv, events_of, ingest, items_of, write
from two_tower.base.errors import UserError

MAP = """
dataset: shop
label_event: click
repeats_recommendable: true
events:
- files: clicks.dat
  header: [session, time, item, category]
  user_id: session
  item_id: item
  timestamp: time
  event_type: {constant: click}
- files: buys.dat
  header: [session, time, item, price, quantity]
  user_id: session
  item_id: item
  timestamp: time
  event_type: {constant: buy}
  play_ratio: quantity
"""
CLICKS = "2,2014-04-07T10:51:09.277Z,7,0\n1,2014-04-07T10:54:09.868Z,8,S\n1,2014-04-07T10:55:00.000Z,7,0\n"
BUYS = "1,2014-04-07T10:54:30.000Z,8,1450,2\n2,2014-04-07T10:51:09.277Z,7,900,1\n"


def sources(folder: pathlib.Path) -> None:
    write(folder, "clicks.dat", CLICKS)
    write(folder, "buys.dat", BUYS)


def test_each_table_of_events_has_its_own_columns(tmp_path: pathlib.Path) -> None:
    sources(tmp_path)
    manifest = ingest(tmp_path, MAP)
    assert [tuple(row.values()) for row in events_of(tmp_path)] == [
        (1, 8, 1_396_868_049, "click", None),
        (1, 8, 1_396_868_070, "buy", 2.0),
        (1, 7, 1_396_868_100, "click", None),
        # One time, two types: both stay, and the table that stands first comes first.
        (2, 7, 1_396_867_869, "click", None),
        (2, 7, 1_396_867_869, "buy", 1.0),
    ]
    assert manifest.counts["label_events"] == 3
    assert manifest.noted["event_files_not_in_order"] == 2


def test_tables_may_have_other_forms_and_units(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "listens.parquet", {"who": ["a", "b"], "what": ["x", "y"], "ms": [5_000, 6_000]})
    write(tmp_path, "loves.csv", csv({"user": ["b"], "track": ["z"], "at": [7], "why": ["nice"]}, ";"))
    manifest = ingest(
        tmp_path,
        """
        dataset: music
        label_event: listen
        repeats_recommendable: true
        events:
        - {files: listens.parquet, user_id: who, item_id: what, timestamp: ms, timestamp_unit: ms,
           event_type: {constant: listen}}
        - {files: loves.csv, delimiter: ";", user_id: user, item_id: track, timestamp: at, event_type: why}
        """,
    )
    assert sorted((row["timestamp"], row["event_type"]) for row in events_of(tmp_path)) == [
        (5, "listen"),
        (6, "listen"),
        (7, "nice"),
    ]
    assert {row["original_id"] for row in items_of(tmp_path).values()} == {"x", "y", "z"}
    assert manifest.counts["users"] == 2


def test_one_table_may_have_a_constant_type(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "clicks.dat", CLICKS)
    mapping = MAP[: MAP.index("- files: buys")]
    ingest(tmp_path, mapping)
    assert {row["event_type"] for row in events_of(tmp_path)} == {"click"}
    with pytest.raises(UserError, match="buy"):
        ingest(tmp_path, mapping.replace("constant: click", "constant: buy"))


def test_a_list_of_tables_may_have_splits_by_file(tmp_path: pathlib.Path) -> None:
    sources(tmp_path)
    ingest(
        tmp_path,
        MAP.replace("files: clicks.dat", "files: {train: clicks.dat}").replace(
            "files: buys.dat", "files: {test: buys.dat}"
        ),
    )
    assert {(row["event_type"], row["split"]) for row in events_of(tmp_path)} == {
        ("click", "train"),
        ("buy", "test"),
    }


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("files: buys.dat\n  ", "", "key 'events[1].files' is missing"),
        ("timestamp: time", "timestmp: time", "no key 'events[0].timestmp'; .*'events[0].timestamp'"),
        ("  timestamp: time\n", "", "exactly one key must give the order of events, .*'events[0].timestamp'"),
        (
            "  event_type: {constant: buy}\n",
            "",
            "key 'events[1].event_type' is missing, which 'events[0]' has: .*'event_type: {constant: NAME}'",
        ),
        ("  event_type: {constant: click}\n", "", "key 'events[0].event_type' is missing"),
        ("{constant: buy}", "{const: buy}", "key 'events[1].event_type' takes .*{constant: TEXT} .*'const'"),
        ("{constant: buy}", "{constant: 3}", "key 'events[1].event_type' takes .*{constant: TEXT}"),
        ("files: buys.dat", "files: {train: buys.dat}", "key 'events[0].split' is missing, which"),
        ("timestamp: time", "order_of_rows: true", "key 'events[0].order_of_rows' tells no order"),
        ("files: buys.dat", "files: nothing.dat", "nothing.dat: there is no such file"),
        ("user_id: session", "user_id: user", "clicks.dat: column 'user' is missing"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit_are_named(before: str, after: str, told: str, tmp_path: pathlib.Path) -> None:
    sources(tmp_path)
    assert before in MAP
    pattern = ".*".join(map(re.escape, told.split(".*")))
    with pytest.raises(UserError, match=pattern):
        ingest(tmp_path, MAP.replace(before, after))


def test_an_empty_list_and_a_list_of_texts_are_refused(tmp_path: pathlib.Path) -> None:
    top = MAP[: MAP.index("events:")]
    with pytest.raises(UserError, match="key 'events' is empty"):
        ingest(tmp_path, top + "events: []\n")
    with pytest.raises(UserError, match=r"key 'events\[0\]' needs keys and values, but is 'clicks\.dat'"):
        ingest(tmp_path, top + "events: [clicks.dat]\n")


def test_files_of_other_columns_lead_to_a_list_of_tables(tmp_path: pathlib.Path) -> None:
    sources(tmp_path)
    mapping = MAP[: MAP.index("- files: buys")].replace("files: clicks.dat", "files: '*.dat'")
    with pytest.raises(
        UserError, match=r"buys\.dat: row 0: 5 fields, but there are 4 columns(?s:.*) 'events'"
    ):
        ingest(tmp_path, mapping)


def test_items_can_stand_in_one_of_the_tables(tmp_path: pathlib.Path) -> None:
    sources(tmp_path)
    header = "header: [session, time, item, category]"
    manifest = ingest(tmp_path, MAP + f"items: {{files: clicks.dat, {header}, item_id: item}}\n")
    assert {key: row["category"] for key, row in items_of(tmp_path).items()} == {7: "0", 8: "S"}
    assert list(manifest.columns["items"]) == ["item_id", "category"]
