"""Push directory: numbered versions, never overwritten, each complete once it is visible."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.serving import canary
from two_tower.serving.provenance import SERVED_FORM, identity_of

# Push directory within a run's output directory, or a job's root.
PUSHED = "pushed"
# Servers ignore all names but numbers.
_INCOMING, _RECORDS, _LOCK = ".incoming-", ".recorded", ".lock"


def versions(push_directory: str) -> list[int]:
    """Lists the published versions, ascending."""
    return sorted(int(name) for name in storage.list_names(push_directory) if name.isdigit())


def newest_version(directory: str) -> str | None:
    """Returns the path of the highest version, which servers load; None if there is none."""
    published = versions(directory)
    return storage.join(directory, str(published[-1])) if published else None


def find_model(directory: str) -> str:
    """Finds the SavedModel of a version's directory, a push directory, a run's output or a job's root.

    Raises:
        UserError: the directory holds no model.
    """
    for candidate in (
        directory,
        storage.join(directory, SERVED_FORM),
        newest_version(directory),
        newest_version(storage.join(directory, PUSHED)),
    ):
        if candidate and storage.is_file(storage.join(candidate, "saved_model.pb")):
            return candidate
    raise UserError(
        f"{directory} holds no served model. Pass a run's output directory, its pushed/ or a version in it. "
        "A run whose model was refused pushes nothing; `two-tower report` shows the reasons."
    )


def publish(
    model_path: str,
    push_directory: str,
    record: Mapping[str, Any] | None,
    check: Callable[[str, Mapping[str, Any] | None], None] | None = None,
) -> str:
    """Copies a model under the next number and returns its path.

    Servers load the highest number as soon as they see it. So the copy gets a name that servers ignore, is
    checked there, and is renamed after the check. Pushes into one local directory wait for each other. An
    object store has no locks: pushes into one directory there must not overlap.

    Args:
        model_path: the model to publish.
        push_directory: directory of numbered versions.
        record: recorded queries with their answers, see `canary.recorded`; None: the copy is only loaded.
        check: raises if the model at a path does not answer as recorded; None: `canary.check`.

    Raises:
        CanaryFailed: the copy was removed, and nothing has changed for servers.
    """
    storage.make_directories(push_directory)
    with _alone(push_directory):
        for name in storage.list_names(push_directory):
            if name.startswith(_INCOMING):  # left by a killed push
                storage.remove_tree(storage.join(push_directory, name))
        existing = versions(push_directory)
        version = existing[-1] + 1 if existing else 1
        destination = os.path.join(push_directory, str(version))
        incoming = os.path.join(push_directory, f"{_INCOMING}{version}")
        try:
            _copy(model_path, incoming)
            (check or canary.check)(incoming, record)
            _write_record(push_directory, version, record)
            storage.rename(incoming, destination)
        except BaseException:
            storage.remove_tree(incoming)
            raise
    return destination


def remove_version(push_directory: str, version: int) -> None:
    """Removes a version that is not in service, with its recorded queries.

    Raises:
        UserError: servers load this version.
    """
    with _alone(push_directory):
        if version >= max(versions(push_directory)):
            raise UserError(f"{push_directory}: version {version} is in service, and stays.")
        # A server that is about to read a version sees all of it or none.
        leaving = os.path.join(push_directory, f"{_INCOMING}{version}-removed")
        storage.rename(os.path.join(push_directory, str(version)), leaving)
        storage.remove_tree(leaving)
        storage.remove_file(_record_path(push_directory, version))


def recorded_queries(push_directory: str, version: int) -> dict[str, Any] | None:
    """Returns the queries recorded when a version was published; None for versions without a record."""
    path = _record_path(push_directory, version)
    if not storage.exists(path):
        return None
    with storage.open_file(path, "r") as file:
        content = json.loads(file.read())
    return None if content is None else dict(content)


def version_before(push_directory: str) -> int:
    """Finds the version that preceded the newest version's model.

    If the newest version is an earlier one published again, the result precedes that earlier one. So two
    rollbacks go two models back.

    Raises:
        UserError: no such version exists.
    """
    published = versions(push_directory)
    if not published:
        raise UserError(f"{push_directory} holds no published version, so there is nothing to roll back.")
    newest = identity_of(os.path.join(push_directory, str(published[-1])))
    first = next(v for v in published if identity_of(os.path.join(push_directory, str(v))) == newest)
    before = [version for version in published if version < first]
    if not before:
        raise UserError(
            f"{push_directory}: version {published[-1]} is in service, and no earlier model exists to "
            "publish again."
        )
    return before[-1]


def _copy(model_path: str, target_path: str) -> None:
    for name in storage.list_files(model_path):
        target = storage.join(target_path, name)
        storage.make_directories(os.path.dirname(target))
        storage.copy_file(storage.join(model_path, name), target)


def _record_path(push_directory: str, version: int) -> str:
    return os.path.join(push_directory, _RECORDS, f"{version}.json")


def _write_record(push_directory: str, version: int, record: Mapping[str, Any] | None) -> None:
    """Writes a version's recorded queries beside the versions, which hold the evaluated files alone."""
    storage.make_directories(os.path.join(push_directory, _RECORDS))
    with storage.open_file(_record_path(push_directory, version), "w") as file:
        file.write(json.dumps(record) + "\n")


@contextlib.contextmanager
def _alone(push_directory: str) -> Iterator[None]:
    """Locks a directory against other pushes; an object store has no locks."""
    if "://" in push_directory:
        yield
        return
    with open(os.path.join(push_directory, _LOCK), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
