"""State of a push directory: the version in service, its source, and what a rollback would publish."""

from __future__ import annotations

import contextlib
import dataclasses
import os

from two_tower.base import pointers, storage
from two_tower.base.errors import UserError
from two_tower.serving import push_record
from two_tower.serving.provenance import TOWERS
from two_tower.serving.push_record import PushRecord
from two_tower.serving.versions import NothingBefore, version_before, versions


@dataclasses.dataclass(frozen=True)
class Service:
    """Version that servers load.

    Attributes:
        path: directory of the version.
        version: its number.
        record: its record, empty for versions of earlier releases and for a damaged one.
        before: number of the version that `two-tower rollback` would publish again; None without one.
        fault: reason why `before` cannot be told; "" if it can.
    """

    path: str
    version: int
    record: PushRecord
    before: int | None
    fault: str = ""


def in_service(push_directory: str) -> Service | None:
    """Returns the version in service; None without a published version."""
    published = versions(push_directory)
    if not published:
        return None
    before, fault = None, ""
    try:
        with contextlib.suppress(NothingBefore):
            before = version_before(push_directory)
    except UserError as error:
        fault = str(error)
    newest = published[-1]
    path = storage.join(push_directory, str(newest))
    return Service(path, newest, _record_of(push_directory, newest), before, fault)


def unsettled(push_directory: str) -> Service | None:
    """Returns the version in service, if the pointer beside its directory names another model.

    A kill came between the publication and its pointer then. Without a pointer the result is None: its owner
    may have removed it, for a run without a comparison.

    Raises:
        UserError: the pointer's file is damaged.
    """
    root = os.path.dirname(storage.absolute(push_directory))
    pointer = pointers.from_text(pointers.latest(root, pointers.BLESSED))
    service = in_service(push_directory) if pointer is not None else None
    if pointer is None or service is None or service.record.model in ("", pointer.uri):
        return None
    return service


def point(push_directory: str, record: PushRecord) -> None:
    """Names a version's model as the one that the next run is compared with."""
    root = os.path.dirname(storage.absolute(push_directory))
    properties = {TOWERS: record.towers, pointers.ANCHOR: record.anchor}
    pointers.point(root, pointers.BLESSED, pointers.Pointer(record.model, properties))


def versions_of(push_directory: str) -> dict[str, list[int]]:
    """Returns the versions by the model's artifact that they were published from, where it is recorded."""
    found: dict[str, list[int]] = {}
    for version in versions(push_directory):
        if model := _record_of(push_directory, version).model:
            found.setdefault(model, []).append(version)
    return found


def _record_of(push_directory: str, version: int) -> PushRecord:
    """Reads a record; a report is made though it is damaged."""
    try:
        return push_record.read(push_directory, version)
    except UserError:
        return PushRecord()
