"""The gate's thresholds: each is one object, and `THRESHOLDS` is their order in every report.

A threshold's limit is the setting of its name in `GateConfig`, unless it brings its own.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from two_tower.evaluation import index_parity
from two_tower.evaluation.gate import refusal
from two_tower.evaluation.gate.evidence import Evidence, number
from two_tower.evaluation.gate.outcome import (
    AT_LEAST,
    AT_MOST,
    Interval,
    Outcome,
    lower_bound_reaches,
    no_significant_loss,
    upper_bound_reaches,
    value_reaches,
    value_stays_within,
)
from two_tower.evaluation.gate.slice_changes import LEVEL
from two_tower.evaluation.recommenders import ANCHOR_MODEL, BLESSED_MODEL
from two_tower.evaluation.settings import MIN_SLICE_USERS, MIN_USERS, GateConfig, slice_limits
from two_tower.evaluation.slices import DISCOVERY, REPEAT
from two_tower.serving.provenance import NO_BLESSED_MODEL


class Unit(enum.Enum):
    """Unit of a threshold's value and limit."""

    SHARE = "share"
    MILLISECONDS = "ms"
    YES_NO = "1 for yes, 0 for no"
    COUNT = "count"


class ExplainedBy(enum.Enum):
    """Recommender whose answers show which labels a refused model missed."""

    NOBODY = "nobody"
    ANYONE = "the blessed model or, without one, the best baseline"
    EXACT_SEARCH = "exact search"
    BLESSED_MODEL = "the latest blessed model"
    ANCHOR_MODEL = "the best released model"
    BASELINE = "the best baseline"


@dataclasses.dataclass(frozen=True)
class Measured:
    """A measured value of a threshold.

    Attributes:
        value: the value, NaN where it could not be measured.
        interval: its confidence interval, see `Interval`.
        note: what the value was compared with, in words.
        part: the slice, for a threshold on slices.
        limit: limit of the part; None takes the threshold's.
    """

    value: float
    interval: Interval = None
    note: str = ""
    part: str = ""
    limit: float | None = None


