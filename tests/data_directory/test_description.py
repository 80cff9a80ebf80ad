from __future__ import annotations

import pathlib
import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from two_tower.data_directory import description
from two_tower.data_directory.description import Column, Description, Distribution, describe, render
from two_tower.data_directory.manifest import DAY, DatasetProperties
from two_tower.data_directory.writer import DataDirectoryWriter, Span
from two_tower.pipeline.commands.main import main


def write(
    out: str,
    events: dict[str, Any],
    items: dict[str, Any] | None = None,
    users: dict[str, Any] | None = None,
    span: Span = None,
    label: str = "listen",
) -> str:
    with DataDirectoryWriter(out, DatasetProperties("small", label, True), span) as writer:
        writer.write("events", pa.table(events))
        writer.write("items", pa.table(items or {"item_id": sorted(set(events["item_id"]))}))
        if users:
            writer.write("users", pa.table(users))
    return out


# Ten days. User 1 listens to 7 three times; 8 is new in the last day, as is user 3; nobody has had 9.
EVENTS = {
    "user_id": [1, 1, 1, 1, 2, 2, 3],
    "item_id": [7, 7, 7, 6, 7, 8, 8],
    "timestamp": [0, DAY, 2 * DAY, 2 * DAY, 5 * DAY, 10 * DAY, 10 * DAY - 50],
    "event_type": ["listen", "listen", "listen", "like", "listen", "listen", "listen"],
    "play_ratio": pa.array([0.5, 1.0, None, None, 0.0, 1.0, 0.0], pa.float32()),
    "is_organic": [True, False, True, None, None, True, False],
}
ITEMS = {
    "item_id": [6, 7, 8, 9],
    "artist_id": [[1], [1], [2], []],
    "tags": [["a", "b"], ["b"], [], None],
    "mood": ["calm", None, "calm", "loud"],
    "weight": [1.5, float("nan"), -2.0, 4.0],
    "embedding": pa.array([[1, 2], [0, 0], [3, 4], [0, 1]], pa.list_(pa.float32(), 2)),
    "blob": [b"x", b"y", b"z", b""],
}


