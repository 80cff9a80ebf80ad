"""`two-tower simulate`: writes a simulated history, of listening or of another world."""

from __future__ import annotations

import argparse
import difflib
from typing import Any

from two_tower.base.errors import UserError
from two_tower.pipeline.commands.command import Command
from two_tower.pipeline.commands.messages import tell

_LISTENING = "listening"
_SIZES = ("seed", "users", "days", "tracks", "items")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", help="directory to write; an earlier simulation is replaced")
    parser.epilog = _worlds()
    parser.add_argument(
        "--world", metavar="NAME", default=_LISTENING, help=f"one of those below (default: {_LISTENING})"
    )
    parser.add_argument("--seed", type=int, help="seed of the simulated world (default: 7)")
    parser.add_argument(
        "--users", type=int, metavar="N", help="number of users; sessions in the world of sessions"
    )
    parser.add_argument("--days", type=int, metavar="N", help="number of days that the history covers")
    parser.add_argument("--tracks", type=int, metavar="N", help=f"number of tracks of the world {_LISTENING}")
    parser.add_argument("--items", type=int, metavar="N", help="number of items of the other worlds")


def _worlds() -> str:
    from two_tower.simulator.worlds import WORLDS

    told = {_LISTENING: "music: repeats, albums, artists, trends, content embeddings", **WORLDS}
    width = max(map(len, told))
    return "worlds:\n" + "\n".join(f"  {name:<{width}}  {text}" for name, text in told.items())


def _run(options: argparse.Namespace) -> int:
    from two_tower.simulator.worlds import WORLDS

    given = {name: getattr(options, name) for name in _SIZES if getattr(options, name) is not None}
    if options.world in WORLDS:
        return _write_world(options.world, options.out, given)
    if options.world != _LISTENING:
        known = (_LISTENING, *WORLDS)
        nearest = difflib.get_close_matches(options.world, known, n=1, cutoff=0)[0]
        raise UserError(
            f"--world {options.world}: there is no such world; the nearest is '{nearest}' of "
            f"{', '.join(known)}."
        )
    if "items" in given:
        raise UserError(f"--items: the items of the world {_LISTENING} are tracks; pass --tracks.")

    from two_tower.simulator.simulate import simulate
    from two_tower.simulator.world import SimulationParameters

    summary = simulate(options.out, SimulationParameters(**given), tell)
    counts = ", ".join(f"{count:,} {kind}s" for kind, count in summary.events.items())
    print(
        f"{options.out} holds '{summary.name}': {counts}\n"
        f"of {summary.users:,} users; {summary.tracks:,} tracks, {summary.unheard_tracks:,} never heard.\n"
        f"Next: two-tower ingest yambda {options.out} DIR"
    )
    return 0


def _write_world(world: str, out: str, given: dict[str, Any]) -> int:
    import dataclasses

    from two_tower.simulator.worlds.simulated import parameters_of, write_world

    kind = parameters_of(world)
    sizes = {field.name for field in dataclasses.fields(kind)}
    for name in given:
        if name not in sizes:
            raise UserError(f"--{name} has no meaning in the world {world}; pass --items.")
    summary = write_world(world, out, kind(**given), tell)
    recalls = ", ".join(f"{name} {value:.3f}" for name, value in summary.oracle["observed"].items())
    print(
        f"{out} holds '{summary.name}': {summary.events:,} events '{summary.event}'\n"
        f"of {summary.users:,} users; {summary.items:,} items, {summary.unseen_items:,} in no event.\n"
        f"Oracle without the hidden state: {recalls}.\n"
        f"Next: two-tower ingest table {out} DIR"
    )
    return 0


COMMAND = Command(
    name="simulate",
    summary="write a simulated history, whose truth is known",
    description=(
        "Writes the history of simulated users. The same options write the same files. The simulator's own "
        "prediction of the next choice is in oracle/ beside them. No model predicts better. The world "
        "'listening' writes listens, likes, artists and albums in the layout of the Yambda data set. The "
        "others write Parquet files and their column map."
    ),
    add_arguments=_add_arguments,
    run=_run,
)
