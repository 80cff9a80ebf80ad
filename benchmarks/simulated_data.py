"""Simulated data directories of any size, written in parts, so that memory does not grow with the listens."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from two_tower.base.errors import UserError
from two_tower.data_directory.manifest import DatasetProperties, Manifest
from two_tower.data_directory.writer import DataDirectoryWriter
from two_tower.simulator.listening import listen, make_listeners
from two_tower.simulator.simulate import EVENT_TYPES, all_events
from two_tower.simulator.world import SimulationParameters, World, make_world

# A day costs the simulator 90 MB for a million tracks, so there are few days with many listens.
DAYS = 60
_USERS_PER_PART = 2_000
_ITEMS_PER_PART = 100_000


def simulated_data(folder: str, users: int, listens_per_user: float, tracks: int) -> Manifest:
    """Simulates a data directory with all listens, likes and dislikes, unless it exists.

    The actual mean number of listens is below `listens_per_user`, since the log ends before the busiest users
    are done.
    """
    parameters = SimulationParameters(
        users=users, listens_per_user=listens_per_user, tracks=tracks, days=DAYS
    )
    name = f"simulated-{users}-{listens_per_user:g}-{tracks}"
    if os.path.isdir(folder):
        manifest = Manifest.load(folder)
        if manifest.dataset != name:
            raise UserError(
                f"{folder}: the folder holds '{manifest.dataset}', not '{name}': name another --work."
            )
        return manifest
    world = make_world(parameters)
    with DataDirectoryWriter(folder, DatasetProperties(name, "listen", True)) as writer:
        for part, first in enumerate(range(0, users, _USERS_PER_PART)):
            writer.write("events", _events(world, part, first, min(_USERS_PER_PART, users - first)))
        for items in _items(world):
            writer.write("items", items)
    return writer.manifest


def _events(world: World, part: int, first_user: int, users: int) -> pa.Table:
    """Simulates the events of further users in the same world."""
    parameters = dataclasses.replace(world.parameters, users=users, seed=world.parameters.seed + part)
    theirs = dataclasses.replace(world, parameters=parameters)
    events = all_events(theirs, listen(theirs, make_listeners(theirs)))
    is_listen = events["kind"] == 0
    return pa.table(
        {
            "user_id": events["uid"] + first_user,
            "item_id": events["item_id"],
            "timestamp": events["timestamp"],
            "event_type": pa.DictionaryArray.from_arrays(
                pa.array(events["kind"].astype(np.int8)), pa.array(EVENT_TYPES)
            ),
            "play_ratio": pa.array((events["played_ratio_pct"] / 100).astype(np.float32), mask=~is_listen),
            "is_organic": events["is_organic"].astype(bool),
        }
    )


def _items(world: World) -> Iterator[pa.Table]:
    order = np.argsort(world.item_id)
    owner = {"artist_id": world.artists, "album_id": world.albums}
    for begin in range(0, len(order), _ITEMS_PER_PART):
        tracks = order[begin : begin + _ITEMS_PER_PART]
        lists = {}
        for name, groups in owner.items():
            # A track has one or two owners; -1 means no second one.
            of = groups.groups_of(tracks)
            offsets = np.append(0, np.cumsum((of >= 0).sum(axis=1)))
            lists[name] = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(1 + of[of >= 0]))
        yield pa.table(
            {
                "item_id": world.item_id[tracks],
                **lists,
                "item_length": world.track_seconds[tracks].astype(np.float32),
            }
        )
