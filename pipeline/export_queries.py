"""Queries of a served model's run, for the check of an export."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from two_tower.base.errors import UserError
from two_tower.data_directory.feature_columns import FeatureSpec
from two_tower.evaluation.queries import all_queries, history_batch, read_windows
from two_tower.pipeline.runs.lineage import lineage_of
from two_tower.serving.exports.vectors import Queries
from two_tower.serving.request_tensors import request_tensors, signature_by_number

_QUERIES, _SEED, _QUERIES_PER_BATCH = 1_000, 17, 256
_SPLIT = "eval"


def eval_queries(loaded: Any, path: str, provenance: dict[str, Any]) -> Queries | None:
    """Embeds queries of the eval split, which did not judge the model.

    Args:
      loaded: the loaded SavedModel.
      path: the model's directory.
      provenance: content of the model's provenance.json.

    Returns:
      The queries; None if the model's run, or a query of it, is not available.
    """
    try:
        lineage = lineage_of(path)
        users = [FeatureSpec(**spec) for spec in provenance.get("features", {}).get("users", [])]
        windows = read_windows(os.path.join(lineage.interactions.uri, f"Split-{_SPLIT}"), users)
    except (UserError, FileNotFoundError):
        return None
    available = all_queries(windows)
    if not len(available):
        return None
    embed = signature_by_number(loaded, "query_embedding")
    rows = np.random.default_rng(_SEED).permutation(len(available))[:_QUERIES]
    parts = []
    for begin in range(0, len(rows), _QUERIES_PER_BATCH):
        batch = rows[begin : begin + _QUERIES_PER_BATCH]
        inputs = history_batch(windows, available, batch, provenance["history_length"])
        parts.append(embed(**request_tensors(embed, inputs))["embedding"].numpy())
    return Queries(np.concatenate(parts), f"queries of the {_SPLIT} split")
