from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from two_tower.serving import canary, canary_process
from two_tower.serving.canary import CanaryFailed, difference, recorded
from two_tower.serving.push_record import PushRecord
from two_tower.serving.versions import publish, versions

# Zero is an id as any other.
ITEMS = np.array([[4, 0, 2], [9, 1, -1]])
SCORES = np.array([[3.0, 2.0, 1.0], [0.5, 0.4, -np.inf]], np.float32)
RECORD = recorded({"user_id": np.array([5, 6])}, ITEMS, SCORES)


def answer(**changes: Any) -> str:
    return difference(RECORD, changes.get("items", ITEMS), changes.get("scores", SCORES))


def changed(values: np.ndarray[Any, Any], *at: Any) -> np.ndarray[Any, Any]:
    made = values.copy()
    *place, value = at
    made[tuple(place)] = value
    return made


def test_the_same_answer_is_the_same() -> None:
    assert answer() == ""
    # Another machine rounds differently.
    assert answer(scores=SCORES * np.float32(1.00001)) == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"items": changed(ITEMS, 0, 1, 8)},
            "Recorded query 0 has item 8 at rank 2; the evaluation recorded item 0.",
        ),
        (
            {"items": ITEMS[:, [1, 0, 2]]},
            "Recorded query 0 has item 0 at rank 1; the evaluation recorded item 4.",
        ),
        (
            {"scores": changed(SCORES, 0, 2, 1.1)},
            "Recorded query 0 has the score 1.1 at rank 3; the evaluation recorded 1.",
        ),
        (
            {"scores": changed(SCORES, 0, 1, 2.1)},
            "Recorded query 0 has the score 2.1 at rank 2; the evaluation recorded 2.",
        ),
        (
            {"items": changed(ITEMS, 1, 2, 3), "scores": changed(SCORES, 1, 2, 0.3)},
            "The answer has another number of items than the recorded one.",
        ),
        (
            {"items": changed(ITEMS, 0, 1, -1)},
            "The answer has another number of items than the recorded one.",
        ),
        (
            {"scores": changed(SCORES, 1, 0, np.nan)},
            "The answer has scores that are not finite numbers.",
        ),
        (
            {"scores": changed(SCORES, 0, 1, np.inf)},
            "The answer has scores that are not finite numbers.",
        ),
        (
            {"items": ITEMS[:1], "scores": SCORES[:1]},
            "The answer has the shape [1, 3]; the recorded one has [2, 3].",
        ),
    ],
)
def test_another_answer_is_told(changes: dict[str, Any], reason: str) -> None:
    assert answer(**changes) == reason


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_scores_are_compared_in_shares_of_the_largest(unit: float) -> None:
    """Checks models of small and of great scores: rounding grows with the scores."""
    record = recorded({}, ITEMS, SCORES * unit)
    assert difference(record, ITEMS, SCORES * unit * 1.0005) == ""
    found = difference(record, ITEMS, SCORES * unit * 1.002)
    assert found.startswith("Recorded query 0 has the score ")


def test_a_difference_of_the_tolerance_itself_is_rounding() -> None:
    items, scores = np.array([[4, 7, 2, 5]]), np.array([[1000.0, 501.0, 500.0, 100.0]])
    record = recorded({}, items, scores)
    assert difference(record, items, scores + np.array([[0, -1, 1, 0]])) == ""
    # Items whose scores differ by as much may trade places.
    assert difference(record, np.array([[4, 2, 7, 5]]), scores) == ""


def test_a_query_without_any_item_is_answered_without_any() -> None:
    none, scores = np.full([2, 3], -1), np.full([2, 3], -np.inf)
    record = recorded({}, none, scores)
    assert difference(record, none, scores) == ""
    assert difference(record, ITEMS, SCORES).startswith("The answer has another number of items")
    empty = recorded({}, none[:, :0], scores[:, :0])
    assert difference(empty, none[:, :0], scores[:, :0]) == ""


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        (
            [[b"x", b"b", b"c"], [b"d", b"e", b""]],
            "Recorded query 0 has item x at rank 1; the evaluation recorded item a.",
        ),
        (
            [[b"a", b"b", b"c"], [b"d", b"", b""]],
            "The answer has another number of items than the recorded one.",
        ),
        (
            [[1, 2, 3], [4, 5, -1]],
            "The answer's ids are of another type than the recorded ones: texts, or numbers.",
        ),
    ],
)
def test_answers_of_text_ids_are_compared(items: list[list[Any]], reason: str) -> None:
    texts = np.array([[b"a", b"b", b"c"], [b"d", b"e", b""]], object)
    record = json.loads(json.dumps(recorded({"user_id": np.array([b"u", b"v"], object)}, texts, SCORES)))
    assert record["inputs"]["user_id"] == ["u", "v"]
    assert difference(record, texts, SCORES) == ""
    other = np.array(items, object if isinstance(items[0][0], bytes) else np.int64)
    assert difference(record, other, SCORES) == reason


