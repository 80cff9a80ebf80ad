"""Query tower and candidate tower, over a shared item embedding."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from two_tower.schema import features
from two_tower.trainer.model.catalog_table import OUT_OF_VOCABULARY
from two_tower.trainer.model.encoders import encoders
from two_tower.trainer.model.item_embedding import ItemEmbedding, mean_embedding, value_width
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

# Decay times, in days, of the features of example age: from hours to months.
_AGE_DECAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
# Factor of an item's bias in logits. It multiplies the bias's effective learning rate.
_BIAS_SCALE = 4.0
# Least squared length in L2 normalisation, a length of .01. An item without known features has length zero.
# Its gradient would be a million times any other's, and Adam would take hundreds of steps to forget it.
_LEAST_SQUARE = 1e-4


class CandidateTower(tf.keras.layers.Layer):
    """Candidate tower: catalog rows [candidates] to embeddings [candidates, embedding_dim].

    Embeddings are L2-normalised for the cosine. With the part item_bias the last number is the item's bias.
    It is not normalised; queries have a constant there.
    """

    def __init__(self, items: ItemEmbedding, config: TrainerConfig) -> None:
        super().__init__(name="candidate_tower")
        self._items = items
        self._is_normalised = NORMALISATION in config.parts
        self._project = tf.keras.layers.Dense(_projection_width(config), name="candidate_projection")

    def call(self, rows: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Embeds candidates: `rows` int32 [candidates]."""
        items = self._items(rows, training=training)
        embedding = _normalised(self._project(items), self._is_normalised)
        if self._items.bias is None:
            return embedding
        return tf.concat([embedding, tf.cast(items[:, -1:], tf.float32)], axis=-1)


def _projection_width(config: TrainerConfig) -> int:
    """Returns the width of an embedding without the item bias."""
    return config.embedding_dim - (ITEM_BIAS in config.parts)


def _normalised(embedding: tf.Tensor, is_normalised: bool) -> tf.Tensor:
    """Casts embeddings to float32, and normalises them to length one for the cosine."""
    embedding = tf.cast(embedding, tf.float32)
    return tf.math.l2_normalize(embedding, axis=-1, epsilon=_LEAST_SQUARE) if is_normalised else embedding


def age_features(days: tf.Tensor) -> tf.Tensor:
    """Computes features of example age, [positions] days to [positions, 1 + decays]; zero at age zero.

    Trends come and go within days. From the logarithm alone the towers learn one slope over weeks.
    """
    decays = [1.0 - tf.exp(-days / decay) for decay in _AGE_DECAYS]
    return tf.stack([tf.math.log1p(days), *decays], axis=-1)


class QueryTower(tf.keras.layers.Layer):
    """Query tower: positions of packed windows to embeddings [positions, embedding_dim].

    Embeddings are L2-normalised for the cosine. The encoders encode all positions of a window in one pass.
    Seed item, user, columns of users/, example age and aggregates are concatenated after them. `repeats` is
    the repeat head, None without the part repeat_head.
    """

    def __init__(
        self,
        items: ItemEmbedding,
        users: int,
        history_length: int,
        config: TrainerConfig,
        user_values: Mapping[str, int] | None = None,
    ) -> None:
        """Args:
        items: the item embedding of history and seed.
        users: size of the user vocabulary, without the out-of-vocabulary row, which comes last.
        history_length: N.
        config: the settings.
        user_values: size of each vocabulary of `Windows.user_values`.
        """
        # No autocast: days and aggregates keep their precision until concatenation.
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
            # The first row is for absent and unknown values.
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
        self._project = tf.keras.layers.Dense(_projection_width(config), name="query_projection")
        # A linear shortcut past the hidden layers: "the same again" and "the same artist again" are linear
        # in the shared embeddings. So is the effect of example age, popularity at that time, which is the
        # same for all users.
        self._shortcut = tf.keras.layers.Dense(
            _projection_width(config), use_bias=False, name="query_shortcut"
        )

    @property
    def tables(self) -> list[tuple[str, tf.Variable]]:
        """Embedding tables of users, each with the vocabulary of its rows; complete after the build."""
        of_users = [(features.USER_VOCABULARY, self._users.embeddings)] if self._users.built else []
        return [*of_users, *self._user_values.items()]

    def call(self, windows: Windows, positions: Positions, training: bool = False) -> tf.Tensor:
        """Embeds queries; for the shapes see `Windows` and `Positions`."""
        config = self._config
        # An empty history reads event 0, and `keep` zeroes it.
        event = tf.maximum(positions.event, 0)
        has_history = positions.event >= 0
        if training and config.dropout.history:
            has_history &= uniform(tf.shape(event)) >= config.dropout.history
        keep = tf.cast(has_history, self.compute_dtype)[:, tf.newaxis]
        at = tf.stack([positions.window, event], axis=-1)

        # Inputs [positions, any]: `direct` ones go to the shortcut too.
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
        embedding = _normalised(embedding, NORMALISATION in self._parts)
        if ITEM_BIAS not in self._parts:
            return embedding
        # The loss divides by the temperature, from which the bias is exempt.
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
        """Computes the outputs of the encoders and the seed item's embedding, each [positions, any].

        An item is embedded once, however many windows have it.
        """
        if not {HISTORY, SEED} & self._parts:
            return []
        is_event = tf.sequence_mask(windows.length, tf.shape(windows.rows)[1])

        def flat(values: tf.Tensor, last: int) -> tf.Tensor:
            """Concatenates the events of all windows, and one event of no window for empty histories."""
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
        """Computes the features of columns of users/, each [positions, any].

        In training dropout hides each column like an id, so that users with unknown values are trained too.
        """

        def at_positions(of_window: tf.Tensor, absent: tf.Tensor) -> tf.Tensor:
            values = tf.gather(of_window, window)
            if training and self._config.dropout.id:
                forgotten = uniform([tf.size(window), 1]) < self._config.dropout.id
                values = tf.where(forgotten, absent, values)
            return values

        columns = [
            at_positions(
                mean_embedding(table, windows.user_values[name]), tf.gather(table, OUT_OF_VOCABULARY)
            )
            for name, table in self._user_values.items()
        ]
        if windows.user_numbers.shape[1] != 0:
            columns.append(at_positions(windows.user_numbers, tf.zeros([])))
        return columns
