"""Record of a published version, kept beside the versions: its source, its digests and its canary queries.

A version's directory holds the evaluated files alone.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping
from typing import Any

from two_tower.base import json_text, storage
from two_tower.base.errors import UserError

# Folder within the push directory. Servers ignore all names but numbers.
FOLDER = ".recorded"


@dataclasses.dataclass(frozen=True)
class PushRecord:
    """Record of a published version.

    Attributes:
        canary: queries with their answers, see `canary.recorded`; None for a model without queries.
        digest: digest of the published files, see `provenance.digest_of`; "" where nobody recorded it.
        identity: see `provenance.identity_of`; "" likewise.
        model: URI of the artifact that was published; "" likewise.
        towers: URI of the towers that its index was built from; "" likewise.
        anchor: URI of the best released model until then, see `Pointer`; "" likewise.
        published: time of the publication, ISO 8601 in UTC; "" likewise.
        copy_of: number of the version that a rollback published again; None for a model from a run.
    """

    canary: Mapping[str, Any] | None = None
    digest: str = ""
    identity: str = ""
    model: str = ""
    towers: str = ""
    anchor: str = ""
    published: str = ""
    copy_of: int | None = None


def now() -> str:
    """Returns the present time as `PushRecord.published` has it."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def path_of(push_directory: str, version: int) -> str:
    """Returns the place of a version's record."""
    return storage.join(push_directory, FOLDER, f"{version}.json")


def read(push_directory: str, version: int) -> PushRecord:
    """Reads a version's record; versions of earlier releases have none, or canary queries alone.

    Raises:
        UserError: the file is damaged.
    """
    path = path_of(push_directory, version)
    storage.check_link(path)
    if not storage.exists(path):
        return PushRecord()
    try:
        with storage.open_file(path, "r") as file:
            # Recorded inputs may hold NaN, an absent number.
            content = json_text.parse(file.read(), allow_nan=True)
        if content is None or "signature" in content:
            return PushRecord(canary=content)
        return _checked(PushRecord(**content))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}). It records what version {version} was published from. Remove it: "
            "the version stays, and a rollback to it checks only that it loads."
        ) from error


def _checked(record: PushRecord) -> PushRecord:
    """Returns a record; raises TypeError for a value of another type."""
    for field in dataclasses.fields(PushRecord):
        value, default = getattr(record, field.name), field.default
        kind = {"canary": dict, "copy_of": int}.get(field.name, str)
        if not (isinstance(value, kind) or (value is None and default is None)) or isinstance(value, bool):
            raise TypeError(f"{field.name} is {value!r:.60}")
    return record


def write(push_directory: str, version: int, record: PushRecord) -> None:
    """Writes a version's record."""
    path = path_of(push_directory, version)
    storage.make_directories(path.rpartition("/")[0])
    storage.write_whole(path, json.dumps(dataclasses.asdict(record)) + "\n")
