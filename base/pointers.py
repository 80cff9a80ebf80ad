"""Pointers: small files under a root that name its latest blessed model and its latest approved statistics.

A pointer belongs to one root, so no other pipeline's artifacts are ever found by it. Its text is handed on as
a parameter: equal pointers give equal text, which caching relies on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from two_tower.base import storage
from two_tower.base.errors import UserError

BLESSED, APPROVED = "latest_blessed", "latest_approved"
# Text of a pointer that names nothing. Backends differ in what they make of an empty text.
NOTHING = "null"


@dataclasses.dataclass(frozen=True)
class Pointer:
    """Name of an artifact, and of the run that made it.

    Attributes:
        uri: the artifact's URI.
        properties: those of its properties that a reader needs.
        run: key of the job's run, see `InputVerifier`; "" for runs on this machine.
    """

    uri: str
    properties: Mapping[str, str]
    run: str = ""

    def to_text(self) -> str:
        """Writes the text that is handed on, one line of JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def from_text(text: str) -> Pointer | None:
    """Reads the text of `Pointer.to_text`; NOTHING gives None."""
    content = json.loads(text)
    return None if content is None else Pointer(**content)


def latest(root: str, name: str) -> str:
    """Returns the text of the newest pointer under a root, or NOTHING.

    Args:
      root: a run's output directory, or a job's root; a path or URL.
      name: BLESSED or APPROVED.

    Raises:
      UserError: the file is damaged.
    """
    content = _read(root, name)
    return _text(content)


def latest_of_others(root: str, name: str, run: str) -> str:
    """Returns the text of the newest pointer that another run wrote, or NOTHING; see `latest`."""
    content = _read(root, name)
    return _text(content if content is None or content["run"] != run else content.get("before"))


def point(root: str, name: str, pointer: Pointer) -> None:
    """Replaces a pointer; a reader finds the old file or the new one, never a part.

    Args:
      root: see `latest`.
      name: BLESSED or APPROVED.
      pointer: the newest artifact.
    """
    old = _read(root, name)
    # The same run may write twice: its step is retried, or it runs again without a cache.
    before = old if old is None or old["run"] != pointer.run else old.get("before")
    before = before and {key: value for key, value in before.items() if key != "before"}
    content = {**dataclasses.asdict(pointer), "before": before}
    storage.make_directories(root)
    storage.write_whole(_path(root, name), json.dumps(content, indent=2, sort_keys=True) + "\n")


def _path(root: str, name: str) -> str:
    return storage.join(root, f"{name}.json")


def _read(root: str, name: str) -> dict[str, Any] | None:
    path = _path(root, name)
    if not storage.exists(path):
        return None
    try:
        with storage.open_file(path, "r") as file:
            content = json.loads(file.read())
        Pointer(content["uri"], content["properties"], content["run"])
        return dict(content)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}). It names the artifact that the next run is compared with. Restore "
            "it, or remove it and begin without a comparison."
        ) from error


def _text(content: Mapping[str, Any] | None) -> str:
    if content is None:
        return NOTHING
    return Pointer(content["uri"], content["properties"], content["run"]).to_text()
