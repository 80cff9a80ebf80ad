"""Warm start: training begins with the weights of an earlier model.

Every training saves its weights, and the ids and values of its tables' rows. A later training, whose
vocabularies have grown, restores

- rows of ids in both vocabularies, at their new places: items, artists, albums, users, values of columns;
- layers, if their inputs have the same meaning and their shapes agree;
- the state of streaming frequency estimation, which is by item id.

The rest has the usual initialisation: rows of new ids, random (items) or zero (users), and layers with
changed inputs or shapes. The optimizer's moments start from zero: their scale is that of a training's end.
The memory of negatives starts empty: it holds rows of the earlier catalog.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import logging
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from two_tower.base.errors import UserError
from two_tower.base.settings import to_plain
from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.schema import features
from two_tower.trainer.loop.two_tower_model import TwoTowerModel
from two_tower.trainer.loss.streaming_frequency import StreamingFrequency
from two_tower.trainer.model.catalog_table import CatalogArrays, touched_by
from two_tower.trainer.model.item_embedding import ItemEmbedding
from two_tower.trainer.model.towers import CandidateTower, QueryTower
from two_tower.trainer.settings import REPEAT_HEAD, TrainerConfig

# Beside the SavedModel in the Trainer's artifact.
DIRECTORY = "warm_start"
_FILE = "state"
# Names in the file.
_SETTINGS, _ROWS, _WEIGHTS = "settings", "rows", "weights"
_PARTS = "trainer.parts"
_SHAPES = "shapes"
# Settings of the trainer that shape its layers and tables.
_SHAPING = ("embedding_dim", "item_embedding_dim", "encoder", "parts", "query_hidden_units")
_FREQUENCY = tuple(f"frequency/{name}" for name in ("step", "labels", "last_seen", "gap", "gaps"))
# Names of the out-of-vocabulary row, which no id and no value has.
_UNKNOWN_ID, _UNKNOWN_VALUE = -1, b""

_log = logging.getLogger(__name__)

# By vocabulary, the names of a table's rows: int64 ids, or values of a column as bytes, [rows].
RowNames = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class CarriedOver:
    """Extent of a warm start.

    Attributes:
        rows: by vocabulary, the number of restored ids, and the number of all ids.
        afresh: layers, tables and states with the usual initialisation.
    """

    rows: dict[str, tuple[int, int]]
    afresh: tuple[str, ...]

    def to_dict(self) -> dict[str, float]:
        """Returns facts of a model by name.

        `rows_item` counts the items with a row, `warm_rows_item` the restored ones among them, and so on.
        `warm_start_afresh` counts layers, tables and states that are not restored.
        """
        facts = {"warm_start_afresh": float(len(self.afresh))}
        for name, (carried, rows) in self.rows.items():
            facts |= {f"rows_{name}": float(rows), f"warm_rows_{name}": float(carried)}
        return facts


def row_names(
    catalog: CatalogArrays,
    train_items: np.ndarray,
    transform_output: tft.TFTransformOutput,
    catalog_output: tft.TFTransformOutput,
    user_values: Iterable[str],
) -> RowNames:
    """Returns the names of the rows of every embedding table.

    Args:
      catalog: today's catalog.
      train_items: int64, ids of the items of train windows, as for CatalogTable.
      transform_output: of the windows, with the users' vocabularies.
      catalog_output: of the catalog.
      user_values: names of the vocabularies of columns of users/.
    """
    trained = np.isin(catalog.item_id, train_items)

    def ids(values: Iterable[Any]) -> np.ndarray:
        return np.array([_UNKNOWN_ID, *map(int, values)], np.int64)

    def texts(values: Iterable[bytes]) -> np.ndarray:
        return np.array([_UNKNOWN_VALUE, *values], object)

    def touched(name: str, rows: np.ndarray) -> list[bytes]:
        vocabulary = catalog_output.vocabulary_by_name(name)
        return [vocabulary[row] for row in touched_by(rows, trained)]

    users = ids(transform_output.vocabulary_by_name(features.USER_VOCABULARY))
    return {
        features.ITEM_VOCABULARY: ids(catalog.item_id[trained]),
        features.ARTIST_VOCABULARY: ids(touched(features.ARTIST_VOCABULARY, catalog.artist)),
        features.ALBUM_VOCABULARY: ids(touched(features.ALBUM_VOCABULARY, catalog.album)),
        features.USER_VOCABULARY: np.roll(users, -1),  # the out-of-vocabulary row of users is last
        **{name: texts(touched(name, rows)) for name, rows in catalog.values.items()},
        **{name: texts(transform_output.vocabulary_by_name(name)) for name in user_values},
    }


def save(
    directory: str, model: TwoTowerModel, rows: RowNames, config: TrainerConfig, resolved: ResolvedFeatures
) -> None:
    """Saves the state that a later warm start reads, in one file in TensorFlow's checkpoint format."""
    content: dict[str, Any] = {_SETTINGS: json.dumps(_settings(config, resolved))}
    for name, weight in _weights(model).items():
        content[f"{_WEIGHTS}/{name}"] = weight.variable
        if weight.vocabulary is not None:
            content[f"{_ROWS}/{weight.vocabulary}"] = rows[weight.vocabulary]
    if (frequency := model.frequency) is not None:
        states = frequency.step, frequency.labels, frequency.last_seen, frequency.gap, frequency.gaps
        content |= zip(_FREQUENCY, states, strict=True)
    tf.io.gfile.makedirs(directory)
    tf.raw_ops.SaveV2(
        prefix=os.path.join(directory, _FILE),
        tensor_names=list(content),
        shape_and_slices=[""] * len(content),
        tensors=[tf.convert_to_tensor(value) for value in content.values()],
    )


