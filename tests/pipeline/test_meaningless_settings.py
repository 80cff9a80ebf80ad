"""Meaningless settings: a setting without an effect is refused, and no other pair is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from two_tower.base.errors import UserError
from two_tower.base.settings import value_text, with_values
from two_tower.components.interaction_example_gen.settings import SplitConfig
from two_tower.pipeline.settings import pipeline_config
from two_tower.pipeline.settings.contradictions import ContradictionError
from two_tower.pipeline.settings.pipeline_config import PipelineConfig
from two_tower.pipeline.settings.presets import PRESETS
from two_tower.pipeline.settings.run_file import load
from two_tower.trainer.settings import TrainerConfig

# A value other than the default for every setting and key.
OTHERS: dict[str, Any] = {
    "split.protocol": "frozen",
    "split.holdout_seconds": 3_600,
    "split.gap_seconds": 60,
    "split.last_timestamp": 1_000,
    "split.holdout_share": 0.2,
    "split.seed": 4,
    "automatic": ("trainer.epochs",),
    "windows.history_length": 30,
    "windows.positions": 40,
    "windows.spans": 3,
    "features.users": ("gender",),
    "features.items": ("tags",),
    "validation.max_drift": 0.1,
    "validation.max_skew": 0.1,
    "trainer.embedding_dim": 32,
    "trainer.item_embedding_dim": 16,
    "trainer.item_initial": "co_occurrence",
    "trainer.encoder": "attention",
    "trainer.parts": ("history", "seed", "shared_tables"),
    "trainer.query_hidden_units": (32, 16),
    "trainer.temperature": 0.2,
    "trainer.softmax": "auto",
    "trainer.negatives.uniform": 5,
    "trainer.negatives.memory": 5,
    "trainer.negatives.hard": 5,
    "trainer.negatives.deduplicate": True,
    "trainer.frequency.estimate": "streaming",
    "trainer.frequency.hashes": 3,
    "trainer.frequency.rate": 0.1,
    "trainer.frequency.correction": "refined",
    "trainer.label_horizon": 4,
    "trainer.label_weights.play_ratio_floor": 0.5,
    "trainer.label_weights.max_per_user": 9,
    "trainer.label_weights.<event type>": 2.0,
    "trainer.epochs": 5,
    "trainer.learning_rate": 0.1,
    "trainer.schedule.shape": "cosine",
    "trainer.schedule.warmup": 5,
    "trainer.weight_decay": 0.1,
    "trainer.dropout.hidden": 0.3,
    "trainer.dropout.id": 0.3,
    "trainer.dropout.history": 0.3,
    "trainer.windows_per_step": 8,
    "trainer.positions_per_step": 99,
    "trainer.patience": 4,
    "trainer.distribution": "mirrored",
    "trainer.warm_start": True,
    "index.latency_budget_ms": 3.0,
    "index.max_k": 150,
    "evaluation.cutoffs": (5, 100),
    "evaluation.max_queries": 400,
    "evaluation.examples": 3,
    "evaluation.baselines": ("bpr",),
    "gate.cutoff": 10,
    "gate.min_recall": 0.1,
    "gate.min_ann_recall": 0.9,
    "gate.min_lift_over_best_baseline": -0.1,
    "gate.min_discovery_lift": -0.1,
    "gate.min_change_against_anchor": -0.1,
    "gate.min_change_against_blessed": -0.1,
    "gate.min_slice_change": -0.1,
    "gate.slices": ("cold=0.1",),
    "gate.min_coverage": 0.1,
    "gate.max_latency_p95": 9.0,
    "seed": 3,
    "resources.cpu": ("Trainer=8",),
    "resources.memory": ("Trainer=32",),
    "resources.accelerator": ("Trainer=NVIDIA_TESLA_T4:1",),
    "beam_args": ("--x=1",),
}
# Other settings that a setting needs.
NEEDS: dict[str, dict[str, Any]] = {
    **{f"split.{name}": {"split.protocol": "hold_out"} for name in ("holdout_share", "seed")},
    "trainer.frequency.estimate": {"trainer.negatives.deduplicate": True},
    **{
        f"trainer.frequency.{key}": {
            "trainer.frequency.estimate": "streaming",
            "trainer.negatives.deduplicate": True,
        }
        for key in ("hashes", "rate")
    },
}
SAMPLING = {
    f"trainer.{name}"
    for name in [
        "negatives.uniform",
        "negatives.memory",
        "negatives.deduplicate",
        "frequency.estimate",
        "frequency.hashes",
        "frequency.rate",
        "frequency.correction",
    ]
}
STREAMING = {f"trainer.frequency.{key}" for key in ("estimate", "hashes", "rate")}
TIMES = {"split.holdout_seconds", "split.gap_seconds", "split.last_timestamp"}
DRAWS = {"split.holdout_share", "split.seed"}
# Meaningless settings by choice; all other pairs are allowed.
MEANINGLESS: dict[tuple[str, str], set[str]] = {
    ("split.protocol", "frozen"): DRAWS,
    ("split.protocol", "yambda"): TIMES | DRAWS,
    ("split.protocol", "leave_one_out"): TIMES | DRAWS,
    ("split.protocol", "split_column"): TIMES | DRAWS,
    ("split.protocol", "hold_out"): TIMES,
    ("trainer.softmax", "full"): SAMPLING,
    # auto may be full.
    ("trainer.softmax", "auto"): SAMPLING - {"trainer.negatives.deduplicate"},
    ("trainer.frequency.estimate", "streaming"): {"trainer.softmax"},
    ("trainer.frequency.correction", "refined"): {"trainer.softmax"},
    ("trainer.frequency.correction", "none"): {"trainer.softmax", *STREAMING},
    ("trainer.parts", "-history"): {"trainer.encoder"},
}


def choices_of(name: str) -> Iterator[tuple[str, Any]]:
    """Yields each choice but the default, as text for `--set`, with its value; a list gives its changes."""
    one = pipeline_config.types()[name]
    if one.hint is bool:
        yield "true", True
    elif isinstance(one.default, tuple):
        for choice in one.setting.choices:
            inside = choice in one.default
            left = tuple(part for part in one.default if part != choice)
            yield ("-" if inside else "+") + choice, left if inside else (*one.default, choice)
    else:
        yield from ((choice, choice) for choice in one.setting.choices if choice != one.default)


CHOICES = [
    (name, text, value)
    for name, one in pipeline_config.types().items()
    if one.setting.choices or one.hint is bool
    for text, value in choices_of(name)
]


@pytest.mark.parametrize(("name", "text", "value"), CHOICES, ids=[f"{c[0]}={c[1]}" for c in CHOICES])
def test_a_choice_and_another_setting_both_take_effect_or_are_refused(
    name: str, text: str, value: Any
) -> None:
    refused = set()
    for other, given in OTHERS.items():
        if other == name:
            continue
        changes = {**NEEDS.get(other, {}), **NEEDS.get(name, {}), name: value, _written(other): given}
        try:
            config = with_values(PipelineConfig(), changes)
        except UserError as error:
            assert name in str(error), f"{other}: {error}"
            assert any(one in str(error) for one in (other, *NEEDS.get(other, {}))), f"{other}: {error}"
            refused.add(other)
            continue
        found = pipeline_config.settings(config)
        assert found[name] == (TrainerConfig(parts=value).parts if name == "trainer.parts" else value)
        assert found[_written(other)] == given
        for one in (name, other):
            for cause, allowed in pipeline_config.types()[one].setting.applies.items():
                held = found[cause] if isinstance(found[cause], tuple) else (found[cause],)
                assert set(held) & set(allowed), (one, cause)
    assert refused == MEANINGLESS.get((name, text), set())


def _written(name: str) -> str:
    return name.replace("<event type>", "like")


def test_the_walk_goes_by_every_setting() -> None:
    assert OTHERS.keys() == pipeline_config.types().keys()
    for name, value in OTHERS.items():
        assert value != pipeline_config.types()[name].default
    assert MEANINGLESS.keys() <= {(name, text) for name, text, _ in CHOICES}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["split.protocol=leave_one_out", "split.gap_seconds=60"],
            "split.gap_seconds is 60, .* is next_event or frozen; split.protocol is leave_one_out",
        ),
        (
            ["trainer.frequency.hashes=3"],
            "trainer.frequency.hashes is 3.*trainer.frequency.estimate is exact",
        ),
        (
            ["trainer.query_hidden_units=", "trainer.dropout.hidden=0.2"],
            "trainer.dropout.hidden is 0.2.*trainer.query_hidden_units is empty",
        ),
        (
            ["trainer.parts=shared_tables,user_id", "trainer.dropout.history=0.2"],
            "trainer.dropout.history is 0.2, .* is history .*; trainer.parts is user_id,shared_tables",
        ),
        (
            ["trainer.encoder=attention", "trainer.embedding_dim=33"],
            "trainer.embedding_dim is 33, and trainer.encoder=attention divides it among 2 heads",
        ),
        (["trainer.parts=user_id"], "trainer.parts lacks shared_tables"),
        (
            ["evaluation.max_queries=49", "gate.min_slice_change=-0.1"],
            "gate.min_slice_change is -0.1, .* only with 50 users in a slice; evaluation.max_queries is 49",
        ),
    ],
)
def test_a_given_setting_that_another_makes_meaningless_is_an_error(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load("default", None, overrides)


def test_a_presets_value_that_a_given_setting_makes_meaningless_goes_back_to_its_default(
    tmp_path: Path,
) -> None:
    assert PRESETS["next_item"].trainer.negatives.deduplicate
    config = load("next_item", None, ["trainer.softmax=full"])
    assert config.trainer == with_values(
        PRESETS["next_item"].trainer, {"softmax": "full", "negatives.deduplicate": False}
    )
    path = tmp_path / "run.yaml"
    path.write_text("split: {protocol: split_column}\n")
    assert load("small", str(path)).split == SplitConfig("split_column")
    path.write_text("split: {protocol: split_column, holdout_seconds: 9}\n")
    with pytest.raises(UserError, match=r"run\.yaml: split.holdout_seconds is 9"):
        load("small", str(path))


def meaningless_pairs() -> Iterator[tuple[str, str, str, Any]]:
    """Yields for each declared `applies` a setting and value, and another with a value that does not suit."""
    for name, one in pipeline_config.types().items():
        for other, allowed in one.setting.applies.items():
            if other == "trainer.parts":
                yield name, value_text(OTHERS[name]), other, "user_id,shared_tables"
            else:
                for choice in sorted(set(pipeline_config.types()[other].setting.choices) - set(allowed)):
                    yield name, value_text(OTHERS[name]), other, choice
                    yield name, value_text(one.default), other, choice


@pytest.mark.parametrize(("name", "value", "other", "choice"), meaningless_pairs())
def test_what_does_not_apply_is_refused_at_its_default_too_if_somebody_gave_it(
    name: str, value: str, other: str, choice: str
) -> None:
    with pytest.raises(ContradictionError) as error:
        load("default", None, [f"{name}={value}", f"{other}={choice}"])
    assert any(name == fault.meaningless for fault in error.value.faults)
    assert f"{name} is {value}" in str(error.value) and other in str(error.value)
    load("default", None, [f"{other}={choice}"])
