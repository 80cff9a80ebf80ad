"""Catalog table in the model: item id → row → features.

Both towers, in training and in serving, look items up here. Windows and requests carry ids only. Variables
hold the table (a constant has a limit of 2 GB), sorted by id, so that a look-up is a binary search.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from two_tower.data_directory.feature_columns import FeatureSpec
from two_tower.schema import features
from two_tower.trainer.model.column_embeddings import Form, names_of_form

# Artists, or albums, kept for an item; most items have one of each.
MAX_IDS_PER_ITEM = 4
# Values of a column (tags, words of a title) kept for an item.
MAX_VALUES_PER_ITEM = 16
# Out-of-vocabulary row of every embedding table, for ids and values that train does not have.
OUT_OF_VOCABULARY = 0


@dataclasses.dataclass(frozen=True)
class CatalogArrays:
    """The catalog in NumPy, sorted by id.

    Attributes:
        item_id: int64 [items], ascending.
        artist: int32 [items, MAX_IDS_PER_ITEM], rows of the vocabulary, -1 where there are fewer.
        album: likewise.
        length: float32 [items], z-scored.
        values: by feature of items/, int32 [items, values], rows of its vocabulary, -1 where there are fewer.
        numbers: float32 [items, numbers] of features of items/, z-scored, or None.
        vectors: by feature of items/, float32 [items, width].
    """

    item_id: np.ndarray
    artist: np.ndarray
    album: np.ndarray
    length: np.ndarray
    values: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    numbers: np.ndarray | None = None
    vectors: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(
        cls, files: list[str], feature_spec: dict[str, object], specs: Sequence[FeatureSpec] = ()
    ) -> CatalogArrays:
        """Reads CatalogTransform's Examples; `specs` are the columns of items/ in them."""
        places = {features.ARTIST: MAX_IDS_PER_ITEM, features.ALBUM: MAX_IDS_PER_ITEM}
        values, vectors = names_of_form(specs, Form.VALUES), names_of_form(specs, Form.VECTORS)
        places |= dict.fromkeys(values, MAX_VALUES_PER_ITEM)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in feature_spec}
        dataset = tf.data.TFRecordDataset(files, compression_type="GZIP").batch(8_192)
        for serialized in dataset:
            for name, column in tf.io.parse_example(serialized, feature_spec).items():
                parts[name].append(_ids(column, places[name]) if name in places else column.numpy())
        by = np.argsort(np.concatenate([part[:, 0] for part in parts[features.ITEM_ID]]), kind="stable")

        def joined(name: str) -> np.ndarray:
            # pop frees the parts of a column: vectors are most of a large catalog's memory.
            return np.concatenate(parts.pop(name))[by]

        return cls(
            item_id=joined(features.ITEM_ID)[:, 0],
            artist=joined(features.ARTIST),
            album=joined(features.ALBUM),
            length=joined(features.LENGTH)[:, 0],
            values={name: without_empty_places(joined(name)) for name in values},
            numbers=joined(features.NUMBERS) if features.NUMBERS in parts else None,
            vectors={name: joined(name) for name in vectors},
        )

    def rows_of(self, item_id: np.ndarray) -> np.ndarray:
        """Returns the row of each id, the number of items for an unknown id."""
        row = np.minimum(np.searchsorted(self.item_id, item_id), len(self.item_id) - 1)
        return np.where(self.item_id[row] == item_id, row, len(self.item_id))


def _ids(column: tf.SparseTensor | tf.RaggedTensor, places: int) -> np.ndarray:
    """Returns the first known ids of each item, int32 [items, places], -1 where there are fewer."""
    ids = tf.RaggedTensor.from_sparse(column) if isinstance(column, tf.SparseTensor) else column
    known = tf.ragged.boolean_mask(ids, ids >= 0)
    return known.to_tensor(-1, shape=[None, places]).numpy().astype(np.int32)


def without_empty_places(ids: np.ndarray) -> np.ndarray:
    """Drops the last places of ids [items, places] that no item fills; the first stays."""
    used = int((ids >= 0).sum(axis=1).max(initial=1))
    return ids[:, :used]


