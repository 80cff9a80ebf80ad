"""Tests of a whole run on films: user and item columns as features, and the frozen protocol."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.runs import Run, World, call, run_here
from two_tower.data_directory.manifest import DAY

pytestmark = [pytest.mark.e2e, pytest.mark.long]

FIRST_DAY = 11_000  # Days since 1970: a day in 2000, as in MovieLens-1M.
DAYS, USERS, FILMS = 40, 300, 400
GENRES = ("Action", "Comedy", "Drama", "Horror")
COLUMNS = {
    "features__users": "gender,age,occupation",
    "features__items": "tags,title:text",
    "split__protocol": "frozen",
    "split__holdout_seconds": str(3 * DAY),
    # Exact search serves so few films; 100 of them would be a quarter of the catalog.
    "evaluation__cutoffs": "5,20",
    "gate__cutoff": "20",
    "gate__min_lift_over_best_baseline": "-0.99",
    "evaluation__baselines": "most_popular,personal_history,token_matching",
    # A few steps per epoch. The tests query new users, who have a gender but no history.
    "trainer__embedding_dim": "32",
    "trainer__epochs": "20",
    "trainer__patience": "20",
    "trainer__windows_per_step": "16",
    "trainer__dropout.history": "0.3",
}


def write_movielens(folder: Path) -> None:
    """Writes the three files of MovieLens-1M; the gender determines the genre of a user's films."""
    draw = np.random.default_rng(5)
    folder.mkdir()
    women = draw.random(USERS) < 0.5
    users = [
        f"{user + 1}::{'F' if women[user] else 'M'}::{(18, 25, 35)[user % 3]}::{user % 21}::{user:05d}"
        for user in range(USERS)
    ]
    films = [
        f"{film + 1}::Film {film}, The (19{film % 90 + 10})::{GENRES[film % 4]}" for film in range(FILMS)
    ]
    ratings = []
    for user in range(USERS):
        theirs = np.flatnonzero((np.arange(FILMS) % 4 < 2) == women[user])
        seen = draw.choice(theirs, draw.integers(20, 60), replace=False)
        times = (FIRST_DAY + np.sort(draw.random(len(seen))) * DAYS) * DAY
        ratings += [
            f"{user + 1}::{film + 1}::{draw.integers(2, 6)}::{int(time)}"
            for film, time in zip(seen, times, strict=True)
        ]
    for name, lines in (("users", users), ("movies", films), ("ratings", ratings)):
        (folder / f"{name}.dat").write_text("\n".join(lines) + "\n", encoding="latin-1")


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> World:
    place = tmp_path_factory.mktemp("films")
    write_movielens(place / "ml-1m")
    status, _, errors = call(["ingest", "movielens", str(place / "ml-1m"), str(place / "data")])
    assert status == 0, errors
    return World(place / "ml-1m", place / "data", place / "output")


@pytest.fixture(scope="session")
def frozen(films: World) -> Run:
    return run_here(films, **COLUMNS)


def evaluation_of(world: World) -> dict[str, Any]:
    (path,) = world.output.glob("artifacts/RetrievalEvaluator/evaluation/*/evaluation.json")
    return dict(json.loads(path.read_text()))


def test_a_frozen_run_asks_each_user_once_for_a_set_of_items(films: World, frozen: Run) -> None:
    assert frozen.status == 0, frozen.shown
    evaluation = evaluation_of(films)
    assert evaluation["protocol"] == "frozen"
    queries = evaluation["queries"]
    assert queries["test"] == queries["users"]
    # Recall divides by all labels, clipped recall by at most k: users have more labels than five.
    recalls = [
        (metrics["recall@5"], metrics["clipped_recall@5"])
        for metrics in (evaluation["metrics"]["test"], *evaluation["baselines"].values())
    ]
    assert all(recall <= clipped for recall, clipped in recalls)
    assert any(recall < clipped for recall, clipped in recalls)
    assert "frozen" in frozen.shown
    assert frozen.pushed == ["1"]


def test_a_users_columns_decide_what_a_new_user_is_recommended(films: World, frozen: Run) -> None:
    import tensorflow as tf
    from scann.scann_ops.py import scann_ops  # noqa: F401

    model = tf.saved_model.load(str(films.output / "pushed" / "1"))

    def recommended(gender: str, history: Sequence[int] = ()) -> set[int]:
        answer = model.recommend(
            user_id=tf.constant([10**9], tf.int64),
            history_item_id=tf.constant([history], tf.int64),
            history_timestamp=tf.zeros([1, len(history)], tf.int64),
            user_gender=tf.constant([gender]),
            k=tf.constant(20),
        )
        return set(answer["item_id"].numpy()[0].tolist())

    women, men = recommended("F"), recommended("M")
    # Film ids start at 1 and determine the genre.
    for_women = sum((film - 1) % 4 < 2 for film in women)
    for_men = sum((film - 1) % 4 < 2 for film in men)
    assert for_women >= 15 and for_men <= 5
    # Rated films are not recommended.
    rated = sorted(women)[:5]
    assert len(recommended("F", rated)) == 20 and not recommended("F", rated) & set(rated)


def test_query_sends_what_users_holds_of_a_user(films: World, frozen: Run) -> None:
    status, shown, errors = call(["query", "--model", str(films.output), "--user", "7", "--json"])
    assert status == 0, errors
    answer = json.loads(shown)
    assert len(answer["recommendations"]) == 10
    seen = {listen["item_id"] for listen in answer["last_listens"]}
    assert seen and not seen & {one["item_id"] for one in answer["recommendations"]}


def test_validate_finds_healthy_data_healthy_and_leaves_it_to_the_next_run(films: World, frozen: Run) -> None:
    elsewhere = dataclasses.replace(films, output=films.output.parent / "validated")
    status, shown, errors = call(["validate", *elsewhere.run_arguments(**COLUMNS)[1:]])
    assert status == 0, shown + errors
    assert not (elsewhere.output / "pushed").exists()
