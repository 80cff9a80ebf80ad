from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.stored_runs import Store
from two_tower.base import pointers
from two_tower.base.errors import UserError
from two_tower.base.settings import to_plain
from two_tower.pipeline.runs.history import history
from two_tower.pipeline.runs.history import render as render_history
from two_tower.pipeline.runs.page import changed_settings, collect_with_page
from two_tower.pipeline.runs.report import collect, newest_log, render, settings_of
from two_tower.pipeline.runs.stored_runs import pointers_of_earlier_release
from two_tower.pipeline.settings.presets import PRESETS
from two_tower.serving import push_record
from two_tower.serving.push_record import PushRecord
from two_tower.serving.versions import newest_version

METRICS = {"recall@1": 0.05, "recall@10": 0.2, "recall@50": 0.3, "recall@100": 0.4, "hit_rate@10": 0.2,
           "mrr": 0.09, "user_recall@10": 0.15}  # fmt: skip
EVALUATION: dict[str, Any] = {
    "verdict": "blessed",
    "unchanged": False,
    "dataset": "simulated-7",
    "protocol": "next_event",
    "has_timestamps": True,
    "cutoff": 100,
    "catalog": {"items": 4000},
    "split": {"train_end": 10, "eval": [10, 20], "test": [20, 30]},
    "queries": {"test": 1200, "users": 80, "available": 1200},
    "thresholds": [
        {"name": "min_recall", "value": 0.4, "limit": 0.01, "ok": True},
        {"name": "min_change_against_blessed", "value": None, "limit": 0, "ok": True, "note": "the first"},
    ],
    "metrics": {"test": METRICS, "test_exact": METRICS},
    "baselines": {"most_popular": {"recall@100": 0.1}, "personal_history": {"recall@100": 0.35}},
    "ann": {"recall@100": 0.987, "kind": "scann"},
    "blessed_model": None,
    "oracle": {
        "queries": 50,
        "recall@10": {"model": 0.2, "best_baseline": 0.1, "oracle": 0.3, "share_of_gap": 0.5},
    },
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_a_run_has_its_own_log_whatever_the_clock_says(tmp_path: Path, store: Store) -> None:
    """Gives the older log the later time, as a clock that was moved back does."""
    store.begin("2026-01-01T00:00:00.000007")
    store.execution("Trainer", "RUNNING")
    logs = tmp_path / "logs"
    logs.mkdir()
    ours, other = logs / "20260101-000000-000007.log", logs / "20260102-000000-000000-tune.log"
    for path in (ours, other):
        path.touch()
    os.utime(ours, (1, 1))
    assert collect(str(tmp_path))["log"] == str(ours)
    assert newest_log(str(tmp_path), {str(other)}) == str(ours)
    # Earlier releases named logs otherwise.
    ours.unlink()
    assert collect(str(tmp_path))["log"] == str(other)


def _evaluation(output: Path, evaluation: dict[str, Any]) -> Path:
    folder = output / "artifacts" / "RetrievalEvaluator" / "evaluation" / "7"
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


def _whole_run(store: Store, output: Path, evaluation: dict[str, Any], **pushed: int | str) -> None:
    judged = store.artifact("ModelEvaluation", _evaluation(output, evaluation))
    push = store.artifact("PushedModel", output / "artifacts" / "Pusher" / "pushed_model" / "8", **pushed)
    store.begin("2026-01-02T03:04:05.000001")
    store.execution("Trainer", "COMPLETE")
    store.execution("RetrievalEvaluator", "COMPLETE", {"evaluation": judged})
    store.execution("Pusher", "COMPLETE", {"pushed_model": push})
    # All components of the second run are cached.
    store.begin("2026-01-02T04:04:05.000001")
    store.execution("Trainer", "CACHED")
    store.execution("RetrievalEvaluator", "CACHED", {"evaluation": judged})
    store.execution("Pusher", "CACHED", {"pushed_model": push})


def test_a_cached_run_reports_what_it_took_over(store: Store, tmp_path: Path) -> None:
    version = tmp_path / "pushed" / "1"
    version.mkdir(parents=True)
    _whole_run(store, tmp_path, EVALUATION, pushed=1, pushed_destination=str(version))
    report = collect(str(tmp_path))
    assert report["status"] == "complete"
    assert [(one["name"], one["cached"]) for one in report["components"]] == [
        ("Trainer", True),
        ("RetrievalEvaluator", True),
        ("Pusher", True),
    ]
    for key in EVALUATION:
        assert report[key] == EVALUATION[key]
    assert report["pushed_model"] == report["in_service"] == str(version)
    assert json.loads(json.dumps(report)) == report


def test_a_run_tells_what_training_began_from(store: Store, tmp_path: Path) -> None:
    def line(**facts: float | str) -> str:
        model = store.artifact("Model", tmp_path / "model", **facts)
        store.begin(f"run {model}")
        store.execution("Trainer", "COMPLETE", {"model": model})
        return "".join(text for text in render(collect(str(tmp_path))).splitlines() if "Warm" in text)

    assert line(epochs=3.0) == ""
    none = "none, training begins from scratch. No model has been blessed yet."
    assert line(warm_start=none) == f"Warm start: {none}"
    carried = {"rows_item": 24_000.0, "warm_rows_item": 23_411.0, "warm_start_afresh": 0.0}
    expected = "Warm start: from runs/1, 23,411 of 24,000 items carried over"
    assert line(warm_start="from runs/1", **carried) == expected
    carried["warm_start_afresh"] = 2.0
    assert line(warm_start="from runs/1", **carried).startswith(f"{expected}; 2 layers, tables or states")


def test_a_component_reports_its_own_time(store: Store, tmp_path: Path) -> None:
    store.begin("run")
    store.execution("Trainer", "COMPLETE", seconds=0.12)
    store.execution("ScannIndexer", "RUNNING")
    report = collect(str(tmp_path))
    trainer, indexer = report["components"]
    assert trainer["seconds"] > 0
    assert indexer["seconds"] == 0
    assert report["status"] == "unfinished"
    assert "still running, at ScannIndexer" in render(report)


def test_a_run_that_failed_early_says_where_and_names_its_log(store: Store, tmp_path: Path) -> None:
    store.begin("first")
    store.execution("Trainer", "COMPLETE")
    store.begin("second")
    store.execution("Trainer", "CACHED")
    store.execution("AnomalyGate", "FAILED")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.log").write_text("")
    report = collect(str(tmp_path))
    assert (report["status"], report["verdict"], report["pushed_model"]) == ("failed", None, None)
    text = render(report)
    assert "FAILED: AnomalyGate stopped the run. It did not reach an evaluation." in text
    assert str(tmp_path / "logs" / "a.log") in text


def test_a_refused_model_is_not_reported_as_pushed(store: Store, tmp_path: Path) -> None:
    refused = copy.deepcopy(EVALUATION)
    refused["verdict"] = "refused"
    refused["thresholds"][0] |= {"value": 0.001, "ok": False}
    missed = {"user": 6, "label_item": 44, "found_by": "most_popular", "found_at": 3, "rank": 0}
    refused["refusal"] = {"slice": "cold", "examples": [missed | {"in_slice": True}]}
    (tmp_path / "pushed" / "3").mkdir(parents=True)
    _whole_run(store, tmp_path, refused, pushed=0)
    report = collect(str(tmp_path))
    assert report["pushed_model"] is None
    text = render(report)
    assert "REFUSED: the model is not pushed (min_recall)" in text
    assert "stays in service" in text
    assert "The slice that lost most is cold" in text
    assert "user 7, label item 44: most popular has it at rank 3, this model nowhere (in cold)" in text
    assert "The slice that lost most" not in render({**report, "verdict": "blessed"})
    without_users = render(collect_with_page(str(tmp_path), examples=False))
    assert "The slice that lost most is cold" in without_users and "user 7" not in without_users


def publish(output: Path, version: int, **record: Any) -> Path:
    """Leaves a version as Pusher or a rollback does, without a model in it."""
    path = output / "pushed" / str(version)
    path.mkdir(parents=True)
    push_record.write(str(path.parent), version, PushRecord(identity=f"of {record['model']}", **record))
    return path


def test_after_a_rollback_report_and_history_say_what_is_in_service(store: Store, tmp_path: Path) -> None:
    first, second = (store.artifact("Model", tmp_path / name) for name in ("first", "second"))
    for day, model in ((1, first), (2, second)):
        store.begin(f"2026-01-0{day}T03:04:05.000001")
        evaluation = store.artifact("ModelEvaluation", _evaluation(tmp_path / str(day), EVALUATION))
        version = publish(tmp_path, day, model=str(tmp_path / ("first", "second")[day - 1]))
        pushed = store.artifact(
            "PushedModel", tmp_path / f"p{day}", pushed=1, pushed_version=str(day),
            pushed_destination=str(version),
        )  # fmt: skip
        store.execution("ScannIndexer", "COMPLETE", {"model": model})
        store.execution("RetrievalEvaluator", "COMPLETE", {"evaluation": evaluation})
        store.execution("Pusher", "COMPLETE", {"pushed_model": pushed})
    text = render(collect(str(tmp_path)))
    assert f"In service: version 2. `two-tower rollback --output {tmp_path}` brings back version 1." in text
    published = "2026-11-30T12:00:00+00:00"
    publish(tmp_path, 3, model=str(tmp_path / "first"), copy_of=1, published=published)
    report = collect(str(tmp_path))
    assert (report["pushed_model"], report["in_service"]) == (
        str(tmp_path / "pushed" / "2"), str(tmp_path / "pushed" / "3")
    )  # fmt: skip
    assert (
        "In service: version 3, a rollback to version 1, since 2026-11-30 12:00:00 UTC. "
        "There is no earlier model to go back to."
    ) in render(report)
    newest, oldest = history(str(tmp_path))
    assert (newest["versions"], newest["in_service"]) == ([2], None)
    assert (oldest["versions"], oldest["in_service"], oldest["pushed_version"]) == ([1, 3], 3, "1")
    assert "1, 3 (in service)" in render_history([newest, oldest])


def test_a_push_that_was_killed_behind_its_last_step_is_known(store: Store, tmp_path: Path) -> None:
    store.begin("2026-01-01T03:04:05.000001")
    evaluation = store.artifact("ModelEvaluation", _evaluation(tmp_path, EVALUATION))
    store.execution("ScannIndexer", "COMPLETE", {"model": store.artifact("Model", tmp_path / "model")})
    store.execution("RetrievalEvaluator", "COMPLETE", {"evaluation": evaluation})
    store.execution("Pusher", "RUNNING")
    assert "killed before the push" in render(collect(str(tmp_path)))
    version = publish(tmp_path, 1, model=str(tmp_path / "model"))
    report = collect(str(tmp_path))
    assert report["pushed_model"] == str(version) and "killed behind the push" in render(report)
    (run,) = history(str(tmp_path))
    assert (run["pushed_version"], run["pushed_to"], run["in_service"]) == ("1", str(version), 1)


def test_the_same_model_again_is_not_reported_as_pushed(store: Store, tmp_path: Path) -> None:
    version = tmp_path / "pushed" / "2"
    version.mkdir(parents=True)
    _whole_run(store, tmp_path, {**EVALUATION, "unchanged": True}, pushed=0, pushed_destination=str(version))
    report = collect(str(tmp_path))
    assert report["pushed_model"] is None
    assert "not pushed again" in render(report)


def test_why_a_blessed_model_was_not_pushed_is_said_first(store: Store, tmp_path: Path) -> None:
    reason = "not pushed: pushed/2 is in service, and was given newer items since."
    _whole_run(
        store, tmp_path, EVALUATION, pushed=0, pushed_destination="pushed/2", not_pushed_because=reason
    )
    report = collect(str(tmp_path))
    assert report["not_pushed_because"] == reason
    assert render(report).startswith(f"BLESSED, and {reason}")


def test_the_text_shows_every_threshold_and_metric(store: Store, tmp_path: Path) -> None:
    _whole_run(store, tmp_path, EVALUATION, pushed=1, pushed_destination="somewhere/1")
    lines = render(collect(str(tmp_path))).splitlines()
    shown = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert shown["min_recall"] == ["0.4000", "≥", "0.0100", "holds"]
    assert shown["min_change_against_blessed"][0] == "–"
    assert "(the first)" in next(line for line in lines if "min_change" in line)
    model, exact, popular, history = (
        next(line.split() for line in lines if line.strip().startswith(f"{name} ") and "0." in line)
        for name in ("two-tower", "two-tower, exact search", "most popular", "personal history")
    )
    assert (model[-1], exact[-1], popular[-1], history[-1]) == ("0.4000", "0.4000", "0.1000", "0.3500")
    assert any("ScaNN returns 0.9870 (recall@100)" in line for line in lines)
    assert "hit_rate@10" not in shown  # with one label per query, recall equals it
    assert "judged by Recall@100" in "\n".join(lines)
    assert any(line.strip() == "recall: share of queries whose item is among the first k" for line in lines)
    text = " ".join(" ".join(lines).split())
    assert "Protocol `next_event`: each of 1,200 test queries (80 users) asks for the one item" in text
    with_oracle = ["recall@10", "0.1000", "0.2000", "–", "0.3000", "–", "0.5000"]
    assert any(line.split() == with_oracle for line in lines)


def test_a_long_note_cuts_no_threshold_s_name(store: Store, tmp_path: Path) -> None:
    worst = {"name": "min_slice_change", "value": -0.11, "limit": -0.02, "ok": False, "low": -0.17,
             "high": -0.06, "note": "worst slice: user_country=Germany, 420 users; 98% bounds for all 42",
             "direction": "min"}  # fmt: skip
    lift = {**worst, "name": "min_change_against_blessed", "note": "more than noise"}
    slow = {**worst, "name": "max_latency_p95", "value": 48.4, "limit": 25.0, "low": None, "direction": "max"}
    _whole_run(store, tmp_path, {**EVALUATION, "verdict": "refused", "thresholds": [worst, lift, slow]})
    text = render(collect(str(tmp_path)))
    assert "min_change_against_blessed " in text and "48.4 ms" in text and "≤ 25 ms" in text
    assert max(map(len, text.split("Thresholds")[1].split("Test split")[0].splitlines())) <= 100


def test_without_a_run_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run yet"):
        collect(str(tmp_path))
    Store(tmp_path)
    with pytest.raises(UserError, match="holds no run yet"):
        collect(str(tmp_path))


def test_a_broken_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "metadata.sqlite").write_text("not a database")
    with pytest.raises(UserError, match=r"metadata\.sqlite cannot be read"):
        collect(str(tmp_path))


