"""Uniform access to files on this machine and in object stores: a path is local or a URL that fsspec knows.

`gs://bucket/folder` works with gcsfs, which is installed. `memory://folder` lives in this process and serves
tests. Others (s3://, abfs://, ...) need their fsspec package. Every failure is the OSError that a local disk
would raise: FileNotFoundError, PermissionError, NotADirectoryError, ...

An object store has no folders: a folder exists while it contains a file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import shutil
import uuid
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


def list_files(folder: str, follow_links: bool = False) -> list[str]:
    """Lists all files in and below a folder as sorted relative paths with "/"; [] if there are none.

    Args:
      follow_links: lists the files below links to folders as well.

    Raises:
      UserError: a folder cannot be read; a link leads nowhere or, if it is followed, to files listed already.
    """
    return sorted(list_sizes(folder, follow_links))


def list_sizes(folder: str, follow_links: bool = False) -> dict[str, int]:
    """Returns the files of `list_files` with their sizes in bytes; a remote folder needs one listing.

    Raises:
      UserError: see `list_files`.
    """
    if is_local(folder):
        root = _on_disk(folder)
        if not os.path.isdir(root):
            return {}
        sizes: dict[str, int] = {}
        walked: dict[str, str] = {}
        for parent, _, names in os.walk(root, onerror=_refuse_folder, followlinks=follow_links):
            if (first := walked.setdefault(os.path.realpath(parent), parent)) != parent:
                raise UserError(f"{parent}: a link to {first}, whose files are there twice. Remove the link.")
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
    """Writes a text file that appears as a whole, and is on the disk then; its local folder must exist."""
    if not is_local(path):
        with open_file(path, "w") as file:
            file.write(text)
        return
    # Process ids repeat in containers that share a disk, and threads have one.
    incoming = f"{_on_disk(path)}.{uuid.uuid4().hex}.incoming"
    try:
        with open_file(incoming, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(incoming, _on_disk(path))
    except BaseException:
        remove_file(incoming)
        raise
    sync_folder(os.path.dirname(os.path.abspath(_on_disk(path))))


def sync_tree(folder: str) -> None:
    """Waits until all files and names of a local folder are on the disk; to be called before a rename.

    A rename alone may outlive the content of what was renamed. A remote folder needs nothing.
    """
    if not is_local(folder):
        return
    for parent, _, names in os.walk(_on_disk(folder), topdown=False):
        for name in names:
            path = os.path.join(parent, name)
            if os.path.isfile(path) and not os.path.islink(path):
                _sync(path, os.O_RDONLY)
        sync_folder(parent)


def sync_folder(folder: str) -> None:
    """Waits until the names in a local folder are on the disk; to be called after a rename."""
    # Some network file systems have no such call for folders.
    with contextlib.suppress(OSError):
        _sync(_on_disk(folder), os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: str, flags: int) -> None:
    opened = os.open(path, flags)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def copy_file(source: str, target: str) -> None:
    """Copies a file; a local target folder must exist."""
    with open_file(source) as read, open_file(target, "wb") as written:
        shutil.copyfileobj(read, written, _BUFFER)


def rename(source: str, target: str) -> None:
    """Renames a file or a folder: atomically on a local disk, file by file in an object store.

    A local rename is on the disk then. `sync_tree` brings the content there before.
    """
    if is_local(source):
        os.rename(_on_disk(source), _on_disk(target))
        for folder in {os.path.dirname(os.path.abspath(_on_disk(path))) for path in (source, target)}:
            sync_folder(folder)
        return
    with _remote(source) as (filesystem, name), _remote(target) as (_, new_name):
        filesystem.mv(name, new_name, recursive=True)


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Waits for the lock of a local file, which is created, and holds it; an object store has no locks."""
    if not is_local(path):
        yield
        return
    with open(_on_disk(path), "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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


def cannot_write(place: str, error: OSError, remedy: str = "Name another place.") -> UserError:
    """Returns the error for a local or remote place that cannot be written, with the cause in words."""
    reason = _REASONS.get(error.errno or 0, str(error))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason += f", with {_free_space(place)} free"
        remedy = f"Free space there, or {remedy[0].lower()}{remedy[1:]}"
    return UserError(f"{place}: cannot be written: {reason}. {remedy}")


# Remedy for temporary files that cannot be written.
OTHER_SCRATCH = "Set TMPDIR to a folder that has about as much space as the source takes."
_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your share of the disk is used up",
    errno.EFBIG: "a file would be larger than the system allows (see `ulimit -f`)",
    errno.EROFS: "the disk can only be read",
    errno.EEXIST: "a file stands in the way",
    errno.ENOTDIR: "a file stands in the way",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
}


def _free_space(place: str) -> str:
    folder = os.path.abspath(_on_disk(place))
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    free = float(shutil.disk_usage(folder).free)
    for unit in ("bytes", "kB", "MB", "GB"):
        if free < 1_000:
            return f"{free:.0f} {unit}"
        free /= 1_000
    return f"{free:,.1f} TB"


@contextlib.contextmanager
def writing(place: str, remedy: str = "Name another place.") -> Iterator[None]:
    """Converts an OSError of a `with` block that only writes to the UserError of `cannot_write`."""
    try:
        yield
    except OSError as error:
        raise cannot_write(place, error, remedy) from error


@contextlib.contextmanager
def made_folder(folder: str) -> Iterator[None]:
    """Creates a local folder with its parents for a `with` block; what stays empty is removed afterwards.

    Raises:
      OSError: it cannot be created.
    """
    folder = _on_disk(folder)
    missing: list[str] = []
    parent = folder
    while not os.path.isdir(parent) and parent != os.path.dirname(parent):
        missing.append(parent)
        parent = os.path.dirname(parent)
    os.makedirs(folder, exist_ok=True)
    try:
        yield
    finally:
        for made in missing:
            with contextlib.suppress(OSError):
                os.rmdir(made)


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
