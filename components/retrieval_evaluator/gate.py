"""Decides whether a model may be pushed: thresholds on its metrics."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from components.scann_indexer.provenance import NO_BLESSED_MODEL
from pipeline.configs import GateConfig

BLESSED = "blessed"
REFUSED = "refused"


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
        evaluation: `metrics`, `baselines`, `ann`, `blessed_model` and `catalog` as in evaluation.json, so
            that a stored evaluation can be judged again with other limits.
        config: the limits, and the k of the Recall@k that they are of.
    """
    judged = f"recall@{config.cutoff}"
    recall = _number(evaluation["metrics"]["test"].get(judged))
    baseline, baseline_recall = best_baseline(evaluation["baselines"], judged)
    thresholds = [
        Threshold("min_recall", recall, config.min_recall),
        Threshold("min_ann_recall", _number(evaluation["ann"].get(judged)), config.min_ann_recall),
        Threshold(
            "min_lift_over_best_baseline",
            recall - baseline_recall,
            config.min_lift_over_best_baseline,
            f"best baseline: {baseline}",
        ),
    ]
    notes = []
    items = (evaluation.get("catalog") or {}).get("items", math.inf)
    if items <= config.cutoff:
        notes.append(
            f"The catalog holds {items} items, so that the first {config.cutoff} are all of them: Recall@"
            f"{config.cutoff} tells no model from another. Judge by a smaller k (gate.cutoff)."
        )
    blessed = evaluation.get("blessed_model")
    if blessed and blessed["eligible"]:
        change = recall - _number(blessed["metrics"].get(judged))
        thresholds.append(Threshold("min_change_against_blessed", change, config.min_change_against_blessed))
    else:
        reason = blessed["reason"] if blessed else NO_BLESSED_MODEL
        notes.append(f"min_change_against_blessed does not apply: {reason}")
    return Judgement(tuple(thresholds), tuple(notes))


def _number(value: Any) -> float:
    # JSON has no NaN: a value that could not be measured is null there.
    return math.nan if value is None else float(value)