def test_the_newest_version_is_the_highest_number(tmp_path: Path) -> None:
    for name in ("9", "10", ".incoming-11"):
        (tmp_path / name).mkdir()
    assert newest_version(str(tmp_path)) == str(tmp_path / "10")
    assert newest_version(str(tmp_path / "none")) is None


def test_settings_are_told_by_their_names_those_of_earlier_releases_too() -> None:
    def told(**parameters: Any) -> dict[str, Any]:
        return settings_of({"Trainer": {"parameters": parameters}})

    now = to_plain(PRESETS["small"].trainer)
    found = told(trainer=json.dumps(now), seed=5)
    assert (found["trainer.dropout.hidden"], found["trainer.softmax"], found["seed"]) == (0.3, "auto", 5)
    changed = changed_settings(found)
    assert {"trainer.dropout.hidden", "trainer.softmax", "seed"} <= set(changed)
    weighed = told(trainer=json.dumps({"label_weights": {"like": 2.0}}))
    assert changed_settings(weighed) == ["trainer.label_weights.like"]
    earlier = told(trainer='{"leave_out": ["seed"], "dropout": 0.3}')
    assert earlier == {"trainer.leave_out": ["seed"], "trainer.dropout": 0.3}
    # What there is no more is no change of today's settings.
    assert changed_settings(earlier) == []


