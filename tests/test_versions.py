from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.pusher.versions import digest_of, publish, versions


def model(path: Path, weights: str = "w", graph: str = "g") -> str:
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_text(graph)
    (path / "variables" / "variables.data").write_text(weights)
    return str(path)


def test_equal_digests_mean_equal_files(tmp_path: Path) -> None:
    ours = digest_of(model(tmp_path / "a"))
    assert digest_of(model(tmp_path / "elsewhere" / "b")) == ours
    assert digest_of(model(tmp_path / "c", weights="v")) != ours
    # The same bytes, differently cut into files and names.
    assert digest_of(model(tmp_path / "d", weights="", graph="gw")) != ours
    (tmp_path / "a" / "variables").rename(tmp_path / "a" / "other")
    assert digest_of(str(tmp_path / "a")) != ours


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
    from tfx.dsl.io import fileio

    copy, copied = fileio.copy, list[str]()

    def dies_at_the_second_file(source: str, target: str) -> None:
        if copied:
            raise KeyboardInterrupt
        copied.append(source)
        copy(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fileio, "copy", dies_at_the_second_file)
        publish(model(tmp_path / "b", weights="v"), str(pushed))
    assert versions(str(pushed)) == [1]
    publish(model(tmp_path / "c", weights="x"), str(pushed))
    assert versions(str(pushed)) == [1, 2]
    assert digest_of(str(pushed / "2")) == digest_of(str(tmp_path / "c"))


# The component.


def push(model_path: Path, blessed: bool, pushed: Path) -> Any:
    from tfx.components.evaluator import constants
    from tfx.types import standard_artifacts

    from components.pusher.executor import Executor

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
    Executor().Do(
        {"model": [candidate], "model_blessing": [blessing]},
        {"pushed_model": [result]},
        {"push_directory": str(pushed)},
    )
    return result


def test_a_blessed_model_is_pushed_once_and_a_refused_one_never(tmp_path: Path) -> None:
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
    assert versions(str(pushed)) == [1]

    better = push(tmp_path / "better", True, pushed)
    assert better.get_string_custom_property("pushed_destination") == str(pushed / "2")
    assert digest_of(str(pushed / "1")) == digest_of(str(tmp_path / "first" / "Format-Serving"))
