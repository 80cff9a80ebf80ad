from __future__ import annotations

import dataclasses
import errno
import filecmp
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from two_tower.base.errors import UserError
from two_tower.simulator import simulate as simulate_module
from two_tower.simulator.listening import SESSION_GAP, Listeners, ListeningLog, listen, make_listeners
from two_tower.simulator.names import artist_names
from two_tower.simulator.next_listen import next_listen_probabilities
from two_tower.simulator.oracle import (
    StyleFilter,
    evaluate_oracles,
    query_probabilities,
    rank_of,
    replay,
    sample_queries,
)
from two_tower.simulator.simulate import simulate
from two_tower.simulator.world import (
    DAY,
    Groups,
    SimulationParameters,
    World,
    make_world,
)

SMALL = SimulationParameters(
    users=150, days=8, tracks=900, styles=8, genres=3, tastes=3, listens_per_user=90, oracle_queries=300
)
# Few enough tracks to compare every probability with a frequency.
TINY = dataclasses.replace(
    SMALL, users=300, tracks=40, styles=3, tastes=2, tracks_per_artist=4, tracks_per_album=2, memory=4
)


@dataclasses.dataclass(frozen=True)
class Simulated:
    world: World
    listeners: Listeners
    log: ListeningLog


def _simulated(parameters: SimulationParameters) -> Simulated:
    world = make_world(parameters)
    listeners = make_listeners(world)
    return Simulated(world, listeners, listen(world, listeners))


@pytest.fixture(scope="module")
def small() -> Simulated:
    return _simulated(SMALL)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "out"
    simulate(str(out), SMALL)
    return out


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ── Written files ───────────────────────────────────────────────────────────────────────────────────────


def test_the_same_seed_writes_the_same_bytes(directory: Path, tmp_path: Path) -> None:
    simulate(str(tmp_path / "again"), SMALL)
    files = _files(directory)
    assert files == _files(tmp_path / "again")
    assert filecmp.cmpfiles(directory, tmp_path / "again", files, shallow=False) == (files, [], [])


def test_another_seed_writes_another_world(directory: Path, tmp_path: Path) -> None:
    simulate(str(tmp_path / "other"), dataclasses.replace(SMALL, seed=8))
    files = _files(directory)
    _, different, _ = filecmp.cmpfiles(directory, tmp_path / "other", files, shallow=False)
    assert different == files


def test_the_layout_is_yambdas(directory: Path) -> None:
    event = {"uid": pa.uint32(), "timestamp": pa.uint32(), "item_id": pa.uint32(), "is_organic": pa.uint8()}
    play = {"played_ratio_pct": pa.uint16(), "track_length_seconds": pa.uint32()}
    expected = {f"{kind}.parquet": event for kind in ("likes", "dislikes", "unlikes", "undislikes")}
    expected |= {
        "listens.parquet": event | play,
        "multi_event.parquet": event | play | {"event_type": pa.dictionary(pa.int32(), pa.string())},
        "artist_item_mapping.parquet": {"artist_id": pa.uint32(), "item_id": pa.uint32()},
        "album_item_mapping.parquet": {"album_id": pa.uint32(), "item_id": pa.uint32()},
        "embeddings.parquet": {
            "item_id": pa.uint32(),
            "embed": pa.list_(pa.float64()),
            "normalized_embed": pa.list_(pa.float64()),
        },
        "names.parquet": {
            "item_id": pa.uint32(),
            "title": pa.string(),
            "artist": pa.string(),
            "track_length_seconds": pa.uint32(),
        },
        "oracle/queries.parquet": {
            "user_id": pa.int64(),
            "seed_timestamp": pa.int64(),
            "label_timestamp": pa.int64(),
            "label_item_id": pa.int64(),
            "rank_hidden": pa.int32(),
            "rank_observed": pa.int32(),
        },
    }
    for file, columns in expected.items():
        schema = pq.read_schema(directory / file)
        assert dict(zip(schema.names, schema.types, strict=True)) == columns, file
    assert set(_files(directory)) == {*expected, "simulation.json", "oracle/summary.json"}


