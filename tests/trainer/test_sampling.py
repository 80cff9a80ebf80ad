from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from two_tower.trainer.loss import sampling
from two_tower.trainer.loss.labelled_positions import draw_labels, draw_positions
from two_tower.trainer.loss.losses import loss_of
from two_tower.trainer.loss.resolved_settings import softmax_for
from two_tower.trainer.loss.sampling import (
    Candidates,
    InBatch,
    NegativesMemory,
    draw_uniformly,
    had_by_then,
    in_batch,
    less_had,
    log_sampling_probability,
    mixed,
    per_draw,
    whole_catalog,
)
from two_tower.trainer.model.catalog_table import CatalogArrays, CatalogTable
from two_tower.trainer.model.windows import Positions
from two_tower.trainer.settings import Frequency, Negatives, TrainerConfig

# A batch of three windows, of two, one and one labels, over a catalog of five items.
LABEL_ROWS, WINDOW = np.array([4, 1, 4, 2]), np.array([0, 0, 7, 9])
Q = np.array([0.1, 0.2, 0.05, 0.25, 0.4])
ITEMS = len(Q)
NOTHING = np.zeros(0, int)


def sampled(
    uniform: np.ndarray = NOTHING,
    remembered: np.ndarray = NOTHING,
    once: bool = False,
    queries: list[int] | None = None,
    window: np.ndarray = WINDOW,
) -> SimpleNamespace:
    """Returns Candidates as arrays."""
    candidates = mixed(
        tf.constant(LABEL_ROWS, tf.int32),
        tf.constant(window, tf.int32),
        lambda rows: tf.gather(tf.constant(np.log(Q), tf.float32), rows),
        ITEMS,
        tf.constant(uniform, tf.int32),
        tf.constant(remembered, tf.int32),
        once,
        None if queries is None else tf.constant(queries),
    )
    assert len(set(candidates.rows.numpy())) == len(candidates.rows), "an item is two candidates"
    return SimpleNamespace(**{name: np.asarray(tensor) for name, tensor in candidates._asdict().items()})


def copies(candidates: SimpleNamespace) -> np.ndarray:
    """Counts copies of each candidate as a query's negative, [queries, candidates]."""
    of_queries = candidates.copies[candidates.window].astype(int)
    of_queries[np.arange(len(of_queries)), candidates.positive] = 0
    return of_queries


def negatives(candidates: SimpleNamespace) -> list[list[int]]:
    """Returns the catalog rows of each query's negatives, sorted."""
    return [sorted(np.repeat(candidates.rows, row).tolist()) for row in copies(candidates)]


def expected_counts(candidates: SimpleNamespace) -> np.ndarray:
    """Returns c(y) of every candidate item, [queries, items], NaN for other items."""
    counts = np.full([len(candidates.positive), ITEMS], np.nan)
    counts[:, candidates.rows] = np.exp(candidates.log_expected)[candidates.window]
    return counts


def test_accidental_hits_and_the_own_windows_labels_are_no_negatives() -> None:
    label_rows, window = tf.constant([4, 9, 4, 7]), tf.constant([0, 0, 1, 2])
    candidates = in_batch(label_rows, window, tf.constant([0.1, 0.2, 0.1, 0.3]))
    expected = [
        [0, 0, 0, 1],  # 9 is of its own window, 4 is its own item
        [0, 0, 1, 1],
        [0, 1, 0, 1],
        [1, 1, 1, 0],
    ]
    assert candidates.is_negative.numpy().astype(int).tolist() == expected
    assert candidates.rows.numpy().tolist() == [4, 9, 4, 7]
    assert candidates.log_q.numpy() == pytest.approx([0.1, 0.2, 0.1, 0.3])
    # The candidates start with the labels of the replica's queries.
    part = in_batch(label_rows, window, tf.constant([0.1, 0.2, 0.1, 0.3]), tf.constant([1, 3]))
    assert part.rows.numpy().tolist() == [9, 7, 4, 4]
    assert part.is_negative.numpy().astype(int).tolist() == [[0, 1, 0, 1], [1, 0, 1, 1]]
    assert part.log_q.numpy() == pytest.approx([0.2, 0.3, 0.1, 0.1])


