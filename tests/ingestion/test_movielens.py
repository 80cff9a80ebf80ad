from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from two_tower.base.errors import UserError
from two_tower.data_directory.manifest import Manifest, event_files, item_files
from two_tower.data_directory.verification import verify
from two_tower.ingestion import FORMATS, external_sort, film_ratings, text_lines

# user, film, rating, time: sorted by user and film, as in the CSV releases. The catalog does not list film 9.
RATINGS = [
    (1, 1, 4.0, 978300760),
    (1, 3, 3.0, 978302109),
    (2, 1, 5.0, 978298413),
    (2, 2, 1.0, 978298413),
    (12, 9, 2.0, 978220179),
]
# film, title, genres
FILMS = [
    (1, "Toy Story (1995)", ["Animation", "Children's", "Comedy"]),
    (2, "Cité des enfants perdus, La (1995)", ["Adventure", "Sci-Fi"]),
    (3, "Untitled", []),
]
USERS_1M = "1::F::1::10::48067\n2::M::56::16::70072\n3::M::25::0::55117-1234\n"
GENRES_100K = ["unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Sci-Fi"]
USERS_100K = "1|24|M|technician|85711\n2|53|F|other|T8H1N\n12|7|M|student|00000\n"


def rating_text(separator: str, rows: list[tuple[Any, ...]], whole: bool = False) -> str:
    return "".join(
        separator.join([str(u), str(i), f"{r:g}" if whole else str(r), str(t)]) + "\n" for u, i, r, t in rows
    )


def dat(rows: list[tuple[Any, ...]]) -> str:
    return rating_text("::", rows, whole=True)


def write_100k(folder: pathlib.Path, rows: list[tuple[Any, ...]]) -> None:
    (folder / "u.data").write_text(rating_text("\t", rows, whole=True))
    (folder / "u.genre").write_text("".join(f"{g}|{i}\n" for i, g in enumerate(GENRES_100K)) + "\n")
    lines = []
    for item, title, genres in FILMS:
        flags = "|".join("1" if g in (genres or ["unknown"]) else "0" for g in GENRES_100K)
        lines.append(f"{item}|{title}|01-Jan-1995||http://us.imdb.com/M/title-exact?{item}|{flags}\n")
    (folder / "u.item").write_bytes("".join(lines).encode("latin-1"))
    (folder / "u.user").write_text(USERS_100K)


def movies_dat(no_genres: str) -> str:
    return "".join(f"{item}::{title}::{'|'.join(genres) or no_genres}\n" for item, title, genres in FILMS)


def write_1m(folder: pathlib.Path, rows: list[tuple[Any, ...]]) -> None:
    (folder / "ratings.dat").write_text(dat(rows))
    (folder / "movies.dat").write_bytes(movies_dat("").encode("latin-1"))
    (folder / "users.dat").write_text(USERS_1M)


def write_10m(folder: pathlib.Path, rows: list[tuple[Any, ...]]) -> None:
    (folder / "ratings.dat").write_text(rating_text("::", rows))
    (folder / "movies.dat").write_bytes(movies_dat("(no genres listed)").encode())
    (folder / "tags.dat").write_text("15::4973::excellent!::1215184630\n")


def write_csv(folder: pathlib.Path, rows: list[tuple[Any, ...]]) -> None:
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + rating_text(",", rows))
    lines = ["movieId,title,genres\r\n"]
    for item, title, genres in FILMS:
        quoted = f'"{title}"' if "," in title else title
        lines.append(f"{item},{quoted},{'|'.join(genres) or '(no genres listed)'}\r\n")
    (folder / "movies.csv").write_bytes("".join(lines).encode())
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n3,260,classic,1439472355\n")
    (folder / "links.csv").write_text("movieId,imdbId,tmdbId\n1,0114709,862\n")


WRITERS: dict[str, Callable[[pathlib.Path, list[tuple[Any, ...]]], None]] = {
    "100k": write_100k,
    "1m": write_1m,
    "10m": write_10m,
    "csv": write_csv,
}


@pytest.fixture(params=WRITERS)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def folder_of(tmp_path: pathlib.Path, release: str, rows: list[tuple[Any, ...]] = RATINGS) -> pathlib.Path:
    folder = tmp_path / "source"
    folder.mkdir(exist_ok=True)
    WRITERS[release](folder, rows)
    return folder


