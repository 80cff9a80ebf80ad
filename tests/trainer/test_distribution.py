from __future__ import annotations

import dataclasses
import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import TRAINED, training
from tests.small_world import Transformed
from two_tower.base.errors import UserError
from two_tower.data_directory.feature_columns import ResolvedFeatures
from two_tower.trainer.distribution import check_tf_config, gathered, is_chief, parts, strategy_of
from two_tower.trainer.settings import TrainerConfig

pytestmark = pytest.mark.slow


def started(
    process: str, world: Transformed, folder: Path, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Starts a process of tests/replicas.py in its own `folder`."""
    folder.mkdir(exist_ok=True)
    pickled = folder / f"{process}.pickle"
    pickled.write_bytes(pickle.dumps(world))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.replicas", process, str(pickled), str(folder)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Waits for it to be done; ends it where it is not."""
    try:
        out, error = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        process.kill()
        out, error = process.communicate()
    assert out.splitlines()[-1:] == ["done"], error[-5_000:]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def weights(prefix: Path) -> list[np.ndarray]:
    """Reads all numbers in a file in TensorFlow's checkpoint format, by name."""
    reader = tf.train.load_checkpoint(str(prefix))
    values = [reader.get_tensor(name) for name in sorted(reader.get_variable_to_shape_map())]
    return [value for value in values if isinstance(value, np.ndarray) and value.dtype == np.float32]


def test_replicas_of_one_and_of_two_processes_train_as_one_replica(
    small_world: Transformed, tmp_path: Path
) -> None:
    """Compares losses, weights and state with those of one replica on the joined batch.

    It compares every kind of loss step by step, and whole trainings at the end. Only the chief writes files.
    """
    world = dataclasses.replace(small_world, resolved=ResolvedFeatures(history=()))
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = [
        started(
            f"worker{index}",
            world,
            tmp_path / "workers",
            {
                "TF_CONFIG": json.dumps(
                    {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
                )
            },
        )
        for index in range(2)
    ]
    processes.append(started("mirrored", world, tmp_path / "mirrored"))
    training(world, TRAINED, tmp_path / "alone", None)
    for process in processes:
        finish(process)
    expected, found = (weights(tmp_path / who / "state" / "state") for who in ("alone", "workers"))
    assert len(expected) == len(found) > 8
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-4)
    # The SavedModels have the same weights.
    served = weights(tmp_path / "workers" / "model" / "variables" / "variables")
    for one in found:
        assert any(one.shape == other.shape and (one == other).all() for other in served)
    assert len(list((tmp_path / "workers" / "logs").rglob("events.out.tfevents*"))) == 1


def context(pipeline: int, pipelines: int, replicas: int) -> tf.distribute.InputContext:
    return tf.distribute.InputContext(pipelines, pipeline, replicas)


@pytest.mark.parametrize("windows", [0, 1, 3, 8, 13])
def test_the_parts_of_replicas_are_the_batch(windows: int) -> None:
    """Checks one part for each replica, in the batch's order and of almost equal sizes."""
    batch = tf.constant([f"window {number}" for number in range(windows)], tf.string)
    pipelines, replicas = 2, 4
    found = [list(parts(batch, context(pipeline, pipelines, replicas))) for pipeline in range(pipelines)]
    assert [len(of_pipeline) for of_pipeline in found] == [2, 2]
    of_replicas = [part.numpy().tolist() for of_pipeline in found for part in of_pipeline]
    assert [window for part in of_replicas for window in part] == batch.numpy().tolist()
    sizes = [len(part) for part in of_replicas]
    assert max(sizes) - min(sizes) <= 1


def test_without_a_strategy_there_is_one_replica_and_it_is_the_chief() -> None:
    strategy = strategy_of(TrainerConfig())
    assert strategy.num_replicas_in_sync == 1 and is_chief(strategy)
    assert gathered(strategy, [1.5, 2.0]).tolist() == [[1.5, 2.0]]


@pytest.mark.parametrize(
    ("tasks", "task", "expected"),
    [
        ({"worker": 2}, ("worker", 0), True),
        ({"worker": 2}, ("worker", 1), False),
        ({"chief": 1, "worker": 2}, ("chief", 0), True),
        ({"chief": 1, "worker": 2}, ("worker", 0), False),
    ],
)
def test_one_worker_is_the_chief(
    tasks: dict[str, int], task: tuple[str, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = tf.train.ClusterSpec({kind: ["host:1"] * count for kind, count in tasks.items()})
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        cluster, task_type=task[0], task_id=task[1]
    )
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", SimpleNamespace)
    assert is_chief(SimpleNamespace(cluster_resolver=resolver)) is expected


def test_more_replicas_than_windows_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    many = SimpleNamespace(num_replicas_in_sync=40)
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: many)
    assert strategy_of(TrainerConfig(distribution="mirrored", windows_per_step=40)) is many
    with pytest.raises(UserError, match=r"trainer\.windows_per_step is 39, .* 40 replicas"):
        strategy_of(TrainerConfig(distribution="mirrored", windows_per_step=39))


def test_a_process_that_has_used_tensorflow_cannot_become_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    tf.zeros([])
    monkeypatch.setenv("TF_CONFIG", tf_config())
    with pytest.raises(UserError, match=r"trainer\.distribution=multi_worker: .* a process of its own"):
        strategy_of(TrainerConfig(distribution="multi_worker"))


def tf_config(**changes: Any) -> str:
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    return json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1}} | changes)


def test_a_cluster_of_workers_with_or_without_a_chief_is_fine() -> None:
    check_tf_config(tf_config())
    check_tf_config(tf_config(cluster={"worker": ["b:1", "[::1]:2"]}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not set"),
        ("{worker", "is no JSON"),
        ("[]", "an object with the keys cluster and task"),
        (json.dumps({"cluster": {"worker": ["a:1"]}}), "an object with the keys cluster and task"),
        (tf_config(cluster={"worker": ["a:1"], "ps": ["b:1"]}), "tasks of type 'ps'"),
        (tf_config(cluster={"worker": "a:1"}), "cluster.worker = 'a:1'"),
        (tf_config(cluster={"worker": ["a"]}), r"cluster.worker = \['a'\]"),
        (tf_config(cluster={"chief": ["a:1"]}), "one worker at least"),
        (tf_config(cluster={"chief": ["a:1", "b:1"], "worker": ["c:1"]}), "one chief at most"),
        (tf_config(task={"type": "evaluator", "index": 0}), "task.type = 'evaluator'"),
        (tf_config(task={"type": "worker", "index": 2}), "task.index = 2, .* has 2 addresses"),
        (tf_config(task={"type": "worker", "index": "0"}), "task.index = '0'"),
    ],
)
def test_an_odd_tf_config_is_named_with_its_remedy(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match=message) as raised:
        strategy_of(TrainerConfig(distribution="multi_worker"))
    assert "trainer.distribution=multi_worker" in str(raised.value) and "Set it on each worker" in str(
        raised.value
    )
