"""Shards: rows read by row groups, narrowed, and keyed by a hash of the user.

Arrow record batches of one shard's rows cross Beam as IPC bytes. A batch of events has the columns of
`Events`, with narrow integers and event types as codes. Its schema's metadata holds the types' names and the
place of its first row among all events, which puts batches in order.
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
from two_tower.data_directory.shuffled_order import shuffled_order
from two_tower.schema import features

# Events whose windows are cut at once, about 100 bytes each: it bounds a shard's memory.
EVENTS_PER_SHARD = 1_000_000
# Rows that are read at once: they give one batch per shard, and each batch has overhead.
_LEAST_ROWS, _MOST_ROWS = 500_000, 4_000_000
_ROWS_A_BATCH = 256
_SPAN = re.compile(r"/span-(\d+)/[^/]*$")
_OPTIONAL = ("event_type", "play_ratio", "is_organic")

Counts = dict[str, int]


@dataclasses.dataclass(frozen=True)
class TableFile:
    """Parquet file of a table.

    Attributes:
        path: path or URL.
        first_row: number of its first row among the table's rows.
        rows: number of its rows.
        span: the number of its span, or -1.
    """

    path: str
    first_row: int
    rows: int
    span: int = -1


@dataclasses.dataclass(frozen=True)
class RowGroups:
    """Row groups of one file that are read at once; `first_row` counts over the table."""

    file: TableFile
    groups: tuple[int, ...]
    first_row: int


def table_files(data: str, manifest: Manifest, table: str, spans: int = 0) -> list[TableFile]:
    """Lists the files of "events" (the newest `spans` spans; 0: all) or "users", in row order."""
    paths = event_files(data, spans) if table == "events" else user_files(data)
    rows = {storage.join(data, file.path): file.rows for file in manifest.files}
    files, first_row = [], 0
    for path in paths:
        span = _SPAN.search(path)
        files.append(TableFile(path, first_row, rows[path], int(span[1]) if span else -1))
        first_row += rows[path]
    return files


def row_groups(file: TableFile, shards: int) -> Iterator[RowGroups]:
    """Yields the file's row groups in bundles that give each shard a batch worth its overhead."""
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
    """Reader of events that divides them among shards.

    Attributes:
        shards: number of shards.
        label_event: the data set's name of the event type that windows call "listen".
        time_column: "timestamp", or "order" for data without times; None for events without an order.
        has_split: True reads the column `split`.
        seed: of the random order of events without an order.
    """

    shards: int
    label_event: str
    time_column: str | None
    has_split: bool
    seed: int = 0

    def read(self, source: RowGroups) -> tuple[Iterator[tuple[int, bytes]], Counts]:
        """Returns (shard, its rows) for each shard, and counts: `late_events`, older than their span's day.

        Raises:
            UserError: a value of the column `split` is no split's name.
        """
        with storage.open_file(source.file.path) as opened:
            parquet = pq.ParquetFile(opened)
            present = parquet.schema_arrow.names
            wanted = [
                "user_id",
                "item_id",
                *([self.time_column] if self.time_column else []),
                *(name for name in _OPTIONAL if name in present),
            ]
            table = parquet.read_row_groups(list(source.groups), columns=wanted + ["split"] * self.has_split)
        rows = table.num_rows
        user, item = _integers(table["user_id"]), _integers(table["item_id"])
        time = (
            _integers(table[self.time_column]) if self.time_column else shuffled_order(user, item, self.seed)
        )
        codes, names = _event_types(
            table["event_type"] if "event_type" in present else None, rows, self.label_event
        )
        columns = {
            "user_id": user,
            "item_id": item,
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
    """Returns (shard, rows) of users/, with `user_id` and the named columns unchanged."""
    with storage.open_file(source.file.path) as opened:
        table = pq.ParquetFile(opened).read_row_groups(list(source.groups), columns=["user_id", *columns])
    batch = table.combine_chunks().to_batches()
    return divide(batch[0].replace_schema_metadata({"table": "users"}), shards) if batch else iter(())


def divide(batch: pa.RecordBatch, shards: int) -> Iterator[tuple[int, bytes]]:
    """Yields (shard, its rows); a hash of `user_id` sends all rows of a user to one shard."""
    if shards == 1:
        yield 0, _to_ipc(batch)
        return
    user_id = batch.column(batch.schema.get_field_index("user_id")).to_numpy()
    # NumPy sorts numbers of 16 bits by radix.
    shard = (_hash(user_id) % np.uint64(shards)).astype(np.uint16 if shards <= 1 << 16 else np.uint32)
    order = np.argsort(shard, kind="stable")
    by_shard = batch.take(pa.array(order))
    ends = np.append(np.flatnonzero(np.diff(shard[order])) + 1, len(order))
    begin = 0
    for end in ends.tolist():
        yield int(shard[order[begin]]), _to_ipc(by_shard.slice(begin, end - begin))
        begin = end


def parts(batches: Iterable[bytes], most: int) -> Iterator[tuple[Events, UserTable | None]]:
    """Yields a shard's events and its users' rows, in parts of whole users if the shard is large.

    A part has at most `most` events plus those of one user. A shard far above the average then needs memory
    in proportion for its rows, but not for its windows.
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
    # Part numbers have gaps after a user with more events than a part holds.
    for part in np.unique(part_of_user).tolist():
        chosen = [
            batch.filter(pa.array(of_row == part)) for batch, of_row in zip(events, part_of_row, strict=True)
        ]
        yield _events([batch for batch in chosen if batch.num_rows]), users


@dataclasses.dataclass(frozen=True)
class UserTable:
    """Rows of users/: `user_id` [users] ascending, and the other columns in that order."""

    user_id: np.ndarray
    rows: pa.Table

    @classmethod
    def of(cls, batches: list[pa.RecordBatch]) -> UserTable | None:
        """Builds the table from batches, keeping each user's first row; returns None without rows."""
        if not batches:
            return None
        table = pa.Table.from_batches(batches)
        user_id, first = np.unique(table["user_id"].to_numpy(), return_index=True)
        return cls(user_id, table.drop(["user_id"]).take(pa.array(first)))


def user_columns(
    users: UserTable | None, specs: tuple[FeatureSpec, ...], user_id: np.ndarray
) -> dict[str, pa.ListArray]:
    """Returns the features of users [windows] by name; a user without a row has absent values."""
    if users is None:
        rows = pa.table({spec.column: pa.nulls(len(user_id)) for spec in specs})
    else:
        at = np.minimum(np.searchsorted(users.user_id, user_id), len(users.user_id) - 1)
        rows = users.rows.take(pa.array(at, mask=users.user_id[at] != user_id))
    return encode_columns(rows, specs, "users/")


def _events(batches: list[pa.RecordBatch]) -> Events:
    """Joins batches, whose integer widths and event type codes may differ."""
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
    # The in-memory runner holds several copies of all rows, and other runners shuffle them. Compression more
    # than halves the bytes, in the time that copying the rest would take.
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _from_ipc(content: bytes) -> pa.RecordBatch:
    with pa.ipc.open_stream(content) as reader:
        return reader.read_next_batch()


def _hash(ids: np.ndarray) -> np.ndarray:
    """Hashes ids by splitmix64's finaliser: consecutive ids spread evenly, alike on every machine."""
    x = ids.astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _narrow(largest: int) -> type[np.signedinteger[Any]]:
    """Returns the narrowest integer type that Arrow and NumPy share."""
    for kind in (np.int8, np.int16, np.int32):
        if largest <= np.iinfo(kind).max:
            return kind
    return np.int64


def _integers(values: pa.ChunkedArray) -> np.ndarray:
    numbers = values.to_numpy()
    wide = len(numbers) and int(numbers.max()) > np.iinfo(np.int32).max
    return numbers.astype(np.int64 if wide else np.int32)


def _filled(table: pa.Table, name: str, kind: type[Any]) -> np.ndarray:
    """Returns an optional column with UNKNOWN for null, or for a missing column."""
    if name not in table.column_names:
        return np.full(table.num_rows, features.UNKNOWN, kind)
    arrow = pa.from_numpy_dtype(kind)
    return pc.fill_null(table[name].cast(arrow), pa.scalar(features.UNKNOWN, arrow)).to_numpy()


def _event_types(values: pa.ChunkedArray | None, rows: int, label_event: str) -> tuple[np.ndarray, list[str]]:
    """Encodes event types as codes [rows] and their names; the label event alone is "listen", code 0."""
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
    # The index of a null is the last code.
    indices = pc.fill_null(encoded.indices, len(codes) - 1).to_numpy(zero_copy_only=False)
    return code_of[indices], names


def split_numbers(values: pa.ChunkedArray, path: str) -> np.ndarray:
    """Returns split numbers, int8 [rows], or raises UserError for a value that names no split."""
    numbers = pc.index_in(values.cast(pa.string()), value_set=pa.array(features.SPLITS))
    if numbers.null_count:
        unknown = values.filter(pc.is_null(numbers))
        raise UserError(
            f"{path}: column 'split': {unknown[0].as_py()!r} in one of {len(unknown)} rows that name no "
            f"split. Write one of {', '.join(features.SPLITS)}."
        )
    return numbers.to_numpy().astype(np.int8)
