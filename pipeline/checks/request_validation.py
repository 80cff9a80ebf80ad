"""`two-tower validate --requests`: checks requests against the table of served inputs and train."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from two_tower.base import storage
from two_tower.base.errors import UserError
from two_tower.components.curated_schema import schemas
from two_tower.pipeline.runs.stored_runs import latest_nodes, latest_outputs, settings_of
from two_tower.schema import features, request_bodies, request_checks, text_ids
from two_tower.schema.request_checks import Request, shown
from two_tower.schema.request_inputs import LIST, PER_QUERY, REQUEST_INPUTS, IdKinds, RequestInput

ENVIRONMENT = "SERVING"
APPROVED = "ApprovedStatistics"
_WINDOWS = "InteractionExampleGen"
# Largest number of listed complaints; the rest is counted.
_TOLD = 20


def validate_requests(path: str, output: str | None, max_skew: float) -> list[str]:
    """Checks requests and describes the results in words.

    Args:
      path: JSON lines, each a row of the "instances" of TensorFlow Serving's REST API, or a whole body, with
        "instances" or "inputs".
      output: output directory of runs. The latest run that passed the gate gives schema, train statistics and
        the largest k. None: the curated schema alone.
      max_skew: largest accepted distance from train's distributions; 0: any.

    Raises:
      UserError: the file or a line is invalid, or the requests' distributions differ from train's.
    """
    complaints: list[str] = []
    lines = list(_read(path, complaints))
    kinds = _kinds_of_lines([content for _, content in lines]) if output is None else _kinds_of_run(output)
    inputs = {one.name: one for one in kinds.served(request_inputs(_schema(output)).values())}
    if output is not None:
        inputs[features.K] = dataclasses.replace(inputs[features.K], greatest=_max_k(output))
    requests: list[Request] = []
    for place, request in _requests(lines, inputs, complaints):
        found = list(request_checks.complaints(request, inputs))
        complaints.extend(f"{place}: {complaint}" for complaint in found)
        if not found:
            requests.append(request)
    if complaints:
        told = [f"  {complaint}" for complaint in complaints[:_TOLD]]
        if len(complaints) > _TOLD:
            told.append(f"  and {len(complaints) - _TOLD:,} more")
        raise UserError(f"{path}: invalid requests (docs/reference/request.md):\n" + "\n".join(told))
    if not requests:
        raise UserError(f"{path} holds no request: write one JSON object per line.")
    checked = [f"  {len(requests):,} requests, {len(inputs)} fields, against the schema: holds"]
    if output is None:
        return [
            *checked,
            "  Their distributions are not compared: --output would name the run to compare with.",
        ]
    if not max_skew:
        return [*checked, "  Their distributions are not compared: validation.max_skew is 0."]
    by_number = [_by_number(request, inputs, kinds) for request in requests] if kinds.has_text else requests
    return [*checked, *_skew(by_number, output, max_skew)]


def _kinds_of_run(output: str) -> IdKinds:
    """Returns the kinds of the ids of the latest run that passed the gate."""
    nodes = latest_nodes(output, APPROVED)
    examples = nodes.get(_WINDOWS, {}).get("outputs", {}).get("examples", [])
    return IdKinds.of(examples[0]["properties"]) if examples else IdKinds()


def _kinds_of_lines(contents: Sequence[Any]) -> IdKinds:
    """Returns the kinds of the first ids: without a run, a request alone tells them."""

    def kind(name: str) -> str:
        values = (one for content in contents for one in request_bodies.values_of(content, name))
        first = next((one for one in values if isinstance(one, str | int)), 0)
        return text_ids.TEXT if isinstance(first, str) else text_ids.INTEGER

    return IdKinds(kind(features.USER_ID), kind(features.HISTORY_ITEM_ID))


def _by_number(request: Request, inputs: Mapping[str, RequestInput], kinds: IdKinds) -> Request:
    """Returns a valid request with numbers for text ids, as train's windows have them."""
    found = dict(request)
    for name, value in request.items():
        if kinds.is_text(inputs[name]):
            numbers = [
                text_ids.number_of(one) if one else features.PADDING
                for one in (value if isinstance(value, list) else [value])
            ]
            found[name] = numbers if isinstance(value, list) else numbers[0]
    return found


def _schema(output: str | None) -> schema_pb2.Schema:
    text = schemas.read("interactions")
    if output is not None:
        (uri,) = _approved(output)["InteractionSchema"]["schema"]
        with storage.open_file(storage.join(uri, "schema.pbtxt")) as file:
            text = file.read().decode()
    return text_format.Parse(text, schema_pb2.Schema())