def ingest(source: pathlib.Path, out: pathlib.Path, name: str | None = None) -> Manifest:
    manifest = FORMATS["movielens"](str(source), str(out), name)
    assert verify(str(out)) == manifest
    return manifest


def events_of(out: pathlib.Path) -> list[tuple[Any, ...]]:
    table = pa.concat_tables([pq.read_table(path) for path in event_files(str(out))])
    assert set(table["event_type"].to_pylist()) == {"rating"}
    columns = ("user_id", "item_id", "play_ratio", "timestamp")
    return list(zip(*(table[column].to_pylist() for column in columns), strict=True))


def expected(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [(u, i, float(np.float32(r / 5)), t) for u, i, r, t in rows]


def users_of(out: pathlib.Path) -> list[dict[str, Any]]:
    return [row for path in sorted((out / "users").iterdir()) for row in pq.read_table(path).to_pylist()]


# ── The releases ────────────────────────────────────────────────────────────────────────────────────────


def test_every_release_gives_the_same_events_and_films(release: str, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "data"
    manifest = ingest(folder_of(tmp_path, release), out)
    name = "movielens" if release == "csv" else f"movielens-{release}"
    assert (manifest.dataset, manifest.label_event, manifest.repeats_recommendable) == (name, "rating", False)
    assert events_of(out) == expected(RATINGS)
    counts = {name: manifest.counts[name] for name in ("events", "label_events", "users", "items")}
    assert counts == {"events": 5, "label_events": 5, "users": 3, "items": 4}
    assert manifest.time_range == (978220179, 978302109)
    assert manifest.repaired == {"items_added_to_catalog": 1}
    assert manifest.noted["items_without_release_year"] == 1
    assert manifest.dropped == {}
    items = pq.read_table(item_files(str(out))[0])
    columns = ("item_id", "release_timestamp", "title", "tags")
    assert list(zip(*(items[column].to_pylist() for column in columns), strict=True)) == [
        (1, 788_918_400, *FILMS[0][1:]),
        (2, 788_918_400, *FILMS[1][1:]),
        (3, None, *FILMS[2][1:]),
        (9, None, None, []),
    ]
    assert ingest(folder_of(tmp_path, release), out, "mine").dataset == "mine"


def test_users_are_described_in_words(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "data"
    manifest = ingest(folder_of(tmp_path, "1m"), out)
    columns = ("user_id", "gender", "age", "occupation", "zip_code")
    found = [tuple(row[column] for column in columns) for row in users_of(out)]
    assert found == [
        (1, "F", "Under 18", "K-12 student", "48067"),
        (2, "M", "56+", "self-employed", "70072"),
        (3, "M", "25-34", "other or not specified", "55117-1234"),
    ]
    assert manifest.noted["users_not_described"] == 1


def test_ages_are_numbers_where_they_are_years(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "data"
    manifest = ingest(folder_of(tmp_path, "100k"), out)
    assert [(row["age"], row["occupation"], row["zip_code"]) for row in users_of(out)] == [
        (24, "technician", "85711"),
        (53, "other", "T8H1N"),
        (7, "student", "00000"),
    ]
    assert "users_not_described" not in manifest.noted


@pytest.mark.parametrize("release", ["10m", "csv"])
def test_releases_without_users_have_no_such_table(release: str, tmp_path: pathlib.Path) -> None:
    ingest(folder_of(tmp_path, release), tmp_path / "data")
    assert sorted(os.listdir(tmp_path / "data")) == ["events", "items", "manifest.json"]


def test_ratings_in_parquet_take_the_place_of_ratings_dat(tmp_path: pathlib.Path) -> None:
    source = folder_of(tmp_path, "1m")
    before = ingest(source, tmp_path / "a")
    (source / "ratings.dat").unlink()
    user, item, rating, time = zip(*RATINGS, strict=True)
    columns: dict[str, Any] = {
        "user_id": user,
        "movie_id": item,
        "rating": pa.array(rating),
        "timestamp": time,
    }
    pq.write_table(pa.table(columns), source / "ratings_4_and_5.parquet")
    assert ingest(source, tmp_path / "b").digest == before.digest
    spelled = {"userId": user, "movieId": item, "rating": rating, "timestamp": time}
    pq.write_table(pa.table(spelled), source / "ratings_4_and_5.parquet")
    assert ingest(source, tmp_path / "b").digest == before.digest
    # If ratings.dat exists, only it is read.
    (source / "ratings.dat").write_text(dat(RATINGS[:3]))
    assert ingest(source, tmp_path / "b").counts["events"] == 3


@pytest.mark.parametrize(
    ("title", "year"),
    [
        ("Alien (1979)", 1979),
        ("Land Before Time III, The (1995) (V)", 1995),
        ("Fawlty Towers (1975-1979)", 1975),
        ("Big Bang Theory, The (2007-)", 2007),
        ("Big Bang Theory, The (2007– )", 2007),
        ("2001: A Space Odyssey (1968)", 1968),
        ("1984 (Nineteen Eighty-Four) (1984) ", 1984),
        ("(500) Days of Summer (2009)", 2009),
        ("(1995) Remake (2001)", 2001),
        ("2001: A Space Odyssey", None),
        ("Epoch (0000)", None),
        ("", None),
    ],
)
def test_the_year_of_a_title_is_the_last_one_in_brackets(title: str, year: int | None) -> None:
    released = film_ratings.release_timestamp(title)
    assert released == (None if year is None else int(np.datetime64(str(year), "s").astype(np.int64)))


# ── Irrelevant differences ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("block", [7, 64, 1 << 20])
def test_blocks_and_the_exact_way_give_the_same(
    release: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    source = folder_of(tmp_path, release)
    digest = ingest(source, tmp_path / "a").digest
    monkeypatch.setattr(text_lines, "_BLOCK_BYTES", block)
    assert ingest(source, tmp_path / "b").digest == digest
    monkeypatch.setattr(text_lines, "plain_numbers", lambda *_: None)
    assert ingest(source, tmp_path / "b").digest == digest


@pytest.mark.parametrize("part_rows", [2, 1000])
def test_the_order_of_the_lines_does_not_matter(
    release: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, part_rows: int
) -> None:
    monkeypatch.setattr(external_sort, "_PARTITION_ROWS", part_rows)
    # Repeated ratings: an earlier one, a later one, and an exact duplicate.
    rows = [*RATINGS, (1, 1, 2.0, 978300000), (1, 1, 5.0, 978400000), (2, 2, 1.0, 978298413)]
    kept = sorted([(1, 1, 2.0, 978300000), *RATINGS[1:]])
    by_user = sorted(rows)
    orders = {
        "older first": sorted(rows, key=lambda row: row[3]),
        "newer first": sorted(rows, key=lambda row: -row[3]),
        "by user, newer first": sorted(rows, key=lambda row: (row[0], -row[3])),
        "by user, older first": sorted(rows, key=lambda row: (row[0], row[3])),
        "by film": sorted(rows, key=lambda row: row[1]),
        "shuffled": [by_user[i] for i in np.random.default_rng(5).permutation(len(rows))],
    }
    first = ingest(folder_of(tmp_path, release, by_user), tmp_path / "a")
    assert sorted(events_of(tmp_path / "a")) == expected(kept)
    assert first.dropped == {"duplicate_events": 1, "repeated_ratings": 2}
    for name, ordered in orders.items():
        manifest = ingest(folder_of(tmp_path, release, ordered), tmp_path / "b")
        assert sorted(events_of(tmp_path / "b")) == expected(kept), name
        users = [row[0] for row in ordered]
        assert manifest.noted.get("event_files_not_in_order", 0) == (users != sorted(users))
        assert manifest.dropped == first.dropped
        assert manifest.counts == first.counts


def test_line_ends_blank_lines_quotes_and_a_byte_order_mark_do_not_matter(tmp_path: pathlib.Path) -> None:
    source = folder_of(tmp_path, "csv")
    digest = ingest(source, tmp_path / "a").digest
    text = (source / "ratings.csv").read_text()
    quoted = "\n".join(",".join(f'"{field}"' for field in line.split(",")) for line in text.splitlines())
    spaced = text.replace(",", " , ").replace("\n", "\n \n")
    columns = "timestamp,note,rating,userId,movieId\n" + "".join(
        f'{t},"a, b",{r},{u},{i}\n' for u, i, r, t in RATINGS
    )
    variants = [
        text.replace("\n", "\r\n"),
        text[:-1],
        "\ufeff" + text,
        text + "\n\n",
        quoted,
        spaced,
        columns,
    ]
    for variant in variants:
        (source / "ratings.csv").write_bytes(variant.encode())
        assert ingest(source, tmp_path / "b").digest == digest, variant


def test_titles_hold_quotes_commas_and_line_ends(tmp_path: pathlib.Path) -> None:
    source = folder_of(tmp_path, "csv")
    (source / "movies.csv").write_text(
        'movieId,title,genres\n1,"""Great"" Performances, Cats (1998)",Musical\n2,"Two\nlines (1950)",War\n'
    )
    ingest(source, tmp_path / "data")
    items = pq.read_table(item_files(str(tmp_path / "data"))[0])
    assert items["title"].to_pylist()[:2] == ['"Great" Performances, Cats (1998)', "Two\nlines (1950)"]
    assert items["release_timestamp"].to_pylist()[1] == -631_152_000


def test_latin_1_releases_may_have_been_converted_to_utf_8(tmp_path: pathlib.Path) -> None:
    for release, file in (("1m", "movies.dat"), ("100k", "u.item")):
        folder = tmp_path / release
        folder.mkdir()
        source = folder_of(folder, release)
        digest = ingest(source, folder / "a").digest
        (source / file).write_text((source / file).read_bytes().decode("latin-1"), "utf-8")
        assert ingest(source, folder / "b").digest == digest


def test_a_film_or_user_that_is_listed_twice_keeps_its_first_row(tmp_path: pathlib.Path) -> None:
    source = folder_of(tmp_path, "1m")
    with (source / "movies.dat").open("a") as file:
        file.write("1::Another title (2001)::Drama\n")
    (source / "users.dat").write_text(USERS_1M + "1::M::25::3::00000\n")
    manifest = ingest(source, tmp_path / "data")
    assert manifest.dropped == {"duplicate_items": 1, "duplicate_users": 1}
    assert pq.read_table(item_files(str(tmp_path / "data"))[0])["title"].to_pylist()[0] == FILMS[0][1]
    assert users_of(tmp_path / "data")[0]["gender"] == "F"


def test_a_release_is_read_from_a_url(tmp_path: pathlib.Path) -> None:
    import fsspec

    source = folder_of(tmp_path, "1m")
    digest = ingest(source, tmp_path / "a").digest
    for path in source.iterdir():
        with fsspec.open(f"memory://ml-1m/{path.name}", "wb") as file:
            file.write(path.read_bytes())
    assert FORMATS["movielens"]("memory://ml-1m", str(tmp_path / "b")).digest == digest


def test_ratings_of_another_day_become_a_span_of_the_same_directory(tmp_path: pathlib.Path) -> None:
    out, later = tmp_path / "data", [(1, 2, 4.0, 978300760 + 3 * 86_400)]
    FORMATS["movielens"](str(folder_of(tmp_path, "1m", RATINGS)), str(out), span="auto")
    source = folder_of(tmp_path, "1m", later)
    (source / "users.dat").write_text(USERS_1M.replace("48067", "11111"))
    manifest = FORMATS["movielens"](str(source), str(out), span="auto")
    assert verify(str(out)) == manifest
    assert manifest.spans == (978300760 // 86_400, 978300760 // 86_400 + 3)
    assert sorted(events_of(out)) == sorted(expected([*RATINGS, *later]))
    assert manifest.counts["items"] == 4
    assert [row["zip_code"] for row in users_of(out)] == ["11111", "70072", "55117-1234"]


# ── Bad input ───────────────────────────────────────────────────────────────────────────────────────────

HEADER = "userId,movieId,rating,timestamp\n"


@pytest.mark.parametrize(
    ("release", "file", "content", "complaint"),
    [
        # Files
        ("100k", "u.data", None, r"u\.data: there is no such file, and no ratings\*\.parquet"),
        ("100k", "u.item", None, r"u\.item: there is no such file, but movielens-100k has one"),
        ("100k", "u.genre", None, r"u\.genre: there is no such file"),
        ("100k", "u.user", None, r"u\.user: there is no such file"),
        ("1m", "ratings.dat", None, r"ratings\.dat: there is no such file"),
        ("1m", "movies.dat", None, r"movies\.dat: there is no such file"),
        ("csv", "movies.csv", None, r"movies\.csv: there is no such file"),
        (
            "1m",
            "movies.csv",
            "movieId,title,genres\n",
            r"source: the folder holds files of several releases \(ratings\.dat,",
        ),
        ("100k", "u.data", "", r"u\.data: the file has no ratings"),
        ("1m", "ratings.dat", "\n\n", r"ratings\.dat: the file has no ratings"),
        ("1m", "movies.dat", "", r"movies\.dat: the file has no movies"),
        ("1m", "users.dat", "", r"users\.dat: the file has no users"),
        ("csv", "ratings.csv", "", r"ratings\.csv: the file has no ratings"),
        ("csv", "ratings.csv", HEADER, r"ratings\.csv: the file has no ratings"),
        ("csv", "movies.csv", "", r"movies\.csv: the file has no movies"),
        ("csv", "movies.csv", "movieId,title,genres\n", r"movies\.csv: the file has no movies"),
        ("csv", "ratings.csv", b"\x1f\x8b\x08\x00", r"ratings\.csv: the file is compressed with gzip"),
        # Columns
        (
            "csv",
            "ratings.csv",
            "userId,movieId,rating\n1,1,4.0\n",
            "column 'timestamp' is missing.*userId, mov",
        ),
        (
            "csv",
            "ratings.csv",
            "1,1,4.0,978300760\n",
            r"ratings\.csv: column 'userId' is missing.* 1, 1, 4\.0",
        ),
        ("csv", "ratings.csv", "userId," + HEADER + "1,1,1,4,978300760\n", "column 'userId' occurs twice"),
        ("csv", "movies.csv", "movieId,title\n1,a\n", r"movies\.csv: column 'genres' is missing"),
        # Lines
        (
            "100k",
            "u.data",
            "1\t1\t4\t978300760\n1 3 4 978300760\n",
            r"u\.data:2: '1 3 4 978300760' does not have",
        ),
        (
            "1m",
            "ratings.dat",
            dat(RATINGS) + "1::5::4\n",
            r"ratings\.dat:6: '1::5::4' does not have the form UserID",
        ),
        ("1m", "ratings.dat", dat(RATINGS) + "1::5::4::97830::\n", r"ratings\.dat:6: '1::5::4::97830::'"),
        ("1m", "ratings.dat", dat(RATINGS) + "1::5::4::978", r"ratings\.dat:6: .*978 .*cut off"),
        ("1m", "ratings.dat", dat(RATINGS) + "1::5::4::97830::", r"ratings\.dat:6: '1::5::4::97830::'"),
        (
            "csv",
            "ratings.csv",
            HEADER + "1,1,4.0,978300760\n1,2",
            r"ratings\.csv:3: '1,2' does not have the form userId",
        ),
        ("csv", "ratings.csv", HEADER + "1,1,4.0,978300760\n1,2,4.0,97830076", r"ratings\.csv:3: .*cut off"),
        ("csv", "ratings.csv", HEADER + '1,1,"4.0,978300760\n1,2,4.0,978300761\n', r"ratings\.csv:2: '1,1,"),
        (
            "csv",
            "ratings.csv",
            HEADER + "1,1,4,5,978300760\n",
            r"ratings\.csv:2: '1,1,4,5,978300760' does not have",
        ),
        ("100k", "u.item", "1|Toy Story (1995)|01-Jan-1995||x|0|1\n", r"u\.item:1: .*7 flags"),
        ("100k", "u.item", "1|Toy|01-Jan-1995||x|0|1|0|0|2|0|0\n", r"u\.item:1: .*7 flags of 0 or 1"),
        ("100k", "u.genre", "unknown|0\nAction|2\n", r"u\.genre: the genre numbers must be 0, 1"),
        ("100k", "u.genre", "unknown|0\nAction\n", r"u\.genre:2: 'Action' does not have the form"),
        (
            "100k",
            "u.user",
            USERS_100K + "4|24|M|none\n",
            r"u\.user:4: '4\|24\|M\|none' does not have",
        ),
        (
            "1m",
            "movies.dat",
            "1::Toy Story (1995)\n",
            r"movies\.dat:1: '1::Toy Story \(1995\)' does not",
        ),
        (
            "1m",
            "users.dat",
            USERS_1M + "4::M::25::0\n",
            r"users\.dat:4: '4::M::25::0' does not have",
        ),
        (
            "csv",
            "movies.csv",
            "movieId,title,genres\n1,Toy, Story,War\n",
            r"movies\.csv:2: the row has 4 fields",
        ),
        (
            "csv",
            "movies.csv",
            'movieId,title,genres\n1,"Toy,War\n2,b,c\n',
            r"movies\.csv:2: the row that begins",
        ),
        # Values
        ("100k", "u.data", "x\t1\t4\t978300760\n", r"u\.data:1: column 'user id': 'x' is no id"),
        ("1m", "ratings.dat", dat(RATINGS) + "::5::4::978300760\n", r":6: column 'UserID': '' is no id"),
        ("1m", "ratings.dat", dat(RATINGS) + "-1::5::4::978300760\n", r":6: column 'UserID': '-1' is no id"),
        ("10m", "ratings.dat", "1::NULL::4.5::978300760\n", r":1: column 'MovieID': 'NULL' is no id"),
        ("10m", "ratings.dat", "1::-5::4.5::978300760\n", r":1: column 'MovieID': '-5' is no id"),
        ("10m", "ratings.dat", f"{2**63}::5::4.5::978300760\n", rf":1: column 'UserID': '{2**63}' is no id"),
        (
            "1m",
            "ratings.dat",
            "1::5::6::978300760\n",
            r":1: column 'Rating': 6 is outside 0\.5 to 5\. .*Tweetings",
        ),
        (
            "csv",
            "ratings.csv",
            HEADER + "1,2,0.0,978300760\n",
            r"csv:2: column 'rating': 0\.0 is outside 0\.5 to 5",
        ),
        ("csv", "ratings.csv", HEADER + "1,2,-1,978300760\n", r"csv:2: column 'rating': -1 is outside"),
        ("csv", "ratings.csv", HEADER + "1,2,nan,978300760\n", r"csv:2: column 'rating': 'nan' is no rating"),
        ("csv", "ratings.csv", HEADER + "1,2,,978300760\n", r"csv:2: column 'rating': '' is no rating"),
        ("csv", "ratings.csv", HEADER + "1,2,4.5,-7\n", r"csv:2: column 'timestamp': -7 is a negative time"),
        ("csv", "ratings.csv", HEADER + "1,2,4.5,soon\n", r"csv:2: column 'timestamp': 'soon' is no time"),
        ("csv", "ratings.csv", HEADER + "1,2,4.5,1e9\n", r"csv:2: column 'timestamp': '1e9' is no time"),
        (
            "csv",
            "ratings.csv",
            HEADER + "1,2,4,978300760000\n",
            r"csv:2: .*978300760000 .*milliseconds.* 1,000\.",
        ),
        ("csv", "ratings.csv", HEADER + f"1,2,4,{10**19}\n", r"csv:2: column 'timestamp': '10+' is no time"),
        (
            "csv",
            "ratings.csv",
            HEADER + f"1,2,4,{9 * 10**18}\n",
            r"csv:2: .*nanoseconds|csv:2: .*beyond any time",
        ),
        (
            "csv",
            "movies.csv",
            "movieId,title,genres\n,Toy,War\n",
            r"movies\.csv:2: column 'movieId': '' is no id",
        ),
        ("100k", "u.user", "1|x|M|none|0\n", r"u\.user:1: column 'age': 'x' is no age"),
        ("100k", "u.user", "1|240|M|none|0\n", r"u\.user:1: column 'age': '240' is no age"),
        (
            "100k",
            "u.user",
            "1|24|technician|M|0\n",
            r"u\.user:1: column 'gender': 'technician' is neither M nor F",
        ),
        (
            "1m",
            "users.dat",
            "1::F::2::10::48067\n",
            r"users\.dat:1: column 'Age': '2' is not one of the codes 1, 18,",
        ),
        ("1m", "users.dat", "1::F::1::21::48067\n", r"users\.dat:1: column 'Occupation': '21' is not one of"),
        ("1m", "users.dat", "::F::1::20::48067\n", r"users\.dat:1: column 'UserID': '' is no id"),
        # Encodings
        (
            "csv",
            "movies.csv",
            "movieId,title,genres\n1,Cité,War\n".encode("latin-1"),
            r"csv:2: byte 5 \(0xe9\)",
        ),
        (
            "10m",
            "movies.dat",
            movies_dat("").encode("latin-1"),
            r"movies\.dat:2: byte 6 \(0xe9\) is not UTF-8",
        ),
        (
            "csv",
            "ratings.csv",
            HEADER.encode() + b"1,2,\xff,3\n",
            r"ratings\.csv:2: byte 4 \(0xff\) is not UTF-8",
        ),
        ("csv", "movies.csv", "movieId,title\n".encode("utf-16"), r"movies\.csv: the file is UTF-16"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    tmp_path: pathlib.Path, release: str, file: str, content: str | bytes | None, complaint: str
) -> None:
    source = folder_of(tmp_path, release)
    if content is None:
        (source / file).unlink()
    else:
        (source / file).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=complaint) as error:
        ingest(source, tmp_path / "data")
    assert str(source) in str(error.value)
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize(
    ("column", "values", "complaint"),
    [
        ("user_id", [1, None], "column 'user_id', row 1: null"),
        ("movie_id", [1, -1], "column 'movie_id', row 1: -1 is no id"),
        ("rating", [4.0, 5.5], r"column 'rating', row 1: 5\.5 is outside 0\.5 to 5"),
        ("rating", [4.0, float("nan")], "column 'rating', row 1: nan is outside"),
        ("rating", [None, 4.0], "column 'rating', row 0: null is outside"),
        ("rating", ["4", "5"], "column 'rating' is of type string, where number is needed"),
        ("timestamp", [978300760, 978300760_000], "column 'timestamp', row 1: .*milliseconds"),
        ("timestamp", None, "column 'timestamp' is missing; the file has user_id, movie_id, rating"),
    ],
)
def test_bad_parquet_is_named(
    tmp_path: pathlib.Path, column: str, values: list[Any] | None, complaint: str
) -> None:
    source = folder_of(tmp_path, "1m")
    (source / "ratings.dat").unlink()
    columns: dict[str, Any] = {"user_id": [1, 2], "movie_id": [1, 1], "rating": [4, 5], "timestamp": [9, 9]}
    columns[column] = values
    path = source / "ratings_4_and_5.parquet"
    pq.write_table(pa.table({name: array for name, array in columns.items() if array is not None}), path)
    with pytest.raises(UserError, match=complaint) as error:
        ingest(source, tmp_path / "data")
    assert str(path) in str(error.value)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="not a whole Parquet file"):
        ingest(source, tmp_path / "data")
    (source / "ratings_more.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"several Parquet files .*ratings_4_and_5.*ratings_more"):
        ingest(source, tmp_path / "data")


def test_a_folder_without_a_release_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"no release of MovieLens.*u\.data and u\.item; ratings\.dat and"):
        ingest(tmp_path, tmp_path / "data")


def test_a_bad_line_far_into_the_file_has_its_number(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_lines, "_BLOCK_BYTES", 1000)
    rows = [(user, film, 4.0, 978300760) for user in range(40) for film in range(10)]
    source = folder_of(tmp_path, "csv", rows)
    ingest(source, tmp_path / "data")
    lines = (source / "ratings.csv").read_text().splitlines()
    lines[287] = lines[287].replace("4.0", "4,0")
    (source / "ratings.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"ratings\.csv:288: '28,6,4,0,978300760' does not have the form"):
        ingest(source, tmp_path / "data")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_ratings(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks that a few blocks of rows are in memory at any time, sorted or not."""
    monkeypatch.setattr(text_lines, "_BLOCK_BYTES", 2000)
    monkeypatch.setattr(external_sort, "_PARTITION_ROWS", 100)
    largest = 0
    keep = external_sort.keep_earliest_events

    def watched(events: pa.Table) -> tuple[pa.Table, int, int]:
        nonlocal largest
        largest = max(largest, events.num_rows)
        return keep(events)

    monkeypatch.setattr(external_sort, "keep_earliest_events", watched)
    rows = [(user, film, 4.0, 978300760) for user in range(500) for film in range(10)]
    assert ingest(folder_of(tmp_path, "csv", rows), tmp_path / "a").counts["events"] == 5000
    assert largest <= 200
    assert ingest(folder_of(tmp_path, "csv", rows[::-1]), tmp_path / "b").counts["events"] == 5000
    assert largest <= 200
