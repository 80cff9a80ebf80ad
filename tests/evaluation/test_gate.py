from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from two_tower.evaluation import measure
from two_tower.evaluation.gate.evidence import best_baseline
from two_tower.evaluation.gate.judge import BLESSED, REFUSED, judge
from two_tower.evaluation.metric_table import summarize
from two_tower.evaluation.oracle_comparison import OracleAnswers, matching_rows, oracle_share
from two_tower.evaluation.queries import LabelSets, Queries, sample_by_user
from two_tower.evaluation.report.markdown_report import render
from two_tower.evaluation.settings import GateConfig

LIMITS = GateConfig(
    min_recall=0.1,
    min_ann_recall=0.95,
    min_lift_over_best_baseline=0.0,
    min_change_against_blessed=-0.01,
)

PARITY = {"ids": True, "order": True, "max_norm_error": 0.0, "max_score_error": 0.0,
          "towers": "sha256:t", "expected_towers": "sha256:t", "ok": True}  # fmt: skip


def evaluation(recall: float | None = 0.5, ann: float | None = 0.99, baseline: float | None = 0.3,
               blessed: float | None = None) -> dict[str, Any]:  # fmt: skip
    metrics = {"recall@1": 0.05, "recall@100": recall}
    return {
        "dataset": "simulated-7",
        "protocol": "next_event",
        "has_timestamps": True,
        "cutoff": 100,
        "catalog": {"items": 5_000},
        "unchanged": False,
        "split": {"train_end": 0, "eval": [1_000, 2_000], "test": [3_000, 4_000]},
        "queries": {"test": 100, "users": 10, "available": 1_000, "by_users_unknown_to_train": 30},
        "metrics": {"test": metrics, "test_exact": metrics},
        "baselines": {
            "most_popular": {"recall@1": 0.01, "recall@100": 0.2},
            "personal_history": {"recall@1": 0.02, "recall@100": baseline, "half_life_plays": 20.0},
        },
        "ann": {"recall@100": ann, "kind": "scann", "parity": PARITY},
        "blessed_model": blessed and {
            "eligible": True, "reason": "It is.", "uri": "runs/1",
            "metrics": {"recall@1": 0.05, "recall@100": blessed},
        },
        "oracle": None,
    }  # fmt: skip


def judged(measured: dict[str, Any], limits: GateConfig = LIMITS) -> dict[str, Any]:
    judgement = judge(measured, limits)
    return {**measured, "verdict": judgement.verdict, "notes": list(judgement.notes),
            "thresholds": [threshold.to_dict() for threshold in judgement.thresholds]}  # fmt: skip


def failing(measured: dict[str, Any]) -> list[str]:
    return [threshold.name for threshold in judge(measured, LIMITS).thresholds if not threshold.ok]


def test_a_model_that_holds_every_threshold_is_blessed() -> None:
    judgement = judge(evaluation(), LIMITS)
    assert judgement.verdict == BLESSED
    values = {threshold.name: threshold.value for threshold in judgement.thresholds}
    assert values == pytest.approx(
        {
            "min_recall": 0.5,
            "min_ann_recall": 0.99,
            "min_lift_over_best_baseline": 0.2,
            "test_users": 10,
            "catalog_items": 5_000,
            "index_parity": 1,
        }
    )


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (evaluation(recall=0.05, baseline=0.01), ["min_recall", "min_lift_over_best_baseline"]),
        (evaluation(ann=0.94), ["min_ann_recall"]),
        (evaluation(baseline=0.51), ["min_lift_over_best_baseline"]),
        (evaluation(recall=0.1, baseline=0.0), ["min_lift_over_best_baseline"]),  # the other baseline has 0.2
        (evaluation(blessed=0.52), ["min_change_against_blessed"]),
        (evaluation(blessed=0.505), []),
        (evaluation(recall=0.3), []),  # a limit that is just reached holds
    ],
)
def test_a_threshold_that_fails_refuses_the_model(measured: dict[str, Any], expected: list[str]) -> None:
    assert failing(measured) == expected
    assert judge(measured, LIMITS).verdict == (REFUSED if expected else BLESSED)


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_a_value_that_is_no_number_never_passes(missing: float | None) -> None:
    assert failing(evaluation(recall=missing, blessed=0.4)) == [
        "min_recall", "min_lift_over_best_baseline", "min_change_against_blessed"
    ]  # fmt: skip
    assert failing(evaluation(ann=missing)) == ["min_ann_recall"]
    assert failing(evaluation(baseline=missing)) == ["min_lift_over_best_baseline"]


