"""Pusher publishes a blessed model once, as it was evaluated, and nothing older."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tfx.components.evaluator import constants
from tfx.types import standard_artifacts

from tests.published_models import RECORD, model
from two_tower.base import pointers
from two_tower.base.pointers import Pointer
from two_tower.components.pusher.executor import Executor
from two_tower.serving import canary
from two_tower.serving.canary import CanaryFailed
from two_tower.serving.provenance import digest_of
from two_tower.serving.rollback import roll_back
from two_tower.serving.versions import versions


def push(
    model_path: Path,
    blessed: bool,
    pushed: Path,
    record: Any = RECORD,
    evaluated: str = "",
    anchor: str = "",
) -> Any:
    candidate, blessing, result = (
        standard_artifacts.Model(),
        standard_artifacts.ModelBlessing(),
        standard_artifacts.PushedModel(),
    )
    candidate.uri, result.uri = str(model_path), str(model_path) + "-pushed"
    candidate.set_string_custom_property("towers_uri", f"towers of {model_path.name}")
    blessing.uri = str(model_path) + "-blessing"
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, int(blessed))
    digest = evaluated or digest_of(str(model_path / "Format-Serving"))
    blessing.set_string_custom_property("evaluated_digest", digest)
    blessing.set_string_custom_property("anchor", anchor)
    Path(blessing.uri).mkdir(exist_ok=True)
    (Path(blessing.uri) / ("BLESSED" if blessed else "NOT_BLESSED")).touch()
    if record is not None:
        (Path(blessing.uri) / canary.FILE_NAME).write_text(json.dumps(record))
    Executor().Do(
        {"model": [candidate], "model_blessing": [blessing]},
        {"pushed_model": [result]},
        {"root": str(pushed.parent), "run": ""},
    )
    return result


def test_a_blessed_model_is_pushed_once_and_a_refused_one_never(
    tmp_path: Path, never_loaded: list[tuple[str, Any]]
) -> None:
    pushed = tmp_path / "pushed"
    for name, weights in (("first", "w"), ("refused", "r"), ("unchanged", "w"), ("better", "b")):
        model(tmp_path / name / "Format-Serving", weights)

    first = push(tmp_path / "first", True, pushed)
    assert first.get_int_custom_property("pushed") == 1
    assert first.get_string_custom_property("pushed_destination") == str(pushed / "1")

    assert push(tmp_path / "refused", False, pushed).get_int_custom_property("pushed") == 0
    assert versions(str(pushed)) == [1]

    unchanged = push(tmp_path / "unchanged", True, pushed)
    assert unchanged.get_int_custom_property("pushed") == 0
    assert unchanged.get_string_custom_property("pushed_destination") == str(pushed / "1")
    assert "the same model is in service" in unchanged.get_string_custom_property("not_pushed_because")
    assert versions(str(pushed)) == [1]

    better = push(tmp_path / "better", True, pushed)
    assert better.get_string_custom_property("pushed_destination") == str(pushed / "2")
    assert digest_of(str(pushed / "1")) == digest_of(str(tmp_path / "first" / "Format-Serving"))
    # The copy is asked the queries recorded beside the blessing.
    assert never_loaded == [(str(pushed / ".incoming-1"), RECORD), (str(pushed / ".incoming-2"), RECORD)]


def test_a_model_that_was_reindexed_since_is_not_replaced_by_the_items_of_its_training(
    tmp_path: Path, never_loaded: list[tuple[str, Any]]
) -> None:
    pushed = tmp_path / "pushed"

    def served(name: str, **provenance: str) -> Path:
        path = Path(model(tmp_path / name / "Format-Serving", name)) / "assets.extra"
        path.mkdir()
        (path / "provenance.json").write_text(json.dumps({"data_digest": "sha256:monday", **provenance}))
        return tmp_path / name

    assert push(served("trained"), True, pushed).get_int_custom_property("pushed") == 1
    assert push(served("today", items_digest="sha256:tuesday"), True, pushed).get_int_custom_property(
        "pushed"
    )
    trained = tmp_path / "again"
    shutil.copytree(tmp_path / "trained", trained)
    for source in (trained, served("otherwise trained")):
        done = push(source, True, pushed)
        assert done.get_int_custom_property("pushed") == 0 and versions(str(pushed)) == [1, 2]
        reason = done.get_string_custom_property("not_pushed_because")
        assert f"{pushed / '2'} is in service" in reason
        assert f"two-tower reindex --model {source / 'Format-Serving'} " in reason
    # A later re-indexing is pushed, and so is a model of newer data.
    push(served("tomorrow", items_digest="sha256:wednesday"), True, pushed)
    push(served("newer data", data_digest="sha256:thursday"), True, pushed)
    assert versions(str(pushed)) == [1, 2, 3, 4]


def provenance_of(path: Path, **recorded: Any) -> Path:
    """Writes the provenance of a model, and returns the model's artifact."""
    extra = path / "Format-Serving" / "assets.extra"
    extra.mkdir()
    (extra / "provenance.json").write_text(json.dumps({"data_digest": "sha256:monday", **recorded}))
    return path


