"""`two-tower simulate`: writes a simulated listening history."""

from __future__ import annotations

import argparse

from two_tower.pipeline.commands.command import Command
from two_tower.pipeline.commands.messages import tell


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", help="directory to write; an earlier simulation is replaced")
    parser.add_argument("--seed", type=int, help="seed of the simulated world (default: 7)")
    parser.add_argument("--users", type=int, metavar="N", help="number of listeners")
    parser.add_argument("--days", type=int, metavar="N", help="number of days that the history covers")
    parser.add_argument("--tracks", type=int, metavar="N", help="number of tracks in the catalog")


def _run(options: argparse.Namespace) -> int:
    from two_tower.simulator.simulate import simulate
    from two_tower.simulator.world import SimulationParameters

    given = {name: getattr(options, name) for name in ("seed", "users", "days", "tracks")}
    parameters = SimulationParameters(**{name: value for name, value in given.items() if value is not None})
    summary = simulate(options.out, parameters, tell)
    counts = ", ".join(f"{count:,} {kind}s" for kind, count in summary.events.items())
    print(
        f"{options.out} holds '{summary.name}': {counts}\n"
        f"of {summary.users:,} users; {summary.tracks:,} tracks, {summary.unheard_tracks:,} never heard.\n"
        f"Next: two-tower ingest yambda {options.out} DIR"
    )
    return 0


COMMAND = Command(
    name="simulate",
    summary="write a simulated listening history, whose truth is known",
    description=(
        "Writes listens, likes, artists and albums of simulated listeners, in the file layout of the Yambda "
        "data set. The same options write the same files. The simulator's own prediction of the next listen "
        "is in oracle/ beside them. No model predicts better."
    ),
    add_arguments=_add_arguments,
    run=_run,
)
