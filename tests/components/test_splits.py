from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.listening_logs import SPLIT
from two_tower.base.errors import UserError
from two_tower.components.interaction_example_gen.settings import SplitConfig
from two_tower.components.interaction_example_gen.splits import (
    BY_TIME,
    EventSplit,
    FrozenSplit,
    HoldOut,
    LeaveOneOut,
    SplitColumn,
    TimeSplit,
    asks_for_sets,
    check_not_empty,
    event_split,
    users_are_new,
)
from two_tower.data_directory.manifest import DAY
from two_tower.pipeline.settings.presets import PRESETS

SPLITS = ("train", "eval", "test")


def test_splits_lie_before_the_newest_label_with_gaps_between() -> None:
    split = TimeSplit.before(1_000_000, SplitConfig(holdout_seconds=2 * DAY, gap_seconds=500))
    assert split.test == (1_000_001 - 2 * DAY, 1_000_001)
    assert split.eval == (split.test[0] - 500 - 2 * DAY, split.test[0] - 500)
    assert split.train_end == split.eval[0] - 500


def test_test_ends_with_the_event_that_is_named_as_the_last() -> None:
    def before(newest: int, last: int) -> TimeSplit:
        return TimeSplit.before(newest, SplitConfig(holdout_seconds=DAY, last_timestamp=last))

    assert before(2_000_000, 1_500_000).test == (1_500_001 - DAY, 1_500_001)
    assert before(1_500_000, 0).test == (1 - DAY, 1)
    assert before(1_500_000, 1_500_000) == before(1_500_000, -1) == before(2_000_000, 1_500_000)


def test_yambdas_test_begins_where_its_authors_say() -> None:
    assert PRESETS["yambda"].split == SplitConfig("yambda")

    def times_of(newest: int) -> TimeSplit:
        manifest: Any = SimpleNamespace(has_timestamps=True, has_order=True, spans=[], time_range=(0, newest))
        split = event_split("data", manifest, SplitConfig("yambda"))
        assert isinstance(split, FrozenSplit)
        assert (split.gap_seconds, split.min_play_ratio) == (1_800, 0.5)
        return split.times

    # The newest listen is shortly before the end of the clock.
    split = times_of(25_999_995)
    assert split.test == (25_913_600, 26_000_000)
    assert split.eval == (25_913_600 - 1_800 - 86_400, 25_913_600 - 1_800)
    assert split.train_end == 25_913_600 - 1_800 - 86_400 - 1_800
    # Test has no end: events after the given time belong to it too.
    assert times_of(26_000_500).test == (25_913_600, 26_000_501)


@pytest.mark.parametrize("empty", SPLITS)
def test_an_empty_split_is_named_with_the_settings_that_made_it(empty: str) -> None:
    counts = {f"{split}_labels": 3 for split in SPLITS if split != empty}
    with pytest.raises(UserError, match=rf"The {empty} split is empty.*split\.holdout_seconds"):
        check_not_empty(counts, SPLIT)
    check_not_empty(counts | {f"{empty}_labels": 1}, SPLIT)


def test_users_are_new_if_train_knows_none_of_tests() -> None:
    assert not users_are_new({"test_users": 4, "test_users_unknown_to_train": 3})
    assert users_are_new({"test_users": 4, "test_users_unknown_to_train": 4})
    # The frozen protocol leaves strangers out of its users.
    assert not users_are_new({"test_users": 3, "test_users_unknown_to_train": 4})
    assert not users_are_new({"train_users": 4})
    assert users_are_new({"test_users": 1, "test_users_unknown_to_train": 1})
    assert not users_are_new({"test_users": 1}) and not users_are_new({"test_users_unknown_to_train": 1})


def test_a_frozen_split_of_sessions_is_told_the_protocol_that_takes_them() -> None:
    counts = {"train_labels": 9, "eval_labels": 9, "test_labels": 9, "test_users": 4}
    check_not_empty(counts | {"test_users_unknown_to_train": 4}, SPLIT)
    frozen = FrozenSplit(SPLIT, 7)
    empty = counts | {"test_labels": 0, "test_users": 0, "test_users_unknown_to_train": 4}
    with pytest.raises(UserError, match=r"test split is empty.* 4 users have labels.*protocol=next_event"):
        check_not_empty(empty, frozen)
    with pytest.raises(UserError, match=r"test split is empty(?!.*next_event)"):
        check_not_empty(empty | {"test_users_unknown_to_train": 0}, frozen)
    hint = (
        ". 1 users have labels there and no label event in train. Where users never return, as in data of "
        "sessions, choose split.protocol=next_event"
    )
    for strangers, told in ((None, ""), (0, ""), (1, hint)):
        known = {} if strangers is None else {"test_users_unknown_to_train": strangers}
        with pytest.raises(UserError) as raised:
            check_not_empty({"train_labels": 9, "eval_labels": 9, **known}, frozen)
        assert str(raised.value) == f"The test split is empty: {frozen.where('test')}{told}."


