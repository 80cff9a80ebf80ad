from __future__ import annotations

import os
import pathlib

import pyarrow.parquet as pq
import pytest

from two_tower.base.errors import UserError
from two_tower.data_directory.manifest import event_files, item_files
from two_tower.data_directory.verification import verify
from two_tower.ingestion import FORMATS

RATINGS = """\
1::0114508::8::1381006850
2::0208092::5::1580466110
2::0114508::0::1580466000
2::0114508::9::1580460000
2::0208092::5::1580466110
3::9999999::10::1587593109
"""
MOVIES = """\
0114508::Species (1995)::Action|Horror|Sci-Fi
0208092::Snatch: a tale :: of diamonds (2000)::Comedy
0000008::Édition spéciale (1969)::
"""


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "ratings.dat").write_text(RATINGS, "utf-8")
    (folder / "movies.dat").write_text(MOVIES, "utf-8")
    return folder


def test_ratings_become_events_and_films_the_catalog(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = str(tmp_path / "data")
    manifest = FORMATS["movietweetings"](str(source), out)
    assert verify(out) == manifest
    assert (manifest.dataset, manifest.label_event, manifest.repeats_recommendable) == (
        "movietweetings",
        "rating",
        False,
    )
    assert manifest.counts == {"events": 4, "label_events": 4, "users": 3, "items": 4, "user_rows": 0}
    assert manifest.time_range == (1381006850, 1587593109)
    # User 2 rated Species twice: the earlier rating is kept, although it comes later in the file.
    assert manifest.dropped == {"duplicate_events": 1, "repeated_ratings": 1}
    assert manifest.repaired == {"items_added_to_catalog": 1}
    events = pq.read_table(event_files(out)[0]).to_pydict()
    assert events["item_id"] == [114508, 208092, 114508, 9999999]
    assert events["timestamp"] == [1381006850, 1580466110, 1580460000, 1587593109]
    assert events["play_ratio"] == pytest.approx([0.8, 0.5, 0.9, 1.0])
    assert set(events["event_type"]) == {"rating"}
    assert pq.read_table(item_files(out)[0]).to_pylist() == [
        {
            "item_id": 114508,
            "release_timestamp": 788_918_400,
            "title": "Species (1995)",
            "tags": ["Action", "Horror", "Sci-Fi"],
        },
        {
            "item_id": 208092,
            "release_timestamp": 946_684_800,
            "title": "Snatch: a tale :: of diamonds (2000)",
            "tags": ["Comedy"],
        },
        {"item_id": 8, "release_timestamp": -31_536_000, "title": "Édition spéciale (1969)", "tags": []},
        {"item_id": 9999999, "release_timestamp": None, "title": None, "tags": []},
    ]


def test_same_files_give_the_same_digest_and_a_changed_rating_another(
    source: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    ingest = FORMATS["movietweetings"]
    first = ingest(str(source), str(tmp_path / "a"))
    assert ingest(str(source), str(tmp_path / "b")).digest == first.digest
    (source / "ratings.dat").write_text(RATINGS.replace("::8::", "::7::"), "utf-8")
    assert ingest(str(source), str(tmp_path / "a")).digest != first.digest


def test_the_order_of_the_lines_does_not_matter(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def content(out: pathlib.Path) -> list[tuple[object, ...]]:
        table = pq.read_table(event_files(str(out))[0])
        return sorted(zip(*(column.to_pylist() for column in table.columns), strict=True))

    ingest = FORMATS["movietweetings"]
    first = ingest(str(source), str(tmp_path / "a"))
    lines = RATINGS.splitlines(keepends=True)
    for shuffled in (lines[::-1], lines[3:] + lines[:3], sorted(lines, key=lambda line: line[-11:])):
        (source / "ratings.dat").write_text("".join(shuffled), "utf-8")
        manifest = ingest(str(source), str(tmp_path / "b"))
        assert content(tmp_path / "b") == content(tmp_path / "a")
        assert (manifest.counts, manifest.dropped) == (first.counts, first.dropped)


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("ratings.dat", RATINGS + "4::17::8\n", "ratings.dat:7: '4::17::8'"),
        ("ratings.dat", RATINGS + "4::17::8::soon\n", "ratings.dat:7: .*soon"),
        ("ratings.dat", RATINGS + "4::-17::8::1587593109\n", "ratings.dat:7: .*-17"),
        ("ratings.dat", RATINGS + "4::17::11::1587593109\n", "ratings.dat:7: column 'rating': 11"),
        ("ratings.dat", RATINGS + "4::17::8::-3\n", "ratings.dat:7: column 'timestamp': -3"),
        ("ratings.dat", "1::17::8::1587593109000\n", r"ratings.dat:1: .*milliseconds.* 1,000\."),
        ("ratings.dat", RATINGS + "::17::8::1587593109\n", "ratings.dat:7: column 'user': '' is no id"),
        (
            "ratings.dat",
            RATINGS + "4::17::8.5::1587593109\n",
            "ratings.dat:7: column 'rating': '8.5' is no rat",
        ),
        ("ratings.dat", RATINGS + "4::17::8::15875931", r"ratings.dat:7: .*15875931 .*cut off"),
        ("ratings.dat", "", "ratings.dat: the file has no ratings"),
        ("ratings.dat", None, "ratings.dat: there is no such file"),
        ("movies.dat", None, "movies.dat: there is no such file"),
        ("movies.dat", MOVIES + "not a film\n", "movies.dat:4: 'not a film'"),
        ("movies.dat", MOVIES.encode("latin-1"), r"movies.dat:3: byte 9 \(0xc9\) is not UTF-8"),
        ("movies.dat", "", "movies.dat: the file has no movies"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    source: pathlib.Path, tmp_path: pathlib.Path, file: str, content: str | bytes | None, complaint: str
) -> None:
    if content is None:
        (source / file).unlink()
    else:
        (source / file).write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    with pytest.raises(UserError, match=complaint):
        FORMATS["movietweetings"](str(source), str(tmp_path / "data"))
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.skipif("TWO_TOWER_MOVIETWEETINGS" not in os.environ, reason="names a folder with the real files")
def test_real_files_are_read(tmp_path: pathlib.Path) -> None:
    out = str(tmp_path / "data")
    manifest = FORMATS["movietweetings"](os.environ["TWO_TOWER_MOVIETWEETINGS"], out)
    assert verify(out).counts["events"] == manifest.counts["label_events"] > 0
