from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.synthetic_evaluation import evaluation_and_results, write
from two_tower.base.errors import UserError
from two_tower.evaluation.queries import LabelSets
from two_tower.evaluation.query_results import QueryResults
from two_tower.pipeline.runs.comparison import compare, render
from two_tower.pipeline.runs.judged_again import judge_again

Evaluated = tuple[dict[str, Any], QueryResults]


@pytest.fixture(scope="module")
def before() -> Evaluated:
    return evaluation_and_results()


@pytest.fixture(scope="module")
def worse() -> Evaluated:
    """The same queries with a model that ranks labels twice as deep."""
    return evaluation_and_results(shift=2.0)


def directories(tmp_path: Path, *evaluated: tuple[dict[str, Any], QueryResults | None]) -> list[str]:
    return [str(write(tmp_path / str(place), *one)) for place, one in enumerate(evaluated)]


def test_of_the_same_queries_a_worse_model_differs_and_an_equal_one_does_not(
    tmp_path: Path, before: Evaluated, worse: Evaluated
) -> None:
    a, b = directories(tmp_path, before, worse)
    found = compare(a, b)
    recall = found["metrics"]["recall@100"]
    assert found["how"] == "paired" and found["notes"] == []
    assert recall["differs"] and recall["change"] == recall["b"] - recall["a"] < 0
    assert recall["low"] <= recall["change"] <= recall["high"] < 0
    assert found["slices"][0]["change"] == min(row["change"] for row in found["slices"])
    again = compare(a, a)
    assert again["metrics"]["recall@100"]["differs"] is False
    assert {row["change"] for row in again["slices"]} == {0.0}
    text = render(found)
    assert "Both runs have the same queries" in text and "Settings are unknown: one side is" in text
    assert json.loads(json.dumps(found)) == found


def test_of_other_queries_it_is_said_that_intervals_are_wide(tmp_path: Path, before: Evaluated) -> None:
    other = evaluation_and_results(seed=4)
    found = compare(*directories(tmp_path, before, other))
    assert found["how"] == "unpaired"
    assert any("different test queries" in note for note in found["notes"])
    recall = found["metrics"]["recall@100"]
    assert recall["low"] < recall["change"] < recall["high"]
    assert recall["high"] - recall["low"] > 0.02


def test_an_evaluation_without_its_queries_has_no_intervals(tmp_path: Path, before: Evaluated) -> None:
    a, b = directories(tmp_path, before, (before[0], None))
    found = compare(a, b)
    assert found["how"] == "values" and found["metrics"]["recall@100"]["differs"] is None
    assert any(b in note for note in found["notes"])


def test_other_data_and_cutoffs_are_said_and_no_crash(tmp_path: Path, before: Evaluated) -> None:
    changed = copy.deepcopy(before[0]) | {"dataset": "other", "cutoff": 20}
    changed["metrics"]["test"] = {"recall@20": 0.3, "mrr": 0.1}
    found = compare(*directories(tmp_path, before, (changed, None)))
    assert any("data sets differ: simulated-7 and other" in note for note in found["notes"])
    assert list(found["metrics"]) == ["mrr"] and found["slices"] == []
    changed["metrics"]["test"] = {"recall@20": 0.3}
    nothing = compare(*directories(tmp_path, before, (changed, None)))
    assert any("no metric in common" in note for note in nothing["notes"])
    assert render(nothing)


def test_a_place_without_a_run_is_named(tmp_path: Path, before: Evaluated) -> None:
    (there,) = directories(tmp_path, before)
    with pytest.raises(UserError, match="holds no run yet"):
        compare(there, str(tmp_path / "nowhere"))
    for broken in ("{", "[]", "{}", '{"metrics": 3}'):
        (tmp_path / "0" / "evaluation.json").write_text(broken)
        with pytest.raises(UserError, match=r"evaluation\.json: the evaluation cannot be read"):
            compare(there, there)


def test_who_has_which_number_makes_no_other_queries(tmp_path: Path, before: Evaluated) -> None:
    evaluation, results = before
    renumbered = dataclasses.replace(results, user=(results.user.max() - results.user).astype(np.int32))
    found = compare(*directories(tmp_path, before, (evaluation, renumbered)))
    assert found["how"] == "paired" and found["metrics"]["recall@100"]["differs"] is False


def test_of_a_single_user_nothing_is_said_to_differ(tmp_path: Path) -> None:
    a, b = (evaluation_and_results(users=1, queries=40, seed=seed) for seed in (1, 2))
    found = compare(*directories(tmp_path, a, b))
    assert found["how"] == "unpaired"
    assert {row["differs"] for row in found["metrics"].values()} == {None}


@pytest.mark.parametrize("size", [0, 10, 2_000])
def test_results_that_were_cut_off_are_none(tmp_path: Path, before: Evaluated, size: int) -> None:
    a, b = directories(tmp_path, before, before)
    whole = (tmp_path / "1" / "queries.npz").read_bytes()
    (tmp_path / "1" / "queries.npz").write_bytes(whole[:size])
    found = compare(a, b)
    assert found["how"] == "values" and any(b in note for note in found["notes"])


def test_results_without_a_query_are_none(tmp_path: Path, before: Evaluated) -> None:
    nothing = QueryResults(
        np.zeros(0, np.int32), LabelSets.of_one(np.zeros(0, np.int64)), {"model": np.zeros(0, np.float32)}, {}
    )
    a, b = directories(tmp_path, before, (before[0], nothing))
    assert compare(a, b)["how"] == "values"
    with pytest.raises(UserError, match=r"queries\.npz: .*0 queries, and evaluation\.json has 600"):
        judge_again(b)


def test_other_splits_are_told_by_their_times(tmp_path: Path, before: Evaluated) -> None:
    later = {**before[0], "split": {"train_end": 864_000, "eval": [0, 1], "test": [950_400, 1_036_800]}}
    text = render(compare(*directories(tmp_path, before, (later, None))))
    assert "with a test from day 11.00 of the data's own clock to day 12.00" in text and "950400" not in text
