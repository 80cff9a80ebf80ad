"""Rows of CSV files: quotes, escapes and widths; faulty rows are named, or dropped, and counted."""

from __future__ import annotations

import csv as standard
import gzip
import io
import pathlib
import random
import re
from collections.abc import Callable

import pytest

from tests.ingestion.test_tabular import events_of, ingest, items_of, refused, write
from two_tower.ingestion import csv_rows
from two_tower.ingestion.csv_rows import Dialect

MAP = """
dataset: d
label_event: listen
repeats_recommendable: true
events: {files: e.csv, header: [user, time, track, name], user_id: user, item_id: track, timestamp: time}
"""


def rows(*names: str, delimiter: str = ",") -> str:
    """Returns lines of one user's events, a day apart, with those names."""
    return "".join(
        delimiter.join(("1", str(86_400 * day), str(day), name)) + "\n" for day, name in enumerate(names)
    )


def test_names_that_begin_with_an_open_quote_swallow_no_lines(tmp_path: pathlib.Path) -> None:
    names = ["a", '"b', "c", "d", '"e', "f"]
    write(tmp_path, "e.csv", rows(*names))
    message = refused(tmp_path, MAP)
    assert "row 1: the quote that opens field 4 does not close right before a delimiter" in message
    assert "row 4: the quote" in message and "2 rows are faulty" in message
    assert message.index("'quote: none'") < message.index("escape")
    write(tmp_path, "e.csv", rows(*names))
    assert ingest(tmp_path, MAP.replace("{files", "{quote: none, files")).counts["events"] == 6


def test_faulty_rows_are_dropped_and_counted_if_the_map_says_so(tmp_path: pathlib.Path) -> None:
    text = rows("a", '"b', "c", "d,e", '"f,\ng"', "h").encode()
    for content in (text, gzip.compress(text)):
        write(tmp_path, "e.csv", content)
        manifest = ingest(tmp_path, MAP + "on_bad_rows: drop\n")
        assert [row["item_id"] for row in events_of(tmp_path)] == [0, 2, 4, 5]
        assert manifest.dropped == {"wrong_rows_of_events": 2}
        assert manifest.noted == {"lines_blank_or_within_quotes": 1}


@pytest.mark.parametrize("unfold", [False, True])
def test_two_open_quotes_of_a_comma_file_swallow_no_lines(unfold: bool, tmp_path: pathlib.Path) -> None:
    """Writes a valid field of several lines, each with as many commas as a row."""
    names = ["a", '"b', *"cdefg", 'h"', "i"]
    mapping = MAP.replace("{files", "{unfold: [track], separator: '|', files") if unfold else MAP
    text = rows(*names)
    write(tmp_path, "e.csv", text.replace(",0,a", ",0|10|20|30|40|50|60|70|80,a") if unfold else text)
    assert "row 1: a quoted field holds 5 lines that look like rows" in refused(tmp_path, mapping)
    # Prose of several lines is none.
    write(tmp_path, "e.csv", rows("a", '"b, c, d, e\nf, g, h, i\nj"', "k"))
    assert ingest(tmp_path, mapping).noted["lines_blank_or_within_quotes"] == 2


def test_a_quote_that_closes_in_the_next_row_takes_no_row_with_it(tmp_path: pathlib.Path) -> None:
    """Writes a name with an open quote before a name that begins with a delimiter, in quotes."""
    write(tmp_path, "e.csv", rows("a", '"b', '",c"', "d"))
    message = refused(tmp_path, MAP)
    assert "row 1: the quote that opens field 4" in message and "1 row is faulty" in message
    ingest(tmp_path, MAP + "on_bad_rows: drop\n")
    assert [row["item_id"] for row in events_of(tmp_path)] == [0, 2, 3]


