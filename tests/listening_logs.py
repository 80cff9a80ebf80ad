"""Random listening logs, and what a plain loop over each user's events says of their queries."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from components.interaction_example_gen.windows import Events, TimeSplit
from components.retrieval_evaluator.queries import Windows
from trainer import features

# Few users, items and times, so that ties and repeats are common; all splits and gaps lie within them.
SPLIT = TimeSplit(train_end=20, eval=(22, 30), test=(32, 40))
TIMES = 44
EVENT_TYPES = (b"listen", b"like", b"dislike")


class Event(NamedTuple):
    """`row` is the event's place in the files."""

    user: int
    item: int
    time: int
    kind: bytes
    row: int


class Query(NamedTuple):
    """What a query sees, oldest first, and the one event that it is to predict, as rows of the log."""

    split: str
    user: int
    history: tuple[int, ...]
    label: int


@st.composite
def logs(draw: st.DrawFn, most: int = 60) -> list[Event]:
    """A log in file order, which is not time's."""
    row = st.tuples(
        st.integers(0, 2),
        st.integers(0, 5),
        st.integers(0, TIMES),
        st.sampled_from((b"listen", *EVENT_TYPES)),
    )
    # Hypothesis prefers short lists: the least size is drawn too.
    rows = draw(st.lists(row, min_size=draw(st.integers(0, most)), max_size=most))
    return [Event(*values, number) for number, values in enumerate(rows)]


def events_of(
    user: Any, item: Any, time: Any, kind: Any, play_ratio: Any, is_organic: Any = 1, split: Any = None
) -> Events:
    """Columns, or one value for all rows, as Events; `kind` are the event types' names as bytes."""
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


def columns(log: list[Event], play_ratio: np.ndarray | None = None) -> Events:
    """The log as arrays. Without play ratios, an event's is its row, by which it is known again."""
    rows = np.arange(len(log))
    return events_of(
        [e.user for e in log],
        [e.item for e in log],
        [e.time for e in log],
        [e.kind for e in log],
        rows if play_ratio is None else play_ratio,
        rows % 3 - 1,
    )


def of_user(log: list[Event], user: int) -> list[Event]:
    """A user's events in time order, listens before reactions, then as in the files; none of them twice."""
    once: dict[tuple[int, int, bytes], Event] = {}
    for event in (e for e in log if e.user == user):
        once.setdefault((event.item, event.time, event.kind), event)
    return sorted(once.values(), key=lambda e: (e.time, e.kind != b"listen", e.row))


def split_of(time: int, split: TimeSplit = SPLIT) -> str | None:
    """The split that a label of this time is in; None in a gap or after test."""
    if time < split.train_end:
        return "train"
    inside = [name for name in ("eval", "test") if split.bounds(name)[0] <= time < split.bounds(name)[1]]
    return inside[0] if inside else None


def queries_of(
    log: list[Event], history_length: int, repeats: bool, split: TimeSplit = SPLIT
) -> tuple[list[Query], Counter[str]]:
    """Every query there is, in no particular order, and counts of what is none."""
    found: list[Query] = []
    counts: Counter[str] = Counter()
    for user in sorted({e.user for e in log}):
        events = of_user(log, user)
        seed = -1
        for place, event in enumerate(events):
            if event.kind != b"listen":
                continue
            name = split_of(event.time, split)
            if seed < 0:
                counts["listens_without_seed"] += 1
            elif not repeats and event.item in {e.item for e in events[: seed + 1]}:
                counts["repeated_labels"] += 1
            elif name is None:
                counts["gap_labels"] += 1
            else:
                seen = events[max(0, seed + 1 - history_length) : seed + 1]
                found.append(Query(name, user, tuple(e.row for e in seen), event.row))
                counts[f"{name}_labels"] += 1
            seed = place
    return found, counts


def to_windows(batch: pa.RecordBatch) -> Windows:
    """A split's record batch as the evaluator reads it."""

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
