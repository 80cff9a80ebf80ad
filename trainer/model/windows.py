"""Batches of windows and query positions, as the towers read them."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class Windows(NamedTuple):
    """A batch of windows as the towers read it, padded to the longest.

    `user` int64 and `length` int32 (events) [windows]; `rows` int32 [windows, events]: catalog rows;
    `is_listen` bool, `play_ratio` float32 (-1 unknown), `elapsed` int64 (seconds since the window's first
    event; None without times) and `example_age` float32 (days) [windows, events]; `aggregates` float32
    [windows, events, aggregates]. Of columns of users/, `user_values` by feature: int32 [windows, values],
    rows of an embedding table, -1 where there are fewer, the first always there; `user_numbers` float32
    [windows, numbers]: numbers and vectors.
    """

    user: tf.Tensor
    length: tf.Tensor
    rows: tf.Tensor
    is_listen: tf.Tensor
    play_ratio: tf.Tensor
    elapsed: tf.Tensor | None
    example_age: tf.Tensor
    aggregates: tf.Tensor
    user_values: dict[str, tf.Tensor]
    user_numbers: tf.Tensor


class Positions(NamedTuple):
    """Query positions: `window` and `event` int32 [positions]. `event` is -1 for an empty history."""

    window: tf.Tensor
    event: tf.Tensor