def test_without_any_baseline_there_is_no_lift() -> None:
    assert failing({**evaluation(), "baselines": {}}) == ["min_lift_over_best_baseline"]


def test_what_was_compared_with_is_named() -> None:
    assert best_baseline(evaluation()["baselines"], "recall@100") == ("personal_history", 0.3)
    notes = {threshold.name: threshold.note for threshold in judge(evaluation(), LIMITS).thresholds}
    assert notes["min_lift_over_best_baseline"] == "best baseline: personal_history"


def test_a_threshold_that_does_not_apply_is_left_out_and_said_so() -> None:
    first = judge(evaluation(), LIMITS)
    assert "min_change_against_blessed" not in [threshold.name for threshold in first.thresholds]
    assert any("No model has been blessed yet." in note for note in first.notes)
    other = {"eligible": False, "reason": "It comes from other data.", "metrics": {}}
    notes = judge({**evaluation(), "blessed_model": other}, LIMITS).notes
    assert any("It comes from other data." in note for note in notes)


def test_thresholds_are_valid_json_even_without_a_value() -> None:
    threshold = judge(evaluation(recall=None), LIMITS).thresholds[0].to_dict()
    assert json.loads(json.dumps(threshold, allow_nan=False))["value"] is None


def test_the_judged_cutoff_is_a_setting() -> None:
    """Checks that every threshold judges by it and names it."""

    def measured(recall: float) -> dict[str, float]:
        return {"recall@1": 0.05, "recall@20": recall, "recall@100": 0.9}

    at_20 = {**evaluation(), "cutoff": 20, "metrics": {"test": measured(0.3)},
             "baselines": {"most_popular": measured(0.2)},
             "ann": {"recall@20": 0.96, "recall@100": 0.1, "parity": PARITY},
             "blessed_model": {"eligible": True, "reason": "It is.", "metrics": measured(0.32)}}  # fmt: skip
    limits = dataclasses.replace(LIMITS, cutoff=20)
    values = {threshold.name: threshold.value for threshold in judge(at_20, limits).thresholds}
    expected = {"min_recall": 0.3, "min_ann_recall": 0.96, "min_lift_over_best_baseline": 0.1,
                "min_change_against_blessed": -0.02, "test_users": 10, "catalog_items": 5_000,
                "index_parity": 1}  # fmt: skip
    assert values == pytest.approx(expected)
    report = render(judged(at_20, limits))
    opening = report.split("## ")[0]
    assert "the model's Recall@20 minus that of the latest blessed model is -0.0200" in opening
    assert "Recall@100" not in report
    assert "first 20 that the served index returns" in report


@pytest.mark.parametrize(
    ("catalog", "expected"),
    [
        ({"items": 3}, ["catalog_items"]),
        ({"items": 100}, ["catalog_items"]),
        ({"items": 101}, []),
        ({"items": 101, "choice": 101}, []),
        # Items that their users had are not recommended again.
        ({"items": 150, "choice": 100}, ["catalog_items"]),
        ({"items": 150, "choice": 101}, []),
    ],
)
def test_a_list_that_holds_all_items_judges_nothing(catalog: dict[str, int], expected: list[str]) -> None:
    measured = {**evaluation(), "catalog": catalog}
    assert failing(measured) == expected
    assert ("any model finds all: lower gate.cutoff" in render(judged(measured))) is bool(expected)


def test_the_choice_of_half_of_the_queries_is_what_their_users_did_not_have() -> None:
    had = np.array([[3, 3, 5, -1], [-1, -1, -1, -1], [0, 1, 2, 3], [4, -1, 4, 4]])
    assert measure._choice(10, had) == 8  # of 8, 10, 6, 9: the median is 8.5
    assert measure._choice(10, None) == measure._choice(10, had[:0]) == 10


