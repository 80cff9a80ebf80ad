"""Anomalies in words: split, feature, complaint, and the values that the feature has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2
from tfx.dsl.io import fileio

# The most values of a categorical feature that a message lists.
_TOLD = 5


def read(path: str) -> anomalies_pb2.Anomalies:
    """Reads the anomalies that a validator wrote into a folder."""
    with fileio.open(os.path.join(path, "SchemaDiff.pb"), "rb") as file:
        return anomalies_pb2.Anomalies.FromString(file.read())


def describe(
    anomalies_uri: str, statistics: Mapping[str, statistics_pb2.DatasetFeatureStatistics]
) -> Iterator[str]:
    """Yields a line per anomaly: split, feature, complaint, and the feature's values.

    Args:
      anomalies_uri: the validator's output folder.
      statistics: statistics by split.
    """
    for split, of_split in statistics.items():
        anomalies = read(os.path.join(anomalies_uri, f"Split-{split}"))
        if anomalies.HasField("dataset_anomaly_info"):
            yield f"{split}: {anomalies.dataset_anomaly_info.description}"
        values = {
            feature.name or ".".join(feature.path.step): values_of(feature, of_split.num_examples)
            for feature in of_split.features
        }
        for feature, info in sorted(anomalies.anomaly_info.items()):
            name = ".".join(info.path.step) or feature
            yield f"{split}: {name}: {info.description.strip().rstrip('.')}. {values.get(name, '')}".rstrip()


def values_of(feature: statistics_pb2.FeatureNameStatistics, examples: int) -> str:
    """Returns a sentence about a feature's values, because TFDV names offenders without counts.

    Args:
      feature: the feature's statistics.
      examples: number of Examples.
    """
    kind = feature.WhichOneof("stats")
    if kind is None:
        return ""
    common = getattr(feature, kind).common_stats
    missing = examples - common.num_non_missing
    absent = f" {missing:,} of {examples:,} Examples have none." if missing > 0 else ""
    if not common.num_non_missing:
        return absent.strip()
    if kind == "num_stats":
        return _numbers(feature.num_stats, common.tot_num_values) + absent
    if kind == "string_stats" and feature.string_stats.rank_histogram.buckets:
        return _texts(feature.string_stats, common.tot_num_values) + absent
    return absent.strip()


def _numbers(stats: statistics_pb2.NumericStatistics, values: int) -> str:
    nan = stats.histograms[0].num_nan if stats.histograms else 0
    of_them = f" of which {nan:,} {'is' if nan == 1 else 'are'} NaN;" if nan else ""
    tenths = ""
    for histogram in stats.histograms:
        tenth = len(histogram.buckets) // 10
        if histogram.type == statistics_pb2.Histogram.QUANTILES and tenth:
            low, high = histogram.buckets[tenth - 1].high_value, histogram.buckets[-tenth].low_value
            tenths = f" the lowest tenth reaches to {_number(low)}, the highest begins at {_number(high)},"
    return (
        f"There are {values:,} values,{of_them} from {_number(stats.min)} to {_number(stats.max)};{tenths} "
        f"the median is {_number(stats.median)}."
    )


def _texts(stats: statistics_pb2.StringStatistics, values: int) -> str:
    told = ", ".join(f"{label!r} {share:.1%}" for label, share in list(shares(stats).items())[:_TOLD])
    return f"There are {values:,} values of {stats.unique:,} kinds: {told}{', ...' * (stats.unique > _TOLD)}."


def shares(stats: statistics_pb2.StringStatistics) -> dict[str, float]:
    """Returns the share of each value, the largest first; TFDV keeps the thousand most frequent values."""
    counts = {bucket.label: bucket.sample_count for bucket in stats.rank_histogram.buckets}
    total = stats.common_stats.tot_num_values or 1
    return {label: count / total for label, count in sorted(counts.items(), key=lambda item: -item[1])}


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:,.4g}"
