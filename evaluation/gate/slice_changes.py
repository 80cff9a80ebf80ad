"""Which slices have become worse than under the latest blessed model, where many are looked at.

Of forty slices of two equal models one or two look worse beyond their own 95 % interval. The bounds here hold
for all slices at once: they are as wide as the largest studentised deviation among the slices is in one
resample out of a hundred (max-T; Westfall and Young, 1993, "Resampling-Based Multiple Testing"). That heeds
how the slices overlap, so that a slice that is nearly another one costs nearly nothing.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from two_tower.evaluation.bootstrap import UserBootstrap
from two_tower.evaluation.metrics import Bools, Floats

if TYPE_CHECKING:
    from two_tower.evaluation.query_results import QueryResults

# Share of the resamples in which all slices lie within their bounds: in 1 % one is beyond, on either side. A
# slice of fifty users has heavier tails than its resamples: with 2.5 %, of 400 pairs of equal models 4.8 %
# had a slice that looked worse, with 1 % 1.0 %.
LEVEL = 0.98


@dataclasses.dataclass(frozen=True)
class SliceChange:
    """How a slice's Recall@k differs between two who recommended; the bounds hold for all slices at once.

    Attributes:
        name: the slice's.
        users: how many have a label in it.
        change: mean difference over queries.
        low: lower bound.
        high: upper bound: below 0, the slice is worse by more than noise.
    """

    name: str
    users: int
    change: float
    low: float
    high: float


def recall_by_query(results: QueryResults, who: str, k: int, chosen: Bools | None = None) -> Floats:
    """Recall@k of each query [Q], of the labels in `chosen` [labels] alone; NaN where it has none of them."""
    chosen = np.ones(len(results.labels.item_id), bool) if chosen is None else chosen
    query = results.labels.query[chosen]
    found = np.bincount(query, results.ranks[who][chosen] <= k, minlength=len(results.labels))
    counts = np.bincount(query, minlength=len(results.labels))
    return np.divide(found, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def slice_changes(
    results: QueryResults, who: str, other: str, k: int, bootstrap: UserBootstrap, min_users: int
) -> list[SliceChange]:
    """The change of Recall@k from `other` to `who` in every slice that at least `min_users` users are in.

    Args:
        results: where the labels stand among everyone's recommendations.
        who: whose recall it is, and
        other: whose it is compared with, names in `results.ranks`.
        k: of Recall@k.
        bootstrap: of the queries' users; its level is not heeded.
        min_users: smaller slices are left out: their noise is too far from normal to be bounded.

    Returns:
        In the order of `results.slices`.
    """
    user_of_label = results.user[results.labels.query]
    users = {name: len(np.unique(user_of_label[chosen])) for name, chosen in results.slices.items()}
    judged = [name for name, count in users.items() if count >= min_users]
    if not judged:
        return []
    columns = np.stack(
        [
            recall_by_query(results, who, k, chosen) - recall_by_query(results, other, k, chosen)
            for chosen in (results.slices[name] for name in judged)
        ],
        axis=1,
    )
    change = np.nanmean(columns, axis=0)
    deviations = bootstrap.means(columns) - change
    error = np.nanstd(deviations, axis=0)
    # Where all users differ alike, or not at all, there is no noise to bound.
    varies = error > 0
    reach = np.zeros(2)
    if varies.any():
        studentised = deviations[:, varies] / error[varies]
        tail = (1.0 - LEVEL) / 2.0
        reach = np.array(
            [
                np.quantile(np.nanmax(studentised, axis=1), 1.0 - tail),
                np.quantile(np.nanmax(-studentised, axis=1), 1.0 - tail),
            ]
        )
    low, high = change - reach[0] * error, change + reach[1] * error
    return [
        SliceChange(name, users[name], float(change[i]), float(low[i]), float(high[i]))
        for i, name in enumerate(judged)
    ]
