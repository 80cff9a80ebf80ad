"""What must be set before TensorFlow is imported (Keras 2, quiet logs), and what several tests share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if TYPE_CHECKING:
    from tests.small_world import Transformed


# Before xdist reads the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What `make test` runs in one process: a file, since its tests share models, and all whole runs, which
    share an output directory."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        group = "e2e" if item.path.parent.name == "e2e" else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Transformed:
    """See tests/small_world.py; 20 seconds, most of them for importing what Transform needs."""
    from tests.small_world import small_world as transformed

    return transformed(tmp_path_factory.mktemp("small_world"))
