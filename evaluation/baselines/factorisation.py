"""Matrix factorisation of who played what in train, by `implicit`'s solvers: iALS and BPR.

A query's user is folded in from the listens that the query knows, whoever the user is: users whom train does
not know, and listens that train has not seen, are served as the model serves them.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import numpy as np

from two_tower.evaluation.baselines.ranking import Floats, RecentListens, columns_of
from two_tower.evaluation.label_events import LabelEvents
from two_tower.evaluation.queries import Ints

_Result = TypeVar("_Result")


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


class _Training(Generic[_Result]):
    """A training that goes on from where it stands when more epochs are asked for."""

    def __init__(self, go_on: Callable[[int, int], _Result]) -> None:
        """Args:
        go_on: trains from one number of epochs to another, and gives the result.
        """
        self._go_on = go_on
        self._epochs = 0
        self._result: _Result | None = None

    def after(self, epochs: int) -> _Result:
        """The result after so many epochs, which are no fewer than at the last call.

        Raises:
            ValueError: they are fewer.
        """
        if epochs < self._epochs:
            raise ValueError(f"{epochs} epochs are asked for after {self._epochs}.")
        if self._result is None or epochs > self._epochs:
            with quiet_and_single_threaded_blas():
                self._result = self._go_on(self._epochs, epochs)
            self._epochs = epochs
        return self._result


class _Trainings(Generic[_Result]):
    """Trainings by their settings, each as long as a scorer that came of it is held.

    A search holds the best so far, which it may ask for more epochs, and the one that it tries: of a million
    items each takes a gigabyte.
    """

    def __init__(self, begin: Callable[..., _Training[_Result]]) -> None:
        self._begin = begin
        self._held: weakref.WeakValueDictionary[Any, _Training[_Result]] = weakref.WeakValueDictionary()

    def of(self, *settings: float) -> _Training[_Result]:
        """The training of these settings, begun or still held."""
        training = self._held.get(settings)
        if training is None:
            training = self._held[settings] = self._begin(*settings)
        return training


class AlternatingLeastSquares:
    """Trainings of iALS (Hu, Koren and Volinsky, 2008, "Collaborative filtering for implicit feedback").

    A user's preference for an item is 1 if they played it and 0 if not, with a confidence of
    alpha · ln(1 + plays) in the one and of 1 in the other: once played, alpha ln 2.
    """

    def __init__(self, plays: Plays, seed: int) -> None:
        """Args:
        plays: of train.
        seed: of the first factors.
        """
        self.items = plays.items
        self._counts = plays.counts
        self._seed = seed
        self._trainings = _Trainings(self._begin)

    def baseline(
        self, half_life_plays: float, epochs: int, alpha: float, regularisation: float, factors: int
    ) -> FoldedLeastSquares:
        """The scorer of one training. An epoch takes some factors · (6 · pairs + factors · (U + I)) steps."""
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

    def _begin(self, alpha: float, regularisation: float, factors: int) -> _Training[Floats]:
        """A training whose result are the item factors [I, d]."""
        from implicit.cpu.als import AlternatingLeastSquares as Solver

        with quiet_and_single_threaded_blas():
            solver = Solver(factors=factors, regularization=regularisation, random_state=self._seed)

        def go_on(begin: int, end: int) -> Floats:
            solver.iterations = end - begin
            solver.fit(confidences(self._counts, alpha), show_progress=False)
            factors: Floats = solver.item_factors.copy()
            return factors

        return _Training(go_on)


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
        training: object = None,
    ) -> None:
        """Args:
        items: [I] ascending ids.
        item_factors: [I, d].
        training: is held, see `_Trainings`.
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

    def __init__(self, plays: Plays, seed: int) -> None:
        """Args: as of `AlternatingLeastSquares`."""
        self.items = plays.items
        self._counts = plays.counts
        self._seed = seed
        self._trainings = _Trainings(self._begin)

    def baseline(
        self, half_life_plays: float, epochs: int, learning_rate: float, regularisation: float, factors: int
    ) -> FoldedRanking:
        """The scorer of one training. An epoch costs about 3 · factors · pairs steps."""
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
    ) -> _Training[tuple[Floats, float]]:
        """A training whose result are item factors [I, d + 1], the last the bias, and `scale_of_users`."""
        from implicit.cpu.bpr import BayesianPersonalizedRanking as Solver

        with quiet_and_single_threaded_blas():
            # Threads would write over each other's steps, each time another way.
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

        return _Training(go_on)


class FoldedRanking:
    """Scores items by BPR's factors and biases; a query's user is the mean of its items' factors, scaled.

    The scale is the one by which such means come nearest to the factors that train found for its users:
    without it the biases would say too much or too little.
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
        scale: of the means.
        settings: `half_life_plays`, and those of the training.
        training: is held, see `_Trainings`.
        """
        self.items = items
        self.settings = settings
        self._half_life = float(settings["half_life_plays"])
        self._factors, self._bias = np.ascontiguousarray(item_factors[:, :-1]), item_factors[:, -1]
        self._scale = np.float32(scale)
        self._training = training

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
