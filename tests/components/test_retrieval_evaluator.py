"""Tests of the evaluator component, from windows and a served model of random weights to its verdict."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from tfx.types import artifact_utils, standard_artifacts

from tests.small_world import (
    ALL_AGGREGATES,
    CONFIG,
    FIRST_NEW_ITEM,
    HISTORY_LENGTH,
    SPLIT,
    Transformed,
    catalog_items,
    events,
    log,
    write_examples,
)
from two_tower.base.errors import UserError
from two_tower.base.pointers import ANCHOR, NOTHING, Pointer
from two_tower.base.settings import DEFAULT_SEED
from two_tower.components.interaction_example_gen.facts import write_facts
from two_tower.components.interaction_example_gen.splits import FrozenSplit, HoldOut, LeaveOneOut
from two_tower.components.interaction_example_gen.windows import WindowCutter
from two_tower.components.retrieval_evaluator.executor import Executor
from two_tower.data_directory.facts import NEW_USERS, DataFacts
from two_tower.data_directory.shuffled_order import shuffled_order
from two_tower.evaluation import measure
from two_tower.evaluation.evaluate_model import notes_of_new_users, parity_with_towers, recommended_by
from two_tower.evaluation.query_results import QueryResults
from two_tower.evaluation.settings import EvaluationConfig, GateConfig
from two_tower.evaluation.task import ServedModel
from two_tower.pipeline.runs.judged_again import judge_again
from two_tower.schema import features
from two_tower.serving import canary
from two_tower.serving.canary import difference
from two_tower.serving.index import ExactIndex
from two_tower.serving.provenance import PROVENANCE, TOWERS, digest_of, towers_digest
from two_tower.serving.request_tensors import request_tensors
from two_tower.serving.retrieval_model import RetrievalModel
from two_tower.serving.settings import IndexConfig
from two_tower.trainer.loop.two_tower_model import TwoTowerModel
from two_tower.trainer.model.catalog_table import CatalogArrays, CatalogTable
from two_tower.trainer.model.signatures import Towers

pytestmark = pytest.mark.slow

GAP, ENOUGH = 3_600, 0.25
FROZEN = FrozenSplit(SPLIT, gap_seconds=GAP, min_play_ratio=ENOUGH)
CUTOFFS = (1, 10, 100)  # of 70 items
FACTS = DataFacts(
    data="nowhere", data_digest="sha256:today", dataset="small", label_event="listen",
    repeats_recommendable=True, has_timestamps=True, user_ids="integer", item_ids="integer",
    protocol="frozen", split_digest="sha256:split",
    train_end=SPLIT.train_end, eval_from=SPLIT.eval[0], eval_to=SPLIT.eval[1],
    test_from=SPLIT.test[0], test_to=SPLIT.test[1],
)  # fmt: skip


def artifact(kind: type[Any], uri: Path) -> Any:
    made = kind()
    made.uri = str(uri)
    uri.mkdir(parents=True, exist_ok=True)
    return made


def examples(uri: Path, facts: DataFacts) -> standard_artifacts.Examples:
    made = artifact(standard_artifacts.Examples, uri)
    made.split_names = artifact_utils.encode_split_names(list(features.SPLITS))
    write_facts(facts, made)
    return made


def pointer_to(model: standard_artifacts.Model) -> str:
    """Returns the text of the pointer to a blessed model."""
    return Pointer(model.uri, {TOWERS: model.get_string_custom_property(TOWERS) or ""}).to_text()


def evaluate(
    out: Path,
    windows: standard_artifacts.Examples,
    model: standard_artifacts.Model,
    gate: GateConfig,
    blessed: standard_artifacts.Model | None = None,
    **submitted: float | str,
) -> tuple[dict[str, Any], str]:
    """Runs the evaluator and returns evaluation.json and report.md."""
    evaluation = artifact(standard_artifacts.ModelEvaluation, out / "evaluation")
    blessing = artifact(standard_artifacts.ModelBlessing, out / "blessing")
    Executor().Do(
        {"examples": [windows], "model": [model]},
        {"evaluation": [evaluation], "blessing": [blessing]},
        {
            "evaluation_config": json.dumps(dataclasses.asdict(EvaluationConfig(cutoffs=CUTOFFS))),
            "gate_config": json.dumps(dataclasses.asdict(gate)),
            "history_length": HISTORY_LENGTH,
            "seed": DEFAULT_SEED,
            "features": ALL_AGGREGATES.to_json(),
            "source_digest": "",
            "latest_blessed": pointer_to(blessed) if blessed else NOTHING,
            "root": str(out),
            **submitted,
        },
    )
    found = json.loads((out / "evaluation" / "evaluation.json").read_text())
    verdict = "BLESSED" if found["verdict"] == "blessed" else "NOT_BLESSED"
    # Pusher is given what it checks a copy by.
    assert blessing.get_string_custom_property("evaluated_digest") == digest_of(f"{model.uri}/Format-Serving")
    found["next_anchor"] = blessing.get_string_custom_property(ANCHOR)
    assert found["next_anchor"]
    # The canary holds the queries that Pusher repeats on its copy.
    assert sorted(path.name for path in (out / "blessing").iterdir()) == sorted([verdict, canary.FILE_NAME])
    return found, (out / "evaluation" / "report.md").read_text()


@pytest.fixture(autouse=True, scope="module")
def asked_once() -> Iterator[None]:
    """Cache of the one model's answers, so that the same windows do not load it again."""
    answers, known = measure.answers, {}

    def remembered(path: str, windows_dir: str, rows: np.ndarray, **kwargs: Any) -> Any:
        files = sorted(str(file.relative_to(path)) for file in Path(path).rglob("*"))
        key = (windows_dir, rows.tobytes(), *files)
        if key not in known:
            known[key] = answers(path, windows_dir, rows, **kwargs)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "answers", remembered)
        yield


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Transformed:
    cutter = WindowCutter(FROZEN, True, HISTORY_LENGTH, 10)
    return Transformed.of(tmp_path_factory.mktemp("frozen"), events(), cutter, catalog_items())


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> standard_artifacts.Examples:
    out = tmp_path_factory.mktemp("windows")
    batches, _ = WindowCutter(FROZEN, True, HISTORY_LENGTH, 10).cut(events())
    for split, batch in batches.items():
        write_examples(out / f"Split-{split}" / "data_tfrecord-0.gz", [batch])
    return examples(out, FACTS)


