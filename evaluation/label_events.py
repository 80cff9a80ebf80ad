"""Label events of train, which every baseline is trained on."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import numpy.typing as npt

from two_tower.evaluation.queries import Ints, Windows, all_queries, ragged_index
from two_tower.schema import features

_LISTEN = features.LISTEN.encode()
# Any odd number: sums are modulo 2^64.
_HASH_BASE = np.uint64(0x9E3779B97F4A7C15)


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

    def take(self, rows: npt.ArrayLike) -> LabelEvents:
        """Returns the events at `rows` (ascending indices or a mask)."""
        chosen = np.asarray(rows)
        return LabelEvents(self.user_id[chosen], self.item_id[chosen], self.timestamp[chosen])

    @functools.cached_property
    def by_item(self) -> tuple[Ints, Ints, Ints]:
        """Distinct items, ascending [I]; the place of each event's item [m]; events of each item [I]."""
        items, place, counts = np.unique(self.item_id, return_inverse=True, return_counts=True)
        return items, place, counts

    @property
    def has_times(self) -> bool:
        """True where the data has times."""
        return bool(self.timestamp.any())

    def before(self, windows: Windows, chosen: Ints) -> tuple[Ints, Ints]:
        """Finds start and length of the events of a window's user that precede the window: [C], [C].

        With times these are the events older than the window's first. Without times order decides: a window
        begins with the end of its user's train events, or after them. Events that it repeats are left out.

        Args:
            windows: windows of any split.
            chosen: [C] places of windows.
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
        """Counts the user's last events that each window begins with, as many as possible: [C].

        The first c listens of the window and the user's last c events are equal if their polynomial hashes
        are, which are differences of prefix sums: one pass for all windows and all c.
        """
        # Events up to the first query: later ones are labels of the window's own split.
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
        # Each sum has the powers of its events' places: multiplied by the other's, both have the same.
        equal = (ours[end] - ours[end - size]) * powers[begin] == (
            theirs[begin + size] - theirs[begin]
        ) * powers[end - size]
        repeated = np.zeros(len(chosen), np.int64)
        np.maximum.at(repeated, row[equal], size[equal])
        return repeated
