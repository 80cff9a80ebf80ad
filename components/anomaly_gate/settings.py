"""Limits on drift and skew."""

from __future__ import annotations

import dataclasses

from two_tower.base.settings import setting


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """Limits on how far distributions may move before a run is stopped; 0 turns a check off.

    Distances are the Jensen-Shannon divergence of numbers and the largest difference of any value's share
    (L-infinity) of categories, both from 0 to 1.
    """

    max_drift: float = setting(
        0.3,
        help="Largest distance between train's statistics and those of the previous run; 0: any.",
        at_least=0,
        at_most=1,
    )
    max_skew: float = setting(
        0.3,
        help="Largest distance between train's statistics and test's; 0: any.",
        at_least=0,
        at_most=1,
    )
