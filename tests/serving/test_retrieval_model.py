"""Served model: serving equals training, and answers are masked, ordered and complete."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.small_world import (
    CONFIG,
    HISTORY_LENGTH,
    NOT_IN_CATALOG,
    Built,
    Transformed,
    requests,
    retrieval_model,
)
from two_tower.base.errors import UserError
from two_tower.evaluation import measure
from two_tower.evaluation.queries import all_queries
from two_tower.schema import features
from two_tower.schema.request_inputs import (
    MOST_VALUES,
    PER_CALL,
    QUERY_INPUTS,
    REQUEST_INPUTS,
    SERVED_SIGNATURES,
)
from two_tower.serving import request_sizes
from two_tower.serving.index import AH, ScannSettings
from two_tower.serving.loaded_model import load_model
from two_tower.serving.request_tensors import request_tensors
from two_tower.serving.retrieval_model import RetrievalModel
from two_tower.trainer.model.windows import Positions, windows_of

pytestmark = pytest.mark.slow

K, MAX_K = 8, 40
CATALOG_SIZE = 70
# One searched leaf: large requests find few items.
SPARSE = ScannSettings(20, leaves_to_search=1, reordering_candidates=10, quantization=AH, k=10)
# All leaves: ScaNN at its most exact.
DENSE = ScannSettings(4, leaves_to_search=4, reordering_candidates=70, quantization=AH, k=70)


@pytest.fixture(scope="module")
def built(small_world: Transformed, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built.of(small_world, tmp_path_factory.mktemp("served"), CONFIG, MAX_K)


@pytest.fixture(scope="module")
def exact(built: Built) -> Any:
    return tf.saved_model.load(built.served_path)


@pytest.fixture(scope="module")
def sparse(built: Built) -> RetrievalModel:
    return retrieval_model(tf.saved_model.load(built.towers_path), CATALOG_SIZE, SPARSE)


def request(**changes: Any) -> dict[str, tf.Tensor]:
    """Builds a request: three listens and a like within ten minutes."""
    values = {
        "user_id": [3],
        "history_item_id": [[5, 5, 12, 0]],
        "history_timestamp": [[600, 700, 900, 1_200]],
        "history_play_ratio": [[0.5, -1.0, 0.0, -1.0]],
        "history_event_type": [["listen", "like", "listen", ""]],
        "history_is_organic": [[1, -1, 0, 1]],
        "request_timestamp": [5_000],
    } | changes
    return {
        name: tf.constant(value, REQUEST_INPUTS[name].dtype)
        for name, value in values.items()
        if value is not None
    }


def embedded(model: Any, **changes: Any) -> np.ndarray:
    return model.query_embedding(**request(**changes))["embedding"].numpy()


# Serving equals training.


@pytest.mark.parametrize("split", ["eval", "test", "train"])
def test_a_request_is_embedded_as_its_position_in_a_packed_window(
    small_world: Transformed, built: Built, exact: Any, split: str
) -> None:
    batch = small_world.batch(split)
    if split == "train":  # training has the example age of its labels, a request has age zero
        batch[features.EXAMPLE_AGE] = tf.zeros_like(batch[features.EXAMPLE_AGE])
    windows, queries = small_world.raw[split], all_queries(small_world.raw[split])
    at = Positions(tf.constant(queries.window, tf.int32), tf.constant(queries.position, tf.int32))
    trained = built.model.query_tower(windows_of(batch, built.table, HISTORY_LENGTH), at).numpy()
    # The queries include new users, windows longer than N, and reactions.
    assert len(queries) > 50 and queries.position.max() > HISTORY_LENGTH
    assert trained.std(axis=0).min() > 0.05
    by_name = requests(windows, queries)
    for serve in (built.towers.query_embedding, exact.query_embedding, exact.signatures["query_embedding"]):
        np.testing.assert_allclose(serve(**by_name)["embedding"], trained, atol=1e-5)


def test_the_exact_form_serves_in_a_process_without_tfx_and_without_scann(
    small_world: Transformed, built: Built, exact: Any, tmp_path: Path
) -> None:
    windows = small_world.raw["test"]
    queries = all_queries(windows).take(np.arange(20))
    asked = request_tensors(
        exact.signatures["serving_default"], {**requests(windows, queries), "k": tf.constant(K)}
    )
    inputs = {name: values.numpy() for name, values in asked.items()}
    texts = {name: values.astype("S") for name, values in inputs.items() if values.dtype == object}
    np.savez(tmp_path / "inputs.npz", **inputs | texts)
    script = """if True:
        import sys
        import numpy as np, tensorflow as tf
        path, directory = sys.argv[1:]
        model = tf.saved_model.load(path)
        inputs = {name: tf.constant(value) for name, value in np.load(directory + "/inputs.npz").items()}
        answer = model.signatures["serving_default"](**inputs)
        embed = model.signatures["query_embedding"]
        embedded = embed(**{name: inputs[name] for name in embed.structured_input_signature[1]})
        ours = {"scann", "tfx", "tensorflow_transform", "tensorflow_recommenders", "trainer", "components"}
        assert not ours & set(sys.modules)
        np.savez(directory + "/outputs.npz", **answer, **embedded)
    """
    done = subprocess.run(
        [sys.executable, "-c", script, built.served_path, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"},
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    outputs = np.load(tmp_path / "outputs.npz")
    here = exact.recommend(**requests(windows, queries), k=tf.constant(K))
    np.testing.assert_array_equal(outputs["item_id"], here["item_id"])
    np.testing.assert_allclose(outputs["score"], here["score"], atol=1e-5)
    embedding = exact.query_embedding(**requests(windows, queries))["embedding"]
    np.testing.assert_allclose(outputs["embedding"], embedding, atol=1e-5)


def test_the_evaluator_asks_the_model_that_is_served(
    small_world: Transformed, built: Built, exact: Any, tmp_path: Path
) -> None:
    from tests.small_world import SPLIT, WindowCutter, events, write_examples

    cutter = WindowCutter(SPLIT, repeats_recommendable=False, history_length=HISTORY_LENGTH, positions=10)
    write_examples(tmp_path / "data_tfrecord-0.gz", [cutter.cut(events())[0]["test"]])
    windows = measure.read_windows(str(tmp_path))
    every = all_queries(windows)
    rows = np.arange(len(every))[::3]
    answered = measure.answers(
        built.served_path, str(tmp_path), rows, k=K, history_length=HISTORY_LENGTH, exclude=True
    )
    here = exact.recommend(**requests(windows, every.take(rows), exclude=True), k=tf.constant(K))
    np.testing.assert_array_equal(answered.served, here["item_id"])
    np.testing.assert_array_equal(answered.exact, answered.served)  # exact search both
    assert len(answered.item_id) == CATALOG_SIZE


# Absent inputs and bad values of requests.


def test_padding_changes_nothing_wherever_it_is(built: Built) -> None:
    plain = embedded(built.towers)
    padded: dict[str, Any] = {
        "history_item_id": [[-1, 5, 5, -1, 12, 0, -1, -7]],
        "history_timestamp": [[9, 600, 700, 9, 900, 1_200, 9, 9]],
        "history_play_ratio": [[0.7, 0.5, -1.0, 0.7, 0.0, -1.0, 0.7, 0.7]],
        "history_event_type": [["like", "listen", "like", "", "listen", "", "", "listen"]],
        "history_is_organic": [[1, 1, -1, 0, 0, 1, 1, 1]],
    }
    np.testing.assert_allclose(embedded(built.towers, **padded), plain, atol=1e-6)


def test_only_the_last_n_events_count(built: Built) -> None:
    items = np.arange(2 * HISTORY_LENGTH)[np.newaxis]
    full = {
        "history_item_id": items,
        "history_timestamp": 1_000 + 60 * items,
        "history_play_ratio": items / 20,
        "history_event_type": np.where(items % 3 == 2, "like", "listen"),
        "history_is_organic": items % 2,
    }
    recent = {name: values[:, -HISTORY_LENGTH:] for name, values in full.items()}
    np.testing.assert_allclose(embedded(built.towers, **full), embedded(built.towers, **recent), atol=1e-6)


def test_reactions_after_the_seed_are_not_looked_at(built: Built) -> None:
    more = {
        "history_item_id": [[5, 5, 12, 0, 0, 12]],
        "history_timestamp": [[600, 700, 900, 1_200, 1_210, 4_000]],
        "history_play_ratio": [[0.5, -1.0, 0.0, -1.0, -1.0, -1.0]],
        "history_event_type": [["listen", "like", "listen", "", "dislike", "like"]],
        "history_is_organic": [[1, -1, 0, 1, -1, -1]],
    }
    np.testing.assert_allclose(embedded(built.towers, **more), embedded(built.towers), atol=1e-6)


def test_the_play_ratio_of_the_seed_is_not_looked_at(built: Built) -> None:
    plain = embedded(built.towers)
    np.testing.assert_array_equal(embedded(built.towers, history_play_ratio=[[0.5, -1.0, 0.0, 0.9]]), plain)
    assert not np.allclose(
        embedded(built.towers, history_play_ratio=[[0.9, -1.0, 0.9, -1.0]]), plain, atol=1e-4
    )


def test_what_is_left_out_is_as_if_unknown_and_now(built: Built, exact: Any) -> None:
    absent = ("history_play_ratio", "history_event_type", "history_is_organic", "request_timestamp")
    short = {**dict.fromkeys(absent)}
    spelt_out = {
        "history_play_ratio": [[-1.0] * 4],
        "history_event_type": [["listen"] * 4],
        "history_is_organic": [[-1] * 4],
        "request_timestamp": [1_200],  # while the seed item plays
    }
    broadcast = {
        "history_play_ratio": [[-1.0]],
        "history_event_type": [[""]],
        "history_is_organic": [[-1]],
        "request_timestamp": [-1],
    }
    expected = embedded(built.towers, **spelt_out)
    for model in (built.towers, exact):
        np.testing.assert_allclose(embedded(model, **short), expected, atol=1e-6)
        np.testing.assert_allclose(embedded(model, **broadcast), expected, atol=1e-6)
    assert not np.allclose(
        embedded(built.towers, **{**spelt_out, "request_timestamp": [90_000]}), expected, atol=1e-4
    )


def test_the_age_of_a_request_is_zero_whenever_it_is_made(built: Built) -> None:
    """Shifts a request by 26 weeks, with the same hour of the week and the same gaps."""
    weeks = 26 * 7 * 86_400
    later = {
        "history_timestamp": [[weeks + 600, weeks + 700, weeks + 900, weeks + 1_200]],
        "request_timestamp": [weeks + 5_000],
    }
    np.testing.assert_allclose(embedded(built.towers, **later), embedded(built.towers), atol=1e-6)


def test_empty_histories_unknown_users_and_unknown_items_are_answered(built: Built, exact: Any) -> None:
    batch = request(
        user_id=[3, 10**12, 3, -1],
        history_item_id=[[-1, -1], [-1, -1], [NOT_IN_CATALOG, 10**15], [5, NOT_IN_CATALOG]],
        history_timestamp=[[0, 0], [0, 0], [600, 700], [600, 700]],
        history_play_ratio=None,
        history_event_type=None,
        history_is_organic=None,
        request_timestamp=None,
    )
    answer = exact.recommend(**batch, k=tf.constant(K))
    assert np.isfinite(answer["score"]).all() and (answer["item_id"].numpy() >= 0).all()
    narrow = {
        **batch,
        "history_item_id": tf.zeros([4, 0], tf.int64),
        "history_timestamp": tf.zeros([4, 0], tf.int64),
    }
    empty = exact.query_embedding(**narrow)["embedding"].numpy()
    np.testing.assert_allclose(empty[:2], exact.query_embedding(**batch)["embedding"][:2], atol=1e-6)
    assert not np.allclose(empty[0], empty[1], atol=1e-4)  # the user id counts even without a history
    # The batch does not affect its queries.
    assert np.isfinite(exact.query_embedding(**batch)["embedding"]).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_play_ratio_that_is_no_number_counts_as_unknown(built: Built, value: float) -> None:
    known = {"history_play_ratio": [[-1.0, 0.5, 0.5, -1.0]]}
    broken = {"history_play_ratio": [[value, 0.5, 0.5, -1.0]]}
    np.testing.assert_array_equal(embedded(built.towers, **broken), embedded(built.towers, **known))


def test_requests_that_would_cost_too_much_are_refused_before_anything_is_computed(exact: Any) -> None:
    """Checks that a refusal takes no memory: the greatest k would take gigabytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for k in (2**31 - 1, MAX_K + 1):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"index\.max_k"):
            exact.signatures["serving_default"](
                **request_tensors(exact.signatures["serving_default"], {**request(), "k": k})
            )
    for k in (0, -1, -(2**31)):
        told = rf"k is\] \[{k}\] \[and this model answers with 1 to {MAX_K} items \(index\.max_k\)"
        with pytest.raises(tf.errors.InvalidArgumentError, match=told):
            exact.recommend(**request(), k=tf.constant(k))
    long = np.zeros([1, MOST_VALUES + 1], np.int64)
    for name in ("exclude_item_id", "allow_item_id"):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"{name} has more than 100000 values"):
            exact.recommend(**request(), k=tf.constant(K), **{name: tf.constant(long)})
    with pytest.raises(tf.errors.InvalidArgumentError, match="history_item_id has more than 100000 values"):
        exact.query_embedding(**request(history_item_id=long, history_timestamp=long))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


