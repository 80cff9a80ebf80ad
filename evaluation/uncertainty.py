"""Confidence bounds of means over queries: users are the sample, each with all their queries.

Queries of one user are alike, so that bounds over queries drawn one by one would be too narrow. A mean needs
only the sum and the number of a user's values. Its standard error is that of the jackknife over users, which
leaves out one user at a time with all their queries (Bell and McCaffrey, 2002, "Bias Reduction in Standard
Errors for Linear Regression with Multi-Stage Samples"). Its bounds are Student's, with the degrees of freedom
of as many users of equal weight (Carter, Schnepel and Steigerwald, 2017, "Asymptotic Behavior of a t-Test
Robust to Cluster Heterogeneity"). `benchmarks/gate_statistics.py` measures how often they hold the truth.

Bounds that hold for many means at once need the means' joint distribution. `UserSample.resampled_means` draws
users with replacement for it (the cluster bootstrap; Field and Welsh, 2007, "Bootstrapping Clustered Data").
Every call draws the same resamples, so that means of two models or slices are paired.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from two_tower.evaluation.settings import MIN_USERS

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# Share of the samples whose bounds hold the truth.
LEVEL = 0.95
# Resamples of the users, of which joint bounds are made.
RESAMPLES = 1_000
# Keys of a change in evaluation.json.
_CHANGE = ("change", "low", "high")
# Multiplicities that are held at once: 32 MB of float64.
_WEIGHTS_AT_ONCE = 4_000_000


@dataclasses.dataclass(frozen=True)
class Estimates:
    """Means over queries with their noise, a column for each metric, model or slice.

    Attributes:
        value: [M] means; NaN without a value.
        error: [M] standard errors; NaN where fewer than two users have a value.
        freedom: [M] degrees of freedom of Student's distribution.
        users: [M] users with a value.
    """

    value: Floats
    error: Floats
    freedom: Floats
    users: Ints

    def minus(self, other: Estimates) -> Estimates:
        """Subtracts means over other, independent users; degrees of freedom by Welch (1947)."""
        parts = self.error**2, other.error**2
        with np.errstate(invalid="ignore", divide="ignore"):
            freedom = (parts[0] + parts[1]) ** 2 / (
                parts[0] ** 2 / self.freedom + parts[1] ** 2 / other.freedom
            )
        return Estimates(
            self.value - other.value,
            np.sqrt(parts[0] + parts[1]),
            np.where(np.isfinite(freedom), freedom, np.minimum(self.freedom, other.freedom)),
            np.minimum(self.users, other.users),
        )

    def bounds(self) -> Floats:
        """Computes bounds [2, M], low and high; NaN where fewer than MIN_USERS users have a value."""
        from scipy.special import stdtrit

        reach = stdtrit(np.maximum(self.freedom, 1.0), (1.0 + LEVEL) / 2.0) * self.error
        bounds = np.stack([self.value - reach, self.value + reach])
        bounds[:, self.users < MIN_USERS] = np.nan
        return bounds


@dataclasses.dataclass(frozen=True)
class UserSample:
    """Users of queries, a sample of all users.

    Usage:
        sample = UserSample(queries.user_id)
        sample.intervals({"recall@10": recall})                       # {"recall@10": [0.11, 0.14]}
        sample.changes({"recall@10": recall}, {"recall@10": other})   # {"recall@10": {"change": ...}}

    Attributes:
        users: [Q] the user of each query; any numbers.
    """

    users: Ints

    def estimates(self, values: npt.ArrayLike) -> Estimates:
        """Computes the mean of each column with its noise.

        Args:
            values: [Q, M] or [Q], a column for each metric, model or slice. NaN is no value: a query outside
                of a slice is left out of numerator and denominator.
        """
        sums, counts = self._of_users(values)
        return _jackknife(sums, counts, counts)

    def share(self, part: npt.ArrayLike, whole: npt.ArrayLike) -> list[float] | None:
        """Computes the interval `[low, high]` of the quotient of two means, such as the share of a gap.

        Args:
            part: [Q] values of the numerator.
            whole: [Q] values of the denominator.

        Returns:
            None where fewer than MIN_USERS users have a value, or the denominator's sum is not above zero.
        """
        sums, counts = self._of_users(np.stack([np.asarray(part), np.asarray(whole)], axis=1))
        if sums[:, 1].sum() <= 0:
            return None
        low, high = _jackknife(sums[:, :1], sums[:, 1:], counts[:, :1]).bounds()[:, 0]
        return [float(low), float(high)] if np.isfinite(low) else None

    def intervals(self, values: Mapping[str, npt.ArrayLike]) -> dict[str, list[float] | None]:
        """Computes the interval of each mean by name: `[low, high]`, as in evaluation.json.

        The values are shares, and so are the bounds. Where all users have 0, or all have 1, the next one may
        differ: the bound on that side is the binomial one (Clopper and Pearson, 1934).

        Args:
            values: by name [Q], see `estimates`.

        Returns:
            None where fewer than MIN_USERS users have a value.
        """
        found = self.estimates(self._columns(values))
        bounds = np.clip(found.bounds(), 0.0, 1.0)
        at_an_end = (found.error == 0) & np.isin(found.value, [0.0, 1.0]) & (found.users >= MIN_USERS)
        reach = 1.0 - ((1.0 - LEVEL) / 2.0) ** (1.0 / found.users[at_an_end])
        value = found.value[at_an_end]
        bounds[:, at_an_end] = np.sort([value, np.abs(value - reach)], axis=0)
        return {
            name: [float(low), float(high)] if np.isfinite(low) else None
            for name, (low, high) in zip(values, bounds.T, strict=True)
        }

    def changes(
        self, values: Mapping[str, npt.ArrayLike], other: Mapping[str, npt.ArrayLike]
    ) -> dict[str, dict[str, float | None]]:
        """Computes the change of each mean against another of the same queries, with its interval.

        Args:
            values: by name [Q], see `estimates`.
            other: values of the other recommender; names that only one of the two has are left out.

        Returns:
            `change`, `low` and `high`; None where there is no value, or fewer than MIN_USERS users have one.
        """
        shared = [name for name in values if name in other]
        # Differences by user, not of two sums: equal answers differ by exactly zero.
        columns = self._columns({name: np.subtract(values[name], other[name]) for name in shared})
        return changes_of(shared, self.estimates(columns))

    def resampled_means(self, values: npt.ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
        """Computes the mean of each column in each resample of the users.

        A resample is a row of multiplicities [users], and all are one matrix product.

        Args:
            values: [Q, M] or [Q], see `estimates`.
            resamples: number of resamples.
            seed: equal seeds and users give equal resamples.

        Returns:
            [resamples, M]. NaN where a resample has no value of a column.
        """
        sums, counts = self._of_users(values)
        totals, sizes = (np.empty([resamples, sums.shape[1]]) for _ in range(2))
        for begin, weights in self._weights(resamples, seed):
            block = slice(begin, begin + len(weights))
            totals[block], sizes[block] = weights @ sums, weights @ counts
        with np.errstate(invalid="ignore"):
            return np.asarray(totals / sizes)

    def _columns(self, values: Mapping[str, npt.ArrayLike]) -> Floats:
        """Stacks values by name: [Q, M]."""
        columns = [np.asarray(column) for column in values.values()]
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
            sums[:, column] = np.bincount(number, np.where(absent, 0.0, of_column))
            counts[:, column] = np.bincount(number, ~absent)
        return sums, counts

    def _weights(self, resamples: int, seed: int) -> Iterator[tuple[int, Floats]]:
        """Yields multiplicities of users in blocks of resamples: the first resample, and [block, users]."""
        users, _ = self._numbered
        generator = np.random.default_rng(seed)
        at_once = max(1, min(resamples, _WEIGHTS_AT_ONCE // max(users, 1)))
        for begin in range(0, resamples, at_once):
            rows = min(at_once, resamples - begin)
            drawn = generator.integers(0, users, [rows, users])
            drawn += np.arange(rows)[:, np.newaxis] * users
            counted = np.bincount(drawn.ravel(), minlength=rows * users)
            yield begin, counted.reshape(rows, users).astype(np.float64)


def _jackknife(sums: Floats, weights: Floats, counts: Floats) -> Estimates:
    """Estimates quotients of sums over users: sums, weights and numbers of queries, each [users, M]."""
    value, error, freedom = (np.full(sums.shape[1], np.nan) for _ in range(3))
    users = (counts > 0).sum(axis=0)
    for column, number in enumerate(users):
        if not number:
            continue
        has_value = counts[:, column] > 0
        own_sum, own_weight, own_count = (of[has_value, column] for of in (sums, weights, counts))
        total, weight = own_sum.sum(), own_weight.sum()
        value[column] = total / weight
        if number < 2:
            continue
        without = (total - own_sum) / (weight - own_weight)
        error[column] = np.sqrt((number - 1) / number * ((without - without.mean()) ** 2).sum())
        freedom[column] = own_count.sum() ** 2 / (own_count**2).sum() - 1.0
    return Estimates(value, error, freedom, users)


def changes_of(names: list[str], changes: Estimates) -> dict[str, dict[str, float | None]]:
    """Names the columns of estimated changes: `change`, `low` and `high`, as in evaluation.json."""
    rows = np.stack([changes.value, *changes.bounds()], axis=1).tolist()
    return {
        name: {key: value if np.isfinite(value) else None for key, value in zip(_CHANGE, one, strict=True)}
        for name, one in zip(names, rows, strict=True)
    }
