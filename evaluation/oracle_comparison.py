"""Comparison with the oracle, which knows how simulated data came about, and the best baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from two_tower.base import storage
from two_tower.data_directory.manifest import oracle_file
from two_tower.evaluation.metrics import Floats, Ints, hits_of, mean, ranks_of
from two_tower.evaluation.queries import Queries
from two_tower.evaluation.uncertainty import UserSample

KEY = ("user_id", "label_timestamp", "label_item_id")


@dataclasses.dataclass(frozen=True)
class OracleAnswers:
    """The oracle's answers to queries of the test split.

    Attributes:
        rows: [M] rows of the queries, ascending.
        rank: [M] ranks of their labels, from 1, by the simulator's probabilities and the user's hidden state.
        rank_observed: [M] the same without the hidden state.
    """

    rows: Ints
    rank: Floats
    rank_observed: Floats

    @classmethod
    def read(cls, data: str, queries: Queries) -> OracleAnswers | None:
        """Reads a data directory; None where it has no oracle, or none of its queries is in the split.

        The oracle answers what is played next, and no queries for sets of labels.
        """
        path = oracle_file(data, "queries.parquet")
        if path is None or (queries.label_event < 0).any():
            return None
        with storage.open_file(path) as file:
            table = pq.read_table(file)
        rows, answered = matching_rows(queries, {name: table[name].to_numpy() for name in KEY})
        if not len(rows):
            return None
        by = np.argsort(rows)

        def ranks(name: str) -> Floats:
            return table[name].to_numpy()[answered[by]] + 1.0  # the file counts from 0

        return cls(rows[by], ranks("rank_hidden"), ranks("rank_observed"))

    def compare(
        self,
        queries: Queries,
        asked: Ints,
        model: Ints,
        baselines: Mapping[str, Ints],
        cutoffs: Sequence[int],
    ) -> dict[str, Any]:
        """Computes `oracle_share` over all of the oracle's queries.

        Args:
            queries: queries of the test split.
            asked: [A] rows of the queries that were asked, ascending, the oracle's among them.
            model: [A, K] recommendations of the model.
            baselines: [A, K] recommendations of the baselines, by name.
            cutoffs: the k of Recall@k, at most K.
        """
        at = np.searchsorted(asked, self.rows)
        labels = queries.labels.take(self.rows)
        return oracle_share(
            queries.user_id[self.rows],
            ranks_of(hits_of(model[at], labels)),
            {name: ranks_of(hits_of(items[at], labels)) for name, items in baselines.items()},
            self.rank,
            self.rank_observed,
            cutoffs,
        )


def matching_rows(queries: Queries, oracle: Mapping[str, npt.NDArray[Any]]) -> tuple[Ints, Ints]:
    """Finds the queries that the oracle answered too.

    Args:
        queries: queries of the test split.
        oracle: columns `user_id`, `label_timestamp` and `label_item_id` by name, each [m].

    Returns:
        Rows of `queries` and rows of the oracle, [M] and [M]. The first of rows with equal keys is taken:
        times are coarse, and an item can be played twice within one step.
    """
    asked = np.stack([getattr(queries, name) for name in KEY], axis=1)
    answered = np.stack([np.asarray(oracle[name], np.int64) for name in KEY], axis=1)
    _, key = np.unique(np.concatenate([asked, answered]), axis=0, return_inverse=True)
    _, query_rows, oracle_rows = np.intersect1d(key[: len(asked)], key[len(asked) :], return_indices=True)
    return query_rows, oracle_rows


def oracle_share(
    users: Ints,
    model: Floats,
    baselines: Mapping[str, Floats],
    oracle: Floats,
    oracle_observed: Floats,
    cutoffs: Sequence[int],
) -> dict[str, Any]:
    """Compares the recall of model, best baseline and oracle on the same queries.

    Args:
        users: [M] users of the queries.
        model: [M] ranks of the labels, counted from 1, infinite where not recommended.
        baselines: ranks of the baselines, by name.
        oracle: ranks by the simulator's own probabilities and the user's hidden state.
        oracle_observed: ranks by the probabilities without the hidden state.
        cutoffs: the k of Recall@k.

    Returns:
        The number of `queries` and `users`. By `recall@k`, the recalls of `model`, `best_baseline` (named by
        `baseline`, the best at that k), `oracle` and `oracle_observed`. Further the model's `share_of_gap`
        and `share_of_gap_observed`: 0 at the best baseline and 1 at the oracle; null where the oracle is not
        above the baseline. `intervals` has 95% intervals of all of them by name, or null.
    """
    sample = UserSample(users)
    comparison: dict[str, Any] = {"queries": len(model), "users": len(np.unique(users))}
    for k in cutoffs:
        best = max(baselines, key=lambda name: _hits(baselines[name], k).mean())
        hits = {
            "model": _hits(model, k),
            "best_baseline": _hits(baselines[best], k),
            "oracle": _hits(oracle, k),
            "oracle_observed": _hits(oracle_observed, k),
        }
        recall = {name: mean(values) for name, values in hits.items()}
        gained = recall["model"] - recall["best_baseline"]
        shares, intervals = {}, dict(sample.intervals(hits))
        for name, who in (("share_of_gap", "oracle"), ("share_of_gap_observed", "oracle_observed")):
            gap = recall[who] - recall["best_baseline"]
            shares[name] = gained / gap if gap > 0 else None
            intervals[name] = sample.share(
                hits["model"] - hits["best_baseline"], hits[who] - hits["best_baseline"]
            )
        comparison[f"recall@{k}"] = {**recall, **shares, "baseline": best, "intervals": intervals}
    return comparison


def _hits(ranks: Floats, k: int) -> Floats:
    return np.asarray(ranks <= k, np.float64)
