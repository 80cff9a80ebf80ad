"""The baseline `ials`: matrix factorisation by implicit alternating least squares."""

from __future__ import annotations

import functools
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


class AlternatingLeastSquares:
    """Trainings of iALS (Hu, Koren and Volinsky, 2008, "Collaborative filtering for implicit feedback").

    A user's preference for an item is 1 if they played it, with a confidence of alpha · ln(1 + plays), and 0
    if not, with a confidence of 1. An item that was played once has alpha · ln 2.
    """

    def __init__(self, plays: Plays, seed: int) -> None:
        """Args:
        plays: plays of train.
        seed: seed of the first factors.
        """
        self.items = plays.items
        self._counts = plays.counts
        self._seed = seed
        self._trainings = Trainings(self._begin)

    def baseline(
        self, half_life_plays: float, epochs: int, alpha: float, regularisation: float, factors: int
    ) -> FoldedLeastSquares:
        """Returns the scorer of one training.

        An epoch takes about factors · (6 · pairs + factors · (U + I)) steps.
        """
        training = self._trainings.of(alpha, regularisation, factors)
        return FoldedLeastSquares(
            self.items,
            training.after(epochs),
            half_life_plays=half_life_plays,
            epochs=epochs,
            alpha=alpha,
            regularisation=regularisation,
            training=training,
        )

    def _begin(self, alpha: float, regularisation: float, factors: int) -> Training[Floats]:
        """Begins a training whose results are item factors [I, d]."""
        from implicit.cpu.als import AlternatingLeastSquares as Solver

        with quiet_and_single_threaded_blas():
            solver = Solver(factors=factors, regularization=regularisation, random_state=self._seed)

        def go_on(begin: int, end: int) -> Floats:
            solver.iterations = end - begin
            solver.fit(confidences(self._counts, alpha), show_progress=False)
            factors: Floats = solver.item_factors.copy()
            return factors

        return Training(go_on)


class FoldedLeastSquares:
    """Scorer of items by iALS's factors; a query's user is the least-squares solution for its listens.

    The solution is one half-step of the training, `implicit`'s recalculate_user: (YᵀCY + λ)⁻¹ YᵀCp, with
    confidences of alpha · ln(1 + sum of 0.5^(plays ago / half-life)).
    """

    def __init__(
        self,
        items: Ints,
        item_factors: Floats,
        *,
        half_life_plays: float,
        epochs: int,
        alpha: float,
        regularisation: float,
        training: object = None,
    ) -> None:
        """Args:
        items: [I] ascending ids.
        item_factors: [I, d].
        training: kept alive, see `Trainings`.
        """
        self.items = items
        self.settings: dict[str, float | str] = {
            "half_life_plays": half_life_plays,
            "epochs": epochs,
            "alpha": alpha,
            "regularisation": regularisation,
            "factors": item_factors.shape[1],
        }
        self._half_life = half_life_plays
        self._alpha = alpha
        self._item_factors = item_factors
        self._regularisation = regularisation
        self._training = training

    @functools.cached_property
    def _solver(self) -> Any:
        from implicit.cpu.als import AlternatingLeastSquares as Solver

        with quiet_and_single_threaded_blas():
            solver = Solver(factors=self._item_factors.shape[1], regularization=self._regularisation)
        solver.item_factors = self._item_factors
        return solver

    def users(self, listens: RecentListens) -> tuple[Floats, Ints]:
        """Returns the factors of the queries' users [Q, d] and the number of known items of each [Q]."""
        confidence = confidences(listens.profile(self.items, self._half_life), self._alpha)
        with quiet_and_single_threaded_blas():
            solved = self._solver.recalculate_user(np.arange(listens.queries), confidence)
        return solved, np.diff(confidence.indptr)

    def scores(self, listens: RecentListens) -> Floats:
        """Scores items, see `Scorer.scores`."""
        users, known = self.users(listens)
        scores: Floats = users @ self._item_factors.T
        scores[known == 0] = -np.inf
        return scores


def confidences(plays: Any, alpha: float) -> Any:
    """Returns alpha · ln(1 + plays) for each entry of a sparse matrix of plays."""
    confidence = plays.copy()
    confidence.data = np.float32(alpha) * np.log1p(plays.data)
    return confidence


BASELINE = Baseline(
    name="ials",
    label="matrix factorisation, iALS",
    family=FACTORISATION,
    colour="factors",
    place=80,
    meaning="factors of users and items by alternating least squares on who played what (Hu, Koren and "
    "Volinsky, 2008)",
    # A training goes on to the next number of epochs where that helps, with the best other settings. On
    # simulated data 12 epochs find no more than noise beyond these.
    grid={
        "half_life_plays": (1.0, 0.2, 5.0, 1_000_000.0),
        "alpha": (10.0, 40.0, 2.5),
        "regularisation": (1.0, 10.0),
        "factors": (64, 128),
        "epochs": (3, 6),
    },
    trained=("alpha", "regularisation", "factors"),
    fit=lambda data: data.scored(AlternatingLeastSquares(data.plays, data.seed).baseline),
    scored_items=lambda data: len(data.candidates),
)
