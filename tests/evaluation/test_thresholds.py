"""The list of thresholds: each is a setting or brings its own limit, and reports know each by its words."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from two_tower.evaluation.gate.outcome import (
    AT_LEAST,
    AT_MOST,
    Outcome,
    lower_bound_reaches,
    no_significant_loss,
    upper_bound_reaches,
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


NAN, INF = math.nan, math.inf
LOWER, FEW = "its lower bound is below the limit", "too few users to know its noise"
NOISE, LOSS = "no more than noise", "more than noise"


def shows(loss: str) -> str:
    return f"the smallest loss that these queries can show is {loss}"


# Rule, value, limit, interval, whether it holds, and the note behind the given one.
CASES: list[tuple[Any, float, float, Any, bool, str]] = [
    (value_reaches, 0.2, 0.2, (0.0, 0.1), True, ""),
    (value_reaches, 0.19, 0.2, (0.3, 0.4), False, ""),
    (value_reaches, NAN, 0.2, None, False, ""),
    (value_reaches, INF, 0.2, None, False, ""),
    (value_stays_within, 0.2, 0.2, (0.3, 0.4), True, ""),
    (value_stays_within, 0.21, 0.2, None, False, ""),
    (value_stays_within, NAN, 0.2, None, False, ""),
    (value_stays_within, -INF, 0.2, None, False, ""),
    (lower_bound_reaches, 0.3, 0.2, (0.2, 0.4), True, ""),
    (lower_bound_reaches, 0.3, 0.2, (0.19, 0.4), False, LOWER),
    (lower_bound_reaches, 0.2, 0.2, (0.1, 0.4), False, LOWER),
    (lower_bound_reaches, 0.1, 0.2, (0.0, 0.4), False, ""),
    (lower_bound_reaches, 0.3, 0.2, (NAN, NAN), False, FEW),
    (lower_bound_reaches, NAN, 0.2, (0.3, 0.4), False, ""),
    (lower_bound_reaches, 0.2, 0.2, None, True, ""),
    (lower_bound_reaches, 0.19, 0.2, None, False, ""),
    (upper_bound_reaches, 0.2, 0.2, (0.1, 0.19), True, ""),
    (upper_bound_reaches, 0.2, 0.2, (0.1, 0.3), True, ""),
    (upper_bound_reaches, 0.1, 0.2, (0.0, 0.2), True, "no more than noise below the limit"),
    (upper_bound_reaches, 0.1, 0.2, (0.0, 0.19), False, ""),
    (upper_bound_reaches, 0.1, 0.2, (NAN, NAN), False, ""),
    (upper_bound_reaches, 0.1, 0.2, (0.0, INF), False, ""),
    (upper_bound_reaches, NAN, 0.2, (0.1, 0.3), False, ""),
    (upper_bound_reaches, 0.2, 0.2, None, True, ""),
    (upper_bound_reaches, 0.19, 0.2, None, False, ""),
    (no_significant_loss, -0.3, -0.1, (-0.7, 0.0), True, f"{NOISE}; {shows('0.3000')}"),
    # The upper bound is held against zero, not against the limit.
    (no_significant_loss, -0.3, -0.1, (-0.5, -0.05), False, f"{LOSS}; {shows('0.2500')}"),
    (no_significant_loss, -0.1, -0.1, (-0.2, -0.01), True, shows("0.0900")),
    (no_significant_loss, -0.3, -0.1, (NAN, NAN), False, LOSS),
    (no_significant_loss, 0.0, -0.1, (0.0, 0.0), True, ""),
    (no_significant_loss, NAN, -0.1, (-0.2, 0.2), False, ""),
    (no_significant_loss, 0.3, -0.1, (0.2, INF), True, ""),
    (no_significant_loss, -0.1, -0.1, None, True, ""),
    (no_significant_loss, -0.2, -0.1, None, False, ""),
    (no_significant_loss, -0.1, 0.0, (-0.2, 0.1), True, f"{NOISE}; {shows('0.2000')}"),
    # Above zero the limit is a gain.
    (no_significant_loss, 0.3, 0.1, (0.0, 0.4), False, LOWER),
    (no_significant_loss, 0.3, 0.1, (0.1, 0.4), True, ""),
]


@pytest.mark.parametrize(("rule", "value", "limit", "interval", "ok", "note"), CASES)
def test_the_rules(rule: Any, value: float, limit: float, interval: Any, ok: bool, note: str) -> None:
    uses_bounds = interval is not None and rule not in (value_reaches, value_stays_within)
    low, high = (bound if math.isfinite(bound) else None for bound in interval or (NAN, NAN))
    expected = Outcome(
        "a", value, limit, ok, note, low if uses_bounds else None, high if uses_bounds else None,
        AT_MOST if rule is value_stays_within else AT_LEAST,
    )  # fmt: skip
    assert repr(rule("a", value, limit, interval)) == repr(expected)  # a NaN equals none
    told = rule("a", value, limit, interval, "given").note
    assert told == (f"given; {note}" if note else "given")
    assert expected.to_dict()["value"] == (value if math.isfinite(value) else None)
