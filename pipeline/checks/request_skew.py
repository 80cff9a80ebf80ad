"""Skew between requests and train, by the distances of the DistributionValidators."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import tensorflow_data_validation as tfdv
from tensorflow_data_validation.statistics import stats_impl
from tensorflow_metadata.proto.v0.statistics_pb2 import DatasetFeatureStatistics, DatasetFeatureStatisticsList

from two_tower.components.anomaly_gate import comparisons
from two_tower.components.anomaly_gate.comparisons import Comparison, Sides
from two_tower.components.approved_statistics.approved import FILE
from two_tower.components.comparable_statistics.distributions import (
    JENSEN_SHANNON,
    L_INFINITY,
    Compared,
    comparable,
    compared_for_skew,
    of_feature,
    statistics_options,
    validator_config,
)
from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.schema import features
from two_tower.schema.request_inputs import PER_EVENT, REQUEST_INPUTS

SIDES = Sides("skew", "the requests", "train", "validation.max_skew")


def compare(requests: Sequence[Mapping[str, Any]], approved_uri: str, limit: float) -> list[Comparison]:
    """Judges the features that at least one request gives; the model fills in the others.

    Args:
      requests: fields by name, of the schema's types.
      approved_uri: URI of train's statistics, kept by ApprovedStatistics.
      limit: largest accepted distance.
    """
    train = tfdv.load_stats_binary(os.path.join(approved_uri, FILE)).datasets[0]
    built_in = compared_for_skew(ResolvedFeatures())
    given = {name for request in requests for name in request}
    compared = [one for one in built_in if one.name in given]
    # Train's statistics give the types of users' columns.
    for name in sorted(given):
        feature = None if name in REQUEST_INPUTS else of_feature(train, name)
        if feature is not None and (kind := feature.WhichOneof("stats")) != "bytes_stats":
            compared.append(Compared(name, JENSEN_SHANNON if kind == "num_stats" else L_INFINITY))
    if not compared:
        return []
    examined = _statistics(requests, compared)
    baseline_side, examined_side = comparable(train, examined, compared)
    # As in DistributionValidator, a schema holds the compared features.
    schema = tfdv.infer_schema(_listed(baseline_side))
    for one in validator_config(compared, limit).default_slice_config.feature:
        if of_feature(baseline_side, one.path.step[0]) is not None:
            tfdv.get_feature(schema, one.path.step[0]).drift_comparator.CopyFrom(one.distribution_comparator)
    anomalies = tfdv.validate_statistics(
        _listed(examined_side), schema, previous_statistics=_listed(baseline_side)
    )
    return list(comparisons.judge(SIDES, anomalies, baseline_side, examined_side, compared, limit))


def _listed(statistics: DatasetFeatureStatistics) -> DatasetFeatureStatisticsList:
    return DatasetFeatureStatisticsList(datasets=[statistics])


def _statistics(
    requests: Sequence[Mapping[str, Any]], compared: Sequence[Compared]
) -> DatasetFeatureStatistics:
    """Computes statistics of requests in the form of windows.

    Padding is left out, the label event has its name, and absent values are missing.
    """
    columns = {}
    for one in compared:
        rows = [_values(request, one.name) for request in requests]
        kind = pa.binary() if one.measure == L_INFINITY else pa.float32()
        if one.name in REQUEST_INPUTS and REQUEST_INPUTS[one.name].dtype == "int64":
            kind = pa.int64()
        columns[one.name] = pa.array(rows, pa.list_(kind))
    batch = pa.RecordBatch.from_pydict(columns)
    return stats_impl.generate_statistics_in_memory(batch, statistics_options()).datasets[0]


def _values(request: Mapping[str, Any], name: str) -> list[Any]:
    value = request.get(name)
    values = value if isinstance(value, list) else [] if value is None else [value]
    if name not in REQUEST_INPUTS or REQUEST_INPUTS[name].shape != PER_EVENT:
        return [one for one in values if one != "" and one == one]
    items = request[features.HISTORY_ITEM_ID]
    if len(values) == 1:
        values = values * len(items)
    values = [one for one, item in zip(values, items, strict=False) if item >= 0]
    if name == features.HISTORY_EVENT_TYPE:
        return [one or features.LISTEN for one in values]
    return values