@dataclasses.dataclass(frozen=True)
class CatalogRows:
    """Content of a CatalogTable: a row for each item, and a last row for unknown items.

    Attributes:
        item_id: int64 [items], ascending.
        candidate_id: int64 [candidates], the items that may be recommended.
        item: int32 [items + 1], rows of the items' embedding table.
        artist: int32 [items + 1, places], rows of the artists' table, -1 where there are fewer.
        album: likewise.
        length: float32 [items + 1], z-scored.
        first_artist: int32 [items + 1], a number for each artist, of train or not; -1 without artist.
        values: by feature, int32 [items + 1, places], rows of its table, -1 where there are fewer.
        numbers: float32 [items + 1, numbers].
        vectors: by feature, float32 [items + 1, width].
        sizes: the number of rows of each embedding table, by the name of its vocabulary.
    """

    item_id: np.ndarray
    candidate_id: np.ndarray
    item: np.ndarray
    artist: np.ndarray
    album: np.ndarray
    length: np.ndarray
    first_artist: np.ndarray
    values: dict[str, np.ndarray]
    numbers: np.ndarray
    vectors: dict[str, np.ndarray]
    sizes: dict[str, int]

    @classmethod
    def of(cls, catalog: CatalogArrays, train_item_ids: np.ndarray) -> CatalogRows:
        """Returns the rows of a catalog; `train_item_ids`: int64 ids of all items of train windows."""
        items = len(catalog.item_id)
        trained = np.isin(catalog.item_id, train_item_ids)
        item = np.zeros(items + 1, np.int32)
        item[:-1][trained] = 1 + np.arange(trained.sum())
        sizes = {features.ITEM_VOCABULARY: int(trained.sum()) + 1}
        artist, sizes[features.ARTIST_VOCABULARY] = _touched_rows(catalog.artist, trained)
        album, sizes[features.ALBUM_VOCABULARY] = _touched_rows(catalog.album, trained)
        values = {}
        for name, ids in catalog.values.items():
            values[name], sizes[name] = _touched_rows(ids, trained)
        numbers = np.zeros([items, 0], np.float32) if catalog.numbers is None else catalog.numbers
        return cls(
            item_id=catalog.item_id,
            candidate_id=catalog.item_id,
            item=item,
            artist=artist,
            album=album,
            length=np.append(catalog.length, np.float32(0)),
            first_artist=np.append(catalog.artist[:, 0], np.int32(-1)),
            values=values,
            numbers=_with_unknown(numbers),
            vectors={name: _with_unknown(rows) for name, rows in catalog.vectors.items()},
            sizes=sizes,
        )


class CatalogTable(tf.Module):
    """Look-up of items by id. The row after the last item is that of all unknown ids.

    An item, artist, album or value that no train window has reads its table's out-of-vocabulary row: an
    embedding without training holds only its initialisation. CatalogRows describes the variables. The
    embedding tables of columns of items/ have `value_vocabulary_sizes` rows.
    """

    def __init__(self, catalog: CatalogArrays, train_item_ids: np.ndarray) -> None:
        """Args:
        catalog: the catalog.
        train_item_ids: int64 ids of all items of train windows.
        """
        super().__init__(name="catalog_table")
        self._hold(CatalogRows.of(catalog, train_item_ids))

    @classmethod
    def of_rows(cls, rows: CatalogRows) -> CatalogTable:
        """Makes a table of given rows, as for a trained model."""
        table = cls.__new__(cls)
        tf.Module.__init__(table, name="catalog_table")
        table._hold(rows)
        return table

    def _hold(self, rows: CatalogRows) -> None:
        def table(values: np.ndarray, name: str) -> tf.Variable:
            return tf.Variable(values, trainable=False, name=name)

        self.size = len(rows.item_id)
        self.item_vocabulary_size = rows.sizes[features.ITEM_VOCABULARY]
        self.artist_vocabulary_size = rows.sizes[features.ARTIST_VOCABULARY]
        self.album_vocabulary_size = rows.sizes[features.ALBUM_VOCABULARY]
        self.value_vocabulary_sizes = {name: rows.sizes[name] for name in rows.values}
        self.item_id = table(rows.item_id, "item_id")
        # In training all items are candidates: one variable serves for both.
        every = np.array_equal(rows.candidate_id, rows.item_id)
        self.candidate_id = self.item_id if every else table(rows.candidate_id, "candidate_id")
        self.item = table(rows.item, "item")
        self.artist = table(rows.artist, "artist")
        self.album = table(rows.album, "album")
        self.length = table(rows.length, "length")
        self.values = {name: table(ids, name) for name, ids in rows.values.items()}
        self.numbers = table(rows.numbers, "numbers")
        self.vectors = {name: table(vectors, name) for name, vectors in rows.vectors.items()}
        self.first_artist = table(rows.first_artist, "first_artist")

    def rows_of(self, item_id: tf.Tensor) -> tf.Tensor:
        """Returns rows int32 of ids int64, any shape; `size` for an unknown id."""
        flat = tf.reshape(item_id, [-1])
        row = tf.minimum(tf.searchsorted(self.item_id, flat), self.size - 1)
        known = tf.gather(self.item_id, row) == flat
        return tf.reshape(tf.where(known, row, self.size), tf.shape(item_id))


def _with_unknown(rows: np.ndarray) -> np.ndarray:
    """Appends a row of zeros."""
    return np.concatenate([rows, np.zeros_like(rows[:1], shape=[1, rows.shape[1]])])


def touched_by(ids: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Returns the vocabulary ids of items of train, ascending, from `ids` [items, ids] (-1: none).

    They are the rows of an embedding table after its out-of-vocabulary row.
    """
    touched = np.unique(ids[trained])
    return touched[touched >= 0]


def _touched_rows(ids: np.ndarray, trained: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns embedding rows [items + 1, ids] of vocabulary ids [items, ids] (-1: none), and their number."""
    touched = touched_by(ids, trained)
    row_of = np.zeros(max(ids.max(initial=-1), -1) + 2, np.int32)  # index -1 reads the last place
    row_of[touched] = 1 + np.arange(len(touched))
    rows = np.where(ids >= 0, row_of[ids], -1)
    rows[(ids < 0).all(axis=1), 0] = OUT_OF_VOCABULARY  # an item without ids reads the out-of-vocabulary row
    unknown = np.array([[OUT_OF_VOCABULARY] + [-1] * (ids.shape[1] - 1)], np.int32)
    return np.concatenate([rows, unknown]).astype(np.int32), len(touched) + 1
