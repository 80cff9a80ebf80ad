from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from two_tower.base import pointers, storage
from two_tower.base.errors import UserError
from two_tower.base.pointers import Pointer
from two_tower.serving import canary, push_record
from two_tower.serving import versions as versions_module
from two_tower.serving.canary import CanaryFailed
from two_tower.serving.provenance import digest_of, identity_of
from two_tower.serving.push_record import PushRecord
from two_tower.serving.rollback import roll_back
from two_tower.serving.versions import files_of, versions

RECORD = {"signature": "serving_default", "inputs": {}, "item_id": [[3, 1]], "score": [[2.0, 1.0]]}


def publish(model_path: str, pushed: str, check: Any = None) -> str:
    """Publishes as Pusher does, without loading the model."""
    record = PushRecord(RECORD)
    return versions_module.publish(model_path, pushed, record, check=check or (lambda path, record: None))


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


@pytest.mark.parametrize(
    ("name", "is_file", "next_number"),
    [
        ("007", False, 8),
        ("5", True, 6),
        ("²", False, 2),
        ("9" * 30, False, 2),
        ("-3", False, 2),
        ("٣", True, 2),
    ],
)
def test_a_name_that_servers_read_as_a_number_is_passed_over(
    tmp_path: Path, name: str, is_file: bool, next_number: int
) -> None:
    """Checks for a next number above all that a server may read: it would go on serving the other one."""
    pushed = tmp_path / "pushed"
    publish(model(tmp_path / "a"), str(pushed))
    (pushed / name).touch() if is_file else (pushed / name).mkdir()
    assert versions(str(pushed)) == [1]
    assert publish(model(tmp_path / "b", "v"), str(pushed)) == str(pushed / str(next_number))
    assert versions(str(pushed)) == [1, next_number]


def test_a_link_among_a_push_is_neither_followed_nor_copied(tmp_path: Path) -> None:
    pushed, elsewhere = tmp_path / "pushed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept.txt").write_text("not ours")
    pushed.mkdir()
    (pushed / ".incoming-1").symlink_to(elsewhere)
    publish(model(tmp_path / "a"), str(pushed))
    assert [path.name for path in elsewhere.iterdir()] == ["kept.txt"]
    assert shown(pushed) == ["1"]

    for name in ("variables/more", "variables.index"):
        linked = Path(model(tmp_path / name / "model"))
        (linked / name).symlink_to(elsewhere if "more" in name else elsewhere / "kept.txt")
        with pytest.raises(CanaryFailed, match=f"{name} is a symbolic link"):
            publish(str(linked), str(pushed))
    for name in (".lock", ".recorded"):
        shutil.rmtree(pushed / name) if name == ".recorded" else (pushed / name).unlink()
        (pushed / name).symlink_to(elsewhere if name == ".recorded" else elsewhere / "kept.txt")
        with pytest.raises(UserError, match=f"{name} is a symbolic link"):
            publish(model(tmp_path / f"of {name}"), str(pushed))
        (pushed / name).unlink()
        (pushed / name).mkdir() if name == ".recorded" else None
    assert (elsewhere / "kept.txt").read_text() == "not ours" and versions(str(pushed)) == [1]


def test_the_copy_must_hold_every_byte_that_was_evaluated(tmp_path: Path) -> None:
    pushed, source = tmp_path / "pushed", model(tmp_path / "a")
    evaluated = PushRecord(RECORD, digest=digest_of(source))
    path = Path(versions_module.publish(source, str(pushed), evaluated, check=lambda path, record: None))
    record = push_record.read(str(pushed), 1)
    assert (record.digest, record.identity) == (digest_of(str(path)), identity_of(str(path)))
    # The canary's few queries would not notice.
    (tmp_path / "a" / "variables" / "variables.data").write_text("W")
    with pytest.raises(CanaryFailed, match="the evaluated ones had"):
        versions_module.publish(source, str(pushed), evaluated, check=lambda path, record: None)
    assert shown(pushed) == ["1"]
    # A version that was damaged in its place is not published again.
    publish(model(tmp_path / "b", "v"), str(pushed))
    (path / "variables" / "variables.data").write_text("W")
    with pytest.raises(CanaryFailed, match="the evaluated ones had"):
        roll_back(str(pushed))
    assert versions(str(pushed)) == [1, 2]


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
    assert push_record.read(str(pushed), 2).canary == RECORD


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