def test_multi_event_is_all_event_files_in_order_of_user_and_time(directory: Path) -> None:
    events = pq.read_table(directory / "multi_event.parquet").to_pandas()
    assert not (events.timestamp % 5).any()
    assert events[["uid", "timestamp"]].apply(tuple, axis=1).is_monotonic_increasing
    for kind in ("listen", "like", "dislike", "unlike", "undislike"):
        own = pq.read_table(directory / f"{kind}s.parquet").to_pandas()
        rows = events[events.event_type == kind].reset_index(drop=True)
        assert len(own)
        assert (rows[list(own.columns)] == own).all(axis=None)
    reactions = events[events.event_type != "listen"]
    assert reactions.played_ratio_pct.isna().all()


def test_no_user_listens_twice_at_one_written_time(directory: Path) -> None:
    listens = pq.read_table(directory / "listens.parquet").to_pandas()
    assert not listens.duplicated(["uid", "timestamp"]).any()


def test_a_reaction_follows_a_listen_and_is_taken_back_after_it(directory: Path) -> None:
    listens, likes, dislikes, unlikes, undislikes = (
        pq.read_table(directory / f"{kind}.parquet").to_pandas()
        for kind in ("listens", "likes", "dislikes", "unlikes", "undislikes")
    )
    key = ["uid", "item_id"]
    first = listens.groupby(key).timestamp.min()
    for reactions, taken_back in ((likes, unlikes), (dislikes, undislikes)):
        assert not reactions.duplicated(key).any()
        reaction = reactions.set_index(key).timestamp.astype(int)
        assert (reaction >= first.reindex(reaction.index)).all()
        later = taken_back.set_index(key).timestamp.astype(int)
        assert (later > reaction.reindex(later.index)).all()
    assert not likes.merge(dislikes, on=key).size


def test_the_mappings_are_many_to_many_and_whole(directory: Path) -> None:
    items = pq.read_table(directory / "embeddings.parquet")["item_id"].to_numpy()
    assert len(items) == SMALL.tracks
    for kind in ("artist", "album"):
        mapping = pq.read_table(directory / f"{kind}_item_mapping.parquet").to_pandas()
        assert set(mapping.item_id) == set(items)
        assert not mapping.duplicated().any()
        assert mapping.item_id.duplicated().any()
        assert mapping[f"{kind}_id"].duplicated().any()


def test_embeddings_tell_styles_apart(small: Simulated) -> None:
    embedding = small.world.embeddings()
    assert embedding.shape == (SMALL.tracks, 128)
    centred = embedding - embedding.mean(axis=0)
    cosine = centred @ centred.T / np.outer(*[np.linalg.norm(centred, axis=1)] * 2)
    np.fill_diagonal(cosine, -1)
    nearest_style = small.world.track_style[cosine.argmax(axis=1)]
    # Chance level is about 1 in 8; the noise makes 1 impossible.
    assert (nearest_style == small.world.track_style).mean() > 0.7


def test_names_are_given_to_every_track_and_artists_names_differ(directory: Path) -> None:
    names = pq.read_table(directory / "names.parquet").to_pandas()
    assert len(names) == SMALL.tracks
    assert (names.title.str.len() > 0).all()
    # Every track has its length there, heard or not, and it is that of its listens.
    assert (names.track_length_seconds > 0).all()
    listens = pq.read_table(directory / "listens.parquet").to_pandas()
    lengths = names.set_index("item_id").track_length_seconds
    assert (lengths[listens.item_id].to_numpy() == listens.track_length_seconds.to_numpy()).all()
    assert set(names.item_id) - set(listens.item_id)
    many = artist_names(np.random.default_rng(1), 20_000)
    assert len(set(many)) == len(many) == 20_000


