"""Explanation of a refusal: the part of the queries that lost most, and labels that were found before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from two_tower.evaluation.gate.slice_changes import SliceChange

if TYPE_CHECKING:
    from two_tower.evaluation.query_results import QueryResults

EXAMPLES = 10
# At least this many examples are from the slice, where it has them.
_FROM_SLICE = 8


def worst(changes: Sequence[SliceChange]) -> SliceChange | None:
    """Returns the slice with the greatest loss beyond noise, or else with the greatest loss, if any."""
    proven = [one for one in changes if one.high < 0]
    return min(proven or changes, key=lambda one: one.change, default=None)


def examples(
    results: QueryResults, who: str, other: str, k: int, slice_name: str | None
) -> list[dict[str, Any]]:
    """Picks labels that `other` has among its first k and `who` has not, one a user, the slice's first.

    Args:
        results: ranks of the labels among all recommendations.
        who: recommender that missed them, of `results.ranks`.
        other: recommender that found them, of `results.ranks`.
        k: depth of the lists.
        slice_name: slice that most examples are taken from; None takes them from anywhere.

    Returns:
        At most EXAMPLES, in each part by ascending rank of `other`: `query`, the row of the query; `user`,
        their number in queries.npz; `label_item`, its item id; `rank`, the rank of `who`, None where it is
        missing; `found_by`, `other`; `found_at`, its rank there; and `in_slice`.
    """
    ours, theirs = results.ranks[who], results.ranks[other]
    user = results.user[results.labels.query]
    of_slice = results.slices[slice_name] if slice_name else np.zeros(len(ours), bool)
    lost = np.flatnonzero((theirs <= k) & (ours > k))
    lost = lost[np.lexsort((theirs[lost], ~of_slice[lost]))]
    lost = lost[np.sort(np.unique(user[lost], return_index=True)[1])]
    inside, outside = lost[of_slice[lost]], lost[~of_slice[lost]]
    # Where the rest has too few, more are from the slice.
    chosen = np.concatenate([inside[:_FROM_SLICE], outside, inside[_FROM_SLICE:]])
    return [
        {
            "query": int(results.labels.query[label]),
            "user": int(user[label]),
            "label_item": int(results.labels.item_id[label]),
            "rank": int(ours[label]) if math.isfinite(ours[label]) else None,
            "found_by": other,
            "found_at": int(theirs[label]),
            "in_slice": bool(of_slice[label]),
        }
        for label in chosen[:EXAMPLES]
    ]
