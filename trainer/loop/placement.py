"""Placement of today's catalog in trained towers: a new catalog table, with unchanged weights.

An item of train keeps its learnt row. A cold item reads the out-of-vocabulary row, which id dropout trains.
Its artists, albums and content place it, as far as train knows these. A withdrawn item stays in the table,
since histories hold it, and is no candidate.

The training's CatalogTransform graph transforms the items' columns: its vocabularies, means and deviations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from two_tower.base.errors import UserError
from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.schema import features
from two_tower.trainer.loop.two_tower_model import towers_of
from two_tower.trainer.loop.warm_start import RowNames, names_of_rows, places_in, restore
from two_tower.trainer.model.catalog_table import (
    MAX_IDS_PER_ITEM,
    MAX_VALUES_PER_ITEM,
    OUT_OF_VOCABULARY,
    CatalogRows,
    CatalogTable,
    without_empty_places,
)
from two_tower.trainer.model.column_embeddings import Form, names_of_form
from two_tower.trainer.model.signatures import Towers
from two_tower.trainer.settings import TrainerConfig

_ITEMS_PER_BATCH = 8_192
_TOLERANCE = 1e-4
# Fields of CatalogRows with a row for each item.
_COLUMNS = ("item", "artist", "album", "length", "first_artist", "numbers")


@dataclasses.dataclass(frozen=True)
class Training:
    """A finished training: its artifacts, settings and features.

    Attributes:
        towers: the directory of the SavedModel.
        state: the directory that `warm_start.save` wrote.
        transform_graph: the directory of Transform's graph, of windows.
        catalog_graph: the directory of CatalogTransform's graph.
        config: the settings.
        history_length: the number of events that a query sees.
        resolved: the features.
    """

    towers: str
    state: str
    transform_graph: str
    catalog_graph: str
    config: TrainerConfig
    history_length: int
    resolved: ResolvedFeatures


@dataclasses.dataclass(frozen=True)
class Placed:
    """Towers over today's items, and the changes since the trained catalog.

    Attributes:
        towers: the towers to save.
        items: int64, ids of today's items, ascending; the candidates.
        new: int64, ids of today's items that the trained catalog lacks.
        withdrawn: int64, ids of the trained catalog that today's items lack.
        learnt: the number of today's items with a learnt row.
    """

    towers: Towers
    items: np.ndarray
    new: np.ndarray
    withdrawn: np.ndarray
    learnt: int


def place(training: Training, catalog_files: Sequence[str]) -> Placed:
    """Places today's items in trained towers.

    Args:
      training: the training of the towers.
      catalog_files: CatalogExampleGen's Examples of today's items.

    Raises:
      UserError: there are no items, an item occurs twice, or the saved weights do not match these sources.
    """
    earlier = tf.saved_model.load(training.towers)
    names = names_of_rows(training.state)
    today = read_items(catalog_files, training.catalog_graph, training.resolved, names)
    trained_catalog = earlier.catalog()[features.ITEM_ID].numpy()
    table = CatalogTable.of_rows(with_withdrawn(today, rows_of_table(earlier._table), names))
    graph = tft.TFTransformOutput(training.transform_graph)
    users = {
        name: graph.vocabulary_size_by_name(name)
        for name in names_of_form(training.resolved.users, Form.VALUES)
    }
    _, query_tower, candidate_tower = towers_of(
        table,
        graph.vocabulary_size_by_name(features.USER_VOCABULARY),
        training.history_length,
        training.config,
        users,
    )
    towers = Towers(
        graph.transform_features_layer(),
        table,
        query_tower,
        candidate_tower,
        training.history_length,
        training.resolved,
    )
    _ask_for_nothing(towers)  # builds the variables
    restore(training.state, candidate_tower, query_tower)
    _check_same(towers, earlier)
    return Placed(
        towers,
        items=today.item_id,
        new=np.setdiff1d(today.item_id, trained_catalog),
        withdrawn=np.setdiff1d(trained_catalog, today.item_id),
        learnt=int((today.item[:-1] != OUT_OF_VOCABULARY).sum()),
    )


def read_items(
    files: Sequence[str], catalog_graph: str, resolved: ResolvedFeatures, names: RowNames
) -> CatalogRows:
    """Reads today's items as rows of the trained embedding tables.

    Args:
      files: CatalogExampleGen's Examples.
      catalog_graph: what they are transformed by.
      resolved: the columns of items/ in them.
      names: what the tables' rows stand for, see `warm_start.row_names`.

    Raises:
      UserError: there are no items, or one of them twice.
    """
    graph = tft.TFTransformOutput(catalog_graph)
    of_values = names_of_form(resolved.items, Form.VALUES)
    vectors = names_of_form(resolved.items, Form.VECTORS)
    artist = _of_ids(names.get(features.ARTIST_VOCABULARY))
    album = _of_ids(names.get(features.ALBUM_VOCABULARY))
    value_rows = {name: _rows_of_vocabulary(graph, name, names) for name in of_values}
    raw_spec, layer = graph.raw_feature_spec(), graph.transform_features_layer()
    parts: dict[str, list[np.ndarray]] = {}

    def add(name: str, rows: np.ndarray) -> None:
        parts.setdefault(name, []).append(rows)

    for serialized in tf.data.TFRecordDataset(list(files), compression_type="GZIP").batch(_ITEMS_PER_BATCH):
        raw = tf.io.parse_example(serialized, raw_spec)
        transformed = layer(dict(raw))
        add("item_id", transformed[features.ITEM_ID].numpy()[:, 0])
        add("length", transformed[features.LENGTH].numpy()[:, 0])
        add("artist", _embedding_rows(raw[features.ARTIST_ID], artist, MAX_IDS_PER_ITEM))
        add("album", _embedding_rows(raw[features.ALBUM_ID], album, MAX_IDS_PER_ITEM))
        add("first_artist", _first(raw[features.ARTIST_ID]))
        for name in of_values:
            # As in training, a value outside the vocabulary is left out.
            ids = _ragged(transformed[name])
            known = tf.ragged.boolean_mask(ids, ids >= 0)
            add(name, _embedding_rows(known, value_rows[name].__getitem__, MAX_VALUES_PER_ITEM))
        for name in vectors:
            add(name, transformed[name].numpy())
        if features.NUMBERS in transformed:
            add(features.NUMBERS, transformed[features.NUMBERS].numpy())
    if not parts:
        raise UserError("The catalog is empty: items/ holds no available item to index.")
    item_id = np.concatenate(parts.pop("item_id"))
    order = np.argsort(item_id, kind="stable")
    item_id = item_id[order]
    if (twice := item_id[1:][item_id[1:] == item_id[:-1]]).size:
        raise UserError(f"items/: column 'item_id': {twice[0]} has more than one row.")

    def joined(name: str) -> np.ndarray:
        return np.concatenate(parts.pop(name))[order]

    unknown = np.array([[OUT_OF_VOCABULARY] + [-1] * (MAX_IDS_PER_ITEM - 1)], np.int32)
    item = places_in(names[features.ITEM_VOCABULARY], item_id)
    return CatalogRows(
        item_id=item_id,
        candidate_id=item_id,
        item=np.append(item, np.int32(OUT_OF_VOCABULARY)),
        artist=np.concatenate([joined("artist"), unknown]),
        album=np.concatenate([joined("album"), unknown]),
        length=np.append(joined("length"), np.float32(0)),
        first_artist=np.append(_told_apart(joined("first_artist"), graph), np.int32(-1)),
        values={name: _with_unknown_value(without_empty_places(joined(name))) for name in of_values},
        numbers=_with_zeros(joined(features.NUMBERS))
        if features.NUMBERS in parts
        else np.zeros([len(item_id) + 1, 0], np.float32),
        vectors={name: _with_zeros(joined(name)) for name in vectors},
        sizes=_sizes(names, of_values),
    )


def rows_of_table(table: Any) -> CatalogRows:
    """Reads the rows of the CatalogTable of a loaded SavedModel.

    `sizes` is empty: only the names of rows tell the sizes of embedding tables.
    """
    return CatalogRows(
        item_id=table.item_id.numpy(),
        candidate_id=table.item_id.numpy(),
        **{name: getattr(table, name).numpy() for name in _COLUMNS},
        values={name: ids.numpy() for name, ids in table.values.items()},
        vectors={name: rows.numpy() for name, rows in table.vectors.items()},
        sizes={},
    )


def with_withdrawn(today: CatalogRows, trained: CatalogRows, names: RowNames) -> CatalogRows:
    """Joins today's items and the withdrawn items of train.

    Histories hold withdrawn items, and their learnt embeddings describe these histories. They are no
    candidates.

    Args:
      today: today's catalog, in rows of the same tables as `trained`.
      trained: the catalog of the training.
      names: the ids and values of the tables' rows.
    """
    learnt = np.isin(trained.item_id, names[features.ITEM_VOCABULARY])
    gone = np.flatnonzero(learnt & ~np.isin(trained.item_id, today.item_id))
    item_id = np.concatenate([today.item_id, trained.item_id[gone]])
    # The row of unknown items stays last.
    order = np.append(np.argsort(item_id, kind="stable"), len(item_id))

    def joined(now: np.ndarray, then: np.ndarray) -> np.ndarray:
        if now.ndim == 2 and now.dtype == np.int32:
            places = max(now.shape[1], then.shape[1])
            now, then = _widened(now, places), _widened(then, places)
        return np.concatenate([now[:-1], then[gone], now[-1:]])[order]

    return CatalogRows(
        item_id=item_id[order[:-1]],
        candidate_id=today.item_id,
        **{name: joined(getattr(today, name), getattr(trained, name)) for name in _COLUMNS},
        values={name: joined(ids, trained.values[name]) for name, ids in today.values.items()},
        vectors={name: joined(rows, trained.vectors[name]) for name, rows in today.vectors.items()},
        sizes=today.sizes,
    )


def _of_ids(names: np.ndarray | None) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function from ids to rows of their table; without a table all are unknown."""
    if names is None:
        return lambda ids: np.zeros(ids.shape, np.int32)
    return lambda ids: places_in(names, ids)


