"""Benchmark of the tuned index: speed compared with exact search, Faiss HNSW and Faiss IVF-PQ at equal
recall.

    python -m benchmarks.index [--items 1000000] [--simulated | --model DIR] [--out DIR]

By default the vectors are seeded, clustered unit vectors of 128 dimensions. 1,000 centres are uniform on the
sphere. A vector is its centre plus normal noise as long as the centre (spread 1.0). Two vectors of one
cluster have a cosine of 0.5, of different clusters about 0. Queries have the same distribution and are not in
the catalog.

With --simulated, the vectors are the simulator's content embeddings, normalised: 40 styles of very different
sizes, artists and albums within them, and noise of half the signal. Queries are tracks outside the catalog.

With --model, the vectors are the item embeddings of a model; DIR is the --output of `two-tower run`. The
index is tuned on queries of eval and measured on queries of test, as in the pipeline.

serving/index_tuning.py tunes the index with its defaults: Recall@100 of 0.95 at 99% confidence over 500
queries. Recall and times in the table are of other queries, one at a time. Exact search is tf.matmul and
tf.math.top_k in the same process with all cores; NumPy's product and argpartition are listed too. Faiss
searches with one thread and builds with all:

- HNSW: M = 16, efConstruction = 80.
- IVF-PQ: as many lists as ScaNN has leaves, 4 bits per two dimensions with fast scan, exact reordering of 4k
  or 16k candidates. It is ScaNN's algorithm, except for the training of the codes.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import faiss
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from two_tower.base.errors import UserError
from two_tower.serving import index_tuning
from two_tower.serving.index import ExactIndex
from two_tower.serving.index_tuning import Built, build_index
from two_tower.serving.settings import IndexConfig
from two_tower.simulator.world import SimulationParameters, make_world

Floats = npt.NDArray[np.float32]

K = 100
TARGET = 0.95
DIMENSIONS, CENTRES, SPREAD = 128, 1_000, 1.0
_TUNING_QUERIES, _QUERIES = 500, 500
_EF_SEARCH = (32, 64, 100, 150, 225, 350, 500, 800)
_SHARES_OF_LISTS = (0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0)


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Catalog [items, dimensions], queries for tuning, and other queries for measurement."""

    name: str
    items: Floats
    tuning: Floats
    queries: Floats


@dataclasses.dataclass(frozen=True)
class Line:
    """Measurements of one index: rising curve of (recall, ms per query), build seconds and megabytes."""

    name: str
    curve: tuple[tuple[float, float], ...]
    seconds: float
    megabytes: float

    def at_target(self) -> tuple[float, float] | None:
        """Returns the fastest measured point that meets the recall target."""
        return min((point for point in self.curve if point[0] >= TARGET), key=lambda p: p[1], default=None)


def main() -> None:
    """Parses the command line and runs the benchmark."""
    parser = argparse.ArgumentParser(description="Compares the tuned index with exact search and Faiss.")
    parser.add_argument("--items", type=int, default=1_000_000)
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--simulated", action="store_true", help="use the simulator's content embeddings")
    other.add_argument("--model", metavar="DIR", help="use the item embeddings of a run; its --output")
    parser.add_argument("--out", type=Path, default=Path("index-benchmark"), help="directory for the plot")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.model:
        vectors = model_vectors(options.model)
    else:
        vectors = (simulated_vectors if options.simulated else clustered_vectors)(options.items)
    plot(vectors, compare(vectors), options.out / "index.svg")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"\nLoad average {load} on {os.cpu_count()} cores, peak memory {peak:.1f} GB. "
        f"Plot: {options.out / 'index.svg'}"
    )


def clustered_vectors(items: int) -> Vectors:
    """Draws seeded vectors in CENTRES clusters; see the module's description."""
    draw = np.random.default_rng(17)
    centres = _unit(draw.standard_normal((CENTRES, DIMENSIONS), dtype=np.float32))

    def some(size: int) -> Floats:
        noise = draw.standard_normal((size, DIMENSIONS), dtype=np.float32)
        noise *= SPREAD / DIMENSIONS**0.5
        return _unit(centres[draw.integers(0, CENTRES, size)] + noise)

    name = f"{CENTRES:,} clusters of spread {SPREAD}"
    return Vectors(name, some(items), some(_TUNING_QUERIES), some(_QUERIES))


def simulated_vectors(items: int) -> Vectors:
    """Returns content embeddings of a simulated catalog; see the module's description."""
    queries = _TUNING_QUERIES + _QUERIES
    # Days only affect popularity, which is not used here: the minimum suffices.
    world = make_world(SimulationParameters(tracks=items + queries, days=2))
    embeddings = np.random.default_rng(17).permutation(_unit(world.embeddings().astype(np.float32)))
    parts = np.split(embeddings, [items, items + _TUNING_QUERIES])
    return Vectors("simulated content", *parts)