def test_a_batch_of_many_long_lists_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_sizes, "MOST_VALUES_OF_BATCH", 30)

    @tf.function
    def serve(values: Any) -> Any:
        return request_sizes.checked(values, QUERY_INPUTS[:3], MAX_K)

    def batch(queries: int, events: int) -> dict[str, tf.Tensor]:
        zeros = tf.zeros([queries, events], tf.int64)
        return {"user_id": zeros[:, 0], "history_item_id": zeros, "history_timestamp": zeros}

    assert serve(batch(6, 5))["history_item_id"].shape == (6, 5)
    told = r"more than 30 places of lists: send fewer queries than\] \[7\] \[or shorter lists than\] \[5\]"
    with pytest.raises(tf.errors.InvalidArgumentError, match=told):
        serve(batch(7, 5))


TWO = {
    "user_id": [3, 4],
    "history_item_id": [[5, 6, 12]] * 2,
    "history_timestamp": [[600, 700, 900]] * 2,
    "history_play_ratio": None,
    "history_event_type": None,
    "history_is_organic": None,
    "request_timestamp": None,
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"user_id": [3]}, r"user_id has the sizes\] \[1\] \[and history_item_id\] \[2 3\]"),
        ({"user_id": [3, 4, 5]}, r"user_id has the sizes\] \[3\] \[and history_item_id\] \[2 3\]"),
        ({"history_item_id": [[5, 6, 12]]}, r"user_id has the sizes\] \[2\] \[and history_item_id\] \[1 3\]"),
        ({"history_timestamp": [[9]] * 2}, r"history_timestamp has the sizes\] \[2 1\] .* \[2 3\]"),
        ({"history_timestamp": [[6, 7, 9]]}, r"history_timestamp has the sizes\] \[1 3\] .* \[2 3\]"),
        ({"history_timestamp": [[1, 2]] * 2}, r"history_timestamp has the sizes\] \[2 2\] .* \[2 3\]"),
        ({"history_play_ratio": [[0.5]]}, r"history_play_ratio has the sizes\] \[1 1\] .* \[2 3\]"),
        ({"history_play_ratio": [[-1], [0.5]]}, r"history_play_ratio has the sizes\] \[2 1\] .* \[2 3\]"),
        ({"history_play_ratio": [[-1.0] * 3]}, r"history_play_ratio has the sizes\] \[1 3\] .* \[2 3\]"),
        ({"history_event_type": [["like"]]}, r"history_event_type has the sizes\] \[1 1\] .* \[2 3\]"),
        ({"request_timestamp": [900]}, r"request_timestamp has the sizes\] \[1\] .* \[2 3\]"),
        ({"exclude_item_id": [[7]]}, r"exclude_item_id has the sizes\] \[1 1\] .* \[2 3\]"),
        ({"exclude_item_id": [[-1, 7]]}, r"exclude_item_id has the sizes\] \[1 2\] .* \[2 3\]"),
        ({"allow_item_id": [[-1]] * 3}, r"allow_item_id has the sizes\] \[3 1\] .* \[2 3\]"),
    ],
)
def test_inputs_of_different_sizes_are_named_with_both_sizes(
    exact: Any, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=told):
        exact.recommend(**request(**(TWO | changes)), k=tf.constant(K))
    if not {"exclude_item_id", "allow_item_id"} & changes.keys():
        with pytest.raises(tf.errors.InvalidArgumentError, match=told):
            exact.query_embedding(**request(**(TWO | changes)))


