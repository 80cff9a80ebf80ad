"""Staging of a data directory: files are written aside, then replace the old directory as a whole."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil

from two_tower.base import staged_folder, storage, temporary
from two_tower.base.errors import UserError
from two_tower.data_directory.manifest import (
    COLUMNS,
    MANIFEST,
    ORACLE,
    UPLOADED_NAME,
    DataFile,
    Manifest,
    digest_of_file,
    rows_of_file,
    sizes_of_files,
)


class Staging:
    """A directory in which the new files of a data directory are completed.

    A local data directory is staged beside its place and takes it by one rename, and one writer at a time
    does so (see `base.staged_folder`). A remote one is staged in a temporary directory and uploaded, the
    manifest last: until then readers see the old content. Object stores have no locks, so that two writers of
    one remote place are not kept apart: the last one's manifest stays.

    Args:
      out: the data directory, an absolute path or URL.

    Attributes:
      path: the staging directory; "" before `create`.
    """

    def __init__(self, out: str) -> None:
        self.path = ""
        self._out = out
        self._is_local = storage.is_local(out)
        self._held = contextlib.ExitStack()

    @property
    def place(self) -> str:
        """Place whose disk the staged files fill, for messages."""
        return self._out if self._is_local else self.path

    def check(self) -> None:
        """Takes the lock of a local place.

        Raises:
          UserError: another process writes it; or it is neither free, an empty directory nor a data
            directory.
          OSError: it cannot be written.
        """
        if self._is_local:
            self._held.enter_context(staged_folder.alone(self._out))
        _check_replaceable(self._out)

    def create(self) -> None:
        """Creates the staging directory; raises OSError if that is impossible."""
        if self._is_local:
            self.path = staged_folder.staged(self._out)
            os.mkdir(self.path)
        else:
            self.path = self._held.enter_context(temporary.folder())

    def publish(self, manifest: Manifest) -> Manifest:
        """Puts the staged files into their place and returns the manifest as it is stored.

        Args:
          manifest: lists the staged files and the old files that stay.

        Raises:
          UserError: an old file that stays is missing, or a remote place cannot be written.
        """
        if not self._is_local:
            return self._upload(manifest)
        manifest.save(self.path)
        self._move_into_place(manifest)
        return manifest

    def remove(self) -> None:
        """Deletes the staging directory, if it still exists, and gives the place free."""
        self._held.close()

    def files(self) -> list[str]:
        """Lists the staged files by their relative paths, sorted."""
        return list(sizes_of_files(self.path))

    def _move_into_place(self, manifest: Manifest) -> None:
        for file in manifest.files:
            target = os.path.join(self.path, file.path)
            if not os.path.exists(target):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                try:
                    _link(os.path.join(self._out, file.path), target)
                except FileNotFoundError as error:
                    raise UserError(
                        f"{os.path.join(self._out, file.path)}: the manifest lists it and it is missing. "
                        "Ingest the whole data set into another place."
                    ) from error
        staged_folder.replace(self._out)

    def _upload(self, manifest: Manifest) -> Manifest:
        """Uploads new files under unique names, then the manifest, then deletes files it does not list."""
        there = sizes_of_files(self._out)
        uploaded: list[str] = []
        files = []
        try:
            for file in manifest.files:
                staged = os.path.join(self.path, file.path)
                if os.path.exists(staged):
                    file = dataclasses.replace(file, path=_uploaded_path(file))
                    if there.get(file.path) != file.bytes:
                        uploaded.append(file.path)
                        storage.upload(staged, storage.join(self._out, file.path))
                files.append(file)
        except BaseException as error:
            for path in uploaded:
                with contextlib.suppress(OSError):
                    storage.remove_file(storage.join(self._out, path))
            if isinstance(error, OSError):
                raise UserError(f"{self._out}: cannot be written ({error}). Name another place.") from error
            raise
        manifest = dataclasses.replace(manifest, files=tuple(files))
        try:
            manifest.save(self._out)
        except OSError as error:
            # The manifest may have arrived: the new files stay, and the next ingest removes leftovers.
            raise UserError(
                f"{self._out}: {MANIFEST} cannot be written ({error}). Run the ingest again."
            ) from error
        listed = {file.path for file in files}
        for path in sorted(set(there) - listed):
            # A file that cannot be deleted takes space; no reader opens it.
            with contextlib.suppress(OSError):
                storage.remove_file(storage.join(self._out, path))
        return manifest


def describe_file(directory: str, path: str) -> DataFile:
    """Reads rows, size and digest of a file by its path relative to a local directory."""
    full = os.path.join(directory, path)
    return DataFile(path, rows_of_file(full), os.path.getsize(full), digest_of_file(full))


def _check_replaceable(out: str) -> None:
    """Raises UserError unless `out` is free, empty, or a data directory without other files."""
    if not storage.exists(out):
        return
    if not storage.is_directory(out):
        raise UserError(f"{out} exists and is a file: name a directory to write the data to.")
    if storage.is_local(out):
        entries = set(os.listdir(out))
        begun = False
    else:
        paths = storage.list_files(out)
        entries = {path.split("/")[0] for path in paths}
        # A killed upload leaves files whose names have a form of their own.
        begun = all(UPLOADED_NAME.fullmatch(path) for path in paths)
    foreign = entries - {MANIFEST, ORACLE, *COLUMNS}
    if entries and (foreign or (MANIFEST not in entries and not begun)):
        example = min(foreign or entries)
        raise UserError(
            f"{out} exists and is not a data directory (it holds '{example}'). Nothing was changed; "
            "name another place."
        )


def _uploaded_path(file: DataFile) -> str:
    """Returns a path that no other content has: a file found under it is this file."""
    stem, extension = os.path.splitext(file.path)
    return f"{stem}-{file.digest.removeprefix('sha256:')[:12]}{extension}"


def _link(source: str, target: str) -> None:
    """Adds a second name to a file; copies it where the file system has no hard links."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
