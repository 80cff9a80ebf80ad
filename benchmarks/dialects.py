"""Benchmark of CSV dialects: random tables in random dialects, ingested and compared with what was written.

    python -m benchmarks.dialects [--tables 10000] [--seed 0] [--show 5]

A table has events and items. Delimiter, quotes, escapes, encoding, line ends, gzip, header, markers of
missing values, forms of times and types of ids are drawn at random. Three tables in ten have damage in one
row. Answers are of three classes:

- `equal`: the data directory holds the table, without the damaged row if the map says that it is dropped.
- `refused by row`: an error that names the damaged row.
- `fault`: anything else. It is exit status 1 if there is a fault.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import gzip
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from two_tower.base.errors import UserError
from two_tower.data_directory.manifest import event_files, item_files, user_files
from two_tower.ingestion import FORMATS

EQUAL, REFUSED, FAULT = "equal", "refused by row", "fault"

Row = dict[str, Any]

_LETTERS = {"utf-8": "abXYZ éß漢🎵", "utf-16": "abXYZ éß漢🎵", "latin-1": "abXYZ éß", "cp1252": "abXYZ é€”"}
_SPECIAL = "\"',;|\t\\\n\r#"
# Form of times → key of the map, unit of its steps in seconds, and a function that writes seconds.
_TIMES: Mapping[str, tuple[dict[str, str], int, Callable[[int], str]]] = {
    "seconds": ({}, 1, str),
    "milliseconds": ({"timestamp_unit": "ms"}, 1, lambda second: f"{second}{second % 1_000:03}"),
    "fractions": ({}, 1, lambda second: f"{second}.{second % 7}"),
    "ISO": ({}, 1, lambda second: _written("%Y-%m-%dT%H:%M:%S", second)),
    "ISO, UTC": ({}, 1, lambda second: _written("%Y-%m-%d %H:%M:%S UTC", second)),
    "nanoseconds": ({}, 1, lambda second: _written("%Y-%m-%dT%H:%M:%S.123456789Z", second)),
    "zone": ({}, 1, lambda second: _written("%Y-%m-%d %H:%M:%S.000 +0200", second + 7_200)),
    "dates": ({}, 86_400, lambda second: _written("%Y-%m-%d", second)),
    "compact dates": ({}, 86_400, lambda second: _written("%Y%m%d", second)),
    "compact times": ({}, 1, lambda second: _written("%Y%m%d%H%M%S", second)),
    "US": ({"timestamp_format": "%m/%d/%Y %I:%M:%S %p"}, 1,
           lambda second: _written("%m/%d/%Y %I:%M:%S %p", second)),
    "Twitter": ({"timestamp_format": "%a %b %d %H:%M:%S %z %Y"}, 1,
                lambda second: _written("%a %b %d %H:%M:%S +0000 %Y", second)),
}  # fmt: skip
# Type of ids → the text in the file and the id in the data directory of the n-th id.
_IDS: Mapping[str, Callable[[int], tuple[str, int | str]]] = {
    "integers": lambda n: (str(n * 7_919), n * 7_919),
    "floats": lambda n: (f"{n}.0", n),
    "large integers": lambda n: (str(2**62 + n), 2**62 + n),
    "hashes": lambda n: (str(2**63 + n * 10**15), str(2**63 + n * 10**15)),
    "negative": lambda n: (str(n - 3), str(n - 3)),
    "leading zeros": lambda n: (f"{n:06}", f"{n:06}"),
    "UUIDs": lambda n: (f"{n * 10**30:032x}", f"{n * 10**30:032x}"),
    "words": lambda n: (f"id {n}", f"id {n}"),
}
_DAMAGES = ("open quote", "a field more", "a field less", "no time", "no id", "no ratio")


@dataclasses.dataclass(frozen=True)
class Dialect:
    """Form of the text files of a table."""

    delimiter: str
    # "minimal", "all", "none" or "escape".
    quoting: str
    quote: str
    encoding: str
    line_end: str
    ends_with_line_end: bool
    is_compressed: bool
    has_header: bool
    null: str

    def field(self, text: str | None) -> str:
        """Returns a value as the file has it."""
        if text is None:
            return self.null
        special = {self.delimiter, self.quote, "\n", "\r"}
        if self.quoting == "escape":
            marks = {*special, "\\"}
            return "".join("\\" + letter if letter in marks else letter for letter in text)
        if self.quoting == "all" or (self.quoting == "minimal" and special & set(text)):
            return self.quote + text.replace(self.quote, 2 * self.quote) + self.quote
        return text

    def keys(self, header: list[str]) -> dict[str, Any]:
        """Returns the keys of a table's map."""
        keys: dict[str, Any] = {"delimiter": self.delimiter}
        if self.quoting == "none":
            keys["quote"] = "none"
        elif self.quote != '"':
            keys["quote"] = self.quote
        if self.quoting == "escape":
            keys["escape"] = "\\"
        if self.encoding != "utf-8":
            keys["encoding"] = self.encoding
        if not self.has_header:
            keys["header"] = header
        if self.null not in ("", "\\N"):
            keys["null_values"] = [self.null]
        return keys

    def content(self, header: list[str], lines: list[list[str]]) -> bytes:
        """Returns a file's bytes.

        Args:
          lines: fields as the file has them.
        """
        rows = [*([[self.field(name) for name in header]] if self.has_header else []), *lines]
        text = self.line_end.join(self.delimiter.join(row) for row in rows)
        text += self.line_end if self.ends_with_line_end else ""
        data = text.encode(self.encoding)
        return gzip.compress(data, 1, mtime=0) if self.is_compressed else data


