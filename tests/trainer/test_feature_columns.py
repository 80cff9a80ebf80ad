"""Columns of users/ and items/ as features, from the data directory to serving."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import tensorflow_transform as tft

from tests.listening_logs import events_of
from tests.small_world import CONFIG, HISTORY_LENGTH, SPLIT, Transformed, catalog_items, events
from two_tower.components.interaction_example_gen.splits import TimeSplit
from two_tower.components.interaction_example_gen.windows import WindowCutter
from two_tower.data_directory.feature_columns import FeatureSpec, ResolvedFeatures, encode_columns
from two_tower.evaluation import measure
from two_tower.evaluation.queries import all_queries, history_batch
from two_tower.schema import features
from two_tower.serving.index import ExactIndex
from two_tower.serving.retrieval_model import RetrievalModel
from two_tower.trainer.loop import training
from two_tower.trainer.loop.training import train
from two_tower.trainer.loop.two_tower_model import TwoTowerModel
from two_tower.trainer.model.catalog_table import OUT_OF_VOCABULARY, CatalogArrays, CatalogTable
from two_tower.trainer.model.signatures import Towers
from two_tower.trainer.model.windows import Positions, windows_of
from two_tower.trainer.settings import Dropout, TrainerConfig

pytestmark = pytest.mark.slow

USERS = (
    FeatureSpec("user_gender", "gender", "categorical"),
    FeatureSpec("user_tags", "tags", "multi_valued"),
    FeatureSpec("user_age", "age", "numeric"),
    FeatureSpec("user_income", "income", "numeric"),
    FeatureSpec("user_bio", "bio", "text"),
    FeatureSpec("user_taste", "taste", "vector", 3),
)
ITEMS = (
    FeatureSpec("country", "country", "categorical"),
    FeatureSpec("tags", "tags", "multi_valued"),
    FeatureSpec("year", "year", "numeric"),
    FeatureSpec("title", "title", "text"),
    FeatureSpec("embedding", "embedding", "vector", 4),
)
RESOLVED = ResolvedFeatures(USERS, ITEMS, ("listen_count", "hour_of_day"))
NAMES = {spec.name: features.transformed_column(spec.name) for spec in (*USERS, *ITEMS)}


def users() -> pa.Table:
    """Returns users 0 to 22; 20 to 22 are new to the small world, and 23 and 24 have no row."""
    ids = np.arange(23)
    return pa.table(
        {
            "user_id": ids,
            "gender": [None if i % 7 == 0 else "fm"[i % 2] if i < 22 else "unheard of" for i in ids],
            "tags": pa.array(
                [None if i % 5 == 0 else ["a", "b", "c", "d"][: i % 4] for i in ids], pa.list_(pa.string())
            ),
            "age": [None if i % 6 == 0 else float(i % 3) for i in ids],
            "income": [1e6 + 1e3 * i for i in ids],
            "bio": [f"Likes RAIN, no. {i % 2}!" if i % 3 else None for i in ids],
            "taste": pa.array(
                [None if i % 4 == 0 else [i / 10, 1.0, -i / 5] for i in ids], pa.list_(pa.float32())
            ),
        }
    )


def items() -> dict[str, list[Any]]:
    """Returns the small world's catalog with columns; train has items 0 to 49."""
    ids = np.arange(70)
    table = pa.table(
        {
            "country": [None if i % 8 == 0 else f"country {i % 5 if i < 50 else i % 7}" for i in ids],
            "tags": pa.array([[f"tag {t}" for t in range(i % 20)] for i in ids], pa.list_(pa.string())),
            "year": [0.0 if i == 0 else None if i % 9 == 4 else 1950.0 + i for i in ids],
            "title": [None if i % 10 == 9 else f"Song {i} of the Rain" for i in ids],
            "embedding": pa.array([[i / 70, 1.0, 0.0, -i / 35] for i in ids], pa.list_(pa.float32())),
        }
    )
    return {**catalog_items(), **encode_columns(table, ITEMS, "items")}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Transformed:
    cutter = WindowCutter(SPLIT, repeats_recommendable=True, history_length=HISTORY_LENGTH, positions=10)
    return Transformed.of(tmp_path_factory.mktemp("columns"), events(), cutter, items(), RESOLVED, users())


