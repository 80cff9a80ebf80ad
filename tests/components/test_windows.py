from __future__ import annotations

import dataclasses
import random
from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.listening_logs import (
    SPLIT,
    Event,
    FrozenQuery,
    column_split,
    columns,
    frozen_queries_of,
    logs,
    of_user,
    placed,
    queries_in,
    queries_of,
    split_of,
    to_windows,
)
from two_tower.components.interaction_example_gen.splits import (
    EventSplit,
    FrozenSplit,
    LeaveOneOut,
    SplitColumn,
)
from two_tower.components.interaction_example_gen.windows import WindowCutter
from two_tower.evaluation.queries import all_queries, excluded_items

SPLITS = ("train", "eval", "test")
COUNTED = ("listens_without_seed", "repeated_labels", "gap_labels", *(f"{split}_labels" for split in SPLITS))
CUTTER = WindowCutter(SPLIT, repeats_recommendable=True, history_length=6, positions=9)


def any_cutter(*protocols: EventSplit) -> st.SearchStrategy[WindowCutter]:
    return st.builds(
        WindowCutter,
        split=st.sampled_from(protocols),
        repeats_recommendable=st.booleans(),
        history_length=st.integers(1, 8),
        positions=st.integers(1, 9),
    )


CUTTERS = any_cutter(SPLIT)
FROZEN = st.builds(
    FrozenSplit,
    times=st.just(SPLIT),
    gap_seconds=st.just(2),
    # An event's play ratio is its row.
    min_play_ratio=st.sampled_from([0.0, 20.0]),
)


def cut(log: list[Event], cutter: WindowCutter) -> tuple[dict[str, pa.RecordBatch], Counter[str]]:
    events = columns(log)
    if isinstance(cutter.split, SplitColumn):
        events = dataclasses.replace(events, split=np.array([column_split(e.row) for e in log], np.int8))
    return cutter.cut(events)


def first_splits(log: list[Event], split: EventSplit) -> dict[int, int]:
    """Returns the number of the first split that sees each row of the log."""
    found = {}
    for user in range(3):
        events = of_user(log, user, split)
        found.update({e.row: first for e, (_, first) in zip(events, placed(events, split), strict=True)})
    return found


@given(logs(), any_cutter(SPLIT, LeaveOneOut(), SplitColumn()))
@settings(max_examples=300, deadline=None)
@example([], WindowCutter(SPLIT, True, 3, 4))
@example([], WindowCutter(LeaveOneOut(), True, 3, 4))
@example([Event(1, 2, 3, b"like", 0)], WindowCutter(SPLIT, True, 3, 4))
@example([Event(1, 2, 3, b"listen", 0)], WindowCutter(SPLIT, False, 3, 4))
def test_windows_hold_each_query_once_with_the_history_that_a_plain_loop_gives_it(
    log: list[Event], cutter: WindowCutter
) -> None:
    batches, counts = cut(log, cutter)
    expected, expected_counts = queries_of(
        log, cutter.history_length, cutter.repeats_recommendable, cutter.split
    )
    found = [
        q for split in SPLITS for q in queries_in(to_windows(batches[split]), split, cutter.history_length)
    ]
    assert sorted(found) == sorted(expected)
    assert {name: count for name, count in counts.items() if count and name in COUNTED} == expected_counts


@given(logs(), any_cutter(SPLIT, LeaveOneOut(), SplitColumn()))
@settings(max_examples=100, deadline=None)
@example([Event(0, 5, time, kind, time) for time, kind in enumerate([b"listen", b"listen", b"like"])], CUTTER)
def test_a_window_of_train_holds_all_that_train_knows_of_reactions_to_its_labels(
    log: list[Event], cutter: WindowCutter
) -> None:
    """Checks that a label's weight does not depend on the end of its window."""
    train = to_windows(cut(log, cutter)[0]["train"])
    queries, first = all_queries(train), first_splits(log, cutter.split)
    # An event's play ratio is its row.
    rows = train.play_ratio.astype(int)
    for window, label in zip(queries.window, queries.label_event, strict=True):
        user, end = int(train.user_id[window]), train.offsets[window + 1]
        after = [e for e in of_user(log, user, cutter.split) if not first[e.row]]
        place = next(place for place, e in enumerate(after) if e.row == rows[label])
        expected: list[int] = []
        for event in after[place + 1 :]:
            if event.kind == b"listen":
                break
            if event.item == after[place].item:
                expected.append(event.row)
        found: list[int] = []
        for number in range(label + 1, end):
            if train.event_type[number] == b"listen":
                break
            if train.item_id[number] == train.item_id[label]:
                found.append(int(rows[number]))
        assert found == expected


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
        # Windows end with a label, those of train with reactions to it: no event is newer than the label of
        # the last query.
        raw, queried = windows[split], queries[split]
        last = np.full(len(raw), -1)
        np.maximum.at(last, queried.window, queried.label_event)
        assert (last >= 0).all()
        after = raw.offsets[1:] - 1 - last
        assert (after == 0).all() or split == "train"
        assert (raw.item_id[raw.offsets[1:] - 1] == raw.item_id[last]).all()
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


