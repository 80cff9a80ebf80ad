from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.serving import canary
from two_tower.serving import versions as versions_module
from two_tower.serving.canary import CanaryFailed
from two_tower.serving.provenance import digest_of, identity_of
from two_tower.serving.rollback import roll_back
from two_tower.serving.versions import recorded_queries, versions

RECORD = {"signature": "serving_default", "inputs": {}, "item_id": [[3, 1]], "score": [[2.0, 1.0]]}


def publish(model_path: str, pushed: str, check: Any = None) -> str:
    """Publishes as Pusher does, without loading the model."""
    return versions_module.publish(model_path, pushed, RECORD, check or (lambda path, record: None))


def model(path: Path, weights: str = "w", graph: str = "g") -> str:
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_text(graph)
    (path / "variables" / "variables.data").write_text(weights)
    return str(path)


def test_equal_digests_mean_equal_files(tmp_path: Path) -> None:
    ours = digest_of(model(tmp_path / "a"))
    assert digest_of(model(tmp_path / "elsewhere" / "b")) == ours
    assert digest_of(model(tmp_path / "c", weights="v")) != ours
    # The same bytes, distributed differently over files and names.
    assert digest_of(model(tmp_path / "d", weights="", graph="gw")) != ours
    (tmp_path / "a" / "variables").rename(tmp_path / "a" / "other")
    assert digest_of(str(tmp_path / "a")) != ours


def test_a_model_is_known_by_its_weights_and_not_by_the_bytes_of_its_graph(tmp_path: Path) -> None:
    # The same training in another run's folder writes another graph: it holds paths.
    ours = identity_of(model(tmp_path / "a"))
    assert identity_of(model(tmp_path / "b", graph="of another run")) == ours
    assert identity_of(model(tmp_path / "c", weights="v")) != ours
    code = tmp_path / "d" / "assets.extra" / "provenance.json"
    other = model(tmp_path / "d")
    code.parent.mkdir()
    recorded = {"code": "edited", "index": {"leaves": 10, "tuning": {"ms_per_query": 0.4}}}
    code.write_text(json.dumps(recorded))
    edited = identity_of(other)
    assert edited != ours
    # The index's tuning measures times, which differ from run to run; what it chose counts.
    recorded["index"] = {"leaves": 10, "tuning": {"ms_per_query": 0.5}}
    code.write_text(json.dumps(recorded))
    assert identity_of(other) == edited
    recorded["index"] = {"leaves": 20, "tuning": {"ms_per_query": 0.5}}
    code.write_text(json.dumps(recorded))
    assert identity_of(other) != edited


def test_versions_count_up_and_nothing_is_overwritten(tmp_path: Path) -> None:
    pushed = tmp_path / "pushed"
    assert versions(str(pushed)) == []
    assert publish(model(tmp_path / "a"), str(pushed)) == str(pushed / "1")
    first = digest_of(str(pushed / "1"))
    (pushed / "9").mkdir()
    (pushed / "notes.txt").write_text("not a version")
    assert publish(model(tmp_path / "b", weights="v"), str(pushed)) == str(pushed / "10")
    assert versions(str(pushed)) == [1, 9, 10]
    assert digest_of(str(pushed / "1")) == first == digest_of(str(tmp_path / "a"))
    assert digest_of(str(pushed / "10")) == digest_of(str(tmp_path / "b"))


