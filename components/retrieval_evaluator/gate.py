"""Decides whether a model may be pushed: thresholds on its metrics, and which model it is compared with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from pipeline.configs import GateConfig

BLESSED = "blessed"
REFUSED = "refused"
NO_BLESSED_MODEL = "No model has been blessed yet."
# The protocols that split by time: who trained before a test period has not seen it, whatever the data was.
_BY_TIME = ("next_event", "frozen")


@dataclasses.dataclass(frozen=True)
class ModelIdentity:
    """What tells a model from another, and what it learned from.

    Attributes:
        digest: of the model's files.
        dataset: the data set's name, which stays the same while the data grows.
        data_digest: of the data directory that it was trained on.
        train_newest_timestamp: time of the newest event that it was trained on, seconds; 0 where the
            protocol does not split by time.
        protocol: what was train and what was test, see SplitConfig.
        split_digest: of all settings of the split, see DataFacts.
    """

    digest: str
    dataset: str
    data_digest: str
    train_newest_timestamp: int
    protocol: str
    split_digest: str

    @classmethod
    def from_provenance(cls, provenance: Mapping[str, Any], digest: str) -> ModelIdentity:
        """From the `provenance.json` that is kept in every model."""
        return cls(
            digest,
            provenance["dataset"],
            provenance["data_digest"],
            int(provenance["train_newest_timestamp"]),
            # Models from before there were others do not name it.
            provenance.get("protocol", "next_event"),
            provenance.get("split_digest", ""),
        )


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


def eligibility(candidate: ModelIdentity, blessed: ModelIdentity | None, test_start: int) -> tuple[bool, str]:
    """Whether the latest blessed model may be compared with, and why.

    It must not have learned from a label that it would be asked for. Where the split is a point in time, what
    it trained on must end before; where it is not, only a model of the very same split is known not to have.

    Args:
        candidate: the model that is judged.
        blessed: the latest blessed model, if there is one.
        test_start: when today's test period begins, seconds; where the protocol does not split by time, any.
    """
    if blessed is None:
        return False, NO_BLESSED_MODEL
    if blessed.digest == candidate.digest:
        return False, "The latest blessed model is this very model."
    if blessed.dataset != candidate.dataset:
        return False, (
            f"The latest blessed model comes from other data: {blessed.dataset}, "
            f"where this one comes from {candidate.dataset}."
        )
    if blessed.protocol != candidate.protocol:
        return False, (
            f"The latest blessed model was trained under the protocol {blessed.protocol}, this "
            f"one under {candidate.protocol}: it may have learned from today's test labels."
        )
    if candidate.protocol not in _BY_TIME:
        if blessed.data_digest != candidate.data_digest:
            return False, (
                f"The latest blessed model was trained on another version of the data: under "
                f"{candidate.protocol} it may have learned from today's test labels."
            )
        if blessed.split_digest != candidate.split_digest:
            # Of fewer spans, say, a user has too few events for one to be left out.
            return False, (
                "The latest blessed model was trained with other settings of the split or other "
                f"spans: under {candidate.protocol} it may have learned from today's test labels."
            )
        return True, "The latest blessed model was trained on the same split of the same data."
    if blessed.train_newest_timestamp >= test_start:
        return False, (
            f"The latest blessed model was trained on today's test period: up to "
            f"{blessed.train_newest_timestamp}, and the test period begins at {test_start}."
        )
    return True, "The latest blessed model comes from the same data set and has not seen today's test period."


def _number(value: Any) -> float:
    # JSON has no NaN: a value that could not be measured is null there.
    return math.nan if value is None else float(value)
