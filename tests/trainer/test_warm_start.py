"""Warm start from an earlier training, with smaller vocabularies in another order."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from tfx.types import artifact_utils, standard_artifacts

from tests.small_world import CONFIG, HISTORY_LENGTH, SPLIT, Transformed, catalog_items
from two_tower.base import pointers
from two_tower.base.errors import UserError
from two_tower.base.pointers import Pointer
from two_tower.base.settings import to_plain
from two_tower.components.auto_settings import settled
from two_tower.components.interaction_example_gen.facts import write_facts
from two_tower.components.trainer.executor import WARM_START, Executor, starting_point
from two_tower.data_directory.facts import DataFacts
from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.schema import features
from two_tower.serving.provenance import PROVENANCE, TOWERS, recorded
from two_tower.trainer.loop import training, warm_start
from two_tower.trainer.loop.training import _user_vocabularies
from two_tower.trainer.loop.two_tower_model import TwoTowerModel
from two_tower.trainer.loop.warm_start import CarriedOver, RowNames, carry_over, row_names, save
from two_tower.trainer.model.catalog_table import CatalogArrays, CatalogTable
from two_tower.trainer.model.windows import Positions, windows_of
from two_tower.trainer.settings import DEFAULT_PARTS, Frequency, Negatives, TrainerConfig

pytestmark = pytest.mark.slow

# An item of train that the earlier model lacks. Only item 48 has album 16.
NEW_ITEMS = (3, 20, 48)
NEW_USERS = 2
ATTENTION = dataclasses.replace(
    CONFIG,
    encoder="attention+mean",
    parts=(*DEFAULT_PARTS, "item_bias", "repeat_head"),
    negatives=Negatives(memory=50, deduplicate=True),
    frequency=Frequency(estimate="streaming"),
)


@dataclasses.dataclass(frozen=True)
class Made:
    """A model, and what it is made of; `arrays` with `rows` say what its tables' rows stand for."""

    model: TwoTowerModel
    arrays: CatalogArrays
    table: CatalogTable
    rows: RowNames
    config: TrainerConfig

    def candidates(self, item_id: np.ndarray) -> np.ndarray:
        return self.model.candidate_tower(self.table.rows_of(tf.constant(item_id))).numpy()

    def variables(self) -> dict[str, np.ndarray]:
        return {name: weight.variable.numpy() for name, weight in warm_start._weights(self.model).items()}


