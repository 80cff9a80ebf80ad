"""Figures of evaluation.json from the recommendations of all recommenders, in plain NumPy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from two_tower.evaluation.beyond_accuracy import ItemVectors, self_information
from two_tower.evaluation.measure import WithoutHistory
from two_tower.evaluation.metric_table import ListContext, slice_metrics, summarize
from two_tower.evaluation.metrics import Floats, Ints, ann_recall, label_ranks, mean
from two_tower.evaluation.queries import Queries
from two_tower.evaluation.query_results import QueryResults, pseudonyms
from two_tower.evaluation.recommenders import (
    ANCHOR_MODEL,
    BLESSED_MODEL,
    MODEL,
    MODEL_EXACT,
    NOT_BASELINES,
)
from two_tower.evaluation.slices import HISTORY_LENGTH, NO_HISTORY, Slice
from two_tower.evaluation.train_counts import TrainCounts
from two_tower.evaluation.uncertainty import UserSample

Numbers = dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class Recommendations:
    """Recommendations of all recommenders for the same queries.

    Attributes:
        queries: the Q queries that were asked.
        items: [Q, K] item ids, best first, -1 where there are fewer than K, by recommender: MODEL,
            MODEL_EXACT, BLESSED_MODEL and ANCHOR_MODEL where they may be compared with, and the baselines
            by name.
        slices: parts of the queries' labels.
        train: train's counts of users and items.
        history_popularity: [Q] mean popularity of the items that each query's user had played.
        vectors: vectors that lists are compared with themselves by.
        catalog_size: number of items that the model could recommend.
        cutoffs: the k of all metrics, at most K.
        judged_cutoff: the k that the gate judges by, one of the cutoffs.
        seed: seed of the pseudonyms.
        without_history: answers to requests without a history, if there were any.
    """

    queries: Queries
    items: dict[str, Ints]
    slices: list[Slice]
    train: TrainCounts
    history_popularity: Floats
    vectors: ItemVectors
    catalog_size: int
    cutoffs: tuple[int, ...]
    judged_cutoff: int
    seed: int
    without_history: WithoutHistory | None = None

    @property
    def baselines(self) -> list[str]:
        """Names of the baselines."""
        return [who for who in self.items if who not in NOT_BASELINES]


def results_of(recommendations: Recommendations) -> QueryResults:
    """Finds the rank of each label among all recommenders' recommendations."""
    labels = recommendations.queries.labels
    return QueryResults(
        pseudonyms(recommendations.queries.user_id, recommendations.seed),
        labels,
        {who: label_ranks(items, labels).astype(np.float32) for who, items in recommendations.items.items()},
        {part.name: part.labels for part in recommendations.slices},
    )


def evaluate(recommendations: Recommendations, results: QueryResults) -> dict[str, Any]:
    """Computes the figures: `queries`, `metrics`, `baselines`, `intervals`, `changes`, `slices`, `ann`.

    Further `diversity_of`, the source of the vectors that lists are compared with themselves by, and
    `released_metrics`, the metrics of BLESSED_MODEL and ANCHOR_MODEL, or {}. A value that could not be
    measured is None, as in JSON.
    """
    summaries = {who: _summary(recommendations, items) for who, items in recommendations.items.items()}
    sample = UserSample(results.user.astype(np.int64))
    values = {who: results.values(who, recommendations.cutoffs) for who in results.ranks}
    others = [who for who in values if who not in (MODEL, MODEL_EXACT)]
    return {
        "queries": _queries(recommendations),
        "metrics": {"test": summaries[MODEL], "test_exact": summaries[MODEL_EXACT]},
        "baselines": {name: summaries[name] for name in recommendations.baselines},
        "released_metrics": {who: summaries.get(who, {}) for who in (BLESSED_MODEL, ANCHOR_MODEL)},
        "intervals": {who: sample.intervals(of_who) for who, of_who in values.items()},
        "changes": {who: sample.changes(values[MODEL], values[who]) for who in others},
        "slices": _slices(recommendations, results, sample),
        "diversity_of": recommendations.vectors.source,
        "ann": _ann(recommendations),
    }


