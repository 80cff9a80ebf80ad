"""docs/reference/metrics.md is what the objects say."""

from __future__ import annotations

from pathlib import Path

from two_tower.evaluation.report.reference import metrics_reference

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == metrics_reference(), (
        "docs/reference/metrics.md is stale: run scripts/generate_reference.py"
    )


def test_every_row_has_as_many_cells_as_its_table() -> None:
    widths: list[int] = []
    for line in metrics_reference().splitlines():
        if not line.startswith("|"):
            widths = []
            continue
        widths.append(line.replace("\\|", "").count("|"))
        assert widths[0] == widths[-1], line
