"""Damaged output directories: what reports, gates and rollbacks read."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import random
import shutil
import sqlite3
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.damage import kinds
from benchmarks.damage.trial import Loss, Trial
from two_tower.serving import canary, canary_process

_EVALUATION = "artifacts/RetrievalEvaluator/evaluation"
# Artifacts that a report needs; all others are left out of the copies.
_KEPT = ("RetrievalEvaluator", "ApprovedStatistics", "InteractionSchema")
# Keys of evaluation.json without which there is no verdict or report.
_KEYS = (
    "metrics",
    "baselines",
    "ann",
    "slices",
    "blessed_model",
    "cutoff",
    "verdict",
    "thresholds",
    "queries",
)
_MORE_KEYS = (
    "split",
    "catalog",
    "protocol",
    "intervals",
    "changes",
    "latency",
    "size",
    "oracle",
    "refusal",
    "notes",
)


@dataclasses.dataclass(frozen=True)
class Run:
    """Output directory of a finished run, and its data directory, of which trials damage copies."""

    output: Path
    data: Path

    def copy(self, folder: Path) -> Path:
        """Copies what reports read below a folder, with two versions, and returns the output directory."""
        out = folder / "out"
        for name in _KEPT:
            kinds.copy(self.output / "artifacts" / name, out / "artifacts" / name)
        for path in self.output.iterdir():
            if path.is_file():
                shutil.copyfile(path, out / path.name)
        kinds.copy(self.output / "pushed", out / "pushed")
        (first,) = (int(path.name) for path in (out / "pushed").iterdir() if path.name.isdigit())
        # Another model in service, so that a rollback has one to go back to.
        second = out / "pushed" / str(first + 1)
        kinds.copy(out / "pushed" / str(first), second)
        kinds.edit_json(second / "assets.extra" / "provenance.json", lambda one: {**one, "seed": -1})
        record = json.loads((out / "pushed" / ".recorded" / f"{first}.json").read_text())
        record |= {"digest": "", "identity": "", "model": f"{out}/none"}
        (out / "pushed" / ".recorded" / f"{first + 1}.json").write_text(json.dumps(record))
        with sqlite3.connect(out / "metadata.sqlite") as store:
            store.execute(
                "update Artifact set uri = replace(uri, ?, ?)", (str(self.output.absolute()), str(out))
            )
        store.close()
        return out


@contextlib.contextmanager
def canary_here() -> Iterator[None]:
    """Loads a canary's model in this process: the import of TensorFlow takes longest in a fresh one."""

    def run(words: list[str], **options: Any) -> types.SimpleNamespace:
        del options
        page = io.StringIO()
        with contextlib.redirect_stdout(page):
            status = canary_process.main(*words[-2:])
        return types.SimpleNamespace(returncode=status, stdout=page.getvalue(), stderr="")

    with mock.patch.object(canary, "subprocess", types.SimpleNamespace(run=run)):
        yield


def trials(seed: int, output: Path, data: Path) -> Iterator[Trial]:
    """Yields the trials of `report`, `history`, `gate` and `rollback`."""
    run = Run(output, data)
    draw = random.Random(f"{seed} runs")
    yield from _of_evaluations(run, draw)
    yield from _of_query_results(run, draw)
    yield from _of_stores(run, draw)
    yield from _of_records(run, draw)
    yield from _of_push_directories(run)


def words_of(command: str, out: Path) -> list[str]:
    """Returns a command's arguments."""
    return {
        "report": ["report", "--output", str(out)],
        "report --compare": ["report", "--compare", str(out), str(out)],
        "history": ["history", "--output", str(out)],
        "gate": ["gate", "--model", str(out)],
        "rollback": ["rollback", "--output", str(out)],
        "query": ["query", "--model", str(out), "--user", "1", "--data", str(out.parent / "data")],
        "export": [
            "export",
            "--model",
            str(out),
            "--to",
            "parquet",
            "--output",
            str(out.parent / "exported"),
        ],
        "validate --requests": ["validate", "--requests", str(out.parent / "requests"), "--output", str(out)],
    }[command]


def trial_of(
    run: Run,
    command: str,
    form: str,
    kind: str,
    damage: str,
    change: Callable[[Path], None],
    named: tuple[str, ...],
    kept: Callable[[Path, str], None] | None = None,
) -> Trial:
    """Returns the trial of a command on a copy of the output directory that `change` damages."""

    def prepare(folder: Path) -> list[str]:
        out = run.copy(folder)
        if command == "query":
            kinds.copy(run.data, folder / "data")
        change(out)
        return words_of(command, out)

    return Trial(command, form, kind, damage, prepare, named, kept)


def told(*parts: str) -> Callable[[Path, str], None]:
    """Returns the check that a command that goes on tells of the damage."""

    def kept(folder: Path, text: str) -> None:
        if not any(part in text for part in parts):
            raise Loss(f"the text names none of {', '.join(parts)}")

    return kept


