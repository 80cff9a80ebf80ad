"""Property of the distribution: one import name, with every room below it."""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages

ROOT = Path(__file__).parents[2]


def test_what_is_installed_claims_one_import_name_and_holds_every_room() -> None:
    packages = find_packages(str(ROOT), include=["two_tower", "two_tower.*"])
    assert {name.split(".")[0] for name in packages} == {"two_tower"}
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"two_tower", "tests"}
    assert {name.split(".")[1] for name in packages if "." in name} == rooms


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for room in ROOT.glob("two_tower/*/") for path in room.rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []
