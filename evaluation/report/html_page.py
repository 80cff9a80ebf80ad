"""Puts the page together: what each section says, and which are left out because there is nothing to say."""

from __future__ import annotations

import contextlib
import datetime
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup, escape

from two_tower.evaluation.gate.thresholds import Unit, unit_of
from two_tower.evaluation.recommenders import (
    BLESSED_MODEL,
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
from two_tower.evaluation.report.charts import interval, number
from two_tower.evaluation.report.glossary import (
    DEFAULT_CUTOFF,
    definitions,
    pseudonym,
    question,
    shortfall,
    shown_metrics,
    slice_meaning,
    threshold_meaning,
)
from two_tower.evaluation.report.materials import Materials

BLESSED = "blessed"
_MAP_COLOURS = tuple(f"map-{place}" for place in range(8))
_POPULARITY_BANDS = ("most played", "often", "sometimes", "rarely")
# Of one family these are drawn as a line.
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


def render(materials: Materials, examples: bool = True) -> str:
    """The page.

    Args:
        materials: what there is.
        examples: whether users appear, under pseudonyms; without it neither they nor what they played do.
    """
    evaluation = materials.evaluation
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "interval": interval, "code": _code}
    k = _cutoff(evaluation)
    sections: dict[str, Any] = {
        "verdict": _verdict(evaluation, materials.run),
        "thresholds": _thresholds(evaluation),
        "refusal": _refusal(evaluation, examples),
        "recall": _recall(materials, k),
        "metrics": _metrics(evaluation),
        "slices": _slices(evaluation, k),
        "index": _index(evaluation, k),
        "training": _training(materials.curves),
        "popularity": _popularity(evaluation, k),
        "users": [{**one, "outcome": _outcome(one)} for one in materials.examples] if examples else [],
        "map": _map(materials.item_map),
        "oracle": _oracle(evaluation),
        "run": _run(materials.run),
    }
    style, _, _ = environment.loader.get_source(environment, "style.css")  # type: ignore[union-attr]
    return environment.get_template("page.html.j2").render(
        style=Markup(style), evaluation=evaluation, k=k, question=question(evaluation), **sections
    )


