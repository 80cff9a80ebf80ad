"""Resources of single steps in a compiled job."""

from __future__ import annotations

import dataclasses
import math
import re

from two_tower.base.errors import UserError
from two_tower.base.settings import setting

# Key that stands for every step without an entry of its own.
EVERY = "all"


@dataclasses.dataclass(frozen=True)
class ResourcesConfig:
    """Demands of a compiled job's steps on their machines. Runs on this machine take what there is."""

    cpu: tuple[str, ...] = setting(
        (),
        help="CPUs by step of a compiled job, as in Trainer=16; all=4 is for the other steps.",
        may_be_empty=True,
        by_name=True,
    )
    memory: tuple[str, ...] = setting(
        (),
        help="Memory by step of a compiled job, in gigabytes, as in Trainer=64; all=16 is for the others.",
        may_be_empty=True,
        by_name=True,
    )
    accelerator: tuple[str, ...] = setting(
        (),
        help="Accelerators by step of a compiled job, type and count, as in Trainer=NVIDIA_TESLA_T4:1. "
        "Kubeflow's types are those of the cluster, as in Trainer=nvidia.com/gpu:1.",
        may_be_empty=True,
        by_name=True,
    )

    def __post_init__(self) -> None:
        """Raises UserError for an entry of another form."""
        for name in ("cpu", "memory"):
            amounts(self, name)
        accelerators(self)


def amounts(config: ResourcesConfig, name: str) -> dict[str, float]:
    """Returns numbers of `cpu` or `memory` by step.

    Raises:
      UserError: an entry is not of the form Trainer=16, or a step appears twice.
    """
    found: dict[str, float] = {}
    for step, text in _entries(name, getattr(config, name)).items():
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            raise UserError(f"resources.{name} takes a number above 0 for {step}, and was given {text!r}.")
        found[step] = number
    return found


def accelerators(config: ResourcesConfig) -> dict[str, tuple[str, int]]:
    """Returns types and counts of accelerators by step.

    Raises:
      UserError: an entry is not of the form Trainer=NVIDIA_TESLA_T4:1, or a step appears twice.
    """
    found: dict[str, tuple[str, int]] = {}
    for step, text in _entries("accelerator", config.accelerator).items():
        kind, _, count = text.rpartition(":")
        if not kind or not re.fullmatch(r"[0-9]{1,6}", count) or int(count) < 1:
            raise UserError(
                f"resources.accelerator takes a type and a count for {step}, as in NVIDIA_TESLA_T4:1, and "
                f"was given {text!r}."
            )
        found[step] = (kind, int(count))
    return found


def _entries(name: str, texts: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        step, equals, value = (part.strip() for part in text.partition("="))
        if not (step and equals and value):
            raise UserError(
                f"resources.{name} takes steps with a value each, as in Trainer=..., and was given {text!r}."
            )
        if step in found:
            raise UserError(f"resources.{name} names the step {step} twice. Leave one out.")
        found[step] = value
    return found
