"""`two-tower rollback`: publishes the previous model again under a new number."""

from __future__ import annotations

import dataclasses
import os

from two_tower.base import pointers, storage
from two_tower.base.errors import UserError
from two_tower.serving import push_record
from two_tower.serving.provenance import TOWERS
from two_tower.serving.versions import publish, version_before, versions


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
    if not storage.is_directory(push_directory):
        raise UserError(
            f"{push_directory} is no directory of published models. Pass the --output of a run whose model "
            "was pushed, or the directory that servers watch with --push."
        )
    again = version_before(push_directory)
    left = versions(push_directory)[-1]
    version = storage.join(push_directory, str(again))
    earlier = push_record.read(push_directory, again)
    # A version of an earlier release is known by its own place.
    model = earlier.model or storage.absolute(version)
    record = dataclasses.replace(earlier, model=model, anchor=model, copy_of=again)
    path = publish(version, push_directory, record)
    _point(os.path.dirname(storage.absolute(push_directory)), record)
    return Rollback(left, again, path, record.canary is not None)


def _point(root: str, record: push_record.PushRecord) -> None:
    """Names the model as that in service, so that the next run is compared with it, not with the one left.

    It is the anchor too: a better measured model that was taken out of service is none.
    """
    if pointers.latest(root, pointers.BLESSED) != pointers.NOTHING:
        properties = {TOWERS: record.towers, pointers.ANCHOR: record.anchor}
        pointers.point(root, pointers.BLESSED, pointers.Pointer(record.model, properties))
