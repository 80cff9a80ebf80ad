"""Synthetic query results of heterogeneous users, and the evaluation that contains them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from two_tower.evaluation.queries import LabelSets
from two_tower.evaluation.query_results import QueryResults
from two_tower.evaluation.recommenders import NOT_BASELINES

CUTOFF = 10
RESAMPLES = 300
Ranks = npt.NDArray[np.float32]


class Asked:
    """Set of queries with one label each: about 5 per user, and users differ in difficulty.

    A rank is the shared difficulty of a query plus a deviation of each model. Models of equal skill therefore
    find nearly, but not exactly, the same labels.
    """

    def __init__(self, seed: int, users: int = 150) -> None:
        self.random = np.random.default_rng(seed)
        self.user = np.repeat(np.arange(users), self.random.integers(1, 10, users))
        self.difficulty = self.random.normal(0, 1, users)[self.user] + self.random.normal(0, 1, len(self))
        # Overlapping slices of users and of queries, large and small.
        activity = np.bincount(self.user)[self.user]
        kind = self.random.integers(0, 8, len(self))
        group = self.random.integers(0, 4, users)[self.user]
        self.slices = {
            "active": activity > 5,
            "cold": kind == 0,
            **{f"kind {k}": kind == k for k in range(1, 8)},
            **{f"group {g}": group == g for g in range(4)},
            "tiny": self.user < 5,
        }

    def __len__(self) -> int:
        return len(self.user)

    def ranks(self, skill: float | npt.NDArray[np.floating[Any]] = 0.0, own: float = 0.5) -> Ranks:
        """Draws the ranks [Q] of one model, infinite beyond 100; `own` scales its deviation from models of
        equal skill.
        """
        latent = self.difficulty - skill + self.random.normal(0, own, len(self))
        rank = np.ceil(15 * np.exp(latent))
        return np.where(rank > 100, np.inf, rank).astype(np.float32)

    def results(self, model: Ranks, **others: Ranks) -> QueryResults:
        """Returns the results of a model, of a baseline that finds little, and of `others`."""
        everyone = {"model": model, "model_exact": model, "most_popular": self.ranks(-1.5), **others}
        items = np.arange(len(self), dtype=np.int64) % 97
        return QueryResults(self.user.astype(np.int32), LabelSets.of_one(items), everyone, dict(self.slices))


def evaluation_of(results: QueryResults, **changes: Any) -> dict[str, Any]:
    """Builds the content of evaluation.json for a model that passes every check except those of recall."""

    def metrics(who: str, part: npt.NDArray[np.bool_] | None = None) -> dict[str, float | None]:
        found = results.ranks[who][slice(None) if part is None else part] <= CUTOFF
        return {f"recall@{CUTOFF}": float(found.mean()) if len(found) else None, f"coverage@{CUTOFF}": 0.4}

    baselines = [who for who in results.ranks if who not in NOT_BASELINES]
    blessed = {"eligible": True, "reason": "It is.", "uri": "runs/1", "metrics": {}}
    if "blessed_model" in results.ranks:
        blessed["metrics"] = metrics("blessed_model")
    else:
        blessed |= {"eligible": False, "reason": "It comes from other data."}
    return {
        "dataset": "made up", "protocol": "next_event", "has_timestamps": True, "cutoff": CUTOFF,
        "model": {"uri": "runs/2", "digest": "sha256:2", "index": {"kind": "scann"}},
        "unchanged": False, "catalog": {"items": 5_000}, "oracle": None,
        "split": {"train_end": 0, "eval": [1_000, 2_000], "test": [3_000, 4_000]},
        "queries": {"test": len(results.user), "users": len(np.unique(results.user))},
        "metrics": {"test": metrics("model"), "test_exact": metrics("model_exact")},
        "baselines": {name: metrics(name) for name in baselines},
        "slices": {
            name: {"labels": int(part.sum()), "queries": int(part.sum()), "items": 1, "family": "made up",
                   "metrics": {who: metrics(who, part) for who in results.ranks}}
            for name, part in results.slices.items()
        },
        "ann": {f"recall@{CUTOFF}": 0.99, "kind": "scann",
                "parity": {"ids": True, "order": True, "max_norm_error": 1e-7, "max_score_error": 1e-7,
                           "towers": "sha256:t", "expected_towers": "sha256:t", "ok": True}},
        "latency": {"single": {"p50_ms": 2.0, "p95_ms": 4.0, "p99_ms": 9.0, "requests": 100}},
        "blessed_model": blessed,
        "anchor": {"eligible": True, "reason": "It is.", "uri": "runs/0", "metrics": metrics("anchor_model")}
        if "anchor_model" in results.ranks
        else None,
        "bootstrap": {"resamples": RESAMPLES, "seed": 3},
        **changes,
    }  # fmt: skip
