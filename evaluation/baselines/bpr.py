"""The baseline `bpr`: matrix factorisation by Bayesian personalised ranking."""

from __future__ import annotations

from typing import Any

import numpy as np

from two_tower.evaluation.baselines.definition import FACTORISATION, Baseline
from two_tower.evaluation.baselines.factorisation import (
    Training,
    Trainings,
    quiet_and_single_threaded_blas,
)
from two_tower.evaluation.baselines.plays import Plays
from two_tower.evaluation.baselines.ranking import Floats, RecentListens
from two_tower.evaluation.queries import Ints


class BayesianPersonalisedRanking:
    """Trainings of BPR (Rendle et al., 2009, "Bayesian personalized ranking from implicit feedback")."""

    def __init__(self, plays: Plays, seed: int) -> None:
        """Args:
        plays: plays of train.
        seed: seed of the first factors and of the draws of pairs.
        """
        self.items = plays.items
        self._counts = plays.counts
        self._seed = seed
        self._trainings = Trainings(self._begin)

    def baseline(
        self, half_life_plays: float, epochs: int, learning_rate: float, regularisation: float, factors: int
    ) -> FoldedRanking:
        """Returns the scorer of one training. An epoch takes about 3 · factors · pairs steps."""
        training = self._trainings.of(learning_rate, regularisation, factors)
        item_factors, scale = training.after(epochs)
        return FoldedRanking(
            self.items,
            item_factors,
            scale,
            {
                "half_life_plays": half_life_plays,
                "epochs": epochs,
                "learning_rate": learning_rate,
                "regularisation": regularisation,
                "factors": factors,
            },
            training,
        )

    def _begin(
        self, learning_rate: float, regularisation: float, factors: int
    ) -> Training[tuple[Floats, float]]:
        """Begins a training whose results are item factors [I, d + 1], the last the bias, and a scale."""
        from implicit.cpu.bpr import BayesianPersonalizedRanking as Solver

        with quiet_and_single_threaded_blas():
            # Threads would overwrite each other's steps, differently each time.
            solver = Solver(
                factors=factors, learning_rate=learning_rate, regularization=regularisation, num_threads=1
            )

        def go_on(begin: int, end: int) -> tuple[Floats, float]:
            solver.iterations = end - begin
            # Other draws than before.
            solver.random_state = self._seed + end
            solver.fit(self._counts, show_progress=False)
            items, users = solver.item_factors.copy(), solver.user_factors[:, :-1]
            return items, scale_of_users(users, items[:, :-1], self._counts)

        return Training(go_on)


class FoldedRanking:
    """Scorer of items by BPR's factors and biases; a query's user is the scaled mean of its items' factors.

    With the scale, such means come nearest to the factors of train's users (`scale_of_users`). Without it the
    biases would weigh too much or too little.
    """

    def __init__(
        self,
        items: Ints,
        item_factors: Floats,
        scale: float,
        settings: dict[str, float | str],
        training: object = None,
    ) -> None:
        """Args:
        items: [I] ascending ids.
        item_factors: [I, d + 1], the last of which is the bias.
        scale: factor of the means.
        settings: `half_life_plays` and the training's settings.
        training: kept alive, see `Trainings`.
        """
        self.items = items
        self.settings = settings
        self._half_life = float(settings["half_life_plays"])
        self._factors, self._bias = np.ascontiguousarray(item_factors[:, :-1]), item_factors[:, -1]
        self._scale = np.float32(scale)
        self._training = training

    def scores(self, listens: RecentListens) -> Floats:
        """Scores items, see `Scorer.scores`."""
        profile = listens.profile(self.items, self._half_life)
        total = np.asarray(profile.sum(axis=1), np.float32)
        mean = profile @ self._factors / np.maximum(total, 1e-12)
        scores: Floats = (self._scale * mean) @ self._factors.T + self._bias
        scores[total[:, 0] == 0] = -np.inf
        return scores


def scale_of_users(users: Floats, items: Floats, counts: Any) -> float:
    """Returns the s that minimises |users - s · means|².

    A user's mean is the mean of the factors of the items that they played.

    Args:
        users: [U, d].
        items: [I, d].
        counts: sparse [U, I].
    """
    means = counts @ items / np.maximum(np.asarray(counts.sum(axis=1)), 1)
    return max(float((users * means).sum() / max(float((means**2).sum()), 1e-12)), 0.0)


BASELINE = Baseline(
    name="bpr",
    label="matrix factorisation, BPR",
    family=FACTORISATION,
    colour="factors-2",
    place=70,
    meaning="factors of users and items that rank played items above others (Rendle et al., 2009)",
    # More epochs do what a higher rate does. On simulated data 24 epochs find only noise beyond these.
    grid={
        "half_life_plays": (1.0, 0.2, 5.0),
        "regularisation": (0.001, 0.01),
        "learning_rate": (0.05,),
        "factors": (64,),
        "epochs": (8, 16),
    },
    trained=("regularisation",),
    fit=lambda data: data.scored(BayesianPersonalisedRanking(data.plays, data.seed).baseline),
    scored_items=lambda data: len(data.candidates),
)
