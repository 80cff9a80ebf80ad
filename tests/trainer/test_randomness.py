from __future__ import annotations

import numpy as np
import tensorflow as tf

from two_tower.trainer.model.randomness import Dropout, drawing, shuffled, uniform


@tf.function(autograph=False)
def draws(seed: int, step: tf.Tensor) -> tuple[tf.Tensor, ...]:
    dropout = Dropout(0.5)
    with drawing(seed, step):
        return (
            uniform([500]),
            uniform([500]),
            uniform([500], maxval=10, dtype=tf.int32),
            shuffled(tf.range(50)),
            dropout(tf.ones([500]), training=True),
        )


def test_a_step_draws_what_its_seed_and_number_say_whatever_was_drawn_before() -> None:
    first, other_step, again = (draws(3, tf.constant(step, tf.int64)) for step in (7, 8, 7))
    other_seed = draws(4, tf.constant(7, tf.int64))
    for one, same, later, elsewhere in zip(first, again, other_step, other_seed, strict=True):
        assert (one.numpy() == same.numpy()).all()
        assert (one.numpy() != later.numpy()).any() and (one.numpy() != elsewhere.numpy()).any()
    # Draws within a step differ.
    assert abs(np.corrcoef(first[0], first[1])[0, 1]) < 0.2
    assert abs(np.corrcoef(first[0], other_step[0])[0, 1]) < 0.2


def test_draws_are_even() -> None:
    unit, _, whole, order, dropped = (value.numpy() for value in draws(3, tf.constant(0, tf.int64)))
    assert unit.min() >= 0 and unit.max() < 1 and abs(unit.mean() - 0.5) < 0.05
    assert set(whole) == set(range(10))
    assert sorted(order) == list(range(50))
    assert set(dropped) == {0.0, 2.0} and abs(dropped.mean() - 1) < 0.2


def test_outside_of_a_step_numbers_are_drawn_too_and_dropout_is_for_training() -> None:
    with drawing(1, tf.constant(1)):
        pass
    assert (uniform([20]).numpy() != uniform([20]).numpy()).any()
    assert sorted(shuffled(tf.range(5)).numpy()) == list(range(5))
    assert (Dropout(0.9)(tf.ones([50])).numpy() == 1).all()