@given(logs(), any_cutter(LeaveOneOut(), SplitColumn()))
@settings(max_examples=200, deadline=None)
def test_what_a_split_may_not_see_changes_nothing_in_it(log: list[Event], cutter: WindowCutter) -> None:
    # Without duplicates: another test covers duplicates that become different events.
    log = [e for user in range(3) for e in of_user(log, user, cutter.split)]
    if isinstance(cutter.split, LeaveOneOut):
        # Rows identify events, and a split column depends on them.
        log = [e._replace(row=row) for row, e in enumerate(log)]
    first_seen = first_splits(log, cutter.split)
    for number, split in enumerate(SPLITS):
        changed = [e._replace(item=100 + e.row) if first_seen[e.row] > number else e for e in log]
        ours, theirs = cut(log, cutter)[0][split], cut(changed, cutter)[0][split]
        assert ours.equals(theirs)


@given(logs(), any_cutter(LeaveOneOut(), SplitColumn()))
@settings(max_examples=100, deadline=None)
def test_windows_of_a_split_hold_no_event_of_a_later_one(log: list[Event], cutter: WindowCutter) -> None:
    batches, _ = cut(log, cutter)
    first_seen = first_splits(log, cutter.split)
    for number, split in enumerate(SPLITS):
        rows = to_windows(batches[split]).play_ratio.astype(int)
        assert all(first_seen[row] <= number for row in rows)


def test_leave_one_out_asks_for_the_last_two_label_events_of_whoever_has_three() -> None:
    plays = [(1, item) for item in (1, 2, 3, 4, 5)] + [(2, item) for item in (1, 2)]
    log = [Event(user, item, item, b"listen", row) for row, (user, item) in enumerate(plays)]
    log.append(Event(1, 9, 9, b"like", len(log)))
    batches, counts = cut(log, WindowCutter(LeaveOneOut(), True, 10, 10))
    asked = {split: all_queries(to_windows(batches[split])) for split in SPLITS}
    labels = {
        split: sorted(zip(queries.user_id.tolist(), queries.label_item_id.tolist(), strict=True))
        for split, queries in asked.items()
    }
    assert labels == {"train": [(1, 2), (1, 3), (2, 2)], "eval": [(1, 4)], "test": [(1, 5)]}
    assert (counts["eval_users_unknown_to_train"], counts["train_users"]) == (0, 2)


@given(logs(), any_cutter(SPLIT), FROZEN)
@settings(max_examples=300, deadline=None)
@example([], WindowCutter(SPLIT, True, 3, 4), FrozenSplit(SPLIT, 2, 0.0))
def test_frozen_windows_are_one_a_known_user_as_a_plain_loop_finds_them(
    log: list[Event], next_event: WindowCutter, split: FrozenSplit
) -> None:
    cutter = dataclasses.replace(next_event, split=split)
    batches, counts = cut(log, cutter)
    arguments = (log, cutter.history_length, cutter.repeats_recommendable, split)
    expected, expected_counts = frozen_queries_of(*arguments)
    found = []
    for name in ("eval", "test"):
        windows = to_windows(batches[name])
        rows, ends = windows.play_ratio.astype(int), windows.offsets[1:] - 1
        excluded = [set(windows.seen_item_id[windows.seen_offsets[w] : windows.seen_offsets[w + 1]].tolist())
                    for w in range(len(windows))]  # fmt: skip
        for w in range(len(windows)):
            inside = slice(windows.offsets[w], windows.offsets[w + 1])
            labels = windows.label_item_id[windows.label_offsets[w] : windows.label_offsets[w + 1]]
            had = (
                ()
                if cutter.repeats_recommendable
                else tuple(sorted(excluded[w] | {*windows.item_id[inside]}))
            )
            user = int(windows.user_id[w])
            found.append(FrozenQuery(name, user, tuple(rows[inside].tolist()), tuple(labels.tolist()), had))
        assert not windows.label_step.any()
        # The query's time is the begin of the split; all other events keep their time.
        asked = windows.timestamp.copy()
        asked[ends] = SPLIT.bounds(name)[0]
        assert windows.request_timestamp.tolist() == asked.tolist()
        assert (windows.timestamp < SPLIT.bounds(name)[0] - 2).all()
    assert sorted(found) == sorted(expected)
    for name in ("eval_labels", "test_labels", "eval_users_unknown_to_train", "test_users", "test_queries"):
        assert counts[name] == expected_counts[name], name
    # Train is the same as in the next-event protocol.
    assert batches["train"].equals(cut(log, next_event)[0]["train"])


