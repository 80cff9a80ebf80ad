"""Search for a baseline's settings by Recall@k on eval, one setting after the other, within a time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from two_tower.evaluation.baselines.ranking import FittedBaseline

# A search ends after this time with the best so far. Processor seconds of this process, so that the choice
# does not depend on other load of the machine.
SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Found:
    """Result of a search.

    Attributes:
        baseline: the best baseline.
        recall: its Recall@k on eval.
        tried, planned: number of combinations of settings that were tried, and that were planned.
        seconds: processor seconds of the search.
    """

    baseline: FittedBaseline
    recall: float
    tried: int
    planned: int
    seconds: float

    @property
    def was_stopped(self) -> bool:
        """True where the time ran out before all combinations were tried."""
        return self.tried < self.planned


def search(
    build: Callable[..., FittedBaseline],
    grid: Mapping[str, Sequence[Any]],
    recall: Callable[[FittedBaseline], float],
    seconds: float = SECONDS,
    rising: Collection[str] = (),
    clock: Callable[[], float] = time.process_time,
) -> Found:
    """Runs one round of coordinate descent: each setting in turn, the others at their best values so far.

    It tries as many combinations as there are values; a full grid would try the product of their numbers.

    Args:
        build: returns the baseline of some settings, by name.
        grid: values of each setting, in the order in which they are chosen. The search begins with the first
            value of each.
        recall: returns the recall of a baseline on eval. Of equal recalls the first is kept.
        seconds: time after which no further combination is tried; the first always is.
        rising: settings, such as the number of epochs, whose next value is tried only where the one before
            it helped.
        clock: processor time of the process, in seconds.
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
