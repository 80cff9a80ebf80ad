"""Served model: raw ids in, recommended ids out, in one SavedModel.

Towers and index know ids by number. Where the data has text ids, requests are hashed to the numbers of
`schema.text_ids`, and answers are the texts of rows of the index. The same signatures by number stand beside
them, for evaluation, whose windows hold numbers.

Loading needs TensorFlow and, for a ScaNN index, `import scann` for the custom operations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from two_tower.data_directory.feature_columns import FeatureSpec
from two_tower.schema import features, text_ids
from two_tower.schema.request_inputs import ANSWER_INPUTS, BY_NUMBER, ITEM, ROW, IdKinds, RequestInput
from two_tower.serving.index import ExactIndex, Restriction, ScannIndex, exact_search
from two_tower.serving.request_sizes import checked
from two_tower.trainer.model.signatures import Tensors, query_inputs, signature

# ScaNN finds k items plus as many as a request excludes, but at most this many more. So a history of
# thousands of items costs no more. Exact search answers queries that are left with fewer than k items.
_MOST_BEYOND_K = 1_000


class RetrievalModel(tf.Module):
    """Towers and index over the catalog, joined by the served signatures."""

    def __init__(
        self,
        towers: Any,
        index: ExactIndex | ScannIndex,
        item_id: tf.Tensor,
        max_k: int,
        users: Iterable[FeatureSpec] = (),
        repeats_recommendable: bool = True,
        ids: IdKinds = IdKinds(),
        item_text: npt.NDArray[np.object_] | None = None,
    ) -> None:
        """Joins towers and index.

        Args:
            towers: the Trainer's loaded SavedModel.
            index: the index over the catalog's embeddings.
            item_id: int64 [items], distinct, in the index's row order.
            max_k: largest k of a request.
            users: columns of users/ that the towers take.
            repeats_recommendable: whether items of a request's history may be returned.
            ids: kinds of the ids in requests and answers.
            item_text: UTF-8 [items], texts of `item_id`; None for integer ids.
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
        self._ids = ids
        self._item_text = None
        if item_text is not None:
            self._item_text = tf.Variable(
                tf.constant(item_text, tf.string), trainable=False, name="item_text"
            )
        self._query_inputs = query_inputs(users)
        self._inputs = (*self._query_inputs, *ANSWER_INPUTS)
        # Name of a served signature → its function of numbers, and its inputs.
        self._functions: dict[str, tuple[Callable[[Tensors], Tensors], tuple[RequestInput, ...]]] = {
            "serving_default": (self._recommend, self._inputs),
            "query_embedding": (self._query_embedding, self._query_inputs),
            "candidate_embedding": (self._candidate_embedding, (ITEM,)),
            "catalog": (self._catalog, ()),
            "indexed_embedding": (self._indexed_embedding, (ROW,)),
        }
        self.recommend = self._served("serving_default")
        self.query_embedding = self._served("query_embedding")
        self.candidate_embedding = self._served("candidate_embedding")
        self.catalog = self._served("catalog")
        self.indexed_embedding = self._served("indexed_embedding")

    def _served(self, name: str) -> Any:
        """Returns a signature's tf.function in the data's own ids."""
        function, inputs = self._functions[name]
        if not self._ids.has_text:
            return signature(function, inputs)

        @functools.wraps(function)
        def of_texts(request: Tensors) -> Tensors:
            numbers = {
                one.name: _numbers_of(request[one.name]) if self._ids.is_text(one) else request[one.name]
                for one in inputs
            }
            return self._named(function(numbers))

        return signature(of_texts, self._ids.served(inputs))

    def _named(self, answer: Tensors) -> Tensors:
        """Replaces items' numbers in an answer by their texts; padding becomes the empty text."""
        if self._item_text is None:
            return answer
        named = dict(answer)
        for name in {features.ITEM_ID, features.REPEAT_ITEM_ID} & answer.keys():
            rows = self._rows_of(answer[name])
            named[name] = tf.where(rows >= 0, tf.gather(self._item_text, tf.maximum(rows, 0)), "")
        return named

    def _recommend(self, inputs: Tensors) -> Tensors:
        """Recommends the k best items for each history.

        Returns `item_id` int64 and `score` float32, [queries, k], best first, padded with -1 and -inf. Other
        items take the places of excluded ones. So fewer than k items are returned only if fewer are allowed.
        """
        inputs = checked(inputs, self._inputs, self._max_k)
        of_answer = {one.name for one in ANSWER_INPUTS}
        query = {name: values for name, values in inputs.items() if name not in of_answer}
        k = inputs[features.K]
        exclude, allow = inputs[features.EXCLUDE_ITEM_ID], inputs[features.ALLOW_ITEM_ID]
        history = query[features.HISTORY_ITEM_ID]
        asked = self.towers.query_embedding(**query)
        size = tf.shape(asked["embedding"])[0]
        exclude, allow = (tf.broadcast_to(ids, [size, tf.shape(ids)[1]]) for ids in (exclude, allow))
        if not self._repeats_recommendable:
            exclude = tf.concat([exclude, history], axis=1)
        has_known = tf.reduce_any(self._rows_of(history) >= 0, axis=1)
        found = self._by_index(asked["embedding"], exclude, allow, k, has_known)
        if features.REPEAT_ITEM_ID not in asked:
            return found
        # The repeat head scores the history's items, whether the index found them or not.
        again, scores = asked[features.REPEAT_ITEM_ID], asked[features.REPEAT_SCORE]
        hidden = (self._rows_of(again) < 0) | _is_among(again, exclude)
        hidden |= tf.reduce_any(allow >= 0, axis=1, keepdims=True) & ~_is_among(again, allow)
        others = tf.where(_is_among(found["item_id"], again), -float("inf"), found["score"])
        return _best(
            tf.concat([again, found["item_id"]], axis=1),
            tf.concat([tf.where(hidden, -float("inf"), scores), others], axis=1),
            k,
        )

    def _by_index(
        self, query: tf.Tensor, exclude: tf.Tensor, allow: tf.Tensor, k: tf.Tensor, has_known: tf.Tensor
    ) -> Tensors:
        """Finds the k allowed items of the largest inner products, or all if there are fewer.

        Where no item of the history is known, `has_known` [queries] is false. Such queries lie apart from
        those that the index was tuned on, and are searched exactly.
        """
        if isinstance(self.index, ExactIndex):
            return self._exactly(query, exclude, allow, k)
        found = self._by_scann(query, exclude, allow, k)
        # Exact search answers queries with fewer than k items, too.
        returned = tf.reduce_sum(tf.cast(found["item_id"] >= 0, tf.int32), axis=1)
        lacking = (returned < tf.minimum(k, tf.size(self._item_id))) | ~has_known
        short = tf.where(lacking)[:, 0]

        def filled() -> Tensors:
            theirs = [tf.gather(own, short) for own in (query, exclude, allow)]
            exact = self._exactly(theirs[0], theirs[1], theirs[2], k)
            at = short[:, tf.newaxis]
            return {name: tf.tensor_scatter_nd_update(found[name], at, exact[name]) for name in found}

        return tf.cond(tf.reduce_any(lacking), filled, lambda: found)

    def _by_scann(self, query: tf.Tensor, exclude: tf.Tensor, allow: tf.Tensor, k: tf.Tensor) -> Tensors:
        """Searches with ScaNN and drops excluded items; fewer than k may remain."""
        has_allowed = tf.reduce_any(allow >= 0, axis=1)
        # Room for excluded items, so that k are left.
        excluded = tf.reduce_max(tf.reduce_sum(tf.cast(exclude >= 0, tf.int32), axis=1))
        excluded = tf.maximum(excluded, 0)  # of an empty batch it is the least integer
        beyond = tf.where(tf.reduce_any(has_allowed), _MOST_BEYOND_K, tf.minimum(excluded, _MOST_BEYOND_K))
        rows, scores = self.index.search(query, tf.minimum(k + beyond, tf.size(self._item_id)))
        item_id = tf.gather(self._item_id, tf.maximum(rows, 0))
        hidden = tf.math.is_nan(scores) | (rows < 0) | _is_among(item_id, exclude)
        hidden |= has_allowed[:, tf.newaxis] & ~_is_among(item_id, allow)
        return _best(item_id, tf.where(hidden, -float("inf"), scores), k)

    def _exactly(self, query: tf.Tensor, exclude: tf.Tensor, allow: tf.Tensor, k: tf.Tensor) -> Tensors:
        """Searches exactly among all allowed items."""
        restriction = Restriction(
            tf.reduce_any(allow >= 0, axis=1), self._rows_of(allow), self._rows_of(exclude)
        )
        rows, scores = exact_search(self.index.embeddings, query, k, restriction)
        return _best(tf.gather(self._item_id, rows), scores, k)

    def _rows_of(self, item_id: tf.Tensor) -> tf.Tensor:
        """Maps ids of any shape to rows of the index, int32; -1 for unknown ids."""
        place = tf.searchsorted(self._ascending, tf.reshape(item_id, [-1]))
        place = tf.reshape(tf.minimum(place, tf.size(self._ascending) - 1), tf.shape(item_id))
        is_known = tf.gather(self._ascending, place) == item_id
        return tf.where(is_known, tf.gather(self._row_of_ascending, place), -1)

    def _query_embedding(self, inputs: Tensors) -> Tensors:
        """Embeds histories: `embedding` [queries, embedding_dim]; see `recommend`.

        With the repeat head, also gives `repeat_item_id` and `repeat_score`, [queries, N].
        """
        return dict(self.towers.query_embedding(**checked(inputs, self._query_inputs, self._max_k)))

    def _candidate_embedding(self, inputs: Tensors) -> Tensors:
        """Embeds items by the candidate tower: `embedding` [items, embedding_dim]."""
        return dict(self.towers.candidate_embedding(inputs[features.ITEM_ID]))

    def _catalog(self, inputs: Tensors) -> Tensors:
        """Lists all items of the index in row order: `item_id` [items]."""
        return {features.ITEM_ID: self._item_id.read_value()}

    def _indexed_embedding(self, inputs: Tensors) -> Tensors:
        """Reads rows of the index, from 0: `item_id` [rows] and `embedding` [rows, embedding_dim].

        The gate's index parity compares these embeddings with `candidate_embedding`.
        """
        row = inputs[ROW.name]
        return {
            features.ITEM_ID: tf.gather(self._item_id, row),
            "embedding": tf.gather(self.index.embeddings, row),
        }

    def save(self, path: str) -> None:
        """Writes the SavedModel, allowing ScaNN's custom ops in it."""
        by_number = {}
        if self._ids.has_text:
            by_number = {name + BY_NUMBER: signature(*of) for name, of in self._functions.items()}
        # One call traces ScaNN's handle into the SavedModel.
        recommend = by_number.get("serving_default" + BY_NUMBER, self.recommend)
        nothing = tf.zeros([1, 0], tf.int64)
        recommend(tf.constant([0], tf.int64), nothing, nothing, k=tf.constant(1))
        tf.saved_model.save(
            self,
            path,
            signatures={
                "serving_default": self.recommend,
                "query_embedding": self.query_embedding,
                "candidate_embedding": self.candidate_embedding,
                "catalog": self.catalog,
                "indexed_embedding": self.indexed_embedding,
                **by_number,
            },
            options=tf.saved_model.SaveOptions(namespace_whitelist=["Scann"]),
        )


