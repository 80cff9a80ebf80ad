"""Item embedding: tables of items, artists, albums and columns that query and candidate tower share."""

from __future__ import annotations

import zlib

import numpy as np
import tensorflow as tf

from two_tower.base.settings import DEFAULT_SEED
from two_tower.schema import features
from two_tower.trainer.model.catalog_table import OUT_OF_VOCABULARY, CatalogTable
from two_tower.trainer.model.randomness import uniform
from two_tower.trainer.settings import ITEM_BIAS, TrainerConfig


class ItemEmbedding(tf.keras.layers.Layer):
    """Layer from catalog rows to item embeddings [..., width].

    It concatenates embeddings of item, artist and album, the length, and columns of items/: embeddings of
    values, numbers, and projected vectors. With the part item_bias the item's bias comes last. History, seed
    and candidates share the tables. A feature without any value in train has no table.
    """

    def __init__(
        self,
        table: CatalogTable,
        config: TrainerConfig,
        name: str = "item_embedding",
        first: np.ndarray | None = None,
        seed: int = DEFAULT_SEED,
    ) -> None:
        """Args:
        table: the catalog.
        config: the settings.
        name: of the layer.
        first: the initialisation of items' embeddings, float32 [item_vocabulary_size, item_width]. A row of
          zeros is initialised at random; None: all rows are.
        seed: of the random initialisation.
        """
        super().__init__(name=name)
        # Hidden from Keras, which would copy the catalog with the weights of the best epoch.
        self._get_table = lambda: table
        self._id_dropout = config.dropout.id
        side = config.embedding_dim // 2

        def embeddings(
            rows: int, width: int, name: str, number: int, first: np.ndarray | None = None
        ) -> tf.Variable:
            number ^= zlib.crc32(self.name.encode())
            initial = tf.random.stateless_normal([rows, width], [seed, number], stddev=width**-0.5)
            if first is not None:
                initial = tf.where(tf.reduce_any(first != 0.0, axis=1, keepdims=True), first, initial)
            # The out-of-vocabulary row is zero, since it may stay untrained. Id dropout and the full softmax
            # train it.
            initial = tf.concat([tf.zeros([1, width]), initial[1:]], axis=0)
            return self.add_weight(name=name, shape=[rows, width], initializer=lambda *_, **__: initial)

        self.item = embeddings(table.item_vocabulary_size, item_width(table, config), "item", 4, first)
        self.bias = None
        if ITEM_BIAS in config.parts:
            self.bias = self.add_weight(
                name="item_bias", shape=[table.item_vocabulary_size, 1], initializer="zeros"
            )
        self.artist = self.album = None
        if table.artist_vocabulary_size > 1:
            self.artist = embeddings(table.artist_vocabulary_size, side, "artist", 6)
        if table.album_vocabulary_size > 1:
            self.album = embeddings(table.album_vocabulary_size, side, "album", 5)
        self._values = {
            name: embeddings(rows, value_width(rows, config), name, zlib.crc32(name.encode()))
            for name, rows in table.value_vocabulary_sizes.items()
        }
        # Without bias, so that a missing vector, all zeros, projects to zeros.
        self._projections = {
            name: tf.keras.layers.Dense(side, use_bias=False, name=f"{name}_projection")
            for name in table.vectors
        }

    @property
    def table(self) -> CatalogTable:
        """Catalog table."""
        return self._get_table()

    def place_new_items(self, shares: tf.Tensor) -> None:
        """Sets the bias of cold items to the mean bias of train's labels.

        A cold item counts as popular as the items that users listen to, not as the catalog's mean item.

        Args:
          shares: float32 [items + 1], the share of train's labels of each catalog row.
        """
        if self.bias is None:
            return
        is_known = tf.cast(self.table.item != OUT_OF_VOCABULARY, tf.float32)
        total = tf.reduce_sum(shares * is_known * tf.gather(self.bias, self.table.item)[:, 0])
        mean = tf.math.divide_no_nan(total, tf.reduce_sum(shares * is_known))
        self.bias.assign(tf.concat([tf.reshape(mean, [1, 1]), self.bias[1:]], axis=0))

    @property
    def tables(self) -> list[tuple[str, tf.Variable]]:
        """Embedding tables, each with the vocabulary of its rows."""
        tables = [
            (features.ITEM_VOCABULARY, self.item),
            (features.ITEM_VOCABULARY, self.bias),
            (features.ARTIST_VOCABULARY, self.artist),
            (features.ALBUM_VOCABULARY, self.album),
            *self._values.items(),
        ]
        return [(vocabulary, table) for vocabulary, table in tables if table is not None]

    def call(self, rows: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Embeds catalog rows, int32 of any shape; the result has one more dimension."""
        item = tf.gather(self.table.item, rows)
        if training and self._id_dropout:
            item = tf.where(uniform(tf.shape(item)) < self._id_dropout, OUT_OF_VOCABULARY, item)
        names = [(self.artist, self.table.artist), (self.album, self.table.album)]
        return tf.concat(
            [
                tf.gather(self.item, item),
                *(mean_embedding(one, tf.gather(ids, rows)) for one, ids in names if one is not None),
                tf.cast(tf.gather(self.table.length, rows)[..., tf.newaxis], self.compute_dtype),
                *(
                    mean_embedding(table, tf.gather(self.table.values[name], rows))
                    for name, table in self._values.items()
                ),
                tf.cast(tf.gather(self.table.numbers, rows), self.compute_dtype),
                *(
                    project(tf.gather(self.table.vectors[name], rows))
                    for name, project in self._projections.items()
                ),
                # Id dropout keeps the bias.
                *([] if self.bias is None else [tf.gather(self.bias, tf.gather(self.table.item, rows))]),
            ],
            axis=-1,
        )


def item_width(table: CatalogTable, config: TrainerConfig) -> int:
    """Returns the width of an item's own embedding: `embedding_dim`, unless items have other features."""
    says_more = table.artist_vocabulary_size > 1 or table.album_vocabulary_size > 1 or table.vectors
    return (says_more and config.item_embedding_dim) or config.embedding_dim


def value_width(values: int, config: TrainerConfig) -> int:
    """Returns the embedding width of a column with `values` values: half an item's, or about as many.

    It is a power of two, so that one more value seldom changes the shapes of layers. So a warm start can
    restore them.
    """
    return min(config.embedding_dim // 2, 1 << (values - 1).bit_length())


def mean_embedding(table: tf.Variable, rows: tf.Tensor) -> tf.Tensor:
    """Averages embeddings over the last dimension of `rows`; -1 is padding, never in the first place."""
    first = tf.gather(table, tf.maximum(rows[..., 0], 0))
    others = rows[..., 1:]
    present = tf.cast(others >= 0, first.dtype)
    # Few items have a second artist: the padding is not gathered.
    where = tf.where(others >= 0)
    total = first + tf.tensor_scatter_nd_add(
        tf.zeros_like(first), where[:, :-1], tf.gather(table, tf.gather_nd(others, where))
    )
    return total / (1.0 + tf.reduce_sum(present, axis=-1, keepdims=True))