def _rows_of_vocabulary(graph: tft.TFTransformOutput, name: str, names: RowNames) -> np.ndarray:
    """Returns the table's row of each value of a vocabulary of CatalogTransform, int32 [values]."""
    vocabulary = np.array([*graph.vocabulary_by_name(name), b""], object)[:-1]
    return places_in(names[name], vocabulary)


def _ragged(ids: tf.RaggedTensor | tf.SparseTensor) -> tf.RaggedTensor:
    return tf.RaggedTensor.from_sparse(ids) if isinstance(ids, tf.SparseTensor) else ids


def _embedding_rows(
    ids: tf.RaggedTensor | tf.SparseTensor, rows_of: Callable[[np.ndarray], np.ndarray], places: int
) -> np.ndarray:
    """Returns rows int32 [items, places] of the first ids of each item, -1 where there are fewer.

    An item without ids reads the out-of-vocabulary row.
    """
    ragged = _ragged(ids)
    rows = ragged.with_flat_values(tf.constant(rows_of(ragged.flat_values.numpy()), tf.int32))
    dense: np.ndarray = rows.to_tensor(-1, shape=[None, places]).numpy()
    dense[dense[:, 0] < 0, 0] = OUT_OF_VOCABULARY
    return dense


def _first(ids: tf.RaggedTensor | tf.SparseTensor) -> np.ndarray:
    """Returns the first id of each item, int64 [items], -1 where there is none."""
    first: np.ndarray = _ragged(ids).to_tensor(-1, shape=[None, 1]).numpy()[:, 0]
    return first


