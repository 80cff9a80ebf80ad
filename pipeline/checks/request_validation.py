"""`two-tower validate --requests`: requests against the schema's SERVING environment and against train."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.components.curated_schema import schemas
from two_tower.pipeline.runs.stored_runs import latest_outputs
from two_tower.schema import features

ENVIRONMENT = "SERVING"
APPROVED = "ApprovedStatistics"
_REQUIRED = (features.USER_ID, features.HISTORY_ITEM_ID, features.HISTORY_TIMESTAMP)
_HISTORY = "history_"
# Complaints that are told; the rest is counted.
_TOLD = 20

Request = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class _Field:
    """A request's field, as the schema has it."""

    name: str
    type: int
    is_single: bool
    width: int  # of a vector, else 0
    feature: schema_pb2.Feature


def validate_requests(path: str, output: str | None, max_skew: float) -> list[str]:
    """What was checked and found, in words.

    Args:
      path: JSON lines, each a row of the "instances" of TensorFlow Serving's REST API, or a whole body.
      output: directory of runs: the requests are held against the schema and the train statistics of the
        latest one that passed the gate. None: against the curated schema alone.
      max_skew: the greatest distance from train's distributions that is let pass; 0: any.

    Raises:
      UserError: the file or a line of it is not what a model takes, or the requests are distributed otherwise
        than what the model learned from.
    """
    fields = _fields(_schema(output))
    complaints: list[str] = []
    requests: list[Request] = []
    for place, request in _read(path, complaints):
        found = list(_complaints(request, fields))
        complaints.extend(f"{place}: {complaint}" for complaint in found)
        if not found:
            requests.append(request)
    if complaints:
        told = [f"  {complaint}" for complaint in complaints[:_TOLD]]
        if len(complaints) > _TOLD:
            told.append(f"  and {len(complaints) - _TOLD:,} more")
        raise UserError(
            f"{path}: not what a model takes (schema/interactions.pbtxt, environment {ENVIRONMENT}):\n"
            + "\n".join(told)
        )
    if not requests:
        raise UserError(f"{path} holds no request: one JSON object a line is expected.")
    checked = [f"  {len(requests):,} requests, {len(fields)} fields, against the schema: holds"]
    if output is None:
        return [
            *checked,
            "  Their distributions are not compared: without --output there is nothing to compare with.",
        ]
    if not max_skew:
        return [*checked, "  Their distributions are not compared: validation.max_skew is 0."]
    return [*checked, *_skew(requests, output, max_skew)]


def _schema(output: str | None) -> schema_pb2.Schema:
    text = schemas.read("interactions")
    if output is not None:
        (uri,) = _approved(output)["InteractionSchema"]["schema"]
        with storage.open_file(storage.join(uri, "schema.pbtxt")) as file:
            text = file.read().decode()
    return text_format.Parse(text, schema_pb2.Schema())


def _approved(output: str) -> dict[str, dict[str, list[str]]]:
    """What the components of the latest run gave that the gate let pass."""
    found = latest_outputs(output, APPROVED)
    if not found:
        raise UserError(
            f"{output}: no run there has got past the gate, so that there is nothing to compare with."
        )
    return found


def _fields(schema: schema_pb2.Schema) -> dict[str, _Field]:
    """The fields of a request by name: the features of the SERVING environment."""
    found = {}
    for feature in schema.feature:
        in_environment = ENVIRONMENT in feature.in_environment or (
            ENVIRONMENT in schema.default_environment and ENVIRONMENT not in feature.not_in_environment
        )
        if in_environment:
            sizes = [dim.size for dim in feature.shape.dim]
            # An Example has a request's time at every position, a request has one.
            is_single = feature.value_count.max == 1 or feature.name in (
                features.USER_ID,
                features.REQUEST_TIMESTAMP,
            )
            width = sizes[0] if sizes and not is_single else 0
            found[feature.name] = _Field(feature.name, feature.type, is_single, width, feature)
    integer = schema_pb2.Feature(type=schema_pb2.INT)
    for name in (features.EXCLUDE_ITEM_ID, features.ALLOW_ITEM_ID):
        found[name] = _Field(name, schema_pb2.INT, False, 0, integer)
    at_least_one = schema_pb2.Feature(type=schema_pb2.INT, int_domain=schema_pb2.IntDomain(min=1))
    found[features.K] = _Field(features.K, schema_pb2.INT, True, 0, at_least_one)
    return found


