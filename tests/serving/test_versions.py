from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.published_models import RECORD, model
from two_tower.base import pointers, storage
from two_tower.base.errors import UserError
from two_tower.base.pointers import Pointer
from two_tower.serving import provenance, push_record, rollback
from two_tower.serving import versions as versions_module
from two_tower.serving.canary import CanaryFailed
from two_tower.serving.provenance import digest_of, identity_of
from two_tower.serving.push_record import PushRecord
from two_tower.serving.rollback import roll_back
from two_tower.serving.service import in_service
from two_tower.serving.versions import files_of, find_model, newest_version, remove_version, versions


def publish(model_path: str, pushed: str, check: Any = None) -> str:
    """Publishes as Pusher does, without loading the model."""
    record = PushRecord(RECORD)
    return versions_module.publish(model_path, pushed, record, check=check or (lambda path, record: None))


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
        ("0" * 60 + "7", False, 8),
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


def test_the_copy_must_hold_every_byte_that_was_evaluated(
    tmp_path: Path, never_loaded: list[tuple[str, Any]]
) -> None:
    pushed, source = tmp_path / "pushed", model(tmp_path / "a")
    evaluated = PushRecord(RECORD, digest=digest_of(source))
    path = Path(versions_module.publish(source, str(pushed), evaluated, check=lambda path, record: None))
    record = push_record.read(str(pushed), 1)
    assert (record.digest, record.identity) == (digest_of(str(path)), identity_of(str(path)))
    # The canary's few queries would not notice.
    (tmp_path / "a" / "variables" / "variables.data").write_text("W")
    with pytest.raises(CanaryFailed, match=rf"The copy of {source} has the digest"):
        versions_module.publish(source, str(pushed), evaluated, check=lambda path, record: None)
    assert shown(pushed) == ["1"]
    # A version that was damaged in its place is not published again.
    publish(model(tmp_path / "b", "v"), str(pushed))
    (path / "variables" / "variables.data").write_text("W")
    publish(model(tmp_path / "c", "c"), str(pushed))
    assert roll_back(str(pushed)).again == 2
    with pytest.raises(CanaryFailed, match=rf"The copy of {path} has the digest .*Remove {path}, and roll"):
        roll_back(str(pushed))
    assert versions(str(pushed)) == [1, 2, 3, 4]
    # The remedy leads to the model before the damaged one.
    publish(model(tmp_path / "d", "d"), str(pushed))
    (pushed / "4" / "variables" / "variables.data").write_text("W")
    with pytest.raises(CanaryFailed, match=rf"Remove {pushed / '4'}, and roll back again"):
        roll_back(str(pushed))
    shutil.rmtree(pushed / "4")
    assert roll_back(str(pushed)).again == 3


def test_a_rollback_does_not_displace_what_was_published_while_it_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, never_loaded: list[tuple[str, Any]]
) -> None:
    pushed = tmp_path / "pushed"
    for weights in "ab":
        publish(model(tmp_path / weights, weights), str(pushed))
    read = push_record.read

    def reads_while_another_is_published(directory: str, version: int) -> PushRecord:
        monkeypatch.setattr(push_record, "read", read)
        publish(model(tmp_path / "c", "c"), str(pushed))
        return read(directory, version)

    before = rollback.version_before(str(pushed))
    monkeypatch.setattr(rollback, "version_before", lambda directory: before)
    monkeypatch.setattr(push_record, "read", reads_while_another_is_published)
    with pytest.raises(UserError, match=rf"{pushed / '3'} was published while the rollback waited"):
        roll_back(str(pushed))
    assert versions(str(pushed)) == [1, 2, 3]


def test_a_number_that_leaves_no_higher_one_is_named(tmp_path: Path) -> None:
    pushed = tmp_path / "pushed"
    (pushed / str(2**63 - 1)).mkdir(parents=True)
    with pytest.raises(UserError, match=rf"{2**63 - 1}: servers read no number above this one"):
        publish(model(tmp_path / "a"), str(pushed))
    (pushed / str(2**63 - 1)).rename(pushed / str(2**63 - 2))
    assert publish(str(tmp_path / "a"), str(pushed)) == str(pushed / str(2**63 - 1))


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


