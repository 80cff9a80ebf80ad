"""A map of the catalog: item embeddings in two dimensions, near where the towers hold them to be alike.

t-SNE (van der Maaten and Hinton, 2008) of a sample of items: neighbourhoods mean something, distances between
far ones and the size of a cluster do not.
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
# t-SNE of so many takes a few seconds.
MAP_ITEMS = 1_200
_ITERATIONS = 500
_PERPLEXITY = 30.0
# Below this t-SNE has no neighbourhoods to keep.
_FEWEST_FOR_TSNE = 100


def map_items(catalog: Ints, train_items: Ints, seed: int, limit: int = MAP_ITEMS) -> Ints:
    """Which items are drawn: half of them the most played, half at random of the others.

    Args:
        catalog: [N] item ids that can be recommended.
        train_items: [n] the item of each label event of train.
        seed: draws the random half.
        limit: how many, at most.

    Returns:
        Item ids, ascending, of `catalog`.
    """
    plays = plays_of(catalog, train_items)
    by_plays = catalog[np.lexsort((catalog, -plays))]
    popular, others = by_plays[: limit // 2], by_plays[limit // 2 :]
    drawn = np.random.default_rng(seed).permutation(len(others))[: limit - len(popular)]
    return np.sort(np.concatenate([popular, others[drawn]]))


def plays_of(items: Ints, train_items: Ints) -> Ints:
    """How many label events of train each item has: items [n], returns [n]."""
    known, counts = np.unique(train_items, return_counts=True)
    if not len(known):
        return np.zeros(len(items), np.int64)
    place = np.minimum(np.searchsorted(known, items), len(known) - 1)
    return np.where(known[place] == items, counts[place], 0)


def item_map(
    items: Ints, embeddings: npt.NDArray[np.floating], train_items: Ints, data: str, seed: int
) -> dict[str, Any]:
    """As in item_map.json.

    Args:
        items: [n] by `map_items`.
        embeddings: [n, D] of the candidate tower.
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
    """The method's name, and places in the unit square [n, 2]. Few items, or equal ones, lie as PCA has them.

    Args:
        embeddings: [n, D], finite.
        seed: of t-SNE.
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
    """Moved and scaled alike in both directions."""
    low, span = places.min(axis=0), np.ptp(places, axis=0)
    widest = max(float(span.max()), 1e-12)
    return np.asarray((places - low) / widest + (1.0 - span / widest) / 2.0)
