"""Reads any Parquet or CSV files whose columns a column map explains (see `ingestion.column_map`).

Events are streamed, in memory that grows with users and items: files that are not in the order of their users
take the detour over temporary files of `divided_by_user`. Ids that are text become numbers by their first
appearance; the text stays beside them, in the column `original_id` of items and users.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory.key_counts import KeyCounts
from two_tower.data_directory.manifest import COLUMNS, DatasetProperties, Manifest
from two_tower.data_directory.writer import DataDirectoryWriter, Span
from two_tower.ingestion import column_map, external_sort, source_values
from two_tower.ingestion.column_map import UNITS, ColumnMap
from two_tower.ingestion.mapped_tables import Batch, MappedTable, look_at, one_kind
from two_tower.ingestion.source_ids import DirectoryBefore, Ids, ids_of
from two_tower.ingestion.source_values import Place

_COLUMN_MAP = "columns.yaml"
_KEY = {"items": "item_id", "users": "user_id"}
# Rows of a table that may carry a vector of 512 bytes each.
_VECTOR_ROWS = 50_000
_OWNERS = ("artist_id", "album_id")


def ingest(
    source: str, out: str, name: str | None = None, span: Span = None, columns: str | None = None
) -> Manifest:
    """Writes the data directory `out` from the files that the column map names.

    Args:
      source: the folder that the map's files are relative to; or the one file of the events, where the map's
        events name none.
      columns: path of the column map; None for `columns.yaml` in `source`.

    Raises:
      UserError: what is wrong with the map (see `column_map.read`), or a file or column is missing, damaged,
        of another type than in the files before it, or has a value that its meaning does not allow.
    """
    return ingest_mapped(column_map.read(columns or _usual_map(source)), source, out, name, span)


def ingest_mapped(
    mapping: ColumnMap, source: str, out: str, name: str | None = None, span: Span = None
) -> Manifest:
    """The same, with the column map as it was read, or made by another reader."""
    with tempfile.TemporaryDirectory(prefix="two-tower-ingest-") as scratch:
        return _ingest(mapping, look_at(source, mapping, scratch), out, name, span)


def _ingest(
    mapping: ColumnMap, tables: Mapping[str, MappedTable], out: str, name: str | None, span: Span
) -> Manifest:
    properties = DatasetProperties(
        name or mapping.dataset, mapping.label_event, mapping.repeats_recommendable
    )
    if span is not None and mapping.events.order_of_rows:
        raise UserError(
            f"{mapping.path}: 'events.order_of_rows' counts the rows of one ingest, and would begin anew in "
            "every span: name a column of ranks in 'events.order', or ingest without --span."
        )
    before = DirectoryBefore(out) if span is not None else None
    users = ids_of("user_id", mapping.user_id_type, tables, before)
    items = ids_of("item_id", mapping.item_id_type, tables, before)
    with DataDirectoryWriter(out, properties, span) as writer:
        heard_users, heard_items, is_empty = KeyCounts(), KeyCounts(), True
        for events in _read_events(tables["events"], users, items, writer):
            writer.write("events", events)
            heard_users.add(events["user_id"].to_numpy())
            heard_items.add(events["item_id"].to_numpy())
            is_empty = False
        if is_empty:
            raise UserError(f"{tables['events'].files[0].path}: no events in it.")
        _write_items(tables, items, heard_items.result()[0], before, writer)
        _write_users(tables.get("users"), users, heard_users.result()[0], writer)
    return writer.manifest


def _usual_map(source: str) -> str:
    path = storage.join(source, _COLUMN_MAP)
    if not storage.is_file(path):
        raise UserError(
            f"The format 'table' needs a column map: --columns FILE, or {_COLUMN_MAP} in {source}. "
            "docs/how-to/bring-your-own-data.md shows one."
        )
    return path


# ── Events ──────────────────────────────────────────────────────────────────────────────────────────────


def _read_events(
    table: MappedTable, users: Ids, items: Ids, writer: DataDirectoryWriter
) -> Iterator[pa.Table]:
    """The events sorted by user and time, without duplicates."""
    order = "timestamp" if table.has("timestamp") else "order"
    by = ("user_id", order)
    when = [meaning for meaning in ("user_id", order) if table.has(meaning)]
    instants = (pa.table(_who_and_when(batch, users)) for batch in table.batches(when))
    is_sorted = external_sort.is_in_order(instants, by)
    writer.noted["event_files_not_in_order"] += 0 if is_sorted else len(table.files)
    converted = (_convert(batch, users, items, writer) for batch in table.batches(list(table.map.columns)))
    rows = sum(file.rows for file in table.files)
    for events in external_sort.in_order(converted, by, rows, is_sorted):
        events, again = external_sort.without_duplicates(events, by)
        writer.dropped["duplicate_events"] += again
        yield events


def _who_and_when(batch: Batch, users: Ids) -> dict[str, np.ndarray | pa.Array]:
    columns: dict[str, np.ndarray | pa.Array] = {"user_id": users.of(*batch.column("user_id"))}
    if "timestamp" in batch.map.columns:
        values, place = batch.column("timestamp")
        columns["timestamp"] = source_values.times(values, batch.map.units.get("timestamp"), place)
    elif "order" in batch.map.columns:
        values, place = batch.column("order")
        order = source_values.integers(values, place)
        place.refuse_first(pc.is_null(order), values, "is no rank; drop or repair the row.")
        place.refuse_first(pc.less(order, 0), values, "is no rank: ranks are 0 or more.")
        columns["order"] = order
    else:
        columns["order"] = batch.number + np.arange(batch.rows.num_rows)
    return columns


def _convert(batch: Batch, users: Ids, items: Ids, writer: DataDirectoryWriter) -> pa.Table:
    """The rows in the data directory's columns."""
    columns = _who_and_when(batch, users) | {"item_id": items.of(*batch.column("item_id"))}
    readers: dict[str, Callable[[pa.Array, Place], pa.Array]] = {
        "event_type": source_values.plain_text,
        "play_ratio": functools.partial(_shares, whole=batch.map.play_ratio_whole),
        "is_organic": source_values.booleans,
        "item_length": functools.partial(_lengths, unit=batch.map.units.get("item_length"), writer=writer),
        "split": source_values.splits,
    }
    columns |= {
        meaning: read(*batch.column(meaning))
        for meaning, read in readers.items()
        if meaning in batch.map.columns
    }
    if batch.file.split is not None:
        columns["split"] = pa.array([batch.file.split]).take(
            pa.array(np.zeros(batch.rows.num_rows, np.int64))
        )
    return pa.table(columns)