def test_a_reader_finds_whole_versions_alone_while_others_push_roll_back_and_clean(
    tmp_path: Path, never_loaded: list[tuple[str, Any]]
) -> None:
    pushed = str(tmp_path / "pushed")
    sources = [model(tmp_path / weights, weights * 50_000) for weights in "abcdef"]
    whole = {digest_of(source) for source in sources}
    publish(sources[0], pushed)

    def write() -> None:
        for source in sources[1:]:
            publish(source, pushed)
            roll_back(pushed)
            remove_version(pushed, versions(pushed)[0])

    seen = 0
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not writing.done() or not seen:
            newest = newest_version(pushed)
            assert newest is not None and digest_of(newest) in whole
            seen += 1
        writing.result()
    assert versions(pushed)[-1] == 11


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


def test_a_rollback_that_was_killed_behind_its_publication_goes_no_further_back(
    tmp_path: Path, never_loaded: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, pushed = str(tmp_path), str(tmp_path / "pushed")
    for weights in "abcd":
        record = PushRecord(RECORD, model=model(tmp_path / weights, weights), towers=f"towers {weights}")
        versions_module.publish(record.model, pushed, record)
        pointers.point(root, pointers.BLESSED, Pointer(record.model, {"anchor": record.model}))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pointers, "point", die)
        roll_back(pushed)
    assert versions(pushed) == [1, 2, 3, 4, 5]
    done = roll_back(pushed)
    assert (done.left, done.again, done.path, done.was_asked) == (4, 3, f"{pushed}/5", True)
    pointer = pointers.from_text(pointers.latest(root, pointers.BLESSED))
    assert pointer is not None and pointer.uri == str(tmp_path / "c")
    assert roll_back(pushed).again == 2


def test_records_of_versions_that_do_not_exist_go_with_the_next_push(tmp_path: Path) -> None:
    pushed = tmp_path / "pushed"
    publish(model(tmp_path / "a"), str(pushed))
    for name in ("7.json", "1.json.0123.incoming"):
        (pushed / push_record.FOLDER / name).write_text("{")
    publish(model(tmp_path / "b", "v"), str(pushed))
    assert sorted(path.name for path in (pushed / push_record.FOLDER).iterdir()) == ["1.json", "2.json"]


def test_a_rollback_knows_the_models_by_their_records(
    tmp_path: Path, never_loaded: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for weights in "ab":
        publish(model(tmp_path / weights, weights), str(tmp_path / "pushed"))
    monkeypatch.setattr(
        versions_module, "identity_of", lambda path: pytest.fail(f"{path} was read as a whole")
    )
    with pytest.raises(BaseException, match=r"\.incoming-3 was read as a whole"):
        roll_back(str(tmp_path / "pushed"))  # only the new copy is
    assert versions(str(tmp_path / "pushed")) == [1, 2]


def test_a_model_is_found_from_whatever_names_it(tmp_path: Path) -> None:
    root = tmp_path / "run"
    for weights in "ab":
        publish(model(tmp_path / weights, weights), str(root / "pushed"))
    newest = str(root / "pushed" / "2")
    for name in (newest, str(root / "pushed"), str(root)):
        assert find_model(name) == newest
    served = model(tmp_path / "artifact" / "Format-Serving")
    assert find_model(str(tmp_path / "artifact")) == served
    assert find_model(str(root / "pushed" / "1")) == str(root / "pushed" / "1")
    for nothing in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=f"{nothing} holds no served model. .* `two-tower report`"):
            find_model(str(nothing))


def test_a_version_is_removed_with_its_record_unless_it_is_in_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = tmp_path / "pushed"
    for weights in "abc":
        publish(model(tmp_path / weights, weights), str(pushed))
    renamed, rename = list[tuple[str, str]](), storage.rename

    def noted(source: str, target: str) -> None:
        renamed.append((source, target))
        rename(source, target)

    monkeypatch.setattr(storage, "rename", noted)
    versions_module.remove_version(str(pushed), 2)
    # It leaves all at once, and not by way of the folder that the caller stands in.
    assert renamed == [(str(pushed / "2"), str(pushed / ".incoming-2-removed"))]
    assert shown(pushed) == ["1", "3"]
    assert [Path(push_record.path_of(str(pushed), version)).exists() for version in (1, 2, 3)] == [
        True, False, True
    ]  # fmt: skip
    with pytest.raises(UserError, match=f"{pushed}: version 3 is in service, and stays"):
        versions_module.remove_version(str(pushed), 3)
    assert shown(pushed) == ["1", "3"]
    # A number is never given again.
    assert publish(model(tmp_path / "d", "d"), str(pushed)) == str(pushed / "4")


