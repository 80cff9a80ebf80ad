"""Blocks of rows of similar width, so that memory is bounded however large the catalog is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from two_tower.evaluation.queries import Ints

# Cells of a dense block of rows: 32 MB of float64.
BLOCK_CELLS = 4_000_000


def none(rows: int) -> Ints:
    """Returns a list of excluded items that excludes nothing: [rows, 0]."""
    return np.empty([rows, 0], np.int64)


def blocks(widths: Ints) -> Iterator[Ints]:
    """Splits rows into blocks of similar width, so that dense blocks are mostly full and bounded in size."""
    order = np.argsort(widths, kind="stable")
    begin = 0
    while begin < len(order):
        # Rows of ascending width: a block of r rows costs r times its last row's width.
        cells = np.arange(1, len(order) - begin + 1) * np.maximum(widths[order[begin:]], 1)
        size = max(int(np.searchsorted(cells, BLOCK_CELLS, side="right")), 1)
        yield order[begin : begin + size]
        begin += size
