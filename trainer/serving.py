"""The towers as a SavedModel: raw ids and times in, embeddings out.

What the signatures run is Transform's own graph and the towers that were trained; a request is one window
read at its last listen.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from trainer import features
from trainer.catalog_table import CatalogTable
from trainer.history_aggregates import is_label_event
from trainer.towers import CandidateTower, Positions, QueryTower, windows_of

# A request's inputs by name. All but the first three may be left out (TensorFlow Serving fills in a
# signature's defaults; in Python call the method of the same name) or given with dimensions of 1, which are
# broadcast.
QUERY_SPECS = {
    features.USER_ID: tf.TensorSpec([None], tf.int64, features.USER_ID),
    features.HISTORY_ITEM_ID: tf.TensorSpec([None, None], tf.int64, features.HISTORY_ITEM_ID),
    features.HISTORY_TIMESTAMP: tf.TensorSpec([None, None], tf.int64, features.HISTORY_TIMESTAMP),
    features.HISTORY_PLAY_RATIO: tf.TensorSpec([None, None], tf.float32, features.HISTORY_PLAY_RATIO),
    features.HISTORY_EVENT_TYPE: tf.TensorSpec([None, None], tf.string, features.HISTORY_EVENT_TYPE),
    features.HISTORY_IS_ORGANIC: tf.TensorSpec([None, None], tf.int64, features.HISTORY_IS_ORGANIC),
    features.REQUEST_TIMESTAMP: tf.TensorSpec([None], tf.int64, features.REQUEST_TIMESTAMP),
}
NO_PLAY_RATIO = tf.constant([[float(features.UNKNOWN)]])
NO_EVENT_TYPE = tf.constant([[""]])
NO_ORGANIC = tf.constant([[features.UNKNOWN]], tf.int64)
NOW_PLAYING = tf.constant([features.UNKNOWN], tf.int64)


class Towers(tf.Module):
    """The trained towers with their preprocessing, as they are saved."""

    def __init__(
        self,
        transform: Any,
        table: CatalogTable,
        query_tower: QueryTower,
        candidate_tower: CandidateTower,
        history_length: int,
    ) -> None:
        """`transform`: TFTransformOutput.transform_features_layer() of the interactions."""
        super().__init__(name="towers")
        self._transform = transform
        self._table = table
        self._query_tower = query_tower
        self._candidate_tower = candidate_tower
        self._history_length = history_length

    @tf.function(input_signature=list(QUERY_SPECS.values()))
    def query_embedding(
        self,
        user_id: tf.Tensor,
        history_item_id: tf.Tensor,
        history_timestamp: tf.Tensor,
        history_play_ratio: tf.Tensor = NO_PLAY_RATIO,
        history_event_type: tf.Tensor = NO_EVENT_TYPE,
        history_is_organic: tf.Tensor = NO_ORGANIC,
        request_timestamp: tf.Tensor = NOW_PLAYING,
    ) -> dict[str, tf.Tensor]:
        """Histories, oldest first and padded with negative ids, to `embedding` [queries, embedding_dim]."""
        shape = tf.shape(history_item_id)
        event_type = tf.broadcast_to(history_event_type, shape)
        # The query is the last listen: reactions after it are to what is still playing.
        is_listen = is_label_event(event_type)
        index = tf.range(shape[1])
        present = history_item_id >= 0
        last_listen = tf.reduce_max(tf.where(present & is_listen, index, -1), axis=1, keepdims=True)
        visible = present & (index <= last_listen)

        def recent(values: tf.Tensor) -> tf.RaggedTensor:
            ragged = tf.ragged.boolean_mask(tf.broadcast_to(values, shape), visible)
            return ragged[:, -self._history_length :]

        timestamp = recent(history_timestamp)
        lengths = timestamp.row_lengths()
        ends = tf.boolean_mask(timestamp.row_splits[1:], lengths > 0) - 1
        asked = tf.boolean_mask(tf.broadcast_to(request_timestamp, shape[:1]), lengths > 0)
        newest = tf.gather(timestamp.flat_values, ends)
        request = tf.tensor_scatter_nd_update(
            timestamp.flat_values, ends[:, tf.newaxis], tf.maximum(asked, newest)
        )
        transformed = self._transform(
            {
                features.USER_ID: user_id[:, tf.newaxis],
                features.HISTORY_ITEM_ID: recent(history_item_id),
                features.HISTORY_TIMESTAMP: timestamp,
                features.HISTORY_PLAY_RATIO: recent(history_play_ratio),
                features.HISTORY_EVENT_TYPE: recent(event_type),
                features.HISTORY_IS_ORGANIC: recent(history_is_organic),
                features.REQUEST_TIMESTAMP: timestamp.with_flat_values(request),
            }
        )
        # The example age is the label's: a request is for now, whatever time it carries.
        transformed = {name: value for name, value in transformed.items() if name != features.EXAMPLE_AGE}
        positions = Positions(window=tf.range(shape[0]), event=tf.cast(lengths, tf.int32) - 1)
        return {"embedding": self._query_tower(windows_of(transformed, self._table), positions)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, features.ITEM_ID)])
    def candidate_embedding(self, item_id: tf.Tensor) -> dict[str, tf.Tensor]:
        """Item ids to `embedding` [items, embedding_dim]; an unknown id is an item of unknown features."""
        return {"embedding": self._candidate_tower(self._table.rows_of(item_id))}

    @tf.function(input_signature=[])
    def catalog(self) -> dict[str, tf.Tensor]:
        """`item_id` int64 [items]: all that can be recommended, in ascending order."""
        return {features.ITEM_ID: self._table.item_id.read_value()}

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
