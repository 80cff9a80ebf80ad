"""History aggregates against plain loops over the events that a query sees, packed and served."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.listening_logs import Event, columns, queries_of, to_windows
from tests.small_world import ALL_AGGREGATES, HISTORY_LENGTH, Transformed
from two_tower.components.interaction_example_gen.splits import TimeSplit
from two_tower.components.interaction_example_gen.windows import WindowCutter
from two_tower.evaluation.queries import Windows, all_queries, history_batch
from two_tower.schema import features
from two_tower.trainer.model.catalog_table import CatalogArrays, CatalogTable
from two_tower.trainer.model.history_aggregates import history_aggregates
from two_tower.trainer.model.signatures import Towers
from two_tower.trainer.model.windows import windows_of

pytestmark = pytest.mark.slow

DAY = 86_400
# Items 0 to 3 and 5; artist 7 is the second of item 3, which counts as its first's. Item 4 is in no catalog.
ITEM_ID = np.array([0, 1, 2, 3, 5])
ARTIST = np.array([[4, -1], [6, -1], [4, -1], [6, 7], [-1, -1]], np.int32)
LENGTH = np.array([-1.5, 0.25, 0.0, 2.0, 0.5], np.float32)
# Train has items 0 and 1 only; distinct artists count all the same.
TABLE = CatalogTable(CatalogArrays(ITEM_ID, ARTIST, ARTIST, LENGTH), np.array([0, 1]))
COLUMNS = (*features.aggregate_columns(features.AGGREGATES), *features.CATALOG_AGGREGATES)


class Seen(NamedTuple):
    """An event as a query sees it. `ratio` and `organic` are -1 where unknown."""

    item: int
    time: int
    is_listen: bool
    ratio: float
    organic: int


def reference(events: list[Seen], request: int, history_length: int) -> dict[str, float]:
    """Computes every aggregate of a query at `request` whose seed item is the last of `events`."""
    seen = events[-history_length:]
    seed = seen[-1]
    listens = [event for event in seen if event.is_listen]
    played = [event.ratio for event in seen[:-1] if event.is_listen and event.ratio >= 0]
    organic = [event.organic for event in listens if event.organic >= 0]
    before = [event for event in seen[:-1] if event.is_listen]
    is_away = request - seed.time > 1_800
    now = request if is_away else seed.time

    session = [seen[-1]]
    for event in reversed(seen[:-1]):
        if session[0].time - event.time > 1_800:
            break
        session.insert(0, event)
    if is_away:
        session = []
    items = {event.item for event in listens}
    known = {int(item): place for place, item in enumerate(ITEM_ID)}
    artists = {int(ARTIST[known[item], 0]) for item in items if item in known} - {-1}
    lengths = [float(LENGTH[known[event.item]]) if event.item in known else 0.0 for event in listens]

    def mean(values: list[Any]) -> float:
        return sum(values) / len(values) if values else 0.0

    def within(seconds: int) -> float:
        return math.log1p(sum(now - event.time < seconds for event in listens))

    return {
        "listen_count": math.log1p(len(listens)),
        "mean_play_ratio": mean(played),
        "organic_share": mean(organic),
        "reaction_share": 1 - len(listens) / len(seen),
        "distinct_items": math.log1p(len(items)),
        "repeat_rate": 1 - len(items) / len(listens) if listens else 0.0,
        "seconds_since_previous": math.log1p(seed.time - before[-1].time) if before else 0.0,
        "idle_seconds": math.log1p(max(request - seed.time - 1_800, 0)),
        "listens_last_hour": within(3_600),
        "listens_last_day": within(DAY),
        "listens_last_week": within(7 * DAY),
        "listens_last_30_days": within(30 * DAY),
        "session_position": math.log1p(sum(event.is_listen for event in session)),
        "session_seconds": math.log1p(session[-1].time - session[0].time if session else 0),
        "hour_of_day_sin": math.sin(2 * math.pi * (now % DAY) / DAY),
        "hour_of_day_cos": math.cos(2 * math.pi * (now % DAY) / DAY),
        "day_of_week_sin": math.sin(2 * math.pi * (now // DAY % 7) / 7),
        "day_of_week_cos": math.cos(2 * math.pi * (now // DAY % 7) / 7),
        "distinct_artists": math.log1p(len(artists)) / math.log1p(history_length),
        "mean_item_length": mean(lengths),
    }


def raw_features(
    windows: list[list[Seen]], requests: list[int], kinds: list[bytes] | None = None
) -> dict[str, tf.RaggedTensor]:
    events = [event for window in windows for event in window]
    lengths = [len(window) for window in windows]

    def ragged(values: Any, dtype: tf.DType) -> tf.RaggedTensor:
        return tf.RaggedTensor.from_row_lengths(tf.constant(values, dtype), tf.constant(lengths, tf.int64))

    kinds = kinds or [b"listen" if event.is_listen else b"like" for event in events]
    return {
        features.HISTORY_ITEM_ID: ragged([event.item for event in events], tf.int64),
        features.HISTORY_TIMESTAMP: ragged([event.time for event in events], tf.int64),
        features.HISTORY_EVENT_TYPE: ragged(kinds, tf.string),
        features.HISTORY_PLAY_RATIO: ragged([event.ratio for event in events], tf.float32),
        features.HISTORY_IS_ORGANIC: ragged([event.organic for event in events], tf.int64),
        features.REQUEST_TIMESTAMP: ragged(requests, tf.int64),
    }


def as_transformed(inputs: dict[str, tf.Tensor], history_length: int) -> dict[str, tf.Tensor]:
    """Applies Transform's graph without its analyzers of train."""
    item_id = inputs[features.HISTORY_ITEM_ID]
    is_listen, aggregates = history_aggregates(inputs, history_length)
    flat = {features.IS_LISTEN: tf.cast(is_listen, tf.int64), **aggregates}
    return {
        features.USER: tf.zeros([item_id.nrows(), 1], tf.int64),
        features.HISTORY_ITEM_ID: item_id,
        features.HISTORY_PLAY_RATIO: inputs[features.HISTORY_PLAY_RATIO],
        **{name: item_id.with_flat_values(values) for name, values in flat.items()},
    }


