"""Comparable distributions of two sets of windows; see docs/decisions/0008-comparable-statistics.md.

Item ids and user ids are not compared: popularity changes every day, and the model learns it. Absolute times
always grow, so they are not compared. Texts and vectors are not compared either.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import statistics_pb2
from tensorflow_metadata.proto.v0.statistics_pb2 import DatasetFeatureStatistics as Statistics
from tensorflow_metadata.proto.v0.statistics_pb2 import FeatureNameStatistics as FeatureStatistics
from tfx.proto import distribution_validator_pb2

from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.schema import features

Array = np.ndarray

# Distance of categories: the largest difference of any value's share. Distance of numbers: the Jensen-Shannon
# divergence to base 2. Both lie between 0 (equal) and 1.
L_INFINITY = "L-infinity distance"
JENSEN_SHANNON = "Jensen-Shannon divergence"
# By `ColumnKind.compared_as`.
_MEASURES = {"categories": L_INFINITY, "numbers": JENSEN_SHANNON}

# TFDV's quantiles are exact to a hundredth. With fewer, one outlier would blur the share of the last bin.
_QUANTILES = 50
_BINS = 10

# A pseudo-feature: the number of events of a window.
WINDOW_EVENTS = "window_events"

# Features with one value per event; part of a window's events are context.
_OF_AN_EVENT = (features.HISTORY_EVENT_TYPE, features.HISTORY_PLAY_RATIO, features.HISTORY_IS_ORGANIC)
# Largest share of context that is taken off. A tenth of test's events stays, with ten times the noise.
_MOST_CONTEXT = 0.9

# Pairs of splits in the order of DistributionValidator: the examined split, its baseline.
DRIFT_PAIR = ("now", "before")
SKEW_PAIR = ("test", "train")
# Custom property of the artifact: the reason why drift is not checked, or "".
NO_DRIFT_REASON = "no_drift_reason"


@dataclasses.dataclass(frozen=True)
class Compared:
    """Feature with the measure of its distance."""

    name: str
    measure: str


def compared_for_skew(resolved: ResolvedFeatures) -> list[Compared]:
    """Returns the features on which train and test must agree.

    label_step and the number of events per window are left out, because test windows differ from train's.
    They have few queries after much context, or one query per user in the frozen and leave-one-out protocols.
    """
    return [
        Compared(features.HISTORY_EVENT_TYPE, L_INFINITY),
        Compared(features.HISTORY_PLAY_RATIO, JENSEN_SHANNON),
        Compared(features.HISTORY_IS_ORGANIC, JENSEN_SHANNON),
        *(
            Compared(spec.name, _MEASURES[compared_as])
            for spec in resolved.users
            if (compared_as := spec.column_kind.compared_as) is not None
        ),
    ]


def compared_for_drift(resolved: ResolvedFeatures) -> list[Compared]:
    """Returns the features on which train must agree with train of the previous run."""
    return [
        *compared_for_skew(resolved),
        Compared(features.LABEL_STEP, JENSEN_SHANNON),
        Compared(WINDOW_EVENTS, JENSEN_SHANNON),
    ]


def compared_to_json(compared: list[Compared]) -> str:
    """Writes a component's parameter, which `compared_from_json` reads."""
    return json.dumps({one.name: one.measure for one in compared})


def compared_from_json(text: str) -> list[Compared]:
    """Reads the text of `compared_to_json`."""
    return [Compared(name, measure) for name, measure in json.loads(text).items()]


def validator_config(
    compared: list[Compared], limit: float
) -> distribution_validator_pb2.DistributionValidatorConfig:
    """Returns the settings of a DistributionValidator; a limit of 0 compares nothing."""
    config = distribution_validator_pb2.DistributionValidatorConfig()
    for one in compared if limit else []:
        feature = config.default_slice_config.feature.add()
        feature.path.step.append(one.name)
        if one.measure == L_INFINITY:
            feature.distribution_comparator.infinity_norm.threshold = limit
        else:
            feature.distribution_comparator.jensen_shannon_divergence.threshold = limit
    return config


