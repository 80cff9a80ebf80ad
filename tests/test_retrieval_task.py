from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from pipeline.configs import TrainerConfig
from trainer.retrieval_task import CorrectedRetrieval, SampledSoftmax, retrieval_task
from trainer.sampling import Candidates

TEMPERATURE = 0.5
QUERIES = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], np.float32)
CANDIDATES = np.array([[0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]], np.float32)
Q = np.array([0.5, 0.01, 0.2])
ALL = np.ones([3, 3], bool)
EQUAL = np.full(3, 1 / 3)
# Each is the other's equal where both serve.
TASKS = pytest.mark.parametrize("task", [CorrectedRetrieval, SampledSoftmax])
Task = type[CorrectedRetrieval] | type[SampledSoftmax]


def loss(
    task: Task,
    mask: np.ndarray = ALL,
    weight: np.ndarray = EQUAL,
    q: np.ndarray = Q,
    candidates: np.ndarray = CANDIDATES,
    rows: int = 3,
    correction: str = "logq",
    hard_negatives: int = 0,
) -> float:
    """Of queries whose labels are the candidates in the same rows; `mask`: the candidates that count."""
    value = task(TEMPERATURE, correction, hard_negatives)(
        tf.constant(QUERIES[:rows]),
        tf.constant(candidates[:rows]),
        Candidates(
            rows=tf.range(rows),
            positive=tf.range(rows),
            is_negative=tf.constant(mask[:rows, :rows] & ~np.eye(rows, dtype=bool)),
            log_expected=tf.constant(np.log(q[np.newaxis, :rows]), tf.float32),
        ),
        tf.constant(weight[:rows], tf.float32),
    )
    return float(value)


def by_hand(mask: np.ndarray = ALL, weight: np.ndarray = EQUAL, q: np.ndarray = Q) -> float:
    """-log of the softmax over s / temperature - log Q, over the candidates that count."""
    total = 0.0
    for i in range(3):
        corrected = [float(QUERIES[i] @ CANDIDATES[j]) / TEMPERATURE - math.log(q[j]) for j in range(3)]
        denominator = sum(math.exp(corrected[j]) for j in range(3) if mask[i, j])
        total += weight[i] * -(corrected[i] - math.log(denominator))
    return total


@TASKS
def test_the_loss_is_the_corrected_softmax_worked_out_by_hand(task: Task) -> None:
    assert loss(task) == pytest.approx(by_hand(), rel=1e-5)
    assert loss(task, correction="none") == pytest.approx(by_hand(q=np.ones(3)), rel=1e-5)


@TASKS
def test_weights_and_masks_enter_as_by_hand(task: Task) -> None:
    weight = np.array([1.0, 0.3, 0.65])
    mask = np.array([[1, 0, 1], [1, 1, 1], [0, 1, 1]], bool)
    assert loss(task, mask, weight) == pytest.approx(by_hand(mask, weight), rel=1e-5)


@TASKS
def test_a_frequent_negative_counts_for_less_and_a_rare_one_for_more(task: Task) -> None:
    """The sign: subtracting log Q lowers what the sampling put in too often."""
    # One negative: the second item, of the first query.
    only = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]], bool)

    def with_q(q: float) -> float:
        return loss(task, only, q=np.array([0.1, q, 0.1]))

    assert with_q(0.9) < with_q(0.1) < with_q(0.01)
    # A far rarer one decides its query's loss alone: ten times rarer adds log 10, over three queries.
    assert with_q(1e-7) - with_q(1e-6) == pytest.approx(math.log(10) / 3, abs=1e-3)


@TASKS
def test_items_rarer_than_one_in_a_million_are_corrected_too(task: Task) -> None:
    rare, rarer = np.array([0.5, 1e-7, 0.2]), np.array([0.5, 1e-9, 0.2])
    assert loss(task, q=rarer) == pytest.approx(by_hand(q=rarer), rel=1e-5)
    assert loss(task, q=rarer) - loss(task, q=rare) > 1


