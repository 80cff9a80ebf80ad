"""Values of the configured columns of users/ and items/ for the test labels, to slice by."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from two_tower.data_directory.feature_columns import FeatureSpec
from two_tower.evaluation.queries import Ints, Queries, Windows, ragged_index


@dataclasses.dataclass(frozen=True)
class FeatureValues:
    """The values of one column, by label.

    Attributes:
        name: name of the column, for users with `user_` before it.
        label: int64 [n] the label with the value; a label may have several values, or none.
        value: str [n].
    """

    name: str
    label: Ints
    value: npt.NDArray[np.str_]


def of_users(windows: Windows, queries: Queries, specs: Sequence[FeatureSpec]) -> list[FeatureValues]:
    """Reads the categories of users/ (`ColumnKind.is_category`) that each label's user has."""
    found = []
    for spec in specs:
        if not spec.column_kind.is_category:
            continue
        values = windows.user_features[spec.name][queries.window[queries.labels.query]]
        table = values[:, np.newaxis] if values.ndim == 1 else values
        label, place = np.nonzero(table != b"")
        found.append(FeatureValues(spec.name, label, np.char.decode(table[label, place].astype(np.bytes_))))
    return found


def of_items(data: str, item_id: Ints, specs: Sequence[FeatureSpec]) -> list[FeatureValues]:
    """Reads the categories of items/ (`ColumnKind.is_category`) that each label's item has.

    Args:
        data: the data directory.
        item_id: [labels].
        specs: the columns of items/ that are features.
    """
    import pyarrow.dataset as pads

    from two_tower.data_directory.checked_columns import open_dataset
    from two_tower.data_directory.feature_columns import encode_columns
    from two_tower.data_directory.manifest import item_files

    sliced = [spec for spec in specs if spec.column_kind.is_category]
    if not sliced or not len(item_id):
        return []
    wanted = np.unique(item_id)
    rows = open_dataset(item_files(data)).to_table(
        columns=["item_id", *(spec.column for spec in sliced)], filter=pads.field("item_id").isin(wanted)
    )
    encoded = encode_columns(rows, sliced, "items")
    known = rows["item_id"].to_numpy()
    by_id = np.argsort(known)
    place = np.minimum(np.searchsorted(known, item_id, sorter=by_id), max(len(known) - 1, 0))
    row = by_id[place] if len(known) else place
    of_label = np.flatnonzero(known[row] == item_id) if len(known) else np.empty(0, np.int64)
    found = []
    for spec in sliced:
        label, value = _values_of(encoded[spec.name], row[of_label], of_label)
        found.append(FeatureValues(spec.name, label, value))
    return found


def _values_of(column: Any, row: Ints, label: Ints) -> tuple[Ints, npt.NDArray[np.str_]]:
    """Returns labels and values of a column of lists, at the rows of the labels' items."""
    offsets = np.asarray(column.offsets).astype(np.int64)
    values = np.array([_text(value) for value in column.values.to_pylist()], np.str_)
    count = np.diff(offsets)[row]
    index = ragged_index(offsets[:-1][row], count)
    label = np.repeat(label, count)
    is_known = values[index] != "" if len(values) else np.zeros(len(index), bool)
    return label[is_known], values[index][is_known] if len(values) else np.empty(0, np.str_)


def _text(value: str | bytes | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