def exists(directory: str) -> bool:
    """Tells whether a directory holds the state of a training."""
    return bool(tf.io.gfile.exists(os.path.join(directory, f"{_FILE}.index")))


def left_by(trained: str) -> str:
    """Returns the directory of the saved state in a training's artifact `trained`.

    Raises:
      UserError: the state is not there.
    """
    directory = os.path.join(trained, DIRECTORY)
    if not exists(directory):
        raise UserError(
            f"{directory}: the training's weights are not there: an earlier release trained the model, or "
            "they were removed. Train again with `two-tower run`."
        )
    return directory


def shapes_of(directory: str) -> dict[str, Any]:
    """Reads the settings that shaped a saved training, by dotted name; {} if an earlier release saved it."""
    file = tf.train.load_checkpoint(os.path.join(directory, _FILE))
    shapes = json.loads(file.get_tensor(_SETTINGS)).get(_SHAPES, {})
    return {
        f"trainer.{name}": tuple(value) if isinstance(value, list) else value
        for name, value in shapes.items()
    }


def carry_over(
    directory: str, model: TwoTowerModel, rows: RowNames, config: TrainerConfig, resolved: ResolvedFeatures
) -> CarriedOver:
    """Restores in a new model the weights of an earlier training, as far as they fit.

    Args:
      directory: of the saved state, see `save`.
      model: with its variables built.
      rows: of the new model.
      config: of the new model.
      resolved: of the new model.

    Raises:
      UserError: embeddings had another width, or an earlier release trained them.
    """
    earlier = _Earlier(directory)
    earlier.check_release()
    now = _settings(config, resolved)
    earlier.check_embedding_dim(now["embedding_dim"])
    weights = _weights(model)
    carried: dict[str, tuple[int, int]] = {}
    afresh: list[str] = []
    layers: dict[str, dict[str, tf.Variable]] = collections.defaultdict(dict)
    for name, weight in weights.items():
        if weight.vocabulary is None:
            layers[name.rpartition("/")[0]][name] = weight.variable
        elif (known := earlier.carry_rows(name, weight, rows[weight.vocabulary])) is None:
            afresh.append(name)
        else:
            carried[weight.vocabulary] = (known, len(rows[weight.vocabulary]) - 1)
    changed = earlier.changed("meaning", now)
    for layer, variables in layers.items():
        if changed or not earlier.carry_layer(variables):
            afresh.append(layer)
    if changed:
        _log.warning(
            "Warm start: layers are initialised anew, since these settings have changed: %s.", changed
        )
    if model.frequency is not None and (
        earlier.changed("counting", now) or not earlier.carry_frequency(model.frequency)
    ):
        _log.warning("Warm start: streaming frequency estimation starts anew, without a fitting state.")
        afresh.append("frequency")
    for name, (known, of) in carried.items():
        _log.info("Warm start: of %d rows of the table of %s, %d are restored.", of, name, known)
    return CarriedOver(carried, tuple(afresh))