def test_a_report_draws_the_page_with_times_and_settings(store: Store, tmp_path: Path) -> None:
    _whole_run(store, tmp_path, EVALUATION, pushed=1, pushed_destination="somewhere/1")
    store.begin("2026-01-03T03:04:05.000001")
    epochs = PRESETS["default"].trainer.epochs
    settings = {"embedding_dim": 7, "epochs": epochs}
    store.execution("Trainer", "COMPLETE", parameters={"trainer": json.dumps(settings)})
    judged = store.artifact("ModelEvaluation", tmp_path / "artifacts/RetrievalEvaluator/evaluation/7")
    store.execution("RetrievalEvaluator", "COMPLETE", {"evaluation": judged})
    report = collect_with_page(str(tmp_path))
    page = Path(report["page"])
    assert page == tmp_path / "artifacts/RetrievalEvaluator/evaluation/7/report.html"
    assert report["settings"] == {"trainer.embedding_dim": 7, "trainer.epochs": epochs}
    text = page.read_text()
    assert '<div class="changed"><dt>embedding_dim</dt><dd>7</dd></div>' in text
    assert f"<div><dt>epochs</dt><dd>{epochs}</dd></div>" in text and "RetrievalEvaluator" in text
    assert any(line.startswith("Report ") and str(page) in line for line in render(report).splitlines())
    elsewhere = tmp_path / "mine.html"
    assert collect_with_page(str(tmp_path), path=str(elsewhere))["page"] == str(elsewhere)
    assert elsewhere.read_text() == text
    with pytest.raises(UserError, match="the report cannot be written"):
        collect_with_page(str(tmp_path), path=str(tmp_path / "no such folder" / "mine.html"))


