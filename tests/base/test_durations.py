"""Tests of durations as text."""

from __future__ import annotations

import pytest

from two_tower.base.durations import milliseconds


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123456, "0.0123 ms"), (11.04, "11 ms"), (1100.4, "1,100 ms"), (2_345_678, "2,350,000 ms")],
)
def test_milliseconds_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert milliseconds(value) == text