def test_a_default_stands_for_all_places(exact: Any) -> None:
    expected = exact.recommend(**request(**TWO), k=tf.constant(K))
    for once in (1, 2):
        defaults = {
            one.name: [one.default] * once if one.is_single else [[one.default]] * once
            for one in REQUEST_INPUTS.values()
            if not one.is_required and one.shape != PER_CALL
        }
        answer = exact.recommend(**request(**(TWO | defaults)), k=tf.constant(K))
        for name, values in expected.items():
            np.testing.assert_array_equal(answer[name], values)


@pytest.mark.parametrize("events", [0, 3])
def test_a_batch_without_queries_gets_no_rows(exact: Any, sparse: RetrievalModel, events: int) -> None:
    none = tf.zeros([0, events], tf.int64)
    for model in (exact, sparse):
        empty = {"user_id": none[:, 0][:0] if events else tf.zeros([0], tf.int64)}
        empty |= {"history_item_id": none, "history_timestamp": none}
        answer = model.recommend(**empty, k=tf.constant(K))
        assert (answer["item_id"].shape, answer["score"].shape) == ((0, K), (0, K))
        assert model.query_embedding(**empty)["embedding"].shape[0] == 0
        full = {**empty, "exclude_item_id": tf.zeros([0, 2], tf.int64)}
        assert model.recommend(**full, k=tf.constant(K))["item_id"].shape == (0, K)


