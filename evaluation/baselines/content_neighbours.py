"""The baseline `content_neighbours`: neighbours of the user's last listens by content vectors."""

from __future__ import annotations

import numpy as np

from two_tower.evaluation.baselines.catalog import Catalog
from two_tower.evaluation.baselines.definition import (
    CATALOG,
    CONTENT,
    RECENT_HALF_LIVES_PLAYS,
    VECTORS,
    Baseline,
)
from two_tower.evaluation.baselines.ranking import Floats, RecentListens
from two_tower.evaluation.queries import Ints


class ContentNeighbours:
    """Scorer of items by their cosine to the user's last listens, each weighing 0.5^(plays ago / half-life).

    With a short half-life these are the neighbours of the seed item alone. Train is not needed: items that
    nobody has played are candidates too; items without a vector are not. A query costs a product with all
    items.
    """

    def __init__(self, catalog: Catalog, half_life_plays: float) -> None:
        if catalog.embeddings is None:
            raise ValueError("The catalog has no content vectors.")
        has_vector = catalog.embeddings.any(axis=1)
        everything = bool(has_vector.all())
        self.items: Ints = catalog.items if everything else catalog.items[has_vector]
        self.settings: dict[str, float | str] = {"half_life_plays": half_life_plays}
        self._vectors = catalog.embeddings if everything else catalog.embeddings[has_vector]
        self._half_life = half_life_plays

    def scores(self, listens: RecentListens) -> Floats:
        """Scores items, see `Scorer.scores`."""
        profile = listens.profile(self.items, self._half_life)
        scores: Floats = (profile @ self._vectors) @ self._vectors.T
        scores[np.diff(profile.indptr) == 0] = -np.inf
        return scores


BASELINE = Baseline(
    name="content_neighbours",
    label="content neighbours",
    family=CONTENT,
    colour="content",
    place=50,
    meaning="items whose content embeddings are nearest to those of the user's last listens",
    needs=(CATALOG, VECTORS),
    grid={"half_life_plays": RECENT_HALF_LIVES_PLAYS},
    fit=lambda data: data.scored(
        lambda half_life_plays: ContentNeighbours(data.known_catalog, half_life_plays)
    ),
    scored_items=lambda data: len(data.known_catalog.items),
)
