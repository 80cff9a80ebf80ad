"""Recommenders of an evaluation: whose figures there are, who is best, and their labels and colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from two_tower.evaluation.recommenders import ANCHOR_MODEL, BLESSED_MODEL, MODEL, recommender


def measured_recommenders(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns the metrics of the model, the baselines and eligible released models, by name."""
    found = {MODEL: evaluation["metrics"]["test"], **(evaluation.get("baselines") or {})}
    for who, name in ((ANCHOR_MODEL, "anchor"), (BLESSED_MODEL, "blessed_model")):
        released = evaluation.get(name)
        if released and released["eligible"]:
            found[who] = released["metrics"]
    return found


def best_baseline(evaluation: Mapping[str, Any], metric: str) -> str | None:
    """Returns the baseline with the highest value of a metric, or None without any."""
    values = {name: found.get(metric) for name, found in (evaluation.get("baselines") or {}).items()}
    known = {name: value for name, value in values.items() if value is not None}
    return max(known, key=lambda name: known[name], default=None)


def legend_of(names: Sequence[str] | Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns label and colour of recommenders."""
    return [{"label": recommender(who).label, "colour": recommender(who).colour} for who in names]
