from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import schema_utils

from tests.listening_logs import catalog_of_ids, events_of
from tests.small_world import (
    CONFIG,
    HISTORY_LENGTH,
    SPLIT,
    Transformed,
    catalog_items,
    events,
    write_examples,
)
from two_tower.base.errors import UserError
from two_tower.base.settings import with_values
from two_tower.components.curated_schema import schemas
from two_tower.components.interaction_example_gen.splits import FrozenSplit, TimeSplit
from two_tower.components.interaction_example_gen.windows import WindowCutter
from two_tower.evaluation.baselines.popularity import Popularity
from two_tower.evaluation.label_events import LabelEvents
from two_tower.evaluation.metric_table import summarize
from two_tower.evaluation.metrics import hit_rate_at_k, hits_of
from two_tower.evaluation.queries import all_queries, excluded_items, history_batch, read_windows
from two_tower.schema import features
from two_tower.trainer.loop import training, validation_recall
from two_tower.trainer.loop.precision import computing_in, policy_of, scaled_for
from two_tower.trainer.loop.training import train
from two_tower.trainer.loop.training_loop import CURVES_FILE
from two_tower.trainer.loop.two_tower_model import TwoTowerModel
from two_tower.trainer.loop.validation_recall import ValidationRecall
from two_tower.trainer.loop.warm_start import CarriedOver
from two_tower.trainer.loss import resolved_settings
from two_tower.trainer.loss.resolved_settings import users_for
from two_tower.trainer.loss.sampling import Candidates, log_sampling_probability
from two_tower.trainer.model.catalog_table import CatalogArrays, CatalogTable
from two_tower.trainer.model.randomness import drawing
from two_tower.trainer.model.windows import Positions, Windows, windows_of
from two_tower.trainer.settings import DEFAULT_PARTS, Dropout, LabelWeights, TrainerConfig

pytestmark = pytest.mark.slow

# The checkerboard: 40 classes of 10 items, and users who hear only their own class. A model of that has a
# Recall@10 of one; chance and popularity have 1 / 40.
CLASSES, ITEMS_OF_A_CLASS, USERS, PLAYS = 40, 10, 120, 60
ITEMS = CLASSES * ITEMS_OF_A_CLASS
CHANCE = 1 / CLASSES
DOT_PRODUCT = tuple(part for part in DEFAULT_PARTS if part != "normalisation")
LEARNING = TrainerConfig(
    embedding_dim=16,
    query_hidden_units=(32,),
    temperature=0.1,
    learning_rate=0.02,
    epochs=4,
    windows_per_step=16,
    positions_per_step=256,
    dropout=Dropout(hidden=0.0, id=0.05, history=0.0),
)


@pytest.fixture(scope="module")
def checkerboard(tmp_path_factory: pytest.TempPathFactory) -> Transformed:
    draw = np.random.default_rng(6)
    user = np.repeat(np.arange(USERS), PLAYS)
    item = user % CLASSES + CLASSES * draw.integers(0, ITEMS_OF_A_CLASS, len(user))
    time = np.tile(1_000 * np.arange(PLAYS), USERS)
    log = events_of(user, item, time, b"listen", play_ratio=1.0)
    split = TimeSplit(train_end=44_000, eval=(45_000, 52_000), test=(53_000, 60_000))
    cutter = WindowCutter(split, repeats_recommendable=True, history_length=8, positions=15)
    return Transformed.of(tmp_path_factory.mktemp("checkerboard"), log, cutter, catalog_of_ids(ITEMS))


@pytest.fixture(scope="module")
def learnt(
    checkerboard: Transformed, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, float]]:
    """A training on the checkerboard: what it left, and what it says of itself."""
    place = tmp_path_factory.mktemp("learnt")
    model, logs, state = (str(place / name) for name in ("model", "logs", "state"))
    return place, train(checkerboard.training_data(8), LEARNING, model, logs, cutoff=10, state_dir=state)


def test_a_checkerboard_is_learnt_and_saved(
    checkerboard: Transformed, learnt: tuple[Path, dict[str, float]]
) -> None:
    place, result = learnt
    assert result["val_recall@10"] > 0.8

    test = checkerboard.raw["test"]
    queries = all_queries(test)
    rows = np.arange(len(queries))
    popular = Popularity(LabelEvents.of(checkerboard.raw["train"])).recommend(test, queries, rows, 10, False)
    assert hit_rate_at_k(hits_of(popular, queries.labels), 10).mean() < 3 * CHANCE

    towers = tf.saved_model.load(str(place / "model"))
    inputs = history_batch(test, queries, rows, 8)
    del inputs["exclude_item_id"]
    query = towers.query_embedding(**{name: tf.constant(value) for name, value in inputs.items()})[
        "embedding"
    ]
    items = towers.catalog()["item_id"]
    assert items.numpy().tolist() == list(range(ITEMS))
    candidates = towers.candidate_embedding(items)["embedding"]
    best = tf.math.top_k(tf.matmul(query, candidates, transpose_b=True), k=10).indices.numpy()
    assert hit_rate_at_k(hits_of(best, queries.labels), 10).mean() > 0.8
    assert list((place / "logs").rglob("events.out.tfevents*"))


