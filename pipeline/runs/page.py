"""HTML report of a run: replaces the evaluator's own page after the run.

The evaluator draws a page too, but without times and settings, and before the rest of the run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.evaluation import stored_evaluation
from two_tower.pipeline.runs.report import collect
from two_tower.pipeline.runs.stored_runs import EVALUATOR, TRAINER
from two_tower.pipeline.settings import pipeline_config, run_file

_OF_RUN = ("run", "output", "components", "settings", "pushed_model", "in_service", "service")


def collect_with_page(output: str, examples: bool = True, path: str | None = None) -> dict[str, Any]:
    """Collects the report (`report.collect`) and draws its page.

    Args:
      output: the --output of runs.
      examples: True shows users under pseudonyms. False also removes them from the evaluation: from
        examples.json, from the explanation of a refusal, and from the reports beside it.
      path: path of the page; None replaces the evaluator's own page.

    Returns:
      The report, in which `page` is the page's path, or None without an evaluation.

    Raises:
      UserError: there is no run, or the page cannot be written to `path`.
    """
    report = collect(output)
    report["page"] = draw(report, examples, path)
    if not examples and report.get("refusal"):
        report["refusal"] = {**report["refusal"], "examples": []}
    return report


def draw(report: Mapping[str, Any], examples: bool = True, path: str | None = None) -> str | None:
    """Draws the page of a report by `collect`; see `collect_with_page`."""
    uris = report["artifacts"].get(EVALUATOR, {}).get("evaluation", [])
    if not uris or not report["verdict"]:
        return None
    # A slow import, which a run without an evaluation does not need.
    from two_tower.evaluation.report.materials import REPORT_FILE

    directory = uris[0]
    curves = next(iter(report["artifacts"].get(TRAINER, {}).get("model_run", [])), "")
    run = {
        **{name: report[name] for name in _OF_RUN},
        "not_pushed_because": report.get("not_pushed_because"),
        "changed": changed_settings(report["settings"]),
    }
    own = storage.join(directory, REPORT_FILE)
    target = path or own
    try:
        page = _drawn(directory, run, curves, examples)
        # Without examples the evaluator's own page is replaced too.
        for place in {target} if examples else {target, own}:
            storage.write_whole(place, page)  # a kill leaves the old page
    except (OSError, ValueError) as error:
        if path or not examples:
            raise UserError(
                f"{target}: the report cannot be written ({error}). Name another path."
            ) from error
        return None  # a missing or read-only evaluation does not fail the run
    return target if "://" in target else os.path.abspath(target)


def _drawn(directory: str, run: Mapping[str, Any], curves: str, examples: bool) -> str:
    """Draws a page; without examples, those in the evaluation's directory are removed.

    Raises:
      OSError: a file cannot be read or written.
      UserError: the evaluation has a key or value that cannot be shown.
    """
    from two_tower.evaluation.report import report_files
    from two_tower.evaluation.report.html_page import render
    from two_tower.evaluation.report.materials import Materials

    try:
        if not examples:
            report_files.remove_examples(directory)
        return render(Materials.read(directory, run, curves), examples)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{storage.join(directory, stored_evaluation.FILE_NAME)}: a report cannot show this evaluation "
            f"({type(error).__name__}: {error}). Its key or value is damaged, or of another release. Run the "
            "pipeline again."
        ) from error


def changed_settings(given: Mapping[str, Any]) -> list[str]:
    """Returns the names of settings that differ from this version's defaults."""
    defaults = pipeline_config.settings(run_file.load())
    return [
        name
        for name, value in given.items()
        if pipeline_config.is_setting(name) and value != _as_json(defaults.get(name))
    ]


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
