"""Writer of data directories: checks rows, keeps one schema per table and publishes the result as a whole."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections import Counter
from types import TracebackType
from typing import Literal

import numpy as np
import pyarrow as pa

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns
from two_tower.data_directory.canonical_columns import canonical
from two_tower.data_directory.event_totals import EventTotals
from two_tower.data_directory.manifest import (
    COLUMNS,
    DAY,
    MANIFEST,
    REQUIRED,
    SPAN_FOLDER,
    DataFile,
    DatasetProperties,
    Manifest,
    column_types,
    files_of,
    first_difference,
    ids_in_file,
    ids_of,
)
from two_tower.data_directory.merged_tables import NewRows, merge
from two_tower.data_directory.staging import Staging, describe_file
from two_tower.data_directory.table_writer import TableWriter

# Days since 1970-01-01 on the data's own clock; "auto", the day of the newest event; None, no spans.
Span = int | Literal["auto"] | None
AUTO: Literal["auto"] = "auto"


class DataDirectoryWriter:
    """Writer of a data directory, which replaces the old one only after success.

    ```python
    with DataDirectoryWriter("data", DatasetProperties("mine", "listen", True)) as writer:
        writer.write("events", pa.table({"user_id": [1], "item_id": [7], "timestamp": [0]}))
        writer.write("items", pa.table({"item_id": [7]}))
    print(writer.manifest.digest)
    ```

    An exception removes all that was written; an old data directory stays as it was (see `staging`). The
    bytes do not depend on how the rows were cut into batches. Of two writers of one local place at a time,
    the second is refused; object stores have no locks.

    With a span, the events become `events/span-<number>/`, and the directory may exist. A span of the same
    number is replaced, and the others stay. Items and users are merged with the old ones (see
    `merged_tables`).

    Args:
      out: the data directory, a path or URL; an old one is replaced.
      properties: facts of the whole data set.
      span: the span's number, in days since 1970-01-01 of the data's own clock; "auto" for the day of the
        newest event; None for a directory without spans.
      has_order: False for events without a `timestamp` or an `order`, such as play counts.

    Raises:
      UserError: `out` is no data directory, cannot be written or is being written; it holds spans and `span`
        is None, or the reverse; its properties or columns differ; a column is missing, changes its type or
        holds a forbidden value; or, at the end, there is no label event.
    """

    def __init__(
        self, out: str, properties: DatasetProperties, span: Span = None, has_order: bool = True
    ) -> None:
        out = storage.absolute(out)
        self.out = os.path.realpath(out) if storage.is_local(out) else out
        if not has_order and properties.repeats_recommendable:
            raise UserError(
                f"{out}: events without an order hold no repeats to learn or test: set repeats_recommendable "
                "to false."
            )
        self.properties = properties
        self._has_order = has_order
        self.dropped: Counter[str] = Counter()
        self.repaired: Counter[str] = Counter()
        self.noted: Counter[str] = Counter()
        self._span = span
        self._before: Manifest | None = None  # of the directory that a span is added to
        self._staging = Staging(self.out)
        self._schemas: dict[str, pa.Schema] = {}
        self._tables: dict[str, TableWriter | NewRows] = {}
        self._rows: Counter[str] = Counter()  # rows written so far, by table
        self._totals = EventTotals(properties, span is not None)
        self._catalog: list[np.ndarray] = []
        self._manifest: Manifest | None = None
        _check_span(span)

    @property
    def manifest(self) -> Manifest:
        """Manifest of the written directory; available after the `with` block."""
        if self._manifest is None:
            raise RuntimeError("The manifest is complete when the writer is closed.")
        return self._manifest

    @property
    def label_events(self) -> int:
        """Count of the label events written so far."""
        return self._totals.label_events

    def __enter__(self) -> DataDirectoryWriter:
        try:
            self._staging.check()
            self._before = self._added_to()
            self._staging.create()
        except BaseException as error:
            self._staging.remove()
            if isinstance(error, OSError):
                raise storage.cannot_write(self.out, error) from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                for table in self._tables.values():
                    # A disk that is full refuses the end of a file too; the file goes anyway.
                    with contextlib.suppress(OSError):
                        table.close(write=False)
                return
            with storage.writing(self._staging.place):
                for table in self._tables.values():
                    table.close(write=True)
                self._manifest = self._staging.publish(self._finished())
        finally:
            self._staging.remove()

    def write(self, table: str, rows: pa.Table | pa.RecordBatch) -> None:
        """Appends rows to the table "events", "items" or "users".

        All calls for a table pass the same columns. Known columns (`COLUMNS`) are cast to their type. Others
        keep their values in a plain type: no dictionaries, no large types, and an `embedding` as a
        fixed-size list.

        Raises:
          UserError: see the class.
        """
        rows = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        rows = canonical(table, rows, self._rows[table], self._has_order)
        rows = self._in_one_schema(table, rows)
        if table == "events":
            self._totals.add(rows)
        elif table == "items":
            self._catalog.append(rows["item_id"].to_numpy())
        with storage.writing(self._staging.place):
            self._append(table, rows)
        self._rows[table] += rows.num_rows

    def _append(self, table: str, rows: pa.Table) -> None:
        if table not in self._tables:
            merged = self._before is not None and table != "events" and files_of(self._before, table)
            self._tables[table] = (
                NewRows(os.path.join(self._staging.path, f"{table}.new"), rows.schema)
                if merged
                else TableWriter(os.path.join(self._staging.path, table), table, rows.schema)
            )
        self._tables[table].write(rows)

    def copy(self, source: str, path: str) -> None:
        """Copies a file, such as the simulator's oracle, to `path` within the directory."""
        target = os.path.join(self._staging.path, path)
        with storage.open_file(source) as original, storage.writing(self._staging.place):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as copied:
                shutil.copyfileobj(original, copied)

    # ── Checks against the old directory ───────────────────────────────────────────────────────────────

    def _added_to(self) -> Manifest | None:
        """Returns the manifest of the directory that a span is added to; None for a new directory."""
        if not storage.is_file(storage.join(self.out, MANIFEST)):
            return None
        if self._span is None:
            self._check_no_spans()
            return None
        before = Manifest.load(self.out)
        if not before.spans:
            raise UserError(
                f"{self.out} holds events without spans, and a span cannot be added to them. "
                "Name another directory, or ingest all of it in spans."
            )
        for name, value in dataclasses.asdict(self.properties).items():
            if value != getattr(before, name):
                remedy = "Name another place" + (", or the same --name." if name == "dataset" else ".")
                raise UserError(
                    f"{self.out}: its {name} is {getattr(before, name)!r}, and the new span's is {value!r}: "
                    f"they are not one data set. {remedy}"
                )
        return before

    def _check_no_spans(self) -> None:
        """Raises UserError if the old directory holds spans, which an ingest without a span would delete."""
        try:
            spans = Manifest.load(self.out).spans
        except UserError:
            # An unreadable directory, such as an older version's, is replaced unless it holds spans.
            there = map(SPAN_FOLDER.match, storage.list_files(self.out))
            spans = tuple(sorted({int(folder[1]) for folder in there if folder}))
        if spans:
            raise UserError(
                f"{self.out} holds {len(spans)} spans, the newest {spans[-1]}. An ingest without a span "
                "would delete them: name a span (--span) or another place, or delete the directory first."
            )

    def _in_one_schema(self, table: str, rows: pa.Table) -> pa.Table:
        """Returns rows in the column order of the table; raises UserError for another schema."""
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
                f"{self._rows[table]} on. Bring it to one type."
            )
        return rows.select(schema.names)

    # ── Manifest ───────────────────────────────────────────────────────────────────────────────────────

    def _finished(self) -> Manifest:
        """Completes the staged files and returns the manifest of the whole directory."""
        before, span = self._before, self._settled_span()
        if not self._rows["events"]:
            raise UserError(f"The data set '{self.properties.dataset}' has no events. Ingest some.")
        if span is not None:
            self._put_into_span(span)
        for table, written in self._tables.items():
            if isinstance(written, NewRows):
                self._merge(table, written)
        staged = [describe_file(self._staging.path, path) for path in self._staging.files()]
        replaced = tuple(
            f"events/span-{span}/" if folder == "events" else f"{folder}/"
            for folder in {file.path.split("/")[0] for file in staged}
        )
        kept = [file for file in (before.files if before else ()) if not file.path.startswith(replaced)]
        files = tuple(sorted([*kept, *staged], key=lambda file: _row_order(file.path)))
        span_counts = {} if span is None else self._span_counts(span)
        label_events, time_range = self._labels_of(span_counts)
        self._note(kept)
        columns = dict(before.columns) if before else {}
        columns |= {table: column_types(schema) for table, schema in self._schemas.items()}
        rows = {
            table: sum(file.rows for file in files if file.path.startswith(table + "/")) for table in COLUMNS
        }
        return Manifest(
            **dataclasses.asdict(self.properties),
            has_timestamps="timestamp" in columns["events"],
            has_splits="split" in columns["events"],
            user_ids=ids_of(columns.get("users", ())),
            item_ids=ids_of(columns.get("items", ())),
            time_range=time_range,
            counts={
                "events": rows["events"],
                "label_events": label_events,
                "users": len(self._totals.users.result()[0]),
                "items": rows["items"],
                "user_rows": rows["users"],
            },
            has_embedding=self._embedding_width(),
            columns={table: columns[table] for table in COLUMNS if table in columns},
            spans=tuple(map(int, span_counts)),
            span_counts=span_counts,
            files=files,
            dropped=_nonzero(self.dropped),
            repaired=_nonzero(self.repaired),
            noted=_nonzero(self.noted),
        )

    def _settled_span(self) -> int | None:
        """Returns the span's number, with "auto" resolved."""
        if self._span is None or not self._rows["events"]:
            return None
        if "timestamp" not in self._schemas["events"].names:
            if self._span == AUTO:
                raise UserError("The events have no times to tell their span: name its number (--span N).")
            return self._span
        span = int(self._totals.days.result()[0][-1]) if self._span == AUTO else self._span
        older, newer = self._totals.events_outside(span)
        self.noted["events_older_than_their_span"] += older
        self.noted["events_newer_than_their_span"] += newer
        return span

    def _put_into_span(self, span: int) -> None:
        events, aside = (os.path.join(self._staging.path, name) for name in ("events", "events.new"))
        os.rename(events, aside)
        os.mkdir(events)
        os.rename(aside, os.path.join(events, f"span-{span}"))

    def _merge(self, table: str, new: NewRows) -> None:
        """Merges new items or users with the rows of the old directory."""
        assert self._before is not None
        written = TableWriter(os.path.join(self._staging.path, table), table, new.schema)
        old = [storage.join(self.out, file.path) for file in files_of(self._before, table)]
        try:
            merge(old, new, REQUIRED[table][0], written.write)
        except UserError as error:
            raise UserError(f"The {table}: {error}") from error
        written.close(write=True)
        os.remove(new.path)
        if table == "items":
            self._catalog = []
            for file in self._staging.files():
                if file.startswith("items/"):
                    self._catalog += ids_in_file(os.path.join(self._staging.path, file), "item_id")

    def _span_counts(self, span: int) -> dict[str, dict[str, int]]:
        """Returns the counts of all spans by number, ascending, with those of the new span."""
        counts = dict(self._before.span_counts) if self._before else {}
        first, last = self._totals.time_range
        counts[str(span)] = {
            "events": self._rows["events"],
            "label_events": self._totals.label_events,
            "first": first,
            "last": last,
        }
        return {number: counts[number] for number in sorted(counts, key=int)}

    def _labels_of(self, span_counts: dict[str, dict[str, int]]) -> tuple[int, tuple[int, int]]:
        """Returns the count and time range of label events over all spans; raises UserError if none."""
        label_events, time_range = self._totals.label_events, self._totals.time_range
        if span_counts:
            with_labels = [counts for counts in span_counts.values() if counts["label_events"]]
            label_events = sum(counts["label_events"] for counts in with_labels)
            time_range = (
                min((counts["first"] for counts in with_labels), default=0),
                max((counts["last"] for counts in with_labels), default=0),
            )
        if not label_events:
            raise self._totals.no_label_event()
        return label_events, time_range

    def _note(self, kept: list[DataFile]) -> None:
        """Notes oddities: play ratios over 1, items without a catalog row, users with a single event."""
        self.noted["play_ratio_over_1"] += self._totals.play_ratios_over_1
        if self._before and not self._rows["items"]:
            for file in files_of(self._before, "items"):
                self._catalog += ids_in_file(storage.join(self.out, file.path), "item_id")
        if self._catalog:
            items, events = self._totals.items_outside(np.concatenate(self._catalog))
            self.noted["items_without_row_in_catalog"] += items
            self.noted["events_of_items_not_in_catalog"] += events
        # A user may be in any number of spans, so users of the kept spans are counted again.
        for file in kept:
            if file.path.startswith("events/"):
                for users in ids_in_file(storage.join(self.out, file.path), "user_id"):
                    self._totals.users.add(users)
        self.noted["users_with_one_event"] += int((self._totals.users.result()[1] == 1).sum())

    def _embedding_width(self) -> int:
        """Returns the width of the items' content embedding; 0 without one."""
        if "items" not in self._schemas:
            return self._before.has_embedding if self._before else 0
        schema = self._schemas["items"]
        return int(schema.field("embedding").type.list_size) if "embedding" in schema.names else 0


def _check_span(span: Span) -> None:
    newest = checked_columns.NEWEST_TIMESTAMP // DAY
    if span is None or span == AUTO:
        return
    if not isinstance(span, int) or not 0 <= span <= newest:
        raise UserError(
            f"{span!r} is not a span. A span is the number of days since 1970-01-01 on the data's own clock. "
            f"Give a number from 0 to {newest:,}, or '{AUTO}' for the day of the newest event."
        )


def _row_order(path: str) -> tuple[str, int, str]:
    """Returns the sort key of a file within its table: spans by number."""
    span = SPAN_FOLDER.match(path)
    return path.split("/")[0], int(span[1]) if span else -1, path


def _nonzero(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts) if counts[name]}
