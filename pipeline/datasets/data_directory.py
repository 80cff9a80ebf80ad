"""The data directory: Parquet tables that mean the same for every data set, and a manifest of their content.

`docs/datasets.md` describes the columns. The manifest holds a digest of every file: it is what caching keys
on and what tells that a file was edited after ingest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.datasets import checked_columns
from pipeline.errors import UserError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
ORACLE = "oracle"

# The columns with a meaning of their own, and those of them that a table cannot do without. A table may
# have other columns beside them.
COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "events": {
        "user_id": pa.int64(),
        "item_id": pa.int64(),
        "timestamp": pa.int64(),
        "event_type": pa.string(),
        "play_ratio": pa.float32(),
        "is_organic": pa.bool_(),
        "item_length": pa.float32(),
    },
    "items": {
        "item_id": pa.int64(),
        "artist_id": pa.list_(pa.int64()),
        "album_id": pa.list_(pa.int64()),
        "item_length": pa.float32(),
        "release_timestamp": pa.int64(),
        "title": pa.string(),
        "tags": pa.list_(pa.string()),
    },
    "users": {"user_id": pa.int64()},
}
REQUIRED = {"events": ("user_id", "item_id", "timestamp"), "items": ("item_id",), "users": ("user_id",)}

# Rows of a file and of a row group. An item may carry a vector of 512 bytes: its groups are smaller.
_FILE_ROWS = {"events": 4_000_000, "items": 1_000_000, "users": 4_000_000}
_GROUP_ROWS = {"events": 500_000, "items": 50_000, "users": 500_000}


@dataclasses.dataclass(frozen=True)
class DatasetProperties:
    """What a reader knows of its data set as a whole."""

    # The data set's identity, which stays while it grows: models of other data are never compared with.
    dataset: str
    # The event type that is predicted.
    label_event: str
    # May an item be recommended to a user who has had it? Music: yes. Films: no.
    repeats_recommendable: bool


@dataclasses.dataclass(frozen=True)
class DataFile:
    """One file of a data directory; `path` is relative to it."""

    path: str
    # 0 for a file that is no table.
    rows: int
    bytes: int
    digest: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a data directory holds."""

    dataset: str
    label_event: str
    repeats_recommendable: bool
    # First and last time of a label event, in seconds.
    time_range: tuple[int, int]
    # events, label_events, users, items
    counts: dict[str, int]
    # Width of the items' content embedding; 0 where they have none.
    has_embedding: int
    files: tuple[DataFile, ...]
    # What ingest left out, changed, and kept but found worth telling, each by its name.
    dropped: dict[str, int]
    repaired: dict[str, int]
    noted: dict[str, int]

    @property
    def digest(self) -> str:
        """Digest of the content: equal for equal data, however often, when and where it was written."""
        content = dataclasses.asdict(self)
        for history in ("dropped", "repaired", "noted"):
            del content[history]
        content["format_version"] = FORMAT_VERSION
        return "sha256:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def save(self, directory: str) -> None:
        """Writes `manifest.json`."""
        content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self), "digest": self.digest}
        with open(os.path.join(directory, MANIFEST), "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, directory: str) -> Manifest:
        """Reads `manifest.json`; the files it lists are looked at by `verify`.

        Raises:
          UserError: there is none, a key is missing or of the wrong type, it is of another version, or it was
            edited after ingest.
        """
        path = os.path.join(directory, MANIFEST)
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
        except FileNotFoundError:
            raise UserError(
                f"{directory} is not a data directory: it has no {MANIFEST}. "
                "Write one with `two-tower ingest`."
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: not readable as JSON ({error}). Run `two-tower ingest` again."
            ) from error
        version = content.get("format_version") if isinstance(content, dict) else None
        if version != FORMAT_VERSION:
            raise UserError(
                f"{path}: format_version is {version!r}, and this release reads {FORMAT_VERSION}. "
                "Run `two-tower ingest` again."
            )
        values = {
            field.name: _plain(content, field.name, str(field.type), path)
            for field in dataclasses.fields(cls)
        }
        manifest = cls(**values)
        if content.get("digest") != manifest.digest:
            raise UserError(
                f"{path}: key 'digest' does not match the rest of the manifest, which was edited. "
                "Run `two-tower ingest` again."
            )
        return manifest


def _plain(content: dict[str, Any], key: str, kind: str, path: str) -> Any:
    """The value of one of the manifest's keys, in the type of `Manifest`'s field."""
    try:
        value = content[key]
        if kind == "tuple[DataFile, ...]":
            return tuple(
                DataFile(str(f["path"]), int(f["rows"]), int(f["bytes"]), str(f["digest"])) for f in value
            )
        if kind == "tuple[int, int]":
            first, last = value
            return int(first), int(last)
        if kind == "dict[str, int]":
            return {str(name): int(count) for name, count in value.items()}
        if type(value).__name__ != kind:
            raise TypeError(f"{value!r} is not {kind}")
        return value
    except KeyError as error:
        raise UserError(f"{path}: key {error} is missing. Run `two-tower ingest` again.") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: key '{key}' is not as it should be ({error}). Run `two-tower ingest` again."
        ) from error


