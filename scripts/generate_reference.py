#!/usr/bin/env python3
"""Writes the pages of docs/reference that come from the code."""

from __future__ import annotations

from pathlib import Path

from two_tower.evaluation.report.reference import metrics_reference

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"


def main() -> None:
    """Writes docs/reference/metrics.md."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    (REFERENCE / "metrics.md").write_text(metrics_reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
