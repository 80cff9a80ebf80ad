from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tests.data_directories import items, write
from two_tower.base.errors import UserError
from two_tower.data_directory.manifest import DatasetProperties
from two_tower.pipeline.checks.settings_for_data import check_index, check_settings, check_verdict
from two_tower.pipeline.settings.run_file import load
from two_tower.serving import index_tuning
from two_tower.serving.settings import IndexConfig

# Twelve users listen to two items, at 0 to 110 seconds.
SPLIT = ["split.holdout_seconds=20", "split.gap_seconds=10"]
# Two items are more than a list of one.
ONE = ["evaluation.cutoffs=1", "gate.cutoff=1"]
BARE = pa.table({"item_id": [10, 11]})


def check(
    out: Path, overrides: list[str], catalog: pa.Table = BARE, is_music: bool = True, users: int = 12
) -> None:
    listens = pa.table(
        {
            "user_id": [number % users for number in range(12)],
            "item_id": [10 + number % 2 for number in range(12)],
            "timestamp": [10 * number for number in range(12)],
            "event_type": ["listen"] * 12,
        }
    )
    manifest = write(out, [listens], catalog, DatasetProperties("d", "listen", is_music))
    config = load("default", None, overrides)
    check_settings(str(out), config, manifest)
    check_verdict(str(out), config, manifest)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [*SPLIT, "index.latency_budget_ms=3"],
            r"latency_budget_ms is 3, and .* has 2 items\. Below [0-9,]+ search is exact",
        ),
        ([*SPLIT, "windows.spans=2"], "windows.spans is 2, and the events have no spans"),
        (["split.protocol=split_column"], "have no column 'split'"),
        (["split.holdout_seconds=90", "split.gap_seconds=0"], "train split is empty: .* lower split.holdout"),
        (
            [*SPLIT, *ONE, "evaluation.baselines=content_neighbours"],
            "lacks what they need: content embeddings",
        ),
        (
            [*SPLIT, *ONE, "evaluation.baselines=content_neighbours,personal_history"],
            r"items, repeats that may",
        ),
        (SPLIT, "gate.cutoff is 100, and .* has 2 items: a list of all items finds every label"),
    ],
)
def test_settings_that_the_data_makes_meaningless_are_refused_before_events_are_read(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        check(tmp_path, overrides, is_music=False)


def test_settings_that_suit_the_data_are_not(tmp_path: Path) -> None:
    suited = [*SPLIT, *ONE, "evaluation.baselines=content_neighbours", "gate.min_coverage=0.9"]
    check(tmp_path, suited, items())


def test_a_coverage_that_all_queries_together_cannot_reach_is_refused(tmp_path: Path) -> None:
    few = [*ONE, "evaluation.max_queries=10", "gate.min_coverage=0.5"]
    check(tmp_path / "twenty", [*SPLIT, *few], pa.table({"item_id": range(20)}))
    more = pa.table({"item_id": range(21)})
    with pytest.raises(UserError, match=r"Set evaluation.max_queries=11, or a lower gate.min_coverage"):
        check(tmp_path / "more", [*SPLIT, *few], more)
    check(tmp_path / "enough", [*SPLIT, *few[:2], "evaluation.max_queries=11", few[3]], more)


def test_a_verdict_needs_ten_users(tmp_path: Path) -> None:
    check(tmp_path / "ten", [*SPLIT, *ONE], users=10)
    with pytest.raises(UserError, match="has events of 9 users"):
        check(tmp_path / "nine", [*SPLIT, *ONE], users=9)


def test_a_latency_budget_is_for_an_index_that_is_tuned() -> None:
    budget = IndexConfig(latency_budget_ms=3)
    check_index("items", budget, index_tuning.EXACT_BELOW)
    check_index("items", IndexConfig(), 5)
    with pytest.raises(UserError, match=r"Set index\.latency_budget_ms=0; gate\.max_latency_p95"):
        check_index("items", budget, index_tuning.EXACT_BELOW - 1)
