"""Placement of today's items: known items keep their rows, withdrawn ones are no candidates."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from tests.small_world import (
    CONFIG,
    HISTORY_LENGTH,
    NOT_IN_CATALOG,
    SPLIT,
    Transformed,
    catalog_batch,
    catalog_items,
    events,
    write_examples,
)
from two_tower.base.errors import UserError
from two_tower.components.interaction_example_gen.windows import WindowCutter
from two_tower.data_directory.feature_columns import FeatureSpec, ResolvedFeatures, encode_columns
from two_tower.schema import features
from two_tower.trainer.loop import warm_start
from two_tower.trainer.loop.placement import Placed, Training, place, read_items
from two_tower.trainer.loop.two_tower_model import TwoTowerModel
from two_tower.trainer.model.catalog_table import CatalogArrays, CatalogTable
from two_tower.trainer.model.signatures import Towers
from two_tower.trainer.settings import DEFAULT_PARTS

pytestmark = pytest.mark.slow

ITEMS = (
    FeatureSpec("country", "country", "categorical"),
    FeatureSpec("tags", "tags", "multi_valued"),
    FeatureSpec("year", "year", "numeric"),
    FeatureSpec("embedding", "embedding", "vector", 4),
)
RESOLVED = ResolvedFeatures(items=ITEMS, history=features.AGGREGATES)
# Train has items 0 to 49 of 0 to 69, and one that its catalog lacks.
WITHDRAWN = [3, 11, 60]
# A cold item with the features of item 55, also cold, and one without known features.
LIKE, RELEASED, UNHEARD_OF = 55, 200, 201


def columns(ids: list[int]) -> pa.Table:
    """Makes the columns of items/ for the trained catalog's items, or for items like them."""
    return pa.table(
        {
            "country": [None if i % 8 == 0 else f"country {i % 5 if i < 50 else i % 7}" for i in ids],
            "tags": pa.array([[f"tag {t}" for t in range(i % 6)] for i in ids], pa.list_(pa.string())),
            "year": [None if i % 9 == 4 else 1950.0 + i for i in ids],
            "embedding": pa.array([[i / 70, 1.0, 0.0, -i / 35] for i in ids], pa.list_(pa.float32())),
        }
    )


def trained_items() -> dict[str, Any]:
    return {**catalog_items(), **encode_columns(columns(list(range(70))), ITEMS, "items")}


def todays_items() -> dict[str, Any]:
    """Returns unordered items: no withdrawn ones, two cold ones, and one that train knows."""
    kept = [i for i in range(69, -1, -1) if i not in WITHDRAWN]
    rows = [*kept, LIKE, LIKE]
    plain = {name: [values[row] for row in rows] for name, values in catalog_items().items()}
    own = columns(rows).to_pydict()
    plain["item_id"][-2:] = [[RELEASED], [NOT_IN_CATALOG]]
    nothing: dict[str, Any] = {
        "item_id": [UNHEARD_OF],
        "artist_id": [77_777],
        "album_id": [],
        "item_length": [-1.0],
    }
    for name, values in plain.items():
        values.append(nothing[name])
    for name, values in own.items():
        values.append({"country": "nowhere", "tags": ["unheard of"], "year": None, "embedding": None}[name])
    kinds = {"tags": pa.list_(pa.string()), "embedding": pa.list_(pa.float32())}
    table = pa.table({name: pa.array(values, kinds.get(name)) for name, values in own.items()})
    return {**plain, **encode_columns(table, ITEMS, "items")}