def test_labels_of_other_windows_are_expected_by_their_number() -> None:
    candidates = sampled()
    assert candidates.rows[candidates.positive].tolist() == LABEL_ROWS.tolist()
    assert negatives(candidates) == [[2], [2, 4], [1, 2], [1, 4, 4]]
    # Queries of the first window have two labels of other windows, other queries have three.
    others = np.array([2, 2, 3, 3])
    present = np.isin(np.arange(ITEMS), LABEL_ROWS)
    expected = np.where(present, others[:, None] * Q, np.nan)
    assert expected_counts(candidates) == pytest.approx(expected, nan_ok=True, rel=1e-5)


def test_uniform_draws_and_memory_are_negatives_with_their_share_of_the_expectation() -> None:
    # Item 0 is drawn and remembered. One of four places in the memory is empty.
    candidates = sampled(uniform=np.array([0, 3, 1]), remembered=np.array([0, 4, 2, -1]))
    drawn = [0, 0, 1, 2, 3, 4]
    labels = [[2], [2, 4], [1, 2], [1, 4, 4]]
    own = LABEL_ROWS
    expected = [
        sorted([*among, *(item for item in drawn if item != own[query])])
        for query, among in enumerate(labels)
    ]
    assert negatives(candidates) == expected
    counts = (np.array([2, 2, 3, 3]) + 3)[:, None] * Q + 3 / ITEMS
    assert expected_counts(candidates) == pytest.approx(counts, rel=1e-5)


def test_once_an_item_is_one_candidate_with_the_probability_of_being_one() -> None:
    candidates = sampled(uniform=np.array([0, 0, 1]), remembered=np.array([3, 4, 2, -1]), once=True)
    assert sorted(candidates.rows.tolist()) == [0, 1, 2, 3, 4]
    assert candidates.rows[candidates.positive].tolist() == LABEL_ROWS.tolist()
    assert negatives(candidates) == [[0, 1, 2, 3], [0, 2, 3, 4], [0, 1, 2, 3], [0, 1, 3, 4]]
    draws = (np.array([2, 2, 3, 3]) + 3)[:, None]
    expected = 1 - (1 - Q) ** draws * (1 - 1 / ITEMS) ** 3
    assert expected_counts(candidates) == pytest.approx(expected, rel=1e-5)


def test_once_an_item_counts_if_it_stands_outside_the_own_window() -> None:
    candidates = sampled(once=True)
    # 4 is a label of the first window and of the second; 1 of the first alone.
    assert negatives(candidates) == [[2], [2, 4], [1, 2], [1, 4]]
    # With all labels in one window there are no negatives, and all numbers are finite.
    alone = sampled(once=True, window=np.zeros(4, int))
    assert not copies(alone).any() and np.isfinite(alone.log_expected).all()
    alone = sampled(window=np.zeros(4, int))
    assert not copies(alone).any() and np.isfinite(alone.log_expected).all()


def test_of_a_catalog_of_two_items_each_is_half_of_the_uniform_draws() -> None:
    candidates = mixed(
        tf.constant([0, 1]),
        tf.constant([0, 1]),
        lambda rows: tf.gather(tf.math.log([0.25, 0.75]), rows),
        items=2,
        uniform_rows=tf.constant([0]),
        remembered=tf.zeros([0], tf.int32),
        once=True,
    )
    # One label of the other window and one uniform draw.
    expected = [1 - (1 - q) * (1 - 1 / 2) for q in (0.25, 0.75)]
    assert np.exp(np.asarray(candidates.log_expected)) == pytest.approx(
        np.array([expected, expected]), rel=1e-5
    )


def test_an_item_of_every_batch_has_finite_expectations_without_any_draw() -> None:
    candidates = mixed(
        tf.constant([3, 3]),
        tf.constant([0, 0]),
        lambda rows: tf.zeros(tf.shape(rows)),  # q = 1
        items=ITEMS,
        uniform_rows=tf.zeros([0], tf.int32),
        remembered=tf.zeros([0], tf.int32),
        once=True,
    )
    assert np.exp(np.asarray(candidates.log_expected)) == pytest.approx(np.array([[1e-30]]), rel=1e-4)


