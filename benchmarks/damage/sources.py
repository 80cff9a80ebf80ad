"""Sources of readers: how their files are written, and an independent count of what they hold."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.damage.trial import Loss
from two_tower.data_directory.manifest import Manifest, event_files, item_files, user_files

# Columns of a table by name, as lists.
Columns = dict[str, list[Any]]
# Counts of events that ingest left out and told of.
_DROPPED_EVENTS = ("duplicate_events", "repeated_ratings", "repeated_tracks")


@dataclasses.dataclass(frozen=True)
class Part:
    """File of a source.

    Attributes:
        name: path below the source.
        form: "csv", "parquet", "json" or "lines".
        columns: its columns; None for JSON.
        target: column here → table and column of the data directory, of those that are read.
        key: column of ids, with its table.
        between: separator of a text file's fields.
        header: True if a text file's first line names the columns.
        encoding: that of a text file.
        content: the text of a file that has no columns.
        optional: True if a source without the file is a whole one.
    """

    name: str
    form: str
    columns: Columns
    target: Mapping[str, tuple[str, str]]
    between: str = ","
    header: bool = True
    encoding: str = "utf-8"
    content: str = ""
    optional: bool = False

    def write(self, folder: Path) -> None:
        """Writes the file below a folder."""
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.form == "parquet":
            pq.write_table(table_of(self.columns), path)
            return
        text = self.content or text_of(self.columns, self.between, self.header)
        content = text.encode(self.encoding)
        path.write_bytes(gzip.compress(content, mtime=0) if self.name.endswith(".gz") else content)

    def read(self, folder: Path) -> Columns:
        """Reads the columns of a damaged file, all as a lenient reader of its format finds them.

        Raises:
            Loss: no reader of the format reads the file.
        """
        path = folder / self.name
        if self.optional and not path.exists():
            return {}
        try:
            if self.form == "parquet":
                table = pq.read_table(path, partitioning=None)
                return _flat({name: table[name].to_pylist() for name in table.column_names}, self.target)
            content = path.read_bytes()
            content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        except (OSError, EOFError, ValueError, zlib.error, pa.ArrowException) as error:
            raise Loss(f"{self.name} cannot be read: {error}") from error
        text = content.removeprefix(b"\xef\xbb\xbf").decode(self.encoding, "replace")
        if self.form == "json":
            return _tracks(text)
        lines = [line for line in text.replace("\0", "").splitlines() if line.strip()]
        if self.between == "users":
            pairs = [
                (user, item)
                for user, *items in (re.split("[ \t,]+", one.strip()) for one in lines)
                for item in items
            ]
            return {"user": [user for user, _ in pairs], "item": [item for _, item in pairs]}
        if len(self.between) == 1 and self.header:
            try:
                rows = [row for row in csv.reader(lines, delimiter=self.between) if row]
            except csv.Error as error:
                raise Loss(f"{self.name} cannot be read: {error}") from error
        else:
            rows = [line.split(self.between) for line in lines]
        names = rows.pop(0) if self.header and rows else list(self.columns)
        return {
            name: [row[place] if place < len(row) and row[place] else None for row in rows]
            for place, name in enumerate(names)
        }


@dataclasses.dataclass(frozen=True)
class Source:
    """Source of a reader: its format, its parts, and which of them hold events."""

    name: str
    reader: str
    parts: Sequence[Part]
    column_map: str = ""
    is_file: bool = False

    def write(self, folder: Path) -> list[str]:
        """Writes the source below a folder, and returns the arguments of `ingest`."""
        folder = folder / "source"
        folder.mkdir(parents=True, exist_ok=True)
        for part in self.parts:
            part.write(folder)
        if self.column_map:
            (folder / "columns.yaml").write_text(self.column_map)
        source = folder / self.parts[0].name if self.is_file else folder
        return ["ingest", self.reader, str(source), str(folder.parent / "out")]

    def check_kept(self, folder: Path) -> None:
        """Raises Loss if the data directory lacks a row, an id or a known value that the source holds."""
        out = str(folder / "out")
        manifest = Manifest.load(out)
        written = {
            "events": _read_all(event_files(out)),
            "items": _read_all(item_files(out)),
            "users": _read_all(user_files(out)),
        }
        told = sum(manifest.dropped.get(name, 0) for name in _DROPPED_EVENTS)
        all_told = sum(manifest.dropped.values())
        held: dict[tuple[str, str], int] = {}
        rows = 0
        for part in self.parts:
            columns = part.read(folder / "source")
            for name, (table, column) in part.target.items():
                values = [value for value in columns.get(name, []) if value is not None]
                held[table, column] = held.get((table, column), 0) + len(values)
                if table == "events" and column == "item_id":
                    rows += max(map(len, columns.values()), default=0)
                if table != "events" and column in ("item_id", "user_id"):
                    lacking = set(map(_id_of, values)) - set(written[table][column])
                    if lacking and not manifest.noted:
                        raise Loss(f"{table} lacks {lacking} of {part.name}")
        if rows != manifest.counts["events"] + told:
            raise Loss(f"{rows} events in the source, {manifest.counts['events']} written, {told} dropped")
        for (table, column), count in held.items():
            found = sum(value is not None for value in written[table].get(column, []))
            found += manifest.repaired.get("words_read_as_missing_values", 0)
            if (
                column not in ("item_id", "user_id")
                and found < count
                and not all_told
                and not _is_told(manifest, column)
            ):
                raise Loss(f"{count} values of {table}.{column} in the source, {found} written")


def _flat(columns: Columns, target: Mapping[str, tuple[str, str]]) -> Columns:
    """Returns columns of events with a row an event, though a row is a user with lists."""
    events = [name for name, (table, _) in target.items() if table == "events" and name in columns]
    lists = [name for name in events if any(isinstance(value, list) for value in columns[name])]
    if not lists:
        return columns
    sizes = [len(value or ()) for value in columns[lists[0]]]
    return {
        name: [
            one
            for value, size in zip(columns[name], sizes, strict=True)
            for one in (value or () if name in lists else [value] * size)
        ]
        for name in events
    }


def _id_of(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise Loss(f"{value!r:.40} is no id, and was not refused") from None


def _is_told(manifest: Manifest, column: str) -> bool:
    repaired = {**manifest.repaired, **manifest.noted}
    return any(
        count for name, count in repaired.items() if "unknown" in name and column == "item_length"
    ) or any(name.startswith(("columns_without", "items_of_other", "embeddings_of")) for name in repaired)


def table_of(columns: Columns) -> pa.Table:
    """Builds a table, in which lists of floats have float32 and two names may be equal."""
    return pa.table({name: array_of(values) for name, values in columns.items()})


def array_of(values: list[Any]) -> pa.Array:
    """Builds an Arrow array, in which lists of floats have float32."""
    array = pa.array(values)
    return array.cast(pa.list_(pa.float32())) if array.type == pa.list_(pa.float64()) else array


def text_of(columns: Mapping[str, list[Any]], between: str, header: bool) -> str:
    """Writes columns as lines of text; CSV quotes what needs it."""
    rows = list(zip(*columns.values(), strict=True))
    lines = [list(columns), *rows] if header else rows
    shown = [["" if value is None else str(value) for value in row] for row in lines]
    if len(between) > 1 or not header:
        return "".join(f"{between.join(row)}\n" for row in shown)
    page = io.StringIO()
    csv.writer(page, delimiter=between, lineterminator="\n").writerows(shown)
    return page.getvalue()


def _tracks(text: str) -> Columns:
    try:
        playlists = json.loads(text)["playlists"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise Loss(f"no JSON of playlists: {error}") from error
    tracks = [track for playlist in playlists for track in playlist["tracks"]]
    return {"track_uri": [track["track_uri"] for track in tracks], "pid": [one["pid"] for one in playlists]}


def _read_all(paths: Sequence[str]) -> Columns:
    tables = [pq.read_table(path, partitioning=None) for path in paths]
    if not tables:
        return {"item_id": [], "user_id": []}
    table = pa.concat_tables(tables)
    try:
        return {name: table[name].to_pylist() for name in table.column_names}
    except UnicodeDecodeError as error:
        raise Loss(f"a text that was written is not UTF-8: {error}") from error