def _code(text: str) -> Markup:
    """What stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _cutoff(evaluation: Mapping[str, Any]) -> int:
    return int(evaluation.get("cutoff") or DEFAULT_CUTOFF)


def _verdict(evaluation: Mapping[str, Any], run: Mapping[str, Any] | None) -> dict[str, Any]:
    """Kind, word and reasons, and the figures that matter most."""
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
        "when": when,
        "figures": _key_figures(evaluation),
    }


def _key_figures(evaluation: Mapping[str, Any]) -> list[dict[str, str]]:
    judged = f"recall@{_cutoff(evaluation)}"
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
    best = _best_baseline(evaluation, judged)
    if best and model is not None:
        value = evaluation["baselines"][best][judged]
        change = (changes.get(best) or {}).get(judged) or {}
        note = f"over {recommender(best).label}"
        figures.append({"name": "Lift", "value": _signed(model - value), "note": _with_bounds(note, change)})
    blessed = evaluation.get("blessed_model")
    if blessed and blessed["eligible"] and model is not None and blessed["metrics"].get(judged) is not None:
        change = (changes.get(BLESSED_MODEL) or {}).get(judged) or {}
        figures.append(
            {
                "name": "Change",
                "value": _signed(model - blessed["metrics"][judged]),
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
                "value": f"{single['p95_ms']:.3g} ms",
                "note": f"a single query; median {single['p50_ms']:.3g} ms",
            }
        )
    return figures


def _with_bounds(note: str, change: Mapping[str, Any]) -> str:
    low, high = change.get("low"), change.get("high")
    return note if low is None or high is None else f"{note}; {_signed(low)} to {_signed(high)}"


def _best_baseline(evaluation: Mapping[str, Any], metric: str) -> str | None:
    values = {name: found.get(metric) for name, found in (evaluation.get("baselines") or {}).items()}
    known = {name: value for name, value in values.items() if value is not None}
    return max(known, key=lambda name: known[name], default=None)


def _thresholds(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            **one,
            "meaning": threshold_meaning(one, evaluation),
            "gauge": charts.gauge(one),
            "sign": "≤" if one.get("direction") == "max" else "≥",
            "shown": _measured(unit_of(one), one["value"]),
            "bounds": interval((one.get("low"), one.get("high")), 4),
            "limit_shown": _measured(unit_of(one), one["limit"]),
        }
        for one in sorted(evaluation["thresholds"], key=lambda one: bool(one["ok"]))
    ]


def _refusal(evaluation: Mapping[str, Any], examples: bool) -> dict[str, Any] | None:
    """The slice that explains a refusal, with examples if users may appear."""
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


def _recall(materials: Materials, k: int) -> dict[str, Any] | None:
    """Curves where there are ranks, and the story in three steps where there are its baselines."""
    evaluation = materials.evaluation
    chart, legend = None, []
    if materials.results is not None and materials.results.ranks:
        found = charts.recall_curves(materials.results)
        chart = charts.both(charts.draw_recall(found, k))
        legend = _legend(found["curves"])
    story = _story(evaluation, k)
    return {"chart": chart, "legend": legend, "story": story} if chart or story else None


def _story(evaluation: Mapping[str, Any], k: int) -> list[dict[str, Any]]:
    """The best of each family that the story is told of, and how much more it finds than the one before."""
    judged = f"recall@{k}"
    known = {name: found.get(judged) for name, found in (evaluation.get("baselines") or {}).items()}
    known[MODEL] = evaluation["metrics"]["test"].get(judged)
    values = {name: float(value) for name, value in known.items() if value is not None}
    steps: list[dict[str, Any]] = []
    for family in (TOKEN_MATCHING, FACTORISATION, TWO_TOWER):
        of_family = [name for name in values if recommender(name).family == family]
        if not of_family:
            continue
        best = max(of_family, key=lambda name: values[name])
        before = steps[-1]["value"] if steps else None
        steps.append(
            {
                "family": family,
                "label": recommender(best).label,
                "colour": recommender(best).colour,
                "knows": STORY[family],
                "value": values[best],
                "bounds": (evaluation.get("intervals") or {}).get(best, {}).get(judged),
                "times": f"{values[best] / before:.1f}×" if before else "",
            }
        )
    highest = max((one["value"] for one in steps), default=0.0)
    for one in steps:
        one["share"] = f"{100 * one['value'] / highest:.1f}%" if highest > 0 else "0%"
    return steps if len(steps) > 1 else []


def _legend(names: Sequence[str] | Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"label": recommender(who).label, "colour": recommender(who).colour} for who in names]


def _metrics(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """A row each who recommends, in the story's order, and of the best in a column which it is."""
    columns = {MODEL: evaluation["metrics"]["test"], **(evaluation.get("baselines") or {})}
    if "test_exact" in evaluation["metrics"]:
        columns[MODEL_EXACT] = evaluation["metrics"]["test_exact"]
    blessed = evaluation.get("blessed_model")
    if blessed and blessed["eligible"]:
        columns[BLESSED_MODEL] = blessed["metrics"]
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
            f"{name.replace('_', ' ')} {_setting(value)}"
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


def _slices(evaluation: Mapping[str, Any], k: int) -> dict[str, Any] | None:
    """Dots by family, beside the latest blessed model or, without one, the best baseline."""
    slices = evaluation.get("slices") or {}
    judged = f"recall@{k}"
    if not slices:
        return None
    metrics = [one["metrics"] for one in slices.values()]
    is_compared = any(BLESSED_MODEL in one for one in metrics)
    other = BLESSED_MODEL if is_compared else _best_baseline(evaluation, judged)
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
            *_legend([MODEL]),
            *({**one, "kind": "hollow"} for one in _legend([other] if other else [])),
        ],
        "other": recommender(other).label if other else "",
    }


def _family_title(family: str) -> str:
    if family.startswith("feature:"):
        return f"By {family.removeprefix('feature:')}"
    return _FAMILIES.get(family, family.replace("_", " ").capitalize())


