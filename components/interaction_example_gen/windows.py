"""Packed windows: from a shard's events to a record batch of windows per split, without a Python loop.

A window is up to `positions` consecutive query positions of one user, after up to `history_length - 1`
events of context, and ends with the label of its last query. Every listen is a query (it is the seed
track then playing) and the user's next listen is its label. An event is stored once however many
queries see it, and each label is used by exactly one query of one split.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa

from pipeline.configs import SplitConfig
from pipeline.errors import UserError
from trainer import features

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class TimeSplit:
    """The label times of each split, in seconds: train < `train_end`; eval and test are [from, to)."""

    train_end: int
    eval: tuple[int, int]
    test: tuple[int, int]

    @classmethod
    def before(cls, last_timestamp: int, config: SplitConfig) -> TimeSplit:
        """Counts back from the newest label event: train | gap | eval | gap | test."""
        test_from = last_timestamp + 1 - config.test_seconds
        eval_to = test_from - config.gap_seconds
        eval_from = eval_to - config.eval_seconds
        return cls(eval_from - config.gap_seconds, (eval_from, eval_to), (test_from, last_timestamp + 1))

    def bounds(self, split: str) -> tuple[int, int]:
        """[from, to) of a split's label times."""
        train = (np.iinfo(np.int64).min, self.train_end)
        return {"train": train, "eval": self.eval, "test": self.test}[split]


@dataclasses.dataclass(frozen=True)
class Events:
    """Columns of one shard's events, of one length, in any order; `order` is a row's place in the files."""

    user_id: Array
    item_id: Array
    timestamp: Array
    event_type: Array  # bytes
    play_ratio: Array  # float32, -1 where unknown
    is_organic: Array  # int64, -1 where unknown
    order: Array

    @classmethod
    def from_batches(cls, batches: list[pa.RecordBatch]) -> Events:
        """Joins record batches that hold these columns."""
        table = pa.Table.from_batches(batches).combine_chunks()
        # A dictionary's few distinct names, rather than a Python object a row.
        names = table["event_type"].combine_chunks().dictionary_encode()
        if isinstance(names, pa.ChunkedArray):
            names = names.chunk(0)
        distinct = np.array([name.encode() for name in names.dictionary.to_pylist()])
        event_type = distinct[names.indices.to_numpy()]
        columns = {name: table[name].to_numpy() for name in table.column_names if name != "event_type"}
        return cls(event_type=event_type, **columns)

    def sorted(self) -> Events:
        """By user and time. At equal times a listen comes before reactions to it, then file order."""
        reaction = self.event_type != features.LISTEN.encode()
        by = np.lexsort((self.order, reaction, self.timestamp, self.user_id))
        return Events(**{f.name: getattr(self, f.name)[by] for f in dataclasses.fields(self)})


