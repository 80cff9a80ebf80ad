"""Settings of a baseline, chosen by Recall@k on eval, one setting after the other, within a time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from two_tower.evaluation.baselines.ranking import Baseline

# A search that has taken so long ends with what it found: seconds of this process's processors, so that what
# is chosen does not depend on what else the machine does.
SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Found:
    """The best of a search.

    Attributes:
        baseline: the best one.
        recall: its Recall@k on eval.
        tried, planned: combinations of settings that were tried, and that would have been.
        seconds: of processors that it took.
    """

    baseline: Baseline
    recall: float
    tried: int
    planned: int
    seconds: float

    @property
    def was_stopped(self) -> bool:
        """Whether the time ran out before all was tried."""
        return self.tried < self.planned


def search(
    build: Callable[..., Baseline],
    grid: Mapping[str, Sequence[Any]],
    recall: Callable[[Baseline], float],
    seconds: float = SECONDS,
    rising: Collection[str] = (),
    clock: Callable[[], float] = time.process_time,
) -> Found:
    """Coordinate descent, once around: of each setting in turn the best value, the others at their best yet.

    It tries as many combinations as there are values, where all would be the product of their numbers.

    Args:
        build: makes the baseline of some settings, by name.
        grid: of each setting its values, in the order in which they are chosen; the search begins with the
            first of each.
        recall: of a baseline, on eval. Of equals the one that was tried first is kept.
        seconds: after which no further combination is tried; the first always is.
        rising: settings, such as the number of epochs, of which a further value is tried only where the one
            before it helped.
        clock: in seconds; of the process's processors.
    """
    began = clock()
    chosen = {name: values[0] for name, values in grid.items()}
    best = build(**chosen)
    best_recall, tried = recall(best), 1
    planned = 1 + sum(len(values) - 1 for values in grid.values())
    for name, values in grid.items():
        for value in values[1:]:
            if clock() - began > seconds:
                return Found(best, best_recall, tried, planned, clock() - began)
            candidate = build(**{**chosen, name: value})
            measured = recall(candidate)
            tried += 1
            if measured > best_recall:
                best, best_recall, chosen = candidate, measured, {**chosen, name: value}
            elif name in rising:
                planned -= len(values) - 1 - values.index(value)
                break
    return Found(best, best_recall, tried, planned, clock() - began)
