"""Repeat head: extra scores of the history's items in training, validation, serving and evaluation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.small_world import (
    CONFIG,
    HISTORY_LENGTH,
    SPLIT,
    Built,
    Transformed,
    WindowCutter,
    events,
    requests,
    retrieval_model,
    write_examples,
)
from two_tower.evaluation import measure
from two_tower.evaluation.exact_search import OwnScores, top_rows
from two_tower.evaluation.queries import Queries, Windows, all_queries
from two_tower.serving.index import AH, ExactIndex, ScannSettings
from two_tower.serving.retrieval_model import RetrievalModel
from two_tower.trainer.loop.training_data import TrainingData
from two_tower.trainer.loop.validation_recall import ValidationRecall
from two_tower.trainer.loss.resolved_settings import repeats_for
from two_tower.trainer.loss.retrieval_task import SampledSoftmax
from two_tower.trainer.loss.sampled_loss import tfrs_serves
from two_tower.trainer.loss.sampling import Candidates, whole_catalog
from two_tower.trainer.model import repeat_head
from two_tower.trainer.model.repeat_head import Repeats
from two_tower.trainer.model.windows import Positions, windows_of
from two_tower.trainer.settings import DEFAULT_PARTS

pytestmark = pytest.mark.slow

# A high temperature: random weights then give bonuses that matter.
REPEATING = dataclasses.replace(CONFIG, parts=(*DEFAULT_PARTS, "repeat_head"), temperature=1.0)
K, MAX_K, ITEMS = 8, 40, 70
# The search of one leaf finds few of the history's items.
SPARSE = ScannSettings(20, leaves_to_search=1, reordering_candidates=10, quantization=AH, k=10)


@pytest.fixture(scope="module")
def built(small_world: Transformed, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built.of(small_world, tmp_path_factory.mktemp("repeating"), REPEATING, MAX_K)


@pytest.fixture(scope="module")
def served(built: Built) -> Any:
    return tf.saved_model.load(built.served_path)


def asked(world: Transformed, split: str) -> tuple[Windows, Queries, Positions]:
    windows = world.raw[split]
    queries = all_queries(windows)
    at = Positions(tf.constant(queries.window, tf.int32), tf.constant(queries.position, tf.int32))
    return windows, queries, at


def trained_repeats(world: Transformed, built: Built, split: str) -> Repeats:
    windows = windows_of(world.batch(split), built.table, HISTORY_LENGTH)
    _, _, at = asked(world, split)
    tower = built.model.query_tower
    assert tower.repeats is not None
    return tower.repeats(windows, at, tower(windows, at), built.model.candidate_tower)


def histories(windows: Windows, queries: Queries) -> Iterator[list[int]]:
    """Returns the distinct items of listens among each query's last N events, newest first."""
    for window, event in zip(queries.window, queries.event, strict=True):
        begin = max(windows.offsets[window], event - HISTORY_LENGTH + 1)
        seen = [
            int(windows.item_id[one])
            for one in range(event, begin - 1, -1)
            if windows.event_type[one] == b"listen" and windows.item_id[one] < ITEMS
        ]
        yield list(dict.fromkeys(seen))


# Items with an extra score.


@pytest.mark.parametrize("split", ["train", "eval"])
def test_each_item_of_the_last_n_listens_has_one_score(
    small_world: Transformed, built: Built, split: str
) -> None:
    windows, queries, _ = asked(small_world, split)
    own = trained_repeats(small_world, built, split)
    expected = list(histories(windows, queries))
    assert [row[row >= 0].tolist() for row in own.rows.numpy()] == expected
    # Some items were heard twice, and some events are no listens.
    assert min(map(len, expected)) < HISTORY_LENGTH == max(map(len, expected))
    tower = built.model.query_tower
    batch = windows_of(small_world.batch(split), built.table, HISTORY_LENGTH)
    _, _, at = asked(small_world, split)
    products = tower(batch, at).numpy() @ built.model.candidate_tower(tf.range(ITEMS)).numpy().T
    query, place = np.nonzero(own.rows.numpy() >= 0)
    found = own.product.numpy()[query, place]
    np.testing.assert_allclose(found, products[query, own.rows.numpy()[query, place]], atol=1e-5)
    bonus = own.bonus.numpy()[query, place]
    assert (bonus >= 0).all() and bonus.std() > 0.01


