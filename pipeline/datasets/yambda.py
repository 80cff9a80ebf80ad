"""Reads Yambda's flat layout, and the simulator's output, which has the same one.

Events come from `multi_event.parquet`, or where there is none from `listens.parquet` and the files of the
reactions, so that nothing is counted twice. They are streamed: memory grows with items and users, not with
events. Descriptions of the items lie beside the events or, as in Yambda itself, one or two folders above
`flat/50m/`, where they describe the tracks of all sizes: then only those of this size's events are taken.

Yambda: Ploshkin et al., "Yambda-5B: A Large-Scale Multi-modal Dataset for Ranking And Retrieval", 2025.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.datasets import checked_columns, divided_by_user
from pipeline.datasets.data_directory import (
    ORACLE,
    DataDirectoryWriter,
    DatasetProperties,
    KeyCounts,
    Manifest,
)
from pipeline.errors import UserError

_MULTI_EVENT = "multi_event.parquet"
_EVENT_TYPES = ("listen", "like", "dislike", "unlike", "undislike")
# Listens first: at equal times a reaction comes after the listen that it is about.
_FILES = {kind + "s.parquet": kind for kind in _EVENT_TYPES}

_REQUIRED = {"uid": "integer", "item_id": "integer", "timestamp": "integer"}
_OPTIONAL = {"is_organic": "boolean", "played_ratio_pct": "number", "track_length_seconds": "number"}

_ITEM_ROWS = 50_000


def ingest(source: str, out: str, name: str | None = None) -> Manifest:
    """Writes the data directory `out` from the folder `source`.

    Raises:
      UserError: a file or column is missing, of the wrong type, or damaged; an id is null or negative; a time
        is negative or not in seconds; a content embedding is of another width than the others or not finite.
    """
    source = _events_folder(os.path.normpath(source))
    properties = DatasetProperties(name or _simulation_name(source) or "yambda", "listen", True)
    with DataDirectoryWriter(out, properties) as writer:
        lengths = KeyCounts()
        for path, event_type in _event_files(source).items():
            for events in _read_events(path, event_type, writer):
                writer.write("events", events)
                length = pc.fill_null(events["item_length"], 0).to_numpy()
                lengths.add(events["item_id"].to_numpy(), length)
        if not writer.label_events:
            raise UserError(
                f"{next(iter(_event_files(source)))}: no listens in it, which are what is learned."
            )
        heard, length = _most_frequent_length(lengths.result(), writer)
        _write_items(source, heard, length, writer)
        for file in sorted(pathlib.Path(source, ORACLE).glob("*")):
            writer.copy(str(file), f"{ORACLE}/{file.name}")
    return writer.manifest


def _events_folder(source: str) -> str:
    """`source`, or the one folder `flat/<size>` within it."""
    if _event_files(source):
        return source
    sizes = [
        str(folder) for folder in sorted(pathlib.Path(source, "flat").glob("*")) if _event_files(str(folder))
    ]
    if len(sizes) == 1:
        return sizes[0]
    if sizes:
        raise UserError(f"{source} holds several sizes: name one of {', '.join(sizes)}.")
    raise UserError(
        f"{source}: there is neither {_MULTI_EVENT} nor listens.parquet in it. Name the folder "
        "that holds one of them, such as flat/50m."
    )


def _event_files(folder: str) -> dict[str, str | None]:
    """Path → its event type (None: the column `event_type` says)."""
    multi_event = os.path.join(folder, _MULTI_EVENT)
    if os.path.isfile(multi_event):
        return {multi_event: None}
    if not os.path.isfile(os.path.join(folder, "listens.parquet")):
        return {}
    paths = {os.path.join(folder, file): kind for file, kind in _FILES.items()}
    return {path: kind for path, kind in paths.items() if os.path.isfile(path)}


def _simulation_name(source: str) -> str | None:
    path = os.path.join(source, "simulation.json")
    if not os.path.isfile(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return str(json.load(file)["name"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: no 'name' can be read from it ({error}). Simulate again, or pass --name."
        ) from error


# ── Events ──────────────────────────────────────────────────────────────────────────────────────────────


def _read_events(path: str, event_type: str | None, writer: DataDirectoryWriter) -> Iterator[pa.Table]:
    """The events of a file in the data directory's columns, without duplicates."""
    file = checked_columns.open_parquet(path)
    kinds = _REQUIRED | {
        column: kind for column, kind in _OPTIONAL.items() if column in file.schema_arrow.names
    }
    if event_type is None:
        kinds["event_type"] = "text"
    checked_columns.check_kinds(file, path, kinds)
    batches = (
        _convert(batch, path, first_row, event_type, writer)
        for first_row, batch in checked_columns.read_batches(path, list(kinds))
    )
    is_sorted = divided_by_user.is_in_order(_instants(path), ("user_id", "timestamp"))
    writer.noted["event_files_not_sorted_by_user"] += not is_sorted
    ordered = divided_by_user.in_order(batches, ("user_id", "timestamp"), file.metadata.num_rows, is_sorted)
    for table in ordered:
        events, again = divided_by_user.without_duplicates(table)
        writer.dropped["duplicate_events"] += again
        yield events