def _approved(output: str) -> dict[str, dict[str, list[str]]]:
    """Returns the outputs of the latest run that passed the gate, by component."""
    found = latest_outputs(output, APPROVED)
    if not found:
        raise UserError(
            f"{output}: no run there has passed the gate, so there is nothing to compare with. Run the "
            "pipeline first."
        )
    return found


def _max_k(output: str) -> int | None:
    """Returns the largest k of the models of the latest run that passed the gate; None if it built none."""
    max_k = settings_of(latest_nodes(output, APPROVED)).get("index.max_k")
    return None if max_k is None else int(max_k)


def request_inputs(schema: schema_pb2.Schema) -> dict[str, RequestInput]:
    """Returns a request's allowed inputs by name: the table's inputs and a schema's users' columns.

    The schema's ranges override the table's. Other features of its SERVING environment are users' columns.
    """
    found = dict(REQUEST_INPUTS)
    for feature in schema.feature:
        in_environment = ENVIRONMENT in feature.in_environment or (
            ENVIRONMENT in schema.default_environment and ENVIRONMENT not in feature.not_in_environment
        )
        if in_environment:
            one = REQUEST_INPUTS.get(feature.name) or _column_of(feature)
            domain = feature.float_domain if feature.type == schema_pb2.FLOAT else feature.int_domain
            found[feature.name] = dataclasses.replace(
                one,
                least=domain.min if domain.HasField("min") else None,
                greatest=domain.max if domain.HasField("max") else None,
                allowed=tuple(feature.string_domain.value),
            )
    return found


def _column_of(feature: schema_pb2.Feature) -> RequestInput:
    """Converts a schema's feature to an input for a column of users/."""
    is_single = feature.value_count.max == 1
    sizes = [dim.size for dim in feature.shape.dim]
    width = sizes[0] if sizes and not is_single else 0
    absent = "" if feature.type == schema_pb2.BYTES else 0.0 if width else math.nan
    return RequestInput(
        feature.name,
        PER_QUERY if is_single else LIST,
        "string" if feature.type == schema_pb2.BYTES else "float32",
        "a column of users/",
        absent,
        width=width,
    )


def _read(path: str, complaints: list[str]) -> Iterator[tuple[int, Any]]:
    """Yields (line number, content) of lines that are JSON; adds the others to `complaints`."""
    try:
        with storage.open_file(path) as file:
            # Other line ends than this one may stand within JSON's texts.
            lines = file.read().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"{path}: the requests cannot be read ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}: write the requests as UTF-8.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line, object_pairs_hook=_object)
        except RecursionError:
            complaints.append(f"line {number}: values are nested too deeply; each line is one request")
        except ValueError as error:
            complaints.append(f"line {number}: not JSON ({error}); each line is one request")


def _requests(
    lines: Iterable[tuple[int, Any]], inputs: Mapping[str, RequestInput], complaints: list[str]
) -> Iterator[tuple[str, Request]]:
    """Yields (place, request); adds faults of lines and of bodies as a whole to `complaints`."""
    for number, content in lines:
        parts: Iterable[request_bodies.Part] = [("", content)]
        if request_bodies.is_body(content):
            parts = request_bodies.requests_of(content, inputs)
        elif not isinstance(content, dict):
            parts = [("", f"{shown(content)}, where an object with named fields is expected")]
        for place, part in parts:
            where = ", ".join(filter(None, [f"line {number}", place]))
            if isinstance(part, str):
                complaints.append(f"{where}: {part}")
            else:
                yield where, part


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds a JSON object; raises ValueError for a name twice, of which Python would keep the last."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the field {name} is given twice")
        found[name] = value
    return found


def _skew(requests: Sequence[Request], output: str, limit: float) -> list[str]:
    """Compares requests with train; raises UserError for a distance above `limit`."""
    from two_tower.components.anomaly_gate import comparisons
    from two_tower.pipeline.checks import request_skew

    (uri,) = _approved(output)[APPROVED]["approved"]
    found = request_skew.compare(requests, uri, limit)
    beyond = [one for one in found if one.verdict == comparisons.EXCEEDS]
    if beyond:
        raise UserError(
            "The distributions of the requests differ from train's:\n"
            + "\n".join(f"  {one.line}" for one in beyond)
            + "\nCorrect the client that writes the requests. If they are right, train on similar data, or "
            "raise validation.max_skew."
        )
    return [f"  {one.line}: {one.verdict}" for one in found]
