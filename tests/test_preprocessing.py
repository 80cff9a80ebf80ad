from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.retrieval_evaluator.queries import all_queries
from tests.listening_logs import queries_of, split_of
from tests.small_world import (
    FIRST_NEW_ITEM,
    FIRST_NEW_USER,
    HISTORY_LENGTH,
    SPLIT,
    Transformed,
    catalog_items,
    log,
)

SPLITS = ("train", "eval", "test")


def vocabulary(world: Transformed, name: str) -> list[int]:
    import tensorflow_transform as tft

    return [int(entry) for entry in tft.TFTransformOutput(world.graph).vocabulary_by_name(name)]


# What Transform learns.


def test_vocabularies_come_from_train_alone(small_world: Transformed) -> None:
    train = [event for event in log() if event.time < SPLIT.train_end]
    assert {user for user in small_world.raw["test"].user_id if user >= FIRST_NEW_USER}
    assert {item for item in small_world.raw["test"].item_id if item >= FIRST_NEW_ITEM}
    assert set(vocabulary(small_world, "user")) == {event.user for event in train}
    # An event after the last label of its user is no part of a window.
    items = set(vocabulary(small_world, "item"))
    assert items == set(small_world.raw["train"].item_id.tolist()) <= {event.item for event in train}


def test_label_counts_are_those_of_train_alone(small_world: Transformed) -> None:
    import tensorflow_transform as tft

    from trainer.training import _label_counts

    rows = log()
    queries, _ = queries_of(rows, HISTORY_LENGTH, True, SPLIT)
    expected = Counter(rows[query.label].item for query in queries if query.split == "train")
    assert _label_counts(tft.TFTransformOutput(small_world.graph)) == dict(expected)


def test_a_user_whom_train_has_not_seen_reads_the_row_after_the_vocabulary(small_world: Transformed) -> None:
    known = vocabulary(small_world, "user")
    for split in SPLITS:
        rows = small_world.batch(split)["user"].numpy()[:, 0]
        users = small_world.raw[split].user_id
        assert [known.index(user) if user in known else len(known) for user in users] == rows.tolist()


def test_aggregates_are_scaled_by_trains_query_positions(small_world: Transformed) -> None:
    from trainer import features

    train, test = small_world.batch("train"), small_world.batch("test")
    queries = train["label_step"].flat_values.numpy() > 0
    for name in features.AGGREGATES:
        values = train[name].flat_values.numpy()[queries]
        assert values.mean() == pytest.approx(0, abs=1e-4), name
        assert values.std() == pytest.approx(1, abs=1e-3), name
        assert abs(test[name].flat_values.numpy().mean()) > 1e-3, name


# What it writes.


def test_zeros_survive(small_world: Transformed) -> None:
    for split in SPLITS:
        raw, batch = small_world.raw[split], small_world.batch(split)
        assert (raw.item_id == 0).any() and (raw.play_ratio == 0).any() and (raw.is_organic == 0).any()
        assert (raw.user_id == 0).any()
        np.testing.assert_array_equal(batch["history_item_id"].flat_values, raw.item_id)
        np.testing.assert_array_equal(batch["history_play_ratio"].flat_values, raw.play_ratio)
        np.testing.assert_array_equal(batch["label_step"].flat_values, raw.label_step)
        for values in batch.values():
            if values.shape[1] is None:
                np.testing.assert_array_equal(values.row_splits, raw.offsets)


def test_the_example_age_is_the_labels_in_train_and_exactly_zero_elsewhere(small_world: Transformed) -> None:
    queries = {split: all_queries(small_world.raw[split]) for split in SPLITS}
    newest = queries["train"].label_timestamp.max()
    for split in SPLITS:
        age = small_world.batch(split)["example_age"].flat_values.numpy()[queries[split].event]
        if split == "train":
            days = (newest - queries["train"].label_timestamp) / 86_400
            assert age == pytest.approx(days, rel=1e-5) and age.max() > 7
        else:
            assert len(age) and (age == 0).all()
            assert all(split_of(time, SPLIT) == split for time in queries[split].label_timestamp)


