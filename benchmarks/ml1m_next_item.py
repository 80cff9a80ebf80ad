"""Benchmark on MovieLens-1M's sequences: the published leave-one-out protocol, through the whole DAG.

    python benchmarks/ml1m_next_item.py ml-1m.txt.gz [--preset mean|attention] [--seeds 3]
        [--softmax full|sampled] [--similarity cosine|dot] [--output runs/ml1m]

FILE is the one that SASRec, BERT4Rec and gSASRec publish: each line is an event `user item`, in order. A
user's last event is the test label, the one before it the validation label. A query sees all earlier events.
All items are ranked except those in the user's history. Data path, Trainer and evaluator are the project's
own.

Attention with the full softmax and cosine uses the preset next_item unchanged, which was chosen on validation
alone. The mean encoder's learning rate, dropout and epochs were chosen on validation alone too, from three
tries. So were those of the plain dot product, before the co-occurrence initialisation of items existed. The
sampled softmax uses the settings of the full softmax.

A further seed reruns only the components that depend on it, and finished runs are not repeated. A few lines
of NumPy, which read FILE themselves, recompute the metrics of every model. The benchmark stops if they
differ.

Prints the table as Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from two_tower.base.errors import UserError
from two_tower.ingestion import FORMATS
from two_tower.pipeline.runs.report import collect
from two_tower.pipeline.settings import run_file

# Encoder, softmax and similarity.
Form = tuple[str, str, str]

PRESETS, SOFTMAX = ("mean", "attention"), ("sampled", "full")
# Changes to the preset next_item.
_ENCODER_SETTINGS = {
    "attention": (),
    "mean": (
        "trainer.encoder=mean",
        "trainer.dropout.hidden=0.2",
        "trainer.epochs=8",
        "trainer.learning_rate=0.003",
    ),
}
_SOFTMAX_SETTINGS = {
    "full": ("trainer.softmax=full",),
    "sampled": ("trainer.softmax=sampled",),
}
_SIMILARITY_SETTINGS = {
    "cosine": (),
    "dot": (
        "trainer.parts=-normalisation",
        "trainer.temperature=1",
        "trainer.item_initial=random",
        "trainer.learning_rate=0.003",
        "trainer.weight_decay=0",
    ),
}
_FIRST_SEED = 17
_K = 10
# HR@10, NDCG@10, and their source.
_PUBLISHED = (
    ("SASRec (BCE, one negative)", 0.2500, 0.1341, "antklen/sasrec-bert4rec-recsys23"),
    ("BERT4Rec", 0.2843, 0.1537, "antklen/sasrec-bert4rec-recsys23"),
    ("gSASRec", 0.3003, 0.1726, "asash/gSASRec-pytorch"),
    ("SASRec+ (cross-entropy)", 0.3152, 0.1821, "antklen/sasrec-bert4rec-recsys23"),
    ("SASRec+ (3000 negatives)", 0.3159, 0.1857, "antklen/sasrec-bert4rec-recsys23"),
    ("HSTU-large", 0.3294, 0.1893, "RAILS"),
    ("HSTU-large + mixture of logits (no dot product)", 0.3412, 0.1979, "RAILS"),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """Metrics of one seed: hit rate and NDCG at 10 of test and validation, and the cost of training."""

    hit_rate: float
    ndcg: float
    validation_hit_rate: float
    validation_ndcg: float
    epochs: float
    best_epoch: float
    parameters: float
    seconds: float
    most_popular: tuple[float, float]


def main() -> None:
    """Ingests, runs and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="ml-1m.txt.gz, or another file of lines `user item`")
    parser.add_argument("--preset", choices=PRESETS, help="default: both")
    parser.add_argument("--softmax", choices=SOFTMAX, help="default: both")
    parser.add_argument(
        "--similarity", choices=_SIMILARITY_SETTINGS, default="cosine", help="default: cosine"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--output", default="runs/ml1m", help="directory for data and runs")
    options = parser.parse_args()
    data = os.path.join(options.output, "data")
    FORMATS["sequences"](options.file, data, "ml-1m-sequences")
    found: dict[Form, list[Run]] = {}
    for form in itertools.product(
        [options.preset] if options.preset else PRESETS,
        [options.softmax] if options.softmax else SOFTMAX,
        [options.similarity],
    ):
        runs = found.setdefault(form, [])
        for seed in range(_FIRST_SEED, _FIRST_SEED + options.seeds):
            runs.append(run(options.file, data, os.path.join(options.output, "runs"), form, seed))
            print(f"\n{', '.join(form)}, seed {seed}: {runs[-1]}\n", flush=True)
    print_table(found)


def run(file: str, data: str, output: str, form: Form, seed: int) -> Run:
    """Trains and evaluates once, and recomputes the metrics."""
    encoder, softmax, similarity = form
    config = run_file.load(
        "next_item",
        overrides=[
            *_ENCODER_SETTINGS[encoder],
            *_SOFTMAX_SETTINGS[softmax],
            *_SIMILARITY_SETTINGS[similarity],
            f"seed={seed}",
            # No model is blessed, so no run is compared with an earlier one.
            "gate.min_recall=0.99",
            "evaluation.baselines=most_popular",
        ],
    )
    from two_tower.pipeline.local_runner import run_local

    run_local(data, output, config, until=("RetrievalEvaluator",))
    report = collect(output, partial=True)
    metrics = report["metrics"]["test"]
    result = training_result(output, report["artifacts"]["Trainer"]["model"][0])
    popular = report["baselines"]["most_popular"]
    figures = Run(
        hit_rate=metrics[f"hit_rate@{_K}"],
        ndcg=metrics[f"ndcg@{_K}"],
        validation_hit_rate=result[f"val_recall@{_K}"],
        validation_ndcg=result[f"val_ndcg@{_K}"],
        epochs=result["epochs"],
        best_epoch=result["best_epoch"],
        parameters=result["parameters"],
        seconds=result["seconds"],
        most_popular=(popular[f"hit_rate@{_K}"], popular[f"ndcg@{_K}"]),
    )
    hit_rate, ndcg = recompute_metrics(
        file, report["artifacts"]["ScannIndexer"]["model"][0], config.windows.history_length
    )
    # Items whose scores differ only by rounding may swap ranks between batches of different sizes.
    if abs(hit_rate - figures.hit_rate) > 5e-4 or abs(ndcg - figures.ndcg) > 5e-4:
        raise UserError(
            f"The evaluator finds HR@{_K} {figures.hit_rate:.4f} and NDCG@{_K} {figures.ndcg:.4f}; "
            f"recomputed from {file} they are {hit_rate:.4f} and {ndcg:.4f}. One of the two is wrong."
        )
    return figures


def training_result(output: str, model_uri: str) -> dict[str, float]:
    """Reads the numbers that Trainer recorded on its model, and the `seconds` of the uncached training."""
    from ml_metadata.proto import metadata_store_pb2 as pb
    from tfx.orchestration import metadata

    connection = metadata.sqlite_metadata_connection_config(os.path.join(output, "metadata.sqlite"))
    with metadata.Metadata(connection) as handle:
        (model,) = handle.store.get_artifacts_by_uri(model_uri)
        events = handle.store.get_events_by_artifact_ids([model.id])
        made = [event.execution_id for event in events if event.type == pb.Event.OUTPUT]
        executions = handle.store.get_executions_by_id(made)
    (training,) = [one for one in executions if one.last_known_state == pb.Execution.COMPLETE]
    numbers = {name: value.double_value for name, value in model.custom_properties.items()}
    milliseconds = training.last_update_time_since_epoch - training.create_time_since_epoch
    return {**numbers, "seconds": milliseconds / 1000}


def recompute_metrics(file: str, model_uri: str, history_length: int) -> tuple[float, float]:
    """Computes hit rate and NDCG at 10 of a served model from FILE alone; a user's earlier events are
    excluded.
    """
    import tensorflow as tf
    from scann.scann_ops.py import scann_ops  # noqa: F401  registers ScaNN's ops
    from tfx.utils import path_utils

    model = tf.saved_model.load(path_utils.serving_model_path(model_uri))
    user, item = np.loadtxt(file, np.int64, unpack=True)
    order = np.argsort(user, kind="stable")
    users, starts = np.unique(user[order], return_index=True)
    histories = np.split(item[order], starts[1:])
    catalog = model.signatures["catalog"]()["item_id"].numpy()
    candidates = model.signatures["candidate_embedding"](item_id=tf.constant(catalog))["embedding"].numpy()
    gains = []
    for begin in range(0, len(users), 256):
        some = histories[begin : begin + 256]
        requests = np.full([len(some), history_length], -1)
        for row, history in enumerate(some):
            recent = history[:-1][-history_length:]
            requests[row, : len(recent)] = recent
        query = model.query_embedding(
            user_id=tf.constant(users[begin : begin + 256]),
            history_item_id=tf.constant(requests),
            history_timestamp=tf.zeros(requests.shape, tf.int64),
        )["embedding"].numpy()
        for scores, history in zip(query @ candidates.T, some, strict=True):
            own = scores[catalog == history[-1]]
            others = scores[~np.isin(catalog, history)]
            rank = (others > own).sum()
            gains.append(1 / math.log2(2 + rank) if rank < _K else 0.0)
    return float(np.mean(np.array(gains) > 0)), float(np.mean(gains))


def print_table(found: dict[Form, list[Run]]) -> None:
    """Prints a Markdown table of these runs and the published results."""
    header = [
        "model",
        "softmax",
        "similarity",
        "HR@10",
        "NDCG@10",
        "validation HR@10",
        "validation NDCG@10",
        "epochs",
        "parameters",
    ]
    header.append("training, s")
    rows: list[list[Any]] = []
    for (encoder, softmax, similarity), runs in found.items():
        rows.append(
            [
                f"two-tower, {encoder}",
                softmax,
                similarity,
                _mean(runs, "hit_rate"),
                _mean(runs, "ndcg"),
                _mean(runs, "validation_hit_rate"),
                _mean(runs, "validation_ndcg"),
                ", ".join(f"{one.best_epoch:.0f} of {one.epochs:.0f}" for one in runs),
                f"{runs[0].parameters:,.0f}",
                f"{np.mean([one.seconds for one in runs]):,.0f}",
            ]
        )
    popular = next(iter(found.values()))[0].most_popular
    rows.append(["most popular in train", "", "", *(f"{value:.4f}" for value in popular), *[""] * 5])
    rows += [
        [f"{name} ({source})", "", "", f"{hit_rate:.4f}", f"{ndcg:.4f}", *[""] * 5]
        for name, hit_rate, ndcg, source in _PUBLISHED
    ]
    seeds = len(next(iter(found.values())))
    spread = f"Mean of {seeds} seeds ± standard error" if seeds > 1 else "One seed"
    print(f"\n{spread}; epochs: best epoch of the trained epochs.\n")
    print(f"| {' | '.join(header)} |\n|---|---|---|{'---:|' * (len(header) - 3)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def _mean(runs: Sequence[Run], name: str) -> str:
    values = np.array([getattr(one, name) for one in runs])
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{values.mean():.4f} ± {values.std(ddof=1) / math.sqrt(len(values)):.4f}"


if __name__ == "__main__":
    main()