def _shares(values: pa.Array, place: Place, whole: float) -> pa.Array:
    return pc.divide(source_values.numbers(values, place), whole).cast(pa.float32())


def _lengths(values: pa.Array, place: Place, unit: str | None, writer: DataDirectoryWriter) -> pa.Array:
    """Seconds; 0 is unknown."""
    length = pc.divide(source_values.numbers(values, place), float(UNITS[unit or "s"]))
    zero = pc.fill_null(pc.equal(length, 0), False)
    writer.repaired["item_length_zero_to_unknown"] += pc.sum(zero).as_py() or 0
    return pc.if_else(zero, pa.scalar(None, pa.float64()), length).cast(pa.float32())


# ── Items and users ─────────────────────────────────────────────────────────────────────────────────────


def _write_items(
    tables: Mapping[str, MappedTable],
    items: Ids,
    heard: np.ndarray,
    before: DirectoryBefore | None,
    writer: DataDirectoryWriter,
) -> None:
    """Writes the catalog: what the map's items (or, without these, its embeddings) list, then what else
    occurs in the events.

    Args:
      heard: int64[n], the items of the events.
    """
    listed, vectors = tables.get("items"), tables.get("embeddings")
    rows = _Rows("items", listed, items, before, writer)
    if vectors is None:
        known = _FirstRows()
        for described in rows.read(known):
            writer.write("items", described)
        rest = np.setdiff1d(heard, known.ids)
        if listed is not None:
            writer.repaired["items_added_to_catalog"] += len(rest)
        writer.write("items", rows.blank(rest))
        if "embedding" in rows.schema.names:
            writer.noted["items_without_embedding"] += len(rest)
        return
    _write_items_with_vectors(rows, listed is not None, vectors, items, heard, writer)