# The repeat head scores items of the history.
REPEATING = dataclasses.replace(CONFIG, parts=(*DEFAULT_PARTS, "repeat_head"))


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model of weights that no initialisation gives, as a training leaves it."""

    training: Training
    towers: Any


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    out = tmp_path_factory.mktemp("placement")
    cutter = WindowCutter(SPLIT, repeats_recommendable=True, history_length=HISTORY_LENGTH, positions=10)
    world = Transformed.of(out, events(), cutter, trained_items(), RESOLVED)
    graph, catalog_graph = tft.TFTransformOutput(world.graph), tft.TFTransformOutput(world.catalog_graph)
    catalog = CatalogArrays.read(world.catalog_files, catalog_graph.transformed_feature_spec(), ITEMS)
    train_items = np.array([int(item) for item in graph.vocabulary_by_name(features.ITEM_VOCABULARY)])
    table = CatalogTable(catalog, train_items)
    users = graph.vocabulary_size_by_name(features.USER_VOCABULARY)
    log_q = np.zeros(table.size + 1, np.float32)
    model = TwoTowerModel(table, log_q, users, HISTORY_LENGTH, REPEATING, RESOLVED.history)
    model.compute_loss(world.batch("train"))
    draw = np.random.default_rng(4)
    for weight in model.trainable_weights:
        weight.assign(draw.normal(0, 0.4, weight.shape))
    layer = graph.transform_features_layer()
    towers = Towers(layer, table, model.query_tower, model.candidate_tower, HISTORY_LENGTH, RESOLVED)
    towers.save(str(out / "towers"))
    rows = warm_start.row_names(catalog, train_items, graph, catalog_graph, ())
    warm_start.save(str(out / "state"), model, rows, REPEATING, RESOLVED)
    training = Training(
        towers=str(out / "towers"),
        state=str(out / "state"),
        transform_graph=world.graph,
        catalog_graph=world.catalog_graph,
        config=REPEATING,
        history_length=HISTORY_LENGTH,
        resolved=RESOLVED,
    )
    return Trained(training, towers)


@pytest.fixture(scope="module")
def placed(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Placed:
    return place(trained.training, [examples(tmp_path_factory.mktemp("today"), todays_items())])


@pytest.fixture(scope="module")
def saved(placed: Placed, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Saves and loads towers, as ScannIndexer does."""
    path = str(tmp_path_factory.mktemp("saved"))
    placed.towers.save(path)
    return tf.saved_model.load(path)


def examples(out: Path, items: dict[str, Any]) -> str:
    return write_examples(out / "items.gz", [catalog_batch(items)])


def candidates(towers: Any, item_id: list[int]) -> np.ndarray:
    found: np.ndarray = towers.candidate_embedding(tf.constant(item_id, tf.int64))["embedding"].numpy()
    return found


def answer(towers: Any, history: list[int], user: int = 3) -> dict[str, np.ndarray]:
    found = towers.query_embedding(
        user_id=tf.constant([user], tf.int64),
        history_item_id=tf.constant([history], tf.int64),
        history_timestamp=tf.constant([list(range(600, 600 + 200 * len(history), 200))], tf.int64),
        history_play_ratio=tf.constant([[-1.0]]),
        history_event_type=tf.constant([[""]]),
        history_is_organic=tf.constant([[-1]], tf.int64),
        request_timestamp=tf.constant([-1], tf.int64),
    )
    return {name: value.numpy() for name, value in found.items()}


def query(towers: Any, history: list[int], user: int = 3) -> np.ndarray:
    return answer(towers, history, user)["embedding"]


def test_candidates_are_todays_items_and_no_others(placed: Placed, saved: Any) -> None:
    expected = sorted({*range(70), RELEASED, UNHEARD_OF, NOT_IN_CATALOG} - {*WITHDRAWN})
    assert saved.catalog()["item_id"].numpy().tolist() == expected == placed.items.tolist()
    assert placed.new.tolist() == [NOT_IN_CATALOG, RELEASED, UNHEARD_OF]
    assert placed.withdrawn.tolist() == WITHDRAWN
    assert placed.learnt == 48


