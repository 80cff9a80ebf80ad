"""Training on several devices or machines with tf.distribute: who reads, gathers and writes what.

The batch of a step is that of all replicas together. Each reads its part of the windows; all know the joined
batch's labels, and so share its negatives; losses of replicas add up to the loss of the joined batch, and so
do their gradients. So the number of replicas changes how fast a training is, and not what comes of it.
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
    """The strategy that `trainer.distribution` names; it must be made before TensorFlow is used otherwise.

    `mirrored` has a replica on each GPU of this machine; `multi_worker` one on each GPU of the machines that
    the environment variable TF_CONFIG names, or on each machine that has none.

    Raises:
      UserError: TF_CONFIG is missing or odd, or a step has fewer windows than there are replicas.
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
                f"trainer.distribution=multi_worker: {error} Run Trainer in a process of its own, in "
                "which nothing else has used TensorFlow."
            ) from error
    if 0 < config.windows_per_step < strategy.num_replicas_in_sync:
        raise UserError(
            f"trainer.windows_per_step is {config.windows_per_step}, and the windows of a step are divided "
            f"among {strategy.num_replicas_in_sync} replicas: set it to that at least."
        )
    return strategy


def check_tf_config(text: str) -> None:
    """Raises UserError unless this value of TF_CONFIG names a cluster of workers and this one's place."""

    def wrong(what: str) -> UserError:
        return UserError(
            f"trainer.distribution=multi_worker: the environment variable TF_CONFIG {what}. Set it on each "
            f"worker to all workers' addresses and its own place among them, as in {_TF_CONFIG_EXAMPLE}."
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
    """Whether this process is the one that writes what a training leaves; what is read, all read."""
    resolver = strategy.cluster_resolver
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or not resolver.task_type:
        return True
    if resolver.task_type == "chief":
        return True
    return resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs


def parts(batch: tf.Tensor, context: tf.distribute.InputContext) -> tf.data.Dataset:
    """Of a step's records, string [windows], the part of each of this process's replicas in turn.

    Together they are the batch, and in its order, so that all random numbers mean the same windows however
    many replicas there are. A part is empty where the last batch has fewer records than there are replicas.

    Every process reads all records, but parses its own alone. (Dividing the files among processes would read
    each once, and give batches that depend on the number of processes.)
    """
    total = context.num_replicas_in_sync
    here = total // context.num_input_pipelines
    first = context.input_pipeline_id * here

    def part(number: tf.Tensor) -> tf.Tensor:
        size = tf.size(batch, tf.int64)
        return batch[size * number // total : size * (number + 1) // total]

    return tf.data.Dataset.range(first, first + here).map(part)


def gathered(strategy: tf.distribute.Strategy, values: Sequence[float]) -> np.ndarray:
    """What the process of each replica has, float64 [replicas, values], the chief's first.

    All processes must ask for it, and with as many values.
    """
    if strategy.num_replicas_in_sync == 1:
        return np.array([values], np.float64)
    of_replicas = _joined_by(strategy, tf.constant([values], tf.float64))
    return np.asarray(strategy.experimental_local_results(of_replicas)[0])


@tf.function
def _joined_by(strategy: tf.distribute.Strategy, values: tf.Tensor) -> tf.Tensor:
    return strategy.run(joined, args=(values,))


def replicas() -> int:
    """How many replicas take part in what is being computed."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else int(context.num_replicas_in_sync)


def replica() -> tf.Tensor:
    """The number of the one that computes this, int32."""
    context = tf.distribute.get_replica_context()
    return tf.cast(0 if context is None else context.replica_id_in_sync_group, tf.int32)


def joined(values: tf.Tensor) -> tf.Tensor:
    """The rows [any, ...] of all replicas, one replica's after the other's, the same on each.

    They may have different numbers of rows. All must ask for it, and outside of conditions and loops.
    """
    if replicas() == 1:
        return values
    # On the replica's device, by which TensorFlow knows whose it is.
    return tf.distribute.get_replica_context().all_gather(tf.identity(values), axis=0)
