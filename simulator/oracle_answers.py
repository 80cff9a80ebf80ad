"""Answers of a world's oracles to queries at the end of its log, as `oracle/` holds them.

A row is a label of a query. `rank_hidden` and `rank_observed` count from 0. The keys `user_id`,
`label_timestamp` and `label_item_id` are those of the data.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa

from two_tower.simulator.world import Ints

CUTOFFS = (1, 10, 50, 100)


@dataclasses.dataclass(frozen=True)
class OracleAnswers:
    """The ranks of labels: all arrays [labels]. Users and items count from 0.

    Attributes:
        user, time, item: the label.
        hidden, observed: its 0-based rank with each oracle.
    """

    user: Ints
    time: Ints
    item: Ints
    hidden: Ints
    observed: Ints

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

        Recall is the share of queries whose label is among the first k.
        """
        return {
            "queries": len(self.user),
            "users": len(np.unique(self.user)),
            "hidden": self._recalls(self.hidden),
            "observed": self._recalls(self.observed),
        }

    @staticmethod
    def _recalls(rank: Ints) -> dict[str, float]:
        return {f"recall@{k}": float((rank < k).mean()) if len(rank) else 0.0 for k in CUTOFFS}