def model_vectors(output: str) -> Vectors:
    """Returns the item embeddings of a run's latest model, and real queries of eval and test."""
    from two_tower.data_directory.feature_columns import FeatureSpec
    from two_tower.evaluation.queries import all_queries, history_batch, read_windows
    from two_tower.pipeline.runs.stored_runs import latest_outputs
    from two_tower.serving import provenance
    from two_tower.serving.catalog_embeddings import embed_catalog

    outputs = latest_outputs(output, "ScannIndexer")
    (model_dir,) = outputs["ScannIndexer"]["model"]
    (examples,) = outputs["InteractionExampleGen"]["examples"]
    path = os.path.join(model_dir, "Format-Serving")
    recorded = provenance.read(path)
    if recorded is None:
        raise UserError(f"{path}: the folder holds no model: pass the --output of a finished run.")
    import scann  # noqa: F401  registers ScaNN's ops

    model = tf.saved_model.load(path)
    users = [FeatureSpec(**spec) for spec in recorded["features"]["users"]]

    def some(split: str, size: int) -> Floats:
        windows = read_windows(os.path.join(examples, f"Split-{split}"), users)
        queries = all_queries(windows)
        draw = np.random.default_rng(17)
        rows = draw.choice(len(queries), min(size, len(queries)), replace=False)
        batch = history_batch(windows, queries, rows, recorded["history_length"])
        del batch["exclude_item_id"]
        inputs = {name: tf.constant(values) for name, values in batch.items()}
        return np.asarray(model.query_embedding(**inputs)["embedding"])

    items = embed_catalog(model, model.catalog()["item_id"].numpy())
    return Vectors(
        f"trained on {recorded['dataset']}", items, some("eval", _TUNING_QUERIES), some("test", _QUERIES)
    )


def compare(vectors: Vectors) -> list[Line]:
    """Measures all indexes over one catalog and prints the table."""
    items, queries = vectors.items, vectors.queries
    print(f"\n{len(items):,} items, {items.shape[1]}-d, {vectors.name}; Recall@{K} of {TARGET}\n", flush=True)
    held = tf.constant(items)

    @tf.function(autograph=False)
    def exact(query: tf.Tensor) -> tf.Tensor:
        return tf.math.top_k(tf.matmul(query, held, transpose_b=True), K).indices

    def by_numpy(query: Floats) -> npt.NDArray[np.int64]:
        scores = query @ items.T
        best = np.argpartition(-scores, K, axis=1)[:, :K]
        return np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, axis=1)), axis=1)

    true = np.concatenate(
        [exact(tf.constant(queries[begin : begin + 50])) for begin in range(0, len(queries), 50)]
    )
    exact_ms = _median_milliseconds(lambda query: exact(tf.constant(query)), queries, 20)
    numpy_ms = _median_milliseconds(by_numpy, queries, 20)

    began = time.monotonic()
    with mock.patch.multiple(index_tuning, EXACT_BELOW=0, TARGET_K=K):
        built = build_index(items, vectors.tuning, IndexConfig(), TARGET)
    seconds = time.monotonic() - began
    print(built.reason)
    lines = [_scann(built, queries, true, seconds)]
    num_leaves = getattr(getattr(built.index, "settings", None), "num_leaves", round(len(items) ** 0.5))
    lines.append(_ivf_pq(items, queries, true, num_leaves))
    lines.append(_hnsw(items, queries, true))
    print(render(lines, exact_ms, numpy_ms), flush=True)
    return lines


def _scann(built: Built, queries: Floats, true: npt.NDArray[Any], seconds: float) -> Line:
    index = built.index
    if isinstance(index, ExactIndex):
        raise UserError(f"There is no ScaNN index to compare: {built.reason}")
    assert built.tuning is not None
    chosen, curve = index.settings, []
    points = {
        point.settings for point in built.tuning.points if point.settings.quantization == chosen.quantization
    }
    for settings in [chosen, *(points - {chosen})]:
        index.settings = settings
        search = functools.partial(tf.function(index.search, autograph=False), k=tf.constant(K))
        found, _ = search(tf.constant(queries))
        ms = _median_milliseconds(search, queries, 200)
        curve.append((_recall(np.asarray(found), true), ms))
    index.settings = chosen
    size = sum(variable.numpy().nbytes for variable in index.variables if variable.dtype != tf.string)
    name = f"ScaNN, {chosen.num_leaves} leaves, {chosen.quantization}"
    # ScaNN is represented by the setting that tuning chose, not by the luckiest setting tried.
    return Line(
        name, (curve[0], *(p for p in curve[1:] if p[0] < TARGET or p[1] >= curve[0][1])), seconds, size / 1e6
    )


