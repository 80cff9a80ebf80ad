"""Tests of whole runs on sessions: each has a user id of its own, so that all users are new at test time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.e2e.runs import Run, World, call, read_run, run_here
from two_tower.data_directory.facts import NEW_USERS
from two_tower.data_directory.manifest import DAY, DatasetProperties
from two_tower.data_directory.writer import DataDirectoryWriter

pytestmark = [pytest.mark.e2e, pytest.mark.long]

DAYS, SESSIONS_A_DAY, TOPICS, ITEMS_OF_A_TOPIC = 8, 150, 10, 20
SETTINGS = {
    # Exact search serves so few items; 100 of them would be half of the catalog.
    "evaluation__cutoffs": "5,20",
    "gate__cutoff": "20",
    "evaluation__baselines": "most_popular,personal_history,co_occurrence",
    "trainer__epochs": "8",
    "trainer__windows_per_step": "16",
}


def write_sessions(folder: Path) -> None:
    """Writes sessions of four to nine clicks: most go to the next item of the session's topic."""
    draw = np.random.default_rng(3)
    columns: dict[str, list[int]] = {"user_id": [], "item_id": [], "timestamp": []}
    for session in range(DAYS * SESSIONS_A_DAY):
        clicks = int(draw.integers(4, 10))
        topic = int(draw.integers(TOPICS))
        place = int(draw.integers(ITEMS_OF_A_TOPIC))
        began = (20_000 + session // SESSIONS_A_DAY) * DAY + int(draw.integers(DAY - 3_600))
        for click in range(clicks):
            step = 1 if draw.random() < 0.8 else int(draw.integers(ITEMS_OF_A_TOPIC))
            place = (place + step) % ITEMS_OF_A_TOPIC
            columns["user_id"].append(session)
            columns["item_id"].append(topic * ITEMS_OF_A_TOPIC + place)
            columns["timestamp"].append(began + 60 * click)
    properties = DatasetProperties("shop", "click", repeats_recommendable=True)
    with DataDirectoryWriter(str(folder), properties) as writer:
        kinds = pa.array(["click"] * len(columns["user_id"]))
        writer.write("events", pa.table({**columns, "event_type": kinds}))
        writer.write("items", pa.table({"item_id": list(range(TOPICS * ITEMS_OF_A_TOPIC))}))


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> World:
    place = tmp_path_factory.mktemp("sessions")
    write_sessions(place / "data")
    return World(place, place / "data", place / "output")


@pytest.fixture(scope="module")
def first(sessions: World) -> Run:
    return run_here(sessions, **SETTINGS)


@pytest.fixture(scope="module")
def reindexed(sessions: World, first: Run) -> Run:
    # The same items again give the same towers, if the user id is left out here too.
    arguments = ["reindex", "--model", str(sessions.output), "--items", str(sessions.data)]
    status, shown, errors = call(arguments)
    return read_run(sessions, status, shown + errors)


def evaluation_of(world: World) -> dict[str, Any]:
    (path,) = world.output.glob("artifacts/RetrievalEvaluator/evaluation/*/evaluation.json")
    return dict(json.loads(path.read_text()))


def test_sessions_are_trained_judged_and_pushed(sessions: World, first: Run) -> None:
    assert first.status == 0, first.shown
    assert first.pushed == ["1"], first.shown
    evaluation = evaluation_of(sessions)
    queries = evaluation["queries"]
    assert queries["by_users_unknown_to_train"] == queries["test"] > 100
    # The next item of the topic is the answer to four of five queries.
    assert evaluation["metrics"]["test"]["recall@20"] > 0.6
    assert evaluation["metrics"]["test"]["recall@20"] > evaluation["baselines"]["most_popular"]["recall@20"]


def test_the_user_id_has_no_part_in_what_is_served(sessions: World, first: Run) -> None:
    import tensorflow as tf
    from scann.scann_ops.py import scann_ops  # noqa: F401

    model = tf.saved_model.load(str(sessions.output / "pushed" / "1"))
    history = [[0, 1, 2]]
    answers = [
        model.recommend(
            user_id=tf.constant([user], tf.int64),
            history_item_id=tf.constant(history, tf.int64),
            history_timestamp=tf.constant([[0, 60, 120]], tf.int64),
            k=tf.constant(20),
        )["score"].numpy()
        for user in (0, 1, 10**9)
    ]
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


def test_figures_that_presume_known_users_say_so(sessions: World, first: Run) -> None:
    evaluation = evaluation_of(sessions)
    assert NEW_USERS in evaluation["notes"]
    shown = " ".join(first.shown.split())
    assert NEW_USERS in shown
    assert "The slice new_users holds all queries, and the slices by activity hold none." in shown
    assert "personal_history knows the listens of the request's history alone." in shown
    slices = evaluation["slices"]
    assert slices["new_users"]["queries"] == evaluation["queries"]["test"]
    assert [slices[f"activity_{group}"]["queries"] for group in range(1, 5)] == [0] * 4


def test_sessions_are_valid_data_with_a_note(sessions: World) -> None:
    status, shown, errors = call(["validate", "--data", str(sessions.data), "--preset", "smoke"])
    assert status == 0, errors
    assert NEW_USERS in " ".join(shown.split())


def test_sessions_are_reindexed(sessions: World, reindexed: Run) -> None:
    assert reindexed.status == 0, reindexed.shown
    assert "CatalogPlacer" in reindexed.ran
    assert NEW_USERS in " ".join(reindexed.shown.split())
