from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.interaction_example_gen.splits import TimeSplit, check_not_empty
from components.interaction_example_gen.windows import WindowCutter
from components.retrieval_evaluator.queries import Windows, all_queries, excluded_items
from pipeline.configs import DAY, SplitConfig
from pipeline.datasets.data_directory import DataDirectoryWriter, DatasetProperties
from pipeline.errors import UserError
from tests.listening_logs import SPLIT, Event, Query, columns, logs, of_user, queries_of, split_of, to_windows

SPLITS = ("train", "eval", "test")
COUNTED = ("listens_without_seed", "repeated_labels", "gap_labels", *(f"{split}_labels" for split in SPLITS))
CUTTERS = st.builds(
    WindowCutter,
    split=st.just(SPLIT),
    repeats_recommendable=st.booleans(),
    history_length=st.integers(1, 8),
    positions=st.integers(1, 9),
)


CUTTER = WindowCutter(SPLIT, repeats_recommendable=True, history_length=6, positions=9)


def cut(log: list[Event], cutter: WindowCutter) -> tuple[dict[str, pa.RecordBatch], dict[str, int]]:
    return cutter.cut(columns(log))


def queries_in(windows: Windows, split: str, cutter: WindowCutter) -> list[Query]:
    """Queries as they are read from windows; an event's play ratio is its row."""
    queries = all_queries(windows)
    rows = windows.play_ratio.astype(int)
    begin = np.maximum(windows.offsets[queries.window], queries.event + 1 - cutter.history_length)
    columns = (queries.user_id, begin, queries.event, queries.label_event)
    return [
        Query(split, int(user), tuple(rows[first : event + 1].tolist()), int(rows[label]))
        for user, first, event, label in zip(*columns, strict=True)
    ]


@given(logs(), CUTTERS)
@settings(max_examples=200, deadline=None)
@example([], WindowCutter(SPLIT, True, 3, 4))
@example([Event(1, 2, 3, b"like", 0)], WindowCutter(SPLIT, True, 3, 4))
@example([Event(1, 2, 3, b"listen", 0)], WindowCutter(SPLIT, False, 3, 4))
def test_windows_hold_each_query_once_with_the_history_that_a_plain_loop_gives_it(
    log: list[Event], cutter: WindowCutter
) -> None:
    batches, counts = cut(log, cutter)
    expected, expected_counts = queries_of(log, cutter.history_length, cutter.repeats_recommendable)
    found = [q for split in SPLITS for q in queries_in(to_windows(batches[split]), split, cutter)]
    assert sorted(found) == sorted(expected)
    assert {name: count for name, count in counts.items() if count and name in COUNTED} == expected_counts


@given(logs(), CUTTERS)
@settings(max_examples=100, deadline=None)
def test_no_split_leaks_into_another(log: list[Event], cutter: WindowCutter) -> None:
    batches, _ = cut(log, cutter)
    windows = {split: to_windows(batch) for split, batch in batches.items()}
    queries = {split: all_queries(windows[split]) for split in SPLITS}
    labels = [
        int(windows[split].play_ratio[event]) for split in SPLITS for event in queries[split].label_event
    ]
    assert len(labels) == len(set(labels)), "a label is used twice"
    assert (windows["train"].timestamp < SPLIT.train_end).all()
    for split in SPLITS:
        assert all(split_of(time) == split for time in queries[split].label_timestamp)
        # Windows end with a label: nothing of them is newer than what their last query is asked for.
        ends = windows[split].offsets[1:] - 1
        assert np.isin(ends, queries[split].label_event).all()
        sees, asked = windows[split].timestamp[queries[split].event], queries[split].label_timestamp
        assert (sees <= asked).all()


