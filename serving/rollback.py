"""`two-tower rollback`: publishes the previous model again under a new number."""

from __future__ import annotations

import dataclasses
import os

from two_tower.base.errors import UserError
from two_tower.serving.versions import publish, recorded_queries, version_before, versions


@dataclasses.dataclass(frozen=True)
class Rollback:
    """Result of a rollback.

    Attributes:
        left: number of the version that was in service.
        again: number of the version that was published again.
        path: directory of the new version.
        was_asked: True if the model answered its recorded queries; False if it was only loaded.
    """

    left: int
    again: int
    path: str
    was_asked: bool


def roll_back(push_directory: str) -> Rollback:
    """Publishes the model that preceded the one in service again, under a higher number.

    Raises:
        UserError: the directory does not exist, or no earlier model does.
        CanaryFailed: the earlier model does not load or answers differently. Nothing has changed.
    """
    if not os.path.isdir(push_directory) and "://" not in push_directory:
        raise UserError(
            f"{push_directory} is no directory of published models. Pass the --output of a run whose model "
            "was pushed, or the directory that servers watch with --push."
        )
    again = version_before(push_directory)
    left = versions(push_directory)[-1]
    record = recorded_queries(push_directory, again)
    path = publish(os.path.join(push_directory, str(again)), push_directory, record)
    return Rollback(left, again, path, record is not None)