def test_the_oracles_queries_are_consecutive_listens_of_the_last_day(directory: Path) -> None:
    listens = pq.read_table(directory / "listens.parquet").to_pandas()
    queries = pq.read_table(directory / "oracle/queries.parquet").to_pandas()
    previous = listens.groupby("uid").timestamp.shift()
    last_day = listens.timestamp > listens.timestamp.max() - DAY
    pairs = listens[last_day & previous.notna()].assign(seed_timestamp=previous)
    found = queries.merge(
        pairs,
        left_on=["user_id", "seed_timestamp", "label_timestamp", "label_item_id"],
        right_on=["uid", "seed_timestamp", "timestamp", "item_id"],
    )
    assert len(found) == len(queries) >= min(SMALL.oracle_queries, len(pairs))
    # Sampling takes all of a user's queries or none.
    assert (
        queries.groupby("user_id")
        .size()
        .equals(pairs.groupby("uid").size().reindex(sorted(queries.user_id.unique())).rename_axis("user_id"))
    )
    summary = json.loads((directory / "oracle/summary.json").read_text())
    for oracle in ("hidden", "observed"):
        for k in (10, 50, 100):
            assert summary[oracle][f"recall@{k}"] == pytest.approx((queries[f"rank_{oracle}"] < k).mean())


def test_an_earlier_simulation_is_replaced_and_anything_else_is_left_alone(tmp_path: Path) -> None:
    parameters = dataclasses.replace(SMALL, users=20, days=3)
    out = tmp_path / "out"
    out.mkdir()
    simulate(str(out), parameters)
    simulate(str(out), dataclasses.replace(parameters, seed=9))
    assert json.loads((out / "simulation.json").read_text())["name"] == "simulated-9"
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.jpg").write_text("purr")
    with pytest.raises(UserError, match="photos: the directory is not empty"):
        simulate(str(other), parameters)
    assert _files(other) == ["cat.jpg"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(simulate_module, "_write_json", fail)
    with pytest.raises(
        UserError, match=r"out: cannot be written: the disk is full, with .* free\. Free space"
    ):
        simulate(str(tmp_path / "out"), dataclasses.replace(SMALL, users=20, days=3))
    assert os.listdir(tmp_path) == []


# ── The world ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("users", 0),
        ("users", 2.5),
        ("days", 1),
        ("tracks", -1),
        ("tastes", 9),
        ("genres", 9),
        ("seed", -1),
        ("repeat_share", 1.0),
        ("repeat_share", 0.8),
        ("embedding_noise", float("nan")),
        ("session_listens", 0.5),
        ("memory", "many"),
    ],
)
def test_an_impossible_parameter_is_named(name: str, value: object) -> None:
    with pytest.raises(UserError, match=name):
        SimulationParameters(**{**dataclasses.asdict(SMALL), name: value})


def test_too_few_tracks_for_the_styles_are_refused() -> None:
    with pytest.raises(UserError, match="too few for 8 styles"):
        make_world(dataclasses.replace(SMALL, tracks=20))


def test_draws_within_a_group_follow_the_days_weights_and_leave_out_the_excluded() -> None:
    weights = np.array([[1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 3.0, 4.0]])
    groups = Groups(np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 2, 3]), weights, 2)
    uniform = np.random.default_rng(1).random(40_000)
    for group, day, but, expected in (
        (0, 0, None, [1 / 6, 2 / 6, 3 / 6, 0]),
        (0, 1, None, [1 / 4, 0, 3 / 4, 0]),
        (0, 0, 1, [1 / 4, 0, 3 / 4, 0]),
        (1, 1, 3, [0, 0, 0, 1]),
    ):
        excluded = None if but is None else np.full(len(uniform), but)
        drawn = groups.draw(np.full(len(uniform), group), np.full(len(uniform), day), uniform, excluded)
        share = np.bincount(drawn, minlength=4) / len(uniform)
        np.testing.assert_allclose(share, expected, atol=0.01)
        assert not share[np.array(expected) == 0].any()


def test_nothing_is_heard_before_its_release_and_much_of_the_new_at_once(small: Simulated) -> None:
    day = small.log.time // DAY
    release = small.world.track_release_day[small.log.track]
    assert (day >= release).all()
    new = release >= 0
    # Listens by days since release: trends fade.
    heard = np.bincount((day - release)[new & (release <= 3)], minlength=5)
    assert heard[1] > 1.5 * heard[4] > 0
    assert (small.world.track_release_day == SMALL.days - 1).any()


