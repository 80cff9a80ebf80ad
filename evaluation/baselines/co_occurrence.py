"""Items that are played near those that the user played: item-to-item neighbours counted in train."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from two_tower.evaluation.baselines.ranking import RecentListens, columns_of
from two_tower.evaluation.label_events import LabelEvents
from two_tower.evaluation.queries import Ints

DAMPINGS = ("cosine", "logarithmic", "none")
NEIGHBOURS = 200
# More pairs of listens than this are not counted: of long histories, then, the last listens alone. A pair
# takes some 24 bytes at the peak.
MOST_PAIRS = 20_000_000


class Counts:
    """How often items were played within `window` listens of each other, by the same user.

    Attributes:
        items: [I] ascending ids, those that train holds and that can be recommended.
        pairs: sparse float32 [I, I], symmetric: each two listens that are at most `window` apart count once
            in each direction, those to one and the same item once.
        plays: [I] float32 listens of each item among those that were counted.
        listens_a_user: how many of a user's listens were counted, at most.

    Time and memory are those of the pairs, of which there are `window` a listen, and at most `most_pairs`.
    """

    def __init__(self, events: LabelEvents, items: Ints, window: int, most_pairs: int = MOST_PAIRS) -> None:
        from scipy.sparse import csr_matrix, diags

        self.items = items
        self.window = window
        column = columns_of(items, events.item_id)
        _, count = np.unique(events.user_id, return_counts=True)
        self.listens_a_user = _limit(count, most_pairs // (2 * window))
        before_end = np.repeat(np.cumsum(count), count) - np.arange(len(column))
        recent = before_end <= self.listens_a_user
        column, user = column[recent], events.user_id[recent]

        first, second = [], []
        for apart in range(1, window + 1):
            same = (user[apart:] == user[:-apart]) & (column[apart:] >= 0) & (column[:-apart] >= 0)
            first.append(column[:-apart][same].astype(np.int32))
            second.append(column[apart:][same].astype(np.int32))
        row, other = np.concatenate(first), np.concatenate(second)
        pairs = csr_matrix((np.ones(len(row), np.float32), (row, other)), shape=(len(items),) * 2)
        pairs.sum_duplicates()
        # A pair of one item with itself lies on the diagonal, where both directions are one.
        self.pairs = (pairs + pairs.T - diags(pairs.diagonal())).tocsr().astype(np.float32)
        self.pairs.eliminate_zeros()
        self.plays = np.bincount(column[column >= 0], minlength=len(items)).astype(np.float32)
        # `nearest(damping, neighbours)`: asked for again with other half-lives.
        self.nearest = functools.lru_cache(maxsize=1)(self._nearest)

    def _nearest(self, damping: str, neighbours: int) -> Any:
        """Sparse float32 [I, I]: how near each item's nearest are, see `CoOccurrence`."""
        near = self.pairs.copy()
        row = np.repeat(np.arange(near.shape[0]), np.diff(near.indptr))
        n_i, n_j = self.plays[row], self.plays[near.indices]
        if damping == "cosine":
            near.data = near.data / np.sqrt(n_i * n_j)
        elif damping == "logarithmic":
            near.data = near.data / (n_i * np.log(np.e + n_j))
        else:
            near.data = near.data / n_i
        return _greatest(near, neighbours)


class CoOccurrence:
    """Scores an item by the sum over the user's last listens of how near it is to each.

    Nearness of j to i, of c common occurrences and n listens each, is by damping
    `none` c / n_i, `cosine` c / sqrt(n_i · n_j), or `logarithmic` c / (n_i · ln(e + n_j)).
    The nearest NEIGHBOURS of each item are kept: a query costs as many steps for each item in its history.
    """

    is_sparse = True

    def __init__(
        self, counts: Counts, half_life_plays: float, damping: str, neighbours: int = NEIGHBOURS
    ) -> None:
        self.items = counts.items
        self.settings: dict[str, float | str] = {
            "half_life_plays": half_life_plays,
            "window": counts.window,
            "damping": damping,
            "listens_a_user": counts.listens_a_user,
        }
        self._half_life = half_life_plays
        self._near = counts.nearest(damping, neighbours)

    def scores(self, listens: RecentListens) -> Any:
        """See `Scorer.scores`."""
        return listens.profile(self.items, self._half_life) @ self._near


def _limit(count: Ints, total: int) -> int:
    """The greatest L with sum(min(count, L)) <= total, at least 2: how many of each user's listens."""
    longest = int(count.max(initial=2))
    if count.sum() <= total:
        return longest
    low, high = 2, longest
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(count, middle).sum() <= total else (low, middle - 1)
    return low


def _greatest(near: Any, neighbours: int) -> Any:
    """The greatest values of each row of a sparse matrix; of equal ones those of the lower columns."""
    near.sort_indices()
    for row in np.flatnonzero(np.diff(near.indptr) > neighbours):
        values = near.data[near.indptr[row] : near.indptr[row + 1]]
        least = -np.partition(-values, neighbours - 1)[neighbours - 1]
        equal = np.flatnonzero(values == least)[neighbours - int((values > least).sum()) :]
        values[equal] = 0
        values[values < least] = 0
    near.eliminate_zeros()
    return near.astype(np.float32)
