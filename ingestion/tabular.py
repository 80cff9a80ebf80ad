"""Reader of the format "table": any Parquet, CSV or JSON-lines files, explained by a column map
(`ingestion.column_map`).

Events are streamed; memory grows with users and items. Files that are not sorted by user pass through
`external_sort`. Text ids become the numbers of `schema.text_ids`; the column `original_id` of items and users
keeps the text.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from two_tower.base import storage, temporary
from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns
from two_tower.data_directory.key_counts import KeyCounts
from two_tower.data_directory.manifest import COLUMNS, DatasetProperties, Manifest
from two_tower.data_directory.writer import DataDirectoryWriter, Span
from two_tower.ingestion import bad_rows, column_map, external_sort, source_times, source_values
from two_tower.ingestion.column_map import ColumnMap
from two_tower.ingestion.event_times import EventTimes
from two_tower.ingestion.mapped_tables import Batch, MappedTable, open_tables
from two_tower.ingestion.oracle_files import copy_oracle
from two_tower.ingestion.source_ids import IdEncoder, PreviousDirectory, id_encoder, tell_other_spellings
from two_tower.ingestion.source_values import Place
from two_tower.ingestion.table_rows import (
    VECTOR_ROWS,
    SeenIds,
    TableRows,
    lengths_in_seconds,
    most_common_width,
    vector_column,
)

_COLUMN_MAP = "columns.yaml"


def ingest(
    source: str, out: str, name: str | None = None, span: Span = None, columns: str | None = None
) -> Manifest:
    """Writes the data directory `out` from the files that the column map names.

    Args:
      source: folder of the map's files; or the single events file, if the map's events name none.
      columns: path of the column map; None means `columns.yaml` in `source`.

    Raises:
      UserError: the map is wrong (see `column_map.read`); a file or column is missing, damaged or of another
        type than in earlier files; a value is not allowed.
    """
    return ingest_mapped(column_map.read(columns or _default_map(source)), source, out, name, span)


def ingest_mapped(
    mapping: ColumnMap, source: str, out: str, name: str | None = None, span: Span = None
) -> Manifest:
    """Writes the data directory `out`, like `ingest`, from a column map that was read or built by another
    reader.
    """
    with temporary.folder() as scratch:
        return _ingest(mapping, open_tables(source, mapping, scratch), source, out, name, span)


def _ingest(
    mapping: ColumnMap, tables: Mapping[str, MappedTable], source: str, out: str, name: str | None, span: Span
) -> Manifest:
    properties = DatasetProperties(
        name or mapping.dataset, mapping.label_event, mapping.repeats_recommendable
    )
    if span is not None and mapping.events[0].order_of_rows:
        raise UserError(
            f"{mapping.path}: key 'events.order_of_rows' counts the rows of one ingest, so it would restart "
            "in every span. Name a column of ranks in 'events.order', or ingest without --span."
        )
    with DataDirectoryWriter(out, properties, span, not mapping.events[0].unordered) as writer:
        # Within the writer, which keeps others from adding a span to the directory meanwhile.
        previous = PreviousDirectory(out) if span is not None else None
        users = id_encoder("user_id", mapping.user_id_type, tables, previous)
        items = id_encoder("item_id", mapping.item_id_type, tables, previous)
        users_of_events, items_of_events, is_empty = KeyCounts(), KeyCounts(), True
        times = EventTimes()
        event_tables = [table for table in tables.values() if table.map.table == "events"]
        for events in _read_events(event_tables, users, items, writer):
            writer.write("events", events)
            users_of_events.add(events["user_id"].to_numpy())
            items_of_events.add(events["item_id"].to_numpy())
            if "timestamp" in events.column_names:
                times.add(events["timestamp"].to_numpy())
            is_empty = False
        if span is None:
            times.tell(writer)
        if is_empty:
            raise UserError(f"{event_tables[0].files[0].path}: the file has no events. Name another file.")
        _write_items(tables, items, items_of_events.result()[0], previous, writer)
        _write_users(tables.get("users"), users, users_of_events.result()[0], writer)
        copy_oracle(source, writer)
    return writer.manifest


def _default_map(source: str) -> str:
    path = storage.join(source, _COLUMN_MAP)
    if not storage.is_file(path):
        raise UserError(
            f"The format 'table' needs a column map: --columns FILE, or {_COLUMN_MAP} in {source}. "
            "docs/how-to/bring-your-own-data.md shows one."
        )
    return path


# ── Events ──────────────────────────────────────────────────────────────────────────────────────────────


def _read_events(
    tables: Sequence[MappedTable], users: IdEncoder, items: IdEncoder, writer: DataDirectoryWriter
) -> Iterator[pa.Table]:
    """Yields the events of all tables sorted by user and time, without duplicates."""
    order = "timestamp" if tables[0].has("timestamp") else "order"
    by = ("user_id",) if tables[0].map.unordered else ("user_id", order)
    meanings = [meaning for meaning in by if tables[0].has(meaning)]
    keys = (
        keys
        for table in tables
        for keys in bad_rows.unchecked(
            table.batches(meanings), lambda batch: pa.table(_user_and_time(batch, users))
        )
    )
    is_sorted = external_sort.rows_are_sorted(keys, by)
    writer.noted["event_files_not_in_order"] += 0 if is_sorted else sum(len(table.files) for table in tables)
    columns = _event_columns(tables)
    converted = (
        events
        for table in tables
        for events in table.converted(
            table.batches(list(table.map.columns)),
            lambda batch: _convert(batch, columns, users, items, writer),
            writer,
        )
    )
    rows = sum(file.rows for table in tables for file in table.files)
    for events in external_sort.sort_rows(converted, by, rows, is_sorted):
        events, dropped = external_sort.drop_duplicates(events, by)
        writer.dropped["duplicate_events"] += dropped
        yield events


def _event_columns(tables: Sequence[MappedTable]) -> list[str]:
    """Returns the columns of events that any table has, beside user, time and item."""
    given = {name for table in tables for name in (*table.map.columns, *table.map.constants)}
    if any(file.split is not None for table in tables for file in table.files):
        given.add("split")
    return [
        name for name in COLUMNS["events"] if name in given - {"user_id", "item_id", "timestamp", "order"}
    ]


def _user_and_time(batch: Batch, users: IdEncoder) -> dict[str, np.ndarray | pa.Array]:
    columns: dict[str, np.ndarray | pa.Array] = {"user_id": batch.ids("user_id", users.encode)}
    if "timestamp" in batch.map.columns:
        values, place = batch.column("timestamp")
        columns["timestamp"] = source_times.times(
            values, batch.map.units.get("timestamp"), place, form=batch.map.time_formats.get("timestamp")
        )
    elif "order" in batch.map.columns:
        values, place = batch.column("order")
        order = source_values.integers(values, place)
        place.refuse_first(pc.is_null(order), values, "is no rank; drop or repair the row.")
        place.refuse_first(pc.less(order, 0), values, "is no rank: ranks must be 0 or more.")
        columns["order"] = order
    elif not batch.map.unordered:
        columns["order"] = batch.number + batch.places
    return columns


def _convert(
    batch: Batch, wanted: Sequence[str], users: IdEncoder, items: IdEncoder, writer: DataDirectoryWriter
) -> pa.Table:
    """Converts a batch of events to the data directory's columns: user, time, item and the wanted ones."""
    columns = _user_and_time(batch, users) | {"item_id": batch.ids("item_id", items.encode)}
    readers: dict[str, Callable[[pa.Array, Place], pa.Array]] = {
        "event_type": source_values.plain_text,
        "play_ratio": functools.partial(_shares, whole=batch.map.play_ratio_whole),
        "is_organic": source_values.booleans,
        "item_length": functools.partial(
            lengths_in_seconds, unit=batch.map.units.get("item_length"), writer=writer
        ),
        "split": source_values.splits,
    }
    constants = dict(batch.map.constants)
    if batch.file.split is not None:
        constants["split"] = batch.file.split
    rows = batch.rows.num_rows
    for meaning in wanted:
        if meaning in batch.map.columns:
            columns[meaning] = readers[meaning](*batch.column(meaning))
        elif meaning in constants:
            columns[meaning] = pa.repeat(constants[meaning], rows)
        else:
            # Another table of events has the column.
            columns[meaning] = pa.nulls(rows, COLUMNS["events"][meaning])
    return pa.table(columns)


