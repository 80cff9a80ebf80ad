"""The metrics: each is one object, and `METRICS` is their order in evaluation.json and in the reports.

The formulas are in `metrics` (are labels found?) and `beyond_accuracy` (what do the lists look like?).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from two_tower.evaluation import metrics
from two_tower.evaluation.beyond_accuracy import (
    ItemVectors,
    intra_list_diversity,
    novelty_at_k,
    popularity_lift_at_k,
)
from two_tower.evaluation.metrics import Bools, Floats, Ints
from two_tower.evaluation.queries import LabelSets

Average = Callable[[Floats], float]


@dataclasses.dataclass(frozen=True)
class ListContext:
    """Facts about recommended items, from train and the catalog.

    Attributes:
        information: [Q, K] of the recommended items, see `beyond_accuracy.self_information`.
        popularity: [Q, K] their shares of train's label events.
        history_popularity: [Q] mean popularity of the items that each query's user had played.
        vectors: vectors that items are compared by.
    """

    information: Floats
    popularity: Floats
    history_popularity: Floats
    vectors: ItemVectors


@dataclasses.dataclass(frozen=True)
class Answers:
    """One recommender's answers.

    Attributes:
        recommended: [Q, K] item ids, best first, -1 where there are fewer than K.
        labels: labels of each query, at least one.
        catalog_size: number of items that could be recommended.
        context: facts about the recommended items; without them the metrics that need them are left out.
    """

    recommended: Ints
    labels: LabelSets
    catalog_size: int
    context: ListContext | None = None

    @functools.cached_property
    def hits(self) -> Bools:
        """[Q, K], see `metrics.hits_of`."""
        return metrics.hits_of(self.recommended, self.labels)

    @functools.cached_property
    def counts(self) -> Ints:
        """Number of labels of each query [Q]."""
        return self.labels.counts

    @property
    def known_context(self) -> ListContext:
        """The context of a metric that needs it."""
        assert self.context is not None
        return self.context


class RankedLabels:
    """Labels with their ranks, from which the values of single queries follow.

    Attributes:
        query: [labels] the query of each label.
        rank: [labels] its rank from 1, infinite where it is not recommended.
        counts: [Q] number of labels of each query.
        asked: [Q] mask of queries with a label.
    """

    def __init__(
        self, ranks: npt.NDArray[np.floating], labels: LabelSets, chosen: Bools | None = None
    ) -> None:
        """Keeps the labels in `chosen` [labels] alone; ranks are among all recommendations all the same."""
        self.query = labels.query if chosen is None else labels.query[chosen]
        self.rank = np.asarray(ranks if chosen is None else ranks[chosen], np.float64)
        self.counts = np.bincount(self.query, minlength=len(labels))
        self.asked = self.counts > 0

    @functools.cached_property
    def best(self) -> Floats:
        """Best rank of each query's labels [Q]."""
        best = np.full(len(self.counts), np.inf)
        np.minimum.at(best, self.query, self.rank)
        return best

    @functools.cached_property
    def gain(self) -> Floats:
        """1 / log2(1 + rank) of each label."""
        return np.asarray(1.0 / np.log2(1.0 + self.rank))

    def total(self, values: npt.NDArray[Any], scale: npt.NDArray[Any]) -> Floats:
        """Sums values of labels by query and divides by a scale [Q]; NaN for a query without a label."""
        total = np.bincount(self.query, values, minlength=len(self.counts))
        of_all = np.full(len(self.counts), np.nan)
        np.divide(total, scale, out=of_all, where=self.asked)
        return of_all


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric, which figures, glossary, reports and the reference know by this object alone.

    Either `averaged` or `of_lists` computes it.

    Attributes:
        name: name in evaluation.json, where `@k` follows.
        label: name for readers.
        meaning: definition where queries have sets of labels.
        meaning_of_one: definition where each query has one label, if it can be said more simply.
        averaged: computes the metric by an average over queries or users, at one k.
        of_lists: computes the metric of all lists together, at each k.
        of_ranks: computes the values of single queries at one k, for confidence intervals and slices.
        has_cutoff: False for a metric of whole lists.
        only_for_sets: True where the metric equals recall or NDCG if each query has one label.
        of_slices: True for a metric that slices show.
        needs_context: True for a metric that needs `Answers.context`.
    """

    name: str
    label: str
    meaning: str
    meaning_of_one: str = ""
    averaged: Callable[[Answers, int, Average], float] | None = None
    of_lists: Callable[[Answers, Sequence[int]], Mapping[int, float]] | None = None
    of_ranks: Callable[[RankedLabels, int], Floats] | None = None
    has_cutoff: bool = True
    only_for_sets: bool = False
    of_slices: bool = False
    needs_context: bool = False

    def names(self, cutoffs: Sequence[int]) -> dict[str, int]:
        """Returns the cutoff by each name in evaluation.json; 0 for a metric without a cutoff."""
        return {f"{self.name}@{k}": k for k in cutoffs} if self.has_cutoff else {self.name: 0}


METRICS = (
    Metric(
        name="recall",
        label="Recall@k",
        meaning="hits among the first k / number of labels",
        meaning_of_one="share of queries whose item is among the first k",
        averaged=lambda of, k, average: average(metrics.recall_at_k(of.hits, of.counts, k)),
        of_ranks=lambda labels, k: labels.total(labels.rank <= k, labels.counts),
        of_slices=True,
    ),
    Metric(
        name="clipped_recall",
        label="Clipped Recall@k",
        meaning="hits among the first k / min(k, number of labels)",
        averaged=lambda of, k, average: average(metrics.clipped_recall_at_k(of.hits, of.counts, k)),
        only_for_sets=True,
    ),
    Metric(
        name="hit_rate",
        label="Hit rate@k",
        meaning="share of queries with at least one hit among the first k",
        averaged=lambda of, k, average: average(metrics.hit_rate_at_k(of.hits, k)),
        of_ranks=lambda labels, k: np.where(labels.asked, labels.best <= k, np.nan),
        only_for_sets=True,
    ),
    Metric(
        name="ndcg",
        label="NDCG@k",
        meaning="mean over queries of DCG / ideal DCG",
        meaning_of_one="mean of 1 / log2(1 + rank) of the item where it is among the first k, else 0",
        averaged=lambda of, k, average: average(metrics.ndcg_at_k(of.hits, of.counts, k)),
        of_ranks=lambda labels, k: labels.total(
            labels.gain * (labels.rank <= k), metrics.ideal_dcg_at_k(labels.counts, k)
        ),
        of_slices=True,
    ),
    Metric(
        name="pooled_ndcg",
        label="Pooled NDCG@k",
        meaning="mean DCG / mean ideal DCG (Yambda's NDCG)",
        averaged=lambda of, k, average: metrics.pooled_ndcg_at_k(of.hits, of.counts, k, average),
        only_for_sets=True,
    ),
    Metric(
        name="mrr",
        label="MRR",
        meaning="mean of 1 / rank of the first hit",
        meaning_of_one="mean of 1 / rank of the item",
        averaged=lambda of, k, average: average(metrics.reciprocal_rank(of.hits)),
        of_ranks=lambda labels, k: np.where(labels.asked, 1.0 / labels.best, np.nan),
        has_cutoff=False,
    ),
    Metric(
        name="coverage",
        label="Coverage@k",
        meaning="share of the catalog that at least one query is shown among its first k",
        of_lists=lambda of, cutoffs: {
            k: metrics.coverage_at_k(of.recommended, k, of.catalog_size) for k in cutoffs
        },
    ),
    Metric(
        name="novelty",
        label="Novelty@k",
        meaning="mean of -log2 of a shown item's share of train's label events, in bits",
        of_lists=lambda of, cutoffs: {
            k: novelty_at_k(of.recommended, of.known_context.information, k) for k in cutoffs
        },
        needs_context=True,
    ),
    Metric(
        name="popularity_lift",
        label="Popularity lift@k",
        meaning="relative difference in popularity between shown items and items that their users had "
        "played; 1 for twice as popular",
        of_lists=lambda of, cutoffs: {
            k: popularity_lift_at_k(
                of.recommended, of.known_context.popularity, of.known_context.history_popularity, k
            )
            for k in cutoffs
        },
        needs_context=True,
    ),
    Metric(
        name="intra_list_diversity",
        label="Intra-list diversity@k",
        meaning="1 - mean cosine of all pairs of items within the first k",
        of_lists=lambda of, cutoffs: intra_list_diversity(of.recommended, cutoffs, of.known_context.vectors),
        needs_context=True,
    ),
)
_BY_NAME = {one.name: one for one in METRICS}
# Metrics with confidence intervals, in their order there.
WITH_INTERVALS = ("recall", "ndcg", "hit_rate", "mrr")
OF_USERS = "user_"


def metric_of(name: str) -> Metric | None:
    """Returns the metric of a name such as `user_recall@10`; None for names that are no metric."""
    return _BY_NAME.get(name.removeprefix(OF_USERS).partition("@")[0])


def slice_metrics(cutoffs: Sequence[int]) -> list[str]:
    """Names of the metrics that slices show, by metric and then by cutoff."""
    return [name for one in METRICS if one.of_slices for name in one.names(cutoffs)]


def summarize(
    recommended: Ints,
    labels: LabelSets,
    users: Ints,
    cutoffs: Sequence[int],
    catalog_size: int,
    context: ListContext | None = None,
) -> dict[str, float]:
    """Computes all metrics of one recommender.

    Args:
        recommended: [Q, K] item ids, best first, -1 where there are fewer than K.
        labels: labels of each query, at least one.
        users: [Q] user ids.
        cutoffs: each k.
        catalog_size: number of items that could be recommended.
        context: facts about the recommended items; without them metrics that need them are left out.

    Returns:
        Values by name: the averages over queries; the same with the prefix `user_` over users, where a user's
        value is the mean over their queries; and the metrics of lists. `pooled_ndcg@k` is mean DCG over mean
        ideal DCG, each a mean over queries or users as its name says.

    Raises:
        ValueError: there are fewer recommendations than a cutoff asks for, a query has no label, or the
            lengths differ.
    """
    metrics.check_queries(recommended=len(recommended), labels=len(labels), users=len(users))
    largest = max(cutoffs)
    if recommended.shape[1] < largest:
        raise ValueError(f"{recommended.shape[1]} recommendations a query, fewer than k={largest}.")
    answers = Answers(recommended, labels, catalog_size, context)
    if not answers.counts.all():
        raise ValueError(f"{(answers.counts == 0).sum()} of {len(answers.counts)} queries have no label.")
    averages: dict[str, Average] = {
        "": metrics.mean,
        OF_USERS: lambda values: metrics.user_mean(values, users),
    }
    found = {
        prefix + name: one.averaged(answers, k, average)
        for prefix, average in averages.items()
        for one in METRICS
        if one.averaged
        for name, k in one.names(cutoffs).items()
    }
    for one in METRICS:
        if one.of_lists and (context is not None or not one.needs_context):
            values = one.of_lists(answers, cutoffs)
            found |= {f"{one.name}@{k}": values[k] for k in cutoffs}
    return found


def values_by_query(
    ranks: npt.NDArray[np.floating], labels: LabelSets, cutoffs: Sequence[int], chosen: Bools | None = None
) -> dict[str, Floats]:
    """Computes the metrics with intervals for every query, from the ranks of its labels alone.

    Args:
        ranks: [labels] by `metrics.label_ranks`.
        labels: labels of Q queries.
        cutoffs: each k.
        chosen: [labels] mask of the labels that are asked for; None for all. Ranks among all recommendations
            stay as they are.

    Returns:
        Values by name [Q]; NaN for a query without such a label.
    """
    ranked = RankedLabels(ranks, labels, chosen)
    found: dict[str, Floats] = {}
    for name in WITH_INTERVALS:
        metric = _BY_NAME[name]
        assert metric.of_ranks is not None
        found |= {each: metric.of_ranks(ranked, k) for each, k in metric.names(cutoffs).items()}
    return found
