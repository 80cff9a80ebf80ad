from __future__ import annotations

import dataclasses
import math
import pathlib
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_matrix

from tests.evaluation.test_baselines import LOG, SPLIT, K, cut, had_before
from two_tower.base.errors import UserError
from two_tower.data_directory.manifest import DatasetProperties
from two_tower.data_directory.writer import DataDirectoryWriter
from two_tower.evaluation.baselines import fitting as fitting_module
from two_tower.evaluation.baselines.bpr import (
    BayesianPersonalisedRanking,
    FoldedRanking,
    scale_of_users,
)
from two_tower.evaluation.baselines.catalog import Catalog
from two_tower.evaluation.baselines.co_occurrence import CoOccurrence, Counts
from two_tower.evaluation.baselines.content_neighbours import ContentNeighbours
from two_tower.evaluation.baselines.factorisation import Training
from two_tower.evaluation.baselines.fitting import Fitted, fit_baselines
from two_tower.evaluation.baselines.ials import AlternatingLeastSquares, confidences
from two_tower.evaluation.baselines.plays import Plays
from two_tower.evaluation.baselines.popularity import Popularity
from two_tower.evaluation.baselines.ranking import (
    RecentListens,
    Scored,
    Scorer,
    _best_of_dense,
    _best_of_sparse,
    top_of,
)
from two_tower.evaluation.baselines.registry import BASELINES
from two_tower.evaluation.baselines.search import Found
from two_tower.evaluation.baselines.token_matching import Documents, TokenMatching
from two_tower.evaluation.label_events import LabelEvents
from two_tower.evaluation.queries import Ints, Windows, all_queries

# All that are not of tests/evaluation/test_baselines.py.
SCORED = ("token_matching", "co_occurrence", "ials", "bpr", "content_neighbours")
N = 5
# Two that train does not hold.
COLD = (7_001, 7_002)
ITEMS = np.unique(np.append(LOG.item_id[LOG.timestamp < 250], COLD))


def catalog_of(items: Ints) -> Catalog:
    """Makes items that share a word and a vector by their last digit; each has a word of its own."""
    digit = items % 10
    vectors = np.eye(10, dtype=np.float32)[digit]
    token_item = np.tile(np.arange(len(items)), 2)
    return Catalog(items, token_item, np.concatenate([digit, 10 + np.arange(len(items))]), vectors)


def fitted(windows: dict[str, Windows], repeats: bool = True, **changes: Any) -> Fitted:
    settings = {"history_length": N, "names": SCORED, "catalog": catalog_of(ITEMS), **changes}
    events = LabelEvents.of(windows["train"])
    return fit_baselines(events, windows["eval"], cutoff=K, repeats_recommendable=repeats, seed=1, **settings)


@pytest.fixture(scope="module", params=[True, False], ids=["repeats", "no-repeats"])
def world(request: pytest.FixtureRequest) -> tuple[dict[str, Windows], Fitted, bool]:
    windows = cut(LOG, SPLIT, repeats=request.param)
    return windows, fitted(windows, request.param), request.param


def listens(*histories: list[int]) -> RecentListens:
    """Makes the listens of one query for each history, oldest first."""
    counts = [len(history) for history in histories]
    return RecentListens(
        len(histories),
        np.repeat(np.arange(len(histories)), counts),
        np.array([item for history in histories for item in history], np.int64),
        np.array([ago for count in counts for ago in range(count)[::-1]], np.int64),
    )


def events_of_users(*users: list[int]) -> LabelEvents:
    user = np.repeat(np.arange(len(users)), [len(items) for items in users])
    item = np.array([item for items in users for item in items])
    return LabelEvents(user, item, np.arange(len(item)))


def dense(scores: Any) -> Any:
    return np.asarray(scores.todense()) if hasattr(scores, "todense") else scores


# Token matching.

TEXTS = {3: ["red", "moon", "moon"], 5: ["red", "sun"], 8: ["blue", "sun", "of", "june"], 9: []}


