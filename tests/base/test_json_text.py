"""Property of the JSON parser: every fault of a text is a ValueError."""

from __future__ import annotations

import json

import pytest

from two_tower.base import json_text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        '{"a":' * 100_000,
        "NaN",
        "[-Infinity]",
        "1e999",
        "9" * 5_000,
        '"\\ud800"',
        '{"\\uDFFF": 1}',
        "\ufeff{}",
    ],
    ids=lambda text: text[:12],
)
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_text.parse(text)


def test_json_is_read_as_it_was_written() -> None:
    content = {"a": [1, 2.5, None, True, "\U0001f3b5 é"], "b": {"c": -1e-300}}
    assert json_text.parse(json.dumps(content)) == content
