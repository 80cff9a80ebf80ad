from __future__ import annotations

import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data_directories import (
    write_columns,
)
from two_tower.data_directory import repeats
from two_tower.data_directory.description import describe
from two_tower.data_directory.description_text import render


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from(["listen", "listen", "like"])),
        min_size=1,
        max_size=40,
    ),
    pairs=st.integers(1, 8),
    far=st.booleans(),
)
def test_repeats_are_those_of_a_plain_loop(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, str]], pairs: int, far: bool
) -> None:
    rows = [*rows, (0, 0, "listen")]
    factor = 2**60 if far else 1  # ids whose product is beyond int64
    events = {
        "user_id": [user * factor for user, _, _ in rows],
        "item_id": [item * factor for _, item, _ in rows],
        "timestamp": list(range(len(rows))),
        "event_type": [kind for _, _, kind in rows],
    }
    had: set[tuple[int, int]] = set()
    again = 0
    for user, item, kind in rows:
        if kind == "listen":
            again += (user, item) in had
            had.add((user, item))
    listens = sum(kind == "listen" for _, _, kind in rows)
    out = write_columns(str(tmp_path_factory.mktemp("repeats") / "data"), events)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeats, "PAIRS", pairs)
        patch.setattr(repeats, "MOST_PARTS", 100)
        found = describe(out)
    assert found.repeats == pytest.approx(again / listens)
    assert found.repeats_counted_over == 1


def test_of_very_many_events_repeats_are_counted_over_some_users(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "PAIRS", 100)
    monkeypatch.setattr(repeats, "MOST_PARTS", 4)
    user = np.repeat(np.arange(0, 2000, 2), 2)  # everyone listens twice to one item
    events = {"user_id": user, "item_id": user, "timestamp": np.arange(2000)}
    found = describe(write_columns(str(tmp_path / "data"), {name: v.tolist() for name, v in events.items()}))
    assert found.repeats == 0.5
    assert found.repeats_counted_over == pytest.approx(4 / 20, abs=0.05)
    assert "counted over users with" in " ".join(render(found).split())
