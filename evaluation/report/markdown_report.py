"""The Markdown report, for a reader new to the project: was the model pushed, and why not?"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from two_tower.evaluation.gate.judge import BLESSED
from two_tower.evaluation.gate.thresholds import unit_of
from two_tower.evaluation.metric_table import slice_metrics
from two_tower.evaluation.recommenders import BLESSED_MODEL, MODEL, in_order, label
from two_tower.evaluation.report.formats import measured
from two_tower.evaluation.report.glossary import (
    cutoff_of,
    definitions,
    pseudonym,
    question,
    shortfall,
    shown_metrics,
    slice_meaning,
    threshold_meaning,
)
from two_tower.evaluation.report.recommender_rows import measured_recommenders
from two_tower.evaluation.report.standing import standing
from two_tower.serving.provenance import NO_BLESSED_MODEL


def render(evaluation: Mapping[str, Any]) -> str:
    """Renders evaluation.json as Markdown: verdict, thresholds, metrics beside the baselines, and the rest.

    Args:
        evaluation: as in evaluation.json; a value that could not be measured is null.
    """
    sections = [
        _verdict(evaluation),
        _thresholds(evaluation),
        _refusal(evaluation),
        _story(evaluation),
        _metrics(evaluation),
        _slices(evaluation),
        _index(evaluation),
        _artifact(evaluation),
        _blessed_model(evaluation),
        _oracle(evaluation),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _verdict(evaluation: Mapping[str, Any]) -> str:
    failed = [t for t in evaluation["thresholds"] if not t["ok"]]
    if evaluation["verdict"] != BLESSED:
        why = "; ".join(_text(shortfall(threshold, evaluation)) for threshold in failed)
        text = f"# Refused\n\n**This model was not pushed**: {why}. What was pushed before stays in service."
    elif evaluation.get("unchanged"):
        text = (
            "# Blessed, and not pushed again\n\nEvery threshold holds, but **the latest blessed model is "
            "this very model**. It is already in service, so nothing was pushed."
        )
    else:
        text = "# Blessed\n\nEvery threshold holds: **this model may be pushed**."
    queries = evaluation["queries"]
    dropped = (
        f" {queries['dropped_repeats']:,} labels were left out because the user already had the item."
        if queries.get("dropped_repeats")
        else ""
    )
    strangers = (
        f" {queries['by_users_unknown_to_train']:,} queries are by users whom train has not seen."
        if queries.get("by_users_unknown_to_train")
        else ""
    )
    text = "\n\n".join([text, *([_text(" ".join(found))] if (found := standing(evaluation)) else [])])
    return f"{text}\n\nData set {_code(evaluation['dataset'])}. {question(evaluation)}{strangers}{dropped}"


def _thresholds(evaluation: Mapping[str, Any]) -> str:
    rows = [
        [
            _code(t["name"]),
            _text(threshold_meaning(t, evaluation)),
            measured(t["value"], unit_of(t), ".4f"),
            _bounds((t.get("low"), t.get("high"))),
            f"{'≤' if t.get('direction') == 'max' else '≥'} {measured(t['limit'], unit_of(t), '.4f')}",
            "holds" if t["ok"] else "**fails**",
        ]
        for t in evaluation["thresholds"]
    ]
    notes = "".join(f"\n\n{_text(note)}" for note in evaluation.get("notes", []))
    return (
        "## Thresholds\n\n"
        + _table(["threshold", "what it is", "value", "95% interval", "limit", ""], rows, 2)
        + notes
    )


def _refusal(evaluation: Mapping[str, Any]) -> str:
    """Writes the slice and the examples that explain a refusal."""
    refusal = evaluation.get("refusal")
    if not refusal or evaluation["verdict"] == BLESSED:
        return ""
    name, examples = refusal.get("slice"), refusal.get("examples") or []
    parts = ["## What explains the refusal"]
    if name:
        parts.append(f"The slice that lost most is {_code(name)}: {_text(slice_meaning(name, evaluation))}.")
    if examples:
        rows = [
            [
                pseudonym(place),
                _text((one.get("label") or {}).get("title") or f"item {one['label_item']}"),
                str(one["rank"]) if one.get("rank") else "not found",
                f"{one['found_at']} ({label(one['found_by'])})",
            ]
            for place, one in enumerate(examples)
        ]
        parts.append(_table(["who", "what was played next", "rank here", "rank there"], rows, 2))
    return "\n\n".join(parts) if len(parts) > 1 else ""


def _story(evaluation: Mapping[str, Any]) -> str:
    """Writes the recall of each recommender, from popularity to the model, with known intervals."""
    judged = f"recall@{cutoff_of(evaluation)}"
    intervals, changes = evaluation.get("intervals") or {}, evaluation.get("changes") or {}
    if not intervals:
        return ""
    found = measured_recommenders(evaluation)
    rows = []
    for name in in_order(found):
        change = (changes.get(name) or {}).get(judged) or {}
        is_model = name == MODEL
        rows.append(
            [
                f"**{label(name)}**" if is_model else label(name),
                _number(found[name].get(judged)),
                _bounds((intervals.get(name) or {}).get(judged)),
                "" if is_model else _number(change.get("change")),
                "" if is_model else _bounds((change.get("low"), change.get("high"))),
            ]
        )
    header = ["", judged, "95% interval", "the model's lead", "95% interval of the lead"]
    return (
        "## Who finds what comes next\n\nIntervals are 95% intervals over users; leads are of the "
        "same queries.\n\n" + _table(header, rows, 1)
    )


def _metrics(evaluation: Mapping[str, Any]) -> str:
    columns = {"model": evaluation["metrics"]["test"]}
    if "test_exact" in evaluation["metrics"]:
        columns["model, exact search"] = evaluation["metrics"]["test_exact"]
    columns |= {label(name): evaluation["baselines"][name] for name in in_order(evaluation["baselines"])}
    settings = [
        f"- {label(name)}: " + ", ".join(f"{key} {_setting(values[key])}" for key in chosen)
        for name, values in evaluation["baselines"].items()
        if (chosen := [key for key in values if key not in columns["model"] and values[key] is not None])
    ]
    rows = [
        [name, *(_number(values.get(name)) for values in columns.values())]
        for name in shown_metrics(evaluation)
    ]
    return (
        "## Metrics\n\n"
        + "\n".join(f"- `{name}`: {meaning}." for name, meaning in definitions(evaluation).items())
        + "\n\n"
        + _table(["metric", *columns], rows, 1)
        + "\n\nThe baselines are trained on the train split alone"
        + (", with settings chosen on eval:\n\n" + "\n".join(settings) if settings else ".")
    )


def _slices(evaluation: Mapping[str, Any]) -> str:
    slices = evaluation.get("slices")
    if not slices:
        return ""
    k = cutoff_of(evaluation)
    sizes = ("labels", "queries", "items")
    judged = f"recall@{k}"
    baselines = evaluation.get("baselines") or {}
    best = max(baselines, key=lambda name: baselines[name].get(judged) or -1.0, default=None)
    named = set().union(*(part["metrics"] for part in slices.values()))
    who = [one for one in (MODEL, BLESSED_MODEL, *([best] if best else [])) if one in named]
    rows = [
        [
            _text(name),
            metric,
            *(f"{part[size]:,}" for size in sizes),
            *(_number(part["metrics"].get(one, {}).get(metric)) for one in who),
            _bounds(((part.get("intervals") or {}).get(MODEL) or {}).get(metric)),
        ]
        for metric in slice_metrics([k])
        for name, part in slices.items()
    ]
    header = ["slice", "metric", *sizes, *(label(one) for one in who), f"95% interval of {label(MODEL)}"]
    return (
        "## Slices\n\nParts of the labels. What train knows of an item decides whether it is popular, cold "
        "or trending. Of a query with several labels a slice asks for those in it alone.\n\n"
        + "\n".join(f"- {_code(name)}: {_text(slice_meaning(name, evaluation))}." for name in slices)
        + "\n\n"
        + _table(header, rows, 2)
    )


def _index(evaluation: Mapping[str, Any]) -> str:
    ann = evaluation["ann"]
    if ann.get("kind") == "exact":
        how = "Search is exact: the catalog is small enough that an approximate index gains nothing."
    else:
        how = "Search is approximate (ScaNN)."
    recalls = ", ".join(
        f"{_number(value)} of the first {name.split('@')[1]}"
        for name, value in ann.items()
        if name.startswith("recall@")
    )
    tuning = ((evaluation.get("model") or {}).get("index") or {}).get("tuning") or {}
    reason = f" {tuning['reason']}" if tuning.get("reason") else ""
    parity = ann.get("parity")
    if parity:
        reason += (
            " Its ids, order and norms are those of the towers that were trained."
            if parity["ok"]
            else " **It does not hold what the towers give**: ids, order, norms or the towers differ."
        )
    return f"## Index\n\n{how} Of what exact search finds it returns: {recalls}.{reason}"


def _artifact(evaluation: Mapping[str, Any]) -> str:
    """Writes latency and size of the served artifact."""
    latency, size = evaluation.get("latency") or {}, evaluation.get("size") or {}
    rows = [
        [
            "a single query" if name == "single" else f"a batch of {one.get('size', '?')}",
            *(_value(one.get(f"{part}_ms")) for part in ("p50", "p95", "p99")),
            f"{one.get('requests', 0):,}",
        ]
        for name, one in latency.items()
        if one
    ]
    if not rows and not size:
        return ""
    parts = ["## Latency and size"]
    if rows:
        parts.append(_table(["milliseconds", "p50", "p95", "p99", "requests"], rows, 1))
    if size:
        parts.append(f"The model is {size['bytes'] / 2**20:,.1f} MiB in {size['files']} files.")
    return "\n\n".join(parts)


def _blessed_model(evaluation: Mapping[str, Any]) -> str:
    blessed = evaluation.get("blessed_model")
    text = f"## Latest blessed model\n\n{blessed['reason'] if blessed else NO_BLESSED_MODEL}"
    if not blessed or not blessed["eligible"]:
        return f"{text} So there is no model to compare this one with."
    ours = evaluation["metrics"]["test"]
    rows = [
        [
            name,
            _number(ours[name]),
            _number(theirs),
            _number(None if ours[name] is None or theirs is None else ours[name] - theirs),
        ]
        for name, theirs in blessed["metrics"].items()
        if name in shown_metrics(evaluation)
    ]
    return (
        f"{text} Both answered the same queries.\n\n"
        + _table(["metric", "this model", "latest blessed", "change"], rows, 1)
        + (f"\n\nIt is at `{blessed['uri']}`." if blessed.get("uri") else "")
    )


def _oracle(evaluation: Mapping[str, Any]) -> str:
    oracle = evaluation.get("oracle")
    if not oracle:
        return ""
    names = ["best_baseline", "model", "oracle_observed", "oracle", "share_of_gap_observed", "share_of_gap"]
    rows = [
        [
            cutoff,
            *(
                " ".join(
                    filter(
                        None,
                        [
                            _number(values.get(name)),
                            f"({bounds})"
                            if (bounds := _bounds((values.get("intervals") or {}).get(name)))
                            else "",
                        ],
                    )
                )
                for name in names
            ),
        ]
        for cutoff, values in oracle.items()
        if cutoff.startswith("recall@")
    ]
    header = [
        "",
        "best baseline",
        "model",
        "oracle without the hidden state",
        "oracle",
        "share of the way to the oracle without it",
        "share of the way to the oracle",
    ]
    return (
        "## Against the oracle\n\nThe data is simulated, so the best possible ranking is known. The oracle "
        "ranks by the simulator's own probabilities, with and without the user's hidden state. It answered "
        f"{oracle['queries']:,} of the test queries{_by_users(oracle)}. On these, the share is how far the "
        "model gets from the best baseline (0) to the oracle (1).\n\n" + _table(header, rows, 1)
    )


def _by_users(oracle: Mapping[str, Any]) -> str:
    return f", by {oracle['users']:,} users" if oracle.get("users") else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int) -> str:
    rule = ["---" if i < text_columns else "---:" for i in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def _setting(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"


def _value(value: float | None) -> str:
    """Formats milliseconds."""
    return (
        "–" if value is None or math.isnan(value) else f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
    )


def _bounds(bounds: Sequence[float | None] | None) -> str:
    if not bounds or bounds[0] is None or bounds[1] is None:
        return ""
    return f"{bounds[0]:.4f} to {bounds[1]:.4f}"


def _text(text: str) -> str:
    """Strips text of others, such as titles and values of columns, of markup and of ends of cells."""
    escaped = re.sub(r"([\\`*\[\]|~])", r"\\\1", " ".join(text.split()))
    return html.escape(escaped, quote=False)


def _code(text: str) -> str:
    """Marks text of others as code, where backslashes do not escape, within cells too."""
    plain = " ".join(text.split())
    return f"`{plain}`" if not set(plain) & set("`|") else _text(plain)
