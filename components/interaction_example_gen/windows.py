"""Packed windows: a shard's events become record batches of windows, without a Python loop over rows.

A window holds up to `positions` consecutive query positions of one user, after up to `history_length - 1`
events of context. It ends with the label of its last query. In train it also holds the reactions to that
label, because they weigh it. Every listen is a query (the seed item then playing), and the user's next listen
is its label. An event is stored once however many queries see it, and each label is used by exactly one query
of one split.

In the frozen protocol and for hold-outs an eval or test window is one query: it ends with the last listen of
the user's state, and its labels are a set of items.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from two_tower.components.interaction_example_gen.histories import Events, Histories
from two_tower.components.interaction_example_gen.row_order import order, ranges, run_starts
from two_tower.components.interaction_example_gen.splits import (
    EVAL,
    NONE,
    TEST,
    TRAIN,
    EventSplit,
    LabelSets,
    Placement,
    asks_for_sets,
)
from two_tower.components.interaction_example_gen.window_columns import UserColumns, WindowPlaces, batches
from two_tower.schema import features

Array = np.ndarray

_NUMBERS = {"train": TRAIN, "eval": EVAL, "test": TEST}


@dataclasses.dataclass(frozen=True)
class WindowCutter:
    """Cutter of a shard's events into the windows of every split.

    Attributes:
        split: the protocol.
        repeats_recommendable: an item of the user's history can be a label.
        history_length: the most events that a query sees.
        positions: the most query positions of a window.
        has_timestamps: False for data with an order instead; all times in windows are then 0.
    """

    split: EventSplit
    repeats_recommendable: bool
    history_length: int
    positions: int
    has_timestamps: bool = True

    def cut(
        self, events: Events, user_columns: UserColumns | None = None
    ) -> tuple[dict[str, pa.RecordBatch], Counter[str]]:
        """Returns one record batch of windows per split, and counts; see `slices`."""
        counts: Counter[str] = Counter()
        found: dict[str, list[pa.RecordBatch]] = {name: [] for name in features.SPLITS}
        for name, batch in self.slices(events, counts, user_columns):
            found[name].append(batch)
        tables = {name: pa.Table.from_batches(batches).combine_chunks() for name, batches in found.items()}
        return {name: (table.to_batches() or found[name])[0] for name, table in tables.items()}, counts

    def slices(
        self, events: Events, counts: Counter[str], user_columns: UserColumns | None = None
    ) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Yields (split, record batch of windows), at least one batch per split, which may be empty.

        Args:
          events: the events of whole users.
          counts: receives the counts. Per split: `<split>_labels`, `<split>_queries`, `<split>_users` with a
            query, and `<split>_users_unknown_to_train`, users without a label event in train, whom only
            protocols with sets of labels leave out. In all: `duplicate_events`, and label events that become
            no label: `listens_without_seed` (no earlier listen), `repeated_labels` (an item of the user's
            history) and `gap_labels` (no split).
          user_columns: returns the features of users that each window carries.
        """
        histories = Histories.of(events)
        counts["duplicate_events"] += len(events) - len(histories)
        placed = self.split.place(histories)
        known = np.zeros(histories.users, bool)
        known[histories.user[histories.is_listen & (placed.label_split == TRAIN)]] = True

        for seen, at, names in self._views(histories, placed):
            label, query = self._label_events(seen, at, names, counts)
            for name in names:
                chosen = at.label_split[label] == _NUMBERS[name]
                asked = self._next_event_windows(seen, at, query[chosen], label[chosen], name)
                asking = seen.user[label[chosen]]
                counts[f"{name}_users"] += _distinct(asking, np.ones_like(known))
                counts[f"{name}_users_unknown_to_train"] += _distinct(asking, ~known)
                counts[f"{name}_labels"] += len(asked.query)
                counts[f"{name}_queries"] += len(asked.query)
                for batch in batches(seen, asked, user_columns, self.has_timestamps):
                    yield name, batch
        if asks_for_sets(self.split):
            for name in features.SPLITS:
                if name not in self.split.next_event_splits:
                    asked = self._set_windows(histories, placed, self.split, name, known, counts)
                    for batch in batches(histories, asked, user_columns, self.has_timestamps):
                        yield name, batch

    def _views(
        self, histories: Histories, placed: Placement
    ) -> Iterator[tuple[Histories, Placement, Sequence[str]]]:
        """Yields the events as splits see them, and the names of the splits that share the view.

        One view serves all splits if no event precedes one that an earlier split sees: then all that a query
        must not see comes after it.
        """
        names = self.split.next_event_splits
        visible = placed.visible_from
        goes_back = visible[1:] < visible[:-1]
        if not (goes_back & (histories.user[1:] == histories.user[:-1])).any():
            yield histories, placed, names
            return
        for name in names:
            chosen = visible <= _NUMBERS[name]
            yield histories.where(chosen), Placement(placed.label_split[chosen], visible[chosen]), (name,)

    def _label_events(
        self, seen: Histories, placed: Placement, names: Sequence[str], counts: Counter[str]
    ) -> tuple[Array, Array]:
        """Returns the places of label events with a query, and of their queries: the listens before them."""
        listens = np.flatnonzero(seen.is_listen)
        owner = seen.user[listens]
        # A listen's query is the user's listen before it, the seed item then playing. The query does not see
        # reactions between the two, which may be reactions to the seed item itself.
        has_seed = np.append(False, owner[1:] == owner[:-1])[: len(owner)]
        label, query = listens, np.append(-1, listens)[:-1]
        # Label events of other splits are labels in another view, or in a set.
        counted = np.isin(placed.label_split[label], [NONE, *(_NUMBERS[name] for name in names)])
        counts["listens_without_seed"] += int((counted & ~has_seed).sum())
        eligible = counted & has_seed
        if not self.repeats_recommendable:
            # Answers to the query exclude items of the user's listens and reactions.
            fresh = seen.first_of_item[label] > query
            counts["repeated_labels"] += int((eligible & ~fresh).sum())
            eligible &= fresh
        in_gap = placed.label_split[label] == NONE
        counts["gap_labels"] += int((eligible & in_gap).sum())
        eligible &= ~in_gap
        return label[eligible], query[eligible]

    def _next_event_windows(
        self, seen: Histories, placed: Placement, query: Array, label: Array, name: str
    ) -> WindowPlaces:
        owner = seen.starts[seen.user[query]]
        is_first = np.append(True, owner[1:] != owner[:-1])[: len(query)]
        first_query = np.repeat(query[is_first], np.diff(np.append(np.flatnonzero(is_first), len(query))))
        chunk = (query - first_query) // self.positions
        opens = is_first
        opens[1:] |= chunk[1:] != chunk[:-1]
        opening = np.flatnonzero(opens)
        closing = np.append(opening, len(query))[1:] - 1
        start = np.maximum(owner[opening], query[opening] - self.history_length + 1)
        had = None
        if name != "train" and not self.repeats_recommendable:
            had = np.searchsorted(seen.firsts, np.stack([owner[opening], start], axis=1))[:, np.newaxis]
        last = label[closing]
        stop = _after_reactions(seen, last, placed.visible_from) if name == "train" else last + 1
        return WindowPlaces(start, stop, opening, query, label, had)

    def _set_windows(
        self,
        histories: Histories,
        placed: Placement,
        split: LabelSets,
        name: str,
        known: Array,
        counts: Counter[str],
    ) -> WindowPlaces:
        """Returns one window per user with labels whom train knows: the user's state and the label set."""
        label = np.flatnonzero((placed.label_split == _NUMBERS[name]) & split.makes_label(histories))
        counts[f"{name}_users_unknown_to_train"] += _distinct(histories.user[label], ~known)
        label = label[known[histories.user[label]]]
        # Each item once per user.
        label = label[order(histories.user[label], histories.item_id[label])]
        label = label[run_starts(histories.user[label], histories.item_id[label])]
        # Each user's state is their first events.
        in_state = split.state(histories, placed, name)
        frozen_end = histories.starts[:-1] + np.diff(np.cumsum(np.append(0, in_state))[histories.starts])
        if not self.repeats_recommendable:
            fresh = histories.first_of_item[label] >= frozen_end[histories.user[label]]
            counts["repeated_labels"] += int((~fresh).sum())
            label = label[fresh]
        # Known users have a listen in train, and so in any state.
        listens = np.flatnonzero(histories.is_listen & in_state)
        query_of_user = np.full(histories.users, -1)
        query_of_user[histories.user[listens]] = listens

        opens = run_starts(histories.user[label])
        user = histories.user[label[opens]]
        query = query_of_user[user]
        start = np.maximum(histories.starts[user], query - self.history_length + 1)
        counts[f"{name}_labels"] += len(label)
        counts[f"{name}_queries"] += len(query)
        counts[f"{name}_users"] += len(query)
        had = None
        if not self.repeats_recommendable:
            # The state holds more than the window: earlier events, and reactions to the seed item.
            bounds = np.stack([histories.starts[user], start, query + 1, frozen_end[user]], axis=1)
            had = np.searchsorted(histories.firsts, bounds).reshape(-1, 2, 2)
        return WindowPlaces(
            start,
            query + 1,
            np.arange(len(user)),
            query,
            None,
            had,
            split.request_time(name),
            label,
            np.append(opens, len(label)),
        )


def _after_reactions(seen: Histories, listen: Array, visible_from: Array) -> Array:
    """Returns where train's reactions to each listen end: those to its item, before the next listen."""
    listens = np.append(np.flatnonzero(seen.is_listen), len(seen))
    following = listens[np.searchsorted(listens, listen, side="right")]
    end = np.minimum(following, seen.starts[1:][seen.user[listen]])
    places = ranges(listen + 1, end)
    listen_of_place = np.repeat(np.arange(len(listen)), end - listen - 1)
    is_reaction = (seen.item_id[places] == seen.item_id[listen][listen_of_place]) & (
        visible_from[places] == TRAIN
    )
    stop = listen + 1
    np.maximum.at(stop, listen_of_place[is_reaction], places[is_reaction] + 1)
    return stop


def _distinct(users: Array, among: Array) -> int:
    """Counts the distinct users with `among` (bool [all users]) true."""
    present = np.zeros(len(among), bool)
    present[users] = True
    return int((present & among).sum())