def test_zero_is_an_item_and_no_padding(exact: Any) -> None:
    """Sends item 0 in the history and in lists; -1 in its place changes nothing."""
    none = {"history_play_ratio": None, "history_event_type": None, "history_is_organic": None}

    def asked(items: list[int], **more: Any) -> Any:
        times = list(range(0, 100 * len(items), 100))
        sent = request(history_item_id=[items], history_timestamp=[times], **none, **more)
        return exact.recommend(**sent, k=tf.constant(MAX_K))

    padded, zero = asked([5, 12, -1])["score"].numpy(), asked([5, 12, 0])["score"].numpy()
    np.testing.assert_allclose(padded, asked([5, 12])["score"].numpy(), atol=1e-5)
    assert np.abs(zero - padded).max() > 1e-3
    first = int(asked([5, 12], allow_item_id=[[0, -1]])["item_id"].numpy()[0, 0])
    assert first == 0
    assert 0 not in asked([5, 12], exclude_item_id=[[0, -1]])["item_id"].numpy()


# Answers.


def random_requests(size: int = 30, **more: Any) -> dict[str, tf.Tensor]:
    draw = np.random.default_rng(8)
    absent = dict.fromkeys(
        ["history_play_ratio", "history_event_type", "history_is_organic", "request_timestamp"]
    )
    return request(
        user_id=draw.integers(0, 20, size),
        history_item_id=draw.integers(0, 60, [size, 5]),
        history_timestamp=np.cumsum(draw.integers(0, 500, [size, 5]), axis=1),
        **absent,
        **more,
    )