@pytest.mark.parametrize(("users", "expected"), [(2, ["test_users"]), (9, ["test_users"]), (10, [])])
def test_a_verdict_needs_users(users: int, expected: list[str]) -> None:
    measured = {**evaluation(), "queries": {**evaluation()["queries"], "users": users}}
    assert failing(measured) == expected
    assert ("a verdict needs the queries of 10 users" in render(judged(measured))) is bool(expected)


def test_discoveries_of_a_stored_evaluation_are_judged_by_its_counts() -> None:
    """Judges without the single queries; a baseline that is missing is not passed over."""

    def measured(users: dict[str, int], **baselines: float) -> dict[str, Any]:
        of = {name: {"recall@100": value} for name, value in {"model": 0.4, **baselines}.items()}
        discovery = {"labels": 90, "queries": 90, "family": "repeat", "metrics": of, **users}
        return {
            **evaluation(),
            "slices": {"repeat": {**discovery, "labels": 60}, "discovery": discovery},
        }

    names = list(evaluation()["baselines"])
    whole = dict.fromkeys(names, 0.3)
    assert failing(measured({"users": 10}, **whole)) == []
    assert failing(measured({"users": 10}, **{**whole, names[0]: 0.45})) == ["min_discovery_lift"]
    # Earlier evaluations do not count a slice's users.
    assert failing(measured({}, **{**whole, names[0]: 0.45})) == ["min_discovery_lift"]
    assert failing(measured({"users": 9}, **{**whole, names[0]: 0.45})) == []
    only_new = measured({"users": 10}, **whole)
    only_new["slices"]["repeat"]["labels"] = 0
    reason = "no label is a repeat, so that all of them are discoveries."
    assert f"min_discovery_lift does not apply: {reason}" in judge(only_new, LIMITS).notes
    lacking = {name: value for name, value in whole.items() if name != names[0]}
    assert failing(measured({"users": 10}, **lacking)) == ["min_discovery_lift"]


def of_history(value: float, low: float | None, high: float | None, queries: int = 200) -> dict[str, Any]:
    bounds = None if low is None else [low, high]
    return {"queries": queries, "recall@100": value, "intervals": {"recall@100": bounds}}


@pytest.mark.parametrize(
    ("by_history", "ok", "note"),
    [
        # Of two slices below the limit, the one that is surely below decides.
        ({"history_0": of_history(0.93, 0.91, 0.94), "history_1": of_history(0.9, 0.8, 0.96)}, False,
         "worst slice: history_0, 200 queries"),
        ({"history_0": of_history(0.99, 0.98, 1), "history_1": of_history(0.9, 0.8, 0.96)}, True,
         "worst slice: history_1, 200 queries; no more than noise below the limit"),
        ({"history_0": of_history(0.99, 0.98, 1), "history_1": of_history(0.22, None, None)}, True,
         "worst slice: history_0, 200 queries; 1 too small to judge"),
        # An upper bound that reaches the limit is no proof of a loss.
        ({"history_0": of_history(0.9, 0.8, 0.95), "history_1": of_history(0.93, 0.91, 0.94)}, False,
         "worst slice: history_1, 200 queries"),
        # Of two that are surely below, the lower value decides, whatever its upper bound.
        ({"history_0": of_history(0.9, 0.8, 0.94), "history_1": of_history(0.91, 0.9, 0.92, 7_000)}, False,
         "worst slice: history_0, 200 queries"),
        # The lower value decides, and not the lower bound of it.
        ({"history_0": of_history(0.97, 0.8, 1), "history_1": of_history(0.96, 0.9, 0.99)}, True,
         "worst slice: history_1, 200 queries"),
    ],
)  # fmt: skip
def test_the_index_must_serve_histories_of_every_length(
    by_history: dict[str, Any], ok: bool, note: str
) -> None:
    measured = evaluation()
    measured["ann"]["by_history"] = by_history
    (worst,) = (one for one in judge(measured, LIMITS).thresholds if one.name == "worst_ann_recall")
    assert (worst.ok, worst.note) == (ok, note)
    decisive = by_history[note.split(":")[1].split(",")[0].strip()]
    assert [worst.low, worst.high] == decisive["intervals"]["recall@100"]
    assert failing(measured) == ([] if ok else ["worst_ann_recall"])