class World:
    """The small world, of which models of today know all, and earlier ones less, in another order."""

    def __init__(self, transformed: Transformed) -> None:
        self.resolved = transformed.resolved
        output = tft.TFTransformOutput(transformed.graph)
        catalog_output = tft.TFTransformOutput(transformed.catalog_graph)
        self.catalog = CatalogArrays.read(
            transformed.catalog_files, catalog_output.transformed_feature_spec()
        )
        self.train_items = np.array(
            [int(item) for item in output.vocabulary_by_name(features.ITEM_VOCABULARY)]
        )
        user_values = _user_vocabularies(output, transformed.resolved)
        self.rows = row_names(self.catalog, self.train_items, output, catalog_output, user_values)
        self.batch, self.raw = transformed.batch("train"), transformed.raw["train"]

    def today(self, config: TrainerConfig = CONFIG) -> Made:
        return self._made(config, self.catalog, self.rows, self.batch)

    def earlier(self, config: TrainerConfig = CONFIG) -> Made:
        """Makes a model with weights that no initialisation gives."""
        known = ~np.isin(self.catalog.item_id, NEW_ITEMS)
        # Ids of artists and albums are indices of a vocabulary, whose order may change; 1,000 is enough.
        back = np.append(np.arange(1_000)[::-1], -1)
        arrays = dataclasses.replace(
            self.catalog,
            item_id=self.catalog.item_id[known],
            artist=back[self.catalog.artist[known]].astype(np.int32),
            album=back[self.catalog.album[known]].astype(np.int32),
            length=self.catalog.length[known],
        )
        trained = np.isin(arrays.item_id, self.train_items)
        rows = dict(self.rows)
        rows["item"] = np.append(-1, arrays.item_id[trained])
        for name in ("artist", "album"):
            touched = np.unique(getattr(arrays, name)[trained])
            place_today = 999 - touched[touched >= 0]
            of_today = getattr(self.catalog, name)[np.isin(self.catalog.item_id, self.train_items)]
            today = np.unique(of_today[of_today >= 0])
            rows[name] = np.append(-1, self.rows[name][1:][np.searchsorted(today, place_today)])
        users = self.rows["user"][:-1]
        rows["user"] = np.append(users[NEW_USERS:][::-1], -1)
        made = self._made(config, arrays, rows, self.as_before(rows))
        draw = np.random.default_rng(5)
        for weight in warm_start._weights(made.model).values():
            values = draw.normal(0, 0.3, weight.variable.shape)
            weight.variable.assign(values)
        return made

    def as_before(self, rows: RowNames) -> dict[str, Any]:
        """Returns train's windows with the users' rows of an earlier model."""
        row_of = {name: row for row, name in enumerate(rows["user"].tolist())}
        user = [[row_of.get(user, row_of[-1])] for user in self.raw.user_id.tolist()]
        return {**self.batch, features.USER: tf.constant(user, tf.int64)}

    def _made(
        self, config: TrainerConfig, arrays: CatalogArrays, rows: RowNames, batch: dict[str, Any]
    ) -> Made:
        tf.keras.utils.set_random_seed(3)
        table = CatalogTable(arrays, self.train_items)
        log_q = np.full(table.size + 1, -3.0, np.float32)
        model = TwoTowerModel(table, log_q, len(rows["user"]) - 1, HISTORY_LENGTH, config)
        model.compute_loss({name: values[:8] for name, values in batch.items()}, training=True)
        return Made(model, arrays, table, rows, config)

    def queries(self, made: Made, batch: dict[str, Any]) -> np.ndarray:
        windows = windows_of(batch, made.table, HISTORY_LENGTH)
        at = Positions(tf.range(len(self.raw)), windows.length - 1)
        return made.model.query_tower(windows, at).numpy()


@pytest.fixture(scope="module")
def world(small_world: Transformed) -> World:
    return World(small_world)


@pytest.fixture(scope="module")
def attention(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Made, str, CarriedOver]:
    """An earlier model, one that began from it, where the one's state is, and what the other took of it."""
    earlier, state = world.earlier(ATTENTION), str(tmp_path_factory.mktemp("earlier") / "state")
    save(state, earlier.model, earlier.rows, ATTENTION, world.resolved)
    today = world.today(ATTENTION)
    return earlier, today, state, carry_over(state, today.model, today.rows, ATTENTION, world.resolved)


def test_rows_of_tables_stand_for_ids_of_the_data(world: World) -> None:
    """Checks row names against the ids in the catalog and the windows."""
    made, items = world.today(), catalog_items()
    vocabulary_rows = made.table.item.numpy()
    for row, item in enumerate(world.catalog.item_id):
        name = world.rows["item"][vocabulary_rows[row]]
        assert name == (item if item in world.train_items else -1)
        for column in ("artist", "album"):
            names = {int(world.rows[column][r]) for r in getattr(made.table, column).numpy()[row] if r >= 0}
            assert names - {-1} <= set(items[f"{column}_id"][item])
            if item in world.train_items:
                assert names == (set(items[f"{column}_id"][item]) or {-1})
    assert world.rows["user"][world.batch[features.USER][:, 0]].tolist() == world.raw.user_id.tolist()
    assert world.rows["user"][-1] == -1


