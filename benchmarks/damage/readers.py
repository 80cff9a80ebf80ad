"""Damaged sources of `ingest`."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.damage import kinds
from benchmarks.damage.sources import Part, Source, array_of, text_of
from benchmarks.damage.trial import Trial
from benchmarks.damage.valid_sources import sources
from two_tower.data_directory.manifest import COLUMNS

# Changes of a value in text, and types that a column of Parquet is given instead.
_TEXTS = (
    "",
    "abc",
    "NaN",
    "inf",
    "1e300",
    "-7",
    "9223372036854775808",
    "9" * 5_000,
    "1.5",
    " 12 ",
    "0x10",
    "1_000",
    "é" * 100_000,
    "1700000000000",
    "true",
    "1,5",
)
TYPES: tuple[tuple[str, Callable[[list[Any]], pa.Array]], ...] = (
    ("text", lambda values: pa.array([str(value) for value in values])),
    ("true and false", lambda values: pa.array([bool(value) for value in values])),
    ("lists", lambda values: pa.array([[1]] * len(values))),
    ("structs", lambda values: pa.array([{"a": 1}] * len(values))),
    ("nulls", lambda values: pa.nulls(len(values))),
    ("binary", lambda values: pa.array([b"\xff\x00"] * len(values))),
    ("times", lambda values: pa.array(range(len(values)), pa.timestamp("us"))),
    ("NaN", lambda values: pa.array([float("nan")] * len(values))),
    ("infinity", lambda values: pa.array([1.0] * (len(values) - 1) + [float("inf")])),
    ("1e300", lambda values: pa.array([1.0] * (len(values) - 1) + [1e300])),
    ("negative numbers", lambda values: pa.array(range(-len(values), 0))),
    ("10^18", lambda values: pa.array([10**18 + place for place in range(len(values))])),
    ("2^64 - 1", lambda values: pa.array([2**64 - 1] * len(values), pa.uint64())),
    ("decimals", lambda values: pa.array([None] * len(values), pa.decimal128(10, 2))),
    ("half numbers", lambda values: pa.array([0.5 + place for place in range(len(values))])),
    ("invalid UTF-8", lambda values: _invalid_text(len(values))),
)


def _invalid_text(size: int) -> pa.Array:
    content = b"\xff\xfe" * size
    offsets = pa.array([2 * place for place in range(size + 1)], pa.int32()).buffers()[1]
    return pa.StringArray.from_buffers(size, offsets, pa.py_buffer(content))


# Columns of a data directory; other columns keep their name, whatever its letters.
_KNOWN = {name for columns in COLUMNS.values() for name in columns}


def trials(seed: int) -> Iterator[Trial]:
    """Yields all trials of `ingest FORMAT`."""
    for source in sources():
        draw = random.Random(f"{seed} {source.name}")
        for part in source.parts:
            yield from _of_files(source, part, draw)
            if part.columns:
                damaged = _columns_of(part) if part.header else []
                for name, columns, extra in damaged:
                    yield _written(source, part, kinds.COLUMNS, name, columns, extra)
                yield from _values_of(source, part, draw)
                yield from _rows_of(source, part)
            else:
                yield from _of_playlists(source, part, draw)


def _of_files(source: Source, part: Part, draw: random.Random) -> Iterator[Trial]:
    damages = [*kinds.OF_FILES]
    if part.form == "parquet" or part.name.endswith(".gz"):
        damages += kinds.OF_BINARY
    elif part.form == "json":
        damages += kinds.OF_JSON
    else:
        damages += kinds.OF_LINES
    for name, kind, damage in damages:
        seed = draw.random()

        def prepare(
            folder: Path, damage: Callable[[Path, random.Random], None] = damage, seed: float = seed
        ) -> list[str]:
            arguments = source.write(folder)
            damage(folder / "source" / part.name, random.Random(seed))
            return arguments

        yield Trial("ingest", source.name, kind, f"{part.name}: {name}", prepare, _named(part), _kept(source))


def _named(part: Part) -> tuple[str, ...]:
    """Returns what a message of a file names: the file, the source, or the pattern that it matched."""
    pattern = {"json": "mpd.slice.<first>-<last>.json", "parquet": "ratings*.parquet"}
    return (part.name, "SRC", pattern.get(part.form, part.name))


def _kept(source: Source) -> Callable[[Path, str], None]:
    return lambda folder, text: source.check_kept(folder)


def _columns_of(part: Part) -> Iterator[tuple[str, list[tuple[str, list[Any]]], bool]]:
    """Yields damage to columns: its name, the damaged columns, and whether it must be refused."""
    columns = list(part.columns.items())
    for place, (name, values) in enumerate(columns):
        rest = [*columns[:place], *columns[place + 1 :]]
        yield f"column {name} missing", rest, False
        own = part.target.get(name, ("", name))[1] == name and name not in _KNOWN
        yield f"column {name} in capitals", [*rest, (name.upper(), values)], not own
        yield f"column {name} renamed", [*rest, (f"{name}_2", values)], False
        yield f"column {name} twice", [*columns, (name, values)], True
        yield f"column {name} without a name", [*rest, ("", values)], False
    size = len(columns[0][1])
    yield "a column more", [*columns, ("more", list(range(size)))], False
    yield "columns in another order", columns[::-1], False
    yield "a space before each name", [(f" {name}", values) for name, values in columns], False
    yield "no columns", [], True


def _written(
    source: Source,
    part: Part,
    kind: str,
    damage: str,
    columns: list[tuple[str, list[Any]]],
    refused: bool,
    arrays: dict[str, pa.Array] | None = None,
) -> Trial:
    """Returns the trial of a source with a part of other columns."""

    def prepare(folder: Path) -> list[str]:
        arguments = source.write(folder)
        path = folder / "source" / part.name
        if part.form == "parquet":
            made = [(arrays or {}).get(name, None) for name, _ in columns]
            filled = [
                array_of(values) if one is None else one
                for one, (_, values) in zip(made, columns, strict=True)
            ]
            pq.write_table(pa.Table.from_arrays(filled, names=[name for name, _ in columns]), path)
        else:
            pairs = {f"{place} {name}": values for place, (name, values) in enumerate(columns)}
            text = text_of(pairs, part.between, part.header)
            if part.header:
                first = text_of({name: [] for name, _ in columns}, part.between, True)
                if len({name for name, _ in columns}) < len(columns):
                    first = part.between.join(name for name, _ in columns) + "\n"
                text = first + text.partition("\n")[2]
            content = text.encode(part.encoding, "replace")
            path.write_bytes(gzip.compress(content, mtime=0) if part.name.endswith(".gz") else content)
        return arguments

    named = (part.name, "label event", *(name for name in part.columns if f" {name} " in f" {damage} "))
    return Trial(
        "ingest",
        source.name,
        kind,
        f"{part.name}: {damage}",
        prepare,
        named,
        None if refused else _kept(source),
    )


def _values_of(source: Source, part: Part, draw: random.Random) -> Iterator[Trial]:
    """Yields damage to the values of each column."""
    for name, values in part.columns.items():
        if part.form == "parquet":
            for kind, make in draw.sample(TYPES, 3):
                yield _written(
                    source,
                    part,
                    kinds.VALUES,
                    f"column {name} of {kind}",
                    list(part.columns.items()),
                    False,
                    {name: make(values)},
                )
            continue
        for text in draw.sample(_TEXTS, 3):
            changed = [*values]
            changed[draw.randrange(len(values))] = text
            columns = [(one, changed if one == name else kept) for one, kept in part.columns.items()]
            shown = text if len(text) < 20 else f"{text[:5]}... ({len(text):,} letters)"
            yield _written(source, part, kinds.VALUES, f"{shown!r} in column {name}", columns, False)


def _rows_of(source: Source, part: Part) -> Iterator[Trial]:
    """Yields damage to rows: doubled, in another order, too short, too long, or a header in between."""
    columns = list(part.columns.items())

    def rearranged(change: Callable[[list[Any]], list[Any]]) -> list[tuple[str, list[Any]]]:
        return [(name, change(values)) for name, values in columns]

    yield _written(source, part, kinds.ROWS, "rows twice", rearranged(lambda values: values + values), False)
    yield _written(source, part, kinds.ROWS, "rows backwards", rearranged(lambda values: values[::-1]), False)
    yield _written(source, part, kinds.ROWS, "one row alone", rearranged(lambda values: values[:1]), False)
    yield _written(source, part, kinds.ROWS, "no rows", rearranged(lambda values: values[:0]), False)
    if part.form == "parquet" or part.name.endswith(".gz"):
        return
    edits: tuple[tuple[str, Callable[[list[str]], list[str]]], ...] = (
        (
            "a row of fewer fields",
            lambda lines: [*lines[:2], lines[2].rpartition(part.between)[0], *lines[3:]],
        ),
        ("a row of more fields", lambda lines: [*lines[:2], lines[2] + part.between + "9", *lines[3:]]),
        ("another separator", lambda lines: [line.replace(part.between, ";") for line in lines]),
        ("another separator in one row", lambda lines: [*lines[:-1], lines[-1].replace(part.between, ";")]),
        ("the first line again", lambda lines: [*lines, lines[0]]),
        ("without its first line", lambda lines: lines[1:]),
        ("a word in a line of its own", lambda lines: [*lines, "END"]),
    )
    for name, edit in edits:

        def prepare(folder: Path, edit: Callable[[list[str]], list[str]] = edit) -> list[str]:
            arguments = source.write(folder)
            path = folder / "source" / part.name
            lines = path.read_text(part.encoding).splitlines()
            path.write_text("".join(f"{line}\n" for line in edit(lines)), part.encoding)
            return arguments

        yield Trial(
            "ingest", source.name, kinds.ROWS, f"{part.name}: {name}", prepare, (part.name,), _kept(source)
        )


def _of_playlists(source: Source, part: Part, draw: random.Random) -> Iterator[Trial]:
    """Yields damage to the keys and values of a JSON slice."""
    content = json.loads(part.content)
    places: list[tuple[Any, ...]] = [
        ("playlists",),
        *(("playlists", 1, key) for key in content["playlists"][1]),
        *(("playlists", 1, "tracks", 1, key) for key in content["playlists"][1]["tracks"][1]),
    ]
    for place in places:
        changes: list[tuple[str, Any]] = [("left out", KeyError), *kinds.strange_values(draw, 4)]
        for name, value in changes:

            def prepare(folder: Path, place: tuple[Any, ...] = place, value: Any = value) -> list[str]:
                arguments = source.write(folder)

                kinds.edit_json(
                    folder / "source" / part.name, lambda content: kinds.put(content, place, value)
                )
                return arguments

            key = str(place[-1])
            kind = kinds.COLUMNS if value is KeyError else kinds.VALUES
            yield Trial(
                "ingest", source.name, kind, f"key {key}: {name}", prepare, (part.name, key), _kept(source)
            )


def undamaged() -> Iterator[Trial]:
    """Yields a trial without damage of every source: the check of the checks."""
    for source in sources():
        yield Trial("ingest", source.name, "", "none", source.write, (), _kept(source))
