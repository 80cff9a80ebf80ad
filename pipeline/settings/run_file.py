"""Settings of a run from a preset, a config file over it, and `key=value` overrides over both."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from two_tower.base import json_text, storage, yaml_files
from two_tower.base.errors import UserError
from two_tower.base.settings import from_plain, to_plain, values_of
from two_tower.data_directory.manifest import Manifest
from two_tower.evaluation.settings import GateConfig, slice_limits
from two_tower.pipeline.settings.contradictions import ContradictionError, completed, faults
from two_tower.pipeline.settings.pipeline_config import (
    PipelineConfig,
    check_range,
    checked,
    declaration,
    setting_blocks,
    setting_type,
    types,
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

    A relative `data` or `output` counts from the file's folder, wherever the command starts.

    Raises:
      UserError: the file is missing, is not YAML, or one of the three keys is not a text. `load` checks the
        settings.
    """
    content = yaml_files.read(path, "config file")
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: a config file holds keys and values, as in `seed: 7`.")
    places: dict[str, str | None] = {}
    for key in ("data", "output", "preset"):
        places[key] = content.pop(key, None)
        if not isinstance(places[key], str | None):
            raise UserError(f"{path}: {key} takes a text, and was given {places[key]!r}.")
    for key in ("data", "output"):
        place = places[key]
        if place and storage.is_local(place) and not place.startswith("file://"):
            places[key] = os.path.normpath(os.path.join(os.path.dirname(path), place))
    return RunFile(**places, settings=content)


# With fewer label events, a day has too few of them for the evaluation.
_SMALL_BELOW = 300_000


def suited_preset(manifest: Manifest) -> str:
    """Returns the default preset for a data directory."""
    if not manifest.has_timestamps:
        return "next_item" if manifest.has_order else "hold_out"
    first, last = manifest.time_range
    # Eval and test of `small` have to leave train at least half of the time.
    is_long = last - first >= 4 * PRESETS["small"].split.holdout_seconds
    return "small" if manifest.counts["label_events"] < _SMALL_BELOW and is_long else "default"


