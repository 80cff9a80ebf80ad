"""Ground truth of the simulator: its parameters and its catalog.

Every choice of a track is a choice within a group: a style, an artist or an album. Its probability is
proportional to the track's weight on that day. `Groups` both draws the choice and knows its probability.
`next_listen` combines these probabilities.
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

# Limits of parameters that names and types do not imply.
_POSITIVE = ("taste_concentration", "listens_per_user", "trend_fade_days")
# More users, days or tracks are beyond any machine's memory.
_LARGEST = 10**8
_AT_LEAST = {"days": 2, "session_listens": 1, "tracks_per_artist": 1, "tracks_per_album": 1}


@dataclasses.dataclass(frozen=True)
class SimulationParameters:
    """Parameters of a world and its log; docs/decisions/0002-simulated-world.md explains each default.

    Raises:
        UserError: a value is impossible; the message names the parameter.
    """

    seed: int = 7

    # Size of the log.
    users: int = 5_500
    days: int = 40
    # Mean over users. The numbers are lognormal with `activity_sigma`, capped at 5 times the mean.
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
    # Shares of tracks with a second artist and with a second album.
    featured_share: float = 0.08
    compilation_share: float = 0.10
    latent_dim: int = 16
    embedding_dim: int = 128
    # Standard deviation of the noise in a content embedding, relative to a signal of 1.
    embedding_noise: float = 0.5

    # Popularity: log-standard deviations of artists, and of tracks within an artist. Style popularity is
    # proportional to rank ** -style_decay.
    artist_sigma: float = 1.0
    track_sigma: float = 0.75
    style_decay: float = 0.85
    # Share of tracks released during the log; each rises within about a day and then fades.
    release_share: float = 0.12
    # Share of older tracks that trend once in the log.
    revival_share: float = 0.01
    # A trend multiplies a track's weight by 1 + trend_peak * (1 - e^-(age + 1)) * e^-(age / trend_fade_days).
    # Age is in days; the maximum is about 11. A random factor varies the height of each trend.
    trend_peak: float = 15.0
    trend_fade_days: float = 4.0

    # Users: number of tastes, Dirichlet concentration of their weights, daily random walk of log-weights.
    tastes: int = 5
    taste_concentration: float = 1.5
    taste_drift: float = 0.12

    # Sessions: mean number of listens, and the probability before each listen to redraw the taste.
    session_listens: float = 12.0
    switch_share: float = 0.05

    # Kinds of the next listen. The remaining probability is a discovery in the session's style.
    repeat_share: float = 0.11
    remembered_artist_share: float = 0.07
    same_album_share: float = 0.18
    same_artist_share: float = 0.12
    # Share of discoveries outside the session's style, mostly in similar styles.
    neighbour_share: float = 0.2
    # Number of plays of each style that a user remembers.
    memory: int = 24

    # Oracle: approximate number of queries; each user contributes all or none.
    oracle_queries: int = 5_000

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "seed":
                wrong = "a whole number of at least 0" if not _is_whole(value) or value < 0 else ""
            elif field.name.endswith("_share"):
                wrong = "" if _is_number(value) and 0 <= value < 1 else "at least 0 and below 1"
            elif field.type == "int":
                fits = _is_whole(value) and 1 <= value <= _LARGEST
                wrong = "" if fits else f"a whole number of at least 1 and at most {_LARGEST:,}"
            elif field.name in _POSITIVE:
                wrong = "" if _is_number(value) and 0 < value < np.inf else "above 0"
            else:
                wrong = "" if _is_number(value) and 0 <= value < np.inf else "at least 0"
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
                "same_artist_share add up to 1 or more, which leaves no discoveries. Lower one of them."
            )

    @property
    def discovery_share(self) -> float:
        """Probability of a discovery: 1 minus the shares of repeats, remembered artists and continuations."""
        return 1 - (
            self.repeat_share + self.remembered_artist_share + self.same_album_share + self.same_artist_share
        )

    @property
    def seconds(self) -> int:
        """Length of the log in seconds."""
        return self.days * DAY


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class Groups:
    """Overlapping groups of tracks: each track has one or two memberships, sorted by group.

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
        # Memberships of each track: [tracks, 2]; the second is -1 if there is only one.
        order = np.argsort(track, kind="stable")
        first = np.searchsorted(track[order], np.arange(tracks))
        number = np.bincount(track, minlength=tracks)
        self.memberships = np.full((tracks, 2), -1)
        self.memberships[:, 0] = order[first]
        self.memberships[number > 1, 1] = order[first[number > 1] + 1]
        # One cumulative sum over all days [days * size + 1]: users on different days draw in one call.
        self.weight = weights[:, track]
        self.cumulative = np.concatenate([[0.0], np.cumsum(self.weight.ravel())])
        edges = np.arange(days)[:, None] * self.size + self.start
        self.total = np.diff(self.cumulative[edges], axis=1)  # [days, groups]
        released = np.concatenate([[0], np.cumsum((self.weight > 0).ravel())])
        self.released = np.diff(released[edges], axis=1)  # [days, groups]

    def draw(self, group: Ints, day: Ints, uniform: Floats, but: Ints | None = None) -> Ints:
        """Draws one track of each group [n], with probability proportional to its weight on that day.

        Args:
            but: membership [n] in that group that is excluded.
        """
        at = day * self.size
        low = self.cumulative[at + self.start[group]]
        if but is None:
            value = low + uniform * self.total[day, group]
        else:
            own = self.weight[day, but]
            value = low + uniform * (self.total[day, group] - own)
            # Skipping the excluded membership keeps the proportions of the others.
            value += np.where(value >= self.cumulative[at + but], own, 0.0)
        position = np.searchsorted(self.cumulative, value, side="right") - 1 - at
        return self.track[np.clip(position, self.start[group], self.start[group + 1] - 1)]

    def groups_of(self, track: NDArray[np.integer]) -> Ints:
        """Returns the groups [..., 2] of each track [...]; the second is -1 if there is only one."""
        memberships = self.memberships[track]
        return np.where(memberships >= 0, self.group[memberships], -1)

    @cached_property
    def share(self) -> NDArray[np.float32]:
        """Probability [2, days, tracks] of a track within its first and second group; 0 without a group."""
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.nan_to_num(self.weight / self.total[:, self.group], nan=0.0).astype(np.float32)
        both = np.stack([share[:, self.memberships[:, 0]], share[:, self.memberships[:, 1]]])
        both[1, :, self.memberships[:, 1] < 0] = 0.0
        return both

    def add(self, mass: Floats, day: Ints, probability: NDArray[np.float32]) -> None:
        """Distributes `mass` [n, groups] over each group's tracks by their weights on `day` [n].

        Args:
            probability: [n, tracks], changed in place.
        """
        row, group = np.divmod(np.flatnonzero(mass), mass.shape[1])
        first, number = self.start[group], self.start[group + 1] - self.start[group]
        # Concatenated memberships of all those groups.
        membership = np.repeat(first - number.cumsum() + number, number) + np.arange(number.sum())
        scale = mass[row, group] / self.total[day[row], group]
        row, scale = np.repeat(row, number), np.repeat(scale, number)
        value = (scale * self.weight[day[row], membership]).astype(np.float32)
        np.add.at(probability.reshape(-1), row * probability.shape[1] + self.track[membership], value)


