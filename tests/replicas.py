"""Programs for tests/trainer/test_distribution.py: devices and clusters need a process of their own."""

from __future__ import annotations

import dataclasses
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from tests.small_world import CONFIG, HISTORY_LENGTH, Transformed
from two_tower.base.settings import DEFAULT_SEED, with_values
from two_tower.schema import features
from two_tower.trainer.loop.training import _label_counts, train
from two_tower.trainer.loop.two_tower_model import TwoTowerModel
from two_tower.trainer.loss.sampling import log_sampling_probability
from two_tower.trainer.model.catalog_table import CatalogArrays, CatalogTable
from two_tower.trainer.model.randomness import drawing
from two_tower.trainer.settings import DEFAULT_PARTS, Dropout, TrainerConfig

# Without dropout, since each replica draws its own.
CERTAIN = dataclasses.replace(CONFIG, dropout=Dropout(hidden=0.0, id=0.0, history=0.0))

# Each kind of negatives, correction and state once; none uses the full catalog.
VARIANTS: list[dict[str, Any]] = [
    {"negatives.hard": 30, "label_weights.like": 2.0},
    {
        "frequency.correction": "refined",
        "negatives.uniform": 20,
        "negatives.memory": 300,
    },
    {
        "negatives.deduplicate": True,
        "frequency.estimate": "streaming",
        "frequency.rate": 0.3,
        "negatives.memory": 50,
        "negatives.uniform": 5,
        "parts": (*DEFAULT_PARTS, "repeat_head", "item_bias"),
    },
]
# Window boundaries of both replicas in each step: equal numbers, different numbers, and an empty replica.
STEPS = [(0, 8, 16), (16, 21, 34), (34, 40, 40)]

# Small steps: the last step of an epoch has a single window, since the small world has 101.
TRAINED = dataclasses.replace(
    CERTAIN,
    parts=(*DEFAULT_PARTS, "item_bias"),
    item_initial="co_occurrence",
    positions_per_step=100,
    windows_per_step=50,
    epochs=2,
    learning_rate=0.01,
)


def two_replicas_train_as_one(world: Transformed, folder: Path) -> None:
    """Checks that two replicas have the same losses, weights and state as one after the same steps."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    batch = world.batch("train")
    output, catalog_output = tft.TFTransformOutput(world.graph), tft.TFTransformOutput(world.catalog_graph)
    catalog = CatalogArrays.read(world.catalog_files, catalog_output.transformed_feature_spec())
    train_items = np.array([int(item) for item in output.vocabulary_by_name(features.ITEM_VOCABULARY)])
    table = CatalogTable(catalog, train_items)
    log_q = log_sampling_probability(catalog, _label_counts(output))
    users = output.vocabulary_size_by_name(features.USER_VOCABULARY)
    user_weight = np.linspace(0.5, 1.5, users + 1).astype(np.float32)

    def windows(begin: int, end: int) -> dict[str, Any]:
        return {name: values[begin:end] for name, values in batch.items()}

    def untrained(config: TrainerConfig) -> TwoTowerModel:
        tf.keras.utils.set_random_seed(1)
        # Without recommendable repeats, a replica would exclude negatives of its own windows only.
        repeats = "repeat_head" in config.parts
        model = TwoTowerModel(
            table, log_q, users, HISTORY_LENGTH, config, (), None, user_weight, repeats_recommendable=repeats
        )
        model.compute_loss(windows(0, 3))
        return model

    def trained(strategy: tf.distribute.Strategy, config: TrainerConfig) -> tuple[TwoTowerModel, list[float]]:
        with strategy.scope():
            # SGD, since Adam would hide gradients of twice the size.
            model, optimizer = untrained(config), tf.keras.optimizers.SGD(0.1)
            optimizer.build(model.trainable_variables)

        def step(own: dict[str, Any], number: int) -> tf.Tensor:
            with drawing(DEFAULT_SEED, tf.constant(number)), tf.GradientTape() as tape:
                loss = model.compute_loss(own, training=True)
            variables = model.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return loss

        losses = []
        for number, (begin, middle, end) in enumerate(STEPS):
            parts = [windows(begin, middle), windows(middle, end)]
            if strategy.num_replicas_in_sync == 1:
                parts = [windows(begin, end)]
            own = strategy.experimental_distribute_values_from_function(
                lambda context, parts=parts: parts[context.replica_id_in_sync_group]
            )
            losses.append(float(strategy.reduce("SUM", strategy.run(step, args=(own, number)), None)))
        return model, losses

    for settings in VARIANTS:
        config = with_values(CERTAIN, {"positions_per_step": 60, **settings})
        (one, one_losses), (two, two_losses) = (
            trained(strategy, config) for strategy in (tf.distribute.get_strategy(), mirrored)
        )
        np.testing.assert_allclose(two_losses, one_losses, rtol=1e-5, err_msg=str(settings))
        found = [mirrored.experimental_local_results(variable) for variable in two.variables]
        if config.frequency.estimate == "streaming":
            # A single replica restores the checkpoint of two.
            path = tf.train.Checkpoint(model=two).save(str(folder / "checkpoint"))
            restored = untrained(config)
            tf.train.Checkpoint(model=restored).restore(path).assert_consumed()
            found = [(*of_two, of_one) for of_two, of_one in zip(found, restored.variables, strict=True)]
        for expected, others in zip(one.variables, found, strict=True):
            for other in others:
                name = f"{settings}: {expected.name}"
                np.testing.assert_allclose(other, expected, rtol=1e-4, atol=2e-5, err_msg=name)


def training(world: Transformed, config: TrainerConfig, folder: Path, model_dir: str | None) -> None:
    """Trains, and leaves the state for a warm start in "state" and TensorBoard's logs in "logs"."""
    data = world.training_data()
    train(data, config, model_dir, str(folder / "logs"), state_dir=str(folder / "state"))


if __name__ == "__main__":
    process, pickled, place = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    of_world: Transformed = pickle.loads(pickled.read_bytes())
    if process == "mirrored":
        two_replicas_train_as_one(of_world, place)
    else:
        of_workers = dataclasses.replace(TRAINED, distribution="multi_worker")
        training(of_world, of_workers, place, str(place / "model"))
    print("done")
