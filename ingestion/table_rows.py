"""Rows of items and users: source columns converted to the columns of the data directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns
from two_tower.data_directory.checked_columns import WrongRows
from two_tower.data_directory.manifest import COLUMNS
from two_tower.data_directory.writer import DataDirectoryWriter
from two_tower.ingestion import bad_rows, source_times, source_values
from two_tower.ingestion.column_map import UNITS, TableMap
from two_tower.ingestion.mapped_tables import Batch, MappedTable, require_one_kind
from two_tower.ingestion.newest_rows import NewestRows
from two_tower.ingestion.source_ids import IdEncoder, PreviousDirectory
from two_tower.ingestion.source_values import Place

_KEY = {"items": "item_id", "users": "user_id"}
# Rows per batch of tables with vectors, of up to 512 bytes each.
VECTOR_ROWS = 50_000
_OWNERS = ("artist_id", "album_id")


class TableRows:
    """Rows of items or users in the columns of the data directory.

    Args:
      table: "items" or "users".
      source: the map's table with its files, if there is one.
      ids: encoder of the item or user ids.
      previous: data directory whose texts of artists and albums are known already.
    """

    def __init__(
        self,
        table: str,
        source: MappedTable | None,
        ids: IdEncoder,
        previous: PreviousDirectory | None,
        writer: DataDirectoryWriter,
    ) -> None:
        self._table, self._source, self._ids, self._writer = table, source, ids, writer
        self._key = _KEY[table]
        self._kept: dict[str, str] = {}
        self._meanings: list[str] = []
        self._owners: dict[str, IdEncoder] = {}
        self._width = 0
        if source is not None:
            self._meanings = [meaning for meaning in source.map.columns if meaning != self._key]
            self._kept = self._kinds_of_kept(source)
            for owner in (name for name in _OWNERS if name in self._meanings):
                column = source.map.columns[owner]
                found = source.kinds([column], source.map.separator)[column]
                self._owners[owner] = IdEncoder(
                    any(kind not in ("integer", "list of integer", None) for _, kind in found)
                )
                if self._owners[owner].is_text and previous is not None:
                    for texts, place in previous.texts(table, f"original_{owner}"):
                        self._owners[owner].add(texts, place)
            if "embedding" in self._meanings:
                self._width = most_common_width(source, "embedding", source.map.separator)
        self.schema = self.blank(np.zeros(0, np.int64)).schema

    def read(self, known: SeenIds) -> Iterator[pa.Table]:
        """Yields the rows of the source's files, the first row of each id, and adds the ids to `known`."""
        if self._source is None:
            return
        if self._source.events is not None:
            yield self._read_newest(self._source, self._source.events, known)
            return
        columns = [self._key, *self._meanings]
        batches = self._source.batches(columns, VECTOR_ROWS if self._width else None, list(self._kept))
        for found, has_vector in self._source.converted(batches, self._converted, self._writer):
            first = known.add(found[self._key].to_numpy())
            self._writer.dropped[f"duplicate_{self._table}"] += int((~first).sum())
            self._writer.noted["items_without_embedding"] += int((first & ~has_vector).sum())
            yield found if first.all() else found.filter(pa.array(first))

    def _read_newest(self, source: MappedTable, events: TableMap, known: SeenIds) -> pa.Table:
        """Returns one row an id from the rows of events that name it, with the newest value of each column.

        A column that `keep` does not list is a column of the event, and left out, if it differs between the
        rows of one id.
        """
        clock = events.columns.get("timestamp")
        newest = NewestRows()
        kept = [*self._kept, *([clock] if clock else [])]

        def convert(batch: Batch) -> tuple[pa.Table, np.ndarray]:
            times = batch.number + batch.places
            if clock:
                unit, form = events.units.get("timestamp"), events.time_formats.get("timestamp")
                place = batch.place(clock)
                times = source_times.times(batch.rows[clock], unit, place, form=form).to_numpy()
            return self._converted(batch)[0], times

        batches = source.batches([self._key, *self._meanings], VECTOR_ROWS if self._width else None, kept)
        for found, times in source.converted(batches, convert, self._writer):
            ids = found[self._key].to_numpy()
            known.add(ids)
            newest.add(ids, times, found)
        rows, differing = newest.result()
        if self._width:
            vectors = rows["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, self._width)
            self._writer.noted["items_without_embedding"] += int((~vectors.any(1)).sum())
        for name, count in differing.items():
            column = source.map.columns.get(name, name)
            if name in self._kept and source.map.keep is None and count:
                del self._kept[name]
                rows = rows.drop([name])
                self._writer.noted[f"{self._table}_whose_'{column}'_differs_(left_out)"] = count
            else:
                self._writer.noted[f"{self._table}_whose_'{column}'_differs_(newest_taken)"] = count
        self.schema = self.blank(np.zeros(0, np.int64)).schema
        return rows

    def blank(self, ids: np.ndarray, has_text: bool = True) -> pa.Table:
        """Returns rows with the id alone: all else is null, an empty list or a vector of zeros."""
        columns: dict[str, pa.Array] = {self._key: pa.array(ids)}
        if self._ids.is_text:
            columns["original_id"] = self._ids.decode(ids) if has_text else pa.nulls(len(ids), pa.string())
        for meaning in self._meanings:
            if meaning == "embedding":
                columns[meaning] = vector_column(np.zeros((len(ids), self._width), np.float32))
            else:
                columns[meaning] = _blank_column(len(ids), COLUMNS["items"][meaning])
            if meaning in self._owners and self._owners[meaning].is_text:
                columns[f"original_{meaning}"] = _blank_column(len(ids), pa.list_(pa.string()))
        return pa.table(
            columns | {name: _blank_column(len(ids), _arrow_type(kind)) for name, kind in self._kept.items()}
        )

    def _converted(self, batch: Batch) -> tuple[pa.Table, np.ndarray]:
        """Returns the columns of a batch, and bool[n]: false for an item that lacks its vector."""
        ids = batch.ids(self._key, self._ids.encode)
        has_vector = np.ones(len(ids), bool)
        separator, units = batch.map.separator, batch.map.units
        columns: dict[str, pa.Array] = {self._key: pa.array(ids)}
        if self._ids.is_text:
            columns["original_id"] = self._ids.decode(ids)
        for meaning in self._meanings:
            values, place = batch.column(meaning)
            if meaning in self._owners:
                texts = source_values.lists_of_text(values, separator, place)
                columns[meaning] = self._owner_lists(texts, self._owners[meaning], place)
                if self._owners[meaning].is_text:
                    columns[f"original_{meaning}"] = texts
            elif meaning == "embedding":
                found, has_vector = source_values.vectors(values, separator, self._width, place)
                columns[meaning] = vector_column(found)
            elif meaning == "title":
                columns[meaning] = source_values.plain_text(values, place)
            elif meaning == "tags":
                columns[meaning] = source_values.lists_of_text(values, separator, place)
            elif meaning == "available":
                columns[meaning] = source_values.booleans(values, place)
            elif meaning == "item_length":
                columns[meaning] = lengths_in_seconds(values, place, units.get(meaning), self._writer)
            else:
                columns[meaning] = source_times.times(
                    values, units.get(meaning), place, False, batch.map.time_formats.get(meaning)
                )
        for name, kind in self._kept.items():
            columns[name] = _kept_values(batch.rows[name], kind, separator, batch.place(name))
        return pa.table(columns), has_vector

    @staticmethod
    def _owner_lists(texts: pa.ListArray, ids: IdEncoder, place: Place) -> pa.Array:
        try:
            numbers = ids.encode(texts.flatten(), place)
        except WrongRows:
            # A second pass, row by row, finds all wrong rows.
            wrong = {}
            for row, entries in enumerate(texts.to_pylist()):
                for text in entries:
                    try:
                        ids.encode(pa.array([text]), dataclasses.replace(place, first_row=0))
                    except WrongRows as error:
                        wrong[row] = str(error).partition("row 0: ")[2]
            raise WrongRows(
                place.path, place.column, list(wrong), place.first_row, lambda row: wrong[row], ""
            ) from None
        return pa.ListArray.from_arrays(texts.offsets, pa.array(numbers, pa.int64()))

    def _kinds_of_kept(self, source: MappedTable) -> dict[str, str]:
        """Returns the source columns that are copied unchanged, with their kind over all files.

        Raises:
          UserError: a column is missing in a file; it has the name of another column of the data directory;
            it holds several kinds of values, or a kind that cannot be kept.
        """
        mapped = set(source.map.columns.values())
        first = source.files[0]
        wanted = source.map.keep
        if wanted is None:
            # Data frame libraries write row numbers as a column without a name.
            for table in source.beside:
                mapped |= {*table.columns.values(), *(table.keep or ())}
            wanted = {name: None for name in first.schema.names if name and name not in mapped}
        taken = {*COLUMNS[self._table], "original_id"}
        if self._table == "items":
            taken |= {"embedding", *(f"original_{owner}" for owner in _OWNERS)}
        for name in (name for name in wanted if name.lower() in taken):
            raise UserError(
                f"{first.path}: column '{name}' has the name of a column with a meaning. If it has that "
                f"meaning, set '{self._table}.{name.lower()}: {name}' in the column map. If not, list other "
                f"columns to keep in '{self._table}.keep'."
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
                    f"{path}: column '{name}' holds no numbers, text, booleans, times or lists of them. "
                    f"List the columns to keep, without it, in '{keep}' of the column map."
                )
        return require_one_kind(
            name, found, f"convert it to one type, or set '{keep}: {{{name}: text}}' in the column map"
        )


def _arrow_type(kind: str) -> pa.DataType:
    """Returns the Arrow type of a kept column, from its kind."""
    if kind.startswith("vector of "):
        return pa.list_(pa.float32(), int(kind.removeprefix("vector of ")))
    if kind.startswith("list of "):
        return pa.list_(_arrow_type(kind.removeprefix("list of ")))
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
        return vector_column(source_values.vectors(values, separator, width, place)[0])
    if kind.startswith("list of "):
        return source_values.plain_lists(values).cast(_arrow_type(kind))
    if kind == "time":
        return source_times.times(values, None, place, is_event=False)
    if kind == "number":
        return source_values.numbers(values, place, None)
    if kind == "integer":
        return source_values.integers(values, place)
    return (
        source_values.booleans(values, place)
        if kind == "boolean"
        else source_values.plain_text(values, place)
    )


def _blank_column(rows: int, kind: pa.DataType) -> pa.Array:
    """Returns nulls, empty lists or vectors of zeros; Arrow 10 cannot write null vectors to Parquet."""
    if pa.types.is_fixed_size_list(kind):
        return vector_column(np.zeros((rows, kind.list_size), np.float32))
    if pa.types.is_list(kind):
        return pa.ListArray.from_arrays(
            pa.array(np.zeros(rows + 1), pa.int32()), pa.nulls(0, kind.value_type)
        )
    return pa.nulls(rows, kind)


def vector_column(matrix: np.ndarray) -> pa.Array:
    """Converts a matrix [n, width] to a column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])


def most_common_width(table: MappedTable, meaning: str, separator: str | None) -> int:
    """Returns the most common width of the first vectors.

    Raises:
      UserError: no file holds a vector.
    """

    def find(batch: Batch) -> int:
        values, place = batch.column(meaning)
        return source_values.most_common_width(values, separator, place)

    for width in bad_rows.unchecked(table.batches([meaning], VECTOR_ROWS), find):
        if width:
            return width
    raise UserError(f"{table.files[0].path}: column '{table.map.columns[meaning]}' has no embeddings.")


class SeenIds:
    """Set of the ids seen so far, in 8 bytes per id."""

    def __init__(self) -> None:
        self.ids = np.zeros(0, np.int64)

    def add(self, ids: np.ndarray) -> np.ndarray:
        """Adds ids and returns bool[n], true at the first appearance of each."""
        first = np.zeros(len(ids), bool)
        first[np.unique(ids, return_index=True)[1]] = True
        place = np.searchsorted(self.ids, ids)
        place[place == len(self.ids)] = 0
        if len(self.ids):
            first &= self.ids[place] != ids
        # A stable sort of integers merges parts that are sorted already.
        self.ids = np.sort(np.concatenate([self.ids, np.sort(ids[first])]), kind="stable")
        return first


def lengths_in_seconds(
    values: pa.Array, place: Place, unit: str | None, writer: DataDirectoryWriter
) -> pa.Array:
    """Converts item lengths to seconds, float[n]; 0 means unknown and becomes null."""
    ticks = float(UNITS[unit or "s"])
    largest = checked_columns.LARGEST["item_length"] * ticks
    length = pc.divide(source_values.numbers(values, place, largest), ticks)
    zero = pc.fill_null(pc.equal(length, 0), False)
    writer.repaired["item_length_zero_to_unknown"] += pc.sum(zero).as_py() or 0
    return pc.if_else(zero, pa.scalar(None, pa.float64()), length).cast(pa.float32())