@given(logs(), CUTTERS)
@settings(max_examples=100, deadline=None)
def test_events_after_a_split_change_nothing_in_it(log: list[Event], cutter: WindowCutter) -> None:
    later = [e.time >= SPLIT.eval[1] for e in log]
    changed = [
        e._replace(item=99, time=SPLIT.test[1], kind=b"listen") if is_later else e
        for e, is_later in zip(log, later, strict=True)
    ]
    ours, theirs = cut(log, cutter)[0], cut(changed, cutter)[0]
    assert ours["train"].equals(theirs["train"])
    assert ours["eval"].equals(theirs["eval"])


@given(logs(), CUTTERS)
@settings(max_examples=100, deadline=None)
def test_a_request_is_made_as_its_label_begins(log: list[Event], cutter: WindowCutter) -> None:
    for batch in cut(log, cutter)[0].values():
        windows, queries = to_windows(batch), all_queries(to_windows(batch))
        expected = windows.timestamp.copy()
        expected[queries.event] = queries.label_timestamp
        assert batch["request_timestamp"].flatten().to_pylist() == expected.tolist()


@given(logs(), CUTTERS.filter(lambda cutter: not cutter.repeats_recommendable))
@settings(max_examples=100, deadline=None)
def test_what_is_excluded_is_the_full_history_and_never_the_label(
    log: list[Event], cutter: WindowCutter
) -> None:
    batches, _ = cut(log, cutter)
    assert "seen_item_id" not in batches["train"].schema.names
    for split in ("eval", "test"):
        windows = to_windows(batches[split])
        queries = all_queries(windows)
        excluded = excluded_items(windows, queries)
        for row in range(len(queries)):
            events = of_user(log, int(queries.user_id[row]))
            seed = [event.row for event in events].index(int(windows.play_ratio[queries.event[row]]))
            had = sorted(event.item for event in events[: seed + 1])
            assert sorted(item for item in excluded[row] if item >= 0) == had
            assert queries.label_item_id[row] not in had


def test_a_reaction_to_the_seed_or_to_the_label_is_not_seen() -> None:
    log = [
        Event(7, 10, 1, b"listen", 0),
        Event(7, 10, 1, b"like", 1),  # to the seed, at once
        Event(7, 10, 2, b"dislike", 2),  # to the seed, later on
        Event(7, 11, 3, b"like", 3),  # to the label, and filed before it
        Event(7, 11, 3, b"listen", 4),
        Event(7, 12, 9, b"listen", 5),
    ]
    batches, _ = cut(log, CUTTER)
    first, second = queries_in(to_windows(batches["train"]), "train", CUTTER)
    assert (first.history, first.label) == ((0,), 4)
    # One play later the reactions to the seed are history; the one to 11, which now plays, is not.
    assert (second.history, second.label) == ((0, 1, 2, 4), 5)


