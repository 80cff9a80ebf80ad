"""Properties of the worlds of `two-tower simulate --world` and of their oracles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from two_tower.base.errors import UserError
from two_tower.evaluation.oracle_comparison import KEY
from two_tower.ingestion import tabular
from two_tower.pipeline.commands import exit_status
from two_tower.pipeline.commands.main import main
from two_tower.simulator.worlds import WORLDS, next_choice, repeats, sessions
from two_tower.simulator.worlds.next_choice import SequentialWorld, by_type, probabilities, rank_of
from two_tower.simulator.worlds.parameters import WorldParameters
from two_tower.simulator.worlds.simulated import write_world

GROCERIES = repeats.Parameters(
    users=60, items=80, days=20, departments=5, types=3, oracle_queries=200, complements=3
)
VISITS = sessions.Parameters(users=600, items=80, days=4, topics=5, successors=4, oracle_queries=200)
TINY: dict[str, WorldParameters] = {"repeats": GROCERIES, "sessions": VISITS}
MADE: dict[str, Callable[[], SequentialWorld]] = {
    "repeats": lambda: repeats.make_world(GROCERIES),
    "sessions": lambda: sessions.make_world(VISITS),
}


def quiet(line: str) -> None:
    """Tells nothing."""


def test_every_world_has_a_tiny_one_here() -> None:
    assert set(TINY) == set(WORLDS)


@pytest.mark.parametrize("name", WORLDS)
def test_the_same_seed_writes_the_same_bytes(name: str, tmp_path: Path) -> None:
    for place in ("one", "two"):
        write_world(name, str(tmp_path / place), TINY[name])
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert files
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("name", WORLDS)
def test_choices_are_drawn_with_the_probability_that_the_oracle_ranks_by(name: str) -> None:
    world = MADE[name]()
    log = next_choice.walk(world, quiet)
    random = np.random.default_rng(0)
    looked_at = 0
    for user in np.unique(log.user)[:20]:
        mine = np.flatnonzero(log.user == user)
        history = world.history(len(mine))
        for at in mine[:12]:
            choice = history.choice(int(log.time[at]), bool(log.begins[at]))
            user_type = int(world.user_type[user])
            expected = probabilities(choice, world.tastes, np.eye(world.tastes.types)[user_type])
            assert expected.sum() == pytest.approx(1)
            assert not expected[choice.excluded].any()
            # The likelihood that infers types is the same probability, item by item.
            for item in np.flatnonzero(expected)[::9]:
                assert by_type(choice, world.tastes, int(item))[user_type] == pytest.approx(expected[item])
            if at % 5 == 0:
                drawn = [next_choice._draw(choice, world.tastes, user_type, random) for _ in range(4_000)]
                found = np.bincount(drawn, minlength=len(expected)) / len(drawn)
                spread = np.sqrt(expected * (1 - expected) / len(drawn))
                assert (np.abs(found - expected) <= 5 * spread + 3 / len(drawn)).all()
                looked_at += 1
            history.add(int(log.item[at]), int(log.time[at]))
    assert looked_at > 10


@pytest.mark.parametrize("name", WORLDS)
def test_the_oracle_knows_more_than_popularity(name: str) -> None:
    world = MADE[name]()
    log = next_choice.walk(world, quiet)
    answers = next_choice.answer(world, log, 10**6, quiet)
    last_day = log.time > log.time.max() - 86_400
    popularity = np.bincount(log.item[~last_day], minlength=world.tastes.items).astype(float)
    by_popularity = np.array([rank_of(popularity, int(item)) for item in answers.item])
    assert (answers.observed < 10).mean() > 1.3 * (by_popularity < 10).mean()
    assert (answers.hidden < 10).mean() > (answers.observed < 10).mean() - 0.03


def test_groceries_come_again() -> None:
    log = next_choice.walk(repeats.make_world(GROCERIES), quiet)
    _, pairs = np.unique(np.stack([log.user, log.item]), axis=1, return_counts=True)
    assert 1 - len(pairs) / len(log.item) > 0.5
    # Nothing is twice in a basket.
    basket = np.cumsum(log.begins)
    assert len(np.unique(np.stack([basket, log.item]), axis=1).T) == len(log.item)


def test_sessions_are_short_with_a_heavy_tail() -> None:
    p = sessions.Parameters(users=20_000, items=600, days=3)
    clicks = np.diff(sessions.make_world(p).start)
    assert 5 < clicks.mean() < 7
    assert np.median(clicks) <= 4
    assert np.percentile(clicks, 99) > 5 * clicks.mean()


@pytest.mark.parametrize("name", WORLDS)
def test_ingest_carries_the_oracle_and_its_labels_are_events(name: str, tmp_path: Path) -> None:
    source, data = tmp_path / "source", tmp_path / "data"
    write_world(name, str(source), TINY[name])
    manifest = tabular.ingest(str(source), str(data))
    assert {"oracle/queries.parquet", "oracle/summary.json"} <= {file.path for file in manifest.files}
    asked = pq.read_table(data / "oracle" / "queries.parquet", columns=list(KEY)).to_pydict()
    events = pq.read_table(data / "events", columns=["user_id", "timestamp", "item_id"]).to_pydict()
    known = set(zip(events["user_id"], events["timestamp"], events["item_id"], strict=True))
    labels = list(zip(*(asked[key] for key in KEY), strict=True))
    assert labels and set(labels) <= known


def test_an_oracle_beside_other_files_is_not_read(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_world("sessions", str(source), TINY["sessions"])
    (source / "simulation.json").unlink()
    manifest = tabular.ingest(str(source), str(tmp_path / "data"))
    assert not [file.path for file in manifest.files if file.path.startswith("oracle/")]


def test_impossible_parameters_are_named() -> None:
    with pytest.raises(UserError, match="items is 100"):
        sessions.Parameters(items=100)
    with pytest.raises(UserError, match="repeat_share, complement_share add up"):
        repeats.Parameters(repeat_share=0.9, complement_share=0.2)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--world", "sessions", "--tracks", "900"], "--tracks has no meaning in the world sessions"),
        (["--items", "900"], "--items: the items of the world listening are tracks"),
        (["--world", "session"], "the nearest is 'sessions'"),
    ],
)
def test_options_without_meaning_are_refused_by_name(
    options: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", *options, str(tmp_path / "out")]) == exit_status.USER_ERROR
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