def catalog_of_texts(texts: dict[int, list[str]]) -> Catalog:
    words = sorted({word for text in texts.values() for word in text})
    pairs = [(row, words.index(word)) for row, text in enumerate(texts.values()) for word in text]
    row, token = np.array(pairs, np.int64).T
    return Catalog(np.array(list(texts), np.int64), row, token)


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.5, 0.0)])
def test_bm25_is_what_the_formula_says(k1: float, b: float) -> None:
    scorer = TokenMatching(Documents(catalog_of_texts(TEXTS)), 1.0, k1, b)
    scores = dense(scorer.scores(listens([8, 3], [5])))
    mean_length = float(np.mean([len(text) for text in TEXTS.values()]))
    for query, asked in enumerate([{3: 1.0, 8: 0.5}, {5: 1.0}]):
        wanted: Counter[str] = Counter()
        for item, weight in asked.items():
            for word in TEXTS[item]:
                wanted[word] += weight  # type: ignore[assignment]
        for column, text in enumerate(TEXTS.values()):
            expected = 0.0
            for word, weight in wanted.items():
                frequency = sum(word in other for other in TEXTS.values())
                idf = math.log(1 + (len(TEXTS) - frequency + 0.5) / (frequency + 0.5))
                tf = text.count(word)
                norm = tf + k1 * (1 - b + b * len(text) / mean_length)
                expected += float(weight * idf * tf * (k1 + 1) / norm) if tf else 0.0
            assert scores[query, column] == pytest.approx(expected, rel=1e-5)


def test_a_token_of_too_many_items_is_left_out() -> None:
    documents = Documents(catalog_of_texts(TEXTS), most_postings=1)
    scores = dense(TokenMatching(documents, 1.0, 1.2, 0.75).scores(listens([5])))
    # Both words of item 5 are of two items.
    assert not scores.any()


def write(tmp_path: pathlib.Path, items: dict[str, Any]) -> tuple[str, str]:
    data = str(tmp_path / "data")
    with DataDirectoryWriter(data, DatasetProperties("small", "listen", True)) as writer:
        item_id = pa.array(items["item_id"], pa.int64())
        rows = len(item_id)
        writer.write(
            "events",
            pa.table({"user_id": [1] * rows, "item_id": item_id, "timestamp": [0] * rows}),
        )
        writer.write("items", pa.table({**items, "item_id": item_id}))
    return data, writer.manifest.digest


def test_a_catalog_is_read_with_its_words_artists_and_unit_vectors(tmp_path: pathlib.Path) -> None:
    embedding = pa.array([[3.0, 4.0], [0.0, 0.0], [5.0, 0.0], [1.0, 1.0]], pa.list_(pa.float32(), 2))
    data, digest = write(
        tmp_path,
        {
            "item_id": [9, 4, 7, 5],
            "artist_id": pa.array([[1, 2], None, [2], []], pa.list_(pa.int64())),
            "title": ["Émile — the Émile!", None, "the", " "],
            "tags": pa.array([["Sci-Fi"], ["sci"], None, [None]], pa.list_(pa.string())),
            "available": [True, None, True, False],
            "embedding": embedding,
        },
    )
    catalog = Catalog.read(data, digest)
    assert catalog.items.tolist() == [4, 7, 9]
    by_token: dict[int, list[int]] = {}
    for item, token in zip(catalog.token_item, catalog.token, strict=True):
        by_token.setdefault(int(token), []).append(int(catalog.items[item]))
    # émile twice, the, fi, sci, artist 1, artist 2.
    assert sorted(sorted(items) for items in by_token.values()) == [
        [4, 9], [7, 9], [7, 9], [9], [9], [9, 9],
    ]  # fmt: skip
    assert catalog.embeddings is not None
    np.testing.assert_allclose(catalog.embeddings, np.array([[0, 0], [1, 0], [0.6, 0.8]]), atol=1e-6)
    assert Catalog.read(data, digest, embeddings=False).embeddings is None


def test_a_catalog_of_other_data_is_an_error(tmp_path: pathlib.Path) -> None:
    data, _ = write(tmp_path, {"item_id": [1]})
    with pytest.raises(UserError, match="holds other data now"):
        Catalog.read(data, "sha256:0")


def test_without_texts_and_vectors_what_needs_them_is_left_out_and_told(tmp_path: pathlib.Path) -> None:
    catalog = Catalog.read(*write(tmp_path, {"item_id": ITEMS.tolist()}))
    found = fitted(cut(LOG, SPLIT), catalog=catalog, names=("token_matching", "content_neighbours"))
    assert not found
    assert "neither titles nor artists nor tags" in found.notes["token_matching"]
    assert "no content embeddings" in found.notes["content_neighbours"]
    gone = fitted(cut(LOG, SPLIT), catalog="It is gone.", names=("token_matching",))
    assert gone.notes == {"token_matching": "token_matching is left out: It is gone."}


# Co-occurrence.


