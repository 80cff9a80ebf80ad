"""Settings of a run from a preset, a config file over it, and `key=value` overrides over both."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
import typing
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import yaml

from two_tower.base.errors import UserError
from two_tower.base.settings import from_plain, to_plain
from two_tower.evaluation.settings import GateConfig, slice_limits
from two_tower.pipeline.settings.pipeline_config import (
    MeaninglessSettingError,
    PipelineConfig,
    check_range,
    declaration,
    setting_blocks,
    setting_type,
)
from two_tower.pipeline.settings.presets import PRESETS
from two_tower.pipeline.settings.retired import retired_setting


@dataclasses.dataclass(frozen=True)
class RunFile:
    """Config file: a run's data, output and preset, and settings that override the preset."""

    data: str | None = None
    output: str | None = None
    preset: str | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read_run_file(path: str) -> RunFile:
    """Reads a YAML or JSON config file: the keys `data`, `output`, `preset`, and settings, nested.

    Raises:
      UserError: the file is missing, is not YAML, or one of the three keys is not a text. `load` checks the
        settings.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise UserError(f"{path}: the config file cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}.") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: a config file holds keys and values, and this one a {_kind(content)}.")
    places: dict[str, str | None] = {}
    for key in ("data", "output", "preset"):
        places[key] = content.pop(key, None)
        if not isinstance(places[key], str | None):
            raise UserError(f"{path}: {key} takes a text, and was given {places[key]!r}.")
    return RunFile(**places, settings=content)


# With fewer label events, a day has too few of them for the evaluation.
_SMALL_BELOW = 300_000


def suited_preset(label_events: int, has_timestamps: bool = True) -> str:
    """Returns the default preset for data with this number of label events."""
    if not has_timestamps:
        return "next_item"
    return "small" if label_events < _SMALL_BELOW else "default"


def load(
    preset: str | None = None,
    file: str | None = None,
    overrides: Sequence[str] = (),
    fallback: str = "default",
) -> PipelineConfig:
    """Returns a preset's settings, overridden by a config file and by `key=value` overrides.

    If a given setting makes a preset's value meaningless, the value returns to its default.

    Args:
      preset: a name in PRESETS; None: the file's `preset`, or else `fallback`.
      file: a YAML or JSON file, see `read_run_file`.
      overrides: overrides such as "trainer.learning_rate=0.01"; commas separate a tuple's values.
      fallback: the preset if neither argument nor file names one.

    Raises:
      UserError: an unknown preset or setting (the message names the nearest), or a value that its setting
        does not take.
    """
    run_file = read_run_file(file) if file else RunFile()
    values = _preset(preset or run_file.preset or fallback).to_dict()
    try:
        given = set(_lay_over(values, run_file.settings, ""))
        # The check precedes the overrides, so that an error names the file or the override correctly.
        values = settled(values, given).to_dict()
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    given |= _override(values, overrides)
    return settled(values, given)


def with_overrides(config: PipelineConfig, overrides: Sequence[str]) -> PipelineConfig:
    """Returns a configuration with `key=value` overrides; raises UserError as `load` does."""
    values = config.to_dict()
    return settled(values, _override(values, overrides))


def settled(values: dict[str, Any], given: Set[str] = frozenset()) -> PipelineConfig:
    """Builds the settings; a meaningless value that is not in `given` gets its default.

    Args:
      values: nested plain values; meaningless ones change in place.
      given: dotted names of the settings that must stay.

    Raises:
      MeaninglessSettingError: another setting makes one of `given` meaningless.
    """
    while True:
        try:
            return PipelineConfig.from_dict(values)
        except MeaninglessSettingError as error:
            if error.setting in given or error.setting == error.cause:
                raise
            *path, last = error.setting.split(".")
            _section(values, path)[last] = to_plain(declaration(error.setting).default)


def load_gate(
    limits: GateConfig, preset: str | None = None, file: str | None = None, overrides: Sequence[str] = ()
) -> GateConfig:
    """Returns thresholds for judging an evaluation again.

    Args:
      limits: base values if neither the call nor the file names a preset.
      preset: preset of the base values; None: the file's preset or `limits`.
      file: see `read_run_file`; settings outside `gate` have no effect.
      overrides: see `load`.

    Raises:
      UserError: see `load`; also for an override of another section.
    """
    run_file = read_run_file(file) if file else RunFile()
    named = preset or run_file.preset
    values = {**PipelineConfig().to_dict(), "gate": to_plain(_preset(named).gate if named else limits)}
    try:
        list(_lay_over(values, run_file.settings, ""))
        _checked_gate(values["gate"])
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    for override in overrides:
        if not override.strip().startswith("gate."):
            raise UserError(f"--set {override}: give settings of gate alone for a stored evaluation.")
    _override(values, overrides)
    return _checked_gate(values["gate"])


def _checked_gate(values: Any) -> GateConfig:
    if not isinstance(values, Mapping):
        raise UserError(f"gate is a section of settings, and was given {values!r}.")
    gate = from_plain(GateConfig, values, "gate")
    for field in dataclasses.fields(gate):
        check_range(f"gate.{field.name}", getattr(gate, field.name))
    slice_limits(gate)
    return gate


def _override(values: dict[str, Any], overrides: Sequence[str]) -> set[str]:
    """Applies `key=value` overrides to nested plain values and returns the settings' names."""
    given: set[str] = set()
    for override in overrides:
        name, equals, text = override.partition("=")
        name, text = name.strip(), text.strip()
        if not equals:
            raise UserError(f"--set takes key=value, as in trainer.epochs=4, and was given {override!r}.")
        pairs = _keys_of(name, text) if name in setting_blocks() else [(name, text)]
        for one, given_text in pairs:
            declaration(one)
            *path, last = one.split(".")
            section = _section(values, path)
            section[last] = _changed(one, section.get(last), _parse(one, given_text))
            given.add(one)
    return given


