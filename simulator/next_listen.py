"""Distribution of the next listen: the users' memory of plays, and the exact probability of every track."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from two_tower.simulator.world import Bools, Floats, Ints, World


class Memory:
    """Memory of users: per user and style, the last plays that passed half of the track.

    A like counts as one more play. The list of each style is a ring buffer. A repeat draws a filled slot
    uniformly, so frequent, recent and liked tracks return more often. The probability of a repeat is
    therefore a count. Memory cost: `users * styles * memory` int32.
    """

    def __init__(self, users: int, world: World) -> None:
        p = world.parameters
        self._style = world.track_style
        self.track = np.full((users, p.styles, p.memory), -1, np.int32)
        self._written = np.zeros((users, p.styles), np.int64)

    def size(self, user: Ints, style: Ints) -> Ints:
        """Returns the number of filled slots."""
        return np.minimum(self._written[user, style], self.track.shape[2])

    def remember(self, user: Ints, track: Ints) -> None:
        """Adds one slot to each of `user` [n], who must be distinct."""
        style = self._style[track]
        written = self._written[user, style]
        self.track[user, style, written % self.track.shape[2]] = track
        self._written[user, style] = written + 1


def next_listen_probabilities(
    world: World,
    style: Floats,
    memory: NDArray[np.int32],
    previous: Ints,
    day: Ints,
    session_start: Bools,
) -> NDArray[np.float32]:
    """Computes the exact probability of every track to be the next listen.

    Args:
        style: [queries, styles] probability of the style from which the next listen is chosen.
        memory: [queries, styles, slots] remembered tracks, -1 for empty slots (see `Memory`).
        previous: [queries] track of the previous listen.
        day: [queries] day of the next listen.
        session_start: [queries] true if the next listen starts a session.

    Returns:
        [queries, tracks]; rows sum to 1. Temporary memory: about 12 bytes * queries * tracks.
    """
    p = world.parameters
    queries = len(previous)
    row = np.arange(queries)
    filled = memory >= 0
    size = filled.sum(axis=2)
    discovery = np.full((queries, p.styles), p.discovery_share)
    discovery += np.where(size == 0, p.repeat_share + p.remembered_artist_share, 0.0)

    # Continuations: the previous track is excluded, which scales up the others of its group.
    within = {}
    own = {}
    for name, groups, share in (
        ("artists", world.artists, p.same_artist_share),
        ("albums", world.albums, p.same_album_share),
    ):
        mass = np.zeros((queries, groups.total.shape[1]))
        own[name] = np.zeros(queries)
        number = (groups.memberships[previous] >= 0).sum(axis=1)
        for slot in (0, 1):
            membership = groups.memberships[previous, slot]
            group = groups.group[membership]
            chosen = share * (slot < number) / number
            possible = ~session_start & (groups.released[day, group] > 1)
            discovery += np.where(possible, 0.0, chosen)[:, None]
            weight, total = groups.weight[day, membership], groups.total[day, group]
            chosen = np.where(possible, chosen * total / np.where(possible, total - weight, 1.0), 0.0)
            mass[row, group] += chosen
            own[name] += chosen * weight / np.where(total > 0, total, 1.0)
        within[name] = mass

    # Memory: all filled slots of a style are equally likely.
    query, slot_style, filled_slot = np.nonzero(filled & (style > 0)[:, :, None])
    remembered = memory[query, slot_style, filled_slot].astype(np.int64)
    chance = style[query, slot_style] / size[query, slot_style]
    memberships = world.artists.memberships[remembered]
    number = (memberships >= 0).sum(axis=1)
    for which in (0, 1):
        has = memberships[:, which] >= 0
        artist = world.artists.group[memberships[has, which]]
        within["artists"] += np.bincount(
            query[has] * within["artists"].shape[1] + artist,
            p.remembered_artist_share * chance[has] / number[has],
            within["artists"].size,
        ).reshape(within["artists"].shape)

    discovered = ((style * discovery) @ world.style_kernel).astype(np.float32)
    probability = np.take(discovered, world.track_style, axis=1) * world.styles.share[0, day]
    for name, groups in (("artists", world.artists), ("albums", world.albums)):
        groups.add(within[name], day, probability)
        probability[row, previous] -= own[name].astype(np.float32)
    np.add.at(probability, (query, remembered), (p.repeat_share * chance).astype(np.float32))
    # Subtracting `own` can leave small negative rounding errors.
    return np.maximum(probability, 0.0, out=probability)
