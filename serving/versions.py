"""The push directory: numbered versions, never overwritten, each complete from the moment it is visible."""

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
from two_tower.serving.provenance import SERVED_FORM, digest_of

# Servers look at no name but numbers.
_INCOMING, _RECORDS, _LOCK = ".incoming-", ".recorded", ".lock"


def versions(push_directory: str) -> list[int]:
    """The published versions, ascending."""
    return sorted(int(name) for name in storage.list_names(push_directory) if name.isdigit())


def newest_version(directory: str) -> str | None:
    """Returns the path of the highest numbered model, which servers load; None where there is none."""
    published = versions(directory)
    return storage.join(directory, str(published[-1])) if published else None


def find_model(directory: str) -> str:
    """Finds the SavedModel meant by a version's directory, a push directory or a run's output directory.

    Raises:
        UserError: there is none.
    """
    for candidate in (
        directory,
        os.path.join(directory, SERVED_FORM),
        newest_version(directory),
        newest_version(os.path.join(directory, "pushed")),
    ):
        if candidate and os.path.isfile(os.path.join(candidate, "saved_model.pb")):
            return candidate
    raise UserError(
        f"{directory} holds no served model: pass a run's output directory, its pushed/ or a version in it. "
        "A run whose model was refused pushes nothing; `two-tower report` says so."
    )


def publish(
    model_path: str,
    push_directory: str,
    record: Mapping[str, Any] | None,
    check: Callable[[str, Mapping[str, Any] | None], None] | None = None,
) -> str:
    """Copies a model under the next number and returns its path.

    Servers load the highest number the moment they see it, so the copy is made under a name that they do
    not look at, is checked there, and is renamed when it has proved to be whole. Pushes into one directory
    wait for each other, where it is on a local disk; in an object store they must not be made at once.

    Args:
        model_path: what is published.
        push_directory: holds numbered versions.
        record: queries with the answers that the model was evaluated with, see `canary.recorded`; None is to
            load it alone.
        check: raises if what lies at a path does not answer as recorded; `canary.check`.

    Raises:
        CanaryFailed: the copy was taken away again, and nothing has changed for servers.
    """
    storage.make_directories(push_directory)
    with _alone(push_directory):
        for name in storage.list_names(push_directory):
            if name.startswith(_INCOMING):  # left by a push that was killed
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


def recorded_queries(push_directory: str, version: int) -> dict[str, Any] | None:
    """What a version was asked before it was published; None if it was not, as versions once were not."""
    path = _record_path(push_directory, version)
    if not storage.exists(path):
        return None
    with storage.open_file(path, "r") as file:
        content = json.loads(file.read())
    return None if content is None else dict(content)


def version_before(push_directory: str) -> int:
    """The version that was in service before the newest one's model was.

    Of a version that is itself an earlier one published again it is that which came before the earlier one,
    so that rolling back twice goes two models back.

    Raises:
        UserError: there is none.
    """
    published = versions(push_directory)
    if not published:
        raise UserError(f"{push_directory} holds no published version: there is nothing to go back from.")
    newest = digest_of(os.path.join(push_directory, str(published[-1])))
    first = next(v for v in published if digest_of(os.path.join(push_directory, str(v))) == newest)
    before = [version for version in published if version < first]
    if not before:
        raise UserError(
            f"{push_directory}: version {published[-1]} is in service, and there is no model from before it "
            "to publish again."
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
    """Beside the versions, whose directories hold what was evaluated and nothing else."""
    storage.make_directories(os.path.join(push_directory, _RECORDS))
    with storage.open_file(_record_path(push_directory, version), "w") as file:
        file.write(json.dumps(record) + "\n")


@contextlib.contextmanager
def _alone(push_directory: str) -> Iterator[None]:
    """Keeps other pushes into a directory waiting; in an object store, where there are no locks, not."""
    if "://" in push_directory:
        yield
        return
    with open(os.path.join(push_directory, _LOCK), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