def goes_on(folder: Path, text: str) -> None:
    """Accepts the answer of a command that does not need what is damaged."""


def _evaluation(out: Path) -> Path:
    (found,) = (out / _EVALUATION).iterdir()
    return found / "evaluation.json"


def _of_evaluations(run: Run, draw: random.Random) -> Iterator[Trial]:
    named = ("evaluation.json", "holds no evaluation", "holds no Recall@")
    for command in ("report", "history", "gate", "report --compare"):
        for name, kind, damage in (*kinds.OF_FILES, *kinds.OF_JSON):
            seed = draw.random()

            def change(out: Path, damage: Any = damage, seed: float = seed) -> None:
                damage(_evaluation(out), random.Random(seed))

            kept = told("evaluation.json") if command == "history" else None
            yield trial_of(run, command, "evaluation.json", kind, name, change, named, kept)
    places: list[tuple[str, ...]] = [(key,) for key in (*_KEYS, *_MORE_KEYS)]
    places += [("metrics", "test"), ("metrics", "test", "recall@10"), ("model", "index"), ("gate", "cutoff")]
    places += [
        ("ann", "recall@100"),
        ("intervals", "model"),
        ("baselines", "most_popular"),
        ("split", "test"),
    ]
    for place in places:
        for name, value in [("left out", KeyError), *kinds.strange_values(draw, 5)]:
            command = draw.choice(("report", "gate", "report --compare", "history"))
            kind = kinds.COLUMNS if value is KeyError else kinds.VALUES

            def edit(out: Path, place: tuple[str, ...] = place, value: Any = value) -> None:
                kinds.edit_json(_evaluation(out), lambda content: kinds.put(content, place, value))

            shown = f"{'.'.join(place)}: {name}"
            # What a command does not read it does not miss.
            yield trial_of(run, command, "evaluation.json", kind, shown, edit, named, goes_on)


