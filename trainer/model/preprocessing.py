"""Preprocessing for training, evaluation and serving: Transform's graphs over windows and items.

Every position of a window is a query that sees its last N events. A request's history is one window with a
query at its last position. Serving runs the same function over it, so training and serving agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from two_tower.data_directory.feature_columns import FeatureSpec
from two_tower.schema import features
from two_tower.trainer.model.column_embeddings import COLUMN_EMBEDDINGS, Form
from two_tower.trainer.model.history_aggregates import history_aggregates

# Vocabulary size of a column: its most frequent values, or words of a text.
MAX_VALUES = 50_000

Features = dict[str, Any]


def preprocessing_fn(inputs: Features, custom_config: dict[str, Any]) -> Features:
    """Transforms windows to tower inputs.

    Args:
      inputs: raw features, ragged [windows, (events)] but for `user_id` [windows, 1].
      custom_config: "history_length" (N); "aggregates", names of history aggregates (default: all);
        "has_timestamps", without which no seconds elapse (default: true); "users",
        columns of users/ (FeatureSpec as dicts, default: none).

    Returns:
      `user` [windows, 1]: row of the user vocabulary, its size if unknown. Ragged [windows, (events)]: item
      ids, play ratios, labels and items seen as they came; event types, hashed; `is_listen`;
      `elapsed_seconds` since the window's first event; `example_age` in days; aggregates. And the users'
      columns, see `_columns`.
    """
    item_id = inputs[features.HISTORY_ITEM_ID]
    timestamp = inputs[features.HISTORY_TIMESTAMP]
    request = inputs[features.REQUEST_TIMESTAMP]
    label_step = inputs[features.LABEL_STEP]
    is_query = label_step > 0

    tft.vocabulary(item_id.flat_values, vocab_filename=features.ITEM_VOCABULARY)
    flat_step = label_step.flat_values
    at_query = tf.where(flat_step > 0)[:, 0]
    label_item = tf.gather(item_id.flat_values, at_query + tf.gather(flat_step, at_query))
    # The counts give Q, the sampling probability of in-batch negatives.
    tft.vocabulary(label_item, vocab_filename=features.LABEL_VOCABULARY, store_frequency=True)

    outputs: Features = {
        features.USER: tft.compute_and_apply_vocabulary(
            inputs[features.USER_ID],
            vocab_filename=features.USER_VOCABULARY,
            num_oov_buckets=1,
            name="user_vocabulary",
        ),
        features.HISTORY_ITEM_ID: item_id,
        features.HISTORY_PLAY_RATIO: inputs[features.HISTORY_PLAY_RATIO],
        features.EVENT_TYPE: timestamp.with_flat_values(
            tf.strings.to_hash_bucket_fast(
                inputs[features.HISTORY_EVENT_TYPE].flat_values, features.EVENT_TYPE_HASHES
            )
        ),
        features.LABEL_STEP: label_step,
        features.LABEL_ITEM_ID: inputs[features.LABEL_ITEM_ID],
        features.SEEN_ITEM_ID: inputs[features.SEEN_ITEM_ID],
    }
    specs = [FeatureSpec(**spec) for spec in custom_config.get("users", ())]
    outputs |= _columns(inputs, specs)
    if numbers := _numbers(inputs, specs):
        outputs[features.NUMBERS] = _z_scored(tf.concat(numbers, axis=1))
    newest_request = tft.max(tf.boolean_mask(request.flat_values, is_query.flat_values))
    if custom_config.get("has_timestamps", True):
        begin = tf.gather(timestamp.row_starts(), timestamp.value_rowids())
        outputs[features.ELAPSED_SECONDS] = timestamp.with_flat_values(
            timestamp.flat_values - tf.gather(timestamp.flat_values, begin)
        )
    # Zero from the end of train on, before any scaling: serving asks for "now".
    age = tf.maximum(tf.cast(newest_request - request.flat_values, tf.float32), 0.0) / 86_400.0
    outputs[features.EXAMPLE_AGE] = request.with_flat_values(age)

    names = custom_config.get("aggregates", features.AGGREGATES)
    is_listen, aggregates = history_aggregates(inputs, custom_config["history_length"], names)
    outputs[features.IS_LISTEN] = timestamp.with_flat_values(tf.cast(is_listen, tf.int64))
    if not aggregates:
        return outputs
    # One matrix: every analyzer costs Transform seconds, even for little data.
    values = tf.stack(list(aggregates.values()), axis=1)
    observed = tf.boolean_mask(values, is_query.flat_values)
    spread = tf.sqrt(tft.var(observed, reduce_instance_dims=False))
    mean = tft.mean(observed, reduce_instance_dims=False)
    scaled = tf.math.divide_no_nan(values - mean, tf.where(spread > 1e-6, spread, 0.0))
    for column, name in enumerate(aggregates):
        outputs[name] = timestamp.with_flat_values(scaled[:, column])
    return outputs


def catalog_preprocessing_fn(inputs: Features, custom_config: dict[str, Any] | None = None) -> Features:
    """Transforms items to tower inputs.

    Args:
      inputs: `item_id` and `item_length` [items, 1], `artist_id` and `album_id` ragged [items, (ids)].
      custom_config: "items", columns of items/ (FeatureSpec as dicts, default: none).

    Returns:
      `item_id` as it came, `artist` and `album` as rows of their vocabularies, and `length`: z-scored
      logarithm of the seconds, zero where unknown. And the items' columns, see `_columns`.
    """
    specs = [FeatureSpec(**spec) for spec in (custom_config or {}).get("items", ())]
    seconds = inputs[features.ITEM_LENGTH]
    log_length = tf.where(seconds > 0, tf.math.log(tf.maximum(seconds, 1.0)), math.nan)
    numbers = _z_scored(tf.concat([log_length, *_numbers(inputs, specs)], axis=1))
    outputs: Features = {
        features.ITEM_ID: inputs[features.ITEM_ID],
        features.ARTIST: tft.compute_and_apply_vocabulary(
            inputs[features.ARTIST_ID], vocab_filename=features.ARTIST_VOCABULARY, name="artist_vocabulary"
        ),
        features.ALBUM: tft.compute_and_apply_vocabulary(
            inputs[features.ALBUM_ID], vocab_filename=features.ALBUM_VOCABULARY, name="album_vocabulary"
        ),
        features.LENGTH: numbers[:, :1],
        **_columns(inputs, specs),
    }
    if numbers.shape[1] > 1:
        outputs[features.NUMBERS] = numbers[:, 1:]
    return outputs


def _columns(inputs: Features, specs: Sequence[FeatureSpec]) -> Features:
    """Transforms columns of the data directory's own, but for numbers, to what the towers read.

    Within a process, look-up tables of one scope are one table, whatever the type of their keys. One process
    may transform windows and catalog. So two vocabularies must not share a name.

    Returns:
      Tensors by `features.transformed_column`. Values and words are ragged [rows, (values)], rows of the
      column's vocabulary. -1 stands for a value that is not among the MAX_VALUES most frequent of the
      analyzed rows. Vectors are [rows, width], unchanged.
    """
    outputs: Features = {}
    for spec in specs:
        name, embedding = features.transformed_column(spec.name), COLUMN_EMBEDDINGS[spec.kind]
        if embedding.form is Form.NUMBERS:
            continue
        outputs[name] = embedding.prepare(inputs[spec.name])
        if embedding.form is Form.VALUES:
            outputs[name] = tft.compute_and_apply_vocabulary(
                outputs[name], top_k=MAX_VALUES, vocab_filename=name, name=f"{name}_vocabulary"
            )
    return outputs


def _numbers(inputs: Features, specs: Sequence[FeatureSpec]) -> list[tf.Tensor]:
    """Returns each column that is a number, [rows, 1], NaN where absent."""
    embeddings = [(spec, COLUMN_EMBEDDINGS[spec.kind]) for spec in specs]
    return [one.prepare(inputs[spec.name]) for spec, one in embeddings if one.form is Form.NUMBERS]


def _z_scored(values: tf.Tensor) -> tf.Tensor:
    """Scales each column by the mean and the deviation of its numbers; NaN and infinity become zero.

    All columns at once, since every analyzer costs Transform seconds, and by weighted sums, since a batch
    without any number must not make the mean NaN.

    Args:
      values: float32 [rows, columns].
    """
    known = tf.math.is_finite(values)
    weight = tf.cast(known, tf.float64)
    # In double precision: a variance from sums of squares cancels.
    exact = tf.cast(tf.where(known, values, 0.0), tf.float64)
    sums = tft.sum(tf.stack([weight, exact, exact**2], axis=1), reduce_instance_dims=False)
    mean = tf.math.divide_no_nan(sums[1], sums[0])
    variance = tf.math.divide_no_nan(sums[2], sums[0]) - mean**2
    # A constant column becomes zero; the rest of its variance is rounding.
    spread = tf.where(variance > 1e-10 * mean**2, tf.sqrt(tf.maximum(variance, 0.0)), 0.0)
    scaled = tf.math.divide_no_nan(exact - mean, spread)
    return tf.cast(tf.where(known, scaled, 0.0), tf.float32)
