"""Hotfix of pyarrow, applied wherever Arrow is imported first.

pyarrow 10 unpickles extension types of Python from the schema of a Parquet or IPC file, so that opening a
crafted file runs code (CVE-2023-47248, mended in pyarrow 14.0.1). The package `pyarrow_hotfix` makes it an
error. Its import imports pyarrow, which a command's help must not do. So a finder applies it at the first
import of pyarrow by anyone: our modules, pandas, TFX or Beam.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

_ARROW = "pyarrow"


def install() -> None:
    """Applies the hotfix now if pyarrow is imported already, and at its import otherwise."""
    if _ARROW in sys.modules:
        _mend()
    elif not any(finder is _ArrowFinder for finder in sys.meta_path):
        sys.meta_path.insert(0, _ArrowFinder)


def _mend() -> None:
    import pyarrow_hotfix

    pyarrow_hotfix.install()


class _ArrowLoader(SourceFileLoader):
    """Loader of pyarrow that mends it before its importer sees it."""

    def exec_module(self, module: ModuleType) -> None:
        """Runs pyarrow's own code, then the hotfix."""
        super().exec_module(module)
        _mend()


class _ArrowFinder:
    """Finder of pyarrow alone; all other modules are left to the finders behind it."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Finds pyarrow with the mending loader."""
        spec = PathFinder.find_spec(name, path, target) if name == _ARROW else None
        if spec is not None and spec.origin is not None:
            spec.loader = _ArrowLoader(name, spec.origin)
        return spec
