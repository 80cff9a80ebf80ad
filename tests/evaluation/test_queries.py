from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from two_tower.evaluation.queries import (
    LabelSets,
    Queries,
    Windows,
    all_queries,
    excluded_items,
    history_batch,
    padded,
    ragged_index,
    read_windows,
    sample_by_user,
)

# Of user 7: item, time, type, play ratio and label step. The like of 11 is hidden from the query at 11.
FIRST = [(10, 100, b"listen", 1.0, 1), (11, 200, b"listen", 0.5, 2), (11, 205, b"like", -1.0, 0),
         (12, 300, b"listen", 0.25, 0)]  # fmt: skip
# Of user 8, whose first two events are context alone.
SECOND = [(20, 400, b"listen", 0.1, 0), (21, 500, b"listen", 0.2, 0), (22, 600, b"listen", 0.3, 1),
          (23, 700, b"listen", 0.4, 0)]  # fmt: skip


def split_of(
    users: Sequence[int],
    windows: Sequence[Sequence[tuple]],
    seen: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    asked_at: Sequence[int],
) -> Windows:
    """Makes windows of (item, time, type, play ratio, label step), each with a request time."""
    item, timestamp, event_type, play_ratio, label_step = zip(*[e for w in windows for e in w], strict=True)
    return Windows(
        user_id=np.array(users),
        offsets=np.cumsum([0, *map(len, windows)]),
        item_id=np.array(item),
        timestamp=np.array(timestamp),
        event_type=np.array(event_type),
        play_ratio=np.array(play_ratio, np.float32),
        is_organic=np.ones(len(item), np.int64),
        request_timestamp=np.repeat(asked_at, [len(w) for w in windows]),
        label_step=np.array(label_step),
        label_offsets=np.cumsum([0, *map(len, labels)]),
        label_item_id=np.array([item for items in labels for item in items], np.int64),
        seen_offsets=np.cumsum([0, *map(len, seen)]),
        seen_item_id=np.array([item for items in seen for item in items], np.int64),
    )


WINDOWS = split_of([7, 8], [FIRST, SECOND], seen=[[], [1, 2]], labels=[[], []], asked_at=[0, 0])
QUERIES = all_queries(WINDOWS)


def test_every_marked_position_is_a_query_for_the_event_its_step_ahead() -> None:
    assert QUERIES.user_id.tolist() == [7, 7, 8]
    assert QUERIES.window.tolist() == [0, 0, 1]
    assert QUERIES.position.tolist() == [0, 1, 2]
    assert QUERIES.label_item_id.tolist() == [11, 12, 23]
    assert QUERIES.request_timestamp.tolist() == [200, 300, 700]


# The frozen protocol: no event is a label. User 8 has no labels, user 9 no listen.
LIKE = [(30, 50, b"like", -1.0, 0)]
FROZEN = split_of(
    [7, 8, 9, 7],
    [[(*event[:4], 0) for event in events] for events in (FIRST, SECOND, LIKE, FIRST[:3])],
    seen=[[], [1, 2], [], []],
    labels=[[11, 77, 78], [], [31], [5, 6]],
    asked_at=[1_000, 1_000, 1_000, 2_000],
)  # fmt: skip


def test_a_window_with_a_set_of_labels_is_one_query_at_its_last_listen_as_the_split_begins() -> None:
    queries = all_queries(FROZEN)
    assert queries.user_id.tolist() == [7, 9, 7]
    assert queries.window.tolist() == [0, 2, 3]
    assert queries.position.tolist() == [3, 0, 1]  # not at the like that comes last
    assert queries.request_timestamp.tolist() == [1_000, 1_000, 2_000]
    assert queries.label_event.tolist() == [-1, -1, -1]
    assert labels_of(queries) == [[11, 77, 78], [31], [5, 6]]

    batch = history_batch(FROZEN, queries, [2, 0], history_length=3)
    assert batch["history_item_id"].tolist() == [[10, 11, -1], [11, 11, 12]]
    assert batch["request_timestamp"].tolist() == [2_000, 1_000]
    # Training never shows what became of the seed.
    assert batch["history_play_ratio"] == pytest.approx(np.array([[1, -1, -1], [0.5, -1, -1]]))


def labels_of(queries: Queries) -> list[list[int]]:
    return [part.tolist() for part in np.split(queries.labels.item_id, queries.labels.offsets[1:-1])]


def test_labels_go_with_their_queries() -> None:
    queries = all_queries(FROZEN)
    assert labels_of(queries.take([2, 0, 2])) == [[5, 6], [11, 77, 78], [5, 6]]
    assert labels_of(queries.take(np.array([False, True, False]))) == [[31]]
    nobody = queries.take(np.zeros(3, bool))
    assert len(nobody) == len(nobody.labels) == len(nobody.labels.item_id) == 0
    assert queries.labels.counts.tolist() == [3, 1, 2]
    assert queries.labels.query.tolist() == [0, 0, 0, 1, 2, 2]


