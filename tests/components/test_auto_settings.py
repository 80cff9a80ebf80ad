"""AutoSettings: each rule at its edges, given settings that stay, and outputs that hold all settings."""

from __future__ import annotations

import json
import pathlib
from typing import Any, cast

import numpy as np
import pytest

from tests.data_directories import write_columns
from tests.pipeline.test_meaningless_settings import NEEDS, OTHERS
from two_tower.base.settings import declarations, to_plain, values_of, with_values
from two_tower.components.auto_settings import rules, settled
from two_tower.components.auto_settings.settled import Sections
from two_tower.data_directory.event_shape import EventShape, KeyTimes
from two_tower.data_directory.manifest import Manifest
from two_tower.pipeline.settings.pipeline_config import PipelineConfig
from two_tower.pipeline.settings.presets import PRESETS
from two_tower.pipeline.settings.run_file import load

DAY = 86_400
AUTO = PRESETS["auto"]


class FakeManifest:
    """Facts that rules read of a manifest."""

    def __init__(
        self,
        times: bool = True,
        order: bool = True,
        repeats: bool = True,
        embedding: int = 0,
        items: int = 10_000,
        columns: tuple[str, ...] = (),
    ) -> None:
        self.has_timestamps, self.has_order = times, order or times
        self.repeats_recommendable, self.has_embedding = repeats, embedding
        self.counts = {"items": items}
        self.columns = {"items": dict.fromkeys(columns, "")}


