"""Two-tower model for training: query tower, candidate tower and loss, over packed windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from two_tower.base.settings import DEFAULT_SEED
from two_tower.schema import features
from two_tower.trainer.loss.label_weights import play_ratio_weight, reaction_weight
from two_tower.trainer.loss.labelled_positions import Drawn, draw_labels, draw_positions, label_index
from two_tower.trainer.loss.losses import loss_of
from two_tower.trainer.loss.sampling import had_by_then, less_had
from two_tower.trainer.loss.streaming_frequency import StreamingFrequency
from two_tower.trainer.model.catalog_table import CatalogTable
from two_tower.trainer.model.item_embedding import ItemEmbedding
from two_tower.trainer.model.towers import CandidateTower, QueryTower
from two_tower.trainer.model.windows import Windows, padded, windows_of
from two_tower.trainer.settings import SHARED_TABLES, TrainerConfig


def towers_of(
    table: CatalogTable,
    users: int,
    history_length: int,
    config: TrainerConfig,
    user_values: Mapping[str, int] | None = None,
    initial_embeddings: np.ndarray | None = None,
    seed: int = DEFAULT_SEED,
) -> tuple[ItemEmbedding, QueryTower, CandidateTower]:
    """Builds the item embedding and the towers over it; for the arguments see TwoTowerModel."""
    items = ItemEmbedding(table, config, first=initial_embeddings, seed=seed)
    of_history = items
    if SHARED_TABLES not in config.parts:
        of_history = ItemEmbedding(table, config, "history_embedding", initial_embeddings, seed)
    query_tower = QueryTower(of_history, users, history_length, config, user_values)
    return items, query_tower, CandidateTower(items, config)


class TwoTowerModel(tfrs.Model):
    """Model of both towers and the loss, over packed windows."""

    def __init__(
        self,
        table: CatalogTable,
        log_q: np.ndarray,
        users: int,
        history_length: int,
        config: TrainerConfig,
        aggregates: Sequence[str] = features.AGGREGATES,
        user_values: Mapping[str, int] | None = None,
        user_weight: np.ndarray | None = None,
        repeats_recommendable: bool = True,
        initial_embeddings: np.ndarray | None = None,
        seed: int = DEFAULT_SEED,
    ) -> None:
        """Args:
        table: the catalog.
        log_q: float32 [items + 1], see `sampling.log_sampling_probability`.
        users: see QueryTower.
        history_length: events that a query sees.
        config: the settings.
        aggregates: the history aggregates to read.
        user_values: see QueryTower.
        user_weight: float32 [users + 1], see `label_weights.user_weight`; default: all are one.
        repeats_recommendable: whether items that the user has had are negatives. They are where they may
          be recommended again.
        initial_embeddings: the initialisation, see ItemEmbedding.
        seed: see ItemEmbedding.
        """
        super().__init__()
        items, self.query_tower, self.candidate_tower = towers_of(
            table, users, history_length, config, user_values, initial_embeddings, seed
        )
        loss = loss_of(config, table, log_q)
        self.task = loss.task()
        self._items = items
        self._label_shares = np.exp(log_q)
        self._history_length = history_length
        self._repeats_recommendable = repeats_recommendable
        self._aggregates = tuple(aggregates)
        self._config = config
        self._reactions = dict(config.label_weights.reactions)
        self._user_weight = None
        if user_weight is not None:
            self._user_weight = tf.Variable(user_weight, trainable=False, name="user_weight")
        self._sampler = loss

    @property
    def frequency(self) -> StreamingFrequency | None:
        """Streaming frequency estimation, None where the settings do without."""
        return self._sampler.frequency

    def end_epoch(self) -> None:
        """Sets the bias of items new to train; call it before validation and saving."""
        self._items.place_new_items(tf.constant(self._label_shares))

    def compute_loss(self, inputs: dict[str, tf.RaggedTensor], training: bool = False) -> tf.Tensor:
        """Computes the loss of a batch of transformed windows, `inputs`.

        Under tf.distribute inputs and loss are a replica's. The sum over replicas is the loss of the joined
        batch, whose labels are negatives on all replicas.
        """
        table = self._items.table
        windows = windows_of(inputs, table, self._history_length, self._aggregates)
        label_step, age = padded(inputs[features.LABEL_STEP]), windows.example_age
        if training and self._config.label_horizon > 1:
            label_step, age = draw_labels(label_step, age, self._config.label_horizon)
        windows = windows._replace(example_age=age)
        label_rows = label_rows_of(label_step, windows)
        weight = self._label_weights(inputs, windows, label_step)
        drawn = draw_positions(label_step, label_rows, weight, table.size, self._config.positions_per_step)
        candidates = self._sampler.candidates(drawn.rows, drawn.window, drawn.queries, training)
        if not self._repeats_recommendable:
            had = had_by_then(windows.rows, drawn.at, candidates.rows, table.size)
            candidates = less_had(candidates, had)
        queries = self.query_tower(windows, drawn.at, training=training)
        scored = (queries, self.candidate_tower(candidates.rows, training=training), candidates)
        weights = self._weights(drawn, windows)
        if self.query_tower.repeats is None:
            return self.task(*scored, weights)
        repeats = self.query_tower.repeats(windows, drawn.at, queries, self.candidate_tower)
        return self.task(*scored, weights, repeats)

    def _label_weights(
        self, inputs: dict[str, tf.RaggedTensor], windows: Windows, label_step: tf.Tensor
    ) -> tf.Tensor:
        """Computes the weight of each position's label, float32 [windows, events]."""
        floor = self._config.label_weights.play_ratio_floor
        weight = play_ratio_weight(padded(inputs[features.HISTORY_PLAY_RATIO]), floor)
        if self._reactions:
            types = padded(inputs[features.EVENT_TYPE])
            weight *= reaction_weight(types, windows.rows, windows.is_listen, self._reactions)
        return tf.gather(weight, label_index(label_step), batch_dims=1)

    def _weights(self, drawn: Drawn, windows: Windows) -> tf.Tensor:
        """Computes the weight of each query's label in the loss, float32 [queries].

        Over all replicas the sum is one, before the users' weights.
        """
        weight = tf.gather(drawn.weight, drawn.queries)
        weight = tf.math.divide_no_nan(weight, tf.reduce_sum(drawn.weight))
        if self._user_weight is None:
            return weight
        # After the division: else a step of heavy listeners alone would lift their weights back to one.
        return weight * tf.gather(self._user_weight, tf.gather(windows.user, drawn.at.window))


def label_rows_of(label_step: tf.Tensor, windows: Windows) -> tf.Tensor:
    """Returns the catalog row of each position's label, int32 [windows, events].

    It is defined where `label_step`, int64 [windows, events], is positive.
    """
    return tf.gather(windows.rows, label_index(label_step), batch_dims=1)
