from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.statistics_of_columns import Columns, statistics_artifact
from two_tower.base.errors import UserError
from two_tower.components.anomaly_gate.settings import ValidationConfig
from two_tower.data_directory.feature_columns import FeatureSpec, ResolvedFeatures
from two_tower.schema import features

MADE_WITH = {"split.protocol": "next_event", "windows.history_length": 50}
GENDER = FeatureSpec("user_gender", "gender", "categorical")


def anomalies(path: Path, found: dict[str, dict[str, str]], whole: str = "") -> Any:
    """Writes ExampleValidator's artifact with anomalies by split and feature."""
    from tensorflow_metadata.proto.v0 import anomalies_pb2
    from tfx.types import standard_artifacts

    artifact = standard_artifacts.ExampleAnomalies()
    artifact.uri = str(path)
    artifact.split_names = json.dumps(list(found))
    for split, of_features in found.items():
        proto = anomalies_pb2.Anomalies()
        if whole:
            proto.dataset_anomaly_info.description = whole
        for feature, description in of_features.items():
            proto.anomaly_info[feature].description = description
        file = path / f"Split-{split}" / "SchemaDiff.pb"
        file.parent.mkdir(parents=True)
        file.write_bytes(proto.SerializeToString())
    return artifact


def windows(
    size: int = 200,
    seed: int = 1,
    ratio: float = 1.0,
    likes: float = 0.05,
    gender: tuple[bytes, ...] | None = (b"f", b"m"),
) -> Columns:
    """Returns windows of ten events each."""
    random = np.random.default_rng(seed)
    shape = (size, 10)
    played = np.where(random.random(shape) < 0.6, 1.0, random.random(shape)).astype(np.float32) * ratio
    types = np.where(random.random(shape) < likes, b"like", b"listen")
    columns: dict[str, Any] = {
        features.HISTORY_ITEM_ID: random.integers(0, 100, shape).tolist(),
        features.HISTORY_TIMESTAMP: np.sort(random.integers(0, 10_000, shape), axis=1).tolist(),
        features.HISTORY_EVENT_TYPE: types.tolist(),
        features.HISTORY_PLAY_RATIO: [list(map(np.float32, row)) for row in played],
        features.HISTORY_IS_ORGANIC: random.integers(0, 2, shape).tolist(),
        features.LABEL_STEP: random.integers(0, 2, shape).tolist(),
    }
    if gender:
        columns[GENDER.name] = [[gender[row % len(gender)]] for row in range(size)]
    return columns


