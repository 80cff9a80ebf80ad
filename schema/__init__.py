"""The curated schemas of interactions and of the catalog, as package data."""

from pathlib import Path


def read(name: str) -> str:
    """Text of `schema/<name>.pbtxt`: "interactions" or "catalog"."""
    return (Path(__file__).parent / f"{name}.pbtxt").read_text(encoding="utf-8")