@dataclasses.dataclass(frozen=True)
class World:
    """The catalog and everything else that determines a listen, except the user.

    `track_*` are [tracks], `artist_*` [artists]. Tracks are numbered by artist and album. The log contains
    their `item_id`, which is shuffled.
    """

    parameters: SimulationParameters
    item_id: Ints
    track_style: Ints
    track_seconds: Ints
    # Day of release; negative for tracks older than the log.
    track_release_day: Ints
    # First day of a track's trend; -1 without a trend.
    track_trend_day: Ints
    track_latent: Floats
    style_latent: Floats
    style_popularity: Floats
    # [styles, styles] probability of a discovery's style, given the session's style. Rows sum to 1.
    style_kernel: Floats
    styles: Groups
    artists: Groups
    albums: Groups

    def embeddings(self) -> Floats:
        """Returns the content embeddings [tracks, embedding_dim]: a noisy linear image of the latents."""
        p = self.parameters
        random = np.random.default_rng([p.seed, 2])
        image = random.normal(size=(p.latent_dim, p.embedding_dim)) / np.sqrt(p.latent_dim)
        signal = self.track_latent @ image
        noise = random.normal(size=signal.shape) * p.embedding_noise * signal.std()
        # Audio models produce float32; Yambda stores doubles.
        return (signal + noise).astype(np.float32).astype(np.float64)


