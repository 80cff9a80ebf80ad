from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path

import pytest

from two_tower.base import import_closure as module
from two_tower.base.import_closure import import_closure, import_digest

EXECUTOR = "two_tower.room.executor"
SOURCES = {
    "__init__.py": "",
    "constraints.txt": "numpy==1.26.4 \\\n    --hash=sha256:0\nruff==0.5.0\n",
    "room/__init__.py": "",
    "room/schema.pbtxt": "feature {}\n",
    "room/executor.py": "from two_tower.deep import layer\nimport numpy\n",
    "deep/__init__.py": "",
    "deep/layer.py": (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from two_tower import annotated\n"
        "if not TYPE_CHECKING:\n    from two_tower import guarded\n"
        "def build():\n    from .inside import value\n    return value, 'two_tower.named.preprocessing_fn'\n"
    ),
    "deep/inside.py": "value = 1\n",
    "named.py": "def preprocessing_fn(): ...\n",
    "annotated.py": "",
    "guarded.py": "a = 1\n",
    "outside.py": "from two_tower.room import executor\n",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_closure_holds_imports_in_functions_and_modules_named_by_a_text(root: Path) -> None:
    assert import_closure(EXECUTOR) == {
        "two_tower",
        "two_tower.room",
        "two_tower.room.executor",
        "two_tower.deep",
        "two_tower.deep.layer",
        "two_tower.deep.inside",
        "two_tower.named",
        "two_tower.guarded",
    }


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("room/executor.py", SOURCES["room/executor.py"] + "a = 1\n"),
        ("deep/inside.py", "value = 2\n"),
        ("deep/__init__.py", "value = 2\n"),
        ("named.py", "def preprocessing_fn(): return 1\n"),
        ("guarded.py", "a = 2\n"),
        ("room/schema.pbtxt", "feature { name: 'a' }\n"),
        ("constraints.txt", SOURCES["constraints.txt"].replace("1.26.4", "1.26.5")),
    ],
)
def test_an_edit_within_the_closure_changes_the_digest(root: Path, file: str, text: str) -> None:
    before = import_digest(EXECUTOR)
    (root / file).write_text(text)
    assert import_digest(EXECUTOR) != before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("outside.py", "a = 1\n"),
        ("annotated.py", "a = 1\n"),
        ("deep/new.py", "a = 1\n"),
        ("room/.executor.py.swp", "a"),
        ("room/NOTES.md", "a"),
        ("deep/inside.py", '"""A docstring."""\n\nvalue = 1  # a comment\n'),
        ("constraints.txt", SOURCES["constraints.txt"].replace("0.5.0", "0.5.1")),
    ],
)
def test_an_edit_outside_and_an_explanation_leave_the_digest(root: Path, file: str, text: str) -> None:
    before = import_digest(EXECUTOR)
    (root / file).write_text(text)
    assert import_digest(EXECUTOR) == before


def test_a_help_text_leaves_the_digest_and_a_default_changes_it(root: Path) -> None:
    def digest(text: str) -> str:
        (root / "deep" / "inside.py").write_text(text)
        return import_digest(EXECUTOR)

    first = digest("value = setting(1, help='Rate.')\n")
    assert digest("value = setting(1, help='Learning rate.')\n") == first
    assert digest("value = setting(2, help='Rate.')\n") != first


def test_a_text_that_reports_show_changes_the_digest(root: Path) -> None:
    (root / "deep" / "inside.py").write_text("value = Metric(meaning='hits')\n")
    before = import_digest(EXECUTOR)
    (root / "deep" / "inside.py").write_text("value = Metric(meaning='hits among k')\n")
    assert import_digest(EXECUTOR) != before


def test_every_data_file_of_a_room_has_a_suffix_that_is_keyed_and_installed() -> None:
    root = module._ROOT
    tracked = subprocess.run(["git", "ls-files"], cwd=root.parent, capture_output=True, text=True, check=True)
    rooms = {place.name for place in root.iterdir() if place.is_dir() and not place.name.startswith("_")}
    data = [
        Path(name)
        for name in tracked.stdout.splitlines()
        if name.split("/")[0] in rooms and not name.endswith(".py")
    ]
    assert data
    assert {path.suffix for path in data} == module.DATA_SUFFIXES
    assert all((root.parent / path.parent / "__init__.py").is_file() for path in data)
    setup = (root.parent / "setup.py").read_text(encoding="utf-8")
    assert all(f'"*{suffix}"' in setup for suffix in module.DATA_SUFFIXES)


def test_a_package_counts_with_the_packages_that_it_requires(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module._requirements.cache_clear()
    monkeypatch.setattr(
        importlib.metadata,
        "requires",
        lambda name: ["ruff>=0.5", "absent; extra == 'none'"] if name == "numpy" else [],
    )
    before = import_digest(EXECUTOR)
    (root / "constraints.txt").write_text(SOURCES["constraints.txt"].replace("0.5.0", "0.5.1"))
    assert import_digest(EXECUTOR) != before
    module._requirements.cache_clear()


def test_a_checkout_elsewhere_has_the_same_digest(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = import_digest(EXECUTOR)
    moved = root.with_name(root.name + "-moved")
    root.rename(moved)
    monkeypatch.setattr(module, "_ROOT", moved)
    assert import_digest(EXECUTOR) == before


def test_a_module_that_does_not_exist_is_an_error(root: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"two_tower\.gone"):
        import_digest("two_tower.gone")