def test_without_users_enough_in_any_slice_the_index_is_judged_as_a_whole() -> None:
    measured = evaluation()
    measured["ann"]["by_history"] = {"history_1": of_history(0.22, None, None)}
    judgement = judge(measured, LIMITS)
    assert "worst_ann_recall" not in [one.name for one in judgement.thresholds]
    reason = "no slice by length of history has 10 users."
    assert f"worst_ann_recall does not apply: {reason}" in judgement.notes


def test_a_loss_since_the_best_released_model_is_told_or_why_it_is_not_measured() -> None:
    def notes(**changes: Any) -> str:
        return "\n".join(judge({**evaluation(blessed=0.5), **changes}, LIMITS).notes)

    best = "min_change_against_anchor does not apply: the model in service is the best released model."
    assert best in notes(anchor=None)
    assert "apply: No model has been blessed yet." in notes(anchor=None, blessed_model=None)
    stale = {"eligible": False, "reason": "It has seen the test.", "uri": "runs/0", "metrics": {}}
    assert "min_change_against_anchor does not apply: It has seen the test." in notes(anchor=stale)
    anchor = {"eligible": True, "reason": "It is.", "uri": "runs/0", "metrics": {"recall@100": 0.52}}
    judgement = judge({**evaluation(blessed=0.5), "anchor": anchor}, LIMITS)
    (change,) = (one for one in judgement.thresholds if one.name == "min_change_against_anchor")
    assert change.value == pytest.approx(-0.02) and "best released model: runs/0" in change.note


@pytest.mark.parametrize(
    ("catalog", "value", "note"),
    [
        (
            {"items": 1_500, "choice": 1_400},
            1_400,
            "median over queries; their users had the others of 1,500",
        ),
        ({"items": 1_500, "choice": 1_500}, 1_500, ""),
        ({"items": 1_500}, 1_500, ""),
    ],
)
def test_what_a_query_can_be_recommended_is_told(catalog: dict[str, int], value: float, note: str) -> None:
    judgement = judge({**evaluation(), "catalog": catalog}, LIMITS)
    (items,) = (one for one in judgement.thresholds if one.name == "catalog_items")
    assert (items.value, items.note) == (value, note)


def test_oracle_and_model_are_compared_on_the_same_queries() -> None:
    filler = np.arange(4)
    queries = Queries(user_id=np.array([1, 1, 2, 2]), window=filler, position=filler, event=filler,
                      label_event=filler, request_timestamp=np.array([10, 20, 10, 10]),
                      labels=LabelSets.of_one([5, 6, 5, 5]))  # fmt: skip
    oracle = {"user_id": np.array([9, 2, 1]), "label_timestamp": np.array([10, 10, 20]),
              "label_item_id": np.array([5, 5, 6])}  # fmt: skip
    query_rows, oracle_rows = matching_rows(queries, oracle)
    assert sorted(zip(query_rows.tolist(), oracle_rows.tolist(), strict=True)) == [(1, 2), (2, 1)]


def test_all_of_the_oracles_queries_are_compared_whoever_is_in_the_sample(tmp_path: Path) -> None:
    at = np.arange(6)
    queries = Queries(user_id=at // 2, window=at, position=at, event=at, label_event=at,
                      request_timestamp=10 * at, labels=LabelSets.of_one(100 + at))  # fmt: skip
    assert OracleAnswers.read(str(tmp_path), queries) is None
    known = np.array([4, 1, 5])  # in the oracle's own order, which is not the split's
    (tmp_path / "oracle").mkdir()
    answers = {"user_id": known // 2, "label_timestamp": 10 * known, "label_item_id": 100 + known,
               "rank_hidden": np.array([0, 49, 49]), "rank_observed": np.array([9, 99, 99])}  # fmt: skip
    pq.write_table(pa.table(answers), tmp_path / "oracle" / "queries.parquet")
    oracle = OracleAnswers.read(str(tmp_path), queries)
    assert oracle is not None and oracle.rows.tolist() == [1, 4, 5]
    assert oracle.rank.tolist() == [50, 1, 50] and oracle.rank_observed.tolist() == [100, 10, 100]

    asked = np.union1d(sample_by_user(queries, 2, seed=0), oracle.rows)
    right, wrong = 100 + asked[:, None], np.zeros([len(asked), 1], np.int64)
    only_4 = np.where(asked[:, None] == 4, right, wrong)
    baselines = {"most_popular": wrong, "personal_history": only_4}
    compared = oracle.compare(queries, asked, right, baselines, cutoffs=(10, 50))
    assert compared["queries"] == 3
    assert compared["recall@10"]["model"] == 1
    assert compared["recall@10"]["best_baseline"] == pytest.approx(1 / 3)
    assert compared["recall@10"]["oracle"] == pytest.approx(1 / 3)
    assert compared["recall@50"]["oracle"] == 1
    # It says what is played next, and nothing of sets of labels.
    assert OracleAnswers.read(str(tmp_path), dataclasses.replace(queries, label_event=at - 1)) is None


