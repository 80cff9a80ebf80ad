"""Catalog of a Yambda data set: artists, albums, content embeddings, names and lengths of the items."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns
from two_tower.data_directory.writer import DataDirectoryWriter
from two_tower.ingestion import source_files

_ITEM_ROWS = 50_000
_LENGTH = "track_length_seconds"


def write_items(source: str, items_of_events: np.ndarray, writer: DataDirectoryWriter) -> None:
    """Writes the catalog: first the items with content embeddings in their file's order, then the others by
    id.

    No column comes from the events. Those give lengths too, but test's events among them: an item whose
    length is known would be one that somebody hears some day.

    Args:
      items_of_events: int64[n], sorted, the items of the events.
    """
    files = ("artist_item_mapping", "album_item_mapping", "embeddings", "names")
    paths = {file: _find_description(source, f"{file}.parquet") for file in files}
    owners = {
        f"{owner}_id": _Owners(path, f"{owner}_id", writer)
        for owner in ("artist", "album")
        if (path := paths[f"{owner}_item_mapping"])
    }
    names = _Names(paths["names"], writer) if paths["names"] else None
    embedded = _embedded_items(paths["embeddings"]) if paths["embeddings"] else np.zeros(0, np.int64)
    described = [embedded, *(owner.items for owner in owners.values()), *([names.items] if names else [])]
    known = np.unique(np.concatenate(described))
    if len(known):
        writer.repaired["items_added_to_catalog"] += int((~np.isin(items_of_events, known)).sum())
    shared = any(path and os.path.dirname(path) != source for path in paths.values())
    catalog = items_of_events if shared else np.union1d(items_of_events, known)
    writer.noted["items_of_other_sizes_left_out"] += int((~np.isin(known, catalog)).sum())

    def rows(items: np.ndarray) -> dict[str, pa.Array]:
        columns: dict[str, pa.Array] = {"item_id": pa.array(items)}
        columns |= {name: owner.lists(items) for name, owner in owners.items()}
        return columns | (names.columns(items) if names else {})

    without = np.setdiff1d(catalog, embedded, assume_unique=True)
    width = 0
    if paths["embeddings"]:
        in_catalog, row = np.isin(embedded, catalog), 0
        for items, vectors in _read_embeddings(paths["embeddings"]):
            width, wanted = vectors.shape[1], in_catalog[row : row + len(items)]
            row += len(items)
            writer.write(
                "items", pa.table(rows(items[wanted]) | {"embedding": _vector_column(vectors[wanted])})
            )
        # Arrow 10 cannot write null fixed-size lists to Parquet: zeros mean "no content embedding".
        writer.noted["items_without_embedding"] += len(without)
    for start in range(0, len(without), _ITEM_ROWS):
        items = without[start : start + _ITEM_ROWS]
        content = {"embedding": _vector_column(np.zeros((len(items), width), np.float32))} if width else {}
        writer.write("items", pa.table(rows(items) | content))


def _find_description(source: str, file: str) -> str | None:
    """Returns the path of a file in `source` or up to two folders above; None if it is missing."""
    folder = source
    for _ in range(3):
        if source_files.is_there(storage.join(folder, file)):
            return storage.join(folder, file)
        folder = os.path.dirname(folder)
    return None


class _Owners:
    """Many-to-many mapping of items to their artists or albums, as a list per item."""

    def __init__(self, path: str, column: str, writer: DataDirectoryWriter) -> None:
        pairs = _read_ids(path, [column, "item_id"])
        order = np.lexsort((pairs[column], pairs["item_id"]))
        owner, item = pairs[column][order], pairs["item_id"][order]
        first = np.append(True, (np.diff(owner) != 0) | (np.diff(item) != 0))[: len(item)]
        writer.dropped[f"duplicate_{column[:-3]}_mappings"] += int((~first).sum())
        self._owner = owner[first]
        self.items, self._start, self._count = np.unique(item[first], return_index=True, return_counts=True)

    def lists(self, items: np.ndarray) -> pa.Array:
        """Returns the owners of each item by ascending id, list<int64>[n]; an empty list means unknown."""
        count = np.zeros(len(items), np.int64)
        start = np.zeros(len(items), np.int64)
        if len(self.items):
            found = np.minimum(np.searchsorted(self.items, items), len(self.items) - 1)
            known = self.items[found] == items
            count[known], start[known] = self._count[found[known]], self._start[found[known]]
        offsets = np.append(0, np.cumsum(count))
        index = np.repeat(start - offsets[:-1], count) + np.arange(offsets[-1])
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(self._owner[index]))


class _Names:
    """Table of names by the simulator: item_id, title, and optionally artist, time of release and length."""

    def __init__(self, path: str, writer: DataDirectoryWriter) -> None:
        file = checked_columns.open_parquet(path)
        kinds = {"item_id": "integer", "title": "text"}
        optional = {"artist": "text", "release_timestamp": "integer", _LENGTH: "number"}
        checked_columns.check_letters(file.schema_arrow.names, (*kinds, *optional), path)
        kinds |= {column: kind for column, kind in optional.items() if column in file.schema_arrow.names}
        checked_columns.check_kinds(file, path, kinds)
        batches = [batch for _, batch in checked_columns.read_batches(path, list(kinds))]
        table = pa.Table.from_batches(batches, pa.schema([file.schema_arrow.field(name) for name in kinds]))
        items = checked_columns.ids(table["item_id"].combine_chunks(), path, "item_id")
        self.items, first = _unique_items(items, path)
        table = table.take(pa.array(first))
        title = table["title"].cast(pa.string())
        if "artist" in kinds:
            both = pc.binary_join_element_wise(title, table["artist"].cast(pa.string()), " — ")
            title = pc.coalesce(both, title)
        self._columns = {"title": title}
        if "release_timestamp" in kinds:
            released = table["release_timestamp"].combine_chunks()
            self._columns["release_timestamp"] = checked_columns.whole_numbers(
                released, path, "release_timestamp"
            )
        if _LENGTH in kinds:
            largest = checked_columns.LARGEST["item_length"]
            checked_columns.check_quantity(table[_LENGTH], path, _LENGTH, largest)
            length = table[_LENGTH].cast(pa.float32(), safe=False)
            zero = pc.fill_null(pc.equal(length, 0), False)
            writer.repaired["item_length_zero_to_unknown"] += pc.sum(zero).as_py() or 0
            self._columns["item_length"] = pc.if_else(zero, pa.scalar(None, pa.float32()), length)

    def columns(self, items: np.ndarray) -> dict[str, pa.Array]:
        """Returns the title of each item, and what else the table holds; null if unknown."""
        if not len(self.items):
            return {name: pa.nulls(len(items), column.type) for name, column in self._columns.items()}
        found = np.minimum(np.searchsorted(self.items, items), len(self.items) - 1)
        index = pa.array(found, mask=self.items[found] != items)
        return {name: column.take(index) for name, column in self._columns.items()}


def _read_ids(path: str, columns: list[str]) -> Mapping[str, np.ndarray]:
    """Reads whole columns of ids; their size is the number of items, not of events."""
    checked_columns.check_kinds(checked_columns.open_parquet(path), path, dict.fromkeys(columns, "integer"))
    parts: dict[str, list[np.ndarray]] = {column: [np.zeros(0, np.int64)] for column in columns}
    for row, batch in checked_columns.read_batches(path, columns):
        for column in columns:
            parts[column].append(checked_columns.ids(batch[column], path, column, row))
    return {column: np.concatenate(arrays) for column, arrays in parts.items()}


def _unique_items(items: np.ndarray, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sorted ids and the row of each; a duplicate is an error, since its rows may contradict."""
    unique, first, count = np.unique(items, return_index=True, return_counts=True)
    if len(unique) < len(items):
        twice = unique[np.argmax(count > 1)]
        row = int(np.flatnonzero(items == twice)[1])
        raise checked_columns.refuse(path, "item_id", row, twice, "has a row already; remove one of them.")
    return unique, first


