"""Writes data directories: checked, in one schema, and put into their place when all of it is there."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections import Counter
from types import TracebackType
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns
from two_tower.data_directory.key_counts import KeyCounts
from two_tower.data_directory.manifest import (
    COLUMNS,
    DAY,
    MANIFEST,
    ORACLE,
    REQUIRED,
    SPAN_FOLDER,
    UPLOADED_NAME,
    DataFile,
    DatasetProperties,
    Manifest,
    check_splits,
    column_types,
    digest_of_file,
    files_of,
    first_difference,
    ids_in_file,
    sizes_of_files,
)
from two_tower.data_directory.merged_tables import NewRows, merge

# A number of days since 1970-01-01 on the data's own clock, or the day of the newest event; None: no spans.
Span = int | Literal["auto"] | None
AUTO: Literal["auto"] = "auto"

# Event types that an error names.
_SHOWN_TYPES = 8

# Rows of a file and of a row group. An item may carry a vector of 512 bytes: its groups are smaller.
_FILE_ROWS = {"events": 4_000_000, "items": 1_000_000, "users": 4_000_000}
_GROUP_ROWS = {"events": 500_000, "items": 50_000, "users": 500_000}


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

    A remote directory is written here and uploaded, the manifest last: until then what stood there before is
    read as before, and its files are deleted only afterwards.

    With a span, the events become `events/span-<number>/` of a directory that may exist: a span of this
    number is replaced, others stay as they are, and items and users are merged with those that are there
    (see `data_directory.merged_tables`).

    Args:
      out: the data directory, a path or URL; one that exists is replaced.
      properties: what holds for the whole data set.
      span: the span's number, in days since 1970-01-01 of the data's own clock; "auto" for the day of the
        newest event; None for a directory without spans.

    Raises:
      UserError: `out` is something else than a data directory or cannot be written, holds spans where `span`
        is None or no spans where it is not, or holds other data than this (its properties or columns differ);
        a column that is missing, changes its type or holds what it must not; at the end: there is no label
        event.
    """

    def __init__(self, out: str, properties: DatasetProperties, span: Span = None) -> None:
        out = storage.absolute(out)
        self.out = os.path.realpath(out) if storage.is_local(out) else out
        self.properties = properties
        self.dropped: Counter[str] = Counter()
        self.repaired: Counter[str] = Counter()
        self.noted: Counter[str] = Counter()
        self.label_events = 0
        self._span = span
        self._before: Manifest | None = None  # what is added to
        self._staging = ""
        self._new_parents: list[str] = []
        self._schemas: dict[str, pa.Schema] = {}
        self._tables: dict[str, _TableWriter | NewRows] = {}
        self._rows: Counter[str] = Counter()  # written so far, by table
        self._users, self._heard, self._days = KeyCounts(), KeyCounts(), KeyCounts()
        self._catalog: list[np.ndarray] = []
        self._time_range = (0, 0)
        self._other_types: set[str] = set()  # event types, until one is the label event
        self._manifest: Manifest | None = None
        _check_span(span)

    @property
    def manifest(self) -> Manifest:
        """What was written; known once the `with` block has ended."""
        if self._manifest is None:
            raise RuntimeError("The manifest is complete when the writer is closed.")
        return self._manifest

    def __enter__(self) -> DataDirectoryWriter:
        local = storage.is_local(self.out)
        try:
            if local:
                self._recover()
            _check_replaceable(self.out)
            self._before = self._added_to()
            if local:
                self._staging = self._beside(".partial")
                parent = os.path.dirname(self.out)
                while not os.path.isdir(parent):
                    self._new_parents.append(parent)
                    parent = os.path.dirname(parent)
                # What a killed ingest left behind.
                shutil.rmtree(self._staging, ignore_errors=True)
                os.makedirs(self._staging)
            else:
                self._staging = tempfile.mkdtemp(prefix="two-tower-ingest-")
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
                manifest = self._finished()
                if storage.is_local(self.out):
                    manifest.save(self._staging)
                    self._move_into_place(manifest)
                else:
                    manifest = self._upload(manifest)
                self._manifest = manifest
        finally:
            if os.path.exists(self._staging):
                shutil.rmtree(self._staging, ignore_errors=True)
                for parent in self._new_parents:
                    if not os.listdir(parent):
                        os.rmdir(parent)

    def write(self, table: str, rows: pa.Table | pa.RecordBatch) -> None:
        """Appends rows to the table "events", "items" or "users".

        Columns with a meaning (`COLUMNS`) are cast to their type; all calls for a table pass the same ones.
        Others are kept as they are, but for what is the same in another form: dictionaries are taken apart,
        large types become plain ones, and an `embedding` becomes a fixed-size list.

        Raises:
          UserError: see the class.
        """
        rows = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        rows = _in_order(table, rows, self._rows[table])
        rows = self._in_one_schema(table, rows)
        if table == "events":
            self._count_events(rows)
        elif table == "items":
            self._catalog.append(rows["item_id"].to_numpy())
        if table not in self._tables:
            merged = self._before is not None and table != "events" and files_of(self._before, table)
            self._tables[table] = (
                NewRows(os.path.join(self._staging, f"{table}.new"), rows.schema)
                if merged
                else _TableWriter(os.path.join(self._staging, table), table, rows.schema)
            )
        self._tables[table].write(rows)
        self._rows[table] += rows.num_rows

    def copy(self, source: str, path: str) -> None:
        """Copies a file, such as the simulator's oracle, to `path` within the directory."""
        target = os.path.join(self._staging, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with storage.open_file(source) as original, open(target, "wb") as copied:
            shutil.copyfileobj(original, copied)

    # ── What may be written ────────────────────────────────────────────────────────────────────────────

    def _added_to(self) -> Manifest | None:
        """The manifest of the directory that the span is added to; None where there is none or no span."""
        if not storage.is_file(storage.join(self.out, MANIFEST)):
            return None
        if self._span is None:
            try:
                spans = Manifest.load(self.out).spans
            except UserError:
                # One that cannot be read, such as an older version's, is replaced, unless it holds spans.
                there = map(SPAN_FOLDER.match, storage.list_files(self.out))
                spans = tuple(sorted({int(folder[1]) for folder in there if folder}))
            if spans:
                raise UserError(
                    f"{self.out} holds {len(spans)} spans, the newest {spans[-1]}, which writing without a "
                    "span would delete: name a span (--span), another place, or delete the directory first."
                )
            return None
        before = Manifest.load(self.out)
        if not before.spans:
            raise UserError(
                f"{self.out} holds events that are not divided into spans, to which none can be added: "
                "name another place, or ingest all of it in spans."
            )
        for name, value in dataclasses.asdict(self.properties).items():
            if value != getattr(before, name):
                remedy = "Name another place" + (", or the same --name." if name == "dataset" else ".")
                raise UserError(
                    f"{self.out}: its {name} is {getattr(before, name)!r}, and the new span's is {value!r}: "
                    f"they are not one data set. {remedy}"
                )
        return before

    def _in_one_schema(self, table: str, rows: pa.Table) -> pa.Table:
        """All batches of a table have one schema, which is also that of the directory added to."""
        there = self._before.columns.get(table) if self._before else None
        if table not in self._schemas:
            if there is not None and (found := first_difference(there, column_types(rows.schema))):
                column, old, new = found
                raise UserError(
                    f"{self.out}: column '{column}' of the {table} is {old} there and {new} in the new span. "
                    "Bring the new rows into the same columns, or ingest all into another place."
                )
            rows = rows.select(list(there) if there else rows.column_names)
            self._schemas[table] = rows.schema
            return rows
        schema = self._schemas[table]
        if found := first_difference(column_types(schema), column_types(rows.schema)):
            column, old, new = found
            raise UserError(
                f"Column '{column}' of the {table} is {old} in the first rows and {new} from row "
                f"{self._rows[table]} on: bring it to one type."
            )
        return rows.select(schema.names)

    def _count_events(self, rows: pa.Table) -> None:
        self._users.add(rows["user_id"].to_numpy())
        self._heard.add(rows["item_id"].to_numpy())
        has_times = "timestamp" in rows.column_names
        if has_times and self._span is not None:
            self._days.add(rows["timestamp"].to_numpy() // DAY)
        times = rows["timestamp" if has_times else "order"]
        if "event_type" in rows.column_names:
            times = times.filter(pc.equal(rows["event_type"], self.properties.label_event))
            if not self.label_events and not len(times):
                self._other_types.update(pc.unique(rows["event_type"].drop_null()).to_pylist())
        if "play_ratio" in rows.column_names:
            self.noted["play_ratio_over_1"] += pc.sum(pc.greater(rows["play_ratio"], 1.0)).as_py() or 0
        if len(times) and has_times:
            bounds = pc.min_max(times).as_py()
            first, last = self._time_range if self.label_events else (bounds["min"], bounds["max"])
            self._time_range = (min(first, bounds["min"]), max(last, bounds["max"]))
        self.label_events += len(times)

    # ── What was written ───────────────────────────────────────────────────────────────────────────────

    def _finished(self) -> Manifest:
        """Completes the files in the staging place, and says what the whole directory will hold."""
        before, span = self._before, self._settled_span()
        if not self._rows["events"]:
            raise UserError(f"The data set '{self.properties.dataset}' has no events.")
        if span is not None:
            self._put_into_span(span)
        for table, written in self._tables.items():
            if isinstance(written, NewRows):
                self._merge(table, written)
        staged = [_describe(self._staging, path) for path in _files_in(self._staging)]
        replaced = tuple(
            f"events/span-{span}/" if folder == "events" else f"{folder}/"
            for folder in {file.path.split("/")[0] for file in staged}
        )
        kept = [file for file in (before.files if before else ()) if not file.path.startswith(replaced)]
        files = tuple(sorted([*kept, *staged], key=lambda file: _row_order(file.path)))

        span_counts: dict[str, dict[str, int]] = {}
        if span is not None:
            span_counts = dict(before.span_counts) if before else {}
            first, last = self._time_range
            span_counts[str(span)] = {
                "events": self._rows["events"],
                "label_events": self.label_events,
                "first": first,
                "last": last,
            }
            span_counts = {number: span_counts[number] for number in sorted(span_counts, key=int)}
        label_events, time_range = self.label_events, self._time_range
        if span_counts:
            with_labels = [counts for counts in span_counts.values() if counts["label_events"]]
            label_events = sum(counts["label_events"] for counts in with_labels)
            time_range = (
                min((counts["first"] for counts in with_labels), default=0),
                max((counts["last"] for counts in with_labels), default=0),
            )
        if not label_events:
            shown = sorted(self._other_types)[:_SHOWN_TYPES]
            others = f"its types are {', '.join(map(repr, shown))}" if shown else "no event has a type"
            raise UserError(
                f"The data set '{self.properties.dataset}' has no event of type "
                f"'{self.properties.label_event}', which is what is learned; {others}"
                f"{' and more' if len(self._other_types) > len(shown) else ''}: is the label event right?"
            )

        self._note(kept)
        columns = dict(before.columns) if before else {}
        columns |= {table: column_types(schema) for table, schema in self._schemas.items()}
        rows = {
            table: sum(file.rows for file in files if file.path.startswith(table + "/")) for table in COLUMNS
        }
        users = self._users.result()[0]
        return Manifest(
            **dataclasses.asdict(self.properties),
            has_timestamps="timestamp" in columns["events"],
            has_splits="split" in columns["events"],
            time_range=time_range,
            counts={
                "events": rows["events"],
                "label_events": label_events,
                "users": len(users),
                "items": rows["items"],
                "user_rows": rows["users"],
            },
            has_embedding=(
                _embedding_width(self._schemas["items"])
                if "items" in self._schemas
                else (before.has_embedding if before else 0)
            ),
            columns={table: columns[table] for table in COLUMNS if table in columns},
            spans=tuple(map(int, span_counts)),
            span_counts=span_counts,
            files=files,
            dropped=_nonzero(self.dropped),
            repaired=_nonzero(self.repaired),
            noted=_nonzero(self.noted),
        )

    def _settled_span(self) -> int | None:
        """The span's number, now that "auto" is known."""
        if self._span is None or not self._rows["events"]:
            return None
        if "timestamp" not in self._schemas["events"].names:
            if self._span == AUTO:
                raise UserError(
                    "The events have no times that would tell their span: name its number (--span N)."
                )
            return self._span
        days, events = self._days.result()
        span = int(days[-1]) if self._span == AUTO else self._span
        self.noted["events_older_than_their_span"] += int(events[days < span].sum())
        self.noted["events_newer_than_their_span"] += int(events[days > span].sum())
        return span

    def _put_into_span(self, span: int) -> None:
        events, aside = (os.path.join(self._staging, name) for name in ("events", "events.new"))
        os.rename(events, aside)
        os.mkdir(events)
        os.rename(aside, os.path.join(events, f"span-{span}"))

    def _merge(self, table: str, new: NewRows) -> None:
        assert self._before is not None
        written = _TableWriter(os.path.join(self._staging, table), table, new.schema)
        old = [storage.join(self.out, file.path) for file in files_of(self._before, table)]
        try:
            merge(old, new, REQUIRED[table][0], written.write)
        except UserError as error:
            raise UserError(f"The {table}: {error}") from error
        written.close(write=True)
        os.remove(new.path)
        if table == "items":
            self._catalog = []
            for file in _files_in(self._staging):
                if file.startswith("items/"):
                    self._catalog += ids_in_file(os.path.join(self._staging, file), "item_id")

    def _note(self, kept: list[DataFile]) -> None:
        """Counts users and items over all spans, and what in this one has no row in the catalog or users/."""
        if self._before and not self._rows["items"]:
            for file in files_of(self._before, "items"):
                self._catalog += ids_in_file(storage.join(self.out, file.path), "item_id")
        if self._catalog:
            heard, events = self._heard.result()
            unknown = ~np.isin(heard, np.concatenate(self._catalog))
            self.noted["items_without_row_in_catalog"] += int(unknown.sum())
            self.noted["events_of_items_not_in_catalog"] += int(events[unknown].sum())
        # Spans that stay: their users are counted anew, because a user may be in any number of spans.
        for file in kept:
            if file.path.startswith("events/"):
                for users in ids_in_file(storage.join(self.out, file.path), "user_id"):
                    self._users.add(users)
        self.noted["users_with_one_event"] += int((self._users.result()[1] == 1).sum())

    # ── Into its place ─────────────────────────────────────────────────────────────────────────────────

    def _beside(self, suffix: str) -> str:
        """A hidden place on the same disk, from which renaming is one step."""
        return os.path.join(os.path.dirname(self.out), f".{os.path.basename(self.out)}{suffix}")

    def _recover(self) -> None:
        """Puts back what a process killed between the two renames of `_move_into_place` had moved away."""
        old = self._beside(".partial.old")
        if os.path.isdir(old) and not os.path.exists(self.out):
            os.rename(old, self.out)

    def _move_into_place(self, manifest: Manifest) -> None:
        for file in manifest.files:
            target = os.path.join(self._staging, file.path)
            if not os.path.exists(target):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                try:
                    _link(os.path.join(self.out, file.path), target)
                except FileNotFoundError as error:
                    raise UserError(
                        f"{os.path.join(self.out, file.path)}: the manifest lists it and it is missing. "
                        "Ingest the whole data set into another place."
                    ) from error
        old = self._beside(".partial.old")
        shutil.rmtree(old, ignore_errors=True)
        if os.path.exists(self.out):
            os.rename(self.out, old)
        os.rename(self._staging, self.out)
        shutil.rmtree(old, ignore_errors=True)

    def _upload(self, manifest: Manifest) -> Manifest:
        """Uploads the new files under names that no other file has, then the manifest, which makes them
        count, and deletes what it no longer lists.
        """
        there = sizes_of_files(self.out)
        uploaded: list[str] = []
        files = []
        try:
            for file in manifest.files:
                staged = os.path.join(self._staging, file.path)
                if os.path.exists(staged):
                    file = dataclasses.replace(file, path=_uploaded_path(file))
                    if there.get(file.path) != file.bytes:
                        uploaded.append(file.path)
                        storage.upload(staged, storage.join(self.out, file.path))
                files.append(file)
        except BaseException as error:
            for path in uploaded:
                with contextlib.suppress(OSError):
                    storage.remove_file(storage.join(self.out, path))
            if isinstance(error, OSError):
                raise UserError(f"{self.out}: cannot be written there ({error}).") from error
            raise
        manifest = dataclasses.replace(manifest, files=tuple(files))
        try:
            manifest.save(self.out)
        except OSError as error:
            # It may have arrived all the same: the new files stay, and the next ingest clears up.
            raise UserError(f"{self.out}: {MANIFEST} cannot be written there ({error}).") from error
        listed = {file.path for file in files}
        for path in sorted(set(there) - listed):
            # What cannot be deleted costs room and is read by nobody.
            with contextlib.suppress(OSError):
                storage.remove_file(storage.join(self.out, path))
        return manifest


class _TableWriter:
    """One table: files `part-00000.parquet`, ... of row groups that are full, whatever the rows came in."""

    def __init__(self, folder: str, table: str, schema: pa.Schema) -> None:
        self.schema = schema
        self.rows = 0
        self._folder = folder
        self._group_rows, self._file_rows = _GROUP_ROWS[table], _FILE_ROWS[table]
        # Vectors and titles hardly repeat: looking for it costs more than the rest of the writing.
        self._dictionary = table == "events"
        self._pending: list[pa.Table] = []
        self._file: pq.ParquetWriter | None = None
        self._file_count = self._written = 0
        os.makedirs(self._folder)

    def write(self, rows: pa.Table) -> None:
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


def _in_order(table: str, rows: pa.Table, first_row: int) -> pa.Table:
    """The known columns first, cast to their types, then the others in their plain form.

    Args:
      first_row: the number of the first row among all of the table, for errors.

    Raises:
      UserError: a required column is missing, cannot be cast, or holds what it must not.
    """
    if table not in COLUMNS:
        raise UserError(f"There is no table '{table}': the tables are {', '.join(COLUMNS)}.")
    if twice := [name for name in rows.column_names if rows.column_names.count(name) > 1]:
        raise UserError(f"The {table} have two columns '{twice[0]}': rename one of them.")
    known = COLUMNS[table]
    names = [name for name in known if name in rows.column_names]
    required = [*REQUIRED[table], *(["timestamp"] if table == "events" and "order" not in names else [])]
    if missing := sorted(set(required) - set(names)):
        or_order = " or order" if "timestamp" in missing else ""
        raise UserError(f"The {table} have no column {', '.join(missing)}{or_order}, which is required.")
    if "timestamp" in names and "order" in names:
        raise UserError("The events have both timestamp and order: the order is for data without times.")
    columns = []
    for name in names:
        try:
            columns.append(rows[name].cast(known[name]))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UserError(
                f"Column '{name}' of the {table} is {rows[name].type} and cannot be made {known[name]} "
                f"({str(error).splitlines()[0]})."
            ) from error
    if "split" in names:
        check_splits(rows["split"], "The events", first_row)
    for name in rows.column_names:
        if name not in known:
            names.append(name)
            column = rows[name]
            if table == "items" and name == "embedding":
                columns.append(_fixed_width(column, first_row))
            else:
                columns.append(column.cast(_plain_type(column.type)))
                if pa.types.is_fixed_size_list(column.type) and column.null_count:
                    at = first_row + int(np.argmax(column.is_null().to_numpy()))
                    raise UserError(
                        f"The {table}: column '{name}', row {at}: null among vectors, which Parquet as Arrow "
                        "10 writes it cannot hold; zeros mean that it is unknown."
                    )
    fields = [pa.field(name, column.type) for name, column in zip(names, columns, strict=True)]
    return pa.table(columns, schema=pa.schema(fields))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """The type in which the same values are stored, so that readers have one form to know."""
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    return kind


def _fixed_width(column: pa.ChunkedArray, first_row: int) -> pa.Array:
    """Content embeddings as fixed_size_list<float32>: the first one's width is all others'."""
    kind = column.type
    if not checked_columns.KINDS["list of numbers"](kind):
        raise UserError(f"Column 'embedding' of the items is {kind}, where lists of numbers are needed.")
    values = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], kind)
    if pa.types.is_fixed_size_list(kind):
        width = kind.list_size
    else:
        width = max((len(value) for value in values.slice(0, 1) if value.is_valid), default=0)
    vectors = checked_columns.embeddings(values, "The items", "embedding", width, first_row)
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), width)


