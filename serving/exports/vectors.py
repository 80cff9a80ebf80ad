"""What is exported: the vectors that a served model scores by, and exact search over them, in NumPy."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from two_tower.base.errors import UserError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

# Scores that differ by less are equal, the same sum in another order: as a share of the largest product that
# a query could have, its own length times the longest vector's.
TOLERANCE = 1e-5
_SCORES_AT_ONCE = 1 << 26


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Items and their embeddings, which are scored by inner product.

    Attributes:
        item_id: int64 [items], distinct.
        embedding: float32 [items, embedding_dim].
        model: facts of the model that they are of, for whoever finds the export.
    """

    item_id: Ints
    embedding: Floats
    model: dict[str, Any]

    def __len__(self) -> int:
        return len(self.item_id)

    @property
    def dim(self) -> int:
        """Numbers of an embedding."""
        return int(self.embedding.shape[1])

    def check(self) -> None:
        """Raises UserError unless there are items, each once, whose embeddings are numbers and not all zero.

        Single items may be at zero, as in the model's own index.
        """
        if not len(self):
            raise UserError("The model's catalog is empty: there is nothing to export.")
        items, counts = np.unique(self.item_id, return_counts=True)
        if (counts > 1).any():
            raise UserError(f"The model's catalog holds item {items[counts > 1][0]} more than once.")
        broken = ~np.isfinite(self.embedding).all(axis=1)
        if broken.any():
            raise UserError(
                f"The embeddings of {broken.sum():,} of {len(self):,} items are not numbers (NaN, infinite), "
                f"item {self.item_id[broken][0]} for one: the model cannot be exported. Train it again."
            )
        if not self.embedding.any():
            raise UserError(
                f"The embeddings of all {len(self):,} items are zero, which no query tells apart: the model "
                "cannot be exported. Train it again."
            )


@dataclasses.dataclass(frozen=True)
class Queries:
    """Query embeddings [queries, embedding_dim] to tune and check with; `source` says of what they are."""

    embedding: Floats
    source: str

    def __len__(self) -> int:
        return len(self.embedding)


@dataclasses.dataclass(frozen=True)
class Exact:
    """What exact search finds: `item_id` int64 and `score` float32 [queries, k], best first."""

    item_id: Ints
    score: Floats

    @property
    def k(self) -> int:
        """Items a query."""
        return int(self.score.shape[1])


def exact_search(vectors: Vectors, queries: Floats, k: int) -> Exact:
    """The k items of the highest inner products; `k` is at most the number of items.

    Equal scores are ordered by id; of several items that score as the last one does, any is taken.
    """
    step = max(1, _SCORES_AT_ONCE // len(vectors))
    items, scores = [], []
    for begin in range(0, len(queries), step):
        products = queries[begin : begin + step] @ vectors.embedding.T
        best = np.argpartition(-products, k - 1, axis=1)[:, :k]
        found = np.take_along_axis(products, best, axis=1)
        # Equal scores by id, so that it is one answer.
        order = np.lexsort((vectors.item_id[best], -found), axis=1)
        items.append(np.take_along_axis(vectors.item_id[best], order, axis=1))
        scores.append(np.take_along_axis(found, order, axis=1))
    return Exact(np.concatenate(items), np.concatenate(scores).astype(np.float32))


def recall_of(found: Ints, vectors: Vectors, queries: Floats, exact: Exact) -> Floats:
    """Of each query, the share of exact search's first k that a search found, float32 [queries].

    An item that scores as high as exact search's last one is as good as that: ties are not held against it.

    Args:
      found: int64 [queries, k], ids, -1 where there are fewer.
      vectors: all items.
      queries: [queries, embedding_dim].
      exact: their answers.
    """
    order = np.argsort(vectors.item_id)
    ids = vectors.item_id[order]
    place = np.minimum(np.searchsorted(ids, found), len(ids) - 1)
    rows = order[place]
    scores = np.einsum("qd,qkd->qk", queries, vectors.embedding[rows])
    good = (ids[place] == found) & (scores >= exact.score[:, -1:] - _rounding(vectors, queries))
    # An id that is there twice counts once.
    by_id = np.sort(np.where(good, found, -1), axis=1)
    distinct = np.append(by_id[:, :1] >= 0, (np.diff(by_id, axis=1) > 0) & (by_id[:, 1:] >= 0), axis=1)
    return (distinct.sum(axis=1) / exact.k).astype(np.float32)


def check_same(vectors: Vectors, item_id: Ints, embedding: Floats, queries: Floats, exact: Exact) -> None:
    """Raises ValueError unless what was read back has the same items, and answers as exact search does."""
    if not np.array_equal(item_id, vectors.item_id):
        raise ValueError(f"{len(item_id):,} ids were read back that are not the {len(vectors):,} written")
    if embedding.shape != vectors.embedding.shape:
        raise ValueError(
            f"embeddings of shape {embedding.shape}, not {vectors.embedding.shape}, were read back"
        )
    answered = exact_search(Vectors(item_id, embedding, {}), queries, exact.k)
    error = np.abs(answered.score - exact.score)
    recall = float(recall_of(answered.item_id, vectors, queries, exact).mean())
    if not (error <= _rounding(vectors, queries)).all() or recall < 1:
        raise ValueError(
            f"search over what was read back finds {recall:.4f} of the first {exact.k}, with scores that "
            f"differ by up to {error.max():.2g}"
        )


def _rounding(vectors: Vectors, queries: Floats) -> Floats:
    """By how much the scores of a query may differ and be the same, [queries, 1]."""
    longest = np.linalg.norm(vectors.embedding, axis=1).max()
    return np.asarray(TOLERANCE * longest * np.linalg.norm(queries, axis=1, keepdims=True), np.float32)