def test_an_objection_keeps_a_model_from_being_published(tmp_path: Path) -> None:
    pushed, asked = tmp_path / "pushed", list[str]()

    def objection(newest: str) -> str:
        asked.append(newest)
        return "not now" if newest else ""

    for weights in "ab":
        given = (model(tmp_path / weights, weights), str(pushed), PushRecord(RECORD), objection)
        if weights == "a":
            versions_module.publish(*given, check=lambda path, record: None)
            continue
        with pytest.raises(versions_module.NotPublished, match="not now") as raised:
            versions_module.publish(*given, check=lambda path, record: None)
        assert raised.value.newest == str(pushed / "1")
    assert asked == ["", str(pushed / "1")] and shown(pushed) == ["1"]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    publish(model(tmp_path / "a"), str(tmp_path / "pushed"))
    Path(push_record.path_of(str(tmp_path / "pushed"), 1)).write_text('{"digest": ')
    with pytest.raises(UserError, match=r"\.recorded/1\.json is damaged"):
        push_record.read(str(tmp_path / "pushed"), 1)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "7",
        "[" * 100_000,
        '{"canary":' * 100_000,
        '{"canary": "text"}',
        '{"model": 7}',
        '{"copy_of": "1"}',
        '{"copy_of": true}',
        '{"more": 1}',
        None,
    ],
)
def test_a_record_of_any_other_content_is_named_and_reports_go_on(
    content: str | None, tmp_path: Path
) -> None:
    pushed = str(tmp_path / "pushed")
    for name in "ab":
        publish(model(tmp_path / name, weights=name), pushed)
    path = Path(push_record.path_of(pushed, 1))
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    with pytest.raises(UserError, match=rf"{path} is damaged"):
        roll_back(pushed)
    assert versions(pushed) == [1, 2]
    found = in_service(pushed)
    assert found is not None and found.version == 2
    # It is not told that there is no earlier model.
    assert found.before is None and f"{path} is damaged" in found.fault


@pytest.mark.parametrize(
    "name", [".recorded/1.json", "../latest_blessed.json", "1/assets.extra/provenance.json"]
)
def test_a_link_to_nothing_is_no_missing_file(name: str, tmp_path: Path) -> None:
    pushed = tmp_path / "pushed"
    for weights in "ab":
        folder = Path(model(tmp_path / weights, weights=weights))
        (folder / "assets.extra").mkdir()
        (folder / "assets.extra" / "provenance.json").write_text("{}")
        publish(str(folder), str(pushed))
    path = pushed / name
    path.unlink(missing_ok=True)
    path.symlink_to("nowhere")
    with pytest.raises((UserError, CanaryFailed), match=r"a (symbolic )?link"):
        roll_back(str(pushed))
    assert versions(str(pushed)) == [1, 2]
    if name.startswith("1/"):
        with pytest.raises(UserError, match="a link to nowhere"):
            provenance.read(str(pushed / "1"))


def test_a_damaged_pointer_stops_a_rollback_before_it_publishes(tmp_path: Path) -> None:
    """Keeps the version in service: afterwards, a second rollback would go one model too far."""
    pushed = tmp_path / "pushed"
    for weights in "ab":
        publish(model(tmp_path / weights, weights=weights), str(pushed))
    (tmp_path / "latest_blessed.json").write_text("{")
    with pytest.raises(UserError, match=r"latest_blessed\.json is damaged"):
        roll_back(str(pushed))
    assert versions(str(pushed)) == [1, 2]


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
    # Its place stands for the artifact that nobody recorded.
    record, place = push_record.read(str(tmp_path), 3), str(tmp_path / "1")
    assert (record.model, record.anchor, record.copy_of) == (place, place, 1)
