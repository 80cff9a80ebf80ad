"""`two-tower rollback`: the model from before the one in service, published again under a new number."""

from __future__ import annotations

import dataclasses
import os

from two_tower.base.errors import UserError
from two_tower.serving.versions import publish, recorded_queries, version_before, versions


@dataclasses.dataclass(frozen=True)
class Rollback:
    """What was done.

    Attributes:
        left: the version that was in service, a number.
        again: the one that was published again.
        path: where, under its new number.
        was_asked: whether it answered the queries that it was once published with; else it was only loaded.
    """

    left: int
    again: int
    path: str
    was_asked: bool


def roll_back(push_directory: str) -> Rollback:
    """Publishes the model from before the one in service, which stays where it is, under a higher number.

    Raises:
        UserError: there is no such directory, or no such model.
        CanaryFailed: it no longer loads, or answers otherwise than it did; nothing has changed.
    """
    if not os.path.isdir(push_directory) and "://" not in push_directory:
        raise UserError(
            f"{push_directory} is no directory of published models: pass the --output of a run whose model "
            "was pushed, or the directory that servers watch with --push."
        )
    again = version_before(push_directory)
    left = versions(push_directory)[-1]
    record = recorded_queries(push_directory, again)
    path = publish(os.path.join(push_directory, str(again)), push_directory, record)
    return Rollback(left, again, path, record is not None)