def check(answer: dict[str, tf.Tensor], k: int, excluded: np.ndarray | None = None) -> np.ndarray:
    """Checks the invariants of every answer, and returns the number of items of each query."""
    items, scores = answer["item_id"].numpy(), answer["score"].numpy()
    assert items.shape == scores.shape and items.shape[1] == k
    found = items >= 0
    assert not np.isnan(scores).any()
    np.testing.assert_array_equal(np.isfinite(scores), found)
    assert (items[~found] == -1).all() and (scores[~found] == -np.inf).all()
    assert (found[:, :-1] >= found[:, 1:]).all(), "padding is at the end"
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    for row, own in enumerate(items):
        own = own[own >= 0]
        assert len(own) == len(set(own))
        if excluded is not None:
            assert not set(own) & set(excluded[row])
    return found.sum(axis=1)


@pytest.mark.parametrize("k", [1, K, MAX_K])
def test_served_items_score_what_their_embeddings_say(exact: Any, sparse: RetrievalModel, k: int) -> None:
    batch = random_requests()
    for model in (exact, sparse):
        answer = model.recommend(**batch, k=tf.constant(k))
        check(answer, k)
        query = model.query_embedding(**batch)["embedding"].numpy()
        for row, (items, scores) in enumerate(
            zip(answer["item_id"].numpy(), answer["score"].numpy(), strict=True)
        ):
            known = items >= 0
            candidates = model.candidate_embedding(tf.constant(items[known]))["embedding"].numpy()
            np.testing.assert_allclose(scores[known], candidates @ query[row], atol=1e-5)


def test_exact_search_finds_the_best_and_scann_over_all_its_leaves_too(built: Built, exact: Any) -> None:
    batch = random_requests()
    query = exact.query_embedding(**batch)["embedding"].numpy()
    candidates = exact.candidate_embedding(tf.range(CATALOG_SIZE, dtype=tf.int64))["embedding"].numpy()
    best = -np.sort(-(query @ candidates.T), axis=1)[:, :K]
    dense = retrieval_model(exact.towers, CATALOG_SIZE, DENSE)
    for model in (exact, dense):
        answer = model.recommend(**batch, k=tf.constant(K))
        assert (check(answer, K) == K).all()
        np.testing.assert_allclose(answer["score"], best, atol=1e-5)


