"""Metrics on a part of the labels: are cold items found, those of the tail, those that trend?

A slice is a mask over labels. What chooses queries (by user, by length of history) chooses all labels of
those queries. Of a query that asks for a set, a slice asks for those of its labels that lie in the slice;
where they stand among all recommendations stays as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from components.retrieval_evaluator.metrics import Bools, Floats, mean, values_by_query
from components.retrieval_evaluator.queries import LabelSets, Queries, Windows
from components.retrieval_evaluator.train_knowledge import TrainKnowledge

# The most played items, which together have this share of train's label events, are the head; what comes
# after the second share is the tail.
HEAD_SHARE, TAIL_SHARE = 0.5, 0.8
# An item trends if its share of label events in the last part of train, twice as long as the test period,
# is this many times its share before, and it has so many there: of items that are as popular as ever, with a
# third of that expected, 3 in 1,000 have as many by chance.
TREND_GROWTH, TREND_EVENTS, TREND_TEST_PERIODS = 3.0, 10, 2
# A label was heard if it was played to this part of its length, or further.
HEARD_PLAY_RATIO = 0.5


@dataclasses.dataclass(frozen=True)
class Slice:
    """Some of the labels: `labels` bool [labels]. Slices of one family divide the labels by one property."""

    name: str
    labels: Bools
    family: str = ""

    @classmethod
    def of_queries(cls, name: str, queries: npt.ArrayLike, labels: LabelSets, family: str = "") -> Slice:
        """All labels of the queries in a mask [Q]."""
        return cls(name, np.asarray(queries, bool)[labels.query], family)

    def size(self, labels: LabelSets) -> dict[str, int]:
        """How many labels it has, of how many queries, and how many items they are."""
        return {
            "labels": int(self.labels.sum()),
            "queries": len(np.unique(labels.query[self.labels])),
            "items": len(np.unique(labels.item_id[self.labels])),
        }

    def metrics(self, ranks: Floats, labels: LabelSets, cutoffs: Sequence[int]) -> dict[str, float]:
        """`recall@k` and `ndcg@k` by name: means over the queries that have a label in the slice.

        Args:
            ranks: [labels] by `metrics.label_ranks`.
            labels: of all queries.
            cutoffs: each k.

        Returns:
            NaN where the slice is empty.
        """
        values = values_by_query(ranks, labels, cutoffs, self.labels)
        return {
            name: mean(of_query[np.isfinite(of_query)])
            for name, of_query in values.items()
            if name.startswith(("recall@", "ndcg@"))
        }


def item_slices(labels: LabelSets, train: TrainKnowledge, recent_from: int | None = None) -> list[Slice]:
    """Slices by what train knows of a label's item. No test label decides what is in which.

    - `head`, `middle`, `tail`, `cold`: one of them each. Head are the most popular items, by train's label
      events, that together make up HEAD_SHARE of these; tail are those outside of the most popular that make
      up TAIL_SHARE; cold are items that no train window holds.
    - `trending`: items whose share of train's label events from `recent_from` on is at least TREND_GROWTH
      times their share before, with at least TREND_EVENTS events there. Absent without `recent_from`, or
      if no event is older.

    Args:
        labels: of any queries.
        train: what train knows.
        recent_from: seconds, see `trends_from`.
    """
    items, counts, events = train.played_items, train.plays, train.events
    index = np.searchsorted(items, events.item_id)
    by_popularity = np.lexsort((items, -counts))
    more_popular = np.empty(len(items))
    more_popular[by_popularity] = np.cumsum(counts[by_popularity]) - counts[by_popularity]
    more_popular /= max(len(index), 1)
    is_cold = ~train.knows_items(labels.item_id)

    def chosen(of_items: Bools) -> Bools:
        return np.isin(labels.item_id, items[of_items])

    head, middle = chosen(more_popular < HEAD_SHARE), chosen(more_popular < TAIL_SHARE)
    slices = [
        Slice("head", head, "popularity"),
        Slice("middle", middle & ~head, "popularity"),
        Slice("tail", ~middle & ~is_cold, "popularity"),
        Slice("cold", is_cold, "cold"),
    ]
    is_recent = events.timestamp >= (np.inf if recent_from is None else recent_from)
    if is_recent.any() and not is_recent.all():
        recent = np.bincount(index[is_recent], minlength=len(items))
        grown = recent / is_recent.sum() >= TREND_GROWTH * (counts - recent) / (~is_recent).sum()
        slices.append(Slice("trending", chosen(grown & (recent >= TREND_EVENTS)), "trend"))
    return slices


def trends_from(train_end: int, test_from: int, test_to: int) -> int | None:
    """From when on a train event is recent, seconds; None where the split is none in time (all are 0)."""
    return train_end - TREND_TEST_PERIODS * (test_to - test_from) if train_end else None


def play_ratio_slices(queries: Queries, windows: Windows) -> list[Slice]:
    """`heard`: labels that were played to at least HEARD_PLAY_RATIO of their length.

    Absent where no play ratio is known, or the labels are sets, whose items may have been played several
    times.
    """
    if not len(queries) or (queries.label_event < 0).any():
        return []
    play_ratio = windows.play_ratio[queries.label_event]
    if (play_ratio < 0).all():
        return []
    return [Slice("heard", play_ratio >= HEARD_PLAY_RATIO, "play_ratio")]


def all_slices(
    queries: Queries, windows: Windows, train: TrainKnowledge, recent_from: int | None
) -> list[Slice]:
    """Every slice that applies: `item_slices` and `play_ratio_slices`, whose arguments these are."""
    return [
        *item_slices(queries.labels, train, recent_from),
        *play_ratio_slices(queries, windows),
    ]
