from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from two_tower.base.durations import DAY
from two_tower.base.errors import UserError
from two_tower.base.settings import Declaration, from_plain, known_part, to_plain, typed, with_values
from two_tower.evaluation.settings import GateConfig, slice_limits
from two_tower.pipeline.settings import pipeline_config, presets, run_file, settings_help
from two_tower.pipeline.settings.pipeline_config import PipelineConfig
from two_tower.pipeline.settings.presets import PRESETS
from two_tower.pipeline.settings.retired import RETIRED
from two_tower.pipeline.settings.run_file import load
from two_tower.trainer.settings import PARTS, Dropout, LabelWeights, TrainerConfig


def _is_number(one: Declaration) -> bool:
    return one.hint in (int, float) and not one.setting.open_keys


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name: str) -> None:
    plain = json.loads(json.dumps(PRESETS[name].to_dict()))
    assert PipelineConfig.from_dict(plain) == PRESETS[name]
    trainer = from_plain(TrainerConfig, plain["trainer"], "trainer")
    assert trainer == PRESETS[name].trainer


def test_every_preset_has_a_help_text() -> None:
    assert PRESETS.keys() == presets.PRESET_HELP.keys()


@pytest.mark.parametrize(
    ("override", "section", "field", "value"),
    [
        ("trainer.learning_rate=1e-3", "trainer", "learning_rate", 0.001),
        ("trainer.weight_decay=0", "trainer", "weight_decay", 0.0),
        ("trainer.epochs = 3", "trainer", "epochs", 3),
        ("trainer.query_hidden_units=128,64", "trainer", "query_hidden_units", (128, 64)),
        ("trainer.query_hidden_units=64,64", "trainer", "query_hidden_units", (64, 64)),
        ("trainer.query_hidden_units=[128, 64]", "trainer", "query_hidden_units", (128, 64)),
        ("trainer.query_hidden_units=", "trainer", "query_hidden_units", ()),
        ("trainer.dropout.hidden=0.3", "trainer", "dropout", Dropout(hidden=0.3)),
        ("trainer.dropout=hidden=0.3, id=0.2", "trainer", "dropout", Dropout(hidden=0.3, id=0.2)),
        (
            "trainer.label_weights.like=2",
            "trainer",
            "label_weights",
            LabelWeights(reactions=(("like", 2.0),)),
        ),
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
        ("id_dropout=1", "no setting id_dropout; the nearest is trainer.dropout.id"),
        ("trainer.negatives.dedup=1", "the nearest is trainer.negatives.deduplicate"),
        ("trainer=3", "trainer is a section"),
        ("trainer.epochs", "takes key=value"),
        ("trainer.epochs=many", "trainer.epochs takes a whole number, and was given 'many'"),
        ("trainer.epochs=1.5", "trainer.epochs takes a whole number"),
        ("trainer.epochs=0", "trainer.epochs takes a value from 1"),
        ("trainer.dropout.hidden=high", "trainer.dropout.hidden takes a number"),
        ("trainer.dropout=0.3", "trainer.dropout is trainer.dropout.hidden now"),
        ("trainer.dropout=", r"setting with keys \(hidden, id, history\)"),
        ("trainer.schedule=cosine", r"setting with keys \(shape, warmup\)"),
        ("trainer.schedule=shap=cosine", "the nearest is trainer.schedule.shape"),
        ("trainer.learning_rate=nan", "trainer.learning_rate takes a value from 1e-09 to 100"),
        ("trainer.learning_rate=0", "trainer.learning_rate takes a value from 1e-09"),
        ("gate.min_recall=inf", "takes a value from 0 to 0.99"),
        ("trainer.query_hidden_units=64,x", "takes a whole number|list of whole numbers"),
        ("trainer.query_hidden_units=[64", "not a list"),
        ("trainer.frequency.correction=logQ", "takes one of logq, refined, none.*nearest is logq"),
        ("trainer.label_weights.like=-1", "trainer.label_weights.like takes a value from 0"),
        ("trainer.label_weights.like=twice", "trainer.label_weights.like takes a number"),
        ("trainer.label_weights.max_per_usr=2", "the nearest is trainer.label_weights.max_per_user"),
        ("trainer.frequency.estimate=streaming", "Set trainer.negatives.deduplicate=true"),
        ("trainer.frequency.rate=0", "takes a value from 1e-06"),
        ("trainer.frequency.initial_gap=50", "is a constant now: an item's first gaps are averaged"),
        ("trainer.parts=history,-seed", "takes a whole list, or changes with a sign each"),
        ("trainer.parts=-user", "takes one of history.*given 'user'; the nearest is user_id"),
        ("trainer.parts=-history", "has repeat_head and lacks history"),
        ("gate.slices=cold", "as in cold=0.02, and was given 'cold'"),
        ("gate.slices=cold=0.1,cold=0.2", "names the slice 'cold' twice"),
        ("gate.max_latency_p95=-1", "takes a value from 0"),
        ("evaluation.cutoffs=", "needs at least one"),
        ("evaluation.cutoffs=1,500", "Set index.max_k=500 and evaluation.cutoffs=1,100,500, or"),
        ("evaluation.cutoffs=1,10", "1, 10, without 100: the gate judges by Recall@100"),
    ],
)
def test_a_wrong_override_is_named_with_its_remedy(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load("default", None, [override])


NUMBERS = [name for name, one in pipeline_config.types().items() if _is_number(one)]


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e309", "true", "50 %", "", "0x10", "9" * 5_000])
def test_no_number_takes_what_is_none_or_too_large(text: str) -> None:
    for name in NUMBERS:
        with pytest.raises(UserError, match=re.escape(name)) as error:
            load("default", None, [f"{name}={text}"])
        assert len(str(error.value)) < 300


def test_zero_with_a_sign_is_zero_so_that_nothing_runs_anew() -> None:
    names = ["trainer.weight_decay", "validation.max_drift", "gate.min_slice_change", "gate.slices=cold"]
    plain, signed = (load("default", None, [f"{name}={zero}" for name in names]) for zero in ("0", "-0.0"))
    assert slice_limits(signed.gate) == slice_limits(plain.gate) == {"cold": 0.0}
    texts = [
        json.dumps({**one.to_dict(), "gate": {**to_plain(one.gate), "slices": []}}) for one in (plain, signed)
    ]
    assert texts[0] == texts[1]


def test_every_number_has_limits_and_takes_them_alone() -> None:
    for name in NUMBERS:
        one = pipeline_config.types()[name]
        low, high = one.setting.at_least, one.setting.at_most
        assert math.isfinite(low) and math.isfinite(high) and low <= one.default <= high, name
        for value in (low, high):
            one.check(value)
        for value in (low - 1, high * 1.01 + 1):
            with pytest.raises(UserError, match=re.escape(f"{name} takes a value from")):
                one.check(value)


def test_a_threshold_of_a_share_refuses_percents() -> None:
    shares = [
        name
        for name in NUMBERS
        if name.startswith("gate.") and name not in ("gate.cutoff", "gate.max_latency_p95")
    ]
    assert len(shares) >= 6
    for name in shares:
        negative = pipeline_config.types()[name].setting.at_least < 0
        for percent in (2, 5, 50, 95, *((-1, -5, -50) if negative else ())):
            with pytest.raises(UserError, match=f"write {percent / 100:g} for {percent} %"):
                load("default", None, [f"{name}={percent}"])
        # One percent of exact search's items is no threshold that anybody means.
        if name != "gate.min_ann_recall":
            with pytest.raises(UserError, match=r"write 0\.01 for 1 %"):
                load("default", None, [f"{name}=1"])
    with pytest.raises(UserError, match=r"write 0\.05 for 5 %"):
        load("default", None, ["gate.slices=cold=5"])


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match="no preset 'smok'; the nearest is 'smoke'"):
        load("smok")


