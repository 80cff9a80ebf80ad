"""Ablation study: the model trained without each of its parts, on a simulated world, over several seeds.

    python benchmarks/ablation.py [--output runs/ablation] [--seeds 3] [--parts logq,seed]
                                  [--write docs/ablation.md]

Prints a Markdown table of Recall@100, over all labels and over slices. It shows the full model and the change
without each part, paired by seed. `ablation.json` in the output directory holds the rest. Every training is a
separate process and appends a line to `trainings.jsonl` at its end. Finished trainings are not repeated, so
that an interrupted benchmark can resume.

The world is smaller than the default world, with smaller artists and more releases. A day's labels then hold
enough cold and trending items; a third of the cold labels are by artists that train has not seen. The world
was chosen by counting labels, not by training a model. The best epoch is chosen on eval. The table is
measured on test, with the served artifact in a fresh process.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import numpy as np

from two_tower.base.errors import UserError
from two_tower.base.import_closure import import_digest
from two_tower.data_directory.feature_columns import resolve
from two_tower.data_directory.manifest import Manifest
from two_tower.evaluation import measure
from two_tower.evaluation.baselines.catalog import Catalog
from two_tower.evaluation.baselines.fitting import fit_baselines
from two_tower.evaluation.metrics import Floats, Ints, label_ranks
from two_tower.evaluation.oracle_comparison import OracleAnswers
from two_tower.evaluation.queries import LabelSets, all_queries, read_windows, sample_by_user
from two_tower.evaluation.slices import Slice, item_slices, play_ratio_slices, repeat_slices, trends_from
from two_tower.evaluation.train_counts import TrainCounts
from two_tower.ingestion import FORMATS
from two_tower.pipeline.settings import run_file
from two_tower.pipeline.settings.pipeline_config import PipelineConfig
from two_tower.simulator.simulate import SimulationParameters, simulate
from two_tower.trainer.settings import AGGREGATES

WORLD = SimulationParameters(
    users=3_000,
    days=20,
    listens_per_user=100.0,
    tracks=8_000,
    styles=20,
    genres=5,
    tastes=4,
    # The defaults (.12, 15 and 9) would give 1.4% cold labels per day, all by artists known to train.
    release_share=0.2,
    tracks_per_artist=6.0,
    tracks_per_album=5.0,
    # Enough for all test labels.
    oracle_queries=20_000,
)
# World for a trial run of the benchmark: it trains in seconds.
TINY = dataclasses.replace(WORLD, users=300, days=10, listens_per_user=60.0, tracks=1_200, styles=8)
SETTINGS = ("features.items=embedding", "trainer.windows_per_step=16")
K = 100
OVERALL = "overall"
COLUMNS = (OVERALL, "head", "tail", "cold", "trending", "heard", "repeat")
FULL = "full"


@dataclasses.dataclass(frozen=True)
class Part:
    """Part of the model: how to remove it, and the columns that it should help.

    `compared_with` is the variant that the model without this part is compared with.
    """

    name: str
    meant_for: str
    without: str
    compared_with: str = FULL


PARTS = {
    # The repeat head must be off too: its items are not sampled, so without logQ correction they would
    # outweigh all others.
    "logq": Part(
        "logQ correction", "overall, head", "trainer.frequency.correction=none", compared_with="repeats"
    ),
    "example_age": Part("example age", "trending", "trainer.parts=-example_age"),
    "history": Part("history", OVERALL, "trainer.parts=-history,-repeat_head"),
    "seed": Part("seed track", OVERALL, "trainer.parts=-seed"),
    "play_ratio": Part("play-ratio weights", "heard", "trainer.label_weights.play_ratio_floor=1"),
    "content": Part("content vectors", "cold", "features.items="),
    "shared_tables": Part("shared tables", OVERALL, "trainer.parts=-shared_tables"),
    "id_dropout": Part("id dropout", "cold", "trainer.dropout.id=0"),
    "user_id": Part("user id", OVERALL, "trainer.parts=-user_id"),
    "aggregates": Part("history aggregates", OVERALL, "trainer.parts=-aggregates"),
    "item_bias": Part("item bias", OVERALL, "trainer.parts=-item_bias"),
    "item_width": Part("narrow item embeddings", OVERALL, "trainer.item_embedding_dim=0"),
    "repeats": Part("repeat head", "repeat", "trainer.parts=-repeat_head"),
}
# Two-sided 95% quantiles of Student's t for 1, 2, ... degrees of freedom.
_T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_BEGIN, _END = "<!-- printed by benchmarks/ablation.py: begin -->", "<!-- end -->"
_CONTEXT = multiprocessing.get_context("spawn")


@dataclasses.dataclass(frozen=True)
class LabelledQueries:
    """Test queries with their labels and slices; `rows` [Q] are rows of the split's queries."""

    rows: Ints
    labels: LabelSets
    slices: list[Slice]

    def recalls(self, recommended: Ints) -> dict[str, float]:
        """Computes Recall@K by slice and overall, from `recommended` [Q, K]."""
        ranks = label_ranks(recommended, self.labels)
        return {one.name: one.metrics(ranks, self.labels, [K])[f"recall@{K}"] for one in self.slices}

    def save(self, path: Path) -> None:
        masks = {f"slice_{one.name}": one.labels for one in self.slices}
        np.savez(path, rows=self.rows, items=self.labels.item_id, offsets=self.labels.offsets, **masks)

    @classmethod
    def load(cls, path: Path) -> LabelledQueries:
        with np.load(path) as stored:
            masks = {name: stored[name] for name in stored.files if name.startswith("slice_")}
            slices = [Slice(name.removeprefix("slice_"), mask) for name, mask in masks.items()]
            return cls(stored["rows"], LabelSets(stored["items"], stored["offsets"]), slices)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/ablation"), help="directory for data and results"
    )
    parser.add_argument("--seeds", type=int, default=3, choices=range(1, len(_T_QUANTILES) + 2), metavar="N")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="settings that override SETTINGS"
    )
    parser.add_argument("--tiny", action="store_true", help="trial run on a tiny world")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="write the table between the marks in FILE"
    )
    options = parser.parse_args()
    parts = list(filter(None, options.parts.split(",")))
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    # The training processes inherit these.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")
    output, overrides = options.output, (*SETTINGS, *options.set)
    world = TINY if options.tiny else WORLD
    what = {
        "world": dataclasses.asdict(world),
        "settings": run_file.load(overrides=overrides).to_dict(),
        "sources": import_digest("two_tower.pipeline.commands.main"),
    }
    prepared = output / "prepared.json"
    if prepared.exists() and json.loads(prepared.read_text())["what"] != json.loads(json.dumps(what)):
        raise UserError(
            f"{output} holds an ablation with another world, other settings or other sources: name another "
            "directory."
        )
    if not prepared.exists():
        _run_in_process(prepare, output, world, overrides, what)
    for seed in range(options.seeds):
        for part in required_variants(parts):
            if (part, seed) not in trainings(output):
                _run_in_process(train_without, output, overrides, part, seed)
                print(_training_line(trainings(output)[part, seed]), flush=True)
    text = render(output, parts, options.seeds)
    print(text)
    if options.write:
        write_between_marks(options.write, text)