def load(
    preset: str | None = None,
    file: str | None = None,
    overrides: Sequence[str] = (),
    fallback: str = "default",
) -> PipelineConfig:
    """Returns a preset's settings, overridden by a config file and by `key=value` overrides.

    If a given setting makes a preset's value meaningless, the value returns to its default. A given
    setting is no longer automatic.

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
    before = _preset(fallback if preset is None else preset).to_dict()
    try:
        if preset is None and run_file.preset is not None:
            before = _preset(run_file.preset).to_dict()
        values = copy.deepcopy(before)
        given = _given(values, run_file.settings)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    wrong_file = None
    if file:
        try:
            # The check precedes the overrides, so that an error names the file or the override correctly.
            settled(values, given, before)
        except UserError as error:
            # An override may mend what the file leaves contradictory.
            wrong_file = UserError(f"{file}: {error}")
            if not overrides:
                raise wrong_file from error
    given |= _override(values, overrides)
    try:
        return settled(values, given, before)
    except UserError:
        if wrong_file:
            raise wrong_file from None
        raise


def with_overrides(before: Mapping[str, Any], overrides: Sequence[str]) -> PipelineConfig:
    """Returns nested plain values with `key=value` overrides; raises UserError as `load` does."""
    values = copy.deepcopy(dict(before))
    return settled(values, _override(values, overrides), before)


def settled(
    values: Mapping[str, Any], given: Set[str] = frozenset(), before: Mapping[str, Any] | None = None
) -> PipelineConfig:
    """Builds the settings; a meaningless value that is not in `given` gets its default.

    Args:
      values: nested plain values.
      given: dotted names of the settings that must stay.
      before: nested values of settings that are left out; None: the defaults.

    Raises:
      ContradictionError: another setting makes one of `given` meaningless, or settings contradict each other.
        Every remedy that it names has been tried.
    """
    before = PipelineConfig().to_dict() if before is None else before

    def tried(changes: Mapping[str, Any]) -> UserError | None:
        changed, kept = copy.deepcopy(dict(values)), set(given) | changes.keys()
        for name, value in changes.items():
            *path, last = name.split(".")
            left_out = value is None
            _section(changed, path)[last] = _section(before, path)[last] if left_out else to_plain(value)
            kept -= {name} if left_out else set()
        try:
            _built(changed, kept)
        except UserError as error:
            return error
        return None

    try:
        return _built(copy.deepcopy(dict(values)), given)
    except ContradictionError as error:
        remedies = [remedy for fault in error.faults for remedy in fault.remedies]
        raise ContradictionError(error.faults, completed(remedies, tried) or error.remedies) from None


def _built(values: dict[str, Any], given: Set[str]) -> PipelineConfig:
    """Builds the settings as `settled` does, with untried remedies; meaningless values change in place."""
    if isinstance(values["automatic"], list):  # else the construction refuses it
        values["automatic"] = [name for name in values["automatic"] if str(name) not in given]
    while True:
        try:
            config = PipelineConfig.from_dict(values)
        except ContradictionError as error:
            idle = {fault.meaningless for fault in error.faults} - given - {""}
            if not idle:
                raise
            for name in idle:
                *path, last = name.split(".")
                _section(values, path)[last] = to_plain(declaration(name).default)
        else:
            if found := tuple(faults(config, given)):
                raise ContradictionError(found, found[0].remedies)
            return config


def load_gate(
    limits: GateConfig, preset: str | None = None, file: str | None = None, overrides: Sequence[str] = ()
) -> GateConfig:
    """Returns thresholds for judging an evaluation again.

    Args:
      limits: base values if neither the call nor the file names a preset.
      preset: preset of the base values; None: the file's preset or `limits`.
      file: see `read_run_file`; settings outside `gate` are checked, and have no effect.
      overrides: see `load`.

    Raises:
      UserError: see `load`; also for an override of another section.
    """
    run_file = read_run_file(file) if file else RunFile()
    values = (PipelineConfig() if preset is None else _preset(preset)).to_dict()
    try:
        if preset is None and run_file.preset is not None:
            values = _preset(run_file.preset).to_dict()
        elif preset is None:
            values["gate"] = to_plain(limits)
        given = _given(values, run_file.settings)
        _check_values(values, given)
        _checked_gate(values["gate"], given)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    for override in overrides:
        if not override.strip().startswith("gate."):
            raise UserError(f"--set {override}: a stored evaluation takes settings of gate only.")
    given |= _override(values, overrides)
    return _checked_gate(values["gate"], given)


def _check_values(values: Mapping[str, Any], given: Set[str]) -> None:
    """Raises UserError for a wrong type, or for one of `given` out of range.

    Settings need not suit each other. Recorded ones may be of a release with other ranges.
    """
    for field in dataclasses.fields(PipelineConfig):
        section, default = values[field.name], field.default
        if dataclasses.is_dataclass(default):
            if not isinstance(section, Mapping):
                raise UserError(f"{field.name} is a section of settings, and was given {section!r}.")
            of_section = from_plain(type(default), section, field.name)
            for name, value in values_of(of_section, field.name).items():
                if name in given:
                    check_range(name, value)
        else:
            checked(field.name, section)


def _checked_gate(values: Any, given: Set[str]) -> GateConfig:
    gate = from_plain(GateConfig, values, "gate")
    for field in dataclasses.fields(gate):
        if f"gate.{field.name}" in given:
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
            # An earlier release had a single number there.
            if (error := retired_setting(block)) and re.fullmatch(r"[-+.\deE]+", text):
                raise error
            raise _without_keys(block, text)
        pairs.append((f"{block}.{key}", value))
    if not pairs:
        raise _without_keys(block, text)
    return pairs


def _without_keys(block: str, given: str) -> UserError:
    """Returns the error for a block that was given a value instead of keys."""
    keys = [one.name.rpartition(".")[2] for one in types().values() if one.block == block]
    return UserError(
        f"{block} is a setting with keys ({', '.join(keys)}), and was given {given!r}: name a key, as in "
        f"{block}.{keys[0]}=<value>."
    )


def _section(values: Any, path: Sequence[str]) -> dict[str, Any]:
    return typing.cast(dict[str, Any], functools.reduce(lambda values, part: values[part], path, values))


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


def _given(values: dict[str, Any], over: Mapping[str, Any]) -> set[str]:
    """Overrides nested values by a file's, and returns the dotted names of the given settings."""
    names = list(_lay_over(values, over, ""))
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{twice[0]} is given twice, once by its dotted name. Leave one out.")
    return set(names)


def _lay_over(values: dict[str, Any], over: Mapping[str, Any], section: str) -> Iterator[str]:
    """Overrides nested values and yields the dotted names of the given settings."""
    for key, value in over.items():
        name = f"{section}{key}"
        first, dot, rest = key.partition(".")
        if dot and isinstance(values.get(first), dict):
            # The dotted form of --set, as in `trainer.epochs: 4`.
            yield from _lay_over(values[first], {rest: value}, f"{section}{first}.")
            continue
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


def _parse(name: str, text: str) -> Any:
    """Parses a value of `--set`; `typed` checks its type."""
    hint = setting_type(name)
    if typing.get_origin(hint) is tuple:
        if text.startswith("["):
            try:
                return json_text.parse(text)
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
