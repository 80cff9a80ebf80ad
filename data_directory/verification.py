"""Verification of a data directory against its manifest, and of its tables against the format."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns
from two_tower.data_directory.event_totals import EventTotals
from two_tower.data_directory.manifest import (
    COLUMNS,
    MANIFEST,
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
    holds_items_alone,
    ids_in_file,
    ids_of,
    item_files,
    paths_of,
    rows_of_file,
    sizes_of_files,
)
from two_tower.schema import text_ids

_AGAIN = "Run `two-tower ingest` again."


def verify(directory: str) -> Manifest:
    """Checks a data directory against its manifest, and its tables against the format.

    Ingest checks its own rows; this check also covers directories written by hand and files edited since.
    Ids and times are checked by the statistics in the files' footers, and read only if these are missing.

    Returns:
      The manifest.

    Raises:
      UserError: a file is missing, cut off, or was added or edited after ingest; a column is missing or its
        type differs from the format, the other files or the manifest; an id is null, negative, or repeated
        in items/ or users/; a time is negative or not in seconds; an order is negative; a split is unknown;
        a play ratio or length is out of range; a content embedding has another width than in the manifest,
        or a value that is not finite; a count, a time range or the spans differ from the manifest; or no
        item is available.
    """
    manifest = Manifest.load(directory)
    present, listed = sizes_of_files(directory), {file.path for file in manifest.files}
    for path in sorted(listed - set(present)):
        raise UserError(f"{storage.join(directory, path)}: the manifest lists it and it is missing. {_AGAIN}")
    for path in sorted(set(present) - listed):
        # A running or killed upload left this file; it is no part of the directory.
        if storage.is_local(directory) or not UPLOADED_NAME.fullmatch(path):
            raise UserError(
                f"{storage.join(directory, path)}: not in the manifest, so it was added after ingest. "
                f"{_AGAIN}"
            )
    for file in manifest.files:
        full = storage.join(directory, file.path)
        if present[file.path] != file.bytes or digest_of_file(full) != file.digest:
            raise UserError(
                f"{full}: its content differs from the manifest: edited or cut off after ingest. {_AGAIN}"
            )
        if file.rows != (rows := rows_of_file(full)):
            raise UserError(
                f"{storage.join(directory, MANIFEST)}: key 'files' gives {file.rows} rows to {file.path}, "
                f"and it has {rows}. {_AGAIN}"
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
    facts["has_embedding"] = (
        manifest.has_embedding,
        _embedding_width(paths_of(directory, manifest, "items")),
    )
    facts |= _facts_of_events(directory, manifest)
    for key, (said, found) in facts.items():
        if said != found:
            raise UserError(
                f"{storage.join(directory, MANIFEST)}: key '{key}' is {said} and the files have {found}. "
                f"{_AGAIN}"
            )
    _check_available(directory, manifest)
    return manifest


def verify_items(directory: str) -> Manifest:
    """Checks items/ of a data directory as `verify` does, or of a directory with items/ alone.

    Returns:
      A manifest of items/ alone, with the digest of the items. Facts of events are empty.

    Raises:
      UserError: see `verify`, for items/; there are no items; or none is available.
    """
    if holds_items_alone(directory):
        paths = item_files(directory)
        with checked_columns.opened_parquet(paths[0]) as file:
            columns = column_types(file.schema_arrow)
        width = _embedding_width(paths)
        files = tuple(_items_file(directory, path) for path in paths)
    else:
        manifest = Manifest.load(directory)
        files = tuple(files_of(manifest, "items"))
        width, columns = manifest.has_embedding, manifest.columns.get("items", {})
        present = sizes_of_files(directory)
        for item_file in files:
            full = storage.join(directory, item_file.path)
            if present.get(item_file.path) != item_file.bytes or digest_of_file(full) != item_file.digest:
                raise UserError(
                    f"{full}: missing, or its content differs from the manifest: edited or cut off. {_AGAIN}"
                )
    items = Manifest(
        dataset="",
        label_event="",
        repeats_recommendable=False,
        has_timestamps=False,
        has_splits=False,
        user_ids=text_ids.INTEGER,
        item_ids=ids_of(columns),
        time_range=(0, 0),
        counts={"items": sum(file.rows for file in files)},
        has_embedding=width,
        columns={"items": dict(columns)},
        spans=(),
        span_counts={},
        files=files,
        dropped={},
        repaired={},
        noted={},
    )
    _verify_table(directory, "items", items)
    _check_available(directory, items)
    return items


def _embedding_width(paths: list[str]) -> int:
    """Returns the width of the content embedding in item files; 0 without one."""
    with checked_columns.opened_parquet(paths[0]) as file:
        schema = file.schema_arrow
    kind = schema.field("embedding").type if "embedding" in schema.names else None
    return int(kind.list_size) if kind is not None and pa.types.is_fixed_size_list(kind) else 0


def _items_file(directory: str, path: str) -> DataFile:
    with checked_columns.opened_parquet(path) as file:
        rows = file.metadata.num_rows
    relative = path[len(storage.join(directory, "")) :].lstrip("/")
    return DataFile(relative, rows, storage.size(path), digest_of_file(path))


def _check_available(directory: str, items: Manifest) -> None:
    """Raises UserError if no item is available: there would be nothing to train on or to index."""
    available = items.counts.get("items", 0)
    if "available" in items.columns.get("items", {}):
        available = sum(
            int(pc.sum(pc.fill_null(batch["available"], True)).as_py() or 0)
            for path in paths_of(directory, items, "items")
            for _, batch in checked_columns.read_batches(path, ["available"])
        )
    if not available:
        raise UserError(
            f"{directory}: the catalog is empty: items/ holds no available item. Ingest available items."
        )


def _verify_spans(directory: str, manifest: Manifest) -> None:
    """Raises UserError unless the manifest's spans and their counts match the event files."""
    rows: Counter[int | None] = Counter()
    for file in files_of(manifest, "events"):
        span = SPAN_FOLDER.match(file.path)
        rows[int(span[1]) if span else None] += file.rows
    said = {span: manifest.span_counts.get(str(span), {}).get("events") for span in manifest.spans}
    found = {span: rows[span] for span in sorted(span for span in rows if span is not None)}
    if said != found or list(said) != sorted(said) or (found and None in rows):
        raise UserError(
            f"{storage.join(directory, MANIFEST)}: key 'spans' does not match events/: {list(said)} and "
            f"{list(found)}, with {list(said.values())} and {list(found.values())} events. "
            "Run `two-tower ingest` again."
        )


