"""Matrix factorisation of who played what in train, by `implicit`'s solvers: iALS and BPR.

A query's user is folded in from the listens that the query knows, whoever the user is: users whom train does
not know, and listens that train has not seen, are served as the model serves them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from components.retrieval_evaluator.baselines.label_events import LabelEvents
from components.retrieval_evaluator.baselines.ranking import Floats, RecentListens, columns_of
from components.retrieval_evaluator.queries import Ints


class Plays:
    """Who played what in train, and how often.

    Attributes:
        items: [I] ascending ids, those that train holds and that can be recommended.
        counts: sparse float32 [U, I].
    """

    def __init__(self, events: LabelEvents, items: Ints) -> None:
        from scipy.sparse import csr_matrix

        self.items = items
        column = columns_of(items, events.item_id)
        users, row = np.unique(events.user_id, return_inverse=True)
        known = column >= 0
        ones = np.ones(int(known.sum()), np.float32)
        self.counts = csr_matrix((ones, (row[known], column[known])), shape=(len(users), len(items)))
        self.counts.sum_duplicates()


class AlternatingLeastSquares:
    """Trainings of iALS (Hu, Koren and Volinsky, 2008, "Collaborative filtering for implicit feedback").

    A user's preference for an item is 1 if they played it and 0 if not, with a confidence of
    alpha · ln(1 + plays) in the one and of 1 in the other: once played, alpha ln 2.
    """

    def __init__(self, plays: Plays, epochs: Sequence[int], seed: int) -> None:
        """Args:
        plays: of train.
        epochs: after which of them a training is looked at.
        seed: of the first factors.
        """
        self.items = plays.items
        self._counts = plays.counts
        self._epochs = sorted(epochs)
        self._seed = seed
        # Of a million items one training holds a gigabyte, and is asked for again with other epochs only.
        self._trained = functools.lru_cache(maxsize=1)(self._train)

    def baseline(
        self, half_life_plays: float, epochs: int, alpha: float, regularisation: float, factors: int
    ) -> FoldedLeastSquares:
        """The scorer of one training. An epoch takes some factors · (6 · pairs + factors · (U + I)) steps."""
        return FoldedLeastSquares(
            self.items,
            self._trained(alpha, regularisation, factors)[epochs],
            half_life_plays=half_life_plays,
            epochs=epochs,
            alpha=alpha,
            regularisation=regularisation,
        )

    def _train(self, alpha: float, regularisation: float, factors: int) -> dict[int, Floats]:
        """Item factors [I, d] by number of epochs."""
        from implicit.cpu.als import AlternatingLeastSquares as Solver

        confidence = confidences(self._counts, alpha)
        kept: dict[int, Floats] = {}
        with quiet_and_single_threaded_blas():
            solver = Solver(factors=factors, regularization=regularisation, random_state=self._seed)
            for begin, end in zip([0, *self._epochs], self._epochs, strict=False):
                # Goes on from the factors that it has.
                solver.iterations = end - begin
                solver.fit(confidence, show_progress=False)
                kept[end] = solver.item_factors.copy()
        return kept


class FoldedLeastSquares:
    """Scores items by iALS's factors; a query's user is the least-squares solution for its listens.

    That is one half-step of the training, `implicit`'s recalculate_user: (YᵀCY + λ)⁻¹ YᵀCp, with confidences
    of alpha · ln(1 + sum of 0.5^(plays ago / half-life)).
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
    ) -> None:
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

    @functools.cached_property
    def _solver(self) -> Any:
        from implicit.cpu.als import AlternatingLeastSquares as Solver

        with quiet_and_single_threaded_blas():
            solver = Solver(factors=self._item_factors.shape[1], regularization=self._regularisation)
        solver.item_factors = self._item_factors
        return solver

    def users(self, listens: RecentListens) -> tuple[Floats, Ints]:
        """Factors of the queries' users [Q, d], and how many known items each has [Q]."""
        confidence = confidences(listens.profile(self.items, self._half_life), self._alpha)
        with quiet_and_single_threaded_blas():
            solved = self._solver.recalculate_user(np.arange(listens.queries), confidence)
        return solved, np.diff(confidence.indptr)

    def scores(self, listens: RecentListens) -> Floats:
        """See `Scorer.scores`."""
        users, known = self.users(listens)
        scores: Floats = users @ self._item_factors.T
        scores[known == 0] = -np.inf
        return scores


