"""Signatures of the towers' SavedModel: raw ids and times in, embeddings out.

A signature runs Transform's graph and the trained towers. A request is one window with a query at its last
listen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf

from two_tower.data_directory.feature_columns import FeatureSpec, ResolvedFeatures
from two_tower.schema import features
from two_tower.schema.request_inputs import ITEM, LIST, PER_QUERY, QUERY_INPUTS, RequestInput
from two_tower.trainer.model.catalog_table import CatalogTable
from two_tower.trainer.model.history_aggregates import is_label_event
from two_tower.trainer.model.towers import CandidateTower, QueryTower
from two_tower.trainer.model.windows import Positions, windows_of

Tensors = dict[str, tf.Tensor]


def query_inputs(users: Iterable[FeatureSpec]) -> tuple[RequestInput, ...]:
    """Returns the inputs of a query, columns of users/ last."""
    return (*QUERY_INPUTS, *map(_column_input, users))


def _column_input(spec: FeatureSpec) -> RequestInput:
    kind = spec.column_kind
    return RequestInput(
        spec.name,
        LIST if kind.is_list else PER_QUERY,
        kind.dtype,
        f"the user's {spec.column}{kind.request_note}",
        kind.absent,
        width=spec.width if kind.has_width else 0,
    )


def tensor_spec(one: RequestInput) -> tf.TensorSpec:
    """Returns an input's shape and type, for TensorFlow."""
    return tf.TensorSpec(one.sizes, tf.as_dtype(one.dtype), one.name)


def signature(function: Callable[[Tensors], Tensors], inputs: Sequence[RequestInput]) -> Any:
    """Makes a tf.function whose parameters are `inputs`, of a function of the tensors by name.

    tf.function takes names and defaults from a function's signature. The settings name the columns, so
    only code can make that signature.
    """

    def by_place(*values: tf.Tensor) -> Tensors:
        return function({one.name: value for one, value in zip(inputs, values, strict=True)})

    parameters = [
        inspect.Parameter(
            one.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=inspect.Parameter.empty
            if one.is_required
            else tf.constant(one.default_value, tf.as_dtype(one.dtype)),
        )
        for one in inputs
    ]
    arguments = "\n".join(f"  {_argument(one)}" for one in inputs)
    by_place.__name__ = function.__name__
    by_place.__doc__ = f"{inspect.getdoc(function)}\n\nArgs:\n{arguments}"
    by_place.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return tf.function(by_place, input_signature=[tensor_spec(one) for one in inputs])


def _argument(one: RequestInput) -> str:
    """Returns an input's line of a docstring."""
    dimensions = ", ".join(map(str, one.axes))
    values = f" ({one.values})" if one.values else ""
    return f"{one.name}: {one.dtype} [{dimensions}], {one.meaning}{values}."


