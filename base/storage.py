"""Uniform access to files on this machine and in object stores: a path is local or a URL that fsspec knows.

`gs://bucket/folder` works with gcsfs, which is installed. `memory://folder` lives in this process and serves
tests. Others (s3://, abfs://, ...) need their fsspec package. Every failure is the OSError that a local disk
would raise: FileNotFoundError, PermissionError, NotADirectoryError, ...

An object store has no folders: a folder exists while it contains a file.
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
    """Returns whether the path lies on this machine's disks."""
    return "://" not in path or path.startswith(_LOCAL)


def absolute(path: str) -> str:
    """Returns the absolute form of a local path, without file://; of a URL, the URL without a final slash."""
    if not is_local(path):
        scheme, _, rest = path.partition("://")
        return f"{scheme}://{rest.rstrip('/')}"
    return os.path.abspath(_on_disk(path))


def join(folder: str, *parts: str) -> str:
    """Joins a folder and path parts to one path."""
    if is_local(folder):
        return os.path.join(folder, *parts)
    return "/".join([absolute(folder), *(part.strip("/") for part in parts if part)])


def open_file(path: str, mode: str = "rb", encoding: str | None = None) -> IO[Any]:
    """Opens a file in mode "rb", "wb", "r" or "w"; text is UTF-8 unless `encoding` names another.

    The folder of a local file must exist. A remote file appears as a whole when it is closed.

    Raises:
      OSError: the file does not exist, or cannot be read or written.
    """
    encoding = encoding if "b" in mode else encoding or "utf-8"
    if is_local(path):
        return open(_on_disk(path), mode, encoding=encoding)
    with _remote(path) as (filesystem, name):
        opened = _RemoteFile(filesystem.open(name, "wb" if "w" in mode else "rb"), path)
    stream = io.BufferedWriter(opened, _BUFFER) if "w" in mode else io.BufferedReader(opened, _BUFFER)
    return stream if encoding is None else io.TextIOWrapper(stream, encoding)


def exists(path: str) -> bool:
    """Returns whether the path is a file or a folder."""
    if is_local(path):
        return os.path.exists(_on_disk(path))
    with _remote(path) as (filesystem, name):
        return bool(filesystem.exists(name))


def is_file(path: str) -> bool:
    """Returns whether the path is a file."""
    if is_local(path):
        return os.path.isfile(_on_disk(path))
    with _remote(path) as (filesystem, name):
        return bool(filesystem.isfile(name))


def is_directory(path: str) -> bool:
    """Returns whether the path is a folder."""
    if is_local(path):
        return os.path.isdir(_on_disk(path))
    with _remote(path) as (filesystem, name):
        return bool(filesystem.isdir(name))


def is_readable_directory(path: str) -> bool:
    """Returns whether this machine can read the folder; a bucket may admit only others."""
    try:
        return is_directory(path)
    except (OSError, UserError):
        return False


def size(path: str) -> int:
    """Returns the size of a file in bytes.

    Raises:
      FileNotFoundError: the file does not exist.
    """
    if is_local(path):
        return os.path.getsize(_on_disk(path))
    with _remote(path) as (filesystem, name):
        return int(filesystem.size(name))


def check_link(path: str) -> None:
    """Raises UserError for a link to a file that does not exist."""
    if is_local(path) and os.path.islink(_on_disk(path)) and not os.path.exists(_on_disk(path)):
        target = os.readlink(_on_disk(path))
        raise UserError(f"{path}: a link to {target}, which does not exist. Restore it or remove the link.")


def list_files(folder: str) -> list[str]:
    """Lists all files in and below a folder as sorted relative paths with "/"; [] if there are none.

    Raises:
      UserError: a folder cannot be read, or a link leads nowhere.
    """
    return sorted(list_sizes(folder))


def list_sizes(folder: str) -> dict[str, int]:
    """Returns the files of `list_files` with their sizes in bytes; a remote folder needs one listing.

    Raises:
      UserError: see `list_files`.
    """
    if is_local(folder):
        root = _on_disk(folder)
        if not os.path.isdir(root):
            return {}
        sizes = {}
        for parent, _, names in os.walk(root, onerror=_refuse_folder):
            for path in (os.path.join(parent, name) for name in names):
                check_link(path)
                sizes[os.path.relpath(path, root).replace(os.sep, "/")] = os.path.getsize(path)
        return sizes
    with _remote(folder) as (filesystem, name):
        found = filesystem.find(name, detail=True)
        prefix = name.rstrip("/") + "/"
        return {
            path[len(prefix) :]: int(info["size"]) for path, info in found.items() if path.startswith(prefix)
        }


