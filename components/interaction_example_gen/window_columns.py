"""Record batches of windows: their places in a shard's histories, and the columns gathered from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from two_tower.components.interaction_example_gen.histories import Histories
from two_tower.components.interaction_example_gen.row_order import ranges
from two_tower.schema import features

Array = np.ndarray
# Columns of user features by name, for users [windows].
UserColumns = Callable[[Array], dict[str, pa.ListArray]]

# Events, and seen items, of the windows that are gathered and encoded at once.
SLICE_EVENTS = 200_000


@dataclasses.dataclass(frozen=True)
class WindowPlaces:
    """Windows as places in Histories; their columns are gathered slice by slice.

    Attributes:
        start, stop: [W] the range of each window's events.
        opening: [W] the number of its first query.
        query: [Q] places of the query events, in the order of their windows.
        label: [Q] places of their labels; None if labels are sets.
        had: [W, ranges, 2] begin and end of ranges of Histories.firsts: the user's items outside the window,
            each once; None for train, and if repeats are recommendable.
        request_timestamp: time of frozen queries, in seconds.
        labels, label_offsets: [labels] one event of each label item, and [W + 1] offsets into it; None
            outside the frozen protocol.
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

    def slice(self, begin: int, end: int) -> WindowPlaces:
        """Returns the windows from `begin` to before `end`."""
        bounds = np.append(self.opening, len(self.query))[[begin, end]]
        queries = slice(*bounds)
        labels, label_offsets = self.labels, self.label_offsets
        if labels is not None and label_offsets is not None:
            label_offsets = label_offsets[begin : end + 1]
            labels = labels[label_offsets[0] : label_offsets[-1]]
            label_offsets = label_offsets - label_offsets[0]
        return WindowPlaces(
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


def batches(
    seen: Histories, asked: WindowPlaces, user_columns: UserColumns | None, has_timestamps: bool
) -> Iterator[pa.RecordBatch]:
    """Yields windows as record batches, a slice at a time; one empty batch if there are none.

    Args:
      seen: the events that the windows lie in.
      asked: the windows.
      user_columns: returns the features of users that each window carries.
      has_timestamps: False sets all times to 0, for data with an order instead of times.
    """
    sizes = asked.stop - asked.start
    if asked.had is not None:
        sizes = sizes + (asked.had[:, :, 1] - asked.had[:, :, 0]).sum(axis=1)
    before = np.append(0, np.cumsum(sizes))
    begin = 0
    while True:
        full = int(np.searchsorted(before, before[begin] + SLICE_EVENTS, side="right")) - 1
        end = min(max(full, begin + 1), len(asked.start))
        columns = _columns(seen, asked.slice(begin, end), has_timestamps)
        if user_columns is not None:
            columns.update(user_columns(seen.user_id[asked.start[begin:end]]))
        yield pa.RecordBatch.from_pydict(columns)
        begin = end
        if begin >= len(asked.start):
            return


def _columns(seen: Histories, asked: WindowPlaces, has_timestamps: bool) -> dict[str, pa.ListArray]:
    rows = ranges(asked.start, asked.stop)
    before = np.append(0, np.cumsum(asked.stop - asked.start))
    offsets = pa.array(before, pa.int32())
    # The window of each query, and the place of the query in the slice.
    window = np.repeat(np.arange(len(asked.start)), np.diff(np.append(asked.opening, len(asked.query))))
    at = asked.query + (before[:-1] - asked.start)[window]
    label_step = np.zeros(len(rows), np.int64)
    timestamp = seen.timestamp[rows] if has_timestamps else np.zeros(len(rows), np.int64)
    request_timestamp = timestamp.astype(np.int64)
    if asked.label is not None:
        label_step[at] = asked.label - asked.query
        if has_timestamps:
            request_timestamp[at] = seen.timestamp[asked.label]
    else:
        request_timestamp[at] = asked.request_timestamp

    def packed(values: Array | pa.Array) -> pa.ListArray:
        return pa.ListArray.from_arrays(offsets, values if isinstance(values, pa.Array) else pa.array(values))

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
            pa.array(seen.item_id[seen.firsts[ranges(begin.ravel(), end.ravel())]].astype(np.int64)),
        )
    return columns


def _singletons(values: Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1), pa.int32()), pa.array(values))
