"""Folders that look like served models, and the record of their queries, for tests that load none."""

from __future__ import annotations

from pathlib import Path

RECORD = {"signature": "serving_default", "inputs": {}, "item_id": [[3, 1]], "score": [[2.0, 1.0]]}


def model(path: Path, weights: str = "w", graph: str = "g") -> str:
    """Writes a model's files and returns the folder."""
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_text(graph)
    (path / "variables" / "variables.data").write_text(weights)
    return str(path)
