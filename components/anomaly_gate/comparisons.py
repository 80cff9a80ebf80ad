"""Verdicts on drift and skew, from the distances that TFX's DistributionValidator measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2

from two_tower.components.anomaly_gate.anomalies import shares, values_of
from two_tower.components.comparable_statistics.distributions import (
    L_INFINITY,
    Compared,
    of_feature,
    quantiles,
)

HOLDS, EXCEEDS, NOT_JUDGED = "holds", "exceeds", "not judged"
# With fewer windows a distance may be chance: 30 windows measure a share of one half to ±0.09.
LEAST_WINDOWS = 30
# A value that almost vanishes is reported although its share is below any sensible limit: it needs at least
# this share of the baseline and this expected count, so that the loss is no chance, and at most this remains.
_LEAST_SHARE, _LEAST_EXPECTED, _LEFT = 0.005, 100, 0.1
# The most values of a feature that a message lists, by the size of the change.
_TOLD = 3


@dataclasses.dataclass(frozen=True)
class Sides:
    """Sides of a comparison: their names, and the setting that limits their distance."""

    kind: str  # drift or skew
    examined: str
    baseline: str
    setting: str


DRIFT = Sides("drift", "train", "train of the previous run", "validation.max_drift")
# Messages about test's values include context events; the distance does not (see `comparable`).
SKEW = Sides("skew", "test", "train", "validation.max_skew")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Comparison of a feature between two sides; `words` describe the difference, or are ""."""

    kind: str
    feature: str
    measure: str
    distance: float | None
    limit: float
    verdict: str
    words: str = ""

    @property
    def line(self) -> str:
        """Line of a report."""
        if self.distance is None:
            return f"{self.kind}: {self.feature}: {self.words}"
        found = f"{self.kind}: {self.feature}: {self.measure} {self.distance:.2f}, limit {self.limit:g}"
        return f"{found}. {self.words}" if self.words else found


def judge(
    sides: Sides,
    anomalies: anomalies_pb2.Anomalies,
    baseline: statistics_pb2.DatasetFeatureStatistics,
    examined: statistics_pb2.DatasetFeatureStatistics,
    compared: list[Compared],
    limit: float,
) -> Iterator[Comparison]:
    """Yields the verdict on each compared feature; nothing if the limit is 0.

    Args:
      sides: names of the two sides.
      anomalies: DistributionValidator's output, of which only the measurements are used.
      baseline, examined: the compared statistics.
      compared: the compared features.
      limit: the greatest distance that passes.
    """
    if not limit:
        return
    distances = {
        ".".join(info.path.step): info.drift_measurements[0].value
        for info in anomalies.drift_skew_info
        if info.drift_measurements
    }
    few = min(baseline.num_examples, examined.num_examples)
    for one in compared:
        before, after = of_feature(baseline, one.name), of_feature(examined, one.name)
        distance = distances.get(one.name)
        verdict, words = HOLDS, ""
        if before is None and after is None:
            continue  # a column without values, which the schema allows
        if before is None or after is None:
            verdict, words = EXCEEDS, _absent(sides, before, after)
        elif distance is not None and distance > limit:
            verdict, words = EXCEEDS, _difference(sides, one, before, after)
        elif one.measure == L_INFINITY and (gone := _gone(before, after)):
            verdict, words = EXCEEDS, f"In {sides.baseline} {gone}, and almost none in {sides.examined}."
        if verdict == EXCEEDS and few < LEAST_WINDOWS:
            verdict = NOT_JUDGED
            words = f"Too few windows for a verdict ({few}; {LEAST_WINDOWS} are needed). {words}"
        yield Comparison(sides.kind, one.name, one.measure, distance, limit, verdict, words.strip())


def _gone(before: statistics_pb2.FeatureNameStatistics, after: statistics_pb2.FeatureNameStatistics) -> str:
    """Returns the values of the baseline that almost vanish on the examined side, as text, or ""."""
    then, now = shares(before.string_stats), shares(after.string_stats)
    values = after.string_stats.common_stats.tot_num_values
    gone = [
        f"{share:.1%} are {label!r}"
        for label, share in then.items()
        if now.get(label, 0) < _LEFT * share and share >= _LEAST_SHARE and share * values >= _LEAST_EXPECTED
    ]
    return " and ".join(gone)


def _absent(
    sides: Sides,
    before: statistics_pb2.FeatureNameStatistics | None,
    after: statistics_pb2.FeatureNameStatistics | None,
) -> str:
    """Describes a feature that one side lacks."""
    having, lacking, feature = sides.baseline, sides.examined, before
    if feature is None:
        having, lacking, feature = sides.examined, sides.baseline, after
    assert feature is not None
    return f"No window of {lacking} has a value. In {having}: {values_of(feature, 0)}"


def _difference(
    sides: Sides,
    compared: Compared,
    before: statistics_pb2.FeatureNameStatistics,
    after: statistics_pb2.FeatureNameStatistics,
) -> str:
    if compared.measure == L_INFINITY:
        then, now = shares(before.string_stats), shares(after.string_stats)
        change = {label: now.get(label, 0) - then.get(label, 0) for label in then.keys() | now.keys()}
        moved = sorted(change, key=lambda label: -abs(change[label]))[:_TOLD]
        told = ", ".join(
            f"{label!r} from {then.get(label, 0):.1%} to {now.get(label, 0):.1%}" for label in moved
        )
        return f"The largest changes of share from {sides.baseline} to {sides.examined}: {told}."
    parts = []
    for side, feature in ((sides.baseline, before), (sides.examined, after)):
        sentences = values_of(feature, feature.num_stats.common_stats.num_non_missing)
        parts.append(f"In {side}: {sentences[0].lower()}{sentences[1:]}")
    return " ".join(parts) + _unit_hint(before, after)


def _unit_hint(
    before: statistics_pb2.FeatureNameStatistics, after: statistics_pb2.FeatureNameStatistics
) -> str:
    """Returns a hint at another unit if the highest tenths differ about 100- or 1,000-fold, else ""."""
    then, now = (
        feature_quantiles[-max(1, len(feature_quantiles) // 10)].low_value
        for feature_quantiles in (quantiles(feature).buckets for feature in (before, after))
    )
    if then > 0 and now > 0:
        for power in (100, 1_000):
            for factor, name in ((now / then, f"{power:,} times"), (then / now, f"1/{power:,} of")):
                if power / 2 <= factor <= power * 2:
                    return f" The high values are about {name} the former ones: check the unit."
    return ""
