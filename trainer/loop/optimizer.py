"""How weights follow from gradients: the learning rate's course, and Adam that leaves alone what a step
does not read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from two_tower.trainer.settings import TrainerConfig

# Value of trainer.schedule.shape.
COSINE = "cosine"
# Share of the learning rate that is left at the end of a cosine.
_LAST_SHARE = 0.01

Gradient: TypeAlias = "tf.Tensor | tf.IndexedSlices"


class LearningRate(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Linear from zero to the learning rate over the first steps; then constant, or half a cosine down to 1%.

    "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017), equation 5, without restarts.
    """

    def __init__(self, learning_rate: float, schedule: str, warmup_steps: int, steps: int) -> None:
        """`schedule`: constant or cosine; `steps`: of the whole training, at the last of which it is 1%."""
        super().__init__()
        self._config: dict[str, Any] = {
            "learning_rate": learning_rate,
            "schedule": schedule,
            "warmup_steps": warmup_steps,
            "steps": steps,
        }

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate of a step, the first of which is 0; float32 scalar."""
        config = self._config
        step = tf.cast(step, tf.float32)
        rate = tf.constant(config["learning_rate"], tf.float32)
        if config["schedule"] == COSINE:
            length = max(1, config["steps"] - 1 - config["warmup_steps"])
            done = tf.clip_by_value((step - config["warmup_steps"]) / length, 0.0, 1.0)
            rate *= _LAST_SHARE + (1 - _LAST_SHARE) * (1 + tf.cos(math.pi * done)) / 2
        return rate * tf.minimum(1.0, (step + 1) / max(1, config["warmup_steps"]))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as Keras saves them."""
        return dict(self._config)


class RowwiseAdam(tf.keras.optimizers.Optimizer):
    """Adam that touches only those rows of an embedding table which the step has read.

    Keras's Adam lets the moments of every row decay at every step, and moves every row by them: of a table of
    a million rows it reads and writes all, whatever the batch. Here a row's moments decay when the row has a
    gradient, and only then does it move: TensorFlow Addons called this LazyAdam, PyTorch calls it SparseAdam.
    So a rare row is not moved further, step by step, by a gradient of long ago, and its moments average over
    its own last gradients, not over the last steps. What is read densely, such as kernels, has Adam as
    published (2015, in the form of the end of section 2).

    Weight decay is decoupled ("Decoupled Weight Decay Regularization", 2019): learning rate times decay times
    weight is subtracted from kernels at every step and from a table's rows as they are read, those of items'
    biases too (a table of width one); never from vectors, such as layers' biases.
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
        # Not by XLA: the number of rows is another at every step, and each would be compiled anew.
        super().__init__(name=name, jit_compile=False)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self._beta_1, self._beta_2, self._epsilon = beta_1, beta_2, epsilon
        self._decay = weight_decay

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Makes both moments of each variable."""
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._built = True
        self._first, self._second = (
            [self.add_variable_from_reference(variable, moment) for variable in var_list]
            for moment in ("m", "v")
        )

    def update_step(self, gradient: Gradient, variable: tf.Variable) -> None:
        """Moves a variable; Keras calls it with gradients summed over replicas and by unique row."""
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
        # One pass, where the formulas below would be twenty operations for each kernel and bias.
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
        """Of a table and its moments, rows that have a gradient; `powers`: of both betas, to the step."""
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
        """The constructor's arguments, as Keras saves them."""
        return {
            "name": self.name,
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
            "beta_1": self._beta_1,
            "beta_2": self._beta_2,
            "epsilon": self._epsilon,
            "weight_decay": self._decay,
        }


def optimizer_of(config: TrainerConfig, steps: int) -> RowwiseAdam:
    """Returns the optimizer; `steps`: of the whole training, at most half of which warms up."""
    warmup_steps = min(config.schedule.warmup, steps // 2)
    schedule = LearningRate(config.learning_rate, config.schedule.shape, warmup_steps, steps)
    return RowwiseAdam(schedule, weight_decay=config.weight_decay)
