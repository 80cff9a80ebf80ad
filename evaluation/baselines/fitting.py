"""Fit of the baselines: training on train, choice of settings on eval, notes on what the data lacks."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from two_tower.evaluation.baselines.catalog import Catalog
from two_tower.evaluation.baselines.definition import VECTORS, Baseline, FittingData
from two_tower.evaluation.baselines.ranking import FittedBaseline
from two_tower.evaluation.baselines.registry import BASELINES, definition
from two_tower.evaluation.baselines.search import SECONDS, Found, search
from two_tower.evaluation.label_events import LabelEvents
from two_tower.evaluation.metric_table import values_by_query
from two_tower.evaluation.metrics import label_ranks, mean
from two_tower.evaluation.queries import Queries, Windows, all_queries

# Recall@k is known to a point with this many queries, and differences between settings better.
TUNING_QUERIES = 2_000
# A baseline that scores all items computes at most this many scores for a combination of settings, but asks
# no fewer queries than this.
TUNING_SCORES, FEWEST_TUNING_QUERIES = 25_000_000, 500
# From this number of pairs of user and item on, a training takes minutes, and fewer are compared.
MANY_PAIRS = 5_000_000


class Fitted(Mapping[str, FittedBaseline]):
    """Fitted baselines by name, in the order of the registry.

    Attributes:
        notes: a sentence by name for each baseline that the data does not allow, and for each search that ran
            out of time.
    """

    def __init__(self, by_name: Mapping[str, FittedBaseline], notes: Mapping[str, str]) -> None:
        self._by_name = by_name
        self.notes = notes

    def __getitem__(self, name: str) -> FittedBaseline:
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
        events: train's label events.
        evaluation: windows of eval.
        cutoff: the k of the Recall@k that settings are chosen by.
        repeats_recommendable: False where items of the user's history are not recommended again.
        seed: seed of the sample of eval's queries, and of factors.
        history_length: events up to its own that a query sees, as the model does. Personal history alone
            sees all.
        names: baselines to fit, of the registry.
        catalog: the items, or a sentence that says why there are none.
        seconds: time after which a baseline's search for settings ends with the best so far.
    """
    by_name: dict[str, FittedBaseline] = {}
    notes: dict[str, str] = {}
    data = FittingData(events, catalog, repeats_recommendable, history_length, seed)
    queries = all_queries(evaluation)
    for name in (name for name in BASELINES if name in names):
        baseline = definition(name)
        lacking = baseline.lacking(data)
        if lacking is not None:
            notes[name] = f"{name} is left out: {lacking}"
            continue
        found = _fitted(baseline, data, evaluation, queries, cutoff, seconds)
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


def needs_vectors(names: Collection[str]) -> bool:
    """Tells whether any of the named baselines needs content vectors, which take much memory."""
    return any(VECTORS in definition(name).needs for name in names)


def _fitted(
    baseline: Baseline,
    data: FittingData,
    evaluation: Windows,
    queries: Queries,
    cutoff: int,
    seconds: float,
) -> Found:
    """Fits a baseline with the settings of the best Recall@cutoff on eval queries drawn at random.

    Single queries are drawn, not whole users as for reported figures. Recall is a mean over queries: a
    thousand queries by forty users tell far less than a thousand by as many users as there are.
    """
    most = TUNING_SCORES // max(baseline.scored_items(data), 1)
    most = min(max(most, FEWEST_TUNING_QUERIES), TUNING_QUERIES)
    sampled = np.sort(np.random.default_rng(data.seed).permutation(len(queries))[:most])
    labels = queries.labels.take(sampled)
    exclude = not data.repeats_recommendable

    def recall(fitted: FittedBaseline) -> float:
        recommended = fitted.recommend(evaluation, queries, sampled, cutoff, exclude)
        ranks = label_ranks(recommended, labels)
        return mean(values_by_query(ranks, labels, [cutoff])[f"recall@{cutoff}"])

    is_large = bool(baseline.trained) and data.plays.counts.nnz > MANY_PAIRS
    grid = baseline.grid_on_large_data() if is_large else baseline.grid
    return search(baseline.fit(data), grid, recall, seconds, rising=("epochs",))
