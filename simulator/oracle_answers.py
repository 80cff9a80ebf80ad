"""Answers of a world's oracles to queries at the end of its log, as `oracle/` holds them.

A row is a label of a query. `rank_hidden` and `rank_observed` count from 0. The keys `user_id`,
`label_timestamp` and `label_item_id` are those of the data. Labels without times have `label_timestamp` 0.
A query with a set of labels has a row for each.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa

from two_tower.simulator.world import Floats, Ints

CUTOFFS = (1, 10, 50, 100)


@dataclasses.dataclass(frozen=True)
class OracleAnswers:
    """Ranks of labels: all arrays [labels]. Users and items count from 0.

    Attributes:
        user, time, item: the label.
        hidden, observed: its 0-based rank with each oracle.
        is_set: all labels of a user are one query.
    """

    user: Ints
    time: Ints
    item: Ints
    hidden: Ints
    observed: Ints
    is_set: bool = False

    def table(self, user_id: Ints, item_id: Ints) -> pa.Table:
        """Returns `queries.parquet`.

        Args:
            user_id, item_id: [users] and [items] ids in the events.
        """
        return pa.table(
            {
                "user_id": pa.array(user_id[self.user]),
                "label_timestamp": pa.array(self.time),
                "label_item_id": pa.array(item_id[self.item]),
                "rank_hidden": pa.array(self.hidden.astype(np.int32)),
                "rank_observed": pa.array(self.observed.astype(np.int32)),
            }
        )

    def summary(self) -> dict[str, object]:
        """Returns `summary.json`: the numbers of queries and users, and the recall of both oracles.

        The recall of a query is the share of its labels among the first k.
        """
        users = len(np.unique(self.user))
        return {
            "queries": users if self.is_set else len(self.user),
            "users": users,
            "hidden": self._recalls(self.hidden),
            "observed": self._recalls(self.observed),
        }

    def _recalls(self, rank: Ints) -> dict[str, float]:
        if not len(rank):
            return {f"recall@{k}": 0.0 for k in CUTOFFS}
        weight: Floats = np.ones(len(rank))
        if self.is_set:
            _, user, labels = np.unique(self.user, return_inverse=True, return_counts=True)
            weight = 1.0 / labels[user]
        return {f"recall@{k}": float(((rank < k) * weight).sum() / weight.sum()) for k in CUTOFFS}
