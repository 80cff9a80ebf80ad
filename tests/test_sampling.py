from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from trainer.catalog_table import CatalogArrays
from trainer.retrieval_task import CorrectedRetrieval
from trainer.sampling import draw_positions, log_sampling_probability, negatives_mask

TEMPERATURE = 0.5
QUERIES = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], np.float32)
CANDIDATES = np.array([[0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]], np.float32)
Q = np.array([0.5, 0.01, 0.2])
ALL = np.ones([3, 3], bool)
EQUAL = np.ones(3)


def loss(
    mask: np.ndarray = ALL,
    weight: np.ndarray = EQUAL,
    q: np.ndarray = Q,
    candidates: np.ndarray = CANDIDATES,
    rows: int = 3,
) -> float:
    task = CorrectedRetrieval(TEMPERATURE)
    value = task(
        tf.constant(QUERIES[:rows]),
        tf.constant(candidates[:rows]),
        log_sampling_probability=tf.constant(np.log(q[:rows]), tf.float32),
        score_mask=tf.constant(mask[:rows, :rows]),
        sample_weight=tf.constant(weight[:rows], tf.float32),
    )
    return float(value)


def by_hand(mask: np.ndarray = ALL, weight: np.ndarray = EQUAL, q: np.ndarray = Q) -> float:
    """-log of the softmax over s / temperature - log Q, over the candidates that count."""
    total = 0.0
    for i in range(3):
        corrected = [float(QUERIES[i] @ CANDIDATES[j]) / TEMPERATURE - math.log(q[j]) for j in range(3)]
        denominator = sum(math.exp(corrected[j]) for j in range(3) if mask[i, j])
        total += weight[i] * -(corrected[i] - math.log(denominator))
    return total / weight.sum()


def test_the_loss_is_the_corrected_softmax_worked_out_by_hand() -> None:
    assert loss() == pytest.approx(by_hand(), rel=1e-5)
    assert loss(q=np.ones(3)) == pytest.approx(by_hand(q=np.ones(3)), rel=1e-5)


def test_weights_and_masks_enter_as_by_hand() -> None:
    weight = np.array([1.0, 0.3, 0.65])
    mask = np.array([[1, 0, 1], [1, 1, 1], [0, 1, 1]], bool)
    assert loss(mask, weight) == pytest.approx(by_hand(mask, weight), rel=1e-5)
    # A mean, and of weights only their proportion counts.
    assert loss(mask, 10 * weight) == pytest.approx(loss(mask, weight), rel=1e-5)


def test_a_frequent_negative_counts_for_less_and_a_rare_one_for_more() -> None:
    """The sign: subtracting log Q lowers what the sampling put in too often."""
    # One negative: the second item, of the first query.
    only = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]], bool)

    def with_q(q: float) -> float:
        return loss(only, q=np.array([0.1, q, 0.1]))

    assert with_q(0.9) < with_q(0.1) < with_q(0.01)
    # A far rarer one decides its query's loss alone: ten times rarer adds log 10, over three queries.
    assert with_q(1e-7) - with_q(1e-6) == pytest.approx(math.log(10) / 3, abs=1e-3)


def test_items_rarer_than_one_in_a_million_are_corrected_too() -> None:
    rare, rarer = np.array([0.5, 1e-7, 0.2]), np.array([0.5, 1e-9, 0.2])
    assert loss(q=rarer) == pytest.approx(by_hand(q=rarer), rel=1e-5)
    assert loss(q=rarer) - loss(q=rare) > 1


def test_with_no_negative_left_the_loss_is_zero_and_without_positions_too() -> None:
    assert loss(np.eye(3, dtype=bool)) == 0
    assert loss(rows=1) == 0
    assert loss(rows=0) == 0


def test_masked_candidates_do_not_matter() -> None:
    mask = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], bool)
    changed = CANDIDATES.copy()
    changed[1] = [100.0, 0.0]
    # The second item is nobody's negative; its own query has no other.
    assert loss(mask) == pytest.approx(loss(mask, candidates=changed), rel=1e-6)


def test_accidental_hits_and_the_own_windows_labels_are_no_negatives() -> None:
    label_rows, window = tf.constant([4, 9, 4, 7]), tf.constant([0, 0, 1, 2])
    mask = negatives_mask(label_rows, window).numpy()
    expected = [
        [1, 0, 0, 1],  # 9 is of its own window, 4 is its own item
        [0, 1, 1, 1],
        [0, 1, 1, 1],
        [1, 1, 1, 1],
    ]
    assert mask.astype(int).tolist() == expected


CATALOG = CatalogArrays(
    np.array([2, 5, 8]), np.full([3, 4], -1, np.int32), np.full([3, 4], -1, np.int32), np.zeros(3, np.float32)
)


def test_q_is_the_share_of_train_labels() -> None:
    log_q = log_sampling_probability(CATALOG, {2: 3_999_998, 8: 1, 77: 1})  # 77 is not in the catalog
    assert np.exp(log_q[[0, 2]].astype(np.float64)) == pytest.approx([3_999_998 / 4e6, 1 / 4e6], rel=1e-5)
    # Never a label: rarer than any that is, and finite, as are unknown items.
    assert np.isfinite(log_q).all() and (log_q[[1, 3]] < log_q[2]).all()


LABEL_STEP = tf.constant([[1, 2, 0, 0], [0, 1, 1, 0]], tf.int64)
LABEL_ROWS = tf.constant([[5, 6, 0, 0], [0, 3, 7, 0]])


def drawn(limit: int) -> set[tuple[int, int]]:
    at = draw_positions(LABEL_STEP, LABEL_ROWS, unknown_row=3, limit=limit)
    pairs = list(zip(at.window.numpy().tolist(), at.event.numpy().tolist(), strict=True))
    assert len(pairs) == len(set(pairs)), "drawn with replacement"
    return set(pairs)


def test_labelled_positions_are_drawn_at_random_up_to_the_limit() -> None:
    # (1, 1)'s label is not in the catalog.
    assert drawn(100) == {(0, 0), (0, 1), (1, 2)}
    tf.random.set_seed(1)
    draws = [drawn(2) for _ in range(40)]
    assert all(len(draw) == 2 for draw in draws)
    assert set.union(*draws) == {(0, 0), (0, 1), (1, 2)} and len({frozenset(draw) for draw in draws}) == 3