def _facts_of_events(directory: str, manifest: Manifest) -> dict[str, tuple[object, object]]:
    """Counts users, label events and times; returns the manifest's value and the found one by key."""
    properties = DatasetProperties(manifest.dataset, manifest.label_event, manifest.repeats_recommendable)
    wanted = {"user_id", "timestamp", "order", "event_type"}
    columns = [name for name in manifest.columns["events"] if name in wanted]
    totals = EventTotals(properties, counts_days=False, counts_items=False)
    facts: dict[str, tuple[object, object]] = {}

    def count(folder: str, counts: EventTotals) -> EventTotals:
        for path in paths_of(directory, manifest, folder):
            for _, batch in checked_columns.read_batches(path, columns):
                rows = pa.Table.from_batches([batch])
                totals.add(rows)
                if counts is not totals:
                    counts.add(rows)
        return counts

    for span in manifest.spans:
        of_span = count(f"events/span-{span}", EventTotals(properties, False, counts_items=False))
        said = manifest.span_counts[str(span)]
        for key, found in zip(
            ("label_events", "first", "last"), (of_span.label_events, *of_span.time_range), strict=True
        ):
            facts[f"span_counts.{span}.{key}"] = (said[key], found)
    if not manifest.spans:
        count("events", totals)
    users = totals.users.result()
    facts["counts.users"] = (manifest.counts["users"], len(users[0]) if users else 0)
    facts["counts.label_events"] = (manifest.counts["label_events"], totals.label_events)
    facts["time_range"] = (manifest.time_range, totals.time_range)
    return facts


