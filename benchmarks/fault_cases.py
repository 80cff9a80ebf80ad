"""Commands that `benchmarks/faults.py` kills, and checks of the state that they leave."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from two_tower.base import pointers
from two_tower.pipeline.runs.report import collect
from two_tower.serving import push_record
from two_tower.serving.provenance import digest_of, identity_of
from two_tower.serving.versions import PUSHED, versions

# A model of so little data is behind the baselines; the gate's work is not what is tried here.
_SETTINGS = (
    *("--preset", "smoke", "--set", "trainer.epochs=1", "--set", "gate.slices="),
    *("--set", "gate.min_lift_over_best_baseline=-0.9", "--set", "gate.min_discovery_lift=-0.9"),
    *("--set", "gate.min_change_against_blessed=-0.9"),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """Command whose files are watched.

    Attributes:
        name: its name in the table.
        arguments: its words.
        state: returns what must be equal after a repetition, from the folder of the prepared state.
        whole: raises AssertionError if something half-written is taken for whole, right after a kill.
        refuses_again: returns whether the killed command had done all, so that a repetition is refused.
    """

    name: str
    arguments: Sequence[str]
    state: Callable[[], object]
    whole: Callable[[], None] = lambda: None
    refuses_again: Callable[[], bool] = lambda: False


def run_arguments(data: Path, output: Path) -> list[str]:
    return ["run", "--data", str(data), "--output", str(output), *_SETTINGS]


def check_pointer(output: Path) -> None:
    pushed = str(output / PUSHED)
    recorded = push_record.read(pushed, versions(pushed)[-1])
    pointer = pointers.from_text(pointers.latest(str(output), pointers.BLESSED))
    assert pointer is not None and pointer.uri == recorded.model, "the pointer names another model"


def check_nothing_is_left(output: Path) -> None:
    """Checks for folders and files that belong to nothing."""
    from two_tower.pipeline.runs.stored_runs import open_store

    store, _ = open_store(str(output))
    known = {Path(one.uri) for one in store.get_artifacts()}
    left = [
        path
        for path in (output / "artifacts").glob("*/*/*")
        if not path.parts[-2].startswith(".") and path not in known and path / "value" not in known
    ]
    left += [path for path in output.glob("artifacts/*/.system/*/*") if any(path.rglob("*"))]
    left += list(output.glob("artifacts/*/.checkpoints/*"))
    left += [*output.glob("*.incoming"), *output.glob(".lock"), *output.glob(f"{PUSHED}/.incoming-*")]
    left += [*output.glob(f"{PUSHED}/.recorded/*.incoming")]
    assert not left, f"left: {left[:5]}"


def _digest(path: Path) -> str:
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return digest_of(str(path)) if path.is_dir() else ""


def cases(work: Path) -> Iterator[Case]:
    output, pushed, made = work / "output", work / "output" / PUSHED, work / "made"

    def service() -> object:
        check_nothing_is_left(output)
        check_pointer(output)
        return [(one, _digest(pushed / str(one))) for one in versions(str(pushed))]

    def placed() -> object:
        # Two graphs of one model differ in their bytes: Transform's holds paths of its run.
        service()
        return [(one, identity_of(str(pushed / str(one)))) for one in versions(str(pushed))]

    def served() -> None:
        for one in versions(str(pushed)):
            recorded = push_record.read(str(pushed), one)
            assert recorded.digest == _digest(pushed / str(one)), f"version {one} is not whole"

    def exported() -> object:
        left = [path.name for path in work.glob(".made*")]
        assert not left, f"left: {left}"
        return sorted(path.name for path in made.iterdir())

    def absent_or_whole() -> None:
        assert not made.exists() or (made / "export.json").is_file(), "half an export is visible"

    def artifacts() -> object:
        return service(), sorted(str(path) for path in (output / "artifacts").glob("*/*/*"))

    def job() -> object:
        return sorted(json.loads((work / "job.json").read_text()))

    def job_is_whole() -> None:
        if (work / "job.json").exists():
            job()

    def page() -> object:
        return (made.read_text().rstrip().endswith("</html>"), collect(str(output))["verdict"])

    def page_is_whole() -> None:
        assert not made.exists() or made.read_text().rstrip().endswith("</html>"), "half a page is visible"

    def trials() -> object:
        lines = (output / "tune" / "trials.md").read_text().splitlines()
        ended = [line for line in lines if line.startswith("|")]
        best = (output / "tune" / "best.yaml").read_text().splitlines()
        # A comment names the trial by its number, which an interrupted trial raises.
        return len(ended), [line for line in best if not line.startswith("#")]

    yield Case("rollback", ["rollback", "--output", str(output)], service, served)
    for home in ("faiss", "vertex", "parquet"):
        arguments = ["export", "--model", str(output), "--to", home, "--output", str(made)]
        yield Case(f"export {home}", arguments, exported, absent_or_whole, made.exists)
    yield Case("clean", ["clean", "--output", str(output), "--keep", "1"], artifacts, served)
    yield Case("report", ["report", "--output", str(output), "--html", str(made)], page, page_is_whole)
    yield Case("gate", ["gate", "--model", str(output)], service)
    compiled = ["compile", "--target", "vertex", "--image", "image:1", "-o", str(work / "job.json")]
    yield Case("compile", compiled, job, job_is_whole)
    items = ["reindex", "--model", str(output), "--items", str(work / "data")]
    yield Case("reindex", [*items, "--set", "gate.min_change_against_blessed=-0.9"], placed, served)
    tune = ["tune", "--data", str(work / "whole"), "--output", str(output), "--trials", "2"]
    yield Case("tune", [*tune, *_SETTINGS], trials, served)
