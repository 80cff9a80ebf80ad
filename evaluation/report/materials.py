"""Materials of the HTML report: evaluation.json and files beside it, each of which may be absent."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from two_tower.base import json_text, storage
from two_tower.evaluation import stored_evaluation
from two_tower.evaluation.query_results import FILE_NAME, QueryResults
from two_tower.evaluation.report.examples import EXAMPLES_FILE
from two_tower.evaluation.report.item_map import MAP_FILE

EVALUATION_FILE = "evaluation.json"
REPORT_FILE = "report.html"
# As the Trainer writes them; the evaluator copies them.
CURVES_FILE = "training_curves.json"


@dataclasses.dataclass(frozen=True)
class Materials:
    """Everything that the page may show.

    Attributes:
        evaluation: evaluation.json, of this version or an earlier one.
        results: queries.npz.
        examples: examples.json.
        item_map: item_map.json.
        curves: training_curves.json.
        run: facts of the whole run, which an evaluator does not know. `run` is its name, and `output` its
            directory. `components` are as in `pipeline.runs.report.collect`. `settings` are by dotted name,
            and `changed` names those that are not the defaults. `pushed_model` is the directory of its pushed
            model; `not_pushed_because` is the reason if there is none.
    """

    evaluation: Mapping[str, Any]
    results: QueryResults | None = None
    examples: Sequence[Mapping[str, Any]] = ()
    item_map: Mapping[str, Any] | None = None
    curves: Mapping[str, Any] | None = None
    run: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, directory: str, run: Mapping[str, Any] | None = None, curves: str = "") -> Materials:
        """Reads an evaluation's directory.

        Args:
            directory: a path or URL.
            run: see the attribute.
            curves: a directory with training_curves.json, if it is not beside the evaluation.

        Raises:
            UserError: evaluation.json cannot be read. Other files that cannot be read are left out.
        """
        evaluation = stored_evaluation.read(directory, for_report=True)
        found = _json(directory, CURVES_FILE) or (_json(curves, CURVES_FILE) if curves else None)
        return cls(
            evaluation=evaluation,
            results=_results(storage.join(directory, FILE_NAME)),
            examples=_json(directory, EXAMPLES_FILE) or (),
            item_map=_json(directory, MAP_FILE),
            curves=found,
            run=run,
        )


def _json(directory: str, name: str) -> Any:
    try:
        with storage.open_file(storage.join(directory, name), "r") as file:
            return json_text.parse(file.read())
    except (OSError, ValueError):
        return None


def _results(path: str) -> QueryResults | None:
    try:
        with storage.open_file(path, "rb") as file:
            return QueryResults.read(file)
    except (OSError, ValueError):
        return None
