from __future__ import annotations

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data_directories import (
    TEN_DAYS,
    TEN_DAYS_ITEMS,
    write_columns,
)
from two_tower.base.errors import UserError
from two_tower.data_directory.column_values import Column
from two_tower.data_directory.description import Distribution, describe
from two_tower.data_directory.description_text import render
from two_tower.data_directory.manifest import (
    DAY,
)
from two_tower.pipeline.commands.main import main


def test_a_small_directory_is_described_in_full(data: str) -> None:
    found = describe(
        write_columns(data, TEN_DAYS, TEN_DAYS_ITEMS, {"user_id": [1, 2, 3], "age": [30, 40, 40]})
    )
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
    # Every model uses ids, artists and lengths; bytes are no feature.
    assert found.columns == {
        "users": (Column("age", "categorical", 0, 1.0, 2, None),),
        "items": (
            Column("tags", "multi_valued", 0, 0.5, 2, None),
            Column("mood", "categorical", 0, 0.75, 2, None),
            Column("weight", "numeric", 0, 0.75, 3, (-2.0, 4.0)),
            Column("embedding", "vector", 2, 0.75, None, None),
        ),
    }


def test_data_without_times_types_or_columns_is_described_too(data: str) -> None:
    events = {"user_id": [1, 1, 1], "item_id": [5, 5, 6], "order": [0, 1, 2]}
    found = describe(write_columns(data, events))
    assert found.event_types == {"listen": 3}
    assert found.repeats == pytest.approx(1 / 3)
    assert (found.new_items, found.new_users, found.play_ratio, found.is_organic) == (None,) * 4
    assert not len(found.hours)
    text = render(found)
    assert "an order within their user" in text
    assert "Events over time" not in text
    assert "No column of items/ can become a feature" in text
    assert "--set split.protocol=leave_one_out" in text


def test_the_events_own_splits_are_counted(data: str) -> None:
    split = ["train"] * 4 + ["test"] * 3
    found = describe(write_columns(data, TEN_DAYS | {"split": split}, TEN_DAYS_ITEMS))
    assert found.splits == {"train": 4, "eval": 0, "test": 3}
    text = render(found)
    assert "4 train, 0 eval, 3 test" in text
    assert "--set split.protocol=split_column" in text


def test_spans_are_described_as_one_directory(data: str, tmp_path: pathlib.Path) -> None:
    days = np.array(TEN_DAYS["timestamp"]) // DAY
    for day in np.unique(days).tolist():
        part = pa.table(TEN_DAYS).filter(pa.array(days == day))
        write_columns(data, {name: part[name] for name in part.column_names}, TEN_DAYS_ITEMS, span=day)
    found, whole = describe(data), describe(write_columns(str(tmp_path / "whole"), TEN_DAYS, TEN_DAYS_ITEMS))
    for name in ("events_per_user", "labels_per_item", "repeats", "new_items", "new_users", "event_types"):
        assert getattr(found, name) == getattr(whole, name)
    assert "10: 1 events, 1 predicted" in render(found)


def test_events_without_a_type_are_no_labels(data: str) -> None:
    found = describe(
        write_columns(data, TEN_DAYS | {"event_type": ["listen", None, None, "like", None, "", "listen"]})
    )
    assert found.event_types == {"": 4, "listen": 2, "like": 1}
    assert found.labels_per_user.count == 2
    assert "4 without a type" in render(found)


def test_the_command_describes_and_says_what_is_no_directory(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = write_columns(str(tmp_path / "data"), TEN_DAYS, TEN_DAYS_ITEMS)
    assert main(["ingest", "--describe", out]) == 0
    shown = capsys.readouterr()
    assert "Events over time" in shown.out
    assert shown.err == ""
    assert main(["ingest", "--describe", str(tmp_path)]) == 2
    assert "is not a data directory" in capsys.readouterr().err
    (tmp_path / "data" / "events" / "part-00000.parquet").unlink()
    assert main(["ingest", "--describe", out]) == 2
    assert "part-00000.parquet: the manifest lists it and it is missing" in capsys.readouterr().err


def test_a_directory_that_was_edited_is_refused_and_not_described(tmp_path: pathlib.Path) -> None:
    data = pathlib.Path(write_columns(str(tmp_path / "data"), TEN_DAYS, TEN_DAYS_ITEMS))
    part = data / "events" / "part-00000.parquet"
    events = pq.read_table(part)
    pq.write_table(events.set_column(0, "user_id", pa.nulls(events.num_rows)), part)
    with pytest.raises(UserError, match=f"{part}: its content differs from the manifest"):
        describe(str(data))
