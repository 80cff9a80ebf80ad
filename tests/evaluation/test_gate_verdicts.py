"""The gate refuses each bad model for its own reason, and no equal one: from arrays, without a model."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.judged_queries import CUTOFF, Asked, evaluation_of
from two_tower.base.errors import UserError
from two_tower.evaluation.gate import judge as gate
from two_tower.evaluation.gate.anchor import next_anchor
from two_tower.evaluation.gate.judge import BLESSED, REFUSED, judge
from two_tower.evaluation.gate.slice_changes import recall_by_query, slice_changes
from two_tower.evaluation.query_results import QueryResults
from two_tower.evaluation.settings import GateConfig
from two_tower.evaluation.uncertainty import UserSample
from two_tower.pipeline.runs.judged_again import find_evaluation, judge_again, render

LIMITS = GateConfig(cutoff=CUTOFF, min_recall=0.2, min_coverage=0.1, max_latency_p95=10.0)

PARITY = {"ids": True, "order": True, "max_norm_error": 0.0, "max_score_error": 0.0,
          "towers": "sha256:t", "expected_towers": "sha256:t", "ok": True}  # fmt: skip


def judged(results: QueryResults, limits: GateConfig = LIMITS, **changes: Any) -> gate.Judgement:
    return judge(evaluation_of(results, **changes), limits, results)


def missed(judgement: gate.Judgement) -> list[str]:
    return [threshold.name for threshold in judgement.thresholds if not threshold.ok]


@pytest.fixture(scope="module")
def asked() -> Asked:
    return Asked(seed=1, users=300)


@pytest.fixture(scope="module")
def good(asked: Asked) -> QueryResults:
    return asked.results(asked.ranks(), blessed_model=asked.ranks())


def test_a_good_model_passes_and_every_threshold_is_told(good: QueryResults) -> None:
    judgement = judged(good)
    assert judgement.verdict == BLESSED and judgement.refusal is None
    told = {threshold["name"]: threshold for threshold in judgement.to_dict()["thresholds"]}
    assert list(told) == [
        "min_recall", "min_ann_recall", "min_lift_over_best_baseline", "min_change_against_blessed",
        "min_slice_change", "min_coverage", "max_latency_p95", "test_users", "catalog_items", "index_parity",
    ]  # fmt: skip
    for name in ("min_recall", "min_lift_over_best_baseline", "min_change_against_blessed"):
        assert told[name]["low"] < told[name]["value"] < told[name]["high"], name
    assert told["max_latency_p95"]["direction"] == "max" and told["min_coverage"]["low"] is None
    note = told["min_slice_change"]["note"]
    assert re.fullmatch(
        r"worst slice: [a-z0-9 ]+, \d+ users; 98% bounds for all 13 slices at once, 1 too small to judge"
        r"; the smallest loss that these queries can show is 0\.\d+",
        note,
    ), note
    large = dataclasses.replace(
        good, slices={name: part for name, part in good.slices.items() if name != "tiny"}
    )
    (worst,) = (one for one in judged(large).thresholds if one.name == "min_slice_change")
    assert worst.note == note.replace(", 1 too small to judge", "")
    json.dumps(judgement.to_dict(), allow_nan=False)


def test_a_lower_bound_that_misses_the_limit_refuses_though_the_value_reaches_it(good: QueryResults) -> None:
    recall = float(np.mean(recall_by_query(good, "model", CUTOFF)))
    close = dataclasses.replace(LIMITS, min_recall=recall - 0.005)
    judgement = judged(good, close)
    assert missed(judgement) == ["min_recall"]
    assert "its lower bound is below the limit" in judgement.thresholds[0].note
    # Where nothing is known of the noise the value is all there is.
    assert judge(evaluation_of(good), close).verdict == BLESSED


def untrained(asked: Asked) -> np.ndarray[Any, Any]:
    """Ranks 5,000 items at random and keeps 100."""
    rank = asked.random.integers(1, 5_001, len(asked)).astype(np.float32)
    return np.where(rank > 100, np.float32(np.inf), rank)


def shuffled_labels(asked: Asked) -> np.ndarray[Any, Any]:
    """Ranks by popularity alone, and not by user."""
    return asked.random.permutation(asked.ranks(-1.5))


def one_broken_slice(asked: Asked) -> np.ndarray[Any, Any]:
    """Lowers one slice and raises the others a little, so that the whole stays as good."""
    return asked.ranks(np.where(asked.slices["kind 3"], -1.5, 0.3))


def worse(asked: Asked) -> np.ndarray[Any, Any]:
    return asked.ranks(-0.3)


@pytest.mark.parametrize(
    ("model", "changes", "reasons", "explained_by"),
    [
        (untrained, {}, {"min_recall", "min_lift_over_best_baseline", "min_change_against_blessed"}, None),
        (shuffled_labels, {}, {"min_lift_over_best_baseline", "min_change_against_blessed"}, None),
        (one_broken_slice, {}, {"min_slice_change"}, "kind 3"),
        (worse, {}, {"min_change_against_blessed"}, None),
        (Asked.ranks, {"ann": {f"recall@{CUTOFF}": 0.8, "parity": PARITY}}, {"min_ann_recall"}, None),
        (Asked.ranks, {"latency": {"single": {"p95_ms": 31.0}}}, {"max_latency_p95"}, None),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_bad_model_is_refused_for_its_own_reason(
    model: Any, changes: dict[str, Any], reasons: set[str], explained_by: str | None
) -> None:
    asked = Asked(seed=2, users=400)
    blessed = asked.ranks()
    results = asked.results(model(asked), blessed_model=blessed)
    if "ann" in changes:
        # What exact search finds a coarse index loses, now and then.
        exact = results.ranks["model"]
        lost = np.where(np.random.default_rng(0).random(len(exact)) < 0.01, np.float32(np.inf), exact)
        results = asked.results(lost, blessed_model=blessed)
        results.ranks["model_exact"] = exact
    judgement = judged(results, dataclasses.replace(LIMITS, min_recall=0.15), **changes)
    found = set(missed(judgement))
    assert judgement.verdict == REFUSED
    assert reasons <= found
    # A model that is bad everywhere is bad in its slices; one reason is none of another's.
    assert found <= reasons | {"min_slice_change", "min_recall"}
    if len(reasons) == 1 and "min_change_against_blessed" not in reasons:
        assert found == reasons
    assert judgement.refusal is not None
    if explained_by:
        assert judgement.refusal["slice"] == explained_by


def test_the_refusal_names_the_slice_and_labels_that_were_found_before() -> None:
    asked = Asked(seed=2, users=400)
    blessed = asked.ranks()
    results = asked.results(one_broken_slice(asked), blessed_model=blessed)
    judgement = judged(results)
    (worst,) = (t for t in judgement.thresholds if t.name == "min_slice_change")
    assert "worst slice: kind 3" in worst.note and worst.high is not None and worst.high < 0
    assert judgement.refusal is not None
    examples = judgement.refusal["examples"]
    assert len(examples) == 10 and sum(one["in_slice"] for one in examples) >= 8
    assert len({one["user"] for one in examples}) == 10
    for one in examples:
        row = one["query"]
        assert asked.user[row] == one["user"] and results.labels.item_id[row] == one["label_item"]
        assert blessed[row] == one["found_at"] <= CUTOFF < (one["rank"] or np.inf)
        assert asked.slices["kind 3"][row] == one["in_slice"]


def test_an_index_of_other_towers_is_refused(good: QueryResults) -> None:
    parity = {"ids": True, "order": False, "max_norm_error": 0.5, "max_score_error": 0.0,
              "towers": "sha256:old", "expected_towers": "sha256:new", "ok": False}  # fmt: skip
    judgement = judged(good, ann={f"recall@{CUTOFF}": 0.99, "parity": parity})
    assert missed(judgement) == ["index_parity"]
    note = judgement.thresholds[-1].note
    assert "another order" in note and "built from sha256:old, not from sha256:new" in note and "0.5" in note


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"expected_towers": None}, "the Trainer's model is gone"),
        ({"towers": None}, "does not say what it was built from"),
        ({"towers": None, "expected_towers": None}, "does not say what it was built from"),
    ],
)
def test_an_index_that_cannot_be_held_against_its_towers_is_refused(
    good: QueryResults, changes: dict[str, Any], note: str
) -> None:
    """Includes evaluations of older versions, which call such an index in order."""
    judgement = judged(good, ann={f"recall@{CUTOFF}": 0.99, "parity": {**PARITY, **changes}})
    assert missed(judgement) == ["index_parity"] and note in judgement.thresholds[-1].note


def test_a_threshold_whose_figure_is_missing_refuses_and_says_so(good: QueryResults) -> None:
    whole = evaluation_of(good)
    recall = f"recall@{CUTOFF}"
    alone = {"test": {recall: whole["metrics"]["test"][recall]}}
    bare = {**whole, "ann": {}, "latency": {}, "metrics": alone}
    judgement = judge(bare, LIMITS, good)
    assert missed(judgement) == ["min_ann_recall", "min_coverage", "max_latency_p95", "index_parity"]
    assert "no figure for min_ann_recall, min_coverage, max_latency_p95, index_parity" in judgement.notes[-1]
    assert not any("no figure" in note for note in judged(good).notes)
    assert json.loads(json.dumps(judgement.to_dict(), allow_nan=False))["thresholds"][-1]["value"] is None


def test_queries_without_the_blessed_models_answers_are_of_another_evaluation(good: QueryResults) -> None:
    """Fails loudly: otherwise losses of slices would be left out as if the slices were too small."""
    ranks = {who: rank for who, rank in good.ranks.items() if who != "blessed_model"}
    with pytest.raises(ValueError, match="hold nothing of blessed_model"):
        judge(evaluation_of(good), LIMITS, dataclasses.replace(good, ranks=ranks))
    with pytest.raises(ValueError, match="hold nothing of the slice "):
        judge(evaluation_of(good), LIMITS, dataclasses.replace(good, slices={}))


def test_equal_models_are_refused_in_at_most_one_case_of_twenty() -> None:
    """Judges 200 pairs that differ by noise alone, under limits that allow no loss at all."""
    limits = dataclasses.replace(
        LIMITS, min_recall=0, min_change_against_blessed=0, min_slice_change=0, min_lift_over_best_baseline=-1
    )
    refused, looked_worse = 0, 0
    for seed in range(200):
        asked = Asked(seed, users=120)
        results = asked.results(asked.ranks(), blessed_model=asked.ranks())
        judgement = judged(results, limits)
        (change,) = (t for t in judgement.thresholds if t.name == "min_change_against_blessed")
        looked_worse += change.value < 0
        refused += judgement.verdict == REFUSED
    # It is not that there was nothing to refuse.
    assert 70 < looked_worse < 130
    assert refused <= 10


def test_what_a_coarse_index_lost_is_shown_though_the_model_is_slow_too() -> None:
    asked = Asked(seed=2, users=400)
    exact = asked.ranks()
    lost = np.where(asked.random.random(len(exact)) < 0.05, np.float32(np.inf), exact)
    results = asked.results(lost)
    results.ranks["model_exact"] = exact
    limits = dataclasses.replace(LIMITS, min_recall=0, min_lift_over_best_baseline=-1)
    for latency in (4.0, 31.0):
        judgement = judged(
            results,
            limits,
            ann={f"recall@{CUTOFF}": 0.8, "parity": PARITY},
            latency={"single": {"p95_ms": latency}},
        )
        assert judgement.refusal is not None
        examples = judgement.refusal["examples"]
        assert len(examples) == 10 and {one["found_by"] for one in examples} == {"model_exact"}


def test_a_real_loss_is_found() -> None:
    """Judges models that find a fifth less by one small test split: most are refused."""
    found = 0
    for seed in range(20):
        asked = Asked(1_000 + seed, users=200)
        results = asked.results(asked.ranks(-0.4), blessed_model=asked.ranks())
        found += "min_change_against_blessed" in missed(judged(results))
    assert found >= 18


def test_a_loss_within_the_limit_is_allowed_and_a_gain_may_be_asked_for() -> None:
    asked = Asked(seed=4, users=400)
    results = asked.results(asked.ranks(-0.3), blessed_model=asked.ranks())
    allowed = dataclasses.replace(LIMITS, min_change_against_blessed=-0.3, min_slice_change=-0.5)
    assert judged(results, allowed).verdict == BLESSED
    equal = asked.results(asked.ranks(), blessed_model=asked.ranks())
    gain = dataclasses.replace(LIMITS, min_change_against_blessed=0.001)
    assert missed(judged(equal, gain)) == ["min_change_against_blessed"]
    better = asked.results(asked.ranks(0.5), blessed_model=asked.ranks())
    assert judged(better, gain).verdict == BLESSED


def test_bounds_for_all_slices_are_wider_than_for_one() -> None:
    asked = Asked(seed=5, users=300)
    results = asked.results(asked.ranks(), blessed_model=asked.ranks())
    sample = UserSample(results.user.astype(np.int64))
    together = {c.name: c for c in slice_changes(results, "model", "blessed_model", CUTOFF, sample, 50, 500)}
    assert "tiny" not in together and len(together) > 8
    for name, change in together.items():
        part = dataclasses.replace(results, slices={name: results.slices[name]})
        (alone,) = slice_changes(part, "model", "blessed_model", CUTOFF, sample, 50, 500)
        assert alone.change == change.change
        assert change.high - change.change > 1.1 * (alone.high - alone.change)


@pytest.mark.parametrize("users", [1, 2, 9])
def test_few_users_tell_nothing(users: int) -> None:
    asked = Asked(seed=6, users=users)
    found = np.ones(len(asked), np.float32)
    judgement = judged(asked.results(found), dataclasses.replace(LIMITS, min_recall=0))
    assert {"min_recall", "min_lift_over_best_baseline", "test_users"} <= set(missed(judgement))
    assert judgement.thresholds[0].note == "too few users to know its noise"


def test_ten_users_suffice_for_a_verdict() -> None:
    asked = Asked(seed=6, users=10)
    judgement = judged(asked.results(np.ones(len(asked), np.float32)), LIMITS)
    assert judgement.verdict == BLESSED
    # That ten users found all does not say that the next one will.
    low, high = judgement.thresholds[0].low, judgement.thresholds[0].high
    assert low is not None and 0.6 < low < 0.75 and high == 1.0


def test_small_losses_of_many_releases_are_held_against_the_best_of_them() -> None:
    """Releases models that are each a little worse: less than the limit, or less than the noise shows."""
    lenient = dataclasses.replace(LIMITS, min_recall=0, min_lift_over_best_baseline=-1)
    lenient = dataclasses.replace(lenient, min_change_against_blessed=-0.005, min_slice_change=-1)
    for users, step, own in ((2_000, 0.01, 0.05), (30, 0.15, 0.9)):
        asked = Asked(seed=9, users=users)
        released: dict[str, Any] = {}
        in_service, anchor, verdicts = "", "", []
        for release in range(12):
            uri, now = f"release {release}", asked.ranks(-step * release, own=own)
            others = {"blessed_model": released[in_service]} if in_service else {}
            others |= {"anchor_model": released[anchor]} if anchor != in_service else {}
            results = asked.results(now, **others)
            evaluation = evaluation_of(results)
            evaluation["blessed_model"]["uri"] = in_service
            if evaluation["anchor"]:
                evaluation["anchor"]["uri"] = anchor
            judgement = judge(evaluation, lenient, results)
            verdicts.append(missed(judgement))
            anchor, in_service = next_anchor(evaluation, uri, anchor if anchor != in_service else None), uri
            released[uri] = now
        refused = [release for release, one in enumerate(verdicts) if "min_change_against_anchor" in one]
        # Nearly each passes beside the one before.
        assert sum("min_change_against_blessed" in one for one in verdicts) <= 1
        assert refused and refused[-1] == 11
        lost = next(t for t in judgement.thresholds if t.name == "min_change_against_anchor")
        assert f"best released model: {anchor}" in lost.note and lost.high is not None and lost.high < 0
        assert anchor in ("release 0", "release 1", "release 2")


@pytest.mark.parametrize(
    ("anchor", "in_service", "unchanged", "expected"),
    [
        (None, None, False, "new"),
        (None, 0.4, False, "new"),
        (None, 0.5, False, "new"),
        (None, 0.6, False, "in service"),
        (0.6, 0.4, False, "anchor"),
        (0.5, 0.4, False, "new"),
        (0.4, 0.6, False, "new"),
        ("other data", 0.6, False, "in service"),
        ("other data", 0.4, False, "new"),
        ("other data", "other data", False, "new"),
        ("other data", "other data", True, "anchor"),
        (None, "other data", True, "new"),
    ],
)
def test_the_anchor_is_the_best_released_model(
    anchor: float | str | None, in_service: float | str | None, unchanged: bool, expected: str
) -> None:
    def released(uri: str, recall: float | str | None) -> dict[str, Any] | None:
        metrics = {f"recall@{CUTOFF}": recall, "recall@1": 0.0}
        compared = {"uri": uri, "eligible": isinstance(recall, float), "metrics": metrics}
        return compared if recall is not None else None

    evaluation = {
        "cutoff": CUTOFF,
        "unchanged": unchanged,
        "metrics": {"test": {f"recall@{CUTOFF}": 0.5, "recall@1": 0.9}},
        "anchor": released("anchor", anchor),
        "blessed_model": released("in service", in_service),
    }
    assert next_anchor(evaluation, "new", "anchor" if anchor else None) == expected


def lifted(asked: Asked, repeats: float, discoveries: float) -> QueryResults:
    """Returns a model's results with these skills; baselines have none of either, and one knows repeats."""
    is_repeat = asked.slices["group 0"] | asked.slices["group 1"]
    skill = np.where(is_repeat, repeats, discoveries)
    history = asked.ranks(np.where(is_repeat, 1.0, -4.0))
    results = asked.results(asked.ranks(skill), personal_history=history, co_occurrence=asked.ranks(-0.5))
    results.slices.update({"repeat": is_repeat, "discovery": ~is_repeat})
    return results


