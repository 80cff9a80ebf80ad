from __future__ import annotations

import io
import math

import numpy as np
import pytest

from tests.evaluation.test_slices import ASKED, RECOMMENDED
from two_tower.evaluation.metrics import label_ranks
from two_tower.evaluation.queries import LabelSets
from two_tower.evaluation.query_results import QueryResults, pseudonyms

RESULTS = QueryResults(
    np.array([1, 0, 1], np.int32),
    ASKED,
    {"model": label_ranks(RECOMMENDED, ASKED).astype(np.float32)},
    {"odd": ASKED.item_id % 2 == 1, "feature:genre=a/b": ASKED.item_id == 5},
)


def test_what_is_read_is_what_was_written() -> None:
    again = QueryResults.read(io.BytesIO(RESULTS.to_bytes()))
    assert again.user.tolist() == [1, 0, 1] and again.user.dtype == np.int32
    assert again.labels.item_id.tolist() == ASKED.item_id.tolist()
    assert again.labels.offsets.tolist() == ASKED.offsets.tolist()
    assert again.ranks["model"].tolist() == [2, math.inf, 4, math.inf, math.inf, 1]
    assert {name: labels.tolist() for name, labels in again.slices.items()} == {
        "odd": [True, False, True, True, False, True],
        "feature:genre=a/b": [False, False, False, False, False, True],
    }


def test_the_files_arrays_have_the_names_and_types_that_others_rely_on() -> None:
    with np.load(io.BytesIO(RESULTS.to_bytes())) as content:
        assert {name: content[name].dtype.name for name in content.files} == {
            "user": "int32",
            "label_query": "int32",
            "label_item": "int64",
            "rank/model": "float32",
            "slice/odd": "bool",
            "slice/feature:genre=a/b": "bool",
        }


def test_values_of_queries_are_those_of_their_labels_in_the_slice() -> None:
    found = RESULTS.values("model", (2, 4))
    assert found["recall@4"] == pytest.approx([2 / 3, 0, 1])
    assert found["hit_rate@2"].tolist() == [1, 0, 1]
    assert found["mrr"].tolist() == [0.5, 0, 1]
    odd = RESULTS.values("model", (2, 4), "odd")
    assert odd["recall@2"].tolist() == [0.5, 0, 1]
    one = RESULTS.values("model", (4,), "feature:genre=a/b")
    assert [math.isnan(value) for value in one["mrr"]] == [True, True, False]


def test_pseudonyms_tell_who_is_who_and_nothing_of_the_ids() -> None:
    users = np.arange(1_000).repeat(2) * 7
    found = pseudonyms(users, seed=1)
    assert (found[::2] == found[1::2]).all() and sorted(found[::2].tolist()) == list(range(1_000))
    assert found[::2].tolist() != list(range(1_000))
    assert (pseudonyms(users, seed=1) == found).all()


def test_nothing_was_asked() -> None:
    empty = QueryResults(np.empty(0, np.int32), LabelSets.of_one([]), {"model": np.empty(0, np.float32)}, {})
    again = QueryResults.read(io.BytesIO(empty.to_bytes()))
    assert len(again.labels) == 0 and len(again.values("model", (1,))["recall@1"]) == 0
