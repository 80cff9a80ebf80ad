"""Benchmark of exact evaluation: time and peak memory, and their growth with items and users.

    python -m benchmarks.evaluator [--users 10000] [--items 934057] [--plot FILE] [--one USERS ITEMS]

Each user has one query, which is compared with all items in 64 dimensions. All metrics, slices and intervals
follow, for exact search and a list of popular items, with the code of RetrievalEvaluator. The vectors are
random: items lie around 1,000 centres, a user lies near their label. Their values do not affect the time.
934,057 is the number of items in Yambda.

Each size runs in a separate process. Growth covers .1, .3 and all of the items with all users. It also covers
the same shares of the users with all items. Peak memory is that of the process; the shares of vectors and
imports are printed separately.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

DIMENSION, CENTRES, K = 64, 1_000, 100
CUTOFFS = (1, 10, 50, 100)
TRAIN_EVENTS = 1_000_000
SHARES = (0.1, 0.3, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=934_057)
    parser.add_argument("--plot", metavar="FILE", help="plot the growth to FILE")
    parser.add_argument("--one", nargs=2, type=int, metavar=("USERS", "ITEMS"), help="measure one size only")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    sizes = dict.fromkeys(
        [
            *((options.users, round(options.items * share)) for share in SHARES),
            *((round(options.users * share), options.items) for share in SHARES),
        ]
    )
    results = [measure_in_process(users, items) for users, items in sizes]
    print(
        f"{'users':>8}{'items':>10}{'search':>10}{'metrics':>10}{'peak':>10}{'vectors':>10}{'imports':>10}"
        f"{'products/s':>13}{'recall':>9}"
    )
    for one in results:
        products = one["users"] * one["items"] / one["search_seconds"]
        print(
            f"{one['users']:8,}{one['items']:10,}"
            f"{one['search_seconds']:8.1f} s{one['metrics_seconds']:8.1f} s"
            f"{one['peak_bytes'] / 1e9:7.2f} GB{one['vector_bytes'] / 1e9:7.2f} GB"
            f"{one['import_bytes'] / 1e9:7.2f} GB{products / 1e9:11.2f} G{one['recall']:9.3f}"
        )
    if options.plot:
        draw(results, options.users, options.items, options.plot)


def measure_in_process(users: int, items: int) -> dict[str, Any]:
    """Runs `measure` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.evaluator", "--one", str(users), str(items)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{users} users, {items} items failed:\n{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(users: int, items: int) -> dict[str, Any]:
    """Measures seconds of search and metrics, peak memory, and Recall@100 as a check of the search."""
    from two_tower.evaluation.beyond_accuracy import ItemVectors
    from two_tower.evaluation.exact_search import top_rows
    from two_tower.evaluation.figures import Recommendations, evaluate, results_of
    from two_tower.evaluation.label_events import LabelEvents
    from two_tower.evaluation.queries import LabelSets, Queries
    from two_tower.evaluation.recommenders import MODEL, MODEL_EXACT
    from two_tower.evaluation.slices import item_slices, popularity_slices, user_slices
    from two_tower.evaluation.train_counts import TrainCounts

    import_bytes = peak_bytes()
    vectors, queries, label = drawn_vectors(users, items)
    draw = np.random.default_rng(1)
    played = np.minimum(draw.zipf(1.2, TRAIN_EVENTS), items) - 1
    events = LabelEvents(draw.integers(0, users, TRAIN_EVENTS), played, np.arange(TRAIN_EVENTS))
    train = TrainCounts(np.arange(users), np.unique(played), events, *np.unique(played, return_counts=True))

    began = time.perf_counter()
    found = top_rows(queries, vectors, K)
    searched = time.perf_counter()
    place = np.arange(users)
    asked = Queries(place, place, 0 * place, place, place, place, LabelSets.of_one(label))
    by_plays = train.played_items[np.argsort(-train.plays, kind="stable")][:K]
    recommendations = Recommendations(
        queries=asked,
        items={MODEL: found, MODEL_EXACT: found, "most_popular": np.tile(by_plays, [users, 1])},
        slices=[
            *item_slices(asked.labels, train),
            *popularity_slices(asked.labels, train),
            *user_slices(asked, train),
        ],
        train=train,
        history_popularity=train.popularity(label),
        vectors=ItemVectors.of_model(np.arange(items), vectors),
        catalog_size=items,
        cutoffs=CUTOFFS,
        judged_cutoff=K,
        seed=1,
    )
    figures = evaluate(recommendations, results_of(recommendations))
    return {
        "users": users,
        "items": items,
        "search_seconds": searched - began,
        "metrics_seconds": time.perf_counter() - searched,
        "peak_bytes": peak_bytes(),
        "vector_bytes": vectors.nbytes + queries.nbytes,
        "import_bytes": import_bytes,
        "recall": figures["metrics"]["test"][f"recall@{K}"],
    }


def drawn_vectors(users: int, items: int) -> tuple[Any, Any, Any]:
    """Draws unit vectors of items [items, D] and queries [users, D], and each query's label [users]."""
    draw = np.random.default_rng(0)
    centres = draw.standard_normal([CENTRES, DIMENSION], np.float32)
    vectors = centres[draw.integers(0, CENTRES, items)]
    for begin in range(0, items, 100_000):  # drawn in parts, since one draw would set the peak memory
        part = vectors[begin : begin + 100_000]
        part += 0.5 * draw.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    label = draw.integers(0, items, users)
    queries = vectors[label] + 0.1 * draw.standard_normal([users, DIMENSION], np.float32)
    return vectors, queries / np.linalg.norm(queries, axis=1, keepdims=True), label


def peak_bytes() -> int:
    """Returns the peak memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def draw(results: list[dict[str, Any]], users: int, items: int, path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (of_time, of_memory) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for label, varied, chosen in (
        (f"items, at {users:,} users", "items", [one for one in results if one["users"] == users]),
        (f"users, at {items:,} items", "users", [one for one in results if one["items"] == items]),
    ):
        chosen = sorted(chosen, key=lambda one: one[varied])
        share = [one[varied] / chosen[-1][varied] for one in chosen]
        seconds = [one["search_seconds"] + one["metrics_seconds"] for one in chosen]
        of_time.plot(share, seconds, "o-", label=label)
        of_memory.plot(share, [one["peak_bytes"] / 1e9 for one in chosen], "o-", label=label)
        of_memory.plot(
            share,
            [(one["vector_bytes"] + one["import_bytes"]) / 1e9 for one in chosen],
            ":",
            color="grey",
            label="vectors and imports alone" if varied == "items" else None,
        )
    for axes, what in ((of_time, "seconds"), (of_memory, "peak memory, GB")):
        axes.set(xlabel="share of the items or users", ylabel=what, ylim=(0, None))
        axes.legend()
    # The date is omitted, so that equal figures give equal bytes.
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


if __name__ == "__main__":
    main()
