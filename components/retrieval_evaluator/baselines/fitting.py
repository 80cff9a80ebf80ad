"""Which baselines there are, what each is tuned by, and which of them the data allows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from components.retrieval_evaluator.baselines.catalog import Catalog
from components.retrieval_evaluator.baselines.co_occurrence import DAMPINGS, CoOccurrence, Counts
from components.retrieval_evaluator.baselines.content_neighbours import ContentNeighbours
from components.retrieval_evaluator.baselines.factorisation import (
    AlternatingLeastSquares,
    BayesianPersonalisedRanking,
    Plays,
)
from components.retrieval_evaluator.baselines.label_events import LabelEvents
from components.retrieval_evaluator.baselines.personal_history import PersonalHistory
from components.retrieval_evaluator.baselines.popularity import Popularity
from components.retrieval_evaluator.baselines.ranking import Baseline, Scored, Scorer
from components.retrieval_evaluator.baselines.search import SECONDS, Found, search
from components.retrieval_evaluator.baselines.token_matching import Documents, TokenMatching
from components.retrieval_evaluator.metrics import hits_of, mean, recall_at_k
from components.retrieval_evaluator.queries import Ints, Windows, all_queries, sample_by_user
from pipeline.configs import BASELINES

HALF_LIVES_DAYS = (0.25, 1.0, 3.0, 7.0, 14.0, 30.0, 90.0, 365.0)
# A million plays is plain frequency, with ties going to the item played last.
HALF_LIVES_PLAYS = (5.0, 20.0, 100.0, 500.0, 2_000.0, 1_000_000.0)
# Of the listens that a query knows. A fifth of a play is the seed alone.
RECENT_HALF_LIVES_PLAYS = (5.0, 0.2, 1.0, 20.0, 1_000_000.0)
TUNING_QUERIES = 5_000
# A baseline that scores all items is tuned on so many scores a combination of settings, and not on fewer
# queries than these: of 500 queries, Recall@k is known to 2 points.
TUNING_SCORES, FEWEST_TUNING_QUERIES = 25_000_000, 500
# From so many pairs of user and item on, fewer trainings are compared, each of which takes minutes.
MANY_PAIRS = 5_000_000


class Fitted(Mapping[str, Baseline]):
    """Baselines by name, in the order of BASELINES.

    Attributes:
        notes: of those that the data does not allow, and of searches that ran out of time, a sentence that
            says so, by name.
    """

    def __init__(self, by_name: Mapping[str, Baseline], notes: Mapping[str, str]) -> None:
        self._by_name = by_name
        self.notes = notes

    def __getitem__(self, name: str) -> Baseline:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)


def fit_baselines(
    events: LabelEvents,
    evaluation: Windows,
    *,
    cutoff: int,
    repeats_recommendable: bool,
    seed: int,
    history_length: int,
    names: Collection[str] = BASELINES,
    catalog: Catalog | str = "No catalog was given.",
    seconds: float = SECONDS,
) -> Fitted:
    """Trains baselines on train's label events alone, and chooses their settings on eval alone.

    Args:
        events: train's.
        evaluation: the windows of eval.
        cutoff: settings are chosen by Recall@cutoff.
        repeats_recommendable: where they are not, what a user had is not recommended again.
        seed: of the sample of eval's queries, and of factors.
        history_length: how many events up to its own a query sees, as the model does. Personal history alone
            sees all.
        names: which of BASELINES.
        catalog: what is known of the items, or a sentence that says why nothing is.
        seconds: after which a baseline's search for settings ends with the best so far.
    """
    by_name: dict[str, Baseline] = {}
    notes: dict[str, str] = {}
    fitting = _Fitting(
        events, evaluation, cutoff, repeats_recommendable, seed, history_length, catalog, seconds
    )
    for name in (name for name in BASELINES if name in names):
        found = fitting.of(name)
        if isinstance(found, str):
            notes[name] = f"{name} is left out: {found}"
            continue
        by_name[name] = found.baseline
        if found.planned > 1:
            found.baseline.settings[f"eval_recall@{cutoff}"] = round(found.recall, 6)
        if found.was_stopped:
            notes[name] = (
                f"{name}: the search for its settings was stopped after {found.seconds:.0f} s, when "
                f"{found.tried} of {found.planned} combinations had been tried."
            )
    return Fitted(by_name, notes)


class _Fitting:
    """Fits one baseline after the other. What two of them need is made once."""

    def __init__(
        self,
        events: LabelEvents,
        evaluation: Windows,
        cutoff: int,
        repeats_recommendable: bool,
        seed: int,
        history_length: int,
        catalog: Catalog | str,
        seconds: float,
    ) -> None:
        self._events = events
        self._evaluation = evaluation
        self._queries = all_queries(evaluation)
        self._cutoff = cutoff
        self._repeats_recommendable = repeats_recommendable
        self._seed = seed
        self._history_length = history_length
        self._catalog = catalog
        self._seconds = seconds
        self._most_popular = Popularity(events)
        # What fills up the lists of those that know which items can be recommended.
        self._fill_up = self._most_popular
        if not isinstance(catalog, str):
            offered = np.isin(events.item_id, catalog.items)
            self._fill_up = Popularity(events.take(offered)) if not offered.all() else self._most_popular

    def of(self, name: str) -> Found | str:
        """The best of a name's candidates, or a sentence that says why there is none."""
        found: Found | str = getattr(self, name)()
        return found

    def most_popular(self) -> Found | str:
        return self._search(lambda: self._most_popular, {})

    def decayed_popularity(self) -> Found | str:
        if not self._events.has_times:
            return "the data has no times."
        return self._search(
            lambda half_life_days: Popularity(self._events, half_life_days),
            {"half_life_days": HALF_LIVES_DAYS},
        )

    def personal_history(self) -> Found | str:
        if not self._repeats_recommendable:
            return "an item that a user already had is not recommended."
        return self._search(
            lambda half_life_plays: PersonalHistory(self._events, self._most_popular, half_life_plays),
            {"half_life_plays": HALF_LIVES_PLAYS},
        )

    def token_matching(self) -> Found | str:
        if isinstance(self._catalog, str):
            return self._catalog
        if not len(self._catalog.token):
            return "the items have neither titles nor artists nor tags."
        documents = Documents(self._catalog)
        return self._search_scorers(
            lambda **settings: TokenMatching(documents, **settings),
            {"half_life_plays": (1.0, 0.2, 5.0), "k1": (1.2, 2.5), "b": (0.75, 0.3)},
            len(documents.items),
        )

    def co_occurrence(self) -> Found | str:
        counts = functools.lru_cache(maxsize=1)(lambda window: Counts(self._events, self._candidates, window))
        return self._search_scorers(
            lambda window, **settings: CoOccurrence(counts(window), **settings),
            # Those that need the same counts come first, so that no counts are made twice.
            {"half_life_plays": RECENT_HALF_LIVES_PLAYS, "damping": DAMPINGS, "window": (5, 2)},
            len(self._candidates),
        )

    def ials(self) -> Found | str:
        epochs = (6, 3)
        trainings = AlternatingLeastSquares(self._plays, epochs, self._seed)
        return self._search_scorers(
            trainings.baseline,
            {
                "half_life_plays": (1.0, 0.2, 5.0, 1_000_000.0),
                "epochs": epochs,
                **self._unless_large(
                    {"alpha": (40.0, 10.0), "regularisation": (1.0, 10.0), "factors": (64, 128)}
                ),
            },
            len(self._candidates),
        )

    def bpr(self) -> Found | str:
        epochs = (8, 4)
        trainings = BayesianPersonalisedRanking(self._plays, epochs, self._seed)
        return self._search_scorers(
            trainings.baseline,
            {
                "half_life_plays": (1.0, 0.2, 5.0),
                "epochs": epochs,
                **self._unless_large({"learning_rate": (0.05, 0.1), "regularisation": (0.01, 0.001)}),
                "factors": (64,),
            },
            len(self._candidates),
        )

    def content_neighbours(self) -> Found | str:
        catalog = self._catalog
        if isinstance(catalog, str):
            return catalog
        if catalog.embeddings is None or not catalog.embeddings.any():
            return "the items have no content embeddings."
        return self._search_scorers(
            lambda half_life_plays: ContentNeighbours(catalog, half_life_plays),
            {"half_life_plays": RECENT_HALF_LIVES_PLAYS},
            len(catalog.items),
        )

    @functools.cached_property
    def _candidates(self) -> Ints:
        """What train holds and may be recommended."""
        items: Ints = np.unique(self._events.item_id)
        return items if isinstance(self._catalog, str) else np.intersect1d(items, self._catalog.items)

    @functools.cached_property
    def _plays(self) -> Plays:
        return Plays(self._events, self._candidates)

    def _unless_large(self, grid: Mapping[str, Sequence[Any]]) -> Mapping[str, Sequence[Any]]:
        """Each value is a training: of large data, two values of the first setting alone."""
        if self._plays.counts.nnz <= MANY_PAIRS:
            return grid
        first = next(iter(grid))
        return {name: values[: 2 if name == first else 1] for name, values in grid.items()}

    def _search_scorers(
        self, build: Callable[..., Scorer], grid: Mapping[str, Sequence[Any]], items: int
    ) -> Found:
        def scored(**settings: Any) -> Baseline:
            return Scored(build(**settings), self._fill_up, self._history_length)

        return self._search(scored, grid, items)

    def _search(
        self, build: Callable[..., Baseline], grid: Mapping[str, Sequence[Any]], items: int = 1
    ) -> Found:
        """By Recall@cutoff on eval queries, drawn by user; `items`: how many are scored for each."""
        most = max(TUNING_SCORES // max(items, 1), FEWEST_TUNING_QUERIES)
        sampled = sample_by_user(self._queries, min(TUNING_QUERIES, most), self._seed)
        labels = self._queries.labels.take(sampled)
        exclude = not self._repeats_recommendable

        def recall(baseline: Baseline) -> float:
            recommended = baseline.recommend(self._evaluation, self._queries, sampled, self._cutoff, exclude)
            return mean(recall_at_k(hits_of(recommended, labels), labels.counts, self._cutoff))

        return search(build, grid, recall, self._seconds)
