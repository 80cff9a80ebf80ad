"""Columns of a data directory as features: settings resolved to specs, and values encoded.

`features.users` and `features.items` name columns of users/ and items/. `resolve` gives each column a kind,
defined in `column_kinds`. Examples, schema, Transform, towers and signature follow from the kind. `encode`
alone turns a column's values into an Example's. This module does not import TensorFlow.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from two_tower.base.errors import UserError
from two_tower.data_directory.column_kinds import (
    CATEGORICAL,
    KINDS,
    NUMERIC,
    TEXT,
    VECTOR,
    BrokenValue,
    ColumnKind,
    allowed_kinds,
    fixed_size,
)
from two_tower.data_directory.settings import FeaturesConfig
from two_tower.schema import features

if TYPE_CHECKING:
    from two_tower.data_directory.manifest import Manifest

# Columns with a kind that follows from their meaning, not from their type.
_KNOWN_KINDS = {"title": TEXT.name, "release_timestamp": NUMERIC.name}
# Features of every model, and the texts of their ids.
_BUILT_IN = (
    *("item_id", "artist_id", "album_id", "item_length", "user_id"),
    *("original_id", "original_artist_id", "original_album_id"),
)


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
    """One column as a feature.

    Attributes:
        name: the feature's name in Examples and requests: the column's own for items, `user_<column>` for
            users.
        column: the column's name.
        kind: name of one of `column_kinds.KINDS`.
        width: a vector's number of values; 0 for all other kinds.
    """

    name: str
    column: str
    kind: str
    width: int = 0

    @property
    def column_kind(self) -> ColumnKind:
        """Definition of the kind."""
        return KINDS[self.kind]

    @property
    def request_shape(self) -> tuple[int | None, ...]:
        """Shape of a request's input: () for one value, (None,) for a list, or (width,)."""
        if not self.column_kind.is_list:
            return ()
        return (self.width if self.column_kind.has_width else None,)


