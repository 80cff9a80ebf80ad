"""Lines that a command prints while it works."""

from __future__ import annotations

import sys


def tell(line: str) -> None:
    """Prints a line of the command's output at once."""
    print(line, flush=True)


def tell_progress(line: str) -> None:
    """Prints a line for someone who waits at a terminal; it is no part of the output."""
    if sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)
