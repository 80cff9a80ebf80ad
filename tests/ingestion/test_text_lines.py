from __future__ import annotations

import csv
import pathlib

import pyarrow as pa
import pytest

from two_tower.base.errors import UserError
from two_tower.ingestion import text_lines
from two_tower.ingestion.text_lines import plain_numbers, read_blocks, read_csv_rows, read_lines

TEXT = "eins\r\n\nzwei: é, 東\n  drei \nohne Ende"


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "lines.txt"


@pytest.mark.parametrize("block", [1, 2, 5, 1 << 20])
@pytest.mark.parametrize("end", ["", "\n"])
def test_lines_come_numbered_however_the_file_is_cut(
    path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, block: int, end: str
) -> None:
    monkeypatch.setattr(text_lines, "_BLOCK_BYTES", block)
    path.write_bytes((TEXT + end).encode())
    assert list(read_lines(str(path))) == [
        (1, "eins"),
        (2, ""),
        (3, "zwei: é, 東"),
        (4, "  drei "),
        (5, "ohne Ende"),
    ]
    blocks = list(read_blocks(str(path)))
    assert b"".join(lines for _, lines in blocks) == (TEXT + end).encode()
    assert all(lines.endswith(b"\n") for _, lines in blocks[:-1])
    assert blocks[0][0] == 1


def test_an_empty_file_has_no_lines_and_a_byte_order_mark_is_none(path: pathlib.Path) -> None:
    path.write_bytes(b"")
    assert list(read_lines(str(path))) == []
    path.write_bytes(b"\xef\xbb\xbf1::2\n")
    assert list(read_lines(str(path))) == [(1, "1::2")]


def test_urls_are_read_too() -> None:
    import fsspec

    with fsspec.open("memory://text-lines/a.txt", "wb") as file:
        file.write(b"a\nb\n")
    assert list(read_lines("memory://text-lines/a.txt")) == [(1, "a"), (2, "b")]
    with pytest.raises(UserError, match=r"memory://text-lines/b\.txt: there is no such file"):
        list(read_lines("memory://text-lines/b.txt"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"a\nb\nCaf\xe9\n", r"lines\.txt:3: byte 3 \(0xe9\) is not UTF-8; convert"),
        ("a\nb\n".encode("utf-16"), r"lines\.txt: the file is UTF-16: .*iconv -f utf-16"),
        (b"\x1f\x8b\x08\x00", r"lines\.txt: the file is compressed with gzip"),
        (b"PK\x03\x04", r"lines\.txt: the file is a zip archive"),
        (b"PAR1", r"lines\.txt: the file is a Parquet file"),
        (None, r"lines\.txt: there is no such file"),
    ],
)
def test_what_is_no_text_is_named(path: pathlib.Path, content: bytes | None, complaint: str) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        list(read_lines(str(path)))


def test_a_folder_and_an_endless_line_are_named(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        list(read_lines(str(path.parent)))
    monkeypatch.setattr(text_lines, "_BLOCK_BYTES", 10)
    monkeypatch.setattr(text_lines, "_LONGEST_LINE", 100)
    path.write_bytes(b"a\nb\n" + b"\r".join([b"1::2"] * 100))
    with pytest.raises(UserError, match=r"lines\.txt:3: the line has more than 100 bytes"):
        list(read_lines(str(path)))


def test_a_fallback_takes_only_the_lines_that_need_it(path: pathlib.Path) -> None:
    path.write_bytes("Café".encode() + b"\n" + "Café".encode("latin-1") + b"\n")
    assert list(read_lines(str(path), fallback="latin-1")) == [(1, "Café"), (2, "Café")]


def test_csv_fields_hold_commas_quotes_and_line_ends(path: pathlib.Path) -> None:
    rows = [["id", "title"], ["1", 'Say "so", she said'], ["2", "two\nlines"], ["3", ""], ["4", "a\r\nb"]]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows[:3])
        file.write("\n\n")
        csv.writer(file, lineterminator="\n").writerows(rows[3:])
    found = list(read_csv_rows(str(path)))
    assert [row for _, row in found] == [*rows[:4], ["4", "a\nb"]]
    assert [number for number, _ in found] == [1, 2, 3, 7, 8]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('id,title\n1,a\n2,"open\n3,b\n', 3),
        ('id,title\n1,"a"b\n2,c\n', 2),
    ],
)
def test_quotes_that_do_not_pair_up_are_named(path: pathlib.Path, content: str, line: int) -> None:
    path.write_bytes(content.encode())
    with pytest.raises(UserError, match=rf"lines\.txt:{line}: the row that begins here is not CSV"):
        list(read_csv_rows(str(path)))


TYPES = {"a": pa.int64(), "b": pa.float64()}


@pytest.mark.parametrize("separator", ["::", ",", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_plain_numbers_are_what_int_and_float_say(separator: str, end: str) -> None:
    rows = [("1", "0.5"), ("0114508", "3"), ("-7", "-2.50"), ("9223372036854775807", "5.0")]
    block = (end.join(separator.join(row) for row in rows) + end + end).encode()
    table = plain_numbers(block, separator.encode(), TYPES)
    assert table is not None
    assert table["a"].to_pylist() == [int(a) for a, _ in rows]
    assert table["b"].to_pylist() == [float(b) for _, b in rows]
    assert table.schema == pa.schema(TYPES)


@pytest.mark.parametrize(
    "block",
    [
        b"1::2\n1:2\n",
        b"1::2\n1::2::3\n",
        b"1::2\n1:::2\n",
        b"1::2\n1\n",
        b"1::2\n::2\n",
        b"1::2\n1::\n",
        b"1::2\n 1::2\n",
        b"1::2\n1,2\n",
        b"1::2\n1\t2\n",
        b'1::2\n"1"::2\n',
        b"1::2\n0x1F::2\n",
        b"1::2\n1e3::2\n",
        b"1::2\n1.5::2\n",
        b"1::2\n1-5::2\n",
        b"1::2\n1::2.5.1\n",
        b"1::2\n9223372036854775808::2\n",
        b"1::2\nid::2\n",
        b"1::nan\n",
        b"1::2\r3::4\n",
        b"1::2\n\xff::2\n",
    ],
)
def test_whatever_is_not_plain_is_left_to_the_exact_way(block: bytes) -> None:
    assert plain_numbers(block, b"::", TYPES) is None