def test_popularity_has_a_long_tail(small: Simulated) -> None:
    heard = np.sort(np.bincount(small.log.track, minlength=SMALL.tracks))[::-1]
    assert heard[: SMALL.tracks // 10].sum() > 0.3 * heard.sum()
    assert (heard <= 2).mean() > 0.05


def test_play_ratio_and_reactions_follow_affinity(small: Simulated) -> None:
    quarters = np.array_split(np.argsort(small.log.affinity), 4)
    played = [np.minimum(small.log.played_percent[quarter], 100).mean() for quarter in quarters]
    assert played == sorted(played)
    assert played[3] - played[0] > 20
    liked, disliked = ([(small.log.reaction[q] == sign).mean() for q in quarters] for sign in (1, -1))
    assert liked[3] > 2 * liked[0]
    assert disliked[0] > 2 * disliked[3]
    assert (small.log.played_percent > 100).any()


def test_silence_tells_sessions_apart(small: Simulated) -> None:
    log = small.log
    played = log.played_percent * small.world.track_seconds[log.track] // 100
    silence = log.time[1:] - log.time[:-1] - played[:-1]
    same_user = log.user[1:] == log.user[:-1]
    begins = log.session_start[1:]
    assert (silence[same_user & begins] >= SESSION_GAP).all()
    assert (silence[same_user & ~begins] < SESSION_GAP).all()


# ── The oracle ──────────────────────────────────────────────────────────────────────────────────────────


def test_probabilities_of_the_next_listen_sum_to_one(small: Simulated) -> None:
    random = np.random.default_rng(3)
    n = 200
    style = random.dirichlet(np.full(SMALL.styles, 0.3), n)
    memory = np.full((n, SMALL.styles, SMALL.memory), -1, np.int32)
    for row in range(n):
        for track in random.choice(np.flatnonzero(small.world.track_release_day < 0), row):
            its_style = small.world.track_style[track]
            memory[row, its_style] = np.roll(memory[row, its_style], 1)
            memory[row, its_style, 0] = track
    probabilities = next_listen_probabilities(
        small.world,
        style,
        memory,
        random.choice(np.flatnonzero(small.world.track_release_day < 0), n),
        random.integers(0, SMALL.days, n),
        random.random(n) < 0.3,
    )
    assert probabilities.shape == (n, SMALL.tracks)
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


@pytest.fixture(scope="module")
def tiny() -> Simulated:
    return _simulated(TINY)


@pytest.fixture(scope="module")
def tiny_probabilities(tiny: Simulated) -> dict[str, np.ndarray]:
    """Probabilities of both oracles for every listen of a tiny world except each user's first."""
    seed = np.flatnonzero(tiny.log.user[:-1] == tiny.log.user[1:])
    queries = replay(tiny.world, tiny.listeners, tiny.log, seed)
    everything = slice(None)
    return {
        "label": tiny.log.track[queries.label],
        "hidden": query_probabilities(tiny.world, tiny.log, queries, queries.hidden_style, everything),
        "observed": query_probabilities(tiny.world, tiny.log, queries, queries.observed_style, everything),
    }


def test_the_hidden_oracles_probabilities_are_the_simulators_frequencies(
    tiny_probabilities: dict[str, np.ndarray],
) -> None:
    probability = tiny_probabilities["hidden"].astype(np.float64)
    label = tiny_probabilities["label"]
    assert len(label) > 20_000
    happened = np.zeros_like(probability)
    happened[np.arange(len(label)), label] = 1

    def deviations(group: np.ndarray) -> np.ndarray:
        """Computes observed minus expected counts per group of (query, track) pairs, as z-scores."""
        size = group.max() + 1
        difference, variance = (
            np.bincount(group.ravel(), values.ravel(), size)
            for values in (happened - probability, probability * (1 - probability))
        )
        return difference[variance > 1] / np.sqrt(variance[variance > 1])

    by_track = deviations(np.broadcast_to(np.arange(TINY.tracks), probability.shape))
    by_level = deviations(np.digitize(probability, np.geomspace(1e-4, 0.6, 25)))
    # About 40 and 25 normal deviates: 4 is far beyond chance, and the mean square is near 1.
    for deviation in (by_track, by_level):
        assert len(deviation) > 15
        assert np.abs(deviation).max() < 4
        assert (deviation**2).mean() < 1.8


def test_an_oracle_that_knows_more_expects_the_label_more(tiny_probabilities: dict[str, np.ndarray]) -> None:
    label = tiny_probabilities["label"]
    hidden, observed = (
        np.log(tiny_probabilities[oracle][np.arange(len(label)), label]).mean()
        for oracle in ("hidden", "observed")
    )
    frequencies = np.bincount(label, minlength=TINY.tracks) / len(label)
    assert hidden > observed > np.log(frequencies[label]).mean() + 0.1


def test_the_filter_weighs_styles_by_the_mixtures_own_probabilities(small: Simulated) -> None:
    log, world = small.log, small.world
    users = np.flatnonzero(np.diff(log.start) >= 40)[:50]
    state = StyleFilter(world, len(users))
    rows = np.arange(len(users))
    for step in range(39):
        state.observe(rows, log, log.start[users] + step)
    at = log.start[users] + 39
    likelihood = state.likelihood(rows, log, at)
    for style in range(SMALL.styles):
        probabilities = next_listen_probabilities(
            world,
            np.eye(SMALL.styles)[np.full(len(users), style)],
            state.memory.track,
            log.track[at - 1],
            log.time[at] // DAY,
            log.session_start[at],
        )
        np.testing.assert_allclose(
            likelihood[:, style], probabilities[rows, log.track[at]], rtol=1e-3, atol=1e-7
        )


def test_oracles_beat_the_most_popular(small: Simulated) -> None:
    answers = evaluate_oracles(small.world, small.listeners, small.log)
    summary = answers.summary(small.log)
    heard = np.bincount(small.log.track[small.log.time < (SMALL.days - 1) * DAY], minlength=SMALL.tracks)
    label = small.log.track[answers.label]
    popular = rank_of(np.tile(heard.astype(np.float32), (len(label), 1)), label)
    for k in (10, 50):
        baseline = (popular < k).mean()
        assert summary.hidden[f"recall@{k}"] >= summary.observed[f"recall@{k}"] > baseline + 0.1


def test_the_observed_oracle_does_not_look_at_what_is_hidden(small: Simulated) -> None:
    seed = sample_queries(small.log, 300, seed=1)
    blind = dataclasses.replace(
        small.log, style=np.zeros_like(small.log.style), affinity=np.zeros_like(small.log.affinity)
    )
    others = make_listeners(make_world(dataclasses.replace(SMALL, seed=99)))
    expected = replay(small.world, small.listeners, small.log, seed)
    found = replay(small.world, others, blind, seed)
    np.testing.assert_array_equal(found.observed_style, expected.observed_style)
    np.testing.assert_array_equal(found.memory, expected.memory)
    assert (found.hidden_style != expected.hidden_style).any()


def test_no_oracle_looks_ahead(small: Simulated) -> None:
    """Changes everything after a query and how its seed was played; the knowledge at the query stays the
    same.
    """
    seed = sample_queries(small.log, 1, seed=1)
    user = small.log.user[seed[0]]
    seed = seed[small.log.user[seed] == user][:1]
    later = (small.log.user == user) & (np.arange(len(small.log.user)) >= seed[0])
    changed = dataclasses.replace(
        small.log,
        track=np.where(later & (np.arange(len(later)) > seed[0]), 0, small.log.track),
        played_percent=np.where(later, 0, small.log.played_percent),
        reaction=np.where(later, 1, small.log.reaction).astype(np.int8),
    )
    expected, found = (replay(small.world, small.listeners, log, seed) for log in (small.log, changed))
    np.testing.assert_array_equal(found.memory, expected.memory)
    np.testing.assert_array_equal(found.observed_style, expected.observed_style)
    np.testing.assert_array_equal(found.hidden_style, expected.hidden_style)


def test_ranks_count_from_zero_and_ties_go_to_the_lower_track() -> None:
    probabilities = np.array([[0.1, 0.4, 0.1, 0.4]] * 4, np.float32)
    assert rank_of(probabilities, np.arange(4)).tolist() == [2, 0, 3, 1]


@pytest.mark.parametrize("name", ["users", "days", "tracks"])
def test_a_size_beyond_any_memory_is_named(name: str) -> None:
    with pytest.raises(UserError, match=rf"simulator's {name} is 10+; it must be .* at most 100,000,000"):
        SimulationParameters(**{name: 10**30})
