"""Next choice of a user, with its exact probability: one formula draws, infers and predicts.

A choice is first by the user's history, and else by the user's type, which is hidden:

    P(item | history, type) = P(item by history) + rest · P(item | type) / (1 - P(excluded items | type))

`rest` is the probability that the history does not decide. Excluded items, such as films that the user has
rated, are drawn again. The type never changes, so the posterior over types is exact: the prior times the
probabilities of all choices so far. Two oracles rank all items.

- *hidden* knows the type. It is the simulator's own probability; no ranking has a higher expected recall.
- *observed* knows the history alone, and mixes the types by their posterior. No ranking by the history has a
  higher expected recall.

Both know the world, and the time of the next choice, as a service does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

from two_tower.simulator.oracle_answers import OracleAnswers
from two_tower.simulator.world import DAY, Bools, Floats, Ints
from two_tower.simulator.worlds.tastes import Tastes

# A user who has had this share of what some type would choose leaves the log. The rule reads the history
# alone, so that leaving tells nothing of the user's own type.
_HAD_ENOUGH = 0.9


@dataclasses.dataclass(frozen=True)
class Choice:
    """The next choice, as far as a user's history decides it.

    Attributes:
        items: [n] items that the history suggests; an item may stand there twice.
        probability: [n] their probabilities.
        excluded: [m] distinct items that cannot be chosen; none of `items`.
        period: the period of `Tastes`.
    """

    items: Ints
    probability: Floats
    excluded: Ints
    period: int = 0

    @property
    def rest(self) -> float:
        """Probability of a choice by type."""
        return max(0.0, 1.0 - float(self.probability.sum()))


class History(Protocol):
    """Choices of one user so far."""

    def choice(self, time: int, begins: bool) -> Choice:
        """Returns what the history says of a choice at `time`, which may begin a visit."""

    def add(self, item: int, time: int) -> None:
        """Adds a choice."""


@dataclasses.dataclass(frozen=True)
class SequentialWorld:
    """World in which users choose one item after another.

    Attributes:
        seed: seed of the choices and of the oracle's sample.
        tastes: distributions of the types.
        prior: [types] shares of the types among users.
        user_type: [users] hidden type of each user.
        start: [users + 1] a user's choices are start[user]:start[user + 1], unless the user leaves earlier.
        time: [choices] seconds, strictly increasing within a user.
        begins: [choices] whether a choice begins a visit.
        history: returns the empty history of a user with so many choices.
    """

    seed: int
    tastes: Tastes
    prior: Floats
    user_type: Ints
    start: Ints
    time: Ints
    begins: Bools
    history: Callable[[int], History]


@dataclasses.dataclass(frozen=True)
class Log:
    """Choices by user and time: all arrays [choices]. Users and items count from 0."""

    user: Ints
    item: Ints
    time: Ints
    begins: Bools


def walk(world: SequentialWorld, progress: Callable[[str], None]) -> Log:
    """Draws all choices of all users."""
    random = np.random.default_rng([world.seed, 101])
    items = np.full(len(world.time), -1)
    users = len(world.user_type)
    for user in range(users):
        begin, end = int(world.start[user]), int(world.start[user + 1])
        history, user_type = world.history(end - begin), int(world.user_type[user])
        for at in range(begin, end):
            time = int(world.time[at])
            choice = history.choice(time, bool(world.begins[at]))
            item = _draw(choice, world.tastes, user_type, random)
            if item < 0:
                break
            items[at] = item
            history.add(item, time)
        if (user + 1) * 5 // users > user * 5 // users:
            progress(f"choices of {users:,} users: {(user + 1) / users:.0%}")
    made = items >= 0
    user_of = np.repeat(np.arange(users), np.diff(world.start))
    return Log(user_of[made], items[made], world.time[made], world.begins[made])


def _draw(choice: Choice, tastes: Tastes, user_type: int, random: np.random.Generator) -> int:
    """Draws an item, or returns -1 for a user who leaves."""
    excluded = set(choice.excluded.tolist())
    if excluded and tastes.mass(choice.excluded, choice.period).max() > _HAD_ENOUGH:
        return -1
    reach = choice.probability.cumsum()
    place = int(reach.searchsorted(random.random(), side="right"))
    if place < len(reach):
        return int(choice.items[place])
    while True:
        item = tastes.draw(user_type, choice.period, random.random(), random.random())
        if item not in excluded:
            return item


def by_type(choice: Choice, tastes: Tastes, item: int) -> Floats:
    """Returns the probability of an item that can be chosen, given each type: [types]."""
    suggested = float(choice.probability[choice.items == item].sum())
    return suggested + choice.rest * tastes.of_item(item, choice.period) / _left(choice, tastes)


def probabilities(choice: Choice, tastes: Tastes, weight: Floats) -> Floats:
    """Returns the probability of every item, the types mixed by `weight` [types]: [items]."""
    found = choice.rest * tastes.mixed(weight / _left(choice, tastes), choice.period)
    np.add.at(found, choice.items, choice.probability)
    found[choice.excluded] = 0.0
    return found


def _left(choice: Choice, tastes: Tastes) -> Floats:
    """Returns what excluded items leave of each type's distribution, [types]."""
    if not len(choice.excluded):
        return np.ones(tastes.types)
    return np.maximum(1.0 - tastes.mass(choice.excluded, choice.period), 1e-12)


