"""Figures of evaluation.json from the recommendations of all recommenders, in plain NumPy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from two_tower.evaluation.beyond_accuracy import ItemVectors, self_information
from two_tower.evaluation.bootstrap import RESAMPLES, UserBootstrap
from two_tower.evaluation.metric_table import ListContext, slice_metrics, summarize
from two_tower.evaluation.metrics import Floats, Ints, ann_recall, label_ranks, mean
from two_tower.evaluation.queries import Queries
from two_tower.evaluation.query_results import QueryResults, pseudonyms
from two_tower.evaluation.recommenders import BLESSED_MODEL, MODEL, MODEL_EXACT
from two_tower.evaluation.slices import Slice
from two_tower.evaluation.train_counts import TrainCounts

Numbers = dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class Recommendations:
    """Recommendations of all recommenders for the same queries.

    Attributes:
        queries: the Q queries that were asked.
        items: [Q, K] item ids, best first, -1 where there are fewer than K, by recommender: MODEL,
            MODEL_EXACT, BLESSED_MODEL where it may be compared with, and the baselines by name.
        slices: parts of the queries' labels.
        train: train's counts of users and items.
        history_popularity: [Q] mean popularity of the items that each query's user had played.
        vectors: vectors that lists are compared with themselves by.
        catalog_size: number of items that the model could recommend.
        cutoffs: the k of all metrics, at most K.
        judged_cutoff: the k that the gate judges by, one of the cutoffs.
        seed: seed of the bootstrap and the pseudonyms.
        resamples: number of resamples of the bootstrap.
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
    resamples: int = RESAMPLES

    @property
    def baselines(self) -> list[str]:
        """Names of the baselines."""
        return [who for who in self.items if who not in (MODEL, MODEL_EXACT, BLESSED_MODEL)]


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
    `blessed_metrics`, the metrics of the latest blessed model, or {}. A value that could not be measured is
    None, as in JSON.
    """
    summaries = {who: _summary(recommendations, items) for who, items in recommendations.items.items()}
    bootstrap = UserBootstrap(results.user.astype(np.int64), recommendations.resamples, recommendations.seed)
    values = {who: results.values(who, recommendations.cutoffs) for who in results.ranks}
    others = [who for who in values if who not in (MODEL, MODEL_EXACT)]
    return {
        "queries": _queries(recommendations),
        "metrics": {"test": summaries[MODEL], "test_exact": summaries[MODEL_EXACT]},
        "baselines": {name: summaries[name] for name in recommendations.baselines},
        "blessed_metrics": summaries.get(BLESSED_MODEL, {}),
        "intervals": {who: bootstrap.intervals(of_who) for who, of_who in values.items()},
        "changes": {who: bootstrap.changes(values[MODEL], values[who]) for who in others},
        "slices": _slices(recommendations, results, bootstrap),
        "diversity_of": recommendations.vectors.source,
        "ann": {
            f"recall@{k}": _finite(
                ann_recall(recommendations.items[MODEL][:, :k], recommendations.items[MODEL_EXACT][:, :k])
            )
            for k in recommendations.cutoffs
        },
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


def _slices(
    recommendations: Recommendations, results: QueryResults, bootstrap: UserBootstrap
) -> dict[str, Any]:
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
        }
        columns |= {f"{part.name}/{who}/{name}": values[who][name] for who in whose for name in judged}
    # All at once: slices and recommenders share the resamples of users.
    for place, interval in bootstrap.intervals(columns).items():
        name, who, metric = place.rsplit("/", 2)
        found[name]["intervals"][who][metric] = interval
    return found


def _means(values: Mapping[str, Floats], names: Sequence[str]) -> Numbers:
    """Averages the named metrics over the queries that have a value."""
    return {name: _finite(mean(values[name][np.isfinite(values[name])])) for name in names}


def all_finite(metrics: Mapping[str, float]) -> Numbers:
    """Replaces values that are no number by None, as JSON has null."""
    return {name: _finite(value) for name, value in metrics.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