def test_how_often_how_long_ago_and_how_far_an_item_was_heard_changes_its_score(served: Any) -> None:
    def score(
        items: list[int], times: tuple[int, ...] = (0, 300, 600, 900), ratios: tuple[float, ...] = (-1.0,) * 4
    ) -> float:
        answer = served.query_embedding(
            user_id=tf.constant([3], tf.int64),
            history_item_id=tf.constant([items], tf.int64),
            history_timestamp=tf.constant([times], tf.int64),
            history_play_ratio=tf.constant([ratios]),
            history_event_type=tf.constant([[""]]),
            history_is_organic=tf.constant([[-1]], tf.int64),
            request_timestamp=tf.constant([-1], tf.int64),
        )
        (place,) = np.flatnonzero(answer["repeat_item_id"][0] == 5)
        item = served.candidate_embedding(tf.constant([5], tf.int64))["embedding"][0]
        product = float(tf.reduce_sum(answer["embedding"][0] * item))
        return float(answer["repeat_score"][0, place]) - product

    plain = score([7, 5, 9, 12])
    assert score([7, 5, 9, 12], ratios=(-1.0, 0.9, -1.0, -1.0)) != pytest.approx(plain, rel=1e-4)
    assert score([7, 5, 9, 12], times=(0, 10, 600, 900)) != pytest.approx(plain, rel=1e-4)
    assert score([5, 7, 9, 12]) != pytest.approx(plain, rel=1e-4)
    assert score([5, 5, 9, 12]) != pytest.approx(plain, rel=1e-4)
    # The play ratio of the seed item is unknown while it plays.
    assert score([7, 5, 9, 12], ratios=(-1.0, -1.0, -1.0, 0.9)) == pytest.approx(plain, rel=1e-5)


def test_listens_to_an_item_are_counted_up_to_each_place() -> None:
    found = repeat_head._times_heard_before(tf.constant([[5, 7, 5, 5]]))
    of_five, of_seven = [0, 1, 1, 2, 3], [0, 0, 1, 1, 1]
    assert found.numpy().tolist() == [[of_five, of_seven, of_five, of_five]]


def test_where_nothing_is_recommended_again_there_is_no_head() -> None:
    assert repeats_for(REPEATING, True) == REPEATING
    assert repeats_for(REPEATING, False).parts == DEFAULT_PARTS
    assert tfrs_serves(CONFIG) and not tfrs_serves(REPEATING)


# The loss.

TEMPERATURE = 0.5
QUERIES = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], np.float32)
CATALOG = np.array([[0.8, 0.6], [0.0, 1.0], [-0.6, 0.8], [0.6, 0.8]], np.float32)
LABELS = [0, 3, 1]
# The first query's history has its label, the second's has other items, the third's is empty.
AGAIN = [[0, 2, -1], [1, 0, 2], [-1, -1, -1]]
BONUS = np.array([[0.7, 0.2, 0.0], [0.4, 0.0, 0.3], [0.0, 0.0, 0.0]], np.float32)


def of_history() -> Repeats:
    rows = np.array(AGAIN, np.int32)
    product = np.einsum("qd,qnd->qn", QUERIES, CATALOG[np.maximum(rows, 0)])
    return Repeats(tf.constant(rows), tf.constant(product), tf.constant(BONUS))


def scores() -> np.ndarray:
    found = (QUERIES @ CATALOG.T).astype(float)
    for query, (rows, bonus) in enumerate(zip(AGAIN, BONUS, strict=True)):
        for row, more in zip(rows, bonus, strict=True):
            if row >= 0:
                found[query, row] += more
    return found / TEMPERATURE


@pytest.mark.parametrize("hard_negatives", [0, 4])
def test_over_the_whole_catalog_the_loss_is_that_of_the_scores(hard_negatives: int) -> None:
    everything = whole_catalog(tf.constant(LABELS), 4)
    loss = SampledSoftmax(TEMPERATURE, hard_negatives=hard_negatives)(
        tf.constant(QUERIES), tf.constant(CATALOG), everything, tf.ones([3]), of_history()
    )
    expected = sum(
        math.log(np.exp(line).sum()) - line[label] for line, label in zip(scores(), LABELS, strict=True)
    )
    assert float(loss) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("correction", ["logq", "refined"])
def test_a_sampled_loss_counts_the_history_for_certain(correction: str) -> None:
    """Checks candidates 0, 1 and 3. Item 2, in two histories, was not sampled."""
    rows, expected_counts = [0, 1, 3], np.array([2.0, 0.5, 0.25])
    candidates = Candidates(
        rows=tf.constant(rows),
        positive=tf.constant([rows.index(label) for label in LABELS]),
        window=tf.range(3),
        copies=tf.ones([3, 3]),
        log_expected=tf.constant(np.tile(np.log(expected_counts), [3, 1]), tf.float32),
    )
    loss = SampledSoftmax(TEMPERATURE, correction)(
        tf.constant(QUERIES), tf.constant(CATALOG[rows]), candidates, tf.ones([3]), of_history()
    )
    plain, whole = (QUERIES @ CATALOG.T).astype(float) / TEMPERATURE, scores()
    total = 0.0
    for query, label in enumerate(LABELS):
        others = sum(
            math.exp(plain[query, row]) / count
            for row, count in zip(rows, expected_counts, strict=True)
            if row != label
        )
        others += sum(
            math.exp(whole[query, row]) - math.exp(plain[query, row])
            for row in AGAIN[query]
            if row not in (-1, label)
        )
        sampled = correction == "logq" and label not in AGAIN[query]
        positive = math.exp(whole[query, label]) / (expected_counts[rows.index(label)] if sampled else 1.0)
        share = others / (others + positive) if correction == "refined" else 1.0
        of_all = others + positive if correction == "logq" else others
        total += share * (math.log(of_all) - math.log(positive))
    assert float(loss) == pytest.approx(total, rel=1e-4)


