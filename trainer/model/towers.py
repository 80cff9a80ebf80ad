"""The query tower and the candidate tower, over tables that they share."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from two_tower.base.settings import DEFAULT_SEED
from two_tower.schema import features
from two_tower.trainer.model.catalog_table import OUT_OF_VOCABULARY, CatalogTable
from two_tower.trainer.model.encoders import encoders
from two_tower.trainer.model.history_aggregates import catalog_aggregates
from two_tower.trainer.model.randomness import Dropout, uniform
from two_tower.trainer.model.repeat_head import RepeatHead
from two_tower.trainer.model.windows import Positions, Windows
from two_tower.trainer.settings import (
    AGGREGATES,
    EXAMPLE_AGE,
    HISTORY,
    ITEM_BIAS,
    NORMALISATION,
    REPEAT_HEAD,
    SEED,
    USER_ID,
    TrainerConfig,
)

# Days in which an example's age tells less and less apart, from hours to months.
_AGE_DECAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
# What an item's bias counts in logits: as embeddings move by the learning rate, so much faster it is learnt.
_BIAS_SCALE = 4.0
# Below a length of .01 an embedding is compared as if it were that long. An item of which nothing is known
# yet has none: its gradient would be a million times any other's, and Adam would take hundreds of steps to
# forget it.
_LEAST_SQUARE = 1e-4


class ItemEmbedding(tf.keras.layers.Layer):
    """Catalog rows to [..., width]: item, artist and album embeddings and the length, side by side.

    Columns of items/ follow: embeddings of values, numbers, and vectors, projected; with the part item_bias
    the item's bias comes last. The tables are shared by history, seed and candidates. What no item of train
    has is left out: data without artists has no table of them.
    """

    def __init__(
        self,
        table: CatalogTable,
        config: TrainerConfig,
        name: str = "item_embedding",
        first: np.ndarray | None = None,
        seed: int = DEFAULT_SEED,
    ) -> None:
        """`first`: float32 [item_vocabulary_size, item_width], where items' own embeddings begin, at random
        where a row is zero; None: all do. `seed`: of what is random."""
        super().__init__(name=name)
        # Out of Keras's sight, which would copy the catalog along with the weights of the best epoch.
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
            # Where nothing trains the out-of-vocabulary row (id dropout does, and a softmax of all items),
            # it must read as nothing.
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
        # Without bias, so that a vector of zeros, which is none, reads as nothing.
        self._projections = {
            name: tf.keras.layers.Dense(side, use_bias=False, name=f"{name}_projection")
            for name in table.vectors
        }

    @property
    def table(self) -> CatalogTable:
        """The catalog."""
        return self._get_table()

    def place_new_items(self, shares: tf.Tensor) -> None:
        """Gives the items that train does not know one bias: of those that it knows the mean over labels.

        Until it is counted, a release is as popular as what is listened to, not as the catalog's mean item.

        Args:
          shares: float32 [items + 1], of train's labels, each catalog row's.
        """
        if self.bias is None:
            return
        is_known = tf.cast(self.table.item != OUT_OF_VOCABULARY, tf.float32)
        total = tf.reduce_sum(shares * is_known * tf.gather(self.bias, self.table.item)[:, 0])
        mean = tf.math.divide_no_nan(total, tf.reduce_sum(shares * is_known))
        self.bias.assign(tf.concat([tf.reshape(mean, [1, 1]), self.bias[1:]], axis=0))

    @property
    def tables(self) -> list[tuple[str, tf.Variable]]:
        """The tables, each with the vocabulary that its rows are of."""
        tables = [
            (features.ITEM_VOCABULARY, self.item),
            (features.ITEM_VOCABULARY, self.bias),
            (features.ARTIST_VOCABULARY, self.artist),
            (features.ALBUM_VOCABULARY, self.album),
            *self._values.items(),
        ]
        return [(vocabulary, table) for vocabulary, table in tables if table is not None]

    def call(self, rows: tf.Tensor, training: bool = False) -> tf.Tensor:
        """`rows` int32 of any shape; the result has one more dimension."""
        item = tf.gather(self.table.item, rows)
        if training and self._id_dropout:
            item = tf.where(uniform(tf.shape(item)) < self._id_dropout, OUT_OF_VOCABULARY, item)
        names = [(self.artist, self.table.artist), (self.album, self.table.album)]
        return tf.concat(
            [
                tf.gather(self.item, item),
                *(_mean_embedding(one, tf.gather(ids, rows)) for one, ids in names if one is not None),
                tf.cast(tf.gather(self.table.length, rows)[..., tf.newaxis], self.compute_dtype),
                *(
                    _mean_embedding(table, tf.gather(self.table.values[name], rows))
                    for name, table in self._values.items()
                ),
                tf.cast(tf.gather(self.table.numbers, rows), self.compute_dtype),
                *(
                    project(tf.gather(self.table.vectors[name], rows))
                    for name, project in self._projections.items()
                ),
                # Whose id is forgotten keeps its bias: a new item is placed by all but the two.
                *([] if self.bias is None else [tf.gather(self.bias, tf.gather(self.table.item, rows))]),
            ],
            axis=-1,
        )


def item_width(table: CatalogTable, config: TrainerConfig) -> int:
    """Width of an item's own embedding: all of an embedding's, where nothing else is said of items."""
    says_more = table.artist_vocabulary_size > 1 or table.album_vocabulary_size > 1 or table.vectors
    return (says_more and config.item_embedding_dim) or config.embedding_dim


def value_width(values: int, config: TrainerConfig) -> int:
    """Width of the embedding of a column of so many values: half an item's, or about as many as it has.

    That is a power of two, so that a value more seldom changes the shape of what reads it: training that
    begins from an earlier model can keep those layers.
    """
    return min(config.embedding_dim // 2, 1 << (values - 1).bit_length())


def _mean_embedding(table: tf.Variable, rows: tf.Tensor) -> tf.Tensor:
    """Mean over the last dimension of `rows`, whose -1 are padding. The first is always there."""
    first = tf.gather(table, tf.maximum(rows[..., 0], 0))
    others = rows[..., 1:]
    present = tf.cast(others >= 0, first.dtype)
    # Few items have a second artist: the padding is not gathered.
    where = tf.where(others >= 0)
    total = first + tf.tensor_scatter_nd_add(
        tf.zeros_like(first), where[:, :-1], tf.gather(table, tf.gather_nd(others, where))
    )
    return total / (1.0 + tf.reduce_sum(present, axis=-1, keepdims=True))


class CandidateTower(tf.keras.layers.Layer):
    """Catalog rows [candidates] to embeddings [candidates, embedding_dim], L2-normalised for the cosine.

    With the part item_bias the last number is the item's bias, which is not normalised: queries have a
    constant there.
    """

    def __init__(self, items: ItemEmbedding, config: TrainerConfig) -> None:
        super().__init__(name="candidate_tower")
        self._items = items
        self._is_normalised = NORMALISATION in config.parts
        self._project = tf.keras.layers.Dense(_compared(config), name="candidate_projection")

    def call(self, rows: tf.Tensor, training: bool = False) -> tf.Tensor:
        """`rows` int32 [candidates]."""
        items = self._items(rows, training=training)
        embedding = _scored_by(self._project(items), self._is_normalised)
        if self._items.bias is None:
            return embedding
        return tf.concat([embedding, tf.cast(items[:, -1:], tf.float32)], axis=-1)


def _compared(config: TrainerConfig) -> int:
    """How many of an embedding's numbers say what query and candidate have in common."""
    return config.embedding_dim - (ITEM_BIAS in config.parts)


