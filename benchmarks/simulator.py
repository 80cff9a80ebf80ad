"""Benchmark of the simulator: its rate on one core, compared with the rate of writing the same rows.

    python benchmarks/simulator.py [--repeats 3]

As the reference, pyarrow writes the finished events (`multi_event.parquet`) on the same core in the same run.
That is a lower bound for any program that writes such a file. Rates are listens per second in the default
world.
"""

from __future__ import annotations

import os

# One core: NumPy's BLAS reads these variables at the first import.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from two_tower.simulator.listening import ListeningLog, listen, make_listeners
from two_tower.simulator.oracle import OracleAnswers, evaluate_oracles
from two_tower.simulator.simulate import write_simulation
from two_tower.simulator.world import SimulationParameters, World, make_world


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of each measurement; the median counts (default 3)"
    )
    repeats = parser.parse_args().repeats
    pa.set_cpu_count(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    parameters = SimulationParameters()
    world = make_world(parameters)
    listeners = make_listeners(world)
    log = listen(world, listeners)
    answers = evaluate_oracles(world, listeners, log)
    listens = len(log.track)

    drawing = median_seconds(repeats, lambda: listen(world, listeners))
    whole = median_seconds(repeats, lambda: draw_and_write(parameters, answers))
    oracle = median_seconds(1, lambda: evaluate_oracles(world, listeners, log))
    reference = median_seconds(repeats, writing_events(world, log, answers))

    print(f"{listens:,} listens of {parameters.users:,} users, {parameters.tracks:,} tracks, one core")
    rows = (
        ("drawing listens", drawing),
        ("catalog, listens and all files, without the oracle", whole),
        ("reference: pyarrow writes multi_event.parquet", reference),
    )
    for name, seconds in rows:
        print(f"{name:52} {seconds:7.2f} s {listens / seconds:12,.0f} listens/s {seconds / reference:7.1f} x")
    print(f"{f'oracle, {len(answers.label):,} queries':52} {oracle:7.2f} s")


def median_seconds(repeats: int, work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def draw_and_write(parameters: SimulationParameters, answers: OracleAnswers) -> None:
    world = make_world(parameters)
    log = listen(world, make_listeners(world))
    with tempfile.TemporaryDirectory() as folder:
        write_simulation(folder, world, log, answers)


def writing_events(world: World, log: ListeningLog, answers: OracleAnswers) -> Callable[[], None]:
    with tempfile.TemporaryDirectory() as folder:
        write_simulation(folder, world, log, answers)
        events = pq.read_table(os.path.join(folder, "multi_event.parquet"))

    def write() -> None:
        with tempfile.TemporaryDirectory() as folder:
            pq.write_table(events, os.path.join(folder, "multi_event.parquet"))

    return write


if __name__ == "__main__":
    main()