def test_sets_and_single_labels_are_told_apart_window_by_window() -> None:
    mixed = split_of([7, 8, 7], [FIRST[:3], [(*e[:4], 0) for e in SECOND], FIRST],
                     seen=[[], [], []], labels=[[], [3, 4], []], asked_at=[0, 900, 0])  # fmt: skip
    mixed = dataclasses.replace(mixed, label_step=np.array([1, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0]))
    queries = all_queries(mixed)
    assert labels_of(queries) == [[11], [3, 4], [11], [12]]
    assert queries.request_timestamp.tolist() == [200, 900, 200, 300]


def test_a_request_holds_the_last_events_up_to_the_query_and_nothing_after_it() -> None:
    batch = history_batch(WINDOWS, QUERIES, [0, 1, 2], history_length=2)
    assert batch["user_id"].tolist() == [7, 7, 8]
    assert batch["history_item_id"].tolist() == [[10, -1], [10, 11], [21, 22]]
    assert batch["history_timestamp"].tolist() == [[100, -1], [100, 200], [500, 600]]
    assert batch["history_event_type"].tolist() == [[b"listen", b""], [b"listen"] * 2, [b"listen"] * 2]
    assert batch["history_is_organic"].tolist() == [[1, -1], [1, 1], [1, 1]]
    assert batch["request_timestamp"].tolist() == [200, 300, 700]
    assert batch["exclude_item_id"].tolist() == [[-1]] * 3


def test_the_play_ratio_of_the_event_that_still_plays_is_unknown() -> None:
    batch = history_batch(WINDOWS, QUERIES, [2, 1, 0], history_length=3)
    assert batch["history_play_ratio"] == pytest.approx(np.array([[0.1, 0.2, -1], [1, -1, -1], [-1, -1, -1]]))
    # The windows themselves are left as they were.
    assert WINDOWS.play_ratio[1] == 0.5


def test_no_later_event_changes_a_request() -> None:
    later = np.arange(len(WINDOWS.item_id)) > QUERIES.event[1]
    changed = dataclasses.replace(
        WINDOWS,
        item_id=np.where(later, 99, WINDOWS.item_id),
        play_ratio=np.where(later, 0.9, WINDOWS.play_ratio).astype(np.float32),
        event_type=np.where(later, b"dislike", WINDOWS.event_type),
    )
    before = history_batch(WINDOWS, QUERIES, [0, 1], 50, exclude=True)
    after = history_batch(changed, QUERIES, [0, 1], 50, exclude=True)
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], err_msg=name)


def test_what_the_user_had_before_the_window_and_in_it_is_excluded() -> None:
    excluded = excluded_items(WINDOWS, QUERIES)
    assert [set(row[row >= 0]) for row in excluded] == [{10}, {10, 11}, {1, 2, 20, 21, 22}]
    batch = history_batch(WINDOWS, QUERIES, [0, 1, 2], history_length=1, exclude=True)
    np.testing.assert_array_equal(batch["exclude_item_id"], excluded)


def test_a_sample_keeps_users_whole_and_follows_its_seed() -> None:
    users = np.repeat(np.arange(40), np.arange(1, 41))
    row = np.arange(len(users))
    queries = Queries(users, row, row, row, row, row, LabelSets.of_one(row))
    rows = sample_by_user(queries, 300, seed=5)
    sample = queries.take(rows)
    assert 260 < len(sample) <= 300
    kept, counts = np.unique(sample.user_id, return_counts=True)
    assert counts.tolist() == (kept + 1).tolist()
    np.testing.assert_array_equal(rows, sample_by_user(queries, 300, seed=5))
    assert not np.array_equal(rows, sample_by_user(queries, 300, seed=6))
    assert len(sample_by_user(queries, 10_000, seed=5)) == len(queries)
    # A user is never cut, so one is taken even if it is too many.
    assert len(np.unique(users[sample_by_user(queries, 0, seed=5)])) == 1


def test_ragged_rows() -> None:
    start, length = np.array([4, 0, 2]), np.array([2, 0, 1])
    assert ragged_index(start, length).tolist() == [4, 5, 2]
    assert padded(np.arange(10, 16), start, length).tolist() == [[14, 15], [-1, -1], [12, -1]]
    assert padded(np.empty(0, np.int64), np.zeros(2, np.int64), np.zeros(2, np.int64)).shape == (2, 0)