def test_what_train_knows_stays_where_it_was(trained: Trained, saved: Any) -> None:
    known = [item for item in range(70) if item not in WITHDRAWN]
    np.testing.assert_allclose(candidates(saved, known), candidates(trained.towers, known), atol=1e-5)
    # Items with different embeddings, so that equality is no accident.
    assert len(np.unique(candidates(saved, known).round(4), axis=0)) == len(known)
    for history in ([5, 12, 0], [64, 2, 2, 9, 33], []):
        now, then = answer(saved, history), answer(trained.towers, history)
        np.testing.assert_allclose(now["embedding"], then["embedding"], atol=1e-5)
        np.testing.assert_array_equal(now["repeat_item_id"], then["repeat_item_id"])
        np.testing.assert_allclose(now["repeat_score"], then["repeat_score"], atol=1e-5)


def test_a_history_of_withdrawn_items_says_what_it_said(trained: Trained, saved: Any) -> None:
    history = [3, 12, 11]
    assert set(history) & set(WITHDRAWN)
    now = query(saved, history)
    np.testing.assert_allclose(now, query(trained.towers, history), atol=1e-5)
    assert np.abs(now - query(saved, [999, 12, 998])).max() > 0.01


def test_a_released_item_is_placed_by_artist_album_and_content(trained: Trained, saved: Any) -> None:
    # Equal to a cold item of the training with the same features.
    like = candidates(trained.towers, [LIKE])[0]
    for item in (RELEASED, NOT_IN_CATALOG):
        np.testing.assert_allclose(candidates(saved, [item])[0], like, atol=1e-5)
    np.testing.assert_allclose(query(saved, [5, RELEASED]), query(trained.towers, [5, LIKE]), atol=1e-5)


def test_what_train_knows_nothing_of_reads_as_unknown(saved: Any) -> None:
    nothing, unknown = candidates(saved, [UNHEARD_OF, 12_345])
    np.testing.assert_allclose(nothing, unknown, atol=1e-5)


def test_artists_that_train_has_not_heard_of_are_told_apart(trained: Trained, tmp_path: Path) -> None:
    items = todays_items()
    plain = {name: values for name, values in items.items() if not isinstance(values, pa.Array)}
    artists = [[500], [501], [500], [], [4]]
    few = {name: values[:5] for name, values in plain.items()} | {"artist_id": artists}
    few |= {name: values[:5] for name, values in items.items() if isinstance(values, pa.Array)}
    names = warm_start.names_of_rows(trained.training.state)
    rows = read_items([examples(tmp_path, few)], trained.training.catalog_graph, RESOLVED, names)
    by_id = dict(zip(rows.item_id.tolist(), rows.first_artist.tolist(), strict=False))
    first = [by_id[item] for (item,) in few["item_id"]]
    assert first[0] == first[2] != first[1] and first[3] == -1
    assert len({*first}) == 4 and max(trained_artists(trained), first[4]) < min(first[0], first[1])


def trained_artists(trained: Trained) -> int:
    table = trained.towers._table
    return int(table.first_artist.numpy().max())


@pytest.mark.parametrize("case", ["twice", "empty"])
def test_items_that_are_no_catalog_are_told(trained: Trained, tmp_path: Path, case: str) -> None:
    items = {
        name: values if case == "twice" else values[:0]
        for name, values in {**todays_items(), "item_id": [[4]] * 70}.items()
    }
    with pytest.raises(UserError, match="4 has more than one row" if case == "twice" else "catalog is empty"):
        read_items(
            [examples(tmp_path, items)],
            trained.training.catalog_graph,
            RESOLVED,
            warm_start.names_of_rows(trained.training.state),
        )


def test_weights_of_another_shape_are_told(trained: Trained, tmp_path: Path) -> None:
    config = dataclasses.replace(REPEATING, query_hidden_units=(8,))
    training = dataclasses.replace(trained.training, config=config)
    with pytest.raises(UserError, match=r"query_\w+/\w+ is \[.*16.*\], where \[.*8.*\] is needed"):
        place(training, [examples(tmp_path, todays_items())])
