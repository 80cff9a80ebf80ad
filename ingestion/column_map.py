"""Column map of the reader "table": a short YAML file that names a source's files and columns.

```yaml
dataset: my-films
label_event: view               # the event type that is predicted
repeats_recommendable: false    # true: items of a user's history may be recommended again
events:
  files: events/*.parquet       # Parquet, CSV or JSON lines, relative to the source
  user_id: uid                  # meaning: source column
  item_id: film
  timestamp: watched_at
  timestamp_unit: ms
items: {files: films.csv, item_id: id, title: name, tags: genres, separator: "|"}
users: {files: users.csv, user_id: id, keep: [gender, age]}
embeddings: {files: vectors.parquet, item_id: id, embedding: vector}
```

`events` may also be a list of tables, each with files, columns and an event type of its own, such as
`event_type: {constant: buy}`. `docs/how-to/bring-your-own-data.md` describes every key.
"""

from __future__ import annotations

import codecs
import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from two_tower.base import yaml_files
from two_tower.base.errors import UserError
from two_tower.data_directory.manifest import SPLIT_NAMES
from two_tower.ingestion import bad_rows, time_formats

# Unit of time → ticks per second.
UNITS: Mapping[str, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# Split name in a source → split name here.
SPLIT_OF = {**{split: split for split in SPLIT_NAMES}, "val": "eval", "valid": "eval", "validation": "eval"}
# Kinds of values that a map may declare; ids take the first two only.
KINDS = ("integer", "text", "number", "boolean")

_COLUMN, _TEXT, _UNIT, _FLAG, _SHARE = "column", "text", "unit", "flag", "share"
_FILES, _CHARACTER, _HEADER, _ENCODING, _KEEP = "files", "character", "header", "encoding", "keep"
_ID_KIND, _COLUMN_OR_CONSTANT, _COLUMNS = "kind of id", "column or constant", "columns"
_TIME_FORMAT = "time format"
_ID_KIND, _QUOTE, _NULLS, _POLICY = "kind of id", "quote", "missing values", "policy"

_FORMAT_KEYS = {
    "files": _FILES,
    "delimiter": _CHARACTER,
    "quote": _QUOTE,
    "escape": _CHARACTER,
    "null_values": _NULLS,
    "header": _HEADER,
    "encoding": _ENCODING,
}
# Table → key → kind of its value.
_KEYS: Mapping[str, Mapping[str, str]] = {
    "events": {
        **_FORMAT_KEYS,
        "user_id": _COLUMN,
        "item_id": _COLUMN,
        "timestamp": _COLUMN,
        "timestamp_unit": _UNIT,
        "timestamp_format": _TIME_FORMAT,
        "order": _COLUMN,
        "order_of_rows": _FLAG,
        "unordered": _FLAG,
        "event_type": _COLUMN_OR_CONSTANT,
        "play_ratio": _COLUMN,
        "play_ratio_whole": _SHARE,
        "is_organic": _COLUMN,
        "item_length": _COLUMN,
        "item_length_unit": _UNIT,
        "split": _COLUMN,
        "unfold": _COLUMNS,
        "separator": _TEXT,
    },
    "items": {
        **_FORMAT_KEYS,
        "item_id": _COLUMN,
        "title": _COLUMN,
        "tags": _COLUMN,
        "artist_id": _COLUMN,
        "album_id": _COLUMN,
        "item_length": _COLUMN,
        "item_length_unit": _UNIT,
        "release_timestamp": _COLUMN,
        "release_timestamp_unit": _UNIT,
        "release_timestamp_format": _TIME_FORMAT,
        "available": _COLUMN,
        "embedding": _COLUMN,
        "separator": _TEXT,
        "keep": _KEEP,
    },
    "users": {**_FORMAT_KEYS, "user_id": _COLUMN, "separator": _TEXT, "keep": _KEEP},
    "embeddings": {**_FORMAT_KEYS, "item_id": _COLUMN, "embedding": _COLUMN, "separator": _TEXT},
}
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "events": ("user_id", "item_id"),
    "items": ("files", "item_id"),
    "users": ("files", "user_id"),
    "embeddings": ("files", "item_id", "embedding"),
}
_TOP_KEYS: Mapping[str, str] = {
    "dataset": _TEXT,
    "label_event": _TEXT,
    "repeats_recommendable": _FLAG,
    "user_id_type": _ID_KIND,
    "item_id_type": _ID_KIND,
    "on_bad_rows": _POLICY,
}
_TOP_REQUIRED = ("dataset", "label_event", "repeats_recommendable", "events")


