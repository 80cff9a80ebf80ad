"""Ranking by scores, which all baselines that score items share.

Queries are worked on in blocks, so that memory is bounded however large the catalog is.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from two_tower.evaluation.baselines.blocks import BLOCK_CELLS, none
from two_tower.evaluation.baselines.popularity import Popularity
from two_tower.evaluation.queries import PADDING, Ints, Queries, Windows, excluded_items, ragged_index
from two_tower.schema import features

Floats = npt.NDArray[np.float32]

_LISTEN = features.LISTEN.encode()
# Rows of a sparse block: its width tells little of its content.
_SPARSE_ROWS = 256
# A listen with less than this share of the newest listen's weight is left out.
_LEAST_WEIGHT = 1e-3


class FittedBaseline(Protocol):
    """A baseline that is trained and recommends.

    Attributes:
        settings: settings that were chosen on eval, by name, and its recall there, for the report.
    """

    settings: dict[str, float | str]

    def recommend(
        self, windows: Windows, queries: Queries, rows: npt.ArrayLike, k: int, exclude: bool
    ) -> Ints:
        """Recommends items for the queries at `rows`: ids [len(rows), k], best first, -1 where fewer.

        `exclude` leaves out items that the user already had.
        """


@dataclasses.dataclass(frozen=True)
class RecentListens:
    """Listens that queries know of their users, among the events that the model sees too.

    Attributes:
        queries: number of queries.
        query: [n] the query of each listen, ascending; a query may have none.
        item_id: [n].
        plays_ago: [n] 0 for the newest listen, the seed item.
    """

    queries: int
    query: Ints
    item_id: Ints
    plays_ago: Ints

    @classmethod
    def of(cls, windows: Windows, batch: Queries, history_length: int) -> RecentListens:
        """Takes the listens among the last `history_length` events up to and including each query's own."""
        length = np.minimum(batch.position + 1, history_length)
        event = ragged_index(batch.event - length + 1, length)
        query = np.repeat(np.arange(len(batch)), length)
        listened = windows.event_type[event] == _LISTEN
        event, query = event[listened], query[listened]
        end = np.cumsum(np.bincount(query, minlength=len(batch)))
        return cls(len(batch), query, windows.item_id[event], end[query] - 1 - np.arange(len(query)))

    def last(self, plays: int) -> RecentListens:
        """Keeps each query's last `plays` listens alone."""
        recent = self.plays_ago < plays
        return RecentListens(self.queries, self.query[recent], self.item_id[recent], self.plays_ago[recent])

    def profile(self, items: Ints, half_life_plays: float) -> Any:
        """Sums 0.5^(plays ago / half-life) over each item's listens: sparse float32 [queries, items].

        Args:
            items: ascending ids, the columns; listens to other items are left out.
            half_life_plays: with a short one the seed item alone counts, with a very long one all listens
                count alike.
        """
        from scipy.sparse import csr_matrix

        column = columns_of(items, self.item_id)
        weight = np.asarray(0.5 ** (self.plays_ago / half_life_plays), np.float32)
        used = (column >= 0) & (weight >= _LEAST_WEIGHT)
        # Values of equal places are summed.
        return csr_matrix(
            (weight[used], (self.query[used], column[used])),
            shape=(self.queries, len(items)),
            dtype=np.float32,
        )


class Scorer(Protocol):
    """A score of each item for the listens that a query knows.

    Attributes:
        items: [I] ascending ids of the items that it can recommend.
        settings: settings that it was built with, by name.
    """

    items: Ints
    settings: dict[str, float | str]

    def scores(self, listens: RecentListens) -> Any:
        """Scores items: float32 [queries, I], an array or a sparse matrix of the candidates alone."""