def statistics_options() -> tfdv.StatsOptions:
    """Returns the options of StatisticsGen, with enough quantiles for the bins."""
    return tfdv.StatsOptions(num_quantiles_histogram_buckets=_QUANTILES)


def context_share(test: Statistics, test_from: int) -> float:
    """Returns the share of test windows' events before `test_from`, when the test period begins (seconds)."""
    times = of_feature(test, features.HISTORY_TIMESTAMP)
    if times is None:
        return 0.0
    before, since = masses(quantiles(times), np.array([test_from - 1.0]))
    return float(before / (before + since))


def comparable(
    baseline: Statistics, examined: Statistics, compared: list[Compared], context: float = 0.0
) -> tuple[Statistics, Statistics]:
    """Returns both sides' statistics of the compared features, with numbers counted in common bins.

    TFDV's Jensen-Shannon divergence reads histograms of 10 equal-width buckets between each side's least and
    greatest value. One play ratio of 100 among 10,000 puts all others into one bucket: TFDV finds 0.80
    between two samples of one distribution, and 0.00 after all other values became 0. Here the bins lie
    between the baseline's deciles, and frequent values have bins of their own; TFDV's quantiles include
    these edges. The compared histogram has the bins' numbers as values.

    A side leaves out features without any value on it.

    Args:
      baseline, examined: statistics of the two sides.
      compared: the compared features.
      context: share of the examined side's events that precede the test period. They would hide a fault of
        the period alone. So the same number of events, distributed like the baseline, is subtracted from the
        examined side. Without a fault, the rest keeps its distribution.
    """
    context = min(context, _MOST_CONTEXT)
    sides = [_with_window_events(baseline), _with_window_events(examined)]
    results = [Statistics(name=side.name, num_examples=side.num_examples) for side in (baseline, examined)]
    for one in compared:
        found = [of_feature(side, one.name) for side in sides]
        edges = None
        if one.measure == JENSEN_SHANNON:
            known = next((feature for feature in found if feature is not None), None)
            if known is None:
                continue
            edges = bin_edges(quantiles(known))
        for result, feature in zip(results, found, strict=True):
            if feature is None:
                continue
            copy = result.features.add()
            copy.CopyFrom(feature)
            copy.ClearField("name")
            copy.path.step[:] = [one.name]
            counts = None if edges is None else masses(quantiles(feature), edges)
            if context and feature is found[1] and found[0] is not None and one.name in _OF_AN_EVENT:
                if edges is not None and counts is not None:
                    counts = _without_context(counts, masses(quantiles(found[0]), edges), context)
                else:
                    _take_context_off(copy.string_stats, found[0].string_stats, context)
            if counts is not None:
                _replace_histogram(copy, counts)
    return results[0], results[1]


def _without_context(counts: Array, baseline: Array, context: float) -> Array:
    return np.maximum(counts - context * counts.sum() * baseline / baseline.sum(), 0)


def _take_context_off(
    stats: statistics_pb2.StringStatistics, baseline: statistics_pb2.StringStatistics, context: float
) -> None:
    labels = sorted({bucket.label for side in (stats, baseline) for bucket in side.rank_histogram.buckets})
    examined_counts, baseline_counts = (
        np.array([of_label.get(label, 0.0) for label in labels])
        for of_label in (
            {bucket.label: bucket.sample_count for bucket in side.rank_histogram.buckets}
            for side in (stats, baseline)
        )
    )
    counts = _without_context(examined_counts, baseline_counts, context)
    order = np.argsort(-counts, kind="stable")
    del stats.rank_histogram.buckets[:], stats.top_values[:]
    for rank, place in enumerate(order):
        stats.rank_histogram.buckets.add(
            low_rank=rank, high_rank=rank, label=labels[place], sample_count=counts[place]
        )
        stats.top_values.add(value=labels[place], frequency=counts[place])
    stats.unique = int((counts > 0).sum())
    stats.common_stats.tot_num_values = round(counts.sum())