class Place:
    """Folder in which components run one after the other, as in a pipeline."""

    def __init__(self, path: Path, resolved: ResolvedFeatures = ResolvedFeatures()) -> None:
        self.path = path
        self.resolved = resolved
        self.number = 0

    def artifact(self, kind: Any, name: str) -> Any:
        """Creates an output artifact of a component."""
        self.number += 1
        artifact = kind()
        artifact.uri = str(self.path / f"{self.number}-{name}")
        artifact.set_string_custom_property("tfx_version", "1.16.0")
        return artifact

    def examples(self, dataset: str = "music", protocol: str = "next_event") -> Any:
        """Creates windows with data facts; their test period begins with the first event."""
        from tfx.types import standard_artifacts

        from two_tower.components.interaction_example_gen.facts import write_facts
        from two_tower.data_directory.facts import DataFacts

        facts: dict[str, Any] = {
            field.name: {"str": "", "int": 0, "bool": True}[str(field.type)]
            for field in dataclasses.fields(DataFacts)
        }
        artifact = self.artifact(standard_artifacts.Examples, "examples")
        write_facts(DataFacts(**{**facts, "dataset": dataset, "protocol": protocol}), artifact)
        return artifact

    def statistics(self, splits: Mapping[str, Columns]) -> Any:
        """Creates StatisticsGen's artifact."""
        self.number += 1
        return statistics_artifact(self.path / f"{self.number}-statistics", splits)

    def approve(self, statistics: Any, examples: Any, made_with: Mapping[str, Any] = MADE_WITH) -> Any:
        """Runs ApprovedStatistics and returns the pointer's text."""
        from tfx.types.experimental.simple_artifacts import Statistics

        from two_tower.base import pointers
        from two_tower.components.approved_statistics.component import ApprovedStatistics

        kept = self.artifact(Statistics, "approved")
        ApprovedStatistics.EXECUTOR_SPEC.executor_class().Do(
            {"examples": [examples], "statistics": [statistics]},
            {"approved": [kept]},
            {
                "made_with": json.dumps(dict(made_with)),
                "root": str(self.path),
                "run": "",
                "source_digest": "",
            },
        )
        return pointers.latest(str(self.path), pointers.APPROVED)

    def gate(
        self,
        statistics: Any,
        examples: Any = None,
        before: str = "null",
        found: dict[str, dict[str, str]] | None = None,
        items: dict[str, str] | None = None,
        made_with: Mapping[str, Any] = MADE_WITH,
        submitted: Mapping[str, float] | None = None,
        **limits: float,
    ) -> list[str]:
        """Runs the gate after the components it needs, and returns the lines of its report.

        A job hands its submission's limits to the validators and to the gate.
        """
        given = submitted or {}
        from tfx.types import standard_artifacts

        from two_tower.components.anomaly_gate import verdict
        from two_tower.components.anomaly_gate.component import AnomalyGate
        from two_tower.components.comparable_statistics import distributions
        from two_tower.components.comparable_statistics.component import ComparableStatistics
        from two_tower.components.distribution_validator.executor import Executor

        validation = ValidationConfig(**limits)
        comparable = self.artifact(standard_artifacts.ExampleStatistics, "comparable")
        ComparableStatistics.EXECUTOR_SPEC.executor_class().Do(
            {"examples": [examples or self.examples()], "statistics": [statistics]},
            {"comparable": [comparable]},
            {
                "features": self.resolved.to_json(),
                "made_with": json.dumps(dict(made_with)),
                "latest_approved": before,
                "source_digest": "",
            },
        )
        validated = {}
        for name, compared, limit, pair in (
            ("drift", distributions.compared_for_drift, validation.max_drift, distributions.DRIFT_PAIR),
            ("skew", distributions.compared_for_skew, validation.max_skew, distributions.SKEW_PAIR),
        ):
            validated[name] = self.artifact(standard_artifacts.ExampleAnomalies, name)
            Executor().Do(
                {"comparable": [comparable]},
                {"anomalies": [validated[name]]},
                {
                    "compared": distributions.compared_to_json(compared(self.resolved)),
                    "limit": given.get(f"validation_max_{name}", limit),
                    "pair": json.dumps(pair),
                },
            )
        splits = json.loads(statistics.split_names)
        nothing: dict[str, dict[str, str]] = {split: {} for split in splits}
        self.number += 1
        report = self.artifact(standard_artifacts.ExampleAnomalies, "report")
        AnomalyGate.EXECUTOR_SPEC.executor_class().Do(
            {
                "interactions": [anomalies(self.path / f"{self.number}-i", {**nothing, **(found or {})})],
                "catalog": [anomalies(self.path / f"{self.number}-c", {"catalog": items or {}})],
                "statistics": [statistics],
                "catalog_statistics": [
                    self.statistics({"catalog": {"item_length": [[np.float32(-3)], [np.float32(60)]]}})
                ],
                "comparable": [comparable],
                **{name: [artifact] for name, artifact in validated.items()},
            },
            {"report": [report]},
            {
                "validation": json.dumps(dataclasses.asdict(validation)),
                "features": self.resolved.to_json(),
                "source_digest": "",
                **given,
            },
        )
        return verdict.read(report.uri).lines()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def healthy(seed: int = 1) -> dict[str, Columns]:
    return {"train": windows(seed=seed), "test": windows(seed=seed + 100)}


def complaint(place: Place, *arguments: Any, **changes: Any) -> str:
    with pytest.raises(UserError) as stop:
        place.gate(*arguments, **changes)
    return str(stop.value)


def test_limits_of_a_submission_replace_the_compiled_ones(place: Place) -> None:
    skewed = place.statistics({"train": windows(), "test": windows(seed=2, ratio=100)})
    assert "skew: history_play_ratio" in complaint(place, skewed)
    lines = place.gate(skewed, submitted={"validation_max_skew": 1.0})
    assert any("skew: history_play_ratio" in line and "limit 1" in line for line in lines)
    healthy_statistics = place.statistics(healthy())
    with pytest.raises(UserError, match=r"skew: .* limit 1e-06"):
        place.gate(healthy_statistics, submitted={"validation_max_skew": 1e-6})


def test_data_that_matches_its_schema_passes_and_what_was_checked_is_told(place: Place) -> None:
    lines = place.gate(place.statistics(healthy()))
    assert any("interactions / train: 200 windows" in line and line.endswith("holds") for line in lines)
    assert any(line.startswith("  skew: history_play_ratio: Jensen-Shannon") for line in lines)
    assert "  Drift is not checked: no earlier run has passed." in lines


def test_every_anomaly_is_named_by_table_split_and_feature_and_how_many_values_there_are(
    place: Place,
) -> None:
    statistics = place.statistics({"train": windows(), "test": windows()})
    negative = "Unexpectedly small value: -5."
    message = complaint(
        place,
        statistics,
        found={"train": {features.HISTORY_TIMESTAMP: negative}, "test": {"user_id": "Column dropped."}},
        items={"item_length": "Unexpectedly low values: -3<-1(6 digits)"},
    )
    lines = message.splitlines()
    assert any(
        line.startswith(
            f"  interactions / train: history_timestamp: {negative} There are 2,000 values, from "
        )
        for line in lines
    )
    assert "  interactions / test: user_id: Column dropped." in lines
    assert any(
        "catalog / catalog: item_length: Unexpectedly low values: -3<-1(6 digits). There are 2 values, "
        in line
        for line in lines
    )
    assert "ingest it again" in lines[-1] and "schema/interactions.pbtxt" in lines[0]


