"""Shape of the label events: counts and times equal those of a plain loop."""

from __future__ import annotations

import pathlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data_directories import write_columns
from two_tower.data_directory import event_shape as module
from two_tower.data_directory.event_shape import EventShape, event_shape
from two_tower.data_directory.manifest import Manifest

DAY = 86_400


def shape_of(out: str) -> EventShape:
    return event_shape(out, Manifest.load(out))


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 5),
            st.integers(0, 5),
            st.integers(0, 50),
            st.sampled_from(["listen", "listen", "like"]),
        ),
        min_size=1,
        max_size=60,
    ),
    pending=st.integers(1, 8),
)
def test_counts_and_times_are_those_of_a_plain_loop(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int, str]], pending: int
) -> None:
    rows = [*rows, (0, 0, 25, "listen")]
    listens = [(user, item, hour * 3_600) for user, item, hour, kind in rows if kind == "listen"]
    columns = {
        "user_id": [row[0] for row in rows],
        "item_id": [row[1] for row in rows],
        "timestamp": [row[2] * 3_600 for row in rows],
        "event_type": [row[3] for row in rows],
    }
    out = write_columns(str(tmp_path_factory.mktemp("shape") / "data"), columns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PENDING_KEYS", pending)
        shape = shape_of(out)
    for key, found in ((0, shape.users), (1, shape.items)):
        times: dict[int, list[int]] = {}
        for row in listens:
            times.setdefault(row[key], []).append(row[2])
        assert found.keys.tolist() == sorted(times)
        assert found.counts.tolist() == [len(times[one]) for one in sorted(times)]
        assert found.first.tolist() == [min(times[one]) for one in sorted(times)]
        assert found.last.tolist() == [max(times[one]) for one in sorted(times)]
    assert shape.label_events == len(listens)
    newest = max(time for *_, time in listens)
    assert shape.newest == newest
    assert shape.labels_in_last(3_600) == sum(newest - time < 3_600 for *_, time in listens)
    since = newest - 10 * 3_600
    active = {user for user, _, time in listens if time >= since}
    before = {user for user, _, time in listens if time < since}
    assert shape.users.new_share(since) == pytest.approx(len(active - before) / len(active))
    had = Counter((user, item) for user, item, _ in listens)
    assert shape.repeat_share == pytest.approx(1 - len(had) / len(listens))


def test_history_lengths_cover_shares_of_the_labels(tmp_path: pathlib.Path) -> None:
    """Gives one user four label events and another one two: histories of 0, 0, 1, 1, 2 and 3."""
    columns = {"user_id": [1, 1, 1, 1, 2, 2], "item_id": [1, 2, 3, 4, 1, 2], "timestamp": list(range(6))}
    shape = shape_of(write_columns(str(tmp_path / "data"), columns))
    assert [shape.history_length_of(share) for share in (0.3, 0.4, 0.6, 0.8, 1.0)] == [0, 1, 1, 2, 3]


def test_events_without_times_have_zeros(tmp_path: pathlib.Path) -> None:
    columns = {"user_id": [1, 1, 2], "item_id": [1, 2, 1], "order": [0, 1, 0]}
    shape = shape_of(write_columns(str(tmp_path / "data"), columns))
    assert (shape.label_events, shape.oldest, shape.newest) == (3, 0, 0)
    assert shape.users.first.tolist() == shape.users.last.tolist() == [0, 0]
