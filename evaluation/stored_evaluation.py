"""A stored evaluation.json: its keys and their types, which reports, comparisons and the gate rely on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from two_tower.base import json_text, storage
from two_tower.base.errors import UserError

FILE_NAME = "evaluation.json"
# Keys that a report of a verdict shows. Earlier releases lack some of the others.
_OF_A_VERDICT = ("cutoff", "thresholds", "queries", "baselines", "ann")
_LARGEST = 1e15
# Largest k that a name such as recall@100 may have.
_LARGEST_CUTOFF = 1_000_000

# Returns the fault of a value, as in ".recall@10 is 'x', and needs a number", or "".
_Check = Callable[[Any], str]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _plain(fits: Callable[[Any], bool], words: str) -> _Check:
    return lambda value: "" if fits(value) else f" is {value!r:.60}, and needs {words}"


def _optional(check: _Check) -> _Check:
    return lambda value: "" if value is None else check(value)


def _each(check: _Check) -> _Check:
    """Returns the check of an object whose values are alike."""

    def fault(value: Any) -> str:
        if not isinstance(value, Mapping):
            return f" is {value!r:.60}, and needs an object"
        found = ((name, check(part)) for name, part in value.items())
        return next((f".{name}{one}" for name, one in found if one), "")

    return fault


def _list(check: _Check, size: int | None = None) -> _Check:
    def fault(value: Any) -> str:
        if not isinstance(value, list) or size not in (None, len(value)):
            return f" is {value!r:.60}, and needs a list" + (f" of {size}" if size else "")
        return next((f"[{at}]{one}" for at, part in enumerate(value) if (one := check(part))), "")

    return fault


def _object(needed: tuple[str, ...] = (), **keys: _Check) -> _Check:
    """Returns the check of an object with these keys; those not `needed` may be null or absent."""

    def fault(value: Any) -> str:
        if not isinstance(value, Mapping):
            return f" is {value!r:.60}, and needs an object"
        if lacking := [name for name in needed if value.get(name) is None]:
            return f".{lacking[0]} is missing"
        found = (
            (name, check(value.get(name))) for name, check in keys.items() if value.get(name) is not None
        )
        return next((f".{name}{one}" for name, one in found if one), "")

    return fault


def _all_of(*checks: _Check) -> _Check:
    return lambda value: next((one for check in checks if (one := check(value))), "")


def _figures(value: Any) -> str:
    """Checks metrics by name; other names, such as a baseline's settings, may hold anything."""
    if not isinstance(value, Mapping):
        return f" is {value!r:.60}, and needs an object"
    return next((f".{name}{one}" for name, v in value.items() if "@" in name and (one := _NUMBER(v))), "")


_NUMBER = _optional(_plain(_is_number, "a number"))
_COUNT = _plain(lambda value: _is_number(value) and value >= 0, "a number of 0 or more")
_TEXT = _plain(lambda value: isinstance(value, str), "a text")
_FLAG = _plain(lambda value: isinstance(value, bool), "true or false")
_BOUNDS = _optional(_list(_plain(_is_number, "a number"), 2))
_RECOMMENDERS = _each(_optional(_figures))
_TIMES = _optional(_list(_NUMBER, 2))
_SLICE = _object(
    ("metrics", "queries"),
    family=_TEXT,
    labels=_COUNT,
    queries=_COUNT,
    items=_COUNT,
    users=_COUNT,
    metrics=_RECOMMENDERS,
    intervals=_each(_each(_BOUNDS)),
    lift=_object(baseline=_TEXT, change=_NUMBER, low=_NUMBER, high=_NUMBER),
)
_THRESHOLD = _object(
    ("name", "ok"),
    name=_TEXT,
    ok=_FLAG,
    value=_NUMBER,
    limit=_NUMBER,
    note=_TEXT,
    low=_NUMBER,
    high=_NUMBER,
    direction=_TEXT,
)
_OF_HISTORY = _all_of(_figures, _object(("queries",), queries=_COUNT, intervals=_each(_BOUNDS)))
_RELEASED = _object(
    ("eligible", "reason", "metrics"), eligible=_FLAG, reason=_TEXT, uri=_TEXT, digest=_TEXT, metrics=_figures
)
_EVALUATION = _object(
    ("metrics",),
    verdict=_plain(lambda value: value in ("blessed", "refused"), "'blessed' or 'refused'"),
    unchanged=_FLAG,
    dataset=_TEXT,
    protocol=_TEXT,
    has_timestamps=_FLAG,
    cutoff=_plain(
        lambda value: type(value) is int and 1 <= value <= _LARGEST_CUTOFF, "a whole number from 1 on"
    ),
    thresholds=_list(_THRESHOLD),
    notes=_list(_TEXT),
    refusal=_object(),
    split=_object(("train_end", "test"), train_end=_NUMBER, eval=_TIMES, test=_TIMES),
    model=_object(index=_object(kind=_TEXT, tuning=_object())),
    gate=_object(),
    bootstrap=_object(resamples=_COUNT, seed=_COUNT),
    catalog=_object(("items",), items=_COUNT, choice=_COUNT),
    latency=_each(_optional(_each(_NUMBER))),
    size=_each(_NUMBER),
    queries=_object(("test",), test=_COUNT, users=_COUNT, available=_COUNT, dropped_repeats=_COUNT),
    metrics=_object(("test",), test=_figures, test_exact=_figures),
    baselines=_each(_figures),
    intervals=_each(_each(_BOUNDS)),
    changes=_each(_each(_optional(_object(change=_NUMBER, low=_NUMBER, high=_NUMBER)))),
    slices=_each(_SLICE),
    ann=_all_of(_figures, _object(by_history=_each(_OF_HISTORY), parity=_object())),
    blessed_model=_RELEASED,
    anchor=_RELEASED,
    oracle=_object(("queries",), queries=_COUNT),
)


def _fault_of(evaluation: Any, for_report: bool) -> str:
    """Returns the first fault of the content of evaluation.json, with its key; "" for none."""
    fault = _EVALUATION(evaluation)
    if not fault and for_report and evaluation.get("verdict") is not None:
        fault = _object(_OF_A_VERDICT)(evaluation)
    return f"key '{fault[1:].replace(' ', chr(39) + ' ', 1)}" if fault.startswith(".") else fault.strip()


def read(directory: str, for_report: bool = False) -> dict[str, Any]:
    """Reads the evaluation.json of an evaluation's directory.

    Args:
        directory: the directory, a path or URL.
        for_report: holds it to all that a report of a verdict shows.

    Raises:
        UserError: the file is missing or no JSON; a key is missing, or its value of another type.
    """
    path = storage.join(directory, FILE_NAME)
    try:
        with storage.open_file(path, "r") as file:
            content = json_text.parse(file.read())
        if fault := _fault_of(content, for_report):
            raise ValueError(fault)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: the evaluation cannot be read ({error}). Run the pipeline again."
        ) from error
    return dict(content)
