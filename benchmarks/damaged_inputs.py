"""Benchmark of damaged inputs: answers of every command to every kind of damage to what it reads.

    python -m benchmarks.damaged_inputs [--run DIR --data DIR] [--seed 0] [--show CLASS ...]

Small valid inputs of each format are damaged, one at a time, and given to the command in this process. DIR of
`--run` is the output directory of a run whose model was pushed, and DIR of `--data` its data directory.
Without them a small world is simulated and trained first, which takes some minutes. Answers are of six
classes:

- `answered`: an error whose message names the file, column, key or value at fault, and nothing was written.
- `read`: the command ended well, and its output holds all rows, ids and known values that a lenient reader of
  the format finds in the damaged input.
- `vague`: an error whose message names nothing of the fault.
- `lost`: the command ended well without something of the input, or though the damage had to be refused.
- `trace`: a stack trace.
- `half`: an error after which files differ from before.

The last four are faults. `--show` prints the trials of a class with what the command printed. It is exit
status 1 if there is a fault.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.damage import data_directories, kinds, models, readers, runs, settings, trial

_SHOWN = 1_500
_MEMORY = "/dev/shm"
# Format of the trials of wrong arguments, which share a row.
_ARGUMENTS = "arguments"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", metavar="DIR", help="output directory of a run whose model was pushed")
    parser.add_argument("--data", metavar="DIR", help="its data directory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", nargs="*", default=[], choices=trial.CLASSES)
    options = parser.parse_args()
    began = time.monotonic()
    # Ingest waits for the disk, which memory answers at once.
    with tempfile.TemporaryDirectory(dir=_MEMORY if os.path.isdir(_MEMORY) else None) as scratch:
        folder = Path(scratch)
        output, data = (Path(options.run), Path(options.data)) if options.run else _world(folder)
        answers = []
        with runs.canary_here():
            for one in _trials(options.seed, output, data):
                answer = trial.run(one, folder / "trial")
                answers.append(answer)
                if answer.answer in options.show:
                    _show(answer)
    print(_table(answers))
    print(f"\n{len(answers):,} inputs in {time.monotonic() - began:,.0f} s: {_classes(answers)}.")
    sys.exit(any(answer.answer not in (trial.ANSWERED, trial.READ) for answer in answers))


def _trials(seed: int, output: Path, data: Path) -> Iterator[trial.Trial]:
    for one in readers.undamaged():
        # A check that fails without damage checks nothing.
        with tempfile.TemporaryDirectory() as folder:
            if (answer := trial.run(one, Path(folder, "trial"))).answer != trial.READ:
                raise SystemExit(f"{one.form} without damage is {answer.answer}: {answer.loss}{answer.text}")
    yield from itertools.chain(
        readers.trials(seed),
        settings.trials(seed),
        data_directories.trials(seed),
        runs.trials(seed, output.absolute(), data.absolute()),
        models.trials(seed, output.absolute(), data.absolute()),
    )


def _world(folder: Path) -> tuple[Path, Path]:
    """Simulates a small world and trains on it; returns the output and the data directory."""
    source, data, output = (folder / name for name in ("yambda", "data", "output"))
    gate = [f"gate.{name}=-0.9" for name in ("min_lift_over_best_baseline", "min_discovery_lift")]
    sets = [word for setting in gate for word in ("--set", setting)]
    for arguments in (
        ["simulate", str(source), "--users", "200", "--tracks", "1500", "--days", "15"],
        ["ingest", "yambda", str(source), str(data)],
        ["run", "--data", str(data), "--output", str(output), "--preset", "smoke", *sets],
    ):
        status, text = trial.call(arguments)
        if status != 0:
            raise SystemExit(f"two-tower {' '.join(arguments)}: {text}")
    return output, data


def _show(answer: trial.Answer) -> None:
    one = answer.trial
    print(f"{answer.answer}: {one.command}, {one.form}: {one.damage}. {answer.loss}", flush=True)
    print(f"    {answer.text[-_SHOWN:].strip()}".replace("\n", "\n    "), flush=True)


def _table(answers: list[trial.Answer]) -> str:
    """Returns Markdown: a row a command and format, a column a kind of damage, and counts of faults."""
    counts: dict[tuple[str, str], collections.Counter[str]] = {}
    faults: collections.Counter[tuple[str, str]] = collections.Counter()
    for answer in answers:
        one = answer.trial
        row = ("all commands", one.form) if one.form == _ARGUMENTS else (f"`{one.command}`", one.form)
        counts.setdefault(row, collections.Counter())[one.kind] += 1
        faults[row] += answer.answer not in (trial.ANSWERED, trial.READ)
    lines = [
        f"| command | format | {' | '.join(kinds.GROUPS)} | all | faults |",
        "|---|---|" + "---:|" * (len(kinds.GROUPS) + 2),
    ]
    for row in sorted(counts, key=lambda row: (row[1] == _ARGUMENTS, row)):
        cells = [str(counts[row][kind] or "") for kind in kinds.GROUPS]
        lines.append(
            f"| {row[0]} | {row[1]} | {' | '.join(cells)} | {sum(counts[row].values())} | {faults[row]} |"
        )
    sums = [str(sum(of_row[kind] for of_row in counts.values())) for kind in kinds.GROUPS]
    lines.append(f"| all | | {' | '.join(sums)} | {len(answers):,} | {sum(faults.values())} |")
    return "\n".join(lines)


def _classes(answers: list[trial.Answer]) -> str:
    found = collections.Counter(answer.answer for answer in answers)
    return ", ".join(f"{found[name]:,} {name}" for name in trial.CLASSES)


if __name__ == "__main__":
    main()