def test_where_all_users_are_new_the_user_id_stays_out_of_the_model(
    checkerboard: Transformed, learnt: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    """Asks for users of train: by data of returning users their answers differ."""
    new = dataclasses.replace(checkerboard.training_data(8), users_are_new=True)
    train(new, dataclasses.replace(LEARNING, epochs=1), str(tmp_path / "model"), str(tmp_path / "logs"))

    def apart(model: Path) -> float:
        towers = tf.saved_model.load(str(model))
        query = towers.query_embedding(
            user_id=tf.constant([0, 1], tf.int64),
            history_item_id=tf.constant([[5, 3], [5, 3]], tf.int64),
            history_timestamp=tf.constant([[0, 1_000], [0, 1_000]], tf.int64),
        )["embedding"]
        return float(tf.reduce_max(tf.abs(query[0] - query[1])))

    assert apart(tmp_path / "model") == 0
    assert apart(learnt[0] / "model") > 1e-3


def test_the_user_id_is_left_out_unless_nothing_else_tells_queries_apart() -> None:
    alone = TrainerConfig(parts=("user_id", "shared_tables"))
    assert users_for(TrainerConfig(), users_are_new=False).parts == DEFAULT_PARTS
    kept = tuple(part for part in DEFAULT_PARTS if part != "user_id")
    assert users_for(TrainerConfig(), users_are_new=True).parts == kept
    assert users_for(alone, users_are_new=True, has_columns=True).parts == ("shared_tables",)
    with pytest.raises(UserError, match=r"user_id as the query tower's only input.*trainer\.parts=\+history"):
        users_for(alone, users_are_new=True)


def test_training_that_begins_from_an_earlier_model_is_at_once_where_that_one_ended(
    checkerboard: Transformed, learnt: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    place, before = learnt
    config = dataclasses.replace(LEARNING, learning_rate=LEARNING.learning_rate / 10, epochs=1)
    result = train(
        checkerboard.training_data(8), config, None, str(tmp_path / "logs"), warm_start=str(place / "state")
    )
    first_epoch = json.loads((place / "logs" / CURVES_FILE).read_text())["epochs"][0]
    assert result["val_recall@10"] > first_epoch["val_recall@10"] + 0.05
    assert result["val_recall@10"] > before["val_recall@10"] - 0.05
    assert result["warm_rows_item"] == result["rows_item"] == ITEMS
    assert result["warm_start_afresh"] == 0


def test_a_warm_start_goes_by_what_is_asked_for_and_not_by_what_the_data_settles(
    checkerboard: Transformed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks that a day's new windows do not reset streaming frequency estimation."""
    asked: list[TrainerConfig] = []

    def carried_over(
        directory: str, model: Any, rows: Any, config: TrainerConfig, resolved: Any
    ) -> CarriedOver:
        asked.append(config)
        return CarriedOver({}, ())

    def saved(directory: str, model: Any, rows: Any, config: TrainerConfig, resolved: Any) -> None:
        asked.append(config)

    monkeypatch.setattr(training, "carry_over", carried_over)
    monkeypatch.setattr(training, "save_state", saved)
    config = dataclasses.replace(LEARNING, windows_per_step=0, epochs=1)
    train(checkerboard.training_data(8), config, None, str(tmp_path), warm_start="before", state_dir="now")
    assert asked == [config, config]


def test_nothing_is_learnt_at_a_learning_rate_of_zero(checkerboard: Transformed, tmp_path: Path) -> None:
    config = dataclasses.replace(LEARNING, learning_rate=0.0, epochs=1)
    result = train(checkerboard.training_data(8), config, None, str(tmp_path))
    assert result["val_recall@10"] < 3 * CHANCE


def test_half_precision_learns_the_checkerboard_too_and_serves_full_precision(
    checkerboard: Transformed, learnt: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    result = train(
        checkerboard.training_data(8),
        LEARNING,
        str(tmp_path / "model"),
        str(tmp_path / "logs"),
        cutoff=10,
        precision="mixed_bfloat16",
    )
    assert result["val_recall@10"] > 0.8
    assert result["loss"] != learnt[1]["loss"] and result["parameters"] == learnt[1]["parameters"]
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    towers = tf.saved_model.load(str(tmp_path / "model"))
    for name, served in towers.signatures.items():
        assert "DT_BFLOAT16" not in str(served.graph.as_graph_def()), name
    embeddings = towers.candidate_embedding(tf.range(3, dtype=tf.int64))["embedding"]
    assert embeddings.dtype == tf.float32
    # Length one beyond half precision.
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "settings",
    [
        {"parts": (*DEFAULT_PARTS, "repeat_head", "item_bias")},
        {"encoder": "attention+mean", "softmax": "full", "parts": (*DEFAULT_PARTS, "repeat_head")},
        {"negatives.deduplicate": True, "parts": DOT_PRODUCT, "repeats_recommendable": False},
    ],
)
def test_every_part_of_a_step_takes_half_precision(
    small_world: Transformed, settings: dict[str, Any], policy: str
) -> None:
    batch = small_world.batch("train")
    tf.keras.utils.set_random_seed(1)
    expected = float(small(small_world, **settings).model.compute_loss(batch))
    tf.keras.utils.set_random_seed(1)
    with computing_in(policy):
        model = small(small_world, **settings).model
        with tf.GradientTape() as tape:
            loss = model.compute_loss(batch)
        gradients = tape.gradient(loss, model.trainable_variables)
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(expected, rel=0.02) and float(loss) != expected
    assert all(np.isfinite(tf.convert_to_tensor(one)).all() for one in gradients if one is not None)


def test_half_precision_is_for_hardware_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    here = tf.distribute.get_strategy()

    def policy(setting: str, capabilities: list[tuple[int, int]]) -> str:
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: capabilities)
        monkeypatch.setattr(
            tf.config.experimental, "get_device_details", lambda one: {"compute_capability": one}
        )
        return policy_of(setting, here)

    assert policy("auto", []) == "float32"
    assert policy("auto", [(7, 0), (8, 6)]) == "mixed_float16"
    assert policy("auto", [(6, 1), (8, 6)]) == "float32"
    assert policy("mixed_bfloat16", []) == "mixed_bfloat16"
    optimizer = tf.keras.optimizers.Adam()
    assert isinstance(scaled_for("mixed_float16", optimizer), tf.keras.mixed_precision.LossScaleOptimizer)
    assert scaled_for("mixed_bfloat16", optimizer) is optimizer


def test_a_loss_that_is_not_a_number_stops_training_with_the_setting_to_change(
    checkerboard: Transformed, tmp_path: Path
) -> None:
    config = dataclasses.replace(LEARNING, learning_rate=1e30)
    with pytest.raises(UserError, match=r"the loss is .*trainer\.learning_rate"):
        train(checkerboard.training_data(8), config, str(tmp_path / "model"), str(tmp_path / "logs"))
    assert not (tmp_path / "model").exists()


# The loss over a batch of windows.


@dataclasses.dataclass(frozen=True)
class Small:
    """Untrained towers over the small world, and what they are made of."""

    model: TwoTowerModel
    table: CatalogTable
    log_q: np.ndarray


def small(
    world: Transformed,
    user_weight: np.ndarray | None = None,
    repeats_recommendable: bool = True,
    **changes: Any,
) -> Small:
    output = tft.TFTransformOutput(world.graph)
    catalog_output = tft.TFTransformOutput(world.catalog_graph)
    catalog = CatalogArrays.read(world.catalog_files, catalog_output.transformed_feature_spec())
    train_items = np.array([int(item) for item in output.vocabulary_by_name(features.ITEM_VOCABULARY)])
    table = CatalogTable(catalog, train_items)
    log_q = log_sampling_probability(catalog, training._label_counts(output))
    users = output.vocabulary_size_by_name(features.USER_VOCABULARY)
    config = with_values(CONFIG, {"positions_per_step": 10_000, **changes})
    model = TwoTowerModel(
        table,
        log_q,
        users,
        HISTORY_LENGTH,
        config,
        user_weight=user_weight,
        repeats_recommendable=repeats_recommendable,
    )
    return Small(model, table, log_q)


def test_the_loss_of_a_batch_is_that_of_its_labelled_positions(small_world: Transformed) -> None:
    """Checks weights by the play ratios of labels, not of seed items."""
    built = small(small_world)
    batch = small_world.batch("train")
    raw, queries = small_world.raw["train"], all_queries(small_world.raw["train"])
    loss = float(built.model.compute_loss(batch))

    at = Positions(tf.constant(queries.window, tf.int32), tf.constant(queries.position, tf.int32))
    windows = windows_of(batch, built.table, HISTORY_LENGTH)
    query = built.model.query_tower(windows, at).numpy().astype(np.float64)
    rows = built.table.rows_of(tf.constant(queries.label_item_id)).numpy()
    candidates = built.model.candidate_tower(tf.constant(rows)).numpy().astype(np.float64)
    logits = query @ candidates.T / CONFIG.temperature - built.log_q[rows]
    no_negative = (rows[:, None] == rows) | (queries.window[:, None] == queries.window)
    np.fill_diagonal(no_negative, False)
    logits[no_negative] = -np.inf
    positive = np.diag(logits)
    highest = logits.max(axis=1)
    losses = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1)) - positive
    ratio = raw.play_ratio[queries.label_event]
    floor = CONFIG.label_weights.play_ratio_floor
    weight = np.where(ratio < 0, 1, floor + (1 - floor) * np.minimum(ratio, 1))
    assert {-1, 0, 0.5, 1.25} == set(ratio.tolist())
    assert loss == pytest.approx((weight * losses).sum() / weight.sum(), rel=1e-4)