def _of_query_results(run: Run, draw: random.Random) -> Iterator[Trial]:
    named = ("queries.npz", "the queries beside evaluation.json")

    def results(out: Path) -> Path:
        return _evaluation(out).with_name("queries.npz")

    for command in ("gate", "report --compare"):
        for name, kind, damage in (*kinds.OF_FILES, *kinds.OF_BINARY):
            seed = draw.random()

            def change(out: Path, damage: Any = damage, seed: float = seed) -> None:
                damage(results(out), random.Random(seed))

            # A comparison without the results of queries has no intervals, and says so.
            kept = told("queries.npz", "interval") if command != "gate" else None
            if "overwritten" in name or name == "another format's bytes":
                kept = goes_on  # a ZIP archive has padding, and takes bytes before it
            yield trial_of(run, command, "queries.npz", kind, name, change, named, kept)

        def edited(edit: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
            def change(out: Path) -> None:
                with np.load(results(out)) as file:
                    content = dict(file)
                edit(content)
                page = io.BytesIO()
                np.savez_compressed(page, **content)
                results(out).write_bytes(page.getvalue())

            return change

        edits: tuple[tuple[str, str, Callable[[dict[str, Any]], Any]], ...] = (
            ("without users", kinds.COLUMNS, lambda one: one.pop("user")),
            ("without labels", kinds.COLUMNS, lambda one: one.pop("label_item")),
            ("without the model's ranks", kinds.COLUMNS, lambda one: one.pop("rank/model")),
            ("fewer users than queries", kinds.ROWS, lambda one: one.update(user=one["user"][:-5])),
            ("no queries", kinds.ROWS, lambda one: one.update({name: v[:0] for name, v in one.items()})),
            (
                "ranks of fewer labels",
                kinds.ROWS,
                lambda one: one.update({"rank/model": one["rank/model"][:-5]}),
            ),
            (
                "ranks of NaN",
                kinds.VALUES,
                lambda one: one.update({"rank/model": one["rank/model"] * np.nan}),
            ),
            ("negative queries", kinds.VALUES, lambda one: one.update(label_query=-1 - one["label_query"])),
            ("users as text", kinds.VALUES, lambda one: one.update(user=one["user"].astype(str))),
            ("pickled users", kinds.VALUES, lambda one: one.update(user=one["user"].astype(object))),
            (
                "ranks in two dimensions",
                kinds.SHAPE,
                lambda one: one.update({"rank/model": one["rank/model"][None]}),
            ),
        )
        for name, kind, edit in edits:
            yield trial_of(run, command, "queries.npz", kind, name, edited(edit), named, told("queries.npz"))


def _of_stores(run: Run, draw: random.Random) -> Iterator[Trial]:
    for command in ("report", "history", "validate --requests"):
        for name, kind, damage in (*kinds.OF_FILES, *kinds.OF_BINARY):
            if "overwritten" in name and command != "report":
                continue
            seed = draw.random()

            def change(out: Path, damage: Any = damage, seed: float = seed) -> None:
                damage(out / "metadata.sqlite", random.Random(seed))
                (out.parent / "requests").write_text("{}\n")

            kept = goes_on if "overwritten" in name or name == "without its last byte" else None
            named = ("metadata.sqlite", "holds no run", "invalid requests")
            yield trial_of(run, command, "metadata.sqlite", kind, name, change, named, kept)


def _of_records(run: Run, draw: random.Random) -> Iterator[Trial]:
    """Yields damage to pointers and push records."""

    def record(out: Path) -> Path:
        first = min(int(path.name) for path in (out / "pushed").iterdir() if path.name.isdigit())
        return out / "pushed" / ".recorded" / f"{first}.json"

    places: tuple[tuple[str, str, Callable[[Path], Path]], ...] = (
        ("rollback", "push record", record),
        ("report", "push record", record),
        ("rollback", "pointer", lambda out: out / "latest_blessed.json"),
        (
            "rollback",
            "provenance",
            lambda out: out / "pushed" / record(out).stem / "assets.extra/provenance.json",
        ),
    )
    for command, form, place in places:
        for name, kind, damage in (*kinds.OF_FILES, *kinds.OF_JSON):
            seed = draw.random()

            def change(out: Path, place: Any = place, damage: Any = damage, seed: float = seed) -> None:
                damage(place(out), random.Random(seed))

            named = {"pointer": "latest_blessed.json", "provenance": "provenance.json"}.get(form, ".recorded")
            # A version without a record has one of an earlier release; a report needs none.
            optional = command == "report" or name in ("missing", "null in its place", "an empty object")
            is_told = command == "rollback" and form == "push record"
            kept = told("no recorded queries") if is_told else goes_on
            parts = (named, "canary", "The copy of {}/out/pushed/")
            yield trial_of(run, command, form, kind, name, change, parts, kept if optional else None)
    for key in ("canary", "digest", "identity", "model", "towers", "anchor", "published", "copy_of"):
        for name, value in [("left out", KeyError), *kinds.strange_values(draw, 3)]:

            def edit(out: Path, key: str = key, value: Any = value) -> None:
                kinds.edit_json(record(out), lambda content: kinds.put(content, (key,), value))

            kind = kinds.COLUMNS if value is KeyError else kinds.VALUES
            for command in ("rollback", "report"):
                yield trial_of(
                    run,
                    command,
                    "push record",
                    kind,
                    f"{key}: {name}",
                    edit,
                    (".recorded", "digest"),
                    goes_on,
                )


def _of_push_directories(run: Run) -> Iterator[Trial]:
    def versions(out: Path) -> list[Path]:
        return sorted(path for path in (out / "pushed").iterdir() if path.name.isdigit())

    changes: tuple[tuple[str, Callable[[Path], Any], bool], ...] = (
        ("one version alone", lambda out: shutil.rmtree(versions(out)[0]), False),
        ("no version", lambda out: _all_gone(versions(out)), False),
        ("pushed/ missing", lambda out: shutil.rmtree(out / "pushed"), False),
        ("a file in the place of pushed/", lambda out: _file_for(out / "pushed"), False),
        ("an empty version before", lambda out: _emptied(versions(out)[0]), False),
        ("an empty version in service", lambda out: _emptied(versions(out)[1]), True),
        ("a link within the version", lambda out: (versions(out)[0] / "more").symlink_to("/etc"), False),
        ("a model without variables", lambda out: shutil.rmtree(versions(out)[0] / "variables"), False),
        (
            "a model of random bytes",
            lambda out: (versions(out)[0] / "saved_model.pb").write_bytes(b"x" * 99),
            False,
        ),
        ("a link in the place of the lock", lambda out: _linked(out / "pushed" / ".lock"), False),
        ("a link in the place of the records", lambda out: _linked(out / "pushed" / ".recorded"), False),
        (
            "names as 007 and ²",
            _strange_names,
            True,
        ),
        ("a file named 9", lambda out: (out / "pushed" / "9").touch(), True),
        ("a half-pushed model", lambda out: (out / "pushed" / ".incoming-9").mkdir(), True),
        ("a link in its place", lambda out: (out / "pushed" / ".incoming-9").symlink_to("/etc"), True),
    )
    for command in ("rollback", "report", "history"):
        for name, change, rolls_back in changes:
            may_pass = command != "rollback" or rolls_back
            named = ("pushed", "canary", "symbolic link")
            kept = goes_on if may_pass else None
            yield trial_of(run, command, "pushed/", kinds.PLACE, name, change, named, kept)


def _all_gone(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder)


def _strange_names(out: Path) -> None:
    for name in ("007", "²", "-3"):
        (out / "pushed" / name).mkdir()


def _file_for(path: Path) -> None:
    shutil.rmtree(path)
    path.touch()


def _emptied(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def _linked(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to("/tmp")
