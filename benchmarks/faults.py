"""Faults at many moments: kills of each command, and a full disk or too little memory in each component.

    python -m benchmarks.faults WORK [--only run,rollback,...] [--moments 12] [--shares 0.1,0.5,0.9]

WORK is a new folder, or that of an earlier call, whose prepared runs are used again. Each command is ended by
SIGKILL, its state checked, and the command repeated, whose result must be that of an undisturbed one. The
table has a row a command: faults tried, and what did not hold. The exit status is 1 if anything did not hold.

A run is killed in each component: before its executor, at shares of its time, between the executor's end and
its record, and behind the record. All faults are of one run, since each repetition continues it. Other
commands are killed at changes of files, `--moments` of them, spread over all, from one prepared state each.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.fault_cases import Case, cases, check_nothing_is_left, check_pointer, run_arguments
from two_tower.data_directory.manifest import DAY
from two_tower.pipeline.commands.main import main as two_tower
from two_tower.pipeline.runs.history import history
from two_tower.pipeline.runs.page import collect_with_page
from two_tower.pipeline.runs.report import collect
from two_tower.pipeline.runs.stored_runs import running
from two_tower.serving import push_record
from two_tower.serving.provenance import digest_of
from two_tower.serving.versions import PUSHED, versions

_WORLD = ("--users", "200", "--tracks", "2000", "--days", "20")
_FIRST_DAYS = 18
# Recalls of two runs of one seed differ by less: Beam chooses the order of Transform's sums.
_ALIKE = 0.005
# Changes of files, as Python's audit events name them.
_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"}

# Ends this process at a chosen moment, once it is set up in it.
Kill = Callable[[], None]


@dataclasses.dataclass
class Row:
    """Result of one command's kills."""

    command: str
    moments: int = 0
    faults: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Ended:
    """End of a command in a process of its own; a killed one has the status -9."""

    status: int
    shown: str


