"""Damaged data directories, of which a command checks all before it computes anything."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.damage import kinds
from benchmarks.damage.readers import TYPES
from benchmarks.damage.trial import Loss, Trial
from two_tower.data_directory.manifest import DatasetProperties, Manifest, digest_of_file
from two_tower.data_directory.writer import DataDirectoryWriter

EVENTS: dict[str, list[Any]] = {
    "user_id": [1, 1, 1, 2, 2, 3],
    "item_id": [10, 11, 12, 10, 11, 12],
    "timestamp": [100, 200, 86_500, 50, 90_000, 170_000],
    "event_type": ["listen"] * 5 + ["like"],
    "play_ratio": [0.5, 1.0, 0.25, 0.75, 1.5, 0.1],
    "is_organic": [True, False, True, True, False, True],
}
ITEMS: dict[str, list[Any]] = {
    "item_id": [10, 11, 12],
    "title": ["Vertigo", "Rope", "Psycho"],
    "tags": [["a"], ["a", "b"], ["b"]],
    "item_length": [100.0, 200.0, 300.0],
    "available": [True, True, True],
}
USERS: dict[str, list[Any]] = {"user_id": [1, 2, 3], "age": [20, 30, 40]}
_TABLES: dict[str, dict[str, list[Any]]] = {"events": EVENTS, "items": ITEMS, "users": USERS}


# Files and columns at which a manifest's wrong value shows.
_SHOWN = ("differs from the manifest", "column 'embedding' is missing")


def write(folder: Path) -> Path:
    """Writes a data directory with three tables below a folder."""
    out = folder / "data"
    with DataDirectoryWriter(str(out), DatasetProperties("small", "listen", True)) as writer:
        for table, columns in _TABLES.items():
            writer.write(table, pa.table(columns))
    return out


def trials(seed: int) -> Iterator[Trial]:
    """Yields the trials of `ingest --describe` and of `run`."""
    yield from _of_manifests(random.Random(f"{seed} manifest"))
    yield from _of_tables(random.Random(f"{seed} tables"))
    yield from _of_folders()


def _arguments(command: str, data: Path) -> list[str]:
    if command == "run":
        return ["run", "--data", str(data), "--output", str(data.parent / "runs"), "--preset", "smoke"]
    return ["ingest", "--describe", str(data)]


def _trial(
    command: str, form: str, kind: str, damage: str, change: Callable[[Path], None], named: tuple[str, ...]
) -> Trial:
    def prepare(folder: Path) -> list[str]:
        data = write(folder)
        change(data)
        return _arguments(command, data)

    return Trial(command, form, kind, damage, prepare, named)


def _of_manifests(draw: random.Random) -> Iterator[Trial]:
    for command in ("ingest --describe", "run"):
        for name, kind, damage in (*kinds.OF_FILES, *kinds.OF_JSON):
            seed = draw.random()

            def change(data: Path, damage: Any = damage, seed: float = seed) -> None:
                damage(data / "manifest.json", random.Random(seed))

            yield _trial(command, "manifest", kind, name, change, ("manifest.json", "{}/data is not"))
    keys = [field.name for field in dataclasses.fields(Manifest)]
    inner: list[tuple[Any, ...]] = [
        ("counts", name) for name in ("events", "label_events", "users", "items", "user_rows")
    ]
    inner += [("files", 0, name) for name in ("path", "rows", "bytes", "digest")]
    inner += [("columns", "events", "item_id"), ("columns", "items"), ("time_range", 1)]
    for place in [*((key,) for key in keys), *inner]:
        unsaid = place[0] in ("dropped", "repaired", "noted")
        changes: list[tuple[str, Any]] = [("left out", KeyError), *kinds.strange_values(draw, 4)]
        for name, value in changes:
            command = draw.choice(("ingest --describe", "run"))
            key = ".".join(map(str, place))

            def edit(data: Path, place: tuple[Any, ...] = place, value: Any = value) -> None:
                kinds.edit_json(data / "manifest.json", lambda content: _put(content, place, value))

            kind = kinds.COLUMNS if value is KeyError else kinds.VALUES
            trial = _trial(command, "manifest", kind, f"{key}: {name}", edit, ("manifest.json", *_SHOWN))
            if (place, value) in ((("has_timestamps",), True), (("has_splits",), False)):
                continue  # the right value
            if unsaid or (place == ("dataset",) and isinstance(value, str)):
                # Counts of what ingest told are no part of the digest.
                trial = dataclasses.replace(
                    trial, command="ingest --describe", kept=lambda folder, text: None
                )
                trial = dataclasses.replace(trial, prepare=_described(trial.prepare))
            yield trial


def _described(prepare: Callable[[Path], list[str]]) -> Callable[[Path], list[str]]:
    def described(folder: Path) -> list[str]:
        prepare(folder)
        return ["ingest", "--describe", str(folder / "data")]

    return described


def _put(content: dict[str, Any], place: tuple[Any, ...], value: Any) -> None:
    """Puts a value at a place of a manifest, or removes the key, and signs the manifest."""
    kinds.put(content, place, value)
    sign(content)


def sign(content: dict[str, Any]) -> None:
    """Puts the digest of the content into a manifest, as whoever edits one by a program would."""
    left_out = ("digest", "dropped", "repaired", "noted")
    signed = {name: value for name, value in content.items() if name not in left_out}
    text = json.dumps(signed, sort_keys=True)
    content["digest"] = "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _of_tables(draw: random.Random) -> Iterator[Trial]:
    for table, columns in _TABLES.items():
        for name, kind, damage in (*kinds.OF_FILES, *kinds.OF_BINARY):
            for signed in (False, True):
                seed = draw.random()

                def change(
                    data: Path,
                    table: str = table,
                    damage: Any = damage,
                    seed: float = seed,
                    signed: bool = signed,
                ) -> None:
                    path = next((data / table).iterdir())
                    damage(path, random.Random(seed))
                    if signed and path.is_file():
                        _sign_file(data, path)

                shown = f"{table}/: {name}{', with its new digest' if signed else ''}"
                named = (f"{table}/", "{}/data/" + table)
                if name == "bytes overwritten, elsewhere" and signed:
                    continue  # a changed value is a value
                command = draw.choice(("ingest --describe", "ingest --describe", "run"))
                yield _trial(command, f"{table}/", kind, shown, change, named)
        yield from _of_columns(table, columns, draw)


def _of_columns(table: str, columns: dict[str, list[Any]], draw: random.Random) -> Iterator[Trial]:
    required = {"events": ("user_id", "item_id", "timestamp"), "items": ("item_id",), "users": ("user_id",)}
    for name, values in columns.items():
        rest = {one: kept for one, kept in columns.items() if one != name}
        made: list[tuple[str, str, pa.Table]] = [
            (kinds.COLUMNS, "missing", pa.table(rest)),
            (kinds.COLUMNS, "in capitals", pa.table({**rest, name.upper(): values})),
            (
                kinds.COLUMNS,
                "twice",
                pa.Table.from_arrays(
                    [pa.array(one) for one in [*columns.values(), values]], [*columns, name]
                ),
            ),
        ]
        for kind, make in draw.sample(TYPES, 6):
            made.append((kinds.VALUES, f"of {kind}", pa.table({**rest, name: make(values)})))
        for kind, how, damaged in made:

            def change(data: Path, damaged: pa.Table = damaged) -> None:
                path = next((data / table).iterdir())
                pq.write_table(damaged, path)
                _sign_file(data, path)

            # The manifest names the columns and their types, whatever the file's digest.
            own = name not in required[table] and how in ("of NaN", "of nulls", "of negative numbers")
            trial = _trial(
                "ingest --describe",
                f"{table}/",
                kind,
                f"{table}/: column {name} {how}",
                change,
                (name, table),
            )
            yield dataclasses.replace(trial, kept=_nothing_missing) if own else trial
    rows: list[tuple[str, dict[str, list[Any]]]] = [
        ("rows twice", {name: values * 2 for name, values in columns.items()}),
        ("one row alone", {name: values[:1] for name, values in columns.items()}),
        ("no rows", {name: values[:0] for name, values in columns.items()}),
    ]
    for how, changed in rows:

        def rewrite(data: Path, changed: dict[str, list[Any]] = changed) -> None:
            path = next((data / table).iterdir())
            schema = pq.read_schema(path)
            ordered = pa.table({name: changed[name] for name in schema.names})
            pq.write_table(ordered.cast(schema.remove_metadata()), path)
            _sign_file(data, path)

        yield _trial(
            "ingest --describe", f"{table}/", kinds.ROWS, f"{table}/: {how}", rewrite, (table, "key")
        )


def _nothing_missing(folder: Path, text: str) -> None:
    manifest = Manifest.load(str(folder / "data"))
    if f"{manifest.counts['events']}" not in text:
        raise Loss("the count of events is not shown")


def _sign_file(data: Path, path: Path) -> None:
    """Writes a file's size, digest and rows to the manifest, and the manifest's digest."""

    def change(content: dict[str, Any]) -> None:
        for file in content["files"]:
            if file["path"] == str(path.relative_to(data)):
                file |= {"bytes": path.stat().st_size, "digest": digest_of_file(str(path))}
                with contextlib.suppress(OSError, pa.ArrowException):
                    file["rows"] = pq.read_metadata(path).num_rows
        sign(content)

    kinds.edit_json(data / "manifest.json", change)


def _of_folders() -> Iterator[Trial]:
    """Yields damage to the files that there are: more, fewer, swapped."""

    def add(name: str, content: bytes) -> Callable[[Path], None]:
        def change(data: Path) -> None:
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            (data / name).write_bytes(content)

        return change

    def swap(one: str, other: str) -> Callable[[Path], None]:
        def change(data: Path) -> None:
            first, second = (next((data / table).iterdir()) for table in (one, other))
            held = first.read_bytes()
            first.write_bytes(second.read_bytes())
            second.write_bytes(held)

        return change

    def gone(table: str) -> Callable[[Path], None]:
        def change(data: Path) -> None:
            for path in (data / table).iterdir():
                path.unlink()
            (data / table).rmdir()

        return change

    changes: list[tuple[str, tuple[str, ...], Callable[[Path], None]]] = [
        ("a file of events more", ("part-7",), add("events/part-7.parquet", b"PAR1")),
        ("a text beside the events", ("notes.txt",), add("events/notes.txt", b"hello")),
        ("a span more", ("part-0",), add("events/span-9/part-0.parquet", b"PAR1")),
        ("events and items swapped", ("events/", "items/"), swap("events", "items")),
        ("items and users swapped", ("users/", "items/"), swap("users", "items")),
        ("events/ missing", ("events",), gone("events")),
        ("items/ missing", ("items",), gone("items")),
        ("users/ missing", ("users",), gone("users")),
    ]
    for command in ("ingest --describe", "run"):
        for name, named, change in changes:
            yield _trial(command, "files", kinds.PLACE, name, change, named)
    for name, path in (
        ("missing", "nowhere"),
        ("empty name", ""),
        ("a file", "/etc/hostname"),
        ("a device", "/dev/null"),
    ):

        def prepare(folder: Path, path: str = path) -> list[str]:
            return ["ingest", "--describe", path]

        yield Trial(
            "ingest --describe",
            "files",
            kinds.PLACE,
            f"the directory: {name}",
            prepare,
            (path or "data directory",),
        )