@TASKS
def test_with_no_negative_left_the_loss_is_zero_and_without_positions_too(task: Task) -> None:
    for correction in ("logq", "none") if task is CorrectedRetrieval else ("logq", "none", "refined"):
        assert loss(task, np.eye(3, dtype=bool), correction=correction) == 0
        assert loss(task, rows=1, correction=correction) == 0
        assert loss(task, rows=0, correction=correction) == 0


@TASKS
def test_masked_candidates_do_not_matter(task: Task) -> None:
    mask = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], bool)
    changed = CANDIDATES.copy()
    changed[1] = [100.0, 0.0]
    # The second item is nobody's negative; its own query has no other.
    assert loss(task, mask) == pytest.approx(loss(task, mask, candidates=changed), rel=1e-6)


@TASKS
def test_hard_negatives_are_those_of_the_highest_corrected_logits(task: Task) -> None:
    # By query the logits are 2.29, 4.61, .41; 2.93, 6.21, 2.17; 1.89, 6.61, 3.21: the rare item is hard.
    hard = np.array([[1, 1, 0], [1, 1, 0], [0, 1, 1]], bool)
    assert loss(task, hard_negatives=1) == pytest.approx(by_hand(hard), rel=1e-5)
    assert loss(task, hard_negatives=2) == pytest.approx(by_hand(), rel=1e-5)
    assert loss(task, hard_negatives=50) == pytest.approx(by_hand(), rel=1e-5)
    # Of those that count: the second item does not.
    mask = np.array([[1, 0, 1], [1, 1, 1], [1, 0, 1]], bool)
    hard = np.array([[1, 0, 1], [1, 1, 0], [1, 0, 1]], bool)
    assert loss(task, mask, hard_negatives=1) == pytest.approx(by_hand(hard), rel=1e-5)


def test_the_refined_loss_is_the_papers_worked_out_by_hand() -> None:
    """-sg(1 - P) log(e^s_p / sum_j e^(s_j - log c_j)), p outside the sum and uncorrected."""
    c, weight = np.array([3.5, 0.07, 1.4]), np.array([0.2, 0.5, 0.3])
    total = 0.0
    for i in range(3):
        scores = [float(QUERIES[i] @ CANDIDATES[j]) / TEMPERATURE for j in range(3)]
        others = sum(math.exp(scores[j]) / c[j] for j in range(3) if j != i)
        probability = math.exp(scores[i]) / (math.exp(scores[i]) + others)
        total += weight[i] * -(1 - probability) * math.log(math.exp(scores[i]) / others)
    assert loss(SampledSoftmax, ALL, weight, c, correction="refined") == pytest.approx(total, rel=1e-5)


def candidates_with(c: np.ndarray) -> Candidates:
    return Candidates(
        rows=tf.range(3),
        positive=tf.range(3),
        is_negative=tf.constant(~np.eye(3, dtype=bool)),
        log_expected=tf.constant(np.log(c[np.newaxis]), tf.float32),
    )


def test_the_refined_gradient_takes_p_as_given_and_is_that_of_log_p() -> None:
    c = np.array([3.5, 0.07, 1.4])
    query, candidate = tf.Variable(QUERIES), tf.Variable(CANDIDATES)
    with tf.GradientTape(persistent=True) as tape:
        value = SampledSoftmax(TEMPERATURE, "refined")(
            query, candidate, candidates_with(c), tf.constant(EQUAL, tf.float32)
        )
        scores = tf.matmul(query, candidate, transpose_b=True) / TEMPERATURE
        others = np.log(np.where(np.eye(3, dtype=bool), 1, c))
        corrected = scores - tf.constant(others, tf.float32)
        minus_log_p = -tf.reduce_mean(tf.linalg.diag_part(tf.nn.log_softmax(corrected)))
    for variable in (query, candidate):
        refined, expected = tape.gradient(value, variable), tape.gradient(minus_log_p, variable)
        assert np.abs(expected).max() > 0.1
        assert refined.numpy() == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-6)