def test_a_window_has_at_most_its_positions_and_context_before_them() -> None:
    log = [Event(1, row, row // 60, b"listen", row) for row in range(1_000)]
    batches, _ = cut(log, WindowCutter(SPLIT, True, history_length=30, positions=100))
    windows = to_windows(batches["train"])
    assert len(windows) == 10
    queries = np.add.reduceat(windows.label_step > 0, windows.offsets[:-1])
    assert queries.max() == 100
    assert windows.lengths.max() == 29 + 100 + 1


def test_splits_lie_before_the_newest_label_with_gaps_between() -> None:
    split = TimeSplit.before(1_000_000, SplitConfig(eval_seconds=DAY, test_seconds=2 * DAY, gap_seconds=500))
    assert split.test == (1_000_001 - 2 * DAY, 1_000_001)
    assert split.eval == (split.test[0] - 500 - DAY, split.test[0] - 500)
    assert split.train_end == split.eval[0] - 500


@pytest.mark.parametrize("empty", SPLITS)
def test_an_empty_split_is_named_with_the_settings_that_made_it(empty: str) -> None:
    counts = {f"{split}_labels": 3 for split in SPLITS if split != empty}
    with pytest.raises(UserError, match=rf"The {empty} split is empty.*split\.eval_seconds"):
        check_not_empty(counts, SPLIT)
    check_not_empty(counts | {f"{empty}_labels": 1}, SPLIT)


# The component on real files.


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
    # Many row groups, as large data has.
    for file in (path / "events").iterdir():
        pq.write_table(pq.read_table(file), file, row_group_size=700)
    return str(path)


def run_component(data: str, out: Path, events_per_shard: int) -> tuple[Any, dict[str, Windows]]:
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
    from tfx.types import standard_artifacts

    from components.interaction_example_gen.executor import Executor
    from components.retrieval_evaluator.queries import read_windows

    artifact = standard_artifacts.Examples()
    artifact.uri = str(out)
    windows = {"history_length": 6, "positions": 9, "events_per_shard": events_per_shard}
    context = BaseBeamExecutor.Context(tmp_dir=str(out) + "-scratch/", unique_id="1")
    Executor(context).Do(
        {},
        {"examples": [artifact]},
        {
            "data": data,
            "split": json.dumps({"eval_seconds": DAY, "test_seconds": DAY, "gap_seconds": 3_600}),
            "windows": json.dumps(windows),
        },
    )
    return artifact, {split: read_windows(str(out / f"Split-{split}")) for split in SPLITS}


def test_the_component_writes_the_same_windows_however_many_shards(tmp_path: Path) -> None:
    table = random_columns()
    data = data_directory(tmp_path / "data", table)
    # The label event has one name from here on, and an event that is called so by chance has another.
    names = {"play": b"listen", "like": b"like", "listen": b"other listen", "": b"unknown", None: b"unknown"}
    kinds = [names[kind] for kind in table["event_type"]]
    ids = zip(table["user_id"].tolist(), table["item_id"].tolist(), table["timestamp"].tolist(), strict=True)
    log = [Event(*three, kind, row) for row, (three, kind) in enumerate(zip(ids, kinds, strict=True))]
    results = {}
    for events_per_shard in (1_000_000, 50):
        artifact, windows = run_component(data, tmp_path / str(events_per_shard), events_per_shard)
        found = [q for split in SPLITS for q in queries_in(windows[split], split, CUTTER)]
        results[events_per_shard] = sorted(found)
        assert json.loads(artifact.split_names) == list(SPLITS)
    from components.interaction_example_gen.facts import DataFacts

    facts = DataFacts.read(artifact)
    times = TimeSplit(facts.train_end, (facts.eval_from, facts.eval_to), (facts.test_from, facts.test_to))
    expected, counts = queries_of(log, 6, True, times)
    assert results[1_000_000] == results[50] == sorted(expected)
    assert {name: artifact.get_int_custom_property(name) for name in counts} == dict(counts)
    assert (facts.dataset, facts.label_event, facts.repeats_recommendable) == ("small", "play", True)
    organic = dict(enumerate(table["is_organic"].to_pylist()))
    rows = windows["test"].play_ratio.astype(int)
    assert windows["test"].is_organic.tolist() == [{None: -1}.get(organic[row], organic[row]) for row in rows]


def test_columns_that_were_not_recorded_are_unknown_and_every_event_is_a_label(tmp_path: Path) -> None:
    everything = random_columns(800)
    table = {name: everything[name] for name in ("user_id", "item_id", "timestamp")}
    _, windows = run_component(data_directory(tmp_path / "data", table, repeats=False), tmp_path / "out", 300)
    train = windows["train"]
    assert len(all_queries(train))
    assert set(train.event_type) == {b"listen"}
    assert set(train.play_ratio) == {-1.0} and set(train.is_organic) == {-1}
    assert len(windows["test"].seen_item_id)


def test_the_component_names_the_split_that_is_empty(tmp_path: Path) -> None:
    table = random_columns(300)
    # Nobody plays a second time before the last two days.
    table["timestamp"] = np.arange(300) + 100 * DAY
    table["event_type"] = np.full(300, "play")
    data = data_directory(tmp_path / "data", table)
    with pytest.raises(UserError, match="The train split is empty"):
        run_component(data, tmp_path / "out", 1_000)
