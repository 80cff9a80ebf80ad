"""Reader of MovieLens, all releases: 100K, 1M and 10M as text, 20M, 25M, 32M and latest as CSV.

The files in the folder identify the release:

- 100K: `u.data` (tabs), `u.item` ("|", one flag per genre), `u.genre`, `u.user`; latin-1.
- 1M: `ratings.dat`, `movies.dat`, `users.dat` ("::"); latin-1.
- 10M: `ratings.dat`, `movies.dat` ("::"); UTF-8.
- the others: `ratings.csv`, `movies.csv`; UTF-8.

A Parquet file `ratings*.parquet` may replace a missing ratings file. User tags, links and the tag genome are
not read. `film_ratings.py` describes the result.

Source: Harper and Konstan: "The MovieLens Datasets: History and Context", ACM TiiS 5:4, 2015.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns
from two_tower.data_directory.manifest import DatasetProperties, Manifest
from two_tower.data_directory.writer import DataDirectoryWriter, Span
from two_tower.ingestion import film_ratings, source_files, text_lines
from two_tower.ingestion.film_ratings import Film, RatingLines

_NO_GENRES = "(no genres listed)"
_UNKNOWN_GENRE = "unknown"
# The middle group is greedy: a title may contain "::".
_MOVIE = re.compile(r"(.*?)::(.*)::(.*)")

# Age codes of 1M's README; the list below has its occupation codes.
_AGES = {1: "Under 18", 18: "18-24", 25: "25-34", 35: "35-44", 45: "45-49", 50: "50-55", 56: "56+"}
_OCCUPATIONS = (
    "other or not specified",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
)
_OLDEST_AGE = 120

_LINES_100K = RatingLines(
    form="user id<tab>item id<tab>rating<tab>timestamp",
    separator="\t",
    columns=("user id", "item id", "rating", "timestamp"),
    user="user id",
    item="item id",
    rating="rating",
    time="timestamp",
    lowest=0.5,
    best=5,
    whole=False,
)
_LINES_DAT = dataclasses.replace(
    _LINES_100K,
    form="UserID::MovieID::Rating::Timestamp",
    separator="::",
    columns=("UserID", "MovieID", "Rating", "Timestamp"),
    user="UserID",
    item="MovieID",
    rating="Rating",
    time="Timestamp",
    remedy="Ratings from 0 to 10 belong to MovieTweetings: ingest them with that format.",
)
_CSV_COLUMNS = ("userId", "movieId", "rating", "timestamp")


@dataclasses.dataclass(frozen=True)
class _User:
    user: int
    gender: str | None
    # Years in 100K, an age group in 1M.
    age: int | str | None
    occupation: str | None
    zip_code: str | None


@dataclasses.dataclass(frozen=True)
class _Release:
    """Files of one kind of release, and the function that reads its films."""

    name: str
    ratings: str
    movies: str
    # Further files that the folder must contain.
    others: tuple[str, ...]
    users: str | None
    read_films: Callable[[str], Iterator[Film]]


def ingest(source: str, out: str, name: str | None = None, span: Span = None) -> Manifest:
    """Writes the data directory `out` from the folder `source` of one release.

    Raises:
      UserError: the folder holds no release or several; a file or column is missing; a line has the wrong
        format (the message gives its number and value); an id, a rating or a time is out of range.
    """
    release = _detect_release(source)
    properties = DatasetProperties(name or release.name, film_ratings.EVENT_TYPE, False)
    with DataDirectoryWriter(out, properties, span) as writer:
        path, read, rows = _ratings(source, release)
        rating_users, rated = film_ratings.write_ratings(read, rows, _LINES_100K.best, writer)
        if not len(rated):
            raise UserError(f"{path}: the file has no ratings. Fetch it again.")
        movies = storage.join(source, release.movies)
        film_ratings.write_films(release.read_films(source), rated, writer, movies)
        if release.users:
            _write_users(storage.join(source, release.users), rating_users, writer)
    return writer.manifest


def _detect_release(source: str) -> _Release:
    """Returns the release in the folder; all of its files except the ratings must exist."""

    def there(file: str) -> bool:
        return source_files.is_there(storage.join(source, file))

    found = [r for r in _RELEASES if there(r.ratings) or there(r.movies)]
    if not found:
        wanted = "; ".join(f"{release.ratings} and {release.movies}" for release in _RELEASES)
        raise UserError(
            f"{source}: the folder holds no release of MovieLens, that is {wanted}. Name the folder that "
            "holds one, such as ml-1m."
        )
    if len(found) > 1:
        names = ", ".join(file for r in found for file in (r.ratings, r.movies) if there(file))
        raise UserError(
            f"{source}: the folder holds files of several releases ({names}): give each its own folder."
        )
    release = found[0]
    for file in (release.movies, *release.others):
        if not there(file):
            raise UserError(
                f"{storage.join(source, file)}: there is no such file, but {release.name} has one. Fetch "
                "the release again."
            )
    if release.users and not there(release.users):
        # 10M has the format of 1M, but no users.
        release = dataclasses.replace(release, name="movielens-10m", users=None, read_films=_films_10m)
    return release


# ── Ratings ─────────────────────────────────────────────────────────────────────────────────────────────


def _ratings(source: str, release: _Release) -> tuple[str, Callable[[], Iterator[pa.Table]], int]:
    """Returns the path of the ratings, a function that reads them, and their approximate number."""
    path = storage.join(source, release.ratings)
    if source_files.is_there(path):
        lines = {"u.data": _LINES_100K, "ratings.dat": _LINES_DAT}.get(release.ratings) or _csv_lines(path)
        return path, lambda: film_ratings.read_ratings(path, lines), film_ratings.estimated_rows(path)
    tables = source_files.matching(source, re.compile(r"ratings[^/]*\.parquet").fullmatch)
    if len(tables) != 1:
        several = f"several Parquet files could replace it ({', '.join(tables)}): keep one"
        raise UserError(
            f"{path}: there is no such file, and {several if tables else 'no ratings*.parquet either'}."
        )
    path = storage.join(source, tables[0])
    file = checked_columns.open_parquet(path)
    columns = _table_columns(file.schema_arrow.names, path)
    return (
        path,
        lambda: film_ratings.read_rating_table(path, columns, _LINES_100K.lowest, _LINES_100K.best),
        file.metadata.num_rows,
    )


def _csv_lines(path: str) -> RatingLines:
    """Returns the line format of a CSV file of ratings, from its header."""
    _, header = next(text_lines.read_csv_rows(path), (1, []))
    header = [column.strip() for column in header]
    if not header:
        raise UserError(f"{path}: the file has no ratings. Fetch it again.")
    for column in _CSV_COLUMNS:
        _column(header, column, path)
    user, item, rating, time = _CSV_COLUMNS
    return dataclasses.replace(
        _LINES_100K,
        form=",".join(header),
        separator=",",
        columns=tuple(header),
        user=user,
        item=item,
        rating=rating,
        time=time,
        header_lines=1,
    )


def _column(header: list[str], column: str, path: str) -> int:
    """Returns the position of a column in a CSV file."""
    if header.count(column) != 1:
        problem = "is missing" if column not in header else "occurs twice"
        raise UserError(f"{path}: column '{column}' {problem}; the first line has {', '.join(header)}.")
    return header.index(column)


def _table_columns(names: list[str], path: str) -> tuple[str, str, str, str]:
    """Returns the names of the user, film, rating and time columns of a Parquet file, in either spelling."""
    spelled = []
    for spellings in (("user_id", "userId"), ("movie_id", "movieId"), ("rating",), ("timestamp",)):
        found = [name for name in spellings if name in names]
        if not found:
            raise UserError(f"{path}: column '{spellings[0]}' is missing; the file has {', '.join(names)}.")
        spelled.append(found[0])
    user, item, rating, time = spelled
    return user, item, rating, time


# ── Films ───────────────────────────────────────────────────────────────────────────────────────────────


def _films_100k(source: str) -> Iterator[Film]:
    """Reads `u.item`: id | title | date | video date | URL | one flag for each genre of `u.genre`."""
    genres = _genres(storage.join(source, "u.genre"))
    path = storage.join(source, "u.item")
    for number, line in _non_blank_lines(path, fallback="latin-1"):
        fields = line.split("|")
        flags = fields[5:]
        if len(flags) != len(genres) or set(flags) - {"0", "1"}:
            raise UserError(
                f"{path}:{number}: {line[:200]!r} does not have the form movie id|title|release date|video "
                f"release date|URL|... with {len(genres)} flags of 0 or 1 at its end, one each for u.genre."
            )
        flagged = [genre for genre, flag in zip(genres, flags, strict=True) if flag == "1"]
        yield Film(
            film_ratings.parse_id(fields[0], f"{path}:{number}: column 'movie id'"),
            fields[1].strip(),
            [genre for genre in flagged if genre != _UNKNOWN_GENRE],
        )


def _genres(path: str) -> list[str]:
    """Reads the genre names in the order of their flags, among them "unknown"."""
    numbered: dict[int, str] = {}
    for number, line in _non_blank_lines(path, fallback="latin-1"):
        genre, _, index = line.partition("|")
        if not index.strip().isdecimal() or int(index) in numbered or not genre:
            raise UserError(f"{path}:{number}: {line[:200]!r} does not have the form genre|number.")
        numbered[int(index)] = genre
    if sorted(numbered) != list(range(len(numbered))) or not numbered:
        raise UserError(f"{path}: the genre numbers must be 0, 1, ... without gaps. Fetch the file again.")
    return [numbered[index] for index in sorted(numbered)]


def _films_1m(source: str) -> Iterator[Film]:
    return _films_dat(source, fallback="latin-1")


def _films_10m(source: str) -> Iterator[Film]:
    return _films_dat(source, fallback=None)


def _films_dat(source: str, fallback: str | None) -> Iterator[Film]:
    path = storage.join(source, "movies.dat")
    for number, line in _non_blank_lines(path, fallback):
        parts = _MOVIE.fullmatch(line)
        if parts is None:
            raise UserError(f"{path}:{number}: {line[:200]!r} does not have the form MovieID::Title::Genres.")
        item = film_ratings.parse_id(parts[1], f"{path}:{number}: column 'MovieID'")
        yield Film(item, parts[2].strip(), _split_genres(parts[3]))


def _films_csv(source: str) -> Iterator[Film]:
    path = storage.join(source, "movies.csv")
    rows = text_lines.read_csv_rows(path)
    _, header = next(rows, (1, []))
    if not header:
        return
    at = [_column(header, column, path) for column in ("movieId", "title", "genres")]
    for number, row in rows:
        if len(row) != len(header):
            raise UserError(
                f"{path}:{number}: the row has {len(row)} fields, but the header has {len(header)}: "
                f"{','.join(row)[:200]!r}. Put a field with a comma in quotes."
            )
        item, title, genres = (row[column] for column in at)
        where = f"{path}:{number}: column 'movieId'"
        yield Film(film_ratings.parse_id(item, where), title.strip(), _split_genres(genres))


def _split_genres(text: str) -> list[str]:
    return [genre for part in text.split("|") if (genre := part.strip()) and genre != _NO_GENRES]


def _non_blank_lines(path: str, fallback: str | None) -> Iterator[tuple[int, str]]:
    """Yields the lines that are not blank, with their numbers."""
    return ((n, line) for n, line in text_lines.read_lines(path, fallback=fallback) if line.strip())


# ── Users ───────────────────────────────────────────────────────────────────────────────────────────────


def _write_users(path: str, rating_users: np.ndarray, writer: DataDirectoryWriter) -> None:
    """Writes the described users, with or without ratings; the first row of a user counts."""
    read = _users_100k if path.endswith("u.user") else _users_1m
    listed: dict[int, _User] = {}
    for user in read(path):
        if user.user in listed:
            writer.dropped["duplicate_users"] += 1
        else:
            listed[user.user] = user
    if not listed:
        raise UserError(f"{path}: the file has no users. Fetch it again.")
    ids = np.fromiter(listed, np.int64, len(listed))
    writer.noted["users_not_described"] += len(np.setdiff1d(rating_users, ids))
    text = ("gender", "occupation", "zip_code")
    columns = {column: [getattr(user, column) for user in listed.values()] for column in (*text, "age")}
    age = pa.int64() if read is _users_100k else pa.string()
    writer.write(
        "users",
        pa.table(
            {
                "user_id": ids,
                "gender": pa.array(columns["gender"], pa.string()),
                "age": pa.array(columns["age"], age),
                "occupation": pa.array(columns["occupation"], pa.string()),
                "zip_code": pa.array(columns["zip_code"], pa.string()),
            }
        ),
    )


def _users_100k(path: str) -> Iterator[_User]:
    for number, line in _non_blank_lines(path, fallback="latin-1"):
        fields = line.split("|")
        if len(fields) != 5:
            raise UserError(
                f"{path}:{number}: {line[:200]!r} does not have the form "
                "user id|age|gender|occupation|zip code."
            )
        user, age, gender, occupation, zip_code = (field.strip() for field in fields)
        where = f"{path}:{number}: column"
        if age and not (age.isdecimal() and int(age) <= _OLDEST_AGE):
            raise UserError(f"{where} 'age': {age!r} is no age in years.")
        yield _User(
            film_ratings.parse_id(user, f"{where} 'user id'"),
            _gender(gender, f"{where} 'gender'"),
            int(age) if age else None,
            occupation or None,
            zip_code or None,
        )


def _users_1m(path: str) -> Iterator[_User]:
    for number, line in _non_blank_lines(path, fallback="latin-1"):
        fields = line.split("::")
        if len(fields) != 5:
            raise UserError(
                f"{path}:{number}: {line[:200]!r} does not have the form "
                "UserID::Gender::Age::Occupation::Zip-code."
            )
        user, gender, age, occupation, zip_code = (field.strip() for field in fields)
        where = f"{path}:{number}: column"
        occupations = dict(enumerate(_OCCUPATIONS))
        yield _User(
            film_ratings.parse_id(user, f"{where} 'UserID'"),
            _gender(gender, f"{where} 'Gender'"),
            _decode(age, _AGES, f"{where} 'Age'"),
            _decode(occupation, occupations, f"{where} 'Occupation'"),
            zip_code or None,
        )


def _gender(text: str, where: str) -> str | None:
    if text not in ("M", "F", ""):
        raise UserError(f"{where}: {text!r} is neither M nor F.")
    return text or None


def _decode(code: str, words: dict[int, str], where: str) -> str | None:
    """Returns the meaning of a README code; None for an empty one."""
    if not code:
        return None
    if not code.isdecimal() or int(code) not in words:
        raise UserError(f"{where}: {code!r} is not one of the codes {', '.join(map(str, words))}.")
    return words[int(code)]


_RELEASES = (
    _Release("movielens-100k", "u.data", "u.item", ("u.genre", "u.user"), "u.user", _films_100k),
    _Release("movielens-1m", "ratings.dat", "movies.dat", (), "users.dat", _films_1m),
    _Release("movielens", "ratings.csv", "movies.csv", (), None, _films_csv),
)
