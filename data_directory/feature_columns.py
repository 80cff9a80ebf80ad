"""A data directory's own columns as features: what their names in the settings mean, and their values.

`features.users` and `features.items` name columns of users/ and items/. `resolve` gives each one a kind; what
comes after it (Examples, schema, Transform, towers, signature) follows from the kind alone. `encode` is the
one place where a column's values become an Example's. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from two_tower.base.errors import UserError
from two_tower.data_directory.settings import FeaturesConfig
from two_tower.schema import features

if TYPE_CHECKING:
    from two_tower.data_directory.manifest import Manifest

# What a column's values become in the towers:
#   categorical   an embedding of the value
#   multi_valued  the mean embedding of the values
#   numeric       the z-scored number
#   text          the mean embedding of the words
#   vector        a learnt projection of the vector, which itself stays as it is
CATEGORICAL, MULTI_VALUED, NUMERIC, TEXT, VECTOR = KINDS = (
    "categorical",
    "multi_valued",
    "numeric",
    "text",
    "vector",
)
# What a request carries where a value is absent; of a vector, in each place.
ABSENT: dict[str, str | float] = {CATEGORICAL: "", MULTI_VALUED: "", NUMERIC: math.nan, TEXT: "", VECTOR: 0.0}
# Columns whose kind their type does not tell and their meaning does.
_KNOWN_KINDS = {"title": TEXT, "release_timestamp": NUMERIC}
# Every model has these without being told.
_BUILT_IN = ("item_id", "artist_id", "album_id", "item_length", "user_id")


@dataclasses.dataclass(frozen=True)
class FeatureSpec:
    """One column as a feature.

    `name` is the feature's in Examples and requests: the column's own for items, `user_<column>` for users.
    `width` is a vector's number of values, and 0 for all other kinds.
    """

    name: str
    column: str
    kind: str
    width: int = 0


@dataclasses.dataclass(frozen=True)
class ResolvedFeatures:
    """The features of a run: columns of users/ and items/, and names of history aggregates.

    Without timestamps no encoder is told how much time lies between two events.
    """

    users: tuple[FeatureSpec, ...] = ()
    items: tuple[FeatureSpec, ...] = ()
    history: tuple[str, ...] = ()
    has_timestamps: bool = True

    def to_json(self) -> str:
        """As a component's parameter: equal features are equal text, which caching relies on."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ResolvedFeatures:
        """The inverse of `to_json`."""
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

    A column is named as `name`, `name:kind`, or `name:vector:width`. Without a kind its type tells: text,
    booleans and whole numbers are categorical, lists of them multi_valued, other numbers numeric, fixed-size
    lists of numbers vectors; `title` is text and `release_timestamp` numeric.

    Args:
      config: the names.
      manifest: of the data; None where it cannot be read, as when a job is compiled elsewhere. Kinds must
        then be given, and a vector's width.
      with_aggregates: whether the towers read history aggregates: then all that the data allows, else none.

    Raises:
      UserError: an unknown column or kind, a kind that the column's type does not allow, or a column named
        twice or that every model uses anyway.
    """
    columns = None if manifest is None else manifest.columns
    has_timestamps = manifest is None or manifest.has_timestamps
    return ResolvedFeatures(
        users=_of_table("users", config.users, columns),
        items=_of_table("items", config.items, columns),
        history=features.available_aggregates(has_timestamps) if with_aggregates else (),
        has_timestamps=has_timestamps,
    )


def _of_table(
    table: str, names: Sequence[str], columns: Mapping[str, Mapping[str, str]] | None
) -> tuple[FeatureSpec, ...]:
    setting = f"features.{table}"
    if names and columns is not None and not columns.get(table):
        raise UserError(f"{setting} names {', '.join(names)}, and the data directory has no table {table}/.")
    found: dict[str, FeatureSpec] = {}
    for text in names:
        spec = _of_column(setting, table, text, None if columns is None else columns[table])
        if spec.column in found:
            raise UserError(f"{setting}: the column {spec.column} is named twice.")
        found[spec.column] = spec
    return tuple(found.values())


def _of_column(setting: str, table: str, text: str, types: Mapping[str, str] | None) -> FeatureSpec:
    column, _, rest = text.partition(":")
    kind, has_width, width_text = rest.partition(":")
    if column in _BUILT_IN:
        raise UserError(f"{setting}: {column} is known to every model as it is: leave it out.")
    if not (column.isascii() and column.isidentifier()):
        raise UserError(
            f"{setting}: {column!r} cannot be a feature's name, which is a signature's input too: rename the "
            "column to letters, digits and underscores, beginning with a letter."
        )
    name = f"user_{column}" if table == "users" else column
    if name == features.USER_ID:
        raise UserError(
            f"{setting}: the column {column} would be called {name}, as the users' id is: rename it."
        )
    if kind and kind not in KINDS:
        nearest = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0)[0]
        raise UserError(f"{setting}: {text}: there is no kind {kind!r}; the nearest is {nearest}.")
    width = 0
    if has_width:
        if kind != VECTOR or not width_text.isdecimal() or int(width_text) < 1:
            raise UserError(
                f"{setting}: {text}: after the kind stands only a vector's width, as in "
                f"{column}:{VECTOR}:128."
            )
        width = int(width_text)
    if types is None:
        if not kind:
            raise UserError(
                f"{setting}: {column} needs its kind where the data cannot be read, as in "
                f"{column}:{_KNOWN_KINDS.get(column, CATEGORICAL)}; the kinds are {', '.join(KINDS)}."
            )
        if kind == VECTOR and not width:
            raise UserError(
                f"{setting}: {column} needs its width where the data cannot be read, as in "
                f"{column}:{VECTOR}:128."
            )
        return FeatureSpec(name, column, kind, width)
    arrow_type = types.get(column)
    if arrow_type is None:
        raise _missing(setting, column, types)
    allowed = _allowed_kinds(arrow_type)
    if not allowed:
        raise UserError(
            f"{setting}: the column {column} of {table}/ is of type {arrow_type}, which cannot become a "
            "feature: write it as text, numbers, or lists of them."
        )
    preferred = _KNOWN_KINDS.get(column, allowed[0])
    kind = kind or (preferred if preferred in allowed else allowed[0])
    if kind not in allowed:
        raise _not_allowed(setting, column, kind, arrow_type)
    size = _fixed_size(arrow_type)
    if kind == VECTOR:
        if width and size and width != size:
            raise UserError(f"{setting}: {text}: the column's vectors have {size} values, not {width}.")
        width = width or size
        if not width:
            raise UserError(
                f"{setting}: the column {column} is of type {arrow_type}, which does not tell how long its "
                f"vectors are: name it as {column}:{VECTOR}:<width>."
            )
    return FeatureSpec(name, column, kind, width)


def _missing(where: str, column: str, columns: Iterable[str]) -> UserError:
    others = [name for name in columns if name not in _BUILT_IN]
    if not others:
        return UserError(f"{where}: there is no column {column}, nor any other that could be a feature.")
    nearest = difflib.get_close_matches(column, others, n=1, cutoff=0)[0]
    return UserError(
        f"{where}: there is no column {column}; the nearest is {nearest} of {', '.join(sorted(others))}."
    )


def _not_allowed(where: str, column: str, kind: str, arrow_type: str) -> UserError:
    allowed = _allowed_kinds(arrow_type)
    can = f"{' or '.join(allowed)}" if allowed else "no feature"
    return UserError(f"{where}: the column {column} is of type {arrow_type}, which can be {can}, not {kind}.")


_LIST = re.compile(r"(?:large_|fixed_size_)?list<\w+: (.+?)(?: not null)?>(?:\[(\d+)\])?")
_DICTIONARY = re.compile(r"dictionary<values=(\w+),.*>")


def _allowed_kinds(arrow_type: str) -> tuple[str, ...]:
    """The kinds that a column of this type (Arrow's, as text) can have, the likeliest first."""
    if in_list := _LIST.fullmatch(arrow_type):
        scalar = _scalar_class(in_list[1])
        if scalar == "float":
            return (VECTOR,)
        if scalar == "int":
            return (MULTI_VALUED, VECTOR)
        return (MULTI_VALUED,) if scalar == "string" else ()
    return {
        "string": (CATEGORICAL, TEXT),
        "bool": (CATEGORICAL, NUMERIC),
        "int": (CATEGORICAL, NUMERIC),
        "float": (NUMERIC,),
        # Nothing but nulls: any kind has a value for "absent".
        "null": KINDS,
    }.get(_scalar_class(arrow_type), ())


def _scalar_class(arrow_type: str) -> str:
    if in_dictionary := _DICTIONARY.fullmatch(arrow_type):
        return "string" if in_dictionary[1] in ("string", "large_string") else ""
    if arrow_type in ("string", "large_string"):
        return "string"
    if re.fullmatch(r"u?int\d+", arrow_type):
        return "int"
    if arrow_type in ("halffloat", "float", "double") or arrow_type.startswith("decimal"):
        return "float"
    return arrow_type if arrow_type in ("bool", "null") else ""


def _fixed_size(arrow_type: str) -> int:
    in_list = _LIST.fullmatch(arrow_type)
    return int(in_list[2]) if in_list and in_list[2] else 0


def check_columns(present: Iterable[str], specs: Iterable[FeatureSpec], path: str) -> None:
    """Raises UserError where the file at `path`, whose columns are `present`, lacks one of the features'."""
    names = tuple(present)
    for spec in specs:
        if spec.column not in names:
            raise _missing(path, spec.column, names)


def encode_columns(table: pa.Table, specs: Iterable[FeatureSpec], path: str) -> dict[str, pa.ListArray]:
    """The features of a table's rows by their names; see `encode`.

    Raises:
      UserError: `path`, from which the table was read, lacks a column, or a value is not of its kind.
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
    """A column's values as Examples hold them: one list a row. `ids` name the rows in errors.

    | kind | list of | |
    |---|---|---|
    | categorical, text | binary | one text, or none; numbers are decimal, booleans "true" and "false" |
    | multi_valued | binary | any number of them |
    | numeric | float32 | one number, or none |
    | vector | float32 | always `spec.width` numbers |

    Null, NaN and the empty text are absent values: an empty list, a vector of zeros, and left out of
    multi_valued. A column of nulls, such as `pa.nulls(1)`, has the encoding of whoever has no row.

    Raises:
      UserError: the column's type does not allow the kind, or a vector has another width or a value that is
        not finite.
    """
    values = joined(column)
    if spec.kind not in _allowed_kinds(str(values.type)):
        raise _not_allowed("features", spec.column, spec.kind, str(values.type))
    rows = len(values)
    if spec.kind == VECTOR:
        flat = _vectors(values, spec, ids)
        return pa.ListArray.from_arrays(
            pa.array(np.arange(rows + 1, dtype=np.int32) * spec.width), pa.array(flat.reshape(-1))
        )
    if spec.kind == MULTI_VALUED:
        return _members(values, rows)
    if spec.kind == NUMERIC:
        return _present(_numbers(values))
    return _present(_texts(values))


def joined(values: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column as one array, whatever chunks it came in."""
    if not isinstance(values, pa.ChunkedArray):
        return values
    return pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)


