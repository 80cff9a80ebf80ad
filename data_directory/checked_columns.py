"""Checked columns: columns of Parquet files as NumPy arrays; errors name file, column, row and value.

Rows count from 0, as in data frame libraries.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from two_tower.base import storage
from two_tower.base.errors import UserError

# 2100-01-01: a larger number is not a time in seconds.
NEWEST_TIMESTAMP = 4_102_444_800
# An item played ten thousand times over, and one of 30 years: larger values are faults.
LARGEST = {"play_ratio": 10_000.0, "item_length": 1e9}

# Extension type that `base.arrow_hotfix` forbids.
_PYTHON_TYPE = "arrow.py_extension_type"


class WrongRows(UserError):
    """Error of rows whose values are not allowed; the text names the first one.

    Args:
      path, column: place of the values.
      rows: positions of the wrong rows in the array that was checked, ascending and not empty.
      first_row: number in the file of the array's first row.
      shown: returns the value at a position in the form that errors show.
      remedy: the rest of a sentence that begins with the value.
    """

    def __init__(
        self,
        path: str,
        column: str,
        rows: np.ndarray | Sequence[int],
        first_row: int,
        shown: Callable[[int], object],
        remedy: str,
    ) -> None:
        self.path, self.column, self.rows = path, column, np.asarray(rows, np.int64)
        self._shown, self._remedy = shown, remedy
        # A remedy for all of the rows, beside that of each.
        self.hint = ""
        super().__init__(self.text(int(self.rows[0]), first_row + int(self.rows[0])))

    def text(self, position: int, row: int) -> str:
        """Returns the error's text for one of the rows, with its number in the file."""
        return f"{self.path}: column '{self.column}', row {row}: {self._shown(position)} {self._remedy}"

    def __reduce__(self) -> tuple[type[UserError], tuple[str]]:
        """Returns the text alone for pickling: Beam sends errors between processes."""
        return UserError, (str(self),)


