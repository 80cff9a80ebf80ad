"""Which baselines there are, what each is tuned by, and which of them the data allows."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from two_tower.evaluation.baselines.catalog import Catalog
from two_tower.evaluation.baselines.co_occurrence import DAMPINGS, CoOccurrence, Counts
from two_tower.evaluation.baselines.content_neighbours import ContentNeighbours
from two_tower.evaluation.baselines.factorisation import (
    AlternatingLeastSquares,
    BayesianPersonalisedRanking,
    Plays,
)
from two_tower.evaluation.baselines.personal_history import PersonalHistory
from two_tower.evaluation.baselines.popularity import Popularity
from two_tower.evaluation.baselines.ranking import Baseline, Scored, Scorer
from two_tower.evaluation.baselines.search import SECONDS, Found, search
from two_tower.evaluation.baselines.token_matching import Documents, TokenMatching
from two_tower.evaluation.label_events import LabelEvents
from two_tower.evaluation.metrics import label_ranks, mean, values_by_query
from two_tower.evaluation.queries import Ints, Windows, all_queries
from two_tower.evaluation.settings import BASELINES

HALF_LIVES_DAYS = (0.02, 0.06, 0.25, 1.0, 3.0, 7.0, 14.0, 30.0, 90.0, 365.0)
# A million plays is plain frequency, with ties going to the item played last.
HALF_LIVES_PLAYS = (5.0, 20.0, 100.0, 500.0, 1_000_000.0)
# Of the listens that a query knows. A fifth of a play is the seed alone.
RECENT_HALF_LIVES_PLAYS = (5.0, 0.2, 1.0, 20.0, 1_000_000.0)
# Recall@k of so many queries is known to a point, and differences between settings better.
TUNING_QUERIES = 2_000
# A baseline that scores all items is tuned on so many scores a combination of settings, and not on fewer
# queries than these.
TUNING_SCORES, FEWEST_TUNING_QUERIES = 25_000_000, 500
# A training goes on from the one to the next where that helps, with the best other settings. On simulated
# data 12 epochs of iALS, and 24 of BPR, find no more than noise beyond these.
_EPOCHS_OF_ALS, _EPOCHS_OF_BPR = {"epochs": (3, 6)}, {"epochs": (8, 16)}
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
        if found.planned > 1 and math.isnan(found.recall):
            notes[name] = f"{name} has its first settings: eval holds no query to choose them by."
        elif found.planned > 1:
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
        # Those of items that can be recommended: withdrawn ones are counted by nobody.
        self._offered = events
        if not isinstance(catalog, str):
            is_offered = np.isin(events.item_id, catalog.items)
            self._offered = events if is_offered.all() else events.take(is_offered)
        self._most_popular = Popularity(self._offered)

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
            lambda half_life_days: Popularity(self._offered, half_life_days),
            {"half_life_days": HALF_LIVES_DAYS},
        )

    def personal_history(self) -> Found | str:
        if not self._repeats_recommendable:
            return "an item that a user already had is not recommended."
        allowed = None if isinstance(self._catalog, str) else self._catalog.items
        return self._search(
            lambda half_life_plays: PersonalHistory(
                self._events, self._most_popular, half_life_plays, allowed
            ),
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
        return self._search_scorers(
            AlternatingLeastSquares(self._plays, self._seed).baseline,
            {
                "half_life_plays": (1.0, 0.2, 5.0, 1_000_000.0),
                **self._unless_large(
                    {"alpha": (10.0, 40.0, 2.5), "regularisation": (1.0, 10.0), "factors": (64, 128)}
                ),
                **_EPOCHS_OF_ALS,
            },
            len(self._candidates),
        )

    def bpr(self) -> Found | str:
        return self._search_scorers(
            BayesianPersonalisedRanking(self._plays, self._seed).baseline,
            {
                "half_life_plays": (1.0, 0.2, 5.0),
                **self._unless_large({"regularisation": (0.001, 0.01)}),
                # More epochs do what a greater rate does.
                "learning_rate": (0.05,),
                "factors": (64,),
                **_EPOCHS_OF_BPR,
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
        return self._offered.by_item[0]

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
            return Scored(build(**settings), self._most_popular, self._history_length)

        return self._search(scored, grid, items)

    def _search(
        self, build: Callable[..., Baseline], grid: Mapping[str, Sequence[Any]], items: int = 1
    ) -> Found:
        """By Recall@cutoff on eval queries drawn at random; `items`: how many are scored for each.

        Single queries, not whole users as where figures are reported: recall is a mean over queries, of which
        a thousand by forty users say far less than a thousand by as many users as there are.
        """
        most = min(max(TUNING_SCORES // max(items, 1), FEWEST_TUNING_QUERIES), TUNING_QUERIES)
        drawn = np.random.default_rng(self._seed).permutation(len(self._queries))
        sampled = np.sort(drawn[:most])
        labels = self._queries.labels.take(sampled)
        exclude = not self._repeats_recommendable

        def recall(baseline: Baseline) -> float:
            recommended = baseline.recommend(self._evaluation, self._queries, sampled, self._cutoff, exclude)
            ranks = label_ranks(recommended, labels)
            return mean(values_by_query(ranks, labels, [self._cutoff])[f"recall@{self._cutoff}"])

        return search(build, grid, recall, self._seconds, rising=("epochs",))