@pytest.mark.parametrize("windows", [WINDOWS, FROZEN])
def test_windows_are_read_as_they_were_written(tmp_path: Path, windows: Windows) -> None:
    import tensorflow as tf

    def example(window: int) -> bytes:
        at = slice(windows.offsets[window], windows.offsets[window + 1])
        seen = slice(windows.seen_offsets[window], windows.seen_offsets[window + 1])
        labels = slice(windows.label_offsets[window], windows.label_offsets[window + 1])
        ints = {
            "user_id": windows.user_id[[window]],
            "history_item_id": windows.item_id[at],
            "history_timestamp": windows.timestamp[at],
            "history_is_organic": windows.is_organic[at],
            "request_timestamp": windows.request_timestamp[at],
            "label_step": windows.label_step[at],
        }
        # Else they are absent, as where repeats are welcome, or the next event is asked for.
        if seen.stop > seen.start:
            ints["seen_item_id"] = windows.seen_item_id[seen]
        if labels.stop > labels.start:
            ints["label_item_id"] = windows.label_item_id[labels]
        feature = {name: tf.train.Feature(int64_list=tf.train.Int64List(value=v)) for name, v in ints.items()}
        feature["history_event_type"] = tf.train.Feature(
            bytes_list=tf.train.BytesList(value=windows.event_type[at].tolist())
        )
        feature["history_play_ratio"] = tf.train.Feature(
            float_list=tf.train.FloatList(value=windows.play_ratio[at])
        )
        return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()

    for window in range(len(windows)):
        path = str(tmp_path / f"data_tfrecord-0000{window}-of-00004.gz")
        with tf.io.TFRecordWriter(path, "GZIP") as writer:
            writer.write(example(window))

    read = read_windows(str(tmp_path))
    assert read.user_features == {}
    for field in dataclasses.fields(Windows):
        actual, expected = getattr(read, field.name), getattr(windows, field.name)
        if field.name == "user_features":
            continue
        np.testing.assert_array_equal(actual, expected, err_msg=field.name)
        assert actual.dtype == expected.dtype, field.name


def test_columns_of_users_go_from_examples_to_requests(tmp_path: Path) -> None:
    import pyarrow as pa

    from tests.small_world import write_examples
    from two_tower.data_directory.feature_columns import FeatureSpec, encode_columns

    specs = [
        FeatureSpec("user_country", "country", "categorical"),
        FeatureSpec("user_tags", "tags", "multi_valued"),
        FeatureSpec("user_age", "age", "numeric"),
        FeatureSpec("user_bio", "bio", "text"),
        FeatureSpec("user_taste", "taste", "vector", 2),
    ]
    # User 8 has no row of his own.
    users = pa.table(
        {
            "country": ["Malmö", None, ""],
            "tags": pa.array([["a", "b"], None, ["c"]], pa.list_(pa.string())),
            "age": [0, None, 40],
            "bio": [None, None, "likes rain"],
            "taste": pa.array([[0.5, 0.0], None, [1.0, 2.0]], pa.list_(pa.float32())),
        }
    )
    columns = {
        "user_id": pa.array([[7], [8], [9]], pa.list_(pa.int64())),
        "history_item_id": pa.array([[1, 2]] * 3, pa.list_(pa.int64())),
        "history_timestamp": pa.array([[10, 20]] * 3, pa.list_(pa.int64())),
        "history_event_type": pa.array([[b"listen"] * 2] * 3, pa.list_(pa.binary())),
        "history_play_ratio": pa.array([[1.0, 1.0]] * 3, pa.list_(pa.float32())),
        "history_is_organic": pa.array([[1, 1]] * 3, pa.list_(pa.int64())),
        "request_timestamp": pa.array([[20, 20]] * 3, pa.list_(pa.int64())),
        "label_step": pa.array([[1, 0]] * 3, pa.list_(pa.int64())),
        "label_item_id": pa.array([[]] * 3, pa.list_(pa.int64())),
    }
    batch = pa.RecordBatch.from_pydict({**columns, **encode_columns(users, specs, "users")})
    write_examples(tmp_path / "data_tfrecord-0.gz", [batch])
    windows = read_windows(str(tmp_path), specs)
    batch = history_batch(windows, all_queries(windows), [2, 0, 1], history_length=2)
    assert batch["user_country"].tolist() == [b"", "Malmö".encode(), b""]
    assert batch["user_tags"].tolist() == [[b"c", b""], [b"a", b"b"], [b"", b""]]
    assert batch["user_age"].tolist()[:2] == [40, 0] and np.isnan(batch["user_age"][2])
    assert batch["user_bio"].tolist() == [b"likes rain", b"", b""]
    assert batch["user_taste"].tolist() == [[1, 2], [0.5, 0], [0, 0]]


def test_a_split_without_files_is_an_error_that_names_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        read_windows(str(tmp_path))
