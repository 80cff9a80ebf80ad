"""Damaged models, and arguments of `query`, `export` and `compile`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.damage import kinds
from benchmarks.damage.runs import Run, goes_on, told, trial_of, words_of
from benchmarks.damage.trial import Trial

# Keys of provenance.json that a query needs.
_KEYS = (
    "data",
    "label_event",
    "repeats_recommendable",
    "train_newest_timestamp",
    "history_length",
    "max_k",
)


def trials(seed: int, output: Path, data: Path) -> Iterator[Trial]:
    """Yields the trials of `query`, `export` and `compile`."""
    run = Run(output, data)
    draw = random.Random(f"{seed} models")
    yield from _of_models(run, draw)
    yield from _of_data(run, draw)
    yield from _of_queries(run)
    yield from _of_exports(run)
    yield from _of_compiled_jobs()


def _newest(out: Path) -> Path:
    versions = (path for path in (out / "pushed").iterdir() if path.name.isdigit())
    return max(versions, key=lambda path: path.name)


def _of_models(run: Run, draw: random.Random) -> Iterator[Trial]:
    parts = {"saved_model.pb": "saved_model.pb", "provenance.json": "assets.extra/provenance.json"}
    for command in ("query", "export"):
        for file, place in parts.items():
            for name, kind, damage in (*kinds.OF_FILES, *(kinds.OF_JSON if file.endswith("json") else ())):
                seed = draw.random()

                def change(out: Path, place: str = place, damage: Any = damage, seed: float = seed) -> None:
                    damage(_newest(out) / place, random.Random(seed))

                yield trial_of(
                    run, command, file, kind, name, change, (file, "served model", "does not load")
                )
        for key in _KEYS if command == "query" else ("index", "dataset"):
            for name, value in [("left out", KeyError), *kinds.strange_values(draw, 2)]:

                def edit(out: Path, key: str = key, value: Any = value) -> None:
                    kinds.edit_json(
                        _newest(out) / "assets.extra/provenance.json",
                        lambda content: kinds.put(content, (key,), value),
                    )

                kind = kinds.COLUMNS if value is KeyError else kinds.VALUES
                yield trial_of(
                    run,
                    command,
                    "provenance.json",
                    kind,
                    f"{key}: {name}",
                    edit,
                    ("provenance.json", "-k"),
                    goes_on,
                )
        for name, how in (("missing", None), ("cut off", 10)):

            def cut(out: Path, how: int | None = how) -> None:
                for path in (_newest(out) / "variables").iterdir():
                    path.unlink() if how is None else path.write_bytes(path.read_bytes()[:how])

            yield trial_of(run, command, "variables/", kinds.CUT, name, cut, ("pushed", "variables"))


def _of_data(run: Run, draw: random.Random) -> Iterator[Trial]:
    for table in ("events", "items"):
        for name, kind, damage in kinds.OF_FILES:
            seed = draw.random()

            def broken(out: Path, table: str = table, damage: Any = damage, seed: float = seed) -> None:
                damage(next((out.parent / "data" / table).glob("*.parquet")), random.Random(seed))

            kept = told("itle") if table == "items" else None
            yield trial_of(run, "query", "data directory", kind, f"{table}/: {name}", broken, (table,), kept)


def _of_queries(run: Run) -> Iterator[Trial]:
    for name, more in (
        ("k of 0", ["-k", "0"]),
        ("k of 2^31", ["-k", str(2**31)]),
        ("k of -1", ["-k", "-1"]),
        ("--exclude of a word", ["--exclude", "a"]),
        ("--allow of a negative id", ["--allow", "-4"]),
        ("--allow of 2^63", ["--allow", str(2**63)]),
        ("--allow of 5,000 digits", ["--allow", "9" * 5_000]),
        ("--exclude of other digits", ["--exclude", "²"]),
        ("--data of a file", ["--data", "/etc/hostname"]),
        ("--data without a manifest", ["--data", "/etc"]),
    ):

        def asked(folder: Path, more: list[str] = more) -> list[str]:
            out = run.copy(folder)
            kinds.copy(run.data, folder / "data")
            return [*words_of("query", out), *more]

        parts_named = (more[0], "-k", "id", "/etc")
        yield Trial("query", "arguments", kinds.VALUES, name, asked, parts_named)
    for user in ("-1", str(2**63), "999999999"):

        def of_user(folder: Path, user: str = user) -> list[str]:
            out = run.copy(folder)
            kinds.copy(run.data, folder / "data")
            return ["query", "--model", str(out), f"--user={user}", "--data", str(folder / "data")]

        kept = told("no events") if user == "999999999" else None
        yield Trial("query", "arguments", kinds.VALUES, f"user {user}", of_user, ("id",), kept)


def _of_exports(run: Run) -> Iterator[Trial]:
    for name, more in (
        ("a folder that exists", ["--output", "/etc"]),
        ("a folder below a file", ["--output", "/etc/hostname/x"]),
        ("k above the catalog", ["--to", "faiss", "-k", "1000000"]),
        ("k of 0", ["--to", "faiss", "-k", "0"]),
        ("k for Parquet", ["--to", "parquet", "--recall", "0.9"]),
        ("a recall of 0", ["--to", "faiss", "--recall", "0"]),
    ):

        def prepare(folder: Path, more: list[str] = more) -> list[str]:
            return [*words_of("export", run.copy(folder)), *more]

        yield Trial(
            "export", "arguments", kinds.VALUES, name, prepare, ("--output", "-k", "--recall", "/etc")
        )


def _of_compiled_jobs() -> Iterator[Trial]:
    image = "registry.example/two-tower@sha256:" + "a" * 64
    for name, words, named in (
        ("an image without a tag", ["--image", "two-tower"], "image"),
        ("an image of the tag latest", ["--image", "registry.example/two-tower:latest"], "image"),
        ("an empty image", ["--image", ""], "image"),
        ("an image with spaces", ["--image", "a b:c"], "image"),
        ("an unknown target", ["--image", image, "--target", "dataflow"], "--target"),
        ("YAML for vertex", ["--image", image, "-o", "job.yaml"], ".json"),
        ("JSON for kubeflow", ["--image", image, "--target", "kubeflow", "-o", "job.json"], ".yaml"),
        ("a file in a folder that is missing", ["--image", image, "-o", "{}/no/job.json"], "job.json"),
        ("a folder in the file's place", ["--image", image, "-o", "{}"], ".json"),
        ("a root on this machine", ["--image", image, "--root", "/tmp/x"], "root"),
        ("an unknown scheme", ["--image", image, "--data", "nope://x/y", "--root", "nope://x/z"], "nope"),
        ("a wrong setting", ["--image", image, "--set", "trainer.epochs=x"], "trainer.epochs"),
        ("an unknown preset", ["--image", image, "--preset", "x"], "preset"),
        ("a missing config file", ["--image", image, "--config", "nowhere.yaml"], "nowhere.yaml"),
        (
            "an unknown runner of Beam",
            ["--image", image, "--set", "beam_args=--runner=NothingRunner"],
            "beam",
        ),
        ("a resource that is none", ["--image", image, "--set", "resources.memory=lots"], "resources.memory"),
    ):

        def prepare(folder: Path, words: list[str] = words) -> list[str]:
            given = [word.replace("{}", str(folder)) for word in words]
            return ["compile", *given, *([] if "-o" in given else ["-o", str(folder / "job.json")])]

        yield Trial("compile", "arguments", kinds.VALUES, name, prepare, (named,), None)
