from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.small_world import CONFIG, Transformed
from two_tower.base.errors import UserError
from two_tower.schema import features
from two_tower.trainer.loop import training_loop
from two_tower.trainer.loop.checkpoints import Checkpoints, Progress, UnusableCheckpointError
from two_tower.trainer.loop.optimizer import optimizer_of
from two_tower.trainer.loop.training import train
from two_tower.trainer.loop.training_data import count_windows, window_batches, windows_for
from two_tower.trainer.loop.training_loop import CURVES_FILE, Handover, TrainingLoop, speed_of
from two_tower.trainer.model.randomness import uniform
from two_tower.trainer.settings import Frequency, Negatives, Schedule, TrainerConfig

STEPS = 4
PLAIN = TrainerConfig(epochs=3, learning_rate=0.1, patience=9, positions_per_step=5)


class Line(tf.keras.Model):
    """A weight for each of three inputs, and a noisy loss."""

    def __init__(self) -> None:
        super().__init__()
        self.table = tf.Variable([[1.0], [2.0], [3.0]], name="table")
        self.scale = tf.Variable(1.0, trainable=False, name="scale")
        self.is_at_end = False

    def compute_loss(self, batch: dict[str, Any], training: bool = False) -> tf.Tensor:
        read = tf.gather(self.table, tf.cast(batch["x"], tf.int32))
        return self.scale * tf.reduce_mean(tf.square(read - uniform(tf.shape(read))))

    def end_epoch(self) -> None:
        self.is_at_end = True


class Told(tf.keras.callbacks.Callback):
    """Validation whose recall was settled before."""

    monitored, monitor = 10, "val_recall@10"

    def __init__(self, recalls: list[float]) -> None:
        super().__init__()
        self._recalls = recalls

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        assert logs is not None
        assert self.model.is_at_end
        self.model.is_at_end = False
        logs[self.monitor] = self._recalls[epoch]


def batches(epoch: int, skip: int, context: object = None, seconds: float = 0.0) -> tf.data.Dataset:
    def batch() -> Iterator[dict[str, Any]]:
        draw = np.random.default_rng(epoch)
        for _ in range(STEPS):
            time.sleep(seconds)
            steps = tf.RaggedTensor.from_row_lengths(draw.integers(0, 2, 8).astype(np.int64), [3, 0, 5])
            yield {"x": draw.integers(0, 3, 4), features.LABEL_STEP: steps}

    return tf.data.Dataset.from_generator(
        batch,
        output_signature={
            "x": tf.TensorSpec([4], tf.int64),
            features.LABEL_STEP: tf.RaggedTensorSpec([3, None], tf.int64, 1),
        },
    ).skip(skip)


def test_what_a_step_is_handed_is_the_batch() -> None:
    def ragged(values: list[Any], lengths: list[int]) -> tf.RaggedTensor:
        return tf.RaggedTensor.from_row_lengths(values, lengths)

    genre = features.transformed_column("user_genre")
    batch = {
        features.USER: tf.constant([[3], [5]], tf.int64),
        features.HISTORY_ITEM_ID: ragged([7, 8, 9], [1, 2]),
        features.LABEL_STEP: ragged([1, 0, 1], [1, 2]),
        features.EXAMPLE_AGE: ragged([0.5, 1.5, 2.5], [1, 2]),
        # The length of the other columns by chance, but no column of events.
        genre: ragged([1, 2, 4], [2, 1]),
        features.SEEN_ITEM_ID: ragged([11, 12, 13, 14], [4, 0]),
    }
    handover = Handover(tf.nest.map_structure(tf.type_spec_from_value, batch))
    tensors = handover.tensors(batch)
    handed = handover.batch(tensors)
    assert sum(tensor.dtype == tf.float32 for tensor in tensors) == 1
    assert handed.keys() == batch.keys() - {features.SEEN_ITEM_ID}
    for name, values in handed.items():
        assert values.dtype == batch[name].dtype
        assert tf.reduce_all(values == batch[name]), name


@dataclasses.dataclass
class Trained:
    """A loop over Line, and what it left."""

    model: Line
    loop: TrainingLoop
    checkpoints: Checkpoints
    logs: Path