def _shares(values: pa.Array, place: Place, whole: float) -> pa.Array:
    largest = checked_columns.LARGEST["play_ratio"] * whole
    return pc.divide(source_values.numbers(values, place, largest), whole).cast(pa.float32())


# ── Items and users ─────────────────────────────────────────────────────────────────────────────────────


def _write_items(
    tables: Mapping[str, MappedTable],
    items: IdEncoder,
    items_of_events: np.ndarray,
    previous: PreviousDirectory | None,
    writer: DataDirectoryWriter,
) -> None:
    """Writes the catalog: first the listed items, then items that only the events contain.

    The map's items are the list. Without items, its embeddings are the list.

    Args:
      items_of_events: int64[n], the items of the events.
    """
    listed, vectors = tables.get("items"), tables.get("embeddings")
    rows = TableRows("items", listed, items, previous, writer)
    if vectors is None:
        known = SeenIds()
        for described in rows.read(known):
            writer.write("items", described)
        rest = np.setdiff1d(items_of_events, known.ids)
        if listed is not None:
            writer.repaired["items_added_to_catalog"] += len(rest)
            tell_other_spellings("items", items, rest, known.ids)
        writer.write("items", rows.blank(rest))
        if "embedding" in rows.schema.names:
            writer.noted["items_without_embedding"] += len(rest)
        return
    _write_items_with_vectors(rows, listed is not None, vectors, items, items_of_events, writer)


