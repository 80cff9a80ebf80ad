"""Random listening logs, and their queries as a plain loop over each user's events finds them."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from two_tower.components.interaction_example_gen.histories import Events
from two_tower.components.interaction_example_gen.splits import (
    EventSplit,
    FrozenSplit,
    LeaveOneOut,
    SplitColumn,
    TimeSplit,
)
from two_tower.evaluation.queries import Windows, all_queries
from two_tower.schema import features

# Few users, items and times, so that ties and repeats are common; all splits and gaps lie within them.
SPLIT = TimeSplit(train_end=20, eval=(22, 30), test=(32, 40))
TIMES = 44
EVENT_TYPES = (b"listen", b"like", b"dislike")


class Event(NamedTuple):
    """Event of a log; `row` is its position in the files."""

    user: int
    item: int
    time: int
    kind: bytes
    row: int


class Query(NamedTuple):
    """Next-event query as rows of the log: its history, oldest first, and its label."""

    split: str
    user: int
    history: tuple[int, ...]
    label: int


@st.composite
def logs(draw: st.DrawFn, most: int = 60) -> list[Event]:
    """Draws a log in file order, which differs from time order."""
    row = st.tuples(
        st.integers(0, 2),
        st.integers(0, 5),
        st.integers(0, TIMES),
        st.sampled_from((b"listen", *EVENT_TYPES)),
    )
    # Hypothesis prefers short lists, so the minimal size is drawn too.
    rows = draw(st.lists(row, min_size=draw(st.integers(0, most)), max_size=most))
    return [Event(*values, number) for number, values in enumerate(rows)]


def events_of(
    user: Any, item: Any, time: Any, kind: Any, play_ratio: Any, is_organic: Any = 1, split: Any = None
) -> Events:
    """Builds Events from columns or one value for all rows; `kind` holds event types as bytes."""
    names = np.broadcast_to(np.asarray(kind, "S"), len(user))
    others = {name.decode() for name in names.tolist()} - {features.LISTEN}
    types = (features.LISTEN, *sorted(others))
    codes = {name.encode(): code for code, name in enumerate(types)}
    return Events(
        user_id=np.asarray(user, np.int64),
        item_id=np.asarray(item, np.int64),
        timestamp=np.asarray(time, np.int64),
        event_type=np.array([codes[name] for name in names.tolist()], np.int8),
        play_ratio=np.broadcast_to(np.asarray(play_ratio, np.float32), len(user)),
        is_organic=np.broadcast_to(np.asarray(is_organic, np.int8), len(user)),
        event_types=types,
        split=None if split is None else np.asarray(split, np.int8),
    )


def catalog_of_ids(items: int) -> dict[str, list[Any]]:
    """Returns a catalog of ids from 0, without artists, albums or lengths."""
    nothing: list[Any] = [[] for _ in range(items)]
    return {
        "item_id": [[item] for item in range(items)],
        "artist_id": nothing,
        "album_id": nothing,
        "item_length": [[-1.0]] * items,
    }


def columns(log: list[Event], play_ratio: np.ndarray | None = None) -> Events:
    """Converts the log to arrays. The default play ratio of an event is its row, which identifies it."""
    rows = np.arange(len(log))
    return events_of(
        [e.user for e in log],
        [e.item for e in log],
        [e.time for e in log],
        [e.kind for e in log],
        rows if play_ratio is None else play_ratio,
        rows % 3 - 1,
    )


def column_split(row: int) -> int:
    """Returns the split in a row's column `split`, as a number: independent of time, and mostly train."""
    return (0, 2, 0, 1, 0, 0, 1, 2, 0)[row * 31 % 9]


def of_user(log: list[Event], user: int, split: EventSplit | None = None) -> list[Event]:
    """Returns a user's events without duplicates, in time order: listens before reactions, then file order.

    With a split column, events of train precede those of eval and test at the same time.
    """
    has_column = isinstance(split, SplitColumn)
    once: dict[tuple[int, int, bytes], Event] = {}
    for event in sorted(log, key=lambda e: (has_column and column_split(e.row), e.row)):
        if event.user == user:
            once.setdefault((event.item, event.time, event.kind), event)
    return sorted(
        once.values(), key=lambda e: (e.time, e.kind != b"listen", has_column and column_split(e.row), e.row)
    )


def split_of(time: int, split: TimeSplit = SPLIT) -> str | None:
    """Returns the split of a label at this time; None in a gap or after test."""
    if time < split.train_end:
        return "train"
    inside = [name for name in ("eval", "test") if split.bounds(name)[0] <= time < split.bounds(name)[1]]
    return inside[0] if inside else None


def placed(events: list[Event], split: EventSplit) -> list[tuple[str | None, int]]:
    """Returns for each event of a user two values: the split in which it may be a label, and the first split
    that sees it.

    The split number 3 means that no split sees it.
    """
    if isinstance(split, SplitColumn):
        return [(features.SPLITS[column_split(e.row)], column_split(e.row)) for e in events]
    if isinstance(split, TimeSplit):
        ends = (split.train_end, split.eval[1], split.test[1])
        return [(split_of(e.time, split), sum(e.time >= end for end in ends)) for e in events]
    assert isinstance(split, LeaveOneOut)
    names, listens = [], [e for e in events if e.kind == b"listen"]
    for place in range(len(events)):
        last = next((e for e in reversed(events[: place + 1]) if e.kind == b"listen"), None)
        after = len(listens) - 1 - listens.index(last) if last else len(listens)
        names.append("train" if len(listens) < 3 or after > 1 else ("test", "eval")[after])
    return [(name, features.SPLITS.index(name)) for name in names]