def _check_span(span: Span) -> None:
    newest = checked_columns.NEWEST_TIMESTAMP // DAY
    if span is None or span == AUTO:
        return
    if not isinstance(span, int) or not 0 <= span <= newest:
        raise UserError(
            f"{span!r} is no span: a span is the number of days since 1970-01-01 on the data's own clock, "
            f"from 0 to {newest:,}, or '{AUTO}', the day of the newest event."
        )


def _check_replaceable(out: str) -> None:
    """Only an empty directory or a data directory with no other files in it may be replaced."""
    if not storage.exists(out):
        return
    if not storage.is_directory(out):
        raise UserError(f"{out} exists and is a file: name a directory to write the data to.")
    if storage.is_local(out):
        entries = set(os.listdir(out))
        begun = False
    else:
        paths = storage.list_files(out)
        entries = {path.split("/")[0] for path in paths}
        # What a killed upload left behind has names that nothing else has.
        begun = all(UPLOADED_NAME.fullmatch(path) for path in paths)
    foreign = entries - {MANIFEST, ORACLE, *COLUMNS}
    if entries and (foreign or (MANIFEST not in entries and not begun)):
        example = min(foreign or entries)
        raise UserError(
            f"{out} exists and is not a data directory (it holds '{example}'): it is left as it is. "
            "Name another place."
        )


def _files_in(directory: str) -> list[str]:
    return list(sizes_of_files(directory))


def _describe(directory: str, path: str) -> DataFile:
    full = os.path.join(directory, path)
    rows = pq.read_metadata(full).num_rows if path.endswith(".parquet") else 0
    return DataFile(path, rows, os.path.getsize(full), digest_of_file(full))


def _uploaded_path(file: DataFile) -> str:
    """A path that no other content has: what is there under it is this file."""
    stem, extension = os.path.splitext(file.path)
    return f"{stem}-{file.digest.removeprefix('sha256:')[:12]}{extension}"


def _row_order(path: str) -> tuple[str, int, str]:
    """The order of a table's files: spans by number."""
    span = SPAN_FOLDER.match(path)
    return path.split("/")[0], int(span[1]) if span else -1, path


def _link(source: str, target: str) -> None:
    """The same file under another name too; a copy where the disk knows no such thing."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def _embedding_width(schema: pa.Schema) -> int:
    return schema.field("embedding").type.list_size if "embedding" in schema.names else 0


def _nonzero(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts) if counts[name]}
