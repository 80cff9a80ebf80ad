"""Small valid sources of every reader and layout, of which trials damage one file each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from benchmarks.damage.sources import Columns, Part, Source

_USER = [1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
_ITEM = [10, 11, 12, 13, 10, 11, 13, 10, 12, 13, 11]
_TIME = [100, 105, 110, 86_500, 95, 200, 205, 300, 305, 310, 315]
_ROWS = len(_USER)


_MAP = """dataset: mine
label_event: view
repeats_recommendable: true
events: {{files: "events.{end}", user_id: uid, item_id: film, timestamp: at, event_type: kind,
  play_ratio: share, is_organic: own}}
items: {{files: "films.{end}", item_id: id, title: name, tags: genres, item_length: seconds, separator: "|"}}
users: {{files: "people.{end}", user_id: id}}
embeddings: {{files: "vectors.{end}", item_id: id, embedding: vector}}
"""


def _of_table(end: str, form: str, between: str = ",") -> Source:
    is_text = form == "csv"
    vector = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.2, 0.1]]
    genres = [["a", "b"], ["b"], ["c"], ["a"]]
    return Source(
        f"table, {end}",
        "table",
        (
            Part(
                f"events.{end}",
                form,
                {
                    "uid": _USER,
                    "film": _ITEM,
                    "at": _TIME,
                    "kind": ["view"] * (_ROWS - 2) + ["like"] * 2,
                    "share": [0.5, 1.0, 0.25, 0.75, 0.5, 1.5, 0.1, 0.2, 0.3, 0.4, 0.6],
                    "own": [True, False] * 5 + [True],
                },
                {
                    "uid": ("events", "user_id"),
                    "film": ("events", "item_id"),
                    "at": ("events", "timestamp"),
                    "kind": ("events", "event_type"),
                    "share": ("events", "play_ratio"),
                    "own": ("events", "is_organic"),
                },
                between,
            ),
            Part(
                f"films.{end}",
                form,
                {
                    "id": [10, 11, 12, 13],
                    "name": ["Vertigo", "Rope, the", "Psycho", "The Birds"],
                    "genres": ["|".join(one) for one in genres] if is_text else genres,
                    "seconds": [100, 200, 300, 400],
                    "mood": ["calm", "loud", "calm", "loud"],
                },
                {
                    "id": ("items", "item_id"),
                    "name": ("items", "title"),
                    "genres": ("items", "tags"),
                    "seconds": ("items", "item_length"),
                    "mood": ("items", "mood"),
                },
                between,
            ),
            Part(
                f"people.{end}",
                form,
                {"id": [1, 2, 3], "age": [20, 30, 40], "zip": ["0123", "22a", "x"]},
                {"id": ("users", "user_id"), "age": ("users", "age"), "zip": ("users", "zip")},
                between,
            ),
            Part(
                f"vectors.{end}",
                form,
                {
                    "id": [10, 11, 12, 13],
                    "vector": [str(one).replace(",", ";") for one in vector] if is_text else vector,
                },
                {"id": ("items", "item_id")},
                between,
            ),
        ),
        _MAP.format(end=end).replace("vector}", 'vector, separator: ";"}' if is_text else "vector}"),
    )


def _yambda(name: str, events: Sequence[Part]) -> Source:
    items = [10, 11, 12, 13]
    return Source(
        name,
        "yambda",
        (
            *events,
            Part(
                "embeddings.parquet",
                "parquet",
                {"item_id": items, "normalized_embed": [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6]]},
                {"item_id": ("items", "item_id"), "normalized_embed": ("items", "embedding")},
                optional=True,
            ),
            Part(
                "artist_item_mapping.parquet",
                "parquet",
                {"artist_id": [5, 5, 6, 7], "item_id": items},
                {"item_id": ("items", "item_id"), "artist_id": ("items", "artist_id")},
                optional=True,
            ),
            Part(
                "album_item_mapping.parquet",
                "parquet",
                {"album_id": [8, 8, 9, 9], "item_id": items},
                {"item_id": ("items", "item_id"), "album_id": ("items", "album_id")},
                optional=True,
            ),
            Part(
                "names.parquet",
                "parquet",
                {
                    "item_id": items,
                    "title": ["A", "B", "C", "D"],
                    "artist": ["P", "P", "Q", "R"],
                    "track_length_seconds": [100, 200, 300, 400],
                },
                {
                    "item_id": ("items", "item_id"),
                    "title": ("items", "title"),
                    "track_length_seconds": ("items", "item_length"),
                },
                optional=True,
            ),
        ),
    )


_LISTENS: Columns = {
    "uid": _USER,
    "timestamp": _TIME,
    "item_id": _ITEM,
    "is_organic": [1, 0] * 5 + [1],
    "played_ratio_pct": [100, 50, 30, 20, 10, 100, 90, 80, 70, 60, 50],
    "track_length_seconds": [100, 200, 300, 400, 100, 200, 400, 100, 300, 400, 200],
}
_OF_LISTENS = {
    "uid": ("events", "user_id"),
    "timestamp": ("events", "timestamp"),
    "item_id": ("events", "item_id"),
    "is_organic": ("events", "is_organic"),
    "played_ratio_pct": ("events", "play_ratio"),
    "track_length_seconds": ("events", "item_length"),
}


def _sequential() -> Columns:
    """Returns a row a user, with lists."""
    of_user = {user: [row for row in range(_ROWS) if _USER[row] == user] for user in (1, 2, 3)}
    columns: Columns = {"uid": list(of_user)}
    for name in _LISTENS:
        if name != "uid":
            columns[name] = [[_LISTENS[name][row] for row in rows] for rows in of_user.values()]
    return columns


_RATINGS: Columns = {
    "user": _USER,
    "movie": _ITEM,
    "rating": [5, 4, 3, 2, 1, 5, 4, 3, 2, 1, 5],
    "timestamp": [978_300_000 + time for time in _TIME],
}
_OF_RATINGS = {
    "user": ("events", "user_id"),
    "movie": ("events", "item_id"),
    "rating": ("events", "play_ratio"),
    "timestamp": ("events", "timestamp"),
}
_FILMS: Columns = {
    "movieId": [10, 11, 12, 13],
    "title": ["Vertigo (1958)", "Rope (1948)", "Psycho, again (1960)", "Birds (1963)"],
    "genres": ["Drama|Crime", "Crime", "Drama", "Crime"],
}
_OF_FILMS = {"movieId": ("items", "item_id"), "title": ("items", "title")}


def _ratings(name: str, between: str) -> Part:
    return Part(name, "lines", _RATINGS, _OF_RATINGS, between, header=False)


def _films(name: str, encoding: str = "utf-8") -> Part:
    return Part(name, "lines", _FILMS, _OF_FILMS, "::", header=False, encoding=encoding)


def _movielens() -> list[Source]:
    flags: Columns = {f"flag {place}": [int(place == one) for one in (1, 2, 1, 2)] for place in range(3)}
    genres: Columns = {"genre": ["unknown", "Crime", "Drama"], "place": [0, 1, 2]}
    items: Columns = {
        "movieId": [10, 11, 12, 13],
        "title": _FILMS["title"],
        "released": ["01-Jan-1958"] * 4,
        "video": [None] * 4,
        "url": ["http://x"] * 4,
        **flags,
    }
    users: Columns = {"user": [1, 2, 3], "age": [24, 53, 23], "gender": ["M", "F", "M"]}
    work: Columns = {"work": ["writer", "other", "writer"], "zip": ["85711", "94043", "V1G"]}
    users_1m: Columns = {
        "user": [1, 2, 3],
        "gender": ["M", "F", "M"],
        "age": [25, 56, 18],
        "work": [4, 16, 7],
    }
    of_users = {"user": ("users", "user_id"), "age": ("users", "age"), "gender": ("users", "gender")}
    header = {"user": "userId", "movie": "movieId"}
    named = {header.get(name, name): values for name, values in _RATINGS.items()}
    of_named = {header.get(name, name): target for name, target in _OF_RATINGS.items()}
    films = Part("movies.csv", "csv", _FILMS, _OF_FILMS)
    return [
        Source(
            "movielens, 100k",
            "movielens",
            (
                _ratings("u.data", "\t"),
                Part("u.item", "lines", items, _OF_FILMS, "|", False, "latin-1"),
                Part("u.genre", "lines", genres, {}, "|", header=False),
                Part("u.user", "lines", {**users, **work}, of_users, "|", header=False),
            ),
        ),
        Source(
            "movielens, 1m",
            "movielens",
            (
                _ratings("ratings.dat", "::"),
                _films("movies.dat", "latin-1"),
                Part(
                    "users.dat",
                    "lines",
                    {**users_1m, "zip": work["zip"]},
                    of_users,
                    "::",
                    header=False,
                    # Without it the release is read as 10M's, and the data set is named after it.
                    optional=True,
                ),
            ),
        ),
        Source("movielens, 10m", "movielens", (_ratings("ratings.dat", "::"), _films("movies.dat"))),
        Source("movielens, csv", "movielens", (Part("ratings.csv", "csv", named, of_named), films)),
        Source(
            "movielens, parquet", "movielens", (Part("ratings.parquet", "parquet", named, of_named), films)
        ),
    ]


def _playlists() -> str:
    def track(place: int, number: int) -> dict[str, Any]:
        return {
            "pos": place,
            "track_uri": f"spotify:track:{number}",
            "track_name": f"Song {number}",
            "artist_uri": f"spotify:artist:{number % 2}",
            "artist_name": "Someone",
            "album_uri": "spotify:album:1",
            "album_name": "Album",
            "duration_ms": 1_000 * number,
        }

    playlists = [
        {
            "name": f"list {user}",
            "collaborative": "false",
            "pid": user,
            "modified_at": 1_500_000_000,
            "num_tracks": 3,
            "num_albums": 1,
            "num_followers": 1,
            "num_edits": 2,
            "duration_ms": 9,
            "num_artists": 2,
            "tracks": [track(place, 10 + (user + place) % 4) for place in range(3)],
        }
        for user in (1, 2, 3)
    ]
    return json.dumps({"info": {"slice": "0-999"}, "playlists": playlists}, indent=1)


def sources() -> list[Source]:
    """Returns a source of every reader and layout."""
    flat = {**_LISTENS, "event_type": ["listen"] * (_ROWS - 2) + ["like", "dislike"]}
    of_flat = {**_OF_LISTENS, "event_type": ("events", "event_type")}
    lines: Columns = {"user items": ["1 10 11 12 13", "2 10 11 13", "3 10 12 13 11"]}
    pairs: Columns = {"user": _USER, "item": _ITEM}
    of_pairs = {"user": ("events", "user_id"), "item": ("events", "item_id")}
    likes: Columns = {name: _LISTENS[name][:3] for name in ("uid", "timestamp", "item_id", "is_organic")}
    likes["timestamp"] = [time + 5 for time in likes["timestamp"]]
    of_likes = {name: target for name, target in _OF_LISTENS.items() if name in likes}
    return [
        _of_table("csv", "csv"),
        _of_table("tsv", "csv", "\t"),
        _of_table("parquet", "parquet"),
        _yambda("yambda, flat", [Part("multi_event.parquet", "parquet", flat, of_flat)]),
        _yambda(
            "yambda, by type",
            [
                Part("listens.parquet", "parquet", _LISTENS, _OF_LISTENS),
                Part("likes.parquet", "parquet", likes, of_likes, optional=True),
            ],
        ),
        _yambda("yambda, sequential", [Part("listens.parquet", "parquet", _sequential(), _OF_LISTENS)]),
        *_movielens(),
        Source("movietweetings", "movietweetings", (_ratings("ratings.dat", "::"), _films("movies.dat"))),
        Source(
            "sequences, events",
            "sequences",
            (Part("log.txt", "lines", pairs, of_pairs, " ", False),),
            is_file=True,
        ),
        Source(
            "sequences, users",
            "sequences",
            (Part("log.txt", "lines", lines, of_pairs, "users", False),),
            is_file=True,
        ),
        Source(
            "sequences, gzip",
            "sequences",
            (Part("log.txt.gz", "lines", pairs, of_pairs, " ", False),),
            is_file=True,
        ),
        Source(
            "spotify-mpd",
            "spotify-mpd",
            (
                Part(
                    "mpd.slice.0-999.json",
                    "json",
                    {},
                    {"track_uri": ("events", "item_id")},
                    content=_playlists(),
                ),
            ),
        ),
    ]
