"""What a model has to beat: popularity, popularity that decays, and the user's own history.

All are trained from the train windows alone; a half-life, where there is one, is chosen on eval queries.
Under every protocol: what is asked for, one label or a set of them, changes the metric alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from components.retrieval_evaluator.metrics import hits_of, mean, recall_at_k
from components.retrieval_evaluator.queries import (
    PADDING,
    Ints,
    Queries,
    Windows,
    all_queries,
    excluded_items,
    ragged_index,
    sample_by_user,
)
from trainer import features

DAY = 86_400
_LISTEN = features.LISTEN.encode()
HALF_LIVES_DAYS = (0.25, 1.0, 3.0, 7.0, 14.0, 30.0, 90.0, 365.0)
# A million plays is plain frequency, with ties going to the item played last.
HALF_LIVES_PLAYS = (5.0, 20.0, 100.0, 500.0, 2_000.0, 1_000_000.0)
TUNING_QUERIES = 5_000
# Any odd number: sums are modulo 2^64.
_HASH_BASE = np.uint64(0x9E3779B97F4A7C15)
# Cells of the dense blocks that rows are worked on in: 32 MB of float64.
_BLOCK_CELLS = 4_000_000


class Baseline(Protocol):
    """Recommends without a model."""

    @property
    def settings(self) -> Mapping[str, float]:
        """What was chosen on eval, by name, for the report."""

    def recommend(
        self, windows: Windows, queries: Queries, rows: npt.ArrayLike, k: int, exclude: bool
    ) -> Ints:
        """Item ids for the queries at `rows`, best first: [len(rows), k], -1 where there are fewer.

        `exclude` leaves out what the user already had.
        """


@dataclasses.dataclass(frozen=True)
class LabelEvents:
    """Label events (listens) of the train split, each once, by user and then in time order.

    Attributes:
        user_id, item_id, timestamp: [m] int64. Times are all 0 where the data has none; then the order is
            that of the windows.
    """

    user_id: Ints
    item_id: Ints
    timestamp: Ints

    @classmethod
    def of(cls, train: Windows) -> LabelEvents:
        """Counts each event once, although a long history's windows overlap.

        Each label event but a user's first is the label of exactly one query. The first one is no query's
        label: it is the first label event in the user's earliest window.
        """
        by_user = np.lexsort((train.start_timestamp, train.user_id))
        users, first = np.unique(train.user_id[by_user], return_index=True)
        earliest = by_user[first]
        listens = np.flatnonzero(train.event_type == _LISTEN)
        nearest = np.searchsorted(listens, train.offsets[earliest])
        first_listen = np.append(listens, len(train.item_id))[nearest]
        exists = first_listen < train.offsets[earliest + 1]

        queries = all_queries(train)
        event = np.concatenate([first_listen[exists], queries.label_event])
        user_id = np.concatenate([users[exists], queries.user_id])
        # Events of equal time keep the order of their windows.
        order = np.lexsort((event, train.timestamp[event], user_id))
        return cls(user_id[order], train.item_id[event[order]], train.timestamp[event[order]])

    @property
    def has_times(self) -> bool:
        """Whether the data has times."""
        return bool(self.timestamp.any())

    def before(self, windows: Windows, chosen: Ints) -> tuple[Ints, Ints]:
        """Start and length of those of a window's user that precede the window: [C], [C].

        By time where there are times: the events older than the window's first. Else by order: a window
        begins with the end of its user's train events, or after them, so what it repeats is left out.

        Args:
            windows: of any split.
            chosen: [C] which of them.
        """
        known, begin, count = np.unique(self.user_id, return_index=True, return_counts=True)
        if not len(known):
            return np.zeros_like(chosen), np.zeros_like(chosen)
        user = np.minimum(np.searchsorted(known, windows.user_id[chosen]), len(known) - 1)
        is_known = known[user] == windows.user_id[chosen]
        start, length = begin[user], np.where(is_known, count[user], 0)
        if not self.has_times:
            return start, length - self._repeated(windows, chosen, start, length)
        # User and time as one sorted number.
        oldest, newest = self.timestamp.min(), self.timestamp.max()
        span = newest - oldest + 2
        keys = np.searchsorted(known, self.user_id) * span + (self.timestamp - oldest)
        time = np.clip(windows.start_timestamp[chosen], oldest, newest + 1) - oldest
        return start, np.where(is_known, np.searchsorted(keys, user * span + time) - start, 0)

    def _repeated(self, windows: Windows, chosen: Ints, start: Ints, length: Ints) -> Ints:
        """How many of its user's last events each window begins with, the most that there can be: [C].

        The first c listens of the window and the user's last c events are equal if their polynomial hashes
        are, which are differences of prefix sums: one pass for all windows and all c.
        """
        # Up to the first query: what follows is a label of the window's own split.
        is_query = np.append(windows.label_step > 0, True)
        queries = np.flatnonzero(is_query)
        first = queries[np.searchsorted(queries, windows.offsets[chosen])]
        listens = np.flatnonzero(windows.event_type == _LISTEN)
        inner_start = np.searchsorted(listens, windows.offsets[chosen])
        inner = np.searchsorted(listens, np.minimum(first + 1, windows.offsets[chosen + 1])) - inner_start

        ids, number = np.unique(np.concatenate([self.item_id, windows.item_id[listens]]), return_inverse=True)
        code = np.random.default_rng(0).integers(0, 2**63, len(ids)).astype(np.uint64)[number]
        longest = max(len(self.item_id), len(listens))
        powers = np.cumprod(np.append(np.uint64(1), np.full(longest, _HASH_BASE)))

        def prefix_sums(codes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
            return np.append(np.uint64(0), np.cumsum(codes * powers[: len(codes)]))

        ours, theirs = prefix_sums(code[: len(self.item_id)]), prefix_sums(code[len(self.item_id) :])
        most = np.minimum(inner, length)
        row = np.repeat(np.arange(len(chosen)), most)
        size = ragged_index(np.ones_like(most), most)
        end, begin = (start + length)[row], inner_start[row]
        # Each sum has the powers of where its events stand: multiplied by the other's, both have the same.
        equal = (ours[end] - ours[end - size]) * powers[begin] == (
            theirs[begin + size] - theirs[begin]
        ) * powers[end - size]
        repeated = np.zeros(len(chosen), np.int64)
        np.maximum.at(repeated, row[equal], size[equal])
        return repeated


class Popularity:
    """The items with most label events in train, each event weighing 0.5^(its age / half-life)."""

    def __init__(self, events: LabelEvents, half_life_days: float | None = None) -> None:
        """Ranks the items. Without a half-life every event weighs the same."""
        items, index, counts = np.unique(events.item_id, return_inverse=True, return_counts=True)
        weights: npt.NDArray[Any] = counts
        if half_life_days is not None:
            age = events.timestamp.max(initial=0) - events.timestamp
            weights = np.bincount(index, 0.5 ** (age / (half_life_days * DAY)), minlength=len(items))
        # Equal weights (among them those too old to differ from 0) fall back on the count, then on the id.
        self.ranked: Ints = items[np.lexsort((items, -counts, -weights))]
        self.settings = {} if half_life_days is None else {"half_life_days": half_life_days}

    def recommend(
        self, windows: Windows, queries: Queries, rows: npt.ArrayLike, k: int, exclude: bool
    ) -> Ints:
        """See `Baseline.recommend`."""
        batch = queries.take(rows)
        recommended = np.full([len(batch), k], PADDING)
        excludable = (batch.position + 1) + np.diff(windows.seen_offsets)[batch.window]
        for block in _blocks(k + excludable * exclude):
            excluded = excluded_items(windows, batch.take(block)) if exclude else _none(len(block))
            recommended[block] = self.fill_up(recommended[block], excluded)
        return recommended

    def fill_up(self, chosen: Ints, excluded: Ints) -> Ints:
        """Puts the most popular of the remaining items where `chosen` has padding.

        Args:
            chosen: [Q, k] item ids, -1 at padding, which is at the end.
            excluded: [Q, E] item ids that are not put in, -1 at padding.

        Returns:
            [Q, k] item ids, each at most once a row.
        """
        rows, k = chosen.shape
        taken = np.hstack([chosen, excluded])
        # Of the first `taken.shape[1]` + k, at least k are not taken.
        popular = self.ranked[: taken.shape[1] + k]
        by_id = np.argsort(popular)
        free = np.ones([rows, len(popular)], bool)
        if len(popular):
            rank = by_id[np.minimum(np.searchsorted(popular, taken, sorter=by_id), len(popular) - 1)]
            row, column = np.nonzero(popular[rank] == taken)
            free[row, rank[row, column]] = False
        offered = np.hstack([chosen, np.tile(popular, [rows, 1])])
        usable = np.hstack([chosen >= 0, free])
        place = np.cumsum(usable, axis=1) - 1
        row, column = np.nonzero(usable & (place < k))
        filled = np.full([rows, k], PADDING)
        filled[row, place[row, column]] = offered[row, column]
        return filled


class PersonalHistory:
    """What the user plays most and played last: the one to beat where listens repeat.

    An item scores the sum of 0.5^(plays ago / half-life) over the user's listens to it: those in train
    that are older than the query's window, and those in the window up to the query. A short half-life
    ranks by recency, a long one by frequency. Lists shorter than k are filled up with popular items.
    """

    def __init__(self, events: LabelEvents, popularity: Popularity, half_life_plays: float) -> None:
        self.settings = {"half_life_plays": half_life_plays}
        self._events = events
        self._popularity = popularity
        self._half_life = half_life_plays

    def recommend(
        self, windows: Windows, queries: Queries, rows: npt.ArrayLike, k: int, exclude: bool
    ) -> Ints:
        """See `Baseline.recommend`.

        Raises:
            ValueError: `exclude` is set, which leaves nothing to recommend.
        """
        if exclude:
            raise ValueError("Personal history recommends only what the user already had.")
        batch = queries.take(rows)
        used, window = np.unique(batch.window, return_inverse=True)

        # Listens of each window in use: those in train before it, then those in it.
        listens = np.flatnonzero(windows.event_type == _LISTEN)
        inner_start = np.searchsorted(listens, windows.offsets[used])
        inner_length = np.searchsorted(listens, windows.offsets[used + 1]) - inner_start
        past_start, past_length = self._events.before(windows, used)
        past = ragged_index(past_start, past_length)
        inner = ragged_index(inner_start, inner_length)

        # The distinct items of each window, numbered through all windows as slots.
        ids, item = np.unique(
            np.concatenate([self._events.item_id[past], windows.item_id[listens[inner]]]), return_inverse=True
        )
        owner = np.concatenate(
            [np.repeat(np.arange(len(used)), past_length), np.repeat(np.arange(len(used)), inner_length)]
        )
        slots, slot = np.unique(owner * len(ids) + item, return_inverse=True)
        slot_item = ids[slots % max(len(ids), 1)]
        slot_count = np.bincount(slots // max(len(ids), 1), minlength=len(used))
        slot_start = np.cumsum(slot_count) - slot_count
        past_slot, inner_slot = np.split(slot, [len(past)])

        # Score of a slot as the window begins; a query with n listens in its window decays it n times.
        plays_ago = np.repeat(past_start + past_length, past_length) - past - 1
        at_start = np.bincount(past_slot, self._decay(plays_ago), minlength=len(slots))
        known_at_start = np.bincount(past_slot, minlength=len(slots)) > 0
        heard = np.searchsorted(listens, batch.event, side="right") - inner_start[window]
        inner_begin = (np.cumsum(inner_length) - inner_length)[window]

        recommended = np.full([len(batch), k], PADDING)
        for block in _blocks(slot_count[window]):
            count, begin, n = slot_count[window[block]], slot_start[window[block]], heard[block]
            row = np.repeat(np.arange(len(block)), count)
            index = ragged_index(begin, count)
            # A window's slots hold its later items too: only what the query has heard is a candidate.
            scores = np.zeros([len(block), max(k, count.max(initial=0))])
            known = np.zeros(scores.shape, bool)
            column = index - begin[row]
            scores[row, column] = at_start[index] * self._decay(n)[row]
            known[row, column] = known_at_start[index]

            row = np.repeat(np.arange(len(block)), n)
            index = ragged_index(inner_begin[block], n)
            age = (inner_begin[block] + n - 1)[row] - index
            cell = row * scores.shape[1] + inner_slot[index] - begin[row]
            scores += np.bincount(cell, self._decay(age), minlength=scores.size).reshape(scores.shape)

            known.ravel()[cell] = True

            scores[~known] = -1.0
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            exists = np.take_along_axis(known, best, axis=1)
            top = np.where(exists, slot_item[np.where(exists, begin[:, None] + best, 0)], PADDING)
            recommended[block] = self._popularity.fill_up(top, _none(len(block)))
        return recommended

    def _decay(self, plays: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return np.asarray(0.5 ** (plays / self._half_life), np.float64)


def fit_baselines(
    events: LabelEvents, evaluation: Windows, *, cutoff: int, repeats_recommendable: bool, seed: int
) -> dict[str, Baseline]:
    """The baselines by name, with half-lives chosen by Recall@cutoff on a sample of eval queries.

    `events` are train's.

    Where repeats may not be recommended, personal history has nothing to say and is absent; where the data
    has no times, decayed popularity is.
    """
    queries = all_queries(evaluation)
    sampled = sample_by_user(queries, TUNING_QUERIES, seed)
    labels = queries.labels.take(sampled)

    def best(candidates: Sequence[Baseline]) -> Baseline:
        def recall(baseline: Baseline) -> float:
            recommended = baseline.recommend(evaluation, queries, sampled, cutoff, not repeats_recommendable)
            return mean(recall_at_k(hits_of(recommended, labels), labels.counts, cutoff))

        return max(candidates, key=recall)

    most_popular = Popularity(events)
    baselines: dict[str, Baseline] = {"most_popular": most_popular}
    if events.has_times:
        baselines["decayed_popularity"] = best([Popularity(events, days) for days in HALF_LIVES_DAYS])
    if repeats_recommendable:
        baselines["personal_history"] = best(
            [PersonalHistory(events, most_popular, plays) for plays in HALF_LIVES_PLAYS]
        )
    return baselines


def _none(rows: int) -> Ints:
    return np.empty([rows, 0], np.int64)


def _blocks(widths: Ints) -> Iterator[Ints]:
    """Splits rows into blocks of similar width, so that dense blocks are mostly full and bounded in size."""
    order = np.argsort(widths, kind="stable")
    begin = 0
    while begin < len(order):
        # Rows of ascending width: a block of r rows costs r times its last row's width.
        cells = np.arange(1, len(order) - begin + 1) * np.maximum(widths[order[begin:]], 1)
        size = max(int(np.searchsorted(cells, _BLOCK_CELLS, side="right")), 1)
        yield order[begin : begin + size]
        begin += size
