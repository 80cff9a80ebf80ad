"""Bodies of TensorFlow Serving's REST API, taken apart into single requests.

A body has rows in `instances`, or columns in `inputs`. The server makes one tensor of each input, so that its
lists are equally long. Of rows it makes a value for each query; `k`, one per call, only a column can give.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from two_tower.schema import features
from two_tower.schema.request_checks import Request, complaints_of_names, is_default, shown
from two_tower.schema.request_inputs import PER_CALL, RequestInput

# Keys of a body.
INSTANCES, INPUTS = "instances", "inputs"
# A request or a fault: the place within the body, and either.
Part = tuple[str, Request | str]


def is_body(content: Any) -> bool:
    """Tells a body from a single request."""
    return isinstance(content, Mapping) and bool({INSTANCES, INPUTS} & content.keys())


def requests_of(body: Mapping[str, Any], inputs: Mapping[str, RequestInput]) -> Iterator[Part]:
    """Yields the requests of a body, and the faults of the body as a whole.

    Args:
        body: the body.
        inputs: allowed inputs by name.

    Yields:
        The place within the body, such as "instance 2", "query 2" or "", and a request or a fault's text.
    """
    if INSTANCES in body and INPUTS in body:
        yield "", f"the body has both {INSTANCES} and {INPUTS}, where one of them is expected"
    elif INSTANCES in body:
        yield from _of_rows(body[INSTANCES], inputs)
    else:
        yield from _of_columns(body[INPUTS], inputs)


def values_of(content: Any, name: str) -> Iterator[Any]:
    """Yields the values of an input in a request or a body, single or in lists."""
    if not isinstance(content, Mapping):
        return
    rows = content.get(INSTANCES, content.get(INPUTS, content))
    for row in rows if isinstance(rows, list) else [rows]:
        if isinstance(row, Mapping) and name in row:
            yield from _flat(row[name])


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for part in value:
            yield from _flat(part)
    else:
        yield value


def _of_rows(rows: Any, inputs: Mapping[str, RequestInput]) -> Iterator[Part]:
    if not isinstance(rows, list) or not rows:
        yield "", f"{INSTANCES} is {shown(rows)}, where a list of requests is expected"
        return
    valid = []
    for number, row in enumerate(rows, start=1):
        if isinstance(row, Mapping):
            valid.append(row)
            yield f"instance {number}", row
        else:
            yield f"instance {number}", f"{shown(row)}, where an object with named fields is expected"
    for name, one in inputs.items():
        given = [row[name] for row in valid if name in row]
        if given and one.shape == PER_CALL:
            yield (
                "",
                f"{name} is one per call, and {INSTANCES} give one of each to a query: send the columns "
                f"of the batch as {INPUTS}",
            )
        elif 0 < len(given) < len(valid) and not one.is_required:
            yield "", f"{name} is in {len(given)} of {len(valid)} instances: all have the same fields"
        yield from _of_lengths(one, given)


def _of_columns(columns: Any, inputs: Mapping[str, RequestInput]) -> Iterator[Part]:
    if not isinstance(columns, Mapping):
        yield "", f"{INPUTS} is {shown(columns)}, where an object with named fields is expected"
        return
    faults = list(complaints_of_names(columns, inputs))
    per_call = {name: value for name, value in columns.items() if _is_per_call(name, inputs)}
    of_queries = {name: value for name, value in columns.items() if name not in per_call}
    faults += [
        f"{name} is {shown(value)}, where a list with one entry for each query is expected"
        for name, value in of_queries.items()
        if not isinstance(value, list)
    ]
    if not faults:
        queries = len(of_queries[features.HISTORY_ITEM_ID])
        for name, entries in of_queries.items():
            if len(entries) == 1 and is_default(inputs[name], entries[0]):
                of_queries[name] = entries * queries
            elif len(entries) != queries:
                faults.append(
                    f"{name} has {len(entries)} entries, and {features.HISTORY_ITEM_ID} {queries}: both have "
                    "one for each query"
                )
    if faults:
        yield from (("", fault) for fault in faults)
        return
    for number in range(queries):
        row = {name: entries[number] for name, entries in of_queries.items()}
        yield f"query {number + 1}", {**row, **per_call}
    for name, entries in of_queries.items():
        yield from _of_lengths(inputs[name], entries)


def _is_per_call(name: str, inputs: Mapping[str, RequestInput]) -> bool:
    return name in inputs and inputs[name].shape == PER_CALL


def _of_lengths(one: RequestInput, values: Sequence[Any]) -> Iterator[Part]:
    """Yields a fault for lists of different lengths, of which no tensor can be made."""
    lengths = sorted({len(value) for value in values if isinstance(value, list)})
    if not one.is_single and len(lengths) > 1:
        yield (
            "",
            f"{one.name} has lists of {lengths[0]} and of {lengths[-1]} values in one body: pad them to one "
            f"length with {json.dumps(one.padding)}",
        )
