"""Tests of a pushed model's answers to `two-tower query` and to a program without this project."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as pads
import pytest

from tests.e2e.runs import Run, World, call, environment, script
from two_tower.data_directory.manifest import item_files
from two_tower.schema.request_inputs import REQUEST_INPUTS

pytestmark = pytest.mark.e2e

PLAIN_CLIENT = """
import json, sys
import scann
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
history = json.loads(sys.argv[2])
ids = lambda rows: tf.constant(rows, tf.int64)
without_first = ids([[history[0]]])
plain = model.recommend(
    ids([-1]), ids([history]), ids([[0] * len(history)]), exclude_item_id=without_first, k=tf.constant(200)
)
padded = [[-1] * 30 + history, [-1] * (30 + len(history))]
serve = model.signatures["serving_default"]
defaults = {
    name: tf.constant(value, serve.structured_input_signature[1][name].dtype)
    for name, value in json.loads(sys.argv[3]).items()
}
many = serve(**defaults | dict(
    user_id=ids([-1, -1]), history_item_id=ids(padded), history_timestamp=tf.zeros_like(ids(padded)),
    exclude_item_id=ids([[history[0], -1]] * 2), k=tf.constant(200),
))
print(json.dumps({
    "plain": plain["item_id"].numpy()[0].tolist(),
    "many": many["item_id"].numpy().tolist(),
    "scores": many["score"].numpy().tolist(),
    "foreign": [name for name in ("tfx", "pipeline", "trainer", "components") if name in sys.modules],
}))
"""


@pytest.fixture(scope="module")
def catalog(world: World, first: Run) -> list[int]:
    items = pads.dataset(item_files(str(world.data)), format="parquet").to_table(columns=["item_id"])
    return list(items["item_id"].to_pylist())


@pytest.fixture(scope="module")
def model(world: World, first: Run) -> str:
    return str(world.output / "pushed" / "1")


def query(model: str, *arguments: str) -> dict[str, Any]:
    status, shown, errors = call(["query", "--model", model, "--json", *arguments])
    assert status == 0, errors
    return dict(json.loads(shown))


def test_a_program_without_tfx_loads_and_asks_it(model: str, catalog: list[int], tmp_path: Path) -> None:
    history = catalog[5:9]
    optional = {one.name: one.default_value for one in REQUEST_INPUTS.values() if not one.is_required}
    program = [sys.executable, "-c", PLAIN_CLIENT, model, json.dumps(history), json.dumps(optional)]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["foreign"] == []
    many, scores = np.array(answer["many"]), np.array(answer["scores"])
    assert many.shape == scores.shape == (2, 200)
    for items, values in zip(many, scores, strict=True):
        assert len(set(items)) == 200
        assert set(items) <= set(catalog) - {history[0]}
        assert np.isfinite(values).all()
        assert (np.diff(values) <= 0).all()
    # Padding changes nothing, and neither do defaults that are sent.
    assert many[0].tolist() == answer["plain"]


def test_the_console_script_answers_for_a_user(model: str, world: World, catalog: list[int]) -> None:
    done = subprocess.run(
        [script("two-tower"), "query", "--model", str(world.output), "--user", "3", "-k", "7", "--json"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    recommended = [one["item_id"] for one in answer["recommendations"]]
    assert len(set(recommended)) == 7
    assert set(recommended) <= set(catalog)
    assert all(one["title"] for one in answer["recommendations"])
    assert answer["last_listens"]
    assert answer["notes"] == []


def test_a_history_decides_what_is_recommended(model: str, catalog: list[int]) -> None:
    answers = [
        [one["item_id"] for one in query(model, "--history", ",".join(map(str, history)))["recommendations"]]
        for history in (catalog[:3], catalog[1_000:1_003])
    ]
    assert answers[0] != answers[1]


@pytest.mark.parametrize(
    ("who", "note"),
    [
        (("--user", "987654321"), "User 987654321 has no events"),
        (("--history", ""), "The history is empty, as for a new user."),
        (("--history", "987654321"), "does not know these items of the history: 987654321."),
    ],
)
def test_what_the_model_does_not_know_is_answered_sensibly_and_told(
    who: tuple[str, str], note: str, model: str
) -> None:
    answer = query(model, *who)
    assert len(answer["recommendations"]) == 10
    assert note in " ".join(answer["notes"])


def test_an_unknown_item_does_not_drown_a_known_one(model: str, catalog: list[int]) -> None:
    known = str(catalog[0])
    nobody = [one["item_id"] for one in query(model, "--history", "")["recommendations"]]
    someone = [one["item_id"] for one in query(model, "--history", f"987654321,{known}")["recommendations"]]
    assert someone != nobody


def test_requests_are_judged_by_the_run_s_own_limits(world: World, first: Run, tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    columns = {"user_id": [3], "history_item_id": [[5, 6]], "history_timestamp": [[0, 60]]}
    most = first.report["settings"]["index.max_k"]

    def validated(k: int) -> tuple[int, str, str]:
        file.write_text(json.dumps({"inputs": {**columns, "k": k}}))
        without_skew = ["--set", "validation.max_skew=0"]
        return call(["validate", "--requests", str(file), "--output", str(world.output), *without_skew])

    assert validated(most)[0] == 0, validated(most)
    status, _, errors = validated(most + 1)
    assert status == 2 and f"k is {most + 1}, where values from 1 to {most:,} are expected" in errors