def main() -> int:
    """Prepares two runs, kills, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", default="", help="names of rows, with commas between them")
    parser.add_argument("--moments", type=int, default=12, help="kills of a command other than run")
    parser.add_argument(
        "--shares",
        default="0.1,0.5,0.9",
        help="kills of a run: shares of a component's time",
    )
    parser.add_argument("--components", default="", help="components of the run's faults (default: all)")
    options = parser.parse_args()
    components = set(filter(None, options.components.split(",")))
    work = Path(os.path.abspath(options.work))
    work.mkdir(parents=True, exist_ok=True)
    _load_what_is_slow()
    _prepare(work)
    wanted = set(filter(None, options.only.split(",")))
    tried: dict[str, Callable[[], Row]] = {
        case.name: partial(_kill_case, work, case, options.moments) for case in cases(work)
    }
    tried |= {
        "full disk": partial(_limit_run, work, "full disk", resource.RLIMIT_FSIZE, 0, components),
        "memory": partial(_limit_run, work, "memory", resource.RLIMIT_AS, 1 << 20, components),
        "run": partial(_kill_run, work, [float(share) for share in options.shares.split(",")], components),
    }
    rows = [row() for name, row in tried.items() if not wanted or name in wanted]
    print("\n| command or fault | tried | what did not hold |\n|---|---:|---|")
    for row in rows:
        print(f"| {row.command} | {row.moments} | {'; '.join(row.faults) or 'nothing'} |")
    return int(any(row.faults for row in rows))


def _load_what_is_slow() -> None:
    """Imports TFX and TensorFlow once: each command runs in a fork of this process."""
    import tensorflow  # noqa: F401

    from two_tower.components.trainer import executor  # noqa: F401
    from two_tower.pipeline import local_runner  # noqa: F401
    from two_tower.trainer.loop import training  # noqa: F401


def _call(arguments: Sequence[str], kill: Kill | None = None) -> Ended:
    """Runs `two-tower` in a fork, with its children in a group that dies with it."""
    reader, writer = os.pipe()  # a limit of files' sizes would end what a file is shown
    process = os.fork()
    if process == 0:
        os.setpgid(0, 0)
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        sys.stdout, sys.stderr = (os.fdopen(one, "w", buffering=1) for one in (1, 2))
        status = 1
        try:
            if kill:
                kill()
            status = two_tower(arguments)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(writer)
    shown: list[bytes] = []
    listener = threading.Thread(target=lambda: shown.extend(iter(partial(os.read, reader, 1 << 16), b"")))
    listener.start()
    _, ended = os.waitpid(process, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    listener.join()
    os.close(reader)
    return Ended(os.waitstatus_to_exitcode(ended), b"".join(shown).decode("utf-8", "replace"))


def _prepare(work: Path) -> None:
    """Simulates a world and runs twice, with the data of 18 days and of 20; keeps the state after each."""
    if (work / "two").exists():
        return
    source, whole, data = work / "yambda", work / "whole", work / "data"
    if not whole.exists():
        _done(_call(["simulate", str(source), *_WORLD]))
        _done(_call(["ingest", "yambda", str(source), str(whole)]))
    _write_part(whole, data)
    for data_directory, kept in ((data, "one"), (whole, "two")):
        print(_done(_call(run_arguments(data_directory, work / "output"))), flush=True)
        shutil.copytree(work / "output", work / kept)


def _write_part(whole: Path, out: Path) -> None:
    from tests.e2e.runs import write_part

    if not out.exists():
        write_part(whole, out, _FIRST_DAYS * DAY)


def _done(ended: Ended) -> str:
    if ended.status:
        raise SystemExit(f"The preparation failed with status {ended.status}:\n{ended.shown}")
    return ended.shown


def _restore(work: Path, state: str) -> None:
    """Puts a prepared state into its place: a metadata store holds absolute paths."""
    shutil.rmtree(work / "output", ignore_errors=True)
    if state:
        shutil.copytree(work / state, work / "output")


# Kills of a run.


def _in_component(name: str, moment: str, seconds: float) -> Kill:
    """Returns a kill before or behind a component's executor or its record, or at a share of its time."""

    def arm() -> None:
        from tfx.orchestration.portable.launcher import Launcher

        run, record = Launcher._run_executor, Launcher._publish_successful_execution

        def running_executor(self: Any, *given: Any, **named: Any) -> Any:
            here = self._pipeline_node.node_info.id == name
            if here and moment == "before":
                _die()
            if here and moment.startswith("0."):
                timer = threading.Timer(float(moment) * seconds, _die)
                timer.daemon = True
                timer.start()
            result = run(self, *given, **named)
            if here and moment == "unrecorded":
                _die()
            return result

        def recording(self: Any, *given: Any, **named: Any) -> None:
            record(self, *given, **named)
            if self._pipeline_node.node_info.id == name and moment not in ("before", "unrecorded"):
                _die()

        Launcher._run_executor = running_executor
        Launcher._publish_successful_execution = recording

    return arm


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_run(work: Path, given_shares: Sequence[float], components: set[str]) -> Row:
    """Kills one run in each component, and compares its end with that of an undisturbed one."""
    row, output = Row("run"), work / "output"
    expected, took = _undisturbed(work, components)
    _restore(work, "one")
    kept = digest_of(str(output / PUSHED / "1"))
    for name, seconds in took.items():
        shares = [str(share) for share in given_shares if share * seconds > 0.5]
        for moment in ("before", *shares, "unrecorded", "recorded"):
            began = time.monotonic()
            ended = _call(run_arguments(work / "whole", output), _in_component(name, moment, seconds))
            row.moments += 1
            where = f"{name} {moment}"
            if ended.status != -signal.SIGKILL:
                row.faults.append(f"{where}: status {ended.status}, {ended.shown.splitlines()[-1:]}")
                continue
            with _noting(row, where):
                _check_killed_run(output, kept, is_pushed=name == "Pusher" and moment != "before")
            print(f"run, killed at {where}, after {time.monotonic() - began:.0f} s", flush=True)
    _check_end(work, row, expected, kept)
    return row


