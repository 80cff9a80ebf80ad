from __future__ import annotations

import pathlib
import uuid

import pytest


@pytest.fixture(params=["local", "memory"])
def data(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """Path of a data directory, local or remote."""
    if request.param == "local":
        return str(tmp_path / "data")
    return f"memory://{uuid.uuid4().hex}/data"
