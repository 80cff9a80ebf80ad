"""One preprocessing for training, evaluation and serving: Transform's graphs over windows and items.

Every position of a window is treated as a query that sees its last N events. The same function runs over
a request's history, which is one window read at its last position, so what is computed here in training is
what is served.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from trainer import features
from trainer.history_aggregates import history_aggregates

Features = dict[str, Any]


def preprocessing_fn(inputs: Features, custom_config: dict[str, Any]) -> Features:
    """Windows to tower inputs.

    Args:
      inputs: raw features, ragged [windows, (events)] but for `user_id` [windows, 1].
      custom_config: "history_length" (N); "aggregates", names of history aggregates (default: all).

    Returns:
      `user` [windows, 1]: row of the user vocabulary, its size if unknown. Ragged [windows, (events)]:
      item ids, play ratios and labels as they came; `is_listen`; `example_age` in days; aggregates.
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
    # Its counts are Q, the sampling probability of in-batch negatives.
    tft.vocabulary(label_item, vocab_filename=features.LABEL_VOCABULARY, store_frequency=True)

    outputs: Features = {
        features.USER: tft.compute_and_apply_vocabulary(
            inputs[features.USER_ID], vocab_filename=features.USER_VOCABULARY, num_oov_buckets=1
        ),
        features.HISTORY_ITEM_ID: item_id,
        features.HISTORY_PLAY_RATIO: inputs[features.HISTORY_PLAY_RATIO],
        features.LABEL_STEP: label_step,
        features.LABEL_ITEM_ID: inputs[features.LABEL_ITEM_ID],
    }
    newest_request = tft.max(tf.boolean_mask(request.flat_values, is_query.flat_values))
    # Zero from the end of train on, before any scaling: the model is asked for "now".
    age = tf.maximum(tf.cast(newest_request - request.flat_values, tf.float32), 0.0) / 86_400.0
    outputs[features.EXAMPLE_AGE] = request.with_flat_values(age)

    names = custom_config.get("aggregates", features.AGGREGATES)
    is_listen, aggregates = history_aggregates(inputs, custom_config["history_length"], names)
    outputs[features.IS_LISTEN] = timestamp.with_flat_values(tf.cast(is_listen, tf.int64))
    if not aggregates:
        return outputs
    # All in one matrix: every analyzer costs Transform seconds, however little it has to look at.
    values = tf.stack(list(aggregates.values()), axis=1)
    observed = tf.boolean_mask(values, is_query.flat_values)
    spread = tf.sqrt(tft.var(observed, reduce_instance_dims=False))
    mean = tft.mean(observed, reduce_instance_dims=False)
    scaled = tf.math.divide_no_nan(values - mean, tf.where(spread > 1e-6, spread, 0.0))
    for column, name in enumerate(aggregates):
        outputs[name] = timestamp.with_flat_values(scaled[:, column])
    return outputs


def catalog_preprocessing_fn(inputs: Features) -> Features:
    """Items to tower inputs.

    Args:
      inputs: `item_id` and `item_length` [items, 1], `artist_id` and `album_id` ragged [items, (ids)].

    Returns:
      `item_id` as it came, `artist` and `album` as rows of their vocabularies, and `length`: z-scored
      logarithm of the seconds, zero where unknown.
    """
    seconds = inputs[features.ITEM_LENGTH]
    known = seconds > 0
    log_length = tf.math.log(tf.maximum(seconds, 1.0))
    # A batch without any known length must not make the mean NaN: weighted sums, not a mask. All three at
    # once, in double precision, since a variance from sums of squares cancels.
    weight = tf.cast(known, tf.float64)
    logs = tf.cast(log_length, tf.float64)
    sums = tft.sum(tf.concat([weight, logs * weight, logs**2 * weight], axis=1), reduce_instance_dims=False)
    mean = tf.math.divide_no_nan(sums[1], sums[0])
    variance = tf.math.divide_no_nan(sums[2], sums[0]) - mean**2
    # Lengths that are all alike say nothing; what is left of their variance is rounding.
    spread = tf.cast(tf.where(variance > 1e-9, tf.sqrt(tf.maximum(variance, 0.0)), 0.0), tf.float32)
    mean = tf.cast(mean, tf.float32)
    return {
        features.ITEM_ID: inputs[features.ITEM_ID],
        features.ARTIST: tft.compute_and_apply_vocabulary(
            inputs[features.ARTIST_ID], vocab_filename=features.ARTIST_VOCABULARY
        ),
        features.ALBUM: tft.compute_and_apply_vocabulary(
            inputs[features.ALBUM_ID], vocab_filename=features.ALBUM_VOCABULARY
        ),
        features.LENGTH: tf.where(known, tf.math.divide_no_nan(log_length - mean, spread), 0.0),
    }
