"""How far a model gets from the best baseline to the oracle, which knows how simulated data came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from components.retrieval_evaluator.metrics import Floats, Ints, mean, recall_at_k
from components.retrieval_evaluator.queries import Queries

CUTOFFS = (10, 50, 100)
KEY = ("user_id", "label_timestamp", "label_item_id")


def matching_rows(queries: Queries, oracle: Mapping[str, npt.NDArray[Any]]) -> tuple[Ints, Ints]:
    """The queries that the oracle answered too.

    Args:
        queries: of the test split.
        oracle: columns `user_id`, `label_timestamp` and `label_item_id` by name, each [m].

    Returns:
        Rows of `queries` and rows of the oracle, [M] and [M]. Of rows with equal keys (times are coarse,
        and an item can be played twice within one step) the first is taken.
    """
    asked = np.stack([getattr(queries, name) for name in KEY], axis=1)
    answered = np.stack([np.asarray(oracle[name], np.int64) for name in KEY], axis=1)
    _, key = np.unique(np.concatenate([asked, answered]), axis=0, return_inverse=True)
    _, query_rows, oracle_rows = np.intersect1d(
        key[: len(asked)], key[len(asked) :], return_indices=True
    )
    return query_rows, oracle_rows


def oracle_share(
    model: Floats,
    baselines: Mapping[str, Floats],
    oracle: Floats,
    oracle_observed: Floats,
    cutoffs: Sequence[int] = CUTOFFS,
) -> dict[str, Any]:
    """Recall of model, best baseline and oracle on the same queries.

    Args:
        model: [M] ranks of the labels, counted from 1, infinite where not recommended.
        baselines: likewise, by name.
        oracle: likewise, of ranking by the simulator's own probabilities and the user's hidden state.
        oracle_observed: likewise, without the hidden state.
        cutoffs: the k of Recall@k.

    Returns:
        The number of queries and, by `recall@k`, the recalls of `model`, `best_baseline` (the best at
        that k), `oracle` and `oracle_observed`, and the model's `share_of_gap` and
        `share_of_gap_observed`: 0 at the best baseline and 1 at the oracle; null where the oracle is not
        above the baseline.
    """
    comparison: dict[str, Any] = {"queries": len(model)}
    for k in cutoffs:
        recall = {"model": mean(recall_at_k(model, k)),
                  "best_baseline": max(mean(recall_at_k(ranks, k)) for ranks in baselines.values()),
                  "oracle": mean(recall_at_k(oracle, k)),
                  "oracle_observed": mean(recall_at_k(oracle_observed, k))}
        gained = recall["model"] - recall["best_baseline"]
        comparison[f"recall@{k}"] = {
            **recall,
            "share_of_gap": _share(gained, recall["oracle"] - recall["best_baseline"]),
            "share_of_gap_observed": _share(gained, recall["oracle_observed"] - recall["best_baseline"]),
        }
    return comparison


def _share(gained: float, gap: float) -> float | None:
    return gained / gap if gap > 0 else None