def test_known_items_and_users_are_embedded_as_before_wherever_their_rows_are(
    world: World, attention: tuple[Made, Made, str, CarriedOver]
) -> None:
    earlier, today, _, carried = attention
    known = np.setdiff1d(world.train_items, [*NEW_ITEMS, 90])
    assert carried.rows["item"] == (len(known), len(known) + len(NEW_ITEMS))
    users = len(world.rows["user"]) - 1
    assert carried.rows["user"] == (users - NEW_USERS, users)
    assert carried.rows["album"][0] < carried.rows["album"][1]
    assert carried.afresh == ()
    assert today.candidates(known) == pytest.approx(earlier.candidates(known), abs=1e-6)

    history = world.batch[features.HISTORY_ITEM_ID]
    is_known = [not set(items) & set(NEW_ITEMS) for items in history.to_list()]
    user = world.batch[features.USER][:, 0].numpy()
    rows = np.flatnonzero(is_known & (user >= NEW_USERS))
    assert len(rows) > 10
    before = world.queries(earlier, world.as_before(earlier.rows))[rows]
    assert world.queries(today, world.batch)[rows] == pytest.approx(before, abs=1e-5)


def test_new_ids_begin_as_in_any_training(
    world: World, attention: tuple[Made, Made, str, CarriedOver]
) -> None:
    _, today, *_ = attention
    fresh, begun = world.today(ATTENTION).variables(), today.variables()
    tables = {name.rpartition("/")[2]: name for name in fresh}
    for vocabulary, path in (("item", tables["item"]), ("user", tables["embeddings"])):
        new = NEW_ITEMS if vocabulary == "item" else world.rows["user"][:NEW_USERS]
        is_new = np.isin(world.rows[vocabulary], new)
        assert is_new.sum() == len(new)
        assert (begun[path][is_new] == fresh[path][is_new]).all()
        assert (begun[path][~is_new] != fresh[path][~is_new]).all()
    assert np.abs(begun[tables["item"]][np.isin(world.rows["item"], NEW_ITEMS)]).min() > 0


def test_streaming_frequency_goes_on_and_the_memory_of_negatives_does_not(
    attention: tuple[Made, Made, str, CarriedOver], world: World
) -> None:
    earlier, _, state, _ = attention
    again = world.today(ATTENTION)
    again.model.compute_loss({name: values[8:16] for name, values in world.batch.items()}, training=True)
    memory = again.model._sampler._memory.rows.numpy()
    assert earlier.model.frequency is not None and again.model.frequency is not None
    assert int(again.model.frequency.step) == 2
    carry_over(state, again.model, again.rows, ATTENTION, world.resolved)
    assert int(again.model.frequency.step) == 1
    ids = tf.constant(earlier.arrays.item_id)
    estimate = again.model.frequency.probability(ids).numpy()
    assert estimate.tolist() == earlier.model.frequency.probability(ids).numpy().tolist()
    assert len(set(estimate.tolist())) > 1
    assert again.model._sampler._memory.rows.numpy().tolist() == memory.tolist()


def test_frequencies_that_were_counted_in_other_steps_begin_afresh(
    attention: tuple[Made, Made, str, CarriedOver], world: World
) -> None:
    config = dataclasses.replace(ATTENTION, positions_per_step=2_048)
    today = world.today(config)
    assert today.model.frequency is not None
    before = today.model.frequency.gap.numpy().tolist()
    carried = carry_over(attention[2], today.model, today.rows, config, world.resolved)
    assert carried.afresh == ("frequency",)
    assert today.model.frequency.gap.numpy().tolist() == before


@pytest.mark.parametrize(
    ("changes", "afresh"),
    [
        # A layer of another width, and the layer after it.
        ({"query_hidden_units": (24,)}, {"query_hidden_0", "query_projection"}),
        # Inputs with another meaning and the same shapes.
        ({"parts": tuple(part for part in ATTENTION.parts if part != "normalisation")}, None),
    ],
)
def test_layers_go_on_where_they_fit_and_tables_always(
    attention: tuple[Made, Made, str, CarriedOver],
    world: World,
    changes: dict[str, Any],
    afresh: set[str] | None,
) -> None:
    earlier, _, state, _ = attention
    config = dataclasses.replace(ATTENTION, **changes)
    today = world.today(config)
    fresh, before = today.variables(), earlier.variables()
    carried = carry_over(state, today.model, today.rows, config, world.resolved)
    begun = today.variables()
    layers = {name.rpartition("/")[2] for name in carried.afresh}
    assert len(layers) > 8 if afresh is None else layers == afresh
    tables = {name for name, weight in warm_start._weights(today.model).items() if weight.vocabulary}
    for name in begun.keys() - tables:
        expected = fresh if name.rpartition("/")[0] in carried.afresh else before
        assert (begun[name] == expected[name]).all(), name
    assert carried.rows["item"][0] == len(earlier.rows["item"]) - 1