def _refuse_folder(error: OSError) -> None:
    raise UserError(
        f"{error.filename}: the folder cannot be read ({error.strerror}). Check its permissions."
    ) from error


def list_names(folder: str) -> list[str]:
    """Lists the names of files and folders directly below a folder, sorted; [] for a missing folder."""
    if is_local(folder):
        return sorted(os.listdir(_on_disk(folder))) if is_directory(folder) else []
    with _remote(folder) as (filesystem, name):
        found = filesystem.ls(name, detail=False) if filesystem.isdir(name) else []
        return sorted({str(path).rstrip("/").rpartition("/")[2] for path in found})


def make_directories(path: str) -> None:
    """Creates a folder and its missing parents; does nothing in an object store."""
    if is_local(path):
        os.makedirs(_on_disk(path), exist_ok=True)


def upload(local: str, path: str) -> None:
    """Copies a local file to `path`; a remote copy appears only when complete."""
    if is_local(path):
        make_directories(os.path.dirname(_on_disk(path)))
        shutil.copyfile(local, _on_disk(path))
        return
    with _remote(path) as (filesystem, name):
        filesystem.put_file(local, name)


def write_whole(path: str, text: str) -> None:
    """Writes a text file that appears as a whole; the folder of a local file must exist."""
    incoming = f"{path}.{os.getpid()}.incoming" if is_local(path) else path
    with open_file(incoming, "w") as file:
        file.write(text)
    if incoming != path:
        os.replace(_on_disk(incoming), _on_disk(path))


def copy_file(source: str, target: str) -> None:
    """Copies a file; a local target folder must exist."""
    with open_file(source) as read, open_file(target, "wb") as written:
        shutil.copyfileobj(read, written, _BUFFER)


def rename(source: str, target: str) -> None:
    """Renames a file or a folder: atomically on a local disk, file by file in an object store."""
    if is_local(source):
        os.rename(_on_disk(source), _on_disk(target))
        return
    with _remote(source) as (filesystem, name), _remote(target) as (_, new_name):
        filesystem.mv(name, new_name, recursive=True)


def links(folder: str) -> list[str]:
    """Lists the symbolic links in and below a folder as sorted relative paths; [] for an object store."""
    if not is_local(folder):
        return []
    root = _on_disk(folder)
    return sorted(
        os.path.relpath(path, root)
        for parent, folders, files in os.walk(root)
        for path in (os.path.join(parent, name) for name in (*folders, *files))
        if os.path.islink(path)
    )


def sync_tree(folder: str) -> None:
    """Writes a local folder through to the disk: a power cut after a rename loses nothing of it."""
    if not is_local(folder):
        return
    for parent, _, names in os.walk(_on_disk(folder)):
        for path in (*(os.path.join(parent, name) for name in names), parent):
            _sync(path)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(folder: str) -> None:
    """Deletes a folder and its content, or a link alone; a missing folder is no error."""
    if is_local(folder) and os.path.islink(_on_disk(folder)):
        os.unlink(_on_disk(folder))
        return
    if not exists(folder):
        return
    if is_local(folder):
        shutil.rmtree(_on_disk(folder))
        return
    with _remote(folder) as (filesystem, name):
        filesystem.rm(name, recursive=True)


def remove_file(path: str) -> None:
    """Deletes a file; a missing file is no error."""
    with contextlib.suppress(FileNotFoundError):
        if is_local(path):
            os.remove(_on_disk(path))
            return
        with _remote(path) as (filesystem, name):
            filesystem.rm_file(name)


def _on_disk(path: str) -> str:
    return path[len(_LOCAL) :] if path.startswith(_LOCAL) else path


def filesystem_of(url: str) -> tuple[AbstractFileSystem, str]:
    """Returns fsspec's file system of a URL and the URL's path in it, without a cache of listings.

    Raises:
      UserError: no installed package knows the URL's scheme.
    """
    import fsspec.core

    try:
        filesystem, name = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{url}: the storage cannot be reached ({error}). Use a local path or gs://, or install the "
            "fsspec package of its scheme."
        ) from error
    return filesystem, str(name)


@contextlib.contextmanager
def _remote(url: str) -> Iterator[tuple[AbstractFileSystem, str]]:
    """Yields the file system and path of a URL; its client's errors become OSErrors that name the URL."""
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
        # Clients raise exceptions of their own for refused requests or missing credentials.
        raise OSError(f"{url}: {type(error).__name__}: {error}") from error


class _RemoteFile(io.RawIOBase):
    """Remote file whose failures are OSErrors too, since most reads and all writes happen after opening."""

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
