"""The list of thresholds: each is a setting or brings its own limit, and reports know each by its words."""

from __future__ import annotations

import dataclasses
import math

import pytest

from two_tower.evaluation.gate.outcome import (
    AT_LEAST,
    AT_MOST,
    lower_bound_reaches,
    no_significant_loss,
    value_reaches,
    value_stays_within,
)
from two_tower.evaluation.gate.thresholds import THRESHOLDS, Measured, Threshold, Unit, threshold_of, unit_of
from two_tower.evaluation.report.glossary import threshold_meaning
from two_tower.evaluation.settings import GateConfig

# Settings of the gate that are no limit: the k, and the size of slices.
NO_LIMITS = {"cutoff"}


def test_every_limit_of_the_gate_is_a_threshold() -> None:
    limits = {field.name for field in dataclasses.fields(GateConfig)} - NO_LIMITS
    assert limits <= {one.name for one in THRESHOLDS}
    assert len({one.name for one in THRESHOLDS}) == len(THRESHOLDS)


@pytest.mark.parametrize("threshold", THRESHOLDS, ids=lambda one: one.name)
def test_a_threshold_judges_by_its_limit_and_direction(threshold: Threshold) -> None:
    config = GateConfig()
    limit = threshold.judged(Measured(0.0, limit=0.3 if threshold.name == "slices" else None), config).limit
    for value, ok in ((limit + 0.1, True), (limit - 0.1, False), (math.nan, False)):
        outcome = threshold.judged(Measured(value, limit=limit), config)
        expected = ok if threshold.direction == AT_LEAST or math.isnan(value) else not ok
        assert outcome.ok == expected and outcome.direction == threshold.direction


@pytest.mark.parametrize("threshold", THRESHOLDS, ids=lambda one: one.name)
def test_reports_say_what_a_threshold_is_of(threshold: Threshold) -> None:
    outcome = {"name": threshold.name, "note": "why"}
    meaning = threshold_meaning(outcome, {"cutoff": 20})
    assert meaning.endswith(" (why)") and "{" not in meaning and threshold.name not in meaning
    assert unit_of(outcome) is threshold.unit


def test_names_of_other_versions_are_shown_as_they_are() -> None:
    assert threshold_of("min_luck") is None and unit_of({"name": "min_luck"}) is Unit.SHARE
    assert threshold_meaning({"name": "min_luck"}, {}) == "min_luck"
    slice_threshold = threshold_of("slices.user_gender=f")
    assert slice_threshold is not None and slice_threshold.name == "slices"
    assert threshold_meaning({"name": "slices.a.b"}, {"cutoff": 9}) == "Recall@9 in the slice a.b"


def test_the_rules() -> None:
    assert value_reaches("a", 0.2, 0.2, (0.0, 0.1)).ok and not value_reaches("a", 0.1, 0.2).ok
    assert value_stays_within("a", 0.2, 0.2).ok and value_stays_within("a", 0.2, 0.2).direction == AT_MOST
    assert lower_bound_reaches("a", 0.3, 0.2, (0.2, 0.4)).ok
    low = lower_bound_reaches("a", 0.3, 0.2, (0.1, 0.4))
    assert not low.ok and low.note == "its lower bound is below the limit"
    found = no_significant_loss("a", -0.3, -0.1, (-0.7, 0.1))
    assert (
        found.ok
        and found.note == "no more than noise; the smallest loss that these queries can show is 0.4000"
    )
    assert not no_significant_loss("a", -0.3, -0.1, (-0.7, -0.1)).ok
    assert no_significant_loss("a", -0.05, -0.1, (-0.07, -0.01)).ok, "a loss that is allowed"
    # Above zero the limit is a gain.
    assert not no_significant_loss("a", 0.3, 0.1, (0.0, 0.4)).ok