@dataclasses.dataclass(frozen=True)
class NotApplicable:
    """A threshold that does not apply, with a sentence that says why."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Threshold:
    """One threshold, which the gate, the glossary, the reports and the reference know by this object alone.

    Attributes:
        name: name in evaluation.json, and of the setting with the limit.
        unit: unit of value and limit.
        meaning: the value in words; {k} is the judged k, {part} a slice.
        measure: returns the values to judge: none where the limit asks for nothing.
        rule: judges a value by its limit, see `outcome`.
        limit: returns the limit; None takes the setting `gate.<name>`.
        limit_text: the limit in the reference, where it is not the setting of this name.
        explained_by: recommender that explains a refusal.
        interval_name: name of the interval in texts.
        failure: text of a refusal, where the figures alone tell nothing.
    """

    name: str
    unit: Unit
    meaning: str
    measure: Callable[[Evidence], Iterable[Measured | NotApplicable]]
    rule: Callable[[str, float, float, Interval, str], Outcome] = value_reaches
    limit: Callable[[GateConfig], float] | None = None
    limit_text: str = ""
    explained_by: ExplainedBy = ExplainedBy.NOBODY
    interval_name: str = "95% interval"
    failure: str = ""

    @property
    def direction(self) -> str:
        """AT_MOST where the limit is the highest value that holds, else AT_LEAST."""
        return AT_MOST if self.rule is value_stays_within else AT_LEAST

    def judged(self, measured: Measured, config: GateConfig) -> Outcome:
        """Judges a measured value."""
        limit = measured.limit
        if limit is None:
            limit = self.limit(config) if self.limit else float(getattr(config, self.name))
        name = f"{self.name}.{measured.part}" if measured.part else self.name
        return self.rule(name, measured.value, limit, measured.interval, measured.note)


def _lift(evidence: Evidence) -> Iterable[Measured]:
    name, recall = evidence.best_baseline
    yield Measured(evidence.recall - recall, evidence.interval(name), f"best baseline: {name}")


def _discovery_lift(evidence: Evidence) -> Iterable[Measured | NotApplicable]:
    """Measures the lift on labels that their user had not played: a model that can only repeat has none."""
    parts = {name: evidence.slices.get(name) or {} for name in (REPEAT, DISCOVERY)}
    if not parts[REPEAT].get("labels"):
        yield NotApplicable("no label is a repeat, so that all of them are discoveries.")
    elif _users_of(evidence, DISCOVERY) < MIN_USERS:
        yield NotApplicable(f"fewer than {MIN_USERS} users have a label that they had not played before.")
    else:
        name, recall = evidence.best_baseline_in(DISCOVERY)
        lift = evidence.recall_in(DISCOVERY) - recall
        yield Measured(lift, evidence.interval(name, DISCOVERY), f"best baseline there: {name}")


def _users_of(evidence: Evidence, part: str) -> int:
    if evidence.results is None:
        return int(evidence.slices[part].get("users", MIN_USERS))
    return len(np.unique(evidence.results.user[evidence.results.labels.query[evidence.results.slices[part]]]))


def _worst_ann_recall(evidence: Evidence) -> Iterable[Measured | NotApplicable]:
    """Measures the slice by length of history that decides: the farthest below the limit beyond noise."""
    by_history = evidence.evaluation["ann"].get("by_history") or {}
    found = {}
    for name, one in by_history.items():
        interval = (one.get("intervals") or {}).get(evidence.judged)
        if interval:
            found[name] = number(one.get(evidence.judged)), (float(interval[0]), float(interval[1]))
    if not found:
        yield NotApplicable(f"no slice by length of history has {MIN_USERS} users.")
        return
    limit = evidence.config.min_ann_recall
    name = min(found, key=lambda name: (found[name][1][1] >= limit, found[name][0]))
    small = len(by_history) - len(found)
    note = f"worst slice: {name}, {by_history[name]['queries']:,} queries"
    note += f"; {small} too small to judge" if small else ""
    yield Measured(*found[name], note)


def _change_against_anchor(evidence: Evidence) -> Iterable[Measured | NotApplicable]:
    if not evidence.has_anchor:
        yield (
            NotApplicable(evidence.anchor["reason"])
            if evidence.anchor
            else NotApplicable("the model in service is the best released model.")
            if evidence.has_blessed
            else _without_blessed(evidence)
        )
        return
    assert evidence.anchor is not None
    change = evidence.recall - number(evidence.anchor["metrics"].get(evidence.judged))
    yield Measured(change, evidence.interval(ANCHOR_MODEL), f"best released model: {evidence.anchor['uri']}")


def _change_against_blessed(evidence: Evidence) -> Iterable[Measured | NotApplicable]:
    if not evidence.has_blessed:
        yield _without_blessed(evidence)
        return
    assert evidence.blessed is not None
    change = evidence.recall - number(evidence.blessed["metrics"].get(evidence.judged))
    yield Measured(change, evidence.interval(BLESSED_MODEL))


def _worst_slice(evidence: Evidence) -> Iterable[Measured | NotApplicable]:
    """Measures the slice that decides: the greatest loss beyond noise, or else the greatest loss."""
    if not evidence.has_blessed:
        yield _without_blessed(evidence)
        return
    changes = evidence.changes_against_blessed
    worst = refusal.worst(changes)
    if worst is None:
        yield NotApplicable(
            "results of single queries are not at hand."
            if evidence.results is None
            else f"no slice has {MIN_SLICE_USERS} users."
        )
        return
    small = len(evidence.slices) - len(changes)
    held = f"{LEVEL:.0%} bounds for all {len(changes)} slices at once"
    held += f", {small} too small to judge" if small > 0 else ""
    note = f"worst slice: {worst.name}, {worst.users:,} users; {held}"
    yield Measured(worst.change, (worst.low, worst.high), note)


def _without_blessed(evidence: Evidence) -> NotApplicable:
    return NotApplicable(evidence.blessed["reason"] if evidence.blessed else NO_BLESSED_MODEL)


def _slices(evidence: Evidence) -> Iterable[Measured]:
    for name, limit in slice_limits(evidence.config).items():
        yield Measured(evidence.recall_in(name), evidence.interval(part=name), part=name, limit=limit)


def _coverage(evidence: Evidence) -> Iterable[Measured]:
    if evidence.config.min_coverage > 0:
        metrics = evidence.evaluation["metrics"]["test"]
        yield Measured(number(metrics.get(f"coverage@{evidence.config.cutoff}")))


def _latency(evidence: Evidence) -> Iterable[Measured]:
    if evidence.config.max_latency_p95 > 0:
        single = (evidence.evaluation.get("latency") or {}).get("single") or {}
        yield Measured(number(single.get("p95_ms")))


def _catalog_items(evidence: Evidence) -> Iterable[Measured]:
    catalog = evidence.evaluation.get("catalog") or {}
    items, choice = catalog.get("items"), catalog.get("choice")
    if items and choice is not None and choice < items:
        yield Measured(float(choice), note=f"median over queries; their users had the others of {items:,}")
    elif items:
        yield Measured(float(items))


def _parity(evidence: Evidence) -> Iterable[Measured]:
    parity = evidence.evaluation["ann"].get("parity") or {}
    agrees = float(index_parity.agrees(parity)) if parity else math.nan
    yield Measured(agrees, note=index_parity.differences(parity))


THRESHOLDS = (
    Threshold(
        name="min_recall",
        unit=Unit.SHARE,
        meaning="Recall@{k} of the served model",
        measure=lambda evidence: [Measured(evidence.recall, evidence.interval())],
        rule=lower_bound_reaches,
        explained_by=ExplainedBy.ANYONE,
    ),
    Threshold(
        name="min_ann_recall",
        unit=Unit.SHARE,
        meaning="share of exact search's first {k} that the served index returns",
        measure=lambda evidence: [Measured(number(evidence.evaluation["ann"].get(evidence.judged)))],
        explained_by=ExplainedBy.EXACT_SEARCH,
    ),
    Threshold(
        name="worst_ann_recall",
        unit=Unit.SHARE,
        meaning="share of exact search's first {k} that the served index returns, in the worst slice by "
        "length of history",
        measure=_worst_ann_recall,
        rule=upper_bound_reaches,
        limit=lambda config: config.min_ann_recall,
        limit_text="`gate.min_ann_recall`",
        explained_by=ExplainedBy.EXACT_SEARCH,
    ),
    Threshold(
        name="min_lift_over_best_baseline",
        unit=Unit.SHARE,
        meaning="the model's Recall@{k} minus the best baseline's",
        measure=_lift,
        rule=lower_bound_reaches,
        explained_by=ExplainedBy.BASELINE,
    ),
    Threshold(
        name="min_discovery_lift",
        unit=Unit.SHARE,
        meaning="the model's Recall@{k} minus the best baseline's, on labels that their user had not played",
        measure=_discovery_lift,
        rule=lower_bound_reaches,
        explained_by=ExplainedBy.BASELINE,
    ),
    Threshold(
        name="min_change_against_blessed",
        unit=Unit.SHARE,
        meaning="the model's Recall@{k} minus that of the latest blessed model",
        measure=_change_against_blessed,
        rule=no_significant_loss,
        explained_by=ExplainedBy.BLESSED_MODEL,
    ),
    Threshold(
        name="min_change_against_anchor",
        unit=Unit.SHARE,
        meaning="the model's Recall@{k} minus that of the best released model",
        measure=_change_against_anchor,
        rule=no_significant_loss,
        explained_by=ExplainedBy.ANCHOR_MODEL,
    ),
    Threshold(
        name="min_slice_change",
        unit=Unit.SHARE,
        meaning="the model's Recall@{k} in a slice minus that of the latest blessed model",
        measure=_worst_slice,
        rule=no_significant_loss,
        explained_by=ExplainedBy.BLESSED_MODEL,
        # The bounds hold for all slices at once, and are wider.
        interval_name="interval",
    ),
    Threshold(
        name="slices",
        unit=Unit.SHARE,
        meaning="Recall@{k} in the slice {part}",
        measure=_slices,
        rule=lower_bound_reaches,
        explained_by=ExplainedBy.ANYONE,
    ),
    Threshold(
        name="min_coverage",
        unit=Unit.SHARE,
        meaning="share of the catalog that at least one query is shown among its first {k}",
        measure=_coverage,
    ),
    Threshold(
        name="max_latency_p95",
        unit=Unit.MILLISECONDS,
        meaning="milliseconds within which 95% of single queries are answered",
        measure=_latency,
        rule=value_stays_within,
    ),
    Threshold(
        name="test_users",
        unit=Unit.COUNT,
        meaning="number of users whose queries judge the model",
        measure=lambda evidence: [Measured(float(evidence.users))],
        limit=lambda config: float(MIN_USERS),
        limit_text=str(MIN_USERS),
        failure=f"a verdict needs the queries of {MIN_USERS} users, since fewer do not show how users differ",
    ),
    Threshold(
        name="catalog_items",
        unit=Unit.COUNT,
        meaning="number of items that the model can recommend to a query, without those its user had",
        measure=_catalog_items,
        limit=lambda config: float(config.cutoff + 1),
        limit_text="`gate.cutoff` + 1",
        failure="the judged list holds all items there are, so that any model finds all: lower gate.cutoff",
    ),
    Threshold(
        name="index_parity",
        unit=Unit.YES_NO,
        meaning="whether the index holds what the towers give (1) or not (0)",
        measure=_parity,
        limit=lambda config: 1.0,
        limit_text="1",
        failure="the index does not hold what the towers give",
    ),
)
_BY_NAME = {one.name: one for one in THRESHOLDS}


def threshold_of(name: str) -> Threshold | None:
    """Returns the threshold of an outcome's name, such as `slices.cold`; None for names of other versions."""
    return _BY_NAME.get(name.partition(".")[0])


def unit_of(outcome: Any) -> Unit:
    """Returns the unit of an outcome in evaluation.json; shares for names of other versions."""
    threshold = threshold_of(outcome["name"])
    return threshold.unit if threshold else Unit.SHARE