@dataclasses.dataclass(frozen=True)
class TextFormat:
    """Text format of a table's CSV files; Parquet files need none."""

    # None: a tab for file names that end in .tsv, else a comma.
    delimiter: str | None = None
    # None: quotes are plain characters.
    quote: str | None = '"'
    # Character before which a delimiter, quote or line end is a plain character.
    escape: str | None = None
    # Texts that stand for a missing value, beside the empty one.
    null_values: tuple[str, ...] = ("\\N",)
    # Column names for files without a header row.
    header: tuple[str, ...] = ()
    encoding: str = "utf-8"


@dataclasses.dataclass(frozen=True)
class TableMap:
    """Files and columns of one table."""

    # "events", "items", "users" or "embeddings".
    table: str
    # Key of the map, for messages: the table's name, or "events[1]" in a list.
    key: str
    # File patterns, each with the split of its rows; None if the map names no split.
    files: tuple[tuple[str, str | None], ...]
    # Column of the data directory → column of the source.
    columns: Mapping[str, str]
    # Column of the data directory → the value that all rows have in place of a column of the source.
    constants: Mapping[str, str]
    # Column of the data directory → a key of UNITS; without an entry the unit is seconds.
    units: Mapping[str, str]
    # Column of the data directory → format of its times, see `time_formats`.
    time_formats: Mapping[str, str]
    text: TextFormat
    # Separator between list entries in a text column.
    separator: str | None
    # Source columns that are copied unchanged → one of KINDS; None detects it. No map: all other columns.
    keep: Mapping[str, str | None] | None
    # Play ratio in the source that means "the whole item".
    play_ratio_whole: float
    # True for a source without times or ranks: the row order is the event order.
    order_of_rows: bool
    # True for pairs of user and item that have no order, such as play counts.
    unordered: bool = False
    # Source columns that hold lists, whose entries become rows.
    unfold: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ColumnMap:
    """Parsed column map of the file `path`."""

    path: str
    dataset: str
    label_event: str
    repeats_recommendable: bool
    # "integer" or "text"; None detects the type from the files.
    user_id_type: str | None
    item_id_type: str | None
    events: tuple[TableMap, ...]
    items: TableMap | None
    users: TableMap | None
    embeddings: TableMap | None
    # One of `bad_rows.POLICIES`.
    on_bad_rows: str = bad_rows.STOP


