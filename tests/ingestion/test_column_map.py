from __future__ import annotations

import pathlib
import re

import pytest

from two_tower.base.errors import UserError
from two_tower.ingestion import column_map

WHOLE = """
dataset: my-films
label_event: view
repeats_recommendable: false
events:
  files: [a/*.parquet, b.csv]
  user_id: uid
  item_id: film
  timestamp: watched_at
  timestamp_unit: ms
  play_ratio: percent
  play_ratio_whole: 100
items: {files: films.csv, item_id: id, title: name, tags: genres, separator: "|", delimiter: ";"}
users: {files: users.csv, user_id: id, keep: {zip: text, age: integer}, encoding: latin-1}
embeddings: {files: vectors.parquet, item_id: id, embedding: vector}
"""


def read(tmp_path: pathlib.Path, text: str) -> column_map.ColumnMap:
    path = tmp_path / "columns.yaml"
    path.write_text(text)
    return column_map.read(str(path))


def test_a_map_says_where_everything_is(tmp_path: pathlib.Path) -> None:
    found = read(tmp_path, WHOLE)
    assert (found.dataset, found.label_event, found.repeats_recommendable) == ("my-films", "view", False)
    assert found.user_id_type is None
    assert found.events[0].files == (("a/*.parquet", None), ("b.csv", None))
    assert found.events[0].columns == {
        "user_id": "uid",
        "item_id": "film",
        "timestamp": "watched_at",
        "play_ratio": "percent",
    }
    assert found.events[0].units == {"timestamp": "ms"}
    assert found.events[0].play_ratio_whole == 100
    assert found.items is not None and found.users is not None and found.embeddings is not None
    assert (found.items.separator, found.items.text.delimiter, found.items.keep) == ("|", ";", None)
    assert found.users.keep == {"zip": "text", "age": "integer"}
    assert found.users.text.encoding == "iso8859-1"
    assert found.embeddings.columns == {"item_id": "id", "embedding": "vector"}


def test_files_may_be_listed_by_split(tmp_path: pathlib.Path) -> None:
    text = WHOLE.replace("[a/*.parquet, b.csv]", "{train: [a.csv, b.csv], test: c.csv}")
    assert read(tmp_path, text).events[0].files == (("a.csv", "train"), ("b.csv", "train"), ("c.csv", "test"))
    assert read(tmp_path, text.replace("test:", "val:")).events[0].files[-1] == ("c.csv", "eval")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("dataset:", "data_set:", "there is no key 'data_set'; the nearest known key is 'dataset'"),
        ("timestamp:", "timestmp:", "no key 'events.timestmp'; the nearest known key is 'events.timestamp'"),
        (
            "play_ratio: percent",
            "played: percent",
            "no key 'events.played'; the nearest known key is 'events.play_r",
        ),
        ("tags:", "tag:", "no key 'items.tag'; the nearest known key is 'items.tags'"),
        ("label_event: view", "", "key 'label_event' is missing"),
        ("repeats_recommendable: false", "", "key 'repeats_recommendable' is missing"),
        ("user_id: uid", "", "key 'events.user_id' is missing"),
        ("files: films.csv, ", "", "key 'items.files' is missing"),
        ("timestamp: watched_at", "", "key 'events.timestamp_unit' needs key 'events.timestamp'"),
        ("timestamp_unit: ms", "order: rank", "'events.timestamp' and 'events.order'"),
        ("  timestamp: watched_at\n  timestamp_unit: ms", "", "the map has none of them"),
        ("timestamp_unit: ms", "timestamp_unit: minutes", "takes one of s, ms, us, ns, but is 'minutes'"),
        ("false", "maybe", "'repeats_recommendable' takes true or false, but is 'maybe'"),
        ("user_id: uid", "user_id: 3", "the name of a column .in quotes if it is a number., but is 3"),
        ("play_ratio_whole: 100", "play_ratio_whole: 0", "takes a number above 0"),
        ("play_ratio: percent", "", "needs key 'events.play_ratio'"),
        ('delimiter: ";"', 'delimiter: "::"', "'items.delimiter' takes one ASCII character"),
        ("latin-1", "latin-77", "takes the name of a text encoding"),
        ("zip: text", "zip: words", "key 'users.keep.zip' takes one of integer, text, number, boolean"),
        ("[a/*.parquet, b.csv]", "{train: a.csv, dev: b.csv}", "train, eval, test., but has 'dev'"),
        ("films.csv", "{train: films.csv}", "only events have splits"),
        ("[a/*.parquet, b.csv]", "[]", "takes a file or pattern"),
        ("title: name", "embedding: vector", "'items.embedding' and 'embeddings.embedding'"),
        ("dataset: my-films", "dataset: [1", "not YAML"),
        ("dataset: my-films", "dataset: x\ndataset: y", r"columns\.yaml:\d+: key 'dataset' is a duplicate"),
        ("item_id: id", "item_id: id, item_id: film", "key 'item_id' is a duplicate"),
        ("dataset: my-films", "dataset: 5", "key 'dataset' takes a text, but is 5"),
        ("dataset: my-films", "dataset: x\nuser_id_type: number", "takes one of integer, text, but is"),
        (WHOLE, "events", "needs keys and values"),
        (WHOLE[WHOLE.index("events") : WHOLE.index("items:")], "events:\n", "key 'events' is empty"),
        (WHOLE[WHOLE.index("events") : WHOLE.index("items:")], "events: a.csv\n", "needs keys and values"),
    ],
)
def test_a_wrong_map_says_what_is_wrong(before: str, after: str, told: str, tmp_path: pathlib.Path) -> None:
    assert before in WHOLE
    with pytest.raises(UserError, match=told) as found:
        read(tmp_path, WHOLE.replace(before, after))
    assert str(tmp_path / "columns.yaml") in str(found.value)


def test_a_missing_map_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="the column map is missing"):
        column_map.read(str(tmp_path / "none.yaml"))


def test_the_maps_of_the_documentation_are_maps(tmp_path: pathlib.Path) -> None:
    text = (pathlib.Path(__file__).parents[2] / "docs/how-to/bring-your-own-data.md").read_text()
    maps = [block for block in re.findall("```yaml\n(.*?)```", text, re.DOTALL) if "label_event" in block]
    assert maps
    for block in maps:
        assert read(tmp_path, block).events[0].columns["user_id"]