def _index(evaluation: Mapping[str, Any], k: int) -> dict[str, Any]:
    index = (evaluation.get("model") or {}).get("index") or {}
    tuning = index.get("tuning")
    ann = evaluation["ann"]
    chart, chosen = None, ""
    if tuning and tuning.get("points"):
        chart = charts.both(charts.draw_tuning(tuning), charts.WIDE, charts.NARROW)
        if tuning.get("chosen") is not None:
            chosen = charts.setting(tuning["points"][tuning["chosen"]])
    latency = evaluation.get("latency") or {}
    size = evaluation.get("size") or {}
    return {
        "is_exact": ann.get("kind") == "exact",
        "reason": (tuning or {}).get("reason") or index.get("reason") or "",
        "recalls": [
            (name.partition("@")[2], number(value, 4))
            for name, value in ann.items()
            if name.startswith("recall@")
        ],
        "chart": chart,
        "chosen": chosen,
        "target": tuning.get("target") if tuning else None,
        "is_met": bool(tuning.get("met")) if tuning else None,
        "target_k": (tuning or {}).get("k") or k,
        "parity": _parity(evaluation),
        "latency": [
            {
                "name": "a single query" if name == "single" else f"a batch of {one.get('size', '?')}",
                "values": [one.get(f"{part}_ms") for part in ("p50", "p95", "p99")],
                "requests": one.get("requests"),
            }
            for name, one in latency.items()
            if one
        ],
        "size": f"{size['bytes'] / 2**20:,.1f} MiB in {size['files']} files" if size.get("bytes") else "",
    }


