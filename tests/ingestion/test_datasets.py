"""Column maps of `docs/datasets`, each on a small invented source in the form of its data set."""

from __future__ import annotations

import dataclasses
import gzip
import json
import pathlib
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow.parquet as pq
import pytest

from two_tower.data_directory.manifest import Manifest, event_files, item_files, user_files
from two_tower.data_directory.verification import verify
from two_tower.ingestion import FORMATS, column_map

MAPS = pathlib.Path(__file__).parents[2] / "docs" / "datasets"


@dataclasses.dataclass(frozen=True)
class Form:
    """Source in the form of a data set, and what its map makes of it.

    Attributes:
      write: writes the source's files.
      events: (user, item, time or rank, type), sorted; ids as the source has them.
      items: some columns of some items, by id.
      dropped, noted: of the manifest.
    """

    write: Callable[[pathlib.Path], None]
    events: list[tuple[Any, ...]]
    items: Mapping[Any, Mapping[str, Any]]
    users: Mapping[Any, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)


def texts(**files: str) -> Callable[[pathlib.Path], None]:
    """Returns a writer of files; "__" in a name stands for a point and "_minus_" for a hyphen."""

    def write(folder: pathlib.Path) -> None:
        for name, content in files.items():
            (folder / name.replace("__", ".").replace("_minus_", "-")).write_text(content, encoding="utf-8")

    return write


def json_lines(**files: list[dict[str, Any]]) -> Callable[[pathlib.Path], None]:
    """Returns a writer of gzipped JSON lines; names are as in `texts`."""

    def write(folder: pathlib.Path) -> None:
        for name, rows in files.items():
            content = "".join(json.dumps(row) + "\n" for row in rows).encode()
            (folder / name.replace("__", ".")).write_bytes(gzip.compress(content))

    return write


def prepared(name: str, **files: str) -> Callable[[pathlib.Path], None]:
    """Returns a writer of a source that runs the commands of the index page under a heading."""

    def write(folder: pathlib.Path) -> None:
        for file, content in files.items():
            path = folder / file.replace("__", ".")
            is_packed = path.suffix == ".gz"
            path.write_bytes(gzip.compress(content.encode()) if is_packed else content.encode())
        page = (MAPS / "index.md").read_text()
        section = page[page.index(f"\n## {name}\n") :]
        found = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
        assert found is not None
        subprocess.run(["bash", "-euc", found[1]], cwd=folder, check=True)

    return write


STEAM_REVIEWS = """\
{u'username': u'Zoë "Z"', u'product_id': u'725280', u'date': u'2017-12-17', u'text': u"It's\\nso"}
{u'username': u'bob', u'hours': 51.1, u'product_id': u'328100', u'date': u'2017-12-27', u'early': False}
"""
STEAM_GAMES = """\
{u'app_name': u'Orbit', u'tags': [u'Indie', u'Space'], u'id': u'725280', u'developer': u'A', u'price': 4.99}
{u'app_name': u'No id', u'price': u'Free'}
{u'app_name': u'Depth', u'id': u'328100', u'tags': [], u'price': u'Free To Play'}
"""

