"""Checks of one request against the table of served inputs."""

from __future__ import annotations

import difflib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from two_tower.schema import features
from two_tower.schema.request_inputs import MOST_VALUES, PER_EVENT, RequestInput

Request = Mapping[str, Any]
# Largest magnitude that a served type holds.
_LARGEST = {"int32": 2**31 - 1, "int64": 2**63 - 1, "float32": (2 - 2**-23) * 2.0**127}


def complaints(request: Request, inputs: Mapping[str, RequestInput]) -> Iterator[str]:
    """Yields each fault of a request with field and value; nothing for a valid request.

    Args:
        request: values by name, as in a row of the "instances" of TensorFlow Serving's REST API.
        inputs: allowed inputs by name.
    """
    yield from complaints_of_names(request, inputs)
    for name, value in request.items():
        if name in inputs:
            yield from _of_input(inputs[name], value, request)
    items = request.get(features.HISTORY_ITEM_ID)
    if not isinstance(items, list):
        return
    for name, value in request.items():
        is_parallel = name in inputs and inputs[name].shape == PER_EVENT and isinstance(value, list)
        if is_parallel and len(value) != len(items) and not is_default(inputs[name], value):
            yield f"{name} has {len(value)} values, and {features.HISTORY_ITEM_ID} {len(items)}"
    times = request.get(features.HISTORY_TIMESTAMP)
    if isinstance(times, list) and len(items) == len(times):
        yield from _of_order(items, times)


def complaints_of_names(names: Iterable[str], inputs: Mapping[str, RequestInput]) -> Iterator[str]:
    """Yields each required input that is not among `names`, and each name that is no input."""
    given = list(names)
    for one in inputs.values():
        if one.is_required and one.name not in given:
            yield f"{one.name} is missing"
    for name in given:
        if name not in inputs:
            nearest = difflib.get_close_matches(name, inputs, n=1, cutoff=0)[0]
            yield f"there is no field {name}; the nearest is {nearest}"


def is_default(one: RequestInput, value: Any) -> bool:
    """Tells if a query's value is the input's default, which stands for all of its places."""
    if one.is_required:
        return False
    if one.is_single:
        return _is_same(value, one.default)
    return (
        isinstance(value, list)
        and len(value) == (one.width or 1)
        and all(_is_same(part, one.default) for part in value)
    )


def _is_same(value: Any, default: Any) -> bool:
    if isinstance(value, bool) or isinstance(value, str) != isinstance(default, str):
        return False
    is_nan = isinstance(default, float) and math.isnan(default)
    return isinstance(value, float) and math.isnan(value) if is_nan else value == default


def shown(value: Any) -> str:
    """Returns a value as JSON, cut to 40 characters."""
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _of_order(items: list[Any], times: list[Any]) -> Iterator[str]:
    """Yields the first event that is older than the one before it."""
    known = [
        (place, time)
        for place, (item, time) in enumerate(zip(items, times, strict=True))
        if _is_number(time) and _is_item(item)
    ]
    for (_, before), (place, time) in itertools.pairwise(known):
        if time < before:
            yield (
                f"{features.HISTORY_TIMESTAMP}[{place}] is {time}, after {before}; order the history, oldest "
                "first"
            )
            return


def _of_input(one: RequestInput, value: Any, request: Request) -> Iterator[str]:
    if one.is_single:
        if isinstance(value, list):
            yield f"{one.name} is a list, where one value is expected"
        elif complaint := _of_value(one, value):
            yield f"{one.name} {complaint}"
        return
    if not isinstance(value, list):
        yield f"{one.name} is {shown(value)}, where a list is expected"
        return
    if len(value) > MOST_VALUES:
        yield f"{one.name} has {len(value):,} values, and a list takes {MOST_VALUES:,} at most"
        return
    if one.width and len(value) != one.width:
        yield f"{one.name} has {len(value)} values, where {one.width} are expected"
    items = request.get(features.HISTORY_ITEM_ID)
    is_parallel = one.shape == PER_EVENT and isinstance(items, list) and len(items) == len(value)
    for place, part in enumerate(value):
        # A negative item id, or an empty text, is padding, and so are the values at its position.
        is_padding = is_parallel and items is not None and _is_padding(items[place])
        if (complaint := _of_value(one, part)) and not is_padding:
            yield f"{one.name}[{place}] {complaint}"


def _of_value(one: RequestInput, value: Any) -> str:
    """Returns the fault of one value, or ""."""
    if one.dtype == "string":
        if not isinstance(value, str) and not (isinstance(value, dict) and set(value) == {"b64"}):
            return f"is {shown(value)}, where a {one.value_words} is expected"
        if (
            isinstance(value, str)
            and not value.isascii()
            and value.encode(errors="replace").decode() != value
        ):
            return f"is {shown(value)}, which is no text of UTF-8: it holds half of a character"
        if one.allowed and value and value not in one.allowed:
            nearest = difflib.get_close_matches(str(value), one.allowed, n=1, cutoff=0)[0]
            return f"is {value!r}; the nearest allowed value is {nearest!r}"
        return ""
    is_whole = one.dtype != "float32"
    if not _is_number(value) or (is_whole and not isinstance(value, int)):
        return f"is {shown(value)}, where a {one.value_words} is expected"
    if one.is_special(value):
        return ""
    if abs(value) > _LARGEST[one.dtype] and abs(value) != math.inf:
        return f"is {shown(value)}, which is beyond {one.dtype}"
    if not math.isfinite(value):
        return f"is {value}, which is not a finite number"
    least = -math.inf if one.least is None else one.least
    greatest = math.inf if one.greatest is None else one.greatest
    if not least <= value <= greatest:
        upper = f" to {greatest:,}" if math.isfinite(greatest) else ""
        return f"is {value}, where values from {least:,}{upper} are expected"
    return ""


def _is_padding(item: Any) -> bool:
    return item == "" or (_is_number(item) and item < 0)


def _is_item(item: Any) -> bool:
    return (isinstance(item, str) or _is_number(item)) and not _is_padding(item)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
