from __future__ import annotations

import errno
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pytest

from two_tower.base.errors import UserError
from two_tower.ingestion import external_sort
from two_tower.ingestion.external_sort import (
    drop_duplicates,
    keep_earliest_events,
    rows_are_sorted,
    sort_rows,
)

BY = ("user_id", "timestamp")


def events(rows: int, users: int, seed: int = 0) -> pa.Table:
    """Draws random events; `row` is the original position."""
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "user_id": rng.integers(0, users, rows) * 128,
            "item_id": rng.integers(0, 4, rows),
            "timestamp": rng.integers(0, 6, rows),
            "event_type": np.array(["listen", "like"])[rng.integers(0, 2, rows)],
            "row": np.arange(rows),
        }
    )


def batches(table: pa.Table, rows: int) -> Iterator[pa.Table]:
    yield table.slice(0, 0)
    for start in range(0, table.num_rows, rows):
        yield table.slice(start, rows)


def sorted_rows(table: pa.Table, by: Sequence[str]) -> pa.Table:
    return table.take(pa.array(np.lexsort([table[name].to_numpy() for name in reversed(by)])))


def tuples(table: pa.Table, *columns: str) -> list[tuple[object, ...]]:
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))


@pytest.mark.parametrize("by", [BY, ("user_id",)])
@pytest.mark.parametrize("batch_rows", [1, 7, 1000])
@pytest.mark.parametrize("part_rows", [3, 40, 10_000])
def test_rows_come_sorted_and_no_equal_ones_are_divided(
    monkeypatch: pytest.MonkeyPatch, by: tuple[str, ...], batch_rows: int, part_rows: int
) -> None:
    monkeypatch.setattr(external_sort, "_PARTITION_ROWS", part_rows)
    table = events(300, users=9)
    # The number of rows is an estimate that may be far off.
    for guess in (0, 300, 10**6):
        parts = list(sort_rows(batches(table, batch_rows), by, guess, is_sorted=False))
        groups = [set(tuples(part, "user_id")) for part in parts]
        assert sum(map(len, groups)) == len(set().union(*groups)) == 9
        # Users come in any order; each user's rows are sorted, and the sort is stable.
        joined = sorted_rows(pa.concat_tables(parts), ("user_id",))
        assert joined.equals(sorted_rows(table, by))

    in_their_order = sorted_rows(table, by)
    parts = list(sort_rows(batches(in_their_order, batch_rows), by, 300, is_sorted=True))
    assert pa.concat_tables(parts).equals(in_their_order)
    groups = [set(tuples(part, *by)) for part in parts]
    assert sum(map(len, groups)) == len(set().union(*groups))


def test_a_sorted_source_is_not_written_and_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryDirectory", None)
    table = sorted_rows(events(1000, users=100), BY)
    read = []

    def source() -> Iterator[pa.Table]:
        for batch in batches(table, 10):
            read.append(batch.num_rows)
            yield batch

    for rows_before, part in enumerate(sort_rows(source(), BY, 1000, is_sorted=True)):
        assert part.num_rows <= 20
        assert sum(read) <= (rows_before + 3) * 20
    assert sum(read) == 1000


def test_parts_that_grow_too_large_are_divided_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_sort, "_PARTITION_ROWS", 50)
    monkeypatch.setattr(external_sort, "_MAX_PARTITIONS", 5)
    crowd = events(3000, users=200)
    giant = events(2000, users=1).set_column(0, "user_id", pa.array(np.full(2000, 77)))
    parts = list(sort_rows(batches(pa.concat_tables([crowd, giant]), 100), BY, 5000, is_sorted=False))
    assert sum(part.num_rows for part in parts) == 5000
    # A single user stays in one partition; few other rows share it.
    assert sorted(part.num_rows for part in parts)[-2] <= 2 * 50
    assert max(part.num_rows for part in parts) <= 2000 + 2 * 50


