"""Windows and positions: the towers' inputs, and their padding from Transform's ragged outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from two_tower.schema import features
from two_tower.trainer.model.catalog_table import OUT_OF_VOCABULARY, CatalogTable
from two_tower.trainer.model.history_aggregates import catalog_aggregates


class Windows(NamedTuple):
    """A batch of windows for the towers, padded to the longest window.

    Attributes:
        user: int64 [windows], rows of the user vocabulary.
        length: int32 [windows], events.
        rows: int32 [windows, events], catalog rows.
        is_listen: bool [windows, events].
        play_ratio: float32 [windows, events], -1 where unknown.
        elapsed: int64 [windows, events], seconds since the window's first event; None without times.
        example_age: float32 [windows, events], days.
        aggregates: float32 [windows, events, aggregates].
        user_values: by feature of users/, int32 [windows, values], rows of an embedding table. -1 where there
          are fewer, never in the first place.
        user_numbers: float32 [windows, numbers], numbers and vectors of users/.
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


def windows_of(
    transformed: dict[str, tf.RaggedTensor | tf.Tensor],
    table: CatalogTable,
    history_length: int,
    aggregates: Sequence[str] = features.AGGREGATES,
) -> Windows:
    """Pads Transform's ragged outputs [windows, (events)] to the towers' input.

    Without `example_age` it is zero, "now", as in serving. `aggregates` names the aggregates for the towers.
    """
    item_id = transformed[features.HISTORY_ITEM_ID]
    rows = table.rows_of(padded(item_id, features.PADDING))
    listens = transformed[features.IS_LISTEN]
    is_listen = padded(listens) > 0
    age, elapsed = features.EXAMPLE_AGE, features.ELAPSED_SECONDS
    of_catalog = catalog_aggregates(
        rows, is_listen, table.first_artist, table.length, history_length, aggregates
    )
    names = features.aggregate_columns(aggregates)
    # One matrix, so that all columns are padded at once.
    of_events = [transformed[name].flat_values[:, tf.newaxis] for name in names]
    of_events = tf.concat([tf.zeros([tf.size(listens.flat_values), 0]), *of_events], axis=-1)
    user = tf.reshape(transformed[features.USER], [-1])
    user_values, user_numbers = _user_columns(transformed)
    return Windows(
        user=user,
        length=tf.cast(item_id.row_lengths(), tf.int32),
        rows=rows,
        is_listen=is_listen,
        play_ratio=padded(transformed[features.HISTORY_PLAY_RATIO], features.UNKNOWN),
        elapsed=padded(transformed[elapsed]) if elapsed in transformed else None,
        example_age=padded(transformed[age]) if age in transformed else tf.zeros(tf.shape(rows)),
        aggregates=tf.concat([padded(listens.with_flat_values(of_events)), of_catalog], axis=-1),
        user_values=user_values,
        user_numbers=tf.concat([tf.zeros([tf.size(user), 0]), *user_numbers], axis=-1),
    )


def _user_columns(
    transformed: dict[str, tf.RaggedTensor | tf.Tensor],
) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
    """Returns rows of embedding tables by feature, and numbers and vectors; see `Windows`."""
    values, numbers = {}, []
    if features.NUMBERS in transformed:
        numbers.append(transformed[features.NUMBERS])
    for name in sorted(transformed):
        if not name.startswith(features.transformed_column("user_")):
            continue
        column = transformed[name]
        if column.dtype != tf.int64:
            numbers.append(column)
            continue
        rows = padded(tf.ragged.boolean_mask(column, column >= 0) + 1, features.PADDING)
        first = tf.maximum(rows[:, :1], OUT_OF_VOCABULARY)
        values[name] = tf.cast(tf.concat([first, rows[:, 1:]], axis=1), tf.int32)
    return values, numbers


def padded(values: tf.RaggedTensor, padding: int = 0) -> tf.Tensor:
    """Pads [windows, (events), ...] to [windows, events, ...], at least one event for empty histories."""
    dense = values.to_tensor(padding)
    missing = tf.maximum(1 - tf.shape(dense)[1], 0)
    inner = [[0, 0]] * (len(dense.shape) - 2)
    return tf.pad(dense, [[0, 0], [0, missing], *inner], constant_values=padding)
