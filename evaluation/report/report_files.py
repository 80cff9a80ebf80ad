"""Writing and clearing of the files for readers beside evaluation.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from two_tower.base import storage
from two_tower.evaluation.report.examples import EXAMPLES_FILE, ItemNames
from two_tower.evaluation.report.html_page import render as render_page
from two_tower.evaluation.report.item_map import MAP_FILE
from two_tower.evaluation.report.markdown_report import render as render_markdown
from two_tower.evaluation.report.materials import CURVES_FILE, EVALUATION_FILE, REPORT_FILE, Materials

MARKDOWN_FILE = "report.md"


def write_reports(
    directory: str,
    examples: Sequence[Mapping[str, Any]],
    item_map: Mapping[str, Any] | None,
    training_run: str | None = None,
) -> None:
    """Writes examples.json, item_map.json, training_curves.json, report.md and report.html.

    Args:
        directory: the evaluation's, with evaluation.json and queries.npz in it.
        examples: by `examples.example_users`; without any there is no examples.json.
        item_map: by `item_map.item_map`, if there is one.
        training_run: the directory of the Trainer's run, whose learning curves are kept beside the rest.
    """
    if examples:
        _write_json(directory, EXAMPLES_FILE, examples)
    if item_map is not None:
        _write_json(directory, MAP_FILE, item_map)
    materials = Materials.read(directory, curves=training_run or "")
    if materials.curves is not None:
        _write_json(directory, CURVES_FILE, materials.curves)
    _write(directory, MARKDOWN_FILE, render_markdown(materials.evaluation))
    _write(directory, REPORT_FILE, render_page(materials, examples=bool(examples)))


def named(refusal: Mapping[str, Any] | None, data: str, examples: bool) -> dict[str, Any] | None:
    """Adds `label`, the item as in examples.json, to each example of a refusal.

    Args:
        refusal: explanation by the gate's judgement.
        data: the data directory, for titles.
        examples: allows users to appear; without it only the slice is left.
    """
    if refusal is None:
        return None
    found = refusal.get("examples") or [] if examples else []
    names = ItemNames.read(data, [one["label_item"] for one in found]) if found else ItemNames()
    return {**refusal, "examples": [{**one, "label": names.of(one["label_item"])} for one in found]}


def remove_examples(directory: str) -> None:
    """Removes users from an evaluation: examples.json, and a refusal's examples, in report.md too.

    Raises:
        OSError, ValueError: the evaluation cannot be read or written.
    """
    with storage.open_file(storage.join(directory, EVALUATION_FILE), "r") as file:
        evaluation = json.load(file)
    if (evaluation.get("refusal") or {}).get("examples"):
        evaluation["refusal"]["examples"] = []
        # A damaged evaluation fails here, before anything is written.
        text = render_markdown(evaluation)
        _write_json(directory, EVALUATION_FILE, evaluation)
        _write(directory, MARKDOWN_FILE, text)
    storage.remove_file(storage.join(directory, EXAMPLES_FILE))


def _write_json(directory: str, name: str, content: Any) -> None:
    _write(directory, name, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _write(directory: str, name: str, text: str) -> None:
    with storage.open_file(storage.join(directory, name), "w") as file:
        file.write(text)
