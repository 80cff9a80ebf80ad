"""Explanation of a refusal: the slice that lost most, and labels that were found before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from two_tower.evaluation.gate.refusal import examples, worst
from two_tower.evaluation.gate.slice_changes import SliceChange, recall_by_query, slice_changes
from two_tower.evaluation.queries import LabelSets
from two_tower.evaluation.query_results import QueryResults
from two_tower.evaluation.uncertainty import UserSample


def change(name: str, value: float, low: float, high: float) -> SliceChange:
    return SliceChange(name, 100, value, low, high)


def test_a_proven_loss_explains_more_than_a_greater_one_that_may_be_noise() -> None:
    noisy, proven = change("noisy", -0.3, -0.7, 0.1), change("proven", -0.1, -0.15, -0.05)
    smaller, gain = change("smaller", -0.05, -0.09, -0.01), change("gain", 0.2, 0.1, 0.3)
    assert worst([gain, noisy, smaller, proven]) == proven
    assert worst([gain, noisy]) == noisy
    # An upper bound of zero proves nothing.
    assert worst([noisy, change("at zero", -0.1, -0.2, 0.0)]) == noisy
    assert worst([gain]) == gain and worst([]) is None


def results(user: Any, ours: Any, theirs: Any, in_slice: Any = ()) -> QueryResults:
    """Returns results of one label a query, whose item is 100 and the query's number."""
    ranks = {"model": np.asarray(ours, np.float32), "other": np.asarray(theirs, np.float32)}
    mask = np.isin(np.arange(len(ours)), in_slice)
    labels = LabelSets.of_one(100 + np.arange(len(ours)))
    return QueryResults(np.asarray(user, np.int32), labels, ranks, {"part": mask})


INF = np.inf


def test_examples_are_labels_that_the_other_found_within_the_first_k() -> None:
    found = results([0, 1, 2, 3, 4], ours=[INF, 11, 10, 12, 40], theirs=[10, 2, 1, 11, 1])
    told = examples(found, "model", "other", 10, None)
    assert told == [
        {"query": 4, "user": 4, "label_item": 104, "rank": 40, "found_by": "other", "found_at": 1,
         "in_slice": False},
        {"query": 1, "user": 1, "label_item": 101, "rank": 11, "found_by": "other", "found_at": 2,
         "in_slice": False},
        {"query": 0, "user": 0, "label_item": 100, "rank": None, "found_by": "other", "found_at": 10,
         "in_slice": False},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("in_slice", "expected"),
    [
        # Eight of the slice and two of the rest, where both have enough.
        (range(12), [*range(8), 12, 13]),
        # Where the rest has fewer, more of the slice.
        (range(19), [*range(8), 19, 8]),
        # Where the slice has fewer, more of the rest.
        (range(3), [*range(3), *range(3, 10)]),
        ([], range(10)),
    ],
)
def test_most_examples_are_of_the_slice(in_slice: Any, expected: Any) -> None:
    found = results(np.arange(20), [INF] * 20, 1 + np.arange(20), in_slice)
    told = examples(found, "model", "other", 20, "part")
    assert [one["query"] for one in told] == list(expected)
    assert [one["in_slice"] for one in told] == [one["query"] in in_slice for one in told]


def test_a_user_gives_one_example_that_of_the_slice_first_and_the_best_found() -> None:
    found = results([7, 7, 7, 8], [INF] * 4, [1, 3, 2, 9], in_slice=[1, 2])
    assert [one["query"] for one in examples(found, "model", "other", 10, "part")] == [2, 3]


def test_bounds_of_skewed_changes_lie_on_their_own_sides() -> None:
    """Checks the two tails apart: few users lose much, and most lose nothing."""
    users = 400
    lost = np.arange(users) % 20 == 0
    found = results(np.arange(users), np.where(lost, INF, 1), np.ones(users))
    found.slices["part"][:] = True
    (one,) = slice_changes(found, "model", "other", 10, UserSample(np.arange(users)), 50, 4_000)
    assert (one.name, one.users) == ("part", users) and one.change == pytest.approx(-0.05)
    # Resampled means of rare losses reach further down than up. So the truth may lie further up than down.
    means = np.sort(np.random.default_rng(1).binomial(users, 0.05, 100_000) / -users)
    deviations = means[[1_000, -1_000]] - one.change
    assert -deviations[0] > deviations[1] + 0.002
    assert one.low == pytest.approx(one.change - deviations[1], abs=0.001)
    assert one.high == pytest.approx(one.change - deviations[0], abs=0.001)


def test_recall_of_a_slice_is_over_its_own_labels() -> None:
    labels = LabelSets(np.arange(5), np.array([0, 2, 3, 5]))
    ranks = np.array([1, INF, 11, 10, 2], np.float32)
    found = QueryResults(np.arange(3, dtype=np.int32), labels, {"model": ranks}, {})
    np.testing.assert_array_equal(recall_by_query(found, "model", 10), [0.5, 0, 1])
    chosen = np.array([False, True, False, False, True])
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(recall_by_query(found, "model", 10, chosen), [0, np.nan, 1])


def test_a_slice_of_as_many_users_as_are_asked_for_is_compared_over_its_own_labels() -> None:
    """Compares queries of two labels, of which the slice holds one; none of its changes varies."""
    users = 20
    labels = LabelSets(np.arange(2 * users), np.arange(0, 2 * users + 1, 2))
    first = np.arange(2 * users) % 2 == 0
    ranks = {
        "model": np.where(first, 1, INF).astype(np.float32),
        "other": np.where(first, INF, 1).astype(np.float32),
    }
    found = QueryResults(np.arange(users, dtype=np.int32), labels, ranks, {"first": first, "second": ~first})
    sample = UserSample(np.arange(users))
    changes = slice_changes(found, "model", "other", 10, sample, users, 50)
    assert changes == [
        SliceChange("first", users, 1.0, 1.0, 1.0),
        SliceChange("second", users, -1.0, -1.0, -1.0),
    ]
    assert slice_changes(found, "model", "other", 10, sample, users + 1, 50) == []
    assert slice_changes(found, "model", "other", 10, sample, users, 50, 3) == changes


def test_an_unvarying_slice_beside_a_varying_one_has_bounds() -> None:
    ours = np.where(np.arange(40) % 3 == 0, INF, 1)
    found = results(np.arange(40), ours, np.ones(40), in_slice=np.arange(40))
    found.slices["alike"] = np.arange(40) % 3 == 1
    varying, alike = slice_changes(found, "model", "other", 10, UserSample(np.arange(40)), 5, 200)
    assert varying.low < varying.change < varying.high
    assert (alike.low, alike.change, alike.high) == (0, 0, 0)
