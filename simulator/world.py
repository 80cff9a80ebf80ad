"""The simulator's truth: its parameters, its catalog, and the exact probability of the next listen.

Everything that chooses a track chooses within a group: a style, an artist or an album, in proportion to
the track's weight on that day. `Groups` is the one place where that choice is drawn, and where its
probability is known.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from two_tower.base.errors import UserError

DAY = 86_400

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# What parameters must be, beyond what their names and types say.
_POSITIVE = ("taste_concentration", "listens_per_user", "trend_fade_days")
_AT_LEAST = {"days": 2, "session_listens": 1, "tracks_per_artist": 1, "tracks_per_album": 1}


@dataclasses.dataclass(frozen=True)
class SimulationParameters:
    """A world and its log. Why each default is what it is: docs/decisions/0002-simulated-world.md.

    Raises:
        UserError: naming the parameter, for a value that no world can have.
    """

    seed: int = 7

    # Size of the log.
    users: int = 5_500
    days: int = 40
    # Mean over users; their numbers are lognormal with `activity_sigma`, at most 5 times the mean.
    listens_per_user: float = 235.0
    activity_sigma: float = 0.7
    # Share of users who first appear during the log.
    late_user_share: float = 0.15

    # The catalog.
    tracks: int = 24_000
    tracks_per_artist: float = 15.0
    tracks_per_album: float = 9.0
    styles: int = 40
    genres: int = 8
    # Share of tracks with a second artist, and on a second album.
    featured_share: float = 0.08
    compilation_share: float = 0.10
    latent_dim: int = 16
    embedding_dim: int = 128
    # Standard deviation of the noise in a content embedding, beside a signal of 1.
    embedding_noise: float = 0.5

    # Popularity: log-standard deviations of artists, and of tracks within an artist; styles fall as
    # rank ** -style_decay.
    artist_sigma: float = 1.0
    track_sigma: float = 0.75
    style_decay: float = 0.85
    # Share of tracks released during the log; each rises in about a day and fades.
    release_share: float = 0.12
    # Share of older tracks that have their moment once in the log.
    revival_share: float = 0.01
    # A trend multiplies a track's weight by 1 + trend_peak * (1 - e^-(age + 1)) * e^-(age / trend_fade_days),
    # age in days: by about 11 at its height. Trends vary about this by a factor.
    trend_peak: float = 15.0
    trend_fade_days: float = 4.0

    # Users: number of tastes, evenness of their weights (Dirichlet), daily random walk of log-weights.
    tastes: int = 5
    taste_concentration: float = 1.5
    taste_drift: float = 0.12

    # Sessions: mean number of listens, and the chance before each listen to move to another taste.
    session_listens: float = 12.0
    switch_share: float = 0.05

    # What the next listen is. The rest of 1 is a discovery in the session's style.
    repeat_share: float = 0.11
    remembered_artist_share: float = 0.07
    same_album_share: float = 0.18
    same_artist_share: float = 0.12
    # Share of discoveries outside the session's style, most of them in similar ones.
    neighbour_share: float = 0.2
    # A user remembers this many plays of each style.
    memory: int = 24

    # Oracle: about this many queries, of whole users.
    oracle_queries: int = 5_000

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "seed":
                wrong = "a whole number of at least 0" if not _whole(value) or value < 0 else ""
            elif field.name.endswith("_share"):
                wrong = "" if _number(value) and 0 <= value < 1 else "at least 0 and below 1"
            elif field.type == "int":
                wrong = "" if _whole(value) and value >= 1 else "a whole number of at least 1"
            elif field.name in _POSITIVE:
                wrong = "" if _number(value) and 0 < value < np.inf else "above 0"
            else:
                wrong = "" if _number(value) and 0 <= value < np.inf else "at least 0"
            if wrong:
                raise UserError(f"The simulator's {field.name} is {value!r}; it must be {wrong}.")
        for name, limit in _AT_LEAST.items():
            if getattr(self, name) < limit:
                raise UserError(
                    f"The simulator's {name} is {getattr(self, name)}; it must be at least {limit}."
                )
        for small, large in (("genres", "styles"), ("tastes", "styles"), ("styles", "tracks")):
            if getattr(self, small) > getattr(self, large):
                raise UserError(
                    f"The simulator's {small} ({getattr(self, small)}) exceed its {large} "
                    f"({getattr(self, large)}); ask for fewer {small} or more {large}."
                )
        if self.discovery_share <= 0:
            raise UserError(
                "The simulator's repeat_share, remembered_artist_share, same_album_share and "
                "same_artist_share add up to 1 or more; nothing would be discovered. Lower one of them."
            )

    @property
    def discovery_share(self) -> float:
        """What repeats, remembered artists and continuations leave of 1."""
        return 1 - (
            self.repeat_share + self.remembered_artist_share + self.same_album_share + self.same_artist_share
        )

    @property
    def seconds(self) -> int:
        """Length of the log."""
        return self.days * DAY


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Groups:
    """Tracks in (possibly overlapping) groups: a track has one or two memberships, group-major.

    Args:
        group: [memberships] ascending group of each membership.
        track: [memberships] its track.
        weights: [days, tracks] weight of each track on each day; 0 before its release.
        groups: number of groups.
    """

    def __init__(self, group: Ints, track: Ints, weights: Floats, groups: int) -> None:
        days, tracks = weights.shape
        self.group, self.track, self.size = group, track, len(group)
        self.start = np.searchsorted(group, np.arange(groups + 1))
        # Memberships of each track: [tracks, 2], the second -1 where there is but one.
        order = np.argsort(track, kind="stable")
        first = np.searchsorted(track[order], np.arange(tracks))
        number = np.bincount(track, minlength=tracks)
        self.memberships = np.full((tracks, 2), -1)
        self.memberships[:, 0] = order[first]
        self.memberships[number > 1, 1] = order[first[number > 1] + 1]
        # One cumulative sum over all days, so that users on different days draw together. [days * size + 1]
        self.weight = weights[:, track]
        self.cumulative = np.concatenate([[0.0], np.cumsum(self.weight.ravel())])
        edges = np.arange(days)[:, None] * self.size + self.start
        self.total = np.diff(self.cumulative[edges], axis=1)  # [days, groups]
        released = np.concatenate([[0], np.cumsum((self.weight > 0).ravel())])
        self.released = np.diff(released[edges], axis=1)  # [days, groups]

    def draw(self, group: Ints, day: Ints, uniform: Floats, but: Ints | None = None) -> Ints:
        """One track of each group [n], in proportion to its weight that day.

        Args:
            but: membership [n] in that group which is not to be drawn.
        """
        at = day * self.size
        low = self.cumulative[at + self.start[group]]
        if but is None:
            value = low + uniform * self.total[day, group]
        else:
            own = self.weight[day, but]
            value = low + uniform * (self.total[day, group] - own)
            # Stepping over the excluded one leaves the others' proportions as they are.
            value += np.where(value >= self.cumulative[at + but], own, 0.0)
        position = np.searchsorted(self.cumulative, value, side="right") - 1 - at
        return self.track[np.clip(position, self.start[group], self.start[group + 1] - 1)]

    def groups_of(self, track: NDArray[np.integer]) -> Ints:
        """[..., 2] groups of each track [...]; the second is -1 where there is but one."""
        memberships = self.memberships[track]
        return np.where(memberships >= 0, self.group[memberships], -1)

    @cached_property
    def share(self) -> NDArray[np.float32]:
        """[2, days, tracks] probability of a track within its first and second group; 0 if it has none."""
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.nan_to_num(self.weight / self.total[:, self.group], nan=0.0).astype(np.float32)
        both = np.stack([share[:, self.memberships[:, 0]], share[:, self.memberships[:, 1]]])
        both[1, :, self.memberships[:, 1] < 0] = 0.0
        return both

    def add(self, mass: Floats, day: Ints, probability: NDArray[np.float32]) -> None:
        """Spreads `mass` [n, groups] over each group's tracks as on `day` [n].

        Args:
            probability: [n, tracks], added to in place.
        """
        row, group = np.divmod(np.flatnonzero(mass), mass.shape[1])
        first, number = self.start[group], self.start[group + 1] - self.start[group]
        # The memberships of all those groups, one after another.
        membership = np.repeat(first - number.cumsum() + number, number) + np.arange(number.sum())
        scale = mass[row, group] / self.total[day[row], group]
        row, scale = np.repeat(row, number), np.repeat(scale, number)
        value = (scale * self.weight[day[row], membership]).astype(np.float32)
        np.add.at(probability.reshape(-1), row * probability.shape[1] + self.track[membership], value)


@dataclasses.dataclass(frozen=True)
class World:
    """The catalog, and all that decides a listen except its user.

    `track_*` are [tracks], `artist_*` [artists]. Tracks are numbered by artist and album here; the log
    calls them by `item_id`, which is shuffled.
    """

    parameters: SimulationParameters
    item_id: Ints
    track_style: Ints
    track_seconds: Ints
    # Day of release; negative where the track is older than the log.
    track_release_day: Ints
    # Trending tracks' days [tracks] at which their trend begins, or -1.
    track_trend_day: Ints
    track_latent: Floats
    style_latent: Floats
    style_popularity: Floats
    # [styles, styles] where a discovery goes, given the session's style. Rows sum to 1.
    style_kernel: Floats
    styles: Groups
    artists: Groups
    albums: Groups

    def embeddings(self) -> Floats:
        """[tracks, embedding_dim] content embeddings: a noisy linear image of the latents."""
        p = self.parameters
        random = np.random.default_rng([p.seed, 2])
        image = random.normal(size=(p.latent_dim, p.embedding_dim)) / np.sqrt(p.latent_dim)
        signal = self.track_latent @ image
        noise = random.normal(size=signal.shape) * p.embedding_noise * signal.std()
        # Audio models write float32; Yambda stores them as doubles.
        return (signal + noise).astype(np.float32).astype(np.float64)


def make_world(parameters: SimulationParameters) -> World:
    """The catalog of `parameters`: the same seed makes the same world."""
    p = parameters
    random = np.random.default_rng([p.seed, 1])

    # Styles lie about genres; a discovery strays to similar styles first.
    genre = random.normal(size=(p.genres, p.latent_dim))
    style_latent = _unit(
        _unit(genre)[np.arange(p.styles) % p.genres] + 0.6 * _noise(random, p.styles, p.latent_dim)
    )
    style_popularity = (1.0 + random.permutation(p.styles)) ** -p.style_decay
    style_popularity /= style_popularity.sum()
    kernel = np.eye(p.styles)
    if p.styles > 1:
        similarity = np.exp(4 * (style_latent @ style_latent.T)) * (1 - np.eye(p.styles))
        kernel = (1 - p.neighbour_share) * kernel + p.neighbour_share * _rows_to_one(similarity)

    # Artists have a style and albums; albums have tracks, and are released whole.
    track_artist, artists = _runs(random, p.tracks, p.tracks_per_artist)
    track_album, albums = _runs(random, p.tracks, p.tracks_per_album, within=track_artist)
    if artists < p.styles:
        raise UserError(
            f"The simulator's {p.tracks} tracks make {artists} artists, too few for {p.styles} styles; "
            "ask for more tracks, fewer styles or a smaller tracks_per_artist."
        )
    # Every style has an artist.
    artist_style = np.concatenate(
        [np.arange(p.styles), random.choice(p.styles, artists - p.styles, p=style_popularity)]
    )
    artist_latent = style_latent[artist_style] + 0.4 * _noise(random, artists, p.latent_dim)
    track_latent = (
        artist_latent[track_artist]
        + 0.2 * _noise(random, albums, p.latent_dim)[track_album]
        + 0.2 * _noise(random, p.tracks, p.latent_dim)
    )
    track_style = artist_style[track_artist]
    quality = np.exp(
        random.normal(0, p.artist_sigma, artists)[track_artist] + random.normal(0, p.track_sigma, p.tracks)
    )

    new = random.random(albums) < p.release_share
    # The first day has no releases: what is there when the log begins is the old catalog.
    release = np.where(new, random.integers(1, p.days, albums), -random.integers(1, 3_000, albums))[
        track_album
    ]
    # No style begins the log empty.
    has_old = np.isin(track_style, track_style[release < 0])
    release = np.where(has_old, release, -1)
    revived = (release < 0) & (random.random(p.tracks) < p.revival_share)
    trend_day = np.where(revived, random.integers(0, p.days, p.tracks), np.where(release >= 0, release, -1))
    age = np.arange(p.days)[:, None] - trend_day
    height = p.trend_peak * np.exp(random.normal(-0.125, 0.5, p.tracks))
    trend = (1 - np.exp(-(age + 1.0))) * np.exp(-np.maximum(age, 0) / p.trend_fade_days) * height
    weights = quality * (1 + np.where((age >= 0) & (trend_day >= 0), trend, 0))
    weights[np.arange(p.days)[:, None] < release] = 0.0

    everything = np.arange(p.tracks)
    # A second artist is another of the same style; a second album is a compilation of a style.
    featured = np.flatnonzero(random.random(p.tracks) < p.featured_share)
    guest = _another_of_style(random, artist_style, track_artist[featured])
    featured, guest = featured[guest != track_artist[featured]], guest[guest != track_artist[featured]]
    compiled = np.flatnonzero((random.random(p.tracks) < p.compilation_share) & (release < 0))
    compiled = compiled[np.argsort(track_style[compiled], kind="stable")]
    compilation, compilations = _runs(random, len(compiled), 12.0, within=track_style[compiled])

    return World(
        parameters=p,
        item_id=1 + random.permutation(p.tracks),
        track_style=track_style,
        track_seconds=np.clip(random.lognormal(np.log(210), 0.35, p.tracks), 40, 900).astype(np.int64),
        track_release_day=release,
        track_trend_day=trend_day,
        track_latent=track_latent,
        style_latent=style_latent,
        style_popularity=style_popularity,
        style_kernel=kernel,
        styles=_groups(track_style, everything, weights, p.styles),
        artists=_groups(
            np.concatenate([track_artist, guest]), np.concatenate([everything, featured]), weights, artists
        ),
        albums=_groups(
            np.concatenate([track_album, albums + compilation]),
            np.concatenate([everything, compiled]),
            weights,
            albums + compilations,
        ),
    )


def _unit(vectors: Floats) -> Floats:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _rows_to_one(matrix: Floats) -> Floats:
    return matrix / matrix.sum(axis=-1, keepdims=True)


def _noise(random: np.random.Generator, rows: int, dim: int) -> Floats:
    """Vectors of length about 1."""
    return random.normal(size=(rows, dim)) / np.sqrt(dim)


def _runs(
    random: np.random.Generator, size: int, mean: float, within: Ints | None = None
) -> tuple[Ints, int]:
    """Cuts 0..size into runs of about `mean`, and where `within` changes: (run of each, their number)."""
    if size == 0:
        return np.zeros(0, np.int64), 0
    cut = random.random(size) < 1 / mean
    if within is not None:
        cut |= np.diff(within, prepend=within[0]) != 0
    cut[0] = False
    run: Ints = np.cumsum(cut, dtype=np.int64)
    return run, int(run[-1]) + 1


def _another_of_style(random: np.random.Generator, artist_style: Ints, artist: Ints) -> Ints:
    """An artist of the same style as each `artist` [n]; it may be the same one."""
    order = np.argsort(artist_style, kind="stable")
    low, high = (
        np.searchsorted(artist_style[order], artist_style[artist], side) for side in ("left", "right")
    )
    return order[low + (random.random(len(artist)) * (high - low)).astype(np.int64)]


def _groups(group: Ints, track: Ints, weights: Floats, groups: int) -> Groups:
    order = np.argsort(group, kind="stable")
    return Groups(group[order], track[order], weights, groups)


class Memory:
    """What users remember: per user and style, the last plays that went past their half.

    A like counts as one play more. Each style's list is a ring; a repeat takes any of its slots alike, so
    that the frequent, the recent and the liked come back more often, and its probability is a count.
    Costs `users * styles * memory` int32.
    """

    def __init__(self, users: int, world: World) -> None:
        p = world.parameters
        self._style = world.track_style
        self.track = np.full((users, p.styles, p.memory), -1, np.int32)
        self._written = np.zeros((users, p.styles), np.int64)

    def size(self, user: Ints, style: Ints) -> Ints:
        """Filled slots."""
        return np.minimum(self._written[user, style], self.track.shape[2])

    def remember(self, user: Ints, track: Ints) -> None:
        """Adds one slot to each of `user` [n], who are distinct."""
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
    """The exact probability of every track to be the next listen.

    Args:
        style: [queries, styles] probability of the style that the next listen is chosen in.
        memory: [queries, styles, slots] remembered tracks, -1 where a slot is empty (see `Memory`).
        previous: [queries] track of the listen before.
        day: [queries] day of the next listen.
        session_start: [queries] whether the next listen begins a session.

    Returns:
        [queries, tracks]; rows sum to 1. Costs about 12 bytes * queries * tracks while it works.
    """
    p = world.parameters
    queries = len(previous)
    row = np.arange(queries)
    filled = memory >= 0
    size = filled.sum(axis=2)
    discovery = np.full((queries, p.styles), p.discovery_share)
    discovery += np.where(size == 0, p.repeat_share + p.remembered_artist_share, 0.0)

    # Continuations. Excluding the previous track scales the others of its group.
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

    # Memory: each filled slot of a style is as likely as its others.
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
    # What subtracting `own` may leave of rounding.
    return np.maximum(probability, 0.0, out=probability)
