"""Settings of the index."""

from __future__ import annotations

import dataclasses

from two_tower.base.settings import setting


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """Index over the catalog's embeddings: exact search, or ScaNN from 20,000 items on.

    ScaNN is tuned on queries of the eval split until its recall against exact search reaches
    `gate.min_ann_recall`, at 100 items or `gate.cutoff`, whichever is more (see `serving.index_tuning`).
    """

    latency_budget_ms: float = setting(
        0.0,
        help="Longest time of a single query on the machine that builds the index; 0: any. If the budget is "
        "too small for gate.min_ann_recall, the best index within it is built. The report says so. Below "
        "20,000 items no index is tuned, and a budget is an error.",
        unit="milliseconds",
        at_least=0,
        at_most=3_600_000,
    )
    max_k: int = setting(
        200, help="Largest k that a request may ask for.", unit="items", at_least=1, at_most=100_000
    )
