"""The protocol hold_out: pairs of user and item without an order, held out by a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.components.test_interaction_example_gen import recorded_facts, run_component, windows_of
from tests.listening_logs import Event, logs, to_windows
from tests.listening_logs import columns as columns_of_log
from two_tower.base.errors import UserError
from two_tower.components.interaction_example_gen import shards
from two_tower.components.interaction_example_gen.facts import facts_of
from two_tower.components.interaction_example_gen.histories import Histories
from two_tower.components.interaction_example_gen.settings import PROTOCOLS, SplitConfig
from two_tower.components.interaction_example_gen.splits import HoldOut, event_split
from two_tower.components.interaction_example_gen.windows import WindowCutter
from two_tower.data_directory.manifest import DatasetProperties, Manifest
from two_tower.data_directory.shuffled_order import shuffled_order
from two_tower.data_directory.writer import DataDirectoryWriter
from two_tower.evaluation.queries import Windows, all_queries

SPLITS = ("train", "eval", "test")


def plays(users: int = 30, items: int = 80) -> dict[str, list[int]]:
    """Returns pairs of users with 1 to 25 items, a user's most played item first."""
    random = np.random.default_rng(3)
    found: dict[str, list[int]] = {"user_id": [], "item_id": []}
    for user in range(users):
        chosen = random.permutation(items)[: 1 + user % 25]
        found["user_id"] += [user] * len(chosen)
        found["item_id"] += chosen.tolist()
    return found


def data_directory(path: Path, events: dict[str, Any], has_order: bool = False) -> str:
    properties = DatasetProperties("plays", "listen", False)
    with DataDirectoryWriter(str(path), properties, has_order=has_order) as writer:
        writer.write("events", pa.table(events))
        writer.write("items", pa.table({"item_id": sorted(set(events["item_id"]))}))
    return str(path)


def held_out(windows: Windows) -> dict[int, set[int]]:
    """Returns the labels of each user's one query."""
    found = {}
    for place in range(len(windows)):
        labels = windows.label_item_id[windows.label_offsets[place] : windows.label_offsets[place + 1]]
        assert int(windows.user_id[place]) not in found
        found[int(windows.user_id[place])] = set(labels.tolist())
    return found


def seen(windows: Windows) -> dict[int, set[int]]:
    """Returns the items in each user's windows, and those that recommendations leave out."""
    found: dict[int, set[int]] = {}
    for place in range(len(windows)):
        items = windows.item_id[windows.offsets[place] : windows.offsets[place + 1]]
        found.setdefault(int(windows.user_id[place]), set()).update(items.tolist())
        if len(windows.seen_offsets) > place + 1:
            items = windows.seen_item_id[windows.seen_offsets[place] : windows.seen_offsets[place + 1]]
            found[int(windows.user_id[place])].update(items.tolist())
    return found


