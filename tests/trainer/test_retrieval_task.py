from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from two_tower.base.settings import with_values
from two_tower.trainer.loss.losses import loss_of
from two_tower.trainer.loss.retrieval_task import CorrectedRetrieval, SampledSoftmax
from two_tower.trainer.loss.sampling import Candidates, InBatch, in_batch, mixed
from two_tower.trainer.model.catalog_table import CatalogArrays, CatalogTable
from two_tower.trainer.settings import DEFAULT_PARTS, TrainerConfig

TEMPERATURE = 0.5
QUERIES = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], np.float32)
CANDIDATES = np.array([[0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]], np.float32)
Q = np.array([0.5, 0.01, 0.2])
ALL = np.ones([3, 3], bool)
EQUAL = np.full(3, 1 / 3)
# Both give the same loss where both serve.
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
    """Computes the loss of queries with labels in the candidates' same rows; `mask`: those that count."""
    is_negative = mask[:rows, :rows] & ~np.eye(rows, dtype=bool)
    made = SampledSoftmax(TEMPERATURE, correction, hard_negatives)
    value = (CorrectedRetrieval(TEMPERATURE, correction) if task is CorrectedRetrieval else made)(
        tf.constant(QUERIES[:rows]),
        tf.constant(candidates[:rows]),
        InBatch(tf.range(rows), tf.constant(is_negative), tf.constant(np.log(q[:rows]), tf.float32))
        if task is CorrectedRetrieval
        else candidates_with(q[:rows], is_negative),
        tf.constant(weight[:rows], tf.float32),
    )
    return float(value)


def candidates_with(c: np.ndarray, copies: np.ndarray | None = None) -> Candidates:
    """Returns candidates for queries in windows of their own, labels in the same rows.

    `copies` [queries, candidates].
    """
    rows = len(c)
    return Candidates(
        rows=tf.range(rows),
        positive=tf.range(rows),
        window=tf.range(rows),
        copies=tf.ones([rows, rows]) if copies is None else tf.constant(copies, tf.float32),
        log_expected=tf.constant(np.tile(np.log(c), [rows, 1]), tf.float32),
    )


def by_hand(mask: np.ndarray = ALL, weight: np.ndarray = EQUAL, q: np.ndarray = Q) -> float:
    """Computes -log of the softmax over s / temperature - log Q, over unmasked candidates."""
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
    """Checks the sign: subtracting log Q lowers frequent items, which sampling over-represents."""
    # One negative: the second item, of the first query.
    only = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]], bool)

    def with_q(q: float) -> float:
        return loss(task, only, q=np.array([0.1, q, 0.1]))

    assert with_q(0.9) < with_q(0.1) < with_q(0.01)
    # A far rarer negative dominates its query's loss: ten times rarer adds log 10, over three queries.
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
    # The second item is masked for all queries; its own query has no other negative.
    assert loss(task, mask) == pytest.approx(loss(task, mask, candidates=changed), rel=1e-6)


def test_hard_negatives_are_those_of_the_highest_corrected_logits() -> None:
    task = SampledSoftmax
    # By query the logits are 2.29, 4.61, .41; 2.93, 6.21, 2.17; 1.89, 6.61, 3.21: the rare item is hard.
    hard = np.array([[1, 1, 0], [1, 1, 0], [0, 1, 1]], bool)
    assert loss(task, hard_negatives=1) == pytest.approx(by_hand(hard), rel=1e-5)
    assert loss(task, hard_negatives=2) == pytest.approx(by_hand(), rel=1e-5)
    assert loss(task, hard_negatives=50) == pytest.approx(by_hand(), rel=1e-5)
    # Among unmasked items: the second is masked.
    mask = np.array([[1, 0, 1], [1, 1, 1], [1, 0, 1]], bool)
    hard = np.array([[1, 0, 1], [1, 1, 0], [1, 0, 1]], bool)
    assert loss(task, mask, hard_negatives=1) == pytest.approx(by_hand(hard), rel=1e-5)


def test_a_hard_negative_is_an_item_however_often_it_is_in_the_batch() -> None:
    """Checks three labels of one item: one candidate, which leaves a place for the next."""
    rows, nothing = tf.constant([0, 1, 1, 1, 2]), tf.zeros([0], tf.int32)
    candidates = mixed(
        rows, tf.range(5), lambda rows: tf.zeros(tf.shape(rows)), 3, nothing, nothing, once=False
    )
    assert candidates.rows.numpy().tolist() == [0, 1, 2]
    embeddings = tf.constant(CANDIDATES)
    value = SampledSoftmax(TEMPERATURE, "none", hard_negatives=2)(
        tf.constant(np.tile(QUERIES[:1], [5, 1])), embeddings, candidates, tf.constant([1.0, 0, 0, 0, 0])
    )
    scores = QUERIES[0] @ CANDIDATES.T / TEMPERATURE
    total = np.exp(scores[0]) + 3 * np.exp(scores[1]) + np.exp(scores[2])
    assert float(value) == pytest.approx(math.log(total) - scores[0], rel=1e-5)


