"""YAML and JSON files that users write: plain values, no key twice, and an error that names file and line."""

from __future__ import annotations

from typing import Any

import yaml

from two_tower.base import storage
from two_tower.base.errors import UserError

# Tag of the key `<<`, which takes over the keys of an anchor.
_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
# Bounds that no file of settings comes near. Aliases of aliases could stand for any number of values.
_MOST_CHARACTERS, _MOST_DEPTH, _MOST_VALUES = 1 << 20, 50, 100_000
_LARGEST_INTEGER = 2**63 - 1


def read(path: str, subject: str) -> Any:
    """Reads a YAML or JSON file as dicts, lists and plain values; None for an empty file.

    YAML itself would keep the last of two equal keys, and reads `on` and `yes` as true.

    Args:
      path: a path or URL.
      subject: what the file is, such as "column map", for messages.

    Raises:
      UserError: the file is missing or not YAML; a key is a duplicate or no text; a value is not of its type,
        or no number of 64 bits; values are nested too deeply.
    """
    try:
        with storage.open_file(path, "r") as file:
            text = file.read(_MOST_CHARACTERS + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: the {subject} is missing: there is no such file. Check the path.") from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: the {subject} cannot be read ({reason}). Check the path.") from error
    except ValueError as error:
        raise UserError(f"{path}: not YAML: the file is not UTF-8 ({error}). Convert it.") from error
    if len(text) > _MOST_CHARACTERS:
        raise UserError(f"{path}: this is no {subject}: it has more than {_MOST_CHARACTERS:,} characters.")
    try:
        loader = _Loader(text)
        loader.name = path
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}.") from error


class _Loader(yaml.SafeLoader):
    """YAML loader that checks every node where it stands, whether or not its value is taken."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        # Values below each finished node, with those that its aliases stand for.
        self._values: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Reads a node of YAML; raises UserError for nesting or repetition without end."""
        mark, is_alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise self._error(mark, f"values are nested more than {_MOST_DEPTH} deep: write them flatter")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if is_alias:
            if id(node) not in self._values:
                raise self._error(mark, "an alias stands within its own anchor: write the value out")
            return node
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
        elif isinstance(node, yaml.ScalarNode):
            self._check_text(node)
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        flat = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
        self._values[id(node)] = 1 + sum(self._values[id(one)] for one in flat)
        if self._values[id(node)] > _MOST_VALUES:
            raise self._error(mark, f"aliases stand for more than {_MOST_VALUES:,} values: write fewer")
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Builds a value; raises UserError if a text is not of the type that it looks like."""
        try:
            value = super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            raise self._wrong(node, f"is no {kind}: correct it, or put a text in quotes") from error
        if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
            raise self._wrong(node, "is beyond the whole numbers of 64 bits: correct it")
        return value

    def _check_keys(self, node: yaml.MappingNode) -> None:
        first: dict[str, int] = {}
        for key, _ in node.value:
            mark = key.start_mark
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(mark, "a key is no text, but a list or a mapping: write a text")
            if key.tag not in (_TEXT, _MERGE):
                raise self._error(mark, f"key {key.value:.40} is no text: write '{key.value:.40}'")
            if key.value in first:
                raise self._error(
                    mark, f"key '{key.value}' is a duplicate of line {first[key.value]}: remove one of them"
                )
            first[key.value] = mark.line + 1

    def _check_text(self, node: yaml.ScalarNode) -> None:
        if "\0" in node.value:
            raise self._wrong(node, "holds a null character: remove it")
        try:
            node.value.encode()
        except UnicodeEncodeError:
            raise self._wrong(node, "holds half of a surrogate pair: write the character itself") from None

    def _wrong(self, node: yaml.Node, remedy: str) -> UserError:
        shown = str(node.value)
        shown = ascii(shown if len(shown) <= 40 else f"{shown[:40]}... ({len(shown):,} characters)")
        return self._error(node.start_mark, f"{shown} {remedy}")

    def _error(self, mark: yaml.Mark, what: str) -> UserError:
        return UserError(f"{self.name}:{mark.line + 1}: {what}.")
