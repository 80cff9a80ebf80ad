"""Notices of an ingest: lines for the user about what a reader changed or left out, beside the counts."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

_LOGGER = logging.getLogger("two_tower.ingest")


def tell(text: str) -> None:
    """Tells the user something; without `collected` around it, nobody listens."""
    _LOGGER.info("%s", text)


@contextlib.contextmanager
def collected() -> Iterator[list[str]]:
    """Collects the notices of a `with` block, each once."""
    texts: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() not in texts:
                texts.append(record.getMessage())

    listener, level = Listener(), _LOGGER.level
    _LOGGER.addHandler(listener)
    _LOGGER.setLevel(logging.INFO)
    try:
        yield texts
    finally:
        _LOGGER.removeHandler(listener)
        _LOGGER.setLevel(level)
