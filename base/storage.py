"""Files on this machine and in object stores by the same calls: a path is local, or a URL that fsspec knows.

`gs://bucket/folder` works with gcsfs, which is installed; `memory://folder` lives in this process, for tests;
others (s3://, abfs://, ...) need their fsspec package. Whatever goes wrong is an OSError of the kind that the
same mistake has on a local disk: FileNotFoundError, PermissionError, NotADirectoryError, ...

An object store has no folders: one is there while a file lies in it.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from two_tower.base.errors import UserError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_LOCAL = "file://"
_BUFFER = 1 << 20


def is_local(path: str) -> bool:
    """Does the path lie on this machine's disks?"""
    return "://" not in path or path.startswith(_LOCAL)


def absolute(path: str) -> str:
    """The absolute path of a local one (file:// is taken off); a URL as it is, without a slash at its end."""
    if not is_local(path):
        scheme, _, rest = path.partition("://")
        return f"{scheme}://{rest.rstrip('/')}"
    return os.path.abspath(_on_disk(path))


def join(folder: str, *parts: str) -> str:
    """`folder` and what lies within it, as one path."""
    if is_local(folder):
        return os.path.join(folder, *parts)
    return "/".join([absolute(folder), *(part.strip("/") for part in parts if part)])


def open_file(path: str, mode: str = "rb", encoding: str | None = None) -> IO[Any]:
    """Opens a file for reading or writing: "rb", "wb", "r", "w"; text is UTF-8 or in the `encoding` named.

    A local file's folder must exist. A remote file appears when it is closed, as a whole.

    Raises:
      OSError: there is no such file, or it cannot be read or written.
    """
    encoding = encoding if "b" in mode else encoding or "utf-8"
    if is_local(path):
        return open(_on_disk(path), mode, encoding=encoding)
    with _remote(path) as (filesystem, name):
        opened = _RemoteFile(filesystem.open(name, "wb" if "w" in mode else "rb"), path)
    stream = io.BufferedWriter(opened, _BUFFER) if "w" in mode else io.BufferedReader(opened, _BUFFER)
    return stream if encoding is None else io.TextIOWrapper(stream, encoding)


def exists(path: str) -> bool:
    """Is there a file or a folder?"""
    if is_local(path):
        return os.path.exists(_on_disk(path))
    with _remote(path) as (filesystem, name):
        return bool(filesystem.exists(name))


def is_file(path: str) -> bool:
    """Is there a file?"""
    if is_local(path):
        return os.path.isfile(_on_disk(path))
    with _remote(path) as (filesystem, name):
        return bool(filesystem.isfile(name))


def is_directory(path: str) -> bool:
    """Is there a folder?"""
    if is_local(path):
        return os.path.isdir(_on_disk(path))
    with _remote(path) as (filesystem, name):
        return bool(filesystem.isdir(name))


def size(path: str) -> int:
    """The size of a file in bytes. Raises FileNotFoundError where there is none."""
    if is_local(path):
        return os.path.getsize(_on_disk(path))
    with _remote(path) as (filesystem, name):
        return int(filesystem.size(name))


def list_files(folder: str) -> list[str]:
    """All files in a folder and those below it, as paths relative to it, with "/" and sorted; [] for none."""
    return sorted(list_sizes(folder))


def list_sizes(folder: str) -> dict[str, int]:
    """The files of `list_files` and their sizes in bytes: of a remote folder, by one listing."""
    if is_local(folder):
        root = _on_disk(folder)
        paths = [os.path.join(parent, name) for parent, _, names in os.walk(root) for name in names]
        return {os.path.relpath(path, root).replace(os.sep, "/"): os.path.getsize(path) for path in paths}
    with _remote(folder) as (filesystem, name):
        found = filesystem.find(name, detail=True)
        prefix = name.rstrip("/") + "/"
        return {
            path[len(prefix) :]: int(info["size"]) for path, info in found.items() if path.startswith(prefix)
        }