def _write_items_with_vectors(
    rows: TableRows,
    has_list: bool,
    vectors: MappedTable,
    items: IdEncoder,
    items_of_events: np.ndarray,
    writer: DataDirectoryWriter,
) -> None:
    """Joins the item rows, which are in memory, to the embeddings, which are streamed in the order of their
    files.
    """
    known = SeenIds()
    batches = list(rows.read(known))
    # The last row is blank and stands for items without a description.
    described = pa.concat_tables([*batches, rows.blank(np.zeros(1, np.int64), has_text=False)])
    described = described.combine_chunks()
    listed = np.concatenate([np.zeros(0, np.int64), *(batch["item_id"].to_numpy() for batch in batches)])
    by_id = np.argsort(listed, kind="stable")
    if has_list:
        rest = np.setdiff1d(items_of_events, listed)
        writer.repaired["items_added_to_catalog"] += len(rest)
        tell_other_spellings("items", items, rest, listed)

    def joined(ids: np.ndarray, content: np.ndarray) -> pa.Table:
        found = np.searchsorted(listed, ids, sorter=by_id)
        found[found == len(listed)] = 0
        row = np.full(len(ids), len(listed))
        if len(listed):
            there = listed[by_id[found]] == ids
            row[there] = by_id[found[there]]
        table = described.take(pa.array(row)).set_column(0, "item_id", pa.array(ids))
        if items.is_text:
            at = table.column_names.index("original_id")
            table = table.set_column(at, "original_id", items.decode(ids))
        return table.append_column("embedding", vector_column(content))

    separator, column = vectors.map.separator, vectors.map.columns["embedding"]
    width = most_common_width(vectors, "embedding", separator)
    with_vector = SeenIds()

    def convert(batch: Batch) -> tuple[Batch, np.ndarray, np.ndarray, np.ndarray]:
        values, place = batch.column("embedding")
        found, there = source_values.vectors(values, separator, width, place)
        return batch, batch.ids("item_id", items.encode), found, there

    content_batches = vectors.batches(["item_id", "embedding"], VECTOR_ROWS)
    for batch, all_ids, found, there in vectors.converted(content_batches, convert, writer):
        ids, content = all_ids[there], found[there]
        ids_column, id_place = batch.column("item_id")
        again = ~with_vector.add(ids)
        if again.any():
            row = int(np.flatnonzero(there)[np.argmax(again)])
            twice = ids_column[row].as_py()
            raise id_place.error(row, twice, f"has a '{column}' already; remove one of them.")
        # Without a list of items, the embeddings are the list.
        wanted = np.isin(ids, listed) | np.isin(ids, items_of_events) if has_list else np.ones(len(ids), bool)
        writer.noted["embeddings_of_unknown_items"] += int((~wanted).sum())
        if wanted.any():
            writer.write("items", joined(ids[wanted], content[wanted]))
    rest = np.setdiff1d(np.union1d(listed, items_of_events), with_vector.ids)
    writer.noted["items_without_embedding"] += len(rest)
    for start in range(0, len(rest), VECTOR_ROWS):
        ids = rest[start : start + VECTOR_ROWS]
        writer.write("items", joined(ids, np.zeros((len(ids), width), np.float32)))


def _write_users(
    table: MappedTable | None, users: IdEncoder, items_of_events: np.ndarray, writer: DataDirectoryWriter
) -> None:
    """Writes users/ if the map describes users, or if their ids are texts that must be kept."""
    if table is None and not users.is_text:
        return
    rows = TableRows("users", table, users, None, writer)
    known = SeenIds()
    for described in rows.read(known):
        writer.write("users", described)
    rest = np.setdiff1d(items_of_events, known.ids)
    if table is not None:
        writer.noted["users_not_described"] += len(rest)
        tell_other_spellings("users", users, rest, known.ids)
    if users.is_text:
        writer.write("users", rows.blank(rest))