def shape(
    *,
    users: int = 1_000,
    each: int = 100,
    items: int = 5_000,
    days: int = 40,
    new: float = 0.0,
    repeats: float = 0.0,
) -> EventShape:
    """Makes label events that are spread evenly over the days; a share of the users is new in the end."""
    newest = days * DAY - 1
    first = np.zeros(users, np.int64)
    first[: round(new * users)] = newest
    of_users = KeyTimes(np.arange(users), np.full(users, each), first, np.full(users, newest))
    of_items = KeyTimes(
        np.arange(items), np.ones(items, np.int64), np.zeros(items, np.int64), np.full(items, newest)
    )
    hours = np.full(days * 24, users * each // (days * 24))
    return EventShape(of_users, of_items, repeats, 0, newest, 3_600, hours)


def chosen(of: EventShape, manifest: FakeManifest | None = None, **given: Any) -> dict[str, Any]:
    """Returns all settings that rules settle, by dotted name, over the given ones."""
    sections = with_values(
        Sections.of(AUTO), {name.replace("__", "."): value for name, value in given.items()}
    )
    automatic = [name for name in rules.AUTOMATIC if name.replace(".", "__") not in given]
    choices = rules.settle(
        of,
        cast(Manifest, manifest or FakeManifest()),
        values_of(sections),
        declarations(Sections),
        automatic,
    )
    # A settled setting is settled once, and all of them make settings of a run.
    assert len({choice.name for choice in choices}) == len(choices)
    values = {choice.name: choice.value for choice in choices}
    settled_sections = with_values(sections, values)
    PipelineConfig(
        **{name: getattr(settled_sections, name) for name in settled_sections.__dataclass_fields__}
    )
    return values


def test_the_protocol_follows_from_times_and_order() -> None:
    def protocol(manifest: FakeManifest) -> Any:
        return chosen(shape(), manifest)["split.protocol"]

    assert protocol(FakeManifest()) == "next_event"
    assert protocol(FakeManifest(times=False)) == "leave_one_out"
    assert protocol(FakeManifest(times=False, order=False)) == "hold_out"


@pytest.mark.parametrize(
    ("users", "days", "period"),
    [
        (5_000, 40, 1),  # 12,500 labels a day
        (1_900, 40, 2),  # 4,750 labels a day are too few, those of two days enough
        (400, 40, 3),  # no tenth of 40 days has 5,000 labels
        (400, 400, 28),
        (1_000, 30, 2),
    ],
)
def test_test_is_the_shortest_period_of_days_with_enough_labels(users: int, days: int, period: int) -> None:
    values = chosen(shape(users=users, days=days))
    assert values["split.holdout_seconds"] == period * DAY
    assert values["split.gap_seconds"] == 1_800


def test_periods_of_short_data_are_hours_and_leave_train_its_share() -> None:
    values = chosen(shape(users=5_000, days=3))
    assert values["split.holdout_seconds"] == 6 * 3_600
    assert values["split.gap_seconds"] == 1_080
    assert "split.holdout_seconds" not in chosen(shape(), FakeManifest(times=False))


def test_windows_hold_the_histories_of_nearly_all_labels() -> None:
    assert chosen(shape(each=8))["windows.history_length"] == 20
    assert chosen(shape(each=100))["windows.history_length"] == 100
    long = chosen(shape(each=900))
    assert (long["windows.history_length"], long["windows.positions"]) == (200, 150)
    whole = chosen(shape(each=900), FakeManifest(times=False))
    assert whole["windows.positions"] == 900


def test_items_that_nothing_describes_have_rows_of_full_width_and_start_from_co_occurrence() -> None:
    bare, described = chosen(shape()), chosen(shape(users=5_000), FakeManifest(embedding=64))
    assert (bare["trainer.item_embedding_dim"], described["trainer.item_embedding_dim"]) == (0, 32)
    assert (bare["trainer.dropout.id"], described["trainer.dropout.id"]) == (0.0, 0.1)
    assert (bare["trainer.item_initial"], described["trainer.item_initial"]) == ("co_occurrence", "random")
    assert chosen(shape(), FakeManifest(columns=("artist_id",)))["trainer.item_embedding_dim"] == 32
    assert chosen(shape(), features__items=("tags",))["trainer.item_embedding_dim"] == 32


def test_attention_needs_an_order_and_many_labels_of_items_without_content() -> None:
    many = shape(users=5_000)
    assert chosen(many)["trainer.encoder"] == "attention+mean"
    assert chosen(many, FakeManifest(embedding=8))["trainer.encoder"] == "mean"
    assert chosen(shape(users=1_000))["trainer.encoder"] == "mean"
    assert chosen(many, FakeManifest(times=False, order=False))["trainer.encoder"] == "mean"
    assert chosen(many)["trainer.learning_rate"] < chosen(shape())["trainer.learning_rate"]


def test_parts_without_meaning_for_the_data_are_left_out() -> None:
    full = chosen(shape(users=5_000, repeats=0.3))["trainer.parts"]
    assert {"user_id", "repeat_head", "item_bias"} <= set(full)
    assert "user_id" not in chosen(shape(new=0.51))["trainer.parts"]
    assert "user_id" in chosen(shape(new=0.49))["trainer.parts"]
    assert "user_id" not in chosen(shape(each=49))["trainer.parts"]
    assert "repeat_head" not in chosen(shape(repeats=0.009))["trainer.parts"]
    assert "repeat_head" not in chosen(shape(repeats=0.3), FakeManifest(repeats=False))["trainer.parts"]
    assert "item_bias" not in chosen(shape(items=5_000))["trainer.parts"]
    assert "aggregates" not in chosen(shape(), FakeManifest(times=False, order=False))["trainer.parts"]


def test_epochs_make_steps_enough_for_little_data_and_for_much() -> None:
    assert chosen(shape(users=100))["trainer.epochs"] == 16
    assert chosen(shape(users=20_000))["trainer.epochs"] == 6
    assert chosen(shape(users=300_000))["trainer.epochs"] == 2


def test_the_gate_judges_few_items_by_fewer_and_small_tests_with_a_margin() -> None:
    assert chosen(shape(), FakeManifest(items=1_000))["gate.cutoff"] == 100
    assert chosen(shape(), FakeManifest(items=999))["gate.cutoff"] == 10
    assert "gate.min_discovery_lift" not in chosen(shape(users=5_000))
    assert chosen(shape(users=500))["gate.min_discovery_lift"] == -0.01


def test_given_settings_stay_and_later_rules_go_by_them() -> None:
    values = chosen(shape(users=5_000), trainer__encoder="mean")
    assert "trainer.encoder" not in values and values["trainer.learning_rate"] == 0.01
    assert chosen(shape(users=5_000), trainer__embedding_dim=65)["trainer.encoder"] == "mean"
    assert chosen(shape(), evaluation__cutoffs=(5, 20, 200))["gate.cutoff"] == 20
    assert chosen(shape(), evaluation__cutoffs=(150, 200))["gate.cutoff"] == 150
    # What another setting makes meaningless is not settled.
    assert "trainer.negatives.deduplicate" not in chosen(shape(), trainer__softmax="full")
    assert "trainer.dropout.history" not in chosen(shape(), trainer__parts=("user_id", "shared_tables"))
    config = load("auto", None, ["trainer.epochs=4", "trainer.parts=-user_id"])
    assert set(rules.AUTOMATIC) - set(config.automatic) == {"trainer.epochs", "trainer.parts"}


def test_every_automatic_setting_is_settled_on_some_data_and_by_its_type() -> None:
    found = chosen(shape(users=500)) | chosen(shape(), FakeManifest(times=False, order=False))
    assert set(found) == set(rules.AUTOMATIC)
    for name, value in found.items():
        declarations(Sections)[name].check(value)


def test_the_same_data_gives_the_same_settings_and_reasons(tmp_path: pathlib.Path) -> None:
    data = small_data(tmp_path)
    first, second = (
        settled.settle(data, Manifest.load(data), Sections.of(AUTO), rules.AUTOMATIC) for _ in range(2)
    )
    assert first == second
    assert len(settled.lines(first[1])) <= 12
    untouched, none = settled.settle(data, Manifest.load(data), Sections.of(AUTO), ())
    assert (untouched, none) == (Sections.of(AUTO), [])


def test_a_warm_start_keeps_the_shapes_of_its_model(tmp_path: pathlib.Path) -> None:
    data = small_data(tmp_path)
    trained = {
        "trainer.embedding_dim": 48,
        "windows.history_length": 30,
        "trainer.parts": ("history", "seed"),
    }
    sections, choices = settled.settle(data, Manifest.load(data), Sections.of(AUTO), rules.AUTOMATIC, trained)
    assert sections.trainer.embedding_dim == 48 and sections.windows.history_length == 30
    assert {choice.name for choice in choices if choice.subject == "warm start"} == set(trained)
    given = [name for name in rules.AUTOMATIC if name != "trainer.embedding_dim"]
    sections, _ = settled.settle(data, Manifest.load(data), Sections.of(AUTO), given, trained)
    assert sections.trainer.embedding_dim == AUTO.trainer.embedding_dim


@pytest.mark.slow
def test_every_setting_of_a_section_is_handed_on(tmp_path: pathlib.Path) -> None:
    from tfx.types import standard_artifacts

    from two_tower.components.auto_settings import component, executor
    from two_tower.data_directory.feature_columns import ResolvedFeatures

    data = small_data(tmp_path)

    def outputs(sections: Sections, place: str) -> dict[str, Any]:
        (tmp_path / place).mkdir()
        artifacts: dict[str, list[Any]] = {}
        for name in (*component.TEXTS, *component.NUMBERS):
            kind = standard_artifacts.Integer if name in component.NUMBERS else standard_artifacts.String
            artifacts[name] = [kind()]
            artifacts[name][0].uri = str(tmp_path / place / name)
        given = {
            "data": data,
            "settings": sections.to_json(),
            "automatic": "[]",
            "features": ResolvedFeatures().to_json(),
            "preprocessing_digest": "",
        }
        executor.Executor().Do({}, artifacts, given)
        return {name: one[0].read() for name, one in artifacts.items()}

    for number, (name, value) in enumerate(OTHERS.items()):
        section = name.partition(".")[0]
        if not hasattr(Sections.of(AUTO), section) or section == "features":
            continue
        config = with_values(PipelineConfig(), NEEDS.get(name, {}))
        changed = with_values(config, {name.replace("<event type>", "like"): value})
        before, after = (
            outputs(Sections.of(one), f"{number}-{place}") for place, one in enumerate((config, changed))
        )
        assert before[section] != after[section], name
        assert json.loads(after[section]) == json.loads(json.dumps(to_plain(getattr(changed, section))))
        assert (before["history_length"] != after["history_length"]) == (name == "windows.history_length")
        assert (before["cutoff"] != after["cutoff"]) == (name == "gate.cutoff")


@pytest.mark.slow
def test_preprocessing_depends_on_aggregates_and_users_and_on_no_column_of_items(
    tmp_path: pathlib.Path,
) -> None:
    from two_tower.components.auto_settings.executor import preprocessing
    from two_tower.data_directory.feature_columns import FeatureSpec, ResolvedFeatures

    sections, tags = Sections.of(AUTO), (FeatureSpec("tags", "tags", "multi_valued"),)
    plain = preprocessing(sections, ResolvedFeatures(), "digest")
    assert preprocessing(sections, ResolvedFeatures(items=tags), "digest") == plain
    longer = with_values(sections, {"windows.history_length": 7})
    others = (
        preprocessing(sections, ResolvedFeatures(users=tags), "digest"),
        preprocessing(sections, ResolvedFeatures(history=("repeat_rate",)), "digest"),
        preprocessing(sections, ResolvedFeatures(), "edited"),
        preprocessing(longer, ResolvedFeatures(), "digest"),
    )
    assert len({plain, *others}) == 5


def small_data(tmp_path: pathlib.Path) -> str:
    draw = np.random.default_rng(3)
    columns = {
        "user_id": draw.integers(0, 40, 3_000).tolist(),
        "item_id": draw.integers(0, 200, 3_000).tolist(),
        "timestamp": sorted(draw.integers(0, 30 * DAY, 3_000).tolist()),
    }
    return write_columns(str(tmp_path / "data"), columns)
