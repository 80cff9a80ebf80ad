"""World of groceries: baskets, items that return with periods of their own, and complements.

A shopper fills baskets of about 8 items, every few days. Each item of a basket is one of three:

- with `repeat_share` an item that the shopper has bought before, by weight `due · sqrt(times bought)`. `due`
  is greatest when the item's own period has passed since its last purchase;
- with `complement_share` a complement of an item in the basket, any alike;
- else an item by the household's type: a department, then an item of it by popularity.

Nothing is twice in a basket. A share that finds nothing goes to the choice by type.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from two_tower.simulator.world import DAY, Floats, Ints
from two_tower.simulator.worlds.next_choice import Choice, SequentialWorld, answer, walk
from two_tower.simulator.worlds.parameters import WorldParameters
from two_tower.simulator.worlds.simulated import Simulated, events_of
from two_tower.simulator.worlds.tastes import Tastes
from two_tower.simulator.worlds.visits import spread, time_of_day

# An item that is not due is bought now and then all the same.
_NOT_DUE = 0.02


@dataclasses.dataclass(frozen=True)
class Parameters(WorldParameters):
    """Parameters of the groceries."""

    # About 340,000 purchases, 68 an item.
    users: int = 3_000
    items: int = 5_000
    days: int = 60
    # Means over users: days between baskets, and items of a basket. Both are lognormal.
    days_between: float = 5.0
    basket_items: float = 8.0
    activity_sigma: float = 0.4
    # Items of the same type add to the share of what was bought before.
    repeat_share: float = 0.55
    complement_share: float = 0.15
    # Median period of an item in days, its log-deviation over items, and the width of `due` in log-time.
    period_days: float = 10.0
    period_sigma: float = 0.6
    due_width: float = 0.35
    complements: int = 6
    # Departments, and households that differ in how they choose among them.
    departments: int = 40
    types: int = 24
    type_concentration: float = 0.25
    # Log-deviation of popularity within a department.
    item_sigma: float = 1.2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(days=3, items=2 * self.departments)
        self.check_shares("repeat_share", "complement_share")


@dataclasses.dataclass(frozen=True)
class Shop:
    """Hidden properties of the items: `period` [items] in seconds, `complements` [items, complements]."""

    parameters: Parameters
    period: Floats
    complements: Ints


class Purchases:
    """Purchases of one shopper."""

    def __init__(self, shop: Shop, number: int) -> None:
        self._shop = shop
        self._known = 0
        # One row for each distinct item, in the order of first purchases.
        self._item = np.zeros(number, np.int64)
        self._last = np.zeros(number)
        self._times = np.zeros(number)
        self._period = np.ones(number)
        self._row: dict[int, int] = {}
        self._basket: list[int] = []

    def choice(self, time: int, begins: bool) -> Choice:
        """Returns items that are due, and complements of the basket."""
        p = self._shop.parameters
        if begins:
            self._basket = []
        basket = np.array(self._basket, np.int64)
        parts: list[tuple[Ints, Floats]] = []
        known = slice(0, self._known)
        items = self._item[known]
        passed = np.log(np.maximum(time - self._last[known], 1.0) / self._period[known])
        weight = (_NOT_DUE + np.exp(-0.5 * (passed / p.due_width) ** 2)) * np.sqrt(self._times[known])
        if self._basket:
            weight[[self._row[item] for item in self._basket]] = 0.0
        there = weight > 0
        if there.any():
            parts.append((items[there], p.repeat_share * weight[there] / weight[there].sum()))
        if self._basket:
            complements = self._shop.complements[basket].ravel()
            complements = complements[~(complements[:, None] == basket).any(axis=1)]
            if len(complements):
                parts.append((complements, np.full(len(complements), p.complement_share / len(complements))))
        if not parts:
            return Choice(np.zeros(0, np.int64), np.zeros(0), basket)
        return Choice(
            np.concatenate([part for part, _ in parts]), np.concatenate([part for _, part in parts]), basket
        )

    def add(self, item: int, time: int) -> None:
        """Adds a purchase to the basket."""
        row = self._row.setdefault(item, self._known)
        if row == self._known:
            self._known += 1
            self._item[row], self._period[row] = item, self._shop.period[item]
        self._last[row] = time
        self._times[row] += 1
        self._basket.append(item)


def make_world(p: Parameters) -> SequentialWorld:
    """Draws shop, households and the times of their baskets."""
    random = np.random.default_rng([p.seed, 100])
    department = _departments(p)
    popularity = np.exp(random.normal(0, p.item_sigma, p.items))
    common = random.dirichlet(np.full(p.departments, 2.0))
    preference = random.dirichlet(p.type_concentration * p.departments * common + 1e-3, p.types)
    tastes = Tastes(department, preference, popularity[None])
    period = p.period_days * DAY * np.exp(random.normal(0, p.period_sigma, p.items))
    # A complement is an item of any department, never the item itself.
    others = random.choice(p.items - 1, (p.items, p.complements))
    complements = np.where(others >= np.arange(p.items)[:, None], others + 1, others)
    shop = Shop(p, np.maximum(period, DAY), complements)

    def around(mean: float) -> Floats:
        deviation = random.normal(-(p.activity_sigma**2) / 2, p.activity_sigma, p.users)
        return mean * np.exp(deviation)

    between, basket = np.maximum(around(p.days_between), 1.0), around(p.basket_items)
    visits = int(3 * p.days / p.days_between) + 10
    gaps = random.gamma(3.0, between[:, None] / 3.0, (p.users, visits))
    gaps[:, 0] *= random.random(p.users)
    day = np.cumsum(np.maximum(gaps, 0.5), axis=1).astype(np.int64)
    user, visit = np.nonzero(day < p.days)
    start, time, begins = spread(
        random,
        user,
        day[user, visit] * DAY + time_of_day(random, len(user)),
        1 + random.poisson(np.maximum(basket[user] - 1, 0.1)),
        (3, 20),
        p.users,
        p.days * DAY,
    )
    prior = np.full(p.types, 1 / p.types)
    user_type = random.integers(0, p.types, p.users)
    return SequentialWorld(
        p.seed, tastes, prior, user_type, start, time, begins, lambda number: Purchases(shop, number)
    )


def _departments(p: Parameters) -> Ints:
    """Returns the department of each item, [items]: all of about the same size."""
    return np.arange(p.items) * p.departments // p.items


def make(p: Parameters, progress: Callable[[str], None]) -> Simulated:
    """Simulates the world; the same parameters give the same result."""
    world = make_world(p)
    log = walk(world, progress)
    department = _departments(p)
    return Simulated(
        events=events_of(log),
        items={"department": [f"department {number + 1}" for number in department.tolist()]},
        event="purchase",
        repeats_recommendable=True,
        events_map={"timestamp": "timestamp"},
        items_map={"tags": "department"},
        answers=answer(world, log, p.oracle_queries, progress),
        users=p.users,
        item_count=p.items,
    )