class Towers(tf.Module):
    """The trained towers with their preprocessing, as they are saved."""

    def __init__(
        self,
        transform: Any,
        table: CatalogTable,
        query_tower: QueryTower,
        candidate_tower: CandidateTower,
        history_length: int,
        resolved: ResolvedFeatures,
    ) -> None:
        """Args:
        transform: TFTransformOutput.transform_features_layer() of the interactions.
        table: the catalog.
        query_tower: trained.
        candidate_tower: trained.
        history_length: N.
        resolved: the features of `transform`.
        """
        super().__init__(name="towers")
        self._transform = transform
        self._table = table
        self._query_tower = query_tower
        self._candidate_tower = candidate_tower
        self._history_length = history_length
        self._aggregates = resolved.history
        self._users = resolved.users
        self.query_embedding = signature(self._query_embedding, query_inputs(resolved.users))

    def _query_embedding(self, inputs: Tensors) -> Tensors:
        """Returns `embedding` [queries, embedding_dim] of histories.

        The part repeat_head of `trainer.parts` adds `repeat_item_id` int64 and `repeat_score` float32,
        [queries, N]. These scores replace the inner products of the history's items. Padding is -1 and -inf.
        The best items are the best of these scores and of the other items' inner products.
        """
        inputs = {one.name: _finite(inputs[one.name], one) for one in query_inputs(self._users)}
        history_item_id = inputs[features.HISTORY_ITEM_ID]
        shape = tf.shape(history_item_id)
        event_type = tf.broadcast_to(inputs[features.HISTORY_EVENT_TYPE], shape)
        # The query is at the last listen, the seed item. Later reactions are to the seed, which still plays.
        is_listen = is_label_event(event_type)
        index = tf.range(shape[1])
        present = history_item_id >= 0
        last_listen = tf.reduce_max(tf.where(present & is_listen, index, -1), axis=1, keepdims=True)
        visible = present & (index <= last_listen)

        def recent(values: tf.Tensor) -> tf.RaggedTensor:
            ragged = tf.ragged.boolean_mask(tf.broadcast_to(values, shape), visible)
            return ragged[:, -self._history_length :]

        timestamp = recent(inputs[features.HISTORY_TIMESTAMP])
        lengths = timestamp.row_lengths()
        ends = tf.boolean_mask(timestamp.row_splits[1:], lengths > 0) - 1
        asked = tf.boolean_mask(tf.broadcast_to(inputs[features.REQUEST_TIMESTAMP], shape[:1]), lengths > 0)
        newest = tf.gather(timestamp.flat_values, ends)
        request = tf.tensor_scatter_nd_update(
            timestamp.flat_values, ends[:, tf.newaxis], tf.maximum(asked, newest)
        )
        transformed = self._transform(
            {
                features.USER_ID: inputs[features.USER_ID][:, tf.newaxis],
                features.HISTORY_ITEM_ID: recent(history_item_id),
                features.HISTORY_TIMESTAMP: timestamp,
                features.HISTORY_PLAY_RATIO: recent(inputs[features.HISTORY_PLAY_RATIO]),
                features.HISTORY_EVENT_TYPE: recent(event_type),
                features.HISTORY_IS_ORGANIC: recent(inputs[features.HISTORY_IS_ORGANIC]),
                features.REQUEST_TIMESTAMP: timestamp.with_flat_values(request),
                **{spec.name: _as_raw(inputs[spec.name], spec, shape[0]) for spec in self._users},
            }
        )
        # The example age is the label's. A request is for now, whatever its timestamp.
        transformed = {name: value for name, value in transformed.items() if name != features.EXAMPLE_AGE}
        positions = Positions(window=tf.range(shape[0]), event=tf.cast(lengths, tf.int32) - 1)
        windows = windows_of(transformed, self._table, self._history_length, self._aggregates)
        embedding = self._query_tower(windows, positions)
        if self._query_tower.repeats is None:
            return {"embedding": embedding}
        repeats = self._query_tower.repeats(windows, positions, embedding, self._candidate_tower)
        is_one = repeats.rows >= 0
        item_id = tf.gather(self._table.item_id, tf.maximum(repeats.rows, 0))
        return {
            "embedding": embedding,
            features.REPEAT_ITEM_ID: tf.where(is_one, item_id, features.PADDING),
            features.REPEAT_SCORE: tf.where(is_one, repeats.score, -float("inf")),
        }

    @tf.function(input_signature=[tensor_spec(ITEM)])
    def candidate_embedding(self, item_id: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns `embedding` [items, embedding_dim] of ids; an unknown id is an item without features."""
        return {"embedding": self._candidate_tower(self._table.rows_of(item_id))}

    @tf.function(input_signature=[])
    def catalog(self) -> dict[str, tf.Tensor]:
        """Returns `item_id` int64 [items]: all candidates, ascending."""
        return {features.ITEM_ID: self._table.candidate_id.read_value()}

    def save(self, path: str) -> None:
        """Writes the SavedModel."""
        tf.saved_model.save(
            self,
            path,
            signatures={
                "query_embedding": self.query_embedding,
                "candidate_embedding": self.candidate_embedding,
                "catalog": self.catalog,
            },
        )


def _finite(values: tf.Tensor, one: RequestInput) -> tf.Tensor:
    """Replaces numbers that are not finite by the input's default, an unknown value."""
    if not values.dtype.is_floating:
        return values
    return tf.where(tf.math.is_finite(values), values, tf.cast(one.default, values.dtype))


def _as_raw(values: tf.Tensor, spec: FeatureSpec, queries: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
    """Returns a request's values of a column as an Example holds them: ragged but for vectors."""
    kind = spec.column_kind
    values = tf.broadcast_to(values, tf.concat([[queries], tf.shape(values)[1:]], axis=0))
    if kind.has_width:
        return values
    if not kind.is_list:
        values = values[:, tf.newaxis]
    absent = tf.math.is_nan(values) if kind.is_number else values == ""
    return tf.ragged.boolean_mask(values, tf.logical_not(absent))