@functools.cache
def reader(history_length: int) -> Callable[[dict[str, tf.RaggedTensor]], tf.Tensor]:
    """Returns the function from raw windows to the query tower's columns, [windows, events, columns]."""

    def read(inputs: dict[str, tf.RaggedTensor]) -> tf.Tensor:
        return windows_of(as_transformed(inputs, history_length), TABLE, history_length).aggregates

    return tf.function(read, reduce_retracing=True)


def packed(windows: list[list[Seen]], requests: list[int], history_length: int) -> np.ndarray:
    """Computes all columns of the query tower at every event, window after window."""
    read = reader(history_length)(raw_features(windows, requests)).numpy()
    lengths = [len(window) for window in windows]
    return np.concatenate([rows[:length] for rows, length in zip(read, lengths, strict=True)])


def read_at(windows: Any, at: Any) -> tf.Tensor:
    """Reads the aggregates at positions, as the query tower does."""
    return tf.gather_nd(windows.aggregates, tf.stack([at.window, tf.maximum(at.event, 0)], axis=-1))


read_at.repeats = None  # type: ignore[attr-defined]


@functools.cache
def server(history_length: int) -> Towers:
    transform = functools.partial(as_transformed, history_length=history_length)
    nothing: Any = None
    tower: Any = read_at
    return Towers(transform, TABLE, tower, nothing, history_length, ALL_AGGREGATES)


