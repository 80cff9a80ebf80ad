"""Machinery of settings: frozen dataclasses from plain values, with checks of names and types."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from two_tower.base.errors import UserError

T = TypeVar("T")


def from_plain(cls: type[T], values: Mapping[str, Any], section: str = "") -> T:
    """Builds a dataclass of settings from plain values, such as JSON holds: lists become tuples again.

    Args:
      cls: the class of one section, or of all sections.
      values: by field name; a field that is not there keeps its default.
      section: the section's name, for messages.

    Raises:
      UserError: an unknown key or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    by_name = {field.name for field in dataclasses.fields(cls) if field.metadata.get("by_name")}  # type: ignore[arg-type]
    taken: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{section}.{key}" if section else str(key)
        hint = hints.get(key)
        if hint is None:
            raise unknown_setting(name, types_of(cls, section))
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise UserError(f"{name} is a section of settings, and was given {value!r}.")
            taken[key] = from_plain(typing.cast(type, hint), value, name)
        else:
            taken[key] = typed(name, hint, value, key in by_name)
    return cls(**taken)


def to_plain(value: Any) -> Any:
    """Returns settings as nested plain values, as YAML and JSON hold them."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return list(value) if isinstance(value, tuple) else value


def types_of(cls: Any, section: str = "") -> dict[str, Any]:
    """Returns the type of every setting of a dataclass by its dotted name."""
    found: dict[str, Any] = {}
    for key, hint in typing.get_type_hints(cls).items():
        name = f"{section}.{key}" if section else key
        found |= types_of(hint, name) if dataclasses.is_dataclass(hint) else {name: hint}
    return found


def unknown_setting(name: str, known: Iterable[str]) -> UserError:
    """Returns the error for a setting that does not exist; it names the nearest that does."""
    known = tuple(known)
    # The last part alone decides where the section was left out or mistaken.
    last = name.rpartition(".")[2]
    same_last = [one for one in known if one.rpartition(".")[2] == last]
    nearest = same_last or difflib.get_close_matches(name, known, n=1, cutoff=0)
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
                return float(value)
            except ValueError:
                pass
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise UserError(f"{name} takes {_described(hint)}, and was given {value!r}.")


def _described(hint: Any) -> str:
    of = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    if typing.get_origin(hint) is tuple:
        return f"a list of {of[typing.get_args(hint)[0]]}s"
    return of[hint] if hint is bool else f"a {of[hint]}"
