"""The evaluation as a page for someone who has never seen the project: was the model pushed, and why not?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.retrieval_evaluator.gate import BLESSED
from components.retrieval_evaluator.glossary import (
    DEFAULT_CUTOFF,
    definitions,
    question,
    shown_metrics,
    slice_meaning,
    threshold_meaning,
)
from components.retrieval_evaluator.recommenders import label
from components.scann_indexer.provenance import NO_BLESSED_MODEL


def render(evaluation: Mapping[str, Any]) -> str:
    """Renders evaluation.json as Markdown: verdict, thresholds, metrics beside the baselines, and the rest.

    Args:
        evaluation: as in evaluation.json; a value that could not be measured is null.
    """
    sections = [
        _verdict(evaluation),
        _thresholds(evaluation),
        _metrics(evaluation),
        _slices(evaluation),
        _index(evaluation),
        _blessed_model(evaluation),
        _oracle(evaluation),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _verdict(evaluation: Mapping[str, Any]) -> str:
    failed = [t for t in evaluation["thresholds"] if not t["ok"]]
    if evaluation["verdict"] != BLESSED:
        why = "; ".join(_shortfall(threshold, evaluation) for threshold in failed)
        text = f"# Refused\n\n**This model was not pushed**: {why}. What was pushed before stays in service."
    elif evaluation.get("unchanged"):
        text = (
            "# Blessed, and not pushed again\n\nEvery threshold holds, but **the latest blessed model is "
            "this very model**: it is already in service, so nothing was pushed."
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
    return f"{text}\n\nData set `{evaluation['dataset']}`. {question(evaluation)}{strangers}{dropped}"


def _thresholds(evaluation: Mapping[str, Any]) -> str:
    rows = [
        [
            f"`{t['name']}`",
            threshold_meaning(t, evaluation),
            _number(t["value"]),
            f"≥ {_number(t['limit'])}",
            "holds" if t["ok"] else "**fails**",
        ]
        for t in evaluation["thresholds"]
    ]
    notes = "".join(f"\n\n{note}" for note in evaluation.get("notes", []))
    return "## Thresholds\n\n" + _table(["threshold", "what it is", "value", "limit", ""], rows, 2) + notes


def _metrics(evaluation: Mapping[str, Any]) -> str:
    columns = {"model": evaluation["metrics"]["test"]}
    if "test_exact" in evaluation["metrics"]:
        columns["model, exact search"] = evaluation["metrics"]["test_exact"]
    columns |= {label(name): values for name, values in evaluation["baselines"].items()}
    settings = [
        f"- {label(name)}: " + ", ".join(f"{key} {_setting(values[key])}" for key in chosen)
        for name, values in evaluation["baselines"].items()
        if (chosen := [key for key in values if key not in evaluation["metrics"]["test"]])
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
    k = evaluation.get("cutoff") or DEFAULT_CUTOFF
    sizes = ("labels", "queries", "items")
    who = list(next(iter(slices.values()))["metrics"])
    rows = [
        [
            name,
            metric,
            *(f"{part[size]:,}" for size in sizes),
            *(_number(part["metrics"][one].get(metric)) for one in who),
        ]
        for metric in (f"recall@{k}", f"ndcg@{k}")
        for name, part in slices.items()
    ]
    header = ["slice", "metric", *sizes, *(label(one) for one in who)]
    return (
        "## Slices\n\nParts of the labels. What train knows of an item decides whether it is popular, cold "
        "or trending. Of a query with several labels a slice asks for those in it alone.\n\n"
        + "\n".join(f"- `{name}`: {slice_meaning(name, evaluation)}." for name in slices)
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
    return f"## Index\n\n{how} Of what exact search finds it returns: {recalls}."


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
        [cutoff, *(_number(values.get(name)) for name in names)]
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
        "## Against the oracle\n\nThe data is simulated, so the best possible ranking is known: the oracle "
        "ranks by the simulator's own probabilities, with and without the user's hidden state. On the "
        f"{oracle['queries']:,} test queries that it answered too, the share is how far the model gets from "
        "the best baseline (0) to the oracle (1).\n\n" + _table(header, rows, 1)
    )


def _shortfall(threshold: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    meaning = threshold_meaning(threshold, evaluation)
    if threshold["value"] is None or math.isnan(threshold["value"]):
        return f"{meaning} could not be measured"
    value, limit = _number(threshold["value"]), _number(threshold["limit"])
    return f"{meaning} is {value}, below the limit of {limit}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int) -> str:
    rule = ["---" if i < text_columns else "---:" for i in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def _setting(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"
