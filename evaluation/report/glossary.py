"""What an evaluation's figures are, in words: the protocol, the metrics, the thresholds. For both reports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from two_tower.data_directory.facts import FROZEN_PROTOCOLS
from two_tower.data_directory.ingest_report import tells_dates
from two_tower.data_directory.manifest import DAY
from two_tower.evaluation import slices

DEFAULT_CUTOFF = 100

_THRESHOLDS = {
    "min_recall": "Recall@{k} of the served model",
    "min_ann_recall": "share of exact search's first {k} that the served index returns",
    "min_lift_over_best_baseline": "the model's Recall@{k} minus the best baseline's",
    "min_slice_change": "the model's Recall@{k} in a slice minus that of the latest blessed model",
    "min_coverage": "share of the catalog that at least one query is shown among its first {k}",
    "max_latency_p95": "milliseconds within which 95% of single queries are answered",
    "index_parity": "whether the index holds what the towers give (1) or not (0)",
    "min_change_against_blessed": "the model's Recall@{k} minus that of the latest blessed model",
}
# Where each query has one label, these say what recall and NDCG say.
_OF_SETS = ("clipped_recall", "hit_rate", "pooled_ndcg")
_DEFINITIONS = {
    "recall": "hits among the first k / number of labels",
    "clipped_recall": "hits among the first k / min(k, number of labels)",
    "hit_rate": "share of queries with at least one hit among the first k",
    "ndcg": "mean over queries of DCG / ideal DCG",
    "pooled_ndcg": "mean DCG / mean ideal DCG (Yambda's NDCG)",
    "mrr": "mean of 1 / rank of the first hit",
    "coverage": "share of the catalog that at least one query is shown among its first k",
    "novelty": "mean of -log2 of a shown item's share of train's label events, in bits",
    "popularity_lift": "how much more popular what is shown is than what its users had played: 0 as, 1 twice",
    "intra_list_diversity": "1 - mean cosine of all pairs of items within the first k",
}
# Of one label.
_DEFINITIONS_OF_ONE = {
    "recall": "share of queries whose item is among the first k",
    "ndcg": "mean of 1 / log2(1 + rank) of the item where it is among the first k, else 0",
    "mrr": "mean of 1 / rank of the item",
}
_SLICES = {
    "head": f"the most popular items that together have {slices.HEAD_SHARE:.0%} of train's label events",
    "middle": "items between head and tail",
    "tail": f"items outside of the most popular that together have {slices.TAIL_SHARE:.0%}",
    "cold": "items that train has not seen",
    "trending": f"items whose share of train's label events was, in its last {{days:g}} days, at least "
    f"{slices.TREND_GROWTH:g} times what it was before, with at least {slices.TREND_EVENTS} events",
    "heard": f"labels that were played to at least {slices.HEARD_PLAY_RATIO:g} of their length",
}


def asks_for_sets(evaluation: Mapping[str, Any]) -> bool:
    """Whether a query has a set of labels, and not one."""
    return evaluation.get("protocol") in FROZEN_PROTOCOLS


def question(evaluation: Mapping[str, Any]) -> str:
    """Sentences that say what the protocol is, and what a query knows and asks for."""
    queries = evaluation["queries"]
    asked = f"{queries['test']:,} test queries ({queries['users']:,} users{_sampled(queries)})"
    during = _span(*evaluation["split"]["test"])
    train_end = moment(evaluation["split"]["train_end"]).partition(" of ")[0]
    by_time = f" In training the model has seen nothing from {train_end} on."
    protocol = evaluation.get("protocol", "next_event")
    if protocol in FROZEN_PROTOCOLS:
        return (
            f"Protocol `{protocol}`: each user's state stops before the test period, and is one query. "
            f"Each of {asked} asks for the set of items that its user turned to between {during}; users "
            f"whom train does not know are left out.{_labels(queries)}{by_time}"
        )
    if protocol == "leave_one_out":
        return (
            f"Protocol `leave_one_out`: each of {asked} asks for the last item that its user turned to, and "
            "knows all that the user did before. It is no split in time: train knows what others did later."
        )
    if protocol == "split_column":
        return (
            "Protocol `split_column`: the events' own column `split` says what is train, eval and test. Each "
            f"of {asked} asks for the one item of a test event, and knows what its user did before it."
        )
    return (
        f"Protocol `next_event`: each of {asked} asks for the one item that its user turned to next, between "
        f"{during}, and knows all that the user did before.{by_time}"
    )


def shown_metrics(evaluation: Mapping[str, Any]) -> list[str]:
    """Names of the metrics that say something new, in their order; evaluation.json holds all of them.

    Where a query has one label, clipped recall and hit rate are its recall, and pooled NDCG its NDCG. Where a
    user has one query, means over users are those over queries: of them, recall alone is shown.
    """
    one_query_each = evaluation["queries"]["test"] == evaluation["queries"]["users"]

    def is_new(name: str) -> bool:
        metric = name.removeprefix("user_").partition("@")[0]
        if name.startswith("user_") and one_query_each and metric != "recall":
            return False
        return asks_for_sets(evaluation) or metric not in _OF_SETS

    return [name for name in evaluation["metrics"]["test"] if is_new(name)]


def definitions(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """A line for each metric that is shown, by name without cutoff."""
    known = _DEFINITIONS if asks_for_sets(evaluation) else _DEFINITIONS | _DEFINITIONS_OF_ONE
    shown = dict.fromkeys(name.partition("@")[0] for name in shown_metrics(evaluation))
    lines = {name: known[name] for name in shown if name in known}
    if any(name.startswith("user_") for name in shown):
        lines["user_…"] = "the same, first a mean over each user's queries, then over users"
    return lines


def slice_meaning(name: str, evaluation: Mapping[str, Any]) -> str:
    """Which labels a slice holds."""
    begin, end = evaluation["split"]["test"]
    if name not in _SLICES:
        return slices.meaning(name) or name
    return _SLICES[name].format(days=slices.TREND_TEST_PERIODS * (end - begin) / DAY)


def shortfall(threshold: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """Why a threshold does not hold, in words."""
    meaning = threshold_meaning(threshold, evaluation)
    value, low, high = (threshold.get(name) for name in ("value", "low", "high"))
    if value is None or math.isnan(value):
        return f"{meaning} could not be measured"
    if threshold["name"] == "index_parity":
        why = f": {threshold['note']}" if threshold.get("note") else ""
        return f"the index does not hold what the towers give{why}"
    # The bounds of slices hold for all of them at once, and are wider.
    what = "interval" if threshold["name"] == "min_slice_change" else "95% interval"
    bounds = "" if low is None or high is None else f" ({what} {low:.4f} to {high:.4f})"
    if threshold.get("direction") == "max":
        return f"{meaning} is {value:.4g}{bounds}, above the limit of {threshold['limit']:.4g}"
    side = "below the limit"
    if value >= threshold["limit"]:
        side = "of which the lower end is below the limit" if bounds else "not surely above the limit"
    return f"{meaning} is {value:.4f}{bounds}, {side} of {threshold['limit']:.4f}"


def threshold_meaning(threshold: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """What a threshold is of, and what it was compared with."""
    name = threshold["name"]
    of_slice = f"Recall@{{k}} in the slice {name.removeprefix('slices.')}"
    meaning = of_slice if name.startswith("slices.") else _THRESHOLDS.get(name, name)
    meaning = meaning.format(k=evaluation.get("cutoff") or DEFAULT_CUTOFF)
    return f"{meaning} ({threshold['note']})" if threshold.get("note") else meaning


def pseudonym(place: int) -> str:
    """Of a user among what explains a refusal: letters, since numbers name the example users."""
    return f"user {chr(ord('A') + place)}"


def _span(begin: int, end: int) -> str:
    """Two moments, with the clock named once."""
    return f"{moment(begin).partition(' of ')[0]} and {moment(end)}"


def _sampled(queries: Mapping[str, Any]) -> str:
    available = queries.get("available", queries["test"])
    return f", sampled by user from {available:,} queries" if available > queries["test"] else ""


def _labels(queries: Mapping[str, Any]) -> str:
    labels = queries.get("labels")
    if not labels:
        return ""
    return (
        f" A query has {labels['mean']:.1f} labels on average (median {labels['median']:g}, at most "
        f"{labels['max']:,}); of all {labels['total']:,}, {labels['unknown_to_train']:,} are items that "
        "train has not seen."
    )


def moment(seconds: int) -> str:
    """A moment of the data's clock, which need not count from 1970."""
    if not tells_dates(seconds):
        return f"day {seconds / DAY:,.2f} of the data's own clock"
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