@dataclasses.dataclass(frozen=True)
class Trial:
    """A table in a dialect, with what a right reader finds in it."""

    dialect: Dialect
    times: str
    ids: tuple[str, str]
    # One of _DAMAGES, with its row; None for a table without damage.
    damage: str | None
    damaged_row: int
    # Number of its lines. A reader cannot know which lines are of one row if its quotes are wrong.
    damaged_lines: int
    drops: bool
    mapping: dict[str, Any]
    files: dict[str, bytes]
    events: list[tuple[Any, ...]]
    items: list[tuple[Any, ...]]

    def __str__(self) -> str:
        damage = f", {self.damage} in row {self.damaged_row}{', dropped' * self.drops}" * (
            self.damage is not None
        )
        return f"{self.dialect}, times: {self.times}, ids: {self.ids}{damage}"


def trial(seed: int) -> Trial:
    """Draws a table and its dialect."""
    draw = random.Random(seed)
    dialect = _dialect(draw)
    times, user_ids, item_ids = draw.choice(list(_TIMES)), draw.choice(list(_IDS)), draw.choice(list(_IDS))
    damage = draw.choice(_DAMAGES) if draw.random() < 0.3 else None
    if damage == "open quote" and dialect.quoting == "none":
        damage = "no time"
    rows = draw.randint(8, 60)
    damaged_row, drops = draw.randrange(1, rows), draw.random() < 0.5
    time_keys, step, write_time = _TIMES[times]
    origin = draw.randint(10**9, 1_500_000_000) // step * step
    header = ["user id", "item", "time", "kind", "ratio"]
    lines, events, damaged_lines = [], [], 0
    for row in range(rows):
        user, item = (_IDS[kind](draw.randint(1, 9)) for kind in (user_ids, item_ids))
        second = origin + row * 86_400 + draw.randrange(86_400) // step * step
        kind = "view" if row == 0 else _text(draw, dialect)
        ratio = None if draw.random() < 0.2 else draw.randint(0, 100) / 100
        texts = [user[0], item[0], write_time(second), kind, None if ratio is None else str(ratio)]
        fields = [dialect.field(text) for text in texts]
        if damage is not None and row == damaged_row:
            fields = _damaged(fields, damage, dialect)
            damaged_lines = len(re.split("\r\n|\r|\n", "".join(fields)))
            if drops:
                lines.append(fields)
                continue
        lines.append(fields)
        events.append((user[1], item[1], second, kind, None if ratio is None else round(ratio, 6)))
    item_header = ["id", "name", "age", "price", "flag"]
    item_lines, items = [], []
    for number in range(1, 10):
        text, item_id = _IDS[item_ids](number)
        name, age = _text(draw, dialect), draw.choice([None, draw.randint(-9, 99)])
        price, flag = draw.choice([None, draw.randint(1, 999) + 0.5]), draw.choice([None, True, False])
        # A column of any kind needs a value.
        age, price, flag = (number, 0.5, True) if number == 1 else (age, price, flag)
        values = [text, name, *(None if value is None else str(value) for value in (age, price, flag))]
        item_lines.append([dialect.field(value) for value in values])
        items.append((item_id, name, age, price, flag))
    mapping: dict[str, Any] = {
        "dataset": "d",
        "label_event": "view",
        "repeats_recommendable": True,
        "events": {"files": "e.txt", "user_id": "user id", "item_id": "item", "timestamp": "time",
                   "event_type": "kind", "play_ratio": "ratio", **time_keys, **dialect.keys(header)},
        "items": {"files": "i.txt", "item_id": "id", "title": "name", **dialect.keys(item_header)},
        **{f"{name}_id_type": "text" for name, kind in (("user", user_ids), ("item", item_ids))
           if kind == "negative"},
        **({"on_bad_rows": "drop"} if drops else {}),
    }  # fmt: skip
    files = {"e.txt": dialect.content(header, lines), "i.txt": dialect.content(item_header, item_lines)}
    return Trial(
        dialect,
        times,
        (user_ids, item_ids),
        damage,
        damaged_row,
        damaged_lines,
        drops,
        mapping,
        files,
        events,
        items,
    )