FORMS: dict[str, Form] = {
    "lastfm-1k": Form(
        texts(
            **{
                "userid-timestamp-artid-artname-traid-traname.tsv": "user_000001\t2009-05-04T23:08:57Z\tm-1"
                '\tDeep "Dish"\tt-1\tFuck Me I\'m Famous "live\n'
                "user_000001\t2009-05-04T13:54:10Z\t\t坂本龍一\tt-2\tComposition 0919\n"
                "user_000002\t2009-05-05T00:00:00Z\tm-1\tDeep \"Dish\"\tt-1\tFamous\n"
                "user_000002\t2009-05-05T00:00:09Z\tm-1\tDeep \"Dish\"\t\tNo id\n"
            },
            userid_minus_profile__tsv="#id\tgender\tage\tcountry\tregistered\n"
            "user_000001\tm\t\tJapan\tAug 13, 2006\nuser_000002\t\t22\tPeru\tFeb 24, 2006\n",
        ),
        [
            ("user_000001", "t-1", 1241478537, "listen"),
            ("user_000001", "t-2", 1241445250, "listen"),
            ("user_000002", "t-1", 1241481600, "listen"),
        ],
        {"t-1": {"title": "Famous", "original_artist_id": ['Deep "Dish"']}},
        {"user_000001": {"age": None, "country": "Japan"}, "user_000002": {"age": 22.0, "gender": None}},
        {"wrong_rows_of_events": 1, "wrong_rows_of_items": 1},
    ),
    "lastfm-360k": Form(
        texts(
            usersha1_minus_artmbid_minus_artname_minus_plays__tsv="00000c28\tm-1\tbetty \"blowtorch\t2137\n"
            "00000c28\t\tdie Ärzte\t1099\n00001411\t\tdie Ärzte\t3\n",
            usersha1_minus_profile__tsv="00000c28\tf\t\tGermany\tFeb 1, 2007\n"
            "00001411\tm\t23\tCanada\tDec 4, 2007\n",
        ),
        [
            ("00000c28", 'betty "blowtorch', None, "listen"),
            ("00000c28", "die Ärzte", None, "listen"),
            ("00001411", "die Ärzte", None, "listen"),
        ],
        {"die Ärzte": {}},
        {"00001411": {"gender": "m", "age": 23.0, "country": "Canada"}, "00000c28": {"age": None}},
    ),
    "lfm-1b": Form(
        texts(
            LFM_minus_1b_LEs__txt="31435741\t2\t4\t4\t1385212958\n31435741\t2\t4\t5\t1385212642\n"
            "31435750\t7\t9\t4\t1385212325\n",
            LFM_minus_1b_tracks__txt='4\t"Heroes"\t2\n5\tI\'m 12" long\t2\n',
            LFM_minus_1b_users__txt="user_id\tcountry\tage\tgender\tplaycount\tregistered_unixtime\n"
            "31435741\tUK\t31\tm\t24987\t1035849600\n31435750\t\t-1\tn\t9\t1035849600\n",
        ),
        [
            (31435741, 4, 1385212958, "listen"),
            (31435741, 5, 1385212642, "listen"),
            (31435750, 4, 1385212325, "listen"),
        ],
        {4: {"title": '"Heroes"', "artist_id": [2]}, 5: {"title": "I'm 12\" long"}},
        {31435741: {"country": "UK", "age": 31.0}, 31435750: {"country": None, "gender": "n"}},
    ),
    "goodreads": Form(
        json_lines(
            goodreads_interactions_dedup__json__gz=[
                {"user_id": "8842281e", "book_id": "24375664", "review_id": "5cd4", "rating": 5,
                 "date_added": "Fri Aug 25 13:55:02 -0700 2017", "read_at": "", "started_at": ""},
                {"user_id": "8842281e", "book_id": "18245960", "is_read": False, "rating": 0,
                 "date_added": "Sun Jul 30 07:44:10 +0100 2017"},
            ],
            goodreads_books__json__gz=[
                {"book_id": "24375664", "title": "Seventeen, \"again\"", "authors": [{"author_id": "1"}],
                 "popular_shelves": [{"count": "3", "name": "x"}], "average_rating": "4.00",
                 "publisher": "", "language_code": "eng", "similar_books": [], "series": ["1"]},
                {"book_id": "18245960", "title": "Body", "publisher": "Tor", "language_code": ""},
            ],
        ),
        [("8842281e", "18245960", 1501397050, "shelf"), ("8842281e", "24375664", 1503694502, "shelf")],
        {
            "24375664": {"title": 'Seventeen, "again"', "publisher": None, "language_code": "eng"},
            "18245960": {"publisher": "Tor", "language_code": None},
        },
    ),
    "mind": Form(
        prepared(
            "MIND",
            behaviors__tsv="1\tU13740\t11/11/2019 9:05:58 AM\tN55189 N42782\tN55689-1 N35729-0\n"
            "2\tU91836\t11/12/2019 6:11:30 PM\t\tN20678-0 N55689-1 N35729-1\n",
            news__tsv="N55689\tsports\tnfl\tTom \"T\" Brady\tAbstract\thttps://x\t"
            '[{"Label": "NFL", "Type": "O"}]\t[]\n'
            "N35729\tnews\tnewsus\tPorsche\t\thttps://y\t[]\t[]\n",
        ),
        [
            ("U13740", "N55689", 1573463158, "click"),
            ("U91836", "N35729", 1573582290, "click"),
            ("U91836", "N55689", 1573582290, "click"),
        ],
        {"N55689": {"title": 'Tom "T" Brady', "category": "sports"}, "N35729": {"subcategory": "newsus"}},
    ),
    "retailrocket": Form(
        texts(
            events__csv="timestamp,visitorid,event,itemid,transactionid\n"
            "1433221332117,257597,view,355908,\n"
            "1433224214164,992329,addtocart,248676,\n"
            "1433224244282,992329,transaction,248676,4000\n"
        ),
        [
            (257597, 355908, 1433221332, "view"),
            (992329, 248676, 1433224214, "addtocart"),
            (992329, 248676, 1433224244, "transaction"),
        ],
        {355908: {}, 248676: {}},
    ),
    "yoochoose": Form(
        texts(
            yoochoose_minus_clicks__dat="1,2014-04-07T10:51:09.277Z,214536502,0\n"
            "1,2014-04-07T10:54:09.868Z,214536500,S\n",
            yoochoose_minus_buys__dat="1,2014-04-07T10:59:00.000Z,214536500,10471,1\n",
        ),
        [
            (1, 214536500, 1396868049, "click"),
            (1, 214536500, 1396868340, "buy"),
            (1, 214536502, 1396867869, "click"),
        ],
        {214536500: {}, 214536502: {}},
    ),
    "diginetica": Form(
        texts(
            train_minus_item_minus_views__csv="session_id;user_id;item_id;timeframe;eventdate\n"
            "1;NA;81766;526309;2016-05-09\n1;NA;31331;1031018;2016-05-09\n2;7;81766;0;2016-05-10\n",
            train_minus_purchases__csv="session_id;user_id;timeframe;eventdate;ordernumber;item_id\n"
            "1;NA;1500000;2016-05-09;16421;31331\n",
            products__csv="itemId;pricelog2;product.name.tokens\n81766;10;4875,776,56689\n31331;9;\n",
        ),
        [
            (1, 31331, 1031018, "view"),
            (1, 31331, 1500000, "purchase"),
            (1, 81766, 526309, "view"),
            (2, 81766, 0, "view"),
        ],
        {81766: {"tags": ["4875", "776", "56689"], "pricelog2": 10.0}, 31331: {"tags": []}},
    ),
    "taobao": Form(
        prepared(
            "Taobao UserBehavior",
            UserBehavior__csv="1,2268318,2520377,pv,1511544070\n1,2333346,2520771,pv,1511561733\n"
            "2,2268318,2520377,buy,1511572885\n2,2268318,2520377,pv,-2134949234\n",
        ),
        [
            (1, 2268318, 1511544070, "pv"),
            (1, 2333346, 1511561733, "pv"),
            (2, 2268318, 1511572885, "buy"),
        ],
        {2268318: {"category": "2520377"}, 2333346: {"category": "2520771"}},
    ),
    "hm": Form(
        texts(
            transactions_train__csv="t_dat,customer_id,article_id,price,sales_channel_id\n"
            "2018-09-20,000058a1,0663713001,0.0508,2\n2018-09-20,000058a1,0541518023,0.0304,2\n"
            "2018-09-21,00007d2d,0663713001,0.0508,1\n2018-09-21,00007d2d,0663713001,0.0508,1\n",
            articles__csv="article_id,product_code,prod_name,product_type_no,product_type_name,"
            "product_group_name,colour_group_name,department_name,index_name,garment_group_name,detail_desc\n"
            '0663713001,663713,"Atlanta, push",2,Bra,Underwear,Black,Lingerie,Ladies,Under,"Soft ""A"""\n'
            "0541518023,541518,Rae,2,Bra,Underwear,Pink,Lingerie,Ladies,Under,\n",
            customers__csv="customer_id,FN,Active,club_member_status,fashion_news_frequency,age,postal_code\n"
            "000058a1,,,ACTIVE,NONE,49,52043e\n00007d2d,1.0,1.0,ACTIVE,Regularly,,2973ab\n",
        ),
        [
            ("000058a1", "0541518023", 1537401600, "purchase"),
            ("000058a1", "0663713001", 1537401600, "purchase"),
            ("00007d2d", "0663713001", 1537488000, "purchase"),
        ],
        {"0663713001": {"title": "Atlanta, push", "colour_group_name": "Black"}},
        {"000058a1": {"age": 49.0, "fashion_news_frequency": "NONE"}, "00007d2d": {"age": None}},
        {"duplicate_events": 1},
    ),
    "amazon-2018": Form(
        json_lines(
            All_Beauty__json__gz=[
                {"overall": 1.0, "verified": True, "reviewTime": "02 19, 2015", "reviewerID": "A1V6",
                 "asin": "0143026860", "reviewText": "no", "unixReviewTime": 1424304000},
                {"overall": 5.0, "verified": True, "reviewerID": "A2F5", "asin": "B00",
                 "style": {"Size:": " 1 oz"}, "unixReviewTime": 1418860800},
            ],
            meta_All_Beauty__json__gz=[
                {"category": ["Beauty", "Hair"], "title": "Loud 'N Clear", "brand": "Idea",
                 "asin": "0143026860", "rank": "2,938,573 in Beauty", "main_cat": "All", "price": "$1.00"},
                {"category": [], "title": "No7", "rank": [">#1 in Beauty"], "asin": "B00", "date": "5 star"},
                {"category": [], "title": "No7 again", "asin": "B00"},
            ],
        ),
        [("A1V6", "0143026860", 1424304000, "review"), ("A2F5", "B00", 1418860800, "review")],
        {
            "0143026860": {"title": "Loud 'N Clear", "tags": ["Beauty", "Hair"], "brand": "Idea"},
            "B00": {"title": "No7", "tags": [], "brand": None},
        },
        dropped={"duplicate_items": 1},
    ),
    "amazon-2023": Form(
        json_lines(
            All_Beauty__jsonl__gz=[
                {"rating": 5.0, "title": "Nice", "text": "Yes\n!", "images": [], "asin": "B01",
                 "parent_asin": "B00", "user_id": "AGKH", "timestamp": 1588687728923},
                {"rating": 2.0, "images": [{"small_image_url": "x"}], "asin": "B02", "parent_asin": "B02",
                 "user_id": "AGKH", "timestamp": 1588615855070, "verified_purchase": False},
            ],
            meta_All_Beauty__jsonl__gz=[
                {"main_category": "All Beauty", "title": "Spray", "average_rating": 4.3, "price": None,
                 "store": "Howard", "categories": [], "details": {"Brand": "H"}, "parent_asin": "B00"},
                {"main_category": None, "title": "Yes", "price": "from 5", "store": None,
                 "categories": ["Tools"], "details": {}, "parent_asin": "B02"},
            ],
        ),
        [("AGKH", "B00", 1588687728, "review"), ("AGKH", "B02", 1588615855, "review")],
        {"B00": {"title": "Spray", "store": "Howard", "tags": []}, "B02": {"store": None, "tags": ["Tools"]}},
    ),
    "steam": Form(
        prepared("Steam", steam_reviews__json__gz=STEAM_REVIEWS, steam_games__json__gz=STEAM_GAMES),
        [('Zoë "Z"', "725280", 1513468800, "review"), ("bob", "328100", 1514332800, "review")],
        {"725280": {"title": "Orbit", "tags": ["Indie", "Space"], "developer": "A"}},
    ),
    "recbole": Form(
        texts(
            ml_minus_100k__inter="user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
            "196\t242\t3\t881250949\n186\t302\t3\t891717742\n",
            ml_minus_100k__item="item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
            "242\tToy Story\t1995\tAnimation Comedy\n302\tFour Rooms\t1995\tThriller\n",
        ),
        [(186, 302, 891717742, "rating"), (196, 242, 881250949, "rating")],
        {242: {"title": "Toy Story", "tags": ["Animation", "Comedy"]}},
    ),
}  # fmt: skip


