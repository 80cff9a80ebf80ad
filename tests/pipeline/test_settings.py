from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from two_tower.base.errors import UserError
from two_tower.base.settings import from_plain, typed
from two_tower.evaluation.settings import GateConfig, slice_limits
from two_tower.pipeline.settings import pipeline_config, presets, run_file
from two_tower.pipeline.settings.pipeline_config import PipelineConfig
from two_tower.pipeline.settings.presets import PRESETS
from two_tower.pipeline.settings.run_file import load
from two_tower.trainer.settings import TrainerConfig


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name: str) -> None:
    plain = json.loads(json.dumps(PRESETS[name].to_dict()))
    assert PipelineConfig.from_dict(plain) == PRESETS[name]
    trainer = from_plain(TrainerConfig, plain["trainer"], "trainer")
    assert trainer == PRESETS[name].trainer


def test_every_preset_has_a_help_text_and_no_range_names_a_setting_that_is_not_there() -> None:
    assert PRESETS.keys() == presets.PRESET_HELP.keys()
    known = pipeline_config.settings(PipelineConfig())
    checked = {*pipeline_config._RANGES, *pipeline_config._CHOICES, *pipeline_config._MAY_BE_EMPTY}
    assert checked <= known.keys()


@pytest.mark.parametrize(
    ("override", "section", "field", "value"),
    [
        ("trainer.learning_rate=1e-3", "trainer", "learning_rate", 0.001),
        ("trainer.learning_rate=0", "trainer", "learning_rate", 0.0),
        ("trainer.epochs = 3", "trainer", "epochs", 3),
        ("trainer.query_hidden_units=128,64", "trainer", "query_hidden_units", (128, 64)),
        ("trainer.query_hidden_units=[128, 64]", "trainer", "query_hidden_units", (128, 64)),
        ("trainer.query_hidden_units=", "trainer", "query_hidden_units", ()),
        ("trainer.sampling_correction=none", "trainer", "sampling_correction", "none"),
        ("split.gap_seconds=0", "split", "gap_seconds", 0),
    ],
)
def test_an_override_changes_its_setting_alone(
    override: str, section: str, field: str, value: object
) -> None:
    base = load()
    changed = dataclasses.replace(getattr(base, section), **{field: value})
    assert load("default", None, [override]) == dataclasses.replace(base, **{section: changed})
    assert type(getattr(getattr(load("default", None, [override]), section), field)) is type(value)


def test_beam_arguments_keep_their_equals_signs() -> None:
    config = load(None, None, ["beam_args=--runner=DirectRunner,--x=1"])
    assert config.beam_args == ("--runner=DirectRunner", "--x=1")


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False)])
def test_a_switch_is_written_as_in_yaml(text: str, value: bool) -> None:
    assert typed("switch", bool, run_file._scalar(bool, text)) is value
    with pytest.raises(UserError, match="switch takes true or false, and was given 'yes'"):
        typed("switch", bool, run_file._scalar(bool, "yes"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.learning_rat=1", "no setting trainer.learning_rat; the nearest is trainer.learning_rate"),
        ("learning_rate=1", "no setting learning_rate; the nearest is trainer.learning_rate"),
        ("model.epochs=1", "the nearest is trainer.epochs"),
        ("seed=1", "trainer.seed or index.seed or evaluation.seed"),
        ("trainer=3", "trainer is a section"),
        ("trainer.epochs", "takes key=value"),
        ("trainer.epochs=many", "trainer.epochs takes a whole number, and was given 'many'"),
        ("trainer.epochs=1.5", "trainer.epochs takes a whole number"),
        ("trainer.epochs=0", "trainer.epochs takes a value from 1"),
        ("trainer.dropout=high", "trainer.dropout takes a number"),
        ("trainer.learning_rate=nan", "trainer.learning_rate takes a value from 0"),
        ("gate.min_recall=inf", "takes a finite value"),
        ("trainer.query_hidden_units=64,x", "takes a whole number|list of whole numbers"),
        ("trainer.query_hidden_units=[64", "not a list"),
        ("trainer.sampling_correction=logQ", "takes one of logq, refined, none.*nearest is logq"),
        ("trainer.event_type_weights=like", "event types with weights from 0 on, as in like=2.*'like'"),
        ("trainer.event_type_weights=like=-1", "weights from 0 on"),
        ("trainer.event_type_weights=like=2,like=3", "names the event type 'like' twice"),
        ("trainer.frequency=streaming", "set trainer.deduplicate_negatives=true"),
        ("trainer.frequency_initial_gap=0.5", "takes a value from 1"),
        ("gate.slices=cold", "as in cold=0.02, and was given 'cold'"),
        ("gate.slices=cold=0.1,cold=0.2", "names the slice 'cold' twice"),
        ("gate.max_latency_p95=-1", "takes a value from 0"),
        ("evaluation.cutoffs=", "needs at least one"),
        ("evaluation.cutoffs=1,500", "raise index.max_k"),
        ("evaluation.cutoffs=1,10", "1, 10, without 100: the gate judges by Recall@100"),
    ],
)
def test_a_wrong_override_is_named_with_its_remedy(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load("default", None, [override])


def test_a_learned_temperature_begins_where_it_may_be() -> None:
    asked = ["trainer.learned_temperature=true", "trainer.temperature=0.005"]
    with pytest.raises(UserError, match=r"temperature is 0.005, and a learned one is never below 0.01"):
        load("default", None, asked)
    assert load("default", None, asked[1:]).trainer.temperature == 0.005


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match="no preset 'smok'; the nearest is 'smoke'"):
        load("smok")


