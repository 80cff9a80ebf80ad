"""The two-tower model as it is trained: both towers and the loss between them, over packed windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from two_tower.base.settings import DEFAULT_SEED
from two_tower.schema import features
from two_tower.trainer.loss.label_weights import play_ratio_weight, reaction_weight
from two_tower.trainer.loss.retrieval_task import retrieval_task
from two_tower.trainer.loss.sampling import (
    CandidateSampler,
    Drawn,
    draw_labels,
    draw_positions,
    had_by_then,
    label_index,
    less_had,
)
from two_tower.trainer.loss.streaming_frequency import StreamingFrequency
from two_tower.trainer.model.catalog_table import CatalogTable
from two_tower.trainer.model.towers import (
    CandidateTower,
    ItemEmbedding,
    QueryTower,
    padded,
    windows_of,
)
from two_tower.trainer.model.windows import Windows
from two_tower.trainer.settings import SHARED_TABLES, TrainerConfig


def towers_of(
    table: CatalogTable,
    users: int,
    history_length: int,
    config: TrainerConfig,
    user_values: Mapping[str, int] | None = None,
    first_embeddings: np.ndarray | None = None,
    seed: int = DEFAULT_SEED,
) -> tuple[ItemEmbedding, QueryTower, CandidateTower]:
    """Items' embeddings and the towers over them; for the arguments see TwoTowerModel."""
    items = ItemEmbedding(table, config, first=first_embeddings, seed=seed)
    of_history = items
    if SHARED_TABLES not in config.parts:
        of_history = ItemEmbedding(table, config, "history_embedding", first_embeddings, seed)
    query_tower = QueryTower(of_history, users, history_length, config, user_values)
    return items, query_tower, CandidateTower(items, config)


class TwoTowerModel(tfrs.Model):
    """Both towers and the loss between them, over packed windows."""

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
        first_embeddings: np.ndarray | None = None,
        seed: int = DEFAULT_SEED,
    ) -> None:
        """`log_q`: float32 [items + 1], see `sampling.log_sampling_probability`; `aggregates`: the history
        aggregates to read; `user_values`: see QueryTower; `user_weight`: float32 [users + 1], see
        `label_weights.user_weight`, default: all are one; `repeats_recommendable`: whether what a user has
        had is a negative as any other, since it may be recommended again; `first_embeddings`
        and `seed`: see ItemEmbedding."""
        super().__init__()
        items, self.query_tower, self.candidate_tower = towers_of(
            table, users, history_length, config, user_values, first_embeddings, seed
        )
        self.task = retrieval_task(config)
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
        self._sampler = CandidateSampler(config, table, log_q)

    @property
    def frequency(self) -> StreamingFrequency | None:
        """What estimates from the batches how often items are labels, where the settings ask for it."""
        return self._sampler.frequency

    def end_epoch(self) -> None:
        """What is to be done before the towers are asked: items that train does not know get their bias."""
        self._items.place_new_items(tf.constant(self._label_shares))

    def compute_loss(self, inputs: dict[str, tf.RaggedTensor], training: bool = False) -> tf.Tensor:
        """`inputs`: a batch of transformed windows.

        Under tf.distribute they are a replica's, and so is the loss: the sum over replicas is the loss of the
        joined batch, whose labels are negatives on all of them.
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
        candidates = self._sampler(drawn.rows, drawn.window, drawn.queries, training)
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
        """Of each position's label, float32 [windows, events]."""
        floor = self._config.label_weights.play_ratio_floor
        weight = play_ratio_weight(padded(inputs[features.HISTORY_PLAY_RATIO]), floor)
        if self._reactions:
            types = padded(inputs[features.EVENT_TYPE])
            weight *= reaction_weight(types, windows.rows, windows.is_listen, self._reactions)
        return tf.gather(weight, label_index(label_step), batch_dims=1)

    def _weights(self, drawn: Drawn, windows: Windows) -> tf.Tensor:
        """Of each query's label, float32 [queries]: over all replicas the sum is one, but for the users'
        weights."""
        weight = tf.gather(drawn.weight, drawn.queries)
        weight = tf.math.divide_no_nan(weight, tf.reduce_sum(drawn.weight))
        if self._user_weight is None:
            return weight
        # Not among what they are divided by: a step of heavy listeners alone would lift them back to one.
        return weight * tf.gather(self._user_weight, tf.gather(windows.user, drawn.at.window))


def label_rows_of(label_step: tf.Tensor, windows: Windows) -> tf.Tensor:
    """The catalog row of each position's label, int32 [windows, events].

    It means something where `label_step`, int64 [windows, events], is positive.
    """
    return tf.gather(windows.rows, label_index(label_step), batch_dims=1)
