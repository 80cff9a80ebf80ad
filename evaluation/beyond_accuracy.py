"""Metrics of recommended lists beside accuracy: novelty, popularity and diversity."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from two_tower.evaluation.metrics import Floats, Ints, mean

# Vectors that are gathered at once: 32 MB with 64 float32 each.
_VECTORS_AT_ONCE = 125_000
# Queries, at even distances, whose lists are compared with themselves: their mean is known to a thousandth.
# With 20,000 queries it would take longer than all other metrics together.
DIVERSITY_QUERIES = 2_000


@dataclasses.dataclass(frozen=True)
class ItemVectors:
    """Vectors that items are compared by, the same for all recommenders.

    Attributes:
        source: "content" for vectors of the data, "model" for the model's own item embeddings.
        item_id: int64 [n], ascending.
        vectors: float32 [n, D] of any length; zeros for an item that has none.
    """

    source: str
    item_id: Ints
    vectors: npt.NDArray[np.float32]

    @classmethod
    def of_model(cls, item_id: Ints, embeddings: npt.NDArray[np.float32]) -> ItemVectors:
        """Takes the model's own embeddings: item ids [n] in any order, and embeddings [n, D]."""
        order = np.argsort(item_id)
        # Embeddings in order are not copied: a million of them take a quarter of a gigabyte.
        in_order = bool((order[1:] > order[:-1]).all())
        return cls("model", item_id[order], embeddings if in_order else embeddings[order])

    def rows_of(self, item_id: Ints) -> Ints:
        """Finds the rows of items, in the shape given; -1 for items without one."""
        if not len(self.item_id):
            return np.full(np.shape(item_id), -1)
        row = np.minimum(np.searchsorted(self.item_id, item_id), len(self.item_id) - 1)
        return np.where(self.item_id[row] == item_id, row, -1)


def self_information(plays: npt.NDArray[np.integer], all_plays: int, catalog_size: int) -> Floats:
    """Computes -log2 p of items, in bits: the surprise of meeting one, in the shape given.

    p is an item's share of train's label events (Zhou et al., 2010, "Solving the apparent diversity-accuracy
    dilemma of recommender systems", which counts users). One event is added for each item of the catalog, so
    that an item without any has a finite value.

    Args:
        plays: label events of the items.
        all_plays: label events of all items together.
        catalog_size: number of items.
    """
    return np.asarray(np.log2(all_plays + catalog_size) - np.log2(plays + 1.0))


def novelty_at_k(recommended: Ints, information: Floats, k: int) -> float:
    """Averages the self-information of the first k, in bits: over queries, the mean over their items.

    (Vargas and Castells, 2011, "Rank and relevance in novelty and diversity metrics for recommender systems",
    without discount.)

    Args:
        recommended: [Q, K] item ids, -1 where there are fewer than K.
        information: [Q, K] self-information of the items, see `self_information`.
        k: at most K.

    Returns:
        NaN if nothing is recommended.
    """
    per_query = _mean_of_lists(recommended[:, :k], information[:, :k])
    return mean(per_query[np.isfinite(per_query)])


def popularity_lift_at_k(recommended: Ints, popularity: Floats, of_histories: Floats, k: int) -> float:
    """Compares the popularity of the first k with the users' histories: 0 for as popular, 1 for twice.

    (GAP of recommendations - GAP of profiles) / GAP of profiles, GAP being the group's average popularity
    (Abdollahpouri et al., 2020, "The connection between popularity bias, calibration, and fairness in
    recommendation"), a profile being the history that a query sees.

    Args:
        recommended: [Q, K] item ids, -1 where there are fewer than K.
        popularity: [Q, K] shares of train's label events of the items.
        of_histories: [Q] mean popularity of the items that each query's user had played.
        k: at most K.

    Returns:
        NaN if nothing is recommended, or no history holds an item that train knows.
    """
    per_query = _mean_of_lists(recommended[:, :k], popularity[:, :k])
    known = np.isfinite(per_query) & np.isfinite(of_histories)
    profiles = mean(of_histories[known])
    return mean(per_query[known]) / profiles - 1.0 if profiles > 0 else float("nan")


def intra_list_diversity(recommended: Ints, cutoffs: Sequence[int], items: ItemVectors) -> dict[int, float]:
    """Computes 1 - mean cosine of all pairs within the first k, mean over queries, by k.

    (Ziegler et al., 2005, "Improving recommendation lists through topic diversification".) The sum of a
    list's cosines follows from the length of the sum of its unit vectors, without a look at any pair.

    Args:
        recommended: [Q, K] item ids, -1 where there are fewer than K.
        cutoffs: each k, at most K.
        items: vectors that items are compared by. Items without a vector are left out.

    Returns:
        NaN where no list has two items: at k = 1.
    """
    if not len(recommended) or not len(items.item_id):
        return dict.fromkeys(cutoffs, float("nan"))
    chosen = np.unique(np.linspace(0, len(recommended) - 1, DIVERSITY_QUERIES).astype(np.int64))
    recommended = recommended[chosen]
    cutoffs = sorted(cutoffs)
    found: dict[int, list[Floats]] = {k: [] for k in cutoffs}
    step = max(1, _VECTORS_AT_ONCE // max(recommended.shape[1], 1))
    for begin in range(0, len(recommended), step):
        rows = items.rows_of(recommended[begin : begin + step, : cutoffs[-1]])
        vectors = np.where(rows[:, :, np.newaxis] >= 0, items.vectors[np.maximum(rows, 0)], 0.0)
        length = np.linalg.norm(vectors, axis=2)
        vectors /= np.where(length > 0, length, 1.0)[:, :, np.newaxis]
        for k in cutoffs:
            count = (length[:, :k] > 0).sum(axis=1).astype(np.float64)
            pairs = count * (count - 1.0)
            squared = (vectors[:, :k].sum(axis=1, dtype=np.float64) ** 2).sum(axis=1)
            of_lists = np.divide(squared - count, pairs, out=np.full(len(count), np.nan), where=pairs > 0)
            found[k].append(1.0 - of_lists[pairs > 0])
    return {k: mean(np.concatenate(parts)) for k, parts in found.items()}


def _mean_of_lists(recommended: Ints, values: Floats) -> Floats:
    """Averages each query's values without those at padding: [Q], NaN where it has none."""
    known = recommended >= 0
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.asarray(np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0))
