"""Key counts: numbers of rows per distinct key."""

from __future__ import annotations

import numpy as np


class KeyCounts:
    """Running counts of rows per distinct key; memory grows with the keys, not with the rows."""

    def __init__(self) -> None:
        # Each part holds the key columns and, last, the count of rows; keys are sorted and distinct.
        self._parts: list[tuple[np.ndarray, ...]] = []
        self._pending = 0

    def add(self, *keys: np.ndarray) -> None:
        """Adds rows by key, given as one or more columns [n] of numbers."""
        if len(keys) == 1:
            self._parts.append(np.unique(keys[0], return_counts=True))
        else:
            self._parts.append(_grouped((*keys, np.ones(len(keys[0]), np.int64))))
        self._pending += len(self._parts[-1][0])
        if self._pending > max(4_000_000, len(self._parts[0][0])):
            self._parts = [self.result()]
            self._pending = 0

    def result(self) -> tuple[np.ndarray, ...]:
        """Returns the key columns, distinct and sorted, and last the counts of rows; () before any `add`."""
        if not self._parts:
            return ()
        return _grouped(tuple(np.concatenate(column) for column in zip(*self._parts, strict=True)))


def _grouped(columns: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    *keys, rows = columns
    order = np.lexsort(keys[::-1])
    if not len(order):
        return columns
    keys = [key[order] for key in keys]
    new = np.append(True, np.logical_or.reduce([np.diff(key) != 0 for key in keys]))
    first = np.flatnonzero(new)
    return (*(key[first] for key in keys), np.add.reduceat(rows[order], first))
