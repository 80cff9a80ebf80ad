"""Queries of a served model, without the model itself; the end-to-end tests ask the model."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from two_tower.base.errors import UserError
from two_tower.data_directory.feature_columns import FeatureSpec
from two_tower.data_directory.manifest import DatasetProperties
from two_tower.data_directory.shuffled_order import shuffled_order
from two_tower.data_directory.writer import DataDirectoryWriter
from two_tower.schema.request_inputs import IdKinds
from two_tower.serving import query
from two_tower.serving.id_texts import IdTexts

LAST_TIME = 1_000


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data directory. User 1 has three listens in two files, a like at the second and one after the last."""
    directory = tmp_path / "data"
    (directory / "events").mkdir(parents=True)
    (directory / "manifest.json").write_text("{}")
    columns = ["user_id", "item_id", "timestamp", "event_type", "play_ratio", "is_organic"]
    files: list[list[tuple[Any, ...]]] = [
        [
            (1, 30, 300, "listen", None, None),
            (1, 20, 200, "like", None, None),
            (2, 99, 1, "listen", 1.0, True),
        ],
        [
            (1, 20, 200, "listen", 0.5, True),
            (1, 10, 100, "listen", 1.0, False),
            (1, 30, 310, "like", None, None),
        ],
        [(3, 40, 100, "like", None, None)],
    ]
    paths = []
    kinds = [pa.int64(), pa.int64(), pa.int64(), pa.string(), pa.float32(), pa.bool_()]
    for number, rows in enumerate(files):
        arrays = [pa.array([row[place] for row in rows], kind) for place, kind in enumerate(kinds)]
        paths.append(str(directory / "events" / f"part-{number}.parquet"))
        pq.write_table(pa.table(arrays, names=columns), paths[-1])
    items = str(directory / "items.parquet")
    titles = {"item_id": [10, 20, 30, 99], "title": ["Ten", "Twenty", None, "Ninety-nine"]}
    pq.write_table(pa.table(titles), items)
    monkeypatch.setattr("two_tower.data_directory.manifest.event_files", lambda _: paths)
    monkeypatch.setattr("two_tower.data_directory.manifest.item_files", lambda _: [items])
    monkeypatch.setattr(query, "_check_ids_of_data", lambda data, kinds: None)
    return directory


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Recorded requests of a model that answers items 99 and 10, and does not know item 77."""
    questions: list[dict[str, Any]] = []

    def ask(
        path: str,
        user: int | None,
        events: Any,
        exclude: list[int],
        allow: list[int],
        k: int,
        history_length: int,
        columns: dict[str, Any],
    ) -> Any:
        asked = {"path": path, "user": user, "events": events, "k": k, "columns": columns}
        asked |= {"exclude": exclude, "allow": allow}
        questions.append(asked)
        unknown = [item for item in events.item_id if item == 77]
        return [99, 10][:k], [0.9, 0.8][:k], unknown, IdTexts(IdKinds())

    monkeypatch.setattr(query, "_ask", ask)
    return questions


def _model(directory: Path, data: Path | str, **changes: Any) -> Path:
    provenance = {
        "data": str(data),
        "label_event": "listen",
        "repeats_recommendable": True,
        "train_newest_timestamp": LAST_TIME,
        "history_length": 3,
        "max_k": 50,
    }
    (directory / "assets.extra").mkdir(parents=True)
    (directory / "saved_model.pb").write_bytes(b"")
    (directory / "assets.extra" / "provenance.json").write_text(json.dumps({**provenance, **changes}))
    return directory


def test_a_users_history_is_in_order_and_ends_with_the_last_listen(
    tmp_path: Path, data: Path, asked: list[dict[str, Any]]
) -> None:
    answer = query.recommend(str(_model(tmp_path / "m", data)), 1, None, 2)
    events = asked[0]["events"]
    # The last three events of 10, 20, the like of 20 at the same time, and 30.
    assert events.item_id == [20, 20, 30]
    assert events.timestamp == [200, 200, 300]
    assert events.event_type == ["", "like", ""]
    assert events.play_ratio == [0.5, -1.0, -1.0]
    assert events.is_organic == [1, -1, -1]
    assert asked[0]["exclude"] == []
    assert [(one.item_id, one.title) for one in answer.last_listens] == [(20, "Twenty"), (30, None)]
    assert [(one.rank, one.item_id, one.title) for one in answer.recommendations] == [
        (1, 99, "Ninety-nine"),
        (2, 10, "Ten"),
    ]
    assert answer.notes == ()
    assert json.loads(answer.to_json())["recommendations"][0]["title"] == "Ninety-nine"
    text = query.render(answer)
    assert "Recommended to user 1" in text
    assert "Ninety-nine" in text


@pytest.mark.parametrize("table", ["events/part-1.parquet", "items.parquet"])
def test_a_file_with_damaged_pages_is_named(
    table: str, tmp_path: Path, data: Path, asked: list[dict[str, Any]]
) -> None:
    """Keeps the footer whole, whose check alone would not notice."""
    path = data / table
    path.write_bytes(b"PK\x03\x04" + path.read_bytes())
    with pytest.raises(UserError, match=str(path)):
        query.recommend(str(_model(tmp_path / "m", data)), 1, None, 2)


def test_an_event_that_two_spans_hold_counts_once(
    tmp_path: Path, data: Path, asked: list[dict[str, Any]]
) -> None:
    """Repeats the events, which count once, as in training's windows."""
    again, other = (data / "events" / f"part-{number}.parquet" for number in (0, 1))
    pq.write_table(pa.concat_tables([pq.read_table(again), pq.read_table(other)]), again)
    query.recommend(str(_model(tmp_path / "m", data)), 1, None, 2)
    events = asked[0]["events"]
    assert (events.item_id, events.timestamp) == ([20, 20, 30], [200, 200, 300])
    assert events.event_type == ["", "like", ""]


