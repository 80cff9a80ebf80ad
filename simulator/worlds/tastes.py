"""Tastes: each type of user chooses a group of items, and then an item of it by the item's weight.

    P(item | type, period) = P(group of the item | type, period) · weight / sum of weights in the group

Weights differ by period, such as an hour or a day. An item of weight 0 is not offered; a group without an
offered item is left out, and the others share its probability.
"""

from __future__ import annotations

import numpy as np

from two_tower.base.errors import UserError
from two_tower.simulator.world import Floats, Ints


class Tastes:
    """Distributions of all types over the items of each period.

    Args:
        group: [items] group of each item.
        preference: [types, groups] probability of each group.
        weight: [periods, items] weight of each item; 0 where it is not offered.

    Raises:
        UserError: a period offers a type nothing.
    """

    def __init__(self, group: Ints, preference: Floats, weight: Floats) -> None:
        groups = preference.shape[1]
        self.group, self.items, self.types = group, len(group), len(preference)
        self._order = np.argsort(group, kind="stable")
        self._start = np.searchsorted(group[self._order], np.arange(groups + 1))
        total = np.stack([np.bincount(group, row, minlength=groups) for row in weight])
        # [periods, types, groups].
        self._preference = preference[None] * (total > 0)[:, None, :]
        reached = self._preference.sum(axis=2, keepdims=True)
        if not reached.all():
            raise UserError(
                "The simulated world has a time at which a type of user is offered nothing. "
                "Ask for more items."
            )
        self._preference /= reached
        self._preference_reach = self._preference.cumsum(axis=2)
        self._by_group = np.ascontiguousarray(self._preference.transpose(0, 2, 1))
        # [periods, items] probability of an item within its group.
        self._share = weight / np.where(total > 0, total, 1.0)[:, group]
        self._reach = np.concatenate(
            [np.zeros((len(weight), 1)), self._share[:, self._order].cumsum(axis=1)], axis=1
        )

    def draw(self, user_type: int, period: int, one: float, other: float) -> int:
        """Draws an item of a type, by two uniform random numbers."""
        reach = self._preference_reach[period, user_type]
        group = int(reach.searchsorted(one * reach[-1], side="right"))
        return int(self.draws_of_group(group, period, np.array(other)))

    def draws_of_group(self, group: int, period: int, uniform: Floats) -> Ints:
        """Draws items of a group that offers one, by uniform random numbers of any shape."""
        begin, end = self._start[group], self._start[group + 1]
        reach = self._reach[period, begin : end + 1]
        place = reach.searchsorted(reach[0] + uniform * (reach[-1] - reach[0]), side="right") - 1
        return np.asarray(self._order[begin + np.minimum(place, end - begin - 1)])

    def of_item(self, item: int, period: int) -> Floats:
        """Returns an item's probability by type, [types]."""
        return self._by_group[period, self.group[item]] * self._share[period, item]

    def mass(self, items: Ints, period: int) -> Floats:
        """Returns the probability of distinct items [n] together, by type: [types]."""
        return self._share[period, items] @ self._by_group[period, self.group[items]]

    def mixed(self, weight: Floats, period: int) -> Floats:
        """Sums the distributions of all types by `weight` [types]: [items]."""
        return (weight @ self._preference[period])[self.group] * self._share[period]

    def members(self, group: int) -> Ints:
        """Returns the items of a group."""
        return self._order[self._start[group] : self._start[group + 1]]
