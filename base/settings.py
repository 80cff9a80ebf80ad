"""Machinery of settings: one declaration a setting, and frozen dataclasses of them from plain values.

A setting is a field of a section's dataclass, declared by `setting`. A block is a setting of a few keys: its
type is a dataclass of its own, and its keys are declared in the same way.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from two_tower.base.errors import UserError

T = TypeVar("T")

# Default of the setting `seed`.
DEFAULT_SEED = 17
# Key of a field's metadata.
_DECLARED = "setting"
# Longest text of a wrong value in a message.
_LONGEST = 60
# A key of a block that is this like a declared one is a slip of the pen, and no event type.
_SLIP = 0.8


@dataclasses.dataclass(frozen=True)
class Setting:
    """Declaration of a setting; for the arguments see `setting`."""

    help: str
    unit: str = ""
    at_least: float = -math.inf
    at_most: float = math.inf
    choices: tuple[str, ...] = ()
    may_be_empty: bool = False
    shown: bool = False
    experimental: bool = False
    applies: Mapping[str, tuple[str | bool, ...]] = dataclasses.field(default_factory=dict)
    by_name: bool = False
    open_keys: str = ""


def setting(
    default: Any,
    *,
    help: str,
    unit: str = "",
    at_least: float = -math.inf,
    at_most: float = math.inf,
    choices: tuple[str, ...] = (),
    may_be_empty: bool = False,
    shown: bool = False,
    experimental: bool = False,
    applies: Mapping[str, tuple[str | bool, ...]] | None = None,
    by_name: bool = False,
    open_keys: str = "",
) -> Any:
    """Returns the field of a dataclass that declares a setting.

    Args:
      default: the value where none is given; for a block an instance of its dataclass.
      help: the meaning, in one or two sentences. Digests of sources leave it out.
      unit: of a number, such as "seconds".
      at_least: the least value of a number, or of a tuple's numbers. Every number needs both limits.
      at_most: the greatest one. Of a threshold it is 0.99 rather than 1, which may be one percent.
      choices: the only values of a text, or of a tuple's texts.
      may_be_empty: whether a tuple may hold nothing.
      shown: whether `--help` lists it; `--help-all` lists all.
      experimental: whether it stands under a heading of its own.
      applies: by the dotted names of other settings, the values with which this one changes something. A
        tuple has to hold one of the values. With other values, anything but the default is an error.
      by_name: whether a tuple holds texts of the form name=value, which YAML may write as a mapping.
      open_keys: of a block, what the keys are that are not declared, such as "event type". This field takes
        them, with numbers, as a tuple of (key, number).
    """
    declared = Setting(
        help=help,
        unit=unit,
        at_least=at_least,
        at_most=at_most,
        choices=choices,
        may_be_empty=may_be_empty,
        shown=shown,
        experimental=experimental,
        applies=applies or {},
        by_name=by_name,
        open_keys=open_keys,
    )
    return dataclasses.field(default=default, metadata={_DECLARED: declared})


@dataclasses.dataclass(frozen=True)
class Fault:
    """A setting that another one makes meaningless, or settings that contradict each other.

    Attributes:
        reason: the explanation, which names the settings.
        remedies: alternatives. Each has values by dotted name, None for a setting to leave out.
        meaningless: dotted name of the setting that changes nothing; "" for a contradiction.
    """

    reason: str
    remedies: tuple[Mapping[str, Any], ...]
    meaningless: str = ""


@dataclasses.dataclass(frozen=True)
class Declaration:
    """A setting, or a key of a block, with its dotted name.

    Attributes:
        name: such as trainer.epochs, or trainer.dropout.hidden.
        hint: int, float, bool, str or a tuple of one of them.
        default: the dataclass's.
        setting: what was declared. A key of a block is as experimental as the block.
        block: the block's dotted name; "" elsewhere.
    """

    name: str
    hint: Any
    default: Any
    setting: Setting
    block: str = ""

    def check(self, value: Any, name: str = "") -> None:
        """Raises UserError for a value outside the range or the choices; `name`: of an undeclared key."""
        name = name or self.name
        values = value if isinstance(value, tuple) else (value,)
        # Choices are a set. Other lists may repeat a value, such as two hidden layers of one width.
        if self.setting.choices and len(set(values)) < len(values):
            twice = next(one for one in values if values.count(one) > 1)
            raise UserError(f"{name} names {twice!r} twice. Leave one out.")
        if not values and not self.setting.may_be_empty:
            raise UserError(f"{name} needs at least one value.")
        least, greatest = self.setting.at_least, self.setting.at_most
        for one in values:
            # NaN is in no range.
            if isinstance(one, int | float) and not least <= one <= greatest:
                limits = f"from {least:,.15g} to {greatest:,.15g}"
                raise UserError(
                    f"{name} takes a value {limits}, and was given {shown(one)}."
                    f"{percent_hint(one, least, greatest)}"
                )
        choices = self.setting.choices
        for one in values if choices else ():
            if one not in choices:
                nearest = difflib.get_close_matches(str(one), choices, n=1, cutoff=0)[0]
                listed = ", ".join(choices)
                raise UserError(
                    f"{name} takes one of {listed}, and was given {shown(one)}; the nearest is {nearest}."
                )


# Of a dataclass; reading them again takes half the time of building settings.
_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)


def declarations(cls: Any, section: str = "") -> dict[str, Declaration]:
    """Returns every setting of a dataclass, and every key of its blocks, by dotted name."""
    return {one.name: one for one in _declared(cls, section, None)}


def _declared(cls: Any, section: str, block: Setting | None) -> Iterator[Declaration]:
    hints = _hints(cls)
    for field in dataclasses.fields(cls):
        name = f"{section}.{field.name}" if section else field.name
        hint, declared = hints[field.name], declared_of(field)
        if dataclasses.is_dataclass(hint):
            yield from _declared(typing.cast(type, hint), name, declared)
        elif declared is not None:
            if block is not None:
                declared = dataclasses.replace(declared, experimental=block.experimental)
            if declared.open_keys:
                name = f"{section}.<{declared.open_keys}>"
            yield Declaration(name, hint, field.default, declared, section if block is not None else "")


def declared_of(field: dataclasses.Field[Any]) -> Setting | None:
    """Returns what `setting` declared of a field; None for a section."""
    declared: Setting | None = field.metadata.get(_DECLARED)
    return declared


def blocks(cls: type[Any], section: str = "") -> dict[str, Setting]:
    """Returns the blocks of a dataclass by dotted name."""
    found: dict[str, Setting] = {}
    hints = _hints(cls)
    for field in dataclasses.fields(cls):
        name = f"{section}.{field.name}" if section else field.name
        if not dataclasses.is_dataclass(hints[field.name]):
            continue
        declared = declared_of(field)
        if declared is None:
            found |= blocks(typing.cast(type, hints[field.name]), name)
        else:
            found[name] = declared
    return found


def values_of(config: Any, section: str = "") -> dict[str, Any]:
    """Returns every value by dotted name; the keys of blocks one by one."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        name = f"{section}.{field.name}" if section else field.name
        value, declared = getattr(config, field.name), declared_of(field)
        if dataclasses.is_dataclass(value):
            found |= values_of(value, name)
        elif declared is not None and declared.open_keys:
            found |= {f"{section}.{key}": number for key, number in value}
        else:
            found[name] = value
    return found