def test_without_times_the_order_tells_what_came_last(
    tmp_path: Path, data: Path, asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(data / "events" / "ordered.parquet")
    columns = {"user_id": [1, 1, 1], "item_id": [30, 10, 20], "order": [2, 0, 1]}
    pq.write_table(pa.table(columns), path)
    monkeypatch.setattr("two_tower.data_directory.manifest.event_files", lambda _: [path])
    query.recommend(str(_model(tmp_path / "m", data)), 1, None, 2)
    assert asked[0]["events"].item_id == [10, 20, 30]
    assert asked[0]["events"].timestamp == [0, 0, 0]


def test_without_an_order_the_history_is_the_drawn_one_of_training(
    tmp_path: Path, asked: list[dict[str, Any]]
) -> None:
    directory = str(tmp_path / "data")
    pairs = {"user_id": np.ones(9, np.int64), "item_id": np.arange(10, 19)}
    with DataDirectoryWriter(directory, DatasetProperties("d", "listen", False), has_order=False) as writer:
        writer.write("events", pa.table(pairs))
        writer.write("items", pa.table({"item_id": pairs["item_id"]}))
    query.recommend(str(_model(tmp_path / "m", directory, train_newest_timestamp=0)), 1, None, 2)
    drawn = pairs["item_id"][np.argsort(shuffled_order(pairs["user_id"], pairs["item_id"], 0))].tolist()
    assert asked[0]["events"].item_id == drawn[-3:] and drawn != sorted(drawn)
    assert asked[0]["events"].timestamp == [0, 0, 0]


def test_where_repeats_make_no_sense_all_that_the_user_ever_had_is_excluded(
    tmp_path: Path, data: Path, asked: list[dict[str, Any]]
) -> None:
    model = str(_model(tmp_path / "m", data, repeats_recommendable=False))
    query.recommend(model, 1, None, 2)
    query.recommend(model, None, [99, 20], 2)
    assert [question["exclude"] for question in asked] == [[10, 20, 30], [20, 99]]
    assert [question["allow"] for question in asked] == [[], []]


def test_items_may_be_excluded_and_allowed_by_hand(
    tmp_path: Path, data: Path, asked: list[dict[str, Any]]
) -> None:
    model = str(_model(tmp_path / "m", data, repeats_recommendable=False))
    query.recommend(model, 1, None, 2, exclude=[7, 20], allow=[99, 10, 99])
    assert (asked[0]["exclude"], asked[0]["allow"]) == ([7, 10, 20, 30], [10, 99])
    with pytest.raises(UserError, match="negative"):
        query.recommend(model, 1, None, 2, allow=[-1])


@pytest.mark.parametrize(
    ("column", "learned_until", "asked_at"),
    [("timestamp", LAST_TIME, LAST_TIME), ("timestamp", 0, 5_000), ("order", 0, 0)],
)
def test_a_history_is_of_the_end_of_training_or_of_the_data_where_no_split_in_time_ends_training(
    column: str, learned_until: int, asked_at: int, tmp_path: Path, asked: list[dict[str, Any]]
) -> None:
    directory = str(tmp_path / "data")
    with DataDirectoryWriter(directory, DatasetProperties("d", "listen", True)) as writer:
        writer.write("events", pa.table({"user_id": [1, 1], "item_id": [5, 6], column: [5_000, 4_000]}))
        writer.write("items", pa.table({"item_id": [5, 6]}))
    model = str(_model(tmp_path / "m", directory, train_newest_timestamp=learned_until))
    query.recommend(model, None, [5, 6], 2)
    assert asked[0]["events"].timestamp == [asked_at] * 2


@pytest.mark.parametrize(("user", "note"), [(8, "User 8 has no events"), (3, "User 3 has no listens")])
def test_a_user_without_listens_is_answered_as_new(
    user: int, note: str, tmp_path: Path, data: Path, asked: list[dict[str, Any]]
) -> None:
    answer = query.recommend(str(_model(tmp_path / "m", data)), user, None, 2)
    assert asked[0]["events"].item_id == []
    assert note in answer.notes[0]
    assert "No listens" in query.render(answer)


def test_a_history_needs_no_data_and_is_told_of_unknown_items(
    tmp_path: Path, asked: list[dict[str, Any]]
) -> None:
    answer = query.recommend(str(_model(tmp_path / "m", "moved-away")), None, [5, 77], 2)
    events = asked[0]["events"]
    assert (events.item_id, events.timestamp) == ([5, 77], [LAST_TIME, LAST_TIME])
    assert any("does not know these items of the history: 77." in note for note in answer.notes)
    assert any("Titles are missing" in note for note in answer.notes)
    assert [one.timestamp for one in answer.last_listens] == [None, None]
    assert "as for a new user" in query.recommend(str(tmp_path / "m"), None, [], 2).notes[0]


def test_a_user_of_data_that_was_moved_needs_to_be_told_where(
    tmp_path: Path, data: Path, asked: list[dict[str, Any]]
) -> None:
    model = str(_model(tmp_path / "m", "moved-away"))
    with pytest.raises(UserError, match=r"moved-away.*Pass --data"):
        query.recommend(model, 1, None, 2)
    assert query.recommend(model, 1, None, 2, str(data)).notes == ()


def test_fewer_items_than_asked_for_are_told(tmp_path: Path, data: Path, asked: list[dict[str, Any]]) -> None:
    answer = query.recommend(str(_model(tmp_path / "m", data)), 1, None, 5)
    assert answer.notes == ("The model found 2 allowed items of 5 requested ones.",)


@pytest.mark.parametrize(
    ("user", "history", "k", "message"),
    [
        (1, None, 51, "1 to 50 items"),
        (1, None, 0, "1 to 50 items"),
        (None, [3, -1], 5, "not negative"),
        (2**63, None, 5, "9223372036854775808 is no id"),
        (None, [10**20], 5, "is no id"),
    ],
)
def test_a_request_that_no_model_can_answer_is_refused(
    user: int | None, history: list[int] | None, k: int, message: str, tmp_path: Path, data: Path
) -> None:
    with pytest.raises(UserError, match=message):
        query.recommend(str(_model(tmp_path / "m", data)), user, history, k)


def test_a_title_does_not_move_the_terminals_cursor(tmp_path: Path) -> None:
    title = "Song\x1b[2J\nof | [bold]others[/bold]"
    shown = query.render(
        query.Answer("m", 1, {}, (query.Listen(1, title, 5),), (query.Recommendation(1, 2, title, 0.5),), ())
    )
    assert "\x1b" not in shown and "Song [2J of | [bold]others[/bold]" in shown


def test_a_model_is_found_by_its_run_its_push_directory_and_its_version(tmp_path: Path) -> None:
    _model(tmp_path / "out" / "pushed" / "2", "d")
    newest = str(_model(tmp_path / "out" / "pushed" / "10", "d"))
    (tmp_path / "out" / "pushed" / ".incoming-11").mkdir()
    for named in ("out", "out/pushed", "out/pushed/10"):
        assert query.find_model(str(tmp_path / named)) == newest
    with pytest.raises(UserError, match="holds no served model"):
        query.find_model(str(tmp_path))


# Columns of users/ that the model takes.


def _knowing(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, users: pa.Table | None) -> str:
    """Builds a model with four columns of users/, and gives the data directory these users."""
    files = []
    if users is not None:
        files = [str(data / "users.parquet")]
        pq.write_table(users, files[0])
    monkeypatch.setattr("two_tower.data_directory.manifest.user_files", lambda _: files)
    specs = [
        FeatureSpec("user_gender", "gender", "categorical"),
        FeatureSpec("user_age", "age", "numeric"),
        FeatureSpec("user_tags", "tags", "multi_valued"),
        FeatureSpec("user_taste", "taste", "vector", 2),
    ]
    known = {"users": [dataclasses.asdict(spec) for spec in specs], "items": [], "history": []}
    return str(_model(tmp_path / "m", data, features=known))


USERS = pa.table(
    {
        "user_id": [2, 1],
        "gender": ["m", "f"],
        "age": [30, 0],
        "tags": [["x"], ["a", "b"]],
        "taste": pa.array([None, [0.5, 1.0]], pa.list_(pa.float32())),
    }
)


def test_the_users_row_goes_into_the_request_and_is_shown(
    data: Path, asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = query.recommend(_knowing(tmp_path, data, monkeypatch, USERS), 1, None, 2)
    assert asked[0]["columns"] == {
        "user_gender": [b"f"],
        "user_age": [0.0],
        "user_tags": [[b"a", b"b"]],
        "user_taste": [[0.5, 1.0]],
    }
    assert "User 1: gender f, age 0, tags a/b, taste (2 numbers)" in query.render(answer)
    assert json.loads(answer.to_json())["user_columns"]["tags"] == ["a", "b"]
    assert answer.notes == ()


@pytest.mark.parametrize(
    ("users", "note"),
    [
        (None, "has no table users/"),
        (USERS.slice(0, 1), "User 1 has no row in users/"),
        (
            USERS.select(["user_id", "age"]).slice(1).drop(["age"]),
            "columns gender, age, tags, taste",
        ),
    ],
)
def test_what_is_not_known_of_a_user_is_absent_and_noted(
    data: Path,
    asked: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    users: pa.Table | None,
    note: str,
) -> None:
    model = _knowing(tmp_path, data, monkeypatch, users)
    answer = query.recommend(model, 1, None, 2)
    assert any(note in one for one in answer.notes)
    query.recommend(model, None, [99], 2)  # no user
    for request in asked:
        columns = request["columns"]
        assert columns["user_gender"] == [""] and columns["user_tags"] == [[""]]
        assert math.isnan(columns["user_age"][0]) and columns["user_taste"] == [[0.0, 0.0]]
    assert "gender unknown" in query.render(answer)
