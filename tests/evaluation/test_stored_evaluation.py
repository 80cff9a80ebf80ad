"""A stored evaluation is read whole, or a sentence names the key at fault."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.synthetic_evaluation import evaluation_and_results, write
from two_tower.base.errors import UserError
from two_tower.evaluation import stored_evaluation
from two_tower.evaluation.query_results import QueryResults


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return json.loads(json.dumps(evaluation_and_results()[0]))


def test_what_the_evaluator_writes_is_read(whole: dict[str, Any], tmp_path: Path) -> None:
    assert stored_evaluation.read(str(write(tmp_path, whole, None))) == whole


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("metrics", None, "key 'metrics' is missing"),
        ("metrics", True, "key 'metrics' is True, and needs an object"),
        ("metrics.test", None, "key 'metrics.test' is missing"),
        ("metrics.test.recall@10", "x", "key 'metrics.test.recall@10' is 'x', and needs a number"),
        ("metrics.test.recall@10", 10**400, "key 'metrics.test.recall@10' is 10000000000"),
        ("baselines", 1e300, "key 'baselines' is 1e+300, and needs an object"),
        ("ann", -1, "key 'ann' is -1"),
        ("slices", {"a": {"b": 1}}, "key 'slices.a.metrics' is missing"),
        ("cutoff", [1], "key 'cutoff' is [1], and needs a whole number from 1 on"),
        ("thresholds", [{"name": "a"}], "key 'thresholds[0].ok' is missing"),
        ("queries", None, "key 'queries' is missing"),
        ("split", 10**18, "key 'split' is 1000000000000000000"),
        ("split.test", [1], "key 'split.test' is [1], and needs a list of 2"),
        ("intervals", {"model": {"recall@10": [0.1, "x"]}}, "key 'intervals.model.recall@10[1]' is 'x'"),
        ("changes", True, "key 'changes' is True"),
        ("latency", [1], "key 'latency' is [1]"),
        ("size", "text", "key 'size' is 'text'"),
        ("verdict", "good", "key 'verdict' is 'good'"),
    ],
)
def test_a_key_of_another_type_is_named(
    place: str, value: Any, told: str, whole: dict[str, Any], tmp_path: Path
) -> None:
    damaged = copy.deepcopy(whole)
    part = damaged
    *path, last = place.split(".")
    for step in path:
        part = part[step]
    part[last] = value
    with pytest.raises(UserError) as refused:
        stored_evaluation.read(str(write(tmp_path, damaged, None)), for_report=True)
    assert str(refused.value).startswith(f"{tmp_path}/evaluation.json: the evaluation cannot be read ({told}")


@pytest.mark.parametrize("content", ["", "[]", "null", "7", "{}", "[" * 100_000, '{"a":' * 100_000, "\xff"])
def test_what_is_no_evaluation_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"evaluation\.json: the evaluation cannot be read"):
        stored_evaluation.read(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("user", lambda values: values[:0], "labels are not those of 0 queries"),
        ("user", lambda values: values[:5], "labels are not those of 5 queries"),
        ("user", lambda values: values.astype(str), "user has the type <U"),
        ("label_query", lambda values: -1 - values, "labels are not those of 600 queries"),
        ("label_query", lambda values: values[::-1], "labels are not those of 600 queries"),
        ("rank/model", lambda values: values[:-5], "rank/model has 595 values for 600 labels"),
        (
            "rank/model",
            lambda values: values[None],
            r"rank/model has the type float32 and the shape \[1, 600\]",
        ),
        ("rank/model", lambda values: values * np.nan, "rank/model holds a value below 1, or none"),
        ("rank/model", lambda values: np.zeros_like(values), "rank/model holds a value below 1, or none"),
        ("slice/cold", lambda values: values.astype(int), "slice/cold has the type int64"),
    ],
)
def test_results_of_queries_that_do_not_fit_together_are_refused(
    name: str, change: Any, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "queries.npz"
    path.write_bytes(evaluation_and_results()[1].to_bytes())
    with np.load(path) as file:
        content = {**file}
    np.savez(path, **{**content, name: change(content[name])})
    with open(path, "rb") as file, pytest.raises(ValueError, match=told):
        QueryResults.read(file)
