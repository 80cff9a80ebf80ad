"""Files of a simulated world: events, items, a column map for `two-tower ingest table`, and the oracle."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from two_tower.simulator import output_folder
from two_tower.simulator.oracle_answers import OracleAnswers
from two_tower.simulator.world import Ints
from two_tower.simulator.worlds.next_choice import Log
from two_tower.simulator.worlds.parameters import WorldParameters


@dataclasses.dataclass(frozen=True)
class Simulated:
    """Content of a simulated world. Users and items count from 0; the files hold shuffled ids from 1.

    Attributes:
        events: columns of the events, `user_id` and `item_id` among them: [events].
        items: columns of the items, [items]; none: the world has no content, and no file of items.
        event: the event type, such as "purchase".
        repeats_recommendable: an item may be chosen again.
        events_map, items_map: keys of the column map, beside files and ids.
        answers: the oracle's answers.
        users, item_count: numbers of users and items.
    """

    events: Mapping[str, np.ndarray]
    items: Mapping[str, Any]
    event: str
    repeats_recommendable: bool
    events_map: Mapping[str, Any]
    items_map: Mapping[str, Any]
    answers: OracleAnswers
    users: int
    item_count: int


@dataclasses.dataclass(frozen=True)
class WrittenWorld:
    """Summary of a written world: its name, and how much of it is in the events."""

    name: str
    event: str
    events: int
    users: int
    items: int
    unseen_items: int
    oracle: Mapping[str, Any]


def parameters_of(world: str) -> type[WorldParameters]:
    """Returns the class of a world's parameters."""
    found: type[WorldParameters] = _module(world).Parameters
    return found


def write_world(
    world: str, out: str, parameters: WorldParameters, progress: Callable[[str], None] | None = None
) -> WrittenWorld:
    """Simulates a world and writes it to the directory `out`; the same parameters write the same bytes.

    Args:
        world: a name in `WORLDS`.
        out: created, or replaced if it holds an earlier simulation. It appears only when complete.
        progress: called with a line about the current step.

    Raises:
        UserError: `out` holds something else, cannot be written, or is being written.
    """
    tell = progress or (lambda line: None)
    with output_folder.alone(out):
        simulated = _module(world).make(parameters, tell)
        tell("writing")
        return output_folder.put(out, lambda folder: _write(folder, world, parameters, simulated))


def events_of(log: Log) -> dict[str, np.ndarray]:
    """Returns the columns of a log's events."""
    return {"user_id": log.user, "item_id": log.item, "timestamp": log.time}


def ids(parameters: WorldParameters, number: int, kind: int) -> Ints:
    """Returns shuffled ids from 1, [number]: an id tells nothing of its user (`kind` 0) or item (1)."""
    return 1 + np.random.default_rng([parameters.seed, 110, kind]).permutation(number)


def _module(world: str) -> Any:
    return importlib.import_module(f"two_tower.simulator.worlds.{world}")


def _write(folder: str, world: str, parameters: WorldParameters, simulated: Simulated) -> WrittenWorld:
    user_id, item_id = ids(parameters, simulated.users, 0), ids(parameters, simulated.item_count, 1)
    events = {name: np.asarray(column) for name, column in simulated.events.items()}
    user, item = events["user_id"], events["item_id"]
    events |= {"user_id": user_id[user], "item_id": item_id[item]}
    name = f"simulated-{world}-{parameters.seed}"
    columns: dict[str, Any] = {
        "dataset": name,
        "label_event": simulated.event,
        "repeats_recommendable": simulated.repeats_recommendable,
        "events": {
            "files": "events.parquet",
            "user_id": "user_id",
            "item_id": "item_id",
            "event_type": {"constant": simulated.event},
            **simulated.events_map,
        },
    }
    # Rows come by user and then time, as a log is exported.
    order = np.lexsort((*([events["timestamp"]] if "timestamp" in events else [item]), events["user_id"]))
    pq.write_table(
        pa.table({column: values[order] for column, values in events.items()}),
        os.path.join(folder, "events.parquet"),
    )
    if simulated.items:
        _write_items(folder, item_id, simulated.items)
        columns["items"] = {"files": "items.parquet", "item_id": "item_id", **simulated.items_map}
    with open(os.path.join(folder, "columns.yaml"), "w", encoding="utf-8") as file:
        yaml.safe_dump(columns, file, sort_keys=False)
    os.mkdir(os.path.join(folder, "oracle"))
    queries = simulated.answers.table(user_id, item_id)
    pq.write_table(queries, os.path.join(folder, "oracle", "queries.parquet"))
    summary = simulated.answers.summary()
    _write_json(folder, "oracle/summary.json", summary)
    # Written last, since this file marks a directory as a complete simulation.
    content = {"name": name, "world": world, "parameters": dataclasses.asdict(parameters)}
    _write_json(folder, output_folder.MARK, content)
    seen = len(np.unique(item))
    return WrittenWorld(
        name=name,
        event=simulated.event,
        events=len(item),
        users=len(np.unique(user)),
        items=simulated.item_count,
        unseen_items=simulated.item_count - seen,
        oracle=summary,
    )


def _write_items(folder: str, item_id: Ints, columns: Mapping[str, Any]) -> None:
    order = np.argsort(item_id)
    table = {"item_id": pa.array(item_id[order])}
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and values.ndim == 2:
            flat = pa.array(values[order].ravel())
            table[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        else:
            table[name] = pa.array(values).take(pa.array(order))
    # Dictionary encoding cannot compress vectors, and trying costs time.
    plain = [name for name, values in table.items() if not pa.types.is_fixed_size_list(values.type)]
    pq.write_table(pa.table(table), os.path.join(folder, "items.parquet"), use_dictionary=plain)


def _write_json(folder: str, file: str, value: object) -> None:
    with open(os.path.join(folder, file), "w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=2)
        stream.write("\n")
