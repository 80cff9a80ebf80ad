"""Simulation of users and their listens.

All users advance in lockstep: step n draws the n-th listen of every user at once. A step therefore costs a
few dozen NumPy calls for any number of users. Users are sorted by their number of listens, so the active
users are always the first rows. State is sliced, not gathered.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from two_tower.simulator.next_listen import Memory
from two_tower.simulator.world import DAY, Bools, Floats, Groups, Ints, SimulationParameters, World

# Minimal silence between sessions, in seconds. Silence within a session is shorter, so sessions can be
# recovered from times, lengths and play ratios.
SESSION_GAP = 1_800
# Probability that a listen is organic (the user's own choice, no recommendation), by kind of choice.
_REPEAT, _REMEMBERED_ARTIST, _SAME_ALBUM, _SAME_ARTIST, _DISCOVERY = range(5)
_ORGANIC = np.array([0.95, 0.80, 0.90, 0.75, 0.40])
# Relative frequency of session starts in each hour from midnight.
_HOURS = np.array(
    [2, 1, 0.5, 0.3, 0.3, 0.5, 1.5, 3, 4, 3.5, 3, 3, 3.5, 3.5, 3, 3, 3.5, 4.5, 5, 5, 5, 4.5, 4, 3]
)


@dataclasses.dataclass(frozen=True)
class Listeners:
    """Hidden properties of users. `user` is 0-based; `uid` in the log is one higher."""

    # [users] number of listens, unless the log ends earlier.
    listens: Ints
    # [users] earliest second at which the user can appear.
    joined: Ints
    # [users, latent_dim] personal preference beyond the styles.
    personal: Floats
    # [users, tastes] styles of the tastes, and their weights per day [users, days, tastes].
    taste_style: Ints
    taste_weight: Floats

    def style_weights(self, user: Ints, day: Ints, styles: int) -> Floats:
        """Returns the style probabilities [n, styles] of a session that `user` [n] starts on `day` [n]."""
        weights = np.zeros((len(user), styles))
        weights[np.arange(len(user))[:, None], self.taste_style[user]] = self.taste_weight[user, day]
        return weights


@dataclasses.dataclass(frozen=True)
class ListeningLog:
    """Listens sorted by user and time: all arrays [listens] except `start`.

    `style` and `affinity` are hidden: they are not written.
    """

    # [users + 1] the listens of a user are start[user]:start[user + 1].
    start: Ints
    user: Ints
    track: Ints
    # Seconds; strictly increasing within a user, even after flooring to 5 s.
    time: Ints
    session_start: Bools
    organic: Bools
    played_percent: Ints
    # 1: liked, -1: disliked while it played, 0: neither.
    reaction: NDArray[np.int8]
    style: Ints
    affinity: Floats


def make_listeners(world: World) -> Listeners:
    """Draws the users of a world; the same seed draws the same users."""
    p = world.parameters
    random = np.random.default_rng([p.seed, 3])
    personal = random.normal(size=(p.users, p.latent_dim)) / np.sqrt(p.latent_dim)
    # Tastes: popular styles and styles near the personal preference (Gumbel top-k draws without replacement).
    liking = np.log(world.style_popularity) + 2.0 * personal @ world.style_latent.T
    liking += random.gumbel(size=liking.shape)
    taste_style = np.argsort(-liking, axis=1)[:, : p.tastes]
    weight = np.log(random.dirichlet(np.full(p.tastes, p.taste_concentration), p.users) + 1e-6)[:, None, :]
    walk = random.normal(0, p.taste_drift, (p.users, p.days, p.tastes)).cumsum(axis=1)
    weight = np.exp(weight + walk)
    weight /= weight.sum(axis=2, keepdims=True)

    late = random.random(p.users) < p.late_user_share
    joined = np.where(late, random.integers(0, p.seconds - DAY // 2, p.users), 0)
    activity = np.exp(random.normal(-(p.activity_sigma**2) / 2, p.activity_sigma, p.users))
    activity *= p.listens_per_user * (1 - joined / p.seconds)
    listens = random.poisson(np.minimum(activity, 5 * p.listens_per_user))
    return Listeners(np.maximum(listens, 1), joined, personal, taste_style, weight)


def listen(world: World, listeners: Listeners, progress: Callable[[str], None] | None = None) -> ListeningLog:
    """Simulates the listens of all users through the log.

    Args:
        progress: called with a status line now and then.
    """
    p = world.parameters
    random = np.random.default_rng([p.seed, 4])
    # The most active users come first.
    order = np.argsort(-listeners.listens, kind="stable")
    listens = listeners.listens[order]
    start = np.concatenate([[0], np.cumsum(listeners.listens)])
    offset = start[order]
    size = int(start[-1])
    session_start, session_time = _draw_sessions(random, p, listeners, start)

    personal = listeners.personal[order]
    taste_style = listeners.taste_style[order]
    taste_reach = listeners.taste_weight[order].cumsum(axis=2)
    taste_reach[:, :, -1] = 1.0

    log = _empty_log(listeners, start, session_start)
    memory = Memory(p.users, world)
    reacted: set[int] = set()
    style = np.zeros(p.users, np.int64)
    track = np.zeros(p.users, np.int64)
    free_from = np.zeros(p.users, np.int64)
    # The previous listen enters the memory after the next choice, since its outcome is unknown until then.
    to_remember = np.zeros(p.users, np.int64)
    style_reach = world.style_kernel.cumsum(axis=1)
    reach = np.cumsum([p.repeat_share, p.remembered_artist_share, p.same_album_share, p.same_artist_share])

    done = 0
    for step in range(int(listens[0])):
        active = int(np.searchsorted(-listens, -step))
        at = offset[:active] + step
        uniform = random.random((10, active))
        begins = session_start[at]
        time = np.where(
            begins, np.maximum(session_time[at], free_from[:active] + SESSION_GAP), free_from[:active]
        )
        # Listens after the end count as the last day's here and are dropped below.
        day = np.minimum(time // DAY, p.days - 1)

        anew = np.flatnonzero(begins | (uniform[0] < p.switch_share))
        taste = (uniform[1, anew, None] >= taste_reach[anew, day[anew]]).sum(axis=1)
        style[anew] = taste_style[anew, taste]

        previous = track[:active]
        choice = np.searchsorted(reach, uniform[2], side="right")
        chosen = _choose_tracks(
            world, memory, uniform, choice, style[:active], previous, day, begins, style_reach
        )

        if step:
            _remember(memory, previous, to_remember[:active])
        track[:active] = chosen
        taste_vector = world.style_latent[style[:active]] + personal[:active]
        affinity = np.einsum("ud,ud->u", world.track_latent[chosen], taste_vector)
        percent = _played_percent(affinity, uniform[6], uniform[7])
        reaction = _reactions(affinity, percent, uniform[8], chosen, reacted, p.tracks)
        to_remember[:active] = (percent >= 50).astype(np.int64) + (reaction > 0)
        played = percent * world.track_seconds[chosen] // 100
        pause = np.minimum(-8 * np.log1p(-uniform[9]), 600).astype(np.int64)
        free_from[:active] = time + np.maximum(played, 5) + pause

        log.track[at], log.time[at] = chosen, time
        log.style[at], log.affinity[at] = style[:active], affinity
        log.played_percent[at], log.reaction[at] = percent, reaction
        log.organic[at] = random.random(active) < _ORGANIC[choice]
        done += active
        if progress and done * 5 // size > (done - active) * 5 // size:
            progress(f"listens of {p.users:,} users: {done / size:.0%}")
    return _truncate(log, p.seconds)


def _empty_log(listeners: Listeners, start: Ints, session_start: Bools) -> ListeningLog:
    """Returns a log of all listens, of which only users and sessions are known."""
    size = int(start[-1])
    return ListeningLog(
        start=start,
        user=np.repeat(np.arange(len(listeners.listens)), listeners.listens),
        track=np.zeros(size, np.int64),
        time=np.zeros(size, np.int64),
        session_start=session_start,
        organic=np.zeros(size, np.bool_),
        played_percent=np.zeros(size, np.int64),
        reaction=np.zeros(size, np.int8),
        style=np.zeros(size, np.int64),
        affinity=np.zeros(size),
    )


def _choose_tracks(
    world: World,
    memory: Memory,
    uniform: Floats,
    choice: Ints,
    style: Ints,
    previous: Ints,
    day: Ints,
    begins: Bools,
    style_reach: Floats,
) -> Ints:
    """Chooses the next track of each active user, [active].

    Args:
        uniform: [10, active] uniform random numbers of this step.
        choice: [active] kind of each choice. A choice that finds no track becomes a discovery, in place.
        style: [active] current style.
        previous: [active] previous track.
        day: [active] day of the listen.
        begins: [active] whether the listen begins a session.
        style_reach: [styles, styles] cumulative kernel of styles.
    """
    chosen = np.full(len(style), -1)
    remembers = memory.size(np.arange(len(style)), style)
    recall = np.flatnonzero((choice <= _REMEMBERED_ARTIST) & (remembers > 0))
    slot = (uniform[3, recall] * remembers[recall]).astype(np.int64)
    remembered = memory.track[recall, style[recall], slot].astype(np.int64)
    chosen[recall] = remembered
    artist = choice[recall] == _REMEMBERED_ARTIST
    there = recall[artist]
    membership = _draw_membership(world.artists, remembered[artist], uniform[4, there])
    chosen[there] = world.artists.draw(world.artists.group[membership], day[there], uniform[5, there])
    for groups, same in ((world.albums, _SAME_ALBUM), (world.artists, _SAME_ARTIST)):
        there = np.flatnonzero((choice == same) & ~begins)
        membership = _draw_membership(groups, previous[there], uniform[4, there])
        possible = groups.released[day[there], groups.group[membership]] > 1
        there, membership = there[possible], membership[possible]
        chosen[there] = groups.draw(groups.group[membership], day[there], uniform[5, there], but=membership)
    discovers = np.flatnonzero(chosen < 0)
    choice[discovers] = _DISCOVERY
    strays = style_reach[style[discovers]]
    towards = np.minimum((uniform[3, discovers, None] >= strays).sum(axis=1), world.parameters.styles - 1)
    chosen[discovers] = world.styles.draw(towards, day[discovers], uniform[5, discovers])
    return chosen


def _draw_sessions(
    random: np.random.Generator, p: SimulationParameters, listeners: Listeners, start: Ints
) -> tuple[Bools, Ints]:
    """Draws session starts and times.

    Returns:
        Whether each listen starts a session, bool[listens]; the earliest second of its session, [listens].
    """
    size = int(start[-1])
    begins = random.random(size) < 1 / p.session_listens
    begins[start[:-1]] = True
    of_user = np.repeat(np.arange(p.users), np.add.reduceat(begins, start[:-1]))
    joined = listeners.joined[of_user]
    first_day = joined // DAY
    day = first_day + (random.random(len(of_user)) * (p.days - first_day)).astype(np.int64)
    hour = random.choice(24, len(of_user), p=_HOURS / _HOURS.sum())
    time = np.maximum(day * DAY + hour * 3_600 + random.integers(0, 3_600, len(of_user)), joined)
    time = time[np.lexsort((time, of_user))]
    return begins, time[np.cumsum(begins) - 1]


def _draw_membership(groups: Groups, track: Ints, uniform: Floats) -> Ints:
    """Draws one of each track's memberships, all equally likely."""
    both = groups.memberships[track]
    return np.where((both[:, 1] >= 0) & (uniform < 0.5), both[:, 1], both[:, 0])


