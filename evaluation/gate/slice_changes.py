"""Changes of slices against the latest blessed model, with bounds that hold for all slices at once.

Among forty slices of two equal models one or two look worse beyond their own 95 % interval. The bounds here
are as wide as the largest studentised deviation among the slices is in one resample out of a hundred (max-T;
Westfall and Young, 1993, "Resampling-Based Multiple Testing"). They heed how the slices overlap: a slice that
is nearly another one costs nearly nothing.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from two_tower.evaluation.metrics import Bools, Floats
from two_tower.evaluation.uncertainty import RESAMPLES, UserSample

if TYPE_CHECKING:
    from two_tower.evaluation.query_results import QueryResults

# Share of the resamples in which all slices lie within their bounds: in 1 % one is beyond, on either side. A
# slice of fifty users has heavier tails than its resamples: with 2.5 %, 4.8 % of 400 pairs of equal models
# had a slice that looked worse; with 1 %, 1.0 %.
LEVEL = 0.98


@dataclasses.dataclass(frozen=True)
class SliceChange:
    """Change of a slice's Recall@k between two recommenders; the bounds hold for all slices at once.

    Attributes:
        name: name of the slice.
        users: number of users with a label in it.
        change: mean difference over queries.
        low: lower bound.
        high: upper bound. Below 0, the slice is worse by more than noise.
    """

    name: str
    users: int
    change: float
    low: float
    high: float


def recall_by_query(results: QueryResults, who: str, k: int, chosen: Bools | None = None) -> Floats:
    """Computes Recall@k of each query [Q] over the labels in `chosen` [labels]; NaN where it has none."""
    chosen = np.ones(len(results.labels.item_id), bool) if chosen is None else chosen
    query = results.labels.query[chosen]
    found = np.bincount(query, results.ranks[who][chosen] <= k, minlength=len(results.labels))
    counts = np.bincount(query, minlength=len(results.labels))
    return np.divide(found, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def slice_changes(
    results: QueryResults,
    who: str,
    other: str,
    k: int,
    sample: UserSample,
    min_users: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[SliceChange]:
    """Compares Recall@k of `who` and `other` in every slice with at least `min_users` users.

    Args:
        results: ranks of the labels among all recommendations.
        who: recommender, of `results.ranks`.
        other: recommender that it is compared with, of `results.ranks`.
        k: cutoff of Recall@k.
        sample: the queries' users.
        min_users: slices with fewer users are left out: their noise is too far from normal to be bounded.
        resamples: number of resamples of the users.
        seed: seed of the resamples.

    Returns:
        Changes in the order of `results.slices`.
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
    deviations = sample.resampled_means(columns, resamples, seed) - change
    error = np.nanstd(deviations, axis=0)
    # Where all users differ alike, or not at all, no noise is left to bound.
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