def test_what_scann_does_not_find_is_found_exactly(
    exact: Any, sparse: RetrievalModel, tmp_path: Path
) -> None:
    batch = random_requests()
    # ScaNN's raw answer has NaN, or fewer columns if every query finds few items.
    query = sparse.query_embedding(**batch)["embedding"]
    raw = sparse.index.search(query, tf.constant(CATALOG_SIZE))[1].numpy()
    assert raw.shape[1] < CATALOG_SIZE or np.isnan(raw).any()
    # The saved model fills it up.
    sparse.save(str(tmp_path / "sparse"))
    saved = tf.saved_model.load(str(tmp_path / "sparse")).signatures["serving_default"]
    answer = saved(**request_tensors(saved, random_requests(exclude_item_id=[[-1]], k=MAX_K)))
    assert (check(answer, MAX_K) == MAX_K).all()
    # Exact search answers queries for which ScaNN finds too few items.
    short = np.flatnonzero((~np.isnan(raw)).sum(axis=1) < MAX_K)
    assert len(short)
    best = exact.recommend(**batch, k=tf.constant(MAX_K))
    np.testing.assert_array_equal(answer["item_id"].numpy()[short], best["item_id"].numpy()[short])


def test_lists_of_items_are_answered_as_by_exact_search_and_in_full(
    built: Built, exact: Any, sparse: RetrievalModel
) -> None:
    """Restricts requests: most items excluded, few allowed, both; unknown ids and repetitions too."""
    batch = random_requests()
    draw = np.random.default_rng(2)
    query = exact.query_embedding(**batch)["embedding"].numpy()
    scores = query @ exact.candidate_embedding(tf.range(CATALOG_SIZE, dtype=tf.int64))["embedding"].numpy().T
    most = np.array([draw.permutation(CATALOG_SIZE)[:60] for _ in range(30)])
    few = np.array([draw.permutation(CATALOG_SIZE)[:9] for _ in range(30)])
    worst = np.argsort(scores, axis=1)[:, :12]
    mixed = np.where(np.arange(30)[:, None] % 2 == 0, few, -1)
    nothing = np.full([30, 1], -1)
    cases = {
        "most excluded": (np.hstack([most, most[:, :3], np.full([30, 2], 10**12)]), nothing),
        "rare ones allowed": (nothing, np.hstack([worst, worst[:, :1], np.full([30, 1], -1)])),
        "for some only": (mixed, mixed[::-1]),
        "allowed and excluded": (few, np.hstack([few[:, :4], worst])),
        "the same lists for all": (np.tile(most[:1, :30], [30, 1]), np.tile(worst[:1], [30, 1])),
        "an unknown item alone": (nothing, np.full([30, 1], 10**12)),
    }
    for name, (exclude, allow) in cases.items():
        for model in (exact, sparse):
            answer = model.recommend(
                **batch,
                exclude_item_id=tf.constant(exclude, tf.int64),
                allow_item_id=tf.constant(allow, tf.int64),
                k=tf.constant(K),
            )
            check(answer, K)
            for row in range(30):
                denied, own = set(exclude[row]), set(allow[row]) - {-1}
                eligible = [i for i in range(CATALOG_SIZE) if i not in denied and (i in own or not own)]
                expected = sorted(eligible, key=lambda item: -scores[row, item])[:K]
                got = [item for item in answer["item_id"].numpy()[row].tolist() if item >= 0]
                assert len(got) == len(expected) and set(got) <= set(eligible), (name, row)
                if model is exact or len(eligible) <= 12:
                    assert got == expected, (name, row)


def test_the_exact_fallback_costs_nothing_where_it_is_not_needed(sparse: RetrievalModel) -> None:
    """Finds exact search's product over the catalog in a branch of the graph alone."""
    graph = sparse.recommend.get_concrete_function().graph
    operations = {operation.type for operation in graph.get_operations()}
    assert operations & {"If", "StatelessIf"}
    assert not operations & {"While", "StatelessWhile"}, "exact search is a loop over parts of the queries"


@pytest.mark.parametrize("settings", [None, SPARSE], ids=["exact", "ScaNN"])
def test_a_request_s_history_is_not_returned_where_items_are_not_recommended_again(
    built: Built, settings: ScannSettings | None
) -> None:
    towers = tf.saved_model.load(built.towers_path)
    again, once = (retrieval_model(towers, CATALOG_SIZE, settings, repeats) for repeats in (True, False))
    batch = random_requests()
    history, k = batch["history_item_id"], tf.constant(K)
    expected = again.recommend(**batch, exclude_item_id=history, k=k)
    found = once.recommend(**batch, k=k)
    assert found["item_id"].numpy().tolist() == expected["item_id"].numpy().tolist()
    assert found["item_id"].numpy().tolist() != again.recommend(**batch, k=k)["item_id"].numpy().tolist()
    # The request's own exclusions apply too.
    named = found["item_id"][:, :2]
    check(once.recommend(**batch, exclude_item_id=named, k=k), K, np.hstack([history.numpy(), named.numpy()]))


