"""The data directory: Parquet tables that mean the same for every data set, and a manifest of their content.

`docs/datasets.md` describes the columns. The manifest holds a digest of every file: it is what caching keys
on and what tells that a file was edited after ingest. It is also what makes a directory one: files that it
does not list are not read. The directory may be a URL (see `pipeline.storage`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.datasets import checked_columns
from pipeline.datasets.key_counts import KeyCounts
from pipeline.datasets.merged_tables import NewRows, merge
from pipeline.errors import UserError

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
ORACLE = "oracle"
DAY = 86_400

# A number of days since 1970-01-01 on the data's own clock, or the day of the newest event; None: no spans.
Span = int | Literal["auto"] | None
AUTO: Literal["auto"] = "auto"

# The columns with a meaning of their own, and those of them that a table cannot do without. A table may
# have other columns beside them.
COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "events": {
        "user_id": pa.int64(),
        "item_id": pa.int64(),
        "timestamp": pa.int64(),
        "order": pa.int64(),
        "event_type": pa.string(),
        "play_ratio": pa.float32(),
        "is_organic": pa.bool_(),
        "item_length": pa.float32(),
        "split": pa.string(),
    },
    "items": {
        "item_id": pa.int64(),
        "artist_id": pa.list_(pa.int64()),
        "album_id": pa.list_(pa.int64()),
        "item_length": pa.float32(),
        "release_timestamp": pa.int64(),
        "title": pa.string(),
        "tags": pa.list_(pa.string()),
        "available": pa.bool_(),
    },
    "users": {"user_id": pa.int64()},
}
# Events have a `timestamp` or an `order` besides.
REQUIRED = {"events": ("user_id", "item_id"), "items": ("item_id",), "users": ("user_id",)}
SPLIT_NAMES = ("train", "eval", "test")

# Event types that an error names.
_SHOWN_TYPES = 8

_SPAN_FOLDER = re.compile(r"events/span-(\d+)/")
# Where a directory is replaced file by file, a file's name holds the start of its digest.
_UPLOADED = re.compile(r"(.*)-[0-9a-f]{12}(\.[a-z]+)")

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
    # Without times the events have an `order`, and there are no features of time.
    has_timestamps: bool
    # Do the events say which split they belong to?
    has_splits: bool
    # First and last time of a label event, in seconds; (0, 0) without times.
    time_range: tuple[int, int]
    # events, label_events, users (of the events), items and user_rows (rows of the tables)
    counts: dict[str, int]
    # Width of the items' content embedding; 0 where they have none.
    has_embedding: int
    # table -> column -> Arrow type as text, such as "list<item: string>"
    columns: dict[str, dict[str, str]]
    # Numbers of the spans, rising; () where the events are not divided into spans.
    spans: tuple[int, ...]
    # span -> events, label_events, and first and last, the times of its first and last label event
    span_counts: dict[str, dict[str, int]]
    files: tuple[DataFile, ...]
    # What ingest left out, changed, and kept but found worth telling, each by its name. Where there are
    # spans, it is the latest ingest's.
    dropped: dict[str, int]
    repaired: dict[str, int]
    noted: dict[str, int]

    @property
    def digest(self) -> str:
        """Digest of the content: equal for equal data, however often, when and where it was written."""
        content = dataclasses.asdict(self)
        for history in ("dropped", "repaired", "noted"):
            del content[history]
        for file in content["files"]:
            file["path"] = _plain_path(file["path"])
        content["format_version"] = FORMAT_VERSION
        return "sha256:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def save(self, directory: str) -> None:
        """Writes `manifest.json`."""
        content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self), "digest": self.digest}
        with storage.open_file(storage.join(directory, MANIFEST), "w") as file:
            file.write(json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, directory: str) -> Manifest:
        """Reads `manifest.json`; the files it lists are looked at by `verify`.

        Raises:
          UserError: there is none, a key is missing or of the wrong type, it is of another version, or it was
            edited after ingest.
        """
        path = storage.join(directory, MANIFEST)
        try:
            with storage.open_file(path, "r") as file:
                content = json.load(file)
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{directory} is not a data directory: it has no {MANIFEST}. "
                "Write one with `two-tower ingest`."
            ) from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error}).") from error
        except ValueError as error:
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
        if kind == "tuple[int, ...]":
            return tuple(int(number) for number in value)
        if kind == "dict[str, int]":
            return {str(name): int(count) for name, count in value.items()}
        if kind == "dict[str, dict[str, int]]":
            return {str(name): {str(k): int(n) for k, n in inner.items()} for name, inner in value.items()}
        if kind == "dict[str, dict[str, str]]":
            return {str(name): {str(k): str(t) for k, t in inner.items()} for name, inner in value.items()}
        if type(value).__name__ != kind:
            raise TypeError(f"{value!r} is not {kind}")
        return value
    except KeyError as error:
        raise UserError(f"{path}: key {error} is missing. Run `two-tower ingest` again.") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: key '{key}' is not as it should be ({error}). Run `two-tower ingest` again."
        ) from error


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
    (see `pipeline.datasets.merged_tables`).

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
            merged = self._before is not None and table != "events" and _files_of(self._before, table)
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
                there = map(_SPAN_FOLDER.match, storage.list_files(self.out))
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
            if there is not None and (found := _difference(there, _texts(rows.schema))):
                column, old, new = found
                raise UserError(
                    f"{self.out}: column '{column}' of the {table} is {old} there and {new} in the new span. "
                    "Bring the new rows into the same columns, or ingest all into another place."
                )
            rows = rows.select(list(there) if there else rows.column_names)
            self._schemas[table] = rows.schema
            return rows
        schema = self._schemas[table]
        if found := _difference(_texts(schema), _texts(rows.schema)):
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
        columns |= {table: _texts(schema) for table, schema in self._schemas.items()}
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
        old = [storage.join(self.out, file.path) for file in _files_of(self._before, table)]
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
                    self._catalog += _column(os.path.join(self._staging, file), "item_id")

    def _note(self, kept: list[DataFile]) -> None:
        """Counts users and items over all spans, and what in this one has no row in the catalog or users/."""
        if self._before and not self._rows["items"]:
            for file in _files_of(self._before, "items"):
                self._catalog += _column(storage.join(self.out, file.path), "item_id")
        if self._catalog:
            heard, events = self._heard.result()
            unknown = ~np.isin(heard, np.concatenate(self._catalog))
            self.noted["items_without_row_in_catalog"] += int(unknown.sum())
            self.noted["events_of_items_not_in_catalog"] += int(events[unknown].sum())
        # Spans that stay: their users are counted anew, because a user may be in any number of spans.
        for file in kept:
            if file.path.startswith("events/"):
                for users in _column(storage.join(self.out, file.path), "user_id"):
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
        there = _sizes(self.out)
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
        _check_splits(rows["split"], "The events", first_row)
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


def _check_splits(column: pa.ChunkedArray | pa.Array, where: str, first_row: int) -> None:
    """Raises UserError for the first value that names no split."""
    known = pc.is_in(column, value_set=pa.array(SPLIT_NAMES).cast(column.type))
    if not pc.all(known).as_py() and len(column):
        at = int(np.argmin(known.to_numpy() if isinstance(known, pa.ChunkedArray) else np.asarray(known)))
        value = column[at].as_py()
        raise checked_columns.refuse(
            where,
            "split",
            first_row + at,
            "null" if value is None else repr(value),
            f"is none of {', '.join(SPLIT_NAMES)}.",
        )


def _texts(schema: pa.Schema) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema}


def _difference(one: Mapping[str, str], other: Mapping[str, str]) -> tuple[str, str, str] | None:
    """The first column that is not the same in both, and what it is in each; None if they are all."""
    for column in [*one, *other]:
        if one.get(column) != other.get(column):
            return column, one.get(column, "missing"), other.get(column, "missing")
    return None


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
        begun = all(_UPLOADED.fullmatch(path) for path in paths)
    foreign = entries - {MANIFEST, ORACLE, *COLUMNS}
    if entries and (foreign or (MANIFEST not in entries and not begun)):
        example = min(foreign or entries)
        raise UserError(
            f"{out} exists and is not a data directory (it holds '{example}'): it is left as it is. "
            "Name another place."
        )


def _sizes(directory: str) -> dict[str, int]:
    """Relative paths and bytes of all files in the directory's tables and oracle, sorted."""
    sizes = storage.list_sizes(directory)
    return {path: sizes[path] for path in sorted(sizes) if path.split("/")[0] in (*COLUMNS, ORACLE)}


