from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from two_tower.evaluation.queries import LabelSets, Queries, Windows
from two_tower.evaluation.report import examples
from two_tower.evaluation.report.examples import ItemNames, example_users
from two_tower.evaluation.report.item_map import item_map, map_items, project

# Real ids, which must not be seen.
USERS = np.array([90_210, 77_345, 31_999])


def windows_and_queries() -> tuple[Windows, Queries]:
    """Makes users who played ten items in turn, with a like after the third; asked after the fifth play."""
    types = np.array([b"listen"] * 3 + [b"like"] + [b"listen"] * 7)
    items = np.concatenate([np.insert(np.arange(10), 3, 2) + 100 * user for user in range(3)])
    n = len(items)
    empty = np.zeros(4, np.int64)
    nothing = np.zeros(0, np.int64)
    numbers = np.zeros(n, np.int64)
    windows = Windows(
        user_id=USERS, offsets=np.arange(4) * 11, item_id=items, timestamp=np.arange(n),
        event_type=np.tile(types, 3), play_ratio=np.ones(n, np.float32), is_organic=numbers,
        request_timestamp=numbers, label_step=numbers, label_offsets=empty, label_item_id=nothing,
        seen_offsets=empty, seen_item_id=nothing,
    )  # fmt: skip
    event = np.arange(3) * 11 + 5
    queries = Queries(
        user_id=USERS, window=np.arange(3), position=np.full(3, 5), event=event, label_event=event + 1,
        request_timestamp=np.zeros(3, np.int64), labels=LabelSets.of_one(items[event + 1]),
    )  # fmt: skip
    return windows, queries


def data_directory(path: Path) -> str:
    table = pa.table(
        {
            "item_id": [4, 5, 104],
            "title": ["Four", None, "Hundred and four"],
            "tags": [["folk", "slow"], [], None],
            "available": [True, False, True],
        }
    )
    (path / "items").mkdir()
    pq.write_table(table, path / "items" / "part.parquet")
    content = (path / "items" / "part.parquet").read_bytes()
    files = {"items/part.parquet": hashlib.sha256(content).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(files))
    return str(path)


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data directory, as far as names are read from one."""
    from two_tower.data_directory import manifest as module

    path = data_directory(tmp_path)
    monkeypatch.setattr(module, "item_files", lambda _: [str(tmp_path / "items" / "part.parquet")])
    return path


def test_an_example_is_what_was_played_before_recommended_and_played_next(names: str) -> None:
    windows, queries = windows_and_queries()
    recommended = np.array([[9, 5, 8, -1], [9, 8, 7, 6], [205, 1, 2, 3]])
    found = example_users(queries, windows, recommended, names, count=10, seed=1)
    assert [one["user"] for one in found] == ["user 1", "user 2", "user 3"]
    (first,) = (one for one in found if one["seed"]["item_id"] == 4)
    # The like is no play.
    assert [item["item_id"] for item in first["history"]] == [0, 1, 2, 3]
    assert first["seed"] == {"item_id": 4, "title": "Four", "artist": None, "tags": ["folk", "slow"]}
    assert [(item["item_id"], item["played"]) for item in first["recommended"]] == [
        (9, False),
        (5, True),
        (8, False),
    ]
    assert [(item["item_id"], item["rank"]) for item in first["played_next"]] == [
        (5, 2), (6, None), (7, None), (8, 3), (9, 1)
    ]  # fmt: skip
    assert first["labels"] == 1


def test_no_id_of_a_user_is_written_and_users_are_drawn_by_the_seed(names: str) -> None:
    windows, queries = windows_and_queries()
    recommended = np.tile(np.arange(4), (3, 1))

    def drawn(**kwargs: Any) -> list[dict[str, Any]]:
        return example_users(queries, windows, recommended, names, **kwargs)

    assert not any(str(user) in json.dumps(drawn()) for user in USERS)
    assert drawn(seed=1) == drawn(seed=1)
    assert len({one["seed"]["item_id"] for one in drawn(seed=1)}) == 3
    assert drawn(count=0) == [] and len(drawn(count=2)) == 2


def test_of_a_set_of_labels_those_that_rank_highest_are_shown(names: str) -> None:
    windows, queries = windows_and_queries()
    labels = LabelSets(np.arange(20), np.array([0, 18, 19, 20]))
    sets = dataclasses.replace(queries, labels=labels, label_event=np.full(3, -1))
    recommended = np.array([[50, 17, 3, 51], [60, 61, 62, 63], [60, 61, 62, 63]])
    found = example_users(sets, windows, recommended, names)
    (first,) = (one for one in found if one["seed"]["item_id"] == 4)
    assert [(one["item_id"], one["rank"]) for one in first["played_next"]][:3] == [(17, 2), (3, 3), (0, None)]
    assert len(first["played_next"]) == examples.SHOWN_NEXT and first["labels"] == 18


def test_where_the_data_has_moved_there_are_ids_and_no_names(tmp_path: Path) -> None:
    windows, queries = windows_and_queries()
    found = example_users(queries, windows, np.tile(np.arange(4), (3, 1)), str(tmp_path / "gone"))
    assert {item["title"] for one in found for item in one["recommended"]} == {None}
    assert ItemNames.read(str(tmp_path / "gone"), [4]).of(4)["tags"] is None


def test_the_map_holds_the_most_played_and_others() -> None:
    catalog, played = np.arange(100), np.repeat([7, 50, 99, 1_000], [5, 4, 3, 9])
    chosen = map_items(catalog, played, seed=1, limit=6)
    assert len(chosen) == 6 and {7, 50, 99} <= set(chosen.tolist()) <= set(range(100))
    assert np.array_equal(chosen, map_items(catalog, played, seed=1, limit=6))
    assert np.array_equal(map_items(catalog, played, seed=1), catalog)


def test_the_map_keeps_neighbours_together_lies_in_the_square_and_is_seeded() -> None:
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(4), 30)
    embeddings = (8 * np.eye(4, 16))[group] + random.normal(size=[120, 16])
    method, places = project(embeddings, seed=1)
    assert method == "t-SNE" and places.min() >= 0 and places.max() <= 1
    distance = np.linalg.norm(places[:, None] - places, axis=2) + 9 * np.eye(120)
    assert (group[distance.argmin(axis=1)] == group).mean() > 0.95
    assert np.array_equal(project(embeddings, seed=1)[1], places)


@pytest.mark.parametrize(
    "embeddings", [np.ones([3, 4]), np.ones([1, 4]), np.ones([150, 1]), np.zeros([150, 8])]
)
def test_few_or_equal_embeddings_have_places_too(embeddings: np.ndarray) -> None:
    method, places = project(embeddings, seed=1)
    assert method == "PCA" and places.shape == (len(embeddings), 2) and np.isfinite(places).all()
    found = item_map(np.arange(len(embeddings)), embeddings, np.array([0, 0]), "nowhere", 1)
    assert found["items"][0]["plays"] == 2 and found["items"][0]["title"] is None
