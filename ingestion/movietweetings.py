"""Reader of MovieTweetings: `ratings.dat` (user::movie::rating 0-10::unix seconds) and `movies.dat`.

`film_ratings.py` describes the result. `users.dat` is not read: it holds only Twitter ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory.manifest import DatasetProperties, Manifest
from two_tower.data_directory.writer import DataDirectoryWriter, Span
from two_tower.ingestion import film_ratings, source_files, text_lines

_RATINGS = film_ratings.RatingLines(
    form="user::movie::rating::unix seconds",
    separator="::",
    columns=("user", "movie", "rating", "timestamp"),
    user="user",
    item="movie",
    rating="rating",
    time="timestamp",
    lowest=0,
    best=10,
    whole=True,
)
# The middle group is greedy: a title may contain "::".
_MOVIE = re.compile(r"(.*?)::(.*)::(.*)")


def ingest(source: str, out: str, name: str | None = None, span: Span = None) -> Manifest:
    """Writes the data directory `out` from the folder `source`.

    Raises:
      UserError: a file is missing, empty, not UTF-8, or has a line that is not in the format.
    """
    ratings, movies = (_file(source, file) for file in ("ratings.dat", "movies.dat"))
    properties = DatasetProperties(name or "movietweetings", film_ratings.EVENT_TYPE, False)
    with DataDirectoryWriter(out, properties, span) as writer:
        _, rated = film_ratings.write_ratings(
            lambda: film_ratings.read_ratings(ratings, _RATINGS),
            film_ratings.estimated_rows(ratings),
            _RATINGS.best,
            writer,
        )
        if not len(rated):
            raise UserError(f"{ratings}: the file has no ratings. Fetch it again.")
        film_ratings.write_films(_read_movies(movies), rated, writer, movies)
    return writer.manifest


def _file(source: str, name: str) -> str:
    path = storage.join(source, name)
    if not source_files.is_there(path):
        raise UserError(
            f"{path}: there is no such file, but MovieTweetings has one. Fetch the data set again."
        )
    return path


def _read_movies(path: str) -> Iterator[film_ratings.Film]:
    for number, line in text_lines.read_lines(path):
        if not line.strip():
            continue
        parts = _MOVIE.fullmatch(line)
        if parts is None:
            raise UserError(
                f"{path}:{number}: {line[:200]!r} does not have the form movie::title (year)::genres."
            )
        item = film_ratings.parse_id(parts[1], f"{path}:{number}: column 'movie'")
        yield film_ratings.Film(item, parts[2].strip(), [genre for genre in parts[3].split("|") if genre])
