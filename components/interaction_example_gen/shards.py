"""Rows on their way through Beam: read by row groups, narrowed, keyed by a shard of the user's hash.

What crosses Beam are Arrow record batches of one shard's rows, as IPC bytes. A batch of events has the
columns of `Events`, integers as narrow as their values allow, event types as codes, and in its schema's
metadata the types' names and the place of its first row among all events, by which batches are put in order.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.components.interaction_example_gen.histories import Events
from two_tower.data_directory.feature_columns import FeatureSpec, encode_columns
from two_tower.data_directory.manifest import DAY, Manifest, event_files, user_files
from two_tower.schema import features

# Events whose windows are cut at once, about 100 bytes each: it bounds a shard's memory.
EVENTS_PER_SHARD = 1_000_000
# Rows that are read at once: a batch a shard comes of them, and each has its overhead.
_LEAST_ROWS, _MOST_ROWS = 500_000, 4_000_000
_ROWS_A_BATCH = 256
_SPAN = re.compile(r"/span-(\d+)/[^/]*$")
_OPTIONAL = ("event_type", "play_ratio", "is_organic")

Counts = dict[str, int]


@dataclasses.dataclass(frozen=True)
class TableFile:
    """A Parquet file: where its first row stands among the table's; its span's number, or -1."""

    path: str
    first_row: int
    rows: int
    span: int = -1


@dataclasses.dataclass(frozen=True)
class RowGroups:
    """Row groups of one file that are read at once."""

    file: TableFile
    groups: tuple[int, ...]
    first_row: int


def table_files(data: str, manifest: Manifest, table: str, spans: int = 0) -> list[TableFile]:
    """The files of "events" (of the newest `spans` spans; 0: all) or "users", in the order of their rows."""
    paths = event_files(data, spans) if table == "events" else user_files(data)
    rows = {storage.join(data, file.path): file.rows for file in manifest.files}
    files, first_row = [], 0
    for path in paths:
        span = _SPAN.search(path)
        files.append(TableFile(path, first_row, rows[path], int(span[1]) if span else -1))
        first_row += rows[path]
    return files


def row_groups(file: TableFile, shards: int) -> Iterator[RowGroups]:
    """The file's row groups, so many together that each shard gets a batch worth its overhead."""
    enough = min(max(_LEAST_ROWS, shards * _ROWS_A_BATCH), _MOST_ROWS)
    with storage.open_file(file.path) as opened:
        metadata = pq.ParquetFile(opened).metadata
        groups: list[int] = []
        begin = end = file.first_row
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if groups and end - begin + rows > enough:
                yield RowGroups(file, tuple(groups), begin)
                groups, begin = [], end
            groups.append(group)
            end += rows
        if groups:
            yield RowGroups(file, tuple(groups), begin)


