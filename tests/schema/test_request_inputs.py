from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest

from two_tower.schema.request_checks import complaints
from two_tower.schema.request_inputs import (
    LIST,
    PER_CALL,
    PER_EVENT,
    PER_QUERY,
    REQUEST_INPUTS,
    RequestInput,
    Shape,
)

LEAST = {"user_id": 1, "history_item_id": [3, 4], "history_timestamp": [1, 2]}


def test_a_server_reads_the_table_and_checks_requests_without_tensorflow() -> None:
    script = (
        "import sys; import two_tower.schema.request_checks; "
        "assert not {'tensorflow', 'tensorflow_metadata', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("shape", "width", "sizes", "value"),
    [
        (PER_CALL, 0, [], 0.5),
        (PER_QUERY, 0, [None], [0.5]),
        (PER_EVENT, 0, [None, None], [[0.5]]),
        (LIST, 0, [None, None], [[0.5]]),
        (LIST, 3, [None, 3], [[0.5, 0.5, 0.5]]),
    ],
)
def test_a_default_has_dimensions_of_one_which_broadcast(
    shape: Shape, width: int, sizes: list[int | None], value: Any
) -> None:
    one = RequestInput("x", shape, "float32", "a toy", default=0.5, width=width)
    assert (one.sizes, one.default_value) == (sizes, value)


def test_what_stands_for_a_missing_value_is_no_complaint() -> None:
    for one in REQUEST_INPUTS.values():
        if one.is_required:
            without = {name: value for name, value in LEAST.items() if name != one.name}
            assert f"{one.name} is missing" in complaints(without, REQUEST_INPUTS)
        else:
            default = one.default if one.is_single else [one.default]
            assert not list(complaints({**LEAST, one.name: default}, REQUEST_INPUTS)), one.name


def test_not_a_number_is_taken_where_it_means_that_a_number_is_not_known() -> None:
    ages = {**REQUEST_INPUTS, "age": RequestInput("age", PER_QUERY, "float32", "a toy", math.nan)}
    heights = {**REQUEST_INPUTS, "age": RequestInput("age", PER_QUERY, "float32", "a toy", 0.0)}
    request = {**LEAST, "age": math.nan}
    assert not list(complaints(request, ages))
    assert list(complaints(request, heights)) == ["age is nan, which is not a finite number"]


def test_the_history_s_lists_are_as_long_as_its_items_whatever_they_are_called() -> None:
    moods = {**REQUEST_INPUTS, "mood": RequestInput("mood", PER_EVENT, "string", "a toy", "")}
    assert list(complaints({**LEAST, "mood": ["a", "b", "c"]}, moods)) == [
        "mood has 3 values, and history_item_id 2"
    ]
    # Only the default stands for all events.
    assert not list(complaints({**LEAST, "mood": [""]}, moods))
    assert list(complaints({**LEAST, "mood": ["a"]}, moods)) == ["mood has 1 values, and history_item_id 2"]
