"""InteractionExampleGen on real files: rows through Beam, whole users per shard, and recorded facts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.listening_logs import (
    SPLIT,
    Event,
    Query,
    column_split,
    columns,
    frozen_queries_of,
    of_user,
    queries_in,
    queries_of,
)
from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.components.interaction_example_gen import shards
from two_tower.components.interaction_example_gen.facts import read_facts
from two_tower.components.interaction_example_gen.histories import Events
from two_tower.components.interaction_example_gen.splits import FrozenSplit, SplitColumn, TimeSplit
from two_tower.components.interaction_example_gen.windows import WindowCutter
from two_tower.data_directory.facts import DataFacts
from two_tower.data_directory.feature_columns import resolve
from two_tower.data_directory.manifest import DAY, DatasetProperties, Manifest
from two_tower.data_directory.settings import FeaturesConfig
from two_tower.data_directory.writer import DataDirectoryWriter
from two_tower.evaluation.queries import Windows, all_queries

SPLITS = ("train", "eval", "test")
HISTORY_LENGTH = 6
SPLIT_SETTINGS = {"holdout_seconds": DAY, "gap_seconds": 3_600}


def random_columns(size: int = 3_000) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {
        "user_id": rng.integers(0, 40, size),
        "item_id": rng.integers(0, 60, size),
        "timestamp": np.sort(rng.integers(0, 10 * DAY, size) // 3_600 * 3_600),
        "event_type": rng.choice(np.array(["play", "play", "play", "like", "listen", "", None]), size),
        "play_ratio": pa.array(np.arange(size), pa.float32()),
        "is_organic": pa.array(rng.random(size) < 0.5, mask=rng.random(size) < 0.2),
    }


def data_directory(path: Path, events: dict[str, Any], label: str = "play", repeats: bool = True) -> str:
    with DataDirectoryWriter(str(path), DatasetProperties("small", label, repeats)) as writer:
        writer.write("events", pa.table(events))
        writer.write("items", pa.table({"item_id": np.unique(events["item_id"])}))
    # Many row groups, as in large data.
    for file in (path / "events").iterdir():
        pq.write_table(pq.read_table(file), file, row_group_size=700)
    return str(path)


def run_component(
    data: str,
    out: Path,
    events_per_shard: int = 1_000_000,
    split: dict[str, Any] = SPLIT_SETTINGS,
    beam_args: tuple[str, ...] = (),
    user_features: tuple[str, ...] = (),
    spans: int = 0,
    submitted: dict[str, int] | None = None,
) -> Any:
    """Runs the component and returns its Examples artifact."""
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
    from tfx.types import standard_artifacts

    from two_tower.components.interaction_example_gen.executor import Executor

    artifact = standard_artifacts.Examples()
    artifact.uri = str(out)
    windows = {"history_length": 6, "positions": 9, "spans": spans}
    context = BaseBeamExecutor.Context(
        tmp_dir=str(out) + "-scratch/", unique_id="1", beam_pipeline_args=list(beam_args)
    )
    features = resolve(FeaturesConfig(users=user_features), Manifest.load(data)) if user_features else None
    parameters = {
        "data": data,
        "split": json.dumps(split),
        "windows": json.dumps(windows),
        "features": features.to_json() if features else "",
        **(submitted or {}),
    }
    with mock.patch.object(shards, "EVENTS_PER_SHARD", events_per_shard):
        Executor(context).Do({}, {"examples": [artifact]}, parameters)
    return artifact


def windows_of(artifact: Any) -> dict[str, Windows]:
    from two_tower.evaluation.queries import read_windows

    return {split: read_windows(f"{artifact.uri}/Split-{split}") for split in SPLITS}


def examples_of(artifact: Any, split: str) -> list[Any]:
    """Returns the split's Examples, parsed."""
    import tensorflow as tf

    files = sorted(tf.io.gfile.glob(f"{artifact.uri}/Split-{split}/*"))
    return [tf.train.Example.FromString(one.numpy()) for one in tf.data.TFRecordDataset(files, "GZIP")]


