"""Kinds of damage to files, columns and values."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

CUT, BYTES, TEXT, COLUMNS, VALUES, ROWS, PLACE, SHAPE = GROUPS = (
    "cut off or empty",
    "other bytes",
    "text form",
    "columns, keys",
    "types, values",
    "rows, order",
    "files, links",
    "nesting, size",
)
# Damage to a file: its name, its kind, and the function that damages the file at a path. `random` is seeded.
Damage = tuple[str, str, Callable[[Path, random.Random], None]]


def _edit(change: Callable[[bytes, random.Random], bytes]) -> Callable[[Path, random.Random], None]:
    def damage(path: Path, draw: random.Random) -> None:
        path.write_bytes(change(path.read_bytes(), draw))

    return damage


def _overwrite(content: bytes, draw: random.Random, size: int) -> bytes:
    start = draw.randrange(max(1, len(content) - size))
    return content[:start] + draw.randbytes(size) + content[start + size :]


def _flip(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]


def _link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def _folder(path: Path, content: str | None) -> None:
    """Puts a folder in a file's place; `content` is the name of the file within that holds the content."""
    held = path.read_bytes()
    path.unlink()
    path.mkdir()
    if content:
        (path / content).write_bytes(held)
        (path / "_SUCCESS").touch()


def _chain(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


# Damage that any file may take. No command may end well after it.
OF_FILES: tuple[Damage, ...] = (
    ("empty", CUT, _edit(lambda content, draw: b"")),
    ("half of it", CUT, _edit(lambda content, draw: content[: len(content) // 2])),
    ("its first ten bytes", CUT, _edit(lambda content, draw: content[:10])),
    ("random bytes", BYTES, _edit(lambda content, draw: draw.randbytes(len(content)))),
    ("NUL bytes alone", BYTES, _edit(lambda content, draw: bytes(len(content)))),
    ("missing", PLACE, lambda path, draw: path.unlink()),
    ("an empty folder in its place", PLACE, lambda path, draw: _folder(path, None)),
    ("a folder of parts in its place", PLACE, lambda path, draw: _folder(path, f"part-0{path.suffix}")),
    ("a link to nothing", PLACE, lambda path, draw: _link(path, "nowhere")),
    ("a link to itself", PLACE, lambda path, draw: _chain(path)),
    ("another format's bytes", BYTES, _edit(lambda content, draw: b"PK\x03\x04" + content)),
)
# Further damage to binary files.
OF_BINARY: tuple[Damage, ...] = (
    ("without its last byte", CUT, _edit(lambda content, draw: content[:-1])),
    ("bytes overwritten", BYTES, _edit(lambda content, draw: _overwrite(content, draw, 40))),
    ("bytes overwritten, elsewhere", BYTES, _edit(lambda content, draw: _overwrite(content, draw, 8))),
    ("text in its place", BYTES, _edit(lambda content, draw: b"a,b\n1,2\n")),
)
# Further damage to lines of text. A reader may understand it, and then reads all.
OF_LINES: tuple[Damage, ...] = (
    ("without its last line end", CUT, _edit(lambda content, draw: content.rstrip(b"\r\n"))),
    ("white space alone", CUT, _edit(lambda content, draw: b" \n\n \n")),
    ("a byte order mark", TEXT, _edit(lambda content, draw: b"\xef\xbb\xbf" + content)),
    ("UTF-16", TEXT, _edit(lambda content, draw: content.decode("latin-1").encode("utf-16"))),
    ("carriage returns before line feeds", TEXT, _edit(lambda content, draw: _line_ends(content, b"\r\n"))),
    ("carriage returns for line feeds", TEXT, _edit(lambda content, draw: _line_ends(content, b"\r"))),
    ("mixed line ends", TEXT, _edit(lambda content, draw: content.replace(b"\n", b"\r\n", 2))),
    ("blank lines", TEXT, _edit(lambda content, draw: content.replace(b"\n", b"\n\n"))),
    ("an invalid byte", TEXT, _edit(lambda content, draw: _within(content, b"\xff"))),
    ("a NUL byte", TEXT, _edit(lambda content, draw: _within(content, b"\0"))),
    ("NUL bytes at its end", TEXT, _edit(lambda content, draw: content + bytes(64))),
    ("an unclosed quote", TEXT, _edit(lambda content, draw: _within(content, b'"'))),
    ("compressed", BYTES, _edit(lambda content, draw: gzip.compress(content, mtime=0))),
    ("a line of a million letters", SHAPE, _edit(lambda content, draw: content + b"x" * 10**6 + b"\n")),
    ("a letter before each line", ROWS, _edit(lambda content, draw: content.replace(b"\n", b"\n#"))),
)
# Further damage to JSON. No command may end well after it.
OF_JSON: tuple[Damage, ...] = (
    ("a list in its place", SHAPE, _edit(lambda content, draw: b"[]")),
    ("null in its place", SHAPE, _edit(lambda content, draw: b"null")),
    ("a number in its place", SHAPE, _edit(lambda content, draw: b"7")),
    ("a text in its place", SHAPE, _edit(lambda content, draw: b'"text"')),
    ("an empty object", SHAPE, _edit(lambda content, draw: b"{}")),
    ("lists nested 100,000 deep", SHAPE, _edit(lambda content, draw: b"[" * 10**5 + b"]" * 10**5)),
    (
        "objects nested 100,000 deep",
        SHAPE,
        _edit(lambda content, draw: b'{"a":' * 10**5 + b"1" + b"}" * 10**5),
    ),
    ("a number of 5,000 digits", VALUES, _edit(lambda content, draw: b'{"a": ' + b"9" * 5_000 + b"}")),
    ("without its last brace", CUT, _edit(lambda content, draw: content.rstrip()[:-1])),
    ("text behind it", TEXT, _edit(lambda content, draw: content + b"}")),
    ("UTF-16", TEXT, _edit(lambda content, draw: content.decode().encode("utf-16"))),
    ("an invalid byte", TEXT, _edit(lambda content, draw: content.replace(b'"', b'"\xff', 1))),
    ("a NUL byte", TEXT, _edit(lambda content, draw: content.replace(b'"', b'"\0', 1))),
)
# Values that a key of JSON or YAML is replaced by.
STRANGE: tuple[tuple[str, Any], ...] = (
    ("null", None),
    ("a text", "some text"),
    ("an empty text", ""),
    ("a list", [1, "a"]),
    ("an object", {"a": {"b": 1}}),
    ("true", True),
    ("-1", -1),
    ("1e300", 1e300),
    ("10^18", 10**18),
    ("NaN", float("nan")),
    ("infinity", float("inf")),
    ("a number of 400 digits", 10**400),
)


def strange_values(draw: random.Random, count: int) -> Iterator[tuple[str, Any]]:
    """Yields `count` of the strange values in a random order."""
    yield from draw.sample(STRANGE, count)


def put(content: Any, place: Sequence[Any], value: Any) -> None:
    """Puts a value at a place of nested content, or removes it for KeyError."""
    for step in place[:-1]:
        content = content[step]
    if value is not KeyError:
        content[place[-1]] = value
    elif isinstance(content, list) or place[-1] in content:
        del content[place[-1]]


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Rewrites a JSON file by a change of its content; None keeps the content, changed in place."""
    content = json.loads(path.read_text())
    changed = change(content)
    path.write_text(json.dumps(content if changed is None else changed))


def _line_ends(content: bytes, end: bytes) -> bytes:
    return content.replace(b"\r\n", b"\n").replace(b"\n", end)


def _within(content: bytes, inserted: bytes) -> bytes:
    """Inserts bytes before the second line's last character."""
    first = content.find(b"\n") + 1
    at = max(content.find(b"\n", first) - 1, 0)
    return content[:at] + inserted + content[at:]


def copy(source: Path, target: Path) -> None:
    """Copies a folder or a file, with its links."""
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        os.makedirs(target.parent, exist_ok=True)
        shutil.copyfile(source, target)
