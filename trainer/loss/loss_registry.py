"""Registry of the losses, by the names of `trainer.softmax`. It imports no TensorFlow.

A loss is a subclass of `loss.Loss`: it yields the candidates of a step, and the task that scores them.
"""

from __future__ import annotations

import dataclasses

SAMPLED, FULL = "sampled", "full"
# The name that stands for sampled or full, by the data; see `resolved_settings.softmax_for`.
AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class RegisteredLoss:
    """Registration of a loss.

    Attributes:
        loss: the import path of its class. Digests of sources follow it.
        meaning: the meaning of its name, for the help.
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
        meaning="the whole catalog without correction, for small catalogs",
    ),
}
CHOICES = (*LOSSES, AUTO)
# The choices with which settings of sampling change something. auto may be full.
SAMPLING_CHOICES = tuple(name for name, loss in LOSSES.items() if loss.samples)