def _numbers_of(texts: tf.Tensor) -> tf.Tensor:
    """Returns the numbers of text ids of any shape, int64; the empty text is padding."""
    numbers = tf.strings.to_hash_bucket_strong(texts, text_ids.NUMBERS, list(text_ids.KEY))
    return tf.where(texts == "", tf.cast(features.PADDING, tf.int64), numbers)


def _best(item_id: tf.Tensor, scores: tf.Tensor, k: tf.Tensor) -> Tensors:
    """Selects the k best of candidates [queries, any], padded with -1 and -inf; -inf scores are padding."""
    padding, worst = tf.cast(features.PADDING, tf.int64), -float("inf")
    # Padding gives every query at least k places.
    places = [[0, 0], [0, k]]
    item_id = tf.pad(tf.where(scores == worst, padding, item_id), places, constant_values=padding)
    best = tf.math.top_k(tf.pad(scores, places, constant_values=worst), k=k)
    return {features.ITEM_ID: tf.gather(item_id, best.indices, batch_dims=1), "score": best.values}


def _is_among(item_id: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Tells for each id [queries, n] if it is in its query's row of `others` [queries, m]."""
    others = tf.sort(others, axis=1)
    # An extra column makes rows without ids searchable too.
    others = tf.pad(others, [[0, 0], [0, 1]], constant_values=tf.int64.max)
    place = tf.searchsorted(others, item_id)
    return (tf.gather(others, place, batch_dims=1) == item_id) & (item_id >= 0)