def required_variants(parts: Sequence[str]) -> list[str]:
    """Returns the variants that the table of `parts` needs, without duplicates."""
    return list(dict.fromkeys([FULL, *(PARTS[part].compared_with for part in parts), *parts]))


def _run_in_process(target: Callable[..., None], *arguments: Any) -> None:
    """Runs a function in a new process, which frees its memory and starts with fresh random state."""
    process = _CONTEXT.Process(target=target, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)


def prepare(
    output: Path, world: SimulationParameters, overrides: Sequence[str], what: dict[str, Any]
) -> None:
    """Prepares what all trainings share: simulates, transforms, and measures baselines and oracle."""
    from two_tower.components.interaction_example_gen.facts import facts_of
    from two_tower.pipeline.local_runner import run_local
    from two_tower.pipeline.runs.stored_runs import latest_outputs

    config = run_file.load(overrides=overrides)
    source, data, run = (str(output / name) for name in ("yambda", "data", "run"))
    simulate(source, world)
    FORMATS["yambda"](source, data)
    run_local(data, run, config, until=("Transform", "CatalogTransform"))
    outputs = latest_outputs(run, "CatalogTransform", partial=True)
    (windows_dir,) = outputs["InteractionExampleGen"]["examples"]
    windows = {split: read_windows(f"{windows_dir}/Split-{split}") for split in ("train", "eval", "test")}
    available = all_queries(windows["test"])
    rows = sample_by_user(available, config.evaluation.max_queries, config.seed)
    queries, train = available.take(rows), TrainCounts.of(windows["train"])
    facts = facts_of(data, Manifest.load(data), config.split)
    recent_from = trends_from(facts.train_end, facts.test_from, facts.test_to)
    slices = [
        *item_slices(queries.labels, train, recent_from),
        *play_ratio_slices(queries, windows["test"]),
        *repeat_slices(queries, windows["test"], train, windows["eval"]),
    ]
    everything = Slice(OVERALL, np.ones(len(queries.label_item_id), bool))
    asked = LabelledQueries(rows, queries.labels, [everything, *slices])
    asked.save(output / "asked.npz")
    baselines = fit_baselines(
        train.events,
        windows["eval"],
        cutoff=K,
        repeats_recommendable=True,
        seed=1,
        history_length=config.windows.history_length,
        catalog=Catalog.read(data, facts.data_digest),
    )
    references = {
        name.replace("_", " "): asked.recalls(baseline.recommend(windows["test"], available, rows, K, False))
        for name, baseline in baselines.items()
    }
    if oracle := OracleAnswers.read(data, queries):
        references["the simulator's own probabilities"] = _oracle_recalls(asked, oracle)
    sizes = {one.name: one.size(asked.labels) for one in asked.slices}
    (output / "prepared.json").write_text(
        json.dumps({"what": what, "outputs": outputs, "sizes": sizes, "references": references}, indent=2)
    )


