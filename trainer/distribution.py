"""Distributed training with tf.distribute: replicas, their inputs, and the joined batch.

The batch of a step is the joined batch of all replicas. Each replica reads its part of the windows. All know
the labels of the joined batch, and so share its negatives. Losses of replicas add up to the loss of the
joined batch, and so do gradients. So the number of replicas changes the speed of training, not its result.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from two_tower.base.errors import UserError
from two_tower.trainer.settings import TrainerConfig

# Values of trainer.distribution.
NONE, MIRRORED, MULTI_WORKER = "none", "mirrored", "multi_worker"

_TF_CONFIG_EXAMPLE = json.dumps(
    {"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}
)


def strategy_of(config: TrainerConfig) -> tf.distribute.Strategy:
    """Returns the strategy that `trainer.distribution` names. Call it before any other use of TensorFlow.

    `mirrored` has a replica on each GPU of this machine. `multi_worker` reads the environment variable
    TF_CONFIG. It has a replica on each GPU of the machines named there, and one on a machine without GPU.

    Raises:
      UserError: TF_CONFIG is missing or malformed, or a step has fewer windows than there are replicas.
    """
    if config.distribution == NONE:
        return tf.distribute.get_strategy()
    if config.distribution == MIRRORED:
        strategy = tf.distribute.MirroredStrategy()
    else:
        check_tf_config(os.environ.get("TF_CONFIG", ""))
        try:
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
        except RuntimeError as error:
            raise UserError(
                f"trainer.distribution=multi_worker: {error} Run Trainer in a process of its own. "
                "Nothing else in that process may use TensorFlow before."
            ) from error
    if 0 < config.windows_per_step < strategy.num_replicas_in_sync:
        raise UserError(
            f"trainer.windows_per_step is {config.windows_per_step}, fewer than one window for each of "
            f"{strategy.num_replicas_in_sync} replicas: set it to {strategy.num_replicas_in_sync} or more."
        )
    return strategy


def check_tf_config(text: str) -> None:
    """Raises UserError unless this value of TF_CONFIG names a cluster of workers and this worker's index."""

    def wrong(what: str) -> UserError:
        return UserError(
            f"trainer.distribution=multi_worker: the environment variable TF_CONFIG {what}. Set it on each "
            f"worker to the addresses of all workers and its own index, as in {_TF_CONFIG_EXAMPLE}."
        )

    if not text:
        raise wrong("is not set")
    try:
        content: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise wrong(f"is no JSON ({error})") from error
    cluster = content.get("cluster") if isinstance(content, dict) else None
    task = content.get("task") if isinstance(content, dict) else None
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise wrong("takes an object with the keys cluster and task")
    for kind, addresses in cluster.items():
        if kind not in ("chief", "worker"):
            raise wrong(f"names tasks of type {kind!r}: there are the types worker and, at most once, chief")
        if not isinstance(addresses, list) or not all(_is_address(one) for one in addresses):
            raise wrong(f"has cluster.{kind} = {addresses!r}, which is no list of host:port")
    if not cluster.get("worker") or len(cluster.get("chief", ())) > 1:
        raise wrong("takes one worker at least and one chief at most in its cluster")
    kind, index = task.get("type"), task.get("index")
    if kind not in cluster:
        raise wrong(f"has task.type = {kind!r}, which its cluster does not have")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(cluster[kind]):
        raise wrong(f"has task.index = {index!r}, and its cluster.{kind} has {len(cluster[kind])} addresses")


def _is_address(text: Any) -> bool:
    host, _, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    return bool(host) and port.isdigit()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Tells the chief, the only process that writes outputs of a training. All processes read inputs."""
    resolver = strategy.cluster_resolver
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or not resolver.task_type:
        return True
    if resolver.task_type == "chief":
        return True
    return resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs


def parts(batch: tf.Tensor, context: tf.distribute.InputContext) -> tf.data.Dataset:
    """Splits a step's records, string [windows], into one part for each replica of this process.

    The parts of all replicas are the batch, in its order. So random numbers belong to the same windows with
    any number of replicas. A part is empty where the last batch has fewer records than there are replicas.

    Every process reads all records and parses only its own. (Sharding the files would read each file once,
    but batches would depend on the number of processes.)
    """
    total = context.num_replicas_in_sync
    here = total // context.num_input_pipelines
    first = context.input_pipeline_id * here

    def part(number: tf.Tensor) -> tf.Tensor:
        size = tf.size(batch, tf.int64)
        return batch[size * number // total : size * (number + 1) // total]

    return tf.data.Dataset.range(first, first + here).map(part)


def gathered(strategy: tf.distribute.Strategy, values: Sequence[float]) -> np.ndarray:
    """Gathers the values of all replicas, float64 [replicas, values], the chief's first.

    All processes must call it, with the same number of values.
    """
    if strategy.num_replicas_in_sync == 1:
        return np.array([values], np.float64)
    of_replicas = _joined_by(strategy, tf.constant([values], tf.float64))
    return np.asarray(strategy.experimental_local_results(of_replicas)[0])


@tf.function
def _joined_by(strategy: tf.distribute.Strategy, values: tf.Tensor) -> tf.Tensor:
    return strategy.run(joined, args=(values,))


def replicas() -> int:
    """Returns the number of replicas in sync."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else int(context.num_replicas_in_sync)


def replica() -> tf.Tensor:
    """Returns the id of the replica that executes this code, int32."""
    context = tf.distribute.get_replica_context()
    return tf.cast(0 if context is None else context.replica_id_in_sync_group, tf.int32)


def joined(values: tf.Tensor) -> tf.Tensor:
    """Gathers the rows [any, ...] of all replicas, in the order of replicas, the same on each.

    Replicas may have different numbers of rows. All must call it, outside of conditions and loops.
    """
    if replicas() == 1:
        return values
    # tf.identity places the rows on the replica's device: TensorFlow tells replicas by their device.
    return tf.distribute.get_replica_context().all_gather(tf.identity(values), axis=0)