def _embedded_items(path: str) -> np.ndarray:
    """Reads the ids of the items with content embeddings, in the file's order."""
    items = _read_ids(path, ["item_id"])["item_id"]
    _unique_items(items, path)
    return items


def _read_embeddings(path: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields batches of item ids int64[n] and content embeddings float32[n, d], normalised if available."""
    file = checked_columns.open_parquet(path)
    checked_columns.check_letters(file.schema_arrow.names, ("item_id", "embed", "normalized_embed"), path)
    column = "normalized_embed" if "normalized_embed" in file.schema_arrow.names else "embed"
    checked_columns.check_kinds(file, path, {"item_id": "integer", column: "list of numbers"})
    width = 0
    for row, batch in checked_columns.read_batches(path, ["item_id", column], _ITEM_ROWS):
        width = width or _most_common_width(batch[column], path, column)
        vectors = checked_columns.embeddings(batch[column], path, column, width, row)
        yield checked_columns.ids(batch["item_id"], path, "item_id", row), vectors


def _most_common_width(column: pa.Array, path: str, name: str) -> int:
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    width = int(np.bincount(lengths).argmax())
    if not width:
        raise UserError(
            f"{path}: column '{name}' has empty lists, but needs embeddings. Fetch the file again."
        )
    return width


def _vector_column(matrix: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