def run(one: Trial, folder: Path) -> tuple[str, str]:
    """Ingests a table and returns the class of the answer, with the reason of a fault."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in one.files.items():
        (folder / name).write_bytes(content)
    (folder / "columns.yaml").write_text(yaml.safe_dump(one.mapping, allow_unicode=True), encoding="utf-8")
    out = str(folder / "out")
    try:
        manifest = FORMATS["table"](str(folder), out)
    except UserError as error:
        if one.damage is None:
            return FAULT, f"refused: {error}"
        is_named = f"row {one.damaged_row}: " in str(error).splitlines()[0] and not one.drops
        return (REFUSED, "") if is_named else (FAULT, f"refused: {error}")
    except Exception as error:
        return FAULT, f"{type(error).__name__}: {error}"
    if one.damage is not None and not one.drops:
        return FAULT, "the damage was read"
    dropped = manifest.dropped.get("wrong_rows_of_events", 0)
    if one.damage is not None and not 1 <= dropped <= one.damaged_lines:
        return FAULT, f"dropped: {manifest.dropped}"
    for told, found, wanted in (
        ("events", _events_in(out), one.events),
        ("items", _items_in(out), one.items),
    ):
        if sorted(found, key=repr) != sorted(wanted, key=repr):
            missing = [row for row in wanted if row not in found][:2]
            extra = [row for row in found if row not in wanted][:2]
            return FAULT, f"{told}: {missing} became {extra}"
    return EQUAL, ""


def _dialect(draw: random.Random) -> Dialect:
    quoting = draw.choice(("minimal", "minimal", "all", "none", "escape"))
    encoding = draw.choice(("utf-8", "utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16"))
    return Dialect(
        delimiter=draw.choice(",,;\t|\x01"),
        quoting=quoting,
        quote=draw.choice('"""\'') if quoting != "none" else '"',
        encoding=encoding,
        line_end=draw.choice(("\n", "\n", "\r\n", "\r")),
        ends_with_line_end=draw.random() < 0.8,
        is_compressed=draw.random() < 0.2,
        has_header=draw.random() < 0.7,
        null=draw.choice(("", "\\N", "NULL", "n/a", "-")),
    )


def _text(draw: random.Random, dialect: Dialect) -> str:
    """Draws a text that is neither blank nor a marker of a missing value."""
    letters = _LETTERS[dialect.encoding.removesuffix("-sig")] + _SPECIAL
    text = "".join(draw.choices(letters, k=draw.randint(1, 12))) + "."
    if dialect.quoting == "none":
        text = "".join(letter for letter in text if letter not in f"{dialect.delimiter}\n\r")
    return text


def _damaged(fields: list[str], damage: str, dialect: Dialect) -> list[str]:
    user, item, when, kind, ratio = fields
    wrong = dialect.field("soon")
    return {
        "open quote": [user, item, when, dialect.quote + "x", ratio],
        "a field more": [*fields, wrong],
        "a field less": fields[:-1],
        "no time": [user, item, wrong, kind, ratio],
        "no id": [user, dialect.null, when, kind, ratio],
        "no ratio": [user, item, when, kind, wrong],
    }[damage]


def _written(form: str, second: int) -> str:
    return datetime.datetime.fromtimestamp(second, datetime.timezone.utc).strftime(form)


def _rows(files: list[str]) -> list[Row]:
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def _events_in(out: str) -> list[tuple[Any, ...]]:
    users = {row["user_id"]: row.get("original_id") for row in _rows(user_files(out))}
    items = {row["item_id"]: row.get("original_id") for row in _rows(item_files(out))}
    return [
        (
            users.get(row["user_id"]) or row["user_id"],
            items.get(row["item_id"]) or row["item_id"],
            row["timestamp"],
            row["event_type"],
            None if row["play_ratio"] is None else round(row["play_ratio"], 6),
        )
        for row in _rows(event_files(out))
    ]


def _items_in(out: str) -> list[tuple[Any, ...]]:
    return [
        (row.get("original_id") or row["item_id"], row["title"], row["age"], row["price"], row["flag"])
        for row in _rows(item_files(out))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first table")
    parser.add_argument("--show", type=int, default=5, help="number of faults to show")
    options = parser.parse_args()
    began, shown = time.monotonic(), 0
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        for seed in range(options.seed, options.seed + options.tables):
            one = trial(seed)
            answer, reason = run(one, Path(folder, "table"))
            counts[one.damage or "no damage"][answer] += 1
            if answer == FAULT and shown < options.show:
                shown += 1
                print(f"table {seed}: {one}\n    {reason}\n", flush=True)
    print(f"| {'table':14} | " + " | ".join(f"{name:>14}" for name in (EQUAL, REFUSED, FAULT)) + " |")
    print("|---|--:|--:|--:|")
    for damage, found in sorted(counts.items()):
        print(
            f"| {damage:14} | " + " | ".join(f"{found[name]:14,}" for name in (EQUAL, REFUSED, FAULT)) + " |"
        )
    total = sum(counts.values(), collections.Counter())
    told = ", ".join(f"{total[name]:,} {name}" for name in (EQUAL, REFUSED, FAULT))
    print(f"\n{options.tables:,} tables in {time.monotonic() - began:,.0f} s: {told}.")
    sys.exit(total[FAULT] > 0)


if __name__ == "__main__":
    main()