def queries_of(
    log: list[Event], history_length: int, repeats: bool, split: EventSplit = SPLIT
) -> tuple[list[Query], Counter[str]]:
    """Returns all next-event queries in arbitrary order, and counts of the events that are no labels."""
    found: list[Query] = []
    counts: Counter[str] = Counter()
    for user in sorted({e.user for e in log}):
        events = of_user(log, user, split)
        places = placed(events, split)
        for number in range(4):
            # The log as this split sees it, without hidden events. A label belongs to its own split only.
            view = [
                (event, name, first)
                for event, (name, first) in zip(events, places, strict=True)
                if first <= number
            ]
            seed = -1
            for place, (event, name, first) in enumerate(view):
                if event.kind != b"listen":
                    continue
                had = [e for e, _, _ in view[: seed + 1]]
                if first != number:
                    pass
                elif seed < 0:
                    counts["listens_without_seed"] += 1
                elif not repeats and event.item in {e.item for e in had}:
                    counts["repeated_labels"] += 1
                elif name is None:
                    counts["gap_labels"] += 1
                else:
                    found.append(Query(name, user, tuple(e.row for e in had[-history_length:]), event.row))
                    counts[f"{name}_labels"] += 1
                seed = place
    return found, counts


class FrozenQuery(NamedTuple):
    """A user's only query of a period under the frozen protocol: rows of its history, and its label items."""

    split: str
    user: int
    history: tuple[int, ...]
    labels: tuple[int, ...]
    # Items that must not be recommended; () if repeats are recommendable.
    had: tuple[int, ...]


def frozen_queries_of(
    log: list[Event], history_length: int, repeats: bool, split: FrozenSplit
) -> tuple[list[FrozenQuery], Counter[str]]:
    """Returns all queries of eval and test in arbitrary order, and counts; play ratios are rows."""
    found: list[FrozenQuery] = []
    counts: Counter[str] = Counter()
    for name in ("eval", "test"):
        begin, end = split.times.bounds(name)
        for user in sorted({e.user for e in log}):
            events = of_user(log, user)
            asked = [e for e in events if e.kind == b"listen" and e.row >= split.min_play_ratio]
            labels = {e.item for e in asked if begin <= e.time < end}
            if not labels:
                continue
            if not any(e.kind == b"listen" and e.time < split.times.train_end for e in events):
                counts[f"{name}_users_unknown_to_train"] += 1
                continue
            state = [e for e in events if e.time < begin - split.gap_seconds]
            had = {e.item for e in state}
            if not repeats:
                counts["repeated_labels"] += len(labels & had)
                labels -= had
            if not labels:
                continue
            while state[-1].kind != b"listen":
                state.pop()
            rows = tuple(e.row for e in state[-history_length:])
            found.append(
                FrozenQuery(name, user, rows, tuple(sorted(labels)), () if repeats else tuple(sorted(had)))
            )
            counts[f"{name}_labels"] += len(labels)
            counts[f"{name}_queries"] += 1
            counts[f"{name}_users"] += 1
    return found, counts


def to_windows(batch: pa.RecordBatch) -> Windows:
    """Converts a split's record batch to the form in which the evaluator reads it."""

    def flat(name: str, dtype: Any) -> np.ndarray:
        return np.array(batch[name].flatten().to_pylist(), dtype)

    offsets = np.asarray(batch["history_item_id"].offsets).astype(np.int64)

    def optional(name: str) -> tuple[np.ndarray, np.ndarray]:
        if name not in batch.schema.names:
            return 0 * offsets, np.empty(0, np.int64)
        return np.asarray(batch[name].offsets).astype(np.int64), flat(name, np.int64)

    label_offsets, label_item_id = optional("label_item_id")
    seen_offsets, seen_item_id = optional("seen_item_id")
    return Windows(
        user_id=flat("user_id", np.int64),
        offsets=offsets,
        item_id=flat("history_item_id", np.int64),
        timestamp=flat("history_timestamp", np.int64),
        event_type=flat("history_event_type", np.bytes_),
        play_ratio=flat("history_play_ratio", np.float32),
        is_organic=flat("history_is_organic", np.int64),
        request_timestamp=flat("request_timestamp", np.int64),
        label_step=flat("label_step", np.int64),
        label_offsets=label_offsets,
        label_item_id=label_item_id,
        seen_offsets=seen_offsets,
        seen_item_id=seen_item_id,
    )


def queries_in(windows: Windows, split: str, history_length: int) -> list[Query]:
    """Reads next-event queries from windows; an event's play ratio is its row."""
    queries = all_queries(windows)
    rows = windows.play_ratio.astype(int)
    begin = np.maximum(windows.offsets[queries.window], queries.event + 1 - history_length)
    places = zip(queries.user_id, begin, queries.event, queries.label_event, strict=True)
    return [
        Query(split, int(user), tuple(rows[first : event + 1].tolist()), int(rows[label]))
        for user, first, event, label in places
    ]