def _files_in(directory: str) -> list[str]:
    return list(_sizes(directory))


def _describe(directory: str, path: str) -> DataFile:
    full = os.path.join(directory, path)
    rows = pq.read_metadata(full).num_rows if path.endswith(".parquet") else 0
    return DataFile(path, rows, os.path.getsize(full), _digest(full))


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with storage.open_file(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return "sha256:" + digest.hexdigest()


def _uploaded_path(file: DataFile) -> str:
    """A path that no other content has: what is there under it is this file."""
    stem, extension = os.path.splitext(file.path)
    return f"{stem}-{file.digest.removeprefix('sha256:')[:12]}{extension}"


def _plain_path(path: str) -> str:
    """A file's path without the part of its digest that an upload gives it."""
    found = _UPLOADED.fullmatch(path)
    return "".join(found.groups()) if found else path


def _row_order(path: str) -> tuple[str, int, str]:
    """The order of a table's files: spans by number."""
    span = _SPAN_FOLDER.match(path)
    return path.split("/")[0], int(span[1]) if span else -1, path


def _link(source: str, target: str) -> None:
    """The same file under another name too; a copy where the disk knows no such thing."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def _column(path: str, name: str) -> Iterator[np.ndarray]:
    for first_row, batch in checked_columns.read_batches(path, [name]):
        yield checked_columns.ids(batch[name], path, name, first_row)


def _embedding_width(schema: pa.Schema) -> int:
    return schema.field("embedding").type.list_size if "embedding" in schema.names else 0


def _nonzero(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts) if counts[name]}


# ── Reading ─────────────────────────────────────────────────────────────────────────────────────────────


def event_files(directory: str, spans: int = 0) -> list[str]:
    """Paths of the events' files, in the order of their rows: spans by number.

    Args:
      directory: the data directory.
      spans: how many of the newest spans; 0 for all, and for events that are not divided into spans.

    Raises:
      UserError: spans are asked for and the directory has none.
    """
    manifest = Manifest.load(directory)
    if not spans:
        return _paths(directory, manifest, "events")
    if not manifest.spans:
        raise UserError(
            f"{directory}: the newest {spans} spans are asked for (windows.spans), and its events are not "
            "divided into spans. Set windows.spans to 0."
        )
    taken = manifest.spans[-spans:]
    return [path for span in taken for path in _paths(directory, manifest, f"events/span-{span}")]


def item_files(directory: str) -> list[str]:
    """Paths of the catalog's files."""
    return _paths(directory, Manifest.load(directory), "items")


def user_files(directory: str) -> list[str]:
    """Paths of the files of users/; [] where there is no such table."""
    return _paths(directory, Manifest.load(directory), "users")


def oracle_file(directory: str, name: str) -> str | None:
    """The path of a file of oracle/, such as "queries.parquet"; None where there is none."""
    if storage.is_local(directory):
        path = storage.join(directory, ORACLE, name)
        return path if storage.is_file(path) else None
    for file in Manifest.load(directory).files:
        if _plain_path(file.path) == f"{ORACLE}/{name}":
            return storage.join(directory, file.path)
    return None


def _files_of(manifest: Manifest, folder: str) -> list[DataFile]:
    return [file for file in manifest.files if file.path.startswith(folder + "/")]


def _paths(directory: str, manifest: Manifest, folder: str) -> list[str]:
    return [storage.join(directory, file.path) for file in _files_of(manifest, folder)]


# ── Verifying ───────────────────────────────────────────────────────────────────────────────────────────


def verify(directory: str) -> Manifest:
    """Checks a data directory against its manifest, and its tables against what they have to be.

    Ingest checks what it writes; this also covers directories written by hand, and files edited since. Ids
    and times are checked by the statistics in the files' footers, and read only where these are missing.

    Returns:
      The manifest.

    Raises:
      UserError: a file is missing, was added or edited after ingest, or is cut off; a column is missing, of
        the wrong type, or of another type than in the table's other files or the manifest; an id is null,
        negative or (of an item or user in its table) not unique; a time is negative or not in seconds, an
        order negative, a split unknown; a content embedding has another width than the manifest says, or a
        value that is not finite; spans or counts are not those of the manifest.
    """
    manifest = Manifest.load(directory)
    again = "Run `two-tower ingest` again."
    present, listed = _sizes(directory), {file.path for file in manifest.files}
    for path in sorted(listed - set(present)):
        raise UserError(f"{storage.join(directory, path)}: the manifest lists it and it is missing. {again}")
    for path in sorted(set(present) - listed):
        # An upload that is under way, or was killed, has put it there: it is no part of the directory.
        if storage.is_local(directory) or not _UPLOADED.fullmatch(path):
            raise UserError(
                f"{storage.join(directory, path)}: not in the manifest, so it was added after ingest. {again}"
            )
    for file in manifest.files:
        full = storage.join(directory, file.path)
        if present[file.path] != file.bytes or _digest(full) != file.digest:
            raise UserError(
                f"{full}: its content is not what the manifest says: edited or cut off after ingest. {again}"
            )
    _verify_spans(directory, manifest)
    columns = manifest.columns.get("events", {})
    facts: dict[str, tuple[object, object]] = {
        "has_timestamps": (manifest.has_timestamps, "timestamp" in columns),
        "has_splits": (manifest.has_splits, "split" in columns),
    }
    for table, count in (("events", "events"), ("items", "items"), ("users", "user_rows")):
        rows = _verify_table(directory, table, manifest)
        facts[f"counts.{count}"] = (manifest.counts.get(count), rows)
    for key, (said, found) in facts.items():
        if said != found:
            found = f"{found} rows" if key.startswith("counts") else found
            raise UserError(
                f"{storage.join(directory, MANIFEST)}: key '{key}' is {said} and the files have {found}. "
                f"{again}"
            )
    return manifest


def _verify_spans(directory: str, manifest: Manifest) -> None:
    """The spans of the manifest are those that the events' files lie in, with as many rows."""
    rows: Counter[int | None] = Counter()
    for file in _files_of(manifest, "events"):
        span = _SPAN_FOLDER.match(file.path)
        rows[int(span[1]) if span else None] += file.rows
    said = {span: manifest.span_counts.get(str(span), {}).get("events") for span in manifest.spans}
    found = {span: rows[span] for span in sorted(span for span in rows if span is not None)}
    if said != found or list(said) != sorted(said) or (found and None in rows):
        raise UserError(
            f"{storage.join(directory, MANIFEST)}: key 'spans' is not what lies in events/: {list(said)} and "
            f"{list(found)}, with {list(said.values())} and {list(found.values())} events. "
            "Run `two-tower ingest` again."
        )


def _verify_table(directory: str, table: str, manifest: Manifest) -> int:
    """Checks all files of a table and returns the count of its rows."""
    paths = _paths(directory, manifest, table)
    if not paths:
        if table == "users":
            return 0
        raise UserError(f"{directory}: the table {table}/ is missing. Run `two-tower ingest` again.")
    rows, first = 0, ""
    schema: pa.Schema | None = None
    seen: list[np.ndarray] = []
    for path in paths:
        with checked_columns.opened_parquet(path) as file:
            _verify_types(file, path, table, manifest.has_embedding)
            if schema is None:
                schema, first = file.schema_arrow, path
            if found := _difference(_texts(schema), _texts(file.schema_arrow)):
                column, one, other = found
                raise UserError(f"{path}: column '{column}' is {other}, and in {first} it is {one}.")
            for column in ("user_id", "item_id", "timestamp", "order"):
                if column in schema.names:
                    _verify_range(file, path, column)
            rows += file.metadata.num_rows
        if table != "events":
            seen += _column(path, REQUIRED[table][0])
        elif "split" in schema.names:
            for first_row, batch in checked_columns.read_batches(path, ["split"]):
                _check_splits(batch["split"], path, first_row)
        if table == "items" and manifest.has_embedding:
            for first_row, batch in checked_columns.read_batches(path, ["embedding"], 50_000):
                checked_columns.embeddings(
                    batch["embedding"], path, "embedding", manifest.has_embedding, first_row
                )
    assert schema is not None
    if found := _difference(manifest.columns.get(table, {}), _texts(schema)):
        column, one, other = found
        raise UserError(
            f"{storage.join(directory, MANIFEST)}: key 'columns.{table}.{column}' is {one}, and in {first} "
            f"it is {other}. Run `two-tower ingest` again."
        )
    if seen:
        values, counts = np.unique(np.concatenate(seen), return_counts=True)
        if (counts > 1).any():
            twice, key = values[np.argmax(counts > 1)], REQUIRED[table][0]
            raise UserError(
                f"{storage.join(directory, table)}: column '{key}': {twice} has more than one row."
            )
    return rows


def _verify_types(file: pq.ParquetFile, path: str, table: str, embedding_width: int) -> None:
    schema = file.schema_arrow
    known = dict(COLUMNS[table])
    required = set(REQUIRED[table])
    if table == "events":
        required.add("order" if "order" in schema.names else "timestamp")
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


_CHECKS = {"timestamp": checked_columns.timestamps, "order": checked_columns.ranks}


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
            check = _CHECKS.get(column, checked_columns.ids)
            for first_row, batch in checked_columns.read_batches(path, [column]):
                check(batch[column], path, column, first_row)
            return
