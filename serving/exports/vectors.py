"""Exported vectors: a served model's item embeddings, with exact search over them in NumPy."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from two_tower.base.errors import UserError
from two_tower.schema import text_ids

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

# Scores that differ by less are equal: the order of a sum changes its rounding. The tolerance is a share of a
# query's largest possible product, its own length times that of the longest vector.
TOLERANCE = 1e-5
_SCORES_AT_ONCE = 1 << 26


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Items and their embeddings, scored by inner product.

    Attributes:
        item_id: int64 [items], distinct; the numbers of text ids.
        embedding: float32 [items, embedding_dim].
        model: facts of the model, for `export.json`.
        text: string [items], the ids' texts; None for integer ids.
    """

    item_id: Ints
    embedding: Floats
    model: dict[str, Any]
    text: pa.Array | None = None

    @property
    def own_id(self) -> pa.Array:
        """The data's own ids, int64 or string [items]."""
        return pa.array(self.item_id) if self.text is None else self.text

    def by_number(self, own_id: pa.Array | pa.ChunkedArray) -> Ints:
        """Returns the data's own ids, as a file holds them, by number: int64 [items]."""
        if self.text is None:
            return np.asarray(own_id.cast(pa.int64()).to_numpy())
        return text_ids.numbers_of(own_id.to_pylist())

    def __len__(self) -> int:
        return len(self.item_id)

    @property
    def dim(self) -> int:
        """Embedding dimension."""
        return int(self.embedding.shape[1])

    def check(self) -> None:
        """Raises UserError for an empty catalog, repeated items, or embeddings not finite or all zero.

        Single items may have zeros, as in the model's own index.
        """
        if not len(self):
            raise UserError(
                "The model's catalog is empty, so there is nothing to export. Train a model again."
            )
        items, counts = np.unique(self.item_id, return_counts=True)
        if (counts > 1).any():
            raise UserError(
                f"The model's catalog holds item {items[counts > 1][0]} more than once. Train a model again."
            )
        broken = ~np.isfinite(self.embedding).all(axis=1)
        if broken.any():
            raise UserError(
                f"The embeddings of {broken.sum():,} of {len(self):,} items are not finite numbers, such as "
                f"item {self.item_id[broken][0]}. The model cannot be exported. Train it again."
            )
        if not self.embedding.any():
            raise UserError(
                f"The embeddings of all {len(self):,} items are zero, so all items have the same score. The "
                "model cannot be exported. Train it again."
            )


@dataclasses.dataclass(frozen=True)
class Queries:
    """Query embeddings [queries, embedding_dim] for tuning and check; `source` is their origin in words."""

    embedding: Floats
    source: str

    def __len__(self) -> int:
        return len(self.embedding)


@dataclasses.dataclass(frozen=True)
class Exact:
    """Result of exact search: `item_id` int64 and `score` float32 [queries, k], best first."""

    item_id: Ints
    score: Floats

    @property
    def k(self) -> int:
        """Items per query."""
        return int(self.score.shape[1])


def exact_search(vectors: Vectors, queries: Floats, k: int) -> Exact:
    """Finds the k items of the highest inner products; `k` is at most the number of items.

    Equal scores are ordered by id. Any of several items may be last if they tie for the last place.
    """
    step = max(1, _SCORES_AT_ONCE // len(vectors))
    items, scores = [], []
    for begin in range(0, len(queries), step):
        products = queries[begin : begin + step] @ vectors.embedding.T
        best = np.argpartition(-products, k - 1, axis=1)[:, :k]
        found = np.take_along_axis(products, best, axis=1)
        # Order by id among equal scores makes the answer unique.
        order = np.lexsort((vectors.item_id[best], -found), axis=1)
        items.append(np.take_along_axis(vectors.item_id[best], order, axis=1))
        scores.append(np.take_along_axis(found, order, axis=1))
    return Exact(np.concatenate(items), np.concatenate(scores).astype(np.float32))


def recall_of(found: Ints, vectors: Vectors, queries: Floats, exact: Exact) -> Floats:
    """Computes each query's share of exact search's first k items that a search found, float32 [queries].

    An item that ties with exact search's last item counts as found.

    Args:
      found: int64 [queries, k], item ids, padded with -1.
      vectors: all items.
      queries: [queries, embedding_dim].
      exact: exact search's answers.
    """
    order = np.argsort(vectors.item_id)
    ids = vectors.item_id[order]
    place = np.minimum(np.searchsorted(ids, found), len(ids) - 1)
    rows = order[place]
    scores = np.einsum("qd,qkd->qk", queries, vectors.embedding[rows])
    good = (ids[place] == found) & (scores >= exact.score[:, -1:] - _rounding(vectors, queries))
    # A repeated id counts once.
    by_id = np.sort(np.where(good, found, -1), axis=1)
    distinct = np.append(by_id[:, :1] >= 0, (np.diff(by_id, axis=1) > 0) & (by_id[:, 1:] >= 0), axis=1)
    return (distinct.sum(axis=1) / exact.k).astype(np.float32)


def check_same(vectors: Vectors, item_id: Ints, embedding: Floats, queries: Floats, exact: Exact) -> None:
    """Raises ValueError if items read back differ, or do not answer as exact search does."""
    if not np.array_equal(item_id, vectors.item_id):
        raise ValueError(f"{len(item_id):,} ids read back differ from the {len(vectors):,} written")
    if embedding.shape != vectors.embedding.shape:
        raise ValueError(
            f"embeddings read back have the shape {embedding.shape}, not {vectors.embedding.shape}"
        )
    answered = exact_search(Vectors(item_id, embedding, {}), queries, exact.k)
    error = np.abs(answered.score - exact.score)
    recall = float(recall_of(answered.item_id, vectors, queries, exact).mean())
    if not (error <= _rounding(vectors, queries)).all() or recall < 1:
        raise ValueError(
            f"search over the embeddings read back finds {recall:.4f} of the first {exact.k}, with scores "
            f"that differ by up to {error.max():.2g}"
        )


def _rounding(vectors: Vectors, queries: Floats) -> Floats:
    """Computes the largest difference between equal scores of each query, [queries, 1]."""
    longest = np.linalg.norm(vectors.embedding, axis=1).max()
    return np.asarray(TOLERANCE * longest * np.linalg.norm(queries, axis=1, keepdims=True), np.float32)
