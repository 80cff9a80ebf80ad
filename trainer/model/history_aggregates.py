"""History aggregates: features of a query's last N events, at every position of many windows at once.

The served model runs the same functions over a request's history, so training and serving agree. A position
sees only its last N events, wherever its window begins, as in a request. Values that are unknown while the
seed item plays are not used: its play ratio, and the time of the request. The exception is a request so much
later that it starts a new session.

Windows lie one after the other in flat values. Every aggregate is a difference of prefix sums, or an index
found by sorting. So time and memory grow with the number of events, not with events times N.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import tensorflow as tf

from two_tower.schema import features

# Session gap: events further apart are of two sessions, and so is a request so long after the seed's start.
# The query does not see a shorter wait, which would reveal whether the user skipped the seed.
SESSION_GAP_SECONDS = 1_800
HOUR, DAY, WEEK = 3_600, 86_400, 7 * 86_400

# Bits of a sort key for the seconds since the window's start: 272 years.
_TIME_BITS = 33
_LATEST = 2**_TIME_BITS - 1

# Greater play ratios are errors of the data. An infinite one would make the whole batch NaN.
_MAX_PLAY_RATIO = 100.0

Features = dict[str, Any]


def history_aggregates(
    inputs: Features, history_length: int, names: Sequence[str] = features.AGGREGATES
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Computes the aggregates of the last `history_length` events at each position.

    Args:
      inputs: the raw ragged features of windows, [windows, (events)], in the order of time.
      history_length: N; position p sees events (p - N, p].
      names: the aggregates; `catalog_aggregates` computes those of the catalog. Inputs that no aggregate
        needs may be missing.

    Returns:
      `is_listen` bool [events], and by column (`features.aggregate_columns`) float32 [events], over the flat
      values of all windows. Counts and seconds are log(1 + x). A mean or share of nothing is zero.
    """
    history = _History(inputs, history_length)
    columns: dict[str, tf.Tensor] = {}
    for name in names:
        if name not in features.CATALOG_AGGREGATES:
            values = _AGGREGATES[name](history)
            columns.update(zip(features.aggregate_columns([name]), values, strict=True))
    return history.is_listen, columns


def catalog_aggregates(
    rows: tf.Tensor,
    is_listen: tf.Tensor,
    artist_of: tf.Tensor,
    length_of: tf.Tensor,
    history_length: int,
    names: Sequence[str],
) -> tf.Tensor:
    """Computes the aggregates of catalog features of the last `history_length` events at each position.

    Args:
      rows: int32 [windows, events], catalog rows; padding is at the end.
      is_listen: bool [windows, events], false in padding.
      artist_of: int32 [items], an item's first artist, -1 where it has none.
      length_of: float32 [items], z-scored, zero where unknown.
      history_length: N.
      names: the aggregates; only those of the catalog count.

    Returns:
      float32 [windows, events, aggregates] in the order of CATALOG_AGGREGATES, scaled without train:
      log(1 + distinct artists) / log(1 + N), and the mean length of the listens. An unknown length counts
      as the average.
    """
    shape = tf.shape(rows, tf.int64)
    last = _LastEvents(tf.range(shape[0] + 1) * shape[1], history_length)
    rows, listens = tf.reshape(rows, [-1]), tf.reshape(is_listen, [-1])
    columns = []
    if features.DISTINCT_ARTISTS in names:
        artist = tf.gather(artist_of, rows)
        distinct = last.distinct(artist, listens & (artist >= 0))
        columns.append(_log1p(distinct) / math.log1p(history_length))
    if features.MEAN_ITEM_LENGTH in names:
        length = tf.where(listens, tf.gather(length_of, rows), 0.0)
        columns.append(last.mean(prefix_sums(length), prefix_sums(listens)))
    stacked = tf.stack(columns, axis=-1) if columns else tf.zeros([tf.size(rows), 0])
    return tf.reshape(stacked, [shape[0], shape[1], len(columns)])


def is_label_event(event_type: tf.Tensor) -> tf.Tensor:
    """Tells listens, which can be labels, from reactions."""
    return (event_type == features.LISTEN) | (event_type == "")


def prefix_sums(values: tf.Tensor) -> tf.Tensor:
    """Sums the first 0, 1, ... values, [values + 1]: int32 for flags, float64 for numbers.

    Sums are exact, or in double precision. So a difference of two does not depend on the rest of the batch.
    """
    exact = tf.int32 if values.dtype == tf.bool else tf.float64
    return tf.pad(tf.cumsum(tf.cast(values, exact)), [[1, 0]])


