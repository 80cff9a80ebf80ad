from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from two_tower.base.settings import with_values
from two_tower.trainer.model import towers
from two_tower.trainer.model.catalog_table import CatalogArrays, CatalogTable
from two_tower.trainer.model.encoder_registry import CHOICES
from two_tower.trainer.model.item_embedding import ItemEmbedding
from two_tower.trainer.model.towers import CandidateTower, QueryTower
from two_tower.trainer.model.windows import Positions, Windows
from two_tower.trainer.settings import DEFAULT_PARTS, Dropout, TrainerConfig

ITEMS, USERS, EVENTS, AGGREGATES = 30, 4, 9, 6
N = 4
DOT_PRODUCT = tuple(part for part in DEFAULT_PARTS if part != "normalisation")
CONFIG = TrainerConfig(
    embedding_dim=8, query_hidden_units=(16,), dropout=Dropout(hidden=0.5, id=0.5, history=0.5)
)
ARTIST = np.stack([np.arange(ITEMS) // 3, np.full(ITEMS, -1)], axis=1).astype(np.int32)
ARTIST[4] = [0, 5]
# Train has items below 20. Items 25 to 29 also have unknown artists and albums.
LENGTH = np.linspace(-1, 1, ITEMS).astype(np.float32)
TABLE = CatalogTable(CatalogArrays(np.arange(ITEMS), ARTIST, ARTIST, LENGTH), np.arange(20))


@dataclasses.dataclass(frozen=True)
class Model:
    items: ItemEmbedding
    query: QueryTower
    candidate: CandidateTower


@pytest.fixture(scope="module", params=CHOICES)
def model(request: pytest.FixtureRequest) -> Model:
    """Random weights everywhere, so that every input matters."""
    return model_of(dataclasses.replace(CONFIG, encoder=request.param))


def model_of(config: TrainerConfig, **changes: Any) -> Model:
    items = ItemEmbedding(TABLE, config)
    model = Model(items, QueryTower(items, USERS, N, config), CandidateTower(items, config))
    model.query(windows(**changes), positions((0, 0)))
    model.candidate(tf.constant([0]))
    randomize([*model.query.trainable_weights, *model.candidate.trainable_weights])
    return model


def randomize(weights: list[Any]) -> None:
    draw = np.random.default_rng(2)
    for weight in weights:
        weight.assign(draw.normal(0, 0.4, weight.shape))


def windows(**changes: Any) -> Windows:
    """Returns two windows of nine events, every third a reaction."""
    draw = np.random.default_rng(1)
    values = {
        "user": np.array([1, USERS], np.int64),
        "length": np.full(2, EVENTS, np.int32),
        "rows": draw.integers(0, 20, [2, EVENTS]).astype(np.int32),
        "is_listen": np.arange(2 * EVENTS).reshape(2, EVENTS) % 3 != 2,
        "play_ratio": np.full([2, EVENTS], -1.0, np.float32),
        "elapsed": np.cumsum(draw.integers(0, 5_000, [2, EVENTS]), axis=1),
        "example_age": np.zeros([2, EVENTS], np.float32),
        "aggregates": draw.normal(size=[2, EVENTS, AGGREGATES]).astype(np.float32),
        "user_numbers": np.zeros([2, 0], np.float32),
    } | changes
    tensors = {name: None if value is None else tf.constant(value) for name, value in values.items()}
    return Windows(**tensors, user_values={})


def positions(*at: tuple[int, int]) -> Positions:
    window, event = np.array(at, np.int32).T
    return Positions(tf.constant(window), tf.constant(event))


def changed(values: tf.Tensor, at: Any, to: Any) -> np.ndarray:
    copy = values.numpy().copy()
    copy[at] = to
    return copy


def embedded(model: Model, windows: Windows, *at: tuple[int, int]) -> np.ndarray:
    return model.query(windows, positions(*at)).numpy()


def test_embeddings_have_length_one(model: Model) -> None:
    every = [(w, e) for w in range(2) for e in range(EVENTS)]
    for vectors in (embedded(model, windows(), *every), model.candidate(tf.range(ITEMS + 1)).numpy()):
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
        assert vectors.shape[1] == CONFIG.embedding_dim


def test_a_query_sees_its_last_n_events_and_no_other(model: Model) -> None:
    base = windows()
    before = embedded(model, base, (0, 5))
    for event in range(EVENTS):
        item = (int(base.rows[0, event]) + 7) % 20
        after = embedded(model, base._replace(rows=tf.constant(changed(base.rows, (0, event), item))), (0, 5))
        seen = 5 - N < event <= 5
        # The seed item is read even if no listen; before it, only listens are.
        matters = event == 5 or (seen and bool(base.is_listen[0, event]))
        assert np.allclose(before, after, atol=1e-6) is not matters, event
    other = base._replace(rows=tf.constant(changed(base.rows, 1, 3)))
    np.testing.assert_allclose(before, embedded(model, other, (0, 5)), atol=1e-6)


@pytest.mark.parametrize("name", ["user", "example_age", "aggregates", "is_listen"])
def test_every_input_of_the_query_matters(model: Model, name: str) -> None:
    base = windows()
    value = getattr(base, name).numpy()
    other = ~value if value.dtype == bool else (value + 1) % (USERS + 1) if name == "user" else value + 1
    after = embedded(model, base._replace(**{name: tf.constant(other)}), (0, 5))
    assert not np.allclose(embedded(model, base, (0, 5)), after, atol=1e-4)


def test_an_empty_history_reads_nothing_of_event_0(model: Model) -> None:
    base = windows()
    rows = base._replace(rows=tf.constant(changed(base.rows, 0, 11)), aggregates=base.aggregates + 1)
    empty = embedded(model, base, (0, -1))
    assert np.isfinite(empty).all()
    np.testing.assert_allclose(empty, embedded(model, rows, (0, -1)), atol=1e-6)
    assert not np.allclose(empty, embedded(model, base, (0, 0)), atol=1e-4)
    assert not np.allclose(empty, embedded(model, base, (1, -1)), atol=1e-4)  # another user's


def test_what_train_never_touched_is_all_one_out_of_vocabulary_row(model: Model) -> None:
    same_length = tf.Variable(tf.zeros_like(TABLE.length))
    original, TABLE.length = TABLE.length, same_length
    try:
        new = model.candidate(tf.constant([25, 29, ITEMS])).numpy()
        # Items 18, 19 and 20 have one artist and album: 20 differs from them only in its id.
        of_known_artist = model.candidate(tf.constant([20, 18])).numpy()
    finally:
        TABLE.length = original
    np.testing.assert_array_equal(new[0], new[1])
    np.testing.assert_array_equal(new[0], new[2])
    assert not np.allclose(of_known_artist[0], new[0], atol=1e-4)
    assert not np.allclose(of_known_artist[0], of_known_artist[1], atol=1e-4)


def test_the_out_of_vocabulary_row_is_zero_until_id_dropout_trains_it() -> None:
    rows = tf.constant([0, 1, 2, 25])
    for id_dropout, trained in ((0.0, False), (0.5, True)):
        config = with_values(CONFIG, {"dropout.id": id_dropout})
        items = ItemEmbedding(TABLE, config)
        tf.random.set_seed(3)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(items(rows[:3], training=True) ** 2 + items(rows[:3], training=True))
        gradient = tf.convert_to_tensor(tape.gradient(loss, items.item))
        assert items.item[0].numpy().tolist() == [0.0] * CONFIG.embedding_dim
        assert bool(tf.reduce_any(gradient[0] != 0)) is trained


def test_an_item_of_which_nothing_is_known_has_a_gradient_like_any_other() -> None:
    """Checks the gradient's size: Adam would remember a millionfold one for hundreds of steps."""
    unknown, known = tf.Variable(tf.zeros([1, 4])), tf.Variable([[0.3, -0.2, 0.1, 0.4]])
    gradients = []
    for embedding in (unknown, known):
        with tf.GradientTape() as tape:
            score = towers._normalised(embedding, is_normalised=True)[0, 1]
        gradients.append(float(tf.norm(tape.gradient(score, embedding))))
    assert 0 < gradients[0] < 200 * gradients[1]


def test_items_of_several_artists_read_their_mean(model: Model) -> None:
    width = CONFIG.embedding_dim // 2
    begin = CONFIG.embedding_dim
    # Items 0 and 15 are of artists 0 and 5, item 4 of both.
    first, second, both = model.items(tf.constant([0, 15, 4])).numpy()[:, begin : begin + width]
    np.testing.assert_allclose(both, (first + second) / 2, atol=1e-6)


def test_dropout_is_for_training_alone(model: Model) -> None:
    at = [(0, 5), (1, 3)]
    served = embedded(model, windows(), *at)
    np.testing.assert_array_equal(served, embedded(model, windows(), *at))
    trained = model.query(windows(), positions(*at), training=True).numpy()
    assert not np.allclose(served, trained, atol=1e-4)


def test_both_towers_share_their_tables(model: Model) -> None:
    def ours(tower: Any) -> set[int]:
        return {id(weight) for weight in tower.trainable_weights}

    shared = {id(model.items.item), id(model.items.artist), id(model.items.album)}
    assert shared <= ours(model.query) & ours(model.candidate)


def test_a_packed_position_says_what_its_last_n_events_alone_say(model: Model) -> None:
    """Compares positions of long windows, as in training, with requests of N events, as in serving."""
    base, at = windows(), 7
    packed = embedded(model, base, (0, at), (1, at))
    last = slice(at - N + 1, at + 1)
    request = base._replace(
        length=tf.fill([2], N),
        **{
            name: getattr(base, name)[:, last]
            for name in ("rows", "is_listen", "elapsed", "example_age", "aggregates")
        },
    )
    np.testing.assert_allclose(packed, embedded(model, request, (0, N - 1), (1, N - 1)), atol=1e-5)


def test_padding_and_other_windows_change_nothing(model: Model) -> None:
    base = windows()
    shorter = base._replace(length=tf.constant([4, EVENTS]))
    padded = shorter._replace(rows=tf.constant(changed(base.rows, (0, slice(4, None)), ITEMS)))
    for at in ((0, 3), (1, 8)):
        np.testing.assert_allclose(
            embedded(model, shorter, at), embedded(model, padded, at), atol=1e-6, err_msg=str(at)
        )
    np.testing.assert_allclose(embedded(model, padded, (0, 3)), embedded(model, base, (0, 3)), atol=1e-6)


def test_attention_reads_how_much_time_lies_between_events_and_no_more() -> None:
    model = model_of(dataclasses.replace(CONFIG, encoder="attention"))
    base = windows()
    assert base.elapsed is not None
    before = embedded(model, base, (0, 7))
    later = base._replace(elapsed=base.elapsed + 1_000_000)
    np.testing.assert_allclose(before, embedded(model, later, (0, 7)), atol=1e-6)
    stretched = base._replace(elapsed=base.elapsed * 50)
    assert not np.allclose(before, embedded(model, stretched, (0, 7)), atol=1e-4)
    # Data without times has no weights for time.
    timeless = model_of(dataclasses.replace(CONFIG, encoder="attention"), elapsed=None)
    assert len(timeless.query.trainable_weights) < len(model.query.trainable_weights)
    assert np.isfinite(timeless.query(windows(elapsed=None), positions((0, 7)))).all()


PARTS = {
    "seed": ("rows", (0, 5)),
    "history": ("rows", (0, 4)),
    "user_id": ("user", 0),
    "example_age": ("example_age", (0, 5)),
    "aggregates": ("aggregates", (0, 5)),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_left_out_is_not_read(part: str) -> None:
    name, at = PARTS[part]
    # Without history the last event is read as seed item; without seed, as the history's last.
    left_out = (part, "history") if part == "seed" else (part,)
    parts = tuple(one for one in (*DEFAULT_PARTS, "repeat_head") if one not in left_out)
    config = dataclasses.replace(CONFIG, encoder="attention+mean", parts=parts)
    model = model_of(config)
    base = windows()
    assert base.is_listen[0, 4]
    other = base._replace(**{name: tf.constant(changed(getattr(base, name), at, 2))})
    np.testing.assert_array_equal(embedded(model, base, (0, 5)), embedded(model, other, (0, 5)))
    head = model.query.repeats
    assert (head is None) == ("history" in left_out)
    if head is not None:
        embedding = tf.constant(embedded(model, base, (0, 5)))
        own = [head(one, positions((0, 5)), embedding, model.candidate).score for one in (base, other)]
        np.testing.assert_array_equal(*own)


def test_a_plain_dot_product_keeps_lengths() -> None:
    model = model_of(dataclasses.replace(CONFIG, parts=DOT_PRODUCT))
    lengths = np.linalg.norm(model.candidate(tf.range(ITEMS)).numpy(), axis=1)
    assert lengths.std() > 0.05


@pytest.mark.parametrize("parts", [DEFAULT_PARTS, DOT_PRODUCT])
def test_a_bias_is_the_last_number_and_counts_four_logits_for_whoever_asks(parts: tuple[str, ...]) -> None:
    config = dataclasses.replace(CONFIG, parts=(*parts, "item_bias"), temperature=0.25)
    model = model_of(config)
    queries = embedded(model, windows(), (0, 5), (1, 8), (0, -1))
    candidates = model.candidate(tf.range(ITEMS + 1)).numpy()
    assert queries.shape[1] == candidates.shape[1] == CONFIG.embedding_dim
    assert model.items.bias is not None
    bias = model.items.bias.numpy()[TABLE.item.numpy(), 0]
    np.testing.assert_array_equal(candidates[:, -1], bias)
    logits = queries @ candidates.T / config.temperature
    compared = queries[:, :-1] @ candidates[:, :-1].T / config.temperature
    np.testing.assert_allclose(logits, compared + 4 * bias, atol=1e-5)
    if parts == DEFAULT_PARTS:
        for vectors in (queries, candidates):
            assert np.linalg.norm(vectors[:, :-1], axis=1) == pytest.approx(1, abs=1e-5)


def test_new_items_are_as_popular_as_what_is_listened_to() -> None:
    model = model_of(with_values(CONFIG, {"parts": (*DEFAULT_PARTS, "item_bias"), "dropout.id": 0.99}))
    assert model.items.bias is not None
    bias = model.items.bias.numpy()[:, 0]
    # Item 2 has three quarters of the labels; item 5 and a cold item have the rest.
    shares = np.zeros(ITEMS + 1, np.float32)
    shares[[2, 5, 25]] = 0.6, 0.2, 0.2
    model.items.place_new_items(tf.constant(shares))
    own = TABLE.item.numpy()
    expected = 0.75 * bias[own[2]] + 0.25 * bias[own[5]]
    placed = model.candidate(tf.range(ITEMS + 1)).numpy()[:, -1]
    np.testing.assert_allclose(placed[20:], expected, atol=1e-6)
    np.testing.assert_array_equal(placed[:20], bias[own[:20]])
    # Id dropout keeps the bias.
    tf.random.set_seed(3)
    np.testing.assert_array_equal(model.candidate(tf.range(20), training=True).numpy()[:, -1], placed[:20])


def test_items_have_few_numbers_of_their_own_where_artists_and_albums_say_more() -> None:
    config = dataclasses.replace(CONFIG, item_embedding_dim=3)
    narrow = model_of(config)
    assert narrow.items.item.shape[1] == 3
    assert narrow.items.artist is not None
    assert narrow.items.artist.shape[1] == CONFIG.embedding_dim // 2
    assert narrow.candidate(tf.range(ITEMS)).shape[1] == CONFIG.embedding_dim
    of_nobody = np.full([ITEMS, 1], -1, np.int32)
    bare = CatalogTable(CatalogArrays(np.arange(ITEMS), of_nobody, of_nobody, LENGTH), np.arange(20))
    assert ItemEmbedding(bare, config).item.shape[1] == CONFIG.embedding_dim
