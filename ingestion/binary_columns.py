"""Binary columns of Parquet files, which many writers use for text: read as text if they are UTF-8."""

from __future__ import annotations

import pyarrow as pa

from two_tower.data_directory import checked_columns


def text_schema(schema: pa.Schema) -> pa.Schema:
    """Returns a schema with text in the place of binary columns, and of lists of them."""
    return pa.schema([pa.field(field.name, _text_type(field.type)) for field in schema])


def in_text(batch: pa.RecordBatch, path: str, first_row: int) -> pa.RecordBatch:
    """Converts the binary columns of a batch to text.

    Raises:
      UserError: a value is not UTF-8.
    """
    schema = text_schema(batch.schema)
    if all(one.type == other.type for one, other in zip(batch.schema, schema, strict=True)):
        return batch
    columns = []
    for field, values in zip(schema, batch.columns, strict=True):
        if values.type != field.type:
            values = _cast(values, field, path, first_row)
        columns.append(values)
    return pa.RecordBatch.from_arrays(columns, schema.names)


def _text_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind) and _text_type(kind.value_type) != kind.value_type:
        return pa.string()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _text_type(kind.value_type)
        return kind if inner == kind.value_type else pa.list_(inner)
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return pa.string() if is_binary or pa.types.is_fixed_size_binary(kind) else kind


def _cast(values: pa.Array, field: pa.Field, path: str, first_row: int) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_fixed_size_binary(values.type):
        values = values.cast(pa.binary())
    try:
        return values.cast(field.type)
    except pa.ArrowInvalid as error:
        for row, value in enumerate(values.to_pylist()):
            for entry in value if isinstance(value, list) else [value]:
                try:
                    (entry or b"").decode()
                except UnicodeDecodeError as fault:
                    byte = f"byte {fault.object[fault.start]:#04x}"
                    remedy = (
                        "is not UTF-8: the column is binary, and is read as text. Write it as text, bytes as "
                        "hexadecimal digits, or leave the column out of the column map and of its 'keep'."
                    )
                    raise checked_columns.refuse(path, field.name, first_row + row, byte, remedy) from error
        raise