def catalog_of(world: Transformed) -> CatalogArrays:
    spec = tft.TFTransformOutput(world.catalog_graph).transformed_feature_spec()
    return CatalogArrays.read(world.catalog_files, spec, world.resolved.items)


def vocabulary(graph: str, name: str) -> list[str]:
    return [entry.decode() for entry in tft.TFTransformOutput(graph).vocabulary_by_name(NAMES[name])]


# Transform.


def test_values_are_rows_of_trains_vocabulary_and_others_are_none(world: Transformed) -> None:
    assert set(vocabulary(world.graph, "user_gender")) == {"f", "m"}  # of user 22 train knows nothing
    assert set(vocabulary(world.graph, "user_bio")) == {"likes", "rain", "no", "0", "1"}
    table = users()
    for split in features.SPLITS:
        batch, user_id = world.batch(split), world.raw[split].user_id
        for name, column in (("user_gender", "gender"), ("user_tags", "tags")):
            words = vocabulary(world.graph, name)
            own = dict(zip(table["user_id"].to_pylist(), table[column].to_pylist(), strict=True))
            for user, row in zip(user_id, batch[NAMES[name]].to_list(), strict=True):
                values = own.get(user) or []
                values = [values] if isinstance(values, str) else values
                assert row == [words.index(value) if value in words else -1 for value in values]
    gender = world.batch("test")[NAMES["user_gender"]]
    assert -1 in gender.flat_values.numpy() and 0 in gender.row_lengths().numpy()


def test_numbers_are_scaled_by_train_and_absent_ones_are_its_mean(world: Transformed) -> None:
    own = {row["user_id"]: (row["age"], row["income"]) for row in users().to_pylist()}

    def raw(split: str) -> np.ndarray:
        return np.array([own.get(user, (None, None)) for user in world.raw[split].user_id], float)

    mean, spread = np.nanmean(raw("train"), axis=0), np.nanstd(raw("train"), axis=0)
    for split in features.SPLITS:
        expected = np.nan_to_num((raw(split) - mean) / spread)
        np.testing.assert_allclose(world.batch(split)[features.NUMBERS], expected, atol=1e-4)
    assert (raw("train") == 0).any() and not (raw("train")[:, 1] < 1e6).any()
    is_zero = raw("train")[:, 0] == 0
    assert (world.batch("train")[features.NUMBERS].numpy()[is_zero, 0] < -0.5).all()  # zero is a number


def test_vectors_stay_as_they_are(world: Transformed) -> None:
    own = {row["user_id"]: row["taste"] or [0.0] * 3 for row in users().to_pylist()}
    for split in features.SPLITS:
        expected = [own.get(user, [0.0] * 3) for user in world.raw[split].user_id]
        np.testing.assert_allclose(world.batch(split)[NAMES["user_taste"]], expected)
    np.testing.assert_allclose(catalog_of(world).vectors[NAMES["embedding"]][7], [0.1, 1, 0, -0.2])


def test_the_catalog_holds_the_columns_of_its_items(world: Transformed) -> None:
    catalog = catalog_of(world)
    tags, countries = vocabulary(world.catalog_graph, "tags"), vocabulary(world.catalog_graph, "country")
    words = vocabulary(world.catalog_graph, "title")
    for item in range(70):
        # The first 16 of 19 tags are kept.
        own = [tags[row] for row in catalog.values[NAMES["tags"]][item] if row >= 0]
        assert own == [f"tag {t}" for t in range(min(item % 20, 16))]
        title = [words[row] for row in catalog.values[NAMES["title"]][item] if row >= 0]
        assert title == ([] if item % 10 == 9 else ["song", str(item), "of", "the", "rain"])
    assert catalog.values[NAMES["country"]].shape == (70, 1) and len(countries) == 7
    years = np.array([np.nan if i % 9 == 4 else 1950 + i if i else 0 for i in range(70)])
    assert catalog.numbers is not None
    expected = np.nan_to_num((years - np.nanmean(years)) / np.nanstd(years))
    np.testing.assert_allclose(catalog.numbers[:, 0], expected, atol=1e-3)