def read(path: str) -> ColumnMap:
    """Reads and checks a column map.

    Raises:
      UserError: the file is missing or not YAML; a key is unknown (the message names the nearest known key)
        or missing; a value has the wrong type; two keys contradict each other.
    """
    content = yaml_files.read(path, "column map")
    if not isinstance(content, dict):
        raise UserError(f"{path}: a column map needs keys and values, such as 'dataset' and 'events'.")
    known = (*_TOP_KEYS, *_KEYS)
    for key in content:
        if key not in known:
            raise _unknown_key(path, str(key), known)
    for key in _TOP_REQUIRED:
        if key not in content:
            raise UserError(f"{path}: key '{key}' is missing.")
    top = {key: _value(path, key, content[key], kind) for key, kind in _TOP_KEYS.items() if key in content}
    if not content["events"]:
        raise UserError(f"{path}: key 'events' is empty: name the files and columns of the events.")
    others = [table for table in _KEYS if table != "events" and content.get(table) is not None]
    tables = {table: _table(path, table, table, content[table]) for table in others}
    if "embeddings" in tables and "items" in tables and "embedding" in tables["items"].columns:
        raise UserError(
            f"{path}: keys 'items.embedding' and 'embeddings.embedding' both name content embeddings: "
            "remove one."
        )
    events = _event_tables(path, content["events"])
    if events[0].unordered and top["repeats_recommendable"]:
        raise UserError(
            f"{path}: key 'repeats_recommendable' is true, and the events are unordered: none is a repeat of "
            "an earlier one, so no run could learn or test repeats. Set 'repeats_recommendable: false'."
        )
    return ColumnMap(
        path,
        top["dataset"],
        top["label_event"],
        top["repeats_recommendable"],
        top.get("user_id_type"),
        top.get("item_id_type"),
        events,
        tables.get("items"),
        tables.get("users"),
        tables.get("embeddings"),
        top.get("on_bad_rows", bad_rows.STOP),
    )


def _event_tables(path: str, content: Any) -> tuple[TableMap, ...]:
    """Returns the tables of events: one, or those of a list.

    Raises:
      UserError: two tables differ in how they tell order, event type or split; see also `_table`.
    """
    if not isinstance(content, list):
        return (_table(path, "events", "events", content),)
    tables = tuple(_table(path, "events", f"events[{at}]", table) for at, table in enumerate(content))
    first = tables[0]
    for table in tables:
        if not table.files:
            raise UserError(f"{path}: key '{table.key}.files' is missing.")
        if table.order_of_rows and len(tables) > 1:
            raise UserError(
                f"{path}: key '{table.key}.order_of_rows' tells no order between the rows of several tables: "
                "name a column of times in 'timestamp' or of ranks in 'order'."
            )
        for meaning in ("timestamp", "order", "unordered", "event_type", "split"):
            of_first, of_table = (_tells(one, meaning) for one in (first, table))
            if of_first != of_table:
                has, lacks = (first.key, table.key) if of_first else (table.key, first.key)
                remedy = " ('event_type: {constant: NAME}' for all rows)" if meaning == "event_type" else ""
                raise UserError(
                    f"{path}: key '{lacks}.{meaning}' is missing, which '{has}' has: give it to all tables "
                    f"of events or to none{remedy}."
                )
    return tables


def _tells(table: TableMap, meaning: str) -> bool:
    return (
        meaning in table.columns
        or meaning in table.constants
        or (meaning == "unordered" and table.unordered)
        or (meaning == "split" and any(split for _, split in table.files))
    )


def _table(path: str, table: str, key: str, content: Any) -> TableMap:
    kinds = _KEYS[table]
    if not isinstance(content, dict):
        raise UserError(f"{path}: key '{key}' needs keys and values, but is {content!r}.")
    for name in content:
        if name not in kinds:
            raise _unknown_key(path, f"{key}.{name}", kinds)
    for name in _REQUIRED[table]:
        if name not in content:
            raise UserError(f"{path}: key '{key}.{name}' is missing.")
    values = {name: _value(path, f"{key}.{name}", value, kinds[name]) for name, value in content.items()}
    has_column = (_COLUMN, _COLUMN_OR_CONSTANT)
    named = {name: value for name, value in values.items() if kinds[name] in has_column}
    columns = {name: value for name, value in named.items() if isinstance(value, str)}
    constants = {name: value["constant"] for name, value in named.items() if not isinstance(value, str)}
    units = {name.removesuffix("_unit"): value for name, value in values.items() if kinds[name] == _UNIT}
    for column in units:
        if column not in columns:
            raise UserError(
                f"{path}: key '{key}.{column}_unit' needs key '{key}.{column}', which is missing."
            )
    time_formats_of = {
        name.removesuffix("_format"): value for name, value in values.items() if kinds[name] == _TIME_FORMAT
    }
    for column in time_formats_of:
        if column not in columns:
            raise UserError(
                f"{path}: key '{key}.{column}_format' needs key '{key}.{column}', which is missing."
            )
        if column in units:
            raise UserError(
                f"{path}: keys '{key}.{column}_unit' and '{key}.{column}_format' contradict each other: "
                "remove one. Numbers have a unit, and texts a format."
            )
    files = values.get("files", ())
    if table == "events":
        _check_events(path, key, values, files)
    elif any(split for _, split in files):
        raise UserError(f"{path}: key '{key}.files' holds splits, but only events have splits: remove them.")
    return TableMap(
        table=table,
        key=key,
        files=files,
        columns=columns,
        constants=constants,
        units=units,
        time_formats=time_formats_of,
        text=_text_format(path, key, values),
        separator=values.get("separator"),
        keep=values.get("keep"),
        play_ratio_whole=values.get("play_ratio_whole", 1.0),
        order_of_rows=values.get("order_of_rows", False),
        unordered=values.get("unordered", False),
        unfold=values.get("unfold", ()),
    )