def manifest_of(has_timestamps: bool = True, has_splits: bool = False, **spans: tuple[int, int]) -> Any:
    """Returns a manifest whose spans have these newest times and numbers of label events."""
    counts = {name[1:]: {"last": last, "label_events": labels} for name, (last, labels) in spans.items()}
    return SimpleNamespace(
        has_timestamps=has_timestamps,
        has_order=True,
        has_splits=has_splits,
        spans=[int(name) for name in counts],
        span_counts=counts,
        time_range=(0, 90_000_000),
    )


def test_each_protocol_gives_its_split() -> None:
    config = SplitConfig("next_event", holdout_seconds=DAY, gap_seconds=7)
    times = TimeSplit.before(90_000_000, config)
    assert event_split("data", manifest_of(), config) == times
    frozen = dataclasses.replace(config, protocol="frozen")
    assert event_split("data", manifest_of(), frozen) == FrozenSplit(times, 7)
    assert isinstance(event_split("data", manifest_of(), SplitConfig("leave_one_out")), LeaveOneOut)
    for has_timestamps in (True, False):
        manifest = manifest_of(has_timestamps, has_splits=True)
        assert isinstance(event_split("data", manifest, SplitConfig("split_column")), SplitColumn)


@pytest.mark.parametrize("protocol", BY_TIME)
def test_a_split_by_time_needs_times_and_names_what_does_not(protocol: str) -> None:
    told = rf"^split\.protocol is {protocol}, .* the events of my/data have no times: choose "
    for has_splits, choice in ((False, "leave_one_out"), (True, "leave_one_out or split_column")):
        with pytest.raises(UserError, match=rf"{told}{choice}\.$"):
            event_split("my/data", manifest_of(False, has_splits), SplitConfig(protocol))
    event_split("my/data", manifest_of(False), SplitConfig("leave_one_out"))


def test_a_split_by_column_needs_the_column() -> None:
    with pytest.raises(UserError, match=r"^split\.protocol is split_column, and the events of my/data have"):
        event_split("my/data", manifest_of(), SplitConfig("split_column"))


def test_the_newest_label_of_the_spans_that_are_read_ends_the_test_period() -> None:
    manifest = manifest_of(_7=(50_000_000, 3), _8=(60_000_000, 2), _9=(70_000_000, 0))
    for spans, newest in ((0, 90_000_000), (1, 90_000_000), (2, 60_000_000), (3, 60_000_000)):
        split = event_split("data", manifest, SplitConfig(), spans)
        assert isinstance(split, TimeSplit) and split.test[1] == newest + 1, spans
    older = manifest_of(_7=(50_000_000, 3), _8=(40_000_000, 1))
    found = event_split("data", older, SplitConfig(), 2)
    assert isinstance(found, TimeSplit) and found.test[1] == 50_000_001
    every = event_split("data", older, SplitConfig())
    assert isinstance(every, TimeSplit) and every.test[1] == 90_000_001


def test_an_empty_split_says_where_its_labels_would_have_to_be() -> None:
    times = TimeSplit(1_000, (2_000, 3_000), (4_000, 5_000))
    frozen = FrozenSplit(times, 7)
    told = (
        ("train", "before 1,000", "Eval and test may leave train too little time: lower"),
        ("eval", "from 2,000 to 3,000", "Change"),
        ("test", "from 4,000 to 5,000", "Change"),
    )
    for split, period, what in told:
        assert times.where(split) == (
            f"no user has a label event {period} (seconds of the data's clock) after an earlier one. {what} "
            "split.holdout_seconds, change split.gap_seconds or split.last_timestamp, or bring more data"
        )
    assert frozen.where("train") == times.where("train")
    for split, period in (("eval", "from 2000 to 3000"), ("test", "from 4000 to 5000")):
        assert f"before 1000 (seconds) has a label {period}. A label has a play" in frozen.where(split)
        assert times.where(split) != frozen.where(split)
    assert LeaveOneOut().where("test") == (
        "no user has three label events or more. Choose another split.protocol, or bring more data"
    )


def events_of(**columns: list[int] | None) -> Any:
    """Returns columns of events; those that are not given are empty."""
    dtypes = {"user": np.int64, "timestamp": np.int64, "is_listen": bool, "split": np.int8}
    return SimpleNamespace(
        **{name: None if (given := columns.get(name, [])) is None else np.array(given, dtype)
           for name, dtype in dtypes.items()}
    )  # fmt: skip


