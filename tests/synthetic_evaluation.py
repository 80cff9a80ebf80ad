"""Synthetic evaluation with every optional part, for tests of the reports."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from two_tower.evaluation.queries import LabelSets
from two_tower.evaluation.query_results import QueryResults
from two_tower.evaluation.report.materials import Materials
from two_tower.evaluation.uncertainty import UserSample

CUTOFFS = (1, 10, 50, 100)
# Recommender → typical rank of a label: lower is better.
TYPICAL_RANK = {
    "model": 60.0,
    "model_exact": 59.0,
    "blessed_model": 68.0,
    "ials": 150.0,
    "bpr": 210.0,
    "co_occurrence": 230.0,
    "token_matching": 420.0,
    "content_neighbours": 520.0,
    "personal_history": 380.0,
    "decayed_popularity": 1_300.0,
    "most_popular": 2_000.0,
}
SLICES = {
    "head": "popularity",
    "middle": "popularity",
    "tail": "popularity",
    "cold": "cold",
    "new_users": "new_users",
    "known_users": "new_users",
    "history_1_to_9": "history_length",
    "history_10_to_49": "history_length",
    "history_50_and_more": "history_length",
    "repeat": "repeat",
    "discovery": "repeat",
    "feature=rock": "feature:genre",
    "feature=folk": "feature:genre",
}
_TAGS = ("ambient", "folk", "house", "jazz", "metal", "punk", "soul", "techno", "waltz", "zouk")


def evaluation_and_results(
    users: int = 60, queries: int = 600, seed: int = 3, shift: float = 1.0
) -> tuple[dict[str, Any], QueryResults]:
    """Builds evaluation.json and queries.npz like the evaluator; `shift` multiplies the model's ranks."""
    random = np.random.default_rng(seed)
    user = np.sort(random.integers(0, users, queries)).astype(np.int32)
    hardness = random.normal(0, 1.6, queries) + random.normal(0, 0.5, users)[user]
    ranks = {}
    for who, typical in TYPICAL_RANK.items():
        typical *= shift if who in ("model", "model_exact") else 1.0
        rank = np.ceil(typical * np.exp(hardness + random.normal(0, 0.6, queries)))
        ranks[who] = np.where(rank <= 100, rank, np.inf).astype(np.float32)
    masks = {name: random.random(queries) < 0.05 + 0.4 * random.random() for name in SLICES}
    results = QueryResults(user, LabelSets.of_one(random.integers(0, 500, queries)), ranks, masks)
    sample = UserSample(user.astype(np.int64))
    values = {who: results.values(who, CUTOFFS) for who in ranks}
    metrics = {who: _means(found) for who, found in values.items()}
    for place, who in enumerate(metrics):
        metrics[who] |= {f"coverage@{k}": 0.1 * k / (place + 10) for k in CUTOFFS}
        metrics[who] |= {f"novelty@{k}": 9.0 - 0.4 * place for k in CUTOFFS}
        metrics[who] |= {f"popularity_lift@{k}": -0.4 + 0.09 * place**2 for k in CUTOFFS}
        metrics[who] |= {f"intra_list_diversity@{k}": 0.6 for k in CUTOFFS}
    baselines = {
        who: metrics[who] for who in TYPICAL_RANK if who not in ("model", "model_exact", "blessed_model")
    }
    baselines["decayed_popularity"] = {**baselines["decayed_popularity"], "half_life_days": 3.0}
    recall = metrics["model"]["recall@100"]
    evaluation = {
        "verdict": "blessed",
        "unchanged": False,
        "thresholds": [
            _threshold("min_recall", recall, 0.01, low=recall - 0.02),
            _threshold("min_ann_recall", 0.987, 0.95),
            _threshold("min_lift_over_best_baseline", recall - metrics["ials"]["recall@100"], 0.0, low=0.08),
            _threshold("max_latency_p95_ms", 8.4, 25.0, direction="max"),
        ],
        "notes": [],
        "refusal": None,
        "dataset": "simulated-7",
        "protocol": "next_event",
        "has_timestamps": True,
        "cutoff": 100,
        "model": {
            "uri": "runs/a/artifacts/ScannIndexer/model/19",
            "digest": "sha256:2f1d8a77",
            "index": {"kind": "scann", "num_leaves": 310, "leaves_to_search": 31, "tuning": _tuning()},
        },
        "split": {"train_end": 3_024_000, "eval": [3_024_000, 3_240_000], "test": [3_240_000, 3_456_000]},
        "catalog": {"items": 24_000},
        "queries": {
            "test": queries,
            "users": users,
            "available": 2 * queries,
            "by_users_unknown_to_train": 12,
            "dropped_repeats": 0,
        },
        "metrics": {"test": metrics["model"], "test_exact": metrics["model_exact"]},
        "baselines": baselines,
        "intervals": {who: sample.intervals(found) for who, found in values.items()},
        "changes": {who: sample.changes(values["model"], found) for who, found in values.items()},
        "slices": {
            name: _slice(results, sample, name, family) for name, family in SLICES.items()
        },
        "ann": {
            **{f"recall@{k}": 0.987 for k in CUTOFFS},
            "kind": "scann",
            "parity": {
                "ids": True, "order": True, "max_norm_error": 2e-7, "max_score_error": 4e-6,
                "towers": "sha256:1", "expected_towers": "sha256:1", "ok": True,
            },
        },
        "blessed_model": {
            "eligible": True,
            "reason": "The latest blessed model comes from the same data set.",
            "uri": "runs/a/artifacts/ScannIndexer/model/9",
            "digest": "sha256:0",
            "metrics": metrics["blessed_model"],
        },
        "oracle": None,
        "latency": {
            "single": {"p50_ms": 4.1, "p95_ms": 8.4, "p99_ms": 12.9, "requests": 200},
            "batch": {"size": 64, "p50_ms": 31.0, "p95_ms": 44.0, "p99_ms": 51.0, "requests": 50},
        },
        "size": {"bytes": 14_400_000, "files": 9},
    }  # fmt: skip
    return evaluation, results