def counts_of(artifact: Any) -> dict[str, int]:
    names = artifact.mlmd_artifact.custom_properties
    return {name: artifact.get_int_custom_property(name) for name in names}


def log_of(table: dict[str, Any]) -> list[Event]:
    """Returns `random_columns` as a log: the label event is "listen", another "listen" is renamed."""
    names = {"play": b"listen", "like": b"like", "listen": b"other listen", "": b"unknown", None: b"unknown"}
    kinds = [names[kind] for kind in table["event_type"]]
    ids = zip(table["user_id"].tolist(), table["item_id"].tolist(), table["timestamp"].tolist(), strict=True)
    return [Event(*three, kind, row) for row, (three, kind) in enumerate(zip(ids, kinds, strict=True))]


def found_queries(artifact: Any) -> list[Query]:
    windows = windows_of(artifact)
    return sorted(q for split in SPLITS for q in queries_in(windows[split], split, HISTORY_LENGTH))


def expected_queries(log: list[Event], artifact: Any) -> tuple[list[Query], Counter[str]]:
    facts = recorded_facts(artifact)
    times = TimeSplit(facts.train_end, (facts.eval_from, facts.eval_to), (facts.test_from, facts.test_to))
    queries, counts = queries_of(log, HISTORY_LENGTH, True, times)
    return sorted(queries), counts


def recorded_facts(artifact: Any) -> DataFacts:
    return read_facts(artifact)


def test_the_component_writes_the_same_windows_however_many_shards(tmp_path: Path) -> None:
    table = random_columns()
    data = data_directory(tmp_path / "data", table)
    found = {}
    for events_per_shard in (1_000_000, 50):
        artifact = run_component(data, tmp_path / str(events_per_shard), events_per_shard)
        found[events_per_shard] = found_queries(artifact)
        assert json.loads(artifact.split_names) == list(SPLITS)
    expected, counts = expected_queries(log_of(table), artifact)
    assert found[1_000_000] == found[50] == expected
    assert {name: artifact.get_int_custom_property(name) for name in counts} == dict(counts)
    facts = recorded_facts(artifact)
    assert (facts.dataset, facts.label_event, facts.repeats_recommendable) == ("small", "play", True)
    assert (facts.protocol, facts.has_timestamps, facts.users_are_new) == ("next_event", True, False)
    organic = dict(enumerate(table["is_organic"].to_pylist()))
    test = windows_of(artifact)["test"]
    rows = test.play_ratio.astype(int)
    assert test.is_organic.tolist() == [{None: -1}.get(organic[row], organic[row]) for row in rows]