def test_a_value_that_no_trained_item_has_reads_as_out_of_vocabulary(world: Transformed) -> None:
    catalog = catalog_of(world)
    train_items = np.unique(world.raw["train"].item_id)
    table = CatalogTable(catalog, train_items)
    countries = vocabulary(world.catalog_graph, "country")
    rows = table.values[NAMES["country"]].numpy()[:, 0]
    known = catalog.values[NAMES["country"]][:, 0]
    for item in range(70):
        # Only items from 50 on have countries 5 and 6.
        is_untouched = known[item] < 0 or countries[known[item]] in ("country 5", "country 6")
        assert (rows[item] == OUT_OF_VOCABULARY) == is_untouched, item
    assert rows[70] == OUT_OF_VOCABULARY and not table.vectors[NAMES["embedding"]].numpy()[70].any()
    assert table.value_vocabulary_sizes[NAMES["country"]] == 6


# The model.


@dataclasses.dataclass(frozen=True)
class Built:
    """A model of random weights, as it is trained and as it is served."""

    model: TwoTowerModel
    table: CatalogTable
    served: Any
    path: str


def untrained(world: Transformed) -> tuple[TwoTowerModel, CatalogTable]:
    output = tft.TFTransformOutput(world.graph)
    table = CatalogTable(catalog_of(world), np.unique(world.raw["train"].item_id))
    model = TwoTowerModel(
        table,
        np.zeros(table.size + 1, np.float32),
        output.vocabulary_size_by_name(features.USER_VOCABULARY),
        HISTORY_LENGTH,
        CONFIG,
        world.resolved.history,
        training._user_vocabularies(output, world.resolved),
    )
    model.compute_loss(world.batch("train"), training=True)
    return model, table


@pytest.fixture(scope="module")
def built(world: Transformed, tmp_path_factory: pytest.TempPathFactory) -> Built:
    model, table = untrained(world)
    draw = np.random.default_rng(4)
    for weight in model.trainable_weights:
        weight.assign(draw.normal(0, 0.4, weight.shape))
    path = str(tmp_path_factory.mktemp("served"))
    layer = tft.TFTransformOutput(world.graph).transform_features_layer()
    Towers(layer, table, model.query_tower, model.candidate_tower, HISTORY_LENGTH, world.resolved).save(
        path + "/towers"
    )
    towers = tf.saved_model.load(path + "/towers")
    item_id = towers.catalog()["item_id"]
    index = ExactIndex(towers.candidate_embedding(item_id)["embedding"])
    RetrievalModel(towers, index, item_id, 100, world.resolved.users).save(path + "/served")
    return Built(model, table, tf.saved_model.load(path + "/served"), path + "/served")


@pytest.mark.parametrize("split", features.SPLITS)
def test_a_request_with_columns_is_embedded_as_in_training(
    world: Transformed, built: Built, split: str
) -> None:
    batch = world.batch(split)
    batch[features.EXAMPLE_AGE] = tf.zeros_like(batch[features.EXAMPLE_AGE])
    raw = world.raw[split]
    queries = all_queries(raw)
    at = Positions(tf.constant(queries.window, tf.int32), tf.constant(queries.position, tf.int32))
    windows = windows_of(batch, built.table, HISTORY_LENGTH, world.resolved.history)
    trained = built.model.query_tower(windows, at).numpy()
    request = history_batch(raw, queries, np.arange(len(queries)), HISTORY_LENGTH)
    del request["exclude_item_id"]
    assert {spec.name for spec in USERS} < set(request)
    request = {name: tf.constant(values) for name, values in request.items()}
    for serve in (built.served.query_embedding, built.served.signatures["query_embedding"]):
        np.testing.assert_allclose(serve(**request)["embedding"], trained, atol=1e-5)
    candidates = built.model.candidate_tower(tf.range(70))
    served = built.served.candidate_embedding(tf.range(70, dtype=tf.int64))["embedding"]
    np.testing.assert_allclose(served, candidates, atol=1e-6)


