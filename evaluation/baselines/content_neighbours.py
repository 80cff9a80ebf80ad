"""Items that sound, or read, or look like those that the user played last: neighbours by content vectors."""

from __future__ import annotations

import numpy as np

from two_tower.evaluation.baselines.catalog import Catalog
from two_tower.evaluation.baselines.ranking import Floats, RecentListens
from two_tower.evaluation.queries import Ints


class ContentNeighbours:
    """Scores an item by its cosine to the user's last listens, each weighing 0.5^(plays ago / half-life).

    A short half-life is the seed's neighbours alone. Needs nothing of train: items that nobody has played are
    candidates too, those without a vector are not. A query costs a product with all items.
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
        """See `Scorer.scores`."""
        profile = listens.profile(self.items, self._half_life)
        scores: Floats = (profile @ self._vectors) @ self._vectors.T
        scores[np.diff(profile.indptr) == 0] = -np.inf
        return scores