def make_world(parameters: SimulationParameters) -> World:
    """Draws the catalog of `parameters`; the same seed draws the same world."""
    p = parameters
    random = np.random.default_rng([p.seed, 1])

    style_latent, style_popularity, kernel = _draw_styles(random, p)
    # An artist has one style and several albums; all tracks of an album are released together.
    track_artist, artists = _cut_into_runs(random, p.tracks, p.tracks_per_artist)
    track_album, albums = _cut_into_runs(random, p.tracks, p.tracks_per_album, within=track_artist)
    if artists < p.styles:
        raise UserError(
            f"The simulator's {p.tracks} tracks make {artists} artists, too few for {p.styles} styles. "
            f"Ask for {p.styles * p.tracks_per_artist:,.0f} tracks or more."
        )
    # Every style has at least one artist.
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
    # The first day has no releases: the log starts with the old catalog.
    release = np.where(new, random.integers(1, p.days, albums), -random.integers(1, 3_000, albums))[
        track_album
    ]
    # Every style has tracks when the log starts.
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
    # A second artist has the same style as the first; a second album is a compilation of the style.
    featured = np.flatnonzero(random.random(p.tracks) < p.featured_share)
    guest = _draw_artist_of_style(random, artist_style, track_artist[featured])
    featured, guest = featured[guest != track_artist[featured]], guest[guest != track_artist[featured]]
    compiled = np.flatnonzero((random.random(p.tracks) < p.compilation_share) & (release < 0))
    compiled = compiled[np.argsort(track_style[compiled], kind="stable")]
    compilation, compilations = _cut_into_runs(random, len(compiled), 12.0, within=track_style[compiled])

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


def _draw_styles(random: np.random.Generator, p: SimulationParameters) -> tuple[Floats, Floats, Floats]:
    """Draws latent vectors [styles, dim], popularities [styles] and the kernel [styles, styles] of styles.

    Styles cluster around genres. A discovery outside the style prefers similar styles.
    """
    genre = random.normal(size=(p.genres, p.latent_dim))
    latent = _normalise_length(
        _normalise_length(genre)[np.arange(p.styles) % p.genres]
        + 0.6 * _noise(random, p.styles, p.latent_dim)
    )
    popularity = (1.0 + random.permutation(p.styles)) ** -p.style_decay
    popularity /= popularity.sum()
    kernel = np.eye(p.styles)
    if p.styles > 1:
        similarity = np.exp(4 * (latent @ latent.T)) * (1 - np.eye(p.styles))
        kernel = (1 - p.neighbour_share) * kernel + p.neighbour_share * _normalise_rows(similarity)
    return latent, popularity, kernel


def _normalise_length(vectors: Floats) -> Floats:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _normalise_rows(matrix: Floats) -> Floats:
    return matrix / matrix.sum(axis=-1, keepdims=True)


def _noise(random: np.random.Generator, rows: int, dim: int) -> Floats:
    """Draws vectors of length about 1."""
    return random.normal(size=(rows, dim)) / np.sqrt(dim)


def _cut_into_runs(
    random: np.random.Generator, size: int, mean: float, within: Ints | None = None
) -> tuple[Ints, int]:
    """Cuts 0..size into runs of mean length `mean`, and at changes of `within`.

    Returns:
        The run of each position, and the number of runs.
    """
    if size == 0:
        return np.zeros(0, np.int64), 0
    cut = random.random(size) < 1 / mean
    if within is not None:
        cut |= np.diff(within, prepend=within[0]) != 0
    cut[0] = False
    run: Ints = np.cumsum(cut, dtype=np.int64)
    return run, int(run[-1]) + 1


def _draw_artist_of_style(random: np.random.Generator, artist_style: Ints, artist: Ints) -> Ints:
    """Draws an artist of the same style for each `artist` [n], possibly the same one."""
    order = np.argsort(artist_style, kind="stable")
    low, high = (
        np.searchsorted(artist_style[order], artist_style[artist], side) for side in ("left", "right")
    )
    return order[low + (random.random(len(artist)) * (high - low)).astype(np.int64)]


def _groups(group: Ints, track: Ints, weights: Floats, groups: int) -> Groups:
    order = np.argsort(group, kind="stable")
    return Groups(group[order], track[order], weights, groups)