def test_catalog_items_keep_their_id_and_get_rows_of_their_artists(small_world: Transformed) -> None:
    import tensorflow_transform as tft

    from trainer.catalog_table import CatalogArrays

    output = tft.TFTransformOutput(small_world.catalog_graph)
    catalog = CatalogArrays.read(small_world.catalog_files, output.transformed_feature_spec())
    items = catalog_items()
    assert catalog.item_id.tolist() == list(range(70))
    for name, rows in (("artist", catalog.artist), ("album", catalog.album)):
        known = [int(entry) for entry in output.vocabulary_by_name(name)]
        assert [[known[row] for row in item if row >= 0] for item in rows] == items[f"{name}_id"]
    seconds = np.array(items["item_length"])[:, 0]
    logs = np.log(seconds[seconds > 0])
    expected = np.zeros(70)
    expected[seconds > 0] = (logs - logs.mean()) / logs.std()
    assert catalog.length == pytest.approx(expected, abs=1e-4)


# History aggregates.

N = 4
EVENT = st.tuples(
    st.integers(0, 10_000),
    st.sampled_from([b"listen", b"", b"like"]),
    st.sampled_from([-1.0, 0.0, 0.25, 1.5]),
    st.sampled_from([-1, 0, 1]),
    st.integers(0, 5_000),
)
# Windows of (seconds since the event before, type, play ratio, organic, seconds until the request).
WINDOWS = st.lists(st.lists(EVENT, min_size=1, max_size=12), min_size=1, max_size=4)


def computed(windows: list[list[tuple]], history_length: int = N) -> list[dict[str, float]]:
    """The aggregates at every event of all windows in turn."""
    import tensorflow as tf

    from trainer.history_aggregates import history_aggregates

    lengths = [len(window) for window in windows]
    _, kind, ratio, organic, wait = zip(*(event for window in windows for event in window), strict=True)
    time = np.concatenate([np.cumsum([event[0] for event in window]) for window in windows])

    def ragged(values: Any, dtype: Any) -> Any:
        return tf.RaggedTensor.from_row_lengths(tf.constant(values, dtype), lengths)

    inputs = {
        "history_timestamp": ragged(time, tf.int64),
        "history_event_type": ragged(kind, tf.string),
        "history_play_ratio": ragged(ratio, tf.float32),
        "history_is_organic": ragged(organic, tf.int64),
        "request_timestamp": ragged(time + np.array(wait), tf.int64),
    }
    is_listen, aggregates = history_aggregates(inputs, history_length)
    columns = {"is_listen": is_listen, **aggregates}
    rows = zip(*(values.numpy().tolist() for values in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def naive(window: list[tuple], place: int, history_length: int) -> dict[str, float]:
    seen = window[max(0, place + 1 - history_length) : place + 1]
    listens = [event for event in seen if event[1] in (b"listen", b"")]
    played = [event[2] for event in seen[:-1] if event in listens and event[2] >= 0]
    organic = [event[3] for event in listens if event[3] >= 0]
    here = window[place]
    return {
        "is_listen": here[1] in (b"listen", b""),
        "listen_count": math.log1p(len(listens)),
        "mean_play_ratio": sum(played) / max(len(played), 1),
        "organic_share": sum(organic) / max(len(organic), 1),
        "reaction_share": 1 - len(listens) / len(seen),
        "seconds_since_previous": math.log1p(here[0]) if len(seen) > 1 else 0.0,
        "idle_seconds": math.log1p(max(here[4] - 1_800, 0)),
    }


@given(WINDOWS, st.integers(1, 6))
@settings(max_examples=80, deadline=None)
def test_aggregates_are_those_of_the_last_events_of_the_own_window(
    windows: list[list[tuple]], history_length: int
) -> None:
    expected = [naive(window, place, history_length) for window in windows for place in range(len(window))]
    for ours, theirs in zip(computed(windows, history_length), expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


@given(WINDOWS, st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_the_play_ratio_of_what_still_plays_is_not_used(windows: list[list[tuple]], length: int) -> None:
    ends = [[*window[:-1], (*window[-1][:2], 0.77, *window[-1][3:])] for window in windows]
    last = np.cumsum([len(window) for window in windows]) - 1
    ours, theirs = computed(windows, length), computed(ends, length)
    assert [ours[place] for place in last] == [theirs[place] for place in last]