def test_listens_within_the_window_count_once_in_each_direction() -> None:
    events = events_of_users([1, 2, 1, 3], [3, 2], [5, 5])
    items = np.array([1, 2, 3, 5])
    nearest = Counts(events, items, window=1)
    assert dense(nearest.pairs).tolist() == [[0, 2, 1, 0], [2, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]]
    assert nearest.plays.tolist() == [2, 2, 2, 2]
    further = dense(Counts(events, items, window=2).pairs)
    assert further.tolist() == [[1, 2, 1, 0], [2, 0, 2, 0], [1, 2, 0, 0], [0, 0, 0, 1]]


def test_of_long_histories_the_last_listens_are_counted() -> None:
    counts = Counts(events_of_users([1, 2, 3, 4], [2, 1]), np.array([1, 2, 3, 4]), 1, most_pairs=8)
    assert counts.listens_a_user == 2
    assert dense(counts.pairs).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]


@pytest.mark.parametrize("damping", ["none", "cosine", "logarithmic"])
def test_nearness_is_damped_by_how_often_items_are_played(damping: str) -> None:
    counts = Counts(events_of_users([1, 2, 1, 3], [3, 2, 3]), np.array([1, 2, 3]), window=1)
    assert dense(counts.pairs)[0].tolist() == [0, 2, 1] and counts.plays.tolist() == [2, 2, 3]
    expected = {
        "none": [0, 2 / 2, 1 / 2],
        "cosine": [0, 2 / 2, 1 / math.sqrt(6)],
        "logarithmic": [0, 2 / (2 * math.log(math.e + 2)), 1 / (2 * math.log(math.e + 3))],
    }[damping]
    scores = dense(CoOccurrence(counts, 1.0, damping).scores(listens([1])))
    np.testing.assert_allclose(scores[0], expected, rtol=1e-6)


def test_the_nearest_neighbours_alone_are_kept() -> None:
    counts = Counts(events_of_users([1, 2, 1, 2, 1, 3, 1, 4]), np.array([1, 2, 3, 4]), window=1)
    assert dense(counts.pairs)[0].tolist() == [0, 4, 2, 1]
    scores = dense(CoOccurrence(counts, 1.0, "none", neighbours=2).scores(listens([1])))
    assert (scores[0] > 0).tolist() == [False, True, True, False]


# Factorisation.

# Users 0 to 9 play items 0 to 4, the others 5 to 9, none of them all.
CHECKERBOARD = events_of_users(
    *[[5 * (user > 9) + (user + step) % 5 for step in range(4)] for user in range(20)]
)


def plays() -> Plays:
    return Plays(CHECKERBOARD, np.arange(10))


def test_folding_in_is_the_least_squares_solution_and_what_implicit_recalculates() -> None:
    scorer = AlternatingLeastSquares(plays(), seed=3).baseline(1.0, 5, 8.0, 0.5, 4)
    factors = scorer._item_factors.astype(np.float64)
    users, _ = scorer.users(listens([1, 2, 1], [7]))
    for user, weights in zip(users, [{1: 1.25, 2: 0.5}, {7: 1.0}], strict=True):
        gram, right = factors.T @ factors + 0.5 * np.eye(4), np.zeros(4)
        for item, weight in weights.items():
            confidence = 8.0 * math.log(1 + weight)
            gram += (confidence - 1) * np.outer(factors[item], factors[item])
            right += confidence * factors[item]
        np.testing.assert_allclose(user, np.linalg.solve(gram, right), rtol=1e-3, atol=1e-5)

    from implicit.cpu.als import AlternatingLeastSquares as Solver

    theirs = Solver(factors=4, regularization=0.5, random_state=3, iterations=5)
    theirs.fit(confidences(plays().counts, 8.0), show_progress=False)
    np.testing.assert_allclose(theirs.item_factors, scorer._item_factors, rtol=1e-4, atol=1e-6)
    own = confidences(listens([1, 2, 1]).profile(np.arange(10), 1.0), 8.0)
    np.testing.assert_allclose(theirs.recalculate_user([0], own)[0], users[0], rtol=1e-4, atol=1e-6)


def test_bpr_scores_the_scaled_mean_of_the_users_items_and_the_bias() -> None:
    factors = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    settings: dict[str, float | str] = {"half_life_plays": 1.0}
    scorer = FoldedRanking(np.arange(4), factors, 2.0, settings)
    scores = scorer.scores(listens([3, 1], []))
    mean = (factors[1, :2] + 0.5 * factors[3, :2]) / 1.5
    np.testing.assert_allclose(scores[0], 2 * factors[:, :2] @ mean + factors[:, 2], rtol=1e-5)
    assert np.isneginf(scores[1]).all()


