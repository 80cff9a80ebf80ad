from __future__ import annotations

from pathlib import Path

from two_tower.serving.request_reference import request_reference

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "request.md"


def test_the_page_of_requests_is_what_the_table_says() -> None:
    stale = "docs/reference/request.md is stale: run scripts/generate_reference.py"
    assert PAGE.read_text(encoding="utf-8") == request_reference(), stale