def test_excluded_items_are_not_returned_and_others_take_their_place(
    exact: Any, sparse: RetrievalModel
) -> None:
    batch = random_requests()
    unrestricted = exact.recommend(**batch, k=tf.constant(20))
    # Half of the best items in any order, with padding, unknown ids and repetitions.
    excluded = np.hstack(
        [unrestricted["item_id"].numpy()[:, [6, 0, 2, 4, 4]], np.tile([[-1, 10**12, -1]], [30, 1])]
    )
    answer = exact.recommend(**batch, exclude_item_id=tf.constant(excluded), k=tf.constant(K))
    assert (check(answer, K, excluded) == K).all()
    for row in range(30):
        left = [item for item in unrestricted["item_id"].numpy()[row] if item not in excluded[row]]
        assert answer["item_id"].numpy()[row].tolist() == left[:K]
    check(sparse.recommend(**batch, exclude_item_id=tf.constant(excluded), k=tf.constant(K)), K, excluded)
    # Nearly all items, and rows of different lengths.
    everything = np.tile(np.arange(CATALOG_SIZE)[3:], [30, 1])
    few = exact.recommend(**batch, exclude_item_id=tf.constant(everything), k=tf.constant(K))
    assert (check(few, K, everything) == 3).all()
    none = np.full([30, 2], -1)
    none[7, 0] = int(unrestricted["item_id"][7, 0])
    mixed = exact.recommend(**batch, exclude_item_id=tf.constant(none), k=tf.constant(K))
    np.testing.assert_array_equal(mixed["item_id"][8], unrestricted["item_id"][8, :K])
    assert int(mixed["item_id"][7, 0]) == int(unrestricted["item_id"][7, 1])


def test_a_catalog_smaller_than_k_is_returned_whole(exact: Any) -> None:
    retrieval = retrieval_model(exact.towers, 100)
    found = check(retrieval.recommend(**random_requests(), k=tf.constant(100)), 100)
    assert (found == CATALOG_SIZE).all()
    retrieval = retrieval_model(exact.towers, 100, DENSE)
    found = check(retrieval.recommend(**random_requests(), k=tf.constant(100)), 100)
    assert (found == CATALOG_SIZE).all()


def test_k_above_the_built_maximum_is_an_error_that_names_the_setting(exact: Any) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"index\.max_k"):
        exact.recommend(**random_requests(), k=tf.constant(MAX_K + 1))


def test_an_unknown_item_is_embedded_as_one_of_which_nothing_is_known(exact: Any) -> None:
    unknown = exact.candidate_embedding(tf.constant([NOT_IN_CATALOG, 10**15, -1], tf.int64))[
        "embedding"
    ].numpy()
    assert np.isfinite(unknown).all()
    np.testing.assert_array_equal(unknown, np.tile(unknown[:1], [3, 1]))


def test_signatures_take_what_clients_send_and_want_no_more_of_them(built: Built) -> None:
    of_served = signature_def(built.served_path, "serving_default")
    required = {"user_id", "history_item_id", "history_timestamp"}
    optional = {
        "history_play_ratio",
        "history_event_type",
        "history_is_organic",
        "request_timestamp",
        "exclude_item_id",
        "allow_item_id",
        "k",
    }
    assert set(of_served.inputs) - set(of_served.defaults) == required
    assert optional <= set(of_served.defaults)


def signature_def(path: str, name: str) -> Any:
    from tensorflow.core.protobuf import saved_model_pb2

    content = Path(path, "saved_model.pb").read_bytes()
    return saved_model_pb2.SavedModel.FromString(content).meta_graphs[0].signature_def[name]


