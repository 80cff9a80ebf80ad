from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import source_digest as module
from pipeline.source_digest import source_digest


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    (tmp_path / "trainer" / "deep").mkdir(parents=True)
    (tmp_path / "trainer" / "towers.py").write_text("a = 1\n")
    (tmp_path / "trainer" / "deep" / "layer.py").write_text("b = 1\n")
    (tmp_path / "schema.pbtxt").write_text("feature {}\n")
    return tmp_path


def test_an_edit_a_new_file_and_a_new_name_change_the_digest(root: Path) -> None:
    digests = {source_digest("trainer", "schema.pbtxt")}
    (root / "trainer" / "deep" / "layer.py").write_text("b = 2\n")
    digests.add(source_digest("trainer", "schema.pbtxt"))
    (root / "trainer" / "new.py").write_text("")
    digests.add(source_digest("trainer", "schema.pbtxt"))
    (root / "trainer" / "new.py").rename(root / "trainer" / "renamed.py")
    digests.add(source_digest("trainer", "schema.pbtxt"))
    (root / "schema.pbtxt").write_text("feature { }\n")
    digests.add(source_digest("trainer", "schema.pbtxt"))
    assert len(digests) == 5


def test_only_content_counts(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = source_digest("trainer")
    (root / "trainer" / "towers.py").write_text("a = 1\n")  # again, at another time
    (root / "trainer" / "towers.pyc").write_text("compiled")
    (root / "trainer" / "notes.md").write_text("prose")
    assert source_digest("trainer") == before
    assert source_digest("trainer/towers.py") != before


def test_a_checkout_elsewhere_has_the_same_digest(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = source_digest("trainer")
    moved = root.with_name(root.name + "-moved")
    root.rename(moved)
    monkeypatch.setattr(module, "_ROOT", moved)
    assert source_digest("trainer") == before


@pytest.mark.parametrize("name", ["trainer/gone.py", "gone"])
def test_a_name_that_stands_for_nothing_is_an_error(root: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        source_digest(name)
    (root / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty"):
        source_digest("empty")
