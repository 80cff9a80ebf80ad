"""The default simulated run: recall beside baselines and oracle, time and peak memory of each component.

    python benchmarks/default_run.py [--output runs/benchmark]

Prints the tables as Markdown. Times are of this machine; the recalls are of the default world
(seed 7) and the default preset.
"""

from __future__ import annotations

import argparse
import os
import time

from two_tower.ingestion import FORMATS
from two_tower.pipeline.runs.report import collect
from two_tower.pipeline.settings import run_file
from two_tower.simulator.simulate import SimulationParameters, simulate

_METRICS = ("recall@10", "recall@50", "recall@100", "ndcg@10")


def main() -> None:
    """Simulates, ingests, runs, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", default="runs/benchmark", help="directory for data and run; start with none"
    )
    output = parser.parse_args().output
    source, data, run = (os.path.join(output, name) for name in ("yambda", "data", "output"))
    steps = {}

    began = time.monotonic()
    simulate(source, SimulationParameters())
    steps["simulate, oracle included"] = time.monotonic() - began
    began = time.monotonic()
    FORMATS["yambda"](source, data)
    steps["ingest"] = time.monotonic() - began
    began = time.monotonic()
    from two_tower.pipeline.local_runner import run_local

    steps["import TFX"] = time.monotonic() - began
    run_local(data, run, run_file.load())
    report = collect(run)

    print(f"\nVerdict: {report['verdict']}\n")
    columns = {"two-tower": report["metrics"]["test"], **report["baselines"]}
    queries = report["queries"]
    print(f"{queries['test']:,} test queries by {queries['users']:,} users:\n")
    _table(
        ["", *_METRICS], [[name, *(f"{values[m]:.4f}" for m in _METRICS)] for name, values in columns.items()]
    )
    print(f"\nANN recall@100: {report['ann']['recall@100']:.4f} ({report['ann']['kind']})\n")
    oracle = report["oracle"]
    print(f"On the {oracle['queries']:,} queries that the oracle answers:\n")
    names = ("best_baseline", "model", "oracle_observed", "oracle", "share_of_gap_observed", "share_of_gap")
    _table(
        ["", *(name.replace("_", " ") for name in names)],
        [
            [cutoff, *(f"{oracle[cutoff][n]:.4f}" for n in names)]
            for cutoff in oracle
            if cutoff.startswith("recall@")
        ],
    )
    print()
    components = [
        [c["name"], f"{c['seconds']:.1f}", f"{(c['peak_memory_bytes'] or 0) / 2**30:.1f}"]
        for c in report["components"]
    ]
    total = sum(c["seconds"] for c in report["components"]) + sum(steps.values())
    _table(
        ["step", "seconds", "peak GiB"],
        [[name, f"{seconds:.1f}", ""] for name, seconds in steps.items()]
        + components
        + [["all", f"{total:.1f}", ""]],
    )


def _table(header: list[str], rows: list[list[str]]) -> None:
    print(f"| {' | '.join(header)} |\n|{'|'.join(['---', *['---:'] * (len(header) - 1)])}|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
