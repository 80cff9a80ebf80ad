from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

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
from two_tower.evaluation.queries import all_queries

SPLITS = ("train", "eval", "test")


def vocabulary(world: Transformed, name: str) -> list[int]:
    import tensorflow_transform as tft

    return [int(entry) for entry in tft.TFTransformOutput(world.graph).vocabulary_by_name(name)]


# Vocabularies.


def test_vocabularies_come_from_train_alone(small_world: Transformed) -> None:
    train = [event for event in log() if event.time < SPLIT.train_end]
    assert {user for user in small_world.raw["test"].user_id if user >= FIRST_NEW_USER}
    assert {item for item in small_world.raw["test"].item_id if item >= FIRST_NEW_ITEM}
    assert set(vocabulary(small_world, "user")) == {event.user for event in train}
    # A window ends at its user's last label.
    items = set(vocabulary(small_world, "item"))
    assert items == set(small_world.raw["train"].item_id.tolist()) <= {event.item for event in train}


def test_label_counts_are_those_of_train_alone(small_world: Transformed) -> None:
    import tensorflow_transform as tft

    from two_tower.trainer.loop.training import _label_counts

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


# Outputs.


def test_zeros_survive(small_world: Transformed) -> None:
    for split in SPLITS:
        raw, batch = small_world.raw[split], small_world.batch(split)
        assert (raw.item_id == 0).any() and (raw.play_ratio == 0).any() and (raw.is_organic == 0).any()
        assert (raw.user_id == 0).any()
        np.testing.assert_array_equal(batch["history_item_id"].flat_values, raw.item_id)
        np.testing.assert_array_equal(batch["history_play_ratio"].flat_values, raw.play_ratio)
        np.testing.assert_array_equal(batch["label_step"].flat_values, raw.label_step)
        for name, values in batch.items():
            if values.shape[1] is None and name not in ("label_item_id", "seen_item_id"):
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

    from two_tower.trainer.model.catalog_table import CatalogArrays

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


def test_a_number_that_is_not_finite_is_scaled_as_an_absent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    from two_tower.trainer.model import preprocessing

    monkeypatch.setattr(preprocessing.tft, "sum", lambda x, reduce_instance_dims: tf.reduce_sum(x, axis=0))
    column = [[1.0], [3.0], [np.nan], [np.inf], [-np.inf]]
    scaled = preprocessing._z_scored(tf.constant(column, tf.float32)).numpy()[:, 0]
    np.testing.assert_allclose(scaled, [-1, 1, 0, 0, 0])