def test_after_a_rollback_the_next_model_is_compared_with_the_one_in_service(
    tmp_path: Path, never_loaded: list[tuple[str, Any]]
) -> None:
    root = str(tmp_path)
    for weights in "ab":
        record = PushRecord(RECORD, model=model(tmp_path / weights, weights), towers=f"towers {weights}")
        versions_module.publish(record.model, str(tmp_path / "pushed"), record)
        pointers.point(root, pointers.BLESSED, Pointer(record.model, {"anchor": record.model}))
    roll_back(str(tmp_path / "pushed"))
    pointer = pointers.from_text(pointers.latest(root, pointers.BLESSED))
    assert pointer is not None and pointer.uri == str(tmp_path / "a")
    assert pointer.properties == {"towers_uri": "towers a", "anchor": str(tmp_path / "a")}
    record = push_record.read(str(tmp_path / "pushed"), 3)
    assert (record.copy_of, record.model) == (1, str(tmp_path / "a"))
    # Where the artifact is gone, the published copy holds the same files.
    assert files_of(pointer.uri, root) == str(tmp_path / "a")
    shutil.rmtree(tmp_path / "a")
    assert files_of(pointer.uri, root) == str(tmp_path / "pushed" / "3")
    assert files_of(str(tmp_path / "gone"), root) == str(tmp_path / "gone" / "Format-Serving")


def test_a_rollback_knows_the_models_by_their_records(
    tmp_path: Path, never_loaded: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for weights in "ab":
        publish(model(tmp_path / weights, weights), str(tmp_path / "pushed"))
    monkeypatch.setattr(
        versions_module, "identity_of", lambda path: pytest.fail(f"{path} was read as a whole")
    )
    with pytest.raises(BaseException, match="was read as a whole"):
        roll_back(str(tmp_path / "pushed"))  # only the new copy is
    assert versions(str(tmp_path / "pushed")) == [1, 2]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    publish(model(tmp_path / "a"), str(tmp_path / "pushed"))
    Path(push_record.path_of(str(tmp_path / "pushed"), 1)).write_text('{"digest": ')
    with pytest.raises(UserError, match=r"\.recorded/1\.json is damaged"):
        push_record.read(str(tmp_path / "pushed"), 1)


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


def push(
    model_path: Path,
    blessed: bool,
    pushed: Path,
    record: Any = RECORD,
    evaluated: str = "",
    anchor: str = "",
) -> Any:
    from tfx.components.evaluator import constants
    from tfx.types import standard_artifacts

    from two_tower.components.pusher.executor import Executor

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
    assert "training data ends later" in older.get_string_custom_property("not_pushed_because")
    in_service = pointers.from_text(pointers.latest(str(tmp_path), pointers.BLESSED))
    assert in_service is not None and in_service.uri == str(tmp_path / "tuesday")
    # As old, of another data set, or without times: none is older.
    push(served("again", dataset="ours", train_newest_timestamp=200), True, pushed)
    push(served("other", dataset="theirs", train_newest_timestamp=100), True, pushed)
    push(served("timeless", dataset="theirs", train_newest_timestamp=0), True, pushed)
    assert versions(str(pushed)) == [1, 2, 3, 4]


def test_a_damaged_version_in_service_is_replaced(
    tmp_path: Path, never_loaded: list[tuple[str, Any]]
) -> None:
    pushed = tmp_path / "pushed"
    for name in "ab":
        model(tmp_path / name / "Format-Serving", name)
        provenance_of(tmp_path / name)
    push(tmp_path / "a", True, pushed)
    (pushed / "1" / "assets.extra" / "provenance.json").write_text("{")
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