def _scored_by(embedding: tf.Tensor, is_normalised: bool) -> tf.Tensor:
    """Returns embeddings whose dot product is the score: of length one for the cosine, in full precision."""
    embedding = tf.cast(embedding, tf.float32)
    return tf.math.l2_normalize(embedding, axis=-1, epsilon=_LEAST_SQUARE) if is_normalised else embedding


def age_features(days: tf.Tensor) -> tf.Tensor:
    """Days [positions] to [positions, 1 + decays], all zero at an age of zero.

    A trend comes and goes within days; of the logarithm alone the towers make one slope for weeks.
    """
    decays = [1.0 - tf.exp(-days / decay) for decay in _AGE_DECAYS]
    return tf.stack([tf.math.log1p(days), *decays], axis=-1)


class QueryTower(tf.keras.layers.Layer):
    """Positions of packed windows to embeddings [positions, embedding_dim], L2-normalised for the cosine.

    The encoders serve every position of a window in one pass; seed, user with the columns of users/, example
    age and aggregates join after them. `repeats`, None without the part repeat_head, scores the items of
    their histories.
    """

    def __init__(
        self,
        items: ItemEmbedding,
        users: int,
        history_length: int,
        config: TrainerConfig,
        user_values: Mapping[str, int] | None = None,
    ) -> None:
        """`users`: size of the user vocabulary, without the out-of-vocabulary row, which comes last.

        `user_values`: size of each vocabulary of `Windows.user_values`.
        """
        # Days and aggregates keep their precision until they are joined.
        super().__init__(name="query_tower", autocast=False)
        self._items = items
        self._unknown_user = tf.constant(users, tf.int64)
        self._config = config
        self._parts = frozenset(config.parts)
        self._encoders = encoders(history_length, config) if HISTORY in self._parts else []
        self.repeats = None
        if {REPEAT_HEAD, HISTORY} <= self._parts:
            self.repeats = RepeatHead(history_length, items.table.size, config, AGGREGATES in self._parts)
        self._users = tf.keras.layers.Embedding(
            users + 1, config.embedding_dim // 2, embeddings_initializer="zeros", name="user"
        )
        self._user_values = {
            # One row more, the first, for what is absent or unknown.
            name: self.add_weight(
                name=name, shape=[values + 1, value_width(values + 1, config)], initializer="zeros"
            )
            for name, values in (user_values or {}).items()
        }
        self._hidden = [
            tf.keras.layers.Dense(units, activation="relu", name=f"query_hidden_{number}")
            for number, units in enumerate(config.query_hidden_units)
        ]
        self._dropout = Dropout(config.dropout.hidden)
        self._project = tf.keras.layers.Dense(_compared(config), name="query_projection")
        # A straight way past the hidden layers, so that "the same again" and "the same artist again",
        # which are linear in the shared embeddings, need not be relearnt through them. For the example age
        # likewise: what was popular then and is not now, for whoever asks.
        self._shortcut = tf.keras.layers.Dense(_compared(config), use_bias=False, name="query_shortcut")

    @property
    def tables(self) -> list[tuple[str, tf.Variable]]:
        """The embedding tables of users, each with the vocabulary of its rows; once the tower is built."""
        of_users = [(features.USER_VOCABULARY, self._users.embeddings)] if self._users.built else []
        return [*of_users, *self._user_values.items()]

    def call(self, windows: Windows, positions: Positions, training: bool = False) -> tf.Tensor:
        """See `Windows` and `Positions` for the shapes."""
        config = self._config
        # An empty history reads event 0 and keeps nothing of it.
        event = tf.maximum(positions.event, 0)
        has_history = positions.event >= 0
        if training and config.dropout.history:
            has_history &= uniform(tf.shape(event)) >= config.dropout.history
        keep = tf.cast(has_history, self.compute_dtype)[:, tf.newaxis]
        at = tf.stack([positions.window, event], axis=-1)

        # [positions, any] each: what the shortcut takes too, and what joins it.
        direct = self._of_items(windows, positions.window, event, has_history, training)
        joined = [keep]
        if EXAMPLE_AGE in self._parts:
            direct.append(age_features(tf.gather_nd(windows.example_age, at)))
        if USER_ID in self._parts:
            user = tf.gather(windows.user, positions.window)
            if training and config.dropout.id:
                is_forgotten = uniform(tf.shape(user)) < config.dropout.id
                user = tf.where(is_forgotten, self._unknown_user, user)
            joined.append(self._users(user))
        # gather_nd refuses a matrix without columns.
        if AGGREGATES in self._parts and windows.aggregates.shape[-1] != 0:
            joined.append(tf.gather_nd(windows.aggregates, at) * tf.cast(keep, tf.float32))
        joined += self._user_columns(windows, positions.window, training)
        joined = [tf.cast(values, self.compute_dtype) for values in [*direct, *joined]]
        hidden = tf.concat(joined, axis=-1)
        for layer in self._hidden:
            hidden = self._dropout(layer(hidden), training=training)
        embedding = self._project(hidden)
        if direct:
            embedding += self._shortcut(tf.concat(joined[: len(direct)], axis=-1))
        embedding = _scored_by(embedding, NORMALISATION in self._parts)
        if ITEM_BIAS not in self._parts:
            return embedding
        # The loss divides by the temperature, a bias' counts as it is.
        constant = tf.fill([tf.shape(embedding)[0], 1], _BIAS_SCALE * config.temperature)
        return tf.concat([embedding, constant], axis=-1)

    def _of_items(
        self,
        windows: Windows,
        window: tf.Tensor,
        event: tf.Tensor,
        has_history: tf.Tensor,
        training: bool,
    ) -> list[tf.Tensor]:
        """What history and seed say at each position, [positions, any]: each encoder's output, and the seed.

        An item is embedded once, however many windows have it.
        """
        if not {HISTORY, SEED} & self._parts:
            return []
        is_event = tf.sequence_mask(windows.length, tf.shape(windows.rows)[1])

        def flat(values: tf.Tensor, last: int) -> tf.Tensor:
            """All windows' events in a row, and one more, of no window, which an empty history reads."""
            return tf.pad(tf.boolean_mask(values, is_event), [[0, 1]], constant_values=last)

        rows, place = tf.unique(flat(windows.rows, self._items.table.size))
        embedded = tf.gather(self._items(rows, training=training), place)
        at = tf.gather(tf.cumsum(windows.length, exclusive=True), window) + event
        found = []
        if self._encoders:
            number = tf.range(tf.size(windows.length))[:, tf.newaxis] + tf.zeros_like(windows.rows)
            of_events = (
                embedded,
                flat(number, -1),
                flat(windows.is_listen, False),
                None if windows.elapsed is None else flat(windows.elapsed, 0),
            )
            keep = tf.cast(has_history, self.compute_dtype)[:, tf.newaxis]
            found = [tf.gather(encode(*of_events, training=training), at) * keep for encode in self._encoders]
        if SEED in self._parts:
            found.append(tf.gather(embedded, tf.where(has_history, at, tf.size(place) - 1)))
        return found

    def _user_columns(self, windows: Windows, window: tf.Tensor, training: bool) -> list[tf.Tensor]:
        """What the columns of users/ say at each position, [positions, any].

        In training each is forgotten now and then, as an id is, so that a user of whom it is not known is
        answered too.
        """

        def at_positions(of_window: tf.Tensor, absent: tf.Tensor) -> tf.Tensor:
            values = tf.gather(of_window, window)
            if training and self._config.dropout.id:
                forgotten = uniform([tf.size(window), 1]) < self._config.dropout.id
                values = tf.where(forgotten, absent, values)
            return values

        columns = [
            at_positions(
                _mean_embedding(table, windows.user_values[name]), tf.gather(table, OUT_OF_VOCABULARY)
            )
            for name, table in self._user_values.items()
        ]
        if windows.user_numbers.shape[1] != 0:
            columns.append(at_positions(windows.user_numbers, tf.zeros([])))
        return columns