def test_a_page_that_cannot_be_written_whole_leaves_the_old_one(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _whole_run(store, tmp_path, EVALUATION, pushed=1, pushed_destination="somewhere/1")
    page = Path(collect_with_page(str(tmp_path))["page"])
    before = page.read_text()

    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert collect_with_page(str(tmp_path))["page"] is None
    assert page.read_text() == before and os.listdir(page.parent).count("report.html") == 1


@pytest.mark.parametrize(
    ("at", "value", "named"),
    [
        (("queries", "users"), {}, "key 'queries.users' is {}"),
        (("split", "test"), [None, 30], "TypeError"),
        (("thresholds", 0, "value"), "x", r"key 'thresholds\[0\].value' is 'x'"),
        (("thresholds", 1, "limit"), [], r"key 'thresholds\[1\].limit' is \[\]"),
    ],
)
@pytest.mark.parametrize("examples", [True, False])
def test_an_evaluation_that_no_page_can_show_is_named(
    at: tuple[Any, ...], value: Any, named: str, examples: bool, store: Store, tmp_path: Path
) -> None:
    damaged = copy.deepcopy(EVALUATION)
    place: Any = damaged
    for key in at[:-1]:
        place = place[key]
    place[at[-1]] = value
    _whole_run(store, tmp_path, damaged, pushed=1, pushed_destination="somewhere/1")
    with pytest.raises(UserError, match=f"evaluation.json: .*{named}"):
        collect_with_page(str(tmp_path), examples=examples)
    assert not (tmp_path / "artifacts/RetrievalEvaluator/evaluation/7/report.html").exists()


def test_an_evaluation_whose_text_cannot_be_written_again_is_named(store: Store, tmp_path: Path) -> None:
    damaged = {**EVALUATION, "refusal": {"slice": None, "examples": [{"user": 1}]}, "slices": {
        "head": {"queries": 3, "metrics": {}}}}  # fmt: skip
    _whole_run(store, tmp_path, damaged, pushed=1, pushed_destination="somewhere/1")
    folder = tmp_path / "artifacts/RetrievalEvaluator/evaluation/7"
    (folder / "examples.json").write_text("[]")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=r"evaluation.json: .*KeyError: 'labels'.*Run the pipeline again"):
        collect_with_page(str(tmp_path), examples=False)
    # No half of the removal is done.
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_path_that_no_file_can_have_is_named_and_not_the_evaluation(store: Store, tmp_path: Path) -> None:
    _whole_run(store, tmp_path, EVALUATION, pushed=1, pushed_destination="somewhere/1")
    with pytest.raises(UserError, match=r"mine.*: the report cannot be written .*Name another path"):
        collect_with_page(str(tmp_path), path=str(tmp_path / "mine\0.html"))


