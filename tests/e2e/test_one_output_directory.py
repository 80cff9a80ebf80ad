"""Tests of one shared output directory from its first run on; conftest.py has the sequence of runs."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from tests.e2e.runs import FIRST_DAYS, Run, World
from two_tower.data_directory.manifest import DAY
from two_tower.evaluation.baselines.registry import BASELINES
from two_tower.evaluation.gate.judge import BLESSED, REFUSED
from two_tower.evaluation.settings import GateConfig
from two_tower.pipeline.commands import exit_status
from two_tower.pipeline.runs.judged_again import judge_again
from two_tower.serving.provenance import digest_of

pytestmark = pytest.mark.e2e

COMPONENTS = {
    "AutoSettings", "InteractionExampleGen", "CatalogExampleGen", "StatisticsGen", "CatalogStatisticsGen",
    "InteractionSchema", "CatalogSchema", "ExampleValidator", "CatalogValidator",
    "ComparableStatistics", "DriftValidator", "SkewValidator", "AnomalyGate",
    "ApprovedStatistics",
    "Transform", "CatalogTransform", "Trainer", "ScannIndexer",
    "RetrievalEvaluator", "Pusher",
}  # fmt: skip
COMPARING = {"ComparableStatistics", "DriftValidator", "SkewValidator", "AnomalyGate"}


def test_a_first_run_pushes_a_blessed_model_and_shows_every_component(first: Run, world: World) -> None:
    assert first.ran == COMPONENTS
    for name in COMPONENTS:
        assert any(line.startswith(f"{name} ") and line.endswith(" s") for line in first.shown.splitlines())
    assert first.report["verdict"] == BLESSED
    assert first.pushed == ["1"]
    pushed = str(world.output / "pushed" / "1")
    told = f"BLESSED: the model passes every threshold and is pushed to {pushed}."
    # Lines are broken where a long path does not fit.
    assert "".join(told.split()) in "".join(first.shown.split())
    assert first.report["pushed_model"] == first.report["in_service"] == pushed
    assert "No model has been blessed yet." in first.report["notes"][0]


def test_the_report_says_what_a_program_needs_to_know(first: Run) -> None:
    report = first.report
    metrics = {"recall@1", "recall@10", "recall@50", "recall@100", "ndcg@10", "mrr", "coverage@100"}
    assert metrics <= set(report["metrics"]["test"])
    assert metrics | {"user_recall@100"} <= set(report["metrics"]["test_exact"])
    assert set(report["baselines"]) == set(BASELINES)
    for values in report["baselines"].values():
        assert 0 < values["recall@100"] < 1
    assert [threshold["name"] for threshold in report["thresholds"]] == [
        "min_recall", "min_ann_recall", "worst_ann_recall", "min_lift_over_best_baseline",
        "min_discovery_lift", "test_users", "catalog_items", "index_parity",
    ]  # fmt: skip
    for threshold in report["thresholds"]:
        # With a confidence interval over users, the lower bound must reach the limit.
        # Of a part of what is judged as a whole, the upper bound counts.
        bound = threshold["high" if threshold["name"] == "worst_ann_recall" else "low"]
        judged = threshold["value"] if bound is None else bound
        assert threshold["ok"] == (judged >= threshold["limit"])
    for component in report["components"]:
        assert component["seconds"] >= 0
    assert report["dataset"] == "simulated-7"
    assert report["oracle"] is None
    assert report["split"]["test"][1] <= FIRST_DAYS * DAY


def test_scann_finds_what_exact_search_finds(first: Run) -> None:
    assert first.report["ann"]["kind"] == "scann"
    assert first.report["ann"]["recall@100"] >= 0.95


def test_what_was_evaluated_is_what_is_pushed_byte_for_byte(first: Run) -> None:
    (uri,) = first.report["artifacts"]["ScannIndexer"]["model"]
    assert digest_of(first.report["pushed_model"]) == digest_of(os.path.join(uri, "Format-Serving"))


def test_an_unchanged_run_measures_nothing_new_and_pushes_nothing(unchanged: Run) -> None:
    # Only comparisons run: there are now statistics and a blessed model to compare with.
    assert unchanged.ran <= COMPARING | {"RetrievalEvaluator", "Pusher"}
    assert (unchanged.status, unchanged.report["verdict"], unchanged.report["unchanged"]) == (
        0,
        BLESSED,
        True,
    )
    assert not unchanged.report["blessed_model"]["eligible"]
    assert unchanged.report["pushed_model"] is None
    assert unchanged.pushed == ["1"]
    assert "not pushed again" in unchanged.shown


def test_the_same_bytes_ingested_again_are_cached(ingested_again: Run) -> None:
    assert ingested_again.ran == set()
    assert ingested_again.pushed == ["1"]


def test_the_tfx_command_line_continues_what_two_tower_began(through_tfx: Run) -> None:
    assert 'Pipeline "two-tower" created successfully.' in through_tfx.shown
    assert through_tfx.ran == set()
    assert through_tfx.report["status"] == "complete"
    assert through_tfx.pushed == ["1"]


def test_a_model_that_learned_nothing_is_refused_and_the_one_before_it_stays(
    refused: Run, first: Run, unchanged: Run
) -> None:
    assert refused.status == exit_status.REFUSED
    assert refused.report["verdict"] == REFUSED
    lift = next(t for t in refused.report["thresholds"] if t["name"] == "min_lift_over_best_baseline")
    assert not lift["ok"]
    assert refused.report["pushed_model"] is None
    assert refused.pushed == ["1"]
    assert refused.report["in_service"] == first.report["pushed_model"]
    assert "REFUSED: the model is not pushed" in refused.shown
    assert unchanged.report["artifacts"]["Pusher"]


def test_a_setting_runs_only_what_depends_on_it(refused: Run) -> None:
    # AutoSettings reads all settings; the values that it hands on decide what else runs.
    assert refused.ran == {"AutoSettings", "Trainer", "ScannIndexer", "RetrievalEvaluator", "Pusher"}


def test_a_refusal_is_no_failure_unless_one_asks_for_it(refused_again: Run) -> None:
    assert refused_again.status == 0
    assert refused_again.report["verdict"] == REFUSED
    assert refused_again.ran == set()


def test_a_killed_run_is_told_as_unfinished_and_pushes_nothing(killed: Run) -> None:
    assert killed.report["status"] == "unfinished"
    assert killed.report["verdict"] is None
    assert {"Transform", "CatalogTransform", "Trainer"} <= killed.ran
    assert killed.pushed == ["1"]


def test_a_killed_run_goes_on_where_it_stopped(killed: Run, newer: Run) -> None:
    # The killed run had passed the anomaly gate, so its statistics are now the reference.
    assert newer.ran == COMPARING | {"Trainer", "ScannIndexer", "RetrievalEvaluator", "Pusher"}
    assert (newer.status, newer.report["status"]) == (0, "complete")


def test_a_run_on_newer_data_is_compared_with_the_model_before(newer: Run, first: Run) -> None:
    assert newer.report["split"]["train_end"] > first.report["split"]["train_end"]
    blessed = newer.report["blessed_model"]
    # The refused model is later, but the reference is the blessed one.
    assert [blessed["uri"]] == first.report["artifacts"]["ScannIndexer"]["model"]
    assert blessed["eligible"]
    assert blessed["metrics"]["recall@100"] != first.report["metrics"]["test"]["recall@100"]
    (change,) = (t for t in newer.report["thresholds"] if t["name"] == "min_change_against_blessed")
    assert change["value"] == pytest.approx(
        newer.report["metrics"]["test"]["recall@100"] - blessed["metrics"]["recall@100"]
    )
    assert newer.report["verdict"] == BLESSED
    assert newer.pushed == ["1", "2"]


def test_training_begins_from_the_blessed_model_of_fewer_days(newer: Run, first: Run) -> None:
    (uri,) = first.report["artifacts"]["ScannIndexer"]["model"]
    start = newer.report["warm_start"]
    # The refused model is later, but the warm start uses the blessed one.
    assert start["start"] == f"from {uri}"
    assert 0.8 * start["rows_item"] < start["warm_rows_item"] < start["rows_item"]
    assert start["afresh"] == 0
    assert f"{start['warm_rows_item']:,} of {start['rows_item']:,} items carried over" in newer.shown
    assert first.report["warm_start"] is None


def test_with_its_truth_the_data_gives_the_model_a_ceiling(newer: Run) -> None:
    oracle = newer.report["oracle"]
    assert oracle["queries"] > 0
    for cutoff in (10, 50, 100):
        assert 0 < oracle[f"recall@{cutoff}"]["model"] < oracle[f"recall@{cutoff}"]["oracle"]


def test_a_stored_evaluation_judged_by_other_limits_is_refused_by_the_one_it_misses(newer: Run) -> None:
    (evaluation,) = newer.report["artifacts"]["RetrievalEvaluator"]["evaluation"]
    again = judge_again(newer.report["output"])
    assert again.path == evaluation and again.judgement.verdict == newer.report["verdict"]
    settings = {field.name for field in dataclasses.fields(GateConfig)}
    judged = [one for one in newer.report["thresholds"] if one["name"] in settings]
    assert {"min_recall", "min_ann_recall", "min_lift_over_best_baseline"} <= {one["name"] for one in judged}
    for one in judged:
        # Non-inferiority refuses a loss only beyond noise; a limit above the value always refuses.
        limit = max(one["value"], 0.0 if "change" in one["name"] else one["value"]) + 0.01
        judgement = judge_again(evaluation, overrides=[f"gate.{one['name']}={limit}"]).judgement
        assert judgement.verdict == REFUSED
        # One setting limits the index as a whole and its worst part.
        missed = {t.name for t in judgement.thresholds if not t.ok} - {"worst_ann_recall"}
        assert missed == {one["name"]}


def test_logs_hold_what_the_console_does_not(first: Run, world: World) -> None:
    assert "WARNING" not in first.shown
    assert "WARNING" in "".join(path.read_text() for path in Path(world.output, "logs").iterdir())
