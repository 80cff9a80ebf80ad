"""Slices: parts of the labels, such as cold items, tail items, or labels of new users.

A slice is a mask over labels. A slice of queries (by user, by length of history) holds all labels of those
queries. If a query asks for a set, a slice asks for its labels in the slice alone; their ranks among all
recommendations stay as they are.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from two_tower.evaluation.feature_values import FeatureValues
from two_tower.evaluation.metric_table import slice_metrics, values_by_query
from two_tower.evaluation.metrics import Bools, Floats, Ints, mean
from two_tower.evaluation.queries import LabelSets, Queries, Windows
from two_tower.evaluation.train_counts import TrainCounts
from two_tower.schema import features

# Slices of labels that their user had played before, and had not.
REPEAT, DISCOVERY = "repeat", "discovery"
# Family of the slices by length of history, and requests without a history, which no label has.
HISTORY_LENGTH, NO_HISTORY = "history_length", "history_0"
LISTEN = features.LISTEN.encode()
# The head is the most played items that together have the first share of train's label events. The tail is
# the items after the second share.
HEAD_SHARE, TAIL_SHARE = 0.5, 0.8
# An item trends if its share of label events in the last part of train, twice as long as the test period, is
# this many times its share before, with at least so many events there. Among items of unchanged popularity,
# with a third of that expected, 3 in 1,000 have as many by chance.
TREND_GROWTH, TREND_EVENTS, TREND_TEST_PERIODS = 3.0, 10, 2
# Groups of equally many items by popularity, and of equally many users by activity.
POPULARITY_GROUPS, ACTIVITY_GROUPS = 10, 4
# Longest history of each slice by length of history; one more slice holds longer ones.
HISTORY_LENGTHS = (1, 5, 20, 50, 200)
# A label was heard if it was played to this share of its length, or further.
HEARD_PLAY_RATIO = 0.5


@dataclasses.dataclass(frozen=True)
class Slice:
    """A part of the labels: a mask `labels` [labels]. Slices of one family divide labels by one property."""

    name: str
    labels: Bools
    family: str = ""

    @classmethod
    def of_queries(cls, name: str, queries: npt.ArrayLike, labels: LabelSets, family: str = "") -> Slice:
        """Takes all labels of the queries in a mask [Q]."""
        return cls(name, np.asarray(queries, bool)[labels.query], family)

    def size(self, labels: LabelSets) -> dict[str, int]:
        """Counts the slice's labels, their queries and their items."""
        return {
            "labels": int(self.labels.sum()),
            "queries": len(np.unique(labels.query[self.labels])),
            "items": len(np.unique(labels.item_id[self.labels])),
        }

    def metrics(self, ranks: Floats, labels: LabelSets, cutoffs: Sequence[int]) -> dict[str, float]:
        """Computes the metrics that slices show, by name: means over queries with a label in the slice.

        Args:
            ranks: [labels] by `metrics.label_ranks`.
            labels: labels of all queries.
            cutoffs: each k.

        Returns:
            NaN where the slice is empty.
        """
        values = values_by_query(ranks, labels, cutoffs, self.labels)
        shown = {name: values[name] for name in slice_metrics(cutoffs)}
        return {name: mean(of_query[np.isfinite(of_query)]) for name, of_query in shown.items()}


def item_slices(labels: LabelSets, train: TrainCounts, recent_from: int | None = None) -> list[Slice]:
    """Slices labels by train's counts of their items. No test label decides the slices.

    - `head`, `middle`, `tail`, `cold`: one of them each. Head are the most popular items, by train's label
      events, that together make up HEAD_SHARE of these; tail are those outside of the most popular that make
      up TAIL_SHARE; cold are items that no train window holds.
    - `trending`: items whose share of train's label events from `recent_from` on is at least TREND_GROWTH
      times their share before, with at least TREND_EVENTS events there. Absent without `recent_from`, or
      if no event is older.

    Args:
        labels: labels of any queries.
        train: train's counts.
        recent_from: seconds, see `trends_from`.
    """
    items, counts, events = train.played_items, train.plays, train.events
    index = np.searchsorted(items, events.item_id)
    by_popularity = np.lexsort((items, -counts))
    more_popular = np.empty(len(items))
    more_popular[by_popularity] = np.cumsum(counts[by_popularity]) - counts[by_popularity]
    more_popular /= len(index)
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