def _oracle_recalls(asked: LabelledQueries, oracle: OracleAnswers) -> dict[str, float]:
    """Computes the oracle's recall by slice, over the queries that it answered."""
    found: Floats = (oracle.rank <= K).astype(np.float64)
    return {one.name: float(found[one.labels[oracle.rows]].mean()) for one in asked.slices}


def train_without(output: Path, overrides: Sequence[str], part: str, seed: int) -> None:
    """Trains without a part, or with all parts (FULL), and appends a line of measurements."""
    import tensorflow as tf

    from two_tower.serving.index import ExactIndex
    from two_tower.serving.retrieval_model import RetrievalModel
    from two_tower.trainer.loop.training import train
    from two_tower.trainer.loop.training_data import TrainingData

    began = time.monotonic()
    config = variant(overrides, part, seed)
    manifest = Manifest.load(str(output / "data"))
    resolved = resolve(config.features, manifest, AGGREGATES in config.trainer.parts)
    outputs = json.loads((output / "prepared.json").read_text())["outputs"]

    def files(component: str, split: str) -> list[str]:
        (folder,) = outputs[component]["transformed_examples"]
        return sorted(map(str, Path(folder, f"Split-{split}").glob("*.gz")))

    data = TrainingData(
        train_files=files("Transform", "train"),
        eval_files=files("Transform", "eval"),
        transform_graph=outputs["Transform"]["transform_graph"][0],
        catalog_files=files("CatalogTransform", "catalog"),
        catalog_graph=outputs["CatalogTransform"]["transform_graph"][0],
        history_length=config.windows.history_length,
        repeats_recommendable=manifest.repeats_recommendable,
        resolved=resolved,
    )
    asked = LabelledQueries.load(output / "asked.npz")
    (windows_dir,) = outputs["InteractionExampleGen"]["examples"]
    with tempfile.TemporaryDirectory() as scratch:
        trained = train(data, config.trainer, f"{scratch}/towers", f"{scratch}/logs", K, seed=config.seed)
        # An exact index instead of ScannIndexer's, so that index errors do not hide the effect of a part.
        towers = tf.saved_model.load(f"{scratch}/towers")
        item_id = towers.catalog()["item_id"]
        index = ExactIndex(towers.candidate_embedding(item_id)["embedding"])
        served = RetrievalModel(towers, index, item_id, config.index.max_k, resolved.users)
        served.save(f"{scratch}/served")
        recommended = measure.answers(
            f"{scratch}/served",
            f"{windows_dir}/Split-test",
            asked.rows,
            k=K,
            history_length=config.windows.history_length,
            exclude=not manifest.repeats_recommendable,
            served_alone=True,
        ).served
    line = {
        "part": part,
        "seed": seed,
        "recall": asked.recalls(recommended),
        "training": {name: float(value) for name, value in trained.items()},
        "seconds": round(time.monotonic() - began, 1),
    }
    with (output / "trainings.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def variant(overrides: Sequence[str], part: str, seed: int) -> PipelineConfig:
    """Returns the settings of one training."""
    without = list(overrides)
    while part != FULL:
        without.append(PARTS[part].without)
        part = PARTS[part].compared_with
    config = run_file.load(overrides=without)
    return dataclasses.replace(config, seed=config.seed + seed)


def trainings(output: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Returns the finished trainings by removed part and seed, ignoring a line that an interruption
    truncated.
    """
    path = output / "trainings.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return {(one["part"], one["seed"]): one for one in found}


def _training_line(training: dict[str, Any]) -> str:
    recall = ", ".join(f"{name} {training['recall'].get(name, float('nan')):.4f}" for name in COLUMNS)
    return f"{training['part']}, seed {training['seed']}, {training['seconds']:.0f} s: {recall}"


def confidence_interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean and half the width of its 95% interval by Student's t, infinite for one value."""
    if len(values) < 2:
        return values[0], float("inf")
    deviation = statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), _T_QUANTILES[len(values) - 2] * deviation


def summarize(output: Path, parts: Iterable[str], seeds: int) -> dict[str, dict[str, tuple[float, float]]]:
    """Summarises recall as mean and half-width, by variant and column.

    The full model has its recall. Every other variant has its difference from the variant that it is compared
    with, paired by seed.
    """
    done = trainings(output)

    def of(column: str, part: str) -> tuple[float, float]:
        own = [done[part, seed]["recall"][column] for seed in range(seeds)]
        if part == FULL:
            return confidence_interval(own)
        other = [done[PARTS[part].compared_with, seed]["recall"][column] for seed in range(seeds)]
        return confidence_interval([without - whole for without, whole in zip(own, other, strict=True)])

    columns = [column for column in COLUMNS if column in done[FULL, 0]["recall"]]
    return {part: {column: of(column, part) for column in columns} for part in (FULL, *parts)}


def render(output: Path, parts: Sequence[str], seeds: int) -> str:
    """Returns the table and writes `ablation.json`."""
    prepared = json.loads((output / "prepared.json").read_text())
    summary, done = summarize(output, parts, seeds), trainings(output)
    runs = [done[part, seed] for seed in range(seeds) for part in required_variants(parts)]
    (output / "ablation.json").write_text(
        json.dumps({**prepared, "parts": list(parts), "trainings": runs, "summary": summary}, indent=2)
    )
    columns = list(summary[FULL])
    rows = [
        ["labels", "", *(f"{prepared['sizes'][column]['labels']:,}" for column in columns)],
        *(
            [name, "", *(f"{values[column]:.4f}" for column in columns)]
            for name, values in prepared["references"].items()
        ),
        ["**all parts**", "", *(_with_interval(*summary[FULL][column], sign="") for column in columns)],
        *(
            [
                _row_label(part),
                PARTS[part].meant_for,
                *(_with_interval(*summary[part][column], sign="+") for column in columns),
            ]
            for part in parts
        ),
    ]
    minutes = sum(one["seconds"] for one in runs) / 60
    header = ["Recall@100", "meant to help", *columns]
    lines = [header, ["---", "---", *["---:"] * len(columns)], *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        f"{table}\n\nRecall@100 of {len(runs)} trainings, {seeds} per row; they took {minutes:.0f} minutes. "
        "Rows below *all parts* are differences from it (or from the variant in brackets), paired by seed. "
        "A negative difference means that the part helps. "
        "± is half a 95% interval by Student's t over seeds, for one world and one test day. Bold: the "
        f"interval excludes zero; of {len(parts) * len(columns)} differences "
        f"{len(parts) * len(columns) * 0.05:.0f} would by chance alone."
    )


def _row_label(part: str) -> str:
    compared_with = PARTS[part].compared_with
    return f"without {PARTS[part].name}" + (
        "" if compared_with == FULL else f" (both without {PARTS[compared_with].name})"
    )


def _with_interval(mean: float, half: float, sign: str) -> str:
    text = f"{mean:{sign}.4f}".replace("-", "−")
    if half == float("inf"):
        return text
    text = f"{text} ± {half:.4f}"
    return f"**{text}**" if sign and abs(mean) > half else text


def write_between_marks(path: Path, text: str) -> None:
    """Replaces the text between the marks in a Markdown file."""
    before, begin, rest = path.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise UserError(f"{path}: the marks {_BEGIN} and {_END} are missing: add them around the table.")
    path.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{after}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