def rows_of(files: list[str]) -> list[dict[str, Any]]:
    return [row for file in files for row in pq.read_table(file).to_pylist()]


@pytest.mark.parametrize("name", list(FORMS))
def test_a_source_in_the_form_of_a_data_set_is_read_by_its_map(name: str, tmp_path: pathlib.Path) -> None:
    form, source, out = FORMS[name], tmp_path / "source", str(tmp_path / "data")
    source.mkdir()
    form.write(source)
    manifest = FORMATS["table"](str(source), out, columns=str(MAPS / f"{name}.yaml"))
    assert verify(out) == manifest == Manifest.load(out)
    items = {row.get("original_id") or row["item_id"]: row for row in rows_of(item_files(out))}
    users = {row.get("original_id") or row["user_id"]: row for row in rows_of(user_files(out))}
    item_of = {row["item_id"]: key for key, row in items.items()}
    user_of = {row["user_id"]: key for key, row in users.items()}
    found = [
        (
            user_of.get(row["user_id"], row["user_id"]),
            item_of[row["item_id"]],
            row.get("timestamp", row.get("order")),
            row.get("event_type", manifest.label_event),
        )
        for row in rows_of(event_files(out))
    ]
    assert Counter(found) == Counter(form.events)
    for rows, expected in ((items, form.items), (users, form.users)):
        for key, columns in expected.items():
            assert {column: rows[key][column] for column in columns} == columns
    assert manifest.dropped == form.dropped
    assert manifest.counts["label_events"] == sum(kind == manifest.label_event for *_, kind in form.events)


def test_every_map_is_read_here_and_named_on_the_page() -> None:
    names = {path.stem for path in MAPS.glob("*.yaml")}
    assert names == set(FORMS)
    page = (MAPS / "index.md").read_text()
    for name in names:
        assert f"]({name}.yaml)" in page
        first = (MAPS / f"{name}.yaml").read_text().splitlines()[0]
        assert first.startswith("# "), f"{name}.yaml begins with its data set's files"
        assert column_map.read(str(MAPS / f"{name}.yaml")).dataset


def test_no_map_takes_a_column_that_counts_the_future() -> None:
    """Checks that average ratings, ranks and numbers of reviews, which hold eval and test, are left out."""
    for path in MAPS.glob("*.yaml"):
        mapping = column_map.read(str(path))
        if mapping.items is not None:
            assert mapping.items.keep is not None, path
            taken = {*mapping.items.keep, *mapping.items.columns.values()}
            assert not {name for name in taken if re.search("rating|rank|review|popular|count", name)}, path
