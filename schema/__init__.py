"""Curated schemas as text, and the names of features."""

from __future__ import annotations

from pathlib import Path


def text(name: str) -> str:
    """Returns the text of `schema/<name>.pbtxt`; `name` is "interactions" or "catalog"."""
    return (Path(__file__).parent / f"{name}.pbtxt").read_text(encoding="utf-8")
