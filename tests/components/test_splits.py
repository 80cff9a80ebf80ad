from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.listening_logs import SPLIT
from two_tower.base.errors import UserError
from two_tower.components.interaction_example_gen.settings import SplitConfig
from two_tower.components.interaction_example_gen.splits import (
    FrozenSplit,
    TimeSplit,
    check_not_empty,
    event_split,
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
    assert before(1_500_000, 1_500_000) == before(1_500_000, -1) == before(2_000_000, 1_500_000)


def test_yambdas_test_begins_where_its_authors_say() -> None:
    assert PRESETS["yambda"].split == SplitConfig("yambda")

    def times_of(newest: int) -> TimeSplit:
        manifest: Any = SimpleNamespace(has_timestamps=True, spans=[], time_range=(0, newest))
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


def test_a_test_split_of_strangers_alone_is_an_error_before_anything_is_trained() -> None:
    counts = {"train_labels": 9, "eval_labels": 9, "test_labels": 9, "test_users": 4}
    check_not_empty(counts | {"test_users_unknown_to_train": 3}, SPLIT)
    with pytest.raises(UserError, match="no user that train knows: none of its 4 users"):
        check_not_empty(counts | {"test_users_unknown_to_train": 4}, SPLIT)