def windows_of(
    transformed: dict[str, tf.RaggedTensor | tf.Tensor],
    table: CatalogTable,
    history_length: int,
    aggregates: Sequence[str] = features.AGGREGATES,
) -> Windows:
    """Pads Transform's ragged outputs [windows, (events)] to the towers' input.

    `example_age` may be left out, and is then zero: "now", which is what serving asks for. `aggregates`
    names those that the towers are to read.
    """
    item_id = transformed[features.HISTORY_ITEM_ID]
    rows = table.rows_of(padded(item_id, features.PADDING))
    listens = transformed[features.IS_LISTEN]
    is_listen = padded(listens) > 0
    age, elapsed = features.EXAMPLE_AGE, features.ELAPSED_SECONDS
    of_catalog = catalog_aggregates(
        rows, is_listen, table.first_artist, table.length, history_length, aggregates
    )
    names = features.aggregate_columns(aggregates)
    # One matrix to pad, rather than each of its columns.
    of_events = [transformed[name].flat_values[:, tf.newaxis] for name in names]
    of_events = tf.concat([tf.zeros([tf.size(listens.flat_values), 0]), *of_events], axis=-1)
    user = tf.reshape(transformed[features.USER], [-1])
    user_values, user_numbers = _user_columns(transformed)
    return Windows(
        user=user,
        length=tf.cast(item_id.row_lengths(), tf.int32),
        rows=rows,
        is_listen=is_listen,
        play_ratio=padded(transformed[features.HISTORY_PLAY_RATIO], features.UNKNOWN),
        elapsed=padded(transformed[elapsed]) if elapsed in transformed else None,
        example_age=padded(transformed[age]) if age in transformed else tf.zeros(tf.shape(rows)),
        aggregates=tf.concat([padded(listens.with_flat_values(of_events)), of_catalog], axis=-1),
        user_values=user_values,
        user_numbers=tf.concat([tf.zeros([tf.size(user), 0]), *user_numbers], axis=-1),
    )


