"""Damage to sources that `benchmarks/damaged_inputs.py` found: each is named by file, and nothing is lost."""

from __future__ import annotations

import gzip
import json
import os
import pathlib
import shutil
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import data_directories
from tests.logs_with_a_future import write_log
from two_tower.base.errors import UserError
from two_tower.data_directory.manifest import Manifest, digest_of_file
from two_tower.data_directory.verification import verify
from two_tower.ingestion import FORMATS, table_files

MAP = """
dataset: d
label_event: listen
repeats_recommendable: true
events: {files: multi_event.parquet, user_id: uid, item_id: item_id, timestamp: timestamp,
         is_organic: is_organic, event_type: event_type}
items: {files: names.parquet, item_id: item_id, title: title, tags: artist}
embeddings: {files: embeddings.parquet, item_id: item_id, embedding: embed}
"""


def not_utf8(rows: int, lists: bool = False) -> pa.Array:
    """Returns texts of which the last is no UTF-8, or lists of them."""
    offsets = pa.array(range(rows + 1), pa.int32()).buffers()[1]
    texts = pa.StringArray.from_buffers(rows, offsets, pa.py_buffer(b"a" * (rows - 1) + b"\xff"))
    return pa.ListArray.from_arrays(pa.array(range(rows + 1), pa.int32()), texts) if lists else texts


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("reader", ["table", "yambda"])
@pytest.mark.parametrize(
    ("file", "column"),
    [("names", "title"), ("names", "artist"), ("multi_event", "event_type"), ("embeddings", "embed")],
)
def test_text_in_parquet_that_is_not_utf8_is_named_by_row(
    file: str, column: str, reader: str, lists: bool, tmp_path: pathlib.Path
) -> None:
    source = tmp_path / "source"
    write_log(source)
    (source / "columns.yaml").write_text(MAP)
    path = source / "names.parquet"
    names = pq.read_table(path)
    pq.write_table(names.append_column("artist", pa.array(["Someone"] * len(names))), path)
    path = source / f"{file}.parquet"
    table = pq.read_table(path)
    at = table.column_names.index(column)
    pq.write_table(table.set_column(at, column, not_utf8(len(table), lists)), path)
    with pytest.raises(UserError, match=rf"{path}: column '{column}'"):
        FORMATS[reader](str(source), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lists", [False, True])
def test_a_data_directory_holds_utf8_alone(lists: bool, tmp_path: pathlib.Path) -> None:
    title: dict[str, Any] = {"mood": not_utf8(2, lists)}
    with pytest.raises(UserError, match="The items: column 'mood', row 1: byte 0xff is not UTF-8"):
        data_directories.write(tmp_path / "data", item_table=data_directories.items(**title))
    data_directories.write(tmp_path / "data", item_table=data_directories.items(mood=["a", "b"]))
    (path,) = (tmp_path / "data" / "items").iterdir()
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index("mood"), "mood", not_utf8(2)), path)
    manifest = Manifest.load(str(tmp_path / "data"))
    for file in manifest.files:
        if file.path.startswith("items/"):
            file.__dict__.update(bytes=path.stat().st_size, digest=digest_of_file(str(path)))
    manifest.save(str(tmp_path / "data"))
    with pytest.raises(UserError, match=rf"{path}: column 'mood', row 1: byte 0xff is not UTF-8"):
        verify(str(tmp_path / "data"))


