"""Visits: times of the choices of all users, in seconds since 1970."""

from __future__ import annotations

import numpy as np

from two_tower.simulator.world import DAY, Bools, Ints

# 2024-01-01, when every log begins.
ORIGIN = 1_704_067_200


def time_of_day(random: np.random.Generator, number: int) -> Ints:
    """Draws seconds since midnight, [number]: few at night, most in the evening."""
    return random.triangular(4 * 3_600, 19 * 3_600, DAY - 1, number).astype(np.int64)


def spread(
    random: np.random.Generator,
    user: Ints,
    begin: Ints,
    size: Ints,
    pause: tuple[int, int],
    users: int,
    end: int,
) -> tuple[Ints, Ints, Bools]:
    """Divides visits into choices with pauses between them.

    Args:
        user, begin, size: [visits] user, time since the log's begin, and number of choices of each visit.
        pause: shortest and longest pause between two choices, in seconds.
        users: number of users.
        end: length of the log in seconds; later choices are left out.

    Returns:
        `start` [users + 1], `time` and `begins` [choices] of `SequentialWorld`.
    """
    order = np.lexsort((begin, user))
    user, begin, size = user[order], begin[order], size[order]
    first = np.cumsum(size) - size
    owner = np.repeat(user, size)
    pauses = random.integers(pause[0], pause[1] + 1, len(owner))
    pauses[first] = 0
    passed = np.cumsum(pauses)
    time = np.repeat(begin - passed[first], size) + passed
    # Visits that overlap follow each other; a user's times are strictly increasing.
    place = np.arange(len(owner))
    far = 4 * max(end, int(time.max(initial=0)) + 1)
    time = np.maximum.accumulate(time - place + owner * far) + place - owner * far
    begins = np.zeros(len(owner), np.bool_)
    begins[first] = True
    within = time < end
    start = np.concatenate([[0], np.cumsum(np.bincount(owner[within], minlength=users))])
    return start.astype(np.int64), ORIGIN + time[within], begins[within]
