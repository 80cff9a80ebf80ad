"""Served model of text ids: requests and answers in texts are those of their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from two_tower.schema import text_ids
from two_tower.schema.request_inputs import BY_NUMBER, ITEM, QUERY_INPUTS, IdKinds
from two_tower.serving.id_texts import IdTexts, texts_of
from two_tower.serving.index import ExactIndex
from two_tower.serving.request_tensors import request_tensors, signature_by_number
from two_tower.serving.retrieval_model import RetrievalModel
from two_tower.trainer.model.signatures import signature, tensor_spec

pytestmark = pytest.mark.slow

TEXTS = np.array([f"SKU-{number}-é" for number in range(20)], object)
NUMBERS = text_ids.numbers_of(TEXTS)
BY_ID = np.argsort(NUMBERS)
K = 5


class Towers(tf.Module):
    """Towers of fixed vectors: a query is the sum of its history's items and of its user's remainder."""

    def __init__(self) -> None:
        super().__init__()
        draw = np.random.default_rng(2)
        self._items = tf.Variable(draw.normal(size=(len(TEXTS) + 1, 4)).astype(np.float32))
        self._users = tf.Variable(draw.normal(size=(7, 4)).astype(np.float32))
        self._ascending = tf.Variable(NUMBERS[BY_ID])
        self._row = tf.Variable(BY_ID.astype(np.int32))
        self.query_embedding = signature(self._query, QUERY_INPUTS)

    def _rows(self, item_id: tf.Tensor) -> tf.Tensor:
        place = tf.minimum(tf.searchsorted(self._ascending, tf.reshape(item_id, [-1])), len(TEXTS) - 1)
        is_one = tf.gather(self._ascending, place) == tf.reshape(item_id, [-1])
        return tf.reshape(tf.where(is_one, tf.gather(self._row, place), len(TEXTS)), tf.shape(item_id))

    def _query(self, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        history = inputs["history_item_id"]
        vectors = tf.gather(self._items, self._rows(history)) * tf.cast(history >= 0, tf.float32)[..., None]
        return {"embedding": tf.reduce_sum(vectors, 1) + tf.gather(self._users, inputs["user_id"] % 7)}

    @tf.function(input_signature=[tensor_spec(ITEM)])
    def candidate_embedding(self, item_id: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": tf.gather(self._items, self._rows(item_id))}


def saved(place: Path, kinds: IdKinds) -> Any:
    towers = Towers()
    items = tf.constant(NUMBERS)
    index = ExactIndex(towers.candidate_embedding(items)["embedding"])
    texts = np.array([text.encode() for text in TEXTS], object) if kinds.item_id == text_ids.TEXT else None
    RetrievalModel(towers, index, items, 20, ids=kinds, item_text=texts).save(str(place))
    return tf.saved_model.load(str(place))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return saved(tmp_path_factory.mktemp("texts"), IdKinds(text_ids.TEXT, text_ids.TEXT))


def ask(serve: Any, **values: Any) -> dict[str, np.ndarray]:
    return {name: one.numpy() for name, one in serve(**request_tensors(serve, values)).items()}


def numbers_in(values: Any) -> Any:
    """Returns numbers for texts, of any nesting."""
    if isinstance(values, list):
        return [numbers_in(one) for one in values]
    return text_ids.number_of(values) if values else -1


REQUESTS: list[dict[str, Any]] = [
    {"user_id": ["zoe", "adam"], "history_item_id": [["SKU-1-é", "SKU-7-é"], ["SKU-3-é", ""]]},
    {"user_id": ["zoe"], "history_item_id": [["", "nobody sells it", "SKU-7-é"]]},
    {"user_id": ["zoe"], "history_item_id": [["SKU-1-é"]], "exclude_item_id": [["SKU-2-é", "", "SKU-1-é"]]},
    {"user_id": ["zoe"], "history_item_id": [["SKU-1-é"]], "allow_item_id": [["SKU-9-é", "SKU-4-é", "x"]]},
]


@pytest.mark.parametrize("request_of", REQUESTS)
def test_a_request_in_texts_is_answered_as_by_number(model: Any, request_of: dict[str, Any]) -> None:
    rest = {"history_timestamp": np.zeros(np.shape(request_of["history_item_id"]), np.int64), "k": K}
    said = ask(model.signatures["serving_default"], **request_of, **rest)
    by_number = {name: numbers_in(values) for name, values in request_of.items()}
    expected = ask(signature_by_number(model, "serving_default"), **by_number, **rest)
    assert said["item_id"].dtype == object and expected["item_id"].dtype == np.int64
    assert [[numbers_in(one.decode()) for one in row] for row in said["item_id"]] == expected[
        "item_id"
    ].tolist()
    np.testing.assert_array_equal(said["score"], expected["score"])
    # The answers hold items, and lists are obeyed.
    assert (expected["item_id"][:, :2] >= 0).all()
    found = {one.decode() for one in said["item_id"].ravel()}
    assert not found & set(np.ravel(request_of.get("exclude_item_id", ["none"])).tolist()) - {""}
    if "allow_item_id" in request_of:
        assert found == {"SKU-9-é", "SKU-4-é", ""}


def test_the_user_and_the_history_change_the_answer(model: Any) -> None:
    serve = model.signatures["query_embedding"]
    rest = {"history_timestamp": [[0]]}
    one = ask(serve, user_id=["zoe"], history_item_id=[["SKU-1-é"]], **rest)["embedding"]
    assert not np.allclose(
        one, ask(serve, user_id=["bo"], history_item_id=[["SKU-1-é"]], **rest)["embedding"]
    )
    assert not np.allclose(
        one, ask(serve, user_id=["zoe"], history_item_id=[["SKU-2-é"]], **rest)["embedding"]
    )


def test_the_catalog_and_the_embeddings_speak_texts(model: Any) -> None:
    texts = [text.encode() for text in TEXTS]
    assert model.catalog()["item_id"].numpy().tolist() == texts
    assert signature_by_number(model, "catalog")()["item_id"].numpy().tolist() == NUMBERS.tolist()
    rows = model.indexed_embedding(tf.constant([3, 0]))
    assert rows["item_id"].numpy().tolist() == [texts[3], texts[0]]
    by_text = model.candidate_embedding(tf.constant(["SKU-3-é", "SKU-0-é"]))["embedding"].numpy()
    np.testing.assert_array_equal(by_text, rows["embedding"].numpy())


@pytest.mark.parametrize(
    ("kinds", "user", "item"),
    [
        (IdKinds(text_ids.TEXT, text_ids.INTEGER), "zoe", int(NUMBERS[1])),
        (IdKinds(text_ids.INTEGER, text_ids.TEXT), 7, TEXTS[1]),
        (IdKinds(), 7, int(NUMBERS[1])),
    ],
)
def test_users_and_items_have_kinds_of_their_own(
    kinds: IdKinds, user: Any, item: Any, tmp_path: Path
) -> None:
    mixed = saved(tmp_path / "model", kinds)
    said = ask(
        mixed.signatures["serving_default"],
        user_id=[user],
        history_item_id=[[item]],
        history_timestamp=[[0]],
        k=K,
    )
    first = said["item_id"][0, 0]
    assert isinstance(first, bytes) == (kinds.item_id == text_ids.TEXT)
    # A model of integers has no second form of its signatures.
    assert any(name.endswith(BY_NUMBER) for name in mixed.signatures) == kinds.has_text
    assert IdTexts.of_model(mixed, NUMBERS).kinds == kinds


def test_texts_of_numbers_that_nobody_knows_stay_apart() -> None:
    texts = texts_of(np.array([[5, -1], [6, 7]]), {5: "five"})
    assert texts.tolist() == [["five", ""], ["?6", "?7"]]


def test_sizes_of_texts_agree_and_an_empty_batch_gets_no_rows(model: Any) -> None:
    one = {"history_item_id": tf.constant([[TEXTS[0]]]), "history_timestamp": tf.constant([[5]], tf.int64)}
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"user_id has the sizes\] \[2\] .* \[1 1\]"):
        model.recommend(user_id=tf.constant(["zoe", "amy"]), **one, k=tf.constant(K))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"exclude_item_id has the sizes\] \[2 1\]"):
        excluded = tf.constant([[TEXTS[0]]] * 2)
        model.recommend(user_id=tf.constant(["zoe"]), **one, exclude_item_id=excluded, k=tf.constant(K))
    empty = {"user_id": tf.zeros([0], tf.string), "history_item_id": tf.zeros([0, 2], tf.string)}
    answer = model.recommend(**empty, history_timestamp=tf.zeros([0, 2], tf.int64), k=tf.constant(K))
    assert answer["item_id"].dtype == tf.string
    assert (answer["item_id"].shape, answer["score"].shape) == ((0, K), (0, K))