def _holds_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def has_text(kind: pa.DataType) -> bool:
    """Tells a column of texts, or of lists of texts."""
    return _holds_text(kind.value_type if _is_list(kind) else kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


# Kinds of a source's columns; the width (uint32, int64) does not matter.
KINDS: Mapping[str, Callable[[pa.DataType], bool]] = {
    "integer": pa.types.is_integer,
    "number": _is_number,
    "text": _holds_text,
    "boolean": lambda kind: pa.types.is_boolean(kind) or pa.types.is_integer(kind),
    "list of numbers": lambda kind: _is_list(kind) and _is_number(kind.value_type),
}


def open_parquet(path: str) -> pq.ParquetFile:
    """Opens a Parquet file and reads its footer; `path` may be a URL.

    Raises:
      UserError: the file is missing, is not a whole Parquet file, or has two columns of one name.
    """
    try:
        file = pq.ParquetFile(storage.absolute(path) if storage.is_local(path) else storage.open_file(path))
        names = file.schema_arrow.names
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file.") from None
    except UserError:
        raise
    except Exception as error:
        # A crafted footer makes Arrow raise errors of any kind.
        raise _damaged(path, error) from error
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        file.close(force=True)
        raise UserError(f"{path}: two columns have the name '{twice}': rename one of them.")
    return file


@contextlib.contextmanager
def opened_parquet(path: str) -> Iterator[pq.ParquetFile]:
    """Opens a Parquet file for a `with` block and closes it at the end; see `open_parquet`."""
    file = open_parquet(path)
    try:
        yield file
    finally:
        file.close(force=True)


def open_dataset(paths: Sequence[str]) -> pads.Dataset:
    """Opens Parquet files of one file system as one Arrow dataset, in their order.

    Raises:
      UserError: see `open_parquet`, for each of the files.
    """
    for path in paths:
        # Arrow would read the footers at a scan, whose errors name no file.
        with opened_parquet(path):
            pass
    if all(map(storage.is_local, paths)):
        return pads.dataset([storage.absolute(path) for path in paths], format="parquet")
    found = [storage.filesystem_of(path) for path in paths]
    return pads.dataset([name for _, name in found], format="parquet", filesystem=found[0][0])


def rows_where(paths: Sequence[str], columns: Sequence[str], where: pc.Expression) -> pa.Table:
    """Reads the rows of Parquet files that fulfil an expression.

    Raises:
      UserError: a file is damaged, or a text of these rows is not UTF-8.
    """
    tables = []
    for path in paths:
        try:
            tables.append(open_dataset([path]).to_table(columns=list(columns), filter=where))
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from error
        for name in columns:
            check_text(tables[-1][name], path, name)
    return pa.concat_tables(tables)


def _damaged(path: str, error: Exception) -> UserError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if _PYTHON_TYPE in reason:
        return UserError(
            f"{path}: a column's type is a pickled Python object ('{_PYTHON_TYPE}'), which runs code when it "
            "is read. Nothing was run. Write the column in a plain type, or discard the file."
        )
    if "Expected all lists to be of size" in reason:
        return UserError(
            f"{path}: a column of lists of a fixed size has a null, which Arrow 10 cannot read ({reason}). "
            "Write it as a column of plain lists."
        )
    return UserError(
        f"{path}: not a whole Parquet file (cut off or damaged: {reason}). Fetch or write it again."
    )


def check_kinds(file: pq.ParquetFile, path: str, kinds: Mapping[str, str]) -> None:
    """Checks that the columns of `kinds` (column → one of KINDS) exist and are of that kind.

    Raises:
      UserError: a column is missing or of another kind.
    """
    schema = file.schema_arrow
    for column, kind in kinds.items():
        if column not in schema.names:
            raise UserError(f"{path}: column '{column}' is missing; it has {', '.join(schema.names)}.")
        found = schema.field(column).type
        if not KINDS[kind](found):
            raise UserError(f"{path}: column '{column}' is of type {found}, where {kind} is needed.")


def check_letters(names: Sequence[str], known: Iterable[str], path: str) -> None:
    """Checks that no column has the name of a known one in other letters, which readers would overlook.

    Args:
      names: the columns that are there.
      known: the columns that have a meaning.
      path: the file or table, for messages.

    Raises:
      UserError: there is such a column.
    """
    of_lower = {name.lower(): name for name in known}
    for name in names:
        right = of_lower.get(name.lower(), name)
        if right != name:
            raise UserError(f"{path}: column '{name}' is not read: only '{right}' is. Rename or drop it.")


def read_batches(
    path: str, columns: list[str] | None = None, rows: int = 1 << 19
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yields a Parquet file as (number of the first row, batch of at most `rows` rows).

    Raises:
      UserError: the file ends early or is damaged, or a text is not UTF-8.
    """
    first_row = 0
    with opened_parquet(path) as file:
        groups: list[list[int] | None] = [None]
        if any(
            _is_list(field.type) and pa.types.is_dictionary(field.type.value_type)
            for field in file.schema_arrow
        ):
            # Arrow 10 cannot join lists of dictionaries from two row groups in one batch.
            groups = [[group] for group in range(file.metadata.num_row_groups)]
        try:
            for group in groups:
                for batch in file.iter_batches(batch_size=rows, row_groups=group, columns=columns):
                    for name, column in zip(batch.schema.names, batch.columns, strict=True):
                        check_text(column, path, name, first_row)
                    yield first_row, batch
                    first_row += batch.num_rows
        except pa.ArrowNotImplementedError as error:
            raise UserError(
                f"{path}: Arrow 10 cannot read the type of a column ({error}). Write it in another type."
            ) from error
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from error


def check_text(column: pa.Array | pa.ChunkedArray, path: str, name: str, first_row: int = 0) -> None:
    """Raises UserError if a text of a column, or of its lists, is not UTF-8, which Parquet does not check."""
    if not has_text(column.type):
        return
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        for row, value in enumerate(column):
            try:
                value.as_py()
            except UnicodeDecodeError as fault:
                byte = fault.object[fault.start]
                raise refuse(
                    path, name, first_row + row, f"byte {byte:#04x}", "is not UTF-8. Write the text as UTF-8."
                ) from error
        raise _damaged(path, error) from error


def refuse(path: str, column: str, row: int, value: object, remedy: str) -> UserError:
    """Returns the error for one value: its place, the value and the remedy."""
    return UserError(f"{path}: column '{column}', row {row}: {value} {remedy}")


def integers(column: pa.Array, path: str, name: str, first_row: int = 0) -> np.ndarray:
    """Returns a column of integers without nulls as int64[n].

    Raises:
      UserError: a null, or a value beyond int64.
    """
    if column.null_count:
        rows = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
        remedy = "is no value here; drop or repair the row."
        raise WrongRows(path, name, rows, first_row, lambda _: "null", remedy)
    return whole_numbers(column, path, name).to_numpy(zero_copy_only=False)


def whole_numbers(column: pa.Array, path: str, name: str) -> pa.Array:
    """Returns a column of integers as int64[n]; nulls stay null.

    Raises:
      UserError: a value is beyond int64.
    """
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{path}: column '{name}' has a value beyond int64 ({error}). Map the values to int64."
        ) from error


def ids(column: pa.Array, path: str, name: str, first_row: int = 0) -> np.ndarray:
    """Returns a column of ids as int64[n], none null, none negative (-1 is padding in serving).

    Raises:
      UserError: a value is not an id; the error names the first one and its row.
    """
    values = integers(column, path, name, first_row)
    if len(values) and values.min() < 0:
        rows = np.flatnonzero(values < 0)
        remedy = "is no id: ids are 0 or more."
        raise WrongRows(path, name, rows, first_row, lambda row: values[row], remedy)
    return values


def ranks(column: pa.Array, path: str, name: str, first_row: int = 0) -> np.ndarray:
    """Returns a column of ranks as int64[n], none null, none negative.

    Raises:
      UserError: a value is not a rank; the error names the first one and its row.
    """
    values = integers(column, path, name, first_row)
    if len(values) and values.min() < 0:
        row = int(np.argmax(values < 0))
        raise refuse(path, name, first_row + row, values[row], "is no rank: an order counts from 0.")
    return values


def timestamps(column: pa.Array, path: str, name: str, first_row: int = 0) -> np.ndarray:
    """Returns a column of times in seconds as int64[n], none null, negative or after the year 2100.

    Raises:
      UserError: a value is not a time in seconds; the error names the first one, its row, and the factor if
        times are in milliseconds, microseconds or nanoseconds.
    """
    values = integers(column, path, name, first_row)
    if len(values) and (values.min() < 0 or values.max() > NEWEST_TIMESTAMP):
        row = int(np.argmax((values < 0) | (values > NEWEST_TIMESTAMP)))
        raise refuse(path, name, first_row + row, values[row], timestamp_remedy(int(values[row])))
    return values


def check_quantity(
    column: pa.Array | pa.ChunkedArray, path: str, name: str, largest: float, first_row: int = 0
) -> None:
    """Checks that numbers are finite and from 0 to `largest`; a null is unknown, and allowed.

    Raises:
      UserError: a value is not; the error names the first one and its row.
    """
    numbers = column.cast(pa.float64(), safe=False)
    # A comparison with NaN is false, and one with null is null.
    right = pc.and_(pc.greater_equal(numbers, 0), pc.less_equal(numbers, largest))
    if not pc.all(right, min_count=0).as_py():
        at = pc.index(right, False).as_py()
        raise refuse(path, name, first_row + at, column[at].as_py(), quantity_remedy(largest))


def quantity_remedy(largest: float) -> str:
    """Returns the complaint about a number that is not finite, negative or too large."""
    return f"is not a number from 0 to {largest:,.15g}; drop or repair the row."


def timestamp_remedy(value: int) -> str:
    """Returns the complaint about a time that is negative or after the year 2100."""
    if value < 0:
        return "is a negative time; times are seconds, 0 or more."
    for factor, unit in ((10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")):
        if value // factor <= NEWEST_TIMESTAMP:
            return f"looks like {unit}, where seconds are needed: divide the column by {factor:,}."
    return "is beyond any time in seconds; times are seconds, at most those of the year 2100."


def embeddings(column: pa.Array, path: str, name: str, width: int, first_row: int = 0) -> np.ndarray:
    """Returns a column of content embeddings as float32[n, width].

    Raises:
      UserError: an embedding is null, of another width, or not finite; the error names its row.
    """
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    if (lengths != width).any():
        row = int(np.argmax(lengths != width))
        value = "null" if lengths[row] < 0 else f"an embedding of width {lengths[row]}"
        raise refuse(path, name, first_row + row, value, f"where the others have width {width}.")
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(-1, width)
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.argmin(finite.all(axis=1)))
        value = values[row, int(np.argmin(finite[row]))]
        raise refuse(path, name, first_row + row, value, "is not a finite number; repair or drop it.")
    return values
