"""Presence of a source's files; what stands in the place of a file is never taken for its absence."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from two_tower.base import storage
from two_tower.base.errors import UserError


def matching(folder: str, is_wanted: Callable[[str], object]) -> list[str]:
    """Lists the files in and below a folder whose relative path is wanted, sorted; links are followed.

    Raises:
      UserError: a folder has a wanted name, as Spark writes tables, and no wanted files; or a link leads
        nowhere, or to files that are listed already.
    """
    files = storage.list_files(folder, follow_links=True)
    wanted = [file for file in files if is_wanted(file)]
    holding, read = _folders_of(files), _folders_of(wanted)
    empty = {name for name in storage.list_names(folder) if storage.is_directory(storage.join(folder, name))}
    for name in sorted(holding | empty):
        looks_like_a_file = name in holding or "." in name[1:]
        if name not in read and looks_like_a_file and is_wanted(name):
            raise _is_folder(storage.join(folder, name))
    return wanted


def _folders_of(files: Iterable[str]) -> set[str]:
    return {file[:place] for file in files for place in range(len(file)) if file[place] == "/"}


def is_there(path: str) -> bool:
    """Returns whether a file that a source may lack is there.

    Raises:
      UserError: a folder stands in its place, as Spark writes tables, or a link to nothing.
    """
    if storage.is_file(path):
        return True
    if storage.is_directory(path):
        raise _is_folder(path)
    storage.check_link(path)
    return False


def _is_folder(path: str) -> UserError:
    return UserError(f"{path} is a folder, and the reader needs one file: join its parts, or remove it.")
