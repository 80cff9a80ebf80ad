"""Evidence of the gate: figures of evaluation.json, and intervals where single queries are known."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from two_tower.evaluation.gate.outcome import Interval
from two_tower.evaluation.gate.slice_changes import SliceChange, recall_by_query, slice_changes
from two_tower.evaluation.recommenders import ANCHOR_MODEL, BLESSED_MODEL, MODEL
from two_tower.evaluation.settings import MIN_SLICE_USERS, GateConfig
from two_tower.evaluation.uncertainty import RESAMPLES, UserSample

if TYPE_CHECKING:
    from two_tower.evaluation.query_results import QueryResults

# Seed of the resamples of evaluations that do not record it.
_SEED = 17
# Values of evaluation.json and of queries.npz differ by rounding at most.
_ROUNDING = 1e-4


@dataclasses.dataclass(frozen=True)
class Evidence:
    """An evaluation and the limits it is judged by.

    Attributes:
        evaluation: as in evaluation.json.
        config: limits, and the k of the judged Recall@k.
        results: results of single queries, as in queries.npz, or None.
    """

    evaluation: Mapping[str, Any]
    config: GateConfig
    results: QueryResults | None = None

    def check(self) -> None:
        """Raises ValueError where the results of single queries are of another evaluation."""
        if self.results is None:
            return
        recommenders = [
            MODEL,
            *self.evaluation["baselines"],
            *[BLESSED_MODEL] * self.has_blessed,
            *[ANCHOR_MODEL] * self.has_anchor,
        ]
        lacking = [
            *(name for name in recommenders if name not in self.results.ranks),
            *(f"the slice {name}" for name in self.slices if name not in self.results.slices),
        ]
        if lacking:
            raise ValueError(
                f"the queries beside evaluation.json hold nothing of {', '.join(lacking)}: they are not of "
                "the same evaluation."
            )
        values = recall_by_query(self.results, MODEL, self.config.cutoff)
        found = float(np.mean(values)) if len(values) else math.nan
        if abs(found - self.recall) > _ROUNDING:
            raise ValueError(
                f"evaluation.json has a Recall@{self.config.cutoff} of {self.recall:.4f} and the queries "
                f"beside it one of {found:.4f}. They are not of the same evaluation."
            )

    @property
    def judged(self) -> str:
        """Name of the judged metric: `recall@k`."""
        return f"recall@{self.config.cutoff}"

    @property
    def slices(self) -> Mapping[str, Any]:
        """Slices by name, as in evaluation.json."""
        return self.evaluation.get("slices") or {}

    @property
    def blessed(self) -> Mapping[str, Any] | None:
        """The latest blessed model as in evaluation.json, or None."""
        return self.evaluation.get("blessed_model")

    @property
    def has_blessed(self) -> bool:
        """True where a blessed model answered the same queries."""
        return bool(self.blessed and self.blessed["eligible"])

    @property
    def anchor(self) -> Mapping[str, Any] | None:
        """The anchor as in evaluation.json; None where there is none but the latest blessed model."""
        return self.evaluation.get("anchor")

    @property
    def has_anchor(self) -> bool:
        """True where an anchor answered the same queries."""
        return bool(self.anchor and self.anchor["eligible"])

    @property
    def users(self) -> int:
        """Number of users whose queries judge the model."""
        if self.results is not None:
            return len(np.unique(self.results.user))
        return int((self.evaluation.get("queries") or {}).get("users", 0))

    @property
    def recall(self) -> float:
        """Judged recall of the model."""
        return number(self.evaluation["metrics"]["test"].get(self.judged))

    @functools.cached_property
    def best_baseline(self) -> tuple[str, float]:
        """Name and judged recall of the best baseline."""
        return best_baseline(self.evaluation["baselines"], self.judged)

    def best_baseline_in(self, part: str) -> tuple[str, float]:
        """Returns name and judged recall of the best baseline in a slice."""
        of_slice = self.slices[part]["metrics"]
        return best_baseline(
            {name: of_slice.get(name, {}) for name in self.evaluation["baselines"]}, self.judged
        )

    def recall_in(self, part: str) -> float:
        """Returns the judged recall of the model in a slice."""
        return number(self.slices[part]["metrics"][MODEL].get(self.judged))

    def interval(self, other: str | None = None, part: str | None = None) -> Interval:
        """Returns the interval of the model's recall, or of its difference to another recommender's.

        Args:
            other: the other recommender, or None.
            part: the slice whose labels are asked for; None for all.

        Returns:
            None where single queries are not known, NaN where they are too few.
        """
        if self.results is None:
            return None
        if other is not None and other not in self.results.ranks:
            return math.nan, math.nan
        chosen = None if part is None else self.results.slices[part]
        values = recall_by_query(self.results, MODEL, self.config.cutoff, chosen)
        if other is None:
            found = self._sample.intervals({"": values})[""]
            return (math.nan, math.nan) if found is None else (found[0], found[1])
        theirs = recall_by_query(self.results, other, self.config.cutoff, chosen)
        change = self._sample.changes({"": values}, {"": theirs})[""]
        return number(change["low"]), number(change["high"])

    def slice_changes(self, other: str, min_users: int) -> list[SliceChange]:
        """Compares slices of the model with another recommender's; none where queries are not known."""
        if self.results is None or other not in self.results.ranks:
            return []
        made = self.evaluation.get("bootstrap") or {}
        return slice_changes(
            self.results,
            MODEL,
            other,
            self.config.cutoff,
            self._sample,
            min_users,
            made.get("resamples", RESAMPLES),
            made.get("seed", _SEED),
        )

    @functools.cached_property
    def changes_against_blessed(self) -> list[SliceChange]:
        """Changes of the slices that are large enough to judge."""
        return self.slice_changes(BLESSED_MODEL, MIN_SLICE_USERS) if self.has_blessed else []

    @functools.cached_property
    def _sample(self) -> UserSample:
        """Users of the single queries, which must be known."""
        assert self.results is not None
        return UserSample(self.results.user.astype(np.int64))


def best_baseline(baselines: Mapping[str, Mapping[str, Any]], metric: str) -> tuple[str, float]:
    """Returns name and value of the baseline with the highest metric.

    A baseline whose value is no number counts as the best, so that a broken one is not passed over.
    """
    values = {name: number(metrics.get(metric)) for name, metrics in baselines.items()}
    if not values:
        return "no baseline", math.nan
    name = max(values, key=lambda name: (math.isnan(values[name]), values[name]))
    return name, values[name]


def number(value: Any) -> float:
    """Converts a value of evaluation.json, where null is a value that could not be measured, to NaN."""
    return math.nan if value is None else float(value)
