"""The baseline `personal_history`: the items that the user plays most and played last."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from two_tower.evaluation.baselines.blocks import blocks, none
from two_tower.evaluation.baselines.definition import HISTORY, REPEATS, Baseline, FittingData
from two_tower.evaluation.baselines.popularity import Popularity
from two_tower.evaluation.baselines.ranking import FittedBaseline
from two_tower.evaluation.label_events import LabelEvents
from two_tower.evaluation.queries import PADDING, Ints, Queries, Windows, ragged_index
from two_tower.schema import features

_LISTEN = features.LISTEN.encode()


class PersonalHistory:
    """Ranking of the items that the user played, by frequency and recency: strong where listens repeat.

    An item scores the sum of 0.5^(plays ago / half-life) over the user's listens to it: those in train
    that are older than the query's window, and those in the window up to the query. A short half-life
    ranks by recency, a long one by frequency. Lists shorter than k are filled up with popular items.
    """

    def __init__(
        self,
        events: LabelEvents,
        popularity: Popularity,
        half_life_plays: float,
        allowed: Ints | None = None,
    ) -> None:
        """Args:
        events: train's label events.
        popularity: fills up short lists.
        half_life_plays: half-life of a listen's weight.
        allowed: ids of the items that can be recommended; without it all items can.
        """
        self.settings: dict[str, float | str] = {"half_life_plays": half_life_plays}
        self._events = events
        self._popularity = popularity
        self._half_life = half_life_plays
        self._allowed = allowed

    def recommend(
        self, windows: Windows, queries: Queries, rows: npt.ArrayLike, k: int, exclude: bool
    ) -> Ints:
        """Recommends, see `FittedBaseline.recommend`.

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
        is_allowed = np.ones(len(slots), bool) if self._allowed is None else np.isin(slot_item, self._allowed)
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
        for block in blocks(slot_count[window]):
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
            row, column = np.nonzero(known)
            known[row, column] = is_allowed[begin[row] + column]
            scores[~known] = -1.0
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            exists = np.take_along_axis(known, best, axis=1)
            top = np.where(exists, slot_item[np.where(exists, begin[:, None] + best, 0)], PADDING)
            recommended[block] = self._popularity.fill_up(top, none(len(block)))
        return recommended

    def _decay(self, plays: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return np.asarray(0.5 ** (plays / self._half_life), np.float64)


def _fit(data: FittingData) -> Callable[..., FittedBaseline]:
    allowed = None if isinstance(data.catalog, str) else data.catalog.items

    def built(half_life_plays: float) -> FittedBaseline:
        return PersonalHistory(data.events, data.most_popular, half_life_plays, allowed)

    return built


BASELINE = Baseline(
    name="personal_history",
    label="personal history",
    family=HISTORY,
    colour="history",
    place=30,
    meaning="the items that the user played most and last: a listen's weight halves with the plays since",
    needs=(REPEATS,),
    # A million plays is plain frequency, with ties going to the item played last.
    grid={"half_life_plays": (5.0, 20.0, 100.0, 500.0, 1_000_000.0)},
    fit=_fit,
)
