"""Definition of a baseline: its name and words for readers, its needs, its grid of settings, and its fit."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from two_tower.evaluation.baselines.catalog import Catalog
from two_tower.evaluation.baselines.plays import Plays
from two_tower.evaluation.baselines.popularity import Popularity
from two_tower.evaluation.baselines.ranking import FittedBaseline, Scored, Scorer
from two_tower.evaluation.label_events import LabelEvents
from two_tower.evaluation.queries import Ints

Grid = Mapping[str, Sequence[Any]]

# Families: the steps of the report's story, and baselines that are drawn alike.
POPULARITY, HISTORY, CONTENT, CO_OCCURRENCE = "popularity", "history", "content", "co-occurrence"
TOKEN_MATCHING, FACTORISATION = "token matching", "factorisation"
# Half-lives of the listens that a query knows. A fifth of a play is the seed item alone.
RECENT_HALF_LIVES_PLAYS = (5.0, 0.2, 1.0, 20.0, 1_000_000.0)


@dataclasses.dataclass(frozen=True)
class FittingData:
    """The data that baselines are fitted to. Parts that several baselines need are made once.

    Attributes:
        events: train's label events.
        catalog: the data directory's items, or a sentence that says why there is none.
        repeats_recommendable: False where items of the user's history are not recommended again.
        history_length: events up to its own that a query sees, as the model does.
        seed: seed of factors.
    """

    events: LabelEvents
    catalog: Catalog | str
    repeats_recommendable: bool
    history_length: int
    seed: int

    @functools.cached_property
    def offered(self) -> LabelEvents:
        """Label events of items that can be recommended: withdrawn items are counted by no baseline."""
        if isinstance(self.catalog, str):
            return self.events
        is_offered = np.isin(self.events.item_id, self.catalog.items)
        return self.events if is_offered.all() else self.events.take(is_offered)

    @functools.cached_property
    def most_popular(self) -> Popularity:
        """Popularity without decay, which fills up short lists."""
        return Popularity(self.offered)

    @functools.cached_property
    def candidates(self) -> Ints:
        """Items that train holds and that can be recommended: [I] ascending ids."""
        return self.offered.by_item[0]

    @functools.cached_property
    def plays(self) -> Plays:
        """Plays of the candidates by user, for factorisations."""
        return Plays(self.events, self.candidates)

    @property
    def known_catalog(self) -> Catalog:
        """The catalog of a baseline that needs one (`CATALOG`)."""
        assert not isinstance(self.catalog, str)
        return self.catalog

    def scored(self, build: Callable[..., Scorer]) -> Callable[..., FittedBaseline]:
        """Returns a builder of baselines that rank items by the scores of `build`'s scorers."""

        def built(**settings: Any) -> FittedBaseline:
            return Scored(build(**settings), self.most_popular, self.history_length)

        return built


@dataclasses.dataclass(frozen=True)
class Need:
    """Something that a baseline needs of the data.

    Attributes:
        meaning: the need, for the reference.
        lacking: returns a sentence where the data lacks it, or None.
    """

    meaning: str
    lacking: Callable[[FittingData], str | None]


def _lacks_words(data: FittingData) -> str | None:
    return None if len(data.known_catalog.token) else "the items have neither titles nor artists nor tags."


def _lacks_vectors(data: FittingData) -> str | None:
    vectors = data.known_catalog.embeddings
    return "the items have no content embeddings." if vectors is None or not vectors.any() else None


TIMES = Need(
    meaning="times of events",
    lacking=lambda data: None if data.events.has_times else "the data has no times.",
)
REPEATS = Need(
    meaning="repeats that may be recommended",
    lacking=lambda data: (
        None if data.repeats_recommendable else "an item that a user already had is not recommended."
    ),
)
CATALOG = Need(
    meaning="the data directory as the windows were cut from it",
    lacking=lambda data: data.catalog if isinstance(data.catalog, str) else None,
)
WORDS = Need(meaning="titles, artists or tags of items", lacking=_lacks_words)
VECTORS = Need(meaning="content embeddings of items", lacking=_lacks_vectors)


@dataclasses.dataclass(frozen=True)
class Baseline:
    """One baseline, which settings, fitting, reports and the reference know by this object alone.

    Attributes:
        name: name in evaluation.json and in `evaluation.baselines`: that of the module.
        label: name for readers.
        family: baselines of a family are one step of the report's story.
        colour: CSS variable of report/style.css, without dashes.
        place: reports show baselines by ascending place.
        meaning: the method in words, for the reference.
        fit: trains on the data and returns a builder of the baseline by its settings.
        grid: values of each setting, in the order in which settings are chosen on eval; the search begins
            with the first of each.
        needs: needs of the data, checked in this order. A baseline whose needs are not met is left out.
        trained: settings of which each value is another training. On large data two values of the first and
            one value of the others are tried.
        scored_items: number of items that a query's answer scores, which limits the queries of the search.
    """

    name: str
    label: str
    family: str
    colour: str
    place: int
    meaning: str
    fit: Callable[[FittingData], Callable[..., FittedBaseline]]
    grid: Grid = dataclasses.field(default_factory=dict)
    needs: tuple[Need, ...] = ()
    trained: tuple[str, ...] = ()
    scored_items: Callable[[FittingData], int] = lambda data: 1

    def lacking(self, data: FittingData) -> str | None:
        """Returns a sentence that says why the data does not allow the baseline, or None."""
        return next((said for need in self.needs if (said := need.lacking(data))), None)

    def grid_on_large_data(self) -> Grid:
        """Returns the grid with fewer values of `trained` settings."""
        most = {name: 2 if place == 0 else 1 for place, name in enumerate(self.trained)}
        return {name: values[: most.get(name, len(values))] for name, values in self.grid.items()}