def _check_events(path: str, key: str, values: Mapping[str, Any], files: Sequence[tuple[str, Any]]) -> None:
    """Raises UserError for keys of events that contradict or need each other."""
    order = [name for name in ("timestamp", "order", "order_of_rows", "unordered") if values.get(name)]
    if len(order) != 1:
        found = " and ".join(f"'{key}.{name}'" for name in order) or "none of them"
        raise UserError(
            f"{path}: exactly one key must give the order of events, but the map has {found}. Set "
            f"'{key}.timestamp', '{key}.order' (a column of ranks) or '{key}.order_of_rows: true'. Pairs of "
            f"user and item without any order, such as play counts, take '{key}.unordered: true'."
        )
    if values.get("unordered") and ("split" in values or any(split for _, split in files)):
        raise UserError(
            f"{path}: keys '{key}.unordered' and a split contradict each other: runs on events without an "
            "order draw the items that they hold out. Remove the split."
        )
    if "split" in values and any(split for _, split in files):
        raise UserError(f"{path}: keys '{key}.split' and '{key}.files' both give the split: remove one.")
    for name in values.get("unfold", ()):
        if name not in values.values():
            raise UserError(
                f"{path}: key '{key}.unfold' names the column '{name}', which no other key of '{key}' does: "
                "name the columns of items, times and so on that hold lists."
            )
    if "separator" in values and "unfold" not in values:
        raise UserError(
            f"{path}: key '{key}.separator' needs key '{key}.unfold', the columns that hold lists."
        )
    if "play_ratio_whole" in values and "play_ratio" not in values:
        raise UserError(
            f"{path}: key '{key}.play_ratio_whole' needs key '{key}.play_ratio', which is missing."
        )


def _text_format(path: str, table: str, values: Mapping[str, Any]) -> TextFormat:
    keys = [field.name for field in dataclasses.fields(TextFormat)]
    text = TextFormat(**{key: values[key] for key in keys if key in values})
    marks = {"delimiter": text.delimiter, "quote": text.quote, "escape": text.escape}
    given = [(key, mark) for key, mark in marks.items() if mark is not None]
    for one, (key, mark) in enumerate(given):
        for other, same in given[:one]:
            if mark == same:
                raise UserError(
                    f"{path}: keys '{table}.{other}' and '{table}.{key}' are both {mark!r}: change one."
                )
    return text