@pytest.mark.parametrize("once", [False, True])
def test_expectations_are_the_averages_of_many_draws(once: bool) -> None:
    """Checks the query of item 0: 6 labels of other windows, 4 remembered, 3 uniform draws."""
    tf.random.set_seed(3)
    log_q = tf.constant(np.log(Q), tf.float32)

    def draw(_: tf.Tensor) -> tf.Tensor:
        labels = tf.cast(tf.random.categorical(log_q[tf.newaxis], 11)[0], tf.int32)
        candidates = mixed(
            tf.concat([[0], labels[:7]], axis=0),
            tf.repeat(tf.range(4), 2),
            lambda rows: tf.gather(log_q, rows),
            ITEMS,
            draw_uniformly(3, ITEMS),
            labels[7:],
            once,
        )
        assert candidates.copies is not None and candidates.window is not None
        of_items = tf.scatter_nd(candidates.rows[:, None], candidates.copies[candidates.window[0]], [ITEMS])
        return of_items * tf.cast(tf.range(ITEMS) != candidates.rows[candidates.positive[0]], tf.float32)

    average = tf.function(lambda: tf.reduce_mean(tf.map_fn(draw, tf.range(8_000), tf.float32), axis=0))()
    expected = 1 - (1 - Q) ** 10 * (1 - 1 / ITEMS) ** 3 if once else 10 * Q + 3 / ITEMS
    assert average.numpy()[1:] == pytest.approx(expected[1:], rel=0.04)
    assert average.numpy()[0] == 0  # its own item


def test_a_replica_asks_for_its_own_queries_among_all_labels() -> None:
    for once in (False, True):
        whole, part = sampled(once=once), sampled(once=once, queries=[2, 3])
        assert part.rows.tolist() == whole.rows.tolist()
        assert part.positive.tolist() == whole.positive[2:].tolist()
        assert negatives(part) == negatives(whole)[2:]
        assert expected_counts(part) == pytest.approx(expected_counts(whole)[2:], nan_ok=True, rel=1e-5)


def test_the_whole_catalog_has_every_other_item_for_a_negative() -> None:
    candidates = whole_catalog(tf.constant([3, 0]), 4)
    assert candidates.rows.numpy().tolist() == [0, 1, 2, 3] and candidates.positive.numpy().tolist() == [3, 0]
    assert candidates.copies is None


@pytest.mark.parametrize("candidates", [[0, 1, 2, 3, 4], [4, 3, 3, 0]])
def test_what_a_user_has_had_by_a_query_is_told_of_each_candidate(candidates: list[int]) -> None:
    unknown, padding = ITEMS, ITEMS
    windows = [[3, 1, unknown, 4], [4, 3, 4, padding], [2, padding, padding, padding]]
    at = [(0, 0), (0, 3), (1, 1), (1, 2), (2, -1), (2, 0)]
    found = had_by_then(
        tf.constant(windows),
        Positions(tf.constant([window for window, _ in at]), tf.constant([event for _, event in at])),
        tf.constant(candidates),
        ITEMS,
    )
    expected = [[row in windows[window][: event + 1] for row in candidates] for window, event in at]
    assert found.numpy().tolist() == expected


@pytest.mark.parametrize(
    ("asked", "items", "labels", "softmax"),
    [
        ("auto", 50_000, 8_192, "full"),
        ("auto", 50_001, 8_192, "sampled"),
        # With fewer labels a step can hold the scores of more items, up to a limit.
        ("auto", 100_000, 4_096, "full"),
        ("auto", 200_000, 1, "full"),
        ("auto", 200_001, 1, "sampled"),
        ("full", 10_000_000, 8_192, "full"),
        ("sampled", 9, 1, "sampled"),
    ],
)
def test_a_steps_scores_settle_the_softmax_where_settings_leave_it_open(
    asked: str, items: int, labels: float, softmax: str
) -> None:
    assert softmax_for(TrainerConfig(softmax=asked), items, labels) == TrainerConfig(softmax=softmax)


