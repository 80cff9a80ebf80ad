"""Settings of a run, settled by the rules of `auto` on a data directory."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from two_tower.base import pointers, storage
from two_tower.base.settings import (
    Declaration,
    declarations,
    from_plain,
    to_plain,
    value_text,
    values_of,
    with_values,
)
from two_tower.components.auto_settings import rules
from two_tower.components.auto_settings.rules import Choice
from two_tower.components.interaction_example_gen.settings import SplitConfig, WindowConfig
from two_tower.data_directory.event_shape import EventShape, event_shape
from two_tower.data_directory.manifest import Manifest
from two_tower.data_directory.settings import FeaturesConfig
from two_tower.evaluation.settings import EvaluationConfig, GateConfig
from two_tower.serving import provenance
from two_tower.trainer.settings import TrainerConfig


@dataclasses.dataclass(frozen=True)
class Sections:
    """Sections of the settings that rules read or settle."""

    split: SplitConfig
    windows: WindowConfig
    features: FeaturesConfig
    trainer: TrainerConfig
    evaluation: EvaluationConfig
    gate: GateConfig

    @classmethod
    def of(cls, settings: Any) -> Sections:
        """Takes the sections of all settings of a run."""
        return cls(*(getattr(settings, field.name) for field in dataclasses.fields(cls)))

    @classmethod
    def from_json(cls, text: str) -> Sections:
        """Builds the sections that `to_json` wrote.

        Raises:
          UserError: an unknown setting, or a value of the wrong type.
        """
        return from_plain(cls, json.loads(text))

    def to_json(self) -> str:
        """Formats the sections as a parameter; equal settings give equal text."""
        return json.dumps(to_plain(self), sort_keys=True)


@functools.cache
def _declared() -> dict[str, Declaration]:
    return declarations(Sections)


def settle(
    data: str,
    manifest: Manifest,
    sections: Sections,
    automatic: Sequence[str],
    trained: Mapping[str, Any] | None = None,
) -> tuple[Sections, list[Choice]]:
    """Decides the automatic settings by the data.

    Args:
      data: the data directory.
      manifest: its manifest.
      sections: the settings as given.
      automatic: dotted names of the settings that rules may change; empty: the data is not read.
      trained: settings of the model that a warm start begins from, by dotted name. They stay.

    Returns:
      The settings, and the choices that were made.

    Raises:
      UserError: a file of the data cannot be read.
    """
    if not automatic:
        return sections, []
    shape = _shape(data, manifest, sections.windows.spans)
    kept = {name: value for name, value in (trained or {}).items() if name in automatic}
    sections = with_values(sections, kept)
    choices = [
        Choice(name, value, "as in the model that it begins from", "warm start")
        for name, value in kept.items()
    ]
    free = [name for name in automatic if name not in kept]
    choices += rules.settle(shape, manifest, values_of(sections), _declared(), free)
    return with_values(sections, {choice.name: choice.value for choice in choices}), choices


def kept_by_warm_start(
    trainer: TrainerConfig, manifest: Manifest, latest_blessed: str | None
) -> dict[str, Any]:
    """Returns the settings that shape the model which a warm start begins from, by dotted name.

    Args:
      trainer: the settings as given.
      manifest: manifest of the data.
      latest_blessed: text of the pointer to the latest blessed model, or None.

    Returns:
      The settings; {} without a warm start, or without a model of this data set that left a state.
    """
    blessed = pointers.from_text(latest_blessed) if trainer.warm_start and latest_blessed else None
    if blessed is None:
        return {}
    from tfx.utils import path_utils

    from two_tower.trainer.loop import warm_start  # imports TensorFlow

    state = storage.join(blessed.properties.get(provenance.TOWERS, ""), warm_start.DIRECTORY)
    recorded = provenance.read(path_utils.serving_model_path(blessed.uri))
    if recorded is None or recorded.get("dataset") != manifest.dataset or not warm_start.exists(state):
        return {}
    kept = warm_start.shapes_of(state)
    if "history_length" in recorded:
        kept["windows.history_length"] = recorded["history_length"]
    return kept


@functools.lru_cache(maxsize=2)
def _shape_of(data: str, digest: str, spans: int) -> EventShape:
    """Keeps the shape: a local run settles before its DAG, to check the settings, and in its first step."""
    return event_shape(data, Manifest.load(data), spans)


def _shape(data: str, manifest: Manifest, spans: int) -> EventShape:
    return _shape_of(data, manifest.digest, spans)


def lines(choices: Sequence[Choice]) -> list[str]:
    """Formats choices for readers, a line for each subject: settings with their values, then the reasons."""
    subjects: dict[str, list[Choice]] = {}
    for choice in choices:
        subjects.setdefault(choice.subject, []).append(choice)
    return [
        f"{subject:<15}{', '.join(f'{one.name}={value_text(one.value)}' for one in found)}: "
        + "; ".join(dict.fromkeys(one.reason for one in found))
        for subject, found in subjects.items()
    ]
