"""Every setting of the trainer changes a training."""

from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf

from tests.pipeline.test_meaningless_settings import OTHERS
from tests.small_world import CONFIG, Transformed
from two_tower.base.settings import values_of, with_values
from two_tower.trainer.loop import training
from two_tower.trainer.model.randomness import drawing
from two_tower.trainer.settings import TrainerConfig

pytestmark = [pytest.mark.slow, pytest.mark.long]

# Settings with which all others have an effect.
BASE: dict[str, Any] = {
    "learning_rate": 0.05,
    "windows_per_step": 4,
    "positions_per_step": 16,
}
STREAMING = {"frequency.estimate": "streaming", "negatives.deduplicate": True, "frequency.rate": 1.0}
# Settings beside which one has an effect.
NEEDS: dict[str, dict[str, Any]] = {
    "frequency.estimate": {"negatives.deduplicate": True},
    "frequency.rate": STREAMING,
}
VALUES = {
    **{
        name.removeprefix("trainer.").replace("<event type>", "like"): value
        for name, value in OTHERS.items()
        if name.startswith("trainer.")
    },
    "softmax": "full",
    "item_embedding_dim": 4,
    "positions_per_step": 8,
}
# One replica without an earlier model does not show the first two, and six steps over items without
# collisions not the others. test_training_loop.py and test_streaming_frequency.py do.
ELSEWHERE = {"distribution", "warm_start", "epochs", "patience", "frequency.hashes"}


def losses_of(world: Transformed, changes: dict[str, Any]) -> list[float]:
    """Returns the losses of six steps, without a graph, whose tracing would take most of the time."""
    data = world.training_data()
    inputs = training._Inputs.read(data, with_values(CONFIG, {**BASE, **changes}))
    model = inputs.model(inputs.initial_embeddings())
    optimizer = inputs.optimizer()
    optimizer.build(model.trainable_variables)
    losses = []
    for number, batch in zip(range(6), inputs.epoch(0, 0, tf.distribute.InputContext()), strict=False):
        with drawing(5, tf.constant(number, tf.int64)), tf.GradientTape() as tape:
            found = model.compute_loss(batch, training=True)
        gradients = tape.gradient(found, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        losses.append(float(found))
    return losses


@pytest.fixture(scope="module")
def without(small_world: Transformed) -> Any:
    """Returns the losses with BASE and some settings, made once."""
    made: dict[str, list[float]] = {}

    def of(settings: dict[str, Any]) -> list[float]:
        key = repr(settings)
        if key not in made:
            made[key] = losses_of(small_world, settings)
        return made[key]

    return of


def test_the_walk_goes_by_every_setting_of_the_trainer() -> None:
    declared = values_of(TrainerConfig()).keys()
    assert declared | {"label_weights.like"} == VALUES.keys()


@pytest.mark.parametrize("name", sorted(VALUES.keys() - ELSEWHERE))
def test_a_setting_changes_a_training(name: str, small_world: Transformed, without: Any) -> None:
    needed = NEEDS.get(name, {})
    assert VALUES[name] != values_of(with_values(CONFIG, {**BASE, **needed})).get(name)
    assert losses_of(small_world, {**needed, name: VALUES[name]}) != without(needed)