def test_embeddings_of_another_length_are_an_error_that_names_the_setting(
    attention: tuple[Made, Made, str, CarriedOver], world: World
) -> None:
    config = dataclasses.replace(CONFIG, embedding_dim=6)
    today = world.today(config)
    with pytest.raises(UserError, match=r"\[items, 8\].*\[items, 6\].*trainer\.embedding_dim=8"):
        carry_over(attention[2], today.model, today.rows, config, world.resolved)


def test_what_an_earlier_release_left_is_an_error_that_says_what_to_run(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks settings with other names, by which layers cannot be compared."""
    today = world.today(CONFIG)
    settings = warm_start._settings(CONFIG, world.resolved)
    settings["meaning"] = {"trainer.encoder": "mean", "trainer.leave_out": []}
    with monkeypatch.context() as patch:
        patch.setattr(warm_start, "_settings", lambda *_: settings)
        warm_start.save(str(tmp_path), today.model, today.rows, CONFIG, world.resolved)
    with pytest.raises(UserError, match=r"earlier release.*two-tower run --set trainer\.warm_start=false"):
        carry_over(str(tmp_path), today.model, today.rows, CONFIG, world.resolved)


# The component.

FACTS = DataFacts(
    data="nowhere", data_digest="sha256:today", dataset="small", label_event="listen",
    repeats_recommendable=True, has_timestamps=True, user_ids="integer", item_ids="integer",
    protocol="next_event", split_digest="sha256:split",
    train_end=SPLIT.train_end, eval_from=SPLIT.eval[0], eval_to=SPLIT.eval[1],
    test_from=SPLIT.test[0], test_to=SPLIT.test[1],
)  # fmt: skip


def blessed(out: Path, towers: str, **changes: Any) -> Pointer:
    """Makes the artifact of ScannIndexer, as far as training reads it, and returns the pointer to it."""
    path = out / "Format-Serving" / PROVENANCE
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**recorded(FACTS), **changes}))
    return Pointer(str(out), {TOWERS: towers})


def test_a_first_run_and_a_model_that_may_not_be_begun_from_are_told(
    attention: tuple[Made, Made, str, CarriedOver], tmp_path: Path
) -> None:
    towers = tmp_path / "towers"
    shutil.copytree(attention[2], towers / warm_start.DIRECTORY)
    scratch = "none, training begins from scratch. "
    assert starting_point(None, FACTS) == (None, f"{scratch}No model has been blessed yet.")
    directory, reason = starting_point(blessed(tmp_path / "1", str(towers)), FACTS)
    assert directory == str(towers / warm_start.DIRECTORY)
    assert reason == f"from {tmp_path / '1'}"
    refused: list[tuple[dict[str, Any], Path | str, str]] = [
        ({"train_newest_timestamp": SPLIT.train_end}, towers, "knows labels of today's eval or test"),
        ({"dataset": "other"}, towers, "comes from other data"),
        ({}, tmp_path / "gone", "left no state for a warm start"),
        ({}, "", "left no state for a warm start"),
    ]
    for number, (changes, place, expected) in enumerate(refused, start=2):
        model = blessed(tmp_path / str(number), str(place), **changes)
        directory, reason = starting_point(model, FACTS)
        assert directory is None
        assert reason.startswith(scratch) and expected in reason
    gone = dataclasses.replace(model, uri=str(tmp_path / "nowhere"))
    assert "files of the latest blessed model are gone" in starting_point(gone, FACTS)[1]


def test_rules_keep_what_shaped_the_model_of_a_warm_start(
    attention: tuple[Made, Made, str, CarriedOver], tmp_path: Path
) -> None:
    towers = tmp_path / "towers"
    shutil.copytree(attention[2], towers / warm_start.DIRECTORY)
    on, off = TrainerConfig(warm_start=True), TrainerConfig()
    manifest: Any = SimpleNamespace(dataset="small")

    def kept(trainer: TrainerConfig, pointer: Pointer | None) -> dict[str, Any]:
        text = pointers.NOTHING if pointer is None else pointer.to_text()
        return settled.kept_by_warm_start(trainer, manifest, text)

    model = blessed(tmp_path / "1", str(towers), history_length=HISTORY_LENGTH)
    assert kept(on, model) == {
        "trainer.embedding_dim": ATTENTION.embedding_dim,
        "trainer.item_embedding_dim": ATTENTION.item_embedding_dim,
        "trainer.encoder": ATTENTION.encoder,
        "trainer.parts": ATTENTION.parts,
        "trainer.query_hidden_units": ATTENTION.query_hidden_units,
        "windows.history_length": HISTORY_LENGTH,
    }
    assert kept(off, model) == kept(on, None) == {}
    assert "windows.history_length" not in kept(on, blessed(tmp_path / "2", str(towers)))
    assert kept(on, blessed(tmp_path / "3", str(towers), dataset="other")) == {}
    assert kept(on, blessed(tmp_path / "4", str(tmp_path / "gone"))) == {}
    assert kept(on, dataclasses.replace(model, uri=str(tmp_path / "nowhere"))) == {}


@pytest.mark.parametrize("is_on", [True, False])
def test_the_component_trains_from_the_latest_blessed_model_if_it_is_asked_to(
    attention: tuple[Made, Made, str, CarriedOver],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_on: bool,
) -> None:
    towers = tmp_path / "towers"
    shutil.copytree(attention[2], towers / warm_start.DIRECTORY)

    def artifact(kind: type[Any], name: str, splits: Sequence[str] = ()) -> Any:
        made = kind()
        made.uri = str(tmp_path / name)
        if splits:
            made.split_names = artifact_utils.encode_split_names(list(splits))
        return made

    asked: dict[str, Any] = {}

    def train(*_: Any, **arguments: Any) -> dict[str, float]:
        asked.update(arguments)
        return attention[3].to_dict()

    monkeypatch.setattr(training, "train", train)
    interactions = artifact(standard_artifacts.Examples, "interactions")
    write_facts(FACTS, interactions)
    model = artifact(standard_artifacts.Model, "model")
    config = dataclasses.replace(CONFIG, warm_start=is_on)
    Executor().Do(
        {
            "interactions": [interactions],
            "examples": [artifact(standard_artifacts.Examples, "examples", ("train", "eval"))],
            "transform_graph": [artifact(standard_artifacts.TransformGraph, "graph")],
            "catalog": [artifact(standard_artifacts.Examples, "catalog", ("catalog",))],
            "catalog_graph": [artifact(standard_artifacts.TransformGraph, "catalog_graph")],
        },
        {"model": [model], "model_run": [artifact(standard_artifacts.ModelRun, "run")]},
        {
            "trainer": json.dumps(to_plain(config)),
            "history_length": HISTORY_LENGTH,
            "seed": 3,
            "features": ResolvedFeatures().to_json(),
            "cutoff": 100,
            "source_digest": "",
            "latest_blessed": blessed(tmp_path / "blessed", str(towers)).to_text() if is_on else None,
        },
    )
    # A later training can warm start from it in both cases.
    assert asked["state_dir"] == str(tmp_path / "model" / warm_start.DIRECTORY)
    assert asked["seed"] == 3
    assert asked["warm_start"] == (str(towers / warm_start.DIRECTORY) if is_on else None)
    if is_on:
        assert model.get_string_custom_property(WARM_START) == f"from {tmp_path / 'blessed'}"
        carried, rows = attention[3].rows["item"]
        assert model.get_float_custom_property("rows_item") == rows
        assert model.get_float_custom_property("warm_rows_item") == carried
    else:
        assert not model.has_custom_property(WARM_START)
