"""Property of the table reader: a random table in a random dialect is read equal, or refused by its row."""

from __future__ import annotations

import collections
import dataclasses
import pathlib

from benchmarks import dialects


def test_a_table_in_any_dialect_is_read_equal_or_refused_by_row(tmp_path: pathlib.Path) -> None:
    answers: collections.Counter[str] = collections.Counter()
    seen: dict[str, set[object]] = collections.defaultdict(set)
    for seed in range(100_000, 100_150):
        one = dialects.trial(seed)
        answer, reason = dialects.run(one, tmp_path / "table")
        assert answer != dialects.FAULT, f"table {seed}: {one}: {reason}"
        answers[answer] += 1
        for name, value in vars(one.dialect).items():
            seen[name].add(value)
        seen["times"].add(one.times)
        seen["damage"].add(one.damage)
    # The tables have all forms, and both answers.
    assert min(answers.values()) > 10 and len(answers) == 2
    assert {name: len(values) for name, values in seen.items()} == {
        "delimiter": 5,
        "quoting": 4,
        "quote": 2,
        "encoding": 5,
        "line_end": 3,
        "ends_with_line_end": 2,
        "is_compressed": 2,
        "has_header": 2,
        "null": 5,
        "times": 12,
        "damage": 7,
    }


def test_a_reader_that_loses_something_is_found(tmp_path: pathlib.Path) -> None:
    seeds = range(50)
    whole = next(one for one in map(dialects.trial, seeds) if one.damage is None)
    assert dialects.run(whole, tmp_path / "table") == (dialects.EQUAL, "")
    for table, rows in (("events", whole.events), ("items", whole.items)):
        for wrong in (rows[1:], [*rows[1:], rows[1]], [(*rows[0][:-1], "x"), *rows[1:]]):
            is_events = table == "events"
            changed = (
                dataclasses.replace(whole, events=wrong)
                if is_events
                else dataclasses.replace(whole, items=wrong)
            )
            answer, reason = dialects.run(changed, tmp_path / "table")
            assert answer == dialects.FAULT and reason.startswith(table)
    refused = next(one for one in map(dialects.trial, seeds) if one.damage and not one.drops)
    assert dialects.run(refused, tmp_path / "table") == (dialects.REFUSED, "")
    for changed_trial in (
        dataclasses.replace(refused, damaged_row=refused.damaged_row + 1),
        dataclasses.replace(refused, damage=None),
        dataclasses.replace(whole, damage="no time"),
    ):
        assert dialects.run(changed_trial, tmp_path / "table")[0] == dialects.FAULT
