from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import tensorflow as tf

from two_tower.trainer.loop.optimizer import LearningRate, RowwiseAdam, optimizer_of
from two_tower.trainer.settings import Schedule, TrainerConfig

ROWS, WIDTH = 6, 3


def variables() -> tuple[tf.Variable, tf.Variable, tf.Variable]:
    """Makes an embedding table, a kernel and a bias."""
    draw = np.random.default_rng(1)
    shapes = ([ROWS, WIDTH], [WIDTH, 2], [2])
    return tuple(tf.Variable(draw.normal(size=shape), dtype=tf.float32) for shape in shapes)


def trained(
    optimizer: tf.keras.optimizers.Optimizer, steps: Sequence[Sequence[int]], scale: float = 1.0
) -> tuple[np.ndarray, ...]:
    """Returns the variables after steps that read rows of the table."""
    table, kernel, bias = variables()
    for rows in steps:
        with tf.GradientTape() as tape:
            scores = tf.matmul(tf.gather(table, rows), kernel) + bias
            loss = scale * tf.reduce_sum(tf.square(scores - tf.range(1.0, 3.0)))
        gradients = tape.gradient(loss, [table, kernel, bias])
        assert isinstance(gradients[0], tf.IndexedSlices)
        optimizer.apply_gradients(zip(gradients, [table, kernel, bias], strict=True))
    return table.numpy(), kernel.numpy(), bias.numpy()


def test_it_is_keras_s_adam_where_every_row_is_read_at_every_step() -> None:
    steps = [[0, 1, 2, 3, 4, 5, 0], [5, 5, 4, 3, 2, 1, 0], list(range(ROWS))]
    for mine, keras in zip(
        trained(RowwiseAdam(0.05), steps), trained(tf.keras.optimizers.Adam(0.05), steps), strict=True
    ):
        np.testing.assert_allclose(mine, keras, rtol=1e-5)


def test_rows_that_a_step_does_not_read_stay_as_they_are_with_their_moments() -> None:
    """Checks that only a row's own steps move it, except for the bias correction."""
    optimizer = RowwiseAdam(0.05, weight_decay=0.1)
    table, kernel, bias = variables()
    before = table.numpy()
    for rows in ([1, 1, 3], [3]):
        gradient = tf.IndexedSlices(
            tf.ones([len(rows), WIDTH]), tf.constant(rows), tf.constant([ROWS, WIDTH])
        )
        optimizer.apply_gradients([(gradient, table), (tf.ones_like(kernel), kernel), (tf.ones(2), bias)])
        moments = [moment[0].numpy() for moment in (optimizer._first, optimizer._second)]
        untouched = sorted(set(range(ROWS)) - {1, 3})
        assert (table.numpy()[untouched] == before[untouched]).all()
        assert all((moment[untouched] == 0).all() for moment in moments)
    assert (table.numpy()[[1, 3]] != before[[1, 3]]).all()
    # One step read row 1 twice: its moments are of the summed gradient, 2, and have not decayed since.
    assert moments[0][1] == pytest.approx(0.1 * 2, rel=1e-5)
    assert moments[1][1] == pytest.approx(0.001 * 4, rel=1e-5)
    assert moments[0][3] == pytest.approx(0.1 * 0.9 + 0.1, rel=1e-5)


def test_weight_decay_is_decoupled_and_spares_biases() -> None:
    decay, rate = 0.1, 0.05
    decayed = trained(RowwiseAdam(rate, weight_decay=decay), [[0, 2]])
    plain = trained(RowwiseAdam(rate), [[0, 2]])
    table, kernel, _ = (variable.numpy() for variable in variables())
    read = np.isin(np.arange(ROWS), [0, 2])[:, None]
    np.testing.assert_allclose(decayed[0], plain[0] - rate * decay * table * read, rtol=1e-5)
    np.testing.assert_allclose(decayed[1], plain[1] - rate * decay * kernel, rtol=1e-5)
    assert (decayed[2] == plain[2]).all()


def test_the_learning_rate_rises_and_then_falls_along_half_a_cosine() -> None:
    rates = [float(LearningRate(0.2, "cosine", 4, 15)(tf.constant(step))) for step in range(16)]
    assert rates[:4] == pytest.approx([0.05, 0.1, 0.15, 0.2])
    assert rates[4:15] == sorted(rates[4:15], reverse=True)
    assert rates[9] == pytest.approx(0.2 * (0.01 + 0.99 / 2))
    assert rates[14] == rates[15] == pytest.approx(0.002)
    assert float(LearningRate(0.2, "constant", 0, 1)(tf.constant(0))) == pytest.approx(0.2)
    assert float(LearningRate(0.2, "cosine", 0, 1)(tf.constant(0))) == pytest.approx(0.2)
    assert [float(LearningRate(0.2, "constant", 2, 9)(tf.constant(step))) for step in (0, 1, 8)] == (
        pytest.approx([0.1, 0.2, 0.2])
    )


def test_the_settings_reach_the_optimizer_and_it_survives_keras_s_config() -> None:
    config = TrainerConfig(learning_rate=0.03, schedule=Schedule("cosine", warmup=5), weight_decay=0.1)
    optimizer = optimizer_of(config, 50)
    again = RowwiseAdam.from_config(optimizer.get_config(), custom_objects={"LearningRate": LearningRate})
    assert again.get_config() == optimizer.get_config()
    assert again.get_config()["weight_decay"] == 0.1
    steps = [[0, 1], [2], [0, 5]]
    for mine, other in zip(trained(optimizer, steps), trained(again, steps), strict=True):
        assert (mine == other).all()


def test_a_short_training_reaches_its_learning_rate() -> None:
    config = TrainerConfig(learning_rate=0.5, schedule=Schedule(warmup=300))
    rates = [float(optimizer_of(config, 8)._learning_rate(step)) for step in range(8)]
    assert rates == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5, 0.5])
    assert float(optimizer_of(config, 1)._learning_rate(0)) == 0.5
