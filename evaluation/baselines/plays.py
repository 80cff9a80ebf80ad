"""Plays of train as a sparse matrix, which factorisations are trained on."""

from __future__ import annotations

import numpy as np

from two_tower.evaluation.baselines.ranking import columns_of
from two_tower.evaluation.label_events import LabelEvents
from two_tower.evaluation.queries import Ints


class Plays:
    """Number of plays of each item by each user in train.

    Attributes:
        items: [I] ascending ids of the items that train holds and that can be recommended.
        counts: sparse float32 [U, I].
    """

    def __init__(self, events: LabelEvents, items: Ints) -> None:
        from scipy.sparse import csr_matrix

        self.items = items
        column = columns_of(items, events.item_id)
        users, row = np.unique(events.user_id, return_inverse=True)
        known = column >= 0
        ones = np.ones(int(known.sum()), np.float32)
        self.counts = csr_matrix((ones, (row[known], column[known])), shape=(len(users), len(items)))
        self.counts.sum_duplicates()
