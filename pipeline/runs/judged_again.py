"""Rejudgement of a stored evaluation by other limits, without a model or training: `two-tower gate`."""

from __future__ import annotations

import dataclasses
import glob
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from two_tower.base import json_text, storage
from two_tower.base.errors import UserError
from two_tower.base.settings import from_plain, known_part, to_plain
from two_tower.evaluation import stored_evaluation
from two_tower.evaluation.gate import judge
from two_tower.evaluation.query_results import FILE_NAME as QUERIES
from two_tower.evaluation.query_results import QueryResults
from two_tower.evaluation.settings import GateConfig
from two_tower.pipeline.runs.report_tables import WIDTH, refusal_lines, threshold_table
from two_tower.pipeline.settings import run_file

EVALUATION = "evaluation.json"
# Keys that a verdict needs.
_NEEDED = ("metrics", "baselines", "ann", "slices", "blessed_model", "cutoff")
# Directories of evaluations, from a run's output directory or from its artifacts.
_EVALUATIONS = ("artifacts/RetrievalEvaluator/evaluation/*", "RetrievalEvaluator/evaluation/*")
# The most levels from a model up to its run's output: artifacts/ScannIndexer/model/7/Format-Serving.
_LEVELS = 6


@dataclasses.dataclass(frozen=True)
class Rejudged:
    """Verdict by other limits.

    Attributes:
        path: the evaluation's directory.
        evaluation: content of evaluation.json, with the run's own verdict.
        config: the new limits.
        judgement: the verdict by the new limits.
    """

    path: str
    evaluation: Mapping[str, Any]
    config: GateConfig
    judgement: judge.Judgement

    def to_json(self) -> str:
        """Returns the verdict, the limits and the evaluation's directory as indented JSON."""
        now = self.judgement.to_dict()
        limits = to_plain(self.config)
        return json.dumps({**now, "gate": limits, "evaluation": self.path}, indent=2)


def judge_again(
    directory: str, preset: str | None = None, file: str | None = None, overrides: Sequence[str] = ()
) -> Rejudged:
    """Judges a model's stored metrics by other limits; writes and pushes nothing.

    Args:
      directory: a run's output directory, for its newest evaluation; or the directory of an evaluation or of
        a model, ScannIndexer's or a pushed one.
      preset: the preset of the base limits. Without one here or in the file, the run's own limits are the
        base.
      file: a config file, whose section `gate` overrides the base. Its other sections are checked, and have
        no effect.
      overrides: settings in the form of `run_file.load`, which override both.

    Raises:
      UserError: there is no evaluation; it is incomplete or lacks queries.npz; or a limit is of a metric or
        slice that it lacks.
    """
    path = find_evaluation(directory)
    evaluation, results = read(path)
    config = _limits(evaluation, preset, file, overrides)
    judged = f"recall@{config.cutoff}"
    measured = evaluation["metrics"]["test"]
    if judged not in measured:
        known = ", ".join(name.partition("@")[2] for name in measured if name.startswith("recall@"))
        raise UserError(
            f"gate.cutoff is {config.cutoff}, and {path} holds no Recall@{config.cutoff}: its cutoffs are "
            f"{known}. Choose one of these, or run the pipeline with another evaluation.cutoffs."
        )
    try:
        judgement = judge.judge(evaluation, config, results)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return Rejudged(path, evaluation, config, judgement)


def read(path: str) -> tuple[dict[str, Any], QueryResults]:
    """Reads evaluation.json and queries.npz of an evaluation's directory.

    Raises:
      UserError: one of them is missing or cannot be read.
    """
    place = storage.join(path, EVALUATION)
    evaluation = stored_evaluation.read(path)
    lacking = [name for name in _NEEDED if name not in evaluation]
    lacking += [
        name
        for name in _NEEDED
        if name != "blessed_model" and name not in lacking and evaluation[name] is None
    ]
    if lacking:
        raise UserError(
            f"{place} lacks {', '.join(lacking)}: it is of an older version, or was "
            "edited. Run the pipeline again, which evaluates the same model again."
        )
    place = storage.join(path, QUERIES)
    if not storage.is_file(place):
        raise UserError(
            f"{place} is missing, and confidence intervals need the results of each query: the evaluation is "
            "of an older version. Run the pipeline again, which evaluates the same model again."
        )
    try:
        with storage.open_file(place) as file:
            results = QueryResults.read(file)
        count = (evaluation.get("queries") or {}).get("test")
        if count not in (None, len(results.user)):
            raise ValueError(f"{len(results.user)} queries, and {EVALUATION} has {count}")
        return evaluation, results
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{place}: the results of the queries cannot be read ({error}). Run the pipeline again."
        ) from error


def find_evaluation(directory: str) -> str:
    """Finds the evaluation's directory from a run, an evaluation or a model, see `judge_again`.

    Raises:
      UserError: there is none.
    """
    if storage.is_file(storage.join(directory, EVALUATION)):
        return directory
    if not os.path.isdir(directory):
        raise UserError(
            f"{directory} is no directory: name the output directory of a run, or the directory of an "
            "evaluation or a model."
        )
    for pattern in _EVALUATIONS:
        if found := _evaluations(directory, pattern):
            return found[-1]
    if of_model := _of_model(directory):
        return of_model
    raise UserError(
        f"{directory} holds no {EVALUATION}, and no run above it evaluated a model of it. Name the output "
        "directory of a run that reached its evaluation."
    )


def _evaluations(directory: str, pattern: str) -> list[str]:
    """Returns the directories of evaluations below a directory, the oldest first, by number of execution."""
    found = glob.glob(os.path.join(glob.escape(directory), pattern, EVALUATION))
    paths = [os.path.dirname(path) for path in found]
    return sorted(paths, key=lambda path: [int(part) for part in re.findall(r"\d+", os.path.basename(path))])


def _of_model(directory: str) -> str | None:
    """Returns the newest evaluation of a model's files in the run above it; None without one."""
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
    """Returns the digest of an evaluation's model; None if unreadable, as after a killed run."""
    try:
        with open(os.path.join(path, EVALUATION), encoding="utf-8") as file:
            found = json_text.parse(file.read())["model"]["digest"]
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
    """Returns the limits: the run's own or a preset's, then the file's, then the overrides."""
    recorded = evaluation.get("gate") or {"cutoff": evaluation["cutoff"]}
    # An earlier release recorded limits that are constants now.
    limits = from_plain(GateConfig, known_part(GateConfig, recorded), "gate")
    return run_file.load_gate(limits, preset, file, overrides)


def render(rejudged: Rejudged) -> str:
    """Renders the verdict as a table for a terminal, with the explanation of a refusal."""
    page = io.StringIO()
    console = Console(file=page, width=WIDTH, highlight=False, markup=False, emoji=False)
    judgement, evaluation = rejudged.judgement, rejudged.evaluation
    then = evaluation.get("verdict")
    console.print(
        f"{judgement.verdict.upper()}: judged again, from {rejudged.path}. The run's own verdict, {then}, "
        "stays, and nothing is pushed.",
        soft_wrap=True,
    )
    console.print()
    console.print(threshold_table({"cutoff": rejudged.config.cutoff, **judgement.to_dict()}))
    for note in judgement.notes:
        console.print(f"  {note}\n")
    for line in refusal_lines({**evaluation, "cutoff": rejudged.config.cutoff, **judgement.to_dict()}):
        console.print(line, soft_wrap=True)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()) + "\n"
