"""Benchmark of training speed: loss positions per second of packed windows and of one query per example.

    python -m benchmarks.training_speed [--work DIR] [--rounds 3] [--steps 50] [--forms WORDS]

Both forms train on the same simulated log, with the same tables, widths, encoders, hidden layers, optimiser
and dropouts. plain_retrieval.py has the plain form. Each measurement is a separate process, and forms
alternate. Printed per form:

- loss positions per step, which are each other's in-batch negatives, and the median milliseconds of a step;
- positions/s: positions in the loss, not those that are only read or encoded;
- waiting: the share of a step's time spent waiting for tf.data;
- peak memory of the process, and bytes on disk per loss position.

Packed windows come in three forms:

- packed: enough windows to have rarely fewer than 1,024 labelled positions, to compare with the plain form's
  queries;
- packed, default: the default setting, which draws 1,024 positions from 32 windows, so that negatives are
  from many users; two thirds of the encoded positions are in no loss;
- packed, all: all labelled positions of 32 windows, with the labels of all others as negatives.

The default history length is 200. With it the plain form with attention takes seconds per step and gigabytes.
The first run creates the data, which stays in --work; after that `--forms "N = 50" --rounds 2` takes three
minutes.

For orientation, external measurements on similar machines (2 cores): gSASRec in PyTorch (2 blocks, width 64,
length 200) trains 34,000 positions/s with one negative and 8,000 with 256. A two-tower model in PyTorch with
three layers over the history and single-query examples trains 1,500 examples/s at 50 items.
"""

from __future__ import annotations

import argparse
import dataclasses
import glob
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from typing import Any, NamedTuple

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from benchmarks.plain_retrieval import PlainRetrieval, plain_queries, query_batches, write_queries
from two_tower.components.interaction_example_gen.settings import WindowConfig
from two_tower.pipeline.settings.pipeline_config import PipelineConfig
from two_tower.schema import features
from two_tower.trainer.loop import training
from two_tower.trainer.loop.optimizer import optimizer_of
from two_tower.trainer.loop.training_data import window_batches
from two_tower.trainer.loop.training_loop import Handover, compiled_step
from two_tower.trainer.loop.two_tower_model import TwoTowerModel
from two_tower.trainer.loss.sampling import log_sampling_probability
from two_tower.trainer.model.catalog_table import CatalogArrays, CatalogTable
from two_tower.trainer.model.encoder_registry import ATTENTION, MEAN
from two_tower.trainer.settings import TrainerConfig

# Users, listens per user as requested from the simulator, tracks: tables about as large as the default run's.
WORLD = (3_000, 200, 24_000)
# Number of windows whose queries the plain form repeats: about 100 steps.
_REPEATED_WINDOWS = 1_024
_WARM_UP_STEPS = 3
# Time limit of a measurement; a slow form runs fewer steps than requested.
_SECONDS = 8.0
THIS = (sys.executable, "-m", "benchmarks.training_speed")


@dataclasses.dataclass(frozen=True)
class Form:
    """Form to measure: `windows` per step (0: the plain form), and at most `positions` in the loss."""

    name: str
    encoder: str
    history_length: int = WindowConfig.history_length
    windows: int = 0
    positions: int = TrainerConfig.positions_per_step

    @property
    def title(self) -> str:
        return f"{self.encoder}, N = {self.history_length}, {self.name}"


PLAIN, PACKED, DEFAULT, ALL = "plain", "packed", "packed, default", "packed, all"
FORMS = tuple(
    form
    for encoder in (MEAN, ATTENTION)
    for form in (
        Form(PLAIN, encoder),
        Form(PACKED, encoder, windows=12),
        Form(DEFAULT, encoder, windows=TrainerConfig.windows_per_step),
        Form(ALL, encoder, windows=TrainerConfig.windows_per_step, positions=10**6),
        *(
            form
            for length in (50, 100)
            for form in (
                Form(PLAIN, encoder, history_length=length),
                Form(PACKED, encoder, history_length=length, windows=12),
            )
        ),
    )
)