@pytest.mark.parametrize(
    ("reader", "name", "text"),
    [("sequences", "log.txt", "1 2\n1 3\n"), ("table", "log.csv", "u,i,t\n1,2,3\n1,3,4\n")],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_gzip_file_with_wrong_bytes_within_is_named(
    reader: str, name: str, text: str, encoding: str, tmp_path: pathlib.Path
) -> None:
    content = bytearray(gzip.compress(text.encode() * 50, mtime=0))
    content[10] = 0xFF  # a kind of block that there is not
    path = tmp_path / f"{name}.gz"
    path.write_bytes(content)
    columns = tmp_path / "columns.yaml"
    columns.write_text(
        "{dataset: d, label_event: e, repeats_recommendable: true, events: {user_id: u, item_id: i, "
        f"timestamp: t, encoding: {encoding}}}}}"
    )
    given = {"columns": str(columns)} if reader == "table" else {}
    with pytest.raises(UserError, match=rf"{path}: (cannot be read to its end|not readable as CSV)"):
        FORMATS[reader](str(path), str(tmp_path / "out"), **given)
    assert not (tmp_path / "out").exists()


def test_a_rating_beyond_double_precision_is_named_by_row(tmp_path: pathlib.Path) -> None:
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n1,A (2000),Drama\n")
    ratings = {"userId": [1, 2], "movieId": [1, 1], "rating": [3, 2**60 + 1], "timestamp": [100, 200]}
    pq.write_table(pa.table(ratings), tmp_path / "ratings.parquet")
    with pytest.raises(UserError, match=r"ratings\.parquet: column 'rating', row 1: "):
        FORMATS["movielens"](str(tmp_path), str(tmp_path / "out"))


@pytest.mark.parametrize("reader", ["movielens", "movietweetings"])
def test_lines_that_end_with_carriage_returns_lose_no_film(reader: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "ratings.dat").write_text("1::1::3::978300100\n1::2::4::978300200\n")
    (tmp_path / "movies.dat").write_bytes(b"1::A (2000)::Drama\r2::B (2001)::Crime\r")
    with pytest.raises(UserError, match=r"movies\.dat:1: a carriage return stands within the line"):
        FORMATS[reader](str(tmp_path), str(tmp_path / "out"))


def test_a_genre_that_is_gone_is_sought_in_the_file_of_genres(tmp_path: pathlib.Path) -> None:
    (tmp_path / "u.data").write_text("1\t1\t3\t978300100\n")
    (tmp_path / "u.item").write_text("1|A (2000)|01-Jan-2000||http://x|0|1\n")
    (tmp_path / "u.genre").write_text("unknown|0\n")
    (tmp_path / "u.user").write_text("1|24|M|writer|85711\n")
    with pytest.raises(UserError, match=r"u\.item:1: .* one each for u\.genre"):
        FORMATS["movielens"](str(tmp_path), str(tmp_path / "out"))


def test_a_user_with_two_lines_shows_that_lines_are_no_users(tmp_path: pathlib.Path) -> None:
    """Writes a file of events in which one line has a number too many."""
    (tmp_path / "log.txt").write_text("1 10\n1 11 9\n2 10\n2 12\n")
    with pytest.raises(UserError, match=r"log\.txt:2: user 1 has line 1 too"):
        FORMATS["sequences"](str(tmp_path / "log.txt"), str(tmp_path / "out"))


def slices(folder: pathlib.Path) -> None:
    for number in range(2):
        track = {
            "pos": 0,
            "track_uri": f"t{number}",
            "track_name": "T",
            "artist_uri": "a",
            "artist_name": "A",
            "album_uri": "b",
            "duration_ms": 1,
        }
        playlist = {"pid": number, "name": "p", "collaborative": "false", "modified_at": 1, "tracks": [track]}
        content = {"playlists": [{**playlist, "num_followers": 1, "num_edits": 1}]}
        (folder / f"mpd.slice.{number}-{number}.json").write_text(json.dumps(content))


@pytest.mark.parametrize("holds_a_file", [True, False])
@pytest.mark.parametrize(
    ("reader", "name"),
    [
        ("spotify-mpd", "mpd.slice.1-1.json"),
        ("movielens", "ratings.parquet"),
        ("movielens", "ratings-2.parquet"),
        ("table", "part-1.csv"),
    ],
)
def test_a_folder_among_the_files_of_a_pattern_is_no_missing_file(
    reader: str, name: str, holds_a_file: bool, tmp_path: pathlib.Path
) -> None:
    slices(tmp_path)
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n1,A (2000),Drama\n")
    if name == "ratings-2.parquet":
        ratings = {"userId": [1], "movieId": [1], "rating": [3], "timestamp": [100]}
        pq.write_table(pa.table(ratings), tmp_path / "ratings-1.parquet")
    (tmp_path / "part-0.csv").write_text("u,i,t\n1,2,3\n")
    (tmp_path / "columns.yaml").write_text(
        "{dataset: d, label_event: e, repeats_recommendable: true, events: {files: part-*.csv, user_id: u, "
        "item_id: i, timestamp: t}}"
    )
    path = tmp_path / name
    content = path.read_bytes() if path.is_file() else b"u,i,t\n1,3,4\n"
    if path.is_file():
        path.unlink()
    path.mkdir()
    if holds_a_file:
        (path / "part-0").write_bytes(content)
    with pytest.raises(UserError, match=rf"{path} is a folder, and the reader needs one file"):
        FORMATS[reader](str(tmp_path), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    shutil.rmtree(path)


@pytest.mark.parametrize("pattern", ["*", "events/part-*", "events/*", "*/2024"])
def test_a_folder_that_a_pattern_names_is_not_passed_over(pattern: str, tmp_path: pathlib.Path) -> None:
    files = {"events/part-a": "", "events/part-b/p": "", "events/2024/p": "", "2025/2024": "", "top": ""}
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("u,i,t\n1,2,3\n")
    with pytest.raises(
        UserError, match=r"/(2025|events|part-b|2024) is a folder, and the reader needs one file"
    ):
        table_files.find_files(str(tmp_path), pattern)
    below = table_files.find_files(str(tmp_path), "**/*")
    assert [os.path.relpath(path, tmp_path) for path in below] == sorted(files)


def test_files_below_linked_folders_are_read(tmp_path: pathlib.Path) -> None:
    for name in ("source/events/2024/p.csv", "elsewhere/p.csv"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("u,i,t\n1,2,3\n")
    (tmp_path / "source" / "events" / "2025").symlink_to(tmp_path / "elsewhere")
    source = str(tmp_path / "source")
    found = [os.path.relpath(path, source) for path in table_files.find_files(source, "events/*/p.csv")]
    assert found == ["events/2024/p.csv", "events/2025/p.csv"]
    # A circle, and files that would be read twice.
    for link, target in (("elsewhere/back", "../source"), ("source/events/again", "2024")):
        (tmp_path / link).symlink_to(target)
        with pytest.raises(UserError, match=r"a link to .*, whose files are there twice"):
            table_files.find_files(source, "events/*/p.csv")
        (tmp_path / link).unlink()