def _keys_of(block: str, text: str) -> list[tuple[str, str]]:
    """Parses a block's keys in "hidden=0.3,id=0.1" to pairs of dotted name and text."""
    pairs = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            if error := retired_setting(block):
                raise error
            declaration(block)
        pairs.append((f"{block}.{key}", value))
    if not pairs:
        declaration(block)
    return pairs


def _section(values: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    return functools.reduce(lambda values, part: values[part], path, values)


def _changed(name: str, before: Any, value: Any) -> Any:
    """Returns a list itself; if every entry has a sign, applies these changes to the list before."""
    choices = declaration(name).setting.choices
    if not (choices and isinstance(value, list) and isinstance(before, list)):
        return value
    signs = [str(one)[:1] for one in value]
    if not set(signs) & {"+", "-"}:
        return value
    if not set(signs) <= {"+", "-"}:
        raise UserError(
            f"{name} takes a whole list, or changes with a sign each, as in -{choices[0]},+{choices[-1]}; it "
            f"was given {','.join(map(str, value))}."
        )
    names = [str(one)[1:] for one in value]
    declaration(name).check(tuple(names))
    changes = dict(zip(names, signs, strict=True))
    kept = [one for one in before if changes.get(one) != "-"]
    added = [one for one, sign in changes.items() if sign == "+" and one not in kept]
    return [*kept, *added]


def _preset(name: str) -> PipelineConfig:
    if name not in PRESETS:
        nearest = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0)[0]
        raise UserError(f"there is no preset {name!r}; the nearest is {nearest!r} of {', '.join(PRESETS)}.")
    return PRESETS[name]


def _lay_over(values: dict[str, Any], over: Mapping[str, Any], section: str) -> Iterator[str]:
    """Overrides nested values and yields the dotted names of the given settings."""
    for key, value in over.items():
        name = f"{section}{key}"
        if isinstance(value, Mapping) and isinstance(values.get(key), dict):
            yield from _lay_over(values[key], value, f"{name}.")
        elif isinstance(values.get(key), dict):
            if error := retired_setting(name):
                raise error
            values[key] = value  # no mapping: the settings' construction refuses it
        else:
            declaration(name)
            values[key] = _changed(name, values.get(key), value)
            yield name


def _kind(value: Any) -> str:
    return {"str": "text"}.get(type(value).__name__, type(value).__name__)


def _parse(name: str, text: str) -> Any:
    """Parses a value of `--set` as YAML would; `typed` checks its type."""
    hint = setting_type(name)
    if typing.get_origin(hint) is tuple:
        if text.startswith("["):
            try:
                return json.loads(text)
            except ValueError:
                raise UserError(f"{name}: {text!r} is not a list. Separate the values by commas.") from None
        # An option of Beam may contain commas, so a comma separates options only before "--".
        parts = re.split(r",(?=\s*--)" if name == "beam_args" else ",", text)
        return [_scalar(typing.get_args(hint)[0], part.strip()) for part in parts] if text else []
    return _scalar(hint, text)


def _scalar(hint: Any, text: str) -> Any:
    if hint is int:
        try:
            return int(text)
        except ValueError:
            return text
    if hint is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    return text