def from_plain(cls: type[T], values: Mapping[str, Any], section: str = "") -> T:
    """Builds a dataclass of settings from plain values, such as JSON holds: lists become tuples again.

    Args:
      cls: the class of a block, of a section, or of all sections.
      values: by field name; a field that is not there keeps its default.
      section: the section's name, for messages.

    Raises:
      UserError: an unknown key or a value of the wrong type.
    """
    hints = _hints(cls)
    fields = {field.name: declared_of(field) for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    rest = _open_field(fields)
    taken: dict[str, Any] = {}
    others: dict[str, float] = {}
    for key, value in values.items():
        name = f"{section}.{key}" if section else str(key)
        if rest is not None and key not in (named := fields.keys() - {rest}):
            others[_open_key(key, named, section)] = typed(name, float, value)
            continue
        if key not in hints:
            raise unknown_setting(name, declarations(cls, section))
        hint, declared = hints[key], fields[key]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise not_a_mapping(name, typing.cast(type, hint), declared, value)
            taken[key] = from_plain(typing.cast(type, hint), value, name)
        else:
            taken[key] = typed(name, hint, value, declared is not None and declared.by_name)
    if rest is not None and others:
        taken[rest] = tuple(sorted(others.items()))
    return cls(**taken)


def _open_field(fields: Mapping[str, Setting | None]) -> str | None:
    """Returns the name of the field that takes a block's keys that are not declared, if there is one."""
    return next((name for name, declared in fields.items() if declared and declared.open_keys), None)


def _open_key(key: str, declared: Iterable[str], section: str) -> str:
    """Returns a key that is not declared, unless it is nearly one that is."""
    if near := difflib.get_close_matches(key, list(declared), n=1, cutoff=_SLIP):
        raise unknown_setting(f"{section}.{key}", [f"{section}.{near[0]}"])
    return key


def not_a_mapping(name: str, cls: type[Any], block: Setting | None, value: Any) -> UserError:
    """Returns the error for a section or a block that was given a single value."""
    if block is None:
        return UserError(f"{name} is a section of settings, and was given {value!r}.")
    keys = list(declarations(cls, name))
    listed = ", ".join(key.rpartition(".")[2] for key in keys)
    return UserError(
        f"{name} is a setting with keys ({listed}), and was given {value!r}: name one, as in "
        f"{keys[0]}=<value>."
    )


def known_part(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns of recorded values those of fields that a section still has: an earlier release had others."""
    names = {field.name for field in dataclasses.fields(cls)}
    return {name: value for name, value in values.items() if name in names}


def to_plain(value: Any) -> Any:
    """Returns settings as nested plain values, as YAML and JSON hold them."""
    if not dataclasses.is_dataclass(value):
        return list(value) if isinstance(value, tuple) else value
    found: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        declared = declared_of(field)
        if declared is not None and declared.open_keys:
            found |= dict(getattr(value, field.name))
        else:
            found[field.name] = to_plain(getattr(value, field.name))
    return found


def with_values(config: T, values: Mapping[str, Any]) -> T:
    """Returns settings with other values by dotted name, as in {"dropout.hidden": 0.3}.

    Values are those that the dataclasses hold; nothing is checked.
    """
    whole = {name: value for name, value in values.items() if "." not in name}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        first, dot, rest = name.partition(".")
        if dot:
            inner.setdefault(first, {})[rest] = value
    for first, changes in inner.items():
        whole[first] = with_values(whole.get(first, getattr(config, first)), changes)
    fields = {field.name: declared_of(field) for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    taker = _open_field(fields)
    if taker is not None and (others := whole.keys() - fields.keys()):
        known = dict(getattr(config, taker)) | {name: whole.pop(name) for name in others}
        whole[taker] = tuple(sorted(known.items()))
    return dataclasses.replace(config, **whole)  # type: ignore[type-var]


def value_text(value: Any) -> str:
    """Formats a setting's value for `--set`."""
    if isinstance(value, tuple):
        return ",".join(map(value_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def unknown_setting(name: str, known: Iterable[str]) -> UserError:
    """Returns the error for a setting that does not exist; it names the nearest that does."""
    known = tuple(known)
    # The last part alone decides where the section was left out or mistaken.
    last = name.rpartition(".")[2]
    same_last = [one for one in known if one.rpartition(".")[2] == last]
    nearest = same_last or difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    if not nearest:
        return UserError(f"there is no setting {name!r}; `two-tower run --help-all` lists all settings.")
    return UserError(f"there is no setting {name}; the nearest is {' or '.join(nearest)}.")


def typed(name: str, hint: Any, value: Any, by_name: bool = False) -> Any:
    """Returns a plain value as the setting's type; YAML reads 1e-3 as a text, hence the numbers in texts.

    Args:
      name: dotted, for messages.
      hint: int, float, bool, str or a tuple of one of them.
      value: to be converted.
      by_name: whether a mapping stands for a tuple of name=value texts.

    Raises:
      UserError: the value is of another type.
    """
    if typing.get_origin(hint) is tuple:
        if isinstance(value, list | tuple):
            return tuple(typed(name, typing.get_args(hint)[0], one) for one in value)
        # Settings of the form name=value read better as a mapping, in a file that has them.
        if isinstance(value, Mapping) and by_name:
            return tuple(f"{key}={one}" for key, one in value.items())
    elif hint is float:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                return float(value) + 0.0  # zero for -0.0: equal settings are equal texts
            except (ValueError, OverflowError):
                pass
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    form = f", as in [{value}]" if typing.get_origin(hint) is tuple and isinstance(value, str) else ""
    raise UserError(f"{name} takes {described(hint)}{form}, and was given {shown(value)}.")


def percent_hint(value: float, least: float, greatest: float) -> str:
    """Returns a sentence for a percentage where a share is wanted, and else an empty text."""
    is_share = 0.9 < greatest <= 1
    if not (is_share and 1 <= abs(value) <= 100 and least <= value / 100 <= greatest):
        return ""
    return f" A share is no percentage: write {value / 100:g} for {value:g} %."


def shown(value: Any) -> str:
    """Formats a wrong value for a message; a long one is cut."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no number of more than 4,300 digits.
        return "a number of too many digits"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def described(hint: Any) -> str:
    """Returns a type in words, such as "a whole number"."""
    of = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    if typing.get_origin(hint) is tuple:
        return f"a list of {of[typing.get_args(hint)[0]]}s"
    return of[hint] if hint is bool else f"a {of[hint]}"
