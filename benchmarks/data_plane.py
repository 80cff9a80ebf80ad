"""Benchmark of the data plane: speed, memory, disk use and growth of cutting events into windows.

    python -m benchmarks.data_plane [--work DIR] [--repeats 3] [--parts speed,bytes,growth] [--plot FILE]

- speed: 5 million simulated events are cut into windows by InteractionExampleGen, by one-row-at-a-time Beam
  (the reference) and by a Polars script. Each run is a fresh process; the median of the repeats counts. All
  three must find the same labels.
- bytes: size on disk of the windows' Examples, compared with one Example per query with its history repeated.
- growth: both ExampleGens, statistics, validation and Transform over 1, 5 and 46.5 million listens. The last
  has the size of Yambda-50M: 10,000 users, 934,057 items. Each size runs once through the runner of
  `two-tower run`, which gives time and peak memory of each component.

The simulated data stays in --work. Simulating 46.5 million listens takes 6 GB of memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from two_tower.data_directory.manifest import Manifest, event_files
from two_tower.pipeline.settings.pipeline_config import PipelineConfig

# Name → users, listens per user as requested from the simulator, tracks.
WORLDS = {
    "5M, 5,000 users": (5_000, 1_000, 100_000),
    "1M": (215, 5_230, 20_000),
    "5M": (1_075, 5_230, 100_000),
    "46M": (10_000, 5_230, 934_057),
}
# Last components of the growth measurement, which ends before the Trainer.
LAST_NODES = ("Transform", "CatalogTransform")
THIS = (sys.executable, "-m", "benchmarks.data_plane", "--one")
FORMS = ("windows", "row at a time", "polars")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", default="runs/data-plane", help="directory for data and outputs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", default="speed,bytes,growth")
    parser.add_argument("--sizes", default="1M,5M,46M", help="data sizes for growth")
    parser.add_argument("--plot", metavar="FILE", help="plot the growth to FILE")
    parser.add_argument("--one", nargs=3, metavar=("FORM", "DATA", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one and options.one[0] == "growth":
        run_until_trainer(*options.one[1:])
        return
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    parts = options.parts.split(",")
    if "speed" in parts:
        speed(options.work, options.repeats)
    if "bytes" in parts:
        bytes_on_disk(options.work)
    if "growth" in parts:
        growth(options.work, options.sizes.split(","), options.plot)


def speed(work: str, repeats: int) -> None:
    data, manifest = simulate_world(work, "5M, 5,000 users")
    events = manifest.counts["events"]
    results: dict[str, list[dict[str, Any]]] = {form: [] for form in FORMS}
    for _ in range(repeats):
        for form in FORMS:
            results[form].append(measure_in_process(form, data, os.path.join(work, "out")))
    found = {form: [result["labels"] for result in several] for form, several in results.items()}
    if len({json.dumps(labels) for several in found.values() for labels in several}) > 1:
        sys.exit(f"The forms find different labels: {found}")
    seconds = {form: statistics.median(r["seconds"] for r in several) for form, several in results.items()}
    print(f"{events:,} events of {manifest.counts['users']:,} users to windows, median of {repeats}")
    for form, several in results.items():
        spread = f"{min(r['seconds'] for r in several):.1f} to {max(r['seconds'] for r in several):.1f}"
        print(
            f"  {form:14} {seconds[form]:7.1f} s ({spread}) {events / seconds[form]:10,.0f} events/s "
            f"{max(r['peak_bytes'] for r in several) / 1e9:5.1f} GB peak "
            f"{seconds['row at a time'] / seconds[form]:6.1f} x the row at a time"
        )
    print(f"  windows / polars: {seconds['windows'] / seconds['polars']:.1f} x the time")


def bytes_on_disk(work: str) -> None:
    data, manifest = simulate_world(work, "1M")
    packed, repeated = (
        measure_in_process(form, data, os.path.join(work, "out")) for form in ("windows", "repeated history")
    )
    if packed["labels"] != repeated["labels"]:
        sys.exit(f"The forms find different labels: {packed['labels']}, {repeated['labels']}")
    labels = sum(packed["labels"])
    print(f"{manifest.counts['events']:,} events, {labels:,} queries, on disk")
    for name, result in (("windows", packed), ("repeated history", repeated)):
        print(
            f"  {name:17} {result['bytes'] / 1e6:9,.1f} MB {result['bytes'] / labels:8.1f} bytes per query "
            f"{result['seconds']:7.1f} s"
        )
    print(f"  ratio {repeated['bytes'] / packed['bytes']:.1f}")


def growth(work: str, sizes: list[str], plot: str | None) -> None:
    runs = {}
    for size in sizes:
        data, manifest = simulate_world(work, size)
        output = os.path.join(work, f"output-{size}")
        shutil.rmtree(output, ignore_errors=True)
        subprocess.run([*THIS, "growth", data, output], check=True, stdout=sys.stderr)
        with open(os.path.join(output, "components.json"), encoding="utf-8") as file:
            runs[size] = (manifest.counts["events"], json.load(file))
    print(f"{'':24}" + "".join(f"{size:>20}" for size in runs))
    names = dict.fromkeys(name for _, components in runs.values() for name in components)
    for name in names:
        cells = [components.get(name, (0.0, 0)) for _, components in runs.values()]
        print(f"{name:24}" + "".join(f"{s:10.1f} s {b / 1e9:5.1f} GB" for s, b in cells))
    totals = {size: sum(s for s, _ in components.values()) for size, (_, components) in runs.items()}
    for size, (events, components) in runs.items():
        peak = max(b for _, b in components.values())
        print(
            f"{size}: {events:,} events, {totals[size] / 60:.1f} minutes, {events / totals[size]:,.0f} "
            f"events/s, {peak / 1e9:.1f} GB peak"
        )
    if plot:
        draw(runs, totals, plot)


def run_until_trainer(data: str, output: str) -> None:
    """Runs everything before the Trainer in this process; writes seconds and peak bytes per component as
    JSON.
    """
    from two_tower.pipeline.local_runner import run_local
    from two_tower.pipeline.runs.report import collect

    components: dict[str, tuple[float, int]] = {}
    for last in LAST_NODES:
        run_local(data, output, PipelineConfig(), until=(last,))
        for one in collect(output, partial=True)["components"]:
            if not one["cached"]:
                seconds, peak = components.get(one["name"], (0.0, 0))
                components[one["name"]] = (
                    seconds + one["seconds"],
                    max(peak, one["peak_memory_bytes"] or 0),
                )
    with open(os.path.join(output, "components.json"), "w", encoding="utf-8") as file:
        json.dump(components, file)


def draw(runs: dict[str, Any], totals: dict[str, float], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    events = [runs[size][0] for size in totals]
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.loglog(events, list(totals.values()), "o-", label="ExampleGen to Transform")
    last = max(events)
    linear = [totals[max(totals, key=lambda size: runs[size][0])] * count / last for count in events]
    axes.loglog(events, linear, ":", color="grey", label="linear")
    axes.set(xlabel="events", ylabel="seconds, 2 cores")
    axes.legend()
    # The date is omitted, so that equal figures give equal bytes.
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


def simulate_world(work: str, name: str) -> tuple[str, Manifest]:
    """Simulates one of WORLDS in a separate process, unless its data directory exists."""
    folder = os.path.join(work, name.replace(", ", "-").replace(",", "").replace(" ", "-"))
    users, listens, tracks = WORLDS[name]
    program = (
        "import sys; from benchmarks.simulated_data import simulated_data; "
        f"simulated_data(sys.argv[1], {users}, {listens}, {tracks})"
    )
    subprocess.run([sys.executable, "-c", program, folder], check=True)
    return folder, Manifest.load(folder)


def measure_in_process(form: str, data: str, out: str) -> dict[str, Any]:
    """Runs `measure` in a fresh process."""
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    done = subprocess.run([*THIS, form, data, out], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{form} failed:\n{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(form: str, data: str, out: str) -> dict[str, Any]:
    """Measures one form: seconds without imports, peak memory, bytes written, and labels of each split."""
    from benchmarks import window_references
    from two_tower.components.interaction_example_gen.splits import TimeSplit
    from two_tower.schema import features

    config = PipelineConfig()
    manifest = Manifest.load(data)
    paths = event_files(data)
    split = TimeSplit.before(manifest.time_range[1], config.split)
    history, positions = config.windows.history_length, config.windows.positions
    if form == "polars":
        import polars  # noqa: F401  imported before timing starts, like the packages of the others
    else:
        import tensorflow  # noqa: F401

        from two_tower.components.interaction_example_gen import executor  # noqa: F401

    began = time.perf_counter()
    if form == "row at a time":
        window_references.by_row(paths, out, split, manifest.label_event, history, positions)
    elif form == "polars":
        window_references.by_polars(paths, out, split, manifest.label_event, history, positions)
    else:
        cut_windows(data, out, positions=1 if form == "repeated history" else positions)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    files = [os.path.join(folder, file) for folder, _, names in os.walk(out) for file in names]
    return {
        "seconds": seconds,
        "peak_bytes": peak,
        "bytes": sum(map(os.path.getsize, files)),
        "labels": [count_labels(out, name, form) for name in features.SPLITS],
    }


def cut_windows(data: str, out: str, positions: int) -> None:
    """Runs InteractionExampleGen alone. With one position per window, each query repeats its history."""
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
    from tfx.types import standard_artifacts

    from two_tower.components.interaction_example_gen.executor import Executor

    config = PipelineConfig()
    windows = dataclasses.replace(config.windows, positions=positions)
    examples = standard_artifacts.Examples()
    examples.uri = out
    with tempfile.TemporaryDirectory() as scratch:
        Executor(BaseBeamExecutor.Context(tmp_dir=scratch, unique_id="0")).Do(
            {},
            {"examples": [examples]},
            {
                "data": data,
                "split": json.dumps(dataclasses.asdict(config.split)),
                "windows": json.dumps(dataclasses.asdict(windows)),
            },
        )


def count_labels(out: str, split: str, form: str) -> int:
    """Counts the written labels of a split."""
    if form == "polars":
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        steps = pq.read_table(os.path.join(out, f"{split}.parquet"), columns=["label_step"])["label_step"]
        return int(pc.sum(pc.greater(pc.list_flatten(steps), 0)).as_py() or 0)
    from two_tower.evaluation.queries import all_queries, read_windows

    pattern = f"{split}-*.gz" if form == "row at a time" else f"Split-{split}/*"
    return len(all_queries(read_windows(os.path.join(out, pattern))))


if __name__ == "__main__":
    main()
