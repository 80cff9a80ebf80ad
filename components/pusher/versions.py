"""The push directory: numbered versions, never overwritten, each complete from the moment it is visible."""

from __future__ import annotations

import hashlib
import os

from tfx.dsl.io import fileio


def digest_of(model_path: str) -> str:
    """sha256 over the names and bytes of a model's files: equal digests mean the same model."""
    digest = hashlib.sha256()
    for directory, _, names in sorted(fileio.walk(model_path)):
        for name in sorted(names):
            path = os.path.join(directory, name)
            digest.update(os.path.relpath(path, model_path).encode() + b"\0")
            with fileio.open(path, "rb") as file:
                content = file.read()
            digest.update(len(content).to_bytes(8, "big") + content)
    return "sha256:" + digest.hexdigest()


def versions(push_directory: str) -> list[int]:
    """The published versions, ascending."""
    if not fileio.exists(push_directory):
        return []
    return sorted(int(name) for name in fileio.listdir(push_directory) if name.strip("/").isdigit())


def publish(model_path: str, push_directory: str) -> str:
    """Copies a model under the next number and returns its path.

    Servers load the highest number the moment they see it, so the copy is made under a name that they do
    not look at and renamed when it is whole.
    """
    existing = versions(push_directory)
    version = existing[-1] + 1 if existing else 1
    destination = os.path.join(push_directory, str(version))
    incoming = os.path.join(push_directory, f".incoming-{version}")
    if fileio.exists(incoming):  # left by a push that was killed
        fileio.rmtree(incoming)
    for directory, _, names in fileio.walk(model_path):
        target = os.path.normpath(os.path.join(incoming, os.path.relpath(directory, model_path)))
        fileio.makedirs(target)
        for name in names:
            fileio.copy(os.path.join(directory, name), os.path.join(target, name))
    fileio.rename(incoming, destination)
    return destination
