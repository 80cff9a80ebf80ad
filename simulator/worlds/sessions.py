"""World of anonymous visitors: short sessions, transitions between items, no content.

Each session is a user of its own, with one topic. Each click is one of four:

- with `next_share` a successor of the last item, by a sparse table of transitions;
- with `earlier_share` a successor of an earlier item of the session;
- with `return_share` an earlier item itself;
- else an item by the session's topic, mostly one of the topic's own.

Earlier items count by how recent they are. A session's first click is by its topic. A share that finds
nothing, such as earlier items at the second click, goes to the choice by topic.

A session ends after each click with a probability of its own, drawn from a Beta distribution: the lengths
have a heavy tail.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from two_tower.base.errors import UserError
from two_tower.simulator.world import DAY, Floats, Ints
from two_tower.simulator.worlds.next_choice import Choice, SequentialWorld, answer, walk
from two_tower.simulator.worlds.parameters import WorldParameters
from two_tower.simulator.worlds.simulated import Simulated, events_of
from two_tower.simulator.worlds.tastes import Tastes
from two_tower.simulator.worlds.visits import spread, time_of_day

# Earlier items that a session still remembers, and what each step back leaves of their weight.
_REMEMBERED, _FADING = 20, 0.7


@dataclasses.dataclass(frozen=True)
class Parameters(WorldParameters):
    """Parameters of the sessions."""

    # Number of sessions: with about 6 clicks each, 24 clicks an item.
    users: int = 120_000
    items: int = 30_000
    days: int = 15
    # The probability that a session ends after a click is Beta(end_a, end_b). The mean is
    # 1 + end_b / (end_a - 1) = 6 clicks, before `longest_session` cuts the tail.
    end_a: float = 2.0
    end_b: float = 5.0
    longest_session: int = 200
    next_share: float = 0.42
    earlier_share: float = 0.12
    return_share: float = 0.10
    # Successors of an item, chosen by rank ** -1; the share of them in another topic.
    successors: int = 10
    other_topic_share: float = 0.2
    topics: int = 300
    # Share of a choice by topic that strays to all topics, by their popularity.
    stray_share: float = 0.15
    topic_decay: float = 0.7
    item_sigma: float = 1.2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(days=3, items=2 * self.topics, longest_session=2)
        self.check_shares("next_share", "earlier_share", "return_share")
        if self.end_a <= 1:
            raise UserError(
                f"The simulator's end_a is {self.end_a}; it must be above 1, or sessions have no mean length."
            )


class Clicks:
    """Clicks of one session.

    Args:
        p: the parameters.
        successors: [items, successors] transitions of each item.
        chance: [successors] their probabilities.
    """

    def __init__(self, p: Parameters, successors: Ints, chance: Floats) -> None:
        self._p, self._successors, self._chance = p, successors, chance
        self._items: list[int] = []

    def choice(self, time: int, begins: bool) -> Choice:
        """Returns successors of the session's items, and its earlier items."""
        p = self._p
        if not self._items:
            return Choice(_NONE, np.zeros(0), _NONE)
        last = self._items[-1]
        earlier = np.array(self._items[-2 : -2 - _REMEMBERED : -1], np.int64)
        parts = [(self._successors[last], p.next_share * self._chance)]
        if len(earlier):
            weight = _WEIGHTS[: len(earlier)] / _WEIGHTS[: len(earlier)].sum()
            chance = p.earlier_share * np.outer(weight, self._chance)
            parts.append((self._successors[earlier].ravel(), chance.ravel()))
            # Returning to the item itself would be a reload.
            others = earlier != last
            if others.any():
                back = weight * others
                parts.append((earlier, p.return_share * back / back.sum()))
        items, probability = zip(*parts, strict=True)
        return Choice(np.concatenate(items), np.concatenate(probability), _NONE)

    def add(self, item: int, time: int) -> None:
        """Adds a click."""
        self._items.append(item)


_NONE = np.zeros(0, np.int64)
_WEIGHTS = _FADING ** np.arange(_REMEMBERED)


def make_world(p: Parameters) -> SequentialWorld:
    """Draws items, transitions and the times of all sessions."""
    random = np.random.default_rng([p.seed, 100])
    topic = random.permutation(p.items) % p.topics
    popularity = np.exp(random.normal(0, p.item_sigma, p.items))
    of_topic = (1.0 + random.permutation(p.topics)) ** -p.topic_decay
    of_topic /= of_topic.sum()
    preference = (1 - p.stray_share) * np.eye(p.topics) + p.stray_share * of_topic
    tastes = Tastes(topic, preference, popularity[None])
    successors = _successors(random, p, tastes, topic, of_topic)
    chance = 1.0 / np.arange(1, p.successors + 1)
    chance /= chance.sum()

    ends = random.beta(p.end_a, p.end_b, p.users)
    clicks = np.minimum(random.geometric(np.maximum(ends, 1e-6)), p.longest_session)
    begin = np.sort(random.integers(0, p.days, p.users) * DAY + time_of_day(random, p.users))
    start, time, begins = spread(
        random, np.arange(p.users), begin, clicks, (5, 120), p.users, p.days * DAY + 3_600
    )
    user_type = random.choice(p.topics, p.users, p=of_topic)
    return SequentialWorld(
        p.seed, tastes, of_topic, user_type, start, time, begins, lambda _: Clicks(p, successors, chance)
    )


def _successors(
    random: np.random.Generator, p: Parameters, tastes: Tastes, topic: Ints, of_topic: Floats
) -> Ints:
    """Draws the successors of each item by popularity, [items, successors]: never the item itself."""
    shape = (p.items, p.successors)
    strays = random.random(shape) < p.other_topic_share
    towards = np.where(strays, random.choice(p.topics, shape, p=of_topic), topic[:, None])
    found = np.empty(shape, np.int64)
    uniform = random.random(shape)
    for group in range(p.topics):
        there = towards == group
        found[there] = tastes.draws_of_group(group, 0, uniform[there])
    own = np.arange(p.items)[:, None]
    return np.where(found == own, (own + 1) % p.items, found)


def make(p: Parameters, progress: Callable[[str], None]) -> Simulated:
    """Simulates the world; the same parameters give the same result."""
    world = make_world(p)
    log = walk(world, progress)
    return Simulated(
        events=events_of(log),
        items={},
        event="click",
        repeats_recommendable=True,
        events_map={"timestamp": "timestamp"},
        items_map={},
        answers=answer(world, log, p.oracle_queries, progress),
        users=p.users,
        item_count=p.items,
    )