def rank_of(probability: Floats, item: int, excluded: Ints | None = None) -> int:
    """Returns the 0-based rank of `item` by `probability` [items]; ties go to the lower number.

    Args:
        excluded: items that no ranking holds; all rank behind the others.
    """
    if excluded is not None and len(excluded):
        probability = probability.copy()
        probability[excluded] = -1.0
    own = probability[item]
    return int((probability > own).sum() + (probability[:item] == own).sum())


def answer(world: SequentialWorld, log: Log, about: int, progress: Callable[[str], None]) -> OracleAnswers:
    """Ranks the labels of the last 86,400 s with both oracles.

    A query is a choice that has an earlier one of its user. Random users are asked, each with all queries,
    until there are at least `about`.
    """
    start = np.searchsorted(log.user, np.arange(len(world.user_type) + 1))
    is_query = log.time > log.time.max(initial=0) - DAY
    is_query &= np.append(False, log.user[1:] == log.user[:-1])[: len(is_query)]
    users, number = np.unique(log.user[is_query], return_counts=True)
    order = np.random.default_rng([world.seed, 102]).permutation(len(users))
    enough = int(np.searchsorted(number[order].cumsum(), about)) + 1
    chosen = np.sort(users[order[:enough]])
    labels: list[int] = []
    hidden: list[int] = []
    observed: list[int] = []
    for count, user in enumerate(chosen.tolist()):
        history = world.history(int(start[user + 1] - start[user]))
        known = np.eye(world.tastes.types)[world.user_type[user]]
        belief = np.log(world.prior)
        for at in range(int(start[user]), int(start[user + 1])):
            item, time = int(log.item[at]), int(log.time[at])
            choice = history.choice(time, bool(log.begins[at]))
            if is_query[at]:
                labels.append(at)
                for ranks, weight in ((hidden, known), (observed, _normal(belief))):
                    ranks.append(rank_of(probabilities(choice, world.tastes, weight), item, choice.excluded))
            # A type for which a choice was impossible is out.
            with np.errstate(divide="ignore"):
                belief = belief + np.log(by_type(choice, world.tastes, item))
            history.add(item, time)
        if (count + 1) * 4 // len(chosen) > count * 4 // len(chosen):
            progress(f"oracle: {len(labels):,} queries")
    asked = np.array(labels, np.int64)
    return OracleAnswers(
        log.user[asked], log.time[asked], log.item[asked], np.array(hidden), np.array(observed)
    )


def _normal(log_weight: Floats) -> Floats:
    weight: Floats = np.exp(log_weight - log_weight.max())
    return weight / weight.sum()
