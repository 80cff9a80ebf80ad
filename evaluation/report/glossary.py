"""Words for an evaluation's figures, for all reports: protocol, metrics, slices and thresholds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from two_tower.data_directory.facts import FROZEN_PROTOCOLS, SET_PROTOCOLS
from two_tower.data_directory.ingest_report import tells_dates
from two_tower.data_directory.manifest import DAY
from two_tower.evaluation import slices
from two_tower.evaluation.gate.outcome import AT_MOST
from two_tower.evaluation.gate.thresholds import threshold_of
from two_tower.evaluation.metric_table import OF_USERS, metric_of

DEFAULT_CUTOFF = 100

_SLICES = {
    "head": f"the most popular items that together have {slices.HEAD_SHARE:.0%} of train's label events",
    "middle": "items between head and tail",
    "tail": f"items outside of the most popular that together have {slices.TAIL_SHARE:.0%}",
    "cold": "items that train has not seen",
    "trending": f"items with at least {slices.TREND_EVENTS} label events in train's last {{days:g}} days, "
    f"and at least {slices.TREND_GROWTH:g} times their earlier share",
    "heard": f"labels that were played to at least {slices.HEARD_PLAY_RATIO:g} of their length",
}


def cutoff_of(evaluation: Mapping[str, Any]) -> int:
    """Returns the k of the judged Recall@k."""
    return int(evaluation.get("cutoff") or DEFAULT_CUTOFF)


def asks_for_sets(evaluation: Mapping[str, Any]) -> bool:
    """Tells whether a query has a set of labels, and not one."""
    return evaluation.get("protocol") in SET_PROTOCOLS


def question(evaluation: Mapping[str, Any]) -> str:
    """Describes the protocol: what a query knows and asks for."""
    queries = evaluation["queries"]
    asked = f"{queries['test']:,} test queries ({queries['users']:,} users{_sampled(queries)})"
    during = _span(*evaluation["split"]["test"])
    train_end = moment(evaluation["split"]["train_end"]).partition(" of ")[0]
    by_time = f" In training the model has seen nothing from {train_end} on."
    protocol = evaluation.get("protocol", "next_event")
    if protocol in FROZEN_PROTOCOLS:
        return (
            f"Protocol `{protocol}`: each user's state stops before the test period, and is one query. "
            f"Each of {asked} asks for the set of items that its user turned to between {during}. Users "
            f"whom train does not know are left out.{_labels(queries)}{by_time}"
        )
    if protocol == "leave_one_out":
        return (
            f"Protocol `leave_one_out`: each of {asked} asks for the last item that its user turned to. It "
            "knows all that the user did before. It is no split in time: train knows what others did later."
        )
    if protocol == "hold_out":
        return (
            f"Protocol `hold_out`: each user is one query, and each of {asked} asks for the set of items "
            "that were drawn from the user's and held out. It knows the user's other items. The data has no "
            f"order, so nothing here tells how a model does on later events.{_labels(queries)}"
        )
    if protocol == "split_column":
        return (
            "Protocol `split_column`: the events' own column `split` says what is train, eval and test. Each "
            f"of {asked} asks for the one item of a test event, and knows what its user did before it."
        )
    return (
        f"Protocol `next_event`: each of {asked} asks for the one item that its user turned to next, between "
        f"{during}. It knows all that the user did before.{by_time}"
    )


def shown_metrics(evaluation: Mapping[str, Any]) -> list[str]:
    """Lists the metrics that tell something new, in their order; evaluation.json holds all of them.

    With one label a query, clipped recall and hit rate equal recall, and pooled NDCG equals NDCG. With one
    query a user, means over users equal means over queries: recall alone is shown of them.
    """
    one_query_each = evaluation["queries"]["test"] == evaluation["queries"]["users"]

    def is_new(name: str) -> bool:
        metric = metric_of(name)
        known = metric.name if metric else ""
        if name.startswith(OF_USERS) and one_query_each and known != "recall":
            return False
        return asks_for_sets(evaluation) or not (metric and metric.only_for_sets)

    return [name for name in evaluation["metrics"]["test"] if is_new(name)]


def definitions(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """Returns the definition of each metric that is shown, by name without cutoff."""
    shown = dict.fromkeys(name.partition("@")[0] for name in shown_metrics(evaluation))
    lines = {
        name: (metric.meaning if asks_for_sets(evaluation) else metric.meaning_of_one) or metric.meaning
        for name in shown
        if not name.startswith(OF_USERS) and (metric := metric_of(name))
    }
    if any(name.startswith(OF_USERS) for name in shown):
        lines[f"{OF_USERS}…"] = "the same, first a mean over each user's queries, then over users"
    return lines


def slice_meaning(name: str, evaluation: Mapping[str, Any]) -> str:
    """Describes a slice's labels."""
    begin, end = evaluation["split"]["test"]
    if name not in _SLICES:
        return slices.meaning(name) or name
    return _SLICES[name].format(days=slices.TREND_TEST_PERIODS * (end - begin) / DAY)


def shortfall(outcome: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """Says why a threshold fails."""
    threshold = threshold_of(outcome["name"])
    meaning = threshold_meaning(outcome, evaluation)
    value, low, high = (outcome.get(name) for name in ("value", "low", "high"))
    if value is None or math.isnan(value):
        return f"{meaning} could not be measured"
    if threshold and threshold.failure:
        return f"{threshold.failure}: {outcome['note']}" if outcome.get("note") else threshold.failure
    interval = threshold.interval_name if threshold else "95% interval"
    bounds = "" if low is None or high is None else f" ({interval} {low:.4f} to {high:.4f})"
    if outcome.get("direction") == AT_MOST:
        return f"{meaning} is {value:.4g}{bounds}, above the limit of {outcome['limit']:.4g}"
    side = "below the limit"
    if value >= outcome["limit"]:
        side = "with the lower bound below the limit" if bounds else "but too few users prove the limit"
    return f"{meaning} is {value:.4f}{bounds}, {side} of {outcome['limit']:.4f}"


def threshold_meaning(outcome: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """Says what value a threshold judges, and what it was compared with."""
    name = outcome["name"]
    threshold = threshold_of(name)
    meaning = name
    if threshold:
        part = name.partition(".")[2]
        meaning = threshold.meaning.format(k=cutoff_of(evaluation), part=part)
    return f"{meaning} ({outcome['note']})" if outcome.get("note") else meaning


def pseudonym(place: int) -> str:
    """Names a user who explains a refusal by a letter, since numbers name the example users."""
    return f"user {chr(ord('A') + place)}"


def _span(begin: int, end: int) -> str:
    """Formats two moments, with the clock named once."""
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
        f"{labels['max']:,}). Of all {labels['total']:,}, {labels['unknown_to_train']:,} are items that "
        "train has not seen."
    )


def moment(seconds: int) -> str:
    """Formats a moment of the data's clock, which need not count from 1970."""
    if not tells_dates(seconds):
        return f"day {seconds / DAY:,.2f} of the data's own clock"
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
