"""Popularity: items by their label events in train, plain or decayed by age."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from two_tower.evaluation.baselines.blocks import blocks, none
from two_tower.evaluation.label_events import LabelEvents
from two_tower.evaluation.queries import PADDING, Ints, Queries, Windows, excluded_items

DAY = 86_400


class Popularity:
    """Ranking of items by their label events in train, each weighing 0.5^(its age / half-life)."""

    def __init__(self, events: LabelEvents, half_life_days: float | None = None) -> None:
        """Ranks the items. Without a half-life every event weighs the same."""
        items, index, counts = events.by_item
        weights: npt.NDArray[Any] = counts
        if half_life_days is not None:
            age = events.timestamp.max(initial=0) - events.timestamp
            weights = np.bincount(index, 0.5 ** (age / (half_life_days * DAY)), minlength=len(items))
        # Equal weights (among them those too old to differ from 0) fall back on the count, then on the id.
        self.ranked: Ints = items[np.lexsort((items, -counts, -weights))]
        self.settings: dict[str, float | str] = {}
        if half_life_days is not None:
            self.settings["half_life_days"] = half_life_days

    def recommend(
        self, windows: Windows, queries: Queries, rows: npt.ArrayLike, k: int, exclude: bool
    ) -> Ints:
        """Recommends, see `FittedBaseline.recommend`."""
        batch = queries.take(rows)
        if not exclude:
            # The same for everyone.
            return np.repeat(self.fill_up(np.full([1, k], PADDING), none(1)), len(batch), axis=0)
        recommended = np.full([len(batch), k], PADDING)
        excludable = (batch.position + 1) + np.diff(windows.seen_offsets)[batch.window]
        for block in blocks(k + excludable):
            excluded = excluded_items(windows, batch.take(block))
            recommended[block] = self.fill_up(recommended[block], excluded)
        return recommended

    def fill_up(self, chosen: Ints, excluded: Ints) -> Ints:
        """Puts the most popular of the remaining items where `chosen` has padding.

        Args:
            chosen: [Q, k] item ids, -1 at padding, which is at the end.
            excluded: [Q, E] item ids that are left out, -1 at padding.

        Returns:
            [Q, k] item ids, each at most once a row.
        """
        rows, k = chosen.shape
        taken = np.hstack([chosen, excluded])
        # Of the first `taken.shape[1]` + k, at least k are not taken.
        popular = self.ranked[: taken.shape[1] + k]
        by_id = np.argsort(popular)
        free = np.ones([rows, len(popular)], bool)
        if len(popular):
            rank = by_id[np.minimum(np.searchsorted(popular, taken, sorter=by_id), len(popular) - 1)]
            row, column = np.nonzero(popular[rank] == taken)
            free[row, rank[row, column]] = False
        offered = np.hstack([chosen, np.tile(popular, [rows, 1])])
        usable = np.hstack([chosen >= 0, free])
        place = np.cumsum(usable, axis=1) - 1
        row, column = np.nonzero(usable & (place < k))
        filled = np.full([rows, k], PADDING)
        filled[row, place[row, column]] = offered[row, column]
        return filled
