"""Settings of a run: frozen dataclasses, a few presets, and overrides by dotted name.

A setting has a dotted name such as `trainer.learning_rate`; a key of a block is `trainer.dropout.hidden`. Its
section's dataclass declares it once, and the declaration checks it. Presets are code. A YAML or JSON file and
`--set` override single values. This module does not import TensorFlow, which keeps the command line fast.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Any

from two_tower.base.errors import UserError
from two_tower.base.settings import (
    DEFAULT_SEED,
    Declaration,
    Setting,
    blocks,
    declarations,
    from_plain,
    setting,
    to_plain,
    typed,
    unknown_setting,
    values_of,
)
from two_tower.components.anomaly_gate.settings import ValidationConfig
from two_tower.components.auto_settings.rules import AUTOMATIC
from two_tower.components.interaction_example_gen.settings import SplitConfig, WindowConfig
from two_tower.data_directory.settings import FeaturesConfig
from two_tower.evaluation.settings import EvaluationConfig, GateConfig, slice_limits
from two_tower.pipeline.settings.contradictions import ContradictionError, faults
from two_tower.pipeline.settings.resources import ResourcesConfig
from two_tower.pipeline.settings.retired import retired_setting
from two_tower.serving.settings import IndexConfig
from two_tower.trainer.settings import TrainerConfig


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """All settings of a run."""

    split: SplitConfig = SplitConfig()
    windows: WindowConfig = WindowConfig()
    features: FeaturesConfig = FeaturesConfig()
    validation: ValidationConfig = ValidationConfig()
    trainer: TrainerConfig = TrainerConfig()
    index: IndexConfig = IndexConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gate: GateConfig = GateConfig()
    seed: int = setting(
        DEFAULT_SEED,
        help="Seed of all random draws: initial weights, the order of windows, dropout, samples of queries, "
        "resamples.",
        at_least=0,
        at_most=2**31 - 1,
        shown=True,
    )
    resources: ResourcesConfig = setting(
        ResourcesConfig(),
        help="CPUs, memory and accelerators of single steps in a compiled job. Runs on this machine take "
        "what there is.",
    )
    automatic: tuple[str, ...] = setting(
        (),
        help="Settings that follow from the data, by the rules of the preset auto. A setting that is given "
        "follows no rule.",
        choices=AUTOMATIC,
        may_be_empty=True,
    )
    beam_args: tuple[str, ...] = setting(
        (),
        help="Options for Beam, such as --runner=DataflowRunner.",
        may_be_empty=True,
    )

    def __post_init__(self) -> None:
        """Raises UserError for a value outside its setting's range, ContradictionError for faults."""
        for name, value in settings(self).items():
            check_range(name, value)
        slice_limits(self.gate)
        if found := tuple(faults(self)):
            raise ContradictionError(found, found[0].remedies)

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as nested plain values, as YAML and JSON hold them."""
        return typing.cast(dict[str, Any], to_plain(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PipelineConfig:
        """Builds settings from the result of `to_dict`; an absent setting keeps its default.

        Raises:
          UserError: an unknown setting, or a value of the wrong type or out of range.
        """
        return from_plain(cls, values)


def settings(config: PipelineConfig) -> dict[str, Any]:
    """Returns every value by dotted name in order of declaration; keys of blocks are separate."""
    return values_of(config)


@functools.cache
def types() -> dict[str, Declaration]:
    """Returns the declarations of all settings and keys of blocks, by dotted name."""
    return declarations(PipelineConfig)


@functools.cache
def setting_blocks() -> dict[str, Setting]:
    """Returns the settings that have keys, by dotted name."""
    return blocks(PipelineConfig)


def declaration(name: str) -> Declaration:
    """Returns the declaration of a setting, or of a block's key.

    Raises:
      UserError: there is no such setting. The message names today's name of an earlier release's setting, or
        the nearest setting.
    """
    if name in types():
        return types()[name]
    if error := retired_setting(name):
        raise error
    block, _, key = name.rpartition(".")
    of_block = [one for one in types().values() if one.block == block] if block else []
    if key and any(one.setting.open_keys for one in of_block):
        # Refuses a misspelt declared key.
        from_plain(TrainerConfig, {block.partition(".")[2]: {key: 0}}, block.partition(".")[0])
        return next(one for one in of_block if one.setting.open_keys)
    if any(one.startswith(f"{name}.") for one in types()):
        if name in setting_blocks():
            keys = ", ".join(one.name.rpartition(".")[2] for one in types().values() if one.block == name)
            raise UserError(f"{name} is a setting with keys ({keys}): name a key, as in {name}.<key>.")
        raise UserError(f"{name} is a section of settings: name a setting, as in {name}.<setting>=<value>.")
    raise unknown_setting(name, types())


def is_setting(name: str) -> bool:
    """Tells if a dotted name is a setting or a key of a block."""
    try:
        declaration(name)
    except UserError:
        return False
    return True


def setting_type(name: str) -> Any:
    """Returns int, float, bool, str or a tuple of one of them; raises UserError as `declaration` does."""
    found = declaration(name)
    return float if found.setting.open_keys else found.hint


def checked(name: str, value: Any) -> Any:
    """Converts a plain value to the type of a setting.

    Raises:
      UserError: there is no such setting (the message names the nearest), or it does not take the value.
    """
    found = typed(name, setting_type(name), value)
    check_range(name, found)
    return found


def check_range(name: str, value: Any) -> None:
    """Raises UserError for a value outside its setting's range or choices."""
    declaration(name).check(value, name)