def _undisturbed(work: Path, components: set[str]) -> tuple[dict[str, Any], dict[str, float]]:
    """Returns the report of an undisturbed run, and the seconds of the chosen components that ran."""
    _restore(work, "two")
    expected = collect(str(work / "output"))
    took = {one["name"]: one["seconds"] for one in expected["components"] if not one["cached"]}
    return expected, {name: seconds for name, seconds in took.items() if not components or name in components}


def _check_end(work: Path, row: Row, expected: dict[str, Any], kept: str) -> None:
    """Runs without a fault, and compares the end with that of an undisturbed run."""
    output = work / "output"
    ended = _call(run_arguments(work / "whole", output))
    with _noting(row, "the end"):
        assert ended.status == 0, ended.shown
        report = collect(str(output))
        _check_equal(report, expected)
        assert versions(str(output / PUSHED)) == [1, 2], versions(str(output / PUSHED))
        assert digest_of(str(output / PUSHED / "1")) == kept
        check_pointer(output)
        assert not running(str(output)), "executions without an end"
        check_nothing_is_left(output)


def _check_equal(report: dict[str, Any], expected: dict[str, Any]) -> None:
    """Checks that two runs are as alike as docs/concepts/training.md says."""
    for key in ("verdict", "queries", "split", "baselines"):
        assert _rounded(report[key]) == _rounded(expected[key]), f"{key} differs"
    for name, value in expected["metrics"]["test"].items():
        if "recall@" in name:
            assert abs(report["metrics"]["test"][name] - value) < _ALIKE, f"{name} differs"


def _check_killed_run(output: Path, kept: str, is_pushed: bool) -> None:
    """Checks what users read and servers load right after a kill."""
    pushed = str(output / PUSHED)
    assert digest_of(os.path.join(pushed, "1")) == kept, "version 1 has changed"
    for version in versions(pushed)[1:]:
        recorded = push_record.read(pushed, version)
        assert recorded.digest == digest_of(os.path.join(pushed, str(version))), "half a version is visible"
    assert versions(pushed) in ([1], [1, 2]) if is_pushed else versions(pushed) == [1], versions(pushed)
    report = collect_with_page(str(output))
    rows = history(str(output))
    assert report["run"] == rows[0]["run"]
    assert report["status"] in ("unfinished", "complete"), report["status"]
    assert rows[0]["status"] == report["status"]
    assert report["in_service"] == os.path.join(pushed, str(versions(pushed)[-1]))
    # The repetition of a killed push finds its model in service.
    told = report["pushed_model"] or report["not_pushed_because"]
    assert (told is not None) == (versions(pushed) == [1, 2]), told
    names = [one["name"] for one in report["components"]]
    assert len(names) == len(set(names))