def test_the_refined_loss_is_the_papers_worked_out_by_hand() -> None:
    """Checks -sg(1 - P) log(e^s_p / sum_j e^(s_j - log c_j)), with an uncorrected p outside the sum."""
    c, weight = np.array([3.5, 0.07, 1.4]), np.array([0.2, 0.5, 0.3])
    total = 0.0
    for i in range(3):
        scores = [float(QUERIES[i] @ CANDIDATES[j]) / TEMPERATURE for j in range(3)]
        others = sum(math.exp(scores[j]) / c[j] for j in range(3) if j != i)
        probability = math.exp(scores[i]) / (math.exp(scores[i]) + others)
        total += weight[i] * -(1 - probability) * math.log(math.exp(scores[i]) / others)
    assert loss(SampledSoftmax, ALL, weight, c, correction="refined") == pytest.approx(total, rel=1e-5)


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
    """Checks two queries with one label, third of four candidates.

    c differs between windows, and the second candidate is a negative twice.
    """
    candidates = np.array([[0.8, 0.6], [0.0, 1.0], [-0.6, 0.8], [1.0, 0.0]])
    c = np.array([[2.0, 0.5, 1.0, 0.1], [1.0, 0.25, 0.5, 0.05]])
    value = SampledSoftmax(TEMPERATURE)(
        tf.constant(QUERIES[:2]),
        tf.constant(candidates, tf.float32),
        Candidates(
            rows=tf.constant([5, 6, 7, 8]),
            positive=tf.constant([2, 2]),
            window=tf.constant([1, 0]),
            copies=tf.constant([[1.0, 0.0, 0.0, 1.0], [1.0, 2.0, 7.0, 0.0]]),
            log_expected=tf.constant(np.log(c[::-1]), tf.float32),
        ),
        tf.constant([1.0, 0.5]),
    )
    expected = 0.0
    for i, counted, weight in ((0, [0, 1, 1, 2], 1.0), (1, [0, 2, 3], 0.5)):
        terms = [math.exp(float(QUERIES[i] @ candidates[j]) / TEMPERATURE) / c[i, j] for j in range(4)]
        expected -= weight * math.log(terms[2] / sum(terms[j] for j in counted))
    assert float(value) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("hard_negatives", [0, 1, 50])
def test_of_the_whole_catalog_it_is_the_plain_softmax(hard_negatives: int) -> None:
    rows = [2, 0, 2]
    query, candidate = tf.Variable(QUERIES), tf.Variable(CANDIDATES)
    with tf.GradientTape(persistent=True) as tape:
        whole = Candidates(tf.range(3), tf.constant(rows))
        value = SampledSoftmax(TEMPERATURE, "logq", hard_negatives)(
            query, candidate, whole, tf.constant(EQUAL, tf.float32)
        )
        scores = tf.matmul(query, candidate, transpose_b=True) / TEMPERATURE
        if hard_negatives == 1:
            # Only the harder of the two negatives.
            others = tf.where(tf.one_hot(rows, 3) > 0, -math.inf, scores)
            counts = (others == tf.reduce_max(others, axis=1, keepdims=True)) | (tf.one_hot(rows, 3) > 0)
            scores = tf.where(counts, scores, -100.0)
        expected = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(rows, scores))
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    for variable in (query, candidate):
        gradient = tape.gradient(value, variable)
        assert tf.convert_to_tensor(gradient).numpy() == pytest.approx(
            tape.gradient(expected, variable).numpy(), rel=1e-5, abs=1e-7
        )


@pytest.mark.parametrize("hard_negatives", [0, 4])
@pytest.mark.parametrize("is_sampled", [True, False])
def test_what_a_user_has_had_counts_for_nothing(is_sampled: bool, hard_negatives: int) -> None:
    draw = np.random.default_rng(6)
    queries, embeddings = (draw.normal(size=[size, 4]).astype(np.float32) for size in (3, 6))
    candidates = Candidates(tf.range(6), tf.constant([0, 1, 2]))
    if is_sampled:
        shares = tf.constant(draw.uniform(0.1, 0.9, [2, 6]), tf.float32)
        candidates = candidates._replace(
            window=tf.constant([0, 0, 1]), copies=tf.ones([2, 6]), log_expected=tf.math.log(shares)
        )
    had = np.zeros([3, 6], bool)
    had[:, 4] = True
    other = embeddings.copy()
    other[4] = 3 * queries.sum(axis=0)
    task = SampledSoftmax(0.5, hard_negatives=hard_negatives)

    def of(vectors: np.ndarray, candidates: Candidates) -> float:
        return float(task(tf.constant(queries), tf.constant(vectors), candidates, tf.ones([3])))

    without = candidates._replace(had=tf.constant(had))
    assert of(other, without) == pytest.approx(of(embeddings, without), abs=1e-6)
    assert abs(of(other, candidates) - of(embeddings, candidates)) > 0.1