SOMEBODY = {
    "user_gender": ["f"],
    "user_tags": [["a", "c"]],
    "user_age": [1.0],
    "user_income": [1_005_000.0],
    "user_bio": ["likes rain"],
    "user_taste": [[0.5, -0.5, 1.0]],
}


def embedded(built: Built, **columns: Any) -> np.ndarray:
    """Embeds a new user with two listens; missing columns have the signature's defaults."""
    types = {spec.name: tf.as_dtype(spec.column_kind.dtype) for spec in USERS}
    request = {name: tf.constant(value, types[name]) for name, value in columns.items()}
    return built.served.query_embedding(
        user_id=tf.constant([777], tf.int64),
        history_item_id=tf.constant([[3, 5]], tf.int64),
        history_timestamp=tf.constant([[100, 400]], tf.int64),
        **request,
    )["embedding"].numpy()


@pytest.mark.parametrize("name", SOMEBODY)
def test_every_column_of_a_user_changes_the_query(built: Built, name: str) -> None:
    complete = embedded(built, **SOMEBODY)
    without = embedded(built, **{other: value for other, value in SOMEBODY.items() if other != name})
    assert not np.allclose(complete, without, atol=1e-3)


def test_absent_and_unknown_values_are_answered_alike(built: Built) -> None:
    nobody = embedded(built)
    assert np.isfinite(nobody).all()
    spelt_out = {
        "user_gender": [""],
        "user_tags": [["", ""]],
        "user_age": [math.nan],
        "user_income": [math.nan],
        "user_bio": [" -- "],
        "user_taste": [[0.0] * 3],
    }
    np.testing.assert_allclose(embedded(built, **spelt_out), nobody, atol=1e-6)
    unheard = {"user_gender": ["x"], "user_tags": [["", "q"]], "user_bio": ["zzz \N{SNOWMAN}"]}
    np.testing.assert_allclose(embedded(built, **unheard), nobody, atol=1e-6)
    # Known values count, with padding anywhere, and texts in any case.
    known = embedded(built, user_tags=[["b"]], user_bio=["rain likes"])
    mixed = embedded(built, user_tags=[["", "b", "q"]], user_bio=["LIKES?? (rain)"])
    np.testing.assert_allclose(mixed, known, atol=1e-6)
    assert not np.allclose(embedded(built, user_age=[0.0]), nobody, atol=1e-4)  # zero is not absent


def test_a_default_stands_for_all_queries_and_another_value_does_not(built: Built) -> None:
    def three(**columns: Any) -> np.ndarray:
        ids = tf.constant([[3, 5]] * 3, tf.int64)
        user = tf.constant([1, 2, 777], tf.int64)
        return built.served.query_embedding(user, ids, ids, **columns)["embedding"].numpy()

    one = three(
        user_gender=tf.constant([""]), user_tags=tf.constant([[""]]), user_age=tf.constant([math.nan])
    )
    np.testing.assert_allclose(one, three(), atol=1e-6)
    for name, value in (("user_gender", ["f"]), ("user_tags", [["a"]]), ("user_age", [1.0])):
        told = rf"{name} has the sizes\] \[1.* \[and history_item_id\] \[3 2\]"
        with pytest.raises(tf.errors.InvalidArgumentError, match=told):
            three(**{name: tf.constant(value)})