class _LastEvents:
    """The last N events at every position of windows that lie one after the other.

    Attributes, int32 [events]: `position`; `window`, its number; `window_start`; `first`, the position of
    the first visible event; `here`, the position after the last.
    """

    def __init__(self, row_splits: tf.Tensor, history_length: int) -> None:
        self.history_length = history_length
        # int32 suffices: a batch has fewer than 2^31 events.
        self.row_splits = row_splits = tf.cast(row_splits, tf.int32)
        events = row_splits[-1]
        ones = tf.ones_like(row_splits[1:])
        # Not tf.repeat, which makes a matrix as wide as the longest window.
        begun = tf.math.unsorted_segment_sum(ones, row_splits[1:], events + 1)
        self.window = tf.cumsum(begun)[:-1]
        self.window_start = tf.gather(row_splits, self.window)
        self.position = tf.range(events)
        self.here = self.position + 1
        self.first = tf.maximum(self.window_start, self.here - history_length)

    def total(
        self, sums: tf.Tensor, begin: tf.Tensor | None = None, end: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Computes, from prefix sums, the sum over events from `begin` (`first`) to before `end` (`here`)."""
        begin = self.first if begin is None else begin
        last = sums[1:] if end is None else tf.gather(sums, end)
        return tf.cast(last - tf.gather(sums, begin), tf.float32)

    def mean(self, sums: tf.Tensor, counts: tf.Tensor, end: tf.Tensor | None = None) -> tf.Tensor:
        """Averages over the last events; zero where there are none."""
        return tf.math.divide_no_nan(self.total(sums, end=end), self.total(counts, end=end))

    def distinct(self, key: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
        """Counts distinct keys among the last events that are `counted`, float32.

        Each key is counted at its last occurrence. An event counts from its own position to its key's next
        occurrence, or to the position that no longer sees it.
        """
        at = _places(counted)
        keys = tf.gather(key, at)
        # A stable sort keeps the order of a key's occurrences. Those of later windows come last.
        by = tf.argsort(keys, stable=True)
        at, keys = tf.gather(at, by), tf.gather(keys, by)
        window_end = tf.gather(self.row_splits, tf.gather(self.window, at) + 1)
        unseen = tf.minimum(at + self.history_length, window_end)
        again = keys[1:] == keys[:-1]
        until = tf.concat([tf.where(again, tf.minimum(at[1:], unseen[:-1]), unseen[:-1]), unseen[-1:]], 0)
        size = tf.size(counted)
        gone = tf.math.unsorted_segment_sum(tf.ones_like(until, tf.int32), until, size + 1)
        return tf.cast(tf.cumsum(tf.cast(counted, tf.int32) - gone[:-1]), tf.float32)


class _History(_LastEvents):
    """Windows of events, with intermediate results of several aggregates, computed at first use."""

    def __init__(self, inputs: Features, history_length: int) -> None:
        event_type = inputs[features.HISTORY_EVENT_TYPE]
        super().__init__(event_type.row_splits, history_length)
        self._inputs = inputs
        self.is_listen = is_label_event(event_type.flat_values)

    def flat(self, name: str) -> tf.Tensor:
        """Returns the values of a raw feature, [events]."""
        return self._inputs[name].flat_values

    @cached_property
    def listens(self) -> tf.Tensor:
        return prefix_sums(self.is_listen)

    @cached_property
    def listen_count(self) -> tf.Tensor:
        return self.total(self.listens)

    @cached_property
    def distinct_items(self) -> tf.Tensor:
        return self.distinct(self.flat(features.HISTORY_ITEM_ID), self.is_listen)

    @cached_property
    def seconds(self) -> tf.Tensor:
        """Timestamp of each event, int64."""
        return self.flat(features.HISTORY_TIMESTAMP)

    @cached_property
    def waited(self) -> tf.Tensor:
        """Seconds from an event to the request."""
        return self.flat(features.REQUEST_TIMESTAMP) - self.seconds

    @cached_property
    def is_away(self) -> tf.Tensor:
        """Flags of requests that begin a new session."""
        return self.waited > SESSION_GAP_SECONDS

    @cached_property
    def now(self) -> tf.Tensor:
        """Time visible to the query: the request's where it begins a session, else the seed's."""
        return tf.where(self.is_away, self.flat(features.REQUEST_TIMESTAMP), self.seconds)

    @cached_property
    def session_start(self) -> tf.Tensor:
        """Position of the first visible event of the session, int32."""
        pause = self.seconds[1:] - self.seconds[:-1] > SESSION_GAP_SECONDS
        begins = tf.concat([[True], pause], 0)[: tf.size(self.seconds)]
        session = tf.cumsum(tf.cast(begins, tf.int32)) - 1
        return tf.maximum(tf.gather(_places(begins), session), self.first)

    def _within_window(self, seconds: tf.Tensor) -> tf.Tensor:
        """Computes seconds since the window's start, clipped to the bits of a sort key."""
        opening = tf.gather(self.seconds, self.window_start)
        return tf.clip_by_value(seconds - opening, 0, _LATEST)

    @cached_property
    def _window_keys(self) -> tf.Tensor:
        """Window part of sort keys; plus seconds since the window's start it sorts by window and time."""
        return tf.bitwise.left_shift(tf.cast(self.window, tf.int64), tf.constant(_TIME_BITS, tf.int64))

    @cached_property
    def _listen_keys(self) -> tf.Tensor:
        """Sort keys of the listens, in their order."""
        keys = self._window_keys + self._within_window(self.seconds)
        return tf.gather(keys, _places(self.is_listen))

    @cached_property
    def _now_within_window(self) -> tf.Tensor:
        return self._within_window(self.now)

    @cached_property
    def _unseen_listens(self) -> tf.Tensor:
        """Number of listens in the batch before the first visible event."""
        return tf.gather(self.listens, self.first)

    def listens_within(self, seconds: int) -> tf.Tensor:
        """Counts listens that began less than `seconds` before now, int32."""
        since = tf.maximum(self._now_within_window - (seconds - 1), 0)
        before = tf.searchsorted(self._listen_keys, self._window_keys + since)
        return tf.maximum(self.listens[1:] - tf.maximum(before, self._unseen_listens), 0)


def _places(flags: tf.Tensor) -> tf.Tensor:
    """Returns the indices of set flags, int32."""
    return tf.cast(tf.where(flags)[:, 0], tf.int32)


Columns = tuple[tf.Tensor, ...]


def _mean_play_ratio(history: _History) -> Columns:
    ratio = history.flat(features.HISTORY_PLAY_RATIO)
    played = history.is_listen & (ratio >= 0)
    sums = prefix_sums(tf.where(played, tf.minimum(ratio, _MAX_PLAY_RATIO), 0.0))
    # Without the seed, which still plays.
    return (history.mean(sums, prefix_sums(played), end=history.position),)


def _organic_share(history: _History) -> Columns:
    organic = history.flat(features.HISTORY_IS_ORGANIC)
    known = history.is_listen & (organic >= 0)
    return (history.mean(prefix_sums(known & (organic == 1)), prefix_sums(known)),)


def _reaction_share(history: _History) -> Columns:
    events = tf.cast(history.here - history.first, tf.float32)
    return ((events - history.listen_count) / events,)


def _repeat_rate(history: _History) -> Columns:
    repeats = history.listen_count - history.distinct_items
    return (tf.math.divide_no_nan(repeats, history.listen_count),)


def _seconds_since_previous(history: _History) -> Columns:
    """Computes seconds since the listen before this event; zero where none is visible."""
    before = history.listens[:-1] - 1
    if_any = tf.gather(tf.concat([_places(history.is_listen), [0]], 0), tf.maximum(before, 0))
    is_seen = (before >= 0) & (if_any >= history.first)
    previous = tf.where(is_seen, if_any, history.position)
    return (_log1p(history.seconds - tf.gather(history.seconds, previous)),)


def _session_position(history: _History) -> Columns:
    listens = history.total(history.listens, history.session_start)
    return (_log1p(tf.where(history.is_away, 0.0, listens)),)


def _session_seconds(history: _History) -> Columns:
    seconds = history.seconds - tf.gather(history.seconds, history.session_start)
    return (_log1p(tf.where(history.is_away, tf.zeros_like(seconds), seconds)),)


def _cyclic(share: tf.Tensor) -> Columns:
    """Computes sine and cosine of a share of a cycle."""
    angle = 2 * math.pi * tf.cast(share, tf.float32)
    return tf.sin(angle), tf.cos(angle)


def _log1p(values: tf.Tensor) -> tf.Tensor:
    return tf.math.log1p(tf.cast(tf.maximum(values, 0), tf.float32))


_AGGREGATES: dict[str, Callable[[_History], Columns]] = {
    features.LISTEN_COUNT: lambda history: (_log1p(history.listen_count),),
    features.MEAN_PLAY_RATIO: _mean_play_ratio,
    features.ORGANIC_SHARE: _organic_share,
    features.REACTION_SHARE: _reaction_share,
    features.DISTINCT_ITEMS: lambda history: (_log1p(history.distinct_items),),
    features.REPEAT_RATE: _repeat_rate,
    features.SECONDS_SINCE_PREVIOUS: _seconds_since_previous,
    features.IDLE_SECONDS: lambda history: (_log1p(history.waited - SESSION_GAP_SECONDS),),
    features.LISTENS_LAST_HOUR: lambda history: (_log1p(history.listens_within(HOUR)),),
    features.LISTENS_LAST_DAY: lambda history: (_log1p(history.listens_within(DAY)),),
    features.LISTENS_LAST_WEEK: lambda history: (_log1p(history.listens_within(WEEK)),),
    features.LISTENS_LAST_30_DAYS: lambda history: (_log1p(history.listens_within(30 * DAY)),),
    features.SESSION_POSITION: _session_position,
    features.SESSION_SECONDS: _session_seconds,
    features.HOUR_OF_DAY: lambda history: _cyclic(history.now % DAY / DAY),
    # Days count from the zero of the data's timestamps, which need not be a Monday.
    features.DAY_OF_WEEK: lambda history: _cyclic(history.now // DAY % 7 / 7),
}
