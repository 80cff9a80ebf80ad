"""Anchor of the gate: the best released model, against which small losses of many releases add up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def next_anchor(evaluation: Mapping[str, Any], model: str, anchor: str | None) -> str:
    """Returns the URI of the best released model, if the judged model is released.

    A released model takes the anchor's place if it finds as much as the anchor does on the same queries. An
    anchor that cannot be compared with gives its place to the model in service, or to the judged one.

    Args:
        evaluation: the content of evaluation.json.
        model: URI of the judged model.
        anchor: URI of the anchor until then; None where it is the model in service.
    """
    judged = f"recall@{evaluation['cutoff']}"
    recall = evaluation["metrics"]["test"].get(judged)
    for released in (evaluation["anchor"], evaluation["blessed_model"]):
        if released and released["eligible"]:
            theirs = released["metrics"].get(judged)
            is_better = recall is None or (theirs is not None and theirs > recall)
            return str(released["uri"]) if is_better else model
    return anchor if evaluation["unchanged"] and anchor is not None else model