def test_the_loss_trains_the_head_and_no_item_through_it(small_world: Transformed, built: Built) -> None:
    head = built.model.query_tower.repeats
    assert head is not None
    with tf.GradientTape() as tape:
        loss = built.model.compute_loss(small_world.batch("train"))
    gradients = tape.gradient(loss, head.trainable_variables)
    assert len(gradients) == 7
    assert all(gradient is not None and np.abs(gradient).max() > 1e-6 for gradient in gradients)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(trained_repeats(small_world, built, "eval").score)
    of_candidates = built.model.candidate_tower.trainable_variables[-2:]
    assert all(gradient is None for gradient in tape.gradient(total, of_candidates))


# Serving and evaluation.


def test_a_request_has_the_scores_of_its_position_in_a_packed_window(
    small_world: Transformed, built: Built, served: Any
) -> None:
    windows, queries, _ = asked(small_world, "eval")
    expected = trained_repeats(small_world, built, "eval")
    answer = served.signatures["query_embedding"](**requests(windows, queries))
    np.testing.assert_array_equal(answer["repeat_item_id"], expected.rows)  # ids are rows here
    score = np.where(expected.rows.numpy() >= 0, expected.score.numpy(), -np.inf)
    np.testing.assert_allclose(answer["repeat_score"], score, atol=1e-5)


def by_hand(model: Any, batch: dict[str, Any], denied: Sequence[int] = ()) -> np.ndarray:
    """Scores of all items, [queries, items]; -inf of those denied."""
    answer = model.query_embedding(**batch)
    item = model.candidate_embedding(tf.range(ITEMS, dtype=tf.int64))["embedding"].numpy()
    found = answer["embedding"].numpy() @ item.T
    query, place = np.nonzero(answer["repeat_item_id"].numpy() >= 0)
    item_id = answer["repeat_item_id"].numpy()[query, place]
    found[query, item_id] = answer["repeat_score"].numpy()[query, place]
    found[:, list(denied)] = -np.inf
    return found


def test_the_best_of_all_scores_are_recommended(small_world: Transformed, served: Any) -> None:
    windows, queries, _ = asked(small_world, "eval")
    batch = requests(windows, queries)
    expected = by_hand(served, batch)
    answer = served.recommend(**batch, k=tf.constant(K))
    best = np.argsort(-expected, axis=1)[:, :K]
    np.testing.assert_array_equal(answer["item_id"], best)
    np.testing.assert_allclose(answer["score"], np.take_along_axis(expected, best, axis=1), atol=1e-5)
    # The extra scores change the results.
    products = served.query_embedding(**batch)["embedding"].numpy()
    products = products @ served.candidate_embedding(tf.range(ITEMS, dtype=tf.int64))["embedding"].numpy().T
    assert (np.argsort(-products, axis=1)[:, :K] != best).any(axis=1).mean() > 0.1


@pytest.mark.parametrize("sparse", [False, True])
def test_excluded_items_and_items_that_are_not_allowed_stay_away(
    small_world: Transformed, built: Built, served: Any, sparse: bool
) -> None:
    model = retrieval_model(tf.saved_model.load(built.towers_path), ITEMS, SPARSE) if sparse else served
    windows, queries, _ = asked(small_world, "eval")
    batch = requests(windows, queries)
    denied, size = range(0, ITEMS, 3), len(queries)
    answer = model.recommend(
        **batch, exclude_item_id=tf.constant([sorted(denied)] * size, tf.int64), k=tf.constant(K)
    )
    found = answer["item_id"].numpy()
    assert not np.isin(found, list(denied)).any() and (found >= 0).all()
    expected = by_hand(model, batch, denied)
    score = np.take_along_axis(expected, found, axis=1)
    np.testing.assert_allclose(answer["score"], score, atol=1e-3)
    # All items of the history are found, with any index, and none twice.
    worst, again = answer["score"].numpy()[:, -1], model.query_embedding(**batch)["repeat_item_id"].numpy()
    for line, (row, own) in enumerate(zip(found, again, strict=True)):
        assert len(set(row)) == K
        better = {int(item) for item in own if item >= 0 and expected[line, item] > worst[line] + 1e-4}
        assert better <= set(row.tolist())
    allowed = np.tile([1, 2, 4, 5, 7], [size, 1])
    answer = model.recommend(**batch, allow_item_id=tf.constant(allowed, tf.int64), k=tf.constant(K))
    ids = answer["item_id"].numpy()
    assert (np.sort(ids, axis=1)[:, -5:] == allowed).all() and (np.sort(ids, axis=1)[:, :-5] == -1).all()


