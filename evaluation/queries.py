"""A split's windows in flat NumPy arrays, the queries in them, and the requests those queries make."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from two_tower.data_directory.feature_columns import FeatureSpec
from two_tower.schema import features
from two_tower.schema.request_inputs import PER_EVENT, QUERY_INPUTS, REQUEST_INPUTS, RequestInput

Ints = npt.NDArray[np.int64]

PADDING = features.PADDING
# Feature name in the Examples ▶ field of Windows.
_EVENT_FEATURES = {
    features.HISTORY_ITEM_ID: "item_id",
    features.HISTORY_TIMESTAMP: "timestamp",
    features.HISTORY_EVENT_TYPE: "event_type",
    features.HISTORY_PLAY_RATIO: "play_ratio",
    features.HISTORY_IS_ORGANIC: "is_organic",
    features.REQUEST_TIMESTAMP: "request_timestamp",
    features.LABEL_STEP: "label_step",
}
# Fields of Windows that neither baselines nor slices read. They take nearly half of an event's memory.
NOT_FOR_BASELINES = ("play_ratio", "is_organic", "request_timestamp")
_LISTEN = features.LISTEN.encode()
_WINDOWS_PER_BATCH = 4_096


@dataclasses.dataclass(frozen=True)
class Windows:
    """The windows of one split: window `w` holds the events `offsets[w]:offsets[w + 1]`, oldest first.

    Attributes:
        user_id: [W] int64.
        offsets: [W + 1] int64.
        item_id: [n] int64.
        timestamp: [n] int64, seconds.
        event_type: [n] bytes.
        play_ratio: [n] float32, -1 where unknown.
        is_organic: [n] int64, -1 where unknown.
        request_timestamp: [n] int64, seconds. At a query's event, the time of the query.
        label_step: [n] int64. A positive step makes the event a query, whose label is that many events ahead.
        label_offsets: [W + 1] int64, into `label_item_id`.
        label_item_id: int64. The set of labels of each window's one query in the frozen protocol; else empty.
        seen_offsets: [W + 1] int64, into `seen_item_id`.
        seen_item_id: int64. Items of the user before the window; empty if repeats may be recommended.
        user_features: the user's columns by feature name, in a request's form: [W] or [W, values].
    """

    user_id: Ints
    offsets: Ints
    item_id: Ints
    timestamp: Ints
    event_type: npt.NDArray[np.bytes_]
    play_ratio: npt.NDArray[np.float32]
    is_organic: Ints
    request_timestamp: Ints
    label_step: Ints
    label_offsets: Ints
    label_item_id: Ints
    seen_offsets: Ints
    seen_item_id: Ints
    user_features: dict[str, npt.NDArray[Any]] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.user_id)

    @property
    def lengths(self) -> Ints:
        """Events of each window, [W]."""
        return np.diff(self.offsets)

    @property
    def window_of_event(self) -> Ints:
        """The window of each event, [n]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def start_timestamp(self) -> Ints:
        """Time of each window's first event, [W]. Windows are never empty."""
        return self.timestamp[self.offsets[:-1]]


@dataclasses.dataclass(frozen=True)
class LabelSets:
    """The labels of each query: query `q` has the labels `item_id[offsets[q]:offsets[q + 1]]`.

    Attributes:
        item_id: int64 [labels], each item once per query.
        offsets: int64 [Q + 1].
    """

    item_id: Ints
    offsets: Ints

    @classmethod
    def of_one(cls, item_id: npt.ArrayLike) -> LabelSets:
        """Makes sets of one label per query, from `item_id` [Q]."""
        items = np.asarray(item_id, np.int64)
        return cls(items, np.arange(len(items) + 1))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> Ints:
        """Labels of each query, [Q]."""
        return np.diff(self.offsets)

    @property
    def query(self) -> Ints:
        """The query of each label, [labels]."""
        return np.repeat(np.arange(len(self)), self.counts)

    def take(self, rows: npt.ArrayLike) -> LabelSets:
        """Returns the labels of the queries at `rows` (indices or a mask), in that order."""
        rows = np.asarray(rows)
        counts = self.counts[rows]
        chosen = self.item_id[ragged_index(self.offsets[:-1][rows], counts)]
        return LabelSets(chosen, np.concatenate([[0], np.cumsum(counts)]))


