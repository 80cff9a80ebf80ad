"""Who recommends: names for readers, in the order in which the reports tell their story.

From what everybody plays (popularity), over what one user did (history) and what items say of themselves
(token matching), to what users have in common (factorisation), and to what joins all of it (two-tower).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

MODEL, MODEL_EXACT, BLESSED_MODEL = "model", "model_exact", "blessed_model"
TOKEN_MATCHING, FACTORISATION, TWO_TOWER = "token matching", "factorisation", "two-tower"
# The three steps of the story, and what each can know.
STORY = {
    TOKEN_MATCHING: "words of titles, artists and tags that agree with what was played",
    FACTORISATION: "users and items as vectors, learnt from who played what",
    TWO_TOWER: "history in its order, context and content, joined in one model",
}


@dataclasses.dataclass(frozen=True)
class Recommender:
    """One of those whose recommendations are measured; `colour` is a CSS variable of the HTML report."""

    name: str
    label: str
    family: str
    colour: str


_KNOWN = (
    Recommender("most_popular", "most popular", "popularity", "popularity"),
    Recommender("decayed_popularity", "decayed popularity", "popularity", "popularity-2"),
    Recommender("personal_history", "personal history", "history", "history"),
    Recommender("token_matching", "token matching, BM25", TOKEN_MATCHING, "token"),
    Recommender("content_neighbours", "content neighbours", "content", "content"),
    Recommender("co_occurrence", "item-to-item co-occurrence", "co-occurrence", "pairs"),
    Recommender("bpr", "matrix factorisation, BPR", FACTORISATION, "factors-2"),
    Recommender("ials", "matrix factorisation, iALS", FACTORISATION, "factors"),
    Recommender(BLESSED_MODEL, "latest blessed model", "blessed", "blessed"),
    Recommender(MODEL_EXACT, "two-tower, exact search", TWO_TOWER, "model"),
    Recommender(MODEL, "two-tower", TWO_TOWER, "model"),
)
_BY_NAME = {one.name: one for one in _KNOWN}
_ORDER = {one.name: place for place, one in enumerate(_KNOWN)}


def recommender(name: str) -> Recommender:
    """Of a name in evaluation.json; one that is not known goes by its own name."""
    return _BY_NAME.get(name) or Recommender(name, name.replace("_", " "), "other", "other")


def label(name: str) -> str:
    """What readers are told."""
    return recommender(name).label


def in_order(names: Iterable[str]) -> list[str]:
    """The story's order; those that are not known come first."""
    return sorted(names, key=lambda name: (_ORDER.get(name, -1), name))
