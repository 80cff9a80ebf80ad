from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from two_tower.trainer.loss.label_weights import (
    event_type_hash,
    play_ratio_weight,
    reaction_weight,
    user_weight,
)

WEIGHTS = {"like": 2.0, "dislike": 0.0, "share": 3.0}


def of_reactions(window: list[tuple[str, int]]) -> dict[int, float]:
    """Computes the weight of each listen, by index, in a window of (event type, item) between two others."""
    other = [("listen", 1), ("like", 1)]
    windows = [other, window, [*other, *other, *other, *other]]
    longest = max(len(one) for one in windows)
    padded = [[*one, *[("", 99)] * (longest - len(one))] for one in windows]
    weight = reaction_weight(
        tf.stack([[event_type_hash(name) for name, _ in one] for one in padded]),
        tf.constant([[item for _, item in one] for one in padded]),
        tf.constant([[name == "listen" for name, _ in one] for one in padded]),
        WEIGHTS,
    ).numpy()
    assert weight[0, 0] == 2 and weight[2, [0, 2, 4, 6]].tolist() == [2] * 4
    return {place: weight[1, place] for place, (name, _) in enumerate(window) if name == "listen"}


def test_a_label_weighs_by_play_ratio_from_the_floor_up() -> None:
    ratio = tf.constant([-1.0, 0.0, 0.5, 1.0, 3.0])
    assert play_ratio_weight(ratio, 0.3).numpy() == pytest.approx([1.0, 0.3, 0.65, 1.0, 1.0])


def test_a_listen_weighs_by_the_reactions_to_it() -> None:
    window = [("listen", 5), ("like", 5), ("listen", 6), ("listen", 7), ("dislike", 7), ("listen", 5)]
    assert of_reactions(window) == {0: 2, 2: 1, 3: 0, 5: 1}


def test_reactions_multiply_and_types_without_a_weight_change_nothing() -> None:
    assert of_reactions([("listen", 5), ("like", 5), ("skip", 5), ("share", 5)]) == {0: 6}
    assert of_reactions([("listen", 5), ("like", 5), ("dislike", 5)]) == {0: 0}


def test_a_reaction_to_another_item_or_before_any_listen_is_to_no_listen_here() -> None:
    assert of_reactions([("dislike", 5), ("listen", 5), ("share", 6), ("listen", 6)]) == {1: 1, 3: 1}


def test_a_user_of_many_labels_weighs_as_one_of_the_cap() -> None:
    labels = np.array([1, 10, 0, 1_000, 20])
    weight = user_weight(labels, 10)
    together = weight * labels
    assert together[1] == pytest.approx(10 * together[0])  # below the cap by their number
    assert together[3] == pytest.approx(together[1]) and together[4] == pytest.approx(together[1])
    # The mean over labels is one, so that the learning rate keeps its meaning.
    assert together.sum() / labels.sum() == pytest.approx(1)
    assert weight.dtype == np.float32 and np.isfinite(weight).all()


def test_a_cap_that_nobody_reaches_changes_nothing() -> None:
    assert user_weight(np.array([3, 0, 9]), 9).tolist() == [1, 1, 1]
    assert np.isfinite(user_weight(np.zeros(2, int), 9)).all()
