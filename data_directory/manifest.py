"""Manifest of a data directory: Parquet tables in one format for every data set, and a list of their files.

`docs/reference/files.md` describes the columns. The manifest holds a digest of every file, which caching
keys on and which reveals later edits. Readers open only the files that it lists. The directory may be a URL
(see `base.storage`).

`writer` writes a data directory, and `verification` checks one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Container, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from two_tower.base import json_text, staged_folder, storage
from two_tower.base.durations import DAY as DAY
from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns
from two_tower.schema import text_ids

# 3: text ids are numbers of their texts, whatever their order (`schema.text_ids`).
FORMAT_VERSION = 3
MANIFEST = "manifest.json"
ORACLE = "oracle"

# Known columns with their types, and the required ones. A table may have other columns too.
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
# Events also have a `timestamp` or an `order`, unless they are declared to have neither.
REQUIRED = {"events": ("user_id", "item_id"), "items": ("item_id",), "users": ("user_id",)}
SPLIT_NAMES = ("train", "eval", "test")
# Keys of `Manifest.counts`, and of each span's counts.
COUNTS = ("events", "label_events", "users", "items", "user_rows")
SPAN_COUNTS = ("events", "label_events", "first", "last")

SPAN_FOLDER = re.compile(r"events/span-(\d+)/")
# Names of uploaded files hold the start of the file's digest.
UPLOADED_NAME = re.compile(r"(.*)-[0-9a-f]{12}(\.[a-z]+)")


@dataclasses.dataclass(frozen=True)
class DatasetProperties:
    """Properties of a whole data set.

    Attributes:
      dataset: identity of the data set, which stays while it grows; models are compared within it only.
      label_event: the event type that is predicted.
      repeats_recommendable: an item of the user's history may be recommended: music yes, films no.
    """

    dataset: str
    label_event: str
    repeats_recommendable: bool


@dataclasses.dataclass(frozen=True)
class DataFile:
    """A file of a data directory.

    Attributes:
      path: relative to the directory.
      rows: number of rows; 0 for a file that is no table.
      bytes: size.
      digest: SHA-256 of the bytes.
    """

    path: str
    rows: int
    bytes: int
    digest: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Content of a data directory.

    Attributes:
      dataset, label_event, repeats_recommendable: see `DatasetProperties`.
      has_timestamps: events have a `timestamp`; else there are no features of time.
      has_splits: events have a column `split`.
      user_ids, item_ids: `text_ids.INTEGER`, or `text_ids.TEXT` where `original_id` holds the ids' texts.
      time_range: first and last time of a label event, in seconds; (0, 0) without times.
      counts: events, label_events, users (of the events), items and user_rows (rows of the tables).
      has_embedding: width of the items' content embedding; 0 without one.
      columns: Arrow type as text, such as "list<item: string>", by table and column.
      spans: numbers of the spans, ascending; () without spans.
      span_counts: by span: events, label_events, and the times of its first and last label event.
      files: all files in the order of their rows.
      dropped, repaired, noted: counts of rows that the latest ingest left out, changed, or reported.
    """

    dataset: str
    label_event: str
    repeats_recommendable: bool
    has_timestamps: bool
    has_splits: bool
    user_ids: str
    item_ids: str
    time_range: tuple[int, int]
    counts: dict[str, int]
    has_embedding: int
    columns: dict[str, dict[str, str]]
    spans: tuple[int, ...]
    span_counts: dict[str, dict[str, int]]
    files: tuple[DataFile, ...]
    dropped: dict[str, int]
    repaired: dict[str, int]
    noted: dict[str, int]

    @property
    def has_order(self) -> bool:
        """True if the events of a user have an order: a `timestamp` or an `order`."""
        return self.has_timestamps or "order" in self.columns.get("events", {})

    @property
    def digest(self) -> str:
        """Digest of the content: equal for equal data, wherever and whenever it was written."""
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
        """Reads `manifest.json`; `verification.verify` checks the files that it lists.

        Raises:
          UserError: the manifest is missing, of another version, or edited after ingest; or a key is missing
            or of the wrong type.
        """
        path = storage.join(directory, MANIFEST)
        staged_folder.recover(directory)
        try:
            with storage.open_file(path, "r") as file:
                content = json_text.parse(file.read())
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{directory} is not a data directory: it has no {MANIFEST}. "
                "Write one with `two-tower ingest`."
            ) from None
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error}). Check the path and its permissions."
            ) from error
        except ValueError as error:  # UnicodeDecodeError too
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
        _check_whole(manifest, path)
        if content.get("digest") != manifest.digest:
            raise UserError(
                f"{path}: key 'digest' does not match the rest of the manifest, which was edited. "
                "Run `two-tower ingest` again."
            )
        return manifest


def _plain(content: dict[str, Any], key: str, kind: str, path: str) -> Any:
    """Returns the value of a key in the type of `Manifest`'s field."""
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
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path}: key '{key}' has a wrong value ({error}). Run `two-tower ingest` again."
        ) from error


