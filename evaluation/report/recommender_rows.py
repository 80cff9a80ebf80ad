"""Recommenders of an evaluation: whose figures there are, who is best, and their labels and colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from two_tower.evaluation.recommenders import BLESSED_MODEL, MODEL, recommender


def measured_recommenders(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns the metrics of the model, the baselines and an eligible blessed model, by name."""
    found = {MODEL: evaluation["metrics"]["test"], **(evaluation.get("baselines") or {})}
    blessed = evaluation.get("blessed_model")
    if blessed and blessed["eligible"]:
        found[BLESSED_MODEL] = blessed["metrics"]
    return found


def best_baseline(evaluation: Mapping[str, Any], metric: str) -> str | None:
    """Returns the baseline with the highest value of a metric, or None without any."""
    values = {name: found.get(metric) for name, found in (evaluation.get("baselines") or {}).items()}
    known = {name: value for name, value in values.items() if value is not None}
    return max(known, key=lambda name: known[name], default=None)


def legend_of(names: Sequence[str] | Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns label and colour of recommenders."""
    return [{"label": recommender(who).label, "colour": recommender(who).colour} for who in names]