@TASKS
def test_replicas_losses_add_up_to_that_of_the_joined_batch(task: Task) -> None:
    """Checks replicas with their own queries and the labels of all as candidates."""
    label_rows, window = tf.constant([4, 1, 4, 2]), tf.constant([0, 0, 7, 9])
    log_q = tf.math.log([0.1, 0.2, 0.05, 0.25, 0.4])
    items = tf.constant(np.random.default_rng(1).normal(size=[5, 2]), tf.float32)
    queries = tf.constant(np.random.default_rng(2).normal(size=[4, 2]), tf.float32)
    weight = tf.constant([0.2, 0.4, 0.3, 0.1])

    def of(part: list[int], correction: str, once: bool) -> float:
        at = tf.constant(part)
        candidates: InBatch | Candidates
        if task is CorrectedRetrieval:
            candidates = in_batch(label_rows, window, tf.gather(log_q, label_rows), at)
        else:
            nothing = tf.zeros([0], tf.int32)
            candidates = mixed(
                label_rows, window, lambda rows: tf.gather(log_q, rows), 5, nothing, nothing, once, at
            )
        arguments = tf.gather(queries, at), tf.gather(items, candidates.rows), candidates
        return float(task(TEMPERATURE, correction)(*arguments, tf.gather(weight, at)))

    joined = {}
    for correction in ("logq", "none") if task is CorrectedRetrieval else ("logq", "none", "refined"):
        for once in (False, True):
            joined[correction, once] = of([0, 1, 2, 3], correction, once)
            parts = of([0, 1], correction, once) + of([3, 2], correction, once)
            assert parts == pytest.approx(joined[correction, once], rel=1e-6)
    assert joined["logq", False] != pytest.approx(joined["none", False], rel=1e-3)


def test_the_own_loss_and_tfrss_are_one_where_both_serve() -> None:
    """Compares with duplicates: ours has each item once with its number of copies, TFRS's each copy."""
    draw = np.random.default_rng(3)
    label_rows = tf.constant(draw.integers(0, 6, 20), tf.int32)
    window = tf.constant(np.repeat(np.arange(5), 4), tf.int32)
    log_q = tf.constant(np.log(draw.random(6)), tf.float32)
    items, queries = tf.Variable(draw.normal(size=[6, 3])), tf.constant(draw.normal(size=[20, 3]))
    weight = tf.constant(draw.random(20), tf.float32)
    nothing = tf.zeros([0], tf.int32)
    for correction in ("logq", "none"):
        with tf.GradientTape(persistent=True) as tape:
            tfrss = in_batch(label_rows, window, tf.gather(log_q, label_rows))
            own = mixed(label_rows, window, lambda rows: tf.gather(log_q, rows), 6, nothing, nothing, False)
            losses = [
                task(TEMPERATURE, correction)(queries, tf.gather(items, one.rows), one, weight)
                for task, one in ((CorrectedRetrieval, tfrss), (SampledSoftmax, own))
            ]
        assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-5)
        gradients = [tf.convert_to_tensor(tape.gradient(loss, items)).numpy() for loss in losses]
        assert np.abs(gradients[0]).max() > 0.1
        assert gradients[0] == pytest.approx(gradients[1], rel=1e-4, abs=1e-5)


@TASKS
def test_the_loss_has_full_precision_whatever_the_towers_have(task: Task) -> None:
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        halved = loss(task)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert halved == loss(task)


def test_the_temperature_is_what_was_asked_for_and_is_not_trained() -> None:
    for temperature in (0.5, 0.002):
        made = SampledSoftmax(temperature)
        assert not made.trainable_variables and float(made.temperature) == pytest.approx(temperature)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, CorrectedRetrieval),
        ({"frequency.correction": "none"}, CorrectedRetrieval),
        ({"negatives.hard": 5}, SampledSoftmax),
        ({"frequency.correction": "refined"}, SampledSoftmax),
        ({"negatives.uniform": 5}, SampledSoftmax),
        ({"negatives.memory": 5}, SampledSoftmax),
        ({"negatives.deduplicate": True}, SampledSoftmax),
        ({"parts": (*DEFAULT_PARTS, "repeat_head")}, SampledSoftmax),
        ({"softmax": "full"}, SampledSoftmax),
    ],
)
def test_tfrs_serves_where_candidates_are_the_batchs_labels(settings: dict[str, object], kind: type) -> None:
    none = np.full([3, 1], -1, np.int32)
    table = CatalogTable(CatalogArrays(np.arange(3), none, none, np.zeros(3, np.float32)), np.arange(3))
    made = loss_of(with_values(TrainerConfig(), settings), table, np.log(np.append(Q, Q.min())))
    assert type(made.task()) is kind