@dataclasses.dataclass(frozen=True)
class WindowCutter:
    """Cuts the windows of every split from a shard.

    `history_length` (N): a query sees events (p - N, p]. `positions`: query positions a window.
    """

    split: TimeSplit
    repeats_recommendable: bool
    history_length: int
    positions: int

    def cut(self, unsorted: Events) -> tuple[dict[str, pa.RecordBatch], dict[str, int]]:
        """One record batch of windows a split, and counts of what did not become a query."""
        events = unsorted.sorted()
        size = len(events.user_id)
        index = np.arange(size)
        user_change = np.flatnonzero(np.diff(events.user_id)) + 1
        user_starts = np.concatenate([[0], user_change])
        user_start = np.repeat(user_starts, np.diff(np.append(user_starts, size)))

        is_listen = events.event_type == features.LISTEN.encode()
        listens = index[is_listen]
        # A listen's query is the listen before it by the same user, the seed then playing. Reactions
        # between the two are hidden from it: they may be reactions to the seed itself.
        query = np.concatenate([[-1], listens[:-1]])
        has_seed = query >= user_start[listens]
        counts = {"listens_without_seed": int((~has_seed).sum())}
        if not self.repeats_recommendable:
            # What the user had, in a listen or in a reaction, is excluded from what the query is answered.
            fresh = _first_places(events.user_id, events.item_id)[listens] > query
            counts["repeated_labels"] = int((has_seed & ~fresh).sum())
            has_seed &= fresh
        label, query = listens[has_seed], query[has_seed]

        batches = {}
        for split in features.SPLITS:
            begin, end = self.split.bounds(split)
            inside = (events.timestamp[label] >= begin) & (events.timestamp[label] < end)
            batches[split] = self._windows(events, user_start, query[inside], label[inside], split)
            counts[f"{split}_labels"] = int(inside.sum())
        in_no_split = len(label) - sum(counts[f"{split}_labels"] for split in features.SPLITS)
        counts["gap_labels"] = in_no_split
        return batches, counts

    def _windows(
        self, events: Events, user_start: Array, query: Array, label: Array, split: str
    ) -> pa.RecordBatch:
        owner = user_start[query]
        is_first = np.concatenate([[True], owner[1:] != owner[:-1]])[: len(query)]
        first_query = np.repeat(query[is_first], np.diff(np.append(np.flatnonzero(is_first), len(query))))
        chunk = (query - first_query) // self.positions
        opens = is_first.copy()
        opens[1:] |= chunk[1:] != chunk[:-1]
        opening = np.flatnonzero(opens)
        closing = np.append(opening, len(query))[1:] - 1

        start = np.maximum(owner[opening], query[opening] - self.history_length + 1)
        stop = label[closing] + 1
        offsets = np.concatenate([[0], np.cumsum(stop - start)]).astype(np.int64)
        rows = _ranges(start, stop)

        window = np.cumsum(opens) - 1
        at = offsets[window] + query - start[window]
        label_step = np.zeros(len(rows), np.int64)
        label_step[at] = label - query
        request_timestamp = events.timestamp[rows].copy()
        request_timestamp[at] = events.timestamp[label]

        def packed(values: Array) -> pa.ListArray:
            return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))

        columns = {
            features.USER_ID: _singletons(events.user_id[start]),
            features.HISTORY_ITEM_ID: packed(events.item_id[rows]),
            features.HISTORY_TIMESTAMP: packed(events.timestamp[rows]),
            features.HISTORY_EVENT_TYPE: pa.ListArray.from_arrays(
                pa.array(offsets, pa.int32()), _binary(events.event_type[rows])
            ),
            features.HISTORY_PLAY_RATIO: packed(events.play_ratio[rows]),
            features.HISTORY_IS_ORGANIC: packed(events.is_organic[rows]),
            features.REQUEST_TIMESTAMP: packed(request_timestamp),
            features.LABEL_STEP: packed(label_step),
        }
        if split != "train" and not self.repeats_recommendable:
            before = np.concatenate([[0], np.cumsum(start - owner[opening])])
            columns[features.SEEN_ITEM_ID] = pa.ListArray.from_arrays(
                pa.array(before, pa.int32()), pa.array(events.item_id[_ranges(owner[opening], start)])
            )
        return pa.RecordBatch.from_pydict(columns)


def _ranges(start: Array, stop: Array) -> Array:
    """Concatenation of range(start[i], stop[i])."""
    lengths = stop - start
    total = int(lengths.sum())
    ends = np.cumsum(lengths)
    return np.arange(total) - np.repeat(ends - lengths, lengths) + np.repeat(start, lengths)


def _first_places(user_id: Array, item_id: Array) -> Array:
    """For each event the place of its user's first event of the same item; rows are in time order."""
    size = len(user_id)
    by = np.lexsort((np.arange(size), item_id, user_id))
    changes = (np.diff(user_id[by]) != 0) | (np.diff(item_id[by]) != 0)
    begins = np.concatenate([[0], np.flatnonzero(changes) + 1])
    first = np.empty(size, np.int64)
    first[by] = np.repeat(by[begins[:size]], np.diff(np.append(begins, size)))
    return first


def _singletons(values: Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1), pa.int32()), pa.array(values))


def _binary(values: Array) -> pa.Array:
    """Few distinct byte strings, many rows: expanded by Arrow rather than row by row."""
    distinct, codes = np.unique(values, return_inverse=True)
    names = pa.array([bytes(name) for name in distinct], pa.binary())
    return names.take(pa.array(codes))


def check_not_empty(counts: dict[str, int], split: TimeSplit) -> None:
    """Raises UserError where a split has no label: there would be nothing to train, tune or test on."""
    for name in features.SPLITS:
        if not counts.get(f"{name}_labels"):
            begin, end = split.bounds(name)
            span = f"before {end}" if name == "train" else f"from {begin} to {end}"
            raise UserError(
                f"The {name} split is empty: no user has a label event {span} (seconds) with an earlier one "
                "to predict it from. Change split.eval_seconds, split.test_seconds or split.gap_seconds, or "
                "bring more data."
            )