def test_items_of_equal_score_may_trade_places() -> None:
    tied = recorded({}, np.array([[4, 7, 2, 5]]), np.array([[3.0, 2.0, 2.0, 1.0]]))
    scores = np.array([[3.0, 2.0, 2.0, 1.0]])
    assert difference(tied, np.array([[4, 2, 7, 5]]), scores) == ""
    # An item that ties with the last one may be missing from the record.
    assert difference(tied, np.array([[4, 7, 2, 6]]), scores) == ""
    assert difference(tied, np.array([[4, 7, 6, 5]]), scores) != ""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Model that scores items by a variable, with its recorded answer."""
    import tensorflow as tf

    class Model(tf.Module):
        def __init__(self) -> None:
            self.scores = tf.Variable([1.0, 4.0, 3.0, 2.0])

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.int64, "user_id"),
                tf.TensorSpec([None, None], tf.string, "history_event_type"),
                tf.TensorSpec([], tf.int32, "k"),
            ]
        )
        def recommend(self, user_id: Any, history_event_type: Any, k: Any) -> dict[str, Any]:
            listens = tf.reduce_sum(tf.cast(history_event_type == "listen", tf.float32), axis=1)
            best = tf.math.top_k(self.scores[None] * (1.0 + listens[:, None]), k)
            return {"item_id": tf.cast(best.indices, tf.int64) + user_id[:, None], "score": best.values}

    path = str(tmp_path_factory.mktemp("served") / "model")
    made = Model()
    tf.saved_model.save(made, path, {"serving_default": made.recommend})
    inputs = {
        "user_id": np.array([10, 20]),
        "history_event_type": np.array([[b"listen", b""], [b"listen", b"listen"]], object),
        "k": np.array(3, np.int32),
    }
    answered = made.recommend(**{name: tf.constant(value) for name, value in inputs.items()})
    return path, recorded(inputs, answered["item_id"].numpy(), answered["score"].numpy())


@pytest.mark.slow
def test_a_model_that_answers_as_it_did_is_published(
    served: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Runs the canary in a fresh process, which has the files alone."""
    path, record = served
    pushed = tmp_path / "pushed"
    assert publish(path, str(pushed), PushRecord(record)) == str(pushed / "1")


# It loads models in this process, which a fork of `make mutation` cannot do.
@pytest.mark.slow
def test_what_keeps_a_model_from_being_published(
    served: tuple[str, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, record = served
    broken = tmp_path / "broken"
    shutil.copytree(path, broken)
    (broken / "variables" / "variables.index").unlink()

    def said(model: str, record: dict[str, Any] | None) -> str:
        (tmp_path / "record.json").write_text(json.dumps(record))
        status = canary_process.main(model, str(tmp_path / "record.json"))
        shown = capsys.readouterr().out.strip()
        assert status == bool(shown)
        return shown

    assert said(path, record) == "" == said(path, None)
    # The same files with other weights.
    other = {**record, "score": [[score * 2 for score in row] for row in record["score"]]}
    assert "the score 8 at rank 1; the evaluation recorded 16" in said(path, other)
    fewer = {name: value for name, value in record["inputs"].items() if name != "k"}
    assert "the evaluation recorded history_event_type, user_id." in said(path, {**record, "inputs": fewer})
    assert said(str(broken), record).startswith("The model does not load")


def test_the_queries_are_asked_in_a_process_that_has_the_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[str], dict[str, Any], Any]] = []

    def answers(command: list[str], **how: Any) -> Any:
        asked.append((command, how, json.loads(Path(command[-1]).read_bytes().decode("utf-8"))))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", answers)
    monkeypatch.setenv("SOME_VARIABLE", "kept")
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    monkeypatch.chdir(tmp_path)
    canary.check("models/1", {**RECORD, "signature": "é"})
    ((command, how, record),) = asked
    assert command[:-1] == [sys.executable, "-m", "two_tower.serving.canary_process", "models/1"]
    assert record == {**RECORD, "signature": "é"}
    assert (how["env"]["TF_USE_LEGACY_KERAS"], how["env"]["SOME_VARIABLE"]) == ("1", "kept")
    assert how["capture_output"] and how["text"]
    # The record does not stay, and nothing is written where the caller stands.
    assert not Path(command[-1]).exists() and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("stdout", "stderr", "reason"),
    [
        ("", "Traceback\nIt broke.\n", "It broke."),
        (" \n", "", "The process ended with status -9."),
        ("one\ntwo\nthree\n", "four\n", "three"),
    ],
)
def test_the_last_line_of_the_process_is_the_reason(
    stdout: str, stderr: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.CompletedProcess([], -9, stdout, stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(CanaryFailed) as failed:
        canary.check("models/1", RECORD)
    assert str(failed.value) == (
        "Nothing was published, and the model in service stays. A fresh process loaded the copy models/1, "
        f"and it is not the evaluated model. {reason}"
    )


def test_a_record_holds_the_first_items_and_no_number_that_json_lacks() -> None:
    items = np.arange(24).reshape(2, 12)
    scores = np.where(items == 3, np.inf, items / 2).astype(np.float32)
    inputs = {"user_id": np.array([5, 6]), "types": np.array([["a", b"b\0"]], object), "k": np.array(3)}
    record = recorded(inputs, items, scores)
    assert record["signature"] == "serving_default"
    assert record["inputs"] == {"user_id": [5, 6], "types": [["a", "b\0"]], "k": 3}
    assert record["item_id"] == [list(range(10)), list(range(12, 22))]
    assert record["score"][0] == [0.0, 0.5, 1.0, None, *(one / 2 for one in range(4, 10))]
    json.dumps(record, allow_nan=False)


def test_a_model_that_failed_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(command: list[str], **_: Any) -> Any:
        return subprocess.CompletedProcess(
            command, 1, "a warning\nThe model does not load: no file.\n", "noise"
        )

    monkeypatch.setattr(subprocess, "run", failed)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").touch()
    pushed = tmp_path / "pushed"
    with pytest.raises(CanaryFailed, match=r"the model in service stays.*does not load: no file\."):
        publish(str(tmp_path / "model"), str(pushed), PushRecord(RECORD))
    assert versions(str(pushed)) == []
    assert not list(pushed.glob(".incoming*"))