def test_leave_one_out_places_a_user_s_last_label_events_and_what_follows_them() -> None:
    # User 0 has four label events, user 1 two, user 2 three. Each has a reaction before the first and after.
    user = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2]
    is_listen = [0, 1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0]
    placed = LeaveOneOut().place(events_of(user=user, is_listen=is_listen))
    expected = [0, 0, 0, 1, 2, 2, 0, 0, 0, 0, 0, 0, 1, 2, 2]
    for found in (placed.label_split, placed.visible_from):
        assert found.tolist() == expected and found.dtype == np.int8


@pytest.mark.parametrize("reactions", [0, 2])
@pytest.mark.parametrize("split", [LeaveOneOut(), HoldOut(0.1)])
def test_without_a_label_event_all_is_train(split: EventSplit, reactions: int) -> None:
    placed = split.place(events_of(user=[3] * reactions, is_listen=[0] * reactions))
    assert placed.label_split.tolist() == placed.visible_from.tolist() == [0] * reactions
    assert placed.label_split.dtype == placed.visible_from.dtype == np.int8


def test_the_column_places_labels_and_the_events_that_queries_see() -> None:
    placed = SplitColumn().place(events_of(split=[0, 2, 1]))
    assert placed.label_split.tolist() == placed.visible_from.tolist() == [0, 2, 1]
    with pytest.raises(ValueError, match=r"^The column split was not read\.$"):
        SplitColumn().place(events_of(split=None))


def test_splits_that_overlap_are_told_with_their_times() -> None:
    overlapping = TimeSplit(1_000, (900, 3_000), (4_000, 5_000))
    with pytest.raises(ValueError) as raised:
        overlapping.place(events_of(timestamp=[1]))
    assert str(raised.value) == f"The splits overlap: {overlapping}."


@pytest.mark.parametrize(
    ("share", "listens", "held"),
    [
        (0.1, 2, 0),
        # Of three items or more, at least one for each.
        (0.1, 3, 1),
        (0.1, 19, 1),
        (0.1, 20, 2),
        (0.3, 9, 2),
        # 100 * .29 is less than 29 to a computer.
        (0.29, 100, 29),
    ],
)
def test_a_hold_out_takes_its_share_of_each_user_s_items_twice(share: float, listens: int, held: int) -> None:
    # A user before and a user after hold out nothing, and a last event that is no label goes with the label.
    user = [0, 0, *[1] * (listens + 1), 2]
    placed = HoldOut(share).place(events_of(user=user, is_listen=[1, 1, *[1] * listens, 0, 1]))
    last = 2 if held else 0
    expected = [0, 0, *[0] * (listens - 2 * held), *[1] * held, *[2] * held, last, 0]
    assert placed.label_split.tolist() == placed.visible_from.tolist() == expected
    state = {split: HoldOut(share).state(events_of(), placed, split).tolist() for split in ("eval", "test")}
    assert state == {"eval": [one < 1 for one in expected], "test": [one < 2 for one in expected]}


def test_labels_of_a_hold_out_are_label_events_without_a_time() -> None:
    split = HoldOut(0.1)
    assert split.makes_label(events_of(is_listen=[0, 1, 1])).tolist() == [False, True, True]
    assert split.request_time("test") == 0
    assert asks_for_sets(split) and asks_for_sets(FrozenSplit(SPLIT, 7)) and not asks_for_sets(LeaveOneOut())
    assert (
        split.where("train")
        == "no user has two items or more that are not held out. Lower split.holdout_share"
    )
    assert split.where("test") == split.where("eval") == "no user has three items or more. Bring more data"


@pytest.mark.parametrize(
    ("has_order", "has_timestamps", "protocol", "told"),
    [
        (True, True, "hold_out", "have times: a draw would test on the past. Choose next_event."),
        (True, False, "hold_out", "have an order: a draw would test on the past. Choose leave_one_out."),
        (False, False, "leave_one_out", "have none: choose hold_out."),
    ],
)
def test_events_are_held_out_by_a_draw_only_where_they_have_no_order(
    has_order: bool, has_timestamps: bool, protocol: str, told: str
) -> None:
    manifest = manifest_of(has_timestamps)
    manifest.has_order = has_order
    with pytest.raises(UserError) as raised:
        event_split("my/data", manifest, SplitConfig(protocol, holdout_share=0.2))
    assert str(raised.value).startswith(f"split.protocol is {protocol}, ")
    assert str(raised.value).endswith(f" the events of my/data {told}")
    if not has_order:
        config = SplitConfig("hold_out", holdout_share=0.2)
        assert event_split("my/data", manifest, config) == HoldOut(0.2)