def without_repeats(world: Transformed, split: str, out: Path) -> tuple[Any, dict[str, Any]]:
    """Returns the small world's windows without repeated labels, raw and transformed."""
    batch = WindowCutter(SPLIT, False, HISTORY_LENGTH, 10).cut(events())[0][split]
    file = write_examples(out / "data_tfrecord-0.gz", [batch])
    proto = text_format.Parse(schemas.read("interactions", ()), schema_pb2.Schema())
    spec = schema_utils.schema_as_feature_spec(proto).feature_spec
    serialized = tf.stack(list(tf.data.TFRecordDataset(file, "GZIP")))
    transform = tft.TFTransformOutput(world.graph).transform_features_layer()
    return read_windows(file), transform(tf.io.parse_example(serialized, spec))


@pytest.mark.parametrize("softmax", ["sampled", "full"])
def test_what_a_user_has_had_is_no_negative_where_it_is_not_recommended_again(
    small_world: Transformed, tmp_path: Path, softmax: str
) -> None:
    raw, batch = without_repeats(small_world, "train", tmp_path)
    queries = all_queries(raw)
    asked: dict[str, Any] = {"softmax": softmax, "label_weights.play_ratio_floor": 1.0}
    built = small(small_world, repeats_recommendable=False, **asked)
    loss = float(built.model.compute_loss(batch))
    repeating = small(small_world, **asked)
    repeating.model.compute_loss(batch)
    assert loss < float(with_the_towers_of(repeating, built).compute_loss(batch)) - 0.01

    at = Positions(tf.constant(queries.window, tf.int32), tf.constant(queries.position, tf.int32))
    windows = windows_of(batch, built.table, HISTORY_LENGTH)
    query = built.model.query_tower(windows, at).numpy().astype(np.float64)
    rows = built.table.rows_of(tf.constant(queries.label_item_id)).numpy()
    candidates = rows if softmax == "sampled" else np.arange(built.table.size)
    embeddings = built.model.candidate_tower(tf.constant(candidates)).numpy().astype(np.float64)
    logits = query @ embeddings.T / CONFIG.temperature
    positive = np.take_along_axis(logits, rows[:, np.newaxis], axis=1)[:, 0]
    if softmax == "sampled":
        logits -= built.log_q[rows]
        positive = np.diag(logits).copy()
        logits[queries.window[:, np.newaxis] == queries.window] = -np.inf
    logits[rows[:, np.newaxis] == candidates] = -np.inf
    for own, window, position in zip(logits, queries.window, queries.position, strict=True):
        own[np.isin(candidates, windows.rows[window, : position + 1])] = -np.inf
    highest = np.maximum(logits.max(axis=1), positive)
    total = np.exp(logits - highest[:, np.newaxis]).sum(axis=1) + np.exp(positive - highest)
    assert loss == pytest.approx(np.mean(highest + np.log(total) - positive), rel=1e-4)