def of_feature(statistics: Statistics, name: str) -> FeatureStatistics | None:
    """Returns a feature's statistics; None if no window has a value."""
    for feature in statistics.features:
        if feature.name == name or list(feature.path.step) == [name]:
            kind = feature.WhichOneof("stats")
            return feature if kind and getattr(feature, kind).common_stats.num_non_missing else None
    return None


def quantiles(feature: FeatureStatistics) -> statistics_pb2.Histogram:
    """Returns a numeric feature's histogram of equal counts; raises ValueError without one."""
    for histogram in feature.num_stats.histograms:
        if histogram.type == statistics_pb2.Histogram.QUANTILES:
            return histogram
    raise ValueError(f"{feature.path.step}: the statistics have no quantiles; StatisticsGen computes them.")


def bin_edges(histogram: statistics_pb2.Histogram) -> Array:
    """Returns the upper edges (inclusive) of the bins, ascending; one more bin lies above the last edge.

    The edges are the deciles. Where neighbouring quantiles agree, their value and the number just below it
    are edges too: this value has a bin of its own.
    """
    buckets = histogram.buckets
    bounds = np.array([buckets[0].low_value, *(bucket.high_value for bucket in buckets)])
    deciles = bounds[1:-1][max(1, len(buckets) // _BINS) - 1 :: max(1, len(buckets) // _BINS)]
    repeated = bounds[1:][np.diff(bounds) == 0]
    return np.unique(np.concatenate([deciles, repeated, np.nextafter(repeated, -np.inf)]))


def masses(histogram: statistics_pb2.Histogram, edges: Array) -> Array:
    """Returns the number of values per bin, [len(edges) + 1]; values lie evenly within a bucket."""
    below = np.zeros(len(edges))
    total = 0.0
    for bucket in histogram.buckets:
        width = bucket.high_value - bucket.low_value
        if width > 0:
            share = np.clip((edges - bucket.low_value) / width, 0, 1)
        else:
            share = edges >= bucket.high_value
        below += bucket.sample_count * share
        total += bucket.sample_count
    return np.maximum(np.diff(np.concatenate([[0.0], below, [total]])), 0)


def _with_window_events(statistics: Statistics) -> Statistics:
    """Adds the number of events per window as a feature, because TFDV compares values alone."""
    result = Statistics()
    result.CopyFrom(statistics)
    items = of_feature(statistics, features.HISTORY_ITEM_ID)
    if items is not None:
        common = items.num_stats.common_stats
        added = result.features.add(type=FeatureStatistics.INT)
        added.path.step.append(WINDOW_EVENTS)
        added.num_stats.common_stats.num_non_missing = common.num_non_missing
        added.num_stats.common_stats.tot_num_values = common.num_non_missing
        added.num_stats.common_stats.min_num_values = added.num_stats.common_stats.max_num_values = 1
        added.num_stats.mean = common.avg_num_values
        added.num_stats.min, added.num_stats.max = common.min_num_values, common.max_num_values
        lengths = added.num_stats.histograms.add()
        lengths.CopyFrom(common.num_values_histogram)
        lengths.type = statistics_pb2.Histogram.QUANTILES
        added.num_stats.median = lengths.buckets[len(lengths.buckets) // 2].low_value
    return result


def _replace_histogram(feature: FeatureStatistics, counts: Array) -> None:
    kept = quantiles(feature)
    binned = statistics_pb2.Histogram(type=statistics_pb2.Histogram.STANDARD)
    for number, count in enumerate(counts):
        binned.buckets.add(low_value=number, high_value=number + 1, sample_count=count)
    del feature.num_stats.histograms[:]
    feature.num_stats.histograms.extend([binned, kept])
