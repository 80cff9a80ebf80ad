from __future__ import annotations

import numpy as np

from two_tower.data_directory.key_counts import KeyCounts


def test_key_counts_are_those_of_all_rows() -> None:
    generator = np.random.default_rng(5)
    user, item = generator.integers(0, 20, (2, 1000))
    counts = KeyCounts()
    for start in range(0, 1000, 130):
        counts.add(user[start : start + 130], item[start : start + 130])
    pairs, rows = np.unique(np.stack([user, item]), axis=1, return_counts=True)
    for found, expected in zip(counts.result(), (*pairs, rows), strict=True):
        assert found.tolist() == expected.tolist()
