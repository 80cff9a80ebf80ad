"""Evidence of the gate and the explanation of a refusal: known values from made-up queries."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from tests.judged_queries import CUTOFF, Asked, evaluation_of
from two_tower.evaluation.gate.evidence import Evidence, best_baseline, number
from two_tower.evaluation.gate.judge import Judgement, _explained, judge
from two_tower.evaluation.gate.slice_changes import slice_changes
from two_tower.evaluation.queries import LabelSets
from two_tower.evaluation.query_results import QueryResults
from two_tower.evaluation.settings import GateConfig
from two_tower.evaluation.uncertainty import RESAMPLES, UserSample

CONFIG = GateConfig(cutoff=CUTOFF)


@pytest.fixture(scope="module")
def asked() -> Asked:
    return Asked(seed=3, users=60)


@pytest.fixture(scope="module")
def results(asked: Asked) -> QueryResults:
    worse_in_kind_3 = asked.ranks(np.where(asked.slices["kind 3"], -2.0, 0.3))
    return asked.results(worse_in_kind_3, blessed_model=asked.ranks(), anchor_model=asked.ranks(0.2))


def evidence(results: QueryResults | None, like: QueryResults, **changes: Any) -> Evidence:
    return Evidence(evaluation_of(like, **changes), CONFIG, results)


def test_an_interval_is_of_the_part_it_is_asked_for(results: QueryResults) -> None:
    found = evidence(results, results)
    bounds = [found.interval(), found.interval(part="kind 3"), found.interval(part="active")]
    assert len({bound for bound in bounds if bound is not None}) == 3
    for part in (None, "kind 3"):
        changes = found.interval("blessed_model", part)
        chosen = np.ones(len(results.user), bool) if part is None else results.slices[part]
        hits = {who: results.ranks[who][chosen] <= CUTOFF for who in ("model", "blessed_model")}
        change = hits["model"].mean() - hits["blessed_model"].mean()
        assert changes is not None and changes[0] < change < changes[1]
    assert (found.interval("blessed_model", "kind 3") or (0, 0))[1] < 0
    unknown = found.interval("nobody")
    assert unknown is not None and all(map(math.isnan, unknown))


def test_without_single_queries_there_is_no_interval_and_no_change(results: QueryResults) -> None:
    found = evidence(None, results)
    assert found.interval() is None and found.interval("blessed_model") is None
    assert found.slice_changes("blessed_model", 5) == [] and found.changes_against_blessed == []
    assert evidence(results, results).slice_changes("nobody", 5) == []


@pytest.mark.parametrize(
    ("made", "resamples", "seed"),
    [
        ({"resamples": 70, "seed": 5}, 70, 5),
        ({"resamples": 70}, 70, 17),
        ({"seed": 5}, RESAMPLES, 5),
        (None, RESAMPLES, 17),
    ],
)
def test_slices_are_resampled_as_the_evaluation_was(
    results: QueryResults, made: dict[str, int] | None, resamples: int, seed: int
) -> None:
    found = evidence(results, results, bootstrap=made).slice_changes("blessed_model", 10)
    sample = UserSample(results.user.astype(np.int64))
    assert found == slice_changes(
        results, "model", "blessed_model", CUTOFF, sample, 10, resamples=resamples, seed=seed
    )
    assert found != slice_changes(
        results, "model", "blessed_model", CUTOFF, sample, 10, resamples=resamples, seed=seed + 1
    )


def test_a_loss_in_a_slice_explains_a_loss_against_the_model_in_service(results: QueryResults) -> None:
    for reason in ("min_change_against_blessed", "min_slice_change"):
        found = _explained([reason], evidence(results, results))
        assert found is not None and found["slice"] == "kind 3" and found["examples"]
        assert {one["found_by"] for one in found["examples"]} == {"blessed_model"}


def test_only_slices_of_many_users_explain_a_loss_against_the_model_in_service(asked: Asked) -> None:
    """Checks for a large slice that lost little, beside one of few users that lost everything."""
    large = np.arange(len(asked)) % 3 > 0
    few = asked.user < 12
    worse = np.where(few | (large & (np.arange(len(asked)) % 2 > 0)), np.inf, 1).astype(np.float32)
    results = dataclasses.replace(
        asked.results(worse, blessed_model=np.ones(len(asked), np.float32)),
        slices={"few": few, "large": large},
    )
    found = _explained(["min_change_against_blessed"], evidence(results, results))
    assert found is not None and found["slice"] == "large"
    # Without a slice of many users the others have to do.
    of_few = dataclasses.replace(results, slices={"few": few})
    found = _explained(["min_change_against_blessed"], evidence(of_few, of_few))
    assert found is not None and found["slice"] == "few"


def test_a_loss_against_the_anchor_is_explained_by_the_anchor_s_slices() -> None:
    asked = Asked(seed=3, users=200)
    every, even = np.ones(len(asked), np.float32), np.arange(len(asked)) % 2 == 0
    nothing = np.full(len(asked), np.inf, np.float32)
    # The blessed model found what is lost in the one slice, the anchor what is lost in the other.
    blessed, anchor = np.where(even, every, nothing), np.where(even, nothing, every)
    results = dataclasses.replace(
        asked.results(nothing, blessed_model=blessed, anchor_model=anchor),
        slices={"even": even, "odd": ~even},
    )
    for reason, part in (("min_change_against_anchor", "odd"), ("min_change_against_blessed", "even")):
        found = _explained([reason], evidence(results, results))
        assert found is not None and found["slice"] == part


def test_a_change_in_a_slice_is_over_its_own_labels_of_both() -> None:
    users = 20
    labels = LabelSets(np.arange(2 * users), np.arange(0, 2 * users + 1, 2))
    first = np.arange(2 * users) % 2 == 0
    ranks = {
        "model": np.where(first, 1, np.inf).astype(np.float32),
        "blessed_model": np.where(first, np.inf, 1).astype(np.float32),
    }
    results = QueryResults(np.arange(users, dtype=np.int32), labels, ranks, {"first": first})
    found = Evidence({}, CONFIG, results)
    assert found.interval("blessed_model", "first") == (1.0, 1.0)
    assert found.interval("blessed_model") == (0.0, 0.0)


@pytest.mark.filterwarnings("error")
def test_values_that_differ_by_rounding_are_of_one_evaluation(
    results: QueryResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("two_tower.evaluation.gate.evidence._ROUNDING", 0.25)
    half = dataclasses.replace(
        results,
        user=results.user[:4],
        labels=LabelSets.of_one(np.arange(4)),
        ranks={name: np.array([1, 1, np.inf, np.inf], np.float32) for name in results.ranks},
        slices={},
    )
    for recorded, fault in ((0.75, None), (0.25, None), (0.76, "one of 0.5000"), (0.24, "one of 0.5000")):
        told = evidence(half, half, metrics={"test": {f"recall@{CUTOFF}": recorded}})
        if fault is None:
            told.check()
        else:
            with pytest.raises(ValueError, match=fault):
                told.check()
    # Nothing is known of no queries, and nothing contradicts it.
    none = dataclasses.replace(
        half,
        user=half.user[:0],
        labels=LabelSets.of_one(np.arange(0)),
        ranks={name: ranks[:0] for name, ranks in half.ranks.items()},
    )
    evidence(none, half).check()


def test_a_limited_slice_is_named_though_another_one_lost_more(results: QueryResults) -> None:
    found = _explained(["slices.cold"], evidence(results, results))
    assert found is not None and found["slice"] == "cold"


@pytest.mark.parametrize(
    ("refused", "by"),
    [
        (["min_recall"], "blessed_model"),
        (["min_recall", "min_ann_recall"], "best"),
        (["min_ann_recall"], "model_exact"),
        (["min_lift_over_best_baseline"], "best"),
        (["min_change_against_anchor"], "anchor_model"),
        (["min_lift_over_best_baseline", "min_change_against_blessed"], "blessed_model"),
        (["min_lift_over_best_baseline", "min_change_against_anchor"], "anchor_model"),
    ],
)
def test_who_explains_a_refusal(asked: Asked, refused: list[str], by: str) -> None:
    """Checks that labels which that recommender found are shown, where only one found them."""
    nothing = np.full(len(asked), np.inf, np.float32)
    names = {"blessed_model": 0, "anchor_model": 1, "model_exact": 2, "best": 3}
    each = {name: np.where(np.arange(len(asked)) % 4 == number, np.float32(1), np.float32(np.inf))
            for name, number in names.items()}  # fmt: skip
    results = asked.results(nothing, **each)
    anchor = {"eligible": True, "reason": "It is.", "uri": "runs/0", "metrics": {}}
    found = _explained(refused, evidence(results, results, anchor=anchor))
    assert found is not None and {one["found_by"] for one in found["examples"]} == {by}


def test_a_refusal_that_no_recommender_explains_shows_nothing(results: QueryResults) -> None:
    assert _explained(["max_latency_p95"], evidence(results, results)) == {"slice": None, "examples": []}
    assert _explained(["min_recall"], evidence(None, results)) is None
    without = dataclasses.replace(
        results, ranks={name: ranks for name, ranks in results.ranks.items() if name != "anchor_model"}
    )
    assert _explained(["min_change_against_anchor"], evidence(without, results)) == {
        "slice": None,
        "examples": [],
    }


def test_equal_answers_are_no_loss_in_any_slice(asked: Asked) -> None:
    ranks = asked.ranks()
    found = _explained(["min_recall"], evidence(same := asked.results(ranks, blessed_model=ranks), same))
    assert found == {"slice": None, "examples": []}
    better = asked.results(asked.ranks(2.0), blessed_model=asked.ranks())
    gained = _explained(["min_recall"], evidence(better, better))
    assert gained is not None and gained["slice"] is None


def test_notes_tell_what_did_not_apply_and_whose_noise_is_unknown(results: QueryResults) -> None:
    other = {"eligible": False, "reason": "It comes from other data.", "metrics": {}}
    measured = evaluation_of(results) | {"blessed_model": other, "anchor": None}
    known = judge(measured, CONFIG, results)
    unknown = judge(measured, CONFIG)
    noise = "Results of single queries are not at hand: values are judged without their noise."
    assert noise in unknown.notes and noise not in known.notes
    (note,) = (one for one in known.notes if "It comes from other data." in one)
    names = "min_change_against_blessed, min_change_against_anchor and min_slice_change"
    assert note == f"{names} do not apply: It comes from other data."
    judgement = Judgement((), ("A.", "B."), {"slice": "head", "examples": []})
    assert judgement.to_dict() == {
        "verdict": "refused",
        "thresholds": [],
        "notes": ["A.", "B."],
        "refusal": {"slice": "head", "examples": []},
    }


def test_without_baselines_nobody_is_the_best() -> None:
    name, value = best_baseline({}, "recall@10")
    assert name == "no baseline" and math.isnan(value)
    assert math.isnan(number(None)) and number(2) == 2.0