def _present(values: pa.Array) -> pa.ListArray:
    """A list of one where there is a value, else of none."""
    valid = values.is_valid().to_numpy(zero_copy_only=False)
    offsets = np.append(0, np.cumsum(valid)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values.drop_null())


def _texts(values: pa.Array) -> pa.Array:
    """As binary; the empty text is null."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    texts = values.cast(pa.string())
    texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    return texts.cast(pa.binary())


def _numbers(values: pa.Array) -> pa.Array:
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    if pa.types.is_decimal(values.type) or pa.types.is_null(values.type):
        values = values.cast(pa.float64())
    # NumPy rounds to float32 what Arrow's cast would refuse.
    rounded = pc.fill_null(values, 0).to_numpy(zero_copy_only=False).astype(np.float32)
    known = values.is_valid().to_numpy(zero_copy_only=False) & ~np.isnan(rounded)
    return pa.array(rounded, mask=~known)


def _members(values: pa.Array, rows: int) -> pa.ListArray:
    if pa.types.is_null(values.type):
        return pa.ListArray.from_arrays(pa.array(np.zeros(rows + 1, np.int32)), pa.array([], pa.binary()))
    members = _texts(values.flatten())
    known_before = np.append(0, members.is_valid().to_numpy(zero_copy_only=False).cumsum())
    offsets = known_before[np.append(0, _lengths(values).cumsum())]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), members.drop_null())


def _lengths(values: pa.Array) -> np.ndarray:
    """Values of each list, [rows]; a null list has none."""
    if pa.types.is_fixed_size_list(values.type):
        return values.is_valid().to_numpy(zero_copy_only=False) * np.int64(values.type.list_size)
    return pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _vectors(values: pa.Array, spec: FeatureSpec, ids: pa.ChunkedArray | None) -> np.ndarray:
    """float32 [rows, width]"""
    vectors = np.zeros((len(values), spec.width), np.float32)
    if pa.types.is_null(values.type):
        return vectors

    def broken(row: int, what: str) -> UserError:
        whose = f"row {row}" if ids is None else f"id {ids[row].as_py()}"
        return UserError(f"the column {spec.column}: the vector of {whose} has {what}.")

    lengths = _lengths(values)
    has_one = values.is_valid().to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(has_one & (lengths != spec.width)):
        raise broken(int(row), f"{lengths[row]} values, where {spec.width} are expected")
    vectors[has_one] = _numbers(values.flatten()).to_numpy(zero_copy_only=False).reshape(-1, spec.width)
    for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1)):
        raise broken(int(row), "a value that is null or not finite")
    return vectors