def with_the_towers_of(built: Small, other: Small) -> TwoTowerModel:
    for mine, theirs in (
        (built.model.query_tower, other.model.query_tower),
        (built.model.candidate_tower, other.model.candidate_tower),
    ):
        mine.set_weights(theirs.get_weights())
    return built.model


STREAMING: dict[str, Any] = {"negatives.deduplicate": True, "frequency.estimate": "streaming"}
FAST = STREAMING | {"frequency.rate": 0.5}


@pytest.mark.parametrize(
    ("settings", "than"),
    [
        ({"frequency.correction": "none"}, {}),
        ({"frequency.correction": "refined"}, {}),
        ({"negatives.hard": 5}, {}),
        ({"negatives.deduplicate": True}, {}),
        ({"negatives.uniform": 50}, {}),
        ({"negatives.memory": 50}, {}),
        ({"softmax": "full"}, {}),
        ({"label_weights.like": 0.0}, {}),
        (STREAMING, {"negatives.deduplicate": True}),
        (FAST, STREAMING),
    ],
)
def test_a_setting_of_the_loss_changes_it(
    small_world: Transformed, settings: dict[str, Any], than: dict[str, Any]
) -> None:
    batch = small_world.batch("train")
    losses = []
    first: Small | None = None
    for changes in (than, settings):
        built = small(small_world, **changes)
        for begin in (40, 45, 40):
            # In training, since memory and frequencies are of earlier steps; of a few windows, so that not
            # every item is in all of them.
            some = {name: values[begin : begin + 5] for name, values in batch.items()}
            built.model.compute_loss(some, training=True)
        first = first or built
        losses.append(float(with_the_towers_of(built, first).compute_loss(batch)))
    assert all(map(math.isfinite, losses))
    assert losses[0] != pytest.approx(losses[1], abs=1e-5)


