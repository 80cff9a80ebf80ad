"""Advice of errors about settings: whoever follows it meets no further error."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest

from two_tower.base.errors import UserError
from two_tower.pipeline.settings import pipeline_config
from two_tower.pipeline.settings.contradictions import ContradictionError, advice, faults
from two_tower.pipeline.settings.presets import PRESETS
from two_tower.pipeline.settings.run_file import load

# Values that rules of `contradictions` or `applies` look at, by setting.
VALUES = {
    "split.protocol": ("yambda", "leave_one_out"),
    "split.holdout_seconds": ("3600", "86400"),
    "windows.positions": ("1",),
    "features.users": ("gender",),
    "trainer.embedding_dim": ("33",),
    "trainer.encoder": ("mean", "attention"),
    "trainer.parts": ("-history", "shared_tables", "normalisation", "user_id,repeat_head", "history"),
    "trainer.query_hidden_units": ("",),
    "trainer.softmax": ("full", "auto", "sampled"),
    "trainer.negatives.uniform": ("5",),
    "trainer.negatives.deduplicate": ("true", "false"),
    "trainer.frequency.estimate": ("streaming", "exact"),
    "trainer.frequency.hashes": ("3",),
    "trainer.frequency.correction": ("none", "refined"),
    "trainer.label_horizon": ("1000",),
    "trainer.dropout.hidden": ("0.3",),
    "trainer.dropout.history": ("0.3",),
    "trainer.windows_per_step": ("1",),
    "index.latency_budget_ms": ("10",),
    "index.max_k": ("50", "1"),
    "evaluation.cutoffs": ("10", "10,10,100", "1000"),
    "evaluation.max_queries": ("20",),
    "gate.cutoff": ("20", "300"),
    "gate.min_slice_change": ("-0.1",),
    "gate.max_latency_p95": ("5",),
}
ALL = [f"{name}={value}" for name, values in VALUES.items() for value in values]


def name_of(override: str) -> str:
    return override.partition("=")[0]


def alternatives(message: str) -> Iterator[tuple[list[str], list[str]]]:
    """Parses the advice at a message's end: for each alternative the settings to leave out, and overrides."""
    begin = re.search(r"(Leave out|Set) ", message)
    assert begin is not None, message
    text = message[begin.start() :].removesuffix(".")
    for alternative in text.split(", or "):
        words = re.split(r"\s+(?:and )?", re.sub(r"(?i)^leave out |\b[sS]et ", "", alternative))
        yield [word for word in words if "=" not in word], [word for word in words if "=" in word]


def check_advice(preset: str, overrides: list[str]) -> bool:
    """Returns whether there was an error; fails where following its advice leads to another."""
    try:
        load(preset, None, overrides)
    except ContradictionError as error:
        message = str(error)
    else:
        return False
    followed = list(alternatives(message))
    assert followed, message
    for left_out, put in followed:
        changed = {*left_out, *map(name_of, put)}
        assert changed <= pipeline_config.types().keys(), message
        then = [one for one in overrides if name_of(one) not in changed] + put
        try:
            load(preset, None, then)
        except UserError as error:
            pytest.fail(f"{overrides}: {message}\n{then}: {error}")
    return True


@pytest.mark.parametrize("preset", PRESETS)
def test_the_advice_of_each_error_leads_to_settings_without_an_error(preset: str) -> None:
    assert sum(check_advice(preset, [one]) for one in ALL) >= 8


PAIRS = [pair for pair in itertools.combinations(ALL, 2) if name_of(pair[0]) != name_of(pair[1])]


def test_the_advice_of_each_error_of_every_seventh_pair_leads_to_settings_without_an_error() -> None:
    assert sum(check_advice("default", list(pair)) for pair in PAIRS[::7]) > 50


@pytest.mark.long
def test_the_advice_of_each_error_of_a_pair_leads_to_settings_without_an_error() -> None:
    assert sum(check_advice("default", list(pair)) for pair in PAIRS) > 400


def test_a_remedy_includes_that_of_the_error_behind_it() -> None:
    """Checks the circle of old: streaming needs deduplication, which full softmax makes meaningless."""
    told = told_of("trainer.softmax=full", "trainer.frequency.estimate=streaming")
    streaming = "trainer.softmax=sampled and trainer.negatives.deduplicate=true"
    assert told.endswith(f"Leave out trainer.frequency.estimate, or set {streaming}.")
    told = told_of("trainer.frequency.hashes=3")
    streaming = "trainer.frequency.estimate=streaming and trainer.negatives.deduplicate=true"
    assert told.endswith(f"Leave out trainer.frequency.hashes, or set {streaming}.")


def told_of(*overrides: str) -> str:
    with pytest.raises(ContradictionError) as error:
        load("default", None, overrides)
    return str(error.value)


def test_alternatives_are_worded_in_one_sentence() -> None:
    remedies: list[dict[str, Any]] = [{"a": None, "b": None, "c": 1}, {"d": ("x", "y"), "e": True}]
    assert advice(remedies) == "Leave out a and b and set c=1, or set d=x,y and e=true."


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_no_fault_even_if_somebody_gives_all_that_it_changes(name: str) -> None:
    preset = PRESETS[name]
    given = {
        setting
        for setting, value in pipeline_config.settings(preset).items()
        if value != pipeline_config.types()[setting].default
    }
    assert not list(faults(preset, given))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.label_horizon=300"], "label_horizon is 300, and .* windows.positions = 150 labels"),
        (["trainer.windows_per_step=1"], "trainer.windows_per_step is 1. .* other windows"),
        (["trainer.parts=normalisation,shared_tables"], "features.users is empty: the query tower has no in"),
        (
            ["index.latency_budget_ms=10", "gate.max_latency_p95=5"],
            "index.latency_budget_ms is 10, and gate.max_latency_p95 refuses what takes more than 5",
        ),
        (["trainer.softmax=auto", "trainer.frequency.correction=refined"], "frequency.correction is refined"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ContradictionError, match=message):
        load("default", None, overrides)
    for left_out in overrides:
        load("default", None, [one for one in overrides if one != left_out])