def test_signatures_are_those_of_the_table(built: Built, exact: Any) -> None:
    assert {one.name for one in SERVED_SIGNATURES} == set(exact.signatures)
    for one in SERVED_SIGNATURES:
        saved = signature_def(built.served_path, one.name)
        assert set(saved.inputs) == {each.name for each in one.inputs}
        for each in one.inputs:
            spec = saved.inputs[each.name]
            assert tf.as_dtype(spec.dtype) == tf.as_dtype(each.dtype), each.name
            sizes = [None if dim.size < 0 else dim.size for dim in spec.tensor_shape.dim]
            assert sizes == each.sizes, each.name
            if not each.is_required:
                default = tf.make_ndarray(saved.defaults[each.name])
                expected = tf.constant(each.default_value, each.dtype).numpy()
                np.testing.assert_array_equal(default, expected, err_msg=each.name)
                assert default.shape == expected.shape
        outputs = {out.name: out for out in one.outputs if out.name in saved.outputs or not out.requires}
        assert set(saved.outputs) == set(outputs)
        for name, out in outputs.items():
            assert tf.as_dtype(saved.outputs[name].dtype) == tf.as_dtype(out.dtype), name
            assert len(saved.outputs[name].tensor_shape.dim) == len(out.shape.axes), name
    assert exact.signatures["catalog"]()["item_id"].numpy().tolist() == list(range(CATALOG_SIZE))


def test_the_index_says_what_it_holds(exact: Any, sparse: RetrievalModel) -> None:
    rows = tf.constant([69, 0, 3])
    for model in (exact, sparse):
        held = model.indexed_embedding(rows)
        assert held["item_id"].numpy().tolist() == [69, 0, 3]
        made = model.candidate_embedding(held["item_id"])["embedding"]
        np.testing.assert_array_equal(held["embedding"], made)


def test_the_index_is_tuned_on_queries_of_eval_or_else_of_train(built: Built, tmp_path: Path) -> None:
    from tests.small_world import SPLIT, WindowCutter, events, write_examples
    from two_tower.base.errors import UserError
    from two_tower.evaluation.tuning_queries import tuning_queries

    batches, _ = WindowCutter(
        SPLIT, repeats_recommendable=True, history_length=HISTORY_LENGTH, positions=10
    ).cut(events())
    directories = [str(tmp_path / f"Split-{split}") for split in ("eval", "train")]

    def tuned_on(**written: list[Any]) -> np.ndarray:
        for split, parts in written.items():
            write_examples(tmp_path / f"Split-{split}" / "data_tfrecord-0.gz", parts)
        return tuning_queries(directories, built.towers, HISTORY_LENGTH, (), most=40)[0]

    def asked(split: str) -> np.ndarray:
        windows = measure.read_windows(str(tmp_path / f"Split-{split}"))
        return built.towers.query_embedding(**requests(windows, all_queries(windows)))["embedding"].numpy()

    def is_of(split: str, found: np.ndarray) -> bool:
        distances = np.abs(found[:, np.newaxis] - asked(split)).max(axis=2).min(axis=1)
        return len(found) == 40 and bool(distances.max() < 1e-5)

    # The directory has no test split to read.
    assert is_of("eval", tuned_on(train=[batches["train"]], eval=[batches["eval"]]))
    assert is_of("train", tuned_on(eval=[]))
    with pytest.raises(UserError, match="Neither eval nor train"):
        tuned_on(train=[])


def test_a_query_without_a_known_item_is_searched_exactly(built: Built, exact: Any) -> None:
    """Asks an index that searches one leaf: with a history it misses items, without one it must not."""
    coarse = retrieval_model(
        tf.saved_model.load(built.towers_path), CATALOG_SIZE, ScannSettings(4, 1, 10, quantization=AH, k=10)
    )
    size = 30
    draw = np.random.default_rng(5)
    plain: dict[str, Any] = dict.fromkeys(
        ["history_play_ratio", "history_event_type", "history_is_organic", "request_timestamp"]
    )
    users = draw.integers(0, 10**6, size)
    known = draw.integers(0, 60, [size, 3])

    def differ(items: np.ndarray) -> np.ndarray:
        asked = request(
            user_id=users, history_item_id=items, history_timestamp=np.full(items.shape, 600), **plain
        )
        found, wanted = (
            model.recommend(**asked, k=tf.constant(K))["item_id"].numpy() for model in (coarse, exact)
        )
        return (np.sort(found, axis=1) != np.sort(wanted, axis=1)).any(axis=1)

    assert differ(known).mean() > 0.2
    for nothing in (
        np.full([size, 3], -1),
        np.full([size, 3], NOT_IN_CATALOG),
        np.zeros([size, 0], np.int64),
    ):
        assert not differ(nothing).any()
    # One query without a history among others.
    mixed = np.where(np.arange(size)[:, np.newaxis] % 2 == 0, -1, known)
    assert not differ(mixed)[::2].any() and differ(mixed)[1::2].any()


def test_a_model_that_does_not_load_is_named(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"garbage")
    with pytest.raises(UserError, match=rf"{tmp_path}: the model does not load \("):
        load_model(str(tmp_path))