def quantile_groups(counts: npt.NDArray[np.integer], groups: int) -> Ints:
    """Divides values into equally large groups, from 1 for the lowest; equal values are in one group.

    A value's group is that of the middle of its equals in the order of all.
    """
    ordered = np.sort(counts)
    below = np.searchsorted(ordered, counts)
    middle = (below + np.searchsorted(ordered, counts, side="right") - 1) / 2
    return np.asarray(middle * groups // len(counts) + 1, np.int64)


def popularity_slices(labels: LabelSets, train: TrainCounts) -> list[Slice]:
    """Slices items with label events in train by their number: `popularity_1` to `popularity_10`.

    The ten groups have equally many items, the first the least popular. Some may be empty, see
    `quantile_groups`.
    """
    decile = quantile_groups(train.plays, POPULARITY_GROUPS)
    return [
        Slice(
            f"popularity_{group}",
            np.isin(labels.item_id, train.played_items[decile == group]),
            "popularity",
        )
        for group in range(1, POPULARITY_GROUPS + 1)
    ]


def user_slices(queries: Queries, train: TrainCounts) -> list[Slice]:
    """Slices queries by train's counts of their users.

    - `activity_1` to `activity_4`: train's users in four groups by their number of label events, as many
      users each, the first the least active; equally active users are in one group.
    - `new_users`: users whom train does not know.
    """
    users, counts = np.unique(train.events.user_id, return_counts=True)
    group = quantile_groups(counts, ACTIVITY_GROUPS)
    return [
        *(
            Slice.of_queries(
                f"activity_{number}",
                np.isin(queries.user_id, users[group == number]),
                queries.labels,
                "activity",
            )
            for number in range(1, ACTIVITY_GROUPS + 1)
        ),
        Slice.of_queries("new_users", ~train.knows_users(queries.user_id), queries.labels, "new_users"),
    ]


def history_lengths(queries: Queries, history_length: int) -> Ints:
    """Counts the events that each query sees: [Q]."""
    return np.asarray(np.minimum(queries.position + 1, history_length))


def history_slices(queries: Queries, history_length: int) -> list[Slice]:
    """Slices queries by the number of events they see: `history_1`, `history_2_5`, and so on."""
    length = history_lengths(queries, history_length)
    bounds = [(low + 1, high) for low, high in itertools.pairwise((0, *HISTORY_LENGTHS))]
    slices = [
        Slice.of_queries(
            f"history_{low}" if low == high else f"history_{low}_{high}",
            (length >= low) & (length <= high),
            queries.labels,
            HISTORY_LENGTH,
        )
        for low, high in bounds
        if low <= history_length
    ]
    longest = HISTORY_LENGTHS[-1]
    if history_length > longest:
        name = f"history_over_{longest}"
        slices.append(Slice.of_queries(name, length > longest, queries.labels, HISTORY_LENGTH))
    return slices


def repeat_slices(queries: Queries, windows: Windows, train: TrainCounts, evaluation: Windows) -> list[Slice]:
    """Slices labels into `repeat` and `discovery`.

    A repeat is a label that its user had played before: in train, in eval, or up to the query.

    Args:
        queries: queries of the test split.
        windows: its windows.
        train: train's counts.
        evaluation: windows of eval, which comes before test.
    """
    labels = queries.labels
    users, items = np.unique(queries.user_id), np.unique(labels.item_id)
    number = _numbered(items, labels.item_id)
    query = labels.query
    wanted = _numbered(users, queries.user_id)[query] * len(items) + number

    def pairs(user_id: Ints, item_id: Ints) -> Ints:
        """Numbers plays by user and item, of users and items that occur among the labels."""
        known = np.isin(item_id, items) & np.isin(user_id, users)
        return _numbered(users, user_id[known]) * len(items) + _numbered(items, item_id[known])

    listens = evaluation.event_type == LISTEN
    had = np.concatenate(
        [
            pairs(train.events.user_id, train.events.item_id),
            pairs(evaluation.user_id[evaluation.window_of_event[listens]], evaluation.item_id[listens]),
            pairs(np.repeat(evaluation.user_id, np.diff(evaluation.label_offsets)), evaluation.label_item_id),
        ]
    )
    is_repeat = np.isin(wanted, had)

    # In the query's own window, up to its event: where each item is played there first.
    played = np.flatnonzero((windows.event_type == LISTEN) & np.isin(windows.item_id, items))
    place = windows.window_of_event[played] * len(items) + _numbered(items, windows.item_id[played])
    is_repeat |= _first(place, played, queries.window[query] * len(items) + number) <= queries.event[query]
    # In an earlier window of a long history, where there are times: before the query was asked.
    if windows.timestamp.any():
        by_time = played[np.argsort(windows.timestamp[played])]
        owner = windows.user_id[windows.window_of_event[by_time]]
        known = np.isin(owner, users)
        place = _numbered(users, owner[known]) * len(items) + _numbered(
            items, windows.item_id[by_time[known]]
        )
        first = _first(place, windows.timestamp[by_time[known]], wanted)
        is_repeat |= first < queries.request_timestamp[query]
    return [Slice(REPEAT, is_repeat, "repeat"), Slice(DISCOVERY, ~is_repeat, "repeat")]


def _numbered(known: Ints, values: Ints) -> Ints:
    """Places values among `known`, ascending, which holds all of them."""
    return np.asarray(np.searchsorted(known, values), np.int64)


def _first(keys: Ints, values: Ints, wanted: Ints) -> Ints:
    """Finds the first value of each wanted key, the greatest integer where there is none."""
    known, first = np.unique(keys, return_index=True)
    found = np.full(len(wanted), np.iinfo(np.int64).max)
    if len(known):
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        exists = known[place] == wanted
        found[exists] = values[first[place[exists]]]
    return found


def trends_from(train_end: int, test_from: int, test_to: int) -> int | None:
    """Returns the time from which on a train event is recent, in seconds; None without a split in time."""
    return train_end - TREND_TEST_PERIODS * (test_to - test_from) if train_end else None


def organic_slices(queries: Queries, windows: Windows) -> list[Slice]:
    """Slices labels by whether their user came upon the item without or by a recommender, where it is known.

    The slices are `organic` and `recommended`. Labels that are sets have none.
    """
    if (queries.label_event < 0).any():
        return []
    is_organic = windows.is_organic[queries.label_event]
    if (is_organic < 0).all():
        return []
    return [Slice("organic", is_organic == 1, "organic"), Slice("recommended", is_organic == 0, "organic")]


def feature_slices(values: FeatureValues, labels: int, most: int) -> list[Slice]:
    """Slices labels by the `most` frequent values of a configured column: `<column>=<value>`.

    Args:
        values: values of the column.
        labels: number of all labels.
        most: largest number of slices.
    """
    known, number, counts = np.unique(values.value, return_inverse=True, return_counts=True)
    slices = []
    for one in np.sort(np.argsort(-counts, kind="stable")[:most]):
        mask = np.zeros(labels, bool)
        mask[values.label[number == one]] = True
        slices.append(Slice(f"{values.name}={known[one]}", mask, f"feature:{values.name}"))
    return slices


def play_ratio_slices(queries: Queries, windows: Windows) -> list[Slice]:
    """Slices labels that were played to at least HEARD_PLAY_RATIO of their length: `heard`.

    Absent where no play ratio is known, or the labels are sets, whose items may have been played several
    times.
    """
    if (queries.label_event < 0).any():
        return []
    play_ratio = windows.play_ratio[queries.label_event]
    if (play_ratio < 0).all():
        return []
    return [Slice("heard", play_ratio >= HEARD_PLAY_RATIO, "play_ratio")]


def meaning(name: str) -> str | None:
    """Describes a slice's labels; None for slices that `glossary` describes."""
    kind, _, rest = name.partition("_")
    if name in (REPEAT, DISCOVERY):
        return f"labels that their user had {'' if name == REPEAT else 'not '}played before"
    if name in ("organic", "recommended"):
        return f"labels that their user came upon {'without' if name == 'organic' else 'by'} a recommender"
    if name == "new_users":
        return "queries of users whom train does not know"
    if kind == "popularity" and rest.isdigit():
        return (
            f"items in part {rest} of {POPULARITY_GROUPS} by popularity in train, the first the least popular"
        )
    if kind == "activity" and rest.isdigit():
        return f"users in part {rest} of {ACTIVITY_GROUPS} by activity in train, the first the least active"
    if kind == "history":
        events = "one event" if rest == "1" else f"{rest.replace('_', ' to ')} events"
        return f"queries that see {events.replace('over to', 'more than')}"
    column, equals, value = name.partition("=")
    return f"labels whose {column.replace('_', ' ', 1)} is {value}" if equals else None


def all_slices(
    queries: Queries,
    windows: Windows,
    train: TrainCounts,
    evaluation: Windows,
    *,
    history_length: int,
    recent_from: int | None,
    columns: Sequence[FeatureValues] = (),
    most_values: int = 10,
) -> list[Slice]:
    """Makes every slice that applies.

    Args:
        queries: measured queries of the test split.
        windows: its windows.
        train: train's counts.
        evaluation: windows of eval.
        history_length: events that a query sees.
        recent_from: see `trends_from`.
        columns: values of configured columns, by label.
        most_values: number of values of each column that are slices.
    """
    labels = queries.labels
    return [
        *item_slices(labels, train, recent_from),
        *popularity_slices(labels, train),
        *user_slices(queries, train),
        *history_slices(queries, history_length),
        *repeat_slices(queries, windows, train, evaluation),
        *organic_slices(queries, windows),
        *play_ratio_slices(queries, windows),
        *(one for values in columns for one in feature_slices(values, len(labels.item_id), most_values)),
    ]