def test_a_file_is_laid_over_the_preset_and_overrides_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("preset: smoke\ndata: d\ntrainer:\n  learning_rate: 1e-3\n  epochs: 7\n")
    run = run_file.read_run_file(str(path))
    assert (run.data, run.output, run.preset) == ("d", None, "smoke")
    config = load(None, str(path), ["trainer.epochs=9"])
    smoke = PRESETS["smoke"]
    assert config == dataclasses.replace(
        smoke, trainer=dataclasses.replace(smoke.trainer, learning_rate=0.001, epochs=9)
    )
    # The command line's preset comes before the file's.
    assert load("small", str(path)).windows == PRESETS["small"].windows


def test_without_a_preset_the_size_of_the_data_chooses(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("data: d\n")
    assert load(None, str(path), fallback=run_file.suited_preset(100_000)) == PRESETS["small"]
    assert load(None, str(path), fallback=run_file.suited_preset(1_000_000)) == PRESETS["default"]
    for events in (100_000, 1_000_000):
        assert run_file.suited_preset(events, has_timestamps=False) == "next_item"
    path.write_text("preset: smoke\n")
    assert load(None, str(path), fallback="small") == PRESETS["smoke"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("trainer:\n  epoch: 3\n", "the nearest is trainer.epochs"),
        ("trainers:\n  epochs: 3\n", "no setting trainers"),
        ("trainer: 3\n", "trainer is a section"),
        ("trainer:\n  epochs: [3]\n", "trainer.epochs takes a whole number"),
        ("trainer:\n  epochs: true\n", "trainer.epochs takes a whole number"),
        ("trainer: {dropout: false}\n", "trainer.dropout takes a number"),
        ("- trainer\n", "holds keys and values"),
        ("preset: 3\n", "preset takes a text"),
        ("a: [1\n", "not YAML"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        load(None, str(path))
    assert str(path) in str(error.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"no/such\.yaml"):
        load(None, "no/such.yaml")


def test_limits_of_slices_are_a_mapping_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("gate:\n  slices: {cold: 0.02, popularity 1: 0.5}\n")
    assert slice_limits(run_file.load(file=str(path)).gate) == {"cold": 0.02, "popularity 1": 0.5}
    # The limits that an evaluation was judged by, and over them the file's.
    before = GateConfig(cutoff=7, min_recall=0.3)
    gate = run_file.load_gate(before, file=str(path), overrides=["gate.min_coverage=0.1"])
    assert (gate.cutoff, gate.min_recall, gate.min_coverage) == (7, 0.3, 0.1)
    assert run_file.load_gate(before, preset="next_item").cutoff == 10
    path.write_text("gate: 3\n")
    with pytest.raises(UserError, match="gate is a section of settings"):
        run_file.load_gate(before, file=str(path))