def test_the_share_of_the_gap_is_measured_from_the_best_baseline_to_the_oracle() -> None:
    far = math.inf
    share = oracle_share(
        users=np.arange(4),
        model=np.array([1.0, 1.0, far, far]),
        baselines={"most_popular": np.array([far] * 4), "personal_history": np.array([1.0, far, far, far])},
        oracle=np.array([1.0, 2.0, 3.0, far]),
        oracle_observed=np.array([1.0, far, far, far]),
        cutoffs=(10,),
    )
    assert share == {
        "queries": 4, "users": 4,
        "recall@10": {"model": 0.5, "best_baseline": 0.25, "oracle": 0.75, "oracle_observed": 0.25,
                      "share_of_gap": 0.5, "share_of_gap_observed": None, "baseline": "personal_history",
                      # Four users do not show how users differ.
                      "intervals": dict.fromkeys(["model", "best_baseline", "oracle", "oracle_observed",
                                                  "share_of_gap", "share_of_gap_observed"])},
    }  # fmt: skip


def test_the_share_of_the_gap_has_an_interval_over_users() -> None:
    """Draws splits of few users: the interval holds the share of all users as often as it says."""
    draw = np.random.default_rng(3)
    users, held, rounds = 40, 0, 200
    chance = {"model": 0.5, "most_popular": 0.3, "oracle": 0.7}
    for _ in range(rounds):
        user = np.repeat(np.arange(users), draw.integers(1, 6, users))
        ease = draw.normal(0, 0.15, users)[user]
        ranks = {
            name: np.where(draw.random(len(user)) < share + ease, 1.0, np.inf)
            for name, share in chance.items()
        }
        found = oracle_share(
            user,
            ranks["model"],
            {"most_popular": ranks["most_popular"]},
            ranks["oracle"],
            ranks["oracle"],
            (1,),
        )["recall@1"]
        low, high = found["intervals"]["share_of_gap"]
        assert low < found["share_of_gap"] < high
        held += low <= 0.5 <= high
    assert 0.91 <= held / rounds <= 0.985


def test_the_report_of_a_refused_model_opens_with_why() -> None:
    report = render(judged(evaluation(baseline=0.51)))
    assert report.startswith("# Refused")
    opening = report.split("## ")[0]
    assert "was not pushed" in opening
    assert "best baseline: personal_history" in opening and "is -0.0100, below the limit of 0.0000" in opening
    assert "Recall@100 of the served model" not in opening  # which holds


def test_the_report_says_what_could_not_be_measured() -> None:
    assert "Recall@100 of the served model could not be measured" in render(judged(evaluation(recall=None)))


def test_the_report_puts_baselines_and_the_blessed_model_beside_the_model() -> None:
    report = render(judged(evaluation(blessed=0.45)))
    assert report.startswith("# Blessed")
    assert "| recall@100 | 0.5000 | 0.5000 | 0.2000 | 0.3000 |" in report
    assert "| recall@100 | 0.5000 | 0.4500 | 0.0500 |" in report
    assert "half_life_plays 20" in report
    assert "30 queries are by users whom train has not seen." in report


def test_the_report_of_a_first_run_says_that_there_is_nothing_to_compare_with() -> None:
    assert "No model has been blessed yet." in render(judged(evaluation()))


def test_the_report_of_an_unchanged_model_says_why_nothing_is_pushed() -> None:
    assert "nothing was pushed" in render({**judged(evaluation()), "unchanged": True})


