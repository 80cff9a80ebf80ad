"""Recommenders by name: labels for readers, in the order in which the reports tell their story.

The story goes from popularity over the user's own history and the words of items (token matching) to tastes
that users share (factorisation), and to the model that joins all of it (two-tower).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

from two_tower.evaluation.baselines.definition import FACTORISATION, TOKEN_MATCHING
from two_tower.evaluation.baselines.registry import BASELINES, definition

MODEL, MODEL_EXACT = "model", "model_exact"
BLESSED_MODEL, ANCHOR_MODEL = "blessed_model", "anchor_model"
NOT_BASELINES = (MODEL, MODEL_EXACT, BLESSED_MODEL, ANCHOR_MODEL)
TWO_TOWER = "two-tower"
# The three steps of the story, and the knowledge of each.
STORY = {
    TOKEN_MATCHING: "words of titles, artists and tags that agree with what was played",
    FACTORISATION: "users and items as vectors, learnt from who played what",
    TWO_TOWER: "history in its order, context and content, joined in one model",
}


@dataclasses.dataclass(frozen=True)
class Recommender:
    """A model or baseline whose recommendations are measured.

    Attributes:
        name: name in evaluation.json.
        label: name for readers.
        family: step of the story, see `STORY`.
        colour: CSS variable of the HTML report.
    """

    name: str
    label: str
    family: str
    colour: str


# They come after all baselines.
_MODELS = (
    Recommender(ANCHOR_MODEL, "best released model", "blessed", "blessed"),
    Recommender(BLESSED_MODEL, "latest blessed model", "blessed", "blessed"),
    Recommender(MODEL_EXACT, "two-tower, exact search", TWO_TOWER, "model"),
    Recommender(MODEL, "two-tower", TWO_TOWER, "model"),
)


def recommender(name: str) -> Recommender:
    """Returns the recommender of a name in evaluation.json; an unknown one goes by its own name."""
    return _known().get(name) or Recommender(name, name.replace("_", " "), "other", "other")


def label(name: str) -> str:
    """Returns the name for readers."""
    return recommender(name).label


def in_order(names: Iterable[str]) -> list[str]:
    """Sorts names in the story's order; unknown ones come first."""
    order = {name: place for place, name in enumerate(_known())}
    return sorted(names, key=lambda name: (order.get(name, -1), name))


@functools.cache
def _known() -> dict[str, Recommender]:
    baselines = sorted((definition(name) for name in BASELINES), key=lambda one: one.place)
    shown = [Recommender(one.name, one.label, one.family, one.colour) for one in baselines]
    return {one.name: one for one in (*shown, *_MODELS)}
