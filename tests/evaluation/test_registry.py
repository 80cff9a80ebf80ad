"""The list of baselines: complete definitions, and a light import for the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import two_tower.evaluation
from two_tower.base.import_closure import import_closure
from two_tower.evaluation.baselines.registry import BASELINES, definition
from two_tower.evaluation.recommenders import in_order, recommender

HEAVY = {"numpy", "scipy", "implicit", "tensorflow", "pyarrow", "sklearn"}


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_what_the_registry_and_its_grid_say(name: str) -> None:
    baseline = definition(name)
    assert baseline.name == name
    assert set(baseline.trained) <= set(baseline.grid)
    assert all(len(values) == len(set(values)) > 0 for values in baseline.grid.values())
    shown = recommender(name)
    assert (shown.label, shown.family, shown.colour) == (baseline.label, baseline.family, baseline.colour)
    style = Path(two_tower.evaluation.__path__[0], "report", "style.css").read_text()
    assert style.count(f"--{baseline.colour}:") == 2, "a colour for the light scheme, and one for the dark"


def test_reports_show_baselines_by_place_and_models_last() -> None:
    places = [definition(name).place for name in BASELINES]
    assert len(set(places)) == len(places)
    shown = in_order(["model", "unknown", *BASELINES])
    assert (shown[0], shown[-1]) == ("unknown", "model")
    assert [definition(name).place for name in shown[1:-1]] == sorted(places)


def test_on_large_data_fewer_trainings_are_compared() -> None:
    ials = definition("ials")
    grid = ials.grid_on_large_data()
    assert [len(grid[name]) for name in ials.trained] == [2, 1, 1]
    assert all(grid[name] == values for name, values in ials.grid.items() if name not in ials.trained)


def test_an_unknown_name_has_no_definition() -> None:
    with pytest.raises(KeyError, match="ialz"):
        definition("ialz")


def test_the_settings_know_the_names_without_heavy_packages() -> None:
    code = "import sys; from two_tower.evaluation import settings; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & {module.split(".")[0] for module in done.stdout.split()}


def test_cache_keys_heed_edits_of_every_baseline() -> None:
    closure = import_closure("two_tower.evaluation.baselines.fitting")
    assert {f"two_tower.evaluation.baselines.{name}" for name in BASELINES} <= closure