def _verify_table(directory: str, table: str, manifest: Manifest) -> int:
    """Checks all files of a table and returns its number of rows."""
    paths = paths_of(directory, manifest, table)
    if not paths:
        if table == "users":
            return 0
        raise UserError(f"{directory}: the table {table}/ is missing. Run `two-tower ingest` again.")
    rows, first = 0, ""
    schema: pa.Schema | None = None
    seen: list[np.ndarray] = []
    for path in paths:
        with checked_columns.opened_parquet(path) as file:
            _verify_types(file, path, table, manifest)
            if schema is None:
                schema, first = file.schema_arrow, path
            if found := first_difference(column_types(schema), column_types(file.schema_arrow)):
                column, one, other = found
                raise UserError(f"{path}: column '{column}' is {other}, and in {first} it is {one}. {_AGAIN}")
            for column in ("user_id", "item_id", "timestamp", "order"):
                if column in schema.names:
                    _verify_range(file, path, column)
            rows += file.metadata.num_rows
        for column, largest in checked_columns.LARGEST.items():
            if column in schema.names:
                for first_row, batch in checked_columns.read_batches(path, [column]):
                    checked_columns.check_quantity(batch[column], path, column, largest, first_row)
        texts = [name for name in schema.names if checked_columns.has_text(schema.field(name).type)]
        if table == "events":
            texts = [name for name in texts if name not in ("event_type", "split")]  # read for their values
        for _ in checked_columns.read_batches(path, texts) if texts else ():
            pass  # reading checks that a text is UTF-8
        if table != "events":
            seen += ids_in_file(path, REQUIRED[table][0])
            if text_ids.ORIGINAL_ID in schema.names:
                _verify_texts_of_ids(path, REQUIRED[table][0])
        elif "split" in schema.names:
            for first_row, batch in checked_columns.read_batches(path, ["split"]):
                check_splits(batch["split"], path, first_row)
        if table == "items" and manifest.has_embedding:
            for first_row, batch in checked_columns.read_batches(path, ["embedding"], 50_000):
                checked_columns.embeddings(
                    batch["embedding"], path, "embedding", manifest.has_embedding, first_row
                )
    assert schema is not None
    if found := first_difference(manifest.columns.get(table, {}), column_types(schema)):
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
                f"{storage.join(directory, table)}: column '{key}': {twice} has more than one row. Keep one."
            )
    return rows


def _verify_types(file: pq.ParquetFile, path: str, table: str, manifest: Manifest) -> None:
    schema = file.schema_arrow
    known = dict(COLUMNS[table])
    required = set(REQUIRED[table])
    if table == "events" and manifest.has_order:
        required.add("order" if "order" in schema.names else "timestamp")
    if table == "items" and manifest.has_embedding:
        known["embedding"] = pa.list_(pa.float32(), manifest.has_embedding)
        required.add("embedding")
    checked_columns.check_letters(schema.names, known, path)
    for column, kind in known.items():
        if column not in schema.names:
            if column in required:
                raise UserError(f"{path}: column '{column}' is missing; it has {', '.join(schema.names)}.")
        elif schema.field(column).type != kind:
            raise UserError(
                f"{path}: column '{column}' is of type {schema.field(column).type}, where {kind} is needed."
            )


def _verify_texts_of_ids(path: str, key: str) -> None:
    """Raises UserError for the first id that is not the number of its text."""
    for first_row, batch in checked_columns.read_batches(path, [key, text_ids.ORIGINAL_ID]):
        place = (path, text_ids.ORIGINAL_ID)
        texts = batch[text_ids.ORIGINAL_ID]
        if texts.null_count:
            at = int(np.argmax(texts.is_null().to_numpy(zero_copy_only=False)))
            raise checked_columns.refuse(*place, first_row + at, None, "is no text of an id. " + _AGAIN)
        wrong = text_ids.numbers_of(texts.to_pylist()) != batch[key].to_numpy()
        if wrong.any():
            at = int(np.argmax(wrong))
            remedy = f"is not the text of {key} {batch[key][at]}. " + _AGAIN
            raise checked_columns.refuse(*place, first_row + at, texts[at].as_py(), remedy)


_CHECKS = {"timestamp": checked_columns.timestamps, "order": checked_columns.ranks}


def _verify_range(file: pq.ParquetFile, path: str, column: str) -> None:
    """Checks that ids are 0 or more and times in range, by the row groups' statistics or else by reading."""
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
