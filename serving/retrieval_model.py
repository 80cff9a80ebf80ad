"""What is served: raw ids in, recommended ids out, in one SavedModel.

It needs TensorFlow to load and, with a ScaNN index, `import scann` (for the custom ops), and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from two_tower.data_directory.feature_columns import FeatureSpec
from two_tower.schema import features
from two_tower.schema.request_inputs import ANSWER_INPUTS, ITEM, ROW
from two_tower.serving.index import ExactIndex, Restriction, ScannIndex, exact_search
from two_tower.trainer.model.signatures import Tensors, query_inputs, signature, tensor_spec

# ScaNN is asked for as many more than k as a request excludes, but for no more than this: who has had
# thousands of items costs no more, and whom it leaves with fewer than k is answered exactly.
_MOST_BEYOND_K = 1_000


class RetrievalModel(tf.Module):
    """The towers, the index over the catalog, and the signature that joins them."""

    def __init__(
        self,
        towers: Any,
        index: ExactIndex | ScannIndex,
        item_id: tf.Tensor,
        max_k: int,
        users: Iterable[FeatureSpec] = (),
        repeats_recommendable: bool = True,
    ) -> None:
        """`towers`: the Trainer's SavedModel, loaded, which takes the columns of users/ in `users`.
        `item_id`: int64 [items], distinct, in the index's row order. `repeats_recommendable`: whether a
        request's own history may be returned, unless it is excluded.
        """
        super().__init__(name="retrieval_model")
        self.towers = towers
        self.index = index
        self._item_id = tf.Variable(item_id, trainable=False, name="index_item_id")
        order = np.argsort(np.asarray(item_id)).astype(np.int32)
        self._ascending = tf.Variable(np.asarray(item_id)[order], trainable=False, name="ascending_item_id")
        self._row_of_ascending = tf.Variable(order, trainable=False, name="row_of_ascending_item_id")
        self._max_k = max_k
        self._repeats_recommendable = repeats_recommendable
        inputs = query_inputs(users)
        self.recommend = signature(self._recommend, (*inputs, *ANSWER_INPUTS))
        self.query_embedding = signature(self._query_embedding, inputs)

    def _recommend(self, inputs: Tensors) -> Tensors:
        """The k best items for each history.

        Returns `item_id` int64 and `score` float32, [queries, k], best first; -1 and -inf where there are no
        more: the index finds others in the place of what must not be returned, so that fewer than k are
        returned only where fewer may be.
        """
        of_answer = {one.name for one in ANSWER_INPUTS}
        query = {name: values for name, values in inputs.items() if name not in of_answer}
        k = inputs[features.K]
        exclude, allow = inputs[features.EXCLUDE_ITEM_ID], inputs[features.ALLOW_ITEM_ID]
        tf.debugging.assert_less_equal(
            k, self._max_k, message="k is above the maximum that this model was built for (index.max_k)"
        )
        history = query[features.HISTORY_ITEM_ID]
        asked = self.towers.query_embedding(**query)
        size = tf.shape(asked["embedding"])[0]
        exclude, allow = (tf.broadcast_to(ids, [size, tf.shape(ids)[1]]) for ids in (exclude, allow))
        if not self._repeats_recommendable:
            exclude = tf.concat([exclude, history], axis=1)
        found = self._by_index(asked["embedding"], exclude, allow, k)
        if features.REPEAT_ITEM_ID not in asked:
            return found
        # The history's items have scores of their own, whether the index found them or not.
        again, scores = asked[features.REPEAT_ITEM_ID], asked[features.REPEAT_SCORE]
        hidden = (self._rows_of(again) < 0) | _is_among(again, exclude)
        hidden |= tf.reduce_any(allow >= 0, axis=1, keepdims=True) & ~_is_among(again, allow)
        others = tf.where(_is_among(found["item_id"], again), -float("inf"), found["score"])
        return _best(
            tf.concat([again, found["item_id"]], axis=1),
            tf.concat([tf.where(hidden, -float("inf"), scores), others], axis=1),
            k,
        )

    def _by_index(self, query: tf.Tensor, exclude: tf.Tensor, allow: tf.Tensor, k: tf.Tensor) -> Tensors:
        """The k items of the largest inner products, as far as there are so many."""
        if isinstance(self.index, ExactIndex):
            return self._exactly(query, exclude, allow, k)
        found = self._by_scann(query, exclude, allow, k)
        # Every query has k items, as far as there are any that it may have.
        returned = tf.reduce_sum(tf.cast(found["item_id"] >= 0, tf.int32), axis=1)
        lacking = returned < tf.minimum(k, tf.size(self._item_id))
        short = tf.where(lacking)[:, 0]

        def filled() -> Tensors:
            theirs = [tf.gather(own, short) for own in (query, exclude, allow)]
            exact = self._exactly(theirs[0], theirs[1], theirs[2], k)
            at = short[:, tf.newaxis]
            return {name: tf.tensor_scatter_nd_update(found[name], at, exact[name]) for name in found}

        return tf.cond(tf.reduce_any(lacking), filled, lambda: found)

    def _by_scann(self, query: tf.Tensor, exclude: tf.Tensor, allow: tf.Tensor, k: tf.Tensor) -> Tensors:
        """What ScaNN finds, less what must not be returned: it may be fewer than k."""
        has_allowed = tf.reduce_any(allow >= 0, axis=1)
        # As many more as could be excluded, so that k are left.
        excluded = tf.reduce_max(tf.reduce_sum(tf.cast(exclude >= 0, tf.int32), axis=1))
        beyond = tf.where(tf.reduce_any(has_allowed), _MOST_BEYOND_K, tf.minimum(excluded, _MOST_BEYOND_K))
        rows, scores = self.index.search(query, tf.minimum(k + beyond, tf.size(self._item_id)))
        item_id = tf.gather(self._item_id, tf.maximum(rows, 0))
        hidden = tf.math.is_nan(scores) | (rows < 0) | _is_among(item_id, exclude)
        hidden |= has_allowed[:, tf.newaxis] & ~_is_among(item_id, allow)
        return _best(item_id, tf.where(hidden, -float("inf"), scores), k)

    def _exactly(self, query: tf.Tensor, exclude: tf.Tensor, allow: tf.Tensor, k: tf.Tensor) -> Tensors:
        """The best among all that may be returned."""
        restriction = Restriction(
            tf.reduce_any(allow >= 0, axis=1), self._rows_of(allow), self._rows_of(exclude)
        )
        rows, scores = exact_search(self.index.embeddings, query, k, restriction)
        return _best(tf.gather(self._item_id, rows), scores, k)

    def _rows_of(self, item_id: tf.Tensor) -> tf.Tensor:
        """The index's rows int32 of ids of any shape; -1 for those that it does not hold."""
        place = tf.searchsorted(self._ascending, tf.reshape(item_id, [-1]))
        place = tf.reshape(tf.minimum(place, tf.size(self._ascending) - 1), tf.shape(item_id))
        is_known = tf.gather(self._ascending, place) == item_id
        return tf.where(is_known, tf.gather(self._row_of_ascending, place), -1)

    def _query_embedding(self, inputs: Tensors) -> Tensors:
        """Histories to `embedding` [queries, embedding_dim]; see `recommend`.

        Where the model scores the items of the history on their own, also to `repeat_item_id` and
        `repeat_score`, [queries, N].
        """
        return dict(self.towers.query_embedding(**inputs))

    @tf.function(input_signature=[tensor_spec(ITEM)])
    def candidate_embedding(self, item_id: tf.Tensor) -> dict[str, tf.Tensor]:
        """Item ids to `embedding` [items, embedding_dim]: what the towers make of them."""
        return self.towers.candidate_embedding(item_id)

    @tf.function(input_signature=[])
    def catalog(self) -> dict[str, tf.Tensor]:
        """`item_id` int64 [items]: all that the index holds, in the order of its rows."""
        return {features.ITEM_ID: self._item_id.read_value()}

    @tf.function(input_signature=[tensor_spec(ROW)])
    def indexed_embedding(self, row: tf.Tensor) -> dict[str, tf.Tensor]:
        """Rows of the index, from 0, to `item_id` and to the `embedding` [rows, embedding_dim] that it holds.

        It should be what `candidate_embedding` says of that item: see the gate's index parity.
        """
        return {
            features.ITEM_ID: tf.gather(self._item_id, row),
            "embedding": tf.gather(self.index.embeddings, row),
        }

    def save(self, path: str) -> None:
        """Writes the SavedModel, allowing ScaNN's custom ops in it."""
        nothing = tf.zeros([1, 0], tf.int64)
        # Called once, so that ScaNN's handle is traced into what is saved.
        self.recommend(tf.constant([0], tf.int64), nothing, nothing, k=tf.constant(1))
        tf.saved_model.save(
            self,
            path,
            signatures={
                "serving_default": self.recommend,
                "query_embedding": self.query_embedding,
                "candidate_embedding": self.candidate_embedding,
                "catalog": self.catalog,
                "indexed_embedding": self.indexed_embedding,
            },
            options=tf.saved_model.SaveOptions(namespace_whitelist=["Scann"]),
        )


def _best(item_id: tf.Tensor, scores: tf.Tensor, k: tf.Tensor) -> Tensors:
    """Candidates [queries, any] to the k best, padded with -1 and -inf; what scores -inf is none."""
    padding, worst = tf.cast(features.PADDING, tf.int64), -float("inf")
    # Every query has k places, whatever the index found.
    places = [[0, 0], [0, k]]
    item_id = tf.pad(tf.where(scores == worst, padding, item_id), places, constant_values=padding)
    best = tf.math.top_k(tf.pad(scores, places, constant_values=worst), k=k)
    return {features.ITEM_ID: tf.gather(item_id, best.indices, batch_dims=1), "score": best.values}


def _is_among(item_id: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Whether each id [queries, n] stands in its query's row of `others` [queries, m]."""
    others = tf.sort(others, axis=1)
    # One column more, so that a row without ids can be searched too.
    others = tf.pad(others, [[0, 0], [0, 1]], constant_values=tf.int64.max)
    place = tf.searchsorted(others, item_id)
    return (tf.gather(others, place, batch_dims=1) == item_id) & (item_id >= 0)