def served(batch: list[tuple[list[Seen], int]], history_length: int) -> np.ndarray:
    """Computes columns of one batched request from (raw list up to the seed item, time of the request)."""
    longest = max(len(events) for events, _ in batch)

    def dense(name: str, padding: Any) -> Any:
        return [
            [getattr(event, name) for event in events] + [padding] * (longest - len(events))
            for events, _ in batch
        ]

    kinds = [["listen" if one else "like" for one in row] for row in dense("is_listen", True)]
    answer = server(history_length).query_embedding(
        tf.zeros([len(batch)], tf.int64),
        tf.constant(dense("item", -1), tf.int64),
        tf.constant(dense("time", 0), tf.int64),
        tf.constant(dense("ratio", 0.3), tf.float32),
        tf.constant(kinds),
        tf.constant(dense("organic", 1), tf.int64),
        tf.constant([request for _, request in batch], tf.int64),
    )
    return answer["embedding"].numpy()


# Gaps between events, around every limit.
STEP = st.sampled_from(
    [0, 0, 1, 5, 299, 1_795, 1_800, 1_801, 3_595, 3_600, 3_601, DAY - 1, DAY, 7 * DAY, 7 * DAY + 1, 30 * DAY]
)
RATIO = st.sampled_from([-1.0, 0.0, 0.25, 1.5]) | st.floats(0, 3, width=32)
EVENT = st.tuples(st.integers(0, 5), STEP, st.sampled_from([True, True, False]), RATIO, st.integers(-1, 1))


@st.composite
def histories(draw: st.DrawFn, most: int = 14) -> list[Seen]:
    time = draw(st.integers(0, 9 * DAY))
    events = []
    for item, step, *rest in draw(st.lists(EVENT, min_size=1, max_size=most)):
        time += step
        events.append(Seen(item, time, *rest))  # type: ignore[arg-type]
    return events


@st.composite
def packed_windows(draw: st.DrawFn) -> tuple[list[list[Seen]], list[int]]:
    """Returns windows, and the time of the request at each of their events."""
    windows = draw(st.lists(histories(), min_size=1, max_size=4))
    events = [event for window in windows for event in window]
    return windows, [event.time + draw(STEP) for event in events]


LENGTHS = st.sampled_from([1, 3, 20])


def same(ours: Any, theirs: Any) -> None:
    """Compares up to the last bit: a logarithm depends on its lane in a vector register."""
    np.testing.assert_allclose(ours, theirs, rtol=3e-7, atol=1e-7)


# Values.


@given(packed_windows(), LENGTHS)
@settings(max_examples=100, deadline=None)
def test_every_position_knows_what_a_loop_over_its_last_events_says(
    case: tuple[list[list[Seen]], list[int]], history_length: int
) -> None:
    windows, requests = case
    computed = iter(zip(packed(windows, requests, history_length), requests, strict=True))
    for window in windows:
        for place in range(len(window)):
            values, request = next(computed)
            expected = reference(window[: place + 1], request, history_length)
            assert set(expected) == set(COLUMNS)
            assert dict(zip(COLUMNS, values, strict=True)) == pytest.approx(expected, abs=2e-6)


@given(packed_windows(), LENGTHS)
@settings(max_examples=60, deadline=None)
def test_what_is_served_from_a_raw_list_is_what_was_packed(
    case: tuple[list[list[Seen]], list[int]], history_length: int
) -> None:
    """Checks every listen of every window, for raw lists of any length."""
    windows, requests = case
    every = [window[: place + 1] for window in windows for place in range(len(window))]
    at = [index for index, events in enumerate(every) if events[-1].is_listen]
    if at:
        ours = served([(every[index], requests[index]) for index in at], history_length)
        same(ours, packed(windows, requests, history_length)[at])


@given(st.lists(histories(), min_size=2, max_size=4), LENGTHS)
@settings(max_examples=50, deadline=None)
def test_a_window_reads_the_same_whatever_else_is_in_the_batch(
    windows: list[list[Seen]], history_length: int
) -> None:
    requests = [event.time + 2_000 for window in windows for event in window]
    together = packed(windows, requests, history_length)
    at = 0
    for window in windows:
        alone = packed([window], requests[at : at + len(window)], history_length)
        same(together[at : at + len(window)], alone)
        at += len(window)


# No leak.