def test_held_out_items_are_in_no_history_and_not_in_train(tmp_path: Path) -> None:
    events = plays()
    artifact = run_component(
        data_directory(tmp_path / "data", events), tmp_path / "out", 200, {"protocol": "hold_out"}
    )
    windows = windows_of(artifact)
    of_user: dict[int, set[int]] = {}
    for user, item in zip(*events.values(), strict=True):
        of_user.setdefault(user, set()).add(item)
    tested, tuned = held_out(windows["test"]), held_out(windows["eval"])
    with_three = {user for user, items in of_user.items() if len(items) >= 3}
    assert set(tested) == set(tuned) == with_three
    for user, items in of_user.items():
        number = max(1, len(items) // 10) if user in with_three else 0
        assert len(tested.get(user, ())) == len(tuned.get(user, ())) == number
        train = items - tested.get(user, set()) - tuned.get(user, set())
        assert len(train) == len(items) - 2 * number
        # Train's windows begin at two items: the first is the query of the second.
        assert seen(windows["train"]).get(user, set()) == (train if len(train) > 1 else set())
        if user in with_three:
            assert seen(windows["eval"])[user] == train
            assert seen(windows["test"])[user] == train | tuned[user]
    asked = all_queries(windows["train"])
    for user, label in zip(asked.user_id.tolist(), asked.label_item_id.tolist(), strict=True):
        assert label not in tested.get(user, set()) | tuned.get(user, set())
    for batch in windows.values():
        assert not batch.timestamp.any() and not batch.request_timestamp.any()
    facts = recorded_facts(artifact)
    assert (facts.protocol, facts.has_timestamps, facts.test_to) == ("hold_out", False, 0)


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_rows(tmp_path: Path) -> None:
    events = plays()
    turned = {name: values[::-1] for name, values in events.items()}

    def tested(name: str, rows: dict[str, list[int]], **split: Any) -> dict[int, set[int]]:
        data = data_directory(tmp_path / f"{name}-data", rows)
        artifact = run_component(data, tmp_path / name, 200, {"protocol": "hold_out", **split})
        return held_out(windows_of(artifact)["test"])

    first = tested("first", events)
    assert tested("again", turned) == first
    other = tested("other", events, seed=1)
    assert other != first and set(other) == set(first)
    more = tested("more", events, holdout_share=0.4)
    # The same draw goes on: a larger share holds out what a smaller one does, and more.
    assert all(items <= more[user] for user, items in first.items())
    assert sum(map(len, more.values())) > 3 * sum(map(len, first.values()))


def test_no_item_is_held_out_for_being_played_least() -> None:
    """Checks that held-out places spread evenly over the rows of users, which are sorted by plays."""
    user, item = np.repeat(np.arange(2_000), 20), np.tile(np.arange(20), 2_000)
    ranks = shuffled_order(user, item, 0).reshape(2_000, 20)
    last_two = np.argsort(ranks, axis=1)[:, -2:]
    counts = np.bincount(last_two.ravel(), minlength=20)
    # 200 each are expected; the standard deviation is 13.4.
    assert counts.min() > 145 and counts.max() < 255


def test_ids_of_64_bits_give_the_same_order_as_those_that_were_narrowed() -> None:
    user, item = np.array([5, 2**40]), np.array([2**50, 7])
    wide = shuffled_order(user, item, 9)
    assert wide[0] == shuffled_order(user[:1].astype(np.int32), item[:1], 9)[0]
    assert wide[1] == shuffled_order(user[1:], item[1:].astype(np.int8), 9)[0]
    assert (wide >= 0).all()


@given(logs(), st.sampled_from([0.001, 0.1, 0.45]), st.booleans())
@settings(max_examples=200, deadline=None)
def test_windows_hold_no_event_that_their_split_may_not_see(
    log: list[Event], share: float, repeats: bool
) -> None:
    events = columns_of_log(log)
    cutter = WindowCutter(HoldOut(share), repeats, 4, 3, has_timestamps=False)
    batches, _ = cutter.cut(events)
    histories = Histories.of(events)
    # An event's play ratio is its row.
    first = dict(
        zip(
            histories.play_ratio.astype(int).tolist(),
            cutter.split.place(histories).visible_from.tolist(),
            strict=True,
        )
    )
    for number, name in enumerate(SPLITS):
        windows = to_windows(batches[name])
        rows = windows.play_ratio.astype(int).tolist()
        assert all(first[row] < max(1, number) for row in rows)
        if name == "train":
            continue
        held, had = held_out(windows), seen(windows)
        assert held.keys() == had.keys()
        if not repeats:
            assert all(labels.isdisjoint(had[user]) for user, labels in held.items())
        for user, labels in held.items():
            mine = (histories.user_id == user) & histories.is_listen
            own = np.array([first[row] for row in histories.play_ratio[mine].astype(int)])
            assert len(labels) <= (own == number).sum() <= max(1, int(share * mine.sum() + 1e-9))


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "hold_out"])
def test_protocols_that_need_an_order_are_refused_by_name(tmp_path: Path, protocol: str) -> None:
    data = data_directory(tmp_path / "data", plays())
    with pytest.raises(UserError, match=rf"{protocol}, which needs an order .* have none: choose hold_out\."):
        run_component(data, tmp_path / "out", split={"protocol": protocol})


@pytest.mark.parametrize(("column", "instead"), [("timestamp", "next_event"), ("order", "leave_one_out")])
def test_events_with_an_order_are_not_drawn_from(tmp_path: Path, column: str, instead: str) -> None:
    events = plays() | {column: list(range(len(plays()["user_id"])))}
    data = data_directory(tmp_path / "data", events, has_order=True)
    with pytest.raises(UserError, match=rf"hold_out, for events without an order.* Choose {instead}\."):
        event_split(data, Manifest.load(data), SplitConfig("hold_out"))


def test_a_writer_is_told_that_events_have_no_order(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column timestamp or order, which is required"):
        data_directory(tmp_path / "data", plays(), has_order=True)
    events = plays() | {"order": list(range(len(plays()["user_id"])))}
    with pytest.raises(UserError, match="column 'order', and are said to have no order"):
        data_directory(tmp_path / "data", events)
    with pytest.raises(UserError, match="without an order hold no repeats"):
        DataDirectoryWriter(str(tmp_path / "data"), DatasetProperties("d", "listen", True), has_order=False)
    manifest = Manifest.load(data_directory(tmp_path / "data", plays()))
    assert not manifest.has_order and not manifest.has_timestamps
    assert Manifest.load(data_directory(tmp_path / "ordered", events, has_order=True)).has_order


def test_the_digest_of_a_split_holds_the_draw(tmp_path: Path) -> None:
    data = data_directory(tmp_path / "data", plays())
    manifest = Manifest.load(data)
    digests = {
        facts_of(data, manifest, SplitConfig("hold_out", holdout_share=share, seed=seed)).split_digest
        for share in (0.1, 0.2)
        for seed in (0, 1)
    }
    assert len(digests) == 4


def test_rows_of_events_without_an_order_are_read_in_the_drawn_one(tmp_path: Path) -> None:
    data = data_directory(tmp_path / "data", plays())
    (file,) = shards.table_files(data, Manifest.load(data), "events")
    (group,) = shards.row_groups(file, 1)
    rows, _ = shards.EventReader(1, "listen", None, False, seed=4).read(group)
    ((events, _),) = shards.parts([content for _, content in rows], 10**6)
    assert (events.timestamp == shuffled_order(events.user_id, events.item_id, 4)).all()