def _instants(path: str) -> Iterator[pa.Table]:
    """Who and when of a file's events."""
    for row, batch in checked_columns.read_batches(path, ["uid", "timestamp"]):
        user = checked_columns.ids(batch["uid"], path, "uid", row)
        time = checked_columns.timestamps(batch["timestamp"], path, "timestamp", row)
        yield pa.table({"user_id": user, "timestamp": time})


def _convert(
    batch: pa.RecordBatch, path: str, row: int, event_type: str | None, writer: DataDirectoryWriter
) -> pa.Table:
    rows = batch.num_rows

    def column(name: str) -> pa.Array | None:
        return batch[name] if name in batch.schema.names else None

    def quantity(name: str) -> pa.Array:
        values = column(name)
        if values is None:
            return pa.nulls(rows, pa.float64())
        values = values.cast(pa.float64())
        wrong = pc.fill_null(pc.invert(pc.and_(pc.is_finite(values), pc.greater_equal(values, 0))), False)
        if pc.any(wrong).as_py():
            at = int(np.argmax(wrong.to_numpy(zero_copy_only=False)))
            raise checked_columns.refuse(
                path, name, row + at, values[at], "is not a finite number of 0 or more."
            )
        return values

    length = quantity("track_length_seconds")
    zero = pc.equal(length, 0)
    writer.repaired["item_length_zero_to_unknown"] += pc.sum(zero).as_py() or 0
    organic = column("is_organic")
    return pa.table(
        {
            "user_id": checked_columns.ids(batch["uid"], path, "uid", row),
            "item_id": checked_columns.ids(batch["item_id"], path, "item_id", row),
            "timestamp": checked_columns.timestamps(batch["timestamp"], path, "timestamp", row),
            "event_type": _event_types(batch, path, row, event_type),
            "play_ratio": pc.divide(quantity("played_ratio_pct"), 100).cast(pa.float32()),
            "is_organic": pa.nulls(rows, pa.bool_()) if organic is None else organic.cast(pa.bool_()),
            "item_length": pc.if_else(zero, pa.scalar(None, pa.float64()), length).cast(pa.float32()),
        }
    )


def _event_types(batch: pa.RecordBatch, path: str, row: int, event_type: str | None) -> pa.Array:
    known = pa.array(_EVENT_TYPES)
    if event_type is not None:
        return known.take(pa.array(np.full(batch.num_rows, _EVENT_TYPES.index(event_type))))
    values = batch["event_type"].cast(pa.string())
    strange = pc.invert(pc.is_in(values, value_set=known))
    if pc.any(strange).as_py():
        at = int(np.argmax(strange.to_numpy(zero_copy_only=False)))
        value = "null" if values[at].as_py() is None else repr(values[at].as_py())
        raise checked_columns.refuse(
            path, "event_type", row + at, value, f"is none of {', '.join(_EVENT_TYPES)}."
        )
    return values


