from __future__ import annotations

import pathlib

import numpy as np
import pytest

from tests.data_directories import (
    TEN_DAYS,
    TEN_DAYS_ITEMS,
    write_columns,
)
from two_tower.data_directory import description_text
from two_tower.data_directory.description import Description, Distribution, describe
from two_tower.data_directory.description_text import render
from two_tower.data_directory.manifest import (
    DAY,
)


def test_what_is_read_is_what_a_newcomer_asks(data: str) -> None:
    text = render(
        describe(write_columns(data, TEN_DAYS, TEN_DAYS_ITEMS, {"user_id": [1, 2, 3], "age": [30, 40, 40]}))
    )
    plain = " ".join(text.split())
    for told in (
        "7: 6 listen (predicted), 1 like",
        "play ratio known for 71.4%, 0.50 on average",
        "3, of which 33.3% have a single event; 3 in users/",
        "4 in the catalog, of which 1 (25.0%) have no event",
        "10.0 days",
        "1 users (33.3%) and 1 items first occur in it; 100% of its listen events are of such items",
        "33.3% of listen events are of an item that the user had before; it may be recommended again",
        "Events over time; a bar is 12 hours",
        "tags multi_valued 2 values known for 50.0%",
        "weight numeric -2 to 4 known for 75.0%",
        "embedding vector of width 2 known for 75.0%",
        f"two-tower run --data {data} --output DIR",
    ):
        assert told in plain, told


@pytest.mark.parametrize(
    ("start", "told"), [(1_000_000_000, "1957-06-11 to 1957-06-12"), (0, "day -4,587 to day -4,586")]
)
def test_releases_are_days_of_the_events_clock(tmp_path: pathlib.Path, start: int, told: str) -> None:
    events = {"user_id": [1, 1], "item_id": [1, 2], "timestamp": [start, start + 5]}
    items = {"item_id": [1, 2], "release_timestamp": [-4587 * DAY, -4586 * DAY]}
    text = render(describe(write_columns(str(tmp_path / "data"), events, items)))
    assert f"release_timestamp numeric {told} known" in " ".join(text.split())


@pytest.mark.parametrize("seconds", [0, 50, 3_600, DAY, 40 * DAY, 400 * DAY, 40_000 * DAY])
@pytest.mark.parametrize("start", [0, 1_700_000_123])
def test_the_plot_holds_every_event_in_at_most_24_bars_of_80_columns(
    tmp_path: pathlib.Path, seconds: int, start: int
) -> None:
    if start + seconds > 4_000_000_000:
        start = 0
    times = np.unique(np.linspace(start, start + seconds, 50).astype(np.int64))
    events = {"user_id": times % 3, "item_id": times % 5, "timestamp": times}
    found = describe(write_columns(str(tmp_path / "data"), {name: v.tolist() for name, v in events.items()}))
    lines = description_text._plot(found.hours, found.events_of_hour)
    assert 1 <= len(lines) - 1 <= 25
    assert all(len(line) <= 80 for line in lines)
    counts = [int(line.split()[-1].replace(",", "")) for line in lines[1:]]
    assert sum(counts) == len(times)
    assert all(("█" in line) == (count > 0) for line, count in zip(lines[1:], counts, strict=True))


def test_long_names_and_large_numbers_stay_within_80_columns(tmp_path: pathlib.Path) -> None:
    out = write_columns(str(tmp_path / "data"), TEN_DAYS, TEN_DAYS_ITEMS)
    found = describe(out)
    big = 123_456_789
    huge = Distribution(big, big + 0.5, (big,) * 7, 40 * big)
    manifest = found.manifest
    changed = {
        **vars(found),
        "directory": "data",
        "manifest": type(manifest)(
            **{**vars(manifest), "label_event": "completed purchase of a subscription"}
        ),
        "event_types": {f"type {number}": big for number in range(20)},
        "events_per_user": huge,
        "labels_per_user": huge,
        "labels_per_item": huge,
        "events_of_hour": found.events_of_hour * big,
    }
    for line in render(Description(**changed)).splitlines():
        assert len(line) <= 80, line
