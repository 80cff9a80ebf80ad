"""Optimizer: the learning rate schedule, and Adam that updates only embedding rows with a gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from two_tower.trainer.settings import TrainerConfig

# Value of trainer.schedule.shape.
COSINE = "cosine"
# Share of the learning rate at the end of a cosine.
_LAST_SHARE = 0.01

Gradient: TypeAlias = "tf.Tensor | tf.IndexedSlices"


class LearningRate(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate schedule: linear warm-up from zero, then constant, or half a cosine down to 1%.

    "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017), equation 5, without restarts.
    """

    def __init__(self, learning_rate: float, schedule: str, warmup_steps: int, steps: int) -> None:
        """Args:
        learning_rate: after the warm-up.
        schedule: constant or cosine.
        warmup_steps: the steps over which the rate rises from zero.
        steps: of the whole training. A cosine ends at 1% in the last one.
        """
        super().__init__()
        self._config: dict[str, Any] = {
            "learning_rate": learning_rate,
            "schedule": schedule,
            "warmup_steps": warmup_steps,
            "steps": steps,
        }

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the learning rate of a step, counted from 0; float32 scalar."""
        config = self._config
        step = tf.cast(step, tf.float32)
        rate = tf.constant(config["learning_rate"], tf.float32)
        if config["schedule"] == COSINE:
            length = max(1, config["steps"] - 1 - config["warmup_steps"])
            done = tf.clip_by_value((step - config["warmup_steps"]) / length, 0.0, 1.0)
            rate *= _LAST_SHARE + (1 - _LAST_SHARE) * (1 + tf.cos(math.pi * done)) / 2
        return rate * tf.minimum(1.0, (step + 1) / max(1, config["warmup_steps"]))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, as Keras saves them."""
        return dict(self._config)


class RowwiseAdam(tf.keras.optimizers.Optimizer):
    """Sparse Adam: it updates only the rows of an embedding table that have a gradient.

    Keras's Adam decays the moments of every row at every step, and moves every row by them. So it reads and
    writes a table of a million rows for any batch. Here a row moves, and its moments decay, only when the
    row has a gradient. TensorFlow Addons called this LazyAdam, PyTorch calls it SparseAdam. So an old
    gradient does not go on moving a rare row. Its moments average over its own last gradients, not over the
    last steps. Dense gradients, such as those of kernels, have Adam as published (2015, end of section 2).

    Weight decay is decoupled ("Decoupled Weight Decay Regularization", 2019). It subtracts learning rate
    times decay times weight. Kernels decay at every step; rows of tables decay when they have a gradient.
    Items' biases are a table of width one and decay too. Vectors, such as layers' biases, never decay.
    """

    def __init__(
        self,
        learning_rate: float | tf.keras.optimizers.schedules.LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float = 0.0,
        name: str = "RowwiseAdam",
    ) -> None:
        # Not by XLA: the number of rows changes with every step, and XLA would compile each anew.
        super().__init__(name=name, jit_compile=False)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self._beta_1, self._beta_2, self._epsilon = beta_1, beta_2, epsilon
        self._decay = weight_decay

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Builds both moments of each variable."""
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._built = True
        self._first, self._second = (
            [self.add_variable_from_reference(variable, moment) for variable in var_list]
            for moment in ("m", "v")
        )

    def update_step(self, gradient: Gradient, variable: tf.Variable) -> None:
        """Updates a variable. Keras sums gradients over replicas, and those of a row, before."""
        place = self._index_dict[self._var_key(variable)]
        first, second = self._first[place], self._second[place]
        step = tf.cast(self.iterations + 1, variable.dtype)
        rate = tf.cast(self.learning_rate, variable.dtype)
        powers = self._beta_1**step, self._beta_2**step
        decay = rate * self._decay if self._decay and len(variable.shape) > 1 else None
        if isinstance(gradient, tf.IndexedSlices):
            self._move_rows(gradient, (variable, first, second), rate, powers, decay)
            return
        if decay is not None:
            variable.assign_sub(decay * variable)
        # A fused kernel: the formulas below would be twenty operations for each kernel and bias.
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=first.handle,
            v=second.handle,
            beta1_power=powers[0],
            beta2_power=powers[1],
            lr=rate,
            beta1=tf.constant(self._beta_1, variable.dtype),
            beta2=tf.constant(self._beta_2, variable.dtype),
            epsilon=tf.constant(self._epsilon, variable.dtype),
            grad=gradient,
        )

    def _move_rows(
        self,
        gradient: tf.IndexedSlices,
        states: tuple[tf.Variable, tf.Variable, tf.Variable],
        rate: tf.Tensor,
        powers: tuple[tf.Tensor, tf.Tensor],
        decay: tf.Tensor | None,
    ) -> None:
        """Updates the rows of a table that have a gradient, and their moments; `powers`: betas ** step."""
        variable, first, second = states
        rows, by = gradient.indices, gradient.values
        values, m, v = (tf.gather(state, rows) for state in states)
        m += (by - m) * (1 - self._beta_1)
        v += (tf.square(by) - v) * (1 - self._beta_2)
        less = rate * tf.sqrt(1 - powers[1]) / (1 - powers[0]) * m / (tf.sqrt(v) + self._epsilon)
        if decay is not None:
            less += decay * values
        variable.scatter_sub(tf.IndexedSlices(less, rows))
        first.scatter_update(tf.IndexedSlices(m, rows))
        second.scatter_update(tf.IndexedSlices(v, rows))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, as Keras saves them."""
        return {
            "name": self.name,
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
            "beta_1": self._beta_1,
            "beta_2": self._beta_2,
            "epsilon": self._epsilon,
            "weight_decay": self._decay,
        }


def optimizer_of(config: TrainerConfig, steps: int) -> RowwiseAdam:
    """Returns the optimizer; `steps`: of the whole training. The warm-up takes at most half of them."""
    warmup_steps = min(config.schedule.warmup, steps // 2)
    schedule = LearningRate(config.learning_rate, config.schedule.shape, warmup_steps, steps)
    return RowwiseAdam(schedule, weight_decay=config.weight_decay)