def _ann(recommendations: Recommendations) -> dict[str, Any]:
    """Computes the ANN recall at each cutoff, of all queries and by length of history."""
    queries, new = recommendations.queries, recommendations.without_history
    served, exact = (recommendations.items[who] for who in (MODEL, MODEL_EXACT))
    of_query = {f"recall@{k}": ann_recall(served[:, :k], exact[:, :k]) for k in recommendations.cutoffs}
    by_history: dict[str, Any] = {}
    if new is not None:
        of_new = {
            f"recall@{k}": ann_recall(new.served[:, :k], new.exact[:, :k]) for k in recommendations.cutoffs
        }
        by_history[NO_HISTORY] = _ann_of(of_new, new.user_id)
    for part in recommendations.slices:
        if part.family == HISTORY_LENGTH:
            chosen = np.zeros(len(queries), bool)
            chosen[queries.labels.query[part.labels]] = True
            values = {name: of_all[chosen] for name, of_all in of_query.items()}
            by_history[part.name] = _ann_of(values, queries.user_id[chosen])
    return {**_means(of_query, list(of_query)), "by_history": by_history}


def _ann_of(values: Mapping[str, Floats], users: Ints) -> dict[str, Any]:
    return {
        "queries": len(users),
        "users": len(np.unique(users)),
        **_means(values, list(values)),
        "intervals": UserSample(users).intervals(values),
    }


def _summary(recommendations: Recommendations, items: Ints) -> Numbers:
    """Computes all metrics of one recommender."""
    queries, train = recommendations.queries, recommendations.train
    catalog_size = recommendations.catalog_size
    context = ListContext(
        self_information(train.plays_of(items), len(train.events.item_id), catalog_size),
        train.popularity(items),
        recommendations.history_popularity,
        recommendations.vectors,
    )
    return all_finite(
        summarize(items, queries.labels, queries.user_id, recommendations.cutoffs, catalog_size, context)
    )


def _queries(recommendations: Recommendations) -> dict[str, Any]:
    """Counts queries, users and labels."""
    queries, train = recommendations.queries, recommendations.train
    counts = queries.labels.counts
    return {
        "test": len(queries),
        "users": len(np.unique(queries.user_id)),
        "by_users_unknown_to_train": int((~train.knows_users(queries.user_id)).sum()),
        "labels": {
            "total": len(queries.label_item_id),
            "mean": float(counts.mean()) if len(counts) else 0.0,
            "median": float(np.median(counts)) if len(counts) else 0.0,
            "max": int(counts.max(initial=0)),
            "unknown_to_train": int((~train.knows_items(queries.label_item_id)).sum()),
        },
    }


def _slices(recommendations: Recommendations, results: QueryResults, sample: UserSample) -> dict[str, Any]:
    """Gives family, size and metrics of each slice, and intervals at the judged cutoff."""
    labels, user_of_label = results.labels, results.user[results.labels.query]
    whose = [who for who in results.ranks if who != MODEL_EXACT]
    judged = slice_metrics([recommendations.judged_cutoff])
    shown = slice_metrics(recommendations.cutoffs)
    found: dict[str, Any] = {}
    columns: dict[str, Floats] = {}
    for part in recommendations.slices:
        values = {who: results.values(who, recommendations.cutoffs, part.name) for who in whose}
        found[part.name] = {
            "family": part.family,
            **part.size(labels),
            "users": len(np.unique(user_of_label[part.labels])),
            "metrics": {who: _means(of_who, shown) for who, of_who in values.items()},
            "intervals": {who: {} for who in whose},
            "lift": _lift_in(recommendations, values, sample),
        }
        columns |= {f"{part.name}/{who}/{name}": values[who][name] for who in whose for name in judged}
    for place, interval in sample.intervals(columns).items():
        name, who, metric = place.rsplit("/", 2)
        found[name]["intervals"][who][metric] = interval
    return found


def _lift_in(
    recommendations: Recommendations, values: Mapping[str, Mapping[str, Floats]], sample: UserSample
) -> dict[str, Any] | None:
    """Compares a slice's judged recall with that of the baseline that is best there; None without labels."""
    judged = f"recall@{recommendations.judged_cutoff}"
    of_baseline = {name: values[name][judged] for name in recommendations.baselines}
    means = _means(of_baseline, list(of_baseline))
    known = {name: value for name, value in means.items() if value is not None}
    if not known:
        return None
    best = max(known, key=lambda name: known[name])
    change = sample.changes({judged: values[MODEL][judged]}, {judged: of_baseline[best]})[judged]
    return {"baseline": best, **change}


def _means(values: Mapping[str, Floats], names: Sequence[str]) -> Numbers:
    """Averages the named metrics over the queries that have a value."""
    return {name: _finite(mean(values[name][np.isfinite(values[name])])) for name in names}


def all_finite(metrics: Mapping[str, float]) -> Numbers:
    """Replaces values that are no number by None, as JSON has null."""
    return {name: _finite(value) for name, value in metrics.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
