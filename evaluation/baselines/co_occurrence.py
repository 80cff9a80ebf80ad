"""The baseline `co_occurrence`: item-to-item neighbours, counted in train."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from two_tower.evaluation.baselines.definition import (
    CO_OCCURRENCE,
    RECENT_HALF_LIVES_PLAYS,
    Baseline,
    FittingData,
)
from two_tower.evaluation.baselines.ranking import FittedBaseline, RecentListens, columns_of
from two_tower.evaluation.label_events import LabelEvents
from two_tower.evaluation.queries import Ints

DAMPINGS = ("cosine", "logarithmic", "none")
NEIGHBOURS = 200
# More pairs of listens than this are not counted: long histories then give their last listens alone. A pair
# takes about 24 bytes at the peak.
MOST_PAIRS = 20_000_000


class Counts:
    """Co-occurrences: pairs of items that the same user played within `window` listens of each other.

    Attributes:
        items: [I] ascending ids of the items that train holds and that can be recommended.
        pairs: sparse float32 [I, I], symmetric: two listens that are at most `window` apart count once in
            each direction, two listens to the same item once.
        plays: [I] float32 listens of each item among those that were counted.
        listens_a_user: number of a user's listens that were counted, at most.

    Time and memory are those of the pairs: `window` a listen, and at most `most_pairs`.
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
        """Returns how near each item's nearest items are, see `CoOccurrence`: sparse float32 [I, I]."""
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
    """Scorer of items by the sum of their nearness to each of the user's last listens.

    The nearness of j to i, with c common occurrences and n listens each, depends on the damping:
    `none` c / n_i, `cosine` c / sqrt(n_i · n_j), `logarithmic` c / (n_i · ln(e + n_j)).
    The nearest NEIGHBOURS of each item are kept. A query costs as many steps for each item in its history.
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
        """Scores items, see `Scorer.scores`."""
        return listens.profile(self.items, self._half_life) @ self._near


def _limit(count: Ints, total: int) -> int:
    """Returns the greatest number L of listens a user with sum(min(count, L)) <= total, at least 2."""
    longest = int(count.max(initial=2))
    if count.sum() <= total:
        return longest
    low, high = 2, longest
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(count, middle).sum() <= total else (low, middle - 1)
    return low


def _greatest(near: Any, neighbours: int) -> Any:
    """Keeps the greatest values of each row of a sparse matrix; of equal values those of lower columns."""
    near.sort_indices()
    for row in np.flatnonzero(np.diff(near.indptr) > neighbours):
        values = near.data[near.indptr[row] : near.indptr[row + 1]]
        least = -np.partition(-values, neighbours - 1)[neighbours - 1]
        equal = np.flatnonzero(values == least)[neighbours - int((values > least).sum()) :]
        values[equal] = 0
        values[values < least] = 0
    near.eliminate_zeros()
    return near.astype(np.float32)


def _fit(data: FittingData) -> Callable[..., FittedBaseline]:
    counts = functools.lru_cache(maxsize=1)(lambda window: Counts(data.events, data.candidates, window))
    return data.scored(
        lambda half_life_plays, damping, window: CoOccurrence(counts(window), half_life_plays, damping)
    )


BASELINE = Baseline(
    name="co_occurrence",
    label="item-to-item co-occurrence",
    family=CO_OCCURRENCE,
    colour="pairs",
    place=60,
    meaning="items that train's users play near those that the user played last",
    # Settings that need the same counts come first, so that no counts are made twice.
    grid={"half_life_plays": RECENT_HALF_LIVES_PLAYS, "damping": DAMPINGS, "window": (5, 2)},
    fit=_fit,
    scored_items=lambda data: len(data.candidates),
)
