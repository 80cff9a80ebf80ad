from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from two_tower.base import pointers
from two_tower.base.errors import UserError
from two_tower.base.pointers import APPROVED, BLESSED, NOTHING, Pointer


def point(root: Path | str, uri: str, run: str = "") -> str:
    pointers.point(str(root), BLESSED, Pointer(uri, {"towers_uri": f"{uri}/towers"}, run))
    return pointers.latest(str(root), BLESSED)


def test_the_newest_is_found_and_another_root_or_name_is_not(tmp_path: Path) -> None:
    assert pointers.latest(str(tmp_path), BLESSED) == NOTHING
    point(tmp_path / "a", "one")
    two = point(tmp_path / "a", "two")
    point(tmp_path / "b", "three")
    assert pointers.latest(str(tmp_path / "a"), BLESSED) == two
    assert pointers.latest(str(tmp_path / "a"), APPROVED) == NOTHING
    found = pointers.from_text(two)
    assert found is not None and (found.uri, found.properties) == ("two", {"towers_uri": "two/towers"})
    assert pointers.from_text(NOTHING) is None


def test_a_run_finds_what_others_wrote_however_often_it_ran_itself(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert pointers.latest_of_others(root, BLESSED, "a") == NOTHING
    point(root, "1", run="a")
    assert pointers.latest_of_others(root, BLESSED, "a") == NOTHING
    # Its step is retried, or it runs without a cache.
    again = point(root, "2", run="a")
    assert pointers.latest_of_others(root, BLESSED, "a") == NOTHING
    assert pointers.latest_of_others(root, BLESSED, "b") == again
    other = point(root, "3", run="b")
    point(root, "4", run="b")
    assert pointers.latest_of_others(root, BLESSED, "b") == again
    # Back to the older settings: what came between counts.
    between = pointers.from_text(pointers.latest_of_others(root, BLESSED, "a"))
    assert between is not None and (between.uri, between.run) == ("4", "b")
    assert other != pointers.latest(root, BLESSED)


def test_a_pointer_that_came_back_is_told_from_one_that_stayed(tmp_path: Path) -> None:
    # Jobs A, B, A, B: the second B must be judged again, though A is the latest for both.
    root = str(tmp_path)
    first = point(root, "A", run="a")
    assert point(root, "A", run="a") == first
    point(root, "B", run="b")
    back = point(root, "A", run="a")
    assert back != first
    assert pointers.latest_of_others(root, BLESSED, "b") == back


def test_two_that_point_at_once_lose_no_move(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: point(str(tmp_path), f"model {number}", run=str(number)), range(40)))
    found = pointers.from_text(pointers.latest(str(tmp_path), BLESSED))
    assert found is not None and found.moves == 40


def test_a_damaged_pointer_is_named(tmp_path: Path) -> None:
    file = tmp_path / f"{BLESSED}.json"
    for content in (
        "{", "[]", "3", '{"uri": "a"}',
        '{"uri": null, "properties": {}, "run": ""}', '{"uri": "a", "properties": null, "run": ""}',
        '{"uri": "a", "properties": {}, "run": "", "before": 3}',
        '{"uri": "a", "properties": {}, "run": "", "before": {"uri": 1}}',
    ):  # fmt: skip
        file.write_text(content)
        with pytest.raises(UserError, match=f"{file} is damaged"):
            pointers.latest(str(tmp_path), BLESSED)
        with pytest.raises(UserError, match=f"{file} is damaged"):
            point(tmp_path, "new")


def test_pointers_live_in_object_stores_too() -> None:
    text = point("memory://pointers/root", "gs://b/model")
    assert pointers.latest("memory://pointers/root", BLESSED) == text


def test_what_a_killed_process_left_of_a_pointer_goes_with_the_next_move(tmp_path: Path) -> None:
    point(str(tmp_path), "old")
    left, other = tmp_path / f"{BLESSED}.json.0123.incoming", tmp_path / "mine.incoming"
    left.touch()
    other.touch()
    point(str(tmp_path), "new")
    assert not left.exists() and other.exists()