def test_a_file_is_laid_over_the_preset_and_overrides_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("preset: smoke\ndata: d\ntrainer:\n  learning_rate: 1e-3\n  epochs: 7\n")
    run = run_file.read_run_file(str(path))
    # A relative place counts from the file's folder, wherever the command starts.
    assert (run.data, run.output, run.preset) == (str(tmp_path / "d"), None, "smoke")
    config = load(None, str(path), ["trainer.epochs=9"])
    smoke = PRESETS["smoke"]
    assert config == dataclasses.replace(
        smoke, trainer=dataclasses.replace(smoke.trainer, learning_rate=0.001, epochs=9)
    )
    # The command line's preset overrides the file's.
    assert load("small", str(path)).windows == PRESETS["small"].windows


def test_urls_and_absolute_places_of_a_file_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("data: gs://bucket/data\noutput: /runs/mine\n")
    run = run_file.read_run_file(str(path))
    assert (run.data, run.output) == ("gs://bucket/data", "/runs/mine")


def test_without_a_preset_the_size_of_the_data_chooses(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("data: d\n")

    def suited(
        label_events: int, days: int = 200, has_timestamps: bool = True, has_order: bool = True
    ) -> str:
        manifest: Any = SimpleNamespace(
            counts={"label_events": label_events},
            time_range=(0, days * DAY),
            has_timestamps=has_timestamps,
            has_order=has_order,
        )
        return run_file.suited_preset(manifest)

    assert load(None, str(path), fallback=suited(100_000)) == PRESETS["small"]
    assert load(None, str(path), fallback=suited(1_000_000)) == PRESETS["default"]
    # Eval and test of `small` take four weeks.
    assert suited(100_000, days=20) == "default"
    for events in (100_000, 1_000_000):
        assert suited(events, has_timestamps=False) == "next_item"
        assert suited(events, has_timestamps=False, has_order=False) == "hold_out"
    path.write_text("preset: smoke\n")
    assert load(None, str(path), fallback="small") == PRESETS["smoke"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("trainer:\n  epoch: 3\n", "the nearest is trainer.epochs"),
        ("trainers:\n  epochs: 3\n", "no setting trainers"),
        ("zzz: 3\n", "run --help-all"),
        ("preset: smok\n", "no preset 'smok'; the nearest is 'smoke'"),
        ("preset: ''\n", "no preset ''"),
        ("trainer:\n  epochs: 3\n  epochs: 4\n", r"run\.yaml:3: key 'epochs' is a duplicate"),
        ("trainer:\n  epochs: 3\ntrainer:\n  patience: 4\n", r"run\.yaml:3: key 'trainer' is a duplicate"),
        ("trainer: {label_weights: {on: 1}}\n", "key on is no text: write 'on'"),
        ("trainer: {label_weights: {5: 1}}\n", "key 5 is no text: write '5'"),
        ("evaluation: {cutoffs: [10, 10, 100]}\n", "10, 10, 100, and names one k twice"),
        ("trainer.epochs: 4\ntrainer: {epochs: 5}\n", "trainer.epochs is given twice"),
        ("evaluation: {baselines: [bpr, bpr]}\n", "evaluation.baselines names 'bpr' twice"),
        ("gate: {slices: [cold=5]}\n", "recalls from 0 to 0.99.*write 0.05 for 5 %"),
        ("gate: {min_recall: 5}\n", "gate.min_recall takes a value from 0 to 0.99.*write 0.05 for 5 %"),
        ("seed: 3000000000\n", "from 0 to 2,147,483,647"),
        ("trainer: 3\n", "trainer is a section"),
        ("trainer:\n  epochs: [3]\n", "trainer.epochs takes a whole number"),
        ("trainer:\n  epochs: true\n", "trainer.epochs takes a whole number"),
        ("trainer: {dropout: {id: false}}\n", "trainer.dropout.id takes a number"),
        ("trainer: {dropout: 0.2}\n", "trainer.dropout is trainer.dropout.hidden now"),
        ("trainer: {schedule: cosine}\n", r"setting with keys \(shape, warmup\)"),
        ("trainer: {leave_out: [seed]}\n", "trainer.leave_out is trainer.parts now"),
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
    # The file overrides the thresholds of the stored evaluation.
    before = GateConfig(cutoff=7, min_recall=0.3)
    gate = run_file.load_gate(before, file=str(path), overrides=["gate.min_coverage=0.1"])
    assert (gate.cutoff, gate.min_recall, gate.min_coverage) == (7, 0.3, 0.1)
    assert run_file.load_gate(before, preset="next_item").cutoff == 10
    path.write_text("gate: 3\n")
    with pytest.raises(UserError, match="gate is a section of settings"):
        run_file.load_gate(before, file=str(path))
    with pytest.raises(UserError, match=r"^there is no preset 'smol'"):
        run_file.load_gate(before, preset="smol")
    # The file of a run is checked whole.
    path.write_text("trainer: {epochs: banana}\n")
    with pytest.raises(UserError, match=r"trainer\.epochs takes a whole number"):
        run_file.load_gate(before, file=str(path))


def test_recorded_limits_of_a_release_with_other_ranges_are_judged_by_again() -> None:
    before = GateConfig(min_lift_over_best_baseline=-1.0)
    assert run_file.load_gate(before) == before
    with pytest.raises(UserError, match=r"takes a value from -0\.99"):
        run_file.load_gate(before, overrides=["gate.min_lift_over_best_baseline=-1"])


def test_an_override_mends_what_a_file_leaves_contradictory(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("evaluation: {cutoffs: [10]}\n")
    with pytest.raises(UserError, match=r"run\.yaml: evaluation\.cutoffs is 10, without 100"):
        load(None, str(path))
    assert load(None, str(path), ["gate.cutoff=10"]).gate.cutoff == 10
    with pytest.raises(UserError, match=r"run\.yaml: evaluation\.cutoffs is 10, without 100"):
        load(None, str(path), ["trainer.epochs=3"])


def test_a_file_takes_dotted_names_too(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("trainer.epochs: 4\ntrainer.dropout.id: 0.3\ntrainer: {dropout.hidden: 0.2}\n")
    trainer = load(None, str(path)).trainer
    assert (trainer.epochs, trainer.dropout.id, trainer.dropout.hidden) == (4, 0.3, 0.2)


# Settings with keys.


def test_a_block_is_a_mapping_in_a_file_and_changes_the_named_keys_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "preset: small\n"
        "trainer:\n"
        "  dropout: {hidden: 0.4}\n"
        "  label_weights: {like: 2, play_ratio_floor: 1}\n"
        "  parts: [-user_id, +item_bias]\n"
    )
    trainer = load(None, str(path), ["trainer.dropout.id=0", "trainer.label_weights=dislike=0"]).trainer
    assert trainer.dropout == Dropout(hidden=0.4, id=0.0, history=PRESETS["small"].trainer.dropout.history)
    assert trainer.label_weights == LabelWeights(1.0, 0, (("dislike", 0.0), ("like", 2.0)))
    assert "user_id" not in trainer.parts and "item_bias" in trainer.parts
    assert from_plain(TrainerConfig, json.loads(json.dumps(to_plain(trainer))), "trainer") == trainer


def test_signs_change_the_presets_list_and_its_order_does_not_matter() -> None:
    assert "repeat_head" in PRESETS["default"].trainer.parts
    changed = load("default", None, ["trainer.parts=-user_id,-repeat_head", "trainer.parts=+user_id"])
    left = tuple(part for part in PRESETS["default"].trainer.parts if part != "repeat_head")
    assert changed.trainer.parts == left
    reordered = load("default", None, [f"trainer.parts={','.join(reversed(left))}"])
    assert reordered == changed
    assert TrainerConfig(parts=PARTS[::-1]).parts == PARTS
    assert "bpr" not in load("default", None, ["evaluation.baselines=-bpr"]).evaluation.baselines


def test_values_are_replaced_by_dotted_name() -> None:
    config = with_values(PipelineConfig(), {"trainer.dropout.id": 0.5, "seed": 3, "trainer.epochs": 9})
    assert (config.trainer.dropout.id, config.trainer.epochs, config.seed) == (0.5, 9, 3)
    weighed = with_values(config, {"trainer.label_weights.like": 2.0})
    assert pipeline_config.settings(weighed)["trainer.label_weights.like"] == 2.0


# Settings of earlier releases.

# All 84 settings of the release before blocks, by section.
EARLIER = {
    "split": """
        protocol eval_seconds test_seconds gap_seconds last_timestamp frozen_labels
        min_label_play_ratio
    """,
    "windows": """
        history_length positions events_per_shard spans
    """,
    "features": """
        users items history
    """,
    "validation": """
        max_drift max_skew
    """,
    "trainer": """
        embedding_dim item_embedding_dim item_bias item_initial encoder attention_layers
        attention_heads similarity leave_out repeat_head query_hidden_units temperature epochs
        learning_rate learning_rate_schedule warmup_steps weight_decay clip_norm precision
        windows_per_step positions_per_step id_dropout history_dropout dropout learned_temperature
        softmax sampling_correction deduplicate_negatives frequency frequency_learning_rate
        frequency_hashes frequency_initial_gap uniform_negatives memory_negatives hard_negatives
        label_horizon play_ratio_floor event_type_weights max_labels_per_user distribution
        warm_start patience seed
    """,
    "index": """
        exact_below target_recall target_k latency_budget_ms tuning_queries seed max_k
    """,
    "evaluation": """
        cutoffs max_queries resamples slice_values examples baselines seed
    """,
    "gate": """
        cutoff min_recall min_ann_recall min_lift_over_best_baseline min_change_against_blessed
        min_slice_change min_slice_users slices min_coverage max_latency_p95
    """,
    "": """
        beam_args
    """,
}
EARLIER_NAMES = [
    f"{section}.{name}" if section else name for section, names in EARLIER.items() for name in names.split()
]


def test_every_earlier_setting_is_a_setting_or_says_what_it_is_now() -> None:
    assert len(EARLIER_NAMES) == 84
    blocks = pipeline_config.setting_blocks()
    for name in EARLIER_NAMES:
        assert (name in pipeline_config.types()) != (name in RETIRED), name
    # Keys of 0.2.0.
    names = [*EARLIER_NAMES, "trainer.frequency.initial_gap"]
    assert set(RETIRED) <= set(names)
    for name, retired in RETIRED.items():
        for now in retired.now:
            assert now in pipeline_config.types() or now in blocks, now
        with pytest.raises(UserError) as error:
            load("default", None, [f"{name}=1"])
        told = str(error.value)
        assert name in told
        assert all(now in told for now in retired.now)
        assert retired.now or "is a constant now" in told


def test_recorded_settings_of_an_earlier_release_are_read_without_what_is_gone() -> None:
    recorded = {"cutoff": 10, "min_recall": 0.2, "min_slice_users": 30}
    gate = from_plain(GateConfig, known_part(GateConfig, recorded), "gate")
    assert gate == GateConfig(cutoff=10, min_recall=0.2)
    with pytest.raises(UserError, match=r"no setting trainer\.leave_out"):
        from_plain(TrainerConfig, {"leave_out": ["seed"]}, "trainer")


@pytest.mark.parametrize("value", ["5", "trainer.epochs", "[[1]]", "{a: 1}", "[trainer.epoch]"])
def test_malformed_names_of_automatic_settings_are_refused(value: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"preset: auto\nautomatic: {value}\n")
    with pytest.raises(UserError, match="automatic"):
        load(None, str(path))


# Declarations and their pages.


def test_there_are_fifty_six_settings_of_which_sixteen_matter_first() -> None:
    declared = pipeline_config.types().values()
    assert len({one.block or one.name for one in declared}) == 56
    assert sum(one.setting.shown for one in declared) == 16
    for one in declared:
        assert one.setting.help.endswith("."), one.name
        one.check(one.default, one.name)
        for other in one.setting.applies:
            assert other in pipeline_config.types(), other


def test_the_page_of_settings_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
    stale = "docs/reference/settings.md is stale: run scripts/generate_reference.py"
    assert page.read_text(encoding="utf-8") == settings_help.settings_reference(), stale
