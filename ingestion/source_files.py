"""Presence of a source's files; what stands in the place of a file is never taken for its absence."""

from __future__ import annotations

from two_tower.base import storage
from two_tower.base.errors import UserError


def is_there(path: str) -> bool:
    """Returns whether a file that a source may lack is there.

    Raises:
      UserError: a folder stands in its place, as Spark writes tables, or a link to nothing.
    """
    if storage.is_file(path):
        return True
    if storage.is_directory(path):
        raise UserError(f"{path} is a folder, and the reader needs one file: join its parts, or remove it.")
    storage.check_link(path)
    return False