def _read(path: str, complaints: list[str]) -> Iterator[tuple[str, Request]]:
    """Yields (place, request); what is no JSON object is added to `complaints`."""
    try:
        with storage.open_file(path) as file:
            lines = file.read().decode().splitlines()
    except OSError as error:
        raise UserError(f"{path}: the requests cannot be read ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}: write the requests as UTF-8.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except ValueError as error:
            complaints.append(f"line {number}: not JSON ({error}); each line is one request")
            continue
        rows: Sequence[Any] = [content]
        is_body = isinstance(content, dict) and "instances" in content
        if is_body:
            rows = content["instances"] if isinstance(content["instances"], list) else [content["instances"]]
        for place, row in enumerate(rows, start=1):
            where = f"line {number}, instance {place}" if is_body else f"line {number}"
            if isinstance(row, dict):
                yield where, row
            else:
                complaints.append(f"{where}: {_shown(row)}, where an object with named fields is expected")


def _complaints(request: Request, fields: Mapping[str, _Field]) -> Iterator[str]:
    for name in _REQUIRED:
        if name not in request:
            yield f"{name} is missing"
    for name, value in request.items():
        if name in fields:
            yield from _of_field(fields[name], value, request)
        else:
            nearest = difflib.get_close_matches(name, fields, n=1, cutoff=0)[0]
            yield f"there is no field {name}; the nearest is {nearest}"
    items = request.get(features.HISTORY_ITEM_ID)
    times = request.get(features.HISTORY_TIMESTAMP)
    for name, value in request.items():
        is_parallel = name.startswith(_HISTORY) and isinstance(items, list) and isinstance(value, list)
        # One value stands for all positions.
        if is_parallel and len(value) not in (1, len(items or ())):
            yield f"{name} has {len(value)} values, and {features.HISTORY_ITEM_ID} {len(items or ())}"
    if isinstance(items, list) and isinstance(times, list) and len(items) == len(times):
        known = [
            (place, time)
            for place, (item, time) in enumerate(zip(items, times, strict=True))
            if _is_number(item) and _is_number(time) and item >= 0
        ]
        for (_, before), (place, time) in itertools.pairwise(known):
            if time < before:
                yield (
                    f"{features.HISTORY_TIMESTAMP}[{place}] is {time}, after {before}: a history is ordered, "
                    "oldest first"
                )
                return


def _of_field(field: _Field, value: Any, request: Request) -> Iterator[str]:
    if field.is_single:
        if isinstance(value, list):
            yield f"{field.name} is a list, where one value is expected"
        elif complaint := _of_value(field, value):
            yield f"{field.name} {complaint}"
        return
    if not isinstance(value, list):
        yield f"{field.name} is {_shown(value)}, where a list is expected"
        return
    if field.width and len(value) != field.width:
        yield f"{field.name} has {len(value)} values, where {field.width} are expected"
    items = request.get(features.HISTORY_ITEM_ID)
    is_parallel = field.name.startswith(_HISTORY) and isinstance(items, list) and len(items) == len(value)
    for place, one in enumerate(value):
        # A negative item id fills up a row of a batch, and so does what stands beside it.
        is_padding = is_parallel and items is not None and _is_number(items[place]) and items[place] < 0
        if (complaint := _of_value(field, one)) and not is_padding:
            yield f"{field.name}[{place}] {complaint}"


def _of_value(field: _Field, value: Any) -> str:
    """What is wrong with one value, or ""."""
    feature = field.feature
    if field.type == schema_pb2.BYTES:
        if not isinstance(value, str) and not (isinstance(value, dict) and set(value) == {"b64"}):
            return f"is {_shown(value)}, where a text is expected"
        allowed = feature.string_domain.value
        if allowed and value and value not in allowed:
            nearest = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0)[0]
            return f"is {value!r}; the nearest allowed value is {nearest!r}"
        return ""
    is_whole = field.type == schema_pb2.INT
    if not _is_number(value) or (is_whole and not isinstance(value, int)):
        return f"is {_shown(value)}, where a {'whole ' * is_whole}number is expected"
    if value == features.UNKNOWN and field.name == features.REQUEST_TIMESTAMP:
        return ""
    if not is_whole and not math.isfinite(value):
        is_absent = math.isnan(value) and field.is_single
        return "" if is_absent else f"is {value}, which is no number"
    domain = feature.int_domain if is_whole else feature.float_domain
    least = domain.min if domain.HasField("min") else -math.inf
    greatest = domain.max if domain.HasField("max") else math.inf
    if not least <= value <= greatest:
        upper = f" to {greatest:,}" if math.isfinite(greatest) else ""
        return f"is {value}, where values from {least:,}{upper} are expected"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _skew(requests: Sequence[Request], output: str, limit: float) -> list[str]:
    """Raises UserError where the requests' distributions are farther from train's than `limit`."""
    from two_tower.components.anomaly_gate import comparisons
    from two_tower.pipeline.checks import request_skew

    (uri,) = _approved(output)[APPROVED]["approved"]
    found = request_skew.compare(requests, uri, limit)
    beyond = [one for one in found if one.verdict == comparisons.EXCEEDS]
    if beyond:
        raise UserError(
            "The requests are not distributed as what the model learned from:\n"
            + "\n".join(f"  {one.line}" for one in beyond)
            + "\nMend what makes the requests. If they are right, the model knows little of their like: "
            "train it on such data, or raise validation.max_skew."
        )
    return [f"  {one.line}: {one.verdict}" for one in found]
