"""Canonical form of a table: known columns first and cast to their types, other columns in a plain type."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns
from two_tower.data_directory.manifest import COLUMNS, REQUIRED, check_splits


def canonical(table: str, rows: pa.Table, first_row: int, has_order: bool = True) -> pa.Table:
    """Returns the rows with the known columns first, cast to their types, then the others in a plain type.

    Args:
      table: "events", "items" or "users".
      rows: columns in any order.
      first_row: the number of the first row among all rows of the table; errors name it.
      has_order: events have a `timestamp` or an `order`, and not neither.

    Raises:
      UserError: a required column is missing, cannot be cast, or holds a forbidden value.
    """
    known = _known_columns(table, rows, has_order)
    for name in rows.column_names:
        checked_columns.check_text(rows[name], f"The {table}", name, first_row)
    columns = []
    for name in known:
        kind = COLUMNS[table][name]
        try:
            columns.append(rows[name].cast(kind))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UserError(
                f"Column '{name}' of the {table} is {rows[name].type} and cannot be cast to {kind} "
                f"({str(error).splitlines()[0]}). Convert the column."
            ) from error
    if "split" in known:
        check_splits(rows["split"], "The events", first_row)
    for name, largest in checked_columns.LARGEST.items():
        if name in known:
            checked_columns.check_quantity(rows[name], f"The {table}", name, largest, first_row)
    others = [name for name in rows.column_names if name not in known]
    columns += [_other_column(table, name, rows[name], first_row) for name in others]
    fields = [pa.field(name, column.type) for name, column in zip([*known, *others], columns, strict=True)]
    return pa.table(columns, schema=pa.schema(fields))


def _known_columns(table: str, rows: pa.Table, has_order: bool) -> list[str]:
    """Returns the names of the known columns of a table; raises UserError for a set that is not allowed."""
    if table not in COLUMNS:
        raise UserError(f"There is no table '{table}': the tables are {', '.join(COLUMNS)}.")
    if twice := [name for name in rows.column_names if rows.column_names.count(name) > 1]:
        raise UserError(f"The {table} have two columns '{twice[0]}': rename one of them.")
    checked_columns.check_letters(rows.column_names, COLUMNS[table], f"The {table}")
    names = [name for name in COLUMNS[table] if name in rows.column_names]
    clocks = {"timestamp", "order"} & set(names)
    if clocks and not has_order:
        raise UserError(
            f"The events have a column '{min(clocks)}', and are said to have no order: leave out one of both."
        )
    required = [*REQUIRED[table], *(["timestamp"] if table == "events" and has_order and not clocks else [])]
    if missing := sorted(set(required) - set(names)):
        or_order = " or order" if "timestamp" in missing else ""
        raise UserError(f"The {table} have no column {', '.join(missing)}{or_order}, which is required.")
    if len(clocks) == 2:
        raise UserError("The events have both timestamp and order: keep order only for data without times.")
    return names


def _other_column(
    table: str, name: str, column: pa.ChunkedArray, first_row: int
) -> pa.Array | pa.ChunkedArray:
    if table == "items" and name == "embedding":
        return _fixed_width(column, first_row)
    plain = column.cast(_plain_type(column.type))
    if pa.types.is_fixed_size_list(column.type) and column.null_count:
        at = first_row + int(np.argmax(column.is_null().to_numpy()))
        raise UserError(
            f"The {table}: column '{name}', row {at}: null in a column of vectors. Arrow 10 cannot write it "
            "to Parquet; write a vector of zeros for an unknown value."
        )
    return plain


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """Returns the one type in which equal values are stored, so that readers meet a single form."""
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
    """Returns content embeddings as fixed_size_list<float32>; the first embedding sets the width."""
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
