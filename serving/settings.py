"""Settings of the index."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """The index over the catalog's embeddings: ScaNN, tuned on queries of the eval split."""

    # Below this many items exact search is as fast, and is what is built.
    exact_below: int = 20_000
    # The share of exact search's best target_k items that the index has to find; the cheapest setting that
    # does, at 99% confidence over the queries that it is tuned on, is built.
    target_recall: float = 0.95
    target_k: int = 100
    # The most milliseconds that a single query may take on the machine that builds the index; 0: any. Where
    # that is too little for the target, the best that is fast enough is built, and the model says so.
    latency_budget_ms: float = 0.0
    # Queries that the index is tuned on.
    tuning_queries: int = 500
    seed: int = 17
    # The largest k a request may ask for.
    max_k: int = 200