@given(histories(), st.integers(0, 1_800), RATIO, LENGTHS)
@settings(max_examples=60, deadline=None)
def test_what_is_not_known_while_the_seed_plays_is_not_used(
    history: list[Seen], wait: int, ratio: float, history_length: int
) -> None:
    """Checks the seed item's play ratio, and the time of a request within the session gap."""
    seed = history[-1]._replace(is_listen=True)
    plain = packed([[*history[:-1], seed]], [seed.time] * len(history), history_length)[-1]
    other = [event.time for event in history[:-1]] + [seed.time + wait]
    told = packed([[*history[:-1], seed._replace(ratio=ratio)]], other, history_length)[-1]
    same(told, plain)


@given(histories(), st.lists(EVENT, min_size=1, max_size=4), STEP, LENGTHS)
@settings(max_examples=60, deadline=None)
def test_events_after_the_seed_are_not_looked_at(
    history: list[Seen], later: list[tuple[Any, ...]], wait: int, history_length: int
) -> None:
    """Checks reactions to the seed item, even at its own time or before the request."""
    seed = history[-1]
    requests = [event.time for event in history[:-1]] + [seed.time + wait]
    plain = packed([history], requests, history_length)
    more, time = list(history), seed.time
    for item, step, *rest in later:
        time = min(time + step, seed.time + wait)
        more.append(Seen(item, time, *rest))
    requests += [seed.time + wait] * len(later)
    same(packed([more], requests, history_length)[: len(history)], plain)


def test_sessions_and_hours_end_exactly_at_their_limits() -> None:
    times = [0, 1_800, 3_600, 5_401, 9_001]
    window = [Seen(1, time, True, 1.0, 1) for time in times]
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in packed([window], times, 10)]
    names = ("session_position", "session_seconds", "listens_last_hour")
    counts = [tuple(round(math.expm1(row[name])) for name in names) for row in rows]
    # A pause of 1,800 s is within a session, one of 1,801 s is not; what began 3,600 s ago is not of the
    # last hour.
    assert counts == [(1, 0, 1), (2, 1_800, 2), (3, 3_600, 2), (1, 0, 2), (1, 0, 1)]
    # After a longer gap the request begins a session without listens.
    away = dict(zip(COLUMNS, packed([window], [*times[:-1], 9_001 + 1_801], 10)[-1], strict=True))
    assert (away["session_position"], away["session_seconds"]) == (0, 0)
    assert math.expm1(away["idle_seconds"]) == pytest.approx(1)


# Shapes of batches.


def test_an_empty_type_is_a_listen() -> None:
    window = [Seen(1, 0, True, 0.5, 1), Seen(2, 60, False, -1, -1), Seen(1, 90, True, 0.5, 0)]
    inputs = raw_features([window], [0, 60, 90], kinds=[b"", b"dislike", b""])
    is_listen, empty = history_aggregates(inputs, 5)
    assert is_listen.numpy().tolist() == [True, False, True]
    spelt_out = history_aggregates(raw_features([window], [0, 60, 90]), 5)[1]
    for name, values in spelt_out.items():
        same(values, empty[name])


def test_empty_windows_and_no_windows_have_no_positions() -> None:
    window = [Seen(1, 7, True, 0.5, 1), Seen(2, 60, False, -1, -1)]
    plain = packed([window], [7, 60], 3)
    same(packed([[], window, [], []], [7, 60], 3), plain)
    nothing: tuple[list[list[Seen]], ...] = ([], [[]], [[], []])
    for windows in nothing:
        is_listen, aggregates = history_aggregates(raw_features(windows, []), 3)
        assert is_listen.shape == [0] and all(values.shape == [0] for values in aggregates.values())
    # A request without a history reads an empty window.
    answer = served([([], 0), (window[:1], 7)], 3)
    assert np.isfinite(answer).all()
    same(answer[1], plain[0])


