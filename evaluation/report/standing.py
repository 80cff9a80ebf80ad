"""First sentences of every report: what is in service, and where the model stands beside the baselines."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from two_tower.evaluation.recommenders import MODEL, label
from two_tower.evaluation.report.formats import interval, number
from two_tower.evaluation.report.glossary import cutoff_of, moment
from two_tower.evaluation.report.recommender_rows import best_baseline
from two_tower.evaluation.slices import DISCOVERY, REPEAT


def on_call(evaluation: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """Says what is in service, how to go back, and how fresh the judged model's data is.

    Args:
        evaluation: as in evaluation.json, or without figures.
        run: a report by `pipeline.runs.report.collect`.
    """
    service, split = run.get("service"), evaluation.get("split") or {}
    sentences = [_service_line(service, run["output"])] if service else []
    if split.get("train_end"):
        sentences.append(
            f"This run's model is trained on events until {moment(split['train_end'])}, and judged on events "
            f"until {moment(split['test'][1])}."
        )
    return sentences


def _service_line(service: Mapping[str, Any], output: str) -> str:
    """Says which version is in service, since when, and how to go back."""
    line = f"In service: version {service['version']}"
    if service["copy_of"] is not None:
        line += f", a rollback to version {service['copy_of']}"
    if service["published"]:
        line += f", since {service['published'].replace('T', ' ').replace('+00:00', ' UTC')}"
    if service.get("fault"):
        return f"{line}. A rollback is not possible as it is: {service['fault']}"
    if service["before"] is None:
        return f"{line}. There is no earlier model to go back to."
    back = f"`two-tower rollback --output {shlex.quote(output)}` brings back version {service['before']}"
    return f"{line}. {back}."


def standing(evaluation: Mapping[str, Any]) -> list[str]:
    """Says how far the model is ahead of the best baseline, also on discoveries, and in which slices not.

    Args:
        evaluation: as in evaluation.json.
    """
    judged = f"recall@{cutoff_of(evaluation)}"
    recall, best = evaluation["metrics"]["test"].get(judged), best_baseline(evaluation, judged)
    if recall is None or best is None:
        return []
    lift = ((evaluation.get("changes") or {}).get(best) or {}).get(judged) or {}
    change = recall - evaluation["baselines"][best][judged]
    beside = _beside(best, change, lift)
    sentences = [f"{judged.capitalize()} is {number(recall, 4)}, {beside}."]
    slices = evaluation.get("slices") or {}
    discovery = slices.get(DISCOVERY) or {}
    of_discovery = discovery.get("lift") or {}
    if of_discovery.get("change") is not None and (slices.get(REPEAT) or {}).get("labels"):
        of_model = discovery["metrics"][MODEL][judged]
        beside = _beside(of_discovery["baseline"], of_discovery["change"], of_discovery, " there")
        sentences.append(f"On labels that their user had not played, it is {number(of_model, 4)}, {beside}.")
    behind = [
        f"{name} ({label(one['lift']['baseline'])} by {number(-one['lift']['change'], 4)}"
        + (f", {bounds}" if (bounds := _bounds(one["lift"], sign=-1)) else "")
        + ")"
        for name, one in slices.items()
        if one.get("lift") and (one["lift"]["change"] or 0) < 0
    ]
    if behind:
        count = f"{len(behind)} slices" if len(behind) > 1 else "one slice"
        sentences.append(f"A baseline is ahead in {count}: {'; '.join(behind)}.")
    elif any(one.get("lift") for one in slices.values()):
        sentences.append("No baseline is ahead in any slice.")
    return sentences


def _beside(baseline: str, change: float, lift: Mapping[str, Any], there: str = "") -> str:
    sign = -1 if change < 0 else 1
    side = "below" if change < 0 else "above"
    bounds = _bounds(lift, sign)
    found = f"{number(abs(change), 4)} {side} {label(baseline)}, the best baseline{there}"
    return f"{found} ({bounds})" if bounds else found


def _bounds(change: Mapping[str, Any], sign: int) -> str:
    """Formats the bounds of a change, or of its negative."""
    low, high = change.get("low"), change.get("high")
    if low is None or high is None:
        return ""
    return interval(sorted([sign * low, sign * high]), 4)
