"""Order of rows, runs of equal rows, and ranges of places, for columns as NumPy arrays."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def order(*columns: Array) -> Array:
    """Returns the stable order that sorts rows by columns [n] of integers, the first the most significant.

    If all columns and the row number fit into 64 bits, rows are sorted as one number: several times as fast
    as column by column.
    """
    rows = len(columns[0])
    if not rows:
        return np.zeros(0, np.int64)
    row_bits = max(1, int(rows - 1).bit_length())
    lows = [int(column.min()) for column in columns]
    widths = [int(int(column.max()) - low).bit_length() for column, low in zip(columns, lows, strict=True)]
    if sum(widths) + row_bits > 64:
        return np.lexsort(columns[::-1])
    packed = np.zeros(rows, np.uint64)
    for column, low, width in zip(columns, lows, widths, strict=True):
        packed <<= np.uint64(width)
        packed |= (column.astype(np.int64) - low).astype(np.uint64)
    if (packed[1:] >= packed[:-1]).all():
        return np.arange(rows)
    packed <<= np.uint64(row_bits)
    packed |= np.arange(rows, dtype=np.uint64)
    packed.sort()
    packed &= np.uint64((1 << row_bits) - 1)
    return packed.astype(np.int64)


def run_starts(*columns: Array) -> Array:
    """Returns the places of rows that differ from the row before in any of the columns."""
    if not len(columns[0]):
        return np.zeros(0, np.int64)
    changes = columns[0][1:] != columns[0][:-1]
    for column in columns[1:]:
        changes |= column[1:] != column[:-1]
    return np.append(0, np.flatnonzero(changes) + 1)


def ranges(start: Array, stop: Array) -> Array:
    """Returns the concatenation of range(start[i], stop[i])."""
    lengths = stop - start
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(start - (ends - lengths), lengths)
