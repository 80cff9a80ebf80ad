"""The catalog as one table in the model: item id → row → features.

Both towers, in training and in serving, look items up here; windows and requests carry ids only. It is held
in variables (a constant would end at 2 GB), sorted by id, so that a look-up is a binary search.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from trainer import features

# Most items have one artist and one album; of the rest, this many are kept.
MAX_IDS_PER_ITEM = 4
# Row of every embedding table that stands for "never touched by training".
OUT_OF_VOCABULARY = 0


@dataclasses.dataclass(frozen=True)
class CatalogArrays:
    """The catalog in NumPy, sorted by id.

    `item_id` int64 [items]; `artist`, `album` int32 [items, MAX_IDS_PER_ITEM], -1 where there are fewer;
    `length` float32 [items], z-scored.
    """

    item_id: np.ndarray
    artist: np.ndarray
    album: np.ndarray
    length: np.ndarray

    @classmethod
    def read(cls, files: list[str], feature_spec: dict[str, object]) -> CatalogArrays:
        """Reads CatalogTransform's Examples."""
        columns: dict[str, list[np.ndarray]] = {
            name: [] for name in (features.ITEM_ID, features.ARTIST, features.ALBUM, features.LENGTH)
        }
        dataset = tf.data.TFRecordDataset(files, compression_type="GZIP").batch(8_192)
        for serialized in dataset:
            parsed = tf.io.parse_example(serialized, feature_spec)
            for name in (features.ITEM_ID, features.LENGTH):
                columns[name].append(tf.reshape(parsed[name], [-1]).numpy())
            for name in (features.ARTIST, features.ALBUM):
                ids = parsed[name]
                if isinstance(ids, tf.SparseTensor):
                    ids = tf.RaggedTensor.from_sparse(ids)
                columns[name].append(ids.to_tensor(-1, shape=[None, MAX_IDS_PER_ITEM]).numpy())
        joined = {name: np.concatenate(parts) for name, parts in columns.items()}
        by = np.argsort(joined[features.ITEM_ID], kind="stable")
        return cls(
            item_id=joined[features.ITEM_ID][by],
            artist=joined[features.ARTIST][by].astype(np.int32),
            album=joined[features.ALBUM][by].astype(np.int32),
            length=joined[features.LENGTH][by].astype(np.float32),
        )

    def rows_of(self, item_id: np.ndarray) -> np.ndarray:
        """Row of each id, the number of items where unknown."""
        row = np.minimum(np.searchsorted(self.item_id, item_id), len(self.item_id) - 1)
        return np.where(self.item_id[row] == item_id, row, len(self.item_id))


class CatalogTable(tf.Module):
    """Look-ups by id. The row after the last item stands for every unknown id.

    An item, artist or album that no train window holds reads as its table's out-of-vocabulary row: what
    an embedding was initialised to says nothing.
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

    def rows_of(self, item_id: tf.Tensor) -> tf.Tensor:
        """Rows int32 of ids int64, any shape; `size` where unknown."""
        flat = tf.reshape(item_id, [-1])
        row = tf.minimum(tf.searchsorted(self.item_id, flat), self.size - 1)
        known = tf.gather(self.item_id, row) == flat
        return tf.reshape(tf.where(known, row, self.size), tf.shape(item_id))


def _touched_rows(ids: np.ndarray, trained: np.ndarray) -> tuple[np.ndarray, int]:
    """Embedding rows [items + 1, MAX_IDS_PER_ITEM] of vocabulary ids (-1: none), and their number."""
    touched = np.unique(ids[trained])
    touched = touched[touched >= 0]
    row_of = np.zeros(max(ids.max(initial=-1), -1) + 2, np.int32)  # the last place is what -1 reads
    row_of[touched] = 1 + np.arange(len(touched))
    rows = np.where(ids >= 0, row_of[ids], -1)
    rows[(ids < 0).all(axis=1), 0] = OUT_OF_VOCABULARY  # an item without any still has one row to read
    unknown = np.array([[OUT_OF_VOCABULARY] + [-1] * (ids.shape[1] - 1)], np.int32)
    return np.concatenate([rows, unknown]).astype(np.int32), len(touched) + 1