def loop_of(place: Path, recalls: list[float], config: TrainerConfig = PLAIN, **changes: Any) -> Trained:
    model = Line()
    optimizer = optimizer_of(config, STEPS * config.epochs)
    optimizer.build(model.trainable_variables)
    loop = TrainingLoop(
        model,
        optimizer,
        config,
        changes.get("batches", batches),
        STEPS,
        Told(recalls),
        str(place / "logs"),
        tf.distribute.get_strategy(),
    )
    checkpoints = Checkpoints(str(place / "checkpoints"), model, optimizer, loop.progress)
    return Trained(model, loop, checkpoints, place / "logs")


class Killed(Exception):
    """Stand-in for a kill."""


def kill_at_epoch(last: int) -> Callable[[int, str, float], None]:
    def on_epoch(epoch: int, name: str, recall: float) -> None:
        if epoch == last:
            raise Killed

    return on_epoch


def test_a_killed_training_ends_as_if_it_had_not_been_killed(tmp_path: Path) -> None:
    """Checks weights, moments, patience and the best epoch so far."""
    recalls = [0.1, 0.3, 0.2, 0.25, 0.9]
    config = dataclasses.replace(PLAIN, epochs=5, patience=2, schedule=Schedule("cosine"))
    whole = loop_of(tmp_path / "whole", recalls, config)
    progress = whole.loop.run(whole.checkpoints)
    # The second epoch is the best; training ends after two more.
    assert (progress.epoch, progress.best_epoch, progress.steps) == (4, 2, 4 * STEPS)

    for killed_after in (1, 3):
        place = tmp_path / str(killed_after)
        killed = loop_of(place, recalls, config)
        with pytest.raises(Killed):
            killed.loop.run(killed.checkpoints, kill_at_epoch(killed_after))
        again = loop_of(place, recalls, config)
        assert again.checkpoints.restore()
        assert again.loop.progress.epoch == killed_after
        end = again.loop.run(again.checkpoints)
        assert end.curves == progress.curves and end.best_epoch == 2 and end.steps == progress.steps
        assert (again.model.table.numpy() == whole.model.table.numpy()).all()
        assert json.loads((again.logs / CURVES_FILE).read_text()) == {
            "monitor": "val_recall@10",
            "best_epoch": 2,
            "epochs": progress.curves,
        }
        again.checkpoints.delete()
        assert not (place / "checkpoints").exists()


