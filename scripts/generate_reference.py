#!/usr/bin/env python3
"""Writes the pages of docs/reference that come from the code."""

from __future__ import annotations

from pathlib import Path

from two_tower.base import console
from two_tower.evaluation.report.reference import metrics_reference
from two_tower.pipeline.settings.settings_help import settings_reference
from two_tower.serving.request_reference import request_reference

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"


def main() -> None:
    """Writes metrics.md, request.md and settings.md."""
    pages = {"metrics": metrics_reference, "request": request_reference, "settings": settings_reference}
    with console.hushed():  # TensorFlow writes to the terminal while it loads.
        texts = {name: text() for name, text in pages.items()}
    for name, text in texts.items():
        (REFERENCE / f"{name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