@pytest.fixture(scope="module")
def model(frozen: Transformed, tmp_path_factory: pytest.TempPathFactory) -> standard_artifacts.Model:
    """Towers of random weights over exact search, with the record that ScannIndexer leaves."""
    output = tft.TFTransformOutput(frozen.graph)
    catalog_spec = tft.TFTransformOutput(frozen.catalog_graph).transformed_feature_spec()
    catalog = CatalogArrays.read(frozen.catalog_files, catalog_spec)
    train_items = [int(item) for item in output.vocabulary_by_name(features.ITEM_VOCABULARY)]
    table = CatalogTable(catalog, np.array(train_items))
    towers = TwoTowerModel(
        table,
        np.zeros(table.size + 1, np.float32),
        output.vocabulary_size_by_name(features.USER_VOCABULARY),
        HISTORY_LENGTH,
        CONFIG,
    )
    towers.compute_loss(frozen.batch("train"))
    saved = Towers(
        output.transform_features_layer(), table, towers.query_tower, towers.candidate_tower, HISTORY_LENGTH,
        frozen.resolved,
    )  # fmt: skip
    made = artifact(standard_artifacts.Model, tmp_path_factory.mktemp("model"))
    trained = f"{made.uri}/trained"
    saved.save(f"{trained}/Format-Serving")
    loaded = tf.saved_model.load(f"{trained}/Format-Serving")
    item_id = loaded.catalog()["item_id"]
    config = IndexConfig()
    index = ExactIndex(loaded.candidate_embedding(item_id)["embedding"])
    retrieval = RetrievalModel(loaded, index, item_id, config.max_k)
    retrieval.save(f"{made.uri}/Format-Serving")
    made.set_string_custom_property(TOWERS, trained)
    record(made, {"index": {"kind": "exact", "towers": towers_digest(trained)}})
    return made


def record(made: standard_artifacts.Model, changes: dict[str, Any]) -> None:
    path = Path(made.uri) / "Format-Serving" / PROVENANCE
    path.parent.mkdir(exist_ok=True)
    provenance = {
        **dataclasses.asdict(FACTS), "train_newest_timestamp": SPLIT.train_end - 1,
        "index": {"kind": "exact"}, "max_k": IndexConfig().max_k, **changes,
    }  # fmt: skip
    path.write_text(json.dumps(provenance))


LENIENT = GateConfig(
    cutoff=10,
    min_recall=0.0,
    min_ann_recall=0.95,
    min_lift_over_best_baseline=-1.0,
    min_discovery_lift=-1.0,
)