def _user_columns(
    transformed: dict[str, tf.RaggedTensor | tf.Tensor],
) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
    """Rows of embedding tables by feature, and numbers and vectors; see `Windows`."""
    values, numbers = {}, []
    if features.NUMBERS in transformed:
        numbers.append(transformed[features.NUMBERS])
    for name in sorted(transformed):
        if not name.startswith(features.transformed_column("user_")):
            continue
        column = transformed[name]
        if column.dtype != tf.int64:
            numbers.append(column)
            continue
        rows = padded(tf.ragged.boolean_mask(column, column >= 0) + 1, features.PADDING)
        first = tf.maximum(rows[:, :1], OUT_OF_VOCABULARY)
        values[name] = tf.cast(tf.concat([first, rows[:, 1:]], axis=1), tf.int32)
    return values, numbers


def padded(values: tf.RaggedTensor, padding: int = 0) -> tf.Tensor:
    """[windows, (events), ...] to [windows, events, ...], with one event at least, which an empty history
    reads."""
    dense = values.to_tensor(padding)
    missing = tf.maximum(1 - tf.shape(dense)[1], 0)
    inner = [[0, 0]] * (len(dense.shape) - 2)
    return tf.pad(dense, [[0, 0], [0, missing], *inner], constant_values=padding)
