"""The page's sections on slices and on popularity bias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from two_tower.evaluation.recommenders import BLESSED_MODEL, MODEL, in_order, recommender
from two_tower.evaluation.report import charts
from two_tower.evaluation.report.glossary import slice_meaning
from two_tower.evaluation.report.recommender_rows import best_baseline, legend_of, measured_recommenders

# Slices of a family, from which on they are drawn as a line.
_FEWEST_FOR_A_LINE = 3
_FAMILIES = {
    "history_length": "Length of the history",
    "activity": "Activity of the user",
    "popularity": "Popularity of the item",
    "cold": "Cold items",
    "new_users": "New users",
    "repeat": "Repeat or discovery",
    "event_type": "Event type",
    "organic": "How the user came upon it",
    "trend": "Trends",
    "play_ratio": "How far it was played",
}


def slices(evaluation: Mapping[str, Any], k: int) -> dict[str, Any] | None:
    """Gives a chart by family, beside the latest blessed model or, without one, the best baseline."""
    slices = evaluation.get("slices") or {}
    judged = f"recall@{k}"
    if not slices:
        return None
    metrics = [one["metrics"] for one in slices.values()]
    is_compared = any(BLESSED_MODEL in one for one in metrics)
    other = BLESSED_MODEL if is_compared else best_baseline(evaluation, judged)
    families: dict[str, list[dict[str, Any]]] = {}
    bounds_of = [0.0]
    for name, one in slices.items():
        of_slice = one.get("intervals") or {}
        row = {
            "name": name,
            "queries": one["queries"],
            "value": one["metrics"].get(MODEL, {}).get(judged),
            "bounds": of_slice.get(MODEL, {}).get(judged),
            "other": one["metrics"].get(other, {}).get(judged) if other else None,
            "other_bounds": of_slice.get(other, {}).get(judged) if other else None,
        }
        if row["value"] is None and row["other"] is None:
            continue
        for bounds in (row["bounds"], row["other_bounds"], [row["value"], row["other"]]):
            bounds_of += [bound for bound in bounds or [] if bound is not None]
        family = one.get("family") or "slices"
        families.setdefault(family, []).append({**row, "meaning": slice_meaning(name, evaluation)})
    scale = (0.0, min(1.0, 1.04 * max(bounds_of)) or 1.0)
    drawn = [
        {
            "title": _family_title(family),
            "chart": charts.both(
                charts.draw_slices(rows, scale, judged, other or BLESSED_MODEL), charts.HALF, charts.NARROW
            ),
            "meanings": [(row["name"], row["meaning"]) for row in rows if row["meaning"] != row["name"]],
        }
        for family, rows in families.items()
    ]
    if not drawn:
        return None
    return {
        "metric": judged,
        "families": drawn,
        "is_compared": is_compared,
        "has_bounds": any(one.get("intervals") for one in slices.values()),
        "legend": [
            *legend_of([MODEL]),
            *({**one, "kind": "hollow"} for one in legend_of([other] if other else [])),
        ],
        "other": recommender(other).label if other else "",
    }


def _family_title(family: str) -> str:
    if family.startswith("feature:"):
        return f"By {family.removeprefix('feature:')}"
    return _FAMILIES.get(family, family.replace("_", " ").capitalize())


def popularity(evaluation: Mapping[str, Any], k: int) -> dict[str, Any] | None:
    """Gives the popularity of recommended items, and recall by popularity of the label."""
    lift, judged = f"popularity_lift@{k}", f"recall@{k}"
    everyone = measured_recommenders(evaluation)
    lifts = {who: everyone[who].get(lift) for who in in_order(everyone)}
    # The chart shows factors: a lift of zero is a factor of one.
    times = {who: 1.0 + float(value) for who, value in lifts.items() if value is not None and value > -1}
    by_plays = {
        name: one
        for name, one in (evaluation.get("slices") or {}).items()
        if str(one.get("family")).startswith("popularity") or name in ("head", "middle", "tail")
    }
    chart = deciles = None
    legend: list[dict[str, str]] = []
    if times:
        chart = charts.both(charts.draw_lifts(times), charts.HALF, charts.NARROW)
    coarse = [name for name in ("head", "middle", "tail") if name in by_plays]
    fine = [name for name in by_plays if name not in coarse]
    names = fine if len(fine) >= _FEWEST_FOR_A_LINE else coarse
    if len(names) >= _FEWEST_FOR_A_LINE:
        best = best_baseline(evaluation, judged)
        shown = dict.fromkeys(one for one in ("most_popular", best, BLESSED_MODEL, MODEL) if one)
        values = {
            who: [by_plays[name]["metrics"].get(who, {}).get(judged) for name in names] for who in shown
        }
        values = {who: line for who, line in values.items() if any(value is not None for value in line)}
        axis = "items by their plays in train, " + ("least first" if names is fine else "most first")
        short = [name.replace("popularity_", "").replace("decile_", "").replace("_", " ") for name in names]
        deciles = charts.both(charts.draw_deciles(short, values, judged, axis), charts.HALF, charts.NARROW)
        legend = legend_of(values)
    if not chart and not deciles:
        return None
    return {"lifts": chart, "deciles": deciles, "legend": legend, "metric": judged}
