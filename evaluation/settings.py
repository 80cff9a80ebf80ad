"""Settings of the evaluation and thresholds of the gate."""

from __future__ import annotations

import dataclasses
import math

from two_tower.base.errors import UserError
from two_tower.base.settings import percent_hint, setting
from two_tower.evaluation.baselines.registry import BASELINES

# Largest threshold of a share or a change. 1 would be accepted from somebody who means one percent.
_MOST = 0.99
# Fewest users of a verdict: with fewer, the noise is unknown.
MIN_USERS = 10
# Fewest users of a slice in gate.min_slice_change. The noise of smaller slices is too far from normal.
MIN_SLICE_USERS = 50


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Measurements of the evaluation."""

    cutoffs: tuple[int, ...] = setting(
        (1, 10, 50, 100),
        help="The k of Recall@k and of all other metrics.",
        unit="items",
        at_least=1,
        at_most=100_000,
        shown=True,
    )
    max_queries: int = setting(
        20_000,
        help="Largest number of test queries. They are sampled by user, whole users at a time.",
        unit="queries",
        at_least=MIN_USERS,
        at_most=1_000_000_000,
    )
    examples: int = setting(
        10,
        help="Users of the test split in the report, under pseudonyms, with their recommendations; 0: none.",
        unit="users",
        at_least=0,
        at_most=100,
    )
    baselines: tuple[str, ...] = setting(
        BASELINES,
        help="Baselines in the comparison with the model. The evaluation leaves out baselines that the data "
        "does not allow, with a note.",
        choices=BASELINES,
    )


@dataclasses.dataclass(frozen=True)
class GateConfig:
    """Thresholds on the test split. A model is pushed only if all of them hold.

    The sample of users adds noise to recall. So the lower bound of the 95 % confidence interval must reach a
    threshold. Two equal models differ by noise. So a loss against the latest blessed model counts only if the
    upper bound of the change is below zero too.
    """

    cutoff: int = setting(
        100,
        help="The k of the Recall@k that the gate judges and that picks the best epoch; one of "
        "evaluation.cutoffs.",
        unit="items",
        at_least=1,
        at_most=100_000,
        shown=True,
    )
    min_recall: float = setting(
        0.01,
        help="Least Recall@k of the served model. Its lower bound must reach it.",
        at_least=0,
        at_most=_MOST,
        shown=True,
    )
    min_ann_recall: float = setting(
        0.95,
        help="Least share of exact search's top k that the served index returns. The index gets the cheapest "
        "settings that reach it at 99 % confidence.",
        at_most=1,
        at_least=0,
    )
    min_lift_over_best_baseline: float = setting(
        0.0,
        help="Least lift, the model's Recall@k minus the best baseline's. Its lower bound must reach it.",
        at_least=-_MOST,
        at_most=_MOST,
        shown=True,
    )
    min_discovery_lift: float = setting(
        0.0,
        help="Least lift over the baseline that is best there, on labels that their user had not played "
        "before. Its lower bound must reach it. It applies where some labels are repeats.",
        at_least=-_MOST,
        at_most=_MOST,
        shown=True,
    )
    min_change_against_blessed: float = setting(
        -0.005,
        help="Least change: the model's Recall@k minus that of the latest eligible blessed model, on "
        "the same queries. A larger loss refuses the model if it exceeds the noise. A value above 0 is a "
        "gain that the lower bound must reach.",
        at_least=-_MOST,
        at_most=_MOST,
    )
    min_change_against_anchor: float = setting(
        -0.01,
        help="Least change against the anchor, the best released model so far, on the same queries. Small "
        "losses of many releases add up to it. A larger loss refuses the model if it exceeds the noise.",
        at_least=-_MOST,
        at_most=_MOST,
    )
    min_slice_change: float = setting(
        -0.02,
        help="Least change of every slice with 50 users or more, by bounds that hold for all slices at once.",
        at_least=-_MOST,
        at_most=_MOST,
    )
    slices: tuple[str, ...] = setting(
        (),
        help="Least Recall@k of single slices, as in cold=0.02. The slice's lower bound must reach it.",
        may_be_empty=True,
        by_name=True,
    )
    min_coverage: float = setting(
        0.0,
        help="Least coverage, the share of the catalog that appears in the first k of at least one query.",
        at_least=0,
        at_most=_MOST,
    )
    max_latency_p95: float = setting(
        0.0,
        help="Largest latency of 95 % of single queries; 0: any.",
        unit="milliseconds",
        at_least=0,
        at_most=3_600_000,
    )


def slice_limits(gate: GateConfig) -> dict[str, float]:
    """Returns gate.slices by slice: the Recall@k that the lower bound must reach.

    Raises:
      UserError: an entry is not of the form "cold=0.02", or a slice appears twice.
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
                f"gate.slices takes slices with their least recall, as in cold=0.02, and was given {text!r}."
            )
        if not 0 <= limit <= _MOST:
            raise UserError(
                f"gate.slices takes recalls from 0 to {_MOST}, and was given {text!r}."
                f"{percent_hint(limit, 0, _MOST)}"
            )
        if name in limits:
            raise UserError(f"gate.slices names the slice {name!r} twice. Leave one out.")
        limits[name] = limit + 0.0
    return limits
