"""Simulation of listeners in a known world, written in Yambda's flat layout.

    simulate("simulated", SimulationParameters(seed=7))

The layout is that of https://huggingface.co/datasets/yandex/yambda (arXiv:2505.22238), with three additions.
`names.parquet` holds the names of artists and tracks, and the tracks' lengths. `simulation.json` holds the
parameters. `oracle/` holds the recall of the simulator's own predictions at the end of the log
(`simulator.oracle`).
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from two_tower.simulator import output_folder
from two_tower.simulator.listening import ListeningLog, listen, make_listeners
from two_tower.simulator.names import artist_names, track_titles
from two_tower.simulator.oracle import OracleAnswers, OracleSummary, evaluate_oracles
from two_tower.simulator.world import Bools, Groups, Ints, SimulationParameters, World, make_world

__all__ = ["SimulationParameters", "SimulationSummary", "simulate", "write_simulation"]

EVENT_TYPES = ("listen", "like", "dislike", "unlike", "undislike")
# Share of likes and dislikes that are taken back, and the mean number of days until then.
_REGRET_SHARE, _REGRET_DAYS = 0.08, 4.0


@dataclasses.dataclass(frozen=True)
class SimulationSummary:
    """Summary of a written simulation."""

    name: str
    # Rows by event type.
    events: dict[str, int]
    # Users with at least one listen; tracks of the catalog; tracks without listens.
    users: int
    tracks: int
    unheard_tracks: int
    oracle: OracleSummary


def simulate(
    out: str, parameters: SimulationParameters, progress: Callable[[str], None] | None = None
) -> SimulationSummary:
    """Simulates a log and writes it to the directory `out`; the same parameters write the same bytes.

    Args:
        out: created, or replaced if it holds an earlier simulation. It appears only when complete.
        progress: called with a line about the current step.

    Raises:
        UserError: `out` holds something else, cannot be written, or is being written.
    """
    with output_folder.alone(out):
        tell = progress or (lambda line: None)
        tell(f"catalog of {parameters.tracks:,} tracks")
        world = make_world(parameters)
        listeners = make_listeners(world)
        log = listen(world, listeners, progress)
        tell(f"oracle: {parameters.oracle_queries:,} queries")
        answers = evaluate_oracles(world, listeners, log, progress)
        tell("writing")
        return output_folder.put(out, lambda folder: write_simulation(folder, world, log, answers))


def write_simulation(
    folder: str, world: World, log: ListeningLog, answers: OracleAnswers
) -> SimulationSummary:
    """Writes all files of a simulation to the existing directory `folder`."""
    p = world.parameters
    events = all_events(world, log)
    for name, kind in zip(EVENT_TYPES, range(len(EVENT_TYPES)), strict=True):
        _write(folder, f"{name}s.parquet", _single_type(events, kind))
    _write(folder, "multi_event.parquet", _multi_event(events))
    _write(folder, "embeddings.parquet", _embeddings(world))
    _write(folder, "artist_item_mapping.parquet", _mapping("artist_id", world.artists, world))
    _write(folder, "album_item_mapping.parquet", _mapping("album_id", world.albums, world))
    _write(folder, "names.parquet", _names(world))
    summary = SimulationSummary(
        name=f"simulated-{p.seed}",
        events={name: int((events["kind"] == kind).sum()) for kind, name in enumerate(EVENT_TYPES)},
        users=len(np.unique(log.user)),
        tracks=p.tracks,
        unheard_tracks=p.tracks - len(np.unique(log.track)),
        oracle=answers.summary(log),
    )
    os.mkdir(os.path.join(folder, "oracle"))
    _write(folder, "oracle/queries.parquet", _oracle_queries(world, log, answers))
    _write_json(folder, "oracle/summary.json", dataclasses.asdict(summary.oracle))
    # Written last, since this file marks a directory as a complete simulation.
    _write_json(folder, output_folder.MARK, {"name": summary.name, "parameters": dataclasses.asdict(p)})
    return summary


def all_events(world: World, log: ListeningLog) -> dict[str, Ints]:
    """Returns all events sorted by user and time, listens first; `kind` is the index of the type in
    EVENT_TYPES.
    """
    random = np.random.default_rng([world.parameters.seed, 6])
    played = log.played_percent * world.track_seconds[log.track] // 100
    kinds = [np.zeros(len(log.track), np.int64)]
    rows = [np.arange(len(log.track))]
    times = [log.time]
    for kind, sign in ((1, 1), (2, -1)):
        row = np.flatnonzero(log.reaction == sign)
        time = log.time[row] + (random.random(len(row)) * played[row]).astype(np.int64)
        regretted = random.random(len(row)) < _REGRET_SHARE
        # A reaction is taken back at least a minute later, so never within the same 5 s.
        later = time + 60 + (random.exponential(_REGRET_DAYS * 86_400, len(row))).astype(np.int64)
        for kind_of, which, at in ((kind, np.ones_like(regretted), time), (kind + 2, regretted, later)):
            which = which & (at < world.parameters.seconds)
            kinds.append(np.full(which.sum(), kind_of))
            rows.append(row[which])
            times.append(at[which])
    kind_, row_, time_ = (np.concatenate(parts) for parts in (kinds, rows, times))
    time_ -= time_ % 5
    order = np.lexsort((kind_, time_, log.user[row_]))
    kind_, row_, time_ = kind_[order], row_[order], time_[order]
    return {
        "kind": kind_,
        "uid": 1 + log.user[row_],
        "timestamp": time_,
        "item_id": world.item_id[log.track[row_]],
        "is_organic": log.organic[row_].astype(np.int64),
        "played_ratio_pct": log.played_percent[row_],
        "track_length_seconds": world.track_seconds[log.track[row_]],
    }


def _event_columns(events: dict[str, Ints], rows: Bools | slice) -> dict[str, pa.Array]:
    return {
        "uid": pa.array(events["uid"][rows].astype(np.uint32)),
        "timestamp": pa.array(events["timestamp"][rows].astype(np.uint32)),
        "item_id": pa.array(events["item_id"][rows].astype(np.uint32)),
        "is_organic": pa.array(events["is_organic"][rows].astype(np.uint8)),
    }


def _play_columns(events: dict[str, Ints], rows: Bools | slice, unknown: Bools | None) -> dict[str, pa.Array]:
    return {
        "played_ratio_pct": pa.array(events["played_ratio_pct"][rows].astype(np.uint16), mask=unknown),
        "track_length_seconds": pa.array(
            events["track_length_seconds"][rows].astype(np.uint32), mask=unknown
        ),
    }


def _single_type(events: dict[str, Ints], kind: int) -> pa.Table:
    rows = events["kind"] == kind
    return pa.table(_event_columns(events, rows) | (_play_columns(events, rows, None) if kind == 0 else {}))


def _multi_event(events: dict[str, Ints]) -> pa.Table:
    everything = slice(None)
    event_type = pa.DictionaryArray.from_arrays(
        pa.array(events["kind"].astype(np.int8)), pa.array(EVENT_TYPES)
    )
    columns = _event_columns(events, everything) | _play_columns(events, everything, events["kind"] != 0)
    return pa.table(columns | {"event_type": event_type})


def _tracks_by_id(world: World) -> Ints:
    """Returns the tracks sorted by their ids."""
    return np.argsort(world.item_id)


def _embeddings(world: World) -> pa.Table:
    order = _tracks_by_id(world)
    embedding = world.embeddings()[order]
    normalized = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    offsets = pa.array(np.arange(len(order) + 1, dtype=np.int32) * embedding.shape[1])
    return pa.table(
        {
            "item_id": pa.array(world.item_id[order].astype(np.uint32)),
            "embed": pa.ListArray.from_arrays(offsets, pa.array(embedding.ravel())),
            "normalized_embed": pa.ListArray.from_arrays(offsets, pa.array(normalized.ravel())),
        }
    )


def _mapping(column: str, groups: Groups, world: World) -> pa.Table:
    item = world.item_id[groups.track]
    order = np.lexsort((item, groups.group))
    return pa.table(
        {
            column: pa.array((1 + groups.group[order]).astype(np.uint32)),
            "item_id": pa.array(item[order].astype(np.uint32)),
        }
    )


def _names(world: World) -> pa.Table:
    random = np.random.default_rng([world.parameters.seed, 7])
    artists = np.array(artist_names(random, len(world.artists.start) - 1))
    order = _tracks_by_id(world)
    titles = np.array(track_titles(random, len(order)))
    artist = world.artists.groups_of(order)
    credit = [
        first if guest < 0 else f"{first} & {artists[guest]}"
        for first, guest in zip(artists[artist[:, 0]], artist[:, 1], strict=True)
    ]
    return pa.table(
        {
            "item_id": pa.array(world.item_id[order].astype(np.uint32)),
            "title": pa.array(titles[order]),
            "artist": pa.array(credit),
            "track_length_seconds": pa.array(world.track_seconds[order].astype(np.uint32)),
        }
    )


def _oracle_queries(world: World, log: ListeningLog, answers: OracleAnswers) -> pa.Table:
    def floored(rows: Ints) -> pa.Array:
        return pa.array(log.time[rows] - log.time[rows] % 5)

    return pa.table(
        {
            "user_id": pa.array(1 + log.user[answers.label]),
            "seed_timestamp": floored(answers.seed),
            "label_timestamp": floored(answers.label),
            "label_item_id": pa.array(world.item_id[log.track[answers.label]]),
            "rank_hidden": pa.array(answers.rank_hidden.astype(np.int32)),
            "rank_observed": pa.array(answers.rank_observed.astype(np.int32)),
        }
    )


def _write(folder: str, file: str, table: pa.Table) -> None:
    # Dictionary encoding cannot compress embeddings, and trying costs a second.
    dictionary = [name for name in table.column_names if not pa.types.is_list(table.schema.field(name).type)]
    pq.write_table(table, os.path.join(folder, file), use_dictionary=dictionary)


def _write_json(folder: str, file: str, value: object) -> None:
    with open(os.path.join(folder, file), "w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=2)
        stream.write("\n")
