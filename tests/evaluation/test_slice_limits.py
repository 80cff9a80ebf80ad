"""Limits of single slices: judged by the slice's own interval, and refused where there is no such slice."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.judged_queries import CUTOFF, Asked, evaluation_of
from two_tower.base.errors import UserError
from two_tower.evaluation.gate import judge as gate
from two_tower.evaluation.gate.evidence import Evidence
from two_tower.evaluation.gate.slice_changes import recall_by_query
from two_tower.evaluation.query_results import QueryResults
from two_tower.evaluation.settings import GateConfig

LIMITS = GateConfig(cutoff=CUTOFF, min_recall=0.2)


@pytest.fixture(scope="module")
def good() -> QueryResults:
    asked = Asked(seed=1, users=300)
    return asked.results(asked.ranks(), blessed_model=asked.ranks())


def judged(results: QueryResults, limits: GateConfig) -> gate.Judgement:
    return gate.judge(evaluation_of(results), limits, results)


def missed(judgement: gate.Judgement) -> list[str]:
    return [threshold.name for threshold in judgement.thresholds if not threshold.ok]


def test_a_limit_of_a_single_slice(good: QueryResults) -> None:
    recall = float(np.nanmean(recall_by_query(good, "model", CUTOFF, good.slices["cold"])))
    holds = judged(good, dataclasses.replace(LIMITS, slices=("cold=0.05",)))
    (cold,) = (t for t in holds.thresholds if t.name == "slices.cold")
    assert cold.ok and cold.value == pytest.approx(recall)
    measured = Evidence(evaluation_of(good), LIMITS, good)
    assert (cold.low, cold.high) == measured.interval(part="cold") != measured.interval()
    fails = judged(good, dataclasses.replace(LIMITS, slices=("group 1=0.05", f"cold={recall}")))
    assert missed(fails) == ["slices.cold"]
    assert fails.refusal is not None and fails.refusal["slice"] == "cold"
    with pytest.raises(UserError, match=r"the slice 'gold', which .* nearest is 'cold' of active, cold"):
        judged(good, dataclasses.replace(LIMITS, slices=("gold=0.05",)))
    # However far it is.
    with pytest.raises(UserError, match=r"the slice 'QQ', .*; the nearest is '[a-z0-9 ]+' of active, cold"):
        judged(good, dataclasses.replace(LIMITS, slices=("QQ=0.05",)))


def test_a_slice_that_there_cannot_be_is_told_before_a_run() -> None:
    limits = ("cold=0.1", "popularity_3=0.1", "new_users=0", "user_gender=f=0.2", "history_2_5=0.1")
    gate.check_slice_names(dataclasses.replace(LIMITS, slices=limits), ["user_gender"])
    # A column's value may hold the sign.
    gate.check_slice_names(dataclasses.replace(LIMITS, slices=("tag=a=b=0.2",)), ["tag"])
    named = "head, middle, tail, cold, trending, heard, new_users, repeat, popularity_1, activity_1, ..."
    for columns, told in (
        ([], named),
        (["user_gender", "tag"], f"{named} or of a configured column (user_gender, tag)"),
    ):
        for wrong in ("gold", "user_age=f"):
            with pytest.raises(UserError) as refused:
                gate.check_slice_names(dataclasses.replace(LIMITS, slices=(f"{wrong}=0.1",)), columns)
            assert str(refused.value) == (
                f"gate.slices limits the slice {wrong!r}, which no evaluation has. Take one of {told}. "
                "report.md lists all slices of an evaluation."
            )