@dataclasses.dataclass(frozen=True)
class Queries:
    """Queries, one per row. A query sees its window up to and including `event`.

    In next-event windows a query has one label, which is an event of the window. In the frozen protocol it
    has a set of labels, which are no events of the window.

    Attributes:
        user_id: [Q] int64.
        window: [Q] index of the window.
        position: [Q] index of the query's event within its window.
        event: [Q] index of the query's event among all events of the `Windows`.
        label_event: [Q] index of the label's event among all events; -1 if the labels are a set.
        request_timestamp: [Q] int64, seconds, the time of the query: the start of its label, or in the
            frozen protocol the start of the split.
        labels: one or more per query.
    """

    user_id: Ints
    window: Ints
    position: Ints
    event: Ints
    label_event: Ints
    request_timestamp: Ints
    labels: LabelSets

    def __len__(self) -> int:
        return len(self.user_id)

    @property
    def label_item_id(self) -> Ints:
        """All labels in the order of their queries, [labels]: one per query, unless they are sets."""
        return self.labels.item_id

    @property
    def label_timestamp(self) -> Ints:
        """Start of a query's one label in seconds, which is the time of the query: [Q]."""
        return self.request_timestamp

    def take(self, rows: npt.ArrayLike) -> Queries:
        """Returns the queries at `rows` (indices or a mask), in that order."""
        chosen = np.asarray(rows)
        return Queries(**{f.name: self._column(f.name, chosen) for f in dataclasses.fields(self)})

    def _column(self, name: str, rows: npt.NDArray[Any]) -> Any:
        return self.labels.take(rows) if name == "labels" else getattr(self, name)[rows]


def read_windows(
    pattern_or_dir: str, users: Sequence[FeatureSpec] = (), without: Sequence[str] = ()
) -> Windows:
    """Reads the windows of one split of InteractionExampleGen's Examples.

    Args:
        pattern_or_dir: the split's directory, or a pattern of gzipped TFRecord files.
        users: the columns of users/ that the windows carry.
        without: fields of events to leave out (NOT_FOR_BASELINES). They take no memory and hold UNKNOWN.

    Raises:
        FileNotFoundError: no file matches.
    """
    import tensorflow as tf

    is_directory = tf.io.gfile.isdir(pattern_or_dir)
    pattern = os.path.join(pattern_or_dir, "data_tfrecord-*.gz") if is_directory else pattern_or_dir
    files = sorted(tf.io.gfile.glob(pattern))
    if not files:
        raise FileNotFoundError(f"No windows to evaluate: no file matches {pattern}.")

    types = {name: tf.as_dtype(one.dtype) for name, one in REQUEST_INPUTS.items()}
    events = {name: field for name, field in _EVENT_FEATURES.items() if field not in without}
    ragged = [*events, features.SEEN_ITEM_ID, features.LABEL_ITEM_ID]
    spec: dict[str, Any] = {
        name: tf.io.RaggedFeature(types.get(name, tf.int64), row_splits_dtype=tf.int64) for name in ragged
    }
    spec[features.USER_ID] = tf.io.FixedLenFeature([], tf.int64)
    for feature in users:
        dtype = tf.as_dtype(feature.column_kind.dtype)
        spec[feature.name] = tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64)

    # Each batch becomes NumPy arrays at once: a string takes 24 bytes in a tensor, here only its own length.
    flat: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in (*ragged, features.USER_ID)}
    lengths: dict[str, list[Ints]] = {name: [] for name in ragged}
    columns: dict[str, list[Any]] = {feature.name: [] for feature in users}
    batches = tf.data.TFRecordDataset(files, "GZIP").batch(_WINDOWS_PER_BATCH)
    for batch in batches.map(lambda serialized: tf.io.parse_example(serialized, spec)).prefetch(1):
        flat[features.USER_ID].append(batch[features.USER_ID].numpy())
        for name in ragged:
            values = batch[name].flat_values.numpy()
            flat[name].append(values.astype(np.bytes_) if values.dtype == object else values)
            lengths[name].append(batch[name].row_lengths().numpy())
        for feature in users:
            columns[feature.name].append(batch[feature.name])

    def joined(name: str) -> npt.NDArray[Any]:
        return np.concatenate(flat.pop(name))

    def offsets(name: str) -> Ints:
        return np.concatenate([[0], np.cumsum(np.concatenate(lengths[name]))]).astype(np.int64)

    found = {field: joined(name) for name, field in events.items()}
    # A broadcast of one value takes no memory.
    unknown: dict[str, Any] = {
        field: np.broadcast_to(np.array(features.UNKNOWN, types[name].as_numpy_dtype), found["item_id"].shape)
        for name, field in _EVENT_FEATURES.items()
        if field in without
    }
    return Windows(
        user_id=joined(features.USER_ID),
        offsets=offsets(features.HISTORY_ITEM_ID),
        label_offsets=offsets(features.LABEL_ITEM_ID),
        label_item_id=joined(features.LABEL_ITEM_ID),
        seen_offsets=offsets(features.SEEN_ITEM_ID),
        seen_item_id=joined(features.SEEN_ITEM_ID),
        user_features={feature.name: _as_requested(columns[feature.name], feature) for feature in users},
        **found,
        **unknown,
    )