def test_within_an_epoch_it_goes_on_after_the_last_step_that_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = loop_of(tmp_path / "whole", [0.1, 0.2, 0.3])
    whole.loop.run(whole.checkpoints)
    monkeypatch.setattr(training_loop, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    killed = loop_of(tmp_path, [0.1, 0.2, 0.3])
    save = Checkpoints.save

    def save_and_die(self: Checkpoints) -> None:
        save(self)
        if killed.loop.progress.steps == STEPS + 2:
            raise Killed

    monkeypatch.setattr(Checkpoints, "save", save_and_die)
    with pytest.raises(Killed):
        killed.loop.run(killed.checkpoints)
    monkeypatch.setattr(Checkpoints, "save", save)
    again = loop_of(tmp_path, [0.1, 0.2, 0.3])
    assert again.checkpoints.restore()
    assert (again.loop.progress.epoch, again.loop.progress.step) == (1, 2)
    again.loop.run(again.checkpoints)
    assert again.loop.progress.curves == whole.loop.progress.curves
    assert (again.model.table.numpy() == whole.model.table.numpy()).all()


def test_a_checkpoint_that_is_damaged_or_of_other_weights_says_which(tmp_path: Path) -> None:
    saved = loop_of(tmp_path, [0.1, 0.2, 0.3])
    assert not saved.checkpoints.restore()
    saved.loop.run(saved.checkpoints)
    other = loop_of(tmp_path, [])
    other.model.table = tf.Variable(tf.zeros([4, 1]))
    with pytest.raises(UnusableCheckpointError, match=r"newest|best"):
        other.checkpoints.restore()
    for name in ("best", "newest"):
        (data,) = (tmp_path / "checkpoints" / name).glob("*-3.data*" if name == "best" else "*.data*")
        content = data.read_bytes()
        data.write_bytes(bytes(len(content)))
        with pytest.raises(UnusableCheckpointError, match=name):
            loop_of(tmp_path, []).checkpoints.restore()
        data.write_bytes(content)
    assert loop_of(tmp_path, []).checkpoints.restore()


def test_time_is_measured_from_the_second_step_on_with_what_was_spent_waiting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def slow(epoch: int, skip: int, context: object) -> tf.data.Dataset:
        # Without TensorFlow's final prefetch.
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False
        return batches(epoch, skip, seconds=0.05).with_options(options)

    caplog.set_level(logging.INFO, training_loop.progress_log.name)
    config = dataclasses.replace(PLAIN, epochs=1)
    trained = loop_of(tmp_path, [0.1], config, batches=slow)
    assert speed_of(trained.loop.progress) == {}
    progress = trained.loop.run(trained.checkpoints)
    speed = speed_of(progress)
    assert progress.timed_steps == STEPS - 1
    assert 0.5 < speed["data_wait_share"] < 1
    assert speed["seconds_per_step"] == pytest.approx(progress.seconds / (STEPS - 1))
    labelled = [int(np.count_nonzero(batch[features.LABEL_STEP].flat_values)) for batch in batches(0, 1)]
    assert progress.positions == sum(min(count, PLAIN.positions_per_step) for count in labelled)
    last = caplog.records[-1]
    assert (last.step, last.steps) == (STEPS, STEPS)  # type: ignore[attr-defined]
    assert last.getMessage() == "epoch 1 of 1, validation Recall@10 0.1000"


def test_a_loss_that_is_no_number_ends_it_at_the_step(tmp_path: Path) -> None:
    trained = loop_of(tmp_path, [0.1])
    trained.model.scale.assign(math.inf)
    with pytest.raises(UserError, match=r"stopped at step 1: the loss is inf\. Lower trainer\.learning_rate"):
        trained.loop.run(trained.checkpoints)


# Whole trainings on windows.


def test_an_epoch_s_order_follows_from_its_seed_and_what_is_skipped_is_its_beginning(
    small_world: Transformed,
) -> None:
    import tensorflow_transform as tft

    files = small_world.files["train"]
    spec = tft.TFTransformOutput(small_world.graph).transformed_feature_spec()

    def users(seed: int | None, skip: int = 0) -> list[int]:
        read = window_batches(files, spec, 16, seed, skip)
        return [user for batch in read for user in tf.reshape(batch[features.USER], [-1]).numpy().tolist()]

    assert users(1) == users(1) != users(2)
    assert users(1, skip=2) == users(1)[2 * 16 :]
    assert sorted(users(1)) == sorted(users(None))
    assert count_windows(files) == len(users(None))


@pytest.mark.parametrize(
    ("asked", "positions", "windows", "labels", "replicas", "settled"),
    [
        pytest.param(0, 9_999, 6_040, 981_491, 1, 32, id="190 steps"),
        pytest.param(0, 9_999, 22_363, 131_413, 1, 118, id="short sequences"),
        pytest.param(0, 9_999, 138_493, 19_700_000, 1, 57, id="what a step can hold"),
        pytest.param(0, 1_024, 20_000, 280_000, 1, 73, id="what it may hold"),
        pytest.param(0, 9_999, 90, 0, 1, 8, id="a few"),
        pytest.param(0, 9_999, 90, 300, 12, 12, id="one for each replica"),
        pytest.param(3, 9_999, 6_040, 981_491, 1, 3, id="as set"),
    ],
)
def test_the_number_of_windows_settles_those_of_a_step(
    asked: int, positions: int, windows: int, labels: int, replicas: int, settled: int
) -> None:
    config = TrainerConfig(windows_per_step=asked, positions_per_step=positions)
    found = windows_for(config, windows, labels, replicas)
    assert found == dataclasses.replace(config, windows_per_step=settled)


@pytest.mark.slow
def test_a_training_killed_in_mid_epoch_goes_on_to_the_same_weights_bit_by_bit(
    small_world: Transformed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks all kinds of state: frequencies, memory, moments, a schedule. So two trainings are equal."""
    config = dataclasses.replace(
        CONFIG,
        epochs=2,
        windows_per_step=16,
        schedule=Schedule("cosine", warmup=2),
        weight_decay=0.01,
        negatives=Negatives(uniform=5, memory=50, deduplicate=True),
        frequency=Frequency(estimate="streaming", rate=0.3),
    )
    ended: list[list[np.ndarray]] = []
    restore_best, save = Checkpoints.restore_best, Checkpoints.save
    killed = tmp_path / "killed"

    def keep_weights(self: Checkpoints, epoch: int) -> None:
        ended.append(self._newest.checkpoint.model.get_weights())
        restore_best(self, epoch)

    def keep_what_a_kill_would_leave(self: Checkpoints) -> None:
        save(self)
        progress = self._newest.checkpoint.progress._progress
        if (progress.epoch, progress.step) == (1, 1):
            shutil.copytree(self._directory, killed)

    monkeypatch.setattr(training_loop, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    monkeypatch.setattr(Checkpoints, "restore_best", keep_weights)
    monkeypatch.setattr(Checkpoints, "save", keep_what_a_kill_would_leave)
    whole = train(small_world.training_data(), config, None, str(tmp_path / "whole"))
    monkeypatch.setattr(Checkpoints, "save", save)
    again = train(
        small_world.training_data(), config, None, str(tmp_path / "again"), checkpoint_dir=str(killed)
    )
    assert all((a == b).all() for a, b in zip(*ended, strict=True))
    curves = [(tmp_path / name / CURVES_FILE).read_text() for name in ("whole", "again")]
    assert curves[0] == curves[1]
    of_speed = set(speed_of(Progress(timed_steps=1, seconds=1.0)))
    assert {key: whole[key] for key in whole.keys() - of_speed} == {
        key: again[key] for key in again.keys() - of_speed
    }
    assert not killed.exists()


def test_where_a_checkpoint_cannot_be_used_training_begins_anew(
    small_world: Transformed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Checks that the new model has nothing of the checkpoint, though half of it may have been read."""
    weights: list[list[np.ndarray]] = []
    progress: list[Progress] = []

    def run(self: TrainingLoop, checkpoints: Checkpoints, on_epoch: object) -> Progress:
        weights.append(self._model.get_weights())
        progress.append(dataclasses.replace(self.progress))
        self.progress.steps = 7
        checkpoints.save()
        return Progress(best_epoch=1, curves=[{"epoch": 1.0, "loss": 0.0}])

    def train_with(seed: int) -> None:
        logs = str(tmp_path / "logs")
        train(small_world.training_data(), CONFIG, None, logs, seed=seed, checkpoint_dir=str(place))

    place = tmp_path / "checkpoints"
    monkeypatch.setattr(TrainingLoop, "run", run)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "delete", lambda self: None)
        train_with(seed=1)
        train_with(seed=2)
    assert [one.steps for one in progress] == [0, 7]
    assert all((a == b).all() for a, b in zip(*weights, strict=True)), "it did not go on from the first"
    (data,) = (place / "newest").glob("*.data*")
    data.write_bytes(data.read_bytes()[:-100] + bytes(100))
    train_with(seed=2)
    assert "Training begins anew" in caplog.text and "newest" in caplog.text
    assert progress[-1] == Progress()
    assert any((a != b).any() for a, b in zip(weights[-1], weights[0], strict=True))
    assert not place.exists()


def test_a_training_finds_its_checkpoints_again_and_never_those_of_another() -> None:
    from tfx.types import standard_artifacts

    from two_tower.components.trainer.executor import checkpoint_directory

    def directory(execution: int, uri: str = "gs://a/Transform/3", **properties: Any) -> str:
        examples = standard_artifacts.Examples()
        examples.uri = uri
        model = f"gs://a/Trainer/model/{execution}"
        return checkpoint_directory(model, {"examples": [examples]}, properties)

    one = directory(4, trainer="{}", cutoff=10)
    assert one.startswith("gs://a/Trainer/.checkpoints/")
    assert one == directory(5, cutoff=10, trainer="{}")
    others = [
        directory(4, "gs://a/Transform/9", trainer="{}", cutoff=10),
        directory(4, trainer="{}", cutoff=11),
    ]
    assert len({one, *others}) == 3
