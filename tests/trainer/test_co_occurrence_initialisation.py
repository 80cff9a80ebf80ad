from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
import tensorflow as tf
from scipy.sparse.linalg import ArpackNoConvergence

from two_tower.schema import features
from two_tower.trainer.loop import co_occurrence_initialisation
from two_tower.trainer.loop.co_occurrence_initialisation import co_occurrence_embeddings
from two_tower.trainer.model.catalog_table import CatalogArrays, CatalogTable


def table_of(items: int, trained: int) -> CatalogTable:
    """Makes a catalog of items 0 to `items` - 1. Train has the first ones, each in the row after its id."""
    nothing = np.full([items, 1], -1, np.int32)
    catalog = CatalogArrays(np.arange(items), nothing, nothing, np.zeros(items, np.float32))
    return CatalogTable(catalog, np.arange(trained))


def batch_of(
    windows: list[list[int]], steps: list[list[int]] | None = None, listens: list[list[int]] | None = None
) -> dict[str, tf.RaggedTensor]:
    """Makes windows of item ids. Without `steps`, every event but a window's first is a label."""
    steps = steps or [[1] * (len(window) - 1) + [0] for window in windows]
    listens = listens or [[1] * len(window) for window in windows]
    return {
        features.HISTORY_ITEM_ID: tf.ragged.constant(windows, tf.int64),
        features.LABEL_STEP: tf.ragged.constant(steps, tf.int64),
        features.IS_LISTEN: tf.ragged.constant(listens, tf.int64),
    }


def cosines(counts: np.ndarray) -> np.ndarray:
    """Computes cosines of the factors of a symmetric count matrix, by a full eigendecomposition."""
    of_item = counts.sum(axis=1)
    values, vectors = np.linalg.eigh(np.log(1 + counts * counts.sum() / np.outer(of_item, of_item)))
    gram = vectors @ np.diag(np.maximum(values, 0)) @ vectors.T
    length = np.sqrt(np.diag(gram))
    return gram / np.outer(length, length)


def test_inner_products_tell_how_often_items_come_near_each_other() -> None:
    windows = [[0, 1, 2, 0], [3, 1, 2], [2, 3], [0, 3]]
    counts = np.zeros([4, 4])
    for window in windows:
        for place, label in enumerate(window):
            for distance in range(1, place + 1):
                other = window[place - distance]
                if other != label:
                    counts[label, other] += 1 / distance
    found = co_occurrence_embeddings([batch_of(windows[:2]), batch_of(windows[2:])], table_of(5, 4), 6, 7, 0)
    assert found.shape == (5, 6)
    assert not found[0].any()
    np.testing.assert_allclose(found[1:] @ found[1:].T, cosines(counts + counts.T), atol=1e-5)


def test_items_that_are_near_no_other_begin_elsewhere() -> None:
    found = co_occurrence_embeddings([batch_of([[0, 1, 0], [2], [3, 3, 3]])], table_of(4, 4), 3, 4, 0)
    assert found.any(axis=1).tolist() == [False, True, True, False, False]
    nothing = co_occurrence_embeddings([batch_of([[0], [1]])], table_of(4, 4), 3, 0, 0)
    assert nothing.shape == (5, 3) and not nothing.any()


@pytest.mark.parametrize(
    "batch",
    [
        # Item 2 is no label: the event before it does not point to it.
        batch_of([[0, 1, 2]], steps=[[1, 0, 0]]),
        # It is a reaction, and what is near the label after it is item 0.
        batch_of([[0, 2, 1]], steps=[[2, 0, 0]], listens=[[1, 0, 1]]),
        # Another window.
        batch_of([[0, 1], [2]]),
        # An item that train lacks.
        batch_of([[0, 1, 9]]),
    ],
)
def test_only_labels_and_the_listens_of_their_windows_are_counted(batch: dict[str, tf.RaggedTensor]) -> None:
    found = co_occurrence_embeddings([batch], table_of(10, 3), 4, 2, 0)
    assert found.any(axis=1).tolist() == [False, True, True, False]


def test_the_first_eigenvectors_of_a_large_matrix_are_the_same_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = np.random.default_rng(3)
    group = draw.integers(0, 4, 200)
    windows = (draw.integers(0, 150, [200, 12]) * 4 + group[:, np.newaxis]).tolist()
    table = table_of(600, 600)

    def found() -> np.ndarray:
        return co_occurrence_embeddings([batch_of(windows)], table, 4, 2_200, 5)

    first = found()
    assert np.array_equal(first, found())
    near = first[1:] @ first[1:].T
    alike = np.equal.outer(np.arange(600) % 4, np.arange(600) % 4)
    assert near[alike].mean() > 0.9 and abs(near[~alike].mean()) < 0.1
    # All eigenvectors, and the first few.
    monkeypatch.setattr(co_occurrence_initialisation, "_SMALL_MATRIX", 1_000)
    np.testing.assert_allclose(near, found()[1:] @ found()[1:].T, atol=1e-2)


def test_fewer_pairs_are_counted_where_there_would_be_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of([[0, 1, 2], [0, 1, 2]])
    all_pairs = co_occurrence_initialisation._nearness([batch], table_of(3, 3), 2).toarray()
    assert all_pairs[1, 3] == all_pairs[3, 1] == 1
    monkeypatch.setattr(co_occurrence_initialisation, "_MOST_PAIRS", 4)
    # Sums of small buffers are the same.
    monkeypatch.setattr(co_occurrence_initialisation, "_PAIRS_AT_ONCE", 0)
    np.testing.assert_array_equal(
        co_occurrence_initialisation._nearness([batch, batch], table_of(3, 3), 2).toarray(), 2 * all_pairs
    )
    # A limit of 4 pairs leaves a context of one event.
    near = co_occurrence_embeddings([batch], table_of(3, 3), 3, 4, 0)
    next_to_it = co_occurrence_initialisation._nearness([batch], table_of(3, 3), 1).toarray()[1:, 1:]
    np.testing.assert_allclose(near[1:] @ near[1:].T, cosines(next_to_it), atol=1e-5)


def test_a_large_catalog_has_fewer_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(co_occurrence_initialisation, "_MOST_NUMBERS", 2 * 11 + 1)
    windows = [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [9, 3, 1, 0], [5, 2, 7]]
    found = co_occurrence_embeddings([batch_of(windows)], table_of(10, 10), 4, 14, 0)
    assert found.shape == (11, 4) and np.linalg.matrix_rank(found, tol=1e-5) == 2


def test_a_solver_that_finds_only_some_factors_leaves_those(monkeypatch: pytest.MonkeyPatch) -> None:
    def gives_up(matrix: Any, k: int, **options: Any) -> None:
        values, vectors = np.linalg.eigh(matrix.toarray())
        raise ArpackNoConvergence("No convergence", values[-2:], vectors[:, -2:])

    monkeypatch.setattr(scipy.sparse.linalg, "eigsh", gives_up)
    monkeypatch.setattr(co_occurrence_initialisation, "_SMALL_MATRIX", 1)
    windows = [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [9, 3, 1, 0], [5, 2, 7]]
    found = co_occurrence_embeddings([batch_of(windows)], table_of(10, 10), 4, 14, 0)
    assert np.linalg.matrix_rank(found, tol=1e-5) == 2
    np.testing.assert_allclose(np.linalg.norm(found[1:], axis=1), 1, rtol=1e-5)