def test_withdrawn_items_are_not_recommended_for_being_in_a_history(built: Built, served: Any) -> None:
    towers = tf.saved_model.load(built.towers_path)
    kept = tf.constant([i for i in range(ITEMS) if i != 5], tf.int64)
    model = RetrievalModel(towers, ExactIndex(towers.candidate_embedding(kept)["embedding"]), kept, MAX_K)
    for one, is_there in ((served, True), (model, False)):
        answer = one.recommend(
            user_id=tf.constant([3], tf.int64),
            history_item_id=tf.constant([[5, 9]], tf.int64),
            history_timestamp=tf.constant([[0, 300]], tf.int64),
            history_play_ratio=tf.constant([[-1.0]]),
            history_event_type=tf.constant([[""]]),
            history_is_organic=tf.constant([[-1]], tf.int64),
            request_timestamp=tf.constant([-1], tf.int64),
            exclude_item_id=tf.constant([[-1]], tf.int64),
            allow_item_id=tf.constant([[5, 9, 11]], tf.int64),
            k=tf.constant(3),
        )
        assert (5 in answer["item_id"].numpy()) == is_there


def test_the_evaluator_counts_by_the_same_scores(built: Built, served: Any, tmp_path: Path) -> None:
    cutter = WindowCutter(SPLIT, repeats_recommendable=True, history_length=HISTORY_LENGTH, positions=10)
    write_examples(tmp_path / "data_tfrecord-0.gz", [cutter.cut(events())[0]["test"]])
    windows = measure.read_windows(str(tmp_path))
    rows = np.arange(len(all_queries(windows)))
    answered = measure.answers(
        built.served_path, str(tmp_path), rows, k=K, history_length=HISTORY_LENGTH, exclude=False
    )
    here = served.recommend(**requests(windows, all_queries(windows)), k=tf.constant(K))
    np.testing.assert_array_equal(answered.served, here["item_id"])
    np.testing.assert_array_equal(answered.exact, answered.served)  # exact search both
    assert answered.facts["parity"]["max_score_error"] < 1e-4


def test_exact_search_takes_own_scores_for_inner_products() -> None:
    draw = np.random.default_rng(6)
    queries, candidates = (draw.normal(size=[n, 4]).astype(np.float32) for n in (30, 50))
    own = np.array([draw.permutation(50)[:6] for _ in range(30)])
    own[draw.random(own.shape) < 0.3] = -1
    scores = queries @ candidates.T
    raised = np.take_along_axis(scores, np.maximum(own, 0), axis=1) + draw.random(own.shape).astype(
        np.float32
    )
    query, place = np.nonzero(own >= 0)
    scores[query, own[query, place]] = raised[query, place]
    found = top_rows(queries, candidates, 10, own_scores=OwnScores(own, raised))
    np.testing.assert_array_equal(found, np.argsort(-scores, axis=1)[:, :10])


def test_validation_ranks_by_the_same_scores(small_world: Transformed, built: Built, served: Any) -> None:
    windows, queries, _ = asked(small_world, "eval")
    data = TrainingData([], [], "", [], "", HISTORY_LENGTH, True, small_world.resolved)
    batches = tf.data.Dataset.from_tensors(small_world.batch("eval"))
    validation = ValidationRecall(batches, built.table, data, seed=1)
    validation.model = built.model
    expected = by_hand(served, requests(windows, queries))
    label = queries.label_item_id
    own = expected[np.arange(len(label)), np.minimum(label, ITEMS - 1)]
    rank = (expected > own[:, np.newaxis] + 1e-6).sum(axis=1)
    np.testing.assert_array_equal(validation.ranks(), np.where(label < ITEMS, rank, np.inf))


@pytest.mark.parametrize("sparse", [False, True])
def test_a_batch_without_queries_gets_no_rows(built: Built, served: Any, sparse: bool) -> None:
    model = retrieval_model(tf.saved_model.load(built.towers_path), ITEMS, SPARSE) if sparse else served
    none = tf.zeros([0, 3], tf.int64)
    empty = {"user_id": none[:, 0], "history_item_id": none, "history_timestamp": none}
    answer = model.recommend(**empty, k=tf.constant(K))
    assert (answer["item_id"].shape, answer["score"].shape) == ((0, K), (0, K))
