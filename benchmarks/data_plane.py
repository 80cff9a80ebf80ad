"""Prints how fast events become windows, what that costs in memory and on disk, and how it grows.

    python -m benchmarks.data_plane [--work DIR] [--repeats 3] [--parts speed,bytes,growth] [--plot FILE]

- speed: 5 million simulated events cut into windows by InteractionExampleGen, by one-row-at-a-time Beam (the
  reference) and by a Polars script, each in a fresh process; the median of the repeats. All three must
  find the same labels.
- bytes: the windows' Examples on disk against those of one query each, with its history repeated.
- growth: both ExampleGens, statistics, validation and Transform over 1, 5 and 46.5 million listens (the
  last the size of Yambda-50M: 10,000 users, 934,057 items), through `two-tower run`'s own runner, once each:
  time and peak memory of each component.

The simulated data goes to --work and is kept there; the 46.5 million listens take 6 GB of memory to draw.
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

# Name ▶ users, listens a user as asked of the simulator, tracks.
WORLDS = {
    "5M, 5,000 users": (5_000, 1_000, 100_000),
    "1M": (215, 5_230, 20_000),
    "5M": (1_075, 5_230, 100_000),
    "46M": (10_000, 5_230, 934_057),
}
# What the growth is measured over: everything before the Trainer.
LAST_NODES = ("Transform", "CatalogTransform")
THIS = (sys.executable, "-m", "benchmarks.data_plane", "--one")
FORMS = ("windows", "row at a time", "polars")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", default="runs/data-plane", help="where data and outputs go")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", default="speed,bytes,growth")
    parser.add_argument("--sizes", default="1M,5M,46M", help="of the growth")
    parser.add_argument("--plot", metavar="FILE", help="draw the growth")
    parser.add_argument("--one", nargs=3, metavar=("FORM", "DATA", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one and options.one[0] == "growth":
        run_until_trainer(*options.one[1:])
        return
    if options.one:
        print(json.dumps(measure_here(*options.one)))
        return
    parts = options.parts.split(",")
    if "speed" in parts:
        speed(options.work, options.repeats)
    if "bytes" in parts:
        bytes_on_disk(options.work)
    if "growth" in parts:
        growth(options.work, options.sizes.split(","), options.plot)


def speed(work: str, repeats: int) -> None:
    data, manifest = made(work, "5M, 5,000 users")
    events = manifest.counts["events"]
    results: dict[str, list[dict[str, Any]]] = {form: [] for form in FORMS}
    for _ in range(repeats):
        for form in FORMS:
            results[form].append(measured(form, data, os.path.join(work, "out")))
    found = {form: [result["labels"] for result in several] for form, several in results.items()}
    if len({json.dumps(labels) for several in found.values() for labels in several}) > 1:
        sys.exit(f"The forms do not find the same labels: {found}")
    seconds = {form: statistics.median(r["seconds"] for r in several) for form, several in results.items()}
    print(f"{events:,} events of {manifest.counts['users']:,} users to windows, median of {repeats}")
    for form, several in results.items():
        spread = f"{min(r['seconds'] for r in several):.1f} to {max(r['seconds'] for r in several):.1f}"
        print(
            f"  {form:14} {seconds[form]:7.1f} s ({spread}) {events / seconds[form]:10,.0f} events/s "
            f"{max(r['peak_bytes'] for r in several) / 1e9:5.1f} GB peak "
            f"{seconds['row at a time'] / seconds[form]:6.1f} x the row at a time"
        )
    print(f"  windows / polars: {seconds['windows'] / seconds['polars']:.1f} x its time")


def bytes_on_disk(work: str) -> None:
    data, manifest = made(work, "1M")
    packed, repeated = (
        measured(form, data, os.path.join(work, "out")) for form in ("windows", "repeated history")
    )
    if packed["labels"] != repeated["labels"]:
        sys.exit(f"The forms do not find the same labels: {packed['labels']}, {repeated['labels']}")
    labels = sum(packed["labels"])
    print(f"{manifest.counts['events']:,} events, {labels:,} queries, on disk")
    for name, result in (("windows", packed), ("repeated history", repeated)):
        print(
            f"  {name:17} {result['bytes'] / 1e6:9,.1f} MB {result['bytes'] / labels:8.1f} bytes a query "
            f"{result['seconds']:7.1f} s"
        )
    print(f"  ratio {repeated['bytes'] / packed['bytes']:.1f}")


def growth(work: str, sizes: list[str], plot: str | None) -> None:
    runs = {}
    for size in sizes:
        data, manifest = made(work, size)
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
    """Everything before the Trainer, in this process; seconds and peak bytes of each component, as JSON."""
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
    # Without the date: the same figures, the same bytes.
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


def made(work: str, name: str) -> tuple[str, Manifest]:
    """The data directory of one of WORLDS, drawn in a process of its own where it is not there yet."""
    folder = os.path.join(work, name.replace(", ", "-").replace(",", "").replace(" ", "-"))
    users, listens, tracks = WORLDS[name]
    program = (
        "import sys; from benchmarks.simulated_data import simulated_data; "
        f"simulated_data(sys.argv[1], {users}, {listens}, {tracks})"
    )
    subprocess.run([sys.executable, "-c", program, folder], check=True)
    return folder, Manifest.load(folder)


def measured(form: str, data: str, out: str) -> dict[str, Any]:
    """`measure_here` in a fresh process."""
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    done = subprocess.run([*THIS, form, data, out], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{form} failed:\n{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure_here(form: str, data: str, out: str) -> dict[str, Any]:
    """Seconds (without imports), peak memory, bytes written, and labels of each split, of one form."""
    from benchmarks import window_references
    from two_tower.components.interaction_example_gen.splits import TimeSplit
    from two_tower.schema import features

    config = PipelineConfig()
    manifest = Manifest.load(data)
    paths = event_files(data)
    split = TimeSplit.before(manifest.time_range[1], config.split)
    history, positions = config.windows.history_length, config.windows.positions
    if form == "polars":
        import polars  # noqa: F401  imported before the clock starts, as the others' packages are
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
    """InteractionExampleGen by itself. One position a window repeats the history for each query."""
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
    """Labels of a split, as they were written."""
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
