"""Pointers: small files under a root that name its latest blessed model and its latest approved statistics.

The latest blessed model is the one in service: Pusher and `two-tower rollback` move its pointer.

A pointer belongs to one root, so no other pipeline's artifacts are ever found by it. Its text is handed on as
a parameter: equal pointers give equal text, which caching relies on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from two_tower.base import json_text, storage
from two_tower.base.errors import UserError

BLESSED, APPROVED = "latest_blessed", "latest_approved"
# Property of the pointer BLESSED: URI of the best released model.
ANCHOR = "anchor"
# Text of a pointer that names nothing. Backends differ in what they make of an empty text.
NOTHING = "null"


@dataclasses.dataclass(frozen=True)
class Pointer:
    """Name of an artifact, and of the run that made it.

    Attributes:
        uri: the artifact's URI.
        properties: those of its properties that a reader needs.
        run: key of the job's run, see `InputVerifier`; "" for runs on this machine.
        moves: number of times that the pointer moved to another artifact. By it a cache tells a pointer that
            came back from one that stayed.
    """

    uri: str
    properties: Mapping[str, str]
    run: str = ""
    moves: int = 0

    def to_text(self) -> str:
        """Writes the text that is handed on, one line of JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def from_text(text: str) -> Pointer | None:
    """Reads the text of `Pointer.to_text`; NOTHING gives None."""
    content = json_text.parse(text)
    return None if content is None else Pointer(**content)


def latest(root: str, name: str) -> str:
    """Returns the text of the newest pointer under a root, or NOTHING.

    Args:
      root: a run's output directory, or a job's root; a path or URL.
      name: BLESSED or APPROVED.

    Raises:
      UserError: the file is damaged.
    """
    return _text(_read(root, name)[0])


def latest_of_others(root: str, name: str, run: str) -> str:
    """Returns the text of the newest pointer that another run wrote, or NOTHING; see `latest`."""
    newest, before = _read(root, name)
    return _text(before if newest is not None and newest.run == run else newest)


def point(root: str, name: str, pointer: Pointer) -> None:
    """Replaces a pointer; a reader finds the old file or the new one, never a part.

    Args:
      root: see `latest`.
      name: BLESSED or APPROVED.
      pointer: the newest artifact; `moves` is counted here.

    Raises:
      UserError: the old file is damaged.
    """
    storage.make_directories(root)
    with storage.locked(storage.join(root, f".{name}.lock")):
        for left in storage.list_names(root):
            if left.startswith(f"{name}.json.") and left.endswith(".incoming"):  # by a killed process
                storage.remove_file(storage.join(root, left))
        old, before = _read(root, name)
        moves = old.moves + (old.uri != pointer.uri) if old else 1
        # The same run may write twice: its step is retried, or it runs again without a cache.
        kept = before if old is not None and old.run == pointer.run else old
        content = {
            **dataclasses.asdict(dataclasses.replace(pointer, moves=moves)),
            "before": None if kept is None else dataclasses.asdict(kept),
        }
        storage.write_whole(_path(root, name), json.dumps(content, indent=2, sort_keys=True) + "\n")


def _path(root: str, name: str) -> str:
    return storage.join(root, f"{name}.json")


def _read(root: str, name: str) -> tuple[Pointer | None, Pointer | None]:
    """Returns the newest pointer, and the newest that another run wrote."""
    path = _path(root, name)
    storage.check_link(path)
    if not storage.exists(path):
        return None, None
    try:
        with storage.open_file(path, "r") as file:
            content = dict(json_text.parse(file.read()))
        before = content.pop("before", None)
        return _checked(content), None if before is None else _checked(before)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}). It names the artifact that the next run is compared with. Restore "
            "it, or remove it and begin without a comparison."
        ) from error


def _checked(content: Any) -> Pointer:
    """Builds a pointer from JSON; raises TypeError for other fields or types."""
    pointer = Pointer(**content)
    for name, kind in (("uri", str), ("properties", dict), ("run", str), ("moves", int)):
        if not isinstance(getattr(pointer, name), kind):
            raise TypeError(f"{name} is {getattr(pointer, name)!r}")
    return pointer


def _text(pointer: Pointer | None) -> str:
    return NOTHING if pointer is None else pointer.to_text()