def frozen_queries() -> dict[int, tuple[list[int], set[int]]]:
    """Returns by user the log's rows that the query sees, oldest first, and the query's labels."""
    ratio = events().play_ratio
    once = list({(e.user, e.item, e.time, e.kind): e for e in reversed(log())}.values())
    found = {}
    for user in {e.user for e in once}:
        own = sorted((e for e in once if e.user == user), key=lambda e: (e.time, e.kind != b"listen", e.row))
        listens = [e for e in own if e.kind == b"listen"]
        labels = {
            e.item
            for e in listens
            if SPLIT.test[0] <= e.time < SPLIT.test[1] and (ratio[e.row] < 0 or ratio[e.row] >= ENOUGH)
        }
        if labels and listens[0].time < SPLIT.train_end:
            state = [e for e in own if e.time < SPLIT.test[0] - GAP]
            while state[-1].kind != b"listen":
                state.pop()
            found[user] = [e.row for e in state], labels
    return found


def asked_again(served: Any, record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Repeats the recorded queries and returns their items and scores."""
    recommend = served.signatures["serving_default"]
    specs = recommend.structured_input_signature[1]
    inputs = {name: tf.constant(value, specs[name].dtype) for name, value in record["inputs"].items()}
    answer = recommend(**inputs)
    return answer["item_id"].numpy(), answer["score"].numpy()


def test_a_frozen_evaluation_is_what_a_plain_loop_over_the_log_and_the_served_model_says(
    windows: standard_artifacts.Examples, model: standard_artifacts.Model, tmp_path: Path
) -> None:
    evaluation, report = evaluate(tmp_path, windows, model, LENIENT)
    served = tf.saved_model.load(f"{model.uri}/Format-Serving")
    recommend = served.signatures["serving_default"]
    rows, ratio = log(), events().play_ratio
    metrics: dict[str, list[float]] = defaultdict(list)
    asked = frozen_queries()
    assert len(asked) > 10
    for user, (state, labels) in asked.items():
        seen = [rows[row] for row in state[-HISTORY_LENGTH:]]
        request = {
            "user_id": [user],
            "history_item_id": [[e.item for e in seen]],
            "history_timestamp": [[e.time for e in seen]],
            "history_event_type": [[e.kind for e in seen]],
            "history_play_ratio": [[*(ratio[e.row] for e in seen[:-1]), -1.0]],
            "history_is_organic": [[e.row % 3 - 1 for e in seen]],
            "request_timestamp": [SPLIT.test[0]],
            "k": 70,
        }
        answer = recommend(**request_tensors(recommend, request))
        items = answer["item_id"].numpy()[0].tolist()
        for k in CUTOFFS:
            hits = len(labels & set(items[:k]))
            metrics[f"recall@{k}"].append(hits / len(labels))
            metrics[f"clipped_recall@{k}"].append(hits / min(k, len(labels)))
            metrics[f"hit_rate@{k}"].append(min(hits, 1))
    for name, values in metrics.items():
        assert evaluation["metrics"]["test"][name] == pytest.approx(np.mean(values)), name
        assert evaluation["metrics"]["test"][f"user_{name}"] == pytest.approx(np.mean(values)), name
    assert evaluation["metrics"]["test_exact"] == pytest.approx(evaluation["metrics"]["test"])

    queries = evaluation["queries"]
    assert queries["test"] == queries["users"] == len(asked)
    sizes = [len(labels) for _, labels in asked.values()]
    assert queries["labels"]["total"] == sum(sizes)
    assert queries["labels"]["max"] == max(sizes) > 1
    assert queries["labels"]["mean"] == pytest.approx(np.mean(sizes))
    assert queries["labels"]["unknown_to_train"] == sum(
        item >= FIRST_NEW_ITEM for _, labels in asked.values() for item in labels
    )
    # queries.npz holds each query's ranks, for the gate and for readers.
    with (tmp_path / "evaluation" / "queries.npz").open("rb") as file:
        results = QueryResults.read(file)
    assert sorted(results.user.tolist()) == list(range(len(asked)))
    assert list(results.ranks) == ["model", "model_exact", *evaluation["baselines"]]
    for who in results.ranks:
        found = evaluation["metrics"]["test"] if who.startswith("model") else evaluation["baselines"][who]
        for name, per_query in results.values(who, CUTOFFS).items():
            assert found[name] == pytest.approx(np.mean(per_query)), (who, name)
    low, high = evaluation["intervals"]["model"]["recall@10"]
    assert low < evaluation["metrics"]["test"]["recall@10"] < high
    change = evaluation["changes"]["most_popular"]["recall@10"]
    lift = evaluation["metrics"]["test"]["recall@10"] - evaluation["baselines"]["most_popular"]["recall@10"]
    assert change["change"] == pytest.approx(lift) and change["low"] <= lift <= change["high"]
    assert set(results.slices) == set(evaluation["slices"])

    # Popular items have less novelty than the model's, and more popularity than the histories.
    popular, model_ = evaluation["baselines"]["most_popular"], evaluation["metrics"]["test"]
    assert popular["novelty@10"] < model_["novelty@10"]
    assert popular["popularity_lift@10"] > model_["popularity_lift@10"]
    assert 0 < model_["intra_list_diversity@10"] < 2 and model_["intra_list_diversity@1"] is None
    assert evaluation["diversity_of"] == "model"

    # The fresh process measures parity, latency and size of the artifact.
    parity = evaluation["ann"]["parity"]
    assert parity["ok"] and parity["ids"] and parity["order"] and parity["max_score_error"] < 1e-5
    assert evaluation["latency"]["single"]["requests"] > 0 < evaluation["latency"]["batch"]["p99_ms"]
    files = [path for path in Path(model.uri, "Format-Serving").rglob("*") if path.is_file()]
    assert evaluation["size"] == {"bytes": sum(f.stat().st_size for f in files), "files": len(files)}

    # Each test label counts in the slice of its item.
    slices = evaluation["slices"]
    cold = slices["cold"]
    assert cold["labels"] == queries["labels"]["unknown_to_train"] > 0
    assert sum(slices[name]["labels"] for name in ("head", "middle", "tail", "cold")) == sum(sizes)
    assert list(cold["metrics"]) == ["model", *evaluation["baselines"]]
    # Baselines never recommend a cold item.
    assert cold["metrics"]["most_popular"]["recall@100"] == 0 < cold["metrics"]["model"]["recall@100"]
    assert "heard" not in slices and f"| cold | recall@10 | {cold['labels']} |" in report
    assert evaluation["protocol"] == "frozen" and evaluation["cutoff"] == 10
    ann = evaluation["ann"]
    assert set(ann) == {"recall@1", "recall@10", "recall@100", "by_history", "kind", "parity"}
    # Search is exact. Each user's one query is asked once more without a history.
    assert ann["by_history"]["history_0"]["queries"] == len(asked)
    lengths = [min(len(state), HISTORY_LENGTH) for state, _ in asked.values()]
    assert ann["by_history"]["history_2_5"]["queries"] == sum(2 <= length <= 5 for length in lengths)
    assert {one["recall@10"] for one in ann["by_history"].values() if one["queries"]} == {1.0}
    assert f"Recall@10 is .{round(1e4 * model_['recall@10']):04d}, " in report.split("## ")[0]
    assert "Recall@10 of the served model" in report and "Protocol `frozen`" in report
    # The threshold has bounds, and the model answers the canary's queries the same again.
    (recall,) = (one for one in evaluation["thresholds"] if one["name"] == "min_recall")
    assert recall["low"] < recall["value"] < recall["high"]
    recorded = json.loads((tmp_path / "blessing" / canary.FILE_NAME).read_text())
    assert difference(recorded, *asked_again(served, recorded)) == ""
    # The gate refuses random weights for their lift over the best baseline.
    again = judge_again(str(tmp_path / "evaluation"), overrides=["gate.min_lift_over_best_baseline=0"])
    assert again.judgement.verdict == "refused"
    assert "min_lift_over_best_baseline" in [t.name for t in again.judgement.thresholds if not t.ok]
    # The first 100 include all 70 items. A label that is still missing is in no catalog.
    assert evaluation["metrics"]["test"]["recall@100"] < 1
    assert evaluation["metrics"]["test"]["coverage@100"] == 1


def test_thresholds_of_a_submission_replace_the_compiled_ones(
    windows: standard_artifacts.Examples, model: standard_artifacts.Model, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"gate_min_recall": 0.99, "gate_slices": "cold=0.5"}
    evaluation, _ = evaluate(tmp_path, windows, model, LENIENT, **given)
    limits = {one["name"]: (one["limit"], one["ok"]) for one in evaluation["thresholds"]}
    assert evaluation["verdict"] == "refused"
    assert limits["min_recall"] == (0.99, False)
    assert evaluation["gate"]["slices"] == ["cold=0.5"]


def test_an_index_whose_towers_are_gone_is_not_taken_on_trust(
    model: standard_artifacts.Model, tmp_path: Path
) -> None:
    trained = model.get_string_custom_property(TOWERS)
    index = {"towers": towers_digest(trained)}
    moved = artifact(standard_artifacts.Model, tmp_path / "model")
    for uri, ok in ((trained, True), (str(tmp_path / "gone"), False), ("", False)):
        assert parity_with_towers({"ok": True}, index, ServedModel(moved.uri, moved.uri, uri))["ok"] is ok


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data_digest": "sha256:yesterday"}, None),
        ({"protocol": "next_event"}, "under the protocol next_event, this one under frozen"),
        ({"train_newest_timestamp": SPLIT.test[0]}, "trained on today's test period"),
        ({"max_k": 50}, "answers with at most 50 items"),
    ],
)
def test_the_latest_blessed_model_is_compared_with_or_named_and_ignored(
    windows: standard_artifacts.Examples,
    model: standard_artifacts.Model,
    tmp_path: Path,
    changes: dict[str, Any],
    reason: str | None,
) -> None:
    blessed = artifact(standard_artifacts.Model, tmp_path / "blessed")
    shutil.copytree(model.uri, blessed.uri, dirs_exist_ok=True)
    record(blessed, changes)
    evaluation, report = evaluate(tmp_path, windows, model, LENIENT, blessed)
    names = [threshold["name"] for threshold in evaluation["thresholds"]]
    if reason is None:
        assert "min_change_against_blessed" in names
        assert evaluation["blessed_model"]["metrics"] == pytest.approx(evaluation["metrics"]["test"])
    else:
        assert "min_change_against_blessed" not in names
        assert reason in evaluation["blessed_model"]["reason"]
        assert reason in report


def test_the_anchor_that_the_pointer_names_is_asked_and_passed_on(
    windows: standard_artifacts.Examples, model: standard_artifacts.Model, tmp_path: Path
) -> None:
    blessed, anchor = (artifact(standard_artifacts.Model, tmp_path / name) for name in ("blessed", "anchor"))
    for copy in (blessed, anchor):
        shutil.copytree(model.uri, copy.uri, dirs_exist_ok=True)
        record(copy, {"data_digest": "sha256:yesterday"})
    pointer = Pointer(blessed.uri, {ANCHOR: anchor.uri}).to_text()
    evaluation, report = evaluate(tmp_path, windows, model, LENIENT, latest_blessed=pointer)
    assert evaluation["anchor"]["uri"] == anchor.uri and evaluation["anchor"]["eligible"]
    assert evaluation["anchor"]["metrics"] == pytest.approx(evaluation["metrics"]["test"])
    (told,) = (one for one in evaluation["thresholds"] if one["name"] == "min_change_against_anchor")
    assert told["value"] == 0 and anchor.uri in told["note"] and anchor.uri in report
    # As good as the anchor: the new model takes its place.
    assert evaluation["next_anchor"] == model.uri


@pytest.mark.parametrize("lost", ["saved_model.pb", "variables/variables.index"])
def test_a_blessed_model_with_some_files_gone_is_named(
    windows: standard_artifacts.Examples, model: standard_artifacts.Model, tmp_path: Path, lost: str
) -> None:
    blessed = artifact(standard_artifacts.Model, tmp_path / "blessed")
    shutil.copytree(model.uri, blessed.uri, dirs_exist_ok=True)
    record(blessed, {"max_k": 201})
    (tmp_path / "blessed" / "Format-Serving" / lost).unlink()
    with pytest.raises(UserError, match=r"blessed/Format-Serving: the model does not load .*Restore them"):
        evaluate(tmp_path, windows, model, LENIENT, blessed)
    assert not (tmp_path / "blessing").exists() or not any((tmp_path / "blessing").iterdir())


def test_leave_one_out_on_data_without_times(model: standard_artifacts.Model, tmp_path: Path) -> None:
    cutter = WindowCutter(LeaveOneOut(), True, HISTORY_LENGTH, 10, has_timestamps=False)
    for split, batch in cutter.cut(events())[0].items():
        write_examples(tmp_path / "windows" / f"Split-{split}" / "data_tfrecord-0.gz", [batch])
    facts = dataclasses.replace(
        FACTS, protocol="leave_one_out", has_timestamps=False, train_end=0, eval_from=0, eval_to=0,
        test_from=0, test_to=0,
    )  # fmt: skip
    windows = examples(tmp_path / "windows", facts)
    evaluation, report = evaluate(tmp_path, windows, model, dataclasses.replace(LENIENT, cutoff=100))
    # Decayed popularity needs times. The content baselines need a catalog with words or vectors.
    assert set(evaluation["baselines"]) == {
        "most_popular",
        "personal_history",
        "co_occurrence",
        "ials",
        "bpr",
    }
    assert evaluation["queries"]["test"] == evaluation["queries"]["users"] > 20
    test = evaluation["metrics"]["test"]
    assert test["recall@10"] == test["clipped_recall@10"] == test["hit_rate@10"] == test["user_recall@10"]
    assert test["ndcg@10"] == pytest.approx(test["pooled_ndcg@10"])
    # With one label per query the slices' hits add up to those of all queries.
    parts = [evaluation["slices"][name] for name in ("head", "middle", "tail", "cold")]
    assert "trending" not in evaluation["slices"]  # without times
    found = sum(one["labels"] * (one["metrics"]["model"]["recall@10"] or 0) for one in parts)
    assert found == pytest.approx(test["recall@10"] * evaluation["queries"]["test"])
    assert "Protocol `leave_one_out`" in report and "the data has no times" in report
    assert "clipped_recall" not in report and "1970" not in report
    (items,) = (one for one in evaluation["thresholds"] if one["name"] == "catalog_items")
    assert (items["value"], items["limit"], items["ok"]) == (70, 101, False)


def test_where_all_users_are_new_the_figures_that_presume_known_ones_are_explained(
    windows: standard_artifacts.Examples, model: standard_artifacts.Model, tmp_path: Path
) -> None:
    sessions = examples(Path(windows.uri), dataclasses.replace(FACTS, users_are_new=True))
    evaluation, report = evaluate(tmp_path, sessions, model, LENIENT)
    assert {NEW_USERS, *notes_of_new_users(["personal_history"])} <= set(evaluation["notes"])
    assert "training leaves user_id out of trainer.parts" in report.replace("\\_", "_")
    assert len(notes_of_new_users(["most_popular"])) == len(notes_of_new_users(["personal_history"])) - 1


def test_held_out_items_are_sets_of_labels_without_times(
    model: standard_artifacts.Model, tmp_path: Path
) -> None:
    log = events()
    drawn = shuffled_order(log.user_id, log.item_id, 0)
    cutter = WindowCutter(HoldOut(0.2), False, HISTORY_LENGTH, 10, has_timestamps=False)
    for split, batch in cutter.cut(dataclasses.replace(log, timestamp=drawn))[0].items():
        write_examples(tmp_path / "windows" / f"Split-{split}" / "data_tfrecord-0.gz", [batch])
    facts = dataclasses.replace(
        FACTS, protocol="hold_out", has_timestamps=False, repeats_recommendable=False, train_end=0,
        eval_from=0, eval_to=0, test_from=0, test_to=0,
    )  # fmt: skip
    evaluation, report = evaluate(
        tmp_path, examples(tmp_path / "windows", facts), model, dataclasses.replace(LENIENT, cutoff=10)
    )
    queries = evaluation["queries"]
    assert queries["test"] == queries["users"] > 20 and queries["labels"]["total"] > queries["test"]
    assert set(evaluation["baselines"]) == {"most_popular", "co_occurrence", "ials", "bpr"}
    # The metrics of sets are shown.
    assert "Protocol `hold_out`" in report and "clipped_recall" in report and "1970" not in report


def test_baselines_recommend_a_reindexed_model_s_items_alone() -> None:
    """Restricts baselines to the reindexed catalog; a withdrawn label would favour them over the model."""

    class Counting:
        def recommend(self, windows: Any, queries: Any, rows: Any, k: int, exclude: bool) -> Any:
            return np.tile(np.arange(k), [len(rows), 1])

    baseline: Any = Counting()
    task: Any = SimpleNamespace(k=4, exclude=False)
    questions: Any = SimpleNamespace(windows=None, available=None, rows=np.arange(2))
    assert recommended_by(baseline, task, questions, None).tolist() == [[0, 1, 2, 3]] * 2
    offered = np.array([0, 2, 3, 6, 7, 50])
    assert recommended_by(baseline, task, questions, offered).tolist() == [[0, 2, 3, 6]] * 2