def _check_whole(manifest: Manifest, path: str) -> None:
    """Raises UserError for a count or table that is missing, or a file outside the directory."""
    again = "Run `two-tower ingest` again."
    for count in COUNTS:
        if manifest.counts.get(count, -1) < 0:
            raise UserError(f"{path}: key 'counts.{count}' is missing or negative. {again}")
    for table in ("events", "items"):
        if table not in manifest.columns:
            raise UserError(f"{path}: key 'columns.{table}' is missing. {again}")
    for table, key in (("users", "user_ids"), ("items", "item_ids")):
        kind, found = getattr(manifest, key), ids_of(manifest.columns.get(table, {}))
        if kind != found:
            raise UserError(
                f"{path}: key '{key}' is {kind!r}, and the columns of {table}/ say {found!r}. {again}"
            )
    for span in manifest.spans:
        for count in SPAN_COUNTS:
            if count not in manifest.span_counts.get(str(span), {}):
                raise UserError(f"{path}: key 'span_counts.{span}.{count}' is missing. {again}")
    seen: set[str] = set()
    for file in manifest.files:
        first, *folders = file.path.split("/")
        if first not in (*COLUMNS, ORACLE) or not folders or {"", ".", ".."} & set(folders):
            # Readers would open a file that the directory does not hold.
            raise UserError(f"{path}: key 'files' names {file.path!r}, which lies in no table. {again}")
        if file.path in seen:
            raise UserError(f"{path}: key 'files' names {file.path!r} twice. {again}")
        seen.add(file.path)


def _plain_path(path: str) -> str:
    """Returns a file's path without the part of the digest that an upload adds."""
    found = UPLOADED_NAME.fullmatch(path)
    return "".join(found.groups()) if found else path


# ── Reading ─────────────────────────────────────────────────────────────────────────────────────────────


def event_files(directory: str, spans: int = 0) -> list[str]:
    """Returns the paths of the event files, in the order of their rows: spans by number.

    Args:
      directory: the data directory.
      spans: the number of newest spans to read; 0 for all events.

    Raises:
      UserError: `spans` is set and the directory has no spans.
    """
    manifest = Manifest.load(directory)
    if not spans:
        return paths_of(directory, manifest, "events")
    if not manifest.spans:
        raise UserError(
            f"{directory}: windows.spans is {spans}, and the events have no spans. Set windows.spans to 0."
        )
    taken = manifest.spans[-spans:]
    return [path for span in taken for path in paths_of(directory, manifest, f"events/span-{span}")]


def item_files(directory: str) -> list[str]:
    """Returns the paths of the catalog's files; without a manifest, all files of items/."""
    if holds_items_alone(directory):
        return [storage.join(directory, path) for path in sizes_of_files(directory) if _is_item_file(path)]
    return paths_of(directory, Manifest.load(directory), "items")


def holds_items_alone(directory: str) -> bool:
    """Tells whether a directory has files in items/ and no manifest, for `two-tower reindex`."""
    return not storage.is_file(storage.join(directory, MANIFEST)) and any(
        map(_is_item_file, sizes_of_files(directory))
    )


def _is_item_file(path: str) -> bool:
    return path.startswith("items/") and path.endswith(".parquet")


def user_files(directory: str) -> list[str]:
    """Returns the paths of the files of users/; [] without such a table."""
    return paths_of(directory, Manifest.load(directory), "users")


def oracle_file(directory: str, name: str) -> str | None:
    """Returns the path of a file of oracle/, such as "queries.parquet"; None without it."""
    if storage.is_local(directory):
        path = storage.join(directory, ORACLE, name)
        return path if storage.is_file(path) else None
    for file in Manifest.load(directory).files:
        if _plain_path(file.path) == f"{ORACLE}/{name}":
            return storage.join(directory, file.path)
    return None


def files_of(manifest: Manifest, folder: str) -> list[DataFile]:
    """Returns the manifest's files in a folder, such as `events` or `events/span-3`."""
    return [file for file in manifest.files if file.path.startswith(folder + "/")]


def paths_of(directory: str, manifest: Manifest, folder: str) -> list[str]:
    """Returns paths or URLs of the manifest's files in a folder."""
    return [storage.join(directory, file.path) for file in files_of(manifest, folder)]


# ── Shared by writing and verification ──────────────────────────────────────────────────────────────────


def sizes_of_files(directory: str) -> dict[str, int]:
    """Returns relative paths and sizes in bytes of all files in the tables and oracle/, sorted."""
    sizes = storage.list_sizes(directory)
    return {path: sizes[path] for path in sorted(sizes) if path.split("/")[0] in (*COLUMNS, ORACLE)}


def digest_of_file(path: str) -> str:
    """Computes the digest of a file's bytes, in the form of `DataFile`."""
    digest = hashlib.sha256()
    with storage.open_file(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return "sha256:" + digest.hexdigest()


def rows_of_file(path: str) -> int:
    """Returns the rows of a Parquet file, and 0 for any other file."""
    if not path.endswith(".parquet"):
        return 0
    with checked_columns.opened_parquet(path) as file:
        return int(file.metadata.num_rows)


def ids_of(columns: Container[str]) -> str:
    """Returns the kind of a table's ids by its columns: `text_ids.INTEGER` or `text_ids.TEXT`."""
    return text_ids.TEXT if text_ids.ORIGINAL_ID in columns else text_ids.INTEGER


def column_types(schema: pa.Schema) -> dict[str, str]:
    """Returns the columns' types as text, in the form of `Manifest.columns`."""
    return {field.name: str(field.type) for field in schema}


def first_difference(one: Mapping[str, str], other: Mapping[str, str]) -> tuple[str, str, str] | None:
    """Returns the first column that differs and its type in each; None if all agree."""
    for column in [*one, *other]:
        if one.get(column) != other.get(column):
            return column, one.get(column, "missing"), other.get(column, "missing")
    return None


def check_splits(column: pa.ChunkedArray | pa.Array, where: str, first_row: int) -> None:
    """Raises UserError for the first value that is not a split's name."""
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


def ids_in_file(path: str, name: str) -> Iterator[np.ndarray]:
    """Yields a column of ids batch by batch; raises UserError for a value that is no id."""
    for first_row, batch in checked_columns.read_batches(path, [name]):
        yield checked_columns.ids(batch[name], path, name, first_row)
