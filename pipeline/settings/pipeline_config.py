"""Settings of a run: frozen dataclasses, a few presets, and overrides by dotted name.

A setting is named as in `trainer.learning_rate`, and a key of a block as in `trainer.dropout.hidden`. Each is
declared once, in its section's dataclass, and checked by its declaration. Presets are code; a YAML or JSON
file and `--set` lay single values over one. Nothing here imports TensorFlow, so that the command line stays
quick.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping
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
from two_tower.components.interaction_example_gen.settings import SplitConfig, WindowConfig
from two_tower.data_directory.settings import FeaturesConfig
from two_tower.evaluation.settings import MIN_SLICE_USERS, EvaluationConfig, GateConfig, slice_limits
from two_tower.pipeline.settings.retired import retired_setting
from two_tower.serving.settings import IndexConfig
from two_tower.trainer.settings import TrainerConfig, check_trainer, contradictions


class MeaninglessSettingError(UserError):
    """A setting that another one makes meaningless.

    Attributes:
        setting: its dotted name.
        cause: that of the other one.
    """

    def __init__(self, setting: str, cause: str, message: str) -> None:
        super().__init__(message)
        self.setting, self.cause = setting, cause


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
        help="Seed of everything that is drawn: initial weights, the order of windows, dropout, samples of "
        "queries, resamples.",
        at_least=0,
        at_most=2**31 - 1,
        shown=True,
    )
    beam_args: tuple[str, ...] = setting(
        (),
        help="Options that Beam is given as they are, such as --runner=DataflowRunner.",
        may_be_empty=True,
    )

    def __post_init__(self) -> None:
        """Raises UserError for a value outside its setting's range, or two settings that contradict."""
        for name, value in settings(self).items():
            check_range(name, value)
        if max(self.evaluation.cutoffs) > self.index.max_k:
            raise UserError(
                f"evaluation.cutoffs asks for Recall@{max(self.evaluation.cutoffs)} and the served model "
                f"answers with at most index.max_k = {self.index.max_k} items: raise index.max_k."
            )
        if self.gate.cutoff not in self.evaluation.cutoffs:
            listed, judged = ", ".join(map(str, self.evaluation.cutoffs)), self.gate.cutoff
            raise UserError(
                f"evaluation.cutoffs is {listed}, without {judged}: the gate judges by Recall@{judged} "
                f"(gate.cutoff). Add {judged} to the one or change the other."
            )
        slice_limits(self.gate)
        for name, cause, explanation in _meaningless(self):
            raise MeaninglessSettingError(name, cause, explanation)
        check_trainer(self.trainer)

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as nested plain values, as YAML and JSON hold them."""
        return typing.cast(dict[str, Any], to_plain(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PipelineConfig:
        """Returns the settings that `to_dict` gave; a setting that is not named keeps its default.

        Raises:
          UserError: an unknown setting, or a value of the wrong type or out of range.
        """
        return from_plain(cls, values)


def _meaningless(config: PipelineConfig) -> Iterator[tuple[str, str, str]]:
    """Yields settings that are given and change nothing: name, the other setting's name, an explanation."""
    values = settings(config)
    for name, declaration in types().items():
        if name not in values or values[name] == declaration.default:
            continue
        for other, allowed in declaration.setting.applies.items():
            held = values[other] if isinstance(values[other], tuple) else (values[other],)
            if not set(held) & set(allowed):
                wanted = " or ".join(map(value_text, allowed))
                yield (
                    name,
                    other,
                    f"{name} is {value_text(values[name])}, and changes nothing where {other} is "
                    f"{value_text(values[other]) or 'empty'}: it takes {other} with {wanted}. Leave "
                    f"{name} at {value_text(declaration.default)}, or change {other}.",
                )
    yield from contradictions(config.trainer)
    if config.evaluation.max_queries < MIN_SLICE_USERS:
        limit, default = config.gate.min_slice_change, types()["gate.min_slice_change"].default
        if limit != default:
            yield (
                "gate.min_slice_change",
                "evaluation.max_queries",
                f"gate.min_slice_change is {limit:g}, and changes nothing where evaluation.max_queries is "
                f"{config.evaluation.max_queries}: slices with fewer than {MIN_SLICE_USERS} users are not "
                "judged. Ask more queries, or leave it out.",
            )


def settings(config: PipelineConfig) -> dict[str, Any]:
    """Returns every value by its dotted name, the keys of blocks one by one, in order of declaration."""
    return values_of(config)


@functools.cache
def types() -> dict[str, Declaration]:
    """Returns the declaration of every setting, and of every key of a block, by its dotted name."""
    return declarations(PipelineConfig)


@functools.cache
def setting_blocks() -> dict[str, Setting]:
    """Returns the settings that have keys, by dotted name."""
    return blocks(PipelineConfig)


def declaration(name: str) -> Declaration:
    """Returns the declaration of a setting, or of a block's key.

    Raises:
      UserError: there is none; it names today's setting for an earlier release's, or the nearest.
    """
    if name in types():
        return types()[name]
    if error := retired_setting(name):
        raise error
    block, _, key = name.rpartition(".")
    of_block = [one for one in types().values() if one.block == block] if block else []
    if key and any(one.setting.open_keys for one in of_block):
        # Refuses what is nearly a declared key.
        from_plain(TrainerConfig, {block.partition(".")[2]: {key: 0}}, block.partition(".")[0])
        return next(one for one in of_block if one.setting.open_keys)
    if any(one.startswith(f"{name}.") for one in types()):
        if name in setting_blocks():
            keys = ", ".join(one.name.rpartition(".")[2] for one in types().values() if one.block == name)
            raise UserError(f"{name} is a setting with keys ({keys}): name one, as in {name}.<key>.")
        raise UserError(f"{name} is a section of settings: name one of them, as in {name}.<setting>=<value>.")
    raise unknown_setting(name, types())


def is_setting(name: str) -> bool:
    """Returns whether there is a setting, or a key of a block, of that dotted name."""
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
    """Returns a plain value as the setting of that dotted name holds it.

    Raises:
      UserError: there is no such setting, naming the nearest, or it does not take the value.
    """
    found = typed(name, setting_type(name), value)
    check_range(name, found)
    return found


def check_range(name: str, value: Any) -> None:
    """Raises UserError for a value outside its setting's range or choices."""
    declaration(name).check(value, name)


def value_text(value: Any) -> str:
    """Returns a setting's value as `--set` takes it."""
    if isinstance(value, tuple):
        return ",".join(map(value_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
