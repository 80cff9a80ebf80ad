"""The HTML report of a run: drawn again once the whole run is known, in place of the evaluator's own.

The evaluator draws the page as well, but knows neither what the run took nor its settings, and what comes
after it in the run has not happened yet.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.pipeline.runs.report import EVALUATOR, TRAINER, collect
from two_tower.pipeline.settings import pipeline_config, run_file

# A setting that stands for others ("all") is written out for the components: it tells of no change.
_WRITTEN_OUT = ("features.history",)


def collect_with_page(output: str, examples: bool = True, path: str | None = None) -> dict[str, Any]:
    """`report.collect`, once more with the page drawn: `page` is where it is, or None without an evaluation.

    Args:
      output: the --output of runs.
      examples: whether users appear, under pseudonyms. Without it they are removed from the evaluation too:
        from examples.json, from what explains a refusal, and from the reports that lie there.
      path: where to write the page; None is beside the evaluation, in place of the evaluator's own.

    Raises:
      UserError: there is no run, or the page cannot be written where `path` says.
    """
    report = collect(output)
    report["page"] = draw(report, examples, path)
    return report


def draw(report: Mapping[str, Any], examples: bool = True, path: str | None = None) -> str | None:
    """Draws the page of a report by `collect`; see `collect_with_page`."""
    uris = report["artifacts"].get(EVALUATOR, {}).get("evaluation", [])
    if not uris or not report["verdict"]:
        return None
    # Slow to load, and of no use to a run that did not get as far.
    from two_tower.evaluation.report import report_files
    from two_tower.evaluation.report.html_page import render
    from two_tower.evaluation.report.materials import REPORT_FILE, Materials

    directory = uris[0]
    curves = next(iter(report["artifacts"].get(TRAINER, {}).get("model_run", [])), "")
    run = {
        **{name: report[name] for name in ("run", "output", "components", "settings", "pushed_model")},
        "not_pushed_because": report.get("not_pushed_because"),
        "changed": changed_settings(report["settings"]),
    }
    own = storage.join(directory, REPORT_FILE)
    target = path or own
    try:
        if not examples:
            report_files.remove_examples(directory)
        page = render(Materials.read(directory, run, curves), examples)
        # Who wants no users wants none in the evaluator's own page either.
        for place in {target} if examples else {target, own}:
            with storage.open_file(place, "w") as file:
                file.write(page)
    except (OSError, ValueError) as error:
        if path or not examples:
            raise UserError(f"{target}: the report cannot be written ({error}).") from error
        return None  # a run whose evaluation was cleared away, or lies where nobody may write, is still one
    return target if "://" in target else os.path.abspath(target)


def changed_settings(given: Mapping[str, Any]) -> list[str]:
    """Names of those that are not the defaults of this version."""
    defaults = pipeline_config.settings(run_file.load())
    return [
        name
        for name, value in given.items()
        if name in defaults and name not in _WRITTEN_OUT and value != _as_json(defaults[name])
    ]


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