def list_names(folder: str) -> list[str]:
    """Returns the names of files and folders right below a folder, sorted; [] where there is none."""
    if is_local(folder):
        return sorted(os.listdir(_on_disk(folder))) if is_directory(folder) else []
    with _remote(folder) as (filesystem, name):
        found = filesystem.ls(name, detail=False) if filesystem.isdir(name) else []
        return sorted({str(path).rstrip("/").rpartition("/")[2] for path in found})


def make_directories(path: str) -> None:
    """Makes a folder and those above it where they are missing. Does nothing in an object store."""
    if is_local(path):
        os.makedirs(_on_disk(path), exist_ok=True)


def upload(local: str, path: str) -> None:
    """Copies a local file to `path`, which is complete or not there at all where it is remote."""
    if is_local(path):
        make_directories(os.path.dirname(_on_disk(path)))
        shutil.copyfile(local, _on_disk(path))
        return
    with _remote(path) as (filesystem, name):
        filesystem.put_file(local, name)


def copy_file(source: str, target: str) -> None:
    """Copies a file, whose target folder must exist where it is local."""
    with open_file(source) as read, open_file(target, "wb") as written:
        shutil.copyfileobj(read, written, _BUFFER)


def rename(source: str, target: str) -> None:
    """Renames a file or a folder: at once on a local disk, file by file in an object store."""
    if is_local(source):
        os.rename(_on_disk(source), _on_disk(target))
        return
    with _remote(source) as (filesystem, name), _remote(target) as (_, new_name):
        filesystem.mv(name, new_name, recursive=True)


def remove_tree(folder: str) -> None:
    """Deletes a folder with all that lies in it; one that is not there is no error."""
    if not exists(folder):
        return
    if is_local(folder):
        shutil.rmtree(_on_disk(folder))
        return
    with _remote(folder) as (filesystem, name):
        filesystem.rm(name, recursive=True)


def remove_file(path: str) -> None:
    """Deletes a file; one that is not there is no error."""
    with contextlib.suppress(FileNotFoundError):
        if is_local(path):
            os.remove(_on_disk(path))
            return
        with _remote(path) as (filesystem, name):
            filesystem.rm_file(name)


def _on_disk(path: str) -> str:
    return path[len(_LOCAL) :] if path.startswith(_LOCAL) else path


def filesystem_of(url: str) -> tuple[AbstractFileSystem, str]:
    """fsspec's file system of a URL, and the URL's path in it. Listings are never taken from a cache.

    Raises:
      UserError: no installed package knows the URL's scheme.
    """
    import fsspec.core

    try:
        filesystem, name = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{url}: cannot be reached ({error}). Use a local path or gs://, or install what it takes."
        ) from error
    return filesystem, str(name)


@contextlib.contextmanager
def _remote(url: str) -> Iterator[tuple[AbstractFileSystem, str]]:
    """The file system and path of a URL; what its client raises becomes an OSError that names the URL."""
    with _as_os_error(url):
        yield filesystem_of(url)


@contextlib.contextmanager
def _as_os_error(url: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{url}: there is no such file") from error
    except (OSError, UserError):
        raise
    except Exception as error:
        # Clients have exceptions of their own for a refused request or missing credentials.
        raise OSError(f"{url}: {type(error).__name__}: {error}") from error


class _RemoteFile(io.RawIOBase):
    """A remote file whose failures are OSErrors too: much of it is read, and all of it written, after it was
    opened.
    """

    def __init__(self, file: IO[bytes], url: str) -> None:
        self._file = file
        self._url = url

    def readable(self) -> bool:
        return self._file.readable()

    def writable(self) -> bool:
        return self._file.writable()

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readall(self) -> bytes:
        with _as_os_error(self._url):
            return self._file.read()

    def readinto(self, buffer: Any) -> int:
        with _as_os_error(self._url):
            content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def write(self, content: Any) -> int:
        with _as_os_error(self._url):
            return self._file.write(bytes(content))

    def close(self) -> None:
        if not self.closed:
            try:
                with _as_os_error(self._url):
                    self._file.close()
            finally:
                super().close()