def test_the_signature_has_the_columns_as_inputs_with_defaults(built: Built) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    content = Path(built.path, "saved_model.pb").read_bytes()
    signatures = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0].signature_def
    for name in ("serving_default", "query_embedding"):
        ours = {spec.name for spec in USERS}
        assert ours < set(signatures[name].inputs) and ours < set(signatures[name].defaults)
        assert math.isnan(signatures[name].defaults["user_age"].float_val[0])
        assert not {"user_id", "history_item_id", "history_timestamp"} & set(signatures[name].defaults)
    assert set(signatures["candidate_embedding"].inputs) == {"item_id"}
    documented = tower_docs(built)
    assert all(f"{spec.name}: " in documented and f"the user's {spec.column}" in documented for spec in USERS)
    answer = built.served.recommend(
        tf.constant([1], tf.int64), tf.constant([[3]], tf.int64), tf.constant([[9]], tf.int64)
    )
    assert np.isfinite(answer["score"][:, :70]).all()


def tower_docs(built: Built) -> str:
    layer, tower = (lambda raw: raw), built.model.query_tower
    towers = Towers(layer, built.table, tower, built.model.candidate_tower, HISTORY_LENGTH, RESOLVED)
    return str(towers.query_embedding.python_function.__doc__)


def test_without_columns_the_signature_is_the_plain_one(small_world: Transformed) -> None:
    from two_tower.trainer.model.signatures import query_inputs

    assert small_world.resolved.users == ()
    plain = [one.name for one in query_inputs(())]
    # Python callers pass the first by position.
    assert plain[:7] == [
        "user_id",
        "history_item_id",
        "history_timestamp",
        "history_play_ratio",
        "history_event_type",
        "history_is_organic",
        "request_timestamp",
    ]
    assert [one.name for one in query_inputs(USERS)] == plain + [spec.name for spec in USERS]