def test_a_row_over_several_lines_with_a_field_more_is_one_row(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "e.csv", rows("a", '"b,\nc\n\nd",e', "f"))
    assert "row 1: 5 fields, but there are 4 columns" in refused(tmp_path, MAP)
    assert ingest(tmp_path, MAP + "on_bad_rows: drop\n").dropped == {"wrong_rows_of_events": 1}
    assert [row["item_id"] for row in events_of(tmp_path)] == [0, 2]


def test_rows_after_dropped_ones_keep_their_numbers(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "e.csv", rows("a", '"b', "c", "d,e", "f") + "1,soon,5,g\n" * 3)
    message = refused(tmp_path, MAP + "on_bad_rows: drop\n")
    assert "column 'time', row 5: 'soon' is no number" in message
    assert "5 of 8 rows of the events are wrong, too many to drop" in message


def test_rows_of_another_width_are_all_counted(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "e.csv", rows("a", "b,", "c", *["d,d"] * 7))
    message = refused(tmp_path, MAP)
    assert message.count("5 fields, but there are 4 columns") == 5
    assert "row 1: 5 fields" in message and "8 rows are faulty" in message
    write(tmp_path, "e.csv", rows("a", "b,", "c"))
    assert ingest(tmp_path, MAP + "on_bad_rows: drop\n").dropped == {"wrong_rows_of_events": 1}


def test_a_row_of_another_width_is_dropped_wherever_it_stands(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_rows, "BLOCK_BYTES", 256)
    write(tmp_path, "e.csv", rows(*["1"] * 100, *["text"] * 100, "a,b", "c"))
    manifest = ingest(tmp_path, MAP + "on_bad_rows: drop\n")
    assert manifest.dropped == {"wrong_rows_of_events": 1} and manifest.counts["events"] == 201


def test_a_faulty_header_is_never_dropped(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "e.csv", 'user,time,track,"name\n' + rows("a", "b"))
    mapping = MAP.replace("header: [user, time, track, name], ", "") + "on_bad_rows: drop\n"
    assert "the header: the quote that opens field 4" in refused(tmp_path, mapping)


@pytest.mark.parametrize("delimiter", [";", "\t", ","])
def test_backslashes_before_quotes_are_read_if_the_map_says_so(
    delimiter: str, tmp_path: pathlib.Path
) -> None:
    write(tmp_path, "e.csv", rows("a", "b"))
    lines = ["id;title;year", r'0;"The \"Big\" one; or \\";1950', r"1;plain \; text;1951", r"2;\N;1952"]
    write(tmp_path, "items.csv", "".join(line.replace(";", delimiter) + "\n" for line in lines))
    mapping = MAP + f"items: {{files: items.csv, delimiter: {delimiter!r}, item_id: id, title: title}}\n"
    mapping = mapping.replace("'\\t'", '"\\t"')
    message = refused(tmp_path, mapping)
    assert "row 0: the quote that opens field 2" in message
    # The key that the message names, as it writes it.
    remedy = re.search(r"'(escape: \"[^\"]*\")'", message)
    assert remedy is not None
    ingest(tmp_path, mapping.replace("item_id: id", f"item_id: id, {remedy[1]}"))
    items = items_of(tmp_path)
    assert items[0]["title"] == 'The "Big" one' + delimiter + " or \\"
    assert items[1]["title"] == f"plain {delimiter} text" and items[1]["year"] == 1951
    assert items[2]["title"] is None


def test_a_quote_within_a_plain_field_is_a_plain_character(tmp_path: pathlib.Path) -> None:
    names = ['Song (12" Mix)', 'a "quoted" word', "b"]
    write(tmp_path, "e.csv", rows("a", "b", "c"))
    text = "id,title\n" + "".join(f"{number},{name}\n" for number, name in enumerate(names))
    write(tmp_path, "items.csv", text)
    ingest(tmp_path, MAP + "items: {files: items.csv, item_id: id, title: title}\n")
    assert [row["title"] for row in items_of(tmp_path).values()] == names