def _value(path: str, key: str, value: Any, kind: str) -> Any:
    """Checks a key's value and returns it in the form that `TableMap` and `ColumnMap` store."""

    def wrong(wanted: str) -> UserError:
        return UserError(f"{path}: key '{key}' takes {wanted}, but is {value!r}.")

    if kind == _COLUMN_OR_CONSTANT and isinstance(value, dict):
        constant = value.get("constant")
        if set(value) != {"constant"} or not isinstance(constant, str) or not constant:
            raise wrong("the name of a column, or {constant: TEXT} for one value of all rows")
        return value
    if kind in (_TEXT, _COLUMN, _COLUMN_OR_CONSTANT):
        if not isinstance(value, str) or not value:
            raise wrong("the name of a column (in quotes if it is a number)" if kind != _TEXT else "a text")
        return value
    if kind == _FLAG:
        if not isinstance(value, bool):
            raise wrong("true or false")
        return value
    if kind in (_UNIT, _ID_KIND):
        choices = tuple(UNITS) if kind == _UNIT else KINDS[:2]
        if value not in choices:
            raise wrong("one of " + ", ".join(choices))
        return value
    if kind == _SHARE:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise wrong("a number above 0: the value of the column that means the whole item")
        return float(value)
    if kind == _CHARACTER:
        if not isinstance(value, str) or len(value) != 1 or not value.isascii() or value in '"\r\n\0':
            raise wrong('one ASCII character, such as ";" or "\\t"')
        return value
    if kind == _QUOTE:
        is_mark = isinstance(value, str) and len(value) == 1 and value.isascii() and value not in "\r\n\0"
        if not is_mark and value != "none":
            raise wrong('none, or one ASCII character, such as "\'"')
        return None if value == "none" else value
    if kind == _NULLS:
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise wrong('a list of texts, such as ["NULL"]')
        return tuple(value)
    if kind == _TIME_FORMAT:
        fault = time_formats.complaint(value) if isinstance(value, str) else "it is no text"
        if fault:
            raise wrong(f'a format such as "%m/%d/%Y %H:%M:%S" ({fault})')
        return value
    if kind == _POLICY:
        if value not in bad_rows.POLICIES:
            raise wrong("one of " + ", ".join(bad_rows.POLICIES))
        return value
    if kind == _ENCODING:
        try:
            return codecs.lookup(str(value)).name
        except LookupError:
            raise wrong("the name of a text encoding, such as utf-8 or latin-1") from None
    if kind in (_HEADER, _COLUMNS):
        if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
            raise wrong("a list of all column names" if kind == _HEADER else "a list of column names")
        return tuple(value)
    if kind == _KEEP:
        return _keep_columns(path, key, value)
    return _files(path, key, value)


def _keep_columns(path: str, key: str, value: Any) -> Mapping[str, str | None]:
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return dict.fromkeys(value)
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        for name, kind in value.items():
            if kind not in KINDS:
                raise UserError(
                    f"{path}: key '{key}.{name}' takes one of {', '.join(KINDS)}, but is {kind!r}."
                )
        return value
    raise UserError(
        f"{path}: key '{key}' takes a list of columns, or columns with their types, but is {value!r}. "
        "Write {age: integer, zip: text}, for example."
    )


def _files(path: str, key: str, value: Any) -> tuple[tuple[str, str | None], ...]:
    """Returns file patterns with their splits, from a text, a list or a mapping of splits to these."""
    if isinstance(value, dict):
        for split in value:
            if split not in SPLIT_OF:
                raise UserError(
                    f"{path}: key '{key}' takes files by split ({', '.join(SPLIT_NAMES)}), but has {split!r}."
                )
        return tuple(
            (pattern, SPLIT_OF[split])
            for split, patterns in value.items()
            for pattern, _ in _files(path, f"{key}.{split}", patterns)
        )
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, list) or not all(isinstance(p, str) and p for p in patterns) or not patterns:
        raise UserError(
            f"{path}: key '{key}' takes a file or pattern, such as events/*.parquet, or a list of them, but "
            f"is {value!r}."
        )
    return tuple((pattern, None) for pattern in patterns)


def _unknown_key(path: str, key: str, known: Any) -> UserError:
    prefix, _, last = key.rpartition(".")
    nearest = difflib.get_close_matches(last, list(known), n=1, cutoff=0)[0]
    nearest = f"{prefix}.{nearest}" if prefix else nearest
    return UserError(f"{path}: there is no key '{key}'; the nearest known key is '{nearest}'.")
