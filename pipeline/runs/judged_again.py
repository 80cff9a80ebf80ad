"""`two-tower gate`: a stored evaluation judged by other limits, without a model and without training."""

from __future__ import annotations

import dataclasses
import glob
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.base.settings import from_plain
from two_tower.evaluation.gate import judge
from two_tower.evaluation.query_results import FILE_NAME as QUERIES
from two_tower.evaluation.query_results import QueryResults
from two_tower.evaluation.report.glossary import slice_meaning
from two_tower.evaluation.settings import GateConfig
from two_tower.pipeline.settings import run_file

EVALUATION = "evaluation.json"
# What no verdict can be without: of a missing part nobody could tell whether a threshold holds.
_NEEDED = ("metrics", "baselines", "ann", "slices", "blessed_model", "cutoff")
_WIDTH = 110
# Where the evaluator of a run writes, from its output directory or the folder of its artifacts.
_EVALUATIONS = ("artifacts/RetrievalEvaluator/evaluation/*", "RetrievalEvaluator/evaluation/*")
# A model lies at most so far below its run's output: artifacts/ScannIndexer/model/7/Format-Serving.
_LEVELS = 6


@dataclasses.dataclass(frozen=True)
class Rejudged:
    """A verdict, and what it is of.

    Attributes:
        path: the evaluation's directory.
        evaluation: as in evaluation.json, with the verdict that was given then.
        config: the limits that it was judged by now.
        judgement: by them.
    """

    path: str
    evaluation: Mapping[str, Any]
    config: GateConfig
    judgement: judge.Judgement

    def to_json(self) -> str:
        """The verdict, the limits and where the evaluation is, indented."""
        now = self.judgement.to_dict()
        limits = dataclasses.asdict(self.config)
        return json.dumps({**now, "gate": limits, "evaluation": self.path}, indent=2)


def judge_again(
    directory: str, preset: str | None = None, file: str | None = None, overrides: Sequence[str] = ()
) -> Rejudged:
    """Judges what was measured of a model by other limits. Nothing is written, and nothing pushed.

    Args:
      directory: a run's output directory, for its newest evaluation; or the directory of an evaluation or of
        a model, as ScannIndexer writes it or as it was pushed.
      preset: whose limits to start from; without one, in the call or the file, those it was judged by.
      file: a config file, whose settings of `gate` are laid over; what else it sets changes nothing.
      overrides: as of `run_file.load`, laid over both.

    Raises:
      UserError: there is no evaluation, it is not whole or from before queries were kept, or the limits are
        of something that it does not have.
    """
    path = find_evaluation(directory)
    evaluation, results = read(path)
    config = _limits(evaluation, preset, file, overrides)
    judged = f"recall@{config.cutoff}"
    measured = evaluation["metrics"]["test"]
    if judged not in measured:
        known = ", ".join(name.partition("@")[2] for name in measured if name.startswith("recall@"))
        raise UserError(
            f"gate.cutoff is {config.cutoff}, and {path} holds no Recall@{config.cutoff}: it was measured at "
            f"{known}. Take one of these, or run the pipeline with another evaluation.cutoffs."
        )
    try:
        judgement = judge.judge(evaluation, config, results)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return Rejudged(path, evaluation, config, judgement)


def read(path: str) -> tuple[dict[str, Any], QueryResults]:
    """evaluation.json and queries.npz of an evaluation's directory.

    Raises:
      UserError: one of them is missing or cannot be read.
    """
    place = storage.join(path, EVALUATION)
    try:
        with storage.open_file(place, "r") as file:
            evaluation = json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{place}: the evaluation cannot be read ({error}).") from error
    lacking = [name for name in _NEEDED if not isinstance(evaluation, dict) or name not in evaluation]
    if lacking or "test" not in evaluation["metrics"]:
        raise UserError(
            f"{place} is no whole evaluation, it lacks {', '.join(lacking) or 'metrics of test'}: it is of "
            "an older version, or was edited. Run the pipeline again, which evaluates the same model anew."
        )
    place = storage.join(path, QUERIES)
    if not storage.is_file(place):
        raise UserError(
            f"{place} is missing, and without what each query found nothing is known of the noise: the "
            "evaluation is of an older version. Run the pipeline again, which evaluates the same model anew."
        )
    try:
        with storage.open_file(place) as file:
            return evaluation, QueryResults.read(file)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{place}: what each query found cannot be read ({error}).") from error


