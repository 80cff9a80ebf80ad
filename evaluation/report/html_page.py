"""The HTML report: one self-contained page, put together from its sections."""

from __future__ import annotations

import re
from typing import Any

import jinja2
from markupsafe import Markup, escape

from two_tower.evaluation.report import (
    section_index,
    section_metrics,
    section_run,
    section_slices,
    section_verdict,
)
from two_tower.evaluation.report.formats import interval, number
from two_tower.evaluation.report.glossary import cutoff_of, question
from two_tower.evaluation.report.materials import Materials


def render(materials: Materials, examples: bool = True) -> str:
    """Renders the page.

    Args:
        materials: files that the page shows.
        examples: shows users under pseudonyms; without it neither users nor their plays appear.
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
    k = cutoff_of(evaluation)
    users = materials.examples if examples else []
    sections: dict[str, Any] = {
        "verdict": section_verdict.verdict(evaluation, materials.run),
        "thresholds": section_verdict.thresholds(evaluation),
        "refusal": section_verdict.refusal(evaluation, examples),
        "recall": section_metrics.recall(materials, k),
        "metrics": section_metrics.metrics(evaluation),
        "slices": section_slices.slices(evaluation, k),
        "index": section_index.index(evaluation, k),
        "training": section_index.training(materials.curves),
        "popularity": section_slices.popularity(evaluation, k),
        "users": [{**one, "outcome": section_run.outcome(one)} for one in users],
        "map": section_run.item_map(materials.item_map),
        "oracle": section_run.oracle(evaluation),
        "run": section_run.run(materials.run),
    }
    style, _, _ = environment.loader.get_source(environment, "style.css")  # type: ignore[union-attr]
    return environment.get_template("page.html.j2").render(
        style=Markup(style), evaluation=evaluation, k=k, question=question(evaluation), **sections
    )


def _code(text: str) -> Markup:
    """Marks text between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
