"""Benchmark of the gate's statistics by number of users: coverage of bounds, and shares of what is refused.

    python -m benchmarks.gate_statistics --output DIR [--rounds 400] [--seed 0]

DIR is the output directory of a run. The users of its test split stand for all users there are, with the
answers to their queries. Each round draws a test split from them, whole users with replacement.

- `coverage`: share of the rounds whose 95% interval holds the truth, of the model's Recall@k and of its lift
  over the best baseline.
- `equal refused`: share of the rounds in which the gate refuses one of two equal models for its change, in
  the whole or in a slice. The models agree on all queries but a tenth. Each answers these anew, with the
  chance that their user's queries are answered.
- `loss refused`: share of the rounds in which it refuses a model that lost three standard errors of its
  change, or twice the allowed loss where that is more.

The shares have standard errors of at most .025 in 400 rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from two_tower.evaluation.gate.evidence import best_baseline
from two_tower.evaluation.gate.judge import judge
from two_tower.evaluation.gate.slice_changes import recall_by_query
from two_tower.evaluation.queries import LabelSets, ragged_index
from two_tower.evaluation.query_results import QueryResults
from two_tower.evaluation.recommenders import BLESSED_MODEL, MODEL
from two_tower.evaluation.settings import MIN_USERS, GateConfig
from two_tower.evaluation.uncertainty import UserSample
from two_tower.pipeline.runs.judged_again import find_evaluation, read

USERS = (MIN_USERS, 12, 15, 20, 30, 50, 100, 300, 1_000)
# Share of the queries that two equal models answer apart.
APART = 0.1
CHANGES = ("min_change_against_blessed", "min_slice_change")
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="output directory of a run")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    evaluation, results = read(find_evaluation(options.output))
    k = int(evaluation["cutoff"])
    best, _ = best_baseline(evaluation["baselines"], f"recall@{k}")
    generator = np.random.default_rng(options.seed)
    users = len(np.unique(results.user))
    print(f"{users:,} users, {len(results.user):,} queries, Recall@{k}, best baseline {best}")
    print(f"{'users':>7}{'coverage':>10}{'of lift':>10}{'equal refused':>15}{'loss refused':>14}{'loss':>9}")
    for size in USERS:
        coverage = _coverage(results, k, best, size, 10 * options.rounds, generator)
        loss = _loss_of_three_errors(results, k, size, generator)
        equal, lost = (
            _refused(evaluation, results, k, size, options.rounds, generator, by) for by in (0.0, loss)
        )
        print(
            f"{size:7,}{coverage[0]:10.3f}{coverage[1]:10.3f}{equal:15.3f}{lost:14.3f}{loss:9.4f}", flush=True
        )


def _coverage(
    results: QueryResults, k: int, best: str, size: int, rounds: int, generator: np.random.Generator
) -> list[float]:
    """Measures how often intervals of Recall@k, and of the lift over `best`, hold the mean of all users."""
    recall = recall_by_query(results, MODEL, k)
    lift = recall - recall_by_query(results, best, k)
    truth = np.array([recall.mean(), lift.mean()])
    held = np.zeros(2)
    for _ in range(rounds):
        rows, user = _drawn(results, size, generator)
        sample = UserSample(user)
        low, high = sample.estimates(np.stack([recall, lift], axis=1)[rows]).bounds()
        held += (low <= truth) & (truth <= high)
    return [float(share) for share in held / rounds]


def _drawn(results: QueryResults, size: int, generator: np.random.Generator) -> tuple[Ints, Ints]:
    """Draws users with replacement: rows of their queries, and numbers of the users, each draw another."""
    order = np.argsort(results.user, kind="stable")
    counts = np.bincount(results.user)
    start = np.cumsum(counts) - counts
    chosen = generator.integers(0, len(counts), size)
    return order[ragged_index(start[chosen], counts[chosen])], np.repeat(np.arange(size), counts[chosen])


def _loss_of_three_errors(results: QueryResults, k: int, size: int, generator: np.random.Generator) -> float:
    """Finds the loss that is three standard errors of the change measured on `size` users."""
    loss = 0.0
    # A loss adds to the noise: the two are found in turn.
    for _ in range(4):
        changes = []
        for _ in range(500):
            rows, _ = _drawn(results, size, generator)
            before, now = _two_models(results, k, rows, loss, generator)
            changes.append(float(np.mean(now) - np.mean(before)))
        loss = 3 * float(np.std(changes))
    return max(loss, -2 * GateConfig().min_change_against_blessed)


def _two_models(
    results: QueryResults, k: int, rows: Ints, loss: float, generator: np.random.Generator
) -> tuple[Floats, Floats]:
    """Returns the hits of a model in some rows, and of one that finds `loss` less and is else its equal."""
    hits = recall_by_query(results, MODEL, k)
    of_user = (np.bincount(results.user, hits) / np.bincount(results.user))[results.user][rows]

    def answered() -> Floats:
        # Drawn for each row: a user who was drawn twice stands for two users.
        is_anew = generator.random(len(rows)) < APART
        return np.where(is_anew, generator.random(len(rows)) < of_user, hits[rows])

    before, now = answered(), answered()
    return before, now * (generator.random(len(rows)) >= loss / float(hits.mean()))


def _refused(
    evaluation: dict[str, Any],
    results: QueryResults,
    k: int,
    size: int,
    rounds: int,
    generator: np.random.Generator,
    loss: float,
) -> float:
    """Measures how often the gate refuses a model that finds `loss` less than one that is else its equal."""
    refused = 0
    for _ in range(rounds):
        rows, user = _drawn(results, size, generator)
        before, now = _two_models(results, k, rows, loss, generator)
        ranks = {
            who: np.where(hits > 0, np.float32(1), np.float32(np.inf))
            for who, hits in ((MODEL, now), (BLESSED_MODEL, before))
        }
        # One label a query.
        slices = {name: mask[rows] for name, mask in results.slices.items()}
        labels = LabelSets.of_one(results.labels.item_id[rows])
        drawn = QueryResults(user.astype(np.int32), labels, {**ranks, "model_exact": ranks[MODEL]}, slices)
        metrics = {who: {f"recall@{k}": float(np.mean(values <= k))} for who, values in ranks.items()}
        measured = {
            **evaluation,
            "metrics": {"test": metrics[MODEL]},
            "baselines": {},
            "anchor": None,
            "blessed_model": {"eligible": True, "reason": "", "uri": "", "metrics": metrics[BLESSED_MODEL]},
        }
        judgement = judge(measured, dataclasses.replace(GateConfig(), cutoff=k), drawn)
        refused += any(not one.ok for one in judgement.thresholds if one.name in CHANGES)
    return refused / rounds


if __name__ == "__main__":
    main()