def _as_requested(batches: Sequence[Any], feature: FeatureSpec) -> npt.NDArray[Any]:
    """Pads ragged batches [windows, (values)] of a user feature to [W], or for lists to [W, values]."""
    kind = feature.column_kind
    width = feature.width or 1
    if kind.per_row == "any":
        width = max(width, *(int(batch.bounding_shape(axis=1)) for batch in batches))
    rows = np.concatenate([batch.to_tensor(kind.absent, shape=[None, width]).numpy() for batch in batches])
    return rows if kind.is_list else rows[:, 0]


def all_queries(windows: Windows) -> Queries:
    """Returns every query of the split, in the order of its windows.

    A window with a set of labels is one query, at its last listen like a request. Without a listen the query
    is at its last event, and the served model answers it like a request without a history. A window without
    labels has no query, because no recommendation could be right.
    """
    step = windows.label_step
    counts = np.diff(windows.label_offsets)
    of_set = np.flatnonzero(counts)
    # The last listen of each window: the newest listen so far at its last event, if it lies in the window.
    place = np.where(windows.event_type == _LISTEN, np.arange(len(step)), -1)
    last = windows.offsets[of_set + 1] - 1
    newest = np.maximum.accumulate(place)[last] if len(of_set) else last
    asked_at = np.where(newest < windows.offsets[of_set], last, newest)
    event = np.sort(np.concatenate([np.flatnonzero(step > 0), asked_at]))
    is_set = step[event] == 0
    window = windows.window_of_event[event]
    label_event = event + step[event]

    label_counts = np.where(is_set, counts[window], 1)
    offsets = np.concatenate([[0], np.cumsum(label_counts)]).astype(np.int64)
    items = np.empty(offsets[-1], np.int64)
    items[offsets[:-1][~is_set]] = windows.item_id[label_event[~is_set]]
    # Queries and windows list the sets in the same order.
    items[np.repeat(is_set, label_counts)] = windows.label_item_id
    return Queries(
        user_id=windows.user_id[window],
        window=window,
        position=event - windows.offsets[window],
        event=event,
        label_event=np.where(is_set, -1, label_event),
        request_timestamp=np.where(is_set, windows.request_timestamp[event], windows.timestamp[label_event]),
        labels=LabelSets(items, offsets),
    )


def sample_by_user(queries: Queries, max_queries: int, seed: int) -> Ints:
    """Samples users with at most `max_queries` queries together, and returns the rows of all their queries.

    The sample holds at least one user, however many queries that is. It takes whole users, because a sample
    of single queries would thin out users with few queries more than others. Per-user means would no longer
    be means over users.
    """
    if len(queries) <= max_queries:
        return np.arange(len(queries))
    users, user_index, counts = np.unique(queries.user_id, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(users))
    within = np.cumsum(counts[order]) <= max_queries
    within[0] = True
    chosen = np.zeros(len(users), bool)
    chosen[order[within]] = True
    return np.flatnonzero(chosen[user_index])