def test_sessions_are_users_who_are_new_in_test(tmp_path: Path) -> None:
    table = random_columns()
    sessions = {**table, "user_id": table["user_id"] + 1_000 * (table["timestamp"] // DAY)}
    artifact = run_component(data_directory(tmp_path / "data", sessions), tmp_path / "windows")
    assert recorded_facts(artifact).users_are_new
    counts = counts_of(artifact)
    assert counts["test_users"] == counts["test_users_unknown_to_train"] > 0


def test_a_shard_larger_than_planned_is_cut_in_parts_of_whole_users(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    # User 3 has more events than a part may hold.
    users = np.where(rng.random(2_000) < 0.4, 3, rng.integers(0, 30, 2_000))
    batches = []
    for first in range(0, 2_000, 300):
        own = users[first : first + 300]
        n = len(own)
        batch = pa.RecordBatch.from_pydict(
            {
                "user_id": own.astype(np.int32 if first % 600 else np.int64),
                "item_id": np.arange(first, first + n),
                "timestamp": np.arange(first, first + n),
                "event_type": np.arange(n, dtype=np.int8) % 2,
                "play_ratio": np.ones(n, np.float32),
                "is_organic": np.ones(n, np.int8),
            }
        )
        types = ["listen", "like" if first % 600 else "dislike"]
        batch = batch.replace_schema_metadata({"place": str(first), "event_types": json.dumps(types)})
        batches += [content for _, content in shards.divide(batch, 1)]
    rng.shuffle(batches)

    def rows_of(parts: Iterable[tuple[Events, Any]]) -> Counter[tuple[int, int, str]]:
        return Counter(
            (int(user), int(item), events.event_types[kind])
            for events, _ in parts
            for user, item, kind in zip(events.user_id, events.item_id, events.event_type, strict=True)
        )

    whole = list(shards.parts(batches, 2_000))
    parts = list(shards.parts(batches, 100))
    assert len(whole) == 1 and len(parts) > 5
    assert rows_of(whole) == rows_of(parts)
    # The order of the files counts, not that of the batches.
    assert (np.diff(whole[0][0].item_id) == 1).all()
    of_part = [set(events.user_id.tolist()) for events, _ in parts]
    assert sum(map(len, of_part)) == len(set.union(*of_part)) == 30
    largest = max(np.bincount(users))
    assert max(len(events) for events, _ in parts) < 100 + largest
    # Parts give the same windows as the whole.
    cutter = WindowCutter(TimeSplit(1_500, (1_500, 1_700), (1_700, 2_000)), True, HISTORY_LENGTH, 9)
    counts: list[Counter[str]] = [Counter(), Counter()]
    for one, some in zip(counts, (whole, parts), strict=True):
        for events, _ in some:
            assert sum(batch.num_rows for _, batch in cutter.slices(events, one))
    assert counts[0] == counts[1]


def test_windows_are_built_a_slice_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    events = columns([Event(n % 3, n, n // 90, b"listen", n) for n in range(3_000)])
    cutter = WindowCutter(SPLIT, False, HISTORY_LENGTH, 9)
    whole, _ = cutter.cut(events)
    monkeypatch.setattr("two_tower.components.interaction_example_gen.window_columns.SLICE_EVENTS", 100)
    slices = list(cutter.slices(events, Counter()))
    assert len(slices) > 20
    assert max(len(batch["history_item_id"].flatten()) for _, batch in slices) <= 100
    for split in SPLITS:
        table = pa.Table.from_batches([batch for name, batch in slices if name == split])
        assert table.to_pydict() == whole[split].to_pydict()


def test_columns_that_were_not_recorded_are_unknown_and_every_event_is_a_label(tmp_path: Path) -> None:
    everything = random_columns(800)
    table = {name: everything[name] for name in ("user_id", "item_id", "timestamp")}
    data = data_directory(tmp_path / "data", table, repeats=False)
    windows = windows_of(run_component(data, tmp_path / "out", 300))
    train = windows["train"]
    assert len(all_queries(train))
    assert set(train.event_type) == {b"listen"}
    assert set(train.play_ratio) == {-1.0} and set(train.is_organic) == {-1}
    assert len(windows["test"].seen_item_id)


def test_the_component_names_the_split_that_is_empty(tmp_path: Path) -> None:
    table = random_columns(300)
    # No user has a second play before the last two days.
    table["timestamp"] = np.arange(300) + 100 * DAY
    table["event_type"] = np.full(300, "play")
    data = data_directory(tmp_path / "data", table)
    with pytest.raises(UserError, match="The train split is empty"):
        run_component(data, tmp_path / "out", 1_000)


def test_files_may_lie_in_any_order(tmp_path: Path) -> None:
    table = random_columns()
    # Every row has its own time, which alone gives the order.
    table["timestamp"] = np.arange(3_000) * (10 * DAY // 3_000)
    shuffled = pa.table(table).take(np.random.default_rng(1).permutation(3_000))
    artifacts = [
        run_component(data_directory(tmp_path / name, columns), tmp_path / f"{name}-out", 500)
        for name, columns in (
            ("sorted", table),
            ("shuffled", {n: shuffled[n] for n in shuffled.column_names}),
        )
    ]
    assert found_queries(artifacts[0]) == found_queries(artifacts[1])


def test_spans_are_read_together_and_what_comes_late_or_twice_is_counted(tmp_path: Path) -> None:
    table = random_columns()
    day = table["timestamp"] // DAY
    properties = DatasetProperties("small", "play", True)
    data = str(tmp_path / "data")
    rows = pa.table(table)
    for number in range(10):
        with DataDirectoryWriter(data, properties, span=number) as writer:
            own = rows.filter(pa.array(day == number))
            # Each span but the first repeats the last ten events of the span before.
            again = rows.filter(pa.array(day == number - 1))
            again = again.slice(max(0, again.num_rows - 10))
            writer.write("events", pa.concat_tables([own, again]))
            writer.write("items", pa.table({"item_id": np.arange(60)}))
    log = log_of(table)
    repeated = len(log) - sum(len(of_user(log, user)) for user in range(40))
    artifact = run_component(data, tmp_path / "out", 400)
    assert counts_of(artifact)["late_events"] == 90
    assert counts_of(artifact)["duplicate_events"] == 90 + repeated
    expected, _ = expected_queries(log, artifact)
    assert found_queries(artifact) == expected

    newest = run_component(data, tmp_path / "newest", 400, spans=4)
    # A job's submission names another number than the job was compiled with.
    submitted = run_component(data, tmp_path / "submitted", 400, submitted={"windows_spans": 4})
    assert counts_of(submitted) == counts_of(newest) != counts_of(artifact)
    assert counts_of(newest)["late_events"] == 40
    kept = [e for e in log if e.time // DAY >= 6]
    late = [e for e in log if e.time // DAY == 5][-10:]
    expected, _ = expected_queries([*late, *kept], newest)
    assert found_queries(newest) == expected
    # Other spans may give another split with the same settings.
    assert recorded_facts(newest).data_digest == recorded_facts(artifact).data_digest
    assert recorded_facts(newest).split_digest != recorded_facts(artifact).split_digest


def test_events_of_a_data_set_without_times_are_left_out_one_by_one(tmp_path: Path) -> None:
    everything = random_columns(900)
    ids = {name: everything[name] for name in ("user_id", "item_id")}
    data = data_directory(tmp_path / "data", {**ids, "order": np.arange(900)})
    artifact = run_component(data, tmp_path / "out", 200, {"protocol": "leave_one_out"})
    users, counts = np.unique(ids["user_id"], return_counts=True)
    assert (counts >= 3).all()
    for split, back in (("eval", -2), ("test", -1)):
        windows = windows_of(artifact)[split]
        queries = all_queries(windows)
        asked = dict(zip(queries.user_id.tolist(), queries.label_item_id.tolist(), strict=True))
        assert asked == {user: ids["item_id"][ids["user_id"] == user][back] for user in users.tolist()}
        assert not windows.timestamp.any()
    facts = recorded_facts(artifact)
    assert (facts.protocol, facts.has_timestamps, facts.train_end, facts.test_to) == (
        "leave_one_out",
        False,
        0,
        0,
    )


@pytest.mark.parametrize("protocol", ["next_event", "frozen", "yambda"])
def test_protocols_in_time_say_what_data_without_times_can_do(tmp_path: Path, protocol: str) -> None:
    ids = {name: random_columns(90)[name] for name in ("user_id", "item_id")}
    data = data_directory(tmp_path / "data", {**ids, "order": np.arange(90)})
    with pytest.raises(UserError, match=rf"split\.protocol is {protocol}.*choose leave_one_out\."):
        run_component(data, tmp_path / "out", split={"protocol": protocol})


def test_a_published_split_is_the_events_own_column(tmp_path: Path) -> None:
    table = random_columns()
    split = [SPLITS[column_split(row)] for row in range(3_000)]
    data = data_directory(tmp_path / "data", {**table, "split": split})
    artifact = run_component(data, tmp_path / "out", 700, {"protocol": "split_column"})
    expected, counts = queries_of(log_of(table), HISTORY_LENGTH, True, SplitColumn())
    assert found_queries(artifact) == sorted(expected)
    assert {name: counts_of(artifact)[name] for name in counts} == dict(counts)

    without = data_directory(tmp_path / "without", table)
    with pytest.raises(UserError, match=r"split_column.*no column 'split'"):
        run_component(without, tmp_path / "none", split={"protocol": "split_column"})


def test_a_value_of_the_split_column_that_names_no_split_is_named() -> None:
    with pytest.raises(
        UserError, match=r"a\.parquet: column 'split': 'valid' in one of 2 rows .* train, eval, test"
    ):
        shards.split_numbers(pa.chunked_array([["train", "valid", None, "test"]]), "a.parquet")


def test_the_frozen_protocol_holds_one_set_of_labels_a_known_user(tmp_path: Path) -> None:
    table = random_columns()
    data = data_directory(tmp_path / "data", table)
    settings = {**SPLIT_SETTINGS, "protocol": "frozen"}
    artifact = run_component(data, tmp_path / "out", 400, settings)
    facts = recorded_facts(artifact)
    times = TimeSplit(facts.train_end, (facts.eval_from, facts.eval_to), (facts.test_from, facts.test_to))
    expected, counts = frozen_queries_of(log_of(table), HISTORY_LENGTH, True, FrozenSplit(times, 3_600))
    for split in ("eval", "test"):
        windows = windows_of(artifact)[split]
        queries = all_queries(windows)
        labels = np.split(queries.labels.item_id, queries.labels.offsets[1:-1])
        found = {int(user): tuple(own.tolist()) for user, own in zip(queries.user_id, labels, strict=True)}
        assert found == {one.user: one.labels for one in expected if one.split == split}
        assert set(queries.request_timestamp) == {times.bounds(split)[0]}
        assert counts_of(artifact)[f"{split}_queries"] == counts[f"{split}_queries"] > 10


def test_windows_carry_their_users_features(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    table = random_columns()
    # Users 30 to 39 have no row, and users from 100 on have no event.
    ids = [*range(30), *range(100, 110)]
    users = {
        "user_id": ids,
        "gender": ["F" if user % 2 else None for user in ids],
        "age": pa.array([float(user) for user in ids], pa.float32()),
        "tastes": [["rock", f"of {user}"][: user % 3] for user in ids],
    }
    with DataDirectoryWriter(data, DatasetProperties("small", "play", True)) as writer:
        writer.write("events", pa.table(table))
        writer.write("items", pa.table({"item_id": np.arange(60)}))
        writer.write("users", pa.table(users))
    artifact = run_component(data, tmp_path / "out", 300, user_features=("gender", "age", "tastes"))
    seen = set()
    for split in SPLITS:
        for example in examples_of(artifact, split):
            feature = example.features.feature
            user = feature["user_id"].int64_list.value[0]
            seen.add(user)
            has_row = user < 30
            assert list(feature["user_gender"].bytes_list.value) == [b"F"] * (has_row and user % 2)
            assert list(feature["user_age"].float_list.value) == [float(user)] * has_row
            tastes = [b"rock", b"of %d" % user][: user % 3] if has_row else []
            assert list(feature["user_tastes"].bytes_list.value) == tastes
    assert seen == set(range(40))
    # Without the setting the features are absent.
    plain = examples_of(run_component(data, tmp_path / "plain"), "train")[0]
    assert not [name for name in plain.features.feature if name.startswith("user_") and name != "user_id"]


@pytest.mark.slow
def test_the_graph_runs_where_functions_are_pickled_and_processes_are_others(tmp_path: Path) -> None:
    from two_tower.pipeline.beam_options import completed

    table = random_columns()
    data = f"file://{data_directory(tmp_path / 'data', table)}"
    beam_args = ("--runner=DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2")
    artifact = run_component(data, tmp_path / "out", 1_000, beam_args=tuple(completed(beam_args)))
    expected, _ = expected_queries(log_of(table), artifact)
    assert found_queries(artifact) == expected
    assert len(list((tmp_path / "out" / "Split-train").iterdir())) == 3


def test_data_may_lie_in_an_object_store(tmp_path: Path) -> None:
    table = random_columns(1_000)
    data = f"memory://{tmp_path.name}/data"
    with DataDirectoryWriter(data, DatasetProperties("small", "play", True)) as writer:
        writer.write("events", pa.table(table))
        writer.write("items", pa.table({"item_id": np.arange(60)}))
    assert not storage.is_local(data)
    artifact = run_component(data, tmp_path / "out", 400)
    expected, _ = expected_queries(log_of(table), artifact)
    assert found_queries(artifact) == expected