def _write_items_with_vectors(
    rows: _Rows,
    has_list: bool,
    vectors: MappedTable,
    items: Ids,
    heard: np.ndarray,
    writer: DataDirectoryWriter,
) -> None:
    """Joins the rows, which are in memory, to the vectors, which pass by in the order of their files."""
    known = _FirstRows()
    batches = list(rows.read(known))
    # The last row is that of an item which has none.
    described = pa.concat_tables([*batches, rows.blank(np.zeros(1, np.int64), has_text=False)])
    described = described.combine_chunks()
    listed = np.concatenate([np.zeros(0, np.int64), *(batch["item_id"].to_numpy() for batch in batches)])
    by_id = np.argsort(listed, kind="stable")
    if has_list:
        writer.repaired["items_added_to_catalog"] += len(np.setdiff1d(heard, listed))

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
            table = table.set_column(at, "original_id", items.texts(ids))
        return table.append_column("embedding", _vectors(content))

    separator, column = vectors.map.separator, vectors.map.columns["embedding"]
    width = _usual_width(vectors, "embedding", separator)
    with_vector = _FirstRows()
    for batch in vectors.batches(["item_id", "embedding"], _VECTOR_ROWS):
        values, place = batch.column("embedding")
        found, there = source_values.vectors(values, separator, width, place)
        ids_column, id_place = batch.column("item_id")
        ids, content = items.of(ids_column, id_place)[there], found[there]
        again = ~with_vector.select(ids)
        if again.any():
            row = int(np.flatnonzero(there)[np.argmax(again)])
            twice = ids_column[row].as_py()
            raise id_place.error(row, twice, f"has a '{column}' already; leave one of them.")
        # Without a list of items the vectors are one.
        wanted = np.isin(ids, listed) | np.isin(ids, heard) if has_list else np.ones(len(ids), bool)
        writer.noted["embeddings_of_unknown_items"] += int((~wanted).sum())
        if wanted.any():
            writer.write("items", joined(ids[wanted], content[wanted]))
    rest = np.setdiff1d(np.union1d(listed, heard), with_vector.ids)
    writer.noted["items_without_embedding"] += len(rest)
    for start in range(0, len(rest), _VECTOR_ROWS):
        ids = rest[start : start + _VECTOR_ROWS]
        writer.write("items", joined(ids, np.zeros((len(ids), width), np.float32)))


def _write_users(
    table: MappedTable | None, users: Ids, heard: np.ndarray, writer: DataDirectoryWriter
) -> None:
    """Writes users/ where the map has users, or where their ids are texts, which are to be kept."""
    if table is None and not users.is_text:
        return
    rows = _Rows("users", table, users, None, writer)
    known = _FirstRows()
    for described in rows.read(known):
        writer.write("users", described)
    rest = np.setdiff1d(heard, known.ids)
    if table is not None:
        writer.noted["users_not_described"] += len(rest)
    if users.is_text:
        writer.write("users", rows.blank(rest))


