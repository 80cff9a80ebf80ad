"""Push directory: numbered versions, never overwritten, each complete once it is visible."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.serving import canary, push_record
from two_tower.serving.canary import CanaryFailed
from two_tower.serving.provenance import SERVED_FORM, digest_of, identity_of
from two_tower.serving.push_record import PushRecord

# Push directory within a run's output directory, or a job's root.
PUSHED = "pushed"
# Servers ignore all names but numbers.
_INCOMING, _LOCK = ".incoming-", ".lock"
# Servers read a name as a signed integer of 64 bits, and ignore what is none.
_GREATEST = 2**63 - 1


class NotPublished(Exception):
    """Objection to a publication by `publish(objection=...)`; its text is the reason.

    Attributes:
        newest: path of the version in service, "" if there is none.
    """

    def __init__(self, reason: str, newest: str) -> None:
        super().__init__(reason)
        self.newest = newest


class NothingBefore(UserError):
    """Error of a rollback that has no earlier model."""


def versions(push_directory: str) -> list[int]:
    """Lists the published versions, ascending: folders named by numbers as `publish` writes them."""
    return sorted(
        number
        for name in storage.list_names(push_directory)
        if (number := _number(name)) is not None
        and name == str(number)
        and storage.is_directory(storage.join(push_directory, name))
    )


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


def files_of(model: str, root: str) -> str:
    """Finds the files of a released model: the artifact's or, where these are gone, the published copy.

    Args:
        model: URI of the model's artifact, or of a version.
        root: a run's output directory, or a job's root.

    Returns:
        The directory of the SavedModel; that of the artifact if there is no copy either.
    """
    served = storage.join(model, SERVED_FORM)
    for candidate in (model, served):
        if storage.is_file(storage.join(candidate, "saved_model.pb")):
            return candidate
    push_directory = storage.join(root, PUSHED)
    for version in reversed(versions(push_directory)):
        if push_record.read(push_directory, version).model == model:
            return storage.join(push_directory, str(version))
    return served


def publish(
    model_path: str,
    push_directory: str,
    record: PushRecord,
    objection: Callable[[str], str] | None = None,
    check: Callable[[str, Mapping[str, Any] | None], None] | None = None,
) -> str:
    """Copies a model under the next number and returns its path.

    Servers load the highest number as soon as they see it. So the copy gets a name that servers ignore, is
    checked there, and is renamed after the check. Pushes into one local directory wait for each other. An
    object store has no locks: pushes into one directory there must not overlap.

    Args:
        model_path: the model to publish.
        push_directory: directory of numbered versions.
        record: the record to keep. Its canary queries are asked of the copy; None: the copy is only loaded.
            Its digest is compared with the copy's; "": the model's own files are.
        objection: returns the reason against a publication, given the version in service or "", or "". No
            other push changes the directory meanwhile.
        check: raises if the model at a path does not answer as recorded; None: `canary.check`.

    Raises:
        NotPublished: there is an objection.
        CanaryFailed: the copy was removed, and nothing has changed for servers.
        UserError: the push directory holds a link that is in the way, or the highest number of all.
    """
    push_directory = storage.absolute(push_directory)
    storage.make_directories(push_directory)
    with _alone(push_directory):
        newest = newest_version(push_directory) or ""
        if objection and (reason := objection(newest)):
            raise NotPublished(reason, newest)
        _remove_what_is_left(push_directory)
        version = _next_number(push_directory)
        incoming = storage.join(push_directory, f"{_INCOMING}{version}")
        destination = storage.join(push_directory, str(version))
        try:
            _copy(model_path, incoming)
            digest = _checked_digest(incoming, record, model_path)
            (check or canary.check)(incoming, record.canary)
            storage.sync_tree(incoming)
            complete = dataclasses.replace(
                record, digest=digest, identity=identity_of(incoming), published=push_record.now()
            )
            push_record.write(push_directory, version, complete)
            storage.rename(incoming, destination)
        except BaseException:
            storage.remove_tree(incoming)
            raise
    return destination


def _remove_what_is_left(push_directory: str) -> None:
    """Removes what a killed push or cleaning left; nothing else writes the directory now."""
    for name in storage.list_names(push_directory):
        if name.startswith(_INCOMING):
            storage.remove_tree(storage.join(push_directory, name))
    there = {f"{version}.json" for version in versions(push_directory)}
    records = storage.join(push_directory, push_record.FOLDER)
    for name in storage.list_names(records):
        if name not in there:
            storage.remove_file(storage.join(records, name))


def remove_version(push_directory: str, version: int) -> None:
    """Removes a version that is not in service, with its record.

    Raises:
        UserError: servers load this version.
    """
    with _alone(push_directory):
        _remove_what_is_left(push_directory)
        if version >= max(versions(push_directory)):
            raise UserError(f"{push_directory}: version {version} is in service, and stays.")
        # A server that is about to read a version sees all of it or none.
        leaving = storage.join(push_directory, f"{_INCOMING}{version}-removed")
        storage.rename(storage.join(push_directory, str(version)), leaving)
        storage.remove_tree(leaving)
        storage.remove_file(push_record.path_of(push_directory, version))


def version_before(push_directory: str) -> int:
    """Finds the version that preceded the newest version's model.

    If the newest version is an earlier one published again, the result precedes that earlier one. So two
    rollbacks go two models back.

    Raises:
        NothingBefore: no such version exists.
        UserError: a record is damaged.
    """
    published = versions(push_directory)
    if not published:
        raise NothingBefore(f"{push_directory} holds no published version, so there is nothing to roll back.")
    newest = _identity(push_directory, published[-1]) if len(published) > 1 else ""
    first = next(
        (version for version in published[:-1] if _identity(push_directory, version) == newest), published[-1]
    )
    before = [version for version in published if version < first]
    if not before:
        raise NothingBefore(
            f"{push_directory}: version {published[-1]} is in service, and no earlier model exists to "
            "publish again."
        )
    return before[-1]


def _identity(push_directory: str, version: int) -> str:
    recorded = push_record.read(push_directory, version).identity
    return recorded or identity_of(storage.join(push_directory, str(version)))


def _number(name: str) -> int | None:
    """Returns the number that servers read a name as, or None."""
    is_number = name.isascii() and name.isdigit() and int(name) <= _GREATEST
    return int(name) if is_number else None


def _next_number(push_directory: str) -> int:
    """Returns the number above all that servers may read, folders such as `007` and files among them.

    Raises:
        UserError: servers read no higher number.
    """
    numbered = [(_number(name) or 0, name) for name in storage.list_names(push_directory)]
    highest, name = max(numbered, default=(0, ""))
    if highest == _GREATEST:
        raise UserError(
            f"{push_directory}/{name}: servers read no number above this one, so nothing can be "
            "published. Remove it, or rename it to a lower number."
        )
    return highest + 1


def _copy(model_path: str, target_path: str) -> None:
    if links := storage.links(model_path):
        raise CanaryFailed(
            f"Nothing was published, and the model in service stays. {storage.join(model_path, links[0])} is "
            "a symbolic link, and a model holds its own files alone. Put what it points to in its place."
        )
    for name in storage.list_files(model_path):
        target = storage.join(target_path, name)
        storage.make_directories(os.path.dirname(target))
        storage.copy_file(storage.join(model_path, name), target)


def _checked_digest(incoming: str, record: PushRecord, model_path: str) -> str:
    expected, found = record.digest or digest_of(model_path), digest_of(incoming)
    if found != expected:
        remedy = (
            "Run the evaluation again."
            if record.copy_of is None
            else f"Remove {model_path}, and roll back again, to the model before it."
        )
        raise CanaryFailed(
            "Nothing was published, and the model in service stays. The copy of "
            f"{model_path} has the digest {found}, and the evaluated files had {expected}. The model was "
            f"changed since, or the copy is damaged. {remedy}"
        )
    return found


@contextlib.contextmanager
def _alone(push_directory: str) -> Iterator[None]:
    """Locks a directory against other pushes; an object store has no locks."""
    for name in (_LOCK, push_record.FOLDER):
        if storage.is_local(push_directory) and os.path.islink(os.path.join(push_directory, name)):
            raise UserError(
                f"{push_directory}/{name} is a symbolic link. A push would write where it points to. "
                "Remove it."
            )
    with storage.locked(storage.join(push_directory, _LOCK)):
        yield
