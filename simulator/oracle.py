"""Oracles: the best possible prediction of the end of a simulated log.

A query asks for the next listen `b` after a listen `a` of a user; the label `b` lies in the last day. Two
oracles rank all tracks by their probability to be `b` (`next_listen_probabilities`). Both know the world and
the user's history before `a`, with play ratios and likes. Of `a` they know only the track. Both know the time
of `b`, and so its day and whether it starts a session.

- *hidden* also knows the user's tastes on that day and the style from which `a` was chosen. The style of `b`
  follows: at a session start it is a draw from the tastes. Otherwise it stays the same, or is redrawn with
  probability `switch_share`. This is the simulator's own probability, so no ranking has a higher expected
  recall.
- *observed* infers both from the user's listens. The forward filter of a hidden Markov model over all styles
  carries the probability of the current style. After each listen it multiplies each style's probability by
  the track's likelihood in that style. The tastes are estimated online. The prior is `_PRIOR_SESSIONS *
  popularity of styles`. Each earlier listen adds, per style, the probability that it was a draw from the
  tastes. Older listens decay with a half-life of `_HALF_LIFE_DAYS`, since tastes drift. Given the tastes, the
  filter is exact.

Ranks are 0-based; ties go to the lower track number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from two_tower.simulator.listening import Listeners, ListeningLog
from two_tower.simulator.next_listen import Memory, next_listen_probabilities
from two_tower.simulator.world import DAY, Bools, Floats, Ints, World

CUTOFFS = (10, 50, 100)
# Strength of the prior and half-life of the evidence, in the observed oracle's estimate of tastes.
_PRIOR_SESSIONS = 2.0
_HALF_LIFE_DAYS = 20.0
# Queries ranked at once: each needs a few arrays of the catalog's size.
_CHUNK = 128


@dataclasses.dataclass(frozen=True)
class OracleQueries:
    """Batch of queries with the knowledge at their time, [queries, ...]."""

    # Log positions of the seed listen `a` and of the label `b`.
    seed: Ints
    label: Ints
    # [queries, styles] probability of the style from which the label is chosen.
    hidden_style: Floats
    observed_style: Floats
    # [queries, styles, slots] remembered tracks, -1 for empty slots.
    memory: NDArray[np.int32]


@dataclasses.dataclass(frozen=True)
class OracleSummary:
    """Recall of both oracles at `CUTOFFS`, such as {"recall@10": ...}."""

    queries: int
    users: int
    hidden: dict[str, float]
    observed: dict[str, float]


@dataclasses.dataclass(frozen=True)
class OracleAnswers:
    """Log positions of the queries and the label's rank with each oracle, [queries]."""

    seed: Ints
    label: Ints
    rank_hidden: Ints
    rank_observed: Ints

    def summary(self, log: ListeningLog) -> OracleSummary:
        """Computes recall: the share of queries whose label is among the first k."""
        return OracleSummary(
            queries=len(self.label),
            users=len(np.unique(log.user[self.label])),
            hidden=_recalls(self.rank_hidden),
            observed=_recalls(self.rank_observed),
        )


def evaluate_oracles(
    world: World, listeners: Listeners, log: ListeningLog, progress: Callable[[str], None] | None = None
) -> OracleAnswers:
    """Samples queries and ranks their labels with both oracles."""
    seed = sample_queries(log, world.parameters.oracle_queries, world.parameters.seed)
    queries = replay(world, listeners, log, seed)
    ranks: dict[str, list[Ints]] = {"hidden": [], "observed": []}
    for chunk in range(0, len(seed), _CHUNK):
        part = slice(chunk, chunk + _CHUNK)
        for name, style in (("hidden", queries.hidden_style), ("observed", queries.observed_style)):
            probabilities = query_probabilities(world, log, queries, style, part)
            ranks[name].append(rank_of(probabilities, log.track[queries.label[part]]))
        if progress and chunk // _CHUNK % 10 == 9:
            progress(f"oracle: {min(chunk + _CHUNK, len(seed)):,} of {len(seed):,} queries")
    return OracleAnswers(
        queries.seed, queries.label, *(np.concatenate([np.zeros(0, np.int64), *r]) for r in ranks.values())
    )


