from __future__ import annotations

import gzip
import pathlib

import pyarrow.parquet as pq
import pytest

from two_tower.base.errors import UserError
from two_tower.data_directory.manifest import Manifest, event_files
from two_tower.ingestion import FORMATS

LINES = "7 30\n2 10\n7 20\n\n7 10\n2 30\n"
# The same users, one line each.
BY_USER = "7 30 20 10\n2 10 30\n"
EVENTS = {2: [10, 30], 7: [30, 20, 10]}


def ingested(tmp_path: pathlib.Path, content: str | bytes, name: str = "toys.txt") -> tuple[Manifest, str]:
    source, out = tmp_path / name, str(tmp_path / "data")
    source.write_bytes(content.encode() if isinstance(content, str) else content)
    return FORMATS["sequences"](str(source), out), out


@pytest.mark.parametrize("text", [LINES, LINES.replace(" ", "\t"), LINES.replace("\n", "\r\n"), BY_USER])
@pytest.mark.parametrize("compressed", [False, True])
def test_lines_are_each_user_s_events_in_their_order(
    tmp_path: pathlib.Path, text: str, compressed: bool
) -> None:
    content = gzip.compress(text.encode()) if compressed else text
    manifest, out = ingested(tmp_path, content, "toys.txt.gz" if compressed else "toys.txt")
    assert manifest.dataset == "toys"
    assert not manifest.repeats_recommendable and not manifest.has_timestamps
    assert {name: manifest.counts[name] for name in ("events", "label_events", "users", "items")} == {
        "events": 5,
        "label_events": 5,
        "users": 2,
        "items": 3,
    }
    events = pq.read_table(event_files(out)[0]).to_pydict()
    rows = sorted(zip(events["user_id"], events["order"], events["item_id"], strict=True))
    for user, items in EVENTS.items():
        assert [item for owner, _, item in rows if owner == user] == items


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 2\n1 x\n", r"toys.txt:2: '1 x' does not have the form `user item`"),
        ("user item\n1 2\n", r"toys.txt:1: 'user item' does not have the form"),
        ("1 2 3\n4\n", r"toys.txt:2: '4' does not have the form"),
        ("1 2 5 977\n1 3 4 978\n", r"first lines has 4 numbers, as in a table .*format 'table'"),
        ("\n", r"toys.txt: the file has no events"),
        # No time stamp: the content is part of the test name, which all processes must share.
        (gzip.compress(LINES.encode(), mtime=0)[:-9], r"toys.txt: cannot be read to its end"),
    ],
)
def test_what_is_no_sequence_is_refused_with_its_line(
    tmp_path: pathlib.Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ingested(tmp_path, content)
    assert not (tmp_path / "data").exists()


def test_a_line_of_three_among_lines_of_two_is_refused_where_it_was_not_looked_for(
    tmp_path: pathlib.Path,
) -> None:
    """Starts a file with a thousand lines `user item`; every later line must have this form too."""
    text = "".join(f"1 {item}\n" for item in range(1_500)) + "2 3 4\n"
    with pytest.raises(UserError, match=r"toys.txt:1501: '2 3 4' is no `user item`"):
        ingested(tmp_path, text)


def test_sequences_have_no_spans(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="the events have no times"):
        FORMATS["sequences"](str(tmp_path / "toys.txt"), str(tmp_path / "data"), span=3)
    with pytest.raises(UserError, match="there is no such file"):
        FORMATS["sequences"](str(tmp_path / "toys.txt"), str(tmp_path / "data"))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("1 2 3", r"log\.txt:1005: '1 2 3' is no `user item` with ' ' between them.* such lines, 2 in all"),
        ("1\t2", r"log\.txt:1005: '1\\t2' is no `user item`"),
        ("1 x", r"log\.txt:1005: '1 x' does not have the form"),
    ],
)
def test_a_later_line_of_another_form_is_named_by_its_line(
    line: str, told: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "log.txt").write_text("1 2\n" * 1_004 + f"{line}\n" * 2)
    with pytest.raises(UserError, match=told) as found:
        FORMATS["sequences"](str(tmp_path / "log.txt"), str(tmp_path / "out"))
    assert "column map" not in str(found.value)