def test_the_number_of_nan_is_told_for_tfdv_does_not(place: Place) -> None:
    train = dict(windows())
    train[features.HISTORY_PLAY_RATIO] = [[np.float32("nan")], *train[features.HISTORY_PLAY_RATIO][1:]]
    message = complaint(
        place,
        place.statistics({"train": train, "test": windows()}),
        found={"train": {features.HISTORY_PLAY_RATIO: "Float feature has NaN values."}},
    )
    assert "Float feature has NaN values. There are 1,991 values, of which 1 is NaN;" in message


def test_play_ratios_in_percent_in_test_are_skew_and_the_unit_is_guessed(place: Place) -> None:
    statistics = place.statistics({"train": windows(), "test": windows(seed=2, ratio=100)})
    message = complaint(place, statistics)
    assert "skew: history_play_ratio: Jensen-Shannon divergence" in message
    assert "limit 0.3" in message and "from 0." in message
    assert "about 100 times the former ones: check the unit." in message
    assert "--set validation.max_skew=0" in message and "drift" not in message
    assert place.gate(statistics, max_skew=0)[-1] == "  Skew is not checked: validation.max_skew is 0."


def test_an_event_type_that_is_gone_is_told_though_its_share_is_far_below_the_limit(place: Place) -> None:
    statistics = place.statistics({"train": windows(500), "test": windows(500, seed=2, likes=0)})
    message = complaint(place, statistics)
    assert "skew: history_event_type: L-infinity distance 0.05, limit 0.3." in message
    assert re.search(r"In train [45]\.\d% are 'like', and almost none in test", message)


def test_a_share_that_moves_is_told_with_both_values(place: Place) -> None:
    statistics = place.statistics({"train": windows(), "test": windows(seed=2, likes=0.9)})
    assert re.search(
        r"largest changes of share from .*'like' from [45]\.\d% to (89|9\d)", complaint(place, statistics)
    )


def test_drift_is_against_the_run_that_passed_before(place: Place) -> None:
    examples = place.examples()
    approved = place.approve(place.statistics(healthy()), examples)
    lines = place.gate(place.statistics(healthy(seed=5)), examples, approved)
    assert any(line.startswith("  drift: window_events:") and line.endswith("holds") for line in lines)
    broken = {"train": windows(ratio=100), "test": windows(seed=2, ratio=100)}
    message = complaint(place, place.statistics(broken), examples, approved)
    assert "drift: history_play_ratio: Jensen-Shannon divergence" in message
    assert "skew" not in message  # train and test have the same fault
    assert "for one run. Later runs are compared with that one" in message
    assert place.gate(place.statistics(broken), examples, approved, max_drift=0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dataset": "films"}, "the previous run used other data ('films'; this is 'music')"),
        ({"made_with": {**MADE_WITH, "windows.history_length": 20}}, "(windows.history_length)"),
    ],
)
def test_statistics_of_other_data_or_other_windows_are_not_compared(
    place: Place, changes: dict[str, Any], reason: str
) -> None:
    before = place.approve(
        place.statistics({"train": windows(ratio=100), "test": windows(ratio=100)}),
        place.examples(changes.get("dataset", "music")),
        changes.get("made_with", MADE_WITH),
    )
    lines = place.gate(place.statistics(healthy()), before=before)
    assert reason in lines[-1] and lines[-1].startswith("  Drift is not checked: ")
    assert not [line for line in lines if line.startswith("  drift")]


def test_a_column_that_lost_its_values_is_told_and_one_that_never_had_any_is_not(tmp_path: Path) -> None:
    place = Place(tmp_path, ResolvedFeatures(users=(GENDER,)))
    message = complaint(place, place.statistics({"train": windows(), "test": windows(gender=None)}))
    assert "skew: user_gender: No window of test has a value" in message
    assert "'f' 50.0%" in message
    never = {"train": windows(gender=None), "test": windows(seed=2, gender=None)}
    assert not [line for line in place.gate(place.statistics(never)) if "user_gender" in line]


def test_a_handful_of_windows_is_not_judged(place: Place) -> None:
    lines = place.gate(place.statistics({"train": windows(), "test": windows(5, ratio=100)}))
    (line,) = (line for line in lines if line.startswith("  skew: history_play_ratio"))
    assert "Too few windows for a verdict (5; 30 are needed)" in line and line.endswith("not judged")


@pytest.mark.parametrize(("protocol", "stopped"), [("next_event", True), ("frozen", False)])
def test_test_windows_are_rid_of_their_context_where_they_have_a_period_of_their_own(
    place: Place, protocol: str, stopped: bool
) -> None:
    context, period = windows(400, seed=2), windows(100, seed=3, likes=0.3)
    times = [[10_000 + time for time in row] for row in period[features.HISTORY_TIMESTAMP]]
    later = {**period, features.HISTORY_TIMESTAMP: times}
    mixed = {name: [*context[name], *later[name]] for name in context}
    examples = place.examples(protocol=protocol)
    examples.set_int_custom_property("test_from", 10_000)
    statistics = place.statistics({"train": windows(500), "test": mixed})
    if stopped:
        assert "history_event_type" in complaint(place, statistics, examples, max_skew=0.2)
    else:
        place.gate(statistics, examples, max_skew=0.2)