def _parity(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """Whether the index is that of its towers, as the gate judged, and what differs."""
    measured = evaluation["ann"].get("parity")
    if not measured:
        return None
    judged = [one for one in evaluation["thresholds"] if one["name"] == "index_parity"]
    errors = {name: measured.get(f"max_{name}_error") for name in ("norm", "score")}
    return {
        "ok": all(one["ok"] for one in judged) if judged else bool(measured.get("ok")),
        "differences": judged[0].get("note") if judged else "",
        "errors": {name: f"{error:.2g}" for name, error in errors.items() if error is not None},
    }


def _training(curves: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not curves or not curves.get("epochs"):
        return None
    monitor = curves.get("monitor") or ""
    measured = {name for one in curves["epochs"] for name in one}
    panels = []
    if monitor in measured:
        cold = monitor.replace("val_", "val_cold_", 1)
        names = [monitor, *([cold] if cold in measured else [])]
        title = "Recall on the validation split"
        panels.append((title, names, [monitor.removeprefix("val_"), "the same of cold items"][: len(names)]))
    if "loss" in measured:
        panels.append(("Loss on the training split", ["loss"], []))
    return {
        "panels": [
            {
                "title": title,
                "chart": charts.both(charts.draw_training(curves, names, title), charts.HALF, charts.NARROW),
                "legend": [
                    {"label": label, "colour": colour}
                    for label, colour in zip(labels, ("model", "factors"), strict=False)
                ],
            }
            for title, names, labels in panels
        ],
        "epochs": len(curves["epochs"]),
        "best": curves.get("best_epoch"),
        "monitor": monitor.removeprefix("val_"),
    }


def _popularity(evaluation: Mapping[str, Any], k: int) -> dict[str, Any] | None:
    """How popular what is recommended is, and who finds what is not."""
    lift, judged = f"popularity_lift@{k}", f"recall@{k}"
    everyone = {MODEL: evaluation["metrics"]["test"], **(evaluation.get("baselines") or {})}
    blessed = evaluation.get("blessed_model")
    if blessed and blessed["eligible"]:
        everyone[BLESSED_MODEL] = blessed["metrics"]
    lifts = {who: everyone[who].get(lift) for who in in_order(everyone)}
    # Drawn as times: a lift of zero is once as popular.
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
        best = _best_baseline(evaluation, judged)
        shown = dict.fromkeys(one for one in ("most_popular", best, BLESSED_MODEL, MODEL) if one)
        values = {
            who: [by_plays[name]["metrics"].get(who, {}).get(judged) for name in names] for who in shown
        }
        values = {who: line for who, line in values.items() if any(value is not None for value in line)}
        axis = "items by their plays in train, " + ("least first" if names is fine else "most first")
        short = [name.replace("popularity_", "").replace("decile_", "").replace("_", " ") for name in names]
        deciles = charts.both(charts.draw_deciles(short, values, judged, axis), charts.HALF, charts.NARROW)
        legend = _legend(values)
    if not chart and not deciles:
        return None
    return {"lifts": chart, "deciles": deciles, "legend": legend, "metric": judged}


def _outcome(example: Mapping[str, Any]) -> str:
    """Where the model had what the user played next: of several labels the one that it had highest."""
    first = example["played_next"][:1] if example.get("labels", 1) == 1 else example["played_next"]
    ranks = [one["rank"] for one in first if one.get("rank")]
    return f"found at rank {min(ranks)}" if ranks else "not found"


def _map(item_map: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Coloured by the commonest first tags, or without tags by how often items are played."""
    if not item_map or not item_map.get("items"):
        return None
    items = item_map["items"]
    tags = Counter(item["tags"][0] for item in items if item.get("tags"))
    if len(tags) > 1:
        groups = [tag for tag, _ in tags.most_common(len(_MAP_COLOURS))]
        group_of = [item["tags"][0] if item.get("tags") else "" for item in items]
        coloured = dict(zip(groups, _MAP_COLOURS, strict=False))
    else:
        ranked = sorted(range(len(items)), key=lambda place: -(items[place].get("plays") or 0))
        group_of = [""] * len(items)
        for rank, place in enumerate(ranked):
            group_of[place] = _POPULARITY_BANDS[rank * len(_POPULARITY_BANDS) // len(items)]
        coloured = {band: f"band-{place}" for place, band in enumerate(_POPULARITY_BANDS)}
    colours = [coloured.get(group, "other") for group in group_of]
    legend = [{"label": group, "colour": colour} for group, colour in coloured.items()]
    if "other" in colours:
        legend.append({"label": "other", "colour": "other"})
    return {
        "chart": charts.draw_map(items, colours),
        "legend": legend,
        "count": len(items),
        "method": item_map.get("method") or "",
        "is_by_tag": len(tags) > 1,
    }


def _oracle(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    oracle = evaluation.get("oracle")
    if not oracle:
        return None
    names = ("best_baseline", "model", "oracle_observed", "oracle", "share_of_gap_observed", "share_of_gap")
    return {
        "queries": oracle["queries"],
        "rows": [
            (cutoff, [number(values.get(name), 4) for name in names])
            for cutoff, values in oracle.items()
            if cutoff.startswith("recall@")
        ],
    }


def _run(run: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Components with the share of the longest, and settings by section."""
    if not run:
        return None
    components = run.get("components") or []
    longest = max((one["seconds"] for one in components if not one["cached"]), default=0.0) or 1.0
    sections: dict[str, list[dict[str, Any]]] = {}
    changed = set(run.get("changed") or ())
    for name, value in (run.get("settings") or {}).items():
        section, _, last = name.rpartition(".")
        sections.setdefault(section or "run", []).append(
            {"name": last, "value": _setting(value), "is_changed": name in changed}
        )
    return {
        "output": run.get("output") or "",
        "components": [
            {
                "name": one["name"],
                "time": "cached" if one["cached"] else _duration(one["seconds"]),
                "share": "0%" if one["cached"] else f"{100 * one['seconds'] / longest:.1f}%",
                "memory": f"{one['peak_memory_bytes'] / 2**30:.1f} GiB"
                if one.get("peak_memory_bytes")
                else "",
                "is_failed": one["state"] == "FAILED",
            }
            for one in components
        ],
        "total": _duration(sum(one["seconds"] for one in components if not one["cached"])),
        "sections": sections,
        "changed": len(changed),
    }


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _measured(unit: Unit, value: float | None) -> str:
    """Formats a threshold's value or limit by its unit."""
    if value is not None and unit is Unit.MILLISECONDS:
        return f"{value:.3g} ms"
    return str(int(value)) if value is not None and unit is Unit.YES_NO else number(value, 4)


def _signed(value: float) -> str:
    return ("+" if value >= 0 else "−") + number(abs(value))


def _setting(value: Any) -> str:
    """A setting as one would write it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else _plain(value)


def _plain(value: Any) -> str:
    """A number, a truth or a text in a cell."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}" if 1e-3 <= abs(value) < 10 else f"{value:.4g}"
    return str(value)
