"""Losses on known probabilities: training has to recover the probabilities of its simulated data.

The world has 40 items of very uneven popularity and 5 contexts, each with its own p(item | context). A window
has one context, so that its labels resemble each other, and a step has few windows. The "towers" are a free
score for every context and item. So softmax(scores) can equal p(item | context), and any divergence is due to
the loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from two_tower.base.settings import with_values
from two_tower.trainer.loss.losses import loss_of
from two_tower.trainer.model.catalog_table import CatalogArrays, CatalogTable
from two_tower.trainer.settings import TrainerConfig

pytestmark = pytest.mark.slow

ITEMS, CONTEXTS, WINDOWS, POSITIONS, STEPS = 40, 5, 6, 12, 1_500
_draw = np.random.default_rng(5)
CONTEXT_SHARE = np.array([0.35, 0.25, 0.2, 0.12, 0.08])
PROBABILITY = np.arange(1, ITEMS + 1) ** -1.3 * np.exp(_draw.normal(size=[CONTEXTS, ITEMS]))
PROBABILITY /= PROBABILITY.sum(axis=1, keepdims=True)
Q = CONTEXT_SHARE @ PROBABILITY
IDS = np.sort(_draw.integers(0, 2**40, ITEMS))
NOTHING = np.full([ITEMS, 1], -1, np.int32)
# Chance leaves .003 after so many steps even where nothing is sampled.
EXACT = 0.008


def divergence(
    settings: dict[str, Any] | None = None, own_window: bool = False, windows: int = WINDOWS
) -> float:
    """Computes the Kullback-Leibler divergence of learnt probabilities from p(item | context).

    The result is the mean over contexts.

    Args:
      settings: of TrainerConfig, by dotted name.
      own_window: labels of a query's own window are negatives too, as if each had another window.
      windows: windows a step; the number of labels is the same for any number of windows.
    """
    tf.keras.utils.set_random_seed(1)
    config = with_values(TrainerConfig(temperature=1.0), settings or {})
    table = CatalogTable(CatalogArrays(IDS, NOTHING, NOTHING, np.zeros(ITEMS, np.float32)), IDS)
    sampled = loss_of(config, table, np.log(np.append(Q, Q.min())).astype(np.float32))
    task = sampled.task()
    scores = tf.Variable(tf.zeros([ITEMS, CONTEXTS]))
    optimizer = tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.CosineDecay(0.05, STEPS))
    optimizer.build([scores])
    positions = WINDOWS * POSITIONS // windows
    weight = tf.fill([windows * positions], 1 / (windows * positions))

    @tf.function
    def step() -> None:
        context = tf.random.categorical(np.log(CONTEXT_SHARE)[np.newaxis], windows)[0]
        labels = tf.random.categorical(tf.gather(np.log(PROBABILITY), context), positions, tf.int32)
        rows = tf.reshape(labels, [-1])
        window = tf.range(tf.size(rows)) if own_window else tf.repeat(tf.range(windows), positions)
        with tf.GradientTape() as tape:
            candidates = sampled.candidates(rows, window, training=True)
            queries = tf.one_hot(tf.repeat(context, positions), CONTEXTS)
            loss = task(queries, tf.gather(scores, candidates.rows), candidates, weight)
        gradient = tf.convert_to_tensor(tape.gradient(loss, scores))
        optimizer.apply_gradients([(gradient, scores)])

    for _ in range(STEPS):
        step()
    learnt = tf.nn.log_softmax(tf.transpose(scores)).numpy()
    return float(CONTEXT_SHARE @ (PROBABILITY * (np.log(PROBABILITY) - learnt)).sum(axis=1))


STREAMING = {
    "frequency.estimate": "streaming",
    "frequency.hashes": 4,
    "negatives.deduplicate": True,
}


@pytest.mark.parametrize(
    "settings",
    [
        {"softmax": "full"},
        {"frequency.correction": "logq", "negatives.deduplicate": True},
        {"frequency.correction": "refined"},
        {"frequency.correction": "refined", "negatives.uniform": 40},
        {"frequency.correction": "logq", "negatives.deduplicate": True, "negatives.uniform": 10},
        {"frequency.correction": "refined", "negatives.memory": 200},
        {"frequency.correction": "logq", **STREAMING},
        {"frequency.correction": "refined", **STREAMING},
    ],
    ids=lambda settings: ", ".join(f"{name}={value}" for name, value in settings.items()),
)
def test_the_probabilities_are_found(settings: dict[str, Any]) -> None:
    assert divergence(settings) < EXACT


def test_without_a_correction_they_are_not_and_where_duplicates_stay_the_standard_one_is_rough() -> None:
    """Compares corrections where duplicates stay.

    logQ divides each copy of a frequent item by n Q. The positive has one copy, since its accidental hits are
    masked. The refined correction leaves the positive whole. It is nearly whole where each item counts once.
    """
    uncorrected, standard = divergence({"frequency.correction": "none"}), divergence()
    assert uncorrected > 0.3
    assert 3 * EXACT < standard < uncorrected / 3


def test_labels_of_the_own_window_as_negatives_would_bias_it() -> None:
    masked, unmasked = (divergence({"frequency.correction": "refined"}, own, 3) for own in (False, True))
    assert masked < 0.7 * unmasked