def _played_percent(affinity: Floats, uniform: Floats, stopped_at: Floats) -> Ints:
    """Computes the play ratio in percent: liked tracks play to the end, and over 100 means repeats."""
    ends = uniform < 1 / (1 + np.exp(-1.2 - 4 * (affinity - 1)))
    whole = np.where(stopped_at < 0.85, 100, 100 - 100 * (stopped_at - 0.85))
    whole = np.where(stopped_at < 0.03, 101 + stopped_at * 2_500, whole)
    return np.where(ends, whole, 85 * stopped_at**2).astype(np.int64)


def _reactions(
    affinity: Floats, percent: Ints, uniform: Floats, track: Ints, reacted: set[int], tracks: int
) -> NDArray[np.int8]:
    """Draws reactions: 1 like, -1 dislike, 0 neither. A user reacts to a track at most once. Adds to
    `reacted`.
    """
    likes = (percent >= 85) & (uniform < 0.10 / (1 + np.exp(-4 * (affinity - 1.1))))
    dislikes = (percent < 30) & (uniform < 0.06 / (1 + np.exp(4 * (affinity - 0.8))))
    reaction = likes.astype(np.int8) - dislikes.astype(np.int8)
    # Reactions are about 3% of listens, few enough for a plain set.
    for user in np.flatnonzero(reaction).tolist():
        key = user * tracks + int(track[user])
        if key in reacted:
            reaction[user] = 0
        reacted.add(key)
    return reaction


def _remember(memory: Memory, track: Ints, slots: Ints) -> None:
    for slot in (1, 2):
        user = np.flatnonzero(slots >= slot)
        memory.remember(user, track[user])


def _truncate(log: ListeningLog, end: int) -> ListeningLog:
    """Returns the log without listens at `end` or later."""
    keep = log.time < end
    start = np.concatenate([[0], np.cumsum(keep)])[log.start]
    columns = {
        field.name: getattr(log, field.name)[keep]
        for field in dataclasses.fields(log)
        if field.name != "start"
    }
    return ListeningLog(start=start, **columns)