def test_a_model_that_can_only_repeat_is_refused() -> None:
    asked = Asked(seed=11, users=400)
    limits = dataclasses.replace(LIMITS, min_recall=0)
    judgement = judged(lifted(asked, repeats=2.5, discoveries=-4.0), limits)
    assert missed(judgement) == ["min_discovery_lift"]
    (lift,) = (one for one in judgement.thresholds if one.name == "min_discovery_lift")
    assert lift.note == "best baseline there: co_occurrence" and lift.high is not None and lift.high < 0
    # Whoever finds both is blessed, and so is one that is meant to repeat.
    assert judged(lifted(asked, 2.5, 1.0), limits).verdict == BLESSED
    named = dataclasses.replace(limits, min_discovery_lift=-1.0)
    assert judged(lifted(asked, 2.5, -4.0), named).verdict == BLESSED


def test_discoveries_are_not_judged_apart_where_there_is_nothing_else_or_next_to_none() -> None:
    asked = Asked(seed=11, users=40)
    results = lifted(asked, repeats=2.5, discoveries=1.0)
    nobody, nine = np.zeros(len(asked), bool), asked.user < 9
    for repeat, discovery, reason in (
        (nobody, ~nobody, "no label is a repeat"),
        (~nine, nine, "fewer than 10 users have a label"),
    ):
        results.slices.update({"repeat": repeat, "discovery": discovery})
        judgement = judged(results)
        assert "min_discovery_lift" not in [one.name for one in judgement.thresholds]
        assert any(reason in note for note in judgement.notes)


