"""Limits on drift and skew."""

from __future__ import annotations

import dataclasses

from two_tower.base.settings import setting


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """Largest distances between distributions before a run is stopped; 0 turns a check off.

    The distance of numbers is the Jensen-Shannon divergence. The distance of categories is the largest
    difference of any value's share (L-infinity). Both lie between 0 and 1.
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