@dataclasses.dataclass(frozen=True)
class Data:
    """Paths of the inputs for a history length, below `work`."""

    work: str
    history_length: int

    @property
    def events(self) -> str:
        """Path of the data directory, shared by all history lengths."""
        return os.path.join(self.work, "data")

    @property
    def output(self) -> str:
        """Path of the pipeline's output."""
        return os.path.join(self.work, f"output-{self.history_length}")

    @property
    def queries(self) -> str:
        """Path of the plain form's Examples."""
        return os.path.join(self.work, f"queries-{self.history_length}")

    def artifact(self, kind: str) -> str:
        """Returns the path of the newest artifact of a kind."""
        return max(glob.glob(os.path.join(self.output, "artifacts", kind, "*")), key=os.path.getmtime)

    @property
    def window_files(self) -> list[str]:
        """Paths of train's transformed windows."""
        return _files(os.path.join(self.artifact("Transform/transformed_examples"), "Split-train"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", default="runs/training-speed", help="directory in which the data stays")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, default=50, help="steps of each form in a round, for at most 8 seconds"
    )
    parser.add_argument("--forms", default="", help="measure only forms whose title has all these words")
    parser.add_argument("--prepare", metavar="N", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--one", metavar="FORM", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare(Data(options.work, options.prepare))
        return
    if options.one is not None:
        form = FORMS[options.one]
        print(json.dumps(measure(form, Data(options.work, form.history_length), options.steps)))
        return
    chosen = [n for n, form in enumerate(FORMS) if all(word in form.title for word in options.forms.split())]
    common = ("--work", options.work, "--steps", str(options.steps))
    for length in dict.fromkeys(FORMS[number].history_length for number in chosen):
        if not os.path.exists(Data(options.work, length).queries):
            subprocess.run([*THIS, *common, "--prepare", str(length)], check=True, stdout=sys.stderr)
    results: dict[Form, list[dict[str, float]]] = {FORMS[number]: [] for number in chosen}
    for _, number in itertools.product(range(options.rounds), chosen):
        done = subprocess.run([*THIS, *common, "--one", str(number)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{FORMS[number].title} failed:\n{done.stderr[-4000:]}")
        results[FORMS[number]].append(json.loads(done.stdout.splitlines()[-1]))
    print_table(results)


def print_table(results: dict[Form, list[dict[str, float]]]) -> None:
    """Prints a Markdown table of medians over the rounds."""
    header = (
        "",
        "positions per step",
        "ms",
        "positions/s",
        "from",
        "to",
        "waiting",
        "GB",
        "bytes per position",
    )
    print(f"| {' | '.join(header)} | x plain |\n|---|{'---:|' * len(header)}")
    speeds = {form: [one["positions_per_second"] for one in several] for form, several in results.items()}
    for form, several in results.items():
        median = {key: statistics.median(one[key] for one in several) for key in several[0]}
        speed = median["positions_per_second"]
        plain = speeds.get(Form(PLAIN, form.encoder, form.history_length))
        cells = (
            form.title,
            f"{median['positions']:,.0f}",
            f"{1_000 * median['seconds']:.1f}",
            f"{speed:,.0f}",
            f"{min(speeds[form]):,.0f}",
            f"{max(speeds[form]):,.0f}",
            f"{median['waiting']:.1%}",
            f"{median['peak_bytes'] / 1e9:.1f}",
            f"{median['bytes_per_position']:,.0f}",
            f"{speed / statistics.median(plain):.1f}" if plain else "",
        )
        print(f"| {' | '.join(cells)} |")


def prepare(data: Data) -> None:
    """Simulates, transforms windows, and writes the plain form's queries with repeated histories."""
    from benchmarks.simulated_data import simulated_data
    from two_tower.pipeline.local_runner import run_local

    simulated_data(data.events, *WORLD)
    config = PipelineConfig(windows=WindowConfig(history_length=data.history_length))
    run_local(data.events, data.output, config, until=("Transform", "CatalogTransform"))
    inputs = Inputs.read(data)
    batches = window_batches(data.window_files, inputs.spec, windows=32, shuffle_seed=1)
    queries = (
        plain_queries(batch, inputs.table, data.history_length, config.trainer)
        for batch in batches.take(_REPEATED_WINDOWS // 32)
    )
    unfinished = f"{data.queries}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    write_queries(queries, unfinished)
    os.rename(unfinished, data.queries)


class Inputs(NamedTuple):
    """Inputs of both models, and the feature spec of windows."""

    table: CatalogTable
    log_q: np.ndarray
    users: int
    spec: dict[str, Any]

    @classmethod
    def read(cls, data: Data) -> Inputs:
        output = tft.TFTransformOutput(data.artifact("Transform/transform_graph"))
        of_catalog = tft.TFTransformOutput(data.artifact("CatalogTransform/transform_graph"))
        folder = os.path.join(data.artifact("CatalogTransform/transformed_examples"), "*")
        catalog = CatalogArrays.read(_files(folder), of_catalog.transformed_feature_spec())
        vocabulary = output.vocabulary_by_name(features.ITEM_VOCABULARY)
        return cls(
            CatalogTable(catalog, np.array([int(item) for item in vocabulary], np.int64)),
            log_sampling_probability(catalog, training._label_counts(output)),
            output.vocabulary_size_by_name(features.USER_VOCABULARY),
            output.transformed_feature_spec(),
        )


def measure(form: Form, data: Data, steps: int) -> dict[str, float]:
    """Measures medians over `steps` steps in this process, after a few warm-up steps."""
    tf.keras.utils.set_random_seed(1)
    # Same setting as in `trainer.loop.training` on CPUs.
    tf.config.experimental.enable_op_determinism()
    inputs = Inputs.read(data)
    config = TrainerConfig(encoder=form.encoder, positions_per_step=form.positions)
    optimizer = optimizer_of(config, steps=1)
    arguments = inputs.table, inputs.log_q, inputs.users, form.history_length, config
    if form.windows:
        files = data.window_files
        batches = window_batches(files, inputs.spec, form.windows, shuffle_seed=1).repeat()
        packed = TwoTowerModel(*arguments)
        packed.compute_loss(next(iter(batches)))
        optimizer.build(packed.trainable_variables)
        handover = Handover(batches.element_spec)
        batches = batches.map(handover.tensors)
        strategy = tf.distribute.get_strategy()
        step = compiled_step(packed, optimizer, config, strategy, handover, batches.element_spec)
    else:
        files = _files(data.queries)
        batches = query_batches(files, form.history_length, form.positions, shuffle_seed=1)
        plain = PlainRetrieval(*arguments)
        plain.compile(optimizer=optimizer)

        @tf.function
        def step(batch: dict[str, tf.Tensor], number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            del number
            return plain.train_step(batch)["loss"], tf.size(batch["label_row"])

    seconds: list[float] = []
    waited: list[float] = []
    positions: list[int] = []
    iterator = iter(batches)
    warm = time.perf_counter()
    for number in range(_WARM_UP_STEPS + steps):
        began = time.perf_counter()
        batch = next(iterator)
        arrived = time.perf_counter()
        _, of_step = (value.numpy() for value in step(batch, tf.constant(number, tf.int64)))
        if number < _WARM_UP_STEPS:
            warm = time.perf_counter()
        else:
            seconds.append(time.perf_counter() - began)
            waited.append(arrived - began)
            positions.append(int(of_step))
            if time.perf_counter() - warm > _SECONDS:
                break
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # Windows are read in full, so bytes count all positions, in a step's loss or not.
    records = sum(1 for _ in tf.data.TFRecordDataset(files, compression_type="GZIP"))
    read = sum(map(os.path.getsize, files)) / records * (form.windows or form.positions)
    return {
        "positions": statistics.mean(positions),
        "seconds": statistics.median(seconds),
        "positions_per_second": statistics.mean(positions) / statistics.median(seconds),
        "waiting": sum(waited) / sum(seconds),
        "peak_bytes": peak,
        "bytes_per_position": read / statistics.mean(positions),
    }


def _files(folder: str) -> list[str]:
    return sorted(glob.glob(os.path.join(folder, "*.gz")))


if __name__ == "__main__":
    main()