def sample_queries(log: ListeningLog, about: int, seed: int) -> Ints:
    """Samples log positions whose next listen is in the last 86,400 s of the log.

    The sample takes all such positions of random users, until there are at least `about` queries.
    """
    last_day = log.time > log.time.max(initial=0) - DAY
    candidates = np.flatnonzero((log.user[:-1] == log.user[1:]) & last_day[1:])
    users = np.random.default_rng([seed, 5]).permutation(np.unique(log.user[candidates]))
    number = np.bincount(log.user[candidates], minlength=len(log.start))[users]
    enough = int(np.searchsorted(number.cumsum(), about)) + 1
    return candidates[np.isin(log.user[candidates], users[:enough])]


def query_probabilities(
    world: World, log: ListeningLog, queries: OracleQueries, style: Floats, part: slice
) -> NDArray[np.float32]:
    """Computes each track's probability to be the label, [queries, tracks], for the queries of `part`."""
    label = queries.label[part]
    return next_listen_probabilities(
        world,
        style[part],
        queries.memory[part],
        log.track[queries.seed[part]],
        log.time[label] // DAY,
        log.session_start[label],
    )


def rank_of(probabilities: NDArray[np.float32], track: Ints) -> Ints:
    """Returns the 0-based rank of `track` [n] among all tracks by `probabilities` [n, tracks]."""
    own = probabilities[np.arange(len(track)), track][:, None]
    higher = (probabilities > own).sum(axis=1)
    # Ties are few. One flat pass finds them, which NumPy does faster than in two dimensions.
    tied, tie = np.divmod(np.flatnonzero(probabilities == own), probabilities.shape[1])
    return higher + np.bincount(tied, tie < track[tied], len(track)).astype(np.int64)