def test_streaming_frequencies_do_not_depend_on_the_size_of_the_last_batch() -> None:
    config = TrainerConfig(
        negatives=Negatives(deduplicate=True), frequency=Frequency(estimate="streaming", rate=0.05)
    )
    catalog = CatalogTable(CATALOG, CATALOG.item_id)
    loss: Any = loss_of(config, catalog, np.log(np.array([0.6, 0.3, 0.1, 1e-9], np.float32)))
    draw = np.random.default_rng(5)
    for _ in range(300):
        loss.candidates(
            tf.constant(draw.choice(3, 4, p=[0.6, 0.3, 0.1]), tf.int32), tf.range(4), training=True
        )
    estimate = np.exp(loss._log_probability(tf.range(3)))
    assert estimate == pytest.approx([0.6, 0.3, 0.1], abs=0.15)
    loss.candidates(tf.constant([2], tf.int32), tf.range(1), training=True)
    assert np.exp(loss._log_probability(tf.range(3))) == pytest.approx(estimate, rel=0.2)


def test_uniform_draws_reach_every_item_equally_often() -> None:
    tf.random.set_seed(4)
    counts = np.bincount(draw_uniformly(50_000, ITEMS).numpy())
    assert counts / 50_000 == pytest.approx(np.full(ITEMS, 1 / ITEMS), rel=0.05)