def _told_apart(artist_id: np.ndarray, graph: tft.TFTransformOutput) -> np.ndarray:
    """Numbers artists, int32, -1 for -1: as in the trained catalog's table, and new artists after them."""
    # An empty vocabulary holds one entry that is no id.
    entries = graph.vocabulary_by_name(features.ARTIST_VOCABULARY)
    known = np.array([int(one) for one in entries if one.isdigit()], np.int64)
    unknown = np.setdiff1d(artist_id, np.append(known, -1))
    number = places_in(np.concatenate([[-1], known, unknown]), artist_id) - 1
    return number.astype(np.int32)


def _with_unknown_value(rows: np.ndarray) -> np.ndarray:
    unknown = np.array([[OUT_OF_VOCABULARY] + [-1] * (rows.shape[1] - 1)], np.int32)
    return np.concatenate([rows, unknown])


def _with_zeros(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([rows, np.zeros_like(rows[:1])])


def _widened(ids: np.ndarray, places: int) -> np.ndarray:
    return np.pad(ids, [(0, 0), (0, places - ids.shape[1])], constant_values=-1)


def _sizes(names: RowNames, of_values: Sequence[str]) -> dict[str, int]:
    """Returns the number of rows of each embedding table; 1, the out-of-vocabulary row, without a table."""
    tables = (features.ITEM_VOCABULARY, features.ARTIST_VOCABULARY, features.ALBUM_VOCABULARY, *of_values)
    return {name: len(names[name]) if name in names else 1 for name in tables}


def _ask_for_nothing(towers: Any) -> tuple[np.ndarray, np.ndarray]:
    """Computes embeddings of a new user without history and of an unknown item; neither reads the catalog."""
    nothing = tf.zeros([1, 0], tf.int64)
    query = towers.query_embedding(
        user_id=tf.constant([-1], tf.int64), history_item_id=nothing, history_timestamp=nothing
    )["embedding"]
    item = towers.candidate_embedding(tf.constant([-1], tf.int64))["embedding"]
    return query.numpy(), item.numpy()


def _check_same(towers: Towers, earlier: Any) -> None:
    """Raises UserError where the restored towers differ from the saved ones."""
    for now, then in zip(_ask_for_nothing(towers), _ask_for_nothing(earlier), strict=True):
        if not np.allclose(now, then, atol=_TOLERANCE):
            raise UserError(
                "The embeddings of the restored towers differ from those of the saved ones by "
                f"{np.abs(now - then).max():.2g}. Other sources than these trained the model. Train it again "
                "with `two-tower run`."
            )