def test_a_small_catalogs_softmax_is_full_where_settings_leave_it_open(small_world: Transformed) -> None:
    inputs = training._Inputs.read(small_world.training_data(8), dataclasses.replace(CONFIG, softmax="auto"))
    batch = small_world.batch("train")
    model = inputs.model()
    candidates = model._sampler.candidates(tf.constant([1, 2]), tf.constant([0, 1]))
    assert isinstance(candidates, Candidates) and len(candidates.rows) == inputs.table.size
    assert np.isfinite(float(model.compute_loss(batch)))


def test_the_labels_of_a_step_count_where_the_softmax_is_left_open(
    small_world: Transformed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settled(**settings: Any) -> str:
        config = dataclasses.replace(CONFIG, softmax="auto", **settings)
        return training._Inputs.read(small_world.training_data(8), config).config.softmax

    items = training._Inputs.read(small_world.training_data(8), CONFIG).table.size
    monkeypatch.setattr(resolved_settings, "_MOST_SCORES", 10 * items)
    assert settled(windows_per_step=50, positions_per_step=10) == "full"
    assert settled(windows_per_step=50, positions_per_step=11) == "sampled"
    # A step's windows may hold fewer labels than positions_per_step.
    monkeypatch.setattr(resolved_settings, "_MOST_SCORES", 200 * items)
    assert settled(windows_per_step=1, positions_per_step=100_000) == "full"
    assert settled(windows_per_step=100, positions_per_step=100_000) == "sampled"


def test_items_begin_at_factors_of_co_occurrence_if_that_is_asked_for(
    checkerboard: Transformed,
    learnt: tuple[Path, dict[str, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = dataclasses.replace(LEARNING, learning_rate=0.002, epochs=1, item_initial="co_occurrence")
    inputs = training._Inputs.read(checkerboard.training_data(8), config)
    first = inputs.initial_embeddings()
    assert first is not None and first[1:].any(axis=1).all()
    np.testing.assert_array_equal(inputs.model(first)._items.item.numpy(), first)
    at_random = dataclasses.replace(config, item_initial="random")
    assert training._Inputs.read(checkerboard.training_data(8), at_random).initial_embeddings() is None

    def recall(config: TrainerConfig) -> float:
        return train(checkerboard.training_data(8), config, None, str(tmp_path), cutoff=10)["val_recall@10"]

    assert recall(config) > 2 * recall(at_random)

    def not_needed(*_: Any) -> None:
        raise AssertionError("the earlier model says where items are")

    monkeypatch.setattr(training, "co_occurrence_embeddings", not_needed)
    place, before = learnt
    state = str(place / "state")
    goes_on = train(checkerboard.training_data(8), config, None, str(tmp_path), cutoff=10, warm_start=state)
    assert goes_on["val_recall@10"] > 0.9 * before["val_recall@10"]


def test_the_windows_of_a_step_follow_from_the_data_where_settings_leave_them_open(
    small_world: Transformed,
) -> None:
    inputs = training._Inputs.read(
        small_world.training_data(8), dataclasses.replace(CONFIG, windows_per_step=0)
    )
    assert inputs.windows == len(small_world.batch("train")[features.USER])
    batch = next(iter(inputs.epoch(0, 0, tf.distribute.InputContext())))
    assert len(batch[features.USER]) == inputs.config.windows_per_step == 8 < inputs.windows


def test_labels_further_on_are_trained_and_the_next_is_asked_for(small_world: Transformed) -> None:
    batch = small_world.batch("train")
    first, further = small(small_world), small(small_world, label_horizon=50)
    for built in (first, further):
        built.model.compute_loss(batch)

    def loss(model: TwoTowerModel, training: bool) -> float:
        with drawing(3, tf.constant(0, tf.int64)):
            return float(model.compute_loss(batch, training=training))

    same = with_the_towers_of(further, first)
    assert loss(same, training=False) == pytest.approx(loss(first.model, training=False), rel=1e-5)
    assert loss(same, training=True) != pytest.approx(loss(first.model, training=True), abs=1e-4)


MANY_HARD: dict[str, Any] = {"negatives.hard": 100_000}


def test_the_own_loss_and_tfrss_are_one_where_both_serve(small_world: Transformed) -> None:
    """Compares the tasks: more hard negatives than candidates select ours, with the same loss."""
    batch = small_world.batch("train")
    tfrss, own = small(small_world), small(small_world, **MANY_HARD)
    assert type(tfrss.model.task) is not type(own.model.task)
    for built in (tfrss, own):
        built.model.compute_loss(batch)
    own_loss = float(with_the_towers_of(own, tfrss).compute_loss(batch))
    assert own_loss == pytest.approx(float(tfrss.model.compute_loss(batch)), rel=1e-5)


def test_the_most_active_users_count_as_much_as_the_cap_lets_them(small_world: Transformed) -> None:
    """Compares the loss with the weighted sum of the losses of each user alone."""
    batch = small_world.batch("train")
    users = small_world.batch("train")[features.USER].numpy().max() + 1
    labels = training._labels_by_user([batch], users)
    raw = small_world.raw["train"]
    assert labels.sum() == len(all_queries(raw)) and labels[-1] == 0 and (labels[:-1] > 0).all()
    plain = small(small_world)
    alone = []
    for user in range(users):
        built = small(small_world, user_weight=np.eye(users + 1, dtype=np.float32)[user])
        built.model.compute_loss(batch)
        alone.append(float(with_the_towers_of(built, plain if user else built).compute_loss(batch)))
        plain = plain if user else built
    weight = np.arange(users + 1, dtype=np.float32)
    weighted = small(small_world, user_weight=weight)
    weighted.model.compute_loss(batch)
    assert float(with_the_towers_of(weighted, plain).compute_loss(batch)) == pytest.approx(
        float(np.dot(weight[:-1], alone)), rel=1e-4
    )


def test_a_step_remembers_and_counts_its_labels_and_checkpoints_hold_both(
    small_world: Transformed, tmp_path: Path
) -> None:
    batch = small_world.batch("train")
    settings = STREAMING | {"negatives.memory": 3_000}
    built = small(small_world, **settings)
    labels = built.table.rows_of(tf.constant(all_queries(small_world.raw["train"]).label_item_id)).numpy()
    labels = np.sort(labels[labels < built.table.size])
    built.model.compile(optimizer=tf.keras.optimizers.Adam(0.01))
    built.model.fit(tf.data.Dataset.from_tensors(batch), epochs=2, verbose=0)
    state: Any = built.model._sampler
    assert np.sort(state._memory.rows[: 2 * len(labels)]).tolist() == np.repeat(labels, 2).tolist()
    assert int(state._frequency.step) == 2
    built.model.compute_loss(batch)
    assert int(state._frequency.step) == 2, "counted outside of training"

    path = tf.train.Checkpoint(model=built.model).save(str(tmp_path / "checkpoint"))
    again = small(small_world, **settings)
    tf.train.Checkpoint(model=again.model).restore(path)
    for one in (built, again):
        one.model.compute_loss(batch)
    assert float(again.model.compute_loss(batch)) == pytest.approx(float(built.model.compute_loss(batch)))
    assert again.model._sampler._memory.rows.numpy().tolist() == state._memory.rows.numpy().tolist()
    # Keras restores the weights of the best epoch in this way.
    weights = built.model.get_weights()
    built.model.compute_loss(batch, training=True)
    built.model.set_weights(weights)
    assert int(state._frequency.step) == 2


def weighing(**reactions: float) -> TrainerConfig:
    return TrainerConfig(label_weights=LabelWeights(reactions=tuple(reactions.items())))


def test_weights_of_an_event_type_that_train_does_not_have_are_an_error(small_world: Transformed) -> None:
    batches = tf.data.Dataset.from_tensors(small_world.batch("train"))
    training._check_event_types(batches, weighing(like=2.0))
    with pytest.raises(UserError, match=r"label_weights names 'lik'.*no event of train"):
        training._check_event_types(batches, weighing(like=2.0, lik=2.0))
    with pytest.raises(UserError, match=r"names 'listen', which every label is"):
        training._check_event_types(batches, weighing(like=2.0, listen=2.0))


# Recall while training.


def stub(candidates: np.ndarray, query: np.ndarray) -> Any:
    """Makes towers that answer every query with one embedding."""

    def query_tower(windows: Windows, at: Positions) -> tf.Tensor:
        return tf.tile(tf.constant(query[None], tf.float32), [tf.size(at.window), 1])

    query_tower.repeats = None  # type: ignore[attr-defined]
    return SimpleNamespace(
        candidate_tower=lambda rows: tf.gather(tf.constant(candidates, tf.float32), rows),
        query_tower=query_tower,
    )


@pytest.mark.parametrize("repeats", [True, False])
def test_validation_ranks_labels_among_the_whole_catalog(small_world: Transformed, repeats: bool) -> None:
    batches = tf.data.Dataset.from_tensors(small_world.batch("eval"))
    table = small(small_world).table
    validation = ValidationRecall(batches, table, small_world.training_data(repeats=repeats), seed=1)
    order = np.random.default_rng(2).permutation(70)  # item i is recommended at place order[i]
    validation.model = stub(-order[:, None].astype(float), np.ones(1))
    raw, queries = small_world.raw["eval"], all_queries(small_world.raw["eval"])
    expected: list[float | None] = []
    for window, event, label in zip(queries.window, queries.event, queries.label_item_id, strict=True):
        had = set() if repeats else set(raw.item_id[raw.offsets[window] : event + 1]) - {label}
        if label >= 70:
            expected.append(math.inf)
        elif repeats or label not in raw.item_id[raw.offsets[window] : event + 1]:
            expected.append(sum(order[item] < order[label] for item in set(range(70)) - had))
        else:
            expected.append(None)  # no query of data whose repeats are not recommended
    pairs = [(a, b) for a, b in zip(validation.ranks().tolist(), expected, strict=True) if b is not None]
    assert len(pairs) > 50 and all(a == b for a, b in pairs)


def test_validation_asks_for_now_as_serving_does(small_world: Transformed) -> None:
    """Checks splits that do not follow time: examples may be older than train's newest."""
    batch = small_world.batch("eval")
    older = batch[features.EXAMPLE_AGE].with_flat_values(
        tf.fill([len(batch[features.EXAMPLE_AGE].flat_values)], 9.0)
    )
    built, ranks = small(small_world), []
    for age in (batch[features.EXAMPLE_AGE], older):
        batches = tf.data.Dataset.from_tensors(batch | {features.EXAMPLE_AGE: age})
        validation = ValidationRecall(batches, built.table, small_world.training_data(8), seed=1)
        validation.model = built.model
        ranks.append(validation.ranks().tolist())
    assert ranks[0] == ranks[1]


@pytest.fixture(scope="module")
def frozen_world(tmp_path_factory: pytest.TempPathFactory) -> Transformed:
    split = FrozenSplit(SPLIT, gap_seconds=3_600, min_play_ratio=0.25)
    cutter = WindowCutter(split, True, HISTORY_LENGTH, 10)
    return Transformed.of(tmp_path_factory.mktemp("frozen"), events(), cutter, catalog_items())


@pytest.mark.parametrize("at_once", [64_000_000, 150])
@pytest.mark.parametrize("cutoff", [3, 10, 40, 100])
def test_validation_recall_of_sets_of_labels_is_what_a_plain_loop_says(
    frozen_world: Transformed, cutoff: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation_recall, "_SCORES_AT_ONCE", at_once)  # 150: two queries
    monkeypatch.setattr(validation_recall, "_LEAST_COLD_QUERIES", 1)
    batches = tf.data.Dataset.from_tensors(frozen_world.batch("eval"))
    data = frozen_world.training_data()
    validation = ValidationRecall(batches, small(frozen_world).table, data, seed=1, cutoff=cutoff)
    # Ten items share each score: the label ranks last among equals.
    scores = np.random.default_rng(3).permutation(70) // 10
    validation.model = stub(scores[:, None].astype(float), np.ones(1))
    logs: dict[str, float] = {}
    validation.on_epoch_end(0, logs)

    queries, known = all_queries(frozen_world.raw["eval"]), set(frozen_world.raw["train"].item_id.tolist())
    assert queries.labels.counts.max() > 3
    assert (queries.label_item_id >= 70).any()  # in no catalog, and yet a label
    expected: dict[str, list[float]] = defaultdict(list)
    for row in range(len(queries)):
        labels = queries.take([row]).label_item_id.tolist()
        ranks = {
            label: sum(scores[item] >= scores[label] for item in set(range(70)) - {label})
            for label in labels
            if label < 70
        }
        for k in {10, cutoff}:
            hits = {label for label, rank in ranks.items() if rank < k}
            expected[f"val_recall@{k}"].append(len(hits) / len(labels))
            if cold := set(labels) - known:
                expected[f"val_cold_recall@{k}"].append(len(hits & cold) / len(cold))
        ideal = sum(1 / math.log2(2 + place) for place in range(min(10, len(labels))))
        gain = sum(1 / math.log2(2 + rank) for rank in ranks.values() if rank < 10)
        expected["val_ndcg@10"].append(gain / ideal)
    cold_queries = len(expected["val_cold_recall@10"])
    assert logs.pop("val_cold_queries") == cold_queries < len(queries)
    assert logs == pytest.approx({name: np.mean(found) for name, found in expected.items()})
    # In a catalog of 70 items every Recall@100 is one.
    assert validation.monitor == ("val_recall@10" if cutoff == 100 else f"val_recall@{cutoff}")
    logs.clear()
    monkeypatch.setattr(validation_recall, "_LEAST_COLD_QUERIES", cold_queries + 1)
    validation.on_epoch_end(0, logs)
    assert not any(name.startswith("val_cold") for name in logs)


def test_a_frozen_query_is_the_window_read_at_its_last_listen_at_the_split_s_start(
    frozen_world: Transformed,
) -> None:
    """Compares validation with the served model: same position, same visible events."""
    built = small(frozen_world)
    raw = frozen_world.raw["eval"]
    queries = all_queries(raw)
    assert (queries.position == raw.lengths[queries.window] - 1).all()
    assert set(queries.request_timestamp.tolist()) == {SPLIT.eval[0]}
    data = frozen_world.training_data()
    batches = tf.data.Dataset.from_tensors(frozen_world.batch("eval"))
    validation = ValidationRecall(batches, built.table, data, seed=1)
    ((windows, at),) = validation._seen
    order = validation._order
    assert windows.user.numpy().tolist() == frozen_world.batch("eval")["user"].numpy()[order, 0].tolist()
    assert at.event.numpy().tolist() == queries.position[order].tolist()
    assert validation._counts.tolist() == queries.labels.counts.tolist()
    served = history_batch(raw, queries, order, HISTORY_LENGTH)["history_item_id"]
    rows = np.where(served >= 0, built.table.rows_of(tf.constant(served)), built.table.size)
    assert windows.rows.numpy().tolist() == rows[:, : windows.rows.shape[1]].tolist()


def test_validation_recall_is_the_evaluator_s_where_items_are_not_recommended_twice(
    small_world: Transformed, tmp_path: Path
) -> None:
    """Compares both on packed windows: they exclude what the user had, before the window too."""
    raw, transformed = without_repeats(small_world, "eval", tmp_path)
    queries = all_queries(raw)
    assert len(raw.seen_item_id) > 100 and (queries.position >= HISTORY_LENGTH).any()
    built = small(small_world)
    at = Positions(tf.constant(queries.window, tf.int32), tf.constant(queries.position, tf.int32))
    query = built.model.query_tower(windows_of(transformed, built.table, HISTORY_LENGTH), at).numpy()
    scores = query @ built.model.candidate_tower(tf.range(70)).numpy().T
    for row, items in enumerate(excluded_items(raw, queries)):
        scores[row, items[(items >= 0) & (items < 70)]] = -np.inf
    recommended = np.argsort(-scores, kind="stable", axis=1)
    summary = summarize(recommended, queries.labels, queries.user_id, [10, 20], 70)

    batches = tf.data.Dataset.from_tensors(transformed)
    data = small_world.training_data(repeats=False)
    validation = ValidationRecall(batches, built.table, data, seed=1, cutoff=20)
    validation.model = built.model
    logs: dict[str, float] = {}
    validation.on_epoch_end(0, logs)
    for name in ("recall@10", "recall@20", "ndcg@10"):
        assert logs[f"val_{name}"] == pytest.approx(summary[name], abs=1e-9)


@pytest.mark.parametrize("value", [1.0, math.nan])
def test_embeddings_that_are_all_the_same_or_no_numbers_recall_nothing(
    small_world: Transformed, value: float
) -> None:
    batches = tf.data.Dataset.from_tensors(small_world.batch("eval"))
    validation = ValidationRecall(batches, small(small_world).table, small_world.training_data(8), seed=1)
    validation.model = stub(np.full([70, 1], value), np.ones(1))
    logs: dict[str, float] = {}
    validation.on_epoch_end(0, logs)
    assert logs["val_recall@10"] == 0
