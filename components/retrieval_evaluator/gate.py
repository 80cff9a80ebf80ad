"""Decides whether a model may be pushed: thresholds on its metrics, and which model it is compared with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from pipeline.configs import GateConfig

BLESSED = "blessed"
REFUSED = "refused"
# The one metric that is judged.
JUDGED = "recall@100"


@dataclasses.dataclass(frozen=True)
class ModelIdentity:
    """What tells a model from another, and what it learned from.

    Attributes:
        digest: of the model's files.
        dataset: the data set's name, which stays the same while the data grows.
        data_digest: of the data directory that it was trained on.
        train_newest_timestamp: time of the newest event that it was trained on, seconds.
    """

    digest: str
    dataset: str
    data_digest: str
    train_newest_timestamp: int

    @classmethod
    def from_provenance(cls, provenance: Mapping[str, Any], digest: str) -> ModelIdentity:
        """From the `provenance.json` that is kept in every model."""
        return cls(digest, provenance["dataset"], provenance["data_digest"],
                   int(provenance["train_newest_timestamp"]))


@dataclasses.dataclass(frozen=True)
class Threshold:
    """One condition: `value` must reach `limit`. A value that is no number never does."""

    name: str
    value: float
    limit: float
    # What the value was compared with, in words.
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the condition holds."""
        return math.isfinite(self.value) and self.value >= self.limit

    def to_dict(self) -> dict[str, Any]:
        """As in evaluation.json, where a value that is no number is null."""
        value = self.value if math.isfinite(self.value) else None
        return {"name": self.name, "value": value, "limit": self.limit, "ok": self.ok, "note": self.note}


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The conditions that applied, and a sentence for each that did not."""

    thresholds: tuple[Threshold, ...]
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """`blessed` if every threshold holds, else `refused`."""
        return BLESSED if self.thresholds and all(t.ok for t in self.thresholds) else REFUSED


def best_baseline(baselines: Mapping[str, Mapping[str, Any]], metric: str) -> tuple[str, float]:
    """Name and value of the baseline with the highest metric.

    A baseline whose value is no number counts as the best, so that a broken one is not passed over.
    """
    values = {name: _number(metrics.get(metric)) for name, metrics in baselines.items()}
    if not values:
        return "no baseline", math.nan
    name = max(values, key=lambda name: (math.isnan(values[name]), values[name]))
    return name, values[name]


def judge(evaluation: Mapping[str, Any], config: GateConfig) -> Judgement:
    """Judges a model by what was measured.

    Args:
        evaluation: `metrics`, `baselines`, `ann` and `blessed_model` as in evaluation.json, so that a
            stored evaluation can be judged again with other limits.
        config: the limits.
    """
    recall = _number(evaluation["metrics"]["test"].get(JUDGED))
    baseline, baseline_recall = best_baseline(evaluation["baselines"], JUDGED)
    thresholds = [
        Threshold("min_recall", recall, config.min_recall),
        Threshold("min_ann_recall", _number(evaluation["ann"].get(JUDGED)),
                  config.min_ann_recall),
        Threshold("min_lift_over_best_baseline", recall - baseline_recall,
                  config.min_lift_over_best_baseline, f"best baseline: {baseline}"),
    ]
    blessed = evaluation.get("blessed_model")
    if blessed and blessed["eligible"]:
        change = recall - _number(blessed["metrics"].get(JUDGED))
        thresholds.append(
            Threshold("min_change_against_blessed", change, config.min_change_against_blessed)
        )
        return Judgement(tuple(thresholds))
    reason = blessed["reason"] if blessed else NO_BLESSED_MODEL
    return Judgement(tuple(thresholds), (f"min_change_against_blessed does not apply: {reason}",))


NO_BLESSED_MODEL = "No model has been blessed yet."


def eligibility(
    candidate: ModelIdentity, blessed: ModelIdentity | None, test_start: int
) -> tuple[bool, str]:
    """Whether the latest blessed model may be compared with, and why.

    Args:
        candidate: the model that is judged.
        blessed: the latest blessed model, if there is one.
        test_start: when today's test period begins, seconds.
    """
    if blessed is None:
        return False, NO_BLESSED_MODEL
    if blessed.digest == candidate.digest:
        return False, "The latest blessed model is this very model."
    if blessed.dataset != candidate.dataset:
        return False, (f"The latest blessed model comes from other data: {blessed.dataset}, "
                       f"where this one comes from {candidate.dataset}.")
    if blessed.train_newest_timestamp >= test_start:
        return False, (f"The latest blessed model was trained on today's test period: up to "
                       f"{blessed.train_newest_timestamp}, and the test period begins at {test_start}.")
    return True, "The latest blessed model comes from the same data set and has not seen today's test period."


def _number(value: Any) -> float:
    # JSON has no NaN: a value that could not be measured is null there.
    return math.nan if value is None else float(value)
