"""YAML loader for files that users write."""

from __future__ import annotations

from typing import Any

import yaml

from two_tower.base.errors import UserError

# Tag of the key `<<`, which takes over the keys of an anchor.
_MERGE = "tag:yaml.org,2002:merge"


class UniqueKeys(yaml.SafeLoader):
    """YAML loader that refuses duplicate keys, of which YAML would keep the last, and keys that are no text.

    YAML reads `on` and `yes` as true, and `5` as a number.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Builds a mapping; raises UserError with file and line for a wrong key."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key, mark = self.construct_object(key_node, deep=True), key_node.start_mark
            where = f"{mark.name}:{mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError(f"{where}: a key is no text, but a list or a mapping: write a text.")
            if not isinstance(key, str):
                raise UserError(f"{where}: key {key_node.value} is no text: write '{key_node.value}'.")
            if key in seen:
                raise UserError(f"{where}: key '{key}' is a duplicate: remove one.")
            seen.add(key)
        return super().construct_mapping(node, deep)