def _is_known(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def test_naming_a_column_of_items_does_not_cut_windows_again() -> None:
    from two_tower.pipeline.create_pipeline import RunInputs, create_pipeline
    from two_tower.pipeline.settings.pipeline_config import PipelineConfig

    def parameters(resolved: ResolvedFeatures) -> dict[str, dict[str, Any]]:
        dag = create_pipeline(RunInputs("data", "root", "digest"), "root", PipelineConfig(), resolved)
        # Values that AutoSettings hands on are known when the job runs, see tests/components.
        return {
            node.id: {name: str(value) for name, value in node.exec_properties.items() if _is_known(value)}
            for node in dag.components
        }

    plain = parameters(ResolvedFeatures(users=USERS))
    for more in (
        ResolvedFeatures(users=USERS, items=ITEMS),
        ResolvedFeatures(users=USERS, history=("repeat_rate",)),
    ):
        changed = {name for name, values in parameters(more).items() if values != plain[name]}
        assert not {"InteractionExampleGen", "InteractionSchema"} & changed
        assert {"Trainer", "ScannIndexer"} <= changed
        assert ("CatalogExampleGen" in changed) == ("CatalogTransform" in changed) == bool(more.items)
        assert "AutoSettings" in changed and "Transform" not in changed


@pytest.mark.parametrize("name", [spec.name for spec in ITEMS])
def test_every_column_of_an_item_changes_candidates_history_and_seed(built: Built, name: str) -> None:
    table = built.table
    item = tf.constant([7])
    variables = {**table.values, **table.vectors, NAMES["year"]: table.numbers}
    variable = variables[NAMES[name]]
    before = built.model.candidate_tower(item).numpy(), query_after(built, 7)
    original = variable.numpy()
    changed = original.copy()
    changed[7] = 2.5 if name in ("year", "embedding") else [OUT_OF_VOCABULARY, *[-1] * (changed.shape[1] - 1)]
    variable.assign(changed)
    try:
        after = built.model.candidate_tower(item).numpy(), query_after(built, 7)
    finally:
        variable.assign(original)
    for old, new in zip(before, after, strict=True):
        assert not np.allclose(old, new, atol=1e-4)


def query_after(built: Built, item: int) -> np.ndarray:
    history = tf.ragged.constant([[item, 3]], tf.int64, row_splits_dtype=tf.int64)
    zeros = tf.zeros_like(history)
    transformed = {
        features.USER: tf.constant([[0]], tf.int64),
        features.HISTORY_ITEM_ID: history,
        features.HISTORY_PLAY_RATIO: tf.cast(zeros, tf.float32) - 1,
        features.IS_LISTEN: zeros + 1,
        **dict.fromkeys(features.aggregate_columns(RESOLVED.history), tf.cast(zeros, tf.float32)),
        **dict.fromkeys([NAMES[n] for n in ("user_gender", "user_tags", "user_bio")], tf.zeros_like(history)),
        NAMES["user_taste"]: tf.zeros([1, 3]),
        features.NUMBERS: tf.zeros([1, 2]),
    }
    windows = windows_of(transformed, built.table, HISTORY_LENGTH, RESOLVED.history)
    return built.model.query_tower(windows, Positions(tf.constant([0]), tf.constant([1]))).numpy()


def test_columns_are_forgotten_now_and_then_in_training_alone(world: Transformed, built: Built) -> None:
    """Checks dropout of columns, by which users with unknown values are in training too."""
    batch = world.batch("train")
    windows = windows_of(batch, built.table, HISTORY_LENGTH, RESOLVED.history)
    at = Positions(tf.zeros([200], tf.int32), tf.zeros([200], tf.int32))
    tower = built.model.query_tower
    served = np.concatenate(tower._user_columns(windows, at.window, training=False), axis=1)
    assert (served == served[0]).all()
    trained = np.concatenate(tower._user_columns(windows, at.window, training=True), axis=1)
    share = (trained != served).any(axis=1).mean()
    assert 0 < share < 0.9


def test_keras_does_not_copy_the_catalog_with_the_weights(built: Built) -> None:
    shapes = [weight.shape for weight in built.model.weights]
    assert not any(shape == built.table.vectors[NAMES["embedding"]].shape for shape in shapes)
    assert not any(weight.dtype in (tf.int32, tf.int64) for weight in built.model.weights)


def test_the_evaluator_asks_models_that_take_other_columns(
    world: Transformed, built: Built, tmp_path: Path
) -> None:
    """Checks a model older than a column, and one with a column that is gone."""
    windows_dir = str(Path(world.files["test"][0]).parents[1] / "Split-test")
    rows = np.arange(30)
    ask: dict[str, Any] = {"k": 5, "history_length": HISTORY_LENGTH, "exclude": False}
    answers = measure.answers(built.path, windows_dir, rows, users=USERS, **ask)
    np.testing.assert_array_equal(answers.served, answers.exact)
    fewer = measure.answers(built.path, windows_dir, rows, users=USERS[:2], **ask).served
    assert (answers.served != fewer).any() and (fewer >= 0).all()


# Known answers: training learns them only with the column.

CLASSES, PER_CLASS, COLD_PER_CLASS, LISTENERS = 15, 8, 4, 240
KNOWN_ITEMS = CLASSES * PER_CLASS
CATALOG = KNOWN_ITEMS + CLASSES * COLD_PER_CLASS + 1
JINGLE = CATALOG - 1


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Transformed:
    """Users listen to their own class, after a jingle each time, and a query sees nothing but the jingle.

    Users of eval and test are new: their class stands in users/ alone. Half of what they hear is new too, and
    its class stands in items/ alone.
    """
    draw = np.random.default_rng(3)
    user, item, time = [], [], []
    for listener in range(LISTENERS):
        period = listener % 4  # two of four are train's
        for play in range(24):
            is_cold = period >= 2 and play % 2
            own = listener // 4 % CLASSES
            kind = (
                KNOWN_ITEMS + own * COLD_PER_CLASS + draw.integers(COLD_PER_CLASS)
                if is_cold
                else own * PER_CLASS + draw.integers(PER_CLASS)
            )
            user += [listener, listener]
            item += [JINGLE, int(kind)]
            time += [
                100_000 * max(period - 1, 0) + 1_000 * play,
                100_000 * max(period - 1, 0) + 1_000 * play + 10,
            ]
    log = events_of(user, item, time, b"listen", play_ratio=1.0)
    split = TimeSplit(train_end=90_000, eval=(100_000, 190_000), test=(200_000, 290_000))
    cutter = WindowCutter(split, repeats_recommendable=True, history_length=1, positions=60)
    classes = [
        i // PER_CLASS if i < KNOWN_ITEMS else (i - KNOWN_ITEMS) // COLD_PER_CLASS for i in range(CATALOG)
    ]
    resolved = ResolvedFeatures(
        (FeatureSpec("user_class", "class", "categorical"),), (FeatureSpec("genre", "genre", "categorical"),)
    )
    genre = pa.table({"genre": [None if i == JINGLE else f"genre {one}" for i, one in enumerate(classes)]})
    catalog = {
        "item_id": [[i] for i in range(CATALOG)],
        "artist_id": [[]] * CATALOG,
        "album_id": [[]] * CATALOG,
        "item_length": [[-1.0]] * CATALOG,
        **encode_columns(genre, resolved.items, "items"),
    }
    everybody = pa.table(
        {
            "user_id": range(LISTENERS),
            "class": [f"class {listener // 4 % CLASSES}" for listener in range(LISTENERS)],
        }
    )
    return Transformed.of(tmp_path_factory.mktemp("told"), log, cutter, catalog, resolved, everybody)


def recalls(world: Transformed, resolved: ResolvedFeatures, out: Path) -> tuple[float, float]:
    """Computes Recall@12 after jingles, of items of train and of cold items; a class has 12 of 181 items."""
    data = dataclasses.replace(world.training_data(history_length=1), resolved=resolved)
    config = TrainerConfig(
        embedding_dim=16,
        query_hidden_units=(32,),
        temperature=0.1,
        learning_rate=0.02,
        epochs=18,
        patience=18,
        windows_per_step=8,
        positions_per_step=256,
        dropout=Dropout(hidden=0.0, id=0.3),
    )
    train(data, config, str(out / "model"), str(out / "logs"), cutoff=12)
    towers = tf.saved_model.load(str(out / "model"))
    raw = world.raw["test"]
    queries = all_queries(raw)
    rows = np.flatnonzero(raw.item_id[queries.event] == JINGLE)
    request = history_batch(raw, queries, rows, 1)
    taken = towers.signatures["query_embedding"].structured_input_signature[1]
    request = {name: tf.constant(value) for name, value in request.items() if name in taken}
    query = towers.query_embedding(**request)["embedding"]
    candidates = towers.candidate_embedding(tf.range(CATALOG, dtype=tf.int64))["embedding"]
    best = tf.math.top_k(tf.matmul(query, candidates, transpose_b=True), k=12).indices.numpy()
    label = queries.take(rows).labels.item_id
    hit = (best == label[:, None]).any(axis=1)
    return float(hit[label < KNOWN_ITEMS].mean()), float(hit[label >= KNOWN_ITEMS].mean())


@pytest.mark.long
def test_what_only_columns_tell_is_learnt_with_them(told: Transformed, tmp_path: Path) -> None:
    with_both = recalls(told, told.resolved, tmp_path / "both")
    users_alone = recalls(told, dataclasses.replace(told.resolved, items=()), tmp_path / "users")
    neither = recalls(told, ResolvedFeatures(), tmp_path / "neither")
    assert min(with_both) > 0.9, (with_both, users_alone, neither)
    # A user's class gives its known items; only the genre gives cold items.
    assert users_alone[0] > 0.4 and users_alone[1] < 0.2, (with_both, users_alone, neither)
    assert max(neither) < 0.2, (with_both, users_alone, neither)
