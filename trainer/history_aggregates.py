"""What a query knows of its last N events, at every position of many windows at once.

The same function runs over a request's history in the served model, so what is computed here in training
is what is served.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from trainer import features

# A request later than this after the seed's start begins a new session. Gaps below it would tell whether
# the seed was skipped, which is not known while it plays.
SESSION_GAP_SECONDS = 1_800

Features = dict[str, Any]


def history_aggregates(inputs: Features, history_length: int) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """What a query at each position knows of its last `history_length` events.

    Args:
      inputs: the raw ragged features of windows, [windows, (events)].
      history_length: N; position p sees events (p - N, p].

    Returns:
      `is_listen` bool [events] and each aggregate float32 [events], over the flat values of all windows.
      The play ratio at the query's own position is not known while it plays, and is not used.
    """
    timestamp = inputs[features.HISTORY_TIMESTAMP]
    splits = tf.cast(timestamp.row_splits, tf.int64)
    event_type = inputs[features.HISTORY_EVENT_TYPE].flat_values
    play_ratio = inputs[features.HISTORY_PLAY_RATIO].flat_values
    organic = inputs[features.HISTORY_IS_ORGANIC].flat_values
    seconds = timestamp.flat_values
    is_listen = is_label_event(event_type)

    position = tf.range(tf.size(seconds, out_type=tf.int64))
    window_start = tf.repeat(splits[:-1], splits[1:] - splits[:-1])
    first = tf.maximum(window_start, position - history_length + 1)

    def total(values: tf.Tensor, to: tf.Tensor) -> tf.Tensor:
        # In double precision, so that a sum does not depend on what else is in the batch.
        sums = tf.pad(tf.cumsum(tf.cast(values, tf.float64)), [[1, 0]])
        return tf.cast(tf.gather(sums, to) - tf.gather(sums, first), tf.float32)

    here = position + 1
    events = tf.cast(here - first, tf.float32)
    listens = total(is_listen, here)
    played = is_listen & (play_ratio >= 0)
    known_organic = is_listen & (organic >= 0)
    previous = tf.maximum(position - 1, first)
    idle = inputs[features.REQUEST_TIMESTAMP].flat_values - seconds
    # Divided where nothing was recorded, an aggregate is zero.
    return is_listen, {
        features.LISTEN_COUNT: tf.math.log1p(listens),
        features.MEAN_PLAY_RATIO: tf.math.divide_no_nan(
            total(tf.where(played, play_ratio, 0.0), position), total(played, position)
        ),
        features.ORGANIC_SHARE: tf.math.divide_no_nan(
            total(known_organic & (organic == 1), here), total(known_organic, here)
        ),
        features.REACTION_SHARE: tf.math.divide_no_nan(events - listens, events),
        features.SECONDS_SINCE_PREVIOUS: _log_seconds(seconds - tf.gather(seconds, previous)),
        features.IDLE_SECONDS: _log_seconds(idle - SESSION_GAP_SECONDS),
    }


def is_label_event(event_type: tf.Tensor) -> tf.Tensor:
    """True where an event is a listen rather than a reaction."""
    return (event_type == features.LISTEN) | (event_type == "")


def _log_seconds(seconds: tf.Tensor) -> tf.Tensor:
    return tf.math.log1p(tf.cast(tf.maximum(seconds, 0), tf.float32))
