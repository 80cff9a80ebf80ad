"""The catalog as one table in the model: item id → row → features.

Both towers, in training and in serving, look items up here; windows and requests carry ids only. It is held
in variables (a constant would end at 2 GB), sorted by id, so that a look-up is a binary search.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from pipeline.feature_specs import NUMERIC, VECTOR, FeatureSpec
from trainer import features

# Most items have one artist and one album; of the rest, this many are kept.
MAX_IDS_PER_ITEM = 4
# Of a column's values (tags, words of a title) so many an item are kept.
MAX_VALUES_PER_ITEM = 16
# Row of every embedding table that stands for "never touched by training".
OUT_OF_VOCABULARY = 0


@dataclasses.dataclass(frozen=True)
class CatalogArrays:
    """The catalog in NumPy, sorted by id.

    `item_id` int64 [items]; `artist`, `album` int32 [items, MAX_IDS_PER_ITEM], -1 where there are fewer;
    `length` float32 [items], z-scored. Of columns of items/ that are features, `values` by feature: int32
    [items, values], rows of its vocabulary, -1 where there are fewer; `numbers`: float32 [items, numbers],
    z-scored, or None; `vectors` by feature: float32 [items, width].
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
        values, vectors = [], []
        for spec in specs:
            if spec.kind == VECTOR:
                vectors.append(features.transformed_column(spec.name))
            elif spec.kind != NUMERIC:
                values.append(features.transformed_column(spec.name))
        places |= dict.fromkeys(values, MAX_VALUES_PER_ITEM)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in feature_spec}
        dataset = tf.data.TFRecordDataset(files, compression_type="GZIP").batch(8_192)
        for serialized in dataset:
            for name, column in tf.io.parse_example(serialized, feature_spec).items():
                parts[name].append(_ids(column, places[name]) if name in places else column.numpy())
        by = np.argsort(np.concatenate([part[:, 0] for part in parts[features.ITEM_ID]]), kind="stable")

        def joined(name: str) -> np.ndarray:
            # One column at a time, and its parts let go: vectors are most of a large catalog's memory.
            return np.concatenate(parts.pop(name))[by]

        return cls(
            item_id=joined(features.ITEM_ID)[:, 0],
            artist=joined(features.ARTIST),
            album=joined(features.ALBUM),
            length=joined(features.LENGTH)[:, 0],
            values={name: _without_empty_places(joined(name)) for name in values},
            numbers=joined(features.NUMBERS) if features.NUMBERS in parts else None,
            vectors={name: joined(name) for name in vectors},
        )

    def rows_of(self, item_id: np.ndarray) -> np.ndarray:
        """Row of each id, the number of items where unknown."""
        row = np.minimum(np.searchsorted(self.item_id, item_id), len(self.item_id) - 1)
        return np.where(self.item_id[row] == item_id, row, len(self.item_id))


def _ids(column: tf.SparseTensor | tf.RaggedTensor, places: int) -> np.ndarray:
    """The first known ids of each item, int32 [items, places], -1 where there are fewer."""
    ids = tf.RaggedTensor.from_sparse(column) if isinstance(column, tf.SparseTensor) else column
    known = tf.ragged.boolean_mask(ids, ids >= 0)
    return known.to_tensor(-1, shape=[None, places]).numpy().astype(np.int32)


def _without_empty_places(ids: np.ndarray) -> np.ndarray:
    """Without the places [items, places] that no item fills, but the first."""
    used = int((ids >= 0).sum(axis=1).max(initial=1))
    return ids[:, :used]


class CatalogTable(tf.Module):
    """Look-ups by id. The row after the last item stands for every unknown id.

    An item, artist, album or value of a column that no train window holds reads as its table's
    out-of-vocabulary row: what an embedding was initialised to says nothing.

    Of columns of items/: `values` by feature, int32 [items + 1, values], rows of an embedding table of
    `value_vocabulary_sizes` rows, -1 where there are fewer; `numbers` float32 [items + 1, numbers]; `vectors`
    by feature, float32 [items + 1, width].
    """

    def __init__(self, catalog: CatalogArrays, train_item_ids: np.ndarray) -> None:
        """`train_item_ids`: int64 ids of every item that train windows hold."""
        super().__init__(name="catalog_table")
        items = len(catalog.item_id)
        trained = np.isin(catalog.item_id, train_item_ids)
        item = np.zeros(items + 1, np.int32)
        item[:-1][trained] = 1 + np.arange(trained.sum())
        self.size = items
        self.item_vocabulary_size = int(trained.sum()) + 1
        artist, self.artist_vocabulary_size = _touched_rows(catalog.artist, trained)
        album, self.album_vocabulary_size = _touched_rows(catalog.album, trained)

        def table(values: np.ndarray, name: str) -> tf.Variable:
            return tf.Variable(values, trainable=False, name=name)

        self.item_id = table(catalog.item_id, "item_id")
        self.item = table(item, "item")
        self.artist = table(artist, "artist")
        self.album = table(album, "album")
        self.length = table(np.append(catalog.length, np.float32(0)), "length")
        self.values: dict[str, tf.Variable] = {}
        self.value_vocabulary_sizes: dict[str, int] = {}
        for name, ids in catalog.values.items():
            rows, self.value_vocabulary_sizes[name] = _touched_rows(ids, trained)
            self.values[name] = table(rows, name)
        numbers = np.zeros([items, 0], np.float32) if catalog.numbers is None else catalog.numbers
        self.numbers = table(_with_unknown(numbers), "numbers")
        self.vectors = {name: table(_with_unknown(rows), name) for name, rows in catalog.vectors.items()}
        # To tell artists apart, known to train or not: -1 where there is none.
        self.first_artist = table(np.append(catalog.artist[:, 0], np.int32(-1)), "first_artist")

    def rows_of(self, item_id: tf.Tensor) -> tf.Tensor:
        """Rows int32 of ids int64, any shape; `size` where unknown."""
        flat = tf.reshape(item_id, [-1])
        row = tf.minimum(tf.searchsorted(self.item_id, flat), self.size - 1)
        known = tf.gather(self.item_id, row) == flat
        return tf.reshape(tf.where(known, row, self.size), tf.shape(item_id))


def _with_unknown(rows: np.ndarray) -> np.ndarray:
    """One more row, of zeros."""
    return np.concatenate([rows, np.zeros_like(rows[:1], shape=[1, rows.shape[1]])])


def touched_by(ids: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Which vocabulary ids [items, ids] (-1: none) items of train have, ascending: the rows of an embedding
    table, but for the out-of-vocabulary row before them."""
    touched = np.unique(ids[trained])
    return touched[touched >= 0]


def _touched_rows(ids: np.ndarray, trained: np.ndarray) -> tuple[np.ndarray, int]:
    """Embedding rows [items + 1, ids] of vocabulary ids [items, ids] (-1: none), and their number."""
    touched = touched_by(ids, trained)
    row_of = np.zeros(max(ids.max(initial=-1), -1) + 2, np.int32)  # the last place is what -1 reads
    row_of[touched] = 1 + np.arange(len(touched))
    rows = np.where(ids >= 0, row_of[ids], -1)
    rows[(ids < 0).all(axis=1), 0] = OUT_OF_VOCABULARY  # an item without any still has one row to read
    unknown = np.array([[OUT_OF_VOCABULARY] + [-1] * (ids.shape[1] - 1)], np.int32)
    return np.concatenate([rows, unknown]).astype(np.int32), len(touched) + 1