class KeyCounts:
    """Counts rows per distinct key over many batches, in memory that grows with the keys, not the rows."""

    def __init__(self) -> None:
        # Each: the key columns and, last, the count of rows; keys sorted and distinct.
        self._parts: list[tuple[np.ndarray, ...]] = []
        self._pending = 0

    def add(self, *keys: np.ndarray) -> None:
        """Counts rows by their key: one or more columns [n] of numbers."""
        self._parts.append(_grouped((*keys, np.ones(len(keys[0]), np.int64))))
        self._pending += len(self._parts[-1][0])
        if self._pending > max(4_000_000, len(self._parts[0][0])):
            self._parts = [self.result()]
            self._pending = 0

    def result(self) -> tuple[np.ndarray, ...]:
        """The key columns, each key once and sorted, and last the count of its rows."""
        return _grouped(tuple(np.concatenate(column) for column in zip(*self._parts, strict=True)))


def _grouped(columns: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    *keys, rows = columns
    order = np.lexsort(keys[::-1])
    if not len(order):
        return columns
    keys = [key[order] for key in keys]
    new = np.append(True, np.logical_or.reduce([np.diff(key) != 0 for key in keys]))
    first = np.flatnonzero(new)
    return (*(key[first] for key in keys), np.add.reduceat(rows[order], first))


class DataDirectoryWriter:
    """Writes a data directory beside its place and moves it there when all went well.

    ```python
    with DataDirectoryWriter("data", DatasetProperties("mine", "listen", True)) as writer:
        writer.write("events", pa.table({"user_id": [1], "item_id": [7], "timestamp": [0]}))
        writer.write("items", pa.table({"item_id": [7]}))
    print(writer.manifest.digest)
    ```

    After an exception nothing is left of it, and a data directory that stood there before is untouched. The
    bytes written do not depend on how the rows were cut into tables. Two writers of one place at a time are
    not provided for.

    Args:
      out: the data directory; one that exists is replaced.
      properties: what holds for the whole data set.

    Raises:
      UserError: `out` is something else than a data directory or cannot be written; at the end: there is no
        label event.
    """

    def __init__(self, out: str, properties: DatasetProperties) -> None:
        self.out = os.path.realpath(out)
        self.properties = properties
        self.dropped: Counter[str] = Counter()
        self.repaired: Counter[str] = Counter()
        self.noted: Counter[str] = Counter()
        self.label_events = 0
        self._staging = os.path.join(os.path.dirname(self.out), f".{os.path.basename(self.out)}.partial")
        self._tables: dict[str, _TableWriter] = {}
        self._users = KeyCounts()
        self._time_range = (0, 0)
        self._manifest: Manifest | None = None

    @property
    def manifest(self) -> Manifest:
        """What was written; known once the `with` block has ended."""
        if self._manifest is None:
            raise RuntimeError("The manifest is complete when the writer is closed.")
        return self._manifest

    def __enter__(self) -> DataDirectoryWriter:
        _check_replaceable(self.out)
        parent = os.path.dirname(self.out)
        self._new_parents = []
        while not os.path.isdir(parent):
            self._new_parents.append(parent)
            parent = os.path.dirname(parent)
        # What a killed ingest left behind.
        shutil.rmtree(self._staging, ignore_errors=True)
        try:
            os.makedirs(self._staging)
        except OSError as error:
            raise UserError(f"{self.out}: cannot be written there ({error}). Name another place.") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for table in self._tables.values():
                table.close(write=kind is None)
            if kind is None:
                self._manifest = self._summary()
                self._manifest.save(self._staging)
                self._move_into_place()
        finally:
            if os.path.exists(self._staging):
                shutil.rmtree(self._staging, ignore_errors=True)
                for parent in self._new_parents:
                    if not os.listdir(parent):
                        os.rmdir(parent)

    def write(self, table: str, rows: pa.Table | pa.RecordBatch) -> None:
        """Appends rows to the table "events", "items" or "users".

        Columns with a meaning (`COLUMNS`) are cast to their type; all calls for a table pass the same ones.
        """
        rows = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        rows = _in_order(table, rows)
        if table == "events":
            self._count_events(rows)
        if table not in self._tables:
            self._tables[table] = _TableWriter(self._staging, table, rows.schema)
        self._tables[table].write(rows)

    def copy(self, source: str, path: str) -> None:
        """Copies a file, such as the simulator's oracle, to `path` within the directory."""
        target = os.path.join(self._staging, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(source, target)

    def _count_events(self, rows: pa.Table) -> None:
        self._users.add(rows["user_id"].to_numpy())
        times = rows["timestamp"]
        if "event_type" in rows.column_names:
            times = times.filter(pc.equal(rows["event_type"], self.properties.label_event))
        if "play_ratio" in rows.column_names:
            self.noted["play_ratio_over_1"] += pc.sum(pc.greater(rows["play_ratio"], 1.0)).as_py() or 0
        if len(times):
            bounds = pc.min_max(times).as_py()
            first, last = self._time_range if self.label_events else (bounds["min"], bounds["max"])
            self._time_range = (min(first, bounds["min"]), max(last, bounds["max"]))
            self.label_events += len(times)

    def _summary(self) -> Manifest:
        if not self.label_events:
            raise UserError(
                f"The data set '{self.properties.dataset}' has no event of type "
                f"'{self.properties.label_event}', which is what is learned: check the source's event types."
            )
        users, events_of_user = self._users.result()
        self.noted["users_with_one_event"] += int((events_of_user == 1).sum())
        items = self._tables.get("items")
        events = self._tables["events"]
        return Manifest(
            **dataclasses.asdict(self.properties),
            time_range=self._time_range,
            counts={
                "events": events.rows,
                "label_events": self.label_events,
                "users": len(users),
                "items": items.rows if items else 0,
            },
            has_embedding=_embedding_width(items.schema) if items else 0,
            files=tuple(_describe(self._staging, path) for path in _files_in(self._staging)),
            dropped=_nonzero(self.dropped),
            repaired=_nonzero(self.repaired),
            noted=_nonzero(self.noted),
        )

    def _move_into_place(self) -> None:
        old = self._staging + ".old"
        shutil.rmtree(old, ignore_errors=True)
        if os.path.exists(self.out):
            os.rename(self.out, old)
        os.rename(self._staging, self.out)
        shutil.rmtree(old, ignore_errors=True)


class _TableWriter:
    """One table: files `part-00000.parquet`, ... of row groups that are full, whatever the rows came in."""

    def __init__(self, directory: str, table: str, schema: pa.Schema) -> None:
        self.schema = schema
        self.rows = 0
        self._folder = os.path.join(directory, table)
        self._group_rows, self._file_rows = _GROUP_ROWS[table], _FILE_ROWS[table]
        # Vectors and titles hardly repeat: looking for it costs more than the rest of the writing.
        self._dictionary = table == "events"
        self._pending: list[pa.Table] = []
        self._file: pq.ParquetWriter | None = None
        self._file_count = self._written = 0
        os.makedirs(self._folder)

    def write(self, rows: pa.Table) -> None:
        if not rows.schema.equals(self.schema):
            raise ValueError(f"The table's columns changed from {self.schema.names} to {rows.schema.names}.")
        self._pending.append(rows)
        self.rows += rows.num_rows
        waiting = pa.concat_tables(self._pending)
        while waiting.num_rows >= self._group_rows:
            self._write_group(waiting.slice(0, self._group_rows))
            waiting = waiting.slice(self._group_rows)
        self._pending = [waiting]

    def _write_group(self, rows: pa.Table) -> None:
        if self._file is not None and self._written >= self._file_rows:
            self._file.close()
            self._file = None
        if self._file is None:
            path = os.path.join(self._folder, f"part-{self._file_count:05d}.parquet")
            self._file = pq.ParquetWriter(path, self.schema, use_dictionary=self._dictionary)
            self._file_count, self._written = self._file_count + 1, 0
        self._file.write_table(rows.combine_chunks(), row_group_size=self._group_rows)
        self._written += rows.num_rows

    def close(self, write: bool) -> None:
        if write and (self._pending[0].num_rows or not self._file_count):
            self._write_group(self._pending[0])
        if self._file is not None:
            self._file.close()


def _in_order(table: str, rows: pa.Table) -> pa.Table:
    """The known columns first, cast to their types, then the others as they are."""
    known = COLUMNS[table]
    names = [name for name in known if name in rows.column_names]
    missing = set(REQUIRED[table]) - set(names)
    if missing:
        raise UserError(f"The {table} have no column {', '.join(sorted(missing))}, which is required.")
    columns = [rows[name].cast(known[name]) for name in names]
    for name in rows.column_names:
        if name not in known:
            names.append(name)
            columns.append(rows[name])
    fields = [pa.field(name, column.type) for name, column in zip(names, columns, strict=True)]
    return pa.table(columns, schema=pa.schema(fields))


def _check_replaceable(out: str) -> None:
    """Only an empty directory or a data directory with no other files in it may be replaced."""
    if not os.path.exists(out):
        return
    if not os.path.isdir(out):
        raise UserError(f"{out} exists and is a file: name a directory to write the data to.")
    entries = set(os.listdir(out))
    foreign = entries - {MANIFEST, ORACLE, *COLUMNS}
    if entries and (foreign or MANIFEST not in entries):
        example = min(foreign or entries)
        raise UserError(
            f"{out} exists and is not a data directory (it holds '{example}'): it is left as it is. "
            "Name another place."
        )


def _files_in(directory: str) -> list[str]:
    """Relative paths of all files in the directory's tables and oracle, sorted."""
    found = []
    for folder in (*COLUMNS, ORACLE):
        for parent, _, names in os.walk(os.path.join(directory, folder)):
            found += [os.path.relpath(os.path.join(parent, name), directory) for name in names]
    return sorted(path.replace(os.sep, "/") for path in found)


def _describe(directory: str, path: str) -> DataFile:
    full = os.path.join(directory, path)
    rows = pq.read_metadata(full).num_rows if path.endswith(".parquet") else 0
    return DataFile(path, rows, os.path.getsize(full), _digest(full))


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return "sha256:" + digest.hexdigest()


def _embedding_width(schema: pa.Schema) -> int:
    return schema.field("embedding").type.list_size if "embedding" in schema.names else 0


def _nonzero(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts) if counts[name]}


def event_files(directory: str) -> list[str]:
    """Paths of the events' files, in the order of their rows."""
    return _table_files(directory, "events")


def item_files(directory: str) -> list[str]:
    """Paths of the catalog's files."""
    return _table_files(directory, "items")


def _table_files(directory: str, table: str) -> list[str]:
    files = Manifest.load(directory).files
    return [os.path.join(directory, file.path) for file in files if file.path.startswith(table + "/")]


def verify(directory: str) -> Manifest:
    """Checks a data directory against its manifest, and its tables against what they have to be.

    Files are hashed as a stream; ids and times are judged by Parquet's own statistics where it has them; only
    the items are read, for an id that comes twice and for vectors that are not finite.

    Raises:
      UserError: a file is missing, was added or edited after ingest, or is cut off; a column is missing or of
        the wrong type; an id is null, negative or (of an item) not unique; a time is negative or not in
        seconds; a content embedding has another width than the manifest says, or a value that is not finite.
    """
    manifest = Manifest.load(directory)
    again = "Run `two-tower ingest` again."
    present, listed = set(_files_in(directory)), {file.path for file in manifest.files}
    for path in sorted(listed - present):
        raise UserError(f"{os.path.join(directory, path)}: the manifest lists it and it is missing. {again}")
    for path in sorted(present - listed):
        raise UserError(
            f"{os.path.join(directory, path)}: not in the manifest, so it was added after ingest. {again}"
        )
    for file in manifest.files:
        full = os.path.join(directory, file.path)
        if os.path.getsize(full) != file.bytes or _digest(full) != file.digest:
            raise UserError(
                f"{full}: its content is not what the manifest says: edited or cut off after ingest. {again}"
            )
    for table in ("events", "items"):
        rows = _verify_table(directory, table, manifest)
        if rows != manifest.counts.get(table):
            raise UserError(
                f"{os.path.join(directory, MANIFEST)}: key 'counts.{table}' is {manifest.counts.get(table)} "
                f"and the files have {rows} rows. {again}"
            )
    return manifest


def _verify_table(directory: str, table: str, manifest: Manifest) -> int:
    """Checks all files of a table and returns the count of its rows."""
    paths = [file.path for file in manifest.files if file.path.startswith(table + "/")]
    if not paths:
        raise UserError(f"{directory}: the table {table}/ is missing. Run `two-tower ingest` again.")
    rows, schema, seen = 0, None, np.zeros(0, np.int64)
    for path in (os.path.join(directory, path) for path in paths):
        file = checked_columns.open_parquet(path)
        _verify_types(file, path, table, manifest.has_embedding)
        schema = schema or file.schema_arrow
        if not file.schema_arrow.equals(schema):
            raise UserError(
                f"{path}: its columns differ from those of {paths[0]}: {file.schema_arrow.names}."
            )
        for column in (name for name in ("user_id", "timestamp") if name in schema.names):
            _verify_range(file, path, column)
        if table == "items":
            seen = np.concatenate([seen, *_item_ids(path)])
            if manifest.has_embedding:
                for first_row, batch in checked_columns.read_batches(path, ["embedding"], 50_000):
                    checked_columns.embeddings(
                        batch["embedding"], path, "embedding", manifest.has_embedding, first_row
                    )
        else:
            _verify_range(file, path, "item_id")
        rows += file.metadata.num_rows
    values, counts = np.unique(seen, return_counts=True)
    if (counts > 1).any():
        twice = values[np.argmax(counts > 1)]
        raise UserError(f"{os.path.join(directory, table)}: column 'item_id': {twice} has more than one row.")
    return rows


def _item_ids(path: str) -> Iterator[np.ndarray]:
    for first_row, batch in checked_columns.read_batches(path, ["item_id"]):
        yield checked_columns.ids(batch["item_id"], path, "item_id", first_row)


def _verify_types(file: pq.ParquetFile, path: str, table: str, embedding_width: int) -> None:
    schema = file.schema_arrow
    known = dict(COLUMNS[table])
    required = set(REQUIRED[table])
    if table == "items" and embedding_width:
        known["embedding"] = pa.list_(pa.float32(), embedding_width)
        required.add("embedding")
    for column, kind in known.items():
        if column not in schema.names:
            if column in required:
                raise UserError(f"{path}: column '{column}' is missing; it has {', '.join(schema.names)}.")
        elif schema.field(column).type != kind:
            raise UserError(
                f"{path}: column '{column}' is of type {schema.field(column).type}, where {kind} is needed."
            )


def _verify_range(file: pq.ParquetFile, path: str, column: str) -> None:
    """Ids are 0 or more, times within reason: by the row groups' statistics, else by reading the column."""
    newest = checked_columns.NEWEST_TIMESTAMP if column == "timestamp" else None
    metadata = file.metadata
    leaf = [metadata.schema.column(i).path for i in range(metadata.num_columns)].index(column)
    for group in range(metadata.num_row_groups):
        found = metadata.row_group(group).column(leaf).statistics
        if not (
            found is not None
            and found.has_min_max
            and found.has_null_count
            and found.null_count == 0
            and found.min >= 0
            and (newest is None or found.max <= newest)
        ):
            check = checked_columns.ids if newest is None else checked_columns.timestamps
            for first_row, batch in checked_columns.read_batches(path, [column]):
                check(batch[column], path, column, first_row)
            return