def test_removed_examples_are_gone_from_page_and_evaluation(store: Store, tmp_path: Path) -> None:
    _whole_run(store, tmp_path, EVALUATION, pushed=1, pushed_destination="somewhere/1")
    folder = tmp_path / "artifacts/RetrievalEvaluator/evaluation/7"
    item = {"item_id": 3, "title": "Their Song", "artist": None, "tags": None}
    example = {
        "user": "user 1",
        "history": [item],
        "seed": item,
        "recommended": [],
        "played_next": [],
        "labels": 1,
    }
    (folder / "examples.json").write_text(json.dumps([example]))
    assert "Their Song" in Path(collect_with_page(str(tmp_path))["page"]).read_text()
    assert "Their Song" not in Path(collect_with_page(str(tmp_path), examples=False)["page"]).read_text()
    assert not (folder / "examples.json").exists()
    # A page at another path also replaces the evaluator's page.
    (folder / "examples.json").write_text(json.dumps([example]))
    assert "Their Song" in Path(collect_with_page(str(tmp_path))["page"]).read_text()
    collect_with_page(str(tmp_path), examples=False, path=str(tmp_path / "mine.html"))
    assert not any(
        "Their Song" in path.read_text() for path in (tmp_path / "mine.html", folder / "report.html")
    )


