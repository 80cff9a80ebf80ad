"""Limits on drift and skew."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """Limits on how far distributions may move before a run is stopped; 0 turns a check off.

    Distances are the Jensen-Shannon divergence of numbers and the largest difference of any value's share
    (L-infinity) of categories, both from 0 to 1.
    """

    # Train's statistics against those of the previous run.
    max_drift: float = 0.3
    # Train's statistics against test's.
    max_skew: float = 0.3