@pytest.mark.parametrize("ratio", [math.inf, math.nan, 1e30])
@pytest.mark.parametrize("time", [-(2**40), 2**40])
def test_what_no_data_should_hold_stays_in_its_own_window(ratio: float, time: int) -> None:
    good = [Seen(1, 100, True, 0.5, 1), Seen(2, 200, True, 0.3, 1), Seen(2, 4_000, True, 0.1, 1)]
    bad = [Seen(9, 100, True, ratio, 1), Seen(9, time, True, ratio, 1), Seen(9, 50, True, ratio, 1)]
    times = [100, 200, 4_000]
    both = packed([good, bad, good], [*times, 0, 0, 0, *times], 5)
    alone = packed([good], times, 5)
    same(both[:3], alone)
    same(both[6:], alone)
    assert np.isfinite(both).all()


# Selection.


def test_only_what_is_selected_is_computed_and_read() -> None:
    window = [Seen(1, 0, True, 0.5, 1), Seen(2, 60, False, -1, -1), Seen(1, 90, True, 0.5, 0)]
    inputs = raw_features([window], [0, 60, 90])
    every = packed([window], [0, 60, 90], 5)
    needed = {
        features.LISTEN_COUNT: (),
        features.DISTINCT_ITEMS: (features.HISTORY_ITEM_ID,),
        features.SESSION_SECONDS: (features.HISTORY_TIMESTAMP, features.REQUEST_TIMESTAMP),
        features.DAY_OF_WEEK: (features.HISTORY_TIMESTAMP, features.REQUEST_TIMESTAMP),
    }
    for name, raw in needed.items():
        few = {key: inputs[key] for key in (features.HISTORY_EVENT_TYPE, *raw)}
        columns = features.aggregate_columns([name])
        assert tuple(history_aggregates(few, 5, [name])[1]) == columns
    transformed = as_transformed(inputs, 5)
    for names in ((), (features.MEAN_ITEM_LENGTH,), ("day_of_week", "distinct_artists", "listen_count")):
        read = windows_of(transformed, TABLE, 5, names).aggregates
        columns = (
            *features.aggregate_columns(names),
            *(n for n in names if n in features.CATALOG_AGGREGATES),
        )
        assert read.shape == [1, 3, len(columns)]
        same(read[0], every[:, [COLUMNS.index(name) for name in columns]])


def test_data_without_times_has_all_that_need_none() -> None:
    without = features.available_aggregates(has_timestamps=False)
    assert set(features.available_aggregates(has_timestamps=True)) == set(features.AGGREGATES)
    assert set(features.AGGREGATES) - set(without) == set(features.TIME_AGGREGATES)
    inputs = raw_features([[Seen(1, 0, True, 0.5, 1), Seen(2, 0, True, -1, -1)]], [0, 0])
    del inputs[features.HISTORY_TIMESTAMP], inputs[features.REQUEST_TIMESTAMP]
    columns = features.aggregate_columns(without)
    assert tuple(history_aggregates(inputs, 5, without)[1]) == columns
    assert not set(columns) & set(features.aggregate_columns(features.TIME_AGGREGATES))


# From a log to a window to a request.


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """Returns a log of two users in any order of time, with ties and all kinds of pauses."""
    rows = []
    for user in range(2):
        time = 0
        for item, step, is_listen, *_ in draw(
            st.lists(EVENT, min_size=draw(st.integers(0, 25)), max_size=25)
        ):
            time += step
            rows.append((user, item, time, b"listen" if is_listen else b"like"))
    return [Event(*row, number) for number, row in enumerate(draw(st.permutations(rows)))]


def raw_of(windows: Windows) -> dict[str, tf.RaggedTensor]:
    values = {
        features.HISTORY_ITEM_ID: windows.item_id,
        features.HISTORY_TIMESTAMP: windows.timestamp,
        features.HISTORY_EVENT_TYPE: windows.event_type.astype(object),
        features.HISTORY_PLAY_RATIO: windows.play_ratio,
        features.HISTORY_IS_ORGANIC: windows.is_organic,
        features.REQUEST_TIMESTAMP: windows.request_timestamp,
    }
    return {name: tf.RaggedTensor.from_row_splits(flat, windows.offsets) for name, flat in values.items()}


