"""Film ratings: the part that the readers of MovieLens and MovieTweetings share.

A rating of any value is an event of type "rating": the model predicts that a user watches a film. Its
`play_ratio` is the rating divided by the best rating, so that liked films weigh more as labels. No film is
recommended twice, so the earliest of a user's ratings of a film is kept. `release_timestamp` is January 1 of
the year in the film's title.

Ratings are streamed; memory grows with films and users. A fast parser reads the text block by block. A block
with anything but plain numbers is parsed again line by line; that is slow but names the faulty line.
"""

from __future__ import annotations

import calendar
import csv
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.data_directory import checked_columns
from two_tower.data_directory.checked_columns import NEWEST_TIMESTAMP, timestamp_remedy
from two_tower.data_directory.writer import DataDirectoryWriter
from two_tower.ingestion import external_sort, text_lines

EVENT_TYPE = "rating"

# Approximate bytes of a rating in a text file; it only determines the number of temporary files.
_BYTES_PER_RATING = 20
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}")
_NUMBER = re.compile(r"-?[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}")
# The last year in brackets: "(1995)". For series, "(1975-1979)" or "(2007- )", it is the first year.
_YEAR = re.compile(r".*\(([0-9]{4})(?:[-–][0-9 ]*)?\)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class RatingLines:
    """Line format of a text file of ratings."""

    # Line format in words, for error messages.
    form: str
    # Field separator: "::", a tab or a comma. Fields of comma-separated lines may be quoted.
    separator: str
    # Field names for error messages, in the order of the file.
    columns: Sequence[str]
    # Names of the user, film, rating and time fields.
    user: str
    item: str
    rating: str
    time: str
    # Lowest and best rating; `whole` is true if ratings are whole numbers.
    lowest: float
    best: float
    whole: bool
    # Advice for a rating out of range, appended to the error message.
    remedy: str = ""
    # Lines before the first rating.
    header_lines: int = 0


@dataclasses.dataclass(frozen=True)
class Film:
    """One film of the catalog file."""

    item: int
    title: str
    genres: Sequence[str]


# ── Ratings ─────────────────────────────────────────────────────────────────────────────────────────────


def read_ratings(path: str, lines: RatingLines) -> Iterator[pa.Table]:
    """Reads the ratings of a text file: user_id, item_id, rating and timestamp, without nulls and in range.

    Raises:
      UserError: the file is missing; a line is no rating (the message gives its number and value); the file
        seems to end within its last line.
    """
    types = {name: pa.int64() for name in lines.columns}
    if not lines.whole:
        types[lines.rating] = pa.float64()
    names = {lines.user: "user_id", lines.item: "item_id", lines.rating: "rating", lines.time: "timestamp"}
    last_time = 0
    for number, block in text_lines.read_blocks(path):
        if number == 1 and lines.header_lines:
            parts = block.split(b"\n", lines.header_lines)
            block = parts[lines.header_lines] if len(parts) > lines.header_lines else b""
            number += lines.header_lines
        plain = text_lines.plain_numbers(block, lines.separator.encode(), types)
        ratings = None
        if plain is not None:
            ratings = plain.select(list(names)).rename_columns(list(names.values()))
        if ratings is None or not _is_in_range(ratings, lines):
            ratings = _parse_line_by_line(path, number, block, lines)
        if not ratings.num_rows:
            continue
        times = ratings["timestamp"]
        if not block.endswith(b"\n"):
            before = times[-2].as_py() if len(times) > 1 else last_time
            # A time with one digit less is a tenth; times of both data sets lie between 1995 and now.
            if times[-1].as_py() < before // 5:
                raise UserError(
                    f"{path}:{number + block.count(10)}: column '{lines.time}': {times[-1]} has fewer digits "
                    "than the time before it, and the line has no line feed. The file seems to be cut off. "
                    "Fetch it again, or add a line feed if the line is complete."
                )
        last_time = times[-1].as_py()
        yield ratings


def _is_in_range(ratings: pa.Table, lines: RatingLines) -> bool:
    if not ratings.num_rows:
        return True
    ranges = {
        "user_id": (0, np.inf),
        "item_id": (0, np.inf),
        "rating": (lines.lowest, lines.best),
        "timestamp": (0, NEWEST_TIMESTAMP),
    }
    found = {name: pc.min_max(ratings[name]).as_py() for name in ranges}
    return all(
        low <= found[name]["min"] and found[name]["max"] <= high for name, (low, high) in ranges.items()
    )


def _parse_line_by_line(path: str, number: int, block: bytes, lines: RatingLines) -> pa.Table:
    """Parses the ratings of a block line by line.

    Raises:
      UserError: a line is no rating; the message names the first one.
    """
    rows = []
    for line, text in text_lines.lines_of(path, number, block):
        if not text.strip():
            continue
        fields = _split_fields(text, lines.separator)
        if len(fields) != len(lines.columns):
            raise UserError(f"{path}:{line}: {text[:200]!r} does not have the form {lines.form}.")
        values = dict(zip(lines.columns, fields, strict=True))
        rating = _parse_rating(values[lines.rating], f"{path}:{line}: column '{lines.rating}'", lines)
        user = parse_id(values[lines.user], f"{path}:{line}: column '{lines.user}'")
        item = parse_id(values[lines.item], f"{path}:{line}: column '{lines.item}'")
        rows.append(
            (user, item, rating, _parse_time(values[lines.time], f"{path}:{line}: column '{lines.time}'"))
        )
    types = (pa.int64(), pa.int64(), pa.int64() if lines.whole else pa.float64(), pa.int64())
    columns = zip(*rows, strict=True) if rows else ([], [], [], [])
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    return pa.table(arrays, names=["user_id", "item_id", "rating", "timestamp"])


def _split_fields(text: str, separator: str) -> list[str]:
    if separator != ",":
        return text.split(separator)
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error:
        return [text]


def parse_id(text: str, where: str) -> int:
    """Parses the id of a user or a film.

    Raises:
      UserError: the text is no id; the message begins with `where`.
    """
    if not _WHOLE_NUMBER.fullmatch(text.strip()) or not 0 <= int(text) < 2**63:
        raise UserError(f"{where}: {text!r} is no id: ids are whole numbers of 0 or more.")
    return int(text)


def _parse_time(text: str, where: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(text.strip()):
        raise UserError(f"{where}: {text!r} is no time: times are whole seconds since 1970.")
    if not 0 <= int(text) <= NEWEST_TIMESTAMP:
        raise UserError(f"{where}: {text.strip()} {timestamp_remedy(int(text))}")
    return int(text)


def _parse_rating(text: str, where: str, lines: RatingLines) -> float:
    if not (_WHOLE_NUMBER if lines.whole else _NUMBER).fullmatch(text.strip()):
        raise UserError(f"{where}: {text!r} is no rating from {lines.lowest:g} to {lines.best:g}.")
    if not lines.lowest <= float(text) <= lines.best:
        raise _out_of_range(where, text.strip(), lines.lowest, lines.best, lines.remedy)
    return int(text) if lines.whole else float(text)


def _out_of_range(where: str, rating: object, lowest: float, best: float, remedy: str) -> UserError:
    return UserError(f"{where}: {rating} is outside {lowest:g} to {best:g}.{' ' * bool(remedy)}{remedy}")


def read_rating_table(
    path: str, columns: tuple[str, str, str, str], lowest: float, best: float
) -> Iterator[pa.Table]:
    """Reads the ratings of a Parquet file, in the form of `read_ratings`.

    Args:
      columns: names of the user, film, rating and time columns.
    """
    user, item, rating, time = columns
    kinds = {user: "integer", item: "integer", rating: "number", time: "integer"}
    checked_columns.check_kinds(checked_columns.open_parquet(path), path, kinds)
    for row, batch in checked_columns.read_batches(path, list(columns)):
        # A safe cast fails for whole numbers beyond 2^53, which the check names.
        values = batch[rating].cast(pa.float64(), safe=False)
        within = pc.and_(pc.greater_equal(values, lowest), pc.less_equal(values, best))
        wrong = pc.invert(pc.fill_null(within, False)).to_numpy(zero_copy_only=False)
        if wrong.any():
            at = int(np.argmax(wrong))
            value = "null" if batch[rating][at].as_py() is None else batch[rating][at]
            where = f"{path}: column '{rating}', row {row + at}"
            raise _out_of_range(where, value, lowest, best, "")
        yield pa.table(
            {
                "user_id": checked_columns.ids(batch[user], path, user, row),
                "item_id": checked_columns.ids(batch[item], path, item, row),
                "rating": values,
                "timestamp": checked_columns.timestamps(batch[time], path, time, row),
            }
        )


def estimated_rows(path: str) -> int:
    """Estimates the number of ratings in a text file from its size."""
    return storage.size(path) // _BYTES_PER_RATING if storage.is_file(path) else 0


def write_ratings(
    ratings: Callable[[], Iterator[pa.Table]], rows: int, best: float, writer: DataDirectoryWriter
) -> tuple[np.ndarray, np.ndarray]:
    """Writes the ratings as events.

    Args:
      ratings: function that returns a new iterator of ratings; it is called twice, first to check the order.
      rows: approximate number of ratings.
      best: the best rating.

    Returns:
      The users and the items that occur, each int64[n], distinct and sorted.
    """
    is_sorted = external_sort.rows_are_sorted(ratings(), ("user_id",))
    writer.noted["event_files_not_in_order"] += not is_sorted
    users, items = [np.zeros(0, np.int64)], np.zeros(0, np.int64)
    rating = pa.array([EVENT_TYPE])
    for table in external_sort.sort_rows(ratings(), ("user_id",), rows, is_sorted):
        kept, at_one_time, later = external_sort.keep_earliest_events(table)
        writer.dropped["duplicate_events"] += at_one_time
        writer.dropped["repeated_ratings"] += later
        users.append(pc.unique(kept["user_id"]).to_numpy())
        items = np.union1d(items, pc.unique(kept["item_id"]).to_numpy())
        writer.write(
            "events",
            pa.table(
                {
                    "user_id": kept["user_id"],
                    "item_id": kept["item_id"],
                    "timestamp": kept["timestamp"],
                    "event_type": rating.take(pa.array(np.zeros(kept.num_rows, np.int64))),
                    "play_ratio": (kept["rating"].to_numpy() / best).astype(np.float32),
                }
            ),
        )
    # Each user occurs in one table only, so the concatenation is distinct.
    return np.sort(np.concatenate(users)), items


# ── Films ───────────────────────────────────────────────────────────────────────────────────────────────


def write_films(films: Iterable[Film], rated: np.ndarray, writer: DataDirectoryWriter, path: str) -> None:
    """Writes the catalog: the films in the order of their file, then rated films that the file does not list.

    Args:
      rated: int64[n], the items of the events.
      path: path of the films' file, for the error message.

    Raises:
      UserError: there are no films.
    """
    listed: dict[int, Film] = {}
    for film in films:
        if film.item in listed:
            writer.dropped["duplicate_items"] += 1
        else:
            listed[film.item] = film
    if not listed:
        raise UserError(f"{path}: the file has no movies. Fetch it again.")
    released = [release_timestamp(film.title) for film in listed.values()]
    writer.noted["items_without_release_year"] += released.count(None)
    item = np.fromiter(listed, np.int64, len(listed))
    unlisted = np.setdiff1d(rated, item, assume_unique=True)
    writer.repaired["items_added_to_catalog"] += len(unlisted)
    none = [None] * len(unlisted)
    genres = [list(film.genres) for film in listed.values()] + [[] for _ in none]
    writer.write(
        "items",
        pa.table(
            {
                "item_id": np.concatenate([item, unlisted]),
                "release_timestamp": pa.array(released + none, pa.int64()),
                "title": pa.array([film.title or None for film in listed.values()] + none, pa.string()),
                "tags": pa.array(genres, pa.list_(pa.string())),
            }
        ),
    )


def release_timestamp(title: str) -> int | None:
    """Returns January 1 of the year at the end of a title, in seconds since 1970; None for a title without a
    year.
    """
    year = _YEAR.match(title)
    return calendar.timegm((int(year[1]), 1, 1, 0, 0, 0)) if year and int(year[1]) else None