def test_users_are_scaled_by_least_squares() -> None:
    items = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)
    counts = csr_matrix(np.array([[1.0, 1.0], [0.0, 3.0]], np.float32))
    means = np.array([[0.5, 1.0], [0.0, 2.0]], np.float32)
    assert scale_of_users(3 * means, items, counts) == pytest.approx(3)


@pytest.mark.parametrize("method", ["ials", "bpr"])
def test_factors_tell_the_squares_of_a_checkerboard_apart(method: str) -> None:
    scorer: Scorer
    if method == "ials":
        scorer = AlternatingLeastSquares(plays(), seed=1).baseline(1e6, 10, 10.0, 0.1, 4)
    else:
        scorer = BayesianPersonalisedRanking(plays(), seed=1).baseline(1e6, 100, 0.1, 0.01, 4)
    # Of users whom train does not know.
    best = top_of(scorer.scores(listens([0, 2], [6, 9])), 5)[0]
    assert sorted(best[0]) == [0, 1, 2, 3, 4] and sorted(best[1]) == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("method", ["ials", "bpr"])
def test_more_epochs_go_on_from_the_fewer_and_another_training_in_between_changes_nothing(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Any] = []
    original = Training.after

    def noted(training: Training[Any], epochs: int) -> Any:
        trained.append(training)
        return original(training, epochs)

    monkeypatch.setattr(Training, "after", noted)

    def scorers(*asked: tuple[int, float]) -> list[Any]:
        of = (AlternatingLeastSquares if method == "ials" else BayesianPersonalisedRanking)(plays(), seed=1)
        return [of.baseline(1.0, epochs, first, 0.1, 4) for epochs, first in asked]

    query = listens([0, 2])
    best, _, more = scorers((2, 0.1), (2, 0.2), (5, 0.1))
    assert trained[0] is trained[2] is not trained[1]
    _, alone = scorers((2, 0.1), (5, 0.1))
    np.testing.assert_array_equal(more.scores(query), alone.scores(query))
    # The result of fewer epochs stays what it was.
    np.testing.assert_array_equal(best.scores(query), scorers((2, 0.1))[0].scores(query))
    assert not np.array_equal(best.scores(query), more.scores(query))
    with pytest.raises(ValueError, match="1 epochs are asked for after 5"):
        trained[0].after(1)


# Content.


def test_content_neighbours_stand_in_order_of_their_cosine() -> None:
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 0], [-1, 0]], np.float32)
    nothing = np.empty(0, np.int64)
    scorer = ContentNeighbours(Catalog(np.array([2, 4, 6, 8]), nothing, nothing, vectors), 1.0)
    assert scorer.items.tolist() == [2, 4, 8]
    scores = scorer.scores(listens([2], [8, 4], [6]))
    np.testing.assert_allclose(scores[0], [1, 0.8, -1], rtol=1e-6)
    np.testing.assert_allclose(scores[1], [0.3, 0.6 + 0.4 * 0.1, -0.3], atol=0.05)
    assert np.isneginf(scores[2]).all()


# What all have in common.


def test_recommendations_are_distinct_complete_and_leave_out_what_the_user_had(
    world: tuple[dict[str, Windows], Fitted, bool],
) -> None:
    windows, found, repeats = world
    assert list(found) == list(SCORED) and not found.notes
    queries = all_queries(windows["test"])
    rows = np.arange(0, len(queries), 5)
    had = [set() if repeats else had_before(LOG, queries, row) for row in rows]
    for baseline in found.values():
        recommended = baseline.recommend(windows["test"], queries, rows, K, exclude=not repeats)
        assert recommended.shape == (len(rows), K)
        for row in range(len(rows)):
            items = recommended[row][recommended[row] >= 0].tolist()
            assert len(set(items)) == len(items) and not set(items) & had[row]
        assert repeats <= bool((recommended >= 0).all())


def test_no_baseline_knows_the_test_period_or_is_fitted_to_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = cut(LOG, SPLIT)
    later = dataclasses.replace(LOG, item_id=LOG.item_id + 5_000 * (LOG.timestamp >= 330))
    assert_equal_answers(fitted(windows), fitted(cut(later, SPLIT)), windows["eval"])

    # Eval's events choose settings and are nowhere else: without a choice they change nothing.
    def first_alone(build: Any, grid: Any, recall: Any, seconds: float, rising: Any) -> Found:
        return Found(build(**{name: values[0] for name, values in grid.items()}), 0.0, 1, 1, 0.0)

    monkeypatch.setattr(fitting_module, "search", first_alone)
    later = dataclasses.replace(LOG, item_id=LOG.item_id + 5_000 * (LOG.timestamp >= 250))
    assert_equal_answers(fitted(windows), fitted(cut(later, SPLIT)), windows["train"])


