"""Settings that the submission of a compiled job may change: its runtime parameters."""

from __future__ import annotations

import functools
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from tfx.types.component_spec import ExecutionParameter

from two_tower.base.settings import Declaration, declarations, typed, with_values
from two_tower.components.anomaly_gate.settings import ValidationConfig
from two_tower.components.interaction_example_gen.settings import WindowConfig
from two_tower.evaluation.settings import GateConfig

T = TypeVar("T")

_SECTIONS = {"windows": WindowConfig, "validation": ValidationConfig, "gate": GateConfig}
# Not gate.cutoff: training picks its best epoch by it, and the report draws its slices by it.
PER_RUN = (
    "windows.spans",
    "validation.max_drift",
    "validation.max_skew",
    "gate.min_recall",
    "gate.min_ann_recall",
    "gate.min_lift_over_best_baseline",
    "gate.min_change_against_blessed",
    "gate.min_slice_change",
    "gate.slices",
    "gate.min_coverage",
    "gate.max_latency_p95",
)


def parameter_name(setting: str) -> str:
    """Returns the name of a setting's runtime parameter, such as gate_min_recall."""
    return setting.replace(".", "_")


def parameter_type(setting: str) -> type[int] | type[float] | type[str]:
    """Returns the type of a setting's runtime parameter; a list is a text with commas."""
    hint = declared(setting).hint
    return str if typing.get_origin(hint) is tuple else typing.cast(type[int] | type[float], hint)


def parameter_value(setting: str, value: Any) -> int | float | str:
    """Returns a setting's value as its runtime parameter has it."""
    return ",".join(value) if isinstance(value, tuple) else typing.cast(int | float | str, value)


def execution_parameters(*sections: str) -> dict[str, ExecutionParameter]:
    """Returns the optional parameters of a component that reads sections of the settings."""
    return {
        parameter_name(name): ExecutionParameter(type=parameter_type(name), optional=True)
        for name in PER_RUN
        if name.partition(".")[0] in sections
    }


def with_submitted(config: T, section: str, exec_properties: Mapping[str, Any]) -> T:
    """Returns a section's settings with the values of the job's submission, if there are any.

    Raises:
      UserError: a value has another type, or lies outside its setting's range.
    """
    return with_values(
        config,
        {
            name.partition(".")[2]: checked(name, exec_properties[parameter_name(name)])
            for name in PER_RUN
            if name.startswith(f"{section}.") and exec_properties.get(parameter_name(name)) is not None
        },
    )


def checked(setting: str, value: Any) -> Any:
    """Converts the value of a runtime parameter to its setting's type.

    Raises:
      UserError: the value has another type, or lies outside the setting's range.
    """
    found, name = declared(setting), f"The job's parameter {parameter_name(setting)}"
    if parameter_type(setting) is str and isinstance(value, str):
        value = tuple(part.strip() for part in value.split(",") if part.strip())
    value = typed(name, found.hint, value)
    found.check(value, name)
    return value


@functools.cache
def _declared() -> dict[str, Declaration]:
    return {
        name: one for section, cls in _SECTIONS.items() for name, one in declarations(cls, section).items()
    }


def declared(setting: str) -> Declaration:
    """Returns the declaration of a setting in PER_RUN."""
    return _declared()[setting]