def test_candidates_may_stand_anywhere_and_be_more_than_queries() -> None:
    """Two queries with one label, third of four candidates; c differs from query to query."""
    candidates = np.array([[0.8, 0.6], [0.0, 1.0], [-0.6, 0.8], [1.0, 0.0]])
    c = np.array([[2.0, 0.5, 1.0, 0.1], [1.0, 0.25, 0.5, 0.05]])
    value = SampledSoftmax(TEMPERATURE)(
        tf.constant(QUERIES[:2]),
        tf.constant(candidates, tf.float32),
        Candidates(
            rows=tf.constant([5, 6, 7, 8]),
            positive=tf.constant([2, 2]),
            is_negative=tf.constant([[True, True, False, False], [True, False, False, True]]),
            log_expected=tf.constant(np.log(c), tf.float32),
        ),
        tf.constant([1.0, 0.5]),
    )
    expected = 0.0
    for i, counted, weight in ((0, [0, 1, 2], 1.0), (1, [0, 2, 3], 0.5)):
        terms = {j: math.exp(float(QUERIES[i] @ candidates[j]) / TEMPERATURE) / c[i, j] for j in counted}
        expected -= weight * math.log(terms[2] / sum(terms.values()))
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_replicas_losses_add_up_to_that_of_the_joined_batch() -> None:
    weight = tf.constant([0.2, 0.5, 0.3])
    for correction in ("logq", "refined", "none"):
        task, whole = SampledSoftmax(TEMPERATURE, correction), candidates_with(Q)
        joined = task(tf.constant(QUERIES), tf.constant(CANDIDATES), whole, weight)
        parts = [
            task(
                tf.constant(QUERIES[part]),
                tf.constant(CANDIDATES),
                whole._replace(positive=whole.positive[part], is_negative=whole.is_negative[part]),
                weight[part],
            )
            for part in (slice(0, 1), slice(1, 3))
        ]
        assert float(sum(parts)) == pytest.approx(float(joined), rel=1e-6)


def test_a_learned_temperature_is_trained_and_a_fixed_one_is_not() -> None:
    fixed, learned = SampledSoftmax(0.5), SampledSoftmax(0.5, learned_temperature=True)
    assert not fixed.trainable_variables and float(fixed.temperature) == pytest.approx(0.5)
    assert len(learned.trainable_variables) == 1 and float(learned.temperature) == pytest.approx(0.5)
    weight = tf.constant(EQUAL, tf.float32)
    arguments = tf.constant(QUERIES), tf.constant(CANDIDATES), candidates_with(Q), weight
    assert float(learned(*arguments)) == pytest.approx(loss(SampledSoftmax), rel=1e-6)
    optimizer = tf.keras.optimizers.SGD(1.0)
    first = float(learned(*arguments))
    for _ in range(20):
        optimizer.minimize(lambda: learned(*arguments), learned.trainable_variables)
    assert float(learned(*arguments)) < first - 0.01
    # However sure training is, scores stay finite.
    learned.trainable_variables[0].assign(-50.0)
    assert float(learned.temperature) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, CorrectedRetrieval),
        ({"sampling_correction": "none", "hard_negatives": 5}, CorrectedRetrieval),
        ({"sampling_correction": "refined"}, SampledSoftmax),
        ({"uniform_negatives": 5}, SampledSoftmax),
        ({"memory_negatives": 5}, SampledSoftmax),
        ({"deduplicate_negatives": True}, SampledSoftmax),
        ({"learned_temperature": True}, SampledSoftmax),
        ({"softmax": "full"}, SampledSoftmax),
    ],
)
def test_tfrs_serves_where_candidates_are_the_batchs_labels(settings: dict[str, object], kind: type) -> None:
    assert type(retrieval_task(TrainerConfig(**settings))) is kind  # type: ignore[arg-type]
