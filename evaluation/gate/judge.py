"""Decides whether a model may be pushed: thresholds on its metrics, heeding the noise of what was measured.

What must be reached (recall, the lift over the best baseline) must be reached by the lower bound of its
confidence interval: few queries prove little. What must not be lost (recall against the latest blessed model)
is lost if the loss is larger than allowed and the interval's upper bound is below zero as well: two equal
models differ by noise, and refusing one of them for it would stop every second release. See
docs/decisions/0009-non-inferiority.md.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from two_tower.base.errors import UserError
from two_tower.evaluation import slices
from two_tower.evaluation.bootstrap import MIN_USERS, UserBootstrap
from two_tower.evaluation.gate import refusal
from two_tower.evaluation.gate.slice_changes import LEVEL, SliceChange, recall_by_query, slice_changes
from two_tower.evaluation.index_parity import is_of_its_towers
from two_tower.evaluation.metrics import Bools
from two_tower.evaluation.settings import GateConfig, slice_limits
from two_tower.serving.provenance import NO_BLESSED_MODEL

if TYPE_CHECKING:
    from two_tower.evaluation.query_results import QueryResults

BLESSED = "blessed"
REFUSED = "refused"
# Who recommended, in queries.npz.
_MODEL, _EXACT, _BLESSED_MODEL = "model", "model_exact", "blessed_model"
# Of evaluations that do not say how their bounds were made.
_RESAMPLES, _SEED = 1_000, 17
# Values of evaluation.json and of queries.npz differ by rounding at most.
_ROUNDING = 1e-4
# Slices that are not told by their form, see `slices.meaning`.
_SLICES = ("head", "middle", "tail", "cold", "trending", "heard")
AT_LEAST, AT_MOST = "min", "max"
# Bounds of a value, NaN where the queries are too few; None where single queries are not known.
Interval = tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Threshold:
    """One condition. A value that is no number never meets it.

    Attributes:
        name: as in the settings of the gate.
        value: what was measured.
        limit: what it must reach, or must not exceed.
        ok: whether the condition holds.
        note: what the value was compared with, and what decided, in words.
        low: lower bound of the value's 95 % confidence interval, where it is known and matters.
        high: upper bound.
        direction: AT_LEAST or AT_MOST.
    """

    name: str
    value: float
    limit: float
    ok: bool
    note: str = ""
    low: float | None = None
    high: float | None = None
    direction: str = AT_LEAST

    @classmethod
    def reached(cls, name: str, value: float, limit: float, note: str = "") -> Threshold:
        """The value itself must reach the limit."""
        return cls(name, value, limit, math.isfinite(value) and value >= limit, note)

    @classmethod
    def surely_reached(
        cls, name: str, value: float, limit: float, interval: Interval, note: str = ""
    ) -> Threshold:
        """The interval's lower bound must reach the limit."""
        if interval is None:
            return cls.reached(name, value, limit, note)
        low, high = interval
        ok = math.isfinite(value) and math.isfinite(low) and low >= limit
        if math.isfinite(value) and value >= limit and not ok:
            is_known = math.isfinite(low)
            why = "its lower bound is below the limit" if is_known else "too few users to know its noise"
            note = _joined(note, why)
        return cls(name, value, limit, ok, note, _known(low), _known(high))

    @classmethod
    def not_surely_lost(
        cls, name: str, value: float, limit: float, interval: Interval, note: str = ""
    ) -> Threshold:
        """The change must not be a loss beyond the limit that is more than noise.

        Above 0 the limit is a gain, which the lower bound must reach.
        """
        if limit > 0:
            return cls.surely_reached(name, value, limit, interval, note)
        if interval is None:
            return cls.reached(name, value, limit, note)
        low, high = interval
        # Without bounds nothing speaks for noise.
        is_noise = math.isfinite(high) and high >= 0
        if math.isfinite(value) and value < limit:
            note = _joined(note, "no more than noise" if is_noise else "more than noise")
        ok = math.isfinite(value) and (value >= limit or is_noise)
        return cls(name, value, limit, ok, note, _known(low), _known(high))

    @classmethod
    def not_exceeded(cls, name: str, value: float, limit: float, note: str = "") -> Threshold:
        """The value must not exceed the limit."""
        return cls(name, value, limit, math.isfinite(value) and value <= limit, note, direction=AT_MOST)

    def to_dict(self) -> dict[str, Any]:
        """As in evaluation.json, where a value that is no number is null."""
        return {**dataclasses.asdict(self), "value": _known(self.value)}


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The conditions that applied, a sentence for each that did not, and what explains a refusal.

    Attributes:
        thresholds: the conditions.
        notes: sentences.
        refusal: None for a model that is not refused, or of which single queries are not known; else
            `slice`, the name of the part of the queries that lost most, or None, and `examples`, see
            `refusal.examples`.
    """

    thresholds: tuple[Threshold, ...]
    notes: tuple[str, ...] = ()
    refusal: dict[str, Any] | None = None

    @property
    def verdict(self) -> str:
        """`blessed` if every threshold holds, else `refused`."""
        return BLESSED if self.thresholds and all(t.ok for t in self.thresholds) else REFUSED

    def to_dict(self) -> dict[str, Any]:
        """`verdict`, `thresholds`, `notes` and `refusal` as in evaluation.json."""
        return {
            "verdict": self.verdict,
            "thresholds": [threshold.to_dict() for threshold in self.thresholds],
            "notes": list(self.notes),
            "refusal": self.refusal,
        }


def best_baseline(baselines: Mapping[str, Mapping[str, Any]], metric: str) -> tuple[str, float]:
    """Name and value of the baseline with the highest metric.

    A baseline whose value is no number counts as the best, so that a broken one is not passed over.
    """
    values = {name: _number(metrics.get(metric)) for name, metrics in baselines.items()}
    if not values:
        return "no baseline", math.nan
    name = max(values, key=lambda name: (math.isnan(values[name]), values[name]))
    return name, values[name]


def check_slices(config: GateConfig, names: Iterable[str]) -> None:
    """Raises UserError if the config limits a slice that is not one of `names`, naming the nearest."""
    known = list(names)
    for name in slice_limits(config):
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise UserError(
                f"gate.slices limits the slice {name!r}, which this evaluation does not have; "
                + (f"the nearest is {nearest[0]!r} of {', '.join(known)}." if nearest else "it has none.")
            )


def check_slice_names(config: GateConfig, columns: Iterable[str]) -> None:
    """Raises UserError if the config limits a slice that no evaluation can have: before anything is run.

    Args:
        config: the limits.
        columns: names of the configured features, by whose values there are slices: as in user_gender=f.
    """
    known = list(columns)
    for name in slice_limits(config):
        column, equals, _ = name.partition("=")
        possible = column in known if equals else name in _SLICES or slices.meaning(name) is not None
        if not possible:
            examples = ", ".join([*_SLICES, "new_users", "repeat", "popularity_1", "activity_1"])
            by_column = f" or of a configured column ({', '.join(known)})" if known else ""
            raise UserError(
                f"gate.slices limits the slice {name!r}, which there is not: take one of {examples}, ..."
                f"{by_column}; report.md lists all that an evaluation has."
            )


def judge(
    evaluation: Mapping[str, Any], config: GateConfig, results: QueryResults | None = None
) -> Judgement:
    """Judges a model by what was measured.

    Args:
        evaluation: `metrics`, `baselines`, `ann`, `slices`, `latency`, `blessed_model` and `catalog` as in
            evaluation.json, so that a stored evaluation can be judged again with other limits.
        config: the limits, and the k of the Recall@k that they are of.
        results: what each query found, as in queries.npz. Without it nothing is known of noise, and the
            values themselves are judged.

    Raises:
        UserError: the config limits a slice that the evaluation does not have.
        ValueError: `results` are not of this evaluation.
    """
    judged = f"recall@{config.cutoff}"
    known = evaluation.get("slices") or {}
    check_slices(config, known)
    blessed = evaluation.get("blessed_model")
    eligible = bool(blessed and blessed["eligible"])
    if results is not None:
        _check_whole(results, [_MODEL, *evaluation["baselines"], *[_BLESSED_MODEL] * eligible], known)
    noise = _Noise.of(evaluation, config.cutoff, results)
    recall = _number(evaluation["metrics"]["test"].get(judged))
    baseline, baseline_recall = best_baseline(evaluation["baselines"], judged)
    thresholds = [
        Threshold.surely_reached("min_recall", recall, config.min_recall, noise.interval()),
        Threshold.reached("min_ann_recall", _number(evaluation["ann"].get(judged)), config.min_ann_recall),
        Threshold.surely_reached(
            "min_lift_over_best_baseline",
            recall - baseline_recall,
            config.min_lift_over_best_baseline,
            noise.interval(baseline),
            f"best baseline: {baseline}",
        ),
    ]
    notes = _of_the_catalog(evaluation, config)
    changes: list[SliceChange] = []
    if eligible:
        assert blessed is not None
        change = recall - _number(blessed["metrics"].get(judged))
        interval = noise.interval(_BLESSED_MODEL)
        name = "min_change_against_blessed"
        limit = config.min_change_against_blessed
        thresholds.append(Threshold.not_surely_lost(name, change, limit, interval))
        changes = noise.slice_changes(_BLESSED_MODEL, config.min_slice_users)
        if changes:
            thresholds.append(_worst_slice(changes, config.min_slice_change, len(known)))
        elif noise.results is not None:
            notes.append(
                f"min_slice_change does not apply: no slice has {config.min_slice_users} users "
                "(gate.min_slice_users)."
            )
        else:
            notes.append("min_slice_change does not apply: what single queries found is not at hand.")
    else:
        reason = blessed["reason"] if blessed else NO_BLESSED_MODEL
        notes.append(f"min_change_against_blessed and min_slice_change do not apply: {reason}")
    notes += _of_the_noise(noise)
    thresholds += _of_slices(known, judged, config, noise)
    thresholds += _of_the_artifact(evaluation, config)
    notes += _of_the_unmeasured(thresholds)
    refused = [threshold.name for threshold in thresholds if not threshold.ok]
    explained = _explained(refused, changes, noise, baseline, eligible) if refused else None
    return Judgement(tuple(thresholds), tuple(notes), explained)


def _check_whole(results: QueryResults, recommenders: Iterable[str], parts: Iterable[str]) -> None:
    """Raises ValueError where the evaluation names a recommender or a slice that the queries are without."""
    lacking = [
        *(name for name in recommenders if name not in results.ranks),
        *(f"the slice {name}" for name in parts if name not in results.slices),
    ]
    if lacking:
        raise ValueError(
            f"the queries beside evaluation.json hold nothing of {', '.join(lacking)}: they are not of the "
            "same evaluation."
        )


@dataclasses.dataclass(frozen=True)
class _Noise:
    """Confidence intervals of the judged Recall@k, where single queries are known."""

    results: QueryResults | None
    cutoff: int
    bootstrap: UserBootstrap | None

    @classmethod
    def of(cls, evaluation: Mapping[str, Any], cutoff: int, results: QueryResults | None) -> _Noise:
        if results is None:
            return cls(None, cutoff, None)
        found = float(np.mean(recall_by_query(results, _MODEL, cutoff))) if len(results.user) else math.nan
        recorded = _number(evaluation["metrics"]["test"].get(f"recall@{cutoff}"))
        if abs(found - recorded) > _ROUNDING:
            raise ValueError(
                f"evaluation.json has a Recall@{cutoff} of {recorded:.4f} and the queries beside it one of "
                f"{found:.4f}: they are not of the same evaluation."
            )
        made = evaluation.get("bootstrap") or {}
        resamples, seed = made.get("resamples", _RESAMPLES), made.get("seed", _SEED)
        return cls(results, cutoff, UserBootstrap(results.user.astype(np.int64), resamples, seed))

    def interval(self, other: str | None = None, chosen: Bools | None = None) -> Interval:
        """Of the model's recall, or of its difference to another's, on the labels in `chosen` alone.

        None where single queries are not known, and NaN where they are too few.
        """
        if self.results is None or self.bootstrap is None:
            return None
        if other is not None and other not in self.results.ranks:
            return math.nan, math.nan
        values = recall_by_query(self.results, _MODEL, self.cutoff, chosen)
        if other is not None:
            values = values - recall_by_query(self.results, other, self.cutoff, chosen)
        found = self.bootstrap.intervals({"": values})[""]
        return (math.nan, math.nan) if found is None else (found[0], found[1])

    def slice_changes(self, other: str, min_users: int) -> list[SliceChange]:
        """Of the model against another, see `slice_changes`; none where single queries are not known."""
        if self.results is None or self.bootstrap is None or other not in self.results.ranks:
            return []
        return slice_changes(self.results, _MODEL, other, self.cutoff, self.bootstrap, min_users)


def _worst_slice(changes: Sequence[SliceChange], limit: float, count: int) -> Threshold:
    """The slice that decides: the greatest loss beyond noise if it exceeds the limit, else the greatest."""
    worst = refusal.worst(changes)
    assert worst is not None
    small = f", {count - len(changes)} too small to judge" if count > len(changes) else ""
    held = f"{LEVEL:.0%} bounds for all {len(changes)} slices at once{small}"
    note = f"worst slice: {worst.name}, {worst.users:,} users; {held}"
    return Threshold.not_surely_lost("min_slice_change", worst.change, limit, (worst.low, worst.high), note)


def _of_slices(
    known: Mapping[str, Any], judged: str, config: GateConfig, noise: _Noise
) -> Iterable[Threshold]:
    for name, limit in slice_limits(config).items():
        value = _number(known[name]["metrics"][_MODEL].get(judged))
        chosen = None if noise.results is None else noise.results.slices[name]
        yield Threshold.surely_reached(f"slices.{name}", value, limit, noise.interval(chosen=chosen))


def _of_the_artifact(evaluation: Mapping[str, Any], config: GateConfig) -> Iterable[Threshold]:
    """What is asked of the served model beside recall; settings of 0 ask nothing."""
    if config.min_coverage > 0:
        coverage = _number(evaluation["metrics"]["test"].get(f"coverage@{config.cutoff}"))
        yield Threshold.reached("min_coverage", coverage, config.min_coverage)
    if config.max_latency_p95 > 0:
        single = (evaluation.get("latency") or {}).get("single") or {}
        latency = _number(single.get("p95_ms"))
        yield Threshold.not_exceeded("max_latency_p95", latency, config.max_latency_p95)
    parity = evaluation["ann"].get("parity") or {}
    agrees = float(bool(parity.get("ok")) and is_of_its_towers(parity)) if parity else math.nan
    yield Threshold.reached("index_parity", agrees, 1.0, _parity_note(parity))


def _parity_note(parity: Mapping[str, Any]) -> str:
    """What of the index differs from the towers it should have been built from."""
    if not parity or (parity.get("ok") and is_of_its_towers(parity)):
        return ""
    wrong = []
    if not parity.get("ids", True):
        wrong.append("its ids are not the catalog's")
    if not parity.get("order", True):
        wrong.append("its ids are in another order than its vectors")
    built_from, expected = parity.get("towers"), parity.get("expected_towers")
    if built_from is None:
        wrong.append("it does not say what it was built from: build the model again")
    elif expected is None:
        wrong.append("the Trainer's model is gone, so that nobody knows whether it was built from that one")
    elif built_from != expected:
        wrong.append(f"built from {built_from}, not from {expected}")
    errors = [
        f"{name} of {parity[key]:.2g}"
        for key, name in (("max_norm_error", "error of norms"), ("max_score_error", "error of scores"))
        if parity.get(key)
    ]
    return "; ".join([*wrong, *errors])


def _of_the_catalog(evaluation: Mapping[str, Any], config: GateConfig) -> list[str]:
    items = (evaluation.get("catalog") or {}).get("items", math.inf)
    if items > config.cutoff:
        return []
    return [
        f"The catalog holds {items} items, so that the first {config.cutoff} are all of them: Recall@"
        f"{config.cutoff} tells no model from another. Judge by a smaller k (gate.cutoff)."
    ]


def _of_the_noise(noise: _Noise) -> list[str]:
    if noise.results is None:
        return ["What single queries found is not at hand: values are judged without their noise."]
    if len(np.unique(noise.results.user)) < MIN_USERS:
        return ["The queries are by fewer than two users: nothing is known of the noise."]
    return []


def _explained(
    refused: Sequence[str], changes: Sequence[SliceChange], noise: _Noise, baseline: str, eligible: bool
) -> dict[str, Any] | None:
    """The slice and examples for the first of the reasons that single queries can explain."""
    results = noise.results
    if results is None:
        return None
    # Of the others single queries tell nothing.
    of_queries = set(refused) - {"max_latency_p95", "index_parity", "min_coverage"}
    against_blessed = {"min_change_against_blessed", "min_slice_change"} & of_queries
    of_slice = next((name.removeprefix("slices.") for name in refused if name.startswith("slices.")), None)
    if not of_queries:
        other = None
    elif of_queries == {"min_ann_recall"}:
        other = _EXACT
    elif against_blessed or (eligible and "min_lift_over_best_baseline" not in refused):
        other = _BLESSED_MODEL
    else:
        other = baseline
    if other not in results.ranks:
        return {"slice": None, "examples": []}
    assert other is not None
    if not changes or other != _BLESSED_MODEL:
        changes = noise.slice_changes(other, MIN_USERS)
    worst = refusal.worst(changes)
    part = of_slice or (worst.name if worst and worst.change < 0 else None)
    return {"slice": part, "examples": refusal.examples(results, _MODEL, other, noise.cutoff, part)}


def _of_the_unmeasured(thresholds: Iterable[Threshold]) -> list[str]:
    """None that is asked for is left out because nobody measured it: it fails, and this says why."""
    names = [threshold.name for threshold in thresholds if not math.isfinite(threshold.value)]
    if not names:
        return []
    return [f"The evaluation has no figure for {', '.join(names)}: what was not measured does not hold."]


def _joined(note: str, more: str) -> str:
    return f"{note}; {more}" if note else more


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: Any) -> float:
    # JSON has no NaN: a value that could not be measured is null there.
    return math.nan if value is None else float(value)