@pytest.fixture(params=["local", "memory"])
def data(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    return str(tmp_path / "data") if request.param == "local" else f"memory://{uuid.uuid4().hex}/data"


def test_a_small_directory_is_described_in_full(data: str) -> None:
    found = describe(write(data, EVENTS, ITEMS, {"user_id": [1, 2, 3], "age": [30, 40, 40]}))
    assert found.event_types == {"listen": 6, "like": 1}
    assert found.users_with_one_event == pytest.approx(1 / 3)
    assert found.items_without_event == 1
    assert (found.new_items, found.new_users) == (1, 1)
    assert found.label_events_of_new_items == 1.0
    assert found.repeats == pytest.approx(2 / 6)
    assert found.repeats_counted_over == 1
    assert found.play_ratio == pytest.approx((0.5, 5 / 7))
    assert found.is_organic == pytest.approx((0.6, 5 / 7))
    assert found.events_per_user == Distribution(3, 7 / 3, (1, 1, 1, 2, 4, 4, 4), 4)
    assert (found.labels_per_user.most, found.labels_per_item.most) == (3, 4)
    assert found.labels_per_item.count == 2
    assert dict(zip(found.hours.tolist(), found.events_of_hour.tolist(), strict=True)) == {
        0: 1,
        24: 1,
        48: 2,
        120: 1,
        239: 1,
        240: 1,
    }
    # Ids, artists and lengths are every model's; bytes are no feature.
    assert found.columns == {
        "users": (Column("age", "categorical", 0, 1.0, 2, None),),
        "items": (
            Column("tags", "multi_valued", 0, 0.5, 2, None),
            Column("mood", "categorical", 0, 0.75, 2, None),
            Column("weight", "numeric", 0, 0.75, 3, (-2.0, 4.0)),
            Column("embedding", "vector", 2, 0.75, None, None),
        ),
    }


def test_what_is_read_is_what_a_newcomer_asks(data: str) -> None:
    text = render(describe(write(data, EVENTS, ITEMS, {"user_id": [1, 2, 3], "age": [30, 40, 40]})))
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


def test_data_without_times_types_or_columns_is_described_too(data: str) -> None:
    events = {"user_id": [1, 1, 1], "item_id": [5, 5, 6], "order": [0, 1, 2]}
    found = describe(write(data, events))
    assert found.event_types == {"listen": 3}
    assert found.repeats == pytest.approx(1 / 3)
    assert (found.new_items, found.new_users, found.play_ratio, found.is_organic) == (None,) * 4
    assert not len(found.hours)
    text = render(found)
    assert "an order within their user" in text
    assert "Events over time" not in text
    assert "No column of items/ can become a feature" in text
    assert "--set split.protocol=leave_one_out" in text


@pytest.mark.parametrize(
    ("start", "told"), [(1_000_000_000, "1957-06-11 to 1957-06-12"), (0, "day -4,587 to day -4,586")]
)
def test_releases_are_days_of_the_events_clock(tmp_path: pathlib.Path, start: int, told: str) -> None:
    events = {"user_id": [1, 1], "item_id": [1, 2], "timestamp": [start, start + 5]}
    items = {"item_id": [1, 2], "release_timestamp": [-4587 * DAY, -4586 * DAY]}
    text = render(describe(write(str(tmp_path / "data"), events, items)))
    assert f"release_timestamp numeric {told} known" in " ".join(text.split())


def test_the_events_own_splits_are_counted(data: str) -> None:
    split = ["train"] * 4 + ["test"] * 3
    found = describe(write(data, EVENTS | {"split": split}, ITEMS))
    assert found.splits == {"train": 4, "eval": 0, "test": 3}
    text = render(found)
    assert "4 train, 0 eval, 3 test" in text
    assert "--set split.protocol=split_column" in text


def test_spans_are_described_as_one_directory(data: str, tmp_path: pathlib.Path) -> None:
    days = np.array(EVENTS["timestamp"]) // DAY
    for day in np.unique(days).tolist():
        part = pa.table(EVENTS).filter(pa.array(days == day))
        write(data, {name: part[name] for name in part.column_names}, ITEMS, span=day)
    found, whole = describe(data), describe(write(str(tmp_path / "whole"), EVENTS, ITEMS))
    for name in ("events_per_user", "labels_per_item", "repeats", "new_items", "new_users", "event_types"):
        assert getattr(found, name) == getattr(whole, name)
    assert "10: 1 events, 1 predicted" in render(found)


def test_events_without_a_type_are_no_labels(data: str) -> None:
    found = describe(write(data, EVENTS | {"event_type": ["listen", None, None, "like", None, "", "listen"]}))
    assert found.event_types == {"": 4, "listen": 2, "like": 1}
    assert found.labels_per_user.count == 2
    assert "4 without a type" in render(found)


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
    repeats = 0
    for user, item, kind in rows:
        if kind == "listen":
            repeats += (user, item) in had
            had.add((user, item))
    listens = sum(kind == "listen" for _, _, kind in rows)
    out = write(str(tmp_path_factory.mktemp("repeats") / "data"), events)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(description, "_PAIRS", pairs)
        patch.setattr(description, "_MOST_PARTS", 100)
        found = describe(out)
    assert found.repeats == pytest.approx(repeats / listens)
    assert found.repeats_counted_over == 1


def test_of_very_many_events_repeats_are_counted_over_some_users(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(description, "_PAIRS", 100)
    monkeypatch.setattr(description, "_MOST_PARTS", 4)
    user = np.repeat(np.arange(0, 2000, 2), 2)  # everyone listens twice to one item
    events = {"user_id": user, "item_id": user, "timestamp": np.arange(2000)}
    found = describe(write(str(tmp_path / "data"), {name: v.tolist() for name, v in events.items()}))
    assert found.repeats == 0.5
    assert found.repeats_counted_over == pytest.approx(4 / 20, abs=0.05)
    assert "counted over users with" in " ".join(render(found).split())


@pytest.mark.parametrize("seconds", [0, 50, 3_600, DAY, 40 * DAY, 400 * DAY, 40_000 * DAY])
@pytest.mark.parametrize("start", [0, 1_700_000_123])
def test_the_plot_holds_every_event_in_at_most_24_bars_of_80_columns(
    tmp_path: pathlib.Path, seconds: int, start: int
) -> None:
    if start + seconds > 4_000_000_000:
        start = 0
    times = np.unique(np.linspace(start, start + seconds, 50).astype(np.int64))
    events = {"user_id": times % 3, "item_id": times % 5, "timestamp": times}
    found = describe(write(str(tmp_path / "data"), {name: v.tolist() for name, v in events.items()}))
    lines = description._plot(found.hours, found.events_of_hour)
    assert 1 <= len(lines) - 1 <= 25
    assert all(len(line) <= 80 for line in lines)
    counts = [int(line.split()[-1].replace(",", "")) for line in lines[1:]]
    assert sum(counts) == len(times)
    assert all(("█" in line) == (count > 0) for line, count in zip(lines[1:], counts, strict=True))


def test_long_names_and_large_numbers_stay_within_80_columns(tmp_path: pathlib.Path) -> None:
    out = write(str(tmp_path / "data"), EVENTS, ITEMS)
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


def test_the_command_describes_and_says_what_is_no_directory(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = write(str(tmp_path / "data"), EVENTS, ITEMS)
    assert main(["ingest", "--describe", out]) == 0
    shown = capsys.readouterr()
    assert "Events over time" in shown.out
    assert shown.err == ""
    assert main(["ingest", "--describe", str(tmp_path)]) == 2
    assert "is not a data directory" in capsys.readouterr().err
    (tmp_path / "data" / "events" / "part-00000.parquet").unlink()
    assert main(["ingest", "--describe", out]) == 2
    assert "part-00000.parquet: there is no such file" in capsys.readouterr().err
