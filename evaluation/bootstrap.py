"""Confidence bounds of means over queries: the percentile bootstrap over whole users.

Queries of one user are alike, so that bounds over queries drawn one by one would be too narrow. Users are
drawn with replacement, each with all their queries (the cluster bootstrap; Field and Welsh, 2007,
"Bootstrapping clustered data"). A mean needs only the sum and the number of a user's values. A resample is a
row of multiplicities [users], and all resamples of all metrics are one matrix product.

Every call of one `UserBootstrap` draws the same resamples. The means of two models, metrics or slices are
therefore paired, resample by resample, and `means(a) - means(b)` are valid differences.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# Multiplicities that are held at once: 32 MB of float64.
_WEIGHTS_AT_ONCE = 4_000_000
# With fewer users with a value, differences between users are unknown.
MIN_USERS = 2


# Resamples of the users, of which confidence intervals are made.
RESAMPLES = 1_000


@dataclasses.dataclass(frozen=True)
class UserBootstrap:
    """Bootstrap over the users of queries.

    Usage:
        bootstrap = UserBootstrap(queries.user_id, resamples=1_000, seed=17)
        bootstrap.intervals({"recall@10": recall})                       # {"recall@10": [0.11, 0.14]}
        bootstrap.changes({"recall@10": recall}, {"recall@10": other})   # {"recall@10": {"change": ...}}

    Attributes:
        users: [Q] the user of each query; any numbers.
        resamples: number of resamples.
        seed: equal seeds and users give equal resamples.
        level: share of the resamples within an interval's bounds.
    """

    users: Ints
    resamples: int = RESAMPLES
    seed: int = 0
    level: float = 0.95

    def means(self, values: npt.ArrayLike) -> Floats:
        """Computes the mean of each column in each resample.

        Args:
            values: [Q, M] or [Q], a column for each metric, model or slice. NaN is no value: a query outside
                of a slice is left out of numerator and denominator.

        Returns:
            [resamples, M]. NaN where a resample has no value of a column.
        """
        sums, counts = self._of_users(values)
        # Most columns have a value for every query, and share their denominators.
        every, column = np.unique(counts, axis=1, return_inverse=True)
        totals, sizes = np.empty([self.resamples, sums.shape[1]]), np.empty([self.resamples, every.shape[1]])
        for begin, weights in self._weights():
            block = slice(begin, begin + len(weights))
            totals[block] = weights @ sums
            sizes[block] = weights @ every
        with np.errstate(invalid="ignore"):
            return np.asarray(totals / sizes[:, column.ravel()])

    def users_with_values(self, values: npt.ArrayLike) -> Ints:
        """Counts the users with a value in each column: values [Q, M] or [Q], returns [M]."""
        return np.asarray((self._of_users(values)[1] > 0).sum(axis=0))

    def bounds(self, means: Floats) -> Floats:
        """Computes percentile bounds [2, M], low and high, of resampled means or differences [resamples, M].

        NaN for a column without a value in half of the resamples or more.
        """
        tail = (1.0 - self.level) / 2.0
        bounds = np.full([2, means.shape[1]], np.nan)
        known = np.isfinite(means).mean(axis=0) > 0.5
        if known.any():
            bounds[:, known] = np.nanquantile(means[:, known], [tail, 1.0 - tail], axis=0)
        return bounds

    def intervals(self, values: Mapping[str, npt.ArrayLike]) -> dict[str, list[float] | None]:
        """Computes the interval of each mean by name: `[low, high]`, as in evaluation.json.

        Args:
            values: by name [Q], see `means`.

        Returns:
            None where fewer than MIN_USERS users have a value.
        """
        columns = self._columns(values)
        found = self._known(self.bounds(self.means(columns)), columns)
        return {
            name: None if low is None else [low, high]
            for name, (low, high) in zip(values, found, strict=True)
        }

    def changes(
        self, values: Mapping[str, npt.ArrayLike], other: Mapping[str, npt.ArrayLike]
    ) -> dict[str, dict[str, float | None]]:
        """Computes the change of each mean against another of the same queries, with its interval.

        Args:
            values: by name [Q], see `means`.
            other: values of the other recommender; names that only one of the two has are left out.

        Returns:
            `change`, `low` and `high`; None where there is no value, or fewer than MIN_USERS users have one.
        """
        shared = [name for name in values if name in other]
        # Differences by user, not of two sums: equal answers differ by exactly zero.
        columns = self._columns({name: np.subtract(values[name], other[name]) for name in shared})
        found = self._known(self.bounds(self.means(columns)), columns)
        changes = {}
        for name, column, (low, high) in zip(shared, columns.T, found, strict=True):
            known = column[~np.isnan(column)]
            changes[name] = {"change": float(known.mean()) if len(known) else None, "low": low, "high": high}
        return changes

    def _known(self, bounds: Floats, columns: Floats) -> list[tuple[Any, Any]]:
        enough = self.users_with_values(columns) >= MIN_USERS
        return [
            (float(low), float(high)) if many and np.isfinite(low) else (None, None)
            for (low, high), many in zip(bounds.T, enough, strict=True)
        ]

    def _columns(self, values: Mapping[str, npt.ArrayLike]) -> Floats:
        """Stacks values by name: [Q, M]."""
        columns = [np.asarray(column, np.float64) for column in values.values()]
        return np.stack(columns, axis=1) if columns else np.empty([len(self.users), 0])

    @functools.cached_property
    def _numbered(self) -> tuple[int, Ints]:
        """Number of users, and the number of each query's user [Q]."""
        users, number = np.unique(self.users, return_inverse=True)
        return len(users), number

    def _of_users(self, values: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Sums and counts each user's values, both [users, M]."""
        table = np.asarray(values, np.float64)
        table = table[:, np.newaxis] if table.ndim == 1 else table
        count, number = self._numbered
        if len(table) != len(number):
            raise ValueError(f"{len(table)} values and {len(number)} queries' users: one for each is needed.")
        sums, counts = (np.empty([count, table.shape[1]]) for _ in range(2))
        for column, of_column in enumerate(table.T):
            absent = np.isnan(of_column)
            sums[:, column] = np.bincount(number, np.where(absent, 0.0, of_column), minlength=count)
            counts[:, column] = np.bincount(number, ~absent, minlength=count)
        return sums, counts

    def _weights(self) -> Iterator[tuple[int, Floats]]:
        """Yields multiplicities of users in blocks of resamples: the first resample, and [block, users]."""
        users, _ = self._numbered
        generator = np.random.default_rng(self.seed)
        at_once = max(1, min(self.resamples, _WEIGHTS_AT_ONCE // max(users, 1)))
        for begin in range(0, self.resamples, at_once):
            rows = min(at_once, self.resamples - begin)
            drawn = generator.integers(0, users, [rows, users]) if users else np.empty([rows, 0], np.int64)
            drawn += np.arange(rows)[:, np.newaxis] * users
            counted = np.bincount(drawn.ravel(), minlength=rows * users)
            yield begin, counted.reshape(rows, users).astype(np.float64)
