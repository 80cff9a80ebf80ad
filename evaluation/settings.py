"""Settings of the evaluation and thresholds of the gate."""

from __future__ import annotations

import dataclasses
import math

from two_tower.base.errors import UserError
from two_tower.evaluation.baselines.registry import BASELINES


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What RetrievalEvaluator measures."""

    cutoffs: tuple[int, ...] = (1, 10, 50, 100)
    # Test queries are sampled by user, whole users at a time, up to about this many.
    max_queries: int = 20_000
    # Confidence intervals are those of so many bootstrap resamples of the users.
    resamples: int = 1_000
    # Of each categorical or multi-valued column among the features, so many of its values are slices.
    slice_values: int = 10
    # Users of the test split in the report, under pseudonyms, with what they were recommended; 0: none.
    examples: int = 10
    # What the model is compared with. What the data does not allow is left out, with a note.
    baselines: tuple[str, ...] = BASELINES
    seed: int = 17


@dataclasses.dataclass(frozen=True)
class GateConfig:
    """Thresholds on the test split. A model is pushed only if all of them hold.

    Recall is known up to the noise of the users who were asked: what a model must reach, the lower bound of
    its 95 % confidence interval must. What it may lose against the latest blessed model it has lost only if
    the upper bound of the change is below zero, too: two equal models differ by noise.
    """

    # The k of the Recall@k that is judged, and that picks the best epoch; one of evaluation.cutoffs.
    cutoff: int = 100
    # Absolute Recall@k of the served model, by its lower bound.
    min_recall: float = 0.01
    # Share of exact search's top k that the served index returns.
    min_ann_recall: float = 0.95
    # Model's Recall@k minus the best baseline's, by its lower bound.
    min_lift_over_best_baseline: float = 0.0
    # Model's Recall@k minus that of the latest eligible blessed model, on the same queries. A loss beyond it
    # refuses the model if it is more than noise; above 0, a gain that the lower bound must reach.
    min_change_against_blessed: float = -0.005
    # The same of every slice, by bounds that hold for all slices at once.
    min_slice_change: float = -0.02
    # Slices of fewer users are left out of that.
    min_slice_users: int = 50
    # Recall@k within single slices, by its lower bound: as in cold=0.02.
    slices: tuple[str, ...] = dataclasses.field(default=(), metadata={"by_name": True})
    # Share of the catalog that is among the first k of at least one query.
    min_coverage: float = 0.0
    # Milliseconds that 95 % of single queries are answered in; 0 is no limit.
    max_latency_p95: float = 0.0


def slice_limits(gate: GateConfig) -> dict[str, float]:
    """gate.slices by slice: the Recall@k that the lower bound must reach there.

    Raises:
      UserError: one of them is not of the form "cold=0.02", or names a slice twice.
    """
    limits: dict[str, float] = {}
    for text in gate.slices:
        name, _, number = (part.strip() for part in text.rpartition("="))
        try:
            limit = float(number)
        except ValueError:
            limit = math.nan
        if not (name and math.isfinite(limit)):
            raise UserError(
                f"gate.slices takes slices with the recall that each must reach, as in cold=0.02, and was "
                f"given {text!r}."
            )
        if name in limits:
            raise UserError(f"gate.slices names the slice {name!r} twice.")
        limits[name] = limit
    return limits