def test_the_report_shows_the_oracle_where_the_data_has_one() -> None:
    oracle = {"queries": 50, "recall@10": {"model": 0.2, "best_baseline": 0.1, "oracle": 0.4,
              "oracle_observed": 0.3, "share_of_gap": 1 / 3, "share_of_gap_observed": 0.5}}  # fmt: skip
    assert "| recall@10 | 0.1000 | 0.2000 | 0.3000 | 0.4000 | 0.5000 | 0.3333 |" in render(
        {**judged(evaluation()), "oracle": oracle}
    )
    assert "oracle" not in render(judged(evaluation()))


def frozen_evaluation(users: int = 100) -> dict[str, Any]:
    queries = np.arange(4)
    found = summarize(
        np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 8, 3]]),
        LabelSets(np.array([1, 2, 10, 5, 6, 7, 8]), np.array([0, 3, 5, 6, 7])),
        queries,
        (1, 3),
        20,
    )
    labels = {"total": 700, "mean": 7.0, "median": 5.0, "max": 90, "unknown_to_train": 33}
    return {**evaluation(), "protocol": "frozen", "cutoff": 3, "metrics": {"test": found},
            "queries": {"test": 100, "users": users, "available": 100, "labels": labels},
            "baselines": {"most_popular": found},
            "ann": {"recall@3": 1.0, "kind": "exact", "parity": PARITY}}  # fmt: skip


FROZEN_LIMITS = dataclasses.replace(LIMITS, cutoff=3)


def test_the_report_of_the_frozen_protocol_says_what_is_asked_and_names_both_recalls_and_ndcgs() -> None:
    report = render(judged(frozen_evaluation(), FROZEN_LIMITS))
    assert report.startswith("# Blessed")
    assert "Protocol `frozen`" in report
    assert "asks for the set of items" in report
    assert "A query has 7.0 labels on average (median 5, at most 90)" in report
    assert "Of all 700, 33 are items that train has not seen" in report
    for definition in (
        "`recall`: hits among the first k / number of labels.",
        "`clipped_recall`: hits among the first k / min(k, number of labels).",
        "`ndcg`: mean over queries of DCG / ideal DCG.",
        "`pooled_ndcg`: mean DCG / mean ideal DCG (Yambda's NDCG).",
    ):
        assert definition in report
    # (2/3 + 1 + 1 + 1) / 4, per query and per user.
    assert "| recall@3 | 0.9167 | 0.9167 |" in report
    assert "| user_recall@3 | 0.9167 | 0.9167 |" in report


def test_what_says_nothing_new_is_left_out_of_the_report_and_not_of_the_json() -> None:
    def rows(measured: dict[str, Any]) -> set[str]:
        table = render(judged(measured, FROZEN_LIMITS)).split("## Metrics")[1].split("## ")[0]
        names = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
        return {name.partition("@")[0] for name in names}

    always = {"metric", "---", "recall", "ndcg", "mrr", "coverage", "user_recall"}
    of_sets = {"clipped_recall", "hit_rate", "pooled_ndcg"}
    of_users = {"user_ndcg", "user_mrr"}
    users_of_sets = {f"user_{name}" for name in of_sets}
    # A query a user: means over users are those over queries.
    assert rows(frozen_evaluation()) == always | of_sets
    assert rows(frozen_evaluation(users=50)) == always | of_sets | of_users | users_of_sets
    assert rows({**frozen_evaluation(), "protocol": "leave_one_out"}) == always
    assert rows({**frozen_evaluation(users=50), "protocol": "next_event"}) == always | of_users
    assert {name.partition("@")[0] for name in frozen_evaluation()["metrics"]["test"]} >= of_sets


def test_a_clock_of_the_datas_own_shows_no_dates() -> None:
    own = {**evaluation(), "split": {"train_end": 86_400, "eval": [0, 0], "test": [216_000, 302_400]}}
    report = render(judged(own))
    assert "between day 2.50 and day 3.50 of the data's own clock" in report
    assert "1970" not in report


@pytest.mark.parametrize("protocol", ["leave_one_out", "split_column"])
def test_a_split_that_is_none_in_time_names_no_times(protocol: str) -> None:
    measured = {**evaluation(), "protocol": protocol, "has_timestamps": False,
                "split": {"train_end": 0, "eval": [0, 0], "test": [0, 0]}}  # fmt: skip
    report = render(judged(measured))
    assert f"Protocol `{protocol}`" in report
    assert "1970" not in report
