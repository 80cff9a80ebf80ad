"""A digest of the project's sources, so that a component runs again after an edit of the code it runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

_ROOT = Path(__file__).parent.parent


def source_digest(*sources: str) -> str:
    """sha256 over Python files and schemas, named from the repository's root.

    Args:
      sources: files, or folders, which stand for all that is below them.

    Raises:
      FileNotFoundError: a name stands for nothing.
    """
    digest = hashlib.sha256()
    for source in sources:
        path = _ROOT / source
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        if not files:
            raise FileNotFoundError(f"No sources at {path}.")
        for file in files:
            digest.update(str(file.relative_to(_ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
