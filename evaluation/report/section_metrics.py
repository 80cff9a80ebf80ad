"""The page's sections on recall and metrics of the model and the baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from two_tower.evaluation.baselines.registry import BASELINES, definition
from two_tower.evaluation.recommenders import (
    FACTORISATION,
    MODEL,
    MODEL_EXACT,
    STORY,
    TOKEN_MATCHING,
    TWO_TOWER,
    in_order,
    recommender,
)
from two_tower.evaluation.report import charts
from two_tower.evaluation.report.formats import interval, number, setting
from two_tower.evaluation.report.glossary import definitions, shown_metrics
from two_tower.evaluation.report.materials import Materials
from two_tower.evaluation.report.recommender_rows import legend_of, measured_recommenders


def recall(materials: Materials, k: int) -> dict[str, Any] | None:
    """Gives curves where ranks are known, and the story in steps where its baselines are."""
    evaluation = materials.evaluation
    chart, legend = None, []
    if materials.results is not None and materials.results.ranks:
        found = charts.recall_curves(materials.results)
        chart = charts.both(charts.draw_recall(found, k))
        legend = legend_of(found["curves"])
    story = _story(evaluation, k)
    return {"chart": chart, "legend": legend, "story": story} if chart or story else None


def _story(evaluation: Mapping[str, Any], k: int) -> list[dict[str, Any]]:
    """Gives the best recommender of each step of the story, and its gain over the best before it.

    The best baseline is among them, of whatever family.
    """
    judged = f"recall@{k}"
    known = {name: found.get(judged) for name, found in (evaluation.get("baselines") or {}).items()}
    known[MODEL] = evaluation["metrics"]["test"].get(judged)
    values = {name: float(value) for name, value in known.items() if value is not None}
    steps: list[dict[str, Any]] = []
    families = [TOKEN_MATCHING, FACTORISATION]
    baselines = [name for name in values if name != MODEL]
    if baselines:
        strongest = recommender(max(baselines, key=lambda name: values[name])).family
        families += [strongest] if strongest not in families else []
    for family in (*families, TWO_TOWER):
        of_family = [name for name in values if recommender(name).family == family]
        if not of_family:
            continue
        best = max(of_family, key=lambda name: values[name])
        before = max((step["value"] for step in steps), default=None)
        steps.append(
            {
                "family": family,
                "label": recommender(best).label,
                "colour": recommender(best).colour,
                "knows": STORY.get(family) or (definition(best).meaning if best in BASELINES else ""),
                "value": values[best],
                "bounds": (evaluation.get("intervals") or {}).get(best, {}).get(judged),
                "times": f"{values[best] / before:.1f}×" if before else "",
            }
        )
    highest = max((one["value"] for one in steps), default=0.0)
    for one in steps:
        one["share"] = f"{100 * one['value'] / highest:.1f}%" if highest > 0 else "0%"
    return steps if len(steps) > 1 else []


def metrics(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Gives a row for each recommender, in the story's order, with definitions and baselines' settings."""
    columns = measured_recommenders(evaluation)
    if "test_exact" in evaluation["metrics"]:
        columns[MODEL_EXACT] = evaluation["metrics"]["test_exact"]
    names = shown_metrics(evaluation)
    intervals = evaluation.get("intervals") or {}
    rows = [
        {
            "label": recommender(who).label,
            "colour": recommender(who).colour,
            "is_model": who == MODEL,
            "cells": [
                {
                    "value": number(columns[who].get(name), 4),
                    "bounds": interval((intervals.get(who) or {}).get(name), 4),
                }
                for name in names
            ],
        }
        for who in in_order(columns)
    ]
    settings = {
        recommender(who).label: ", ".join(
            f"{name.replace('_', ' ')} {setting(value)}"
            for name, value in found.items()
            if name not in evaluation["metrics"]["test"] and value is not None
        )
        for who, found in (evaluation.get("baselines") or {}).items()
    }
    return {
        "names": names,
        "rows": rows,
        "definitions": definitions(evaluation),
        "settings": {who: chosen for who, chosen in settings.items() if chosen},
    }
