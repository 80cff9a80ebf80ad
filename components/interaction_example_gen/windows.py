"""Packed windows: from a shard's events to record batches of windows per split, without a Python loop a row.

A window is up to `positions` consecutive query positions of one user, after up to `history_length - 1`
events of context, and ends with the label of its last query; in train, whose labels weigh by what the user
made of them, with the reactions to that label. Every listen is a query (it is the seed
track then playing) and the user's next listen is its label. An event is stored once however many
queries see it, and each label is used by exactly one query of one split.

In the frozen protocol an eval or test window is one query: it ends with the user's last listen before the
state froze, and its labels are a list of items.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from two_tower.components.interaction_example_gen.splits import (
    EVAL,
    NONE,
    TEST,
    TRAIN,
    EventSplit,
    FrozenSplit,
    Placement,
)
from two_tower.schema import features

Array = np.ndarray
# Columns of user features, by name, for users [windows].
UserColumns = Callable[[Array], dict[str, pa.ListArray]]

_NUMBERS = {"train": TRAIN, "eval": EVAL, "test": TEST}
# Events, and items had before, of the windows that are built, and so encoded, at once.
_SLICE_EVENTS = 200_000


@dataclasses.dataclass(frozen=True)
class Events:
    """Columns of one shard's events, of one length; where nothing else tells two apart, in their order.

    Integers are of any width.

    Attributes:
        user_id, item_id: ids, 0 or more.
        timestamp: seconds; the rank within the user where the data has an order instead of times.
        event_type: index into `event_types`, 0 for the label event.
        play_ratio: float32, -1 where unknown.
        is_organic: 1, 0, or -1 where unknown.
        event_types: names as windows hold them, "listen" the first.
        split: the column `split` as a split's number (see splits.py), where the protocol reads it.
    """

    user_id: Array
    item_id: Array
    timestamp: Array
    event_type: Array
    play_ratio: Array
    is_organic: Array
    event_types: tuple[str, ...] = (features.LISTEN,)
    split: Array | None = None

    def __len__(self) -> int:
        return len(self.user_id)


@dataclasses.dataclass(frozen=True)
class Histories:
    """Events by user and time, none of them twice, in the columns of `Events` and these.

    At equal times a listen comes before reactions to it, then by `split` if there is one, then file order.

    Attributes:
        user: int64 [n], users numbered from 0 without a gap.
        starts: int64 [users + 1], where each user's events begin.
        is_listen: bool [n].
    """

    user_id: Array
    item_id: Array
    timestamp: Array
    event_type: Array
    play_ratio: Array
    is_organic: Array
    event_types: tuple[str, ...]
    split: Array | None
    user: Array
    starts: Array
    is_listen: Array

    @classmethod
    def of(cls, events: Events) -> Histories:
        """Sorts the events and drops all but the first of those that agree in user, item, time and type.

        The first by its split, where that is a column: what train holds is no label of test.
        """
        user = _numbered(events.user_id)
        by_split = () if events.split is None else (events.split,)
        order = _order(user, events.timestamp, events.event_type != 0, *by_split)
        columns = {name: getattr(events, name)[order] for name in _EVENT_COLUMNS}
        split, user = None if events.split is None else events.split[order], user[order]
        is_listen = columns["event_type"] == 0
        sorted_events = cls(
            **columns,
            event_types=events.event_types,
            split=split,
            user=user,
            starts=np.searchsorted(user, np.arange(user[-1] + 2)) if len(user) else np.zeros(1, np.int64),
            is_listen=is_listen,
        )
        keys = (user, columns["timestamp"], is_listen)
        twice = _repetitions(keys, columns["item_id"], columns["event_type"])
        if not len(twice):
            return sorted_events
        once = np.ones(len(user), bool)
        once[twice] = False
        return sorted_events.where(once)

    def __len__(self) -> int:
        return len(self.user_id)

    @property
    def users(self) -> int:
        """How many there are."""
        return len(self.starts) - 1

    def where(self, chosen: Array) -> Histories:
        """The chosen events alone (bool [n]); users keep their numbers."""
        return Histories(
            **{name: getattr(self, name)[chosen] for name in _EVENT_COLUMNS},
            event_types=self.event_types,
            split=None if self.split is None else self.split[chosen],
            user=self.user[chosen],
            starts=np.append(0, np.cumsum(chosen))[self.starts],
            is_listen=self.is_listen[chosen],
        )

    @functools.cached_property
    def first_of_item(self) -> Array:
        """For each event the place of its user's first event of the same item, [n]."""
        order = _order(self.user, self.item_id)
        user, item = self.user[order], self.item_id[order]
        begins = _run_starts(user, item)
        first = np.empty(len(self), np.int64)
        first[order] = np.repeat(order[begins], np.diff(np.append(begins, len(self))))
        return first

    @functools.cached_property
    def firsts(self) -> Array:
        """Places of events whose item their user had not had before, rising."""
        return np.flatnonzero(self.first_of_item == np.arange(len(self)))