def test_a_push_that_was_killed_is_not_seen_and_does_not_hinder_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = tmp_path / "pushed"
    publish(model(tmp_path / "a"), str(pushed))
    copy, copied = storage.copy_file, list[str]()

    def dies_at_the_second_file(source: str, target: str) -> None:
        if copied:
            raise KeyboardInterrupt
        copied.append(source)
        copy(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(storage, "copy_file", dies_at_the_second_file)
        publish(model(tmp_path / "b", weights="v"), str(pushed))
    assert versions(str(pushed)) == [1]
    # Files left by a process killed before its cleanup.
    shutil.copytree(pushed / "1", pushed / ".incoming-2")
    (pushed / ".incoming-2" / "half.pb").touch()
    publish(model(tmp_path / "c", weights="x"), str(pushed))
    assert versions(str(pushed)) == [1, 2]
    assert digest_of(str(pushed / "2")) == digest_of(str(tmp_path / "c"))
    assert shown(pushed) == ["1", "2"]


def shown(pushed: Path) -> list[str]:
    """Lists the push directory without the lock and the records."""
    return sorted({path.name for path in pushed.iterdir()} - {".lock", ".recorded"})


def test_what_is_asked_of_the_copy_is_asked_before_servers_see_it(tmp_path: Path) -> None:
    pushed, source = tmp_path / "pushed", model(tmp_path / "a")
    publish(source, str(pushed))
    asked = []

    def refuse(path: str, record: Any) -> None:
        asked.append((path, record, digest_of(path) == digest_of(source), versions(str(pushed))))
        raise CanaryFailed("The model answers differently.")

    with pytest.raises(CanaryFailed, match="answers differently"):
        publish(source, str(pushed), refuse)
    assert asked == [(str(pushed / ".incoming-2"), RECORD, True, [1])]
    assert shown(pushed) == ["1"]
    publish(source, str(pushed))
    assert recorded_queries(str(pushed), 2) == RECORD


def test_pushes_at_once_wait_for_each_other(tmp_path: Path) -> None:
    pushed = tmp_path / "pushed"
    sources = [model(tmp_path / str(i), weights=str(i)) for i in range(6)]

    def slow(path: str, record: Any) -> None:
        time.sleep(0.02)

    with ThreadPoolExecutor(6) as pool:
        paths = list(pool.map(lambda source: publish(source, str(pushed), slow), sources))
    assert sorted(paths) == [str(pushed / str(version)) for version in range(1, 7)]
    for source, path in zip(sources, paths, strict=True):
        assert digest_of(path) == digest_of(source)


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Recorded calls of a canary that accepts every model."""
    asked: list[tuple[str, Any]] = []
    monkeypatch.setattr(canary, "check", lambda path, record: asked.append((path, record)))
    return asked


def test_rolling_back_publishes_the_model_from_before_under_a_higher_number(
    tmp_path: Path, never_loaded: list[tuple[str, Any]]
) -> None:
    pushed = tmp_path / "pushed"
    for weights in "abc":
        publish(model(tmp_path / weights, weights), str(pushed))

    def in_service() -> str:
        return (pushed / str(versions(str(pushed))[-1]) / "variables" / "variables.data").read_text()

    done = roll_back(str(pushed))
    assert (done.left, done.again, done.path, done.was_asked) == (3, 2, str(pushed / "4"), True)
    assert never_loaded == [(str(pushed / ".incoming-4"), RECORD)]
    assert in_service() == "b"
    # The second rollback goes one model further back.
    assert roll_back(str(pushed)).again == 1 and in_service() == "a"
    with pytest.raises(UserError, match="version 5 is in service, and no earlier model exists"):
        roll_back(str(pushed))
    publish(model(tmp_path / "d", "d"), str(pushed))
    assert roll_back(str(pushed)).again == 5 and in_service() == "a"
    assert versions(str(pushed)) == [1, 2, 3, 4, 5, 6, 7]


def test_there_may_be_nothing_to_go_back_to(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--push"):
        roll_back(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="holds no published version"):
        roll_back(str(tmp_path))


def test_a_version_from_before_queries_were_recorded_is_loaded_alone(
    tmp_path: Path, never_loaded: list[tuple[str, Any]]
) -> None:
    for version in ("1", "2"):
        model(tmp_path / version, version)
    done = roll_back(str(tmp_path))
    assert not done.was_asked and never_loaded == [(str(tmp_path / ".incoming-3"), None)]


# Pusher.


def push(model_path: Path, blessed: bool, pushed: Path, record: Any = RECORD) -> Any:
    from tfx.components.evaluator import constants
    from tfx.types import standard_artifacts

    from two_tower.components.pusher.executor import Executor

    candidate, blessing, result = (
        standard_artifacts.Model(),
        standard_artifacts.ModelBlessing(),
        standard_artifacts.PushedModel(),
    )
    candidate.uri, result.uri = str(model_path), str(model_path) + "-pushed"
    blessing.uri = str(model_path) + "-blessing"
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, int(blessed))
    Path(blessing.uri).mkdir()
    (Path(blessing.uri) / ("BLESSED" if blessed else "NOT_BLESSED")).touch()
    if record is not None:
        (Path(blessing.uri) / canary.FILE_NAME).write_text(json.dumps(record))
    Executor().Do(
        {"model": [candidate], "model_blessing": [blessing]},
        {"pushed_model": [result]},
        {"root": str(pushed.parent)},
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


def test_without_recorded_queries_nothing_is_pushed(tmp_path: Path) -> None:
    model(tmp_path / "first" / "Format-Serving")
    with pytest.raises(CanaryFailed, match="holds no recorded queries"):
        push(tmp_path / "first", True, tmp_path / "pushed", record=None)
    assert versions(str(tmp_path / "pushed")) == []
