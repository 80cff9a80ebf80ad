"""Order for events that have none, such as play counts: a random one within each user, by a seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def shuffled_order(
    user_id: npt.NDArray[np.integer], item_id: npt.NDArray[np.integer], seed: int
) -> npt.NDArray[np.int32]:
    """Returns a number of 31 random bits for each pair of user and item, int32[n].

    It depends on the pair and the seed alone, so it is the same in every run, shard and file order.

    Args:
      user_id, item_id: ids, 0 or more, [n] each.
      seed: any whole number of 0 or more.
    """
    mixed = _mix(np.full(len(user_id), seed, np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    for ids in (user_id, item_id):
        mixed = _mix(mixed ^ ids.astype(np.uint64))
    return (mixed >> np.uint64(33)).astype(np.int32)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Returns the finaliser of splitmix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
