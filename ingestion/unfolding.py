"""Unfolding of rows that hold lists, such as a user with all items and times: one row an entry."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from two_tower.base.errors import UserError
from two_tower.ingestion import source_values
from two_tower.ingestion.source_values import Place

# An entry in quotes.
_QUOTED = r"""^(?:"([^"]*)"|'([^']*)')$"""


def lists_of(values: pa.Array, separator: str | None, place: Place) -> pa.Array:
    """Returns a column of lists as such, and a text column cut at the separator.

    A blank as separator stands for one or more blanks. Brackets around a text, and quotes around an entry
    within them, are left out. An empty text is an empty list.

    Raises:
      UserError: the column holds neither lists nor text, or text without a separator.
    """
    if source_values.is_list(values.type):
        return source_values.plain_lists(values)
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), pa.list_(pa.string()))
    if not source_values.is_text(values.type):
        raise place.wrong_type(values.type, "list, since 'unfold' names it")
    if separator is None:
        raise UserError(
            f"{place.path}: column '{place.column}' is text, and 'unfold' names it: set the 'separator' of "
            "its entries in the column map."
        )
    text = pc.utf8_trim_whitespace(values.cast(pa.string()))
    # As Python writes lists and tuples; parentheses around one entry are its own.
    inner = r"\s" if separator.isspace() else re.escape(separator)
    brackets = rf"^(\[[^\[\]]*\]|\([^()]*{inner}[^()]*\))$"
    has_brackets = pc.fill_null(pc.match_substring_regex(text, brackets), False)
    text = pc.if_else(has_brackets, pc.utf8_trim(text, characters="[]()"), text)
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    parts = pc.utf8_split_whitespace(text) if separator.isspace() else pc.split_pattern(text, separator)
    flat = pc.utf8_trim_whitespace(parts.flatten())
    lengths = pc.fill_null(pc.list_value_length(parts), 0).to_numpy(zero_copy_only=False)
    in_brackets = pa.array(np.repeat(has_brackets.to_numpy(zero_copy_only=False), lengths))
    flat = pc.if_else(in_brackets, pc.replace_substring_regex(flat, _QUOTED, r"\1\2"), flat)
    offsets = pa.array(np.append(0, np.cumsum(lengths)), pa.int32())
    return pa.ListArray.from_arrays(offsets, pc.if_else(pc.equal(flat, ""), None, flat))


def entries_of(values: pa.Array, separator: str | None, place: Place) -> pa.Array:
    """Returns all entries of a column; see `lists_of`."""
    return lists_of(values, separator, place).flatten()


def unfold(
    rows: pa.RecordBatch, columns: Sequence[str], separator: str | None, place: Place
) -> tuple[pa.RecordBatch, np.ndarray, dict[int, str]]:
    """Makes a row of each entry of the lists, and repeats the other columns.

    Args:
      rows: n rows.
      columns: those that hold lists, one or more.
      separator: of text columns; see `lists_of`.
      place: of the rows; its column is not used.

    Returns:
      The m rows; the number of the source's row of each, int64[m]; and by row, from 0 to n - 1, a sentence
      about two lists of different lengths. Such a row is left out.

    Raises:
      UserError: see `lists_of`.
    """
    lists, lengths = {}, np.zeros(0, np.int64)
    wrong: dict[int, str] = {}
    for name in columns:
        at = Place(place.path, name, place.first_row)
        lists[name] = lists_of(rows[name], separator, at)
        found = pc.fill_null(pc.list_value_length(lists[name]), 0).to_numpy(zero_copy_only=False)
        if name == columns[0]:
            lengths = found
        else:
            for row in np.flatnonzero(found != lengths).tolist():
                wrong[row] = (
                    f"column '{name}' has {found[row]} entries, and '{columns[0]}' has {lengths[row]}: one "
                    "event is an entry of each."
                )
    if wrong:
        equal = np.delete(np.arange(len(rows)), list(wrong))
        right = rows.take(pa.array(equal))
        unfolded, of_row, _ = unfold(right, columns, separator, place)
        return unfolded, place.first_row + equal[of_row - place.first_row], wrong
    repeated = pa.array(np.repeat(np.arange(len(rows)), lengths))
    arrays = [
        lists[name].flatten() if name in lists else rows[name].take(repeated) for name in rows.schema.names
    ]
    unfolded = pa.RecordBatch.from_arrays(arrays, names=rows.schema.names)
    return unfolded, place.first_row + repeated.to_numpy(), wrong
