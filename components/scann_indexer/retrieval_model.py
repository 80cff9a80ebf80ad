"""What is served: raw ids in, recommended ids out, in one SavedModel.

It needs TensorFlow and `import scann` (for the custom ops) to load, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from components.scann_indexer.index import ExactIndex, ScannIndex
from pipeline.feature_specs import FeatureSpec
from trainer import features
from trainer.serving import Input, Tensors, query_inputs, signature

DEFAULT_K = 100
_ANSWER_INPUTS = (
    Input(
        features.EXCLUDE_ITEM_ID,
        [None, None],
        tf.int64,
        "items that must not be returned; negative ids are padding",
        [[features.PADDING]],
    ),
    Input(features.K, [], tf.int32, "how many, up to the built maximum", DEFAULT_K),
)


class RetrievalModel(tf.Module):
    """The towers, the index over the catalog, and the signature that joins them."""

    def __init__(
        self,
        towers: Any,
        index: ExactIndex | ScannIndex,
        item_id: tf.Tensor,
        max_k: int,
        users: Iterable[FeatureSpec] = (),
    ) -> None:
        """`towers`: the Trainer's SavedModel, loaded, which takes the columns of users/ in `users`.
        `item_id`: int64 [items], in the index's row order.
        """
        super().__init__(name="retrieval_model")
        self.towers = towers
        self.index = index
        self._item_id = tf.Variable(item_id, trainable=False, name="index_item_id")
        self._max_k = max_k
        inputs = query_inputs(users)
        self.recommend = signature(self._recommend, (*inputs, *_ANSWER_INPUTS))
        self.query_embedding = signature(self._query_embedding, inputs)

    def _recommend(self, inputs: Tensors) -> Tensors:
        """The k best items for each history.

        Returns `item_id` int64 and `score` float32, [queries, k], best first; -1 and -inf where there are no
        more.
        """
        inputs = dict(inputs)
        exclude_item_id, k = inputs.pop(features.EXCLUDE_ITEM_ID), inputs.pop(features.K)
        tf.debugging.assert_less_equal(
            k, self._max_k, message="k is above the maximum that this model was built for (index.max_k)"
        )
        query = self.towers.query_embedding(**inputs)["embedding"]
        # As many more as could be excluded, so that k are left.
        excluded = tf.reduce_max(tf.reduce_sum(tf.cast(exclude_item_id >= 0, tf.int32), axis=1))
        wanted = tf.minimum(k + excluded, tf.size(self._item_id))
        rows, scores = self.index.search(query, wanted)
        missing = tf.math.is_nan(scores) | (rows < 0)
        item_id = tf.gather(self._item_id, tf.maximum(rows, 0))
        hidden = missing | _is_among(item_id, exclude_item_id)
        padding, worst = tf.cast(features.PADDING, tf.int64), -float("inf")
        # Every query has k places, whatever the index found.
        places = [[0, 0], [0, k]]
        item_id = tf.pad(tf.where(hidden, padding, item_id), places, constant_values=padding)
        scores = tf.pad(tf.where(hidden, worst, scores), places, constant_values=worst)
        best = tf.math.top_k(scores, k=k)
        return {"item_id": tf.gather(item_id, best.indices, batch_dims=1), "score": best.values}

    def _query_embedding(self, inputs: Tensors) -> Tensors:
        """Histories to `embedding` [queries, embedding_dim]; see `recommend`."""
        return dict(self.towers.query_embedding(**inputs))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, features.ITEM_ID)])
    def candidate_embedding(self, item_id: tf.Tensor) -> dict[str, tf.Tensor]:
        """Item ids to `embedding` [items, embedding_dim]."""
        return self.towers.candidate_embedding(item_id)

    @tf.function(input_signature=[])
    def catalog(self) -> dict[str, tf.Tensor]:
        """`item_id` int64 [items]: all that the index holds."""
        return {features.ITEM_ID: self._item_id.read_value()}

    def save(self, path: str) -> None:
        """Writes the SavedModel, allowing ScaNN's custom ops in it."""
        tf.saved_model.save(
            self,
            path,
            signatures={
                "serving_default": self.recommend,
                "query_embedding": self.query_embedding,
                "candidate_embedding": self.candidate_embedding,
                "catalog": self.catalog,
            },
            options=tf.saved_model.SaveOptions(namespace_whitelist=["Scann"]),
        )


def _is_among(item_id: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Whether each id [queries, n] stands in its query's row of `others` [queries or 1, m]."""
    others = tf.sort(tf.broadcast_to(others, [tf.shape(item_id)[0], tf.shape(others)[1]]), axis=1)
    # One column more, so that a row without exclusions can be searched too.
    others = tf.pad(others, [[0, 0], [0, 1]], constant_values=tf.int64.max)
    place = tf.searchsorted(others, item_id)
    return (tf.gather(others, place, batch_dims=1) == item_id) & (item_id >= 0)
