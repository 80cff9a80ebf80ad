"""Settings that precede the import of TensorFlow (Keras 2, quiet logs), and shared fixtures."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if TYPE_CHECKING:
    from tests.small_world import Transformed


# The groups must exist before xdist reads them.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Groups tests for `make test`, which runs each group in one process.

    A file is a group, since its tests share models. All e2e tests are one group, since they share an output
    directory; a file with a group of its own keeps it.
    """
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        if item.get_closest_marker("xdist_group"):
            continue
        group = "e2e" if item.path.parent.name == "e2e" else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Transformed:
    """World of tests/small_world.py; it takes 20 seconds, mostly for the imports of Transform."""
    from tests.small_world import small_world as transformed

    return transformed(tmp_path_factory.mktemp("small_world"))


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Recorded calls of a canary that accepts every model."""
    from two_tower.serving import canary

    asked: list[tuple[str, Any]] = []
    monkeypatch.setattr(canary, "check", lambda path, record: asked.append((path, record)))
    return asked
