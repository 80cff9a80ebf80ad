"""Reads Yambda: its flat layout, one row an event, which the simulator writes too, and its sequential one,
one row a user with lists.

Events come from `multi_event.parquet`, or where there is none from `listens.parquet` and the files of the
reactions, so that nothing is counted twice. They are streamed: memory grows with items and users, not with
events. Descriptions of the items lie beside the events or, as in Yambda itself, one or two folders above
`flat/50m/` and `sequential/50m/`, where they describe the tracks of all sizes: then only those of this size's
events are taken.

Yambda: Ploshkin et al., "Yambda-5B: A Large-Scale Multi-modal Dataset for Ranking And Retrieval", 2025.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns
from two_tower.data_directory.key_counts import KeyCounts
from two_tower.data_directory.manifest import ORACLE, DatasetProperties, Manifest
from two_tower.data_directory.writer import DataDirectoryWriter, Span
from two_tower.ingestion import external_sort

_MULTI_EVENT = "multi_event.parquet"
_EVENT_TYPES = ("listen", "like", "dislike", "unlike", "undislike")
# Listens first: at equal times a reaction comes after the listen that it is about.
_FILES = {kind + "s.parquet": kind for kind in _EVENT_TYPES}

_REQUIRED = {"uid": "integer", "item_id": "integer", "timestamp": "integer"}
_OPTIONAL = {"is_organic": "boolean", "played_ratio_pct": "number", "track_length_seconds": "number"}

_LAYOUTS = ("flat", "sequential")
# Events read at a time; of the sequential layout about as many, in the lists of whole users.
_EVENT_ROWS = 1 << 19
_ITEM_ROWS = 50_000


def ingest(source: str, out: str, name: str | None = None, span: Span = None) -> Manifest:
    """Writes the data directory `out` from the folder `source`; for `span` see `DataDirectoryWriter`.

    Raises:
      UserError: a file or column is missing, of the wrong type, or damaged; an id is null or negative; a time
        is negative or not in seconds; a user's lists are of different lengths; a content embedding is of
        another width than the others or not finite.
    """
    source = _events_folder(storage.absolute(source))
    properties = DatasetProperties(name or _simulation_name(source) or "yambda", "listen", True)
    with DataDirectoryWriter(out, properties, span) as writer:
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
        oracle = storage.join(source, ORACLE)
        for file in storage.list_files(oracle) if storage.is_directory(oracle) else []:
            writer.copy(storage.join(oracle, file), f"{ORACLE}/{file}")
    return writer.manifest


def _events_folder(source: str) -> str:
    """`source`, or the one folder `flat/<size>` or `sequential/<size>` within it."""
    if _event_files(source):
        return source
    sizes = [
        storage.join(folder, size)
        for folder in (storage.join(source, layout) for layout in _LAYOUTS)
        if storage.is_directory(folder)
        for size in sorted({file.split("/")[0] for file in storage.list_files(folder)})
        if _event_files(storage.join(folder, size))
    ]
    if len(sizes) == 1:
        return sizes[0]
    if sizes:
        raise UserError(f"{source} holds several sizes: name one of {', '.join(sizes)}.")
    raise UserError(
        f"{source}: there is neither {_MULTI_EVENT} nor listens.parquet in it. Name the folder "
        "that holds one of them, such as flat/50m or sequential/50m."
    )


def _event_files(folder: str) -> dict[str, str | None]:
    """Path → its event type (None: the column `event_type` says)."""
    multi_event = storage.join(folder, _MULTI_EVENT)
    if storage.is_file(multi_event):
        return {multi_event: None}
    if not storage.is_file(storage.join(folder, "listens.parquet")):
        return {}
    paths = {storage.join(folder, file): kind for file, kind in _FILES.items()}
    return {path: kind for path, kind in paths.items() if storage.is_file(path)}


def _simulation_name(source: str) -> str | None:
    path = storage.join(source, "simulation.json")
    if not storage.is_file(path):
        return None
    try:
        with storage.open_file(path, "r") as file:
            return str(json.load(file)["name"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: no 'name' can be read from it ({error}). Simulate again, or pass --name."
        ) from error


# ── Events ──────────────────────────────────────────────────────────────────────────────────────────────


def _read_events(path: str, event_type: str | None, writer: DataDirectoryWriter) -> Iterator[pa.Table]:
    """The events of a file in the data directory's columns, without duplicates."""
    with checked_columns.opened_parquet(path) as file:
        schema = file.schema_arrow
        kinds = _REQUIRED | {column: kind for column, kind in _OPTIONAL.items() if column in schema.names}
        if event_type is None:
            kinds["event_type"] = "text"
        is_sequential = "item_id" in schema.names and _is_list(schema.field("item_id").type)
        if is_sequential:
            _check_lists(schema, path, kinds)
        else:
            checked_columns.check_kinds(file, path, kinds)
        users, rows = file.metadata.num_rows, _values(file, "item_id")
    by = ("user_id", "timestamp")
    batch_rows = max(1, _EVENT_ROWS * users // max(rows, 1)) if is_sequential else _EVENT_ROWS
    instants = _converted(path, ["uid", "timestamp"], batch_rows, is_sequential, _instants)
    is_sorted = external_sort.is_in_order(instants, by)
    writer.noted["event_files_not_in_order"] += not is_sorted
    convert = functools.partial(_convert, event_type=event_type, writer=writer)
    batches = _converted(path, list(kinds), batch_rows, is_sequential, convert)
    for table in external_sort.in_order(batches, by, rows, is_sorted):
        events, again = external_sort.without_duplicates(table)
        writer.dropped["duplicate_events"] += again
        yield events


def _converted(
    path: str,
    columns: list[str],
    rows: int,
    is_sequential: bool,
    convert: Callable[[pa.RecordBatch, str, int], pa.Table],
) -> Iterator[pa.Table]:
    """What `convert` makes of batches of events, of which it is also told the path and the first row."""
    for row, batch in checked_columns.read_batches(path, columns, rows):
        if not is_sequential:
            yield convert(batch, path, row)
            continue
        events = _out_of_lists(batch, path, row)
        for start in range(0, events.num_rows, _EVENT_ROWS):
            try:
                converted = convert(events.slice(start, _EVENT_ROWS), path, start)
            except UserError:
                # Once more, user by user, for the row of the user and the place in the lists.
                for user in range(batch.num_rows):
                    convert(
                        _out_of_lists(batch.slice(user, 1), path, row),
                        f"{path}: lists of row {row + user}",
                        0,
                    )
                raise
            yield converted


def _out_of_lists(batch: pa.RecordBatch, path: str, row: int) -> pa.RecordBatch:
    """One row an event, of one row a user with a list a column.

    Raises:
      UserError: a list is null, or of another length than the others of its user.
    """
    lists = [name for name in batch.schema.names if name != "uid"]
    lengths = {
        name: pc.fill_null(pc.list_value_length(batch[name]), -1).to_numpy(zero_copy_only=False)
        for name in lists
    }
    for name in lists:
        missing = lengths[name] < 0
        if missing.any():
            remedy = "is no list; drop or repair the row."
            raise checked_columns.refuse(path, name, row + int(np.argmax(missing)), "null", remedy)
    for name in lists:
        wrong = lengths[name] != lengths[lists[0]]
        if wrong.any():
            at = int(np.argmax(wrong))
            value = f"a list of {lengths[name][at]}"
            first = f"the user's '{lists[0]}' has {lengths[lists[0]][at]}"
            remedy = f"where {first}: all lists of a user have to be of one length."
            raise checked_columns.refuse(path, name, row + at, value, remedy)
    user = np.repeat(np.arange(batch.num_rows), lengths[lists[0]])
    columns = [batch["uid"].take(pa.array(user)), *(batch[name].flatten() for name in lists)]
    return pa.RecordBatch.from_arrays(columns, ["uid", *lists])


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _check_lists(schema: pa.Schema, path: str, kinds: Mapping[str, str]) -> None:
    """`checked_columns.check_kinds` for the sequential layout: all but `uid` are lists of what is needed."""
    for column, kind in kinds.items():
        if column not in schema.names:
            raise UserError(f"{path}: column '{column}' is missing; it has {', '.join(schema.names)}.")
        found = schema.field(column).type
        right = _is_list(found) and checked_columns.KINDS[kind](found.value_type)
        if column == "uid":
            right = checked_columns.KINDS[kind](found)
        if not right:
            needed = kind if column == "uid" else f"list of {kind}"
            raise UserError(f"{path}: column '{column}' is of type {found}, where {needed} is needed.")


def _values(file: pq.ParquetFile, column: str) -> int:
    """How many values a column has, those of lists counted one by one; by the footer."""
    groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    return sum(chunk.num_values for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)


def _instants(batch: pa.RecordBatch, path: str, row: int) -> pa.Table:
    """Who and when."""
    user = checked_columns.ids(batch["uid"], path, "uid", row)
    time = checked_columns.timestamps(batch["timestamp"], path, "timestamp", row)
    return pa.table({"user_id": user, "timestamp": time})


def _convert(
    batch: pa.RecordBatch, path: str, row: int, event_type: str | None, writer: DataDirectoryWriter
) -> pa.Table:
    """The data directory's columns."""
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
    if organic is not None and not pa.types.is_boolean(organic.type):
        strange = pc.invert(pc.is_in(organic.cast(pa.int64()), value_set=pa.array([0, 1, None], pa.int64())))
        if pc.any(strange).as_py():
            at = int(np.argmax(strange.to_numpy(zero_copy_only=False)))
            raise checked_columns.refuse(path, "is_organic", row + at, organic[at], "is neither 0 nor 1.")
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
        if storage.is_file(storage.join(folder, file)):
            return storage.join(folder, file)
        folder = os.path.dirname(folder)
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
