"""Reader of Yambda in both layouts: flat (a row per event) and sequential (a row of lists per user).

The simulator writes the flat layout too. Events come from `multi_event.parquet`. Without it, they come from
`listens.parquet` and the reaction files, so that no event counts twice. Events are streamed; memory grows
with items and users.

The item descriptions lie beside the events or one or two folders above, as in Yambda's `flat/50m/` and
`sequential/50m/`. Descriptions above cover the tracks of all sizes, so only those of this size's events are
taken.

Source: Ploshkin et al., "Yambda-5B: A Large-Scale Multi-modal Dataset for Ranking And Retrieval", 2025.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from two_tower.base import json_text, storage
from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns
from two_tower.data_directory.key_counts import KeyCounts
from two_tower.data_directory.manifest import DatasetProperties, Manifest
from two_tower.data_directory.writer import DataDirectoryWriter, Span
from two_tower.ingestion import external_sort, source_files, yambda_items
from two_tower.ingestion.oracle_files import copy_oracle

_MULTI_EVENT = "multi_event.parquet"
_EVENT_TYPES = ("listen", "like", "dislike", "unlike", "undislike")
# Listens first: at equal times a reaction follows the listen that it refers to.
_FILES = {kind + "s.parquet": kind for kind in _EVENT_TYPES}

_REQUIRED = {"uid": "integer", "item_id": "integer", "timestamp": "integer"}
_OPTIONAL = {"is_organic": "boolean", "played_ratio_pct": "number", "track_length_seconds": "number"}

_LAYOUTS = ("flat", "sequential")
# Events read at a time; approximate in the sequential layout, where batches hold whole users.
_EVENT_ROWS = 1 << 19


def ingest(source: str, out: str, name: str | None = None, span: Span = None) -> Manifest:
    """Writes the data directory `out` from the folder `source`; for `span` see `DataDirectoryWriter`.

    Raises:
      UserError: a file or column is missing, of the wrong type, or damaged; an id is null or negative; a time
        is negative or not in seconds; a user's lists differ in length; a content embedding is not finite or
        has another width than the others.
    """
    source = _events_folder(storage.absolute(source))
    properties = DatasetProperties(name or _simulation_name(source) or "yambda", "listen", True)
    with DataDirectoryWriter(out, properties, span) as writer:
        items_of_events = KeyCounts()
        for path, event_type in _event_files(source).items():
            for events in _read_events(path, event_type, writer):
                writer.write("events", events)
                items_of_events.add(events["item_id"].to_numpy())
        if not writer.label_events:
            raise UserError(
                f"{next(iter(_event_files(source)))}: the file has no listens, which are the labels. Fetch "
                "it again."
            )
        yambda_items.write_items(source, items_of_events.result()[0], writer)
        copy_oracle(source, writer)
    return writer.manifest


def _events_folder(source: str) -> str:
    """Returns `source`, or the only folder `flat/<size>` or `sequential/<size>` within it."""
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
        raise UserError(f"{source}: the folder holds several sizes: name one of {', '.join(sizes)}.")
    raise UserError(
        f"{source}: the folder holds neither {_MULTI_EVENT} nor listens.parquet. Name the folder "
        "that holds one of them, such as flat/50m or sequential/50m."
    )


def _event_files(folder: str) -> dict[str, str | None]:
    """Returns path → event type; None means that the column `event_type` gives it."""
    multi_event = storage.join(folder, _MULTI_EVENT)
    if source_files.is_there(multi_event):
        return {multi_event: None}
    if not source_files.is_there(storage.join(folder, "listens.parquet")):
        return {}
    paths = {storage.join(folder, file): kind for file, kind in _FILES.items()}
    return {path: kind for path, kind in paths.items() if source_files.is_there(path)}


def _simulation_name(source: str) -> str | None:
    path = storage.join(source, "simulation.json")
    if not source_files.is_there(path):
        return None
    try:
        with storage.open_file(path, "r") as file:
            return str(json_text.parse(file.read())["name"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: key 'name' cannot be read ({error}). Simulate again, or pass --name."
        ) from error


# ── Events ──────────────────────────────────────────────────────────────────────────────────────────────


def _read_events(path: str, event_type: str | None, writer: DataDirectoryWriter) -> Iterator[pa.Table]:
    """Yields the events of a file in the data directory's columns, sorted and without duplicates."""
    with checked_columns.opened_parquet(path) as file:
        schema = file.schema_arrow
        checked_columns.check_letters(schema.names, (*_REQUIRED, *_OPTIONAL, "event_type"), path)
        kinds = _REQUIRED | {column: kind for column, kind in _OPTIONAL.items() if column in schema.names}
        if event_type is None:
            kinds["event_type"] = "text"
        is_sequential = "item_id" in schema.names and _is_list(schema.field("item_id").type)
        if is_sequential:
            _check_lists(schema, path, kinds)
        else:
            checked_columns.check_kinds(file, path, kinds)
        users, rows = file.metadata.num_rows, _count_values(file, "item_id")
    by = ("user_id", "timestamp")
    batch_rows = max(1, _EVENT_ROWS * users // max(rows, 1)) if is_sequential else _EVENT_ROWS
    keys = _convert_batches(path, ["uid", "timestamp"], batch_rows, is_sequential, _user_and_time)
    is_sorted = external_sort.rows_are_sorted(keys, by)
    writer.noted["event_files_not_in_order"] += not is_sorted
    convert = functools.partial(_convert, event_type=event_type, writer=writer)
    batches = _convert_batches(path, list(kinds), batch_rows, is_sequential, convert)
    for table in external_sort.sort_rows(batches, by, rows, is_sorted):
        events, dropped = external_sort.drop_duplicates(table)
        writer.dropped["duplicate_events"] += dropped
        yield events


def _convert_batches(
    path: str,
    columns: list[str],
    rows: int,
    is_sequential: bool,
    convert: Callable[[pa.RecordBatch, str, int], pa.Table],
) -> Iterator[pa.Table]:
    """Yields batches of events, converted by `convert(batch, path, first_row)`."""
    for row, batch in checked_columns.read_batches(path, columns, rows):
        if not is_sequential:
            yield convert(batch, path, row)
            continue
        events = _explode_lists(batch, path, row)
        for start in range(0, events.num_rows, _EVENT_ROWS):
            try:
                converted = convert(events.slice(start, _EVENT_ROWS), path, start)
            except UserError:
                # A second pass, user by user, finds the user's row and the position in the lists.
                for user in range(batch.num_rows):
                    convert(
                        _explode_lists(batch.slice(user, 1), path, row),
                        f"{path}: lists of row {row + user}",
                        0,
                    )
                raise
            yield converted


def _explode_lists(batch: pa.RecordBatch, path: str, row: int) -> pa.RecordBatch:
    """Converts one row of lists per user to one row per event.

    Raises:
      UserError: a list is null, or differs in length from the user's other lists.
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
            remedy = f"but {first}: all lists of a user must have one length."
            raise checked_columns.refuse(path, name, row + at, value, remedy)
    user = np.repeat(np.arange(batch.num_rows), lengths[lists[0]])
    columns = [batch["uid"].take(pa.array(user)), *(batch[name].flatten() for name in lists)]
    return pa.RecordBatch.from_arrays(columns, ["uid", *lists])


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _check_lists(schema: pa.Schema, path: str, kinds: Mapping[str, str]) -> None:
    """Checks the column kinds of the sequential layout: all columns except `uid` are lists."""
    for column, kind in kinds.items():
        if column not in schema.names:
            raise UserError(f"{path}: column '{column}' is missing; the file has {', '.join(schema.names)}.")
        found = schema.field(column).type
        right = _is_list(found) and checked_columns.KINDS[kind](found.value_type)
        if column == "uid":
            right = checked_columns.KINDS[kind](found)
        if not right:
            needed = kind if column == "uid" else f"list of {kind}"
            raise UserError(f"{path}: column '{column}' has type {found}, but needs {needed}.")


def _count_values(file: pq.ParquetFile, column: str) -> int:
    """Counts a column's values from the footer; list entries count one by one."""
    groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    return sum(chunk.num_values for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)


def _user_and_time(batch: pa.RecordBatch, path: str, row: int) -> pa.Table:
    """Returns the user ids and times of a batch, which are the sort keys."""
    user = checked_columns.ids(batch["uid"], path, "uid", row)
    time = checked_columns.timestamps(batch["timestamp"], path, "timestamp", row)
    return pa.table({"user_id": user, "timestamp": time})


def _convert(
    batch: pa.RecordBatch, path: str, row: int, event_type: str | None, writer: DataDirectoryWriter
) -> pa.Table:
    """Converts a batch of events to the data directory's columns."""
    rows = batch.num_rows

    def column(name: str) -> pa.Array | None:
        return batch[name] if name in batch.schema.names else None

    def quantity(name: str, largest: float) -> pa.Array:
        values = column(name)
        if values is None:
            return pa.nulls(rows, pa.float64())
        # A safe cast fails for whole numbers beyond 2^53, which the check names.
        values = values.cast(pa.float64(), safe=False)
        checked_columns.check_quantity(values, path, name, largest, row)
        return values

    length = quantity("track_length_seconds", checked_columns.LARGEST["item_length"])
    percent = quantity("played_ratio_pct", 100 * checked_columns.LARGEST["play_ratio"])
    zero = pc.equal(length, 0)
    writer.repaired["item_length_zero_to_unknown"] += pc.sum(zero).as_py() or 0
    organic = column("is_organic")
    if organic is not None and not pa.types.is_boolean(organic.type):
        strange = pc.invert(
            pc.is_in(organic.cast(pa.int64(), safe=False), value_set=pa.array([0, 1, None], pa.int64()))
        )
        if pc.any(strange).as_py():
            at = int(np.argmax(strange.to_numpy(zero_copy_only=False)))
            raise checked_columns.refuse(path, "is_organic", row + at, organic[at], "is neither 0 nor 1.")
    return pa.table(
        {
            "user_id": checked_columns.ids(batch["uid"], path, "uid", row),
            "item_id": checked_columns.ids(batch["item_id"], path, "item_id", row),
            "timestamp": checked_columns.timestamps(batch["timestamp"], path, "timestamp", row),
            "event_type": _event_types(batch, path, row, event_type),
            "play_ratio": pc.divide(percent, 100).cast(pa.float32()),
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
            path, "event_type", row + at, value, f"is not one of {', '.join(_EVENT_TYPES)}."
        )
    return values