# ── Items ───────────────────────────────────────────────────────────────────────────────────────────────


def _write_items(source: str, heard: np.ndarray, length: np.ndarray, writer: DataDirectoryWriter) -> None:
    """Writes the catalog: the items with content embeddings in their file's order, then the others by id.

    Args:
      heard: int64[n], sorted, the items of the events.
      length: float32[n], their lengths in seconds, 0 where unknown.
    """
    files = ("artist_item_mapping", "album_item_mapping", "embeddings", "names")
    paths = {file: _find(source, f"{file}.parquet") for file in files}
    owners = {
        f"{owner}_id": _Owners(path, f"{owner}_id", writer)
        for owner in ("artist", "album")
        if (path := paths[f"{owner}_item_mapping"])
    }
    names = _Names(paths["names"]) if paths["names"] else None
    embedded = _embedded_items(paths["embeddings"]) if paths["embeddings"] else np.zeros(0, np.int64)
    described = [embedded, *(owner.items for owner in owners.values()), *([names.items] if names else [])]
    known = np.unique(np.concatenate(described))
    if len(known):
        writer.repaired["items_added_to_catalog"] += int((~np.isin(heard, known)).sum())
    shared = any(path and os.path.dirname(path) != source for path in paths.values())
    catalog = heard if shared else np.union1d(heard, known)
    writer.noted["items_of_other_sizes_left_out"] += int((~np.isin(known, catalog)).sum())

    def rows(items: np.ndarray) -> dict[str, pa.Array]:
        found = np.searchsorted(heard, items)
        found[found == len(heard)] = 0
        unknown = (heard[found] != items) | (length[found] == 0)
        columns: dict[str, pa.Array] = {"item_id": pa.array(items)}
        columns |= {name: owner.lists(items) for name, owner in owners.items()}
        columns["item_length"] = pa.array(length[found], mask=unknown)
        return columns | (names.columns(items) if names else {})

    without = np.setdiff1d(catalog, embedded, assume_unique=True)
    width = 0
    if paths["embeddings"]:
        in_catalog, row = np.isin(embedded, catalog), 0
        for items, vectors in _read_embeddings(paths["embeddings"]):
            width, wanted = vectors.shape[1], in_catalog[row : row + len(items)]
            row += len(items)
            writer.write("items", pa.table(rows(items[wanted]) | {"embedding": _vectors(vectors[wanted])}))
        # Parquet as Arrow 10 writes it has no null among fixed-size lists: zeros are "no content known".
        writer.noted["items_without_embedding"] += len(without)
    for start in range(0, len(without), _ITEM_ROWS):
        items = without[start : start + _ITEM_ROWS]
        content = {"embedding": _vectors(np.zeros((len(items), width), np.float32))} if width else {}
        writer.write("items", pa.table(rows(items) | content))


def _most_frequent_length(
    counts: tuple[np.ndarray, ...], writer: DataDirectoryWriter
) -> tuple[np.ndarray, np.ndarray]:
    """Item ids, sorted, and the length each occurs with most often: 0 only where no event tells it."""
    item, length, events = counts
    order = np.lexsort((length, -events, length == 0, item))
    items, first = np.unique(item[order], return_index=True)
    lengths_of_item = np.unique(item[length > 0], return_counts=True)[1]
    writer.repaired["items_with_several_lengths"] += int((lengths_of_item > 1).sum())
    return items, length[order][first]


def _find(source: str, file: str) -> str | None:
    """The file in `source` or up to two folders above."""
    folder = source
    for _ in range(3):
        if os.path.isfile(os.path.join(folder, file)):
            return os.path.join(folder, file)
        folder = os.path.dirname(os.path.abspath(folder))
    return None