def test_all_replicas_draw_the_same_negatives(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(sampling, "uniform", lambda shape, **how: asked.append((shape, how)))
    draw_uniformly(7, ITEMS)
    assert asked == [([7], {"maxval": ITEMS, "dtype": tf.int32, "same_on_all_replicas": True})]


def test_labels_are_drawn_among_the_next_ones_of_the_window_with_their_age() -> None:
    # Places 1, 3 and 4 are labels in the first window, the second has one label and no other query.
    steps = tf.constant([[1, 2, 0, 1, 0], [0, 0, 2, 0, 0]], tf.int64)
    ages = tf.constant([[9.0, 7.0, 0.0, 6.0, 0.0], [0.0, 0.0, 3.0, 0.0, 0.0]])
    age_of_label = {1: 9.0, 3: 7.0, 4: 6.0}
    tf.random.set_seed(5)
    drawn: list[set[int]] = [set(), set(), set()]
    for _ in range(60):
        step, age = (values.numpy() for values in draw_labels(steps, ages, 2))
        assert (step[1] == [0, 0, 2, 0, 0]).all() and age[1, 2] == 3.0
        assert (step[0, [2, 4]] == 0).all()
        for number, position in enumerate((0, 1, 3)):
            label = position + int(step[0, position])
            assert age[0, position] == age_of_label[label]
            drawn[number].add(label)
    # The third label of the first position is beyond the horizon of two.
    assert drawn == [{1, 3}, {3, 4}, {4}]


def test_with_a_horizon_of_one_the_label_is_the_next() -> None:
    steps = tf.constant([[1, 2, 0, 1, 0]], tf.int64)
    ages = tf.constant([[9.0, 7.0, 0.0, 6.0, 0.0]])
    step, age = draw_labels(steps, ages, 1)
    assert (step == steps).numpy().all() and (age == ages).numpy().all()


def test_the_memory_holds_the_newest_labels_and_no_more() -> None:
    memory = NegativesMemory(5)
    assert memory.rows.numpy().tolist() == [-1] * 5
    # No optimizer moves it, and each replica has the labels of all: nothing is summed over them.
    assert (memory.name, memory.rows.name) == (
        "negatives_memory",
        "rows:0",
    ) and not memory.trainable_variables
    assert memory.rows.synchronization == tf.VariableSynchronization.ON_READ
    assert memory.rows.aggregation == tf.VariableAggregation.ONLY_FIRST_REPLICA
    memory.push(tf.constant([1, 2, 3]))
    assert memory.rows.numpy().tolist() == [1, 2, 3, -1, -1]
    memory.push(tf.constant([4, 5, 6]))
    assert memory.rows.numpy().tolist() == [4, 5, 6, 1, 2]
    memory.push(tf.range(10, 20))
    assert memory.rows.numpy().tolist() == [10, 11, 12, 13, 14]
    memory.push(tf.zeros([0], tf.int32))
    assert memory.rows.numpy().tolist() == [10, 11, 12, 13, 14]


def test_one_draws_probability_from_that_of_a_batch() -> None:
    one = np.array([1e-6, 1e-3, 0.1])
    batch = 1 - (1 - one) ** 64
    assert np.exp(per_draw(tf.constant(np.log(batch), tf.float32), tf.constant(64.0))) == pytest.approx(
        one, rel=1e-4
    )
    # An item of every batch: finite.
    assert math.isfinite(float(per_draw(tf.constant(0.0), tf.constant(64.0))))


CATALOG = CatalogArrays(
    np.array([2, 5, 8]), np.full([3, 4], -1, np.int32), np.full([3, 4], -1, np.int32), np.zeros(3, np.float32)
)


def test_q_is_the_share_of_train_labels() -> None:
    log_q = log_sampling_probability(CATALOG, {2: 3_999_998, 8: 1, 77: 1})  # 77 is not in the catalog
    assert np.exp(log_q[[0, 2]].astype(np.float64)) == pytest.approx([3_999_998 / 4e6, 1 / 4e6], rel=1e-5)
    # An item without labels is rarer than any label, and finite, like unknown items.
    assert np.isfinite(log_q).all() and log_q[[1, 3]] == pytest.approx([math.log(0.5 / 4e6)] * 2)
    assert log_q.shape == (4,) and log_q.dtype == np.float32
    # Neighbouring ids beyond 2^53, which are one number to a float.
    large = dataclasses.replace(CATALOG, item_id=np.array([2, 2**53, 2**53 + 1]))
    log_q = log_sampling_probability(large, {2: 1, 2**53: 2, 2**53 + 1: 5})
    assert np.exp(log_q[:3]) == pytest.approx([1 / 8, 2 / 8, 5 / 8])


def test_what_a_user_had_is_no_negative() -> None:
    label_rows, window = tf.constant([4, 9, 7]), tf.constant([0, 1, 2])
    had = tf.constant([[False, True, False], [False, False, False], [True, True, False]])
    one = in_batch(label_rows, window, tf.constant([0.1, 0.2, 0.3]))
    less = less_had(one, had)
    assert isinstance(less, InBatch) and less.rows is one.rows and less.log_q is one.log_q
    assert less.is_negative.numpy().astype(int).tolist() == [[0, 0, 1], [1, 0, 1], [0, 0, 0]]
    every = less_had(whole_catalog(label_rows, 10), had)
    assert isinstance(every, Candidates) and every.had is had


LABEL_STEP = tf.constant([[1, 2, 0, 0], [0, 1, 1, 0]], tf.int64)
ROWS_OF_LABELS = tf.constant([[5, 6, 0, 0], [0, 3, 7, 0]])


def drawn(limit: int) -> set[tuple[int, int]]:
    weight = tf.constant([[1.0, 2.0, 0.0, 0.0], [0.0, 3.0, 4.0, 0.0]])
    drawn = draw_positions(LABEL_STEP, ROWS_OF_LABELS, weight, unknown_row=3, limit=limit)
    pairs = list(zip(drawn.at.window.numpy().tolist(), drawn.at.event.numpy().tolist(), strict=True))
    assert len(pairs) == len(set(pairs)), "drawn with replacement"
    # Columns belong to the same position. With one replica all positions are its queries.
    assert drawn.rows.numpy().tolist() == [int(ROWS_OF_LABELS[pair]) for pair in pairs]
    assert drawn.weight.numpy().tolist() == [float(weight[pair]) for pair in pairs]
    assert drawn.window.numpy().tolist() == drawn.at.window.numpy().tolist()
    assert drawn.queries.numpy().tolist() == list(range(len(pairs)))
    return set(pairs)


def test_labelled_positions_are_drawn_at_random_up_to_the_limit() -> None:
    # (1, 1)'s label is not in the catalog.
    assert drawn(100) == {(0, 0), (0, 1), (1, 2)}
    tf.random.set_seed(1)
    draws = [drawn(2) for _ in range(40)]
    assert all(len(draw) == 2 for draw in draws)
    assert set.union(*draws) == {(0, 0), (0, 1), (1, 2)} and len({frozenset(draw) for draw in draws}) == 3