def names_of_rows(directory: str) -> RowNames:
    """Reads the names of the rows of every table from a saved state; see `row_names`."""
    file = tf.train.load_checkpoint(os.path.join(directory, _FILE))
    prefix = f"{_ROWS}/"
    return {
        name.removeprefix(prefix): file.get_tensor(name)
        for name in file.get_variable_to_shape_map()
        if name.startswith(prefix)
    }


def places_in(names: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns the table's row of each of `wanted`, int32; the out-of-vocabulary row where it has none.

    `names`: of the table's rows, see `row_names`.
    """
    return np.maximum(_places(wanted, names), 0).astype(np.int32)


def restore(directory: str, candidate_tower: CandidateTower, query_tower: QueryTower) -> None:
    """Restores all weights of a training in towers over the same tables.

    Args:
      directory: of the saved state, see `save`.
      candidate_tower: with its variables built.
      query_tower: with its variables built.

    Raises:
      UserError: a weight is missing, or has another shape.
    """
    file = tf.train.load_checkpoint(os.path.join(directory, _FILE))
    shapes = file.get_variable_to_shape_map()
    for name, weight in _weights_of(candidate_tower, query_tower).items():
        then, now = shapes.get(f"{_WEIGHTS}/{name}"), list(weight.variable.shape)
        if then != now:
            raise UserError(
                f"{directory}: the weight {name} is {then or 'not there'}, where {now} is needed: other "
                "sources than these trained the model. Train it again with `two-tower run`."
            )
        weight.variable.assign(file.get_tensor(f"{_WEIGHTS}/{name}"))


class _Earlier:
    """Saved state of an earlier training."""

    def __init__(self, directory: str) -> None:
        self._file = tf.train.load_checkpoint(os.path.join(directory, _FILE))
        self._shapes = self._file.get_variable_to_shape_map()
        self._settings = json.loads(self._file.get_tensor(_SETTINGS))

    def check_release(self) -> None:
        """Raises UserError for the state of an earlier release: its settings do not compare with today's."""
        if _PARTS not in self._settings["meaning"]:
            raise UserError(
                "trainer.warm_start: an earlier release of this program trained the latest blessed model, "
                "and its settings do not compare with today's. Train once from scratch, by "
                "`two-tower run --set trainer.warm_start=false`; later runs can warm start from that model."
            )

    def check_embedding_dim(self, embedding_dim: int) -> None:
        """Raises UserError for another embedding width: then nothing fits."""
        then = self._settings["embedding_dim"]
        if then != embedding_dim:
            raise UserError(
                f"trainer.warm_start: item embeddings of the latest blessed model are [items, {then}], those "
                f"of this run [items, {embedding_dim}]. Set trainer.embedding_dim={then}, or "
                "trainer.warm_start=false to train from scratch."
            )

    def changed(self, group: str, now: dict[str, Any]) -> str:
        """Names the settings of a group that have changed, joined by commas."""
        then = self._settings[group]
        return ", ".join(name for name, value in now[group].items() if then.get(name) != value)

    def carry_rows(self, name: str, weight: _Weight, names: np.ndarray) -> int | None:
        """Restores the rows of a table whose names were in the earlier one.

        Returns:
          The number of restored rows, without the out-of-vocabulary row. None where there was no such table,
          or one of another width, as for a column that has many more values now.
        """
        stored = f"{_WEIGHTS}/{name}"
        then, now = self._shapes.get(stored), list(weight.variable.shape)
        if then is None or then[1:] != now[1:]:
            _log.warning("Warm start: the table %s is initialised anew: %s before, %s now.", name, then, now)
            return None
        place = _places(names, self._file.get_tensor(f"{_ROWS}/{weight.vocabulary}"))
        values = tf.convert_to_tensor(weight.variable).numpy()
        values[place >= 0] = self._file.get_tensor(stored)[place[place >= 0]]
        weight.variable.assign(values)
        return int((place >= 0).sum()) - 1

    def carry_layer(self, variables: dict[str, tf.Variable]) -> bool:
        """Restores the variables of a layer if all have the shapes of before; returns whether it did."""
        for name, variable in variables.items():
            then, now = self._shapes.get(f"{_WEIGHTS}/{name}"), list(variable.shape)
            if then != now:
                _log.warning(
                    "Warm start: the layer of %s is initialised anew: %s before, %s now.", name, then, now
                )
                return False
        for name, variable in variables.items():
            variable.assign(self._file.get_tensor(f"{_WEIGHTS}/{name}"))
        return True

    def carry_frequency(self, frequency: StreamingFrequency) -> bool:
        """Restores streaming frequency estimation; returns whether there was a state that fits."""
        if not all(name in self._shapes for name in _FREQUENCY):
            return False
        step, labels, *arrays = (self._file.get_tensor(name) for name in _FREQUENCY)
        return frequency.go_on(int(step), float(labels), *arrays)


def _places(names: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    """Finds the index of each name among the earlier ones, int64 [names]; -1 where it is missing."""
    order = np.argsort(earlier, kind="stable")
    place = order[np.minimum(np.searchsorted(earlier, names, sorter=order), len(order) - 1)]
    return np.where(earlier[place] == names, place, -1)


@dataclasses.dataclass(frozen=True)
class _Weight:
    """A trainable variable; `vocabulary`: that of the rows of an embedding table, None elsewhere."""

    variable: tf.Variable
    vocabulary: str | None


def _weights(model: TwoTowerModel) -> dict[str, _Weight]:
    """Returns the model's trainable variables; see `_weights_of`."""
    return _weights_of(model.candidate_tower, model.query_tower, model.task)


def _weights_of(*roots: tf.keras.layers.Layer) -> dict[str, _Weight]:
    """Returns the trainable variables of layers, by a path of layer names.

    A variable's own name is not stable: it depends on the first caller of its layer.
    """
    vocabularies = {
        id(table): vocabulary
        for root in roots
        for layer in (root, *root.submodules)
        if isinstance(layer, ItemEmbedding | QueryTower)
        for vocabulary, table in layer.tables
    }
    found: dict[str, _Weight] = {}
    seen = {id(root) for root in roots}
    queue = collections.deque((root.name, root) for root in roots)
    while queue:
        path, parent = queue.popleft()
        for name, child in tf.train.TrackableView.children(parent).items():
            if id(child) in seen:
                continue
            seen.add(id(child))
            if not isinstance(child, tf.Variable):
                # A layer's name is stable; its index in a list is not.
                is_layer = isinstance(child, tf.keras.layers.Layer)
                queue.append((f"{path}/{child.name if is_layer else name}", child))
            elif child.trainable:
                found[f"{path}/{name}"] = _Weight(child, vocabularies.get(id(child)))
    return found


def _settings(config: TrainerConfig, resolved: ResolvedFeatures) -> dict[str, Any]:
    """Returns the settings that must be the same for weights to be carried over, as JSON holds them."""
    settings = {
        "embedding_dim": config.embedding_dim,
        _SHAPES: {name: to_plain(getattr(config, name)) for name in _SHAPING},
        # Settings that change the meaning of a layer's numbers, though perhaps not their shape. The repeat
        # head's layers affect no other layer.
        "meaning": {
            "trainer.encoder": config.encoder,
            _PARTS: [part for part in config.parts if part != REPEAT_HEAD],
            "features.users": [f"{one.name}:{one.kind}" for one in resolved.users],
            "features.items": [f"{one.name}:{one.kind}" for one in resolved.items],
            "features.history": resolved.history,
        },
        # Settings that change the probability of an item in a step, or the hash functions.
        "counting": {
            "trainer.frequency.hashes": config.frequency.hashes,
            "trainer.windows_per_step": config.windows_per_step,
            "trainer.positions_per_step": config.positions_per_step,
        },
    }
    return dict(json.loads(json.dumps(settings)))
