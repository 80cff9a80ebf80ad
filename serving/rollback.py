"""`two-tower rollback`: publishes the previous model again under a new number."""

from __future__ import annotations

import dataclasses
import os

from two_tower.base import pointers, storage
from two_tower.base.errors import UserError
from two_tower.serving import push_record
from two_tower.serving.service import point, unsettled
from two_tower.serving.versions import NotPublished, publish, version_before, versions

_MEANWHILE = "another version was published meanwhile"


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
        UserError: the directory does not exist, no earlier model does, a record or pointer is damaged, or
            another model was published meanwhile.
        CanaryFailed: the earlier model does not load or answers differently. Nothing has changed.
    """
    if not storage.is_directory(push_directory):
        raise UserError(
            f"{push_directory} is no directory of published models. Pass the --output of a run whose model "
            "was pushed, or the directory that servers watch with --push."
        )
    root = os.path.dirname(storage.absolute(push_directory))
    # A damaged pointer stops here, before anything is published.
    if (killed := unsettled(push_directory)) and killed.record.copy_of is not None:
        # A rollback was killed behind its publication: this one ends it, and goes no further back.
        point(push_directory, killed.record)
        left = versions(push_directory)[-2]
        return Rollback(left, killed.record.copy_of, killed.path, killed.record.canary is not None)
    # Read first: what is published from here on is an objection.
    left = max(versions(push_directory), default=0)
    again = version_before(push_directory)
    version = storage.join(push_directory, str(again))
    earlier = push_record.read(push_directory, again)
    # A version of an earlier release is known by its own place.
    model = earlier.model or storage.absolute(version)
    # It is the anchor too: a better measured model that was taken out of service is none.
    record = dataclasses.replace(earlier, model=model, anchor=model, copy_of=again)
    in_service = storage.join(storage.absolute(push_directory), str(left))
    try:
        path = publish(version, push_directory, record, lambda newest: _MEANWHILE * (newest != in_service))
    except NotPublished as other:
        raise UserError(
            f"{other.newest} was published while the rollback waited. Nothing was rolled back. Look at what "
            "is in service now (`two-tower report`), and roll back again if need be."
        ) from other
    if pointers.latest(root, pointers.BLESSED) != pointers.NOTHING:
        # The next run is compared with the model in service, not with the one left.
        point(push_directory, record)
    return Rollback(left, again, path, record.canary is not None)
