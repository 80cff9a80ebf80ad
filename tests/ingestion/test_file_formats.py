"""Formats by first bytes: other formats are named with a remedy, and JSON lines are read."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pathlib
import pickle
import re
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pytest

from tests.ingestion.test_tabular import events_of, ingest, items_of, users_of, write
from two_tower.base.errors import UserError
from two_tower.data_directory.verification import verify
from two_tower.ingestion import FORMATS, file_formats, json_lines, notices

MAP = """
dataset: d
label_event: view
repeats_recommendable: false
events: {files: events, user_id: u, item_id: i, timestamp: t}
"""
CSV = b"u,i,t\n1,7,10\n1,8,20\n2,7,30\n"
EVENTS = [{"u": 1, "i": 7, "t": 10}, {"u": 1, "i": 8, "t": 20}, {"u": 2, "i": 7, "t": 30}]
FRAME = pd.DataFrame(EVENTS)


def zipped(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, CSV)
    return content.getvalue()


def tar(mode: Literal["w", "w:gz"]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:
        info = tarfile.TarInfo("events.csv")
        info.size = len(CSV)
        archive.addfile(info, io.BytesIO(CSV))
    return content.getvalue()


def written(write_to: Callable[[Any], Any]) -> bytes:
    content = io.BytesIO()
    write_to(content)
    return content.getvalue()


def arrow_stream() -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pandas(FRAME)
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def database(folder: pathlib.Path) -> bytes:
    path = folder / "a.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table events (u, i, t)")
    return path.read_bytes()


def feather(version: int) -> bytes:
    return written(lambda to: pyarrow.feather.write_feather(FRAME, to, version=version))


OTHERS: dict[str, tuple[Callable[[pathlib.Path], bytes], str]] = {
    "zip": (lambda _: zipped("events.csv"), "a zip archive: unpack it first, for example with `unzip`"),
    "empty zip": (lambda _: written(lambda to: zipfile.ZipFile(to, "w").close()), "a zip archive without"),
    "xlsx": (lambda _: zipped("[Content_Types].xml"), "an Excel workbook: write it as Parquet first"),
    "openpyxl": (lambda _: zipped("docProps/app.xml"), "an Excel workbook"),
    "xls": (lambda _: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "an Excel workbook"),
    "xz": (lambda _: lzma.compress(CSV), "compressed with xz: unpack it first, for example with `unxz`"),
    "bz2": (lambda _: bz2.compress(CSV), "compressed with bzip2: unpack it .* with `bunzip2`"),
    "zstd": (lambda _: pa.compress(CSV, "zstd", asbytes=True), "compressed with Zstandard"),
    "feather": (lambda _: feather(2), r"an Arrow file \(Feather\): write it as Parquet first"),
    "feather 1": (lambda _: feather(1), "a Feather file: write it as Parquet first"),
    "arrow stream": (lambda _: arrow_stream(), "an Arrow stream: write it as Parquet first"),
    "orc": (lambda _: written(lambda to: pa.orc.write_table(pa.Table.from_pandas(FRAME), to)), "an ORC file"),
    "pickle": (lambda _: pickle.dumps(EVENTS), "a Python pickle"),
    "npy": (lambda _: written(lambda to: np.save(to, np.ones(3))), "a NumPy array"),
    "sqlite": (database, "an SQLite database"),
    "tar": (lambda _: tar("w"), "a tar archive: unpack it first, for example with `tar -xf`"),
    "tar.gz": (lambda _: tar("w:gz"), "a tar archive"),
    "gzipped bz2": (lambda _: gzip.compress(bz2.compress(CSV)), "compressed with bzip2"),
    "html": (lambda _: b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "a web page: its address"),
    "python": (lambda _: b"{u'u': 1, 'i': 7, 't': 10}\n", "Python dictionaries, which are not JSON: write "),
    "json list": (lambda _: json.dumps(EVENTS).encode(), "one JSON document, a list, .* `jq -c"),
    "gzipped json list": (lambda _: gzip.compress(json.dumps(EVENTS, indent=1).encode()), "one JSON doc"),
    "json document": (lambda _: json.dumps({"events": EVENTS}, indent=1).encode(), "one JSON document over"),
    "json line": (lambda _: b"{\n" + json.dumps(EVENTS[0], indent=1).encode()[2:], "one JSON document over"),
}


@pytest.mark.parametrize("form", list(OTHERS))
def test_other_formats_are_named_with_what_to_do(form: str, tmp_path: pathlib.Path) -> None:
    content, told = OTHERS[form]
    path = write(tmp_path, "events", content(tmp_path))
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}: the file is {told}"):
        ingest(tmp_path, MAP)
    assert not (tmp_path / "data").exists()


def test_a_first_line_that_was_cut_off_is_a_faulty_line_and_no_document(tmp_path: pathlib.Path) -> None:
    lines = [json.dumps(one).encode() for one in EVENTS]
    path = write(tmp_path, "events", b"\n".join([lines[0][:-4], *lines[1:]]))
    with pytest.raises(
        UserError, match=rf"{re.escape(str(path))}.*\n1 line is faulty\. Repair it, "
    ) as refused:
        ingest(tmp_path, MAP)
    assert "one JSON document" not in str(refused.value)
    write(tmp_path, "events", b"\n".join([lines[0][:-4], lines[1][:-4], *lines[2:]]))
    with pytest.raises(UserError, match=r"\n2 lines are faulty\. Repair them, "):
        ingest(tmp_path, MAP)


def test_a_first_line_that_was_cut_after_a_comma_is_a_faulty_line_where_whole_objects_follow(
    tmp_path: pathlib.Path,
) -> None:
    lines = ['{"u": 1,', *map(json.dumps, EVENTS)]
    write(tmp_path, "events", "\n".join(lines))
    with pytest.raises(UserError, match=r"\n1 line is faulty\."):
        ingest(tmp_path, MAP)
    write(tmp_path, "events", json.dumps(EVENTS[0]).replace(", ", ",\n"))
    with pytest.raises(UserError, match="one JSON document over several lines"):
        ingest(tmp_path, MAP)


@pytest.mark.parametrize("line", ["null", "7", '"text"', "true"])
def test_a_first_line_that_is_no_object_is_a_faulty_line_of_a_file_that_is_json_by_name(
    line: str, tmp_path: pathlib.Path
) -> None:
    mapping = MAP.replace("files: events", "files: events.jsonl")
    path = write(tmp_path, "events.jsonl", "\n".join([line, *map(json.dumps, EVENTS)]))
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}: row 0: .*\n1 line is faulty\."):
        ingest(tmp_path, mapping)
    assert ingest(tmp_path, mapping + "on_bad_rows: drop\n").counts["events"] == len(EVENTS)


def test_a_key_twice_is_named(tmp_path: pathlib.Path) -> None:
    lines = [json.dumps(EVENTS[0]), '{"u": 1, "u": 2, "i": 7, "t": 9}']
    write(tmp_path, "events", "\n".join(lines))
    with pytest.raises(UserError, match="row 1: the key 'u' stands twice in one object: keep one"):
        ingest(tmp_path, MAP)


def test_formats_that_gzip_packs_are_named_too(tmp_path: pathlib.Path) -> None:
    parquet = written(lambda to: FRAME.to_parquet(to))
    for content, told in ((parquet, "a Parquet file"), (gzip.compress(CSV), "a file compressed with gzip")):
        path = write(tmp_path, "events", gzip.compress(content))
        with pytest.raises(
            UserError, match=rf"^{re.escape(str(path))}: gzip packs {told}: unpack it first, "
        ):
            ingest(tmp_path, MAP)
    # Parts that were compressed one by one and joined are one text.
    write(tmp_path, "events", gzip.compress(CSV[:14]) + gzip.compress(CSV[14:]))
    ingest(tmp_path, MAP)
    assert len(events_of(tmp_path)) == 3


@pytest.mark.parametrize("reader", ["sequences", "movietweetings"])
def test_other_readers_of_text_name_them_too(reader: str, tmp_path: pathlib.Path) -> None:
    for name in ("ratings.dat", "movies.dat"):
        (tmp_path / name).write_bytes(bz2.compress(b"1::2::3::4\n"))
    source = tmp_path / "ratings.dat" if reader == "sequences" else tmp_path
    with pytest.raises(UserError, match=r"\.dat: the file is compressed with bzip2: unpack it first"):
        FORMATS[reader](str(source), str(tmp_path / "out"))


@pytest.mark.parametrize("name", ["ORC", "FEA1", "BZh", "ARROW1", "RDX"])
def test_a_column_may_be_named_as_a_format_begins(name: str, tmp_path: pathlib.Path) -> None:
    write(tmp_path, "events", f"{name},i,t\n1,7,10\n")
    ingest(tmp_path, MAP.replace("user_id: u", f"user_id: {name}"))
    assert events_of(tmp_path) == [{"user_id": 1, "item_id": 7, "timestamp": 10}]


# ── JSON lines ──────────────────────────────────────────────────────────────────────────────────────────


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize(
    "form", ["plain", "gzip", "bom", "crlf", "blank lines", "no last line feed", "blocks", "latin-1"]
)
def test_json_lines_are_read(form: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, mapping = lines(EVENTS), MAP
    if form == "gzip":
        content = gzip.compress(content)
    elif form == "bom":
        content = b"\xef\xbb\xbf" + content
    elif form == "crlf":
        content = content.replace(b"\n", b"\r\n")
    elif form == "blank lines":
        content = b"\n" + content.replace(b"\n", b"\n\n")
    elif form == "no last line feed":
        content = content.rstrip()
    elif form == "blocks":
        monkeypatch.setattr(json_lines, "_BLOCK_BYTES", 40)
    elif form == "latin-1":
        mapping = MAP.replace("timestamp: t", "timestamp: t, encoding: latin-1")
        content = content.replace(b'"u": 1', '"é": "Zoë", "u": 1'.encode("latin-1"))
    write(tmp_path, "events", content)
    ingest(tmp_path, mapping)
    assert events_of(tmp_path) == [
        {"user_id": row["u"], "item_id": row["i"], "timestamp": row["t"]} for row in EVENTS
    ]
    verify(str(tmp_path / "data"))


REVIEWS = [
    {"user_id": "AX", "parent_asin": "B1", "timestamp": 1_600_118_897_007, "rating": 1.0, "images": []},
    {"user_id": "AY", "parent_asin": "B2", "timestamp": 1_600_264_689_007, "images": [{"url": "x"}]},
]
PRODUCTS: list[dict[str, Any]] = [
    {"parent_asin": "B1", "title": 'Green "tea"\nbox', "categories": ["Tea", "Grocery"], "price": 3,
     "since": "2019-01-01", "details": {}, "bought": None, "rank": 1},
    {"parent_asin": "B2", "title": None, "categories": [], "price": "from 4", "details": {}, "rank": 2.5},
    {"parent_asin": "B3", "price": None, "ok": True, "since": "soon"},
]  # fmt: skip
SHOP = """
dataset: tea
label_event: review
repeats_recommendable: false
events: {files: r.jsonl.gz, user_id: user_id, item_id: parent_asin, timestamp: timestamp, timestamp_unit: ms}
items: {files: meta.jsonl.gz, item_id: parent_asin, title: title, tags: categories}
"""


@pytest.mark.parametrize("block", [80, 1 << 24])
def test_columns_of_json_lines_have_their_types(
    block: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "_BLOCK_BYTES", block)
    write(tmp_path, "r.jsonl.gz", gzip.compress(lines(REVIEWS)))
    write(tmp_path, "meta.jsonl.gz", gzip.compress(lines(PRODUCTS)))
    manifest = ingest(tmp_path, SHOP)
    assert sorted(event["timestamp"] for event in events_of(tmp_path)) == [1_600_118_897, 1_600_264_689]
    items = {row["original_id"]: row for row in items_of(tmp_path).values()}
    assert items["B1"] | {"item_id": 0} == {
        "item_id": 0,
        "original_id": "B1",
        "title": 'Green "tea"\nbox',
        "tags": ["Tea", "Grocery"],
        # Numbers and text in one column are text, as in CSV; times in JSON are text too.
        "price": "3",
        "since": "2019-01-01",
        "rank": 1.0,
        "ok": None,
    }
    assert (items["B2"]["price"], items["B2"]["rank"], items["B2"]["tags"]) == ("from 4", 2.5, [])
    assert (items["B3"]["ok"], items["B3"]["title"], items["B3"]["since"]) == (True, None, "soon")
    # `details` and `bought` have no value in any row.
    assert manifest.noted["columns_without_values"] == 2


@pytest.mark.parametrize("block", [60, 1 << 24])
def test_ids_beyond_64_bits_keep_their_digits(
    block: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "_BLOCK_BYTES", block)
    large = [18_446_744_073_709_551_614, 18_446_744_073_709_551_615]
    write(tmp_path, "events", lines([{"u": user, "i": 7, "t": 10} for user in (5, *large)]))
    ingest(tmp_path, MAP)
    assert {row["original_id"] for row in users_of(tmp_path).values()} == {"5", *map(str, large)}


def test_objects_within_objects_are_no_columns(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "r.jsonl.gz", gzip.compress(lines(REVIEWS)))
    path = write(tmp_path, "meta.jsonl.gz", lines([{"parent_asin": "B1", "details": {"colour": "red"}}]))
    mapping = SHOP.replace(", title: title, tags: categories", "")
    with pytest.raises(UserError, match=rf"{path}: column 'details' holds no .* in 'items\.keep'"):
        ingest(tmp_path, mapping)
    with pytest.raises(UserError, match=rf"{path}: column 'user' is missing; .* parent_asin, details\.$"):
        ingest(tmp_path, mapping.replace("item_id: parent_asin}", "item_id: user}"))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"u": 1, "i": 7, "t": \n', r"row 2: not readable as JSON lines \((Invalid value|Expecting value)"),
        (b"5\n", r"row 2: "),
        (b'{"u": 1, "u": 2, "i": 7, "t": 3}\n', r"row 2: .*twice"),
        (b'{"u": 1, "i": 7, "t": "\xff"}\n', "row 2: byte 0xff is not UTF-8"),
        (b'{"u": 1, "i": 7}\n', "column 't', row 2: null is no time"),
        (b'{"u": 1, "i": 7, "t": "x"}\n', "column 't', row "),
        (b'{"u": "x"}\n5\n', "row 3: (5 is no JSON object|.*from object to number)"),
        (b'{"u": "x"}\n{"u": \n', "row 3: not readable as JSON"),
    ],
)
@pytest.mark.parametrize("block", [30, 1 << 24])
def test_bad_json_lines_are_named_by_row(
    block: int, line: bytes, told: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "_BLOCK_BYTES", block)
    path = write(tmp_path, "events", lines(EVENTS[:2]) + line + lines(EVENTS[2:]))
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}: .*{told}"):
        ingest(tmp_path, MAP)


@pytest.mark.parametrize("block", [30, 1 << 24])
@pytest.mark.parametrize("is_packed", [False, True])
def test_faulty_json_lines_are_counted_and_can_be_dropped(
    is_packed: bool, block: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "_BLOCK_BYTES", block)
    many = [{"u": user, "i": 7, "t": 10} for user in range(20)]
    good = lines(many).splitlines(keepends=True)
    bad = [b"5\n", b'{"u": 1, "i"\n', b'{"u": 1, "i": 7, "t": "\xff"}\n']
    content = b"".join([*good[:3], bad[0], *good[3:5], bad[1], *good[5:], bad[2], b'{"u": 1, "i'])
    write(tmp_path, "events", gzip.compress(content) if is_packed else content)
    with pytest.raises(UserError, match=r"row 3: .*\n.*row 6: .*\n.*row 22: byte.*\n.*row 23: .*\n4 lines"):
        ingest(tmp_path, MAP)
    manifest = ingest(tmp_path, MAP + "on_bad_rows: drop\n")
    assert [row["user_id"] for row in events_of(tmp_path)] == list(range(20))
    assert manifest.dropped == {"wrong_rows_of_events": 4}
    # Rows are still counted as the file has them.
    write(tmp_path, "events", content.replace(b'"u": 19,', b'"u": -1,'))
    manifest = ingest(tmp_path, MAP + "on_bad_rows: drop\n")
    assert manifest.dropped == {"wrong_rows_of_events": 5}
    notes: list[str] = []
    monkeypatch.setattr(notices, "tell", notes.append)
    ingest(tmp_path, MAP + "on_bad_rows: drop\n")
    assert "5 of 24 rows of the events are wrong" in notes[0] and "row 21: -1" in notes[0]


def test_a_line_without_an_end_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "_BLOCK_BYTES", 100)
    write(tmp_path, "events", b'{"events": ' + json.dumps(EVENTS * 50).encode() + b"}")
    with pytest.raises(UserError, match="a line has more than 100 bytes, as in one JSON document"):
        ingest(tmp_path, MAP)


def test_braces_alone_are_no_json() -> None:
    assert not file_formats.is_json(b"{6fa459ea-ee8a},7,10\n")
    assert not file_formats.is_json(b"[0.1 0.2],7,10\n")
    assert file_formats.is_json(b'\xef\xbb\xbf {"u": 1}')


GOOD_LINES = [b'{"u": 1, "i": 1, "t": 5}', b'{"u": 2, "i": 1, "t": 6}', b'{"u": 3, "i": 2, "t": 7}']


@pytest.mark.parametrize(
    ("wrong", "row"),
    [
        (b'{"u": 9, "i": 9, "t": 9},', 1),
        (b'{"u": 9, "i": 9, "t": 9}}', 1),
        (b'{"u": 9, "i": 9, "t": 9}]', 1),
        (b"}", 1),
        (b",", 1),
        (b"null", 1),
        (b"[1, 2]\nnull", 1),
        (b'{"u": 1, \nnull', 1),
        (b'{"u": 9, "i": 9, "t": 9}, {"u": 8, "i": 8, "t": 8}', 1),
        (b'{"u": 9, "i": 9, "t": 9} {"u": 8, "i": 8, "t": 8}', 1),
    ],
)
def test_a_stray_character_takes_no_line_with_it(wrong: bytes, row: int, tmp_path: pathlib.Path) -> None:
    """Writes lines at which Arrow ends without an error, or crashes."""
    content = b"\n".join([GOOD_LINES[0], wrong, *GOOD_LINES[1:]]) + b"\n"
    write(tmp_path, "events", content)
    with pytest.raises(UserError, match=f"events: row {row}: "):
        ingest(tmp_path, MAP)
    write(tmp_path, "events", b"\n".join([*GOOD_LINES * 3, wrong]) + b"\n")
    manifest = ingest(tmp_path, MAP + "on_bad_rows: drop\n")
    assert len(events_of(tmp_path)) == 3
    assert manifest.dropped["wrong_rows_of_events"] == wrong.count(b"\n") + 1


def test_large_whole_numbers_beside_others_keep_their_digits(tmp_path: pathlib.Path) -> None:
    ids = [2**53 + 1, 2**53, 2**127 + 1, 2**127, 3]
    content = [f'{{"u": {one}, "i": 1, "t": 5}}' for one in [*ids, 2.5]]
    write(tmp_path, "events", "\n".join(content).encode())
    ingest(tmp_path, MAP + "user_id_type: text\n")
    assert sorted(row["original_id"] for row in users_of(tmp_path).values()) == sorted(map(str, [*ids, 2.5]))