# Judged again, from what is stored.


def stored(folder: Path, results: QueryResults, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    evaluation = evaluation_of(results, verdict="blessed", gate=dataclasses.asdict(LIMITS), **changes)
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    (folder / "queries.npz").write_bytes(results.to_bytes())
    return folder


def test_a_stored_evaluation_is_judged_by_other_limits(good: QueryResults, tmp_path: Path) -> None:
    path = stored(tmp_path / "evaluation", good)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    # By those that it was judged by, as the run did.
    again = judge_again(str(path))
    assert again.judgement == judged(good) and again.config == LIMITS
    config = tmp_path / "config.yaml"
    config.write_text("trainer: {epochs: 3}\ngate:\n  min_recall: 0.3\n  slices: {cold: 0.9}\n")
    refused = judge_again(str(path), file=str(config), overrides=["gate.max_latency_p95=1"])
    assert missed(refused.judgement) == ["slices.cold", "max_latency_p95"]
    shown = render(refused)
    assert shown.startswith("REFUSED: judged again") and "nothing is pushed" in shown
    assert "FAILS" in shown and "The slice that lost most is cold" in shown and "≤ 1" in shown
    assert json.loads(refused.to_json())["gate"]["min_recall"] == 0.3
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_an_evaluation_is_found_from_its_run_and_from_its_model(good: QueryResults, tmp_path: Path) -> None:
    from two_tower.serving.provenance import digest_of

    model = tmp_path / "run" / "artifacts" / "ScannIndexer" / "model" / "7" / "Format-Serving"
    model.mkdir(parents=True)
    (model / "saved_model.pb").write_text("weights")
    evaluations = tmp_path / "run" / "artifacts" / "RetrievalEvaluator" / "evaluation"
    older = stored(evaluations / "8", good, model={"digest": digest_of(str(model))})
    newer = stored(evaluations / "12", good, model={"digest": "sha256:of another"})
    # A run that was killed leaves half a file, which is no reason not to find another's.
    (evaluations / "11").mkdir()
    (evaluations / "11" / "evaluation.json").write_text('{"model": ')
    assert find_evaluation(str(tmp_path / "run")) == str(newer)
    assert find_evaluation(str(older)) == str(older)
    assert find_evaluation(str(model)) == find_evaluation(str(model.parent)) == str(older)
    with pytest.raises(UserError, match="no run above it evaluated a model"):
        find_evaluation(str(tmp_path))
    with pytest.raises(UserError, match="is no directory"):
        find_evaluation(str(tmp_path / "nowhere"))


def test_what_cannot_be_judged_again_is_told(good: QueryResults, tmp_path: Path) -> None:
    path = stored(tmp_path / "evaluation", good)
    with pytest.raises(UserError, match="holds no Recall@7: its cutoffs are 10"):
        judge_again(str(path), overrides=["gate.cutoff=7"])
    with pytest.raises(UserError, match="the slice 'gold'"):
        judge_again(str(path), overrides=["gate.slices=gold=0.1"])
    with pytest.raises(UserError, match="settings of gate only"):
        judge_again(str(path), overrides=["trainer.epochs=4"])
    written = (path / "evaluation.json").read_text()
    for wrong, message in (
        ('{"metrics": {"test": {}}}', "lacks baselines, ann, slices, blessed_model, cutoff"),
        ("{}", "key 'metrics' is missing"),
        ("[1]", r"is \[1\], and needs an object"),
        ("null", "is None, and needs an object"),
        (json.dumps({**json.loads(written), "metrics": {}}), "key 'metrics.test' is missing"),
        ("{", "cannot be read"),
    ):
        (path / "evaluation.json").write_text(wrong)
        with pytest.raises(UserError, match=message):
            judge_again(str(path))
    (path / "evaluation.json").write_text(written)
    better = dataclasses.replace(good, ranks={**good.ranks, "model": good.ranks["blessed_model"] * 3})
    (path / "queries.npz").write_bytes(better.to_bytes())
    with pytest.raises(UserError, match="not of the same evaluation"):
        judge_again(str(path))
    (path / "queries.npz").write_bytes(b"half")
    with pytest.raises(UserError, match="cannot be read"):
        judge_again(str(path))
    (path / "queries.npz").unlink()
    with pytest.raises(UserError, match=r"older version\. Run the pipeline again"):
        judge_again(str(path))