def everything(**changes: Any) -> Materials:
    """Returns all materials of the report page."""
    evaluation, results = evaluation_and_results()
    return dataclasses.replace(
        Materials(evaluation, results, _examples(), _map(), _curves(), _run()), **changes
    )


def write(directory: Path, evaluation: dict[str, Any], results: QueryResults | None) -> Path:
    """Writes an evaluation's directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "evaluation.json").write_text(json.dumps(evaluation))
    if results is not None:
        (directory / "queries.npz").write_bytes(results.to_bytes())
    return directory


def _means(values: dict[str, Any]) -> dict[str, Any]:
    known = {name: of_query[~np.isnan(of_query)] for name, of_query in values.items()}
    return {name: float(of_query.mean()) if len(of_query) else None for name, of_query in known.items()}


def _slice(results: QueryResults, sample: UserSample, name: str, family: str) -> dict[str, Any]:
    values = {who: results.values(who, CUTOFFS, name) for who in results.ranks if who != "model_exact"}
    mask = results.slices[name]
    return {
        "family": family,
        "labels": int(mask.sum()),
        "queries": int(mask.sum()),
        "items": int(mask.sum()),
        "users": len(np.unique(results.user[mask])),
        "metrics": {who: _means(found) for who, found in values.items()},
        "intervals": {who: sample.intervals(found) for who, found in values.items()},
    }


def _threshold(name: str, value: float, limit: float, **more: Any) -> dict[str, Any]:
    direction = more.get("direction", "min")
    ok = value <= limit if direction == "max" else value >= limit
    return {"name": name, "value": value, "limit": limit, "ok": ok, "note": "", "low": None,
            "direction": direction, **more}  # fmt: skip


def _tuning() -> dict[str, Any]:
    points = [
        {"num_leaves": leaves, "leaves_to_search": searched, "reordering_candidates": reordered,
         "quantization": "int8", "recall": 1 - 0.5 * np.exp(-searched / 9) - 4 / reordered,
         "bytes_per_query": 256 * (leaves + reordered) + 16 * 24_000 * searched // leaves,
         "ms_per_query": 0.05 + 0.004 * searched + 0.0003 * reordered + 0.0001 * leaves}
        for leaves in (155, 310) for searched in (4, 8, 16, 31, 62) for reordered in (200, 400)
    ]  # fmt: skip
    met = [place for place, one in enumerate(points) if one["recall"] >= 0.95]
    chosen = min(met, key=lambda place: points[place]["bytes_per_query"])
    return {"target": 0.95, "k": 100, "reason": "", "met": True, "chosen": chosen, "points": points}


def _examples() -> list[dict[str, Any]]:
    def item(number: int, **more: Any) -> dict[str, Any]:
        tags = [_TAGS[number % 10]]
        return {"item_id": number, "title": f"Song {number} — Someone", "artist": None, "tags": tags, **more}

    return [
        {
            "user": f"user {user}",
            "history": [item(user * 20 + place) for place in range(5)],
            "seed": item(user * 20 + 5),
            "recommended": [item(user * 20 + 6 + place, score=0.7 - 0.01 * place, played=place == user % 12)
                            for place in range(10)],
            "played_next": [item(user * 20 + 6 + user % 12, rank=1 + user % 12), item(900 + user, rank=None)],
            "labels": 1,
        }
        for user in range(1, 11)
    ]  # fmt: skip


def _map() -> dict[str, Any]:
    random = np.random.default_rng(5)
    centres = random.random([10, 2]) * 0.8 + 0.1
    items = [
        {"item_id": number, "title": f"Song {number}", "artist": None, "tags": [_TAGS[number % 10]],
         "x": float(np.clip(x, 0, 1)), "y": float(np.clip(y, 0, 1)), "plays": int(1_000 / (1 + number))}
        for number, (x, y) in enumerate(centres[np.arange(300) % 10] + random.normal(0, 0.04, [300, 2]))
    ]  # fmt: skip
    return {"method": "t-SNE", "items": items}


def _curves() -> dict[str, Any]:
    epochs = [
        {"epoch": float(epoch), "loss": 6 * 0.8**epoch + 3.5, "val_recall@100": 0.5 - 0.3 * 0.6**epoch,
         "val_cold_recall@100": 0.4 - 0.3 * 0.6**epoch}
        for epoch in range(1, 9)
    ]  # fmt: skip
    return {"monitor": "val_recall@100", "best_epoch": 7, "epochs": epochs}


def _run() -> dict[str, Any]:
    times = {"InteractionExampleGen": 3.1, "Transform": 28.2, "Trainer": 67.3, "ScannIndexer": 3.4,
             "RetrievalEvaluator": 32.8, "Pusher": 0.3}  # fmt: skip
    return {
        "run": "2026-01-02T03:04:05.000001",
        "output": "runs/a",
        "components": [
            {"name": name, "seconds": seconds, "cached": name == "InteractionExampleGen", "state": "COMPLETE",
             "peak_memory_bytes": 2 << 30, "error": None}
            for name, seconds in times.items()
        ],
        "settings": {"trainer.embedding_dim": 64, "trainer.temperature": 0.05, "gate.cutoff": 100,
                     "evaluation.cutoffs": [1, 10, 50, 100], "index.max_k": 500},
        "changed": ["trainer.embedding_dim"],
    }  # fmt: skip
