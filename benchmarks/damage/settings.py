"""Damaged column maps, config files, settings, requests and arguments."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.damage import arguments, kinds
from benchmarks.damage.sources import Source
from benchmarks.damage.trial import Trial
from benchmarks.damage.valid_sources import sources

# The answer of `run` once it has taken all settings: its data directory is missing.
_NO_DATA = "no-such-data is not a data directory"
_TEXTS = (
    "",
    "abc",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1e300",
    "9" * 5_000,
    "1,2",
    "[1",
    "{}",
    "null",
    "-1",
    "0x10",
    "9223372036854775808",
    "é" * 10_000,
    "\udcff",
)
_REQUEST: dict[str, Any] = {
    "user_id": 5,
    "history_item_id": [1, 2, 3],
    "history_timestamp": [10, 20, 30],
    "history_play_ratio": [1.0, 0.5, -1.0],
    "history_event_type": ["", "like", ""],
    "history_is_organic": [1, 0, -1],
    "request_timestamp": 40,
    "exclude_item_id": [4],
    "allow_item_id": [1, 2, 9],
    "k": 10,
}


def trials(seed: int) -> Iterator[Trial]:
    """Yields the trials of column maps, config files, --set, requests and arguments."""
    yield from _column_maps(random.Random(f"{seed} maps"))
    yield from _config_files(random.Random(f"{seed} files"))
    yield from _overrides(random.Random(f"{seed} set"))
    yield from _requests(random.Random(f"{seed} requests"))
    yield from arguments.trials()


def _damaged(damage: Callable[[Path, random.Random], None], seed: float) -> Callable[[Path], None]:
    return lambda path: damage(path, random.Random(seed))


def _written(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(text)

    return write


def _kept(folder: Path, text: str) -> None:
    """Accepts that whoever edits a file of settings asks for what it says."""


# ── Files of settings ───────────────────────────────────────────────────────────────────────────────────


def _yaml_edits(text: str) -> Iterator[tuple[str, str, str]]:
    """Yields damage to YAML that no command may take: its name, its kind, and the damaged text."""
    lines = text.splitlines()
    yield "a tab before a key", kinds.TEXT, text.replace("\n", "\n\t", 1)
    yield "an unclosed quote", kinds.TEXT, text + 'more: "text\n'
    yield "an unclosed bracket", kinds.TEXT, text + "more: [1, 2\n"
    yield "a key twice", kinds.COLUMNS, f"{text}\n{lines[0]}\n"
    yield "an unknown key", kinds.COLUMNS, text + "\nmore: 1\n"
    yield "a key that is a number", kinds.COLUMNS, text + "\n7: 1\n"
    yield "a key in capitals", kinds.COLUMNS, text.replace(lines[0], lines[0].upper(), 1)
    yield "a list in its place", kinds.SHAPE, "- 1\n- 2\n"
    yield "two documents", kinds.SHAPE, f"{text}\n---\n{text}"
    yield "an alias without an anchor", kinds.SHAPE, text + "\nmore: *nothing\n"
    yield "an alias within its own anchor", kinds.SHAPE, text + "\nmore: &a [*a]\n"
    yield "a billion aliases", kinds.SHAPE, text + "\n" + _billion()
    yield "lists nested 3,000 deep", kinds.SHAPE, text + "\nmore: " + "[" * 3_000 + "]" * 3_000 + "\n"
    yield "objects nested 3,000 deep", kinds.SHAPE, text + "\nmore: " + "{a: " * 3_000 + "1" + "}" * 3_000
    yield "a Python object", kinds.VALUES, text + "\nmore: !!python/object/apply:os.system ['true']\n"
    yield "a number of 5,000 digits", kinds.VALUES, text + "\nmore: " + "9" * 5_000 + "\n"
    yield "a date that is none", kinds.VALUES, text + "\nmore: 2024-13-45\n"
    yield "no separator", kinds.TEXT, text.replace(": ", "=")
    yield "a comment alone", kinds.CUT, "# nothing\n"


def _billion() -> str:
    lines = ["a0: &a0 [1, 1]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 10)]
    return "\n".join(lines) + "\n"


def _column_maps(draw: random.Random) -> Iterator[Trial]:
    (source,) = (one for one in sources() if one.name == "table, parquet")
    content = yaml.safe_load(source.column_map)
    places: list[tuple[str, ...]] = [(key,) for key in content]
    places += [(table, key) for table in ("events", "items", "users", "embeddings") for key in content[table]]

    def trial(kind: str, name: str, change: Callable[[Path], None], kept: Any, named: Sequence[str]) -> Trial:
        def prepare(folder: Path) -> list[str]:
            arguments = source.write(folder)
            change(folder / "source" / "columns.yaml")
            return arguments

        return Trial(
            "ingest", "column map", kind, name, prepare, ("columns.yaml", "label event", *named), kept
        )

    for name, kind, damage in (*kinds.OF_FILES, *kinds.OF_LINES):
        seed = draw.random()
        harmless = name in _HARMLESS
        yield trial(
            kind,
            name,
            _damaged(damage, seed),
            (lambda folder, text: source.check_kept(folder)) if harmless else None,
            (),
        )
    for name, kind, text in _yaml_edits(source.column_map):
        yield trial(kind, name, _written(text), None, ())
    for place in places:
        for name, value in [("left out", KeyError), *kinds.strange_values(draw, 5)]:
            changed = _changed(content, place, value)
            kind = kinds.COLUMNS if value is KeyError else kinds.VALUES
            text = yaml.safe_dump(changed)
            # A column of another name is missing in the files, which are then named.
            named = (str(place[-1]), "some text", "parquet", "label event")
            yield trial(
                kind,
                f"{'.'.join(place)}: {name}",
                _written(text),
                _kept_events(source),
                named,
            )


# Damage to a file of settings that changes no setting.
_HARMLESS = (
    "without its last line end",
    "a byte order mark",
    "carriage returns before line feeds",
    "carriage returns for line feeds",
    "mixed line ends",
    "blank lines",
    "UTF-16",
)


# Damage that leaves a config file of fewer settings, or none.
_FEWER = (
    "empty",
    "white space alone",
    "an empty object",
    "null in its place",
    "its first ten bytes",
    "a letter before each line",
)


def _kept_events(source: Source) -> Callable[[Path, str], None]:
    """Returns the check that all events are there; a column that the map leaves out is not wanted."""
    events = dataclasses.replace(
        source.parts[0],
        target={name: target for name, target in source.parts[0].target.items() if target[1].endswith("_id")},
    )
    whole = dataclasses.replace(source, parts=(events,))
    return lambda folder, text: whole.check_kept(folder)


def _changed(content: Any, place: Sequence[str], value: Any) -> Any:
    changed = copy.deepcopy(content)
    kinds.put(changed, place, value)
    return changed


_CONFIG: dict[str, Any] = {
    "seed": 7,
    "preset": "smoke",
    "data": "no-such-data",
    "output": "runs",
    "trainer": {
        "learning_rate": 0.01,
        "epochs": 2,
        "parts": ["history", "seed_item"],
        "dropout": {"id": 0.1},
    },
    "split": {"protocol": "next_event", "holdout_seconds": 1_000},
    "features": {"users": ["age"], "items": ["title:text"]},
    "gate": {"cutoff": 100, "min_recall": 0.02},
    "evaluation": {"cutoffs": [1, 10, 100]},
}


def _config_files(draw: random.Random) -> Iterator[Trial]:
    base = {**_CONFIG, "trainer": {name: v for name, v in _CONFIG["trainer"].items() if name != "parts"}}

    def trial(
        form: str, kind: str, name: str, change: Callable[[Path], None], may_pass: bool, named: str
    ) -> Trial:
        def prepare(folder: Path) -> list[str]:
            path = folder / f"run.{'json' if form == 'config file, JSON' else 'yaml'}"
            path.write_text(json.dumps(base) if form == "config file, JSON" else yaml.safe_dump(base))
            change(path)
            return ["run", "--config", str(path), "--data", "no-such-data", "--output", str(folder / "runs")]

        return Trial(
            "run",
            form,
            kind,
            name,
            prepare,
            ("run.yaml", "run.json", named),
            _kept if may_pass else None,
            _NO_DATA,
        )

    for form in ("config file, YAML", "config file, JSON"):
        damages = (*kinds.OF_FILES, *(kinds.OF_LINES if form.endswith("YAML") else kinds.OF_JSON))
        for name, kind, damage in damages:
            seed = draw.random()
            # An empty file holds no settings, and says so to whoever reads it.
            may_pass = name in (*_HARMLESS, *_FEWER)
            yield trial(
                form,
                kind,
                name,
                _damaged(damage, seed),
                may_pass,
                "run.",
            )
    for name, kind, text in _yaml_edits(yaml.safe_dump(base)):
        may_pass = name == "a comment alone"
        yield trial(
            "config file, YAML",
            kind,
            name,
            _written(text),
            may_pass,
            "run.yaml",
        )
    places: list[tuple[str, ...]] = [(key,) for key in base if key not in ("data", "output")]
    places += [(key, inner) for key, value in base.items() if isinstance(value, dict) for inner in value]
    for place in places:
        for name, value in kinds.strange_values(draw, 6):
            changed = _changed(base, place, value)
            yield trial(
                "config file, YAML",
                kinds.VALUES,
                f"{'.'.join(place)}: {name}",
                _written(yaml.safe_dump(changed)),
                place[0] == "features",
                ".".join(place),
            )


def _overrides(draw: random.Random) -> Iterator[Trial]:
    from two_tower.pipeline.settings.pipeline_config import setting_type, types

    def trial(kind: str, name: str, override: str, may_pass: bool, named: str) -> Trial:
        def prepare(folder: Path) -> list[str]:
            arguments = [
                "run",
                "--data",
                "no-such-data",
                "--output",
                str(folder / "runs"),
                "--preset",
                "smoke",
            ]
            return [*arguments, "--set", override]

        return Trial("run", "--set", kind, name, prepare, (named,), _kept if may_pass else None, _NO_DATA)

    for setting in types():
        free = "str" in str(setting_type(setting))
        for text in draw.sample(_TEXTS, 4):
            shown = ascii(text if len(text) < 30 else f"{text[:5]}... ({len(text):,} letters)")
            may_pass = free or text in ("-1", "1,2", "")
            yield trial(kinds.VALUES, f"{setting}={shown}", f"{setting}={text}", may_pass, setting)
    first = next(iter(types()))
    for name, override in (
        ("no value", first),
        ("no key", "=4"),
        ("nothing", ""),
        ("two signs", f"{first}==4"),
        ("an unknown key", "trainer.nothing=4"),
        ("a section alone", "trainer=4"),
        ("a key in capitals", "TRAINER.EPOCHS=4"),
        ("a key of 100,000 letters", "a" * 10**5 + "=1"),
        ("100,000 dots", "." * 10**5 + "=1"),
        ("a space in the key", "trainer. epochs=4"),
        ("a line end", "trainer.epochs=4\n5"),
        ("a block without a key", "trainer.dropout=4"),
        ("a block with an unknown key", "trainer.dropout=nothing=1"),
        ("signs and none", "trainer.parts=-history,seed_item"),
    ):
        named = ("--set", "setting", first, "trainer.epochs", "trainer.parts", "trainer.dropout.hidden")
        yield dataclasses.replace(trial(kinds.COLUMNS, name, override, False, ""), named=named)


# ── Requests ────────────────────────────────────────────────────────────────────────────────────────────


def _requests(draw: random.Random) -> Iterator[Trial]:
    good = json.dumps(_REQUEST)

    def trial(kind: str, name: str, content: bytes, may_pass: bool, named: str = "line ") -> Trial:
        def prepare(folder: Path) -> list[str]:
            (folder / "requests.jsonl").write_bytes(content)
            return ["validate", "--requests", str(folder / "requests.jsonl")]

        named_parts = ("requests.jsonl", named)
        return Trial(
            "validate --requests", "JSON lines", kind, name, prepare, named_parts, _kept if may_pass else None
        )

    lines = f"{good}\n{good}\n".encode()
    for name, kind, damage in (*kinds.OF_FILES, *kinds.OF_LINES, *kinds.OF_JSON):
        seed = draw.random()

        def prepare(folder: Path, damage: Any = damage, seed: float = seed) -> list[str]:
            path = folder / "requests.jsonl"
            path.write_bytes(lines)
            damage(path, random.Random(seed))
            return ["validate", "--requests", str(path)]

        # Half of two equal lines is one.
        kept = _kept_requests if name in (*_HARMLESS, "half of it") else None
        yield Trial("validate --requests", "JSON lines", kind, name, prepare, ("requests.jsonl",), kept)
    for key in _REQUEST:
        optional = key not in ("user_id", "history_item_id", "history_timestamp")
        without = json.dumps({name: value for name, value in _REQUEST.items() if name != key})
        yield trial(kinds.COLUMNS, f"{key} left out", without.encode(), optional, key)
        in_capitals = good.replace(f'"{key}"', f'"{key.upper()}"')
        yield trial(kinds.COLUMNS, f"{key} in capitals", in_capitals.encode(), False, key)
        twice = good[:-1] + f', "{key}": {json.dumps(_REQUEST[key])}}}'
        yield trial(kinds.COLUMNS, f"{key} twice", twice.encode(), False, key)
        for name, value in kinds.strange_values(draw, 6):
            values = {"a value": value}
            if isinstance(_REQUEST[key], list):
                values["in its list"] = [*_REQUEST[key][:-1], value]
            for where, damaged in values.items():
                line = json.dumps({**_REQUEST, key: damaged})
                may_pass = key in (
                    "history_event_type",
                    "exclude_item_id",
                    "allow_item_id",
                    "history_item_id",
                )
                may_pass |= name in ("-1", "10^18", "1e300", "NaN")
                yield trial(kinds.VALUES, f"{key}: {name}, {where}", line.encode(), may_pass, key)
    body = {"instances": [_REQUEST, 7, None, "text"]}
    columns = {name: value if name == "k" else [value] for name, value in _REQUEST.items()}
    for name, content in (
        ("instances of other types", body),
        ("instances that are a number", {"instances": 7}),
        ("instances without an entry", {"instances": []}),
        ("instances within instances", {"instances": [{"instances": [_REQUEST]}]}),
        ("a list of 200,000 items", {**_REQUEST, "history_item_id": [1] * 200_000}),
        ("lists within a list", {**_REQUEST, "history_item_id": [[1], [2], [3]]}),
        ("times backwards", {**_REQUEST, "history_timestamp": [30, 20, 10]}),
        ("lists of unequal length", {**_REQUEST, "history_timestamp": [30, 20]}),
        ("an unknown field", {**_REQUEST, "mood": 1}),
        ("a field without a name", {**_REQUEST, "": 1}),
        ("inputs that are a list", {"inputs": [_REQUEST]}),
        ("inputs of single values", {"inputs": _REQUEST}),
        ("inputs of other sizes", {"inputs": {**columns, "user_id": [5, 6]}}),
        ("inputs beside instances", {"inputs": columns, "instances": [columns]}),
    ):
        yield trial(kinds.SHAPE, name, json.dumps(content).encode(), False)


def _kept_requests(folder: Path, text: str) -> None:
    from benchmarks.damage.trial import Loss

    lines = sum(1 for line in (folder / "requests.jsonl").read_bytes().splitlines() if line.strip())
    if f"{lines} requests" not in text:
        raise Loss(f"{lines} requests were written, and not as many were read")