def test_temporary_files_are_gone_when_the_reader_is_done_or_stops(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(external_sort, "_PARTITION_ROWS", 10)
    table = events(100, users=50)
    stream = sort_rows(batches(table, 10), BY, 100, is_sorted=False)
    next(stream)
    assert os.listdir(tmp_path)
    stream.close()  # type: ignore[attr-defined]
    assert os.listdir(tmp_path) == []

    def broken() -> Iterator[pa.Table]:
        yield table
        raise UserError("line 7")

    with pytest.raises(UserError, match="line 7"):
        list(sort_rows(broken(), BY, 100, is_sorted=False))
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(external_sort.pa.ipc, "new_stream", full)
    with pytest.raises(UserError, match=r"/two-tower-.*: the disk is full, with .* free\. .*TMPDIR"):
        list(sort_rows([events(10, users=3)], BY, 10, is_sorted=False))


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_order_is_recognised_across_batches(rows: int) -> None:
    def table(users: list[int], times: list[int]) -> pa.Table:
        return pa.table({"user_id": users, "timestamp": times})

    good = table([1, 1, 1, 3, 7], [5, 5, 8, 0, 0])
    assert rows_are_sorted(batches(good, rows), BY)
    assert rows_are_sorted((batch for part in batches(good, rows) for batch in part.to_batches()), BY)
    earlier = table([1, 1, 1, 3, 7], [5, 5, 4, 0, 0])
    assert not rows_are_sorted(batches(earlier, rows), BY)
    assert rows_are_sorted(batches(earlier, rows), ("user_id",))
    assert not rows_are_sorted(batches(table([1, 3, 1], [0, 0, 0]), rows), ("user_id",))
    assert rows_are_sorted([], BY)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("typed", [True, False])
def test_the_first_of_equal_events_is_kept(seed: int, typed: bool) -> None:
    table = sorted_rows(events(200, users=5, seed=seed), BY)
    keys = ("user_id", "timestamp", "item_id", "event_type")[: 4 if typed else 3]
    table = table if typed else table.drop(["event_type"])
    left, dropped = drop_duplicates(table)
    first: dict[tuple[object, ...], object] = {}
    for *key, row in tuples(table, *keys, "row"):
        first.setdefault(tuple(key), row)
    assert left["row"].to_pylist() == list(first.values())
    assert dropped == 200 - len(first) > 0


def test_events_without_a_type_are_duplicates_of_each_other_alone() -> None:
    table = pa.table({"user_id": [1] * 4, "timestamp": [0] * 4, "item_id": [5] * 4})
    table = table.append_column("event_type", pa.array([None, "listen", None, "listen"]))
    left, dropped = drop_duplicates(table)
    assert (left["event_type"].to_pylist(), dropped) == ([None, "listen"], 2)
    encoded = table.set_column(3, "event_type", table["event_type"].dictionary_encode())
    assert drop_duplicates(encoded)[1] == 2
    assert drop_duplicates(table.slice(0, 1)) == (table.slice(0, 1), 0)
    assert drop_duplicates(table.slice(0, 0))[1] == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_users_earliest_event_of_an_item_is_kept(seed: int) -> None:
    table = events(60, users=5, seed=seed)
    left, at_one_time, later = keep_earliest_events(table)
    first: dict[tuple[object, ...], tuple[int, int]] = {}
    instants = set()
    for user, item, time, row in tuples(table, "user_id", "item_id", "timestamp", "row"):
        instants.add((user, item, time))
        best = (int(str(time)), int(str(row)))
        first[user, item] = min(best, first.get((user, item), best))
    assert left["row"].to_pylist() == sorted(row for _, row in first.values())
    assert at_one_time == 60 - len(instants)
    assert at_one_time + later == 60 - len(first) > 0


def test_films_in_order_are_passed_on() -> None:
    table = pa.table({"user_id": [1, 1, 2], "item_id": [3, 4, 1], "timestamp": [9, 1, 4]})
    assert keep_earliest_events(table) == (table, 0, 0)
    assert keep_earliest_events(table.slice(0, 0))[1:] == (0, 0)
