"""Decides whether a model may be pushed: judges thresholds on its metrics and heeds the noise of measurement.

The lower bound of the confidence interval must reach a limit on recall or on the lift over the best baseline:
few queries prove little. A change against the latest blessed model fails if the loss is larger than allowed
and the interval's upper bound is below zero as well. Two equal models differ by noise, and refusing one of
them for it would stop every second release. See docs/decisions/0009-non-inferiority.md.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from two_tower.base.errors import UserError
from two_tower.evaluation import slices
from two_tower.evaluation.gate import refusal
from two_tower.evaluation.gate.evidence import Evidence
from two_tower.evaluation.gate.outcome import Outcome
from two_tower.evaluation.gate.thresholds import THRESHOLDS, ExplainedBy, NotApplicable, threshold_of
from two_tower.evaluation.recommenders import ANCHOR_MODEL, BLESSED_MODEL, MODEL, MODEL_EXACT
from two_tower.evaluation.settings import MIN_USERS, GateConfig, slice_limits

if TYPE_CHECKING:
    from two_tower.evaluation.query_results import QueryResults

BLESSED = "blessed"
REFUSED = "refused"
# Slices that are not told by their form, see `slices.meaning`.
_NAMED_SLICES = ("head", "middle", "tail", "cold", "trending", "heard")


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Outcomes of the thresholds that applied, a sentence for each that did not, and what explains a refusal.

    Attributes:
        thresholds: outcomes, in the order of `THRESHOLDS`.
        notes: sentences.
        refusal: None for a model that is not refused, or where single queries are not known. Else `slice`,
            the name of the part of the queries that lost most, or None, and `examples`, see
            `refusal.examples`.
    """

    thresholds: tuple[Outcome, ...]
    notes: tuple[str, ...] = ()
    refusal: dict[str, Any] | None = None

    @property
    def verdict(self) -> str:
        """`blessed` if every threshold holds, else `refused`."""
        return BLESSED if self.thresholds and all(one.ok for one in self.thresholds) else REFUSED

    def to_dict(self) -> dict[str, Any]:
        """Returns `verdict`, `thresholds`, `notes` and `refusal` as in evaluation.json."""
        return {
            "verdict": self.verdict,
            "thresholds": [outcome.to_dict() for outcome in self.thresholds],
            "notes": list(self.notes),
            "refusal": self.refusal,
        }


def check_slices(config: GateConfig, names: Iterable[str]) -> None:
    """Raises UserError if the config limits a slice that is not one of `names`, naming the nearest."""
    known = list(names)
    for name in slice_limits(config):
        if name not in known:
            nearest = difflib.get_close_matches(name, known, cutoff=0)
            raise UserError(
                f"gate.slices limits the slice {name!r}, which this evaluation does not have; "
                + (f"the nearest is {nearest[0]!r} of {', '.join(known)}." if nearest else "it has none.")
            )


def check_slice_names(config: GateConfig, columns: Iterable[str]) -> None:
    """Raises UserError, before a run, if the config limits a slice that no evaluation can have.

    Args:
        config: limits.
        columns: names of the configured features, whose values are slices, as in user_gender=f.
    """
    known = list(columns)
    for name in slice_limits(config):
        column, equals, _ = name.partition("=")
        possible = column in known if equals else name in _NAMED_SLICES or slices.meaning(name) is not None
        if not possible:
            examples = ", ".join([*_NAMED_SLICES, "new_users", "repeat", "popularity_1", "activity_1"])
            by_column = f" or of a configured column ({', '.join(known)})" if known else ""
            raise UserError(
                f"gate.slices limits the slice {name!r}, which no evaluation has. Take one of {examples}, ..."
                f"{by_column}. report.md lists all slices of an evaluation."
            )


def judge(
    evaluation: Mapping[str, Any], config: GateConfig, results: QueryResults | None = None
) -> Judgement:
    """Judges a model by its evaluation.

    Args:
        evaluation: `metrics`, `baselines`, `ann`, `slices`, `latency`, `blessed_model` and `catalog` as in
            evaluation.json, so that a stored evaluation can be judged again with other limits.
        config: limits, and the k of the judged Recall@k.
        results: results of single queries, as in queries.npz. Without them the noise is not known, and the
            values themselves are judged.

    Raises:
        UserError: the config limits a slice that the evaluation does not have.
        ValueError: `results` are of another evaluation.
    """
    evidence = Evidence(evaluation, config, results)
    check_slices(config, evidence.slices)
    evidence.check()
    outcomes: list[Outcome] = []
    inapplicable: dict[str, list[str]] = {}
    for threshold in THRESHOLDS:
        for measured in threshold.measure(evidence):
            if isinstance(measured, NotApplicable):
                inapplicable.setdefault(measured.reason, []).append(threshold.name)
            else:
                outcomes.append(threshold.judged(measured, config))
    notes = [
        *(
            f"{_listed(names)} {'does' if len(names) == 1 else 'do'} not apply: {reason}"
            for reason, names in inapplicable.items()
        ),
        *_notes_of_noise(evidence),
        *_notes_of_unmeasured(outcomes),
    ]
    refused = [outcome.name for outcome in outcomes if not outcome.ok]
    return Judgement(tuple(outcomes), tuple(notes), _explained(refused, evidence) if refused else None)


def _listed(names: Sequence[str]) -> str:
    """Joins names, as in "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _notes_of_noise(evidence: Evidence) -> list[str]:
    if evidence.results is None:
        return ["Results of single queries are not at hand: values are judged without their noise."]
    return []


def _notes_of_unmeasured(outcomes: Iterable[Outcome]) -> list[str]:
    names = [outcome.name for outcome in outcomes if not math.isfinite(outcome.value)]
    if not names:
        return []
    return [
        f"The evaluation has no figure for {', '.join(names)}: a threshold without a measured value fails."
    ]


def _explained(refused: Sequence[str], evidence: Evidence) -> dict[str, Any] | None:
    """Finds the slice and examples for the first reason that single queries can explain."""
    if evidence.results is None:
        return None
    other = _explaining(refused, evidence)
    if other is None or other not in evidence.results.ranks:
        return {"slice": None, "examples": []}
    changes = evidence.changes_against_blessed if other == BLESSED_MODEL else []
    worst = refusal.worst(changes or evidence.slice_changes(other, MIN_USERS))
    of_slice = next((name.removeprefix("slices.") for name in refused if name.startswith("slices.")), None)
    part = of_slice or (worst.name if worst and worst.change < 0 else None)
    found = refusal.examples(evidence.results, MODEL, other, evidence.config.cutoff, part)
    return {"slice": part, "examples": found}


def _explaining(refused: Iterable[str], evidence: Evidence) -> str | None:
    """Returns the recommender whose answers show what the model missed, or None if none does."""
    found = {one.explained_by for one in map(threshold_of, refused) if one} - {ExplainedBy.NOBODY}
    if not found:
        return None
    if found == {ExplainedBy.EXACT_SEARCH}:
        return MODEL_EXACT
    if ExplainedBy.BLESSED_MODEL in found or (evidence.has_blessed and found == {ExplainedBy.ANYONE}):
        return BLESSED_MODEL
    if ExplainedBy.ANCHOR_MODEL in found:
        return ANCHOR_MODEL
    return evidence.best_baseline[0]
