"""Choice of settings on eval: the search, its queries, and its notes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from tests.evaluation.test_baselines import LOG, SPLIT, K, cut
from tests.evaluation.test_scored_baselines import fitted
from two_tower.base.errors import UserError
from two_tower.evaluation.baselines import fitting as fitting_module
from two_tower.evaluation.baselines.popularity import Popularity
from two_tower.evaluation.baselines.search import search
from two_tower.evaluation.queries import Ints, Queries, Windows
from two_tower.pipeline.settings import run_file


class Named:
    def __init__(self, **settings: float) -> None:
        self.settings: dict[str, float | str] = dict(settings)

    def recommend(self, *_: Any) -> Ints:
        raise NotImplementedError


def test_a_search_goes_from_setting_to_setting() -> None:
    tried = []

    def recall(baseline: Any) -> float:
        tried.append((baseline.settings["a"], baseline.settings["b"]))
        return -abs(baseline.settings["a"] - 2) - abs(baseline.settings["b"] - 30)

    found = search(Named, {"a": (1, 2, 3), "b": (10, 30)}, recall, clock=lambda: 0.0)
    assert tried == [(1, 10), (2, 10), (3, 10), (2, 30)]
    assert found.baseline.settings == {"a": 2, "b": 30}
    assert found.recall == 0 and not found.was_stopped and found.tried == found.planned == 4


def test_of_a_rising_setting_a_further_value_is_tried_only_while_it_helps() -> None:
    def recall(baseline: Any) -> float:
        return -abs(baseline.settings["epochs"] - 6)

    rising = {"epochs": (3, 6, 12, 24, 48), "b": (1, 2)}
    found = search(Named, rising, recall, rising=("epochs",), clock=lambda: 0.0)
    assert found.baseline.settings == {"epochs": 6, "b": 1}
    # 3, 6 and 12, then the other b: what was not worth trying was not stopped by time.
    assert found.tried == found.planned == 4 and not found.was_stopped


def test_settings_are_chosen_by_queries_of_many_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws single queries of all users: forty whole users would be forty opinions only."""
    windows = cut(LOG, SPLIT)
    asked: list[Queries] = []

    def recommend(_: Any, windows: Windows, queries: Queries, rows: Ints, k: int, exclude: bool) -> Ints:
        asked.append(queries.take(rows))
        return np.full([len(rows), k], -1)

    monkeypatch.setattr(fitting_module, "TUNING_QUERIES", 12)
    monkeypatch.setattr(Popularity, "recommend", recommend)
    fitted(windows, names=("decayed_popularity",))
    assert len(asked) > 1 and {len(one) for one in asked} == {12}
    assert all(np.array_equal(one.event, asked[0].event) for one in asked)
    assert len(np.unique(asked[0].user_id)) >= 6


def test_without_an_eval_query_the_first_settings_stand_and_it_is_said() -> None:
    windows = cut(LOG, SPLIT)
    silent = dataclasses.replace(windows["eval"], label_step=0 * windows["eval"].label_step)
    found = fitted({**windows, "eval": silent}, names=("decayed_popularity", "co_occurrence"))
    for name, baseline in found.items():
        assert f"eval_recall@{K}" not in baseline.settings
        assert found.notes[name] == f"{name} has its first settings: eval holds no query to choose them by."
    json.dumps([baseline.settings for baseline in found.values()], allow_nan=False)


def test_a_search_whose_time_is_up_ends_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    found = search(Named, {"a": (1, 2, 3, 4)}, lambda one: 1.0, seconds=1.5, clock=lambda: next(ticks))
    assert found.was_stopped and (found.tried, found.planned) == (2, 4)
    short = fitted(cut(LOG, SPLIT), names=("ials",), seconds=-1.0)
    assert "ials" in short and "stopped" in short.notes["ials"]
    assert f"eval_recall@{K}" in short["ials"].settings


def test_an_unknown_baseline_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"evaluation\.baselines takes one of most_popular, .*nearest is ials"
    ):
        run_file.load(overrides=["evaluation.baselines=ialz"])
    config = run_file.load(overrides=["evaluation.baselines=ials,bpr"])
    assert config.evaluation.baselines == ("ials", "bpr")