@dataclasses.dataclass(frozen=True)
class ResolvedFeatures:
    """Features of a run: columns of users/ and items/, and names of history aggregates.

    Without timestamps, no encoder reads the time between two events.
    """

    users: tuple[FeatureSpec, ...] = ()
    items: tuple[FeatureSpec, ...] = ()
    history: tuple[str, ...] = ()
    has_timestamps: bool = True

    def to_json(self) -> str:
        """Writes a component's parameter. Equal features give equal text, which caching relies on."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ResolvedFeatures:
        """Reads the text of `to_json`."""
        content = json.loads(text)
        return cls(
            users=tuple(FeatureSpec(**spec) for spec in content["users"]),
            items=tuple(FeatureSpec(**spec) for spec in content["items"]),
            history=tuple(content["history"]),
            has_timestamps=content["has_timestamps"],
        )


def resolve(
    config: FeaturesConfig, manifest: Manifest | None, with_aggregates: bool = True
) -> ResolvedFeatures:
    """Gives every named column its kind.

    Settings name a column as `name`, `name:kind`, or `name:vector:width`. Without a kind, the type decides.
    Text, booleans and whole numbers are categorical, lists of them multi_valued, and other numbers numeric.
    Fixed-size lists of numbers are vectors. `title` is text, and `release_timestamp` is numeric.

    Args:
      config: the names.
      manifest: the data's manifest; None if it cannot be read, as when a job is compiled elsewhere. Names
        must then include kinds and vectors' widths.
      with_aggregates: True for all history aggregates that the data allows, False for none. Events without an
        order allow none.

    Raises:
      UserError: an unknown column or kind, a kind that the column's type does not allow, a column named
        twice, or a column that every model uses.
    """
    columns = None if manifest is None else manifest.columns
    has_timestamps = manifest is None or manifest.has_timestamps
    has_order = manifest is None or manifest.has_order
    return ResolvedFeatures(
        users=_of_table("users", config.users, columns),
        items=_of_table("items", config.items, columns),
        history=features.available_aggregates(has_timestamps) if with_aggregates and has_order else (),
        has_timestamps=has_timestamps,
    )


def _of_table(
    table: str, names: Sequence[str], columns: Mapping[str, Mapping[str, str]] | None
) -> tuple[FeatureSpec, ...]:
    setting = f"features.{table}"
    if names and columns is not None and not columns.get(table):
        raise UserError(
            f"{setting} names {', '.join(names)}, and the data directory has no table {table}/. Leave the "
            "setting out, or ingest the table."
        )
    found: dict[str, FeatureSpec] = {}
    for text in names:
        spec = _of_column(setting, table, text, None if columns is None else columns[table])
        if spec.column in found:
            raise UserError(f"{setting}: the column {spec.column} is named twice. Leave one out.")
        found[spec.column] = spec
    return tuple(found.values())


def _of_column(setting: str, table: str, text: str, types: Mapping[str, str] | None) -> FeatureSpec:
    column, _, rest = text.partition(":")
    kind, has_width, width_text = rest.partition(":")
    if column in _BUILT_IN:
        raise UserError(f"{setting}: {column} is known to every model. Leave it out.")
    if not (column.isascii() and column.isidentifier()):
        raise UserError(
            f"{setting}: {column!r} cannot name a feature, because it would name a signature's input. Rename "
            "the column to letters, digits and underscores, beginning with a letter."
        )
    name = f"user_{column}" if table == "users" else column
    if name == features.USER_ID:
        raise UserError(
            f"{setting}: the column {column} would have the name {name} of the users' id. Rename it."
        )
    if kind and kind not in KINDS:
        nearest = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0)[0]
        raise UserError(f"{setting}: {text}: there is no kind {kind!r}; the nearest is {nearest}.")
    width = 0
    if has_width:
        takes_width = kind in KINDS and KINDS[kind].has_width
        if not takes_width or not width_text.isdecimal() or int(width_text) < 1:
            raise UserError(
                f"{setting}: {text}: only a vector's width may follow the kind, as in "
                f"{column}:{VECTOR.name}:128."
            )
        width = int(width_text)
    if types is None:
        if not kind:
            raise UserError(
                f"{setting}: {column} needs its kind where the data cannot be read, as in "
                f"{column}:{_KNOWN_KINDS.get(column, CATEGORICAL.name)}; the kinds are {', '.join(KINDS)}."
            )
        if KINDS[kind].has_width and not width:
            raise UserError(
                f"{setting}: {column} needs its width where the data cannot be read, as in "
                f"{column}:{kind}:128."
            )
        return FeatureSpec(name, column, kind, width)
    arrow_type = types.get(column)
    if arrow_type is None:
        raise _missing(setting, column, types)
    allowed = allowed_kinds(arrow_type)
    if not allowed:
        raise UserError(
            f"{setting}: the column {column} of {table}/ is of type {arrow_type}, which cannot become a "
            "feature. Write it as text, numbers, or lists of them."
        )
    preferred = _KNOWN_KINDS.get(column, allowed[0])
    kind = kind or (preferred if preferred in allowed else allowed[0])
    if kind not in allowed:
        raise _not_allowed(setting, column, kind, arrow_type)
    if KINDS[kind].has_width:
        size = fixed_size(arrow_type)
        if width and size and width != size:
            raise UserError(
                f"{setting}: {text}: the column's vectors have {size} values, not {width}. Leave out the "
                "width."
            )
        width = width or size
        if not width:
            raise UserError(
                f"{setting}: the column {column} is of type {arrow_type}, which does not give the width of "
                f"its vectors. Name it as {column}:{kind}:<width>."
            )
    return FeatureSpec(name, column, kind, width)


def _missing(where: str, column: str, columns: Iterable[str]) -> UserError:
    others = [name for name in columns if name not in _BUILT_IN]
    if not others:
        return UserError(
            f"{where}: there is no column {column}, and no other column could be a feature. Leave it out."
        )
    nearest = difflib.get_close_matches(column, others, n=1, cutoff=0)[0]
    return UserError(
        f"{where}: there is no column {column}; the nearest is {nearest} of {', '.join(sorted(others))}."
    )


def _not_allowed(where: str, column: str, kind: str, arrow_type: str) -> UserError:
    allowed = allowed_kinds(arrow_type)
    can = f"{' or '.join(allowed)}" if allowed else "no feature"
    return UserError(f"{where}: the column {column} is of type {arrow_type}, which can be {can}, not {kind}.")


def check_columns(present: Iterable[str], specs: Iterable[FeatureSpec], path: str) -> None:
    """Raises UserError if the file at `path`, with the columns `present`, lacks a feature's column."""
    names = tuple(present)
    for spec in specs:
        if spec.column not in names:
            raise _missing(path, spec.column, names)


def encode_columns(table: pa.Table, specs: Iterable[FeatureSpec], path: str) -> dict[str, pa.ListArray]:
    """Encodes the features of a table's rows by feature name; see `encode`.

    Raises:
      UserError: the table's file `path` lacks a column, or a value does not suit its kind.
    """
    specs = tuple(specs)
    check_columns(table.column_names, specs, path)
    encoded = {}
    ids = next((table[name] for name in ("item_id", "user_id") if name in table.column_names), None)
    for spec in specs:
        try:
            encoded[spec.name] = encode(table[spec.column], spec, ids)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    return encoded


def encode(
    column: pa.ChunkedArray | pa.Array, spec: FeatureSpec, ids: pa.ChunkedArray | None = None
) -> pa.ListArray:
    """Encodes a column's values as Examples hold them: one list per row, by `ColumnKind.encode`.

    A column of nulls, such as `pa.nulls(1)`, has the encoding of a user or item without a row.

    Args:
      column: the values.
      spec: the feature.
      ids: ids of the rows, for errors.

    Raises:
      UserError: the column's type does not allow the kind, a vector has another width, or a value is not
        finite.
    """
    values = joined(column)
    if spec.kind not in allowed_kinds(str(values.type)):
        raise _not_allowed("features", spec.column, spec.kind, str(values.type))
    try:
        return spec.column_kind.encode(values, spec.width)
    except BrokenValue as error:
        whose = f"row {error.row}" if ids is None else f"id {ids[error.row].as_py()}"
        raise UserError(f"the column {spec.column}: the {spec.kind} of {whose} has {error.found}.") from error


def joined(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Joins the chunks of a column to one array."""
    if not isinstance(values, pa.ChunkedArray):
        return values
    return pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