def _rounded(value: Any) -> Any:
    """Rounds numbers to 6 digits, and drops measured times."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items() if "ms" not in key and "seconds" not in key}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 6) if isinstance(value, float) else value


@contextlib.contextmanager
def _noting(row: Row, where: str) -> Iterator[None]:
    """Adds what is raised in a `with` block to the row."""
    try:
        yield
    except Exception as error:
        row.faults.append(f"{where}: {type(error).__name__} {' '.join(str(error).split())[:300]}")
        print(f"  {row.faults[-1]}", flush=True)


# Limits of a run.


def _limited(name: str, kind: int, room: int) -> Kill:
    """Returns a limit during a component's executor: bytes of a file, or of memory beyond today's."""

    def arm() -> None:
        from tfx.orchestration.portable.launcher import Launcher

        run = Launcher._run_executor

        def running_executor(self: Any, *given: Any, **named: Any) -> Any:
            if self._pipeline_node.node_info.id != name:
                return run(self, *given, **named)
            most, limits = room, resource.getrlimit(kind)
            if kind == resource.RLIMIT_AS:
                most += int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(kind, (most, limits[1]))
            try:
                return run(self, *given, **named)
            finally:
                if kind == resource.RLIMIT_AS:  # a disk stays full
                    resource.setrlimit(kind, limits)

        Launcher._run_executor = running_executor

    return arm


def _limit_run(work: Path, fault: str, kind: int, room: int, components: set[str]) -> Row:
    """Limits one run in each component, and compares its end with that of an undisturbed one."""
    row, output = Row(f"run, {fault}"), work / "output"
    expected, took = _undisturbed(work, components)
    _restore(work, "one")
    kept = digest_of(str(output / PUSHED / "1"))
    for name in took:
        ended = _call(run_arguments(work / "whole", output), _limited(name, kind, room))
        row.moments += 1
        said = [line for line in ended.shown.splitlines() if line.strip()][-2:]
        print(f"run, {fault} in {name}: status {ended.status}: {' / '.join(said)}", flush=True)
        with _noting(row, name):
            if ended.status == 0 and kind == resource.RLIMIT_AS:
                row.moments -= 1  # memory that the process had already was enough
                _restore(work, "one")
                continue
            assert ended.status != 0 or name == "Pusher", "the run does not notice"
            assert ended.status < 0 or name in " ".join(said), f"nothing names the component: {said}"
            assert ended.status >= 0 or "Traceback" not in ended.shown, "a stack trace"
            assert versions(str(output / PUSHED)) == [1] or name == "Pusher", "something was pushed"
            assert digest_of(str(output / PUSHED / "1")) == kept, "version 1 has changed"
            report = collect_with_page(str(output))
            assert report["status"] != "complete"
            assert report["components"][-1]["name"] == name, "the report does not name the component"
    _check_end(work, row, expected, kept)
    return row


# Kills at changes of files.


def _at_change(number: int, below: Path, count: Path | None = None) -> Kill:
    """Returns a kill before the change of a number, from 1 on; with `count` the changes are counted there."""

    def arm() -> None:
        seen = 0

        def watch(event: str, given: tuple[Any, ...]) -> None:
            nonlocal seen
            writes = event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
            if not (writes or event in _CHANGES):
                return
            if not any(isinstance(one, str) and one.startswith(str(below)) for one in given[:2]):
                return
            if count is not None and str(count) in given:
                return
            seen += 1
            if count is not None:
                count.write_text(str(seen))
            elif seen == number:
                _die()

        sys.addaudithook(watch)

    return arm


def _kill_case(work: Path, case: Case, most: int) -> Row:
    row = Row(case.name)
    counted = work / "count"
    counted.write_text("0")
    _restore(work, "two")
    ended = _call(case.arguments, _at_change(0, work, counted))
    if ended.status:
        row.faults.append(f"undisturbed: status {ended.status}, {ended.shown[-300:]}")
        return row
    expected, changes = case.state(), int(counted.read_text())
    chosen = sorted({1 + round(place * (changes - 1) / max(1, most - 1)) for place in range(most)})
    for number in chosen if changes else []:
        _restore(work, "two")
        _clear(work)
        ended = _call(case.arguments, _at_change(number, work))
        where = f"change {number} of {changes}"
        row.moments += 1
        with _noting(row, where):
            if ended.status == 0:
                continue  # threads make fewer changes at times
            assert ended.status == -signal.SIGKILL, f"status {ended.status}: {ended.shown[-300:]}"
            case.whole()
            history(str(work / "output"))
            collect_with_page(str(work / "output"))
            if case.refuses_again():
                print(f"{case.name}, killed at {where}: all is done", flush=True)
                continue
            again = _call(case.arguments)
            assert again.status == 0, f"repeated, status {again.status}: {again.shown[-300:]}"
            assert case.state() == expected, "the repetition's result differs"
        print(f"{case.name}, killed at {where}", flush=True)
    _clear(work)
    return row


def _clear(work: Path) -> None:
    for name in ("made", "job.json"):
        path = work / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