def test_an_output_of_an_earlier_release_gives_its_pointers(store: Store, tmp_path: Path) -> None:
    made = {}
    for number, name in enumerate(("approved", "model", "later")):
        made[name] = tmp_path / f"{name}-{number}"
        made[name].mkdir()
    store.begin("2026-01-01T03:04:05.000001")
    statistics = store.artifact("Statistics", made["approved"], dataset="films", made_with="{}")
    store.execution("ApprovedStatistics", "COMPLETE", {"approved": statistics})
    store.execution(
        "ScannIndexer", "COMPLETE", {"model": store.artifact("Model", made["model"], towers_uri="t")}
    )
    blessing = store.artifact("ModelBlessing", tmp_path / "blessing", blessed=1)
    store.execution("RetrievalEvaluator", "COMPLETE", {"blessing": blessing})
    # A refused model is no pointer's.
    store.begin("2026-01-02T03:04:05.000001")
    store.execution("ScannIndexer", "COMPLETE", {"model": store.artifact("Model", made["later"])})
    refusal = store.artifact("ModelBlessing", tmp_path / "refusal", blessed=0)
    store.execution("RetrievalEvaluator", "COMPLETE", {"blessing": refusal})
    found = pointers_of_earlier_release(str(tmp_path))
    assert found[pointers.BLESSED].uri == str(made["model"])
    assert found[pointers.BLESSED].properties == {"towers_uri": "t"}
    assert found[pointers.APPROVED].properties == {"dataset": "films", "made_with": "{}"}
    # Files that are gone are pointed to no more.
    made["approved"].rmdir()
    assert found.keys() - pointers_of_earlier_release(str(tmp_path)).keys() == {pointers.APPROVED}
    # A run of this release writes pointers. Whoever removes one wants none.
    store.begin("2026-01-03T03:04:05.000001")
    store.execution("ComparableStatistics", "COMPLETE", parameters={"latest_approved": "null"})
    assert pointers_of_earlier_release(str(tmp_path)) == {}


def test_history_lists_every_run_the_newest_first(store: Store, tmp_path: Path) -> None:
    facts: dict[str, Any] = {
        "dataset": "simulated-7",
        "train_end": 864_000,
        "test_from": 950_400,
        "test_to": 1_036_800,
    }
    windows = store.artifact("Examples", tmp_path / "windows", **facts)
    gone = store.artifact("ModelEvaluation", tmp_path / "gone")
    blessing = store.artifact("ModelBlessing", tmp_path / "blessing", blessed=0)
    store.begin("2026-01-01T03:04:05.000001")
    store.execution("InteractionExampleGen", "COMPLETE", {"examples": windows})
    store.execution("RetrievalEvaluator", "COMPLETE", {"evaluation": gone, "blessing": blessing})
    store.execution("Pusher", "COMPLETE")
    _whole_run(store, tmp_path, EVALUATION, pushed=1, pushed_destination="somewhere/4", pushed_version="4")
    store.begin("partial 2026-01-04T03:04:05.000001")
    store.execution("InteractionExampleGen", "COMPLETE", {"examples": windows})
    store.begin("2026-01-05T03:04:05.000001")
    store.execution("InteractionExampleGen", "COMPLETE", {"examples": windows})
    store.execution("Trainer", "FAILED")
    failed, cached, pushed, cleared = history(str(tmp_path))
    assert (failed["status"], failed["failed"], failed["verdict"]) == ("failed", ["Trainer"], None)
    assert (failed["dataset"], failed["train_end"], failed["test_to"]) == ("simulated-7", 864_000, 1_036_800)
    for run in (cached, pushed):
        assert (run["recall"], run["verdict"], run["pushed_version"]) == (0.4, "blessed", "4")
        assert run["interval"] is None and (run["train_end"], run["test_to"]) == (10, 30)
    # The evaluation's files are gone; the store remains.
    assert (cleared["verdict"], cleared["recall"]) == ("refused", None)
    assert "cannot be read" in cleared["note"]
    text = render_history(history(str(tmp_path)))
    assert all(word in text for word in ("failed at Trainer", "pushed", "0.4000", "refused", "day 12.00"))
    late = render_history([{**failed, "test_to": 1_234 * 86_400}])
    assert "day 1,234.00" in late
    with pytest.raises(UserError, match="holds no run yet"):
        history(str(tmp_path / "nowhere"))
