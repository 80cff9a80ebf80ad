"""Benchmark of the default simulated run: recall, baselines, oracle, time and peak memory of each component.

    python benchmarks/default_run.py [--output runs/benchmark]

Prints the tables as Markdown. Times depend on the machine. Recalls are those of the default world
(seed 7) and the default preset.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence

from two_tower.ingestion import FORMATS
from two_tower.pipeline.runs.report import collect
from two_tower.pipeline.settings import run_file
from two_tower.simulator.simulate import SimulationParameters, simulate

_METRICS = ("recall@1", "recall@10", "recall@100", "ndcg@10", "ndcg@100")


def main() -> None:
    """Simulates, ingests, runs the pipeline and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", default="runs/benchmark", help="new directory for data and run")
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
    values = {"model": report["metrics"]["test"], **report["baselines"]}
    intervals, queries, ann = report["intervals"], report["queries"], report["ann"]
    print(f"{queries['test']:,} test queries by {queries['users']:,} users, with 95% intervals:\n")
    _table(
        ["", *_METRICS],
        [
            [name, *(_with_bounds(of[m], intervals[name].get(m)) for m in _METRICS)]
            for name, of in values.items()
        ],
    )
    for part in ("discovery", "cold"):
        found = report["slices"][part]
        recall = found["metrics"]["model"]["recall@100"]
        bounds = found["intervals"]["model"].get("recall@100")
        print(f"\nRecall@100 in the slice {part}, {found['labels']:,} labels: {_with_bounds(recall, bounds)}")
        print(f"The best baseline there: {found.get('lift')}")
    print(f"\nANN recall@100: {ann['recall@100']:.4f} ({ann['kind']}); by length of history:")
    print({name: (round(of["recall@100"], 4), of["queries"]) for name, of in ann["by_history"].items()}, "\n")
    oracle = report["oracle"]
    print(f"{oracle['queries']:,} queries with oracle answers:\n")
    names = ("best_baseline", "model", "oracle_observed", "oracle", "share_of_gap_observed", "share_of_gap")
    _table(
        ["", *(name.replace("_", " ") for name in names)],
        [
            [cutoff, *(_with_bounds(oracle[cutoff][n], oracle[cutoff]["intervals"].get(n)) for n in names)]
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
        + [["total", f"{total:.1f}", ""]],
    )


def _with_bounds(value: float, bounds: Sequence[float] | None) -> str:
    return f"{value:.4f}" + (f" ({bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else "")


def _table(header: list[str], rows: list[list[str]]) -> None:
    print(f"| {' | '.join(header)} |\n|{'|'.join(['---', *['---:'] * (len(header) - 1)])}|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
