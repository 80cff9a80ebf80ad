"""Pairs of user and item without times or an order, such as play counts."""

from __future__ import annotations

import pathlib

import pytest

from tests.ingestion.test_tabular import events_of, ingest, items_of, write
from two_tower.base.errors import UserError
from two_tower.data_directory import ingest_report
from two_tower.data_directory.description import describe
from two_tower.data_directory.description_text import render
from two_tower.data_directory.manifest import Manifest
from two_tower.data_directory.verification import verify
from two_tower.pipeline.settings.run_file import suited_preset
from two_tower.schema.text_ids import number_of

MAP = """
dataset: plays
label_event: listen
repeats_recommendable: false
events: {files: plays.tsv, header: [user, artist, name, plays], user_id: user, item_id: artist,
         unordered: true}
items: {files: plays.tsv, header: [user, artist, name, plays], item_id: artist, title: name}
"""
PLAYS = "b\tm1\tBlur\t90\nb\tm2\tPulp\t9\na\tm2\tPulp\t7\nb\tm1\tBlur\t1\na\tm3\tAsh\t1\n"


def test_pairs_are_kept_once_and_have_no_order(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "plays.tsv", PLAYS)
    manifest = ingest(tmp_path, MAP)
    events = events_of(tmp_path)
    assert all(list(event) == ["user_id", "item_id"] for event in events)
    assert sorted((event["user_id"], event["item_id"]) for event in events) == sorted(
        (number_of(user), number_of(item))
        for user, item in (("b", "m1"), ("b", "m2"), ("a", "m2"), ("a", "m3"))
    )
    assert {row["title"] for row in items_of(tmp_path).values()} == {"Blur", "Pulp", "Ash"}
    assert manifest.dropped == {"duplicate_events": 1}
    data = str(tmp_path / "data")
    assert not verify(data).has_order and not Manifest.load(data).has_timestamps
    assert (manifest.time_range, manifest.counts["label_events"]) == ((0, 0), 4)


def test_the_protocol_of_a_run_is_told(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "plays.tsv", PLAYS)
    manifest = ingest(tmp_path, MAP)
    assert suited_preset(manifest) == "hold_out"
    assert ingest_report.protocol_settings(manifest) == ["split.protocol=hold_out"]
    assert "Time       none, and no order: each row is a pair" in ingest_report.render(manifest)
    assert "none, and no order" in render(describe(str(tmp_path / "data")))


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("unordered: true", "unordered: true, order: plays", "'events.order' and 'events.unordered'"),
        ("unordered: true", "unordered: false", "none of them.*'events.unordered: true'"),
        ("unordered: true", "unordered: 1", "key 'events.unordered' takes true or false"),
        ("unordered: true", "unordered: true, split: name", "'events.unordered' and a split contradict"),
        ("files: plays.tsv", "files: {train: plays.tsv}", "'events.unordered' and a split contradict"),
        ("recommendable: false", "recommendable: true", "'repeats_recommendable' is true, and the"),
    ],
)
def test_maps_that_contradict_the_missing_order_are_named(
    before: str, after: str, told: str, tmp_path: pathlib.Path
) -> None:
    write(tmp_path, "plays.tsv", PLAYS)
    assert before in MAP
    with pytest.raises(UserError, match=told):
        ingest(tmp_path, MAP.replace(before, after, 1))