def find_evaluation(directory: str) -> str:
    """The directory of the evaluation that a directory stands for, see `judge_again`.

    Raises:
      UserError: there is none.
    """
    if storage.is_file(storage.join(directory, EVALUATION)):
        return directory
    if not os.path.isdir(directory):
        raise UserError(
            f"{directory} is no directory: pass the output directory of a run, or that of an evaluation or a "
            "model."
        )
    for pattern in _EVALUATIONS:
        if found := _evaluations(directory, pattern):
            return found[-1]
    if of_model := _of_model(directory):
        return of_model
    raise UserError(
        f"{directory} holds no {EVALUATION}, and no evaluation near it is of a model there: pass the output "
        "directory of a run that got as far as its evaluation."
    )


def _evaluations(directory: str, pattern: str) -> list[str]:
    """Directories of evaluations below one, oldest first: they are numbered by execution."""
    found = glob.glob(os.path.join(glob.escape(directory), pattern, EVALUATION))
    paths = [os.path.dirname(path) for path in found]
    return sorted(paths, key=lambda path: [int(part) for part in re.findall(r"\d+", os.path.basename(path))])


def _of_model(directory: str) -> str | None:
    """The newest evaluation of the very files of a model, in the run that it lies in."""
    from two_tower.serving.provenance import digest_of

    serving = os.path.join(directory, "Format-Serving")
    model = serving if os.path.isdir(serving) else directory
    if not os.path.isfile(os.path.join(model, "saved_model.pb")):
        return None
    digest = digest_of(model)
    for parent in _parents(os.path.abspath(directory)):
        for pattern in _EVALUATIONS:
            for path in reversed(_evaluations(parent, pattern)):
                if _digest_in(path) == digest:
                    return path
    return None


def _digest_in(path: str) -> str | None:
    """Of the model that an evaluation is of; None where it cannot be read, as of a run that was killed."""
    try:
        with open(os.path.join(path, EVALUATION), encoding="utf-8") as file:
            found = json.load(file)["model"]["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(found)


def _parents(directory: str) -> Iterator[str]:
    for _ in range(_LEVELS):
        directory = os.path.dirname(directory)
        yield directory


def _limits(
    evaluation: Mapping[str, Any], preset: str | None, file: str | None, overrides: Sequence[str]
) -> GateConfig:
    """Laid over those that it was judged by, where no preset is named."""
    recorded = evaluation.get("gate") or {"cutoff": evaluation["cutoff"]}
    limits = from_plain(GateConfig, recorded, "gate")
    return run_file.load_gate(limits, preset, file, overrides)


def render(rejudged: Rejudged) -> str:
    """The verdict as a table for a terminal, with what explains a refusal."""
    page = io.StringIO()
    console = Console(file=page, width=_WIDTH, highlight=False, markup=False, emoji=False)
    judgement, evaluation = rejudged.judgement, rejudged.evaluation
    then = evaluation.get("verdict")
    console.print(
        f"{judgement.verdict.upper()}: judged again, from {rejudged.path}. The run's own verdict was {then}; "
        "it stays as it is, and nothing is pushed.",
        soft_wrap=True,
    )
    console.print()
    console.print(_threshold_table(judgement, rejudged.config.cutoff))
    for note in judgement.notes:
        console.print(f"  {note}", soft_wrap=True)
    if judgement.refusal:
        console.print()
        _print_refusal(console, judgement.refusal, evaluation, rejudged.config.cutoff)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()) + "\n"


def _threshold_table(judgement: judge.Judgement, cutoff: int) -> Table:
    title = f"Thresholds, judged by Recall@{cutoff}; bounds of 95 % confidence"
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD)
    for heading in ("threshold", "value", "low", "high", "limit", ""):
        numeric = heading in ("value", "low", "high", "limit")
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=numeric)
    for threshold in judgement.thresholds:
        sign = "≤" if threshold.direction == judge.AT_MOST else "≥"
        value, low, high = (_number(number) for number in (threshold.value, threshold.low, threshold.high))
        held = "holds" if threshold.ok else "FAILS"
        note = f" ({threshold.note})" if threshold.note else ""
        table.add_row(threshold.name, value, low, high, f"{sign} {threshold.limit:.4g}", held + note)
    return table


def _print_refusal(
    console: Console, refusal: Mapping[str, Any], evaluation: Mapping[str, Any], cutoff: int
) -> None:
    name, examples = refusal["slice"], refusal["examples"]
    if name:
        meaning = slice_meaning(name, evaluation)
        console.print(f"Look at {name}" + (f": {meaning}." if meaning != name else "."))
    if examples:
        found_by = examples[0]["found_by"].replace("_", " ")
        console.print(f"What {found_by} has among its first {cutoff} and this model has not:")
    for example in examples:
        rank = f"at rank {example['rank']}" if example["rank"] else "nowhere"
        part = f" (in {name})" if example["in_slice"] else ""
        console.print(
            f"  user {example['user'] + 1} turned to item {example['label_item']}: {found_by} had it at rank "
            f"{example['found_at']}, this model has it {rank}{part}",
            soft_wrap=True,
        )


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.4f}"