class Scored:
    """The baseline of a scorer: best scores first. Lists shorter than k are filled up with popular items.

    A query without a listen that the scorer knows gets popular items alone.
    """

    def __init__(self, scorer: Scorer, popularity: Popularity, history_length: int) -> None:
        self.settings: dict[str, float | str] = dict(scorer.settings)
        self._scorer = scorer
        self._popularity = popularity
        self._history_length = history_length
        self._is_sparse = getattr(scorer, "is_sparse", False)

    def recommend(
        self, windows: Windows, queries: Queries, rows: npt.ArrayLike, k: int, exclude: bool
    ) -> Ints:
        """Recommends, see `FittedBaseline.recommend`."""
        batch = queries.take(rows)
        recommended = np.full([len(batch), k], PADDING)
        items = self._scorer.items
        dense_rows = max(4 * BLOCK_CELLS // max(len(items), 1), 1)
        size = _SPARSE_ROWS if self._is_sparse else min(dense_rows, 4_096)
        for begin in range(0, len(batch) if len(items) else 0, size):
            block = batch.take(np.arange(begin, min(begin + size, len(batch))))
            scores = self._scorer.scores(RecentListens.of(windows, block, self._history_length))
            excluded = excluded_items(windows, block) if exclude else none(len(block))
            columns = columns_of(items, excluded)
            best = (_best_of_sparse if self._is_sparse else _best_of_dense)(scores, columns, k)
            recommended[begin : begin + size] = np.where(best >= 0, items[best], PADDING)
        short = np.flatnonzero((recommended < 0).any(axis=1))
        for begin in range(0, len(short), _SPARSE_ROWS):
            some = short[begin : begin + _SPARSE_ROWS]
            excluded = excluded_items(windows, batch.take(some)) if exclude else none(len(some))
            recommended[some] = self._popularity.fill_up(recommended[some], excluded)
        return recommended


def first_among(recommended: Ints, items: Ints, k: int) -> Ints:
    """Keeps the first k of each row [Q, any] that are among `items`: [Q, k], -1 where there are fewer."""
    found = np.where(np.isin(recommended, items), recommended, PADDING)
    found = np.take_along_axis(found, np.argsort(found == PADDING, axis=1, kind="stable"), axis=1)[:, :k]
    return np.pad(found, [(0, 0), (0, k - found.shape[1])], constant_values=PADDING)


def columns_of(items: Ints, wanted: Ints) -> Ints:
    """Finds the places of ids among the ascending `items`, in the shape of `wanted`; -1 where absent."""
    if not len(items):
        return np.full(wanted.shape, -1)
    place = np.minimum(np.searchsorted(items, wanted), len(items) - 1)
    return np.where(items[place] == wanted, place, -1)


def top_of(scores: Floats, k: int) -> tuple[Ints, Floats]:
    """Finds the columns of the k greatest scores of each row, best first, and the scores: [Q, min(k, C)].

    Where fewer than k scores are above -inf, the end of a row has no meaning.

    The k greatest are in the k groups with the greatest maxima: one pass over all scores finds the maxima,
    and only k groups are looked into.
    """
    rows, width = scores.shape
    k = min(k, width)
    # With groups of this size, the maxima cost as much as the groups.
    size = max(int((width / max(k, 1)) ** 0.5), 1)
    groups = -(-width // size)
    if groups <= k:
        return _sorted_top(scores, np.tile(np.arange(width), [rows, 1]), k)
    # The group of a column is its number modulo the number of groups: maxima run along whole rows.
    maxima = scores[:, :groups].copy()
    for begin in range(groups, width, groups):
        part = scores[:, begin : begin + groups]
        np.maximum(maxima[:, : part.shape[1]], part, out=maxima[:, : part.shape[1]])
    chosen = np.argpartition(-maxima, k - 1, axis=1)[:, :k]
    columns = (chosen[:, :, None] + groups * np.arange(size)).reshape(rows, -1)
    values = np.take_along_axis(scores, np.minimum(columns, width - 1), axis=1)
    # The last of each group may lie behind the last column.
    values[columns >= width] = -np.inf
    return _sorted_top(values, columns, k)


def _sorted_top(scores: Floats, columns: Ints, k: int) -> tuple[Ints, Floats]:
    if scores.shape[1] > k:
        part = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        scores, columns = np.take_along_axis(scores, part, axis=1), np.take_along_axis(columns, part, axis=1)
    # Of equal scores the lower column comes first.
    order = np.lexsort((columns, -scores), axis=-1)
    return np.take_along_axis(columns, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _best_of_dense(scores: Floats, excluded: Ints, k: int) -> Ints:
    """Finds the best columns [Q, k], -1 where there are fewer. A score of -inf is no candidate's."""
    row, place = np.nonzero(excluded >= 0)
    scores[row, excluded[row, place]] = -np.inf
    best, value = top_of(scores, k)
    found = np.full([len(scores), k], -1)
    found[:, : best.shape[1]] = np.where(value > -np.inf, best, -1)
    return found


def _best_of_sparse(scores: Any, excluded: Ints, k: int) -> Ints:
    """Finds the best columns [Q, k] among the entries of a sparse matrix [Q, C]."""
    found = np.full([scores.shape[0], k], -1)
    barred = np.zeros(scores.shape[1] + 1, bool)
    for row in range(len(found)):
        stored = slice(scores.indptr[row], scores.indptr[row + 1])
        columns, values = scores.indices[stored], scores.data[stored]
        # Padding bars the column behind the last.
        barred[excluded[row]] = True
        allowed = ~barred[columns]
        barred[excluded[row]] = False
        columns, values = columns[allowed], values[allowed]
        if len(columns) > k:
            # Equal scores at the end of the list: those of the lower columns are in it.
            least = np.partition(values, len(values) - k)[len(values) - k]
            part = values >= least
            columns, values = columns[part], values[part]
        best = columns[np.lexsort((columns, -values))][:k]
        found[row, : len(best)] = best
    return found