class _Rows:
    """The rows of items or users as the data directory has them.

    Args:
      table: "items" or "users".
      source: the map's table and its files, if it has one.
      ids: of the items or users.
      before: a data directory whose numbers for artists and albums are continued.
    """

    def __init__(
        self,
        table: str,
        source: MappedTable | None,
        ids: Ids,
        before: DirectoryBefore | None,
        writer: DataDirectoryWriter,
    ) -> None:
        self._table, self._source, self._ids, self._writer = table, source, ids, writer
        self._key = _KEY[table]
        self._kept: dict[str, str] = {}
        self._meanings: list[str] = []
        self._owners: dict[str, Ids] = {}
        self._width = 0
        if source is not None:
            self._meanings = [meaning for meaning in source.map.columns if meaning != self._key]
            self._kept = self._kinds_of_kept(source)
            for owner in (name for name in _OWNERS if name in self._meanings):
                column = source.map.columns[owner]
                found = source.kinds([column], source.map.separator)[column]
                self._owners[owner] = Ids(
                    any(kind not in ("integer", "list of integer", None) for _, kind in found)
                )
                if self._owners[owner].is_text and before is not None:
                    self._owners[owner].continue_with(before.pairs(table, owner, f"original_{owner}"))
            if "embedding" in self._meanings:
                self._width = _usual_width(source, "embedding", source.map.separator)
        self.schema = self.blank(np.zeros(0, np.int64)).schema

    def read(self, known: _FirstRows) -> Iterator[pa.Table]:
        """The rows of the source's files, the first of each id; `known` gets their ids."""
        if self._source is None:
            return
        columns = [self._key, *self._meanings]
        for batch in self._source.batches(columns, _VECTOR_ROWS if self._width else None, list(self._kept)):
            ids = self._ids.of(*batch.column(self._key))
            first = known.select(ids)
            self._writer.dropped[f"duplicate_{self._table}"] += int((~first).sum())
            found = pa.table(self._columns(batch, ids, first))
            yield found if first.all() else found.filter(pa.array(first))

    def blank(self, ids: np.ndarray, has_text: bool = True) -> pa.Table:
        """Rows of which nothing is known but the id: nulls, empty lists, vectors of zeros."""
        columns: dict[str, pa.Array] = {self._key: pa.array(ids)}
        if self._ids.is_text:
            columns["original_id"] = self._ids.texts(ids) if has_text else pa.nulls(len(ids), pa.string())
        for meaning in self._meanings:
            if meaning == "embedding":
                columns[meaning] = _vectors(np.zeros((len(ids), self._width), np.float32))
            else:
                columns[meaning] = _nothing(len(ids), COLUMNS["items"][meaning])
            if meaning in self._owners and self._owners[meaning].is_text:
                columns[f"original_{meaning}"] = _nothing(len(ids), pa.list_(pa.string()))
        return pa.table(
            columns | {name: _nothing(len(ids), _type(kind)) for name, kind in self._kept.items()}
        )

    def _columns(self, batch: Batch, ids: np.ndarray, first: np.ndarray) -> dict[str, pa.Array]:
        separator, units = batch.map.separator, batch.map.units
        columns: dict[str, pa.Array] = {self._key: pa.array(ids)}
        if self._ids.is_text:
            columns["original_id"] = self._ids.texts(ids)
        for meaning in self._meanings:
            values, place = batch.column(meaning)
            if meaning in self._owners:
                texts = source_values.lists_of_text(values, separator, place)
                columns[meaning] = self._owner_lists(texts, self._owners[meaning], place)
                if self._owners[meaning].is_text:
                    columns[f"original_{meaning}"] = texts
            elif meaning == "embedding":
                found, there = source_values.vectors(values, separator, self._width, place)
                self._writer.noted["items_without_embedding"] += int((first & ~there).sum())
                columns[meaning] = _vectors(found)
            elif meaning == "title":
                columns[meaning] = source_values.plain_text(values, place)
            elif meaning == "tags":
                columns[meaning] = source_values.lists_of_text(values, separator, place)
            elif meaning == "available":
                columns[meaning] = source_values.booleans(values, place)
            elif meaning == "item_length":
                columns[meaning] = _lengths(values, place, units.get(meaning), self._writer)
            else:
                columns[meaning] = source_values.times(values, units.get(meaning), place, is_event=False)
        for name, kind in self._kept.items():
            columns[name] = _kept_values(batch.rows[name], kind, separator, batch.place(name))
        return columns

    @staticmethod
    def _owner_lists(texts: pa.ListArray, ids: Ids, place: Place) -> pa.Array:
        try:
            numbers = ids.of(texts.flatten(), place)
        except UserError:
            # Once more, row by row, for the number of the row.
            for row in range(len(texts)):
                for text in texts[row].as_py():
                    ids.of(pa.array([text]), dataclasses.replace(place, first_row=place.first_row + row))
            raise
        return pa.ListArray.from_arrays(texts.offsets, pa.array(numbers, pa.int64()))

    def _kinds_of_kept(self, source: MappedTable) -> dict[str, str]:
        """The source's columns that are taken as they are → what they hold in all files.

        Raises:
          UserError: one is missing in a file, would stand for something else under its name, holds several
            kinds of values, or one that cannot be kept.
        """
        mapped = set(source.map.columns.values())
        first = source.files[0]
        wanted = source.map.keep
        if wanted is None:
            # A column without a name is the row number that data frame libraries write.
            wanted = {name: None for name in first.schema.names if name and name not in mapped}
        taken = {*COLUMNS[self._table], "original_id"}
        if self._table == "items":
            taken |= {"embedding", *(f"original_{owner}" for owner in _OWNERS)}
        for name in taken & wanted.keys():
            raise UserError(
                f"{first.path}: column '{name}' has the name of a column with a meaning: say "
                f"'{self._table}.{name}: {name}' in the column map if that is what it holds, or list the "
                f"columns to take in '{self._table}.keep'."
            )
        found = source.kinds([name for name, declared in wanted.items() if declared is None])
        kinds = {name: declared or self._kind_of_kept(name, found[name]) for name, declared in wanted.items()}
        kept = {name: kind for name, kind in kinds.items() if kind is not None}
        self._writer.noted["columns_without_values"] += len(kinds) - len(kept)
        return kept

    def _kind_of_kept(self, name: str, found: Sequence[tuple[str, str | None]]) -> str | None:
        keep = f"{self._table}.keep"
        for path, kind in found:
            if kind == "":
                raise UserError(
                    f"{path}: column '{name}' holds no numbers, text, truth or times, nor lists of these: "
                    f"list the columns to take in '{keep}' of the column map."
                )
        return one_kind(
            name, found, f"bring it to one type, or say '{keep}: {{{name}: text}}' in the column map"
        )