def _ivf_pq(items: Floats, queries: Floats, true: npt.NDArray[Any], num_leaves: int) -> Line:
    began = time.monotonic()
    dimensions = items.shape[1]
    kind = f"IVF{num_leaves},PQ{dimensions // 2}x4fs,RFlat"
    index = faiss.index_factory(dimensions, kind, faiss.METRIC_INNER_PRODUCT)
    sample = np.random.default_rng(17).choice(len(items), min(len(items), 100_000), replace=False)
    index.train(items[sample])
    index.add(items)
    seconds = time.monotonic() - began
    lists = faiss.extract_index_ivf(index.base_index)

    def choose(share_and_candidates: tuple[float, int]) -> None:
        share, index.k_factor = share_and_candidates
        lists.nprobe = max(1, round(share * num_leaves))

    choices = [(share, candidates) for candidates in (4, 16) for share in _SHARES_OF_LISTS]
    return _faiss_line(f"Faiss {kind}", index, choices, choose, queries, true, seconds)


def _hnsw(items: Floats, queries: Floats, true: npt.NDArray[Any]) -> Line:
    began = time.monotonic()
    index = faiss.IndexHNSWFlat(items.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 80
    index.add(items)
    seconds = time.monotonic() - began

    def with_ef(ef: int) -> None:
        index.hnsw.efSearch = ef

    return _faiss_line("Faiss HNSW, M 16", index, _EF_SEARCH, with_ef, queries, true, seconds)


def _faiss_line(
    name: str,
    index: Any,
    choices: Sequence[Any],
    choose: Callable[[Any], None],
    queries: Floats,
    true: npt.NDArray[Any],
    seconds: float,
) -> Line:
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    curve = []
    for choice in choices:
        choose(choice)
        recall = _recall(index.search(queries, K)[1], true)
        curve.append((recall, _median_milliseconds(lambda query: index.search(query, K), queries, 200)))
        if recall > 0.995:
            break
    faiss.omp_set_num_threads(threads)
    return Line(name, tuple(curve), seconds, faiss.serialize_index(index).nbytes / 1e6)


def render(lines: Sequence[Line], exact_ms: float, numpy_ms: float) -> str:
    """Returns the table: each index at its fastest point that meets the target."""
    rows = [
        "| index | Recall@100 | ms per query | queries/s | speedup over exact | build | memory |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        f"| exact: TensorFlow | 1 | {exact_ms:.2f} | {1e3 / exact_ms:,.0f} | 1 | | |",
        f"| exact: NumPy | 1 | {numpy_ms:.2f} | {1e3 / numpy_ms:,.0f} | {exact_ms / numpy_ms:.1f} | | |",
    ]
    for line in lines:
        point = line.at_target()
        cells = (
            f"{point[0]:.3f} | {point[1]:.3f} | {1e3 / point[1]:,.0f} | {exact_ms / point[1]:.0f}"
            if point
            else f"{max(recall for recall, _ in line.curve):.3f} at most | | | "
        )
        rows.append(f"| {line.name} | {cells} | {line.seconds:.0f} s | {line.megabytes:,.0f} MB |")
    return "\n".join(rows)


def plot(vectors: Vectors, lines: Sequence[Line], path: Path) -> None:
    """Plots queries per second against recall."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(7, 4.5))
    for line in lines:
        curve = sorted(line.curve)
        panel.plot([recall for recall, _ in curve], [1e3 / ms for _, ms in curve], "o-", label=line.name)
    panel.axvline(TARGET, color="grey", linewidth=0.8, linestyle=":")
    panel.set(
        xlabel=f"Recall@{K}", ylabel="queries per second, one at a time", yscale="log", xlim=(0.6, 1.005)
    )
    panel.set_title(f"{len(vectors.items):,} items, {vectors.items.shape[1]}-d, {vectors.name}", fontsize=10)
    panel.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


def _recall(found: npt.NDArray[Any], true: npt.NDArray[Any]) -> float:
    pairs = zip(found, true, strict=True)
    return float(np.mean([len(np.intersect1d(own, best)) / len(best) for own, best in pairs]))


def _median_milliseconds(search: Callable[[Floats], Any], queries: Floats, most: int) -> float:
    """Measures the median time of single queries, after three warm-up queries."""
    times = []
    for number in range(min(most, len(queries)) + 3):
        query = queries[number % len(queries)][np.newaxis]
        began = time.perf_counter()
        search(query)
        times.append(1_000 * (time.perf_counter() - began))
    return float(np.median(times[3:]))


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
