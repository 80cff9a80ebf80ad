"""Registry of the losses, by the names of `trainer.softmax`. It imports no TensorFlow.

A loss is a subclass of `loss.Loss`: it yields the candidates of a step, and the task that scores them.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from two_tower.trainer.loss.loss import Loss
    from two_tower.trainer.model.catalog_table import CatalogTable
    from two_tower.trainer.settings import TrainerConfig

SAMPLED, FULL = "sampled", "full"
# The name that stands for sampled or full, by the data; see `resolved_settings.softmax_for`.
AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class RegisteredLoss:
    """Registration of a loss.

    Attributes:
        loss: the import path of its class. Digests of sources follow it.
        meaning: of its name, for the help.
        samples: whether it draws negatives, which the settings negatives and frequency describe.
    """

    loss: str
    meaning: str
    samples: bool = False


LOSSES = {
    SAMPLED: RegisteredLoss(
        "two_tower.trainer.loss.sampled_loss.SampledLoss",
        meaning="in-batch negatives and those of trainer.negatives",
        samples=True,
    ),
    FULL: RegisteredLoss(
        "two_tower.trainer.loss.full_loss.FullLoss",
        meaning="the whole catalog, if that is small, without correction",
    ),
}
CHOICES = (*LOSSES, AUTO)
# The choices with which settings of sampling change something.
SAMPLING_CHOICES = (*(name for name, loss in LOSSES.items() if loss.samples), AUTO)


def loss_of(config: TrainerConfig, table: CatalogTable, log_q: np.ndarray) -> Loss:
    """Builds the loss of `trainer.softmax`, the sampled one for an unresolved auto; see `loss.Loss`."""
    name = SAMPLED if config.softmax == AUTO else config.softmax
    module, _, cls = LOSSES[name].loss.rpartition(".")
    built: Loss = getattr(importlib.import_module(module), cls)(config, table, log_q)
    return built