def history_batch(
    windows: Windows, queries: Queries, rows: npt.ArrayLike, history_length: int, exclude: bool = False
) -> dict[str, npt.NDArray[Any]]:
    """Builds the inputs of the served model's signature for some queries, with their exclusions.

    A request holds the last `history_length` events up to and including the query's own, oldest first,
    padded at the end. The play ratio of the query's own event is unknown, because its item still plays. An
    input that windows do not record has its default.

    Args:
        windows: the split's windows.
        queries: queries in them.
        rows: [B] indices into `queries`.
        history_length: T.
        exclude: whether to exclude the items that the user already had (`excluded_items`).

    Returns:
        user_id [B], request_timestamp [B], history_* [B, T], exclude_item_id [B, E], and user features [B]
        or [B, values], by name. Inputs at their defaults are [B] or [B, 1].
    """
    batch = queries.take(rows)
    length = np.minimum(batch.position + 1, history_length)
    steps = np.arange(history_length)
    known = steps < length[:, None]
    index = np.where(known, (batch.event - length + 1)[:, None] + steps, 0)

    def of_events(one: RequestInput) -> npt.NDArray[Any]:
        values = getattr(windows, _EVENT_FEATURES[one.name])
        return np.where(known, values[index], np.asarray(one.padding, values.dtype))

    own = {features.USER_ID: batch.user_id, features.REQUEST_TIMESTAMP: batch.request_timestamp}
    inputs: dict[str, npt.NDArray[Any]] = {}
    for one in QUERY_INPUTS:
        if one.name in own:
            inputs[one.name] = own[one.name]
        elif one.shape == PER_EVENT and one.name in _EVENT_FEATURES:
            inputs[one.name] = of_events(one)
        else:
            inputs[one.name] = _not_given(one, len(batch))
    inputs[features.HISTORY_EVENT_TYPE] = inputs[features.HISTORY_EVENT_TYPE].astype(object)
    inputs[features.HISTORY_PLAY_RATIO][np.arange(len(batch)), length - 1] = features.UNKNOWN
    nothing = _not_given(REQUEST_INPUTS[features.EXCLUDE_ITEM_ID], len(batch))
    return {
        **inputs,
        features.EXCLUDE_ITEM_ID: excluded_items(windows, batch) if exclude else nothing,
        **{name: values[batch.window] for name, values in windows.user_features.items()},
    }


def _not_given(one: RequestInput, queries: int) -> npt.NDArray[Any]:
    """Returns an input's default for some queries, [queries] or [queries, 1]."""
    shape = [queries, *(size or 1 for size in one.sizes[1:])]
    return np.full(shape, one.default, object if one.dtype == "string" else one.dtype)


def excluded_items(windows: Windows, queries: Queries) -> Ints:
    """Returns the items that each query's user already had, before the window or in it up to the query.

    Returns:
        [Q, E] int64, padded with -1; an item may occur twice.
    """
    first_seen = windows.seen_offsets[queries.window]
    seen = padded(windows.seen_item_id, first_seen, windows.seen_offsets[queries.window + 1] - first_seen)
    return np.hstack([seen, padded(windows.item_id, windows.offsets[queries.window], queries.position + 1)])


def padded(values: Ints, start: Ints, length: Ints) -> Ints:
    """Pads rows `values[start:start + length]` with -1 to the longest: [len(start), max(length)]."""
    steps = np.arange(length.max(initial=0))
    known = steps < length[:, None]
    rows = np.full(known.shape, PADDING, np.int64)
    rows[known] = values[(start[:, None] + steps)[known]]
    return rows


def ragged_index(start: Ints, length: Ints) -> Ints:
    """Concatenates the indices `start[i], ..., start[i] + length[i] - 1` of every i: [sum(length)]."""
    ends = np.cumsum(length)
    return np.arange(length.sum()) + np.repeat(start - (ends - length), length)
