"""Map of the catalog: item embeddings in two dimensions, where items that the towers find alike are near.

t-SNE (van der Maaten and Hinton, 2008) of a sample of items: neighbourhoods have a meaning, long distances
and the sizes of clusters have none.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from two_tower.evaluation.report.examples import ItemNames

Ints = npt.NDArray[np.int64]

# Beside evaluation.json.
MAP_FILE = "item_map.json"
# t-SNE of this many items takes a few seconds.
MAP_ITEMS = 1_200
_ITERATIONS = 500
_PERPLEXITY = 30.0
# Fewer items have no neighbourhoods that t-SNE could keep.
_FEWEST_FOR_TSNE = 100


def map_items(catalog: Ints, train_items: Ints, seed: int, limit: int = MAP_ITEMS) -> Ints:
    """Picks the items of the map: half of them the most played, half at random among the others.

    Args:
        catalog: [N] item ids that can be recommended.
        train_items: [n] the item of each label event of train.
        seed: seed of the random half.
        limit: largest number of items.

    Returns:
        Item ids of `catalog`, ascending.
    """
    plays = plays_of(catalog, train_items)
    by_plays = catalog[np.lexsort((catalog, -plays))]
    popular, others = by_plays[: limit // 2], by_plays[limit // 2 :]
    drawn = np.random.default_rng(seed).permutation(len(others))[: limit - len(popular)]
    return np.sort(np.concatenate([popular, others[drawn]]))


def plays_of(items: Ints, train_items: Ints) -> Ints:
    """Counts each item's label events in train: items [n], returns [n]."""
    known, counts = np.unique(train_items, return_counts=True)
    if not len(known):
        return np.zeros(len(items), np.int64)
    place = np.minimum(np.searchsorted(known, items), len(known) - 1)
    return np.where(known[place] == items, counts[place], 0)


def item_map(
    items: Ints, embeddings: npt.NDArray[np.floating], train_items: Ints, data: str, seed: int
) -> dict[str, Any]:
    """Makes the content of item_map.json.

    Args:
        items: [n] by `map_items`.
        embeddings: [n, D] embeddings of the candidate tower.
        train_items: the item of each label event of train.
        data: the data directory, for titles and tags.
        seed: equal seeds give equal maps.

    Returns:
        `method` ("t-SNE" or "PCA") and `items`, each as in examples.json, with `x` and `y` from 0 to 1 and
        `plays`, its label events in train.
    """
    method, places = project(embeddings, seed)
    names = ItemNames.read(data, items)
    plays = plays_of(items, train_items)
    return {
        "method": method,
        "items": [
            {**names.of(item), "x": round(float(x), 4), "y": round(float(y), 4), "plays": int(count)}
            for item, (x, y), count in zip(items.tolist(), places, plays, strict=True)
        ],
    }


def project(embeddings: npt.NDArray[np.floating], seed: int) -> tuple[str, npt.NDArray[np.float64]]:
    """Projects embeddings to places in the unit square [n, 2], by PCA for few items or equal ones.

    Args:
        embeddings: [n, D], finite.
        seed: seed of t-SNE.

    Returns:
        Name of the method, and the places.
    """
    centred = np.asarray(embeddings, np.float64) - np.mean(embeddings, axis=0, dtype=np.float64)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    components = np.zeros([len(centred), 2])
    components[:, : len(singular)] = (left * singular)[:, :2]
    if len(centred) < _FEWEST_FOR_TSNE or not len(singular) or singular[0] < 1e-9:
        return "PCA", _in_unit_square(components)
    from sklearn.manifold import TSNE  # a second's import

    tsne = TSNE(
        perplexity=_PERPLEXITY, max_iter=_ITERATIONS, init=components / components[:, 0].std() * 1e-4,
        learning_rate="auto", random_state=seed, n_jobs=1,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        places = tsne.fit_transform((left * singular)[:, :50].astype(np.float32))
    return "t-SNE", _in_unit_square(np.asarray(places, np.float64))


def _in_unit_square(places: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Moves and scales places alike in both directions."""
    low, span = places.min(axis=0), np.ptp(places, axis=0)
    widest = max(float(span.max()), 1e-12)
    return np.asarray((places - low) / widest + (1.0 - span / widest) / 2.0)
