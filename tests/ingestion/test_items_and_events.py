"""Property of all readers with a table of items: no column of an item comes from the events."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from tests.logs_with_a_future import DAYS, write_log
from two_tower.data_directory.manifest import DAY, DataFile, Manifest, files_of
from two_tower.ingestion import FORMATS

FILMS = "".join(f"{film}::Film {film} ({1980 + film})::Drama|Noir\n" for film in range(1, 9))
MAP = """
dataset: mine
label_event: listen
repeats_recommendable: true
events: {files: events.csv, user_id: user, item_id: item, timestamp: time, item_length: length}
items: {files: items.csv, item_id: item, title: title, item_length: length}
"""


def yambda(folder: pathlib.Path, is_other: bool) -> Manifest:
    source = write_log(folder / "source", 5 * DAY if is_other else None)
    return FORMATS["yambda"](source, str(folder / "data"))


def yambda_without_names(folder: pathlib.Path, is_other: bool) -> Manifest:
    source = write_log(folder / "source", 5 * DAY if is_other else None)
    (folder / "source" / "names.parquet").unlink()
    return FORMATS["yambda"](source, str(folder / "data"))


def movietweetings(folder: pathlib.Path, is_other: bool) -> Manifest:
    rated = range(4, 9) if is_other else range(1, 5)
    ratings = "".join(f"{film}::{film}::{10 - is_other}::{1381006850 + film}\n" for film in rated)
    (folder / "ratings.dat").write_text(ratings)
    (folder / "movies.dat").write_text(FILMS)
    return FORMATS["movietweetings"](str(folder), str(folder / "data"))


def movielens(folder: pathlib.Path, is_other: bool) -> Manifest:
    rated = range(4, 9) if is_other else range(1, 5)
    ratings = "".join(f"{film}::{film}::{5 - is_other}::{978300760 + film}\n" for film in rated)
    (folder / "ratings.dat").write_text(ratings)
    (folder / "movies.dat").write_text(FILMS)
    return FORMATS["movielens"](str(folder), str(folder / "data"))


def table(folder: pathlib.Path, is_other: bool) -> Manifest:
    heard = (3, 4) if is_other else (1, 2)
    events = "".join(f"1,{item},{DAYS * DAY},{100 * item}\n" for item in heard)
    (folder / "events.csv").write_text("user,item,time,length\n" + events)
    (folder / "items.csv").write_text("item,title,length\n1,a,60\n2,b,\n3,c,70\n4,d,\n")
    (folder / "columns.yaml").write_text(MAP)
    return FORMATS["table"](str(folder), str(folder / "data"))


@pytest.mark.parametrize("ingest", [yambda, yambda_without_names, movietweetings, movielens, table])
def test_other_events_leave_every_item_as_it_was(
    ingest: Callable[[pathlib.Path, bool], Manifest], tmp_path: pathlib.Path
) -> None:
    """Compares the files of items/ byte for byte, under events that agree in nothing after a time."""
    found: list[list[DataFile]] = []
    digests = set()
    for is_other in (False, True):
        folder = tmp_path / str(is_other)
        folder.mkdir()
        manifest = ingest(folder, is_other)
        found.append(files_of(manifest, "items"))
        digests.add(manifest.digest)
    assert found[0] == found[1]
    assert len(digests) == 2