class BayesianPersonalisedRanking:
    """Trainings of BPR (Rendle et al., 2009, "Bayesian personalized ranking from implicit feedback")."""

    def __init__(self, plays: Plays, epochs: Sequence[int], seed: int) -> None:
        """Args: as of `AlternatingLeastSquares`."""
        self.items = plays.items
        self._counts = plays.counts
        self._epochs = sorted(epochs)
        self._seed = seed
        self._trained = functools.lru_cache(maxsize=1)(self._train)

    def baseline(
        self, half_life_plays: float, epochs: int, learning_rate: float, regularisation: float, factors: int
    ) -> FoldedRanking:
        """The scorer of one training. An epoch costs about 3 · factors · pairs steps."""
        item_factors, scale = self._trained(learning_rate, regularisation, factors)[epochs]
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
        )

    def _train(
        self, learning_rate: float, regularisation: float, factors: int
    ) -> dict[int, tuple[Floats, float]]:
        """Item factors [I, d + 1], the last being the bias, and `scale_of_users`, by number of epochs."""
        from implicit.cpu.bpr import BayesianPersonalizedRanking as Solver

        kept: dict[int, tuple[Floats, float]] = {}
        with quiet_and_single_threaded_blas():
            # Threads would write over each other's steps, each time another way.
            solver = Solver(
                factors=factors, learning_rate=learning_rate, regularization=regularisation, num_threads=1
            )
            for begin, end in zip([0, *self._epochs], self._epochs, strict=False):
                # Goes on from the factors that it has, with other draws.
                solver.iterations = end - begin
                solver.random_state = self._seed + end
                solver.fit(self._counts, show_progress=False)
                kept[end] = (
                    solver.item_factors.copy(),
                    scale_of_users(solver.user_factors[:, :-1], solver.item_factors[:, :-1], self._counts),
                )
        return kept


class FoldedRanking:
    """Scores items by BPR's factors and biases; a query's user is the mean of its items' factors, scaled.

    The scale is the one by which such means come nearest to the factors that train found for its users:
    without it the biases would say too much or too little.
    """

    def __init__(
        self, items: Ints, item_factors: Floats, scale: float, settings: dict[str, float | str]
    ) -> None:
        """Args:
        items: [I] ascending ids.
        item_factors: [I, d + 1], the last of which is the bias.
        scale: of the means.
        settings: `half_life_plays`, and those of the training.
        """
        self.items = items
        self.settings = settings
        self._half_life = float(settings["half_life_plays"])
        self._factors, self._bias = np.ascontiguousarray(item_factors[:, :-1]), item_factors[:, -1]
        self._scale = np.float32(scale)

    def scores(self, listens: RecentListens) -> Floats:
        """See `Scorer.scores`."""
        profile = listens.profile(self.items, self._half_life)
        total = np.asarray(profile.sum(axis=1), np.float32)
        mean = profile @ self._factors / np.maximum(total, 1e-12)
        scores: Floats = (self._scale * mean) @ self._factors.T + self._bias
        scores[total[:, 0] == 0] = -np.inf
        return scores


def confidences(plays: Any, alpha: float) -> Any:
    """alpha · ln(1 + plays) of what a sparse matrix holds."""
    confidence = plays.copy()
    confidence.data = np.float32(alpha) * np.log1p(plays.data)
    return confidence


def scale_of_users(users: Floats, items: Floats, counts: Any) -> float:
    """The s that minimises |users - s · means|², where a user's mean is of the factors of what they played.

    Args:
        users: [U, d].
        items: [I, d].
        counts: sparse [U, I].
    """
    means = counts @ items / np.maximum(np.asarray(counts.sum(axis=1)), 1)
    return max(float((users * means).sum() / max(float((means**2).sum()), 1e-12)), 0.0)


@contextmanager
def quiet_and_single_threaded_blas() -> Iterator[None]:
    """`implicit` has threads of its own: with those of BLAS beside them it is many times slower."""
    import threadpoolctl  # comes with implicit, which asks for just this

    logger = logging.getLogger("implicit")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with threadpoolctl.threadpool_limits(1, "blas"):
            yield
    finally:
        logger.setLevel(level)