def _type(kind: str) -> pa.DataType:
    """The Arrow type in which a kept column of that kind is written."""
    if kind.startswith("vector of "):
        return pa.list_(pa.float32(), int(kind.removeprefix("vector of ")))
    if kind.startswith("list of "):
        return pa.list_(_type(kind.removeprefix("list of ")))
    return {
        "integer": pa.int64(),
        "number": pa.float64(),
        "boolean": pa.bool_(),
        "text": pa.string(),
        "time": pa.int64(),
    }[kind]


def _kept_values(values: pa.Array, kind: str, separator: str | None, place: Place) -> pa.Array:
    if kind.startswith("vector of "):
        width = int(kind.removeprefix("vector of "))
        return _vectors(source_values.vectors(values, separator, width, place)[0])
    if kind.startswith("list of "):
        return source_values.whole_lists(values).cast(_type(kind))
    if kind == "time":
        return source_values.times(values, None, place, is_event=False)
    if kind == "number":
        return source_values.numbers(values, place, bounded=False)
    if kind == "integer":
        return source_values.integers(values, place)
    return (
        source_values.booleans(values, place)
        if kind == "boolean"
        else source_values.plain_text(values, place)
    )


def _nothing(rows: int, kind: pa.DataType) -> pa.Array:
    """Nulls; empty lists; vectors of zeros, since Parquet as Arrow 10 writes it has no null among these."""
    if pa.types.is_fixed_size_list(kind):
        return _vectors(np.zeros((rows, kind.list_size), np.float32))
    if pa.types.is_list(kind):
        return pa.ListArray.from_arrays(
            pa.array(np.zeros(rows + 1), pa.int32()), pa.nulls(0, kind.value_type)
        )
    return pa.nulls(rows, kind)


def _vectors(matrix: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])


def _usual_width(table: MappedTable, meaning: str, separator: str | None) -> int:
    """The width that most of the first vectors have.

    Raises:
      UserError: there is none in any file.
    """
    for batch in table.batches([meaning], _VECTOR_ROWS):
        if width := source_values.usual_width(batch.column(meaning)[0], separator, batch.column(meaning)[1]):
            return width
    raise UserError(f"{table.files[0].path}: column '{table.map.columns[meaning]}' has no vectors in it.")


class _FirstRows:
    """Which ids have come before, in memory of 8 bytes an id."""

    def __init__(self) -> None:
        self.ids = np.zeros(0, np.int64)

    def select(self, ids: np.ndarray) -> np.ndarray:
        """bool[n]: does the id come here for the first time?"""
        first = np.zeros(len(ids), bool)
        first[np.unique(ids, return_index=True)[1]] = True
        place = np.searchsorted(self.ids, ids)
        place[place == len(self.ids)] = 0
        if len(self.ids):
            first &= self.ids[place] != ids
        # A stable sort of integers merges what is sorted already.
        self.ids = np.sort(np.concatenate([self.ids, np.sort(ids[first])]), kind="stable")
        return first
