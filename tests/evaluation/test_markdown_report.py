from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests import synthetic_evaluation
from two_tower.evaluation.report.glossary import shortfall
from two_tower.evaluation.report.markdown_report import render


@pytest.fixture(scope="module")
def evaluation() -> dict[str, Any]:
    found, _ = synthetic_evaluation.evaluation_and_results()
    return found


def refused(evaluation: dict[str, Any], title: str, slice_name: str) -> dict[str, Any]:
    label = {"item_id": 31, "title": title, "artist": None, "tags": None}
    example = {"query": 1, "user": 4, "label_item": 31, "rank": None, "found_by": "blessed_model",
               "found_at": 3, "in_slice": True, "label": label}  # fmt: skip
    worst = {"name": "min_slice_change", "value": -0.1, "limit": -0.02, "ok": False, "low": -0.2,
             "high": -0.01, "note": f"worst slice: {slice_name}", "direction": "min"}  # fmt: skip
    return {
        **evaluation,
        "verdict": "refused",
        "slices": {slice_name: next(iter(evaluation["slices"].values()))},
        "thresholds": [worst],
        "notes": [f"{slice_name} is small."],
        "refusal": {"slice": slice_name, "examples": [example]},
    }


@pytest.mark.parametrize(
    "evil",
    [
        "a|b",
        "a\\|b",
        "a\nb",
        "<img src=x onerror=alert(1)>",
        "[here](javascript:alert(1))",
        "`a` | `b`",
        "a\\",
    ],
)
def test_what_others_wrote_is_no_markup_and_ends_no_cell(evaluation: dict[str, Any], evil: str) -> None:
    report = render(refused(evaluation, evil, f"tags={evil}"))
    marked_up = re.sub(r"`[^`]*`", "", report.replace("\\`", ""))
    assert "<img" not in marked_up and not re.search(r"(?<!\\)\]\(", marked_up)
    table: list[int] = []
    for line in report.splitlines():
        if not line.startswith("|"):
            table = []
            continue
        cells = line.replace("\\\\", "").replace("\\|", "").count("|")
        assert not table or table[-1] == cells, line
        table.append(cells)
    assert "user A" in report


def test_a_setting_that_has_no_value_is_left_out(evaluation: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(evaluation))
    changed["baselines"]["ials"] |= {"factors": 64, "alpha": None}
    assert "factors 64" in render(changed) and "alpha" not in render(changed)


def test_a_value_that_reaches_its_limit_is_not_said_to_be_below_it(evaluation: dict[str, Any]) -> None:
    of_one_user = {"name": "min_recall", "value": 0.5, "limit": 0.2, "ok": False, "low": None, "high": None,
                   "note": "", "direction": "min"}  # fmt: skip
    assert "is 0.5000, but too few users prove the limit of 0.2000" in shortfall(of_one_user, evaluation)
    bounded = {**of_one_user, "low": 0.1, "high": 0.8}
    assert "with the lower bound below the limit of 0.2000" in shortfall(bounded, evaluation)


def test_bounds_of_all_slices_at_once_are_not_called_those_of_one(evaluation: dict[str, Any]) -> None:
    (worst,) = refused(evaluation, "Song", "cold")["thresholds"]
    assert "(interval -0.2000 to -0.0100)" in shortfall(worst, evaluation)