class _Owners:
    """Who an item belongs to: a many-to-many mapping to artists or albums, as lists per item."""

    def __init__(self, path: str, column: str, writer: DataDirectoryWriter) -> None:
        pairs = _read_ids(path, [column, "item_id"])
        order = np.lexsort((pairs[column], pairs["item_id"]))
        owner, item = pairs[column][order], pairs["item_id"][order]
        first = np.append(True, (np.diff(owner) != 0) | (np.diff(item) != 0))[: len(item)]
        writer.dropped[f"duplicate_{column[:-3]}_mappings"] += int((~first).sum())
        self._owner = owner[first]
        self.items, self._start, self._count = np.unique(item[first], return_index=True, return_counts=True)

    def lists(self, items: np.ndarray) -> pa.Array:
        """list<int64>[n]: the owners of each item, in the order of their ids; empty where none is known."""
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
    """The simulator's table of names: item_id, title, and where it has them artist, release_timestamp."""

    def __init__(self, path: str) -> None:
        file = checked_columns.open_parquet(path)
        kinds = {"item_id": "integer", "title": "text"}
        optional = {"artist": "text", "release_timestamp": "integer"}
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
            self._columns["release_timestamp"] = table["release_timestamp"].cast(pa.int64())

    def columns(self, items: np.ndarray) -> dict[str, pa.Array]:
        """title (and release_timestamp) of each item, null where it is not known."""
        if not len(self.items):
            return {name: pa.nulls(len(items), column.type) for name, column in self._columns.items()}
        found = np.minimum(np.searchsorted(self.items, items), len(self.items) - 1)
        index = pa.array(found, mask=self.items[found] != items)
        return {name: column.take(index) for name, column in self._columns.items()}


def _read_ids(path: str, columns: list[str]) -> Mapping[str, np.ndarray]:
    """Whole columns of ids: their number is that of items, not of events."""
    checked_columns.check_kinds(checked_columns.open_parquet(path), path, dict.fromkeys(columns, "integer"))
    parts: dict[str, list[np.ndarray]] = {column: [np.zeros(0, np.int64)] for column in columns}
    for row, batch in checked_columns.read_batches(path, columns):
        for column in columns:
            parts[column].append(checked_columns.ids(batch[column], path, column, row))
    return {column: np.concatenate(arrays) for column, arrays in parts.items()}


def _unique_items(items: np.ndarray, path: str) -> tuple[np.ndarray, np.ndarray]:
    """The ids sorted, and where each stands; twice the same is an error, since its rows may contradict."""
    unique, first, count = np.unique(items, return_index=True, return_counts=True)
    if len(unique) < len(items):
        twice = unique[np.argmax(count > 1)]
        row = int(np.flatnonzero(items == twice)[1])
        raise checked_columns.refuse(path, "item_id", row, twice, "has a row already; leave one of them.")
    return unique, first


def _embedded_items(path: str) -> np.ndarray:
    """Ids of the items that have content embeddings, in the file's order."""
    items = _read_ids(path, ["item_id"])["item_id"]
    _unique_items(items, path)
    return items


def _read_embeddings(path: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of item ids int64[n] and content embeddings float32[n, d], the normalized ones if there are."""
    file = checked_columns.open_parquet(path)
    column = "normalized_embed" if "normalized_embed" in file.schema_arrow.names else "embed"
    checked_columns.check_kinds(file, path, {"item_id": "integer", column: "list of numbers"})
    width = 0
    for row, batch in checked_columns.read_batches(path, ["item_id", column], _ITEM_ROWS):
        width = width or _usual_width(batch[column], path, column)
        vectors = checked_columns.embeddings(batch[column], path, column, width, row)
        yield checked_columns.ids(batch["item_id"], path, "item_id", row), vectors


def _usual_width(column: pa.Array, path: str, name: str) -> int:
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    width = int(np.bincount(lengths).argmax())
    if not width:
        raise UserError(f"{path}: column '{name}' has empty lists, where embeddings are needed.")
    return width


def _vectors(matrix: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