def assert_equal_answers(ours: Fitted, theirs: Fitted, asked: Windows) -> None:
    queries = all_queries(asked)
    rows = np.arange(0, len(queries), 7)
    for name, baseline in ours.items():
        assert baseline.settings == theirs[name].settings
        np.testing.assert_array_equal(
            baseline.recommend(asked, queries, rows, K, exclude=False),
            theirs[name].recommend(asked, queries, rows, K, exclude=False),
        )


def test_a_query_is_answered_from_the_events_that_the_model_sees() -> None:
    test = cut(LOG, SPLIT)["test"]
    batch = all_queries(test)
    recent = RecentListens.of(test, batch, N)
    for row in range(len(batch)):
        begin = max(test.offsets[batch.window[row]], batch.event[row] + 1 - N)
        seen = slice(begin, batch.event[row] + 1)
        expected = test.item_id[seen][test.event_type[seen] == b"listen"][::-1].tolist()
        own = recent.query == row
        assert recent.item_id[own][np.argsort(recent.plays_ago[own])].tolist() == expected
        assert sorted(recent.plays_ago[own]) == list(range(len(expected)))


def test_items_that_nobody_played_are_found_by_word_and_by_content() -> None:
    windows = cut(LOG, SPLIT)
    queries = all_queries(windows["test"])
    popular = Popularity(LabelEvents.of(windows["train"]))
    catalog = catalog_of(ITEMS)
    for scorer in (TokenMatching(Documents(catalog), 1.0, 1.2, 0.75), ContentNeighbours(catalog, 1.0)):
        baseline = Scored(scorer, popular, N)
        found = baseline.recommend(windows["test"], queries, np.arange(len(queries)), len(ITEMS), False)
        assert np.isin(COLD, found).all()


def test_what_the_scorer_does_not_know_is_filled_up_with_popular_items() -> None:
    windows = cut(LOG, SPLIT)
    popular = Popularity(LabelEvents.of(windows["train"]))
    unknown = {item + 10**6: text for item, text in TEXTS.items()}
    scorer = TokenMatching(Documents(catalog_of_texts(unknown)), 1.0, 1.2, 0.75)
    queries = all_queries(windows["test"])
    found = Scored(scorer, popular, 1).recommend(windows["test"], queries, [0], 3, False)
    assert found[0].tolist() == popular.ranked[:3].tolist()


def test_withdrawn_items_are_not_recommended() -> None:
    windows = cut(LOG, SPLIT)
    withdrawn = Popularity(LabelEvents.of(windows["train"])).ranked[0]
    queries = all_queries(windows["test"])
    rows = np.arange(0, len(queries), 5)
    for items, is_offered in ((ITEMS, True), (ITEMS[withdrawn != ITEMS], False)):
        for baseline in fitted(windows, catalog=catalog_of(items), names=BASELINES).values():
            found = baseline.recommend(windows["test"], queries, rows, K, exclude=False)
            assert bool((found == withdrawn).any()) == is_offered


@pytest.mark.parametrize("width", [3, 40, 500])
def test_the_top_is_that_of_a_sort(width: int) -> None:
    scores = np.random.default_rng(0).normal(size=(20, width)).astype(np.float32)
    columns, values = top_of(scores, 7)
    np.testing.assert_array_equal(columns, np.argsort(-scores, axis=1)[:, :7])
    np.testing.assert_array_equal(values, np.take_along_axis(scores, columns, axis=1))


def test_sparse_and_dense_scores_rank_alike() -> None:
    random = np.random.default_rng(1)
    scores = random.permuted(np.arange(1, 201).reshape(4, 50), axis=1) * (random.random((4, 50)) < 0.3)
    excluded = np.where(random.random((4, 6)) < 0.7, random.integers(0, 50, (4, 6)), -1)
    by_sparse = _best_of_sparse(csr_matrix(scores), excluded, 9)
    by_dense = _best_of_dense(np.where(scores > 0, scores, -np.inf).astype(np.float32), excluded, 9)
    np.testing.assert_array_equal(by_sparse, by_dense)
    for row in range(4):
        assert not np.isin(by_sparse[row][by_sparse[row] >= 0], excluded[row]).any()