def test_another_quote_can_be_named(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "e.csv", rows("'a,''s'", '6" b'))
    mapping = MAP.replace("{files", '{quote: "\'", event_type: name, files').replace("listen", '"a,\'s"')
    ingest(tmp_path, mapping)
    assert [row["event_type"] for row in events_of(tmp_path)] == ["a,'s", '6" b']


def test_a_quoted_field_of_lines_that_look_like_rows_is_refused(tmp_path: pathlib.Path) -> None:
    """Writes two names of which one begins and the other ends with a quote: a whole field in form."""
    text = rows('"Heroes', "b", "c", 'Heroes"', "d", delimiter="\t")
    write(tmp_path, "e.tsv", text)
    message = refused(tmp_path, MAP.replace("e.csv", "e.tsv"))
    assert "row 0: a quoted field holds 2 lines that look like rows" in message and "'quote: none'" in message
    mapping = MAP.replace("e.csv", "e.tsv").replace("{files", "{quote: none, files")
    assert ingest(tmp_path, mapping).counts["events"] == 5
    # Prose has commas, so that such lines are counted only.
    write(tmp_path, "e.csv", text.replace("\t", ","))
    assert ingest(tmp_path, MAP).noted["lines_blank_or_within_quotes"] == 3


@pytest.mark.parametrize("escape", [None, "\\"])
def test_the_fast_check_and_the_scan_agree_with_a_strict_parser(escape: str | None) -> None:
    random.seed(1)
    dialect = Dialect(b",", b'"', escape.encode() if escape else None)
    kinds = {True: 0, False: 0}
    for _ in range(20_000):
        text = "".join(random.choices('a,"\n' + (escape or ""), k=random.randint(1, 12)))
        if escape and re.search(r"\\(\n|$)", text):
            continue  # The standard parser has another opinion on escaped line ends.
        _, is_strict = csv_rows.count_lines(io.BytesIO(text.encode()).read, dialect)
        is_wrong = csv_rows.has_wrong_quotes(io.BytesIO(text.encode()).read, dialect)
        found = list(csv_rows.faults(io.BytesIO(text.encode()).read, dialect, None))
        # The scan knows the width too, by which a quote that closes in another row is wrong.
        assert not is_wrong or any(fault.kind == "quote" for fault in found), text
        assert not (is_strict and is_wrong), text
        # The limits of faulty rows, cut out, leave text without wrong quotes.
        limits = [(fault.start, fault.end) for fault in found if fault.kind == "quote"]
        rest = b"".join(csv_rows.without(io.BytesIO(text.encode()).read, limits))
        assert not csv_rows.has_wrong_quotes(io.BytesIO(rest).read, dialect), text
        kinds[is_wrong] += 1
        if is_strict:
            parsed = standard.reader(
                io.StringIO(text, newline=""), strict=True, escapechar=escape, lineterminator="\n"
            )
            list(parsed)
    assert min(kinds.values()) > 1_000


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b'a,b\n"1,\n2","x"\n3,4\n"5"x,6\n7,"8""\n9"\n'
    seen = set()
    for block in (64, 13, 21):
        monkeypatch.setattr(csv_rows, "BLOCK_BYTES", block)
        for size in range(1, 40):
            found = tuple(csv_rows.faults(pieces(text, size), Dialect(b","), None))
            seen.add((found, csv_rows.count_lines(pieces(text, size), Dialect(b","))))
    assert len(seen) == 1, seen


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_rows_without_quotes_are_passed_over_in_blocks(end: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "BLOCK_BYTES", 16)
    text = end.join([b"a,b", *[b"1,2"] * 100, b'1,6"', *[b"3,4"] * 100, b"x" * 500])
    assert not csv_rows.has_wrong_quotes(pieces(text, 16), Dialect(b","))
    assert csv_rows.has_wrong_quotes(pieces(text + end + b'"x"y,1', 16), Dialect(b","))


def pieces(text: bytes, size: int) -> Callable[[int], bytes]:
    """Returns a function that reads `size` bytes at a time."""
    stream = io.BytesIO(text)
    return lambda _: stream.read(size)
