"""Columns of users/ and items/ that can become features: kind, known share, distinct values and bounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns
from two_tower.data_directory.column_kinds import KINDS, ColumnKind
from two_tower.data_directory.feature_columns import resolve
from two_tower.data_directory.manifest import Manifest
from two_tower.data_directory.merged_tables import is_known
from two_tower.data_directory.settings import FeaturesConfig

# The most distinct values of a column that are counted.
MOST_VALUES = 100_000
_ROWS_PER_BATCH = 50_000


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of users/ or items/.

    Attributes:
      kind: the kind of feature, see `feature_columns`.
      width: the width of a vector, else 0.
      known: share of the rows that have a value.
      distinct: count of distinct values (of a list, members); None beyond 100,000, and for vectors.
      bounds: least and greatest number; None for other kinds.
    """

    name: str
    kind: str
    width: int
    known: float
    distinct: int | None
    bounds: tuple[float, float] | None


def feature_columns_of(table: str, files: Sequence[str], manifest: Manifest) -> tuple[Column, ...]:
    """Returns the columns that `features.users` or `features.items` can name."""
    kinds: dict[str, tuple[str, int]] = {}
    for name in manifest.columns.get(table, {}):
        try:
            resolved = resolve(FeaturesConfig(**{table: (name,)}), manifest)
        except UserError:
            continue  # an id, a column that every model uses, or one that cannot be a feature
        (spec,) = resolved.users or resolved.items
        kinds[name] = spec.kind, spec.width
    if not kinds:
        return ()
    values = {name: _Values() for name in kinds}
    for path in files:
        for _, batch in checked_columns.read_batches(path, list(kinds), _ROWS_PER_BATCH):
            for name, (kind, _) in kinds.items():
                values[name].add(batch[name], KINDS[kind])
    return tuple(values[name].column(name, KINDS[kind], width) for name, (kind, width) in kinds.items())


class _Values:
    """Running summary of one column's values."""

    def __init__(self) -> None:
        self._rows = self._known = 0
        self._distinct: pa.Array | None = None
        self._too_many = False
        self._bounds: tuple[float, float] | None = None

    def add(self, column: pa.Array, kind: ColumnKind) -> None:
        self._rows += len(column)
        known = is_known(column)
        self._known += int(known.sum())
        if kind.has_width or pa.types.is_null(column.type):
            return
        column = column.filter(pa.array(known))
        values = column.flatten() if kind.is_list else column
        values = values.drop_null()
        if kind.is_number and len(values):
            bounds = pc.min_max(values.cast(pa.float64())).as_py()
            low, high = self._bounds or (bounds["min"], bounds["max"])
            self._bounds = (min(low, bounds["min"]), max(high, bounds["max"]))
        if not self._too_many:
            values = values.unique()
            if self._distinct is not None:
                values = pa.concat_arrays([self._distinct, values]).unique()
            self._distinct, self._too_many = values, len(values) > MOST_VALUES

    def column(self, name: str, kind: ColumnKind, width: int) -> Column:
        distinct = None
        if not kind.has_width and not self._too_many:
            distinct = 0 if self._distinct is None else len(self._distinct)
        return Column(name, kind.name, width, self._known / max(1, self._rows), distinct, self._bounds)
