"""Readers of public data sets, by format name. A reader is imported when it is called."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.datasets.data_directory import Manifest


def _reader(module: str) -> Callable[..., Manifest]:
    def ingest(source: str, out: str, name: str | None = None) -> Manifest:
        reader = importlib.import_module(f"pipeline.datasets.{module}")
        return reader.ingest(source, out, name)

    return ingest


# Format name → ingest(source, out, name=None): writes the data directory `out`, returns its manifest and
# raises pipeline.errors.UserError for input that cannot be read. `name` overrides the data set's identity.
FORMATS: Mapping[str, Callable[..., Manifest]] = {
    "movielens": _reader("movielens"),
    "movietweetings": _reader("movietweetings"),
    "yambda": _reader("yambda"),
}
