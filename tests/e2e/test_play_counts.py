"""Test of a whole run on play counts: text ids, no times and no order, from the reader to a pushed model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.runs import Run, World, call, run_here

pytestmark = [pytest.mark.e2e, pytest.mark.long]

USERS, TASTES, ARTISTS_OF_A_TASTE = 400, 8, 30
SETTINGS = {
    "split__protocol": "hold_out",
    # Exact search serves so few items; 100 of them would be half of the catalog.
    "evaluation__cutoffs": "5,20",
    "gate__cutoff": "20",
    "evaluation__baselines": "most_popular,co_occurrence",
    "trainer__epochs": "8",
    "trainer__windows_per_step": "16",
}
MAP = """
dataset: plays
label_event: listen
repeats_recommendable: false
events: {files: plays.tsv, header: [user, artist, plays], user_id: user, item_id: artist, unordered: true}
"""


def write_plays(folder: Path) -> None:
    """Writes 12 to 20 artists of each user's one taste; the last ones of a user are of no taste at all."""
    draw = np.random.default_rng(3)
    rows = []
    for user in range(USERS):
        first = int(draw.integers(TASTES)) * ARTISTS_OF_A_TASTE
        liked = first + draw.permutation(ARTISTS_OF_A_TASTE)[: int(draw.integers(12, 21))]
        other = draw.permutation(TASTES * ARTISTS_OF_A_TASTE)[:2]
        artists = list(dict.fromkeys([*liked.tolist(), *other.tolist()]))
        rows += [f"user-{user}\tartist {artist}\t{100 - place}" for place, artist in enumerate(artists)]
    folder.mkdir()
    (folder / "plays.tsv").write_text("\n".join(rows) + "\n")
    (folder / "columns.yaml").write_text(MAP)


@pytest.fixture(scope="module")
def plays(tmp_path_factory: pytest.TempPathFactory) -> World:
    place = tmp_path_factory.mktemp("plays")
    write_plays(place / "source")
    status, _, errors = call(["ingest", "table", str(place / "source"), str(place / "data")])
    assert status == 0, errors
    return World(place, place / "data", place / "output")


@pytest.fixture(scope="module")
def first(plays: World) -> Run:
    return run_here(plays, **SETTINGS)


def test_play_counts_are_trained_judged_and_pushed(plays: World, first: Run) -> None:
    assert first.status == 0, first.shown
    assert first.pushed == ["1"], first.shown
    (path,) = plays.output.glob("artifacts/RetrievalEvaluator/evaluation/*/evaluation.json")
    evaluation = json.loads(path.read_text())
    assert evaluation["protocol"] == "hold_out"
    assert evaluation["queries"]["test"] == evaluation["queries"]["users"] == USERS
    # Some 15 of 240 artists are of a user's taste and new to them; nearly nine in ten held-out ones are.
    model, popular = evaluation["metrics"]["test"], evaluation["baselines"]["most_popular"]
    assert model["recall@20"] > 0.6 > 3 * popular["recall@20"]
    assert "Protocol `hold_out`" in first.shown


def test_a_user_is_recommended_artists_of_their_taste(plays: World, first: Run) -> None:
    arguments = ["query", "--model", str(plays.output), "--user", "user-7", "-k", "5", "--json"]
    status, shown, errors = call(arguments)
    assert status == 0, errors
    lines = (plays.data.parent / "source" / "plays.tsv").read_text().splitlines()
    had = [line.split("\t")[1] for line in lines if line.startswith("user-7\t")]
    taste = int(had[0].split()[1]) // ARTISTS_OF_A_TASTE
    found = [one["item_id"] for one in json.loads(shown)["recommendations"]]
    assert len(found) == 5 and not set(found) & set(had)
    assert sum(int(name.split()[1]) // ARTISTS_OF_A_TASTE == taste for name in found) >= 4


def test_protocols_in_order_are_refused_by_name(plays: World) -> None:
    arguments = [
        "run",
        "--data",
        str(plays.data),
        "--output",
        str(plays.output) + "-x",
        "--preset",
        "next_item",
    ]
    status, _, errors = call(arguments)
    assert status == 2
    assert "leave_one_out, which needs an order" in errors and "choose hold_out" in errors