@given(logs(), LENGTHS, st.sampled_from([1, 3, 50]))
@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_windows_of_a_log_and_requests_from_its_raw_lists_say_what_a_loop_over_it_says(
    log: list[Event], history_length: int, positions: int
) -> None:
    newest = max((event.time for event in log), default=0)
    half, most, gap = newest // 2, newest * 3 // 4, newest // 10
    split = TimeSplit(half, (half + gap, most), (most + gap, newest + 1))
    ratio = np.array([-1.0, 0.0, 0.75, 1.2], np.float32)[[event.row % 4 for event in log]]
    cutter = WindowCutter(split, True, history_length, positions)
    batches = cutter.cut(columns(log, ratio))[0] if log else {}
    # With each user's whole history, as a client may send it.
    every, _ = queries_of(log, 10**6, True, split)
    for name, batch in batches.items():
        asked = [query for query in every if query.split == name]
        windows = to_windows(batch)
        queries = all_queries(windows)
        # The loop orders by user and time; windows have users in any order.
        queries = queries.take(np.argsort(queries.user_id, kind="stable"))
        assert queries.user_id.tolist() == [query.user for query in asked]
        if not asked:
            continue
        ours = reader(history_length)(raw_of(windows)).numpy()[queries.window, queries.position]
        lists = [
            [
                Seen(log[row].item, log[row].time, log[row].kind == b"listen", ratio[row], row % 3 - 1)
                for row in query.history
            ]
            for query in asked
        ]
        requests = [log[query.label].time for query in asked]
        same(ours, served(list(zip(lists, requests, strict=True)), history_length))
        for row, seen, request in zip(ours, lists, requests, strict=True):
            expected = reference(seen, request, history_length)
            assert dict(zip(COLUMNS, row, strict=True)) == pytest.approx(expected, abs=2e-6)


# Through Transform's saved graph.


def observed(world: Transformed, split: str) -> dict[str, np.ndarray]:
    """Aggregates of a split's queries, before they are scaled."""
    computed = history_aggregates(raw_of(world.raw[split]), HISTORY_LENGTH)[1]
    at = all_queries(world.raw[split]).event
    return {name: values.numpy()[at].astype(float) for name, values in computed.items()}


def test_aggregates_are_scaled_by_trains_queries_alone(small_world: Transformed) -> None:
    train = observed(small_world, "train")
    for split in features.SPLITS:
        at = all_queries(small_world.raw[split]).event
        for name, values in observed(small_world, split).items():
            scaled = small_world.batch(split)[name].flat_values.numpy()[at]
            expected = (values - train[name].mean()) / train[name].std()
            np.testing.assert_allclose(scaled, expected, atol=2e-4, err_msg=name)


def test_transforms_graph_makes_of_a_request_what_it_made_of_the_position(small_world: Transformed) -> None:
    output = tft.TFTransformOutput(small_world.catalog_graph)
    catalog = CatalogArrays.read(small_world.catalog_files, output.transformed_feature_spec())
    table = CatalogTable(catalog, small_world.raw["train"].item_id)
    graph = tft.TFTransformOutput(small_world.graph).transform_features_layer()
    tower: Any = read_at
    nothing: Any = None
    towers = Towers(graph, table, tower, nothing, HISTORY_LENGTH, small_world.resolved)
    for split in features.SPLITS:
        windows, queries = small_world.raw[split], all_queries(small_world.raw[split])
        asked = history_batch(windows, queries, np.arange(len(queries)), HISTORY_LENGTH)
        del asked[features.EXCLUDE_ITEM_ID]
        ours = towers.query_embedding(**{name: tf.constant(values) for name, values in asked.items()})
        read = windows_of(small_world.batch(split), table, HISTORY_LENGTH).aggregates.numpy()
        theirs = read[queries.window, queries.position]
        assert len(queries) > 50
        # Eval and test are a day each, of one weekday.
        assert split != "train" or theirs.std(axis=0).min() > 0.02
        # Scaling stretches the last bit.
        np.testing.assert_allclose(ours["embedding"], theirs, rtol=1e-5, atol=2e-6)
