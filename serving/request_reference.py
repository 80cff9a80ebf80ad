"""Text of docs/reference/request.md, from the table of served inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from two_tower.data_directory.feature_columns import KINDS, FeatureSpec
from two_tower.schema.request_inputs import (
    QUERY_INPUTS,
    SERVED_SIGNATURES,
    RequestInput,
    RequestOutput,
    ServedSignature,
)

_OPENING = """\
<!-- Written by `scripts/generate_reference.py` from schema/request_inputs.py. -->

# Requests

Inputs and outputs of the served model's signatures. Dimensions: *queries* of one call, *events* of the
longest history, *values* of the longest list, *items* and *rows*.

**Sizes.** All inputs have the same number of queries, and all of a history's inputs the same number of
events. An input of another size is an error that names both. Only a default may have dimensions of 1, which
stand for all places. A batch without queries gets an answer without rows, [0, k].

**Defaults.** A request may leave out an input with a default. TensorFlow Serving fills in defaults. In
Python, call the method of the same name (`tf.saved_model.load(path).recommend`), or send all inputs.

**Padding.** Histories of a batch are padded to the longest one by negative item ids, such as -1, before or
after the events. Values at their places are not read. Ids are 0 or more, so that 0 is an item and never
padding. Lists of items are padded likewise.

**Bodies.** A row of TensorFlow Serving's `instances` is one query, without its first dimension. `k` is one
per call, and only the columns of `inputs` can give it: `{"inputs": {"user_id": [17], ..., "k": 10}}`.
`two-tower validate --requests FILE` checks requests and bodies against this page, line by line.

**Text ids.** Where the data has text ids, the ids of users or items are strings in requests and answers, and
"" is padding. Such a model has each signature once more as `<name>_by_number`, which takes and returns the
[numbers of the texts](files.md#text-ids).
"""
_COLUMNS = """\
## Users' columns

A model takes the columns of `users/` that `features.users` names, each as `user_<column>`. They are inputs of
every signature that takes a query, after the other inputs of `query_embedding`. All are optional.
"""


def request_reference() -> str:
    """Returns docs/reference/request.md: every signature, and users' columns by kind."""
    # Imported here, because TensorFlow takes seconds to import.
    from two_tower.trainer.model.signatures import query_inputs

    specs = [FeatureSpec("user_<column>", "column", kind) for kind in KINDS]
    columns = query_inputs(specs)[len(QUERY_INPUTS) :]
    rows = ((kind, *_input_row(one)) for kind, one in zip(KINDS, columns, strict=True))
    parts = [_OPENING, *map(_section, SERVED_SIGNATURES), _COLUMNS, _table(("kind", *_INPUT_HEADER), rows)]
    return "\n".join(parts)


_INPUT_HEADER = ("input", "type", "shape", "default", "values", "meaning")
_OUTPUT_HEADER = ("output", "type", "shape", "meaning")


def _section(one: ServedSignature) -> str:
    return "\n".join(_lines_of(one))


def _lines_of(one: ServedSignature) -> Iterator[str]:
    yield f"## `{one.name}`\n"
    yield f"{one.meaning[0].upper()}{one.meaning[1:]}.\n"
    if one.inputs:
        yield _table(_INPUT_HEADER, map(_input_row, one.inputs))
    else:
        yield "No inputs.\n"
    if one.takes_query:
        yield "And the [users' columns](#users-columns).\n"
    yield _table(_OUTPUT_HEADER, map(_output_row, one.outputs))


def _input_row(one: RequestInput) -> Sequence[str]:
    default = (
        "required" if one.is_required else f'`"{one.default}"`' if one.dtype == "string" else one.default
    )
    return (f"`{one.name}`", one.dtype, _shape(one), str(default), one.values or "any", one.meaning)


def _output_row(one: RequestOutput) -> Sequence[str]:
    shape = f"{one.shape.words} [{', '.join(one.shape.axes)}]"
    condition = f" (with {one.requires})" if one.requires else ""
    return (f"`{one.name}`", one.dtype, shape, one.meaning + condition)


def _shape(one: RequestInput) -> str:
    axes = f" [{', '.join(map(str, one.axes))}]" if one.axes else ""
    return one.shape.words + axes


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