@given(logs(), any_cutter(SPLIT), FROZEN)
@settings(max_examples=100, deadline=None)
def test_a_frozen_state_knows_nothing_of_its_gap_or_period(
    log: list[Event], next_event: WindowCutter, split: FrozenSplit
) -> None:
    cutter = dataclasses.replace(next_event, split=split)
    for name in ("eval", "test"):
        frozen_at = SPLIT.bounds(name)[0] - 2
        states = []
        for change in (0, 50):
            changed = [e._replace(item=e.item + change) if e.time >= frozen_at else e for e in log]
            # Labels of the period must stay: they decide which users have a window.
            windows = to_windows(
                cut(changed, dataclasses.replace(cutter, repeats_recommendable=True))[0][name]
            )
            states.append((windows.user_id.tolist(), windows.offsets.tolist(), windows.item_id.tolist()))
        assert states[0] == states[1]


def test_data_without_times_has_none_in_its_windows() -> None:
    log = [Event(1, item, item, b"listen", item - 1) for item in range(1, 6)]
    batches, _ = cut(log, WindowCutter(LeaveOneOut(), True, 10, 10, has_timestamps=False))
    for batch in batches.values():
        windows = to_windows(batch)
        assert len(windows)
        assert not windows.timestamp.any() and not windows.request_timestamp.any()


@given(logs(), any_cutter(SPLIT, LeaveOneOut()), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_an_event_that_comes_twice_counts_once(
    log: list[Event], cutter: WindowCutter, shuffled: random.Random
) -> None:
    rows = {e.row for user in range(3) for e in of_user(log, user)}
    once = [e for e in log if e.row in rows]
    again = shuffled.sample(once, len(once) // 2)
    batches, counts = cut(once + again, cutter)
    alone, alone_counts = cut(once, cutter)
    assert all(batches[split].equals(alone[split]) for split in SPLITS)
    assert counts == alone_counts + Counter(duplicate_events=len(again))


def test_an_event_that_two_splits_hold_is_that_of_the_first() -> None:
    log = columns([Event(1, item, time, b"listen", 0) for item, time in ((5, 1), (6, 2), (6, 2), (7, 3))])
    log = dataclasses.replace(log, split=np.array([0, 2, 0, 2], np.int8))
    _, counts = WindowCutter(SplitColumn(), True, 10, 10).cut(log)
    assert (counts["train_labels"], counts["test_labels"], counts["duplicate_events"]) == (1, 1, 1)


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
            had = {event.item for event in events[: seed + 1]}
            assert {item for item in excluded[row] if item >= 0} == had
            assert queries.label_item_id[row] not in had


def test_a_reaction_to_the_seed_or_to_the_label_is_not_seen() -> None:
    log = [
        Event(7, 10, 1, b"listen", 0),
        Event(7, 10, 1, b"like", 1),  # a reaction to the seed item, at once
        Event(7, 10, 2, b"dislike", 2),  # a later reaction to the seed item
        Event(7, 11, 3, b"like", 3),  # a reaction to the label, before it in the file
        Event(7, 11, 3, b"listen", 4),
        Event(7, 12, 9, b"listen", 5),
    ]
    batches, _ = cut(log, CUTTER)
    first, second = queries_in(to_windows(batches["train"]), "train", CUTTER.history_length)
    assert (first.history, first.label) == ((0,), 4)
    # One listen later the reactions to the seed item are history; the reaction to 11, the new seed, is not.
    assert (second.history, second.label) == ((0, 1, 2, 4), 5)


def test_a_window_has_at_most_its_positions_and_context_before_them() -> None:
    log = [Event(1, row, row // 60, b"listen", row) for row in range(1_000)]
    batches, _ = cut(log, WindowCutter(SPLIT, True, history_length=30, positions=100))
    windows = to_windows(batches["train"])
    assert len(windows) == 10
    queries = np.add.reduceat(windows.label_step > 0, windows.offsets[:-1])
    assert queries.max() == 100
    assert windows.lengths.max() == 29 + 100 + 1
