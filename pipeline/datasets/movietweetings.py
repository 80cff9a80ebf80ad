"""Reads MovieTweetings: `ratings.dat` (user::movie::rating 0-10::unix seconds) and `movies.dat`.

A rating is an event of type "rating", whatever its value: that someone saw the film is what is predicted.
Its `play_ratio` is rating / 10, so that a film that was liked weighs more as a label. Nobody is recommended
a film twice, so a second rating of a film by the same user is dropped. `release_timestamp` is January 1 of
the year in the film's title. `users.dat`, which holds nothing but Twitter's ids, is not read.
"""

from __future__ import annotations

import calendar
import os
import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pipeline.datasets.checked_columns import NEWEST_TIMESTAMP, timestamp_remedy
from pipeline.datasets.data_directory import DataDirectoryWriter, DatasetProperties, Manifest
from pipeline.errors import UserError

_BEST_RATING = 10
_RATING = re.compile(r"(\d{1,18})::(\d{1,18})::(\d{1,2})::(-?\d{1,19})")
# Greedy in the middle: a title may itself hold "::".
_MOVIE = re.compile(r"(\d{1,18})::(.*)::(.*)")
_YEAR = re.compile(r"\((\d{4})\)\s*$")


def ingest(source: str, out: str, name: str | None = None) -> Manifest:
    """Writes the data directory `out` from the folder `source`.

    Raises:
      UserError: a file is missing, empty, not UTF-8, or has a line that is not in the format.
    """
    with DataDirectoryWriter(out, DatasetProperties(name or "movietweetings", "rating", False)) as writer:
        ratings = _read_ratings(os.path.join(source, "ratings.dat"), writer)
        movies = _read_movies(os.path.join(source, "movies.dat"), writer)
        user, item, rating, time = ratings
        writer.write(
            "events",
            pa.table(
                {
                    "user_id": user,
                    "item_id": item,
                    "timestamp": time,
                    "event_type": pa.array(["rating"]).take(pa.array(np.zeros(len(user), np.int64))),
                    "play_ratio": (rating / _BEST_RATING).astype(np.float32),
                }
            ),
        )
        unlisted = [int(movie) for movie in np.unique(item) if int(movie) not in movies]
        writer.repaired["items_added_to_catalog"] += len(unlisted)
        movies |= {movie: (None, None, []) for movie in unlisted}
        released, titles, genres = zip(*movies.values(), strict=True)
        writer.write(
            "items",
            pa.table(
                {
                    "item_id": pa.array(movies, pa.int64()),
                    "release_timestamp": pa.array(released, pa.int64()),
                    "title": pa.array(titles, pa.string()),
                    "tags": pa.array(genres, pa.list_(pa.string())),
                }
            ),
        )
    return writer.manifest


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file that are not blank, with their numbers (from 1)."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: there is no such file, and MovieTweetings has one.")
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}:{number}: byte {error.start} (0x{line[error.start]:02x}) is not UTF-8; "
                    "convert the file, as with `iconv -f latin1 -t utf-8`."
                ) from error
            if text.strip():
                yield number, text


def _read_ratings(path: str, writer: DataDirectoryWriter) -> np.ndarray:
    """Users, items, ratings and times as int64[4, n], in the order of the file, one row per user and film."""
    rows = []
    for number, line in _lines(path):
        parts = _RATING.fullmatch(line)
        if parts is None:
            raise UserError(
                f"{path}:{number}: {line!r} is not of the form user::movie::rating::unix seconds."
            )
        user, item, rating, time = map(int, parts.groups())
        if rating > _BEST_RATING:
            raise UserError(f"{path}:{number}: column 'rating': {rating} is outside 0 to {_BEST_RATING}.")
        if not 0 <= time <= NEWEST_TIMESTAMP:
            raise UserError(f"{path}:{number}: column 'timestamp': {time} {timestamp_remedy(time)}")
        rows.append((user, item, rating, time))
    if not rows:
        raise UserError(f"{path}: no ratings in it.")
    table = np.array(rows, np.int64).T
    user, item, _, time = table
    # The first rating in time is kept; at equal times the first in the file.
    order = np.lexsort((time, item, user))
    again = np.zeros(len(order), bool)
    same = (np.diff(user[order]) == 0) & (np.diff(item[order]) == 0)
    again[order[1:][same]] = True
    same_time = same & (np.diff(time[order]) == 0)
    writer.dropped["duplicate_events"] += int(same_time.sum())
    writer.dropped["repeated_ratings"] += int(same.sum() - same_time.sum())
    return table[:, ~again]


_Movie = tuple[int | None, str | None, list[str]]


def _read_movies(path: str, writer: DataDirectoryWriter) -> dict[int, _Movie]:
    """Release time, title and genres of every film."""
    movies: dict[int, _Movie] = {}
    for number, line in _lines(path):
        parts = _MOVIE.fullmatch(line)
        if parts is None:
            raise UserError(f"{path}:{number}: {line!r} is not of the form movie::title (year)::genres.")
        movie, title = int(parts[1]), parts[2].strip()
        if movie in movies:
            writer.dropped["duplicate_items"] += 1
            continue
        year = _YEAR.search(title)
        released = calendar.timegm((int(year[1]), 1, 1, 0, 0, 0)) if year and int(year[1]) else None
        if released is None:
            writer.noted["items_without_release_year"] += 1
        movies[movie] = (released, title or None, [genre for genre in parts[3].split("|") if genre])
    if not movies:
        raise UserError(f"{path}: no movies in it.")
    return movies
