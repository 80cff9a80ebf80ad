"""The page's head: verdict, key figures, thresholds, and what explains a refusal."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Mapping
from typing import Any

from two_tower.base.durations import milliseconds
from two_tower.evaluation.gate.judge import BLESSED
from two_tower.evaluation.gate.thresholds import unit_of
from two_tower.evaluation.recommenders import BLESSED_MODEL, MODEL, recommender
from two_tower.evaluation.report import charts
from two_tower.evaluation.report.formats import interval, measured, number, signed
from two_tower.evaluation.report.glossary import (
    cutoff_of,
    pseudonym,
    shortfall,
    slice_meaning,
    threshold_meaning,
)
from two_tower.evaluation.report.recommender_rows import best_baseline
from two_tower.evaluation.report.standing import on_call, standing
from two_tower.evaluation.slices import DISCOVERY


def verdict(evaluation: Mapping[str, Any], run: Mapping[str, Any] | None) -> dict[str, Any]:
    """Gives kind, word and reasons of the verdict, and the figures that matter most."""
    reasons: list[str] = []
    if evaluation["verdict"] != BLESSED:
        kind, word = "bad", "Refused"
        reasons = [shortfall(one, evaluation) for one in evaluation["thresholds"] if not one["ok"]]
        lead = "This model was not pushed. What was pushed before stays in service."
    elif evaluation.get("unchanged"):
        kind, word = "good", "Blessed, and in service already"
        lead = "Every threshold holds. The latest blessed model is this very model: nothing was pushed."
    elif run and (broken := [one for one in run.get("components") or () if one["state"] == "FAILED"]):
        kind, word = "bad", "Blessed, not pushed"
        lead = (
            "Every threshold holds, but the run failed after that. What was pushed before stays in service."
        )
        reasons = [f"{one['name']} failed{': ' + one['error'] if one.get('error') else ''}" for one in broken]
    elif run and run.get("not_pushed_because"):
        kind, word = "good", "Blessed, not pushed"
        lead = f"Every threshold holds, and the model is {run['not_pushed_because']}"
    else:
        kind, word = "good", "Blessed"
        pushed = (run or {}).get("pushed_model")
        done = f"was pushed to {pushed}" if pushed else "may be pushed"
        lead = f"Every threshold holds: this model {done}."
    name = (run or {}).get("run") or ""
    when = str(name)
    with contextlib.suppress(ValueError):  # A run of another orchestrator has a name of another form.
        when = f"{datetime.datetime.fromisoformat(when):%A, %-d %B %Y, %H:%M}"
    return {
        "kind": kind,
        "word": word,
        "lead": lead,
        "reasons": [reason.removesuffix(".") for reason in reasons],
        "standing": standing(evaluation),
        "on_call": on_call(evaluation, run) if run else [],
        "when": when,
        "figures": _key_figures(evaluation),
    }


def _key_figures(evaluation: Mapping[str, Any]) -> list[dict[str, str]]:
    judged = f"recall@{cutoff_of(evaluation)}"
    model = evaluation["metrics"]["test"].get(judged)
    intervals = evaluation.get("intervals") or {}
    changes = evaluation.get("changes") or {}
    bounds = (intervals.get(MODEL) or {}).get(judged)
    figures = [
        {
            "name": judged.capitalize(),
            "value": number(model),
            "note": "; ".join(filter(None, ["of the served model", interval(bounds)])),
        }
    ]
    best = best_baseline(evaluation, judged)
    if best and model is not None:
        value = evaluation["baselines"][best][judged]
        change = (changes.get(best) or {}).get(judged) or {}
        note = f"over {recommender(best).label}"
        figures.append({"name": "Lift", "value": signed(model - value), "note": _with_bounds(note, change)})
    discovery = (evaluation.get("slices") or {}).get(DISCOVERY) or {}
    lift = discovery.get("lift") or {}
    if lift.get("change") is not None and discovery["labels"] < (
        evaluation["queries"].get("labels") or {}
    ).get("total", 0):
        note = f"on labels not played before, over {recommender(lift['baseline']).label}"
        figures.append(
            {"name": "Discovery lift", "value": signed(lift["change"]), "note": _with_bounds(note, lift)}
        )
    blessed = evaluation.get("blessed_model")
    if blessed and blessed["eligible"] and model is not None and blessed["metrics"].get(judged) is not None:
        change = (changes.get(BLESSED_MODEL) or {}).get(judged) or {}
        figures.append(
            {
                "name": "Change",
                "value": signed(model - blessed["metrics"][judged]),
                "note": _with_bounds("against the latest blessed", change),
            }
        )
    ann = evaluation["ann"]
    if ann.get(judged) is not None:
        note = "of exact search; exact itself" if ann.get("kind") == "exact" else "of what exact search finds"
        figures.append({"name": "Index finds", "value": number(ann[judged]), "note": note})
    single = (evaluation.get("latency") or {}).get("single") or {}
    if single.get("p95_ms") is not None:
        figures.append(
            {
                "name": "p95 latency",
                "value": milliseconds(single["p95_ms"]),
                "note": f"a single query; median {milliseconds(single['p50_ms'])}",
            }
        )
    return figures


def _with_bounds(note: str, change: Mapping[str, Any]) -> str:
    low, high = change.get("low"), change.get("high")
    return note if low is None or high is None else f"{note}; {signed(low)} to {signed(high)}"


def thresholds(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Gives a row for each threshold, those that fail first."""
    return [
        {
            **one,
            "meaning": threshold_meaning(one, evaluation),
            "gauge": charts.gauge(one),
            "sign": "≤" if one.get("direction") == "max" else "≥",
            "shown": measured(one["value"], unit_of(one)),
            "bounds": interval((one.get("low"), one.get("high")), 4),
            "limit_shown": measured(one["limit"], unit_of(one)),
        }
        for one in sorted(evaluation["thresholds"], key=lambda one: bool(one["ok"]))
    ]


def refusal(evaluation: Mapping[str, Any], examples: bool) -> dict[str, Any] | None:
    """Gives the slice that explains a refusal, with examples if users may appear."""
    refusal = evaluation.get("refusal")
    if not refusal or evaluation["verdict"] == BLESSED:
        return None
    name = refusal.get("slice")
    found = refusal.get("examples") or [] if examples else []
    if not name and not found:
        return None
    return {
        "slice": name,
        "meaning": slice_meaning(name, evaluation) if name else "",
        "rows": [
            {
                "user": pseudonym(place),
                "item": one.get("label")
                or {"item_id": one["label_item"], "title": None, "tags": None, "artist": None},
                "rank": one.get("rank"),
                "found_by": recommender(one["found_by"]).label,
                "found_at": one["found_at"],
                "in_slice": one.get("in_slice"),
            }
            for place, one in enumerate(found)
        ],
    }