_EVENT_COLUMNS = ("user_id", "item_id", "timestamp", "event_type", "play_ratio", "is_organic")


@dataclasses.dataclass(frozen=True)
class WindowCutter:
    """Cuts the windows of every split from a shard.

    Attributes:
        split: the protocol.
        repeats_recommendable: whether an item that the user has had can be a label.
        history_length: N: a query sees its last N events.
        positions: query positions a window.
        has_timestamps: where the data has an order instead, all times in windows are 0.
    """

    split: EventSplit
    repeats_recommendable: bool
    history_length: int
    positions: int
    has_timestamps: bool = True

    def cut(
        self, events: Events, user_columns: UserColumns | None = None
    ) -> tuple[dict[str, pa.RecordBatch], Counter[str]]:
        """One record batch of windows a split, and counts; see `slices`."""
        counts: Counter[str] = Counter()
        found: dict[str, list[pa.RecordBatch]] = {name: [] for name in features.SPLITS}
        for name, batch in self.slices(events, counts, user_columns):
            found[name].append(batch)
        tables = {name: pa.Table.from_batches(batches).combine_chunks() for name, batches in found.items()}
        return {name: (table.to_batches() or found[name])[0] for name, table in tables.items()}, counts

    def slices(
        self, events: Events, counts: Counter[str], user_columns: UserColumns | None = None
    ) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Yields (split, some of its windows); at least one batch a split, which may be empty.

        Args:
          events: of whole users.
          counts: is added to. For each split: `<split>_labels`, `<split>_queries`, `<split>_users` that ask,
            and `<split>_users_unknown_to_train` who have no label event in train, and are left out in the
            frozen protocol alone. Over all: `duplicate_events`, and label events that are no label because
            there was none before (`listens_without_seed`), because the user had the item
            (`repeated_labels`), or because they belong to no split (`gap_labels`).
          user_columns: features of users that each window carries.
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
                for batch in self._batches(seen, asked, name, user_columns):
                    yield name, batch
        if isinstance(self.split, FrozenSplit):
            for name in features.SPLITS:
                if name not in self.split.next_event_splits:
                    asked = self._frozen_windows(histories, placed, self.split, name, known, counts)
                    for batch in self._batches(histories, asked, name, user_columns):
                        yield name, batch

    def _views(
        self, histories: Histories, placed: Placement
    ) -> Iterator[tuple[Histories, Placement, Sequence[str]]]:
        """The events as each split sees them, and the splits that see them so.

        Where no event is followed by one that an earlier split sees, all that a query must not see comes
        after it: one view does for all splits.
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
        """Places of the label events that have a query, and of their queries: the listens before them."""
        listens = np.flatnonzero(seen.is_listen)
        owner = seen.user[listens]
        # A listen's query is the listen before it by the same user, the seed then playing. Reactions
        # between the two are hidden from it: they may be reactions to the seed itself.
        has_seed = np.append(False, owner[1:] == owner[:-1])[: len(owner)]
        label, query = listens, np.append(-1, listens)[:-1]
        # Those of another split than this view's are labels in another view, or in a set.
        counted = np.isin(placed.label_split[label], [NONE, *(_NUMBERS[name] for name in names)])
        counts["listens_without_seed"] += int((counted & ~has_seed).sum())
        eligible = counted & has_seed
        if not self.repeats_recommendable:
            # What the user had, in a listen or in a reaction, is excluded from what the query is answered.
            fresh = seen.first_of_item[label] > query
            counts["repeated_labels"] += int((eligible & ~fresh).sum())
            eligible &= fresh
        in_gap = placed.label_split[label] == NONE
        counts["gap_labels"] += int((eligible & in_gap).sum())
        eligible &= ~in_gap
        return label[eligible], query[eligible]

    def _next_event_windows(
        self, seen: Histories, placed: Placement, query: Array, label: Array, name: str
    ) -> _Windows:
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
        return _Windows(start, stop, opening, query, label, had)

    def _frozen_windows(
        self,
        histories: Histories,
        placed: Placement,
        split: FrozenSplit,
        name: str,
        known: Array,
        counts: Counter[str],
    ) -> _Windows:
        """One window a user that train knows and that has labels: the state when it froze, and their set."""
        begin, frozen_at = split.times.bounds(name)[0], split.frozen_at(name)
        label = np.flatnonzero((placed.label_split == _NUMBERS[name]) & _makes_label(histories, split))
        counts[f"{name}_users_unknown_to_train"] += _distinct(histories.user[label], ~known)
        label = label[known[histories.user[label]]]
        # Each item once a user.
        label = label[_order(histories.user[label], histories.item_id[label])]
        label = label[_run_starts(histories.user[label], histories.item_id[label])]
        # Where each user's state ends: the first event at or after the freezing.
        frozen = np.cumsum(np.append(0, histories.timestamp < frozen_at))[histories.starts]
        frozen_end = histories.starts[:-1] + np.diff(frozen)
        if not self.repeats_recommendable:
            fresh = histories.first_of_item[label] >= frozen_end[histories.user[label]]
            counts["repeated_labels"] += int((~fresh).sum())
            label = label[fresh]
        # Known users have a listen before train's end, and so before any freezing.
        listens = np.flatnonzero(histories.is_listen & (histories.timestamp < frozen_at))
        query_of_user = np.full(histories.users, -1)
        query_of_user[histories.user[listens]] = listens

        opens = _run_starts(histories.user[label])
        user = histories.user[label[opens]]
        query = query_of_user[user]
        start = np.maximum(histories.starts[user], query - self.history_length + 1)
        counts[f"{name}_labels"] += len(label)
        counts[f"{name}_queries"] += len(query)
        counts[f"{name}_users"] += len(query)
        had = None
        if not self.repeats_recommendable:
            # What the state holds and the window does not: what came before it, and reactions to its seed.
            bounds = np.stack([histories.starts[user], start, query + 1, frozen_end[user]], axis=1)
            had = np.searchsorted(histories.firsts, bounds).reshape(-1, 2, 2)
        return _Windows(
            start,
            query + 1,
            np.arange(len(user)),
            query,
            None,
            had,
            begin,
            label,
            np.append(opens, len(label)),
        )

    def _batches(
        self, seen: Histories, asked: _Windows, name: str, user_columns: UserColumns | None
    ) -> Iterator[pa.RecordBatch]:
        """The windows a slice at a time; one empty batch where there are none."""
        sizes = asked.stop - asked.start
        if asked.had is not None:
            sizes = sizes + (asked.had[:, :, 1] - asked.had[:, :, 0]).sum(axis=1)
        before = np.append(0, np.cumsum(sizes))
        begin = 0
        while True:
            full = int(np.searchsorted(before, before[begin] + _SLICE_EVENTS, side="right")) - 1
            end = min(max(full, begin + 1), len(asked.start))
            columns = self._columns(seen, asked.slice(begin, end))
            if user_columns is not None:
                columns.update(user_columns(seen.user_id[asked.start[begin:end]]))
            yield pa.RecordBatch.from_pydict(columns)
            begin = end
            if begin >= len(asked.start):
                return

    def _columns(self, seen: Histories, asked: _Windows) -> dict[str, pa.ListArray]:
        rows = _ranges(asked.start, asked.stop)
        before = np.append(0, np.cumsum(asked.stop - asked.start))
        offsets = pa.array(before, pa.int32())
        # The window of each query, and the query's place in the slice.
        window = np.repeat(np.arange(len(asked.start)), np.diff(np.append(asked.opening, len(asked.query))))
        at = asked.query + (before[:-1] - asked.start)[window]
        label_step = np.zeros(len(rows), np.int64)
        timestamp = seen.timestamp[rows] if self.has_timestamps else np.zeros(len(rows), np.int64)
        request_timestamp = timestamp.astype(np.int64)
        if asked.label is not None:
            label_step[at] = asked.label - asked.query
            if self.has_timestamps:
                request_timestamp[at] = seen.timestamp[asked.label]
        else:
            request_timestamp[at] = asked.request_timestamp

        def packed(values: Array | pa.Array) -> pa.ListArray:
            return pa.ListArray.from_arrays(
                offsets, values if isinstance(values, pa.Array) else pa.array(values)
            )

        types = pa.array([one.encode() for one in seen.event_types], pa.binary())
        columns = {
            features.USER_ID: _singletons(seen.user_id[asked.start].astype(np.int64)),
            features.HISTORY_ITEM_ID: packed(seen.item_id[rows].astype(np.int64, copy=False)),
            features.HISTORY_TIMESTAMP: packed(timestamp.astype(np.int64, copy=False)),
            features.HISTORY_EVENT_TYPE: packed(types.take(pa.array(seen.event_type[rows]))),
            features.HISTORY_PLAY_RATIO: packed(seen.play_ratio[rows].astype(np.float32, copy=False)),
            features.HISTORY_IS_ORGANIC: packed(seen.is_organic[rows].astype(np.int64, copy=False)),
            features.REQUEST_TIMESTAMP: packed(request_timestamp),
            features.LABEL_STEP: packed(label_step),
        }
        if asked.labels is not None and asked.label_offsets is not None:
            columns[features.LABEL_ITEM_ID] = pa.ListArray.from_arrays(
                pa.array(asked.label_offsets, pa.int32()),
                pa.array(seen.item_id[asked.labels].astype(np.int64)),
            )
        if asked.had is not None:
            begin, end = asked.had[:, :, 0], asked.had[:, :, 1]
            columns[features.SEEN_ITEM_ID] = pa.ListArray.from_arrays(
                pa.array(np.append(0, np.cumsum((end - begin).sum(axis=1))), pa.int32()),
                pa.array(seen.item_id[seen.firsts[_ranges(begin.ravel(), end.ravel())]].astype(np.int64)),
            )
        return columns


@dataclasses.dataclass(frozen=True)
class _Windows:
    """Windows as places in Histories; what they hold is gathered a slice at a time.

    Attributes:
        start, stop: [W] each window's events.
        opening: [W] its first query.
        query: [Q] places of the query events, in the order of their windows.
        label: [Q] places of their labels; None where labels are sets.
        had: [W, ranges, 2] begin and end of ranges of Histories.firsts: items that the user had outside the
            window, each once; None for train, and where repeats are recommendable.
        request_timestamp: when frozen queries are asked.
        labels, label_offsets: [labels] an event of each label item, [W + 1] into it; None but where frozen.
    """

    start: Array
    stop: Array
    opening: Array
    query: Array
    label: Array | None
    had: Array | None
    request_timestamp: int = 0
    labels: Array | None = None
    label_offsets: Array | None = None

    def slice(self, begin: int, end: int) -> _Windows:
        """The windows from `begin` to before `end`."""
        bounds = np.append(self.opening, len(self.query))[[begin, end]]
        queries = slice(*bounds)
        labels, label_offsets = self.labels, self.label_offsets
        if labels is not None and label_offsets is not None:
            label_offsets = label_offsets[begin : end + 1]
            labels = labels[label_offsets[0] : label_offsets[-1]]
            label_offsets = label_offsets - label_offsets[0]
        return _Windows(
            self.start[begin:end],
            self.stop[begin:end],
            self.opening[begin:end] - bounds[0],
            self.query[queries],
            None if self.label is None else self.label[queries],
            None if self.had is None else self.had[begin:end],
            self.request_timestamp,
            labels,
            label_offsets,
        )


def _after_reactions(seen: Histories, listen: Array, visible_from: Array) -> Array:
    """Where what train sees of the reactions to each listen ends: to its item, and before the next listen."""
    listens = np.append(np.flatnonzero(seen.is_listen), len(seen))
    following = listens[np.searchsorted(listens, listen, side="right")]
    end = np.minimum(following, seen.starts[1:][seen.user[listen]])
    places = _ranges(listen + 1, end)
    of_listen = np.repeat(np.arange(len(listen)), end - listen - 1)
    is_reaction = (seen.item_id[places] == seen.item_id[listen][of_listen]) & (visible_from[places] == TRAIN)
    stop = listen + 1
    np.maximum.at(stop, of_listen[is_reaction], places[is_reaction] + 1)
    return stop


def _makes_label(histories: Histories, split: FrozenSplit) -> Array:
    """Is the event one whose item a frozen query asks for? bool [n]"""
    unknown = histories.play_ratio < 0
    return histories.is_listen & (unknown | (histories.play_ratio >= np.float32(split.min_play_ratio)))


def _distinct(users: Array, among: Array) -> int:
    """How many different users there are for whom `among` (bool [all users]) is true."""
    present = np.zeros(len(among), bool)
    present[users] = True
    return int((present & among).sum())


def _numbered(ids: Array) -> Array:
    """Ids as numbers from 0 without a gap, in the order in which they come."""
    # A hash table, where np.unique would sort.
    encoded = pa.array(ids).dictionary_encode()
    return encoded.indices.to_numpy()


def _order(*columns: Array) -> Array:
    """The order that sorts rows by the columns, the first being the most significant; ties stay as they are.

    Where all columns and the row's number fit into 64 bits they are sorted as one number, several times as
    fast as column by column.
    """
    rows = len(columns[0])
    if not rows:
        return np.zeros(0, np.int64)
    row_bits = max(1, int(rows - 1).bit_length())
    lows = [int(column.min()) for column in columns]
    widths = [int(int(column.max()) - low).bit_length() for column, low in zip(columns, lows, strict=True)]
    if sum(widths) + row_bits > 64:
        return np.lexsort(columns[::-1])
    packed = np.zeros(rows, np.uint64)
    for column, low, width in zip(columns, lows, widths, strict=True):
        packed <<= np.uint64(width)
        packed |= (column.astype(np.int64) - low).astype(np.uint64)
    if (packed[1:] >= packed[:-1]).all():
        return np.arange(rows)
    packed <<= np.uint64(row_bits)
    packed |= np.arange(rows, dtype=np.uint64)
    packed.sort()
    packed &= np.uint64((1 << row_bits) - 1)
    return packed.astype(np.int64)


def _run_starts(*columns: Array) -> Array:
    """Where a row differs from the one before it in any of the columns."""
    if not len(columns[0]):
        return np.zeros(0, np.int64)
    changes = columns[0][1:] != columns[0][:-1]
    for column in columns[1:]:
        changes |= column[1:] != column[:-1]
    return np.append(0, np.flatnonzero(changes) + 1)


def _repetitions(keys: tuple[Array, ...], item: Array, event_type: Array) -> Array:
    """Rows that an earlier one equals in keys, item and type; rows are sorted by the keys."""
    # Few events share user and time with another: only they are looked at.
    begins = _run_starts(*keys)
    lengths = np.diff(np.append(begins, len(item)))
    shared = lengths > 1
    rows = _ranges(begins[shared], begins[shared] + lengths[shared])
    run = np.repeat(np.arange(int(shared.sum())), lengths[shared])
    order = _order(run, item[rows], event_type[rows])
    again = np.ones(len(rows), bool)
    again[_run_starts(run[order], item[rows][order], event_type[rows][order])] = False
    return rows[order[again]]


def _ranges(start: Array, stop: Array) -> Array:
    """Concatenation of range(start[i], stop[i])."""
    lengths = stop - start
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(start - (ends - lengths), lengths)


def _singletons(values: Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1), pa.int32()), pa.array(values))
