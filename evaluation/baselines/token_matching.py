"""The baseline `token_matching`: BM25 over the words of titles, artists and tags, by an inverted index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from two_tower.evaluation.baselines.catalog import Catalog
from two_tower.evaluation.baselines.definition import (
    CATALOG,
    TOKEN_MATCHING,
    WORDS,
    Baseline,
    FittingData,
)
from two_tower.evaluation.baselines.ranking import FittedBaseline, RecentListens
from two_tower.evaluation.queries import Ints

# Words of a user's last listens make the query: older listens would cost more than they tell.
QUERY_LISTENS = 5
# A token of more items than this is left out: it costs a pass over all of them and separates little.
MOST_POSTINGS = 100_000


class Documents:
    """Bags of words: the number of times that each item has each token.

    Attributes:
        items: [I] ascending ids.
        counts: sparse float32 [I, V].
        idf: [V] float32, ln(1 + (I - df + 0.5) / (df + 0.5)), where df is the number of items with the token.
            That is Robertson and Spärck Jones' weight with 1 added, as in Lucene, so that none is negative.
        relative_length: [I] an item's number of tokens by the mean of all.
    """

    def __init__(self, catalog: Catalog, most_postings: int = MOST_POSTINGS) -> None:
        from scipy.sparse import csr_matrix

        self.items: Ints = catalog.items
        shape = (len(catalog.items), int(catalog.token.max(initial=-1)) + 1)
        ones = np.ones(len(catalog.token), np.float32)
        counts = csr_matrix((ones, (catalog.token_item, catalog.token)), shape=shape)
        counts.sum_duplicates()
        lengths = np.asarray(counts.sum(axis=1), np.float32).ravel()
        self.relative_length = lengths / max(float(lengths.mean()), 1e-9)
        frequency = np.bincount(counts.indices, minlength=shape[1]).astype(np.float32)
        self.idf = np.log1p((shape[0] - frequency + 0.5) / (frequency + 0.5)) * (frequency <= most_postings)
        self.counts = counts


class TokenMatching:
    """Okapi BM25 (Robertson and Zaragoza, 2009, "The Probabilistic Relevance Framework", equation 3.15).

    A token t of an item d scores idf(t) · tf · (k1 + 1) / (tf + k1 · (1 - b + b · |d| / mean |d|)), where tf
    is how often d has it. A query has the tokens of the user's last listens, each as often as listens have
    it, a listen weighing 0.5^(plays ago / half-life).

    A query costs as many steps as its tokens have postings. Items that nobody has played are candidates too.
    """

    is_sparse = True

    def __init__(self, documents: Documents, half_life_plays: float, k1: float, b: float) -> None:
        self.items = documents.items
        self.settings: dict[str, float | str] = {"half_life_plays": half_life_plays, "k1": k1, "b": b}
        self._half_life = half_life_plays
        self._documents = documents
        weights = documents.counts.copy()
        item = np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr))
        saturation = k1 * (1 - b + b * documents.relative_length[item])
        weights.data = documents.idf[weights.indices] * weights.data * (k1 + 1) / (weights.data + saturation)
        weights.eliminate_zeros()
        # [V, I]: the items of each token.
        self._index = weights.T.tocsr().astype(np.float32)

    def scores(self, listens: RecentListens) -> Any:
        """Scores items, see `Scorer.scores`."""
        profile = listens.last(QUERY_LISTENS).profile(self.items, self._half_life)
        return profile @ self._documents.counts @ self._index


def _fit(data: FittingData) -> Callable[..., FittedBaseline]:
    documents = Documents(data.known_catalog)
    return data.scored(
        lambda half_life_plays, k1, b: TokenMatching(documents, half_life_plays=half_life_plays, k1=k1, b=b)
    )


BASELINE = Baseline(
    name="token_matching",
    label="token matching, BM25",
    family=TOKEN_MATCHING,
    colour="token",
    place=40,
    meaning="items whose titles, artists and tags share words with the user's last listens (Okapi BM25)",
    needs=(CATALOG, WORDS),
    grid={"half_life_plays": (1.0, 0.2, 5.0), "k1": (1.2, 2.5), "b": (0.75, 0.3)},
    fit=_fit,
    scored_items=lambda data: len(data.known_catalog.items),
)