def test_older_data_does_not_replace_newer(tmp_path: Path, never_loaded: list[tuple[str, Any]]) -> None:
    pushed = tmp_path / "pushed"

    def served(name: str, **recorded: Any) -> Path:
        model(tmp_path / name / "Format-Serving", name)
        return provenance_of(tmp_path / name, **recorded)

    push(served("tuesday", dataset="ours", train_newest_timestamp=200), True, pushed)
    older = push(served("monday", dataset="ours", train_newest_timestamp=100), True, pushed)
    assert older.get_int_custom_property("pushed") == 0 and versions(str(pushed)) == [1]
    told = older.get_string_custom_property("not_pushed_because")
    assert "training data ends later" in told and "run with another output directory" in told
    in_service = pointers.from_text(pointers.latest(str(tmp_path), pointers.BLESSED))
    assert in_service is not None and in_service.uri == str(tmp_path / "tuesday")
    # As old, of another data set, or without times: none is older.
    push(served("again", dataset="ours", train_newest_timestamp=200), True, pushed)
    push(served("other", dataset="theirs", train_newest_timestamp=100), True, pushed)
    push(served("timeless", dataset="theirs", train_newest_timestamp=0), True, pushed)
    assert versions(str(pushed)) == [1, 2, 3, 4]


def test_older_data_is_served_after_a_rollback_where_an_earlier_version_is_as_old(
    tmp_path: Path, never_loaded: list[tuple[str, Any]]
) -> None:
    pushed = tmp_path / "pushed"
    models = {}
    for day, end in {"monday": 100, "wednesday": 300, "tuesday": 200}.items():
        model(tmp_path / day / "Format-Serving", day)
        models[day] = provenance_of(tmp_path / day, dataset="ours", train_newest_timestamp=end)
    push(models["monday"], True, pushed)
    push(models["wednesday"], True, pushed)
    told = push(models["tuesday"], True, pushed).get_string_custom_property("not_pushed_because")
    assert "run `two-tower rollback` first, then this run again" in told
    roll_back(str(pushed))
    assert push(models["tuesday"], True, pushed).get_int_custom_property("pushed") == 1


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"train_newest_timestamp": null}', '{"dataset": 7}', "link to nothing"]
)
def test_a_damaged_version_in_service_is_replaced(
    content: str, tmp_path: Path, never_loaded: list[tuple[str, Any]]
) -> None:
    pushed = tmp_path / "pushed"
    for name in "ab":
        model(tmp_path / name / "Format-Serving", name)
        provenance_of(tmp_path / name, dataset="ours", train_newest_timestamp=100)
    push(tmp_path / "a", True, pushed)
    damaged = pushed / "1" / "assets.extra" / "provenance.json"
    damaged.unlink()
    if content == "link to nothing":
        damaged.symlink_to("nowhere")
    else:
        damaged.write_text(content)
    assert push(tmp_path / "b", True, pushed).get_int_custom_property("pushed") == 1


def test_a_model_that_was_changed_since_its_evaluation_is_not_pushed(
    tmp_path: Path, never_loaded: list[tuple[str, Any]]
) -> None:
    evaluated = digest_of(model(tmp_path / "a" / "Format-Serving"))
    (tmp_path / "a" / "Format-Serving" / "variables" / "variables.data").write_text("zeros")
    with pytest.raises(CanaryFailed, match="was changed since"):
        push(tmp_path / "a", True, tmp_path / "pushed", evaluated=evaluated)
    assert versions(str(tmp_path / "pushed")) == []


def test_the_pointer_names_the_model_in_service_and_its_anchor(
    tmp_path: Path, never_loaded: list[tuple[str, Any]]
) -> None:
    for name in "ab":
        model(tmp_path / name / "Format-Serving", name)
    first = str(tmp_path / "a")

    def pointer() -> Pointer | None:
        return pointers.from_text(pointers.latest(str(tmp_path), pointers.BLESSED))

    push(tmp_path / "a", False, tmp_path / "pushed")
    assert pointer() is None
    push(tmp_path / "a", True, tmp_path / "pushed")
    assert pointer() == Pointer(first, {"towers_uri": "towers of a", "anchor": first}, "", 1)
    push(tmp_path / "b", True, tmp_path / "pushed", anchor=first)
    assert pointer() == Pointer(str(tmp_path / "b"), {"towers_uri": "towers of b", "anchor": first}, "", 2)
    # A push that was killed behind its last step: the pointer still names the model before.
    pointers.point(str(tmp_path), pointers.BLESSED, Pointer(first, {}))
    shutil.rmtree(str(tmp_path / "b") + "-blessing")
    assert push(tmp_path / "b", True, tmp_path / "pushed").get_int_custom_property("pushed") == 0
    now = pointer()
    assert now is not None and now.uri == str(tmp_path / "b") and now.properties["anchor"] == first


def test_pushers_at_once_push_a_model_once(tmp_path: Path, never_loaded: list[tuple[str, Any]]) -> None:
    for number in range(4):
        model(tmp_path / str(number) / "Format-Serving")
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda n: push(tmp_path / str(n), True, tmp_path / "pushed"), range(4)))
    assert sorted(one.get_int_custom_property("pushed") for one in done) == [0, 0, 0, 1]
    assert versions(str(tmp_path / "pushed")) == [1]


def test_without_recorded_queries_nothing_is_pushed(tmp_path: Path) -> None:
    model(tmp_path / "first" / "Format-Serving")
    with pytest.raises(CanaryFailed, match="holds no recorded queries"):
        push(tmp_path / "first", True, tmp_path / "pushed", record=None)
    assert versions(str(tmp_path / "pushed")) == []