def replay(world: World, listeners: Listeners, log: ListeningLog, seed: Ints) -> OracleQueries:
    """Replays the logs of the sampled users and records the knowledge at each query.

    Args:
        seed: log positions of the queries.
    """
    p = world.parameters
    users, user_of_query = np.unique(log.user[seed], return_inverse=True)
    step_of_query = seed - log.start[log.user[seed]]
    state = StyleFilter(world, len(users))
    # Queries sorted by step.
    order = np.argsort(step_of_query, kind="stable")
    edges = np.searchsorted(step_of_query[order], np.arange(step_of_query.max(initial=-1) + 2))
    observed = np.zeros((len(seed), p.styles))
    memory = np.full((len(seed), p.styles, p.memory), -1, np.int32)
    for step, user, at in _steps(log, users):
        state.observe(user, log, at)
        if step + 1 < len(edges):
            asked = order[edges[step] : edges[step + 1]]
            who = user_of_query[asked]
            memory[asked] = state.memory.track[who]
            observed[asked] = state.predict(who, log.session_start[seed[asked] + 1])

    label = seed + 1
    redraw = np.where(log.session_start[label], 1.0, p.switch_share)[:, None]
    tastes = listeners.style_weights(log.user[label], log.time[label] // DAY, p.styles)
    hidden = redraw * tastes + (1 - redraw) * np.eye(p.styles)[log.style[seed]]
    return OracleQueries(seed, label, hidden, observed, memory)


def _steps(log: ListeningLog, users: Ints) -> Iterator[tuple[int, Ints, Ints]]:
    """Yields for n = 0, 1, ...: n, the rows of `users` with an n-th listen, and its log positions."""
    start, listens = log.start[users], np.diff(log.start)[users]
    for step in range(int(listens.max(initial=0))):
        user = np.flatnonzero(listens > step)
        yield step, user, start[user] + step


class StyleFilter:
    """Hidden Markov model filter: an observer's belief about users' styles after each of their listens.

    `user` is a row of the filter, not of the log.
    """

    def __init__(self, world: World, users: int) -> None:
        p = world.parameters
        self._world = world
        self.memory = Memory(users, world)
        self._style = np.zeros((users, p.styles))
        # Expected number of observed draws from the tastes, per style.
        self._draws = np.zeros((users, p.styles))
        self._time = np.zeros(users, np.int64)
        self._previous = np.full(users, -1)

    def _tastes(self, user: Ints) -> Floats:
        tastes = self._draws[user] + _PRIOR_SESSIONS * self._world.style_popularity
        return tastes / tastes.sum(axis=1, keepdims=True)

    def predict(self, user: Ints, session_start: Bools) -> Floats:
        """Returns the style probabilities [n, styles] of the next listen of `user` [n]."""
        redraw = np.where(session_start, 1.0, self._world.parameters.switch_share)[:, None]
        return redraw * self._tastes(user) + (1 - redraw) * self._style[user]

    def observe(self, user: Ints, log: ListeningLog, at: Ints) -> None:
        """Updates the belief with the listens `at` [n] of `user` [n], who must be distinct."""
        time, track = log.time[at], log.track[at]
        likelihood = self.likelihood(user, log, at)
        self._draws[user] *= 0.5 ** ((time - self._time[user]) / (DAY * _HALF_LIFE_DAYS))[:, None]
        redraw = np.where(log.session_start[at], 1.0, self._world.parameters.switch_share)[:, None]
        drawn = redraw * self._tastes(user) * likelihood
        style = drawn + (1 - redraw) * self._style[user] * likelihood
        total = style.sum(axis=1, keepdims=True)
        self._style[user] = style / total
        self._draws[user] += drawn / total
        self._time[user] = time

        # As in the simulation, the previous listen enters the memory after this choice.
        earlier = user[self._previous[user] >= 0]
        before = at[self._previous[user] >= 0] - 1
        slots = (log.played_percent[before] >= 50).astype(np.int64) + (log.reaction[before] > 0)
        for slot in (1, 2):
            self.memory.remember(earlier[slots >= slot], log.track[before[slots >= slot]])
        self._previous[user] = track

    def likelihood(self, user: Ints, log: ListeningLog, at: Ints) -> Floats:
        """Computes the likelihood [n, styles] of the listens `at` [n] of `user` [n], given each style.

        It equals `next_listen_probabilities` at one track for all styles. A remembered track lies in the
        memory of its own style. So do all remembered tracks of its artists, since second artists share the
        style of the first.
        """
        world, p = self._world, self._world.parameters
        previous = self._previous[user]
        track, day, begins = log.track[at], log.time[at] // DAY, log.session_start[at]
        style = world.track_style[track]
        artists = world.artists.groups_of(track)

        remembered = self.memory.track[user, style]
        filled = remembered >= 0
        size = np.maximum(filled.sum(axis=1), 1)
        their = np.where(filled[:, :, None], world.artists.groups_of(remembered), -1)
        known = their >= 0
        even = known / np.maximum(known.sum(axis=2, keepdims=True), 1)
        to_artist = np.zeros(len(user))
        for slot in (0, 1):
            chance = (even * (their == artists[:, slot, None, None])).sum(axis=(1, 2))
            to_artist += chance * world.artists.share[slot, day, track]
        repeats = (remembered == track[:, None]).sum(axis=1)
        own_style = (p.repeat_share * repeats + p.remembered_artist_share * to_artist) / size

        empty = ~(self.memory.track[user] >= 0).any(axis=2)
        discovery = p.discovery_share + np.where(empty, p.repeat_share + p.remembered_artist_share, 0.0)
        continued = np.zeros(len(user))
        for groups, of_choice in ((world.artists, p.same_artist_share), (world.albums, p.same_album_share)):
            before, now = groups.groups_of(previous), groups.groups_of(track)
            even = of_choice / np.maximum((before >= 0).sum(axis=1), 1)
            for slot in (0, 1):
                group = before[:, slot]
                chosen = np.where(group >= 0, even, 0.0)
                possible = ~begins & (groups.released[day, group] > 1)
                discovery += np.where(possible, 0.0, chosen)[:, None]
                weight = groups.weight[day[:, None], groups.memberships[track]]
                weight = (weight * ((now == group[:, None]) & (now >= 0))).sum(axis=1)
                others = groups.total[day, group] - groups.weight[day, groups.memberships[previous, slot]]
                there = possible & (previous != track)
                continued += np.where(there, chosen * weight / np.where(there, others, 1.0), 0.0)

        likelihood = discovery * world.style_kernel[:, style].T * world.styles.share[0, day, track][:, None]
        likelihood += continued[:, None]
        likelihood[np.arange(len(user)), style] += own_style
        return likelihood


def _recalls(rank: Ints) -> dict[str, float]:
    return {f"recall@{k}": float((rank < k).mean()) if len(rank) else 0.0 for k in CUTOFFS}