@dataclasses.dataclass(frozen=True)
class EventReader:
    """Reads events and divides them among shards.

    Attributes:
        shards: how many.
        label_event: the data set's name of what windows call "listen".
        time_column: "timestamp", or "order" where the data has no times.
        has_split: whether the column `split` is read.
    """

    shards: int
    label_event: str
    time_column: str
    has_split: bool

    def read(self, source: RowGroups) -> tuple[Iterator[tuple[int, bytes]], Counts]:
        """(shard, its rows) for each shard, and counts: `late_events`, of a day before their span's.

        Raises UserError for a value of `split` that names none.
        """
        with storage.open_file(source.file.path) as opened:
            parquet = pq.ParquetFile(opened)
            present = parquet.schema_arrow.names
            wanted = [
                "user_id",
                "item_id",
                self.time_column,
                *(name for name in _OPTIONAL if name in present),
            ]
            table = parquet.read_row_groups(list(source.groups), columns=wanted + ["split"] * self.has_split)
        rows = table.num_rows
        time = _integers(table[self.time_column])
        codes, names = _event_types(
            table["event_type"] if "event_type" in present else None, rows, self.label_event
        )
        columns = {
            "user_id": _integers(table["user_id"]),
            "item_id": _integers(table["item_id"]),
            "timestamp": time,
            "event_type": codes,
            "play_ratio": _filled(table, "play_ratio", np.float32),
            "is_organic": _filled(table, "is_organic", np.int8),
        }
        counts: Counts = {}
        if source.file.span >= 0 and self.time_column == "timestamp":
            counts["late_events"] = int((time // DAY < source.file.span).sum())
        if self.has_split:
            columns["split"] = split_numbers(table["split"], source.file.path)
        metadata = {"place": str(source.first_row), "event_types": json.dumps(names)}
        batch = pa.record_batch(list(columns.values()), names=list(columns)).replace_schema_metadata(metadata)
        return divide(batch, self.shards), counts


def read_users(source: RowGroups, shards: int, columns: tuple[str, ...]) -> Iterator[tuple[int, bytes]]:
    """(shard, rows) of the users table: `user_id` and the columns named, as they are."""
    with storage.open_file(source.file.path) as opened:
        table = pq.ParquetFile(opened).read_row_groups(list(source.groups), columns=["user_id", *columns])
    batch = table.combine_chunks().to_batches()
    return divide(batch[0].replace_schema_metadata({"table": "users"}), shards) if batch else iter(())


def divide(batch: pa.RecordBatch, shards: int) -> Iterator[tuple[int, bytes]]:
    """(shard, its rows): all rows of a user go to one shard, by a hash of `user_id`."""
    if shards == 1:
        yield 0, _to_ipc(batch)
        return
    user_id = batch.column(batch.schema.get_field_index("user_id")).to_numpy()
    # As narrow as may be: NumPy sorts numbers of 16 bits by radix.
    shard = (_hash(user_id) % np.uint64(shards)).astype(np.uint16 if shards <= 1 << 16 else np.uint32)
    order = np.argsort(shard, kind="stable")
    by_shard = batch.take(pa.array(order))
    ends = np.append(np.flatnonzero(np.diff(shard[order])) + 1, len(order))
    begin = 0
    for end in ends.tolist():
        yield int(shard[order[begin]]), _to_ipc(by_shard.slice(begin, end - begin))
        begin = end


def parts(batches: Iterable[bytes], most: int) -> Iterator[tuple[Events, UserTable | None]]:
    """A shard's events, and its users' rows if there are any; in parts of whole users where it is large.

    A part has at most `most` events and those of one more user: a shard that is far larger than the average
    does not need memory in proportion for its windows, only for its rows.
    """
    decoded = [_from_ipc(content) for content in batches]
    users = UserTable.of([batch for batch in decoded if _is_users(batch)])
    events = sorted((batch for batch in decoded if not _is_users(batch)), key=_place)
    del decoded
    rows = sum(batch.num_rows for batch in events)
    if rows <= most:
        if rows:
            yield _events(events), users
        return
    ids = [batch.column(batch.schema.get_field_index("user_id")).to_numpy() for batch in events]
    distinct, counts = np.unique(np.concatenate(ids), return_counts=True)
    part_of_user = (np.cumsum(counts) - counts) // most
    part_of_row = [part_of_user[np.searchsorted(distinct, own)].astype(np.int32) for own in ids]
    # A user with more events than a part holds leaves numbers behind that no user has.
    for part in np.unique(part_of_user).tolist():
        chosen = [
            batch.filter(pa.array(of_row == part)) for batch, of_row in zip(events, part_of_row, strict=True)
        ]
        yield _events([batch for batch in chosen if batch.num_rows]), users


@dataclasses.dataclass(frozen=True)
class UserTable:
    """Rows of the users table: `user_id` [users] ascending, and the other columns in that order."""

    user_id: np.ndarray
    rows: pa.Table

    @classmethod
    def of(cls, batches: list[pa.RecordBatch]) -> UserTable | None:
        """None where there are no rows. Of a user's several rows the first stays."""
        if not batches:
            return None
        table = pa.Table.from_batches(batches)
        user_id, first = np.unique(table["user_id"].to_numpy(), return_index=True)
        return cls(user_id, table.drop(["user_id"]).take(pa.array(first)))


def user_columns(
    users: UserTable | None, specs: tuple[FeatureSpec, ...], user_id: np.ndarray
) -> dict[str, pa.ListArray]:
    """The features of users [windows] by name; a user without a row has absent values."""
    if users is None:
        rows = pa.table({spec.column: pa.nulls(len(user_id)) for spec in specs})
    else:
        at = np.minimum(np.searchsorted(users.user_id, user_id), len(users.user_id) - 1)
        rows = users.rows.take(pa.array(at, mask=users.user_id[at] != user_id))
    return encode_columns(rows, specs, "users/")


def _events(batches: list[pa.RecordBatch]) -> Events:
    """Joins batches, whose integers may differ in width and whose codes in meaning."""
    types = [features.LISTEN]
    renamed = []
    for batch in batches:
        names = json.loads(batch.schema.metadata[b"event_types"])
        types += [name for name in names if name not in types]
        renamed.append(np.array([types.index(name) for name in names], _narrow(len(types))))
    columns: dict[str, Any] = {}
    for name in batches[0].schema.names:
        values = [batch.column(batch.schema.get_field_index(name)).to_numpy() for batch in batches]
        if name == "event_type":
            values = [codes[old] for codes, old in zip(renamed, values, strict=True)]
        columns[name] = np.concatenate(values) if len(values) > 1 else values[0]
    return Events(**columns, event_types=tuple(types))


def _is_users(batch: pa.RecordBatch) -> bool:
    return batch.schema.metadata.get(b"table") == b"users"


def _place(batch: pa.RecordBatch) -> int:
    return int(batch.schema.metadata[b"place"])


def _to_ipc(batch: pa.RecordBatch) -> bytes:
    # All rows are in memory at once on the in-memory runner, several times over, and are shuffled on others:
    # compressed they are less than half as many bytes, for no more time than copying the rest takes.
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _from_ipc(content: bytes) -> pa.RecordBatch:
    with pa.ipc.open_stream(content) as reader:
        return reader.read_next_batch()


def _hash(ids: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: consecutive ids spread evenly, the same on every machine."""
    x = ids.astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _narrow(largest: int) -> type[np.signedinteger[Any]]:
    """The narrowest of the integers that Arrow and NumPy share."""
    for kind in (np.int8, np.int16, np.int32):
        if largest <= np.iinfo(kind).max:
            return kind
    return np.int64


def _integers(values: pa.ChunkedArray) -> np.ndarray:
    numbers = values.to_numpy()
    wide = len(numbers) and int(numbers.max()) > np.iinfo(np.int32).max
    return numbers.astype(np.int64 if wide else np.int32)


def _filled(table: pa.Table, name: str, kind: type[Any]) -> np.ndarray:
    """An optional column, UNKNOWN where it is null or missing."""
    if name not in table.column_names:
        return np.full(table.num_rows, features.UNKNOWN, kind)
    arrow = pa.from_numpy_dtype(kind)
    return pc.fill_null(table[name].cast(arrow), pa.scalar(features.UNKNOWN, arrow)).to_numpy()


def _event_types(values: pa.ChunkedArray | None, rows: int, label_event: str) -> tuple[np.ndarray, list[str]]:
    """Codes [rows] and their names. From here on the label event, and it alone, has one name and code 0."""
    if values is None:
        return np.zeros(rows, np.int8), [features.LISTEN]
    encoded = values.cast(pa.string()).combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    names = [features.LISTEN]
    codes = []
    for name in encoded.dictionary.to_pylist():
        if name == label_event:
            codes.append(0)
            continue
        other = (f"other {name}" if name == features.LISTEN else name) or "unknown"
        if other not in names:
            names.append(other)
        codes.append(names.index(other))
    if encoded.null_count:
        names += ["unknown"] * ("unknown" not in names)
    codes.append(names.index("unknown") if "unknown" in names else 0)
    code_of = np.array(codes, _narrow(len(names)))
    # A null's index is the last code.
    indices = pc.fill_null(encoded.indices, len(codes) - 1).to_numpy(zero_copy_only=False)
    return code_of[indices], names


def split_numbers(values: pa.ChunkedArray, path: str) -> np.ndarray:
    """int8 [rows], places in features.SPLITS. Raises UserError for any other value."""
    numbers = pc.index_in(values.cast(pa.string()), value_set=pa.array(features.SPLITS))
    if numbers.null_count:
        unknown = values.filter(pc.is_null(numbers))
        raise UserError(
            f"{path}: column 'split': {unknown[0].as_py()!r} in one of {len(unknown)} rows that name no "
            f"split: each takes one of {', '.join(features.SPLITS)}."
        )
    return numbers.to_numpy().astype(np.int8)
